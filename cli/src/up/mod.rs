//! `holdfast up`: a whole cluster on this machine, each process its own, restarted when it dies.
//!
//! [`layout`] decides the shape and keeps it, [`crate::deployment`] writes certificates and
//! configuration files, [`supervisor`] runs the processes; this file is the life of the command, from
//! the first check to the clean stop.

mod layout;
mod status_line;
mod supervisor;

use crate::cluster::{ClusterAccess, ClusterFile};
use crate::deployment::certificates::{self, CA_CERT, SERVER_CERT};
use crate::deployment::{configs, files};
use anyhow::{Context, bail};
use layout::Layout;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use supervisor::Process;

/// Start a whole cluster on this machine and print its URI.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct UpArgs {
    /// Where the cluster keeps everything. A second `up` with the same folder continues with it.
    #[arg(long, default_value = "holdfast-data")]
    pub(crate) data_dir: PathBuf,
    /// How many shards [default: 2].
    #[arg(long)]
    pub(crate) shards: Option<u32>,
    /// How many copies of each shard's data [default: 3].
    #[arg(long)]
    pub(crate) replicas: Option<u32>,
    /// How many storage nodes [default: as many as replicas].
    #[arg(long)]
    pub(crate) nodes: Option<u32>,
    /// How many sentinels: 1, 3 or 5 [default: 3].
    #[arg(long)]
    pub(crate) sentinels: Option<u32>,
    /// How many proxies, on ports counting up from --port [default: 1].
    #[arg(long)]
    pub(crate) proxies: Option<u32>,
    /// How many logical databases [default: 16].
    #[arg(long)]
    pub(crate) databases: Option<u32>,
    /// none, rdb, aof-everysec or aof-always [default: aof-everysec].
    #[arg(long)]
    pub(crate) persistence: Option<String>,
    /// The TLS port that clients connect to.
    #[arg(long, default_value_t = 6379)]
    pub(crate) port: u16,
    /// Also listen without TLS on this port.
    #[arg(long)]
    pub(crate) plain_port: Option<u16>,
    /// First port tried for the cluster's own connections.
    #[arg(long, default_value_t = 26_400)]
    pub(crate) internal_port: u16,
    /// The password of user `default` [default: a generated one].
    #[arg(long)]
    pub(crate) password: Option<String>,
    /// Further names or addresses that the proxies' certificate is good for.
    #[arg(long)]
    pub(crate) certificate_name: Vec<String>,
    /// Address that the proxies listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) bind: String,
    /// Do not redraw a status line.
    #[arg(long)]
    pub(crate) no_status: bool,
}

/// Numbers of everything, checked.
pub(crate) struct Shape {
    pub(crate) shards: u32,
    pub(crate) replicas: u32,
    pub(crate) nodes: u32,
    pub(crate) sentinels: u32,
    pub(crate) proxies: u32,
}

impl UpArgs {
    pub(crate) fn shape(&self) -> anyhow::Result<Shape> {
        let replicas = self.replicas.unwrap_or(3);
        let shape = Shape {
            shards: self.shards.unwrap_or(2),
            replicas,
            nodes: self.nodes.unwrap_or(replicas),
            sentinels: self.sentinels.unwrap_or(3),
            proxies: self.proxies.unwrap_or(1),
        };
        if !(1..=64).contains(&shape.shards) {
            bail!("--shards must be 1 to 64");
        }
        if !(1..=7).contains(&shape.replicas) {
            bail!("--replicas must be 1 to 7");
        }
        if shape.nodes < shape.replicas || shape.nodes > 64 {
            bail!("--nodes must be --replicas ({}) to 64", shape.replicas);
        }
        if ![1, 3, 5].contains(&shape.sentinels) {
            bail!("--sentinels must be 1, 3 or 5");
        }
        if !(1..=64).contains(&shape.proxies) {
            bail!("--proxies must be 1 to 64");
        }
        if let Some(mode) = &self.persistence
            && !["none", "rdb", "aof-everysec", "aof-always"].contains(&mode.as_str())
        {
            bail!("--persistence must be none, rdb, aof-everysec or aof-always");
        }
        Ok(shape)
    }
}

