//! The cluster of `deploy/docker-compose.yml`, hurt by Docker's own means: `docker kill`, `pause`,
//! `network disconnect`, `stop`, and containers that are made anew from another image.

use crate::harness::unhealthy;
use crate::local::cluster::held_by;
use crate::target::{
    Ability, ClusterEvent, Death, Endpoint, ErrorMeaning, Later, LinkFault, Role, Subject, Target,
    meaning,
};
use anyhow::{Context, bail, ensure};
use holdfast_cli::client::{ClientTls, Connection, Uri};
use holdfast_cli::cluster::{ClusterAccess, ClusterFile};
use holdfast_proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const NODES: usize = 3;
const SENTINELS: usize = 3;
const PROXIES: usize = 2;
const REPLICAS: usize = 3;
/// Ports that `holdfast init` gives.
const API_PORT: u16 = 26_379;
const ADMIN_PORT: u16 = 9100;
/// Longer than a process needs to hand its shards over.
const STOP_SECONDS: &str = "20";

/// How to run it.
#[derive(Clone, Debug)]
pub struct ComposeOptions {
    /// The folder with `docker-compose.yml`.
    pub deploy: PathBuf,
    /// The image under test.
    pub image: String,
    /// Names the containers, volumes and networks.
    pub project: String,
    /// Published ports of the proxies.
    pub ports: [u16; PROXIES],
    pub shards: u32,
    pub persistence: String,
}

/// A running project. Dropped, it is taken down with its volumes.
pub struct ComposeCluster {
    options: ComposeOptions,
    /// `docker compose` or `docker-compose`.
    compose: Vec<&'static str>,
    /// The image under test, and one made from it for updates.
    images: [String; 2],
    uris: Vec<(String, Uri)>,
    tls: ClientTls,
    file: ClusterFile,
    next_proxy: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    isolated: BTreeSet<String>,
    /// Which image each process has, where it is not the first.
    image_of: BTreeMap<String, usize>,
    /// Ended by `stop`: started again from the other image.
    stopped: BTreeSet<String>,
    deaths: Vec<Death>,
}

fn names(role: Role) -> Vec<String> {
    let (word, count) = match role {
        Role::Node => ("node", NODES),
        Role::Sentinel => ("sentinel", SENTINELS),
        Role::Proxy => ("proxy", PROXIES),
    };
    (1..=count).map(|number| format!("{word}-{number}")).collect()
}

fn all_names() -> Vec<String> {
    [Role::Sentinel, Role::Node, Role::Proxy].into_iter().flat_map(names).collect()
}

/// Runs a command; its output, or what it said of its failure.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let result = command.stdin(Stdio::null()).output().with_context(|| shown.clone())?;
    ensure!(
        result.status.success(),
        "{shown}: {}{}",
        String::from_utf8_lossy(&result.stdout),
        String::from_utf8_lossy(&result.stderr)
    );
    Ok(String::from_utf8_lossy(&result.stdout).trim().to_owned())
}

fn docker(args: &[&str]) -> anyhow::Result<String> {
    output(Command::new("docker").args(args))
}

