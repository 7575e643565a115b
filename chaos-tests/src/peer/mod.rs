//! Redis with Sentinel as it comes with Debian: a primary, two replicas, three sentinels, and clients
//! that follow the sentinels as client libraries do. The same faults and the same checkers as for
//! Holdfast, to show what they find.

use crate::local::network::{LinkFault, Network};
use crate::local::{Processes, Spec, Supervisor};
use crate::target::{
    Ability, ClusterEvent, Death, Endpoint, ErrorMeaning, Later, Role, Subject, Target,
};
use anyhow::{Context, bail, ensure};
use holdfast_cli::client::{Connection, Uri};
use holdfast_proto::resp::reply::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SERVERS: usize = 3;
const SENTINELS: usize = 3;
const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// The name that the sentinels know the primary under.
const GROUP: &str = "main";
const DAY_MS: i64 = 86_400_000;

/// How it is set up.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// `min-replicas-to-write`: 0 is the default of Redis.
    pub min_replicas: u32,
    /// `down-after-milliseconds`; the default of Redis is 30,000.
    pub down_after_ms: u64,
}

/// The running group.
pub struct Peer {
    // Dropped before the processes, so that it starts none of them again.
    _supervisor: Supervisor,
    processes: Arc<Processes>,
    network: Arc<Network>,
    logs: PathBuf,
}

fn names(role: &str, count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{role}-{number}")).collect()
}

fn servers() -> Vec<String> {
    names("redis", SERVERS)
}

fn sentinels() -> Vec<String> {
    names("sentinel", SENTINELS)
}

impl Peer {
    pub fn start(options: &PeerOptions, data: &Path, logs: &Path) -> anyhow::Result<Self> {
        let network = Arc::new(Network::new(&[servers(), sentinels()].concat())?);
        std::fs::create_dir_all(logs)?;
        let processes = Arc::new(Processes::new(network.clone()));
        let primary = network.addr(&servers()[0]);
        for (index, name) in servers().iter().enumerate() {
            let folder = data.join(name);
            std::fs::create_dir_all(&folder)?;
            let mut config = format!(
                "bind {addr}\nport {SERVER_PORT}\nprotected-mode no\ndir {dir}\nappendonly yes\n\
                 appendfsync everysec\nmin-replicas-to-write {min}\nmin-replicas-max-lag 2\n\
                 repl-diskless-sync-delay 0\n",
                addr = network.addr(name),
                dir = folder.display(),
                min = options.min_replicas,
            );
            if index > 0 {
                config.push_str(&format!("replicaof {primary} {SERVER_PORT}\n"));
            }
            processes.add(spec(name, "redis-server", &folder, &config, logs)?)?;
        }
        for name in sentinels() {
            let folder = data.join(&name);
            std::fs::create_dir_all(&folder)?;
            let config = format!(
                "bind {addr}\nport {SENTINEL_PORT}\nprotected-mode no\ndir {dir}\n\
                 sentinel monitor {GROUP} {primary} {SERVER_PORT} 2\n\
                 sentinel down-after-milliseconds {GROUP} {down_after}\n\
                 sentinel failover-timeout {GROUP} 5000\n",
                addr = network.addr(&name),
                dir = folder.display(),
                down_after = options.down_after_ms,
            );
            processes.add(spec(&name, "redis-sentinel", &folder, &config, logs)?)?;
        }
        let supervisor = Supervisor::start(processes.clone())?;
        let logs = logs.to_owned();
        let peer = Self { _supervisor: supervisor, processes, network, logs };
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Some(ailment) = peer.ailment() {
            ensure!(Instant::now() < deadline, "Redis with Sentinel does not start: {ailment}");
            // Polling processes that start.
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(peer)
    }

    async fn open(&self, name: &str, port: u16) -> anyhow::Result<Connection> {
        let uri = Uri::parse(&format!("redis://{}:{port}", self.network.addr(name)))?;
        let limit = Duration::from_millis(500);
        tokio::time::timeout(limit, Connection::open(&uri, None)).await.context("no connection")?
    }

    async fn call(&self, name: &str, port: u16, words: &[&str]) -> anyhow::Result<Value> {
        let mut connection = self.open(name, port).await?;
        let limit = Duration::from_millis(500);
        Ok(tokio::time::timeout(limit, connection.call(words)).await.context("no answer")??)
    }

    /// The primary that the first sentinel that answers names.
    async fn ask_sentinels(&self) -> anyhow::Result<String> {
        for sentinel in sentinels() {
            let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", GROUP];
            let Ok(answer) = self.call(&sentinel, SENTINEL_PORT, &words).await else { continue };
            let Some([addr, _]) = answer.as_array() else { continue };
            let addr = addr.as_bytes().unwrap_or_default();
            let known = servers()
                .into_iter()
                .find(|name| self.network.addr(name).to_string().as_bytes() == addr);
            if let Some(name) = known {
                return Ok(name);
            }
        }
        bail!("no sentinel names a primary")
    }

    async fn sick(&self) -> anyhow::Result<()> {
        let primary = self.ask_sentinels().await?;
        for sentinel in sentinels() {
            let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", GROUP];
            let answer = self.call(&sentinel, SENTINEL_PORT, &words).await?;
            let addr = answer.as_array().and_then(|parts| parts.first()?.as_bytes());
            let expected = self.network.addr(&primary).to_string();
            ensure!(addr == Some(expected.as_bytes()), "{sentinel} names another primary");
            let check =
                self.call(&sentinel, SENTINEL_PORT, &["SENTINEL", "CKQUORUM", GROUP]).await?;
            ensure!(!check.is_error(), "{sentinel}: {check:?}");
        }
        for name in servers() {
            let info = self.call(&name, SERVER_PORT, &["INFO", "replication"]).await?;
            let text = String::from_utf8_lossy(info.as_bytes().unwrap_or_default()).into_owned();
            let has = |line: &str| text.lines().any(|other| other == line);
            if name == primary {
                // A replica may follow another replica, which is as good.
                let alone = has("connected_slaves:0");
                ensure!(has("role:master") && !alone, "{name} has no replica");
            } else {
                ensure!(
                    has("role:slave") && has("master_link_status:up"),
                    "{name} does not follow"
                );
            }
        }
        Ok(())
    }

    fn block_on<T>(&self, task: impl Future<Output = T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(task))
    }
}

