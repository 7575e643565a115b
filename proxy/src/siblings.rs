//! Commands about clients concern those of all proxies: each proxy passes them on to the others.
//!
//! The way is the admin port, `POST /cluster/command` with the command in RESP; the body of the
//! answer is, for each worker there, the length of its reply (32 bits, little endian) and the reply.
//! A token made of the cluster's secret opens it. A proxy that does not answer soon is left out: it
//! is most likely gone, and its clients with it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_proto::v1;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const PATH: &[u8] = b"/cluster/command";
/// How long another proxy is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest answer that is read: CLIENT LIST of some hundred thousand clients.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;
/// The longest command that is taken.
pub(crate) const COMMAND_BYTES_MAX: usize = 1024 * 1024;

/// What opens the admin port for commands; the secret cannot be told from it.
pub(crate) fn token(secret: &[u8; 32]) -> String {
    let mut input = secret.to_vec();
    input.extend_from_slice(b"command between proxies");
    holdfast_proto::acl::hash(&input)
}

/// Takes as long for a wrong token as for the right one.
pub(crate) fn is_token(given: &[u8], token: &str) -> bool {
    bool::from(given.ct_eq(token.as_bytes()))
}

/// The answers of the workers of all other proxies.
pub(crate) async fn ask(
    topology: &v1::Topology,
    own: &str,
    token: &str,
    request: Bytes,
) -> Vec<Bytes> {
    let mut asked: Vec<&str> = Vec::new();
    let mut calls = tokio::task::JoinSet::new();
    for proxy in &topology.proxies {
        let addr = proxy.admin_addr.as_str();
        // A proxy that was restarted may be in the list twice.
        if addr.is_empty() || addr == own || asked.contains(&addr) {
            continue;
        }
        asked.push(addr);
        let (addr, token, request) = (addr.to_owned(), token.to_owned(), request.clone());
        calls.spawn(
            async move { tokio::time::timeout(PATIENCE, call(&addr, &token, &request)).await },
        );
    }
    let mut answers = Vec::new();
    while let Some(done) = calls.join_next().await {
        match done {
            Ok(Ok(Ok(body))) => answers.extend(split(body)),
            Ok(Ok(Err(error))) => tracing::debug!(%error, "another proxy does not answer"),
            _ => tracing::debug!("another proxy does not answer in time"),
        }
    }
    answers
}

async fn call(addr: &str, token: &str, request: &[u8]) -> std::io::Result<Bytes> {
    let mut stream = TcpStream::connect(addr).await?;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {}\r\n\r\n",
        String::from_utf8_lossy(PATH),
        request.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX as u64).read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    match end {
        Some(end) if answer.starts_with(b"HTTP/1.1 200 ") => {
            Ok(Bytes::from(answer).slice(end + 4..))
        }
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// The body of an answer.
pub(crate) fn join(replies: &[Bytes]) -> Bytes {
    let mut body = BytesMut::new();
    for reply in replies {
        body.put_u32_le(reply.len() as u32);
        body.put_slice(reply);
    }
    body.freeze()
}

fn split(mut body: Bytes) -> Vec<Bytes> {
    let mut replies = Vec::new();
    while body.len() >= 4 {
        let len = body.get_u32_le() as usize;
        if len > body.len() {
            break;
        }
        replies.push(body.split_to(len));
    }
    replies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_the_way() {
        let replies = [Bytes::from_static(b"+OK\r\n"), Bytes::new(), Bytes::from_static(b":1\r\n")];
        assert_eq!(split(join(&replies)), replies);
        assert!(split(Bytes::from_static(b"\xff\xff\xff\xffx")).is_empty());
    }

    #[test]
    fn the_token_is_not_the_secret() {
        let token = token(&[7; 32]);
        assert!(is_token(token.as_bytes(), &token));
        assert!(!is_token(b"", &token) && !is_token(&[b'0'; 64], &token));
        assert!(!token.contains("0707"));
    }
}