/// An image with the same content under another name, as a new release would be.
fn make_update(image: &str) -> anyhow::Result<String> {
    let name = format!("{image}-update");
    let mut child = Command::new("docker")
        .args(["build", "-q", "-t", &name, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let text = format!("FROM {image}\nLABEL holdfast.release=update\n");
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    ensure!(child.wait()?.success(), "docker build of {name} failed");
    Ok(name)
}

impl ComposeCluster {
    /// Starts the project and waits until it serves; `folder` gets a copy of its secrets.
    pub fn start(options: ComposeOptions, folder: &Path) -> anyhow::Result<Self> {
        docker(&["image", "inspect", &options.image])
            .with_context(|| format!("no image {}: run deploy/build-image", options.image))?;
        let plugin = docker(&["compose", "version"]).is_ok();
        let images = [options.image.clone(), make_update(&options.image)?];
        let mut cluster = Self {
            compose: if plugin { vec!["docker", "compose"] } else { vec!["docker-compose"] },
            images,
            uris: Vec::new(),
            tls: ClientTls::new(None, true)?,
            file: ClusterFile {
                cluster_id: String::new(),
                secret: String::new(),
                sentinels: Vec::new(),
                uris: Vec::new(),
                ca_cert: PathBuf::new(),
            },
            next_proxy: AtomicUsize::new(0),
            state: Mutex::default(),
            options,
        };
        cluster.compose(0, &["up", "-d"])?;
        let config = folder.join("config");
        let from = format!("{}:/config", cluster.container("sentinel-1")?);
        docker(&["cp", &from, config.to_str().context("a plain path")?])?;
        cluster.file = ClusterFile::load(&config.join(ClusterFile::NAME))?;
        cluster.tls = ClientTls::new(Some(&config.join("tls").join("ca.crt")), false)?;
        for (name, uri) in names(Role::Proxy).into_iter().zip(&cluster.file.uris) {
            cluster.uris.push((name, Uri::parse(uri)?));
        }
        cluster.wait_serving(Duration::from_secs(90))?;
        Ok(cluster)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock")
    }

    /// `docker compose ARGS` with one of the images.
    fn compose(&self, image: usize, args: &[&str]) -> anyhow::Result<String> {
        let options = &self.options;
        let mut command = Command::new(self.compose[0]);
        command
            .args(&self.compose[1..])
            .args(["-p", &options.project, "-f"])
            .arg(options.deploy.join("docker-compose.yml"))
            .args(args)
            .env("HOLDFAST_IMAGE", &self.images[image])
            .env("HOLDFAST_PORT_1", options.ports[0].to_string())
            .env("HOLDFAST_PORT_2", options.ports[1].to_string())
            .env("HOLDFAST_SHARDS", options.shards.to_string())
            .env("HOLDFAST_PERSISTENCE", &options.persistence);
        output(&mut command)
    }

    /// The present container of a service.
    fn container(&self, name: &str) -> anyhow::Result<String> {
        let project = format!("label=com.docker.compose.project={}", self.options.project);
        let service = format!("label=com.docker.compose.service={name}");
        let found = docker(&["ps", "-aq", "--filter", &project, "--filter", &service])?;
        let mut lines = found.lines();
        let id = lines.next().with_context(|| format!("no container of {name}"))?;
        ensure!(lines.next().is_none(), "{name} has more than one container");
        Ok(id.to_owned())
    }

    fn inspect(&self, name: &str, format: &str) -> anyhow::Result<String> {
        docker(&["inspect", "-f", format, &self.container(name)?])
    }

    fn network(&self) -> String {
        format!("{}_cluster", self.options.project)
    }

    /// A port of a container as the host reaches it; `None` while it has no network.
    fn address(&self, name: &str, port: u16) -> Option<String> {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = self.inspect(name, format).ok().filter(|address| !address.is_empty())?;
        Some(format!("{address}:{port}"))
    }

    fn sentinels(&self) -> Vec<String> {
        let address = |name: String| self.address(&name, API_PORT);
        names(Role::Sentinel).into_iter().filter_map(address).collect()
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(ClusterAccess) -> Later<'static, anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let file = ClusterFile { sentinels: self.sentinels(), ..self.file.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let access = ClusterAccess::new(file)?;
            let limit = Duration::from_secs(20);
            tokio::time::timeout(limit, question(access)).await.context("no sentinel answers")?
        })
    }

    fn status(&self) -> anyhow::Result<v1::StatusReply> {
        self.ask(|access| Box::pin(async move { access.status().await }))
    }

    fn wait_serving(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let serves = self.ask(|access| Box::pin(async move { Ok(access.is_serving().await) }));
            if matches!(serves, Ok(true)) && self.ailment().is_none() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the containers do not serve after {limit:?}: {:?}", self.ailment());
            }
            // Polling containers that start.
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Takes note if Docker had to start a process again.
    fn note_restarts(&self, name: &str) {
        let count = self.inspect(name, "{{.RestartCount}}").unwrap_or_default();
        if !matches!(count.as_str(), "" | "0") {
            let last_words = self
                .container(name)
                .and_then(|id| docker(&["logs", "--tail", "20", &id]))
                .unwrap_or_default();
            let status = format!("started again {count} times by Docker");
            let (name, at) = (name.to_owned(), Instant::now());
            self.state().deaths.push(Death { name, at, status, last_words });
        }
    }

    fn isolate(&self, name: &str) -> anyhow::Result<()> {
        docker(&["network", "disconnect", "-f", &self.network(), &self.container(name)?]).map(drop)
    }

    fn join(&self, name: &str) -> anyhow::Result<()> {
        let (network, container) = (self.network(), self.container(name)?);
        docker(&["network", "connect", "--alias", name, &network, &container]).map(drop)
    }
}

impl Drop for ComposeCluster {
    fn drop(&mut self) {
        if let Err(error) = self.compose(0, &["down", "-v", "-t", "5"]) {
            eprintln!("chaos: {error:#}");
        }
    }
}

impl Subject for ComposeCluster {
    fn deaths(&self) -> Vec<Death> {
        for name in all_names() {
            self.note_restarts(&name);
        }
        std::mem::take(&mut self.state().deaths)
    }

    fn events(&self) -> anyhow::Result<Vec<ClusterEvent>> {
        let events = self.ask(|access| Box::pin(async move { access.events_after(0).await }))?;
        let event = |event: v1::Event| ClusterEvent {
            unix_ms: event.time_ms as i64,
            kind: event.kind,
            text: event.text,
        };
        Ok(events.into_iter().map(event).collect())
    }

    fn held_requests(&self) -> u64 {
        let held = |name: String| {
            let address = self.address(&name, ADMIN_PORT)?;
            held_by(address.parse().ok()?).ok()
        };
        // A proxy that does not answer in time counts as holding none.
        names(Role::Proxy).into_iter().filter_map(held).sum()
    }
}

