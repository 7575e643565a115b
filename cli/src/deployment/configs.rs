//! The configuration file of each process.

use super::certificates::{SERVER_CERT, SERVER_KEY};
use super::files;
use anyhow::Context;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Everything that the configuration files say.
pub(crate) struct Deployment {
    /// 16 bytes as hexadecimal digits.
    pub(crate) cluster_id: String,
    /// 32 bytes as hexadecimal digits.
    pub(crate) secret: String,
    /// Of the user `default`.
    pub(crate) password: String,
    pub(crate) shards: u32,
    pub(crate) replicas: u32,
    pub(crate) databases: u32,
    pub(crate) persistence: String,
    /// Where the secret will lie when the processes read it.
    pub(crate) secret_file: PathBuf,
    /// Where the TLS files will lie when the proxies read them.
    pub(crate) tls_dir: PathBuf,
    pub(crate) sentinels: Vec<SentinelSite>,
    pub(crate) nodes: Vec<NodeSite>,
    pub(crate) proxies: Vec<ProxySite>,
}

/// The machine (or container) of one process.
pub(crate) struct Site {
    /// What the others call it.
    pub(crate) host: String,
    /// What it binds its ports to.
    pub(crate) listen: IpAddr,
}

impl Site {
    fn bind(&self, port: u16) -> String {
        std::net::SocketAddr::new(self.listen, port).to_string()
    }

    fn address(&self, port: u16) -> String {
        if self.host.contains(':') {
            format!("[{}]:{port}", self.host)
        } else {
            format!("{}:{port}", self.host)
        }
    }
}

pub(crate) struct SentinelSite {
    pub(crate) site: Site,
    pub(crate) data_dir: PathBuf,
    pub(crate) api: u16,
    pub(crate) peer: u16,
    pub(crate) metrics: u16,
}

impl SentinelSite {
    /// `host:port` of its API.
    pub(crate) fn api_address(&self) -> String {
        self.site.address(self.api)
    }
}

pub(crate) struct NodeSite {
    pub(crate) site: Site,
    /// Failure domain; empty if there is none.
    pub(crate) zone: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) link: u16,
    pub(crate) peer: u16,
    pub(crate) heartbeat: u16,
    pub(crate) control: u16,
    pub(crate) metrics: u16,
}

pub(crate) struct ProxySite {
    /// What the others call it is what clients are told.
    pub(crate) site: Site,
    pub(crate) tls: u16,
    pub(crate) plain: Option<u16>,
    /// The port that clients are told, if it is not `tls`.
    pub(crate) announce_port: Option<u16>,
    /// Where `/metrics` is.
    pub(crate) admin: std::net::SocketAddr,
}

/// A process to run: its name, the subcommand, its file.
pub(crate) struct ConfigFile {
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) path: PathBuf,
}

/// Writes the secret and every process's file into `folder`, in the order in which the processes
/// are to be started.
pub(crate) fn write(folder: &Path, deployment: &Deployment) -> anyhow::Result<Vec<ConfigFile>> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    files::write_secret(&folder.join("secret"), deployment.secret.as_bytes())?;
    let mut written = Vec::new();
    let mut add = |role: &'static str, index: usize, value: Value| {
        let name = format!("{role}-{}", index + 1);
        let path = folder.join(format!("{name}.toml"));
        files::write_secret(&path, toml::to_string(&value)?.as_bytes())?;
        written.push(ConfigFile { name, role, path });
        anyhow::Ok(())
    };
    for index in 0..deployment.sentinels.len() {
        add("sentinel", index, deployment.sentinel(index))?;
    }
    for (index, node) in deployment.nodes.iter().enumerate() {
        add("node", index, deployment.node(node))?;
    }
    for (index, proxy) in deployment.proxies.iter().enumerate() {
        add("proxy", index, deployment.proxy(proxy))?;
    }
    Ok(written)
}

impl Deployment {
    /// The sentinels' API addresses.
    pub(crate) fn sentinel_addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(SentinelSite::api_address).collect()
    }

    /// The URI of each proxy.
    pub(crate) fn uris(&self) -> Vec<String> {
        let uri = |proxy: &ProxySite| {
            let address = proxy.site.address(proxy.announce_port.unwrap_or(proxy.tls));
            format!("rediss://default:{}@{address}", self.password)
        };
        self.proxies.iter().map(uri).collect()
    }

    fn sentinel(&self, index: usize) -> Value {
        let this = &self.sentinels[index];
        let member = |(at, sentinel): (usize, &SentinelSite)| {
            json!({
                "id": at + 1,
                "api-addr": sentinel.site.address(sentinel.api),
                "peer-addr": sentinel.site.address(sentinel.peer),
            })
        };
        let members: Vec<_> = self.sentinels.iter().enumerate().map(member).collect();
        json!({
            "id": index + 1,
            "cluster-id": self.cluster_id,
            "secret-file": self.secret_file,
            "data-dir": this.data_dir,
            "api-listen": this.site.bind(this.api),
            "peer-listen": this.site.bind(this.peer),
            "metrics-listen": this.site.bind(this.metrics),
            "expected-nodes": self.nodes.len(),
            "cluster": {
                "shards": self.shards,
                "replicas": self.replicas,
                "databases": self.databases,
                "persistence": self.persistence,
                "password": self.password,
            },
            "members": members,
        })
    }

    fn node(&self, node: &NodeSite) -> Value {
        let mut value = json!({
            "cluster-id": self.cluster_id,
            "secret-file": self.secret_file,
            "sentinels": self.sentinel_addresses(),
            "data-dir": node.data_dir,
            "link-listen": node.site.bind(node.link),
            "peer-listen": node.site.bind(node.peer),
            "heartbeat-listen": node.site.bind(node.heartbeat),
            "control-listen": node.site.bind(node.control),
            "metrics-listen": node.site.bind(node.metrics),
        });
        if node.site.listen.is_unspecified() {
            value["advertise-host"] = json!(node.site.host);
        }
        if !node.zone.is_empty() {
            value["zone"] = json!(node.zone);
        }
        value
    }

    fn proxy(&self, proxy: &ProxySite) -> Value {
        let mut value = json!({
            "cluster-id": self.cluster_id,
            "secret-file": self.secret_file,
            "sentinels": self.sentinel_addresses(),
            "listen": proxy.site.bind(proxy.tls),
            "tls-cert-file": self.tls_dir.join(SERVER_CERT),
            "tls-key-file": self.tls_dir.join(SERVER_KEY),
            "admin-listen": proxy.admin.to_string(),
        });
        if proxy.site.listen.is_unspecified() {
            value["announce-host"] = json!(proxy.site.host);
        }
        if let Some(port) = proxy.announce_port {
            value["announce-port"] = json!(port);
        }
        if let Some(port) = proxy.plain {
            value["plain-listen"] = json!(proxy.site.bind(port));
        }
        value
    }
}
