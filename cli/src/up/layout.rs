//! What a cluster made by `up` consists of, kept in `cluster.json` so that a second `up` finds the
//! same cluster again.

use super::UpArgs;
use crate::deployment::configs::{Deployment, NodeSite, ProxySite, SentinelSite, Site};
use crate::deployment::files;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// The cluster's shape, secrets and ports.
#[derive(Serialize, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    /// 16 bytes as hexadecimal digits.
    pub(crate) cluster_id: String,
    /// 32 bytes as hexadecimal digits: what the cluster's processes prove themselves with.
    pub(crate) secret: String,
    /// Of the user `default`.
    pub(crate) password: String,
    pub(crate) shards: u32,
    pub(crate) replicas: u32,
    pub(crate) databases: u32,
    pub(crate) persistence: String,
    pub(crate) sentinels: Vec<SentinelPorts>,
    pub(crate) nodes: Vec<NodePorts>,
    pub(crate) proxies: Vec<ProxyPorts>,
}

#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct SentinelPorts {
    pub(crate) api: u16,
    pub(crate) peer: u16,
    pub(crate) metrics: u16,
}

#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct NodePorts {
    pub(crate) link: u16,
    pub(crate) peer: u16,
    pub(crate) heartbeat: u16,
    pub(crate) control: u16,
    pub(crate) metrics: u16,
}

#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct ProxyPorts {
    pub(crate) tls: u16,
    pub(crate) plain: Option<u16>,
    pub(crate) admin: u16,
}