impl Endpoint for ComposeCluster {
    fn connect(&self, client: u32) -> Later<'_, anyhow::Result<(Connection, String)>> {
        // Clients are spread evenly, and one whose proxy died tries the next one.
        let turn = self.next_proxy.fetch_add(1, Ordering::Relaxed);
        let (name, uri) = &self.uris[(client as usize + turn) % self.uris.len()];
        Box::pin(async move {
            let limit = Duration::from_secs(5);
            let connection = tokio::time::timeout(limit, Connection::open(uri, Some(&self.tls)))
                .await
                .with_context(|| format!("{name} does not answer"))??;
            Ok((connection, name.clone()))
        })
    }

    fn meaning(&self, error: &str) -> ErrorMeaning {
        meaning(error)
    }
}

impl Target for ComposeCluster {
    fn names(&self, role: Role) -> Vec<String> {
        names(role)
    }

    fn can(&self, ability: Ability) -> bool {
        matches!(ability, Ability::HandOver | Ability::Isolate)
    }

    fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.note_restarts(name);
        // Docker refuses to kill what does not run.
        if self.inspect(name, "{{.State.Running}}")? == "true" {
            docker(&["kill", &self.container(name)?])?;
        }
        Ok(())
    }

    fn stop(&self, name: &str) -> anyhow::Result<bool> {
        self.note_restarts(name);
        docker(&["stop", "-t", STOP_SECONDS, &self.container(name)?])?;
        self.state().stopped.insert(name.to_owned());
        Ok(self.inspect(name, "{{.State.ExitCode}}")? == "0")
    }

    fn start(&self, name: &str) -> anyhow::Result<()> {
        if !self.state().stopped.remove(name) {
            return docker(&["start", &self.container(name)?]).map(drop);
        }
        let image = {
            let mut state = self.state();
            let image = state.image_of.entry(name.to_owned()).or_default();
            *image = 1 - *image;
            *image
        };
        self.compose(image, &["up", "-d", "--no-deps", name]).map(drop)
    }

    fn pause(&self, name: &str) -> anyhow::Result<()> {
        docker(&["pause", &self.container(name)?]).map(drop)
    }

    fn resume(&self, name: &str) -> anyhow::Result<()> {
        // Docker refuses to resume what is not paused; nothing is to be done then.
        if self.inspect(name, "{{.State.Paused}}")? == "true" {
            docker(&["unpause", &self.container(name)?])?;
        }
        Ok(())
    }

    fn set_links(&self, faults: &BTreeSet<LinkFault>) -> anyhow::Result<()> {
        let all = all_names();
        let is_cut = |from: &String, to: &String| {
            faults.contains(&LinkFault::Drop { from: from.clone(), to: to.clone() })
        };
        let alone = |name: &String| {
            let mut others = all.iter().filter(|other| *other != name);
            others.all(|other| is_cut(name, other) && is_cut(other, name))
        };
        let wanted: BTreeSet<String> = all.iter().filter(|name| alone(name)).cloned().collect();
        let expected =
            2 * wanted.len() * (all.len() - 1) - wanted.len() * wanted.len().saturating_sub(1);
        ensure!(faults.len() == expected, "Docker cuts a container off from all others or none");
        let mut state = self.state();
        for name in wanted.difference(&state.isolated) {
            self.isolate(name)?;
        }
        for name in state.isolated.difference(&wanted) {
            self.join(name)?;
        }
        state.isolated = wanted;
        Ok(())
    }

    fn inject(&self, name: &str, faults: &str) -> anyhow::Result<()> {
        ensure!(faults.is_empty(), "{name}: the image has no injected faults");
        Ok(())
    }

    fn primary(&self, shard: u32) -> anyhow::Result<String> {
        let topology = self.status()?.topology.context("a topology")?;
        let shard = topology.shards.iter().find(|info| info.id == shard).context("a shard")?;
        let node = topology.nodes.iter().find(|node| node.id == shard.primary_node);
        let address = &node.context("a shard with a primary")?.link_addr;
        Ok(address.split(':').next().unwrap_or_default().to_owned())
    }

    fn shards(&self) -> u32 {
        self.options.shards
    }

    fn hand_over(&self, shard: u32) -> anyhow::Result<()> {
        self.ask(move |access| {
            Box::pin(async move { access.failover(shard, 0).await.map(|_report| ()) })
        })
    }

    fn restart_replica(&self, shard: u32, node: &str) -> anyhow::Result<()> {
        let topology = self.status()?.topology.context("a topology")?;
        let address = format!("{node}:");
        let found = topology.nodes.iter().find(|info| info.link_addr.starts_with(&address));
        let node = found.context("a registered node")?.id;
        self.ask(move |access| Box::pin(async move { access.restart_replica(shard, node).await }))
    }

    fn ailment(&self) -> Option<String> {
        match self.status() {
            Ok(status) => unhealthy(&status, REPLICAS),
            Err(error) => Some(format!("{error:#}")),
        }
    }
}
