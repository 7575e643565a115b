//! `holdfast colocation`: rules that put a database, or all keys with a prefix, into one hash slot.
//!
//! A rule says where proxies look for keys; nothing moves keys. So a rule is only set or taken away
//! while no key that it concerns exists, which is looked for through the first proxy. Clients of
//! those keys must be away meanwhile.

use super::parameters::present;
use crate::client::{ClientTls, Connection, Uri};
use crate::cluster::ClusterArgs;
use anyhow::{Context, bail};
use holdfast_proto::placement::{self, Placement, Subject};
use holdfast_proto::resp::reply::Value;
use std::collections::BTreeMap;

#[derive(clap::Subcommand)]
pub(crate) enum ColocationCommand {
    /// Show the rules.
    Show,
    /// Replace all rules: `"database 3; prefix bull:"`; an empty text removes them.
    Set { rules: String },
}

#[allow(clippy::print_stdout, reason = "the command's output")]
pub(super) async fn run(command: &ColocationCommand, cluster: &ClusterArgs) -> anyhow::Result<()> {
    let spec = present(cluster).await?;
    let text = spec.settings.get(placement::SETTING).map_or("", String::as_str);
    let old = Placement::parse(text).map_err(anyhow::Error::msg)?;
    match command {
        ColocationCommand::Show if cluster.json => {
            let rules: Vec<_> = old
                .rules()
                .iter()
                .map(|rule| match &rule.subject {
                    Subject::Database(db) => {
                        serde_json::json!({ "database": db, "slot": rule.slot.get() })
                    }
                    Subject::Prefix(prefix) => {
                        serde_json::json!({ "prefix": prefix, "slot": rule.slot.get() })
                    }
                })
                .collect();
            println!("{}", serde_json::Value::from(rules));
        }
        ColocationCommand::Show => {
            for rule in old.rules() {
                match &rule.subject {
                    Subject::Database(db) => println!("database {db}: slot {}", rule.slot.get()),
                    Subject::Prefix(prefix) => {
                        println!("prefix {prefix}: slot {}", rule.slot.get())
                    }
                }
            }
        }
        ColocationCommand::Set { rules } => {
            let new = Placement::parse(rules).map_err(anyhow::Error::msg)?;
            let file = cluster.file()?;
            let uri = Uri::parse(file.uris.first().context("the cluster file names no URI")?)?;
            let tls = uri.tls.then(|| ClientTls::new(Some(&file.ca_cert), false)).transpose()?;
            let databases = spec.databases.max(1);
            for subject in old.differences(&new) {
                let mut connection = Connection::open(&uri, tls.as_ref()).await?;
                if let Some(key) = find_key(&mut connection, subject, databases).await? {
                    bail!("the rule concerns keys that exist, such as {key}: nothing is changed");
                }
            }
            let setting = (placement::SETTING.to_owned(), new.describe());
            cluster.access()?.set_settings(BTreeMap::from([setting])).await?;
        }
    }
    Ok(())
}

/// A key that the subject concerns, if there is one.
async fn find_key(
    connection: &mut Connection,
    subject: &Subject,
    databases: u32,
) -> anyhow::Result<Option<String>> {
    let (range, pattern) = match subject {
        Subject::Database(db) => (u32::from(*db)..u32::from(*db) + 1, "*".to_owned()),
        Subject::Prefix(prefix) => (0..databases, format!("{}*", quoted(prefix))),
    };
    for db in range {
        let reply = connection.call(&["SELECT", &db.to_string()]).await?;
        if !reply.is_ok() {
            bail!("SELECT {db}: {reply:?}");
        }
        let mut cursor = "0".to_owned();
        loop {
            let scan = ["SCAN", &cursor, "MATCH", &pattern, "COUNT", "1000"];
            let reply = connection.call(&scan).await?;
            let Value::Array(parts) = &reply else { bail!("SCAN: {reply:?}") };
            let [next, Value::Array(keys)] = &parts[..] else { bail!("SCAN: {reply:?}") };
            if let Some(key) = keys.first().and_then(Value::as_bytes) {
                let key = String::from_utf8_lossy(key);
                return Ok(Some(format!("'{key}' in database {db}")));
            }
            cursor = String::from_utf8_lossy(next.as_bytes().unwrap_or(b"0")).into_owned();
            if cursor == "0" {
                break;
            }
        }
    }
    Ok(None)
}

/// The prefix with the characters that mean something in a glob pattern quoted.
fn quoted(prefix: &str) -> String {
    prefix.chars().fold(String::new(), |mut text, c| {
        if "*?[]\\".contains(c) {
            text.push('\\');
        }
        text.push(c);
        text
    })
}
