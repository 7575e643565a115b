//! Redis URIs: `redis://` and `rediss://user:password@host:port/db`.

use anyhow::{Context, bail};

/// A parsed connection URI.
#[derive(Clone, PartialEq, Eq)]
pub struct Uri {
    pub tls: bool,
    pub user: Option<String>,
    pub password: Option<String>,
    pub host: String,
    pub port: u16,
    pub database: u32,
}

impl Uri {
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let (scheme, rest) =
            text.split_once("://").context("a URI starts with redis:// or rediss://")?;
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            other => bail!("unknown URI scheme '{other}', expected redis or rediss"),
        };
        let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, authority),
        };
        let (user, password) = match credentials {
            None => (None, None),
            Some(text) => match text.split_once(':') {
                Some((user, password)) => (
                    (!user.is_empty()).then(|| percent_decode(user)),
                    Some(percent_decode(password)),
                ),
                None => (Some(percent_decode(text)), None),
            },
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().with_context(|| format!("bad port '{port}'"))?)
            }
            _ => (address, 6379),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        let database = match path {
            "" => 0,
            text => text.parse().with_context(|| format!("bad database '{text}'"))?,
        };
        Ok(Self { tls, user, password, host: host.to_owned(), port, database })
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let uri = Uri::parse("rediss://default:p%40ss@[::1]:7000/3").unwrap();
        assert!(uri.tls);
        assert_eq!(uri.user.as_deref(), Some("default"));
        assert_eq!(uri.password.as_deref(), Some("p@ss"));
        assert_eq!((uri.host.as_str(), uri.port, uri.database), ("::1", 7000, 3));

        let uri = Uri::parse("redis://:secret@localhost").unwrap();
        assert_eq!((uri.user, uri.password.as_deref()), (None, Some("secret")));
        assert_eq!((uri.host.as_str(), uri.port, uri.database), ("localhost", 6379, 0));

        assert!(Uri::parse("http://localhost").is_err());
        assert!(Uri::parse("redis://localhost:port").is_err());
    }
}