impl Layout {
    /// Reads the layout of an existing cluster, or decides a new one from the arguments.
    pub(crate) fn load_or_create(args: &UpArgs) -> anyhow::Result<Self> {
        let path = args.data_dir.join("cluster.json");
        if path.exists() {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("read {}", path.display()))?;
            let layout: Self = serde_json::from_str(&text)
                .with_context(|| format!("{} is not a cluster description", path.display()))?;
            layout.check_against(args)?;
            return Ok(layout);
        }
        let layout = Self::new(args)?;
        files::write_secret(&path, serde_json::to_string_pretty(&layout)?.as_bytes())?;
        Ok(layout)
    }

    fn new(args: &UpArgs) -> anyhow::Result<Self> {
        let shape = args.shape()?;
        let mut ports = FreePorts::from(args.internal_port);
        let mut sentinels = Vec::new();
        for _ in 0..shape.sentinels {
            sentinels.push(SentinelPorts {
                api: ports.next()?,
                peer: ports.next()?,
                metrics: ports.next()?,
            });
        }
        let mut nodes = Vec::new();
        for _ in 0..shape.nodes {
            nodes.push(NodePorts {
                link: ports.next()?,
                peer: ports.next()?,
                heartbeat: ports.next()?,
                control: ports.next()?,
                metrics: ports.next()?,
            });
        }
        let mut proxies = Vec::new();
        for index in 0..shape.proxies as u16 {
            proxies.push(ProxyPorts {
                tls: args.port.checked_add(index).context("--port is too high")?,
                plain: args.plain_port.map(|port| port + index),
                admin: ports.next()?,
            });
        }
        let password = match &args.password {
            Some(password) => password.clone(),
            None => files::random_hex(16)?,
        };
        Ok(Self {
            cluster_id: files::random_hex(16)?,
            secret: files::random_hex(32)?,
            password,
            shards: shape.shards,
            replicas: shape.replicas,
            databases: args.databases.unwrap_or(16),
            persistence: args.persistence.clone().unwrap_or_else(|| "aof-everysec".to_owned()),
            sentinels,
            nodes,
            proxies,
        })
    }

    /// A second `up` may leave everything out; what it names must agree with the cluster.
    fn check_against(&self, args: &UpArgs) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        let mut check = |name: &str, asked: Option<u32>, is: usize| {
            if asked.is_some_and(|asked| asked as usize != is) {
                wrong.push(format!("--{name} is {is} in this cluster"));
            }
        };
        check("shards", args.shards, self.shards as usize);
        check("replicas", args.replicas, self.replicas as usize);
        check("nodes", args.nodes, self.nodes.len());
        check("sentinels", args.sentinels, self.sentinels.len());
        check("proxies", args.proxies, self.proxies.len());
        check("databases", args.databases, self.databases as usize);
        if args.persistence.as_ref().is_some_and(|asked| *asked != self.persistence) {
            wrong.push(format!("--persistence is {} in this cluster", self.persistence));
        }
        if args.password.as_ref().is_some_and(|asked| *asked != self.password) {
            wrong.push("--password differs from this cluster's".to_owned());
        }
        if !wrong.is_empty() {
            let folder = args.data_dir.display();
            bail!("{folder} holds a cluster of another shape: {}", wrong.join(", "));
        }
        Ok(())
    }

    /// What the processes' configuration files are to say.
    pub(crate) fn deployment(&self, args: &UpArgs) -> anyhow::Result<Deployment> {
        let here = || Site { host: "127.0.0.1".to_owned(), listen: Ipv4Addr::LOCALHOST.into() };
        let bind: IpAddr = args.bind.parse().context("--bind must be an IP address")?;
        let data = |role: &str, at: usize| args.data_dir.join(format!("{role}-{}", at + 1));
        let sentinel = |(at, ports): (usize, &SentinelPorts)| SentinelSite {
            site: here(),
            data_dir: data("sentinel", at),
            api: ports.api,
            peer: ports.peer,
            metrics: ports.metrics,
        };
        let node = |(at, ports): (usize, &NodePorts)| NodeSite {
            site: here(),
            zone: String::new(),
            data_dir: data("node", at),
            link: ports.link,
            peer: ports.peer,
            heartbeat: ports.heartbeat,
            control: ports.control,
            metrics: ports.metrics,
        };
        let proxy = |ports: &ProxyPorts| ProxySite {
            site: Site { host: "127.0.0.1".to_owned(), listen: bind },
            tls: ports.tls,
            plain: ports.plain,
            announce_port: None,
            admin: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ports.admin),
        };
        Ok(Deployment {
            cluster_id: self.cluster_id.clone(),
            secret: self.secret.clone(),
            password: self.password.clone(),
            shards: self.shards,
            replicas: self.replicas,
            databases: self.databases,
            persistence: self.persistence.clone(),
            secret_file: args.data_dir.join("conf").join("secret"),
            tls_dir: args.data_dir.join("tls"),
            sentinels: self.sentinels.iter().enumerate().map(sentinel).collect(),
            nodes: self.nodes.iter().enumerate().map(node).collect(),
            proxies: self.proxies.iter().map(proxy).collect(),
        })
    }

    /// The URI of one proxy.
    pub(crate) fn uri(&self, proxy: usize) -> String {
        format!("rediss://default:{}@127.0.0.1:{}", self.password, self.proxies[proxy].tls)
    }

    pub(crate) fn sentinel_addrs(&self) -> Vec<String> {
        self.sentinels.iter().map(|ports| local(ports.api)).collect()
    }

    /// Ports that must be free before anything is started.
    pub(crate) fn client_ports(&self) -> Vec<u16> {
        self.proxies.iter().flat_map(|ports| [Some(ports.tls), ports.plain]).flatten().collect()
    }
}

/// `127.0.0.1:port`.
pub(crate) fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Finds ports nobody listens on, counting upwards. They are kept in `cluster.json`, so they stay
/// below the range from which the kernel takes ports of outgoing connections (32768 by default).
struct FreePorts {
    next: u16,
}

impl FreePorts {
    const LAST: u16 = 32_700;

    fn from(first: u16) -> Self {
        Self { next: first }
    }

    fn next(&mut self) -> anyhow::Result<u16> {
        while self.next < Self::LAST {
            let port = self.next;
            self.next += 1;
            if is_free(port) {
                return Ok(port);
            }
        }
        bail!("no free port below {}; choose another --internal-port", Self::LAST)
    }
}

pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