pub(crate) fn run(args: &UpArgs) -> anyhow::Result<()> {
    args.shape()?;
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("create {}", args.data_dir.display()))?;
    let data_dir = args.data_dir.canonicalize().context("find the data folder")?;
    let args = UpArgs { data_dir: data_dir.clone(), ..args.clone() };
    let _lock = lock(&data_dir)?;
    let layout = Layout::load_or_create(&args)?;
    for port in layout.client_ports() {
        if !layout::is_free(port) {
            bail!("port {port} is in use; choose another with --port");
        }
    }
    let tls = data_dir.join("tls");
    if !tls.join(SERVER_CERT).exists() {
        std::fs::create_dir_all(&tls)?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.extend(args.certificate_name.iter().cloned());
        certificates::create(&tls, &names)?;
    }
    let logs = data_dir.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
    let files = configs::write(&data_dir.join("conf"), &layout.deployment(&args)?)?;
    write_cluster_file(&data_dir, &layout)?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = StopSignal::new()?;
        let mut processes = Vec::new();
        for file in &files {
            let log = logs.join(format!("{}.log", file.name));
            processes.push(Process::start(&file.name, file.role, &file.path, &log)?);
        }
        let result = live(&args, &layout, &mut processes, &mut stop).await;
        shut_down(&mut processes);
        result
    })
}

/// From the start of the processes until somebody asks to stop.
async fn live(
    args: &UpArgs,
    layout: &Layout,
    processes: &mut [Process],
    stop: &mut StopSignal,
) -> anyhow::Result<()> {
    let access = ClusterAccess::from_file(&args.data_dir.join(ClusterFile::NAME))?;
    let mut ready = false;
    let mut status = status_line::StatusLine::new(!args.no_status);
    let started = Instant::now();
    let mut next_status = Instant::now();
    loop {
        for process in processes.iter_mut() {
            if let Some(death) = process.supervise(Instant::now())? {
                status.death(&death);
                if !ready && process.restarts >= 5 {
                    bail!(
                        "{} does not start; see {}",
                        death.name,
                        args.data_dir.join("logs").display()
                    );
                }
            }
        }
        if !ready && access.is_serving().await {
            ready = true;
            announce(args, layout, started.elapsed());
        }
        if ready && Instant::now() >= next_status {
            next_status = Instant::now() + Duration::from_secs(1);
            status.update(&access, processes).await;
        }
        let pause = if ready { Duration::from_millis(100) } else { Duration::from_millis(30) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.wait() => {
                status.say("stopping");
                return Ok(());
            }
        }
    }
}

/// SIGINT or SIGTERM.
struct StopSignal {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignal {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Proxies first, so that no client sees a half-stopped cluster; sentinels last, so that they do
/// not take a stopping node for a dead one.
fn shut_down(processes: &mut [Process]) {
    for role in ["proxy", "node", "sentinel"] {
        let of_role = |process: &&mut Process| process.name.starts_with(role);
        for process in processes.iter_mut().filter(of_role) {
            process.terminate();
        }
        for process in processes.iter_mut().filter(of_role) {
            process.wait();
        }
    }
}

/// One `up` per data folder at a time.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another `holdfast up` is running with {}", data_dir.display());
    }
    Ok(file)
}

/// What the operator's commands need to find the cluster.
fn write_cluster_file(data_dir: &Path, layout: &Layout) -> anyhow::Result<()> {
    let file = ClusterFile {
        cluster_id: layout.cluster_id.clone(),
        secret: layout.secret.clone(),
        sentinels: layout.sentinel_addrs(),
        uris: (0..layout.proxies.len()).map(|proxy| layout.uri(proxy)).collect(),
        ca_cert: data_dir.join("tls").join(CA_CERT),
    };
    let text = toml::to_string(&file).context("write the cluster file")?;
    files::write_secret(&data_dir.join(ClusterFile::NAME), text.as_bytes())
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
fn announce(args: &UpArgs, layout: &Layout, took: Duration) {
    let ca = args.data_dir.join("tls").join(CA_CERT);
    let uri = layout.uri(0);
    let port = layout.proxies[0].tls;
    println!(
        "holdfast is up ({} shards x {} replicas on {} nodes, {} sentinels, {} proxies; {:.1} s)\n",
        layout.shards,
        layout.replicas,
        layout.nodes.len(),
        layout.sentinels.len(),
        layout.proxies.len(),
        took.as_secs_f64(),
    );
    println!("  URI        {uri}");
    for proxy in 1..layout.proxies.len() {
        println!("             {}", layout.uri(proxy));
    }
    println!("  REDIS_URL={uri}");
    println!("  CA         {}", ca.display());
    println!(
        "  try        redis-cli --tls --cacert {} -h 127.0.0.1 -p {port} -a {} --no-auth-warning\n",
        ca.display(),
        layout.password,
    );
    println!("Ctrl-C stops the cluster; its data stays in {}.", args.data_dir.display());
}
