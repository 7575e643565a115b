//! Access to a running cluster for the operator's commands.

use crate::client::Uri;
use anyhow::{Context, bail};
use holdfast_proto::sentinel_client::SentinelClient;
use holdfast_proto::v1;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file from which the operator's commands learn about a cluster (`up` writes one).
#[derive(Serialize, Deserialize, Clone)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClusterFile {
    /// 16 bytes as hexadecimal digits.
    pub cluster_id: String,
    /// The cluster's internal secret, 32 bytes as hexadecimal digits.
    pub secret: String,
    /// The sentinels' API addresses.
    pub sentinels: Vec<String>,
    /// What clients connect to.
    pub uris: Vec<String>,
    /// Authority of the proxies' certificates.
    pub ca_cert: PathBuf,
}

impl ClusterFile {
    pub const NAME: &str = "cluster.toml";

    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read {} (is it a cluster's folder?)", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{}", path.display()))
    }
}

/// Where the operator's commands find the cluster.
#[derive(clap::Args, Debug, Clone)]
pub struct ClusterArgs {
    /// The data folder of a cluster started by `up`, or a cluster file.
    #[arg(long, env = "HOLDFAST_CLUSTER", default_value = "holdfast-data", global = true)]
    pub cluster: PathBuf,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
}

impl ClusterArgs {
    pub fn file(&self) -> anyhow::Result<ClusterFile> {
        let path = if self.cluster.is_dir() {
            self.cluster.join(ClusterFile::NAME)
        } else {
            self.cluster.clone()
        };
        ClusterFile::load(&path)
    }

    pub fn access(&self) -> anyhow::Result<ClusterAccess> {
        ClusterAccess::new(self.file()?)
    }
}

/// The sentinels of a cluster, with the secret that opens them.
pub struct ClusterAccess {
    client: SentinelClient,
    uris: Vec<String>,
}

impl ClusterAccess {
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        Self::new(ClusterFile::load(path)?)
    }

    /// Fails if the file's id or secret is malformed.
    pub fn new(file: ClusterFile) -> anyhow::Result<Self> {
        let cluster_id = decode_hex(&file.cluster_id).context("the cluster file's cluster-id")?;
        let secret = decode_hex(&file.secret).context("the cluster file's secret")?;
        let client = SentinelClient::new(cluster_id, secret, file.sentinels);
        Ok(Self { client, uris: file.uris })
    }

    pub async fn status(&self) -> anyhow::Result<v1::StatusReply> {
        Ok(self.client.status().await?)
    }

    pub async fn events_after(&self, after_id: u64) -> anyhow::Result<Vec<v1::Event>> {
        Ok(self.client.events(after_id, 0).await?.events)
    }

    pub async fn failover(&self, shard: u32, to_node: u64) -> anyhow::Result<v1::FailoverReport> {
        let reply = self.client.failover(shard, to_node).await?;
        reply.report.context("the sentinel sent no report")
    }

    pub async fn restart_replica(&self, shard: u32, node: u64) -> anyhow::Result<()> {
        self.client.restart_replica(shard, node).await?;
        Ok(())
    }

    pub async fn set_settings(
        &self,
        settings: impl IntoIterator<Item = (String, String)>,
    ) -> anyhow::Result<()> {
        self.client.set_settings(settings).await?;
        Ok(())
    }

    /// Every shard has a primary that serves now, not one remembered from before a restart, and a
    /// proxy has registered.
    pub async fn shards_serve(&self) -> bool {
        let Ok(status) = self.status().await else { return false };
        let Some(topology) = status.topology else { return false };
        let wanted = topology.spec.as_ref().map_or(1, |spec| spec.shards) as usize;
        let serves = |shard: u32| {
            let mut replicas = status.nodes.iter().flat_map(|node| &node.replicas);
            replicas.any(|replica| replica.shard == shard && replica.serving)
        };
        topology.shards.len() == wanted
            && topology.shards.iter().all(|shard| serves(shard.id))
            && !topology.proxies.is_empty()
    }

    /// Every shard serves, and every proxy in `uris` accepts connections.
    pub async fn is_serving(&self) -> bool {
        if !self.shards_serve().await {
            return false;
        }
        for uri in &self.uris {
            let Ok(uri) = Uri::parse(uri) else { return false };
            let address = (uri.host.as_str(), uri.port);
            if tokio::net::TcpStream::connect(address).await.is_err() {
                return false;
            }
        }
        true
    }
}

pub fn decode_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        bail!("not an even number of hexadecimal digits");
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).context("not hexadecimal"))
        .collect()
}
