//! The life of a sentinel process: check, bind, load, serve, end.
//!
//! Threads: the calling one serves gRPC, metrics and the peers and runs the control and caretaker
//! tasks; one thread owns the metadata group; one thread watches the nodes.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use holdfast_consensus::log::engine::{RaftEngineOptions, RaftEngineStore};
use holdfast_consensus::{durable, faults};
use holdfast_proto::settings::Hex;
use holdfast_proto::v1::sentinel_server::SentinelServer;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;

use crate::config::Config;
use crate::control::Control;
use crate::driver::{Driver, Membership};
use crate::group::{INPUTS_MAX, Input, MetadataGroup, Published};
use crate::service::Service;
use crate::shared::Sentinel;
use crate::sight::{Identity, Sight, watch_nodes};
use crate::snapshots::Snapshots;
use crate::{caretaker, metrics, peers};

/// Opinions and answers that may wait for the control task.
const TOLD_MAX: usize = 1024;

const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a sentinel until the process is told to end (SIGTERM, SIGINT).
pub fn run(config: Config) -> anyhow::Result<()> {
    run_until(config, async {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut int)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return tracing::error!("signals cannot be watched");
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Runs a sentinel on this thread until `stop` is ready.
pub fn run_until(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let secret = config.load_secret()?;
    let _lock = open_data_dir(&config)?;
    faults::start(&config.data_dir).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config, secret, stop))
}

async fn serve(
    config: Config,
    secret: [u8; 32],
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let api = bind(config.api_listen, "api-listen").await?;
    let peer = bind(config.peer_listen, "peer-listen").await?.into_std()?;
    let metrics = match config.metrics_listen {
        Some(addr) => Some(bind(addr, "metrics-listen").await?),
        None => None,
    };
    let (inputs, inputs_received) = crossbeam_channel::bounded(INPUTS_MAX);
    let (published, published_receiver) = watch::channel(Published::default());
    let (transport, send) = peers::start(&config, secret, peer, inputs.clone())?;
    let membership =
        Membership { own: config.id, members: config.members.iter().map(|m| m.id).collect() };
    let store = RaftEngineStore::open(&config.data_dir.join("log"), &log_options())
        .context("open the log")?;
    let snapshots = Snapshots::new(&config.data_dir);
    let driver = Driver::open(&membership, store, snapshots, send, published)?;
    let driver = thread::Builder::new()
        .name("metadata".to_owned())
        .spawn(move || driver.run(&inputs_received))?;

    let sight = Arc::new(Sight::new());
    let watcher = spawn_watcher(&config, secret, &sight, published_receiver.clone())?;
    let group = MetadataGroup::new(inputs.clone(), published_receiver);
    let (told, told_received) = mpsc::channel(TOLD_MAX);
    let listening = (config.api_listen, config.peer_listen, config.metrics_listen);
    let sentinel = Arc::new(Sentinel::new(config, secret, group, sight, told));
    tokio::spawn(Control::new(Arc::clone(&sentinel), told_received).run());
    tokio::spawn(caretaker::run(Arc::clone(&sentinel)));
    if let Some(listener) = metrics {
        tokio::spawn(metrics::serve(Arc::clone(&sentinel), listener));
    }
    tracing::info!(
        sentinel = sentinel.config.id,
        api = %listening.0,
        peer = %listening.1,
        metrics = ?listening.2,
        "sentinel listens"
    );
    let server = tonic::transport::Server::builder().tcp_nodelay(true).serve_with_incoming(
        SentinelServer::new(Service::new(sentinel)),
        TcpListenerStream::new(api),
    );
    tokio::select! {
        served = server => served.context("serve the api")?,
        () = stop => tracing::info!("sentinel ends"),
    }
    // The queue is full only if the thread hangs; then it is left behind.
    if inputs.send_timeout(Input::Stop, STOP_TIMEOUT).is_err() {
        return Ok(());
    }
    let _ = driver.join();
    drop(transport);
    let _ = watcher.join();
    Ok(())
}

/// The metadata of a large cluster change a few thousand times a day, some 200 bytes each.
fn log_options() -> RaftEngineOptions {
    RaftEngineOptions { file_bytes: 4 << 20, purge_bytes: 16 << 20 }
}

fn spawn_watcher(
    config: &Config,
    secret: [u8; 32],
    sight: &Arc<Sight>,
    published: watch::Receiver<Published>,
) -> anyhow::Result<thread::JoinHandle<()>> {
    let identity = Identity {
        sentinel: config.id,
        cluster_id: Bytes::copy_from_slice(&config.cluster_id.0),
        secret: Bytes::copy_from_slice(&secret),
    };
    let sight = Arc::clone(sight);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watch = move || runtime.block_on(watch_nodes(sight, identity, published));
    Ok(thread::Builder::new().name("heartbeats".to_owned()).spawn(watch)?)
}

async fn bind(addr: std::net::SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("{key}: bind {addr}"))
}

/// Whose data directory this is.
#[derive(Serialize, Deserialize)]
struct Owner {
    cluster_id: Hex<16>,
    sentinel: u64,
}

/// Makes the directory if needed, checks that it is ours, and locks it against a second process.
fn open_data_dir(config: &Config) -> anyhow::Result<File> {
    let dir = &config.data_dir;
    let named = || format!("data-dir {}", dir.display());
    fs::create_dir_all(dir).with_context(named)?;
    let lock = File::create(dir.join("lock")).with_context(named)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("{} is used by another process", dir.display()))?;
    check_owner(config, &dir.join("identity.json"))?;
    Ok(lock)
}

fn check_owner(config: &Config, path: &Path) -> anyhow::Result<()> {
    let own = Owner { cluster_id: config.cluster_id, sentinel: config.id };
    if !path.exists() {
        let text = serde_json::to_vec_pretty(&own)?;
        return durable::replace(path, &text).with_context(|| path.display().to_string());
    }
    let owner: Owner = fs::read(path)
        .map_err(anyhow::Error::from)
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
        .with_context(|| format!("{} cannot be read", path.display()))?;
    if owner.cluster_id != own.cluster_id {
        bail!("{} belongs to another cluster", config.data_dir.display());
    }
    if owner.sentinel != own.sentinel {
        let (dir, theirs) = (config.data_dir.display(), owner.sentinel);
        bail!("{dir} belongs to sentinel {theirs}, this one is {}", own.sentinel);
    }
    Ok(())
}