fn spec(
    name: &str,
    program: &str,
    folder: &Path,
    config: &str,
    logs: &Path,
) -> anyhow::Result<Spec> {
    let path = folder.join("redis.conf");
    std::fs::write(&path, config)?;
    Ok(Spec {
        name: name.to_owned(),
        command: vec![program.to_owned(), path.to_str().context("a plain path")?.to_owned()],
        environment: vec![("TZ".to_owned(), "UTC".to_owned())],
        log: logs.join(format!("{name}.log")),
    })
}

impl Endpoint for Peer {
    fn connect(&self, _client: u32) -> Later<'_, anyhow::Result<(Connection, String)>> {
        Box::pin(async move {
            let name = self.ask_sentinels().await?;
            let mut connection = self.open(&name, SERVER_PORT).await?;
            // As client libraries do: what the sentinels say may be old.
            let limit = Duration::from_millis(500);
            let role = tokio::time::timeout(limit, connection.call(&["ROLE"])).await??;
            let role = role.as_array().and_then(|parts| parts.first()?.as_bytes());
            ensure!(role == Some(b"master"), "{name} is not a primary");
            Ok((connection, name))
        })
    }

    fn meaning(&self, error: &str) -> ErrorMeaning {
        match error.split(' ').next() {
            Some("READONLY" | "LOADING" | "MASTERDOWN") => ErrorMeaning::WrongServer,
            Some("NOREPLICAS" | "EXECABORT") => ErrorMeaning::NotExecuted,
            // BLPOP when a primary becomes a replica.
            Some("UNBLOCKED") => ErrorMeaning::WrongServer,
            _ => ErrorMeaning::Unknown,
        }
    }
}

impl Target for Peer {
    fn names(&self, role: Role) -> Vec<String> {
        match role {
            Role::Node => servers(),
            Role::Sentinel => sentinels(),
            Role::Proxy => Vec::new(),
        }
    }

