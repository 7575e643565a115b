//! The configuration file of each process.

use super::UpArgs;
use super::certificates::{SERVER_CERT, SERVER_KEY};
use super::files;
use super::layout::{Layout, local};
use anyhow::Context;
use serde_json::json;
use std::path::{Path, PathBuf};

/// A process to run: its name, the subcommand, its file.
pub(crate) struct ConfigFile {
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) path: PathBuf,
}

/// Writes every process's file, in the order in which the processes are started.
pub(crate) fn write(args: &UpArgs, layout: &Layout) -> anyhow::Result<Vec<ConfigFile>> {
    let folder = args.data_dir.join("conf");
    for folder in [&folder, &args.data_dir.join("logs")] {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let secret_file = folder.join("secret");
    files::write_secret(&secret_file, layout.secret.as_bytes())?;
    let mut written = Vec::new();
    let mut add = |role: &'static str, index: usize, value: serde_json::Value| {
        let name = format!("{role}-{}", index + 1);
        let path = folder.join(format!("{name}.toml"));
        files::write_secret(&path, toml::to_string(&value)?.as_bytes())?;
        written.push(ConfigFile { name, role, path });
        anyhow::Ok(())
    };
    for index in 0..layout.sentinels.len() {
        add("sentinel", index, sentinel(args, layout, &secret_file, index))?;
    }
    for index in 0..layout.nodes.len() {
        add("node", index, node(args, layout, &secret_file, index))?;
    }
    for index in 0..layout.proxies.len() {
        add("proxy", index, proxy(args, layout, &secret_file, index))?;
    }
    Ok(written)
}

fn sentinel(args: &UpArgs, layout: &Layout, secret: &Path, index: usize) -> serde_json::Value {
    let ports = &layout.sentinels[index];
    let members: Vec<_> = layout
        .sentinels
        .iter()
        .enumerate()
        .map(|(at, ports)| {
            json!({ "id": at + 1, "api-addr": local(ports.api), "peer-addr": local(ports.peer) })
        })
        .collect();
    json!({
        "id": index + 1,
        "cluster-id": layout.cluster_id,
        "secret-file": secret,
        "data-dir": args.data_dir.join(format!("sentinel-{}", index + 1)),
        "api-listen": local(ports.api),
        "peer-listen": local(ports.peer),
        "metrics-listen": local(ports.metrics),
        "expected-nodes": layout.nodes.len(),
        "cluster": {
            "shards": layout.shards,
            "replicas": layout.replicas,
            "databases": layout.databases,
            "persistence": layout.persistence,
            "password": layout.password,
        },
        "members": members,
    })
}

fn node(args: &UpArgs, layout: &Layout, secret: &Path, index: usize) -> serde_json::Value {
    let ports = &layout.nodes[index];
    json!({
        "cluster-id": layout.cluster_id,
        "secret-file": secret,
        "sentinels": layout.sentinel_addrs(),
        "data-dir": args.data_dir.join(format!("node-{}", index + 1)),
        "link-listen": local(ports.link),
        "peer-listen": local(ports.peer),
        "heartbeat-listen": local(ports.heartbeat),
        "control-listen": local(ports.control),
        "metrics-listen": local(ports.metrics),
    })
}

fn proxy(args: &UpArgs, layout: &Layout, secret: &Path, index: usize) -> serde_json::Value {
    let ports = &layout.proxies[index];
    let tls = args.data_dir.join("tls");
    let mut value = json!({
        "cluster-id": layout.cluster_id,
        "secret-file": secret,
        "sentinels": layout.sentinel_addrs(),
        "listen": format!("{}:{}", args.bind, ports.tls),
        "tls-cert-file": tls.join(SERVER_CERT),
        "tls-key-file": tls.join(SERVER_KEY),
        "admin-listen": local(ports.admin),
    });
    if args.bind == "0.0.0.0" || args.bind == "::" {
        value["announce-host"] = json!("127.0.0.1");
    }
    if let Some(port) = ports.plain {
        value["plain-listen"] = json!(format!("{}:{port}", args.bind));
    }
    value
}
