//! A cluster of real processes, started by `holdfast up` in a folder of its own.

use anyhow::{Context, bail};
use holdfast_cli::client::{ClientTls, Connection, Uri};
use holdfast_cli::cluster::{ClusterAccess, ClusterFile};
use holdfast_proto::v1::{NodeHealth, StatusReply};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a test cluster is shaped.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub shards: u32,
    pub replicas: u32,
    pub persistence: String,
    pub port: u16,
    pub internal_port: u16,
    /// The `holdfast` binary.
    pub binary: PathBuf,
}

/// A running cluster; dropped, it is stopped.
pub struct Cluster {
    pub folder: PathBuf,
    supervisor: Child,
    file: ClusterFile,
    access: ClusterAccess,
    options: ClusterOptions,
}

impl Cluster {
    /// Starts a cluster (or continues with the one in `folder`) and waits until it serves.
    pub async fn start(folder: &Path, options: &ClusterOptions) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let log = std::fs::File::options().create(true).append(true).open(folder.join("up.log"))?;
        let mut supervisor = Command::new(&options.binary)
            .arg("up")
            .args(["--data-dir".as_ref(), folder.as_os_str()])
            .args(["--shards", &options.shards.to_string()])
            .args(["--replicas", &options.replicas.to_string()])
            .args(["--persistence", &options.persistence])
            .args(["--port", &options.port.to_string()])
            .args(["--internal-port", &options.internal_port.to_string()])
            .arg("--no-status")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", options.binary.display()))?;
        let path = folder.join(ClusterFile::NAME);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = supervisor.try_wait()? {
                bail!("holdfast up ended ({status}); see {}", folder.join("up.log").display());
            }
            if path.exists()
                && let Ok(access) = ClusterAccess::from_file(&path)
                && access.is_serving().await
            {
                let file = ClusterFile::load(&path)?;
                let folder = folder.to_owned();
                return Ok(Self { folder, supervisor, file, access, options: options.clone() });
            }
            if Instant::now() > deadline {
                let _ = supervisor.kill();
                bail!("the cluster does not serve after 60 s; see {}", folder.display());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// What clients connect to.
    pub fn uri(&self) -> &str {
        &self.file.uris[0]
    }

    /// Authority of the proxy's certificate.
    pub fn ca_cert(&self) -> &Path {
        &self.file.ca_cert
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let uri = Uri::parse(self.file.uris.first().context("a proxy")?)?;
        let tls = ClientTls::new(Some(&self.file.ca_cert), false)?;
        Connection::open(&uri, Some(&tls)).await
    }

    pub async fn status(&self) -> anyhow::Result<StatusReply> {
        self.access.status().await
    }

    pub fn access(&self) -> &ClusterAccess {
        &self.access
    }

    /// The pid of `node-1`, `sentinel-2`, `proxy-1`, …; `None` while it is down.
    pub fn pid(&self, name: &str) -> Option<i32> {
        let supervisor = self.supervisor.id();
        let children =
            std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))
                .ok()?;
        let wanted = format!("/{name}.toml");
        children.split_whitespace().find_map(|pid| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            let found = command.split('\0').any(|word| word.ends_with(&wanted));
            // A zombie has an empty command line, so what is found is alive.
            found.then(|| pid.parse().ok()).flatten()
        })
    }

    /// The names of all processes of a role.
    pub fn names(&self, role: &str) -> Vec<String> {
        let folder = self.folder.join("conf");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .map(|entries| {
                entries
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
                    .filter(|name| name.starts_with(role))
                    .collect()
            })
            .unwrap_or_default();
        names.sort();
        names
    }

    /// The process name of a node id: nodes get their ids in the order in which they register.
    pub async fn node_name(&self, node: u64) -> anyhow::Result<String> {
        let status = self.status().await?;
        let topology = status.topology.context("a topology")?;
        let info = topology.nodes.iter().find(|info| info.id == node).context("a known node")?;
        for name in self.names("node") {
            let path = self.folder.join("conf").join(format!("{name}.toml"));
            if std::fs::read_to_string(path)?.contains(&format!("\"{}\"", info.link_addr)) {
                return Ok(name);
            }
        }
        bail!("no process listens on {}", info.link_addr)
    }

    /// Sends a signal to a process of this cluster.
    pub fn signal(&self, name: &str, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let pid = self.pid(name).with_context(|| format!("{name} does not run"))?;
        let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("signal {name}"))
    }

    /// Node id of a shard's primary.
    pub async fn primary(&self, shard: u32) -> anyhow::Result<u64> {
        let topology = self.status().await?.topology.context("a topology")?;
        let shard = topology.shards.iter().find(|info| info.id == shard).context("a shard")?;
        Ok(shard.primary_node)
    }

    /// Waits until every node is up and every replica has applied what its primary has.
    pub async fn wait_healthy(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let reason = match self.status().await {
                Ok(status) => unhealthy(&status, self.options.replicas as usize),
                Err(error) => Some(error.to_string()),
            };
            let Some(reason) = reason else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("not healthy after {limit:?}: {reason}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// SIGKILL to every process, the supervisor first so that it restarts nothing.
    pub fn kill_all(mut self) -> PathBuf {
        let names: Vec<String> =
            ["proxy", "node", "sentinel"].iter().flat_map(|role| self.names(role)).collect();
        let pids: Vec<i32> = names.iter().filter_map(|name| self.pid(name)).collect();
        let _ = self.supervisor.kill();
        for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = self.supervisor.wait();
        self.folder.clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.supervisor.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.supervisor.wait();
    }
}

/// Why the cluster is not in full health; `None` when it is.
pub(crate) fn unhealthy(status: &StatusReply, replicas: usize) -> Option<String> {
    let topology = status.topology.as_ref()?;
    for node in &status.nodes {
        if node.health() != NodeHealth::Up {
            return Some(format!("node {} is not up", node.node));
        }
    }
    for shard in &topology.shards {
        let states: Vec<_> = status
            .nodes
            .iter()
            .flat_map(|node| &node.replicas)
            .filter(|replica| replica.shard == shard.id)
            .collect();
        if states.len() < replicas {
            return Some(format!("shard {} has {} live replicas", shard.id, states.len()));
        }
        let Some(primary) = states.iter().find(|state| state.serving) else {
            return Some(format!("shard {} has no serving primary", shard.id));
        };
        // Under load the last few entries are always in flight.
        if states.iter().any(|state| state.applied_index + 5_000 < primary.applied_index) {
            return Some(format!("a replica of shard {} lags", shard.id));
        }
    }
    None
}