    fn can(&self, ability: Ability) -> bool {
        matches!(ability, Ability::CutLinks | Ability::SlowLinks) && self.network.cuts()
    }

    fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.processes.kill(name)
    }

    fn stop(&self, name: &str) -> anyhow::Result<bool> {
        self.processes.stop(name)
    }

    fn start(&self, name: &str) -> anyhow::Result<()> {
        self.processes.start(name)
    }

    fn pause(&self, name: &str) -> anyhow::Result<()> {
        self.processes.signal(name, rustix::process::Signal::STOP)
    }

    fn resume(&self, name: &str) -> anyhow::Result<()> {
        self.processes.signal(name, rustix::process::Signal::CONT)
    }

    fn set_links(&self, faults: &BTreeSet<LinkFault>) -> anyhow::Result<()> {
        self.network.set(faults)
    }

    fn inject(&self, _name: &str, _faults: &str) -> anyhow::Result<()> {
        bail!("Redis takes no injected faults")
    }

    fn primary(&self, _shard: u32) -> anyhow::Result<String> {
        self.block_on(self.ask_sentinels())?
    }

    fn shards(&self) -> u32 {
        1
    }

    fn hand_over(&self, _shard: u32) -> anyhow::Result<()> {
        bail!("not asked of Redis")
    }

    fn restart_replica(&self, _shard: u32, _node: &str) -> anyhow::Result<()> {
        bail!("not asked of Redis")
    }

    fn ailment(&self) -> Option<String> {
        match self.block_on(self.sick()) {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(format!("{error:#}")),
        }
    }
}

impl Subject for Peer {
    fn deaths(&self) -> Vec<Death> {
        self.processes.deaths()
    }

    /// Changes of the primary, from the sentinels' logs.
    fn events(&self) -> anyhow::Result<Vec<ClusterEvent>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        let mut events: Vec<(i64, String)> = Vec::new();
        for name in sentinels() {
            let text = std::fs::read_to_string(self.logs.join(format!("{name}.log")))?;
            events.extend(text.lines().filter_map(|line| switch(line, now)));
        }
        events.sort();
        // Each sentinel tells of it.
        events.dedup_by(|later, earlier| later.1 == earlier.1 && later.0 - earlier.0 < 10_000);
        let event = |(unix_ms, text)| ClusterEvent { unix_ms, kind: "failover".to_owned(), text };
        Ok(events.into_iter().map(event).collect())
    }

    fn held_requests(&self) -> u64 {
        0
    }
}

/// Time and text of a line such as
/// `9:X 21 Nov 2026 16:21:37.123 # +switch-master main 10.77.0.1 6379 10.77.0.2 6379`.
fn switch(line: &str, now_ms: i64) -> Option<(i64, String)> {
    let (head, text) = line.split_once("+switch-master ")?;
    let clock = head.split_whitespace().find(|word| word.matches(':').count() == 2)?;
    let mut parts = clock.split([':', '.']).map(|part| part.parse::<i64>().ok());
    let mut part = || parts.next().flatten();
    let of_day = ((part()? * 60 + part()?) * 60 + part()?) * 1000 + part()?;
    let today = now_ms - now_ms % DAY_MS + of_day;
    // The log does not say which day in a form worth parsing; runs take less than one.
    Some((if today > now_ms { today - DAY_MS } else { today }, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_primary_is_read_from_the_log() {
        let line =
            "9:X 21 Nov 2026 16:21:37.123 # +switch-master main 10.77.0.1 6379 10.77.0.2 6379";
        let at = ((16 * 60 + 21) * 60 + 37) * 1000 + 123;
        let text = "main 10.77.0.1 6379 10.77.0.2 6379".to_owned();
        assert_eq!(switch(line, 10 * DAY_MS + at + 5), Some((10 * DAY_MS + at, text.clone())));
        // After midnight.
        assert_eq!(switch(line, 11 * DAY_MS + 5), Some((10 * DAY_MS + at, text)));
        assert_eq!(switch("9:X 21 Nov 2026 16:21:37.123 # +sdown master", 0), None);
    }
}
