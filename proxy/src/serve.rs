//! The life of the process: bind, register, serve, drain.

use crate::admin::Admin;
use crate::config::Config;
use crate::control::{self, Control, Workers};
use crate::core::CoreConfig;
use crate::tls::{TlsFiles, TlsSettings};
use crate::worker::{self, ToWorker, WorkerStart};
use anyhow::Context;
use holdfast_proto::ids::WorkerId;
use holdfast_proto::sentinel_client::SentinelClient;
use holdfast_proto::v1;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Connections that may wait to be accepted by one worker.
const BACKLOG: i32 = 4096;

/// Runs a proxy until SIGTERM or SIGINT.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    runtime.block_on(serve(config))
}

/// The sockets that clients connect to, one of each per worker.
struct Listeners {
    tls: Vec<TcpListener>,
    plain: Vec<TcpListener>,
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let secret = config.load_secret()?;
    let worker_count = config.worker_count();
    let files = tls_files(&config);
    let tls = files.as_ref().map(TlsSettings::load).transpose()?;
    let listeners = Listeners {
        tls: bind_all("listen", config.listen, worker_count)?,
        plain: bind_all("plain-listen", config.plain_listen, worker_count)?,
    };
    let admin_listener = tokio::net::TcpListener::bind(config.admin_listen)
        .await
        .with_context(|| format!("admin-listen: bind {}", config.admin_listen))?;
    let bound = bound_addr(&listeners)?;
    let (announce_host, announce_port) = config.announced(bound);
    let client_addr = format!("{announce_host}:{announce_port}");
    let admin_addr = admin_listener.local_addr()?.to_string();
    tracing::info!(
        tls = ?config.listen, plain = ?config.plain_listen, admin = %admin_addr,
        announced = %client_addr, workers = worker_count, "proxy listens"
    );
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let cluster_id = config.cluster_id.0;
    let sentinels =
        SentinelClient::new(cluster_id.to_vec(), secret.to_vec(), config.sentinels.clone());
    let registration = tokio::select! {
        reply = control::register(&sentinels, &client_addr, &admin_addr, worker_count as u32) => reply,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let topology = registration.topology.clone().unwrap_or_default();
    tracing::info!(proxy = registration.proxy_id, version = topology.version, "registered");

    let core = CoreConfig {
        cluster_id,
        secret,
        proxy_id: registration.proxy_id,
        worker_index: 0,
        worker_count: worker_count as u32,
        announce_host,
        announce_port,
        tls_port: port_of(&listeners.tls),
        plain_port: port_of(&listeners.plain),
        clients_max: config.maxclients.div_ceil(worker_count),
        clients_max_shown: config.maxclients,
        hold_deadline_us: config.hold_deadline_ms * 1000,
        held_bytes_max: config.held_bytes_max,
        seed: 0,
        process_id: std::process::id(),
    };
    let (outbox, inbox) = mpsc::unbounded_channel();
    let drain = Duration::from_millis(config.drain_ms);
    let (workers, threads) = start_workers(
        &core,
        &registration.workers,
        &topology,
        listeners,
        tls.clone(),
        drain,
        &outbox,
    )?;
    let ready = Arc::new(AtomicBool::new(true));
    let admin = Admin {
        workers: workers.clone(),
        maxclients: config.maxclients,
        token: crate::siblings::token(&secret),
        ready: ready.clone(),
    };
    tokio::spawn(admin.serve(admin_listener));
    if let (Some(files), Some(tls)) = (files, tls) {
        tokio::spawn(control::watch_certificates(files, tls));
    }
    let control = Control {
        topology: sentinels.watch_topology(Some(topology)),
        sentinels,
        workers: workers.clone(),
        proxy_id: registration.proxy_id,
        client_addr,
        admin_addr,
        token: crate::siblings::token(&secret),
        inbox,
    };
    tokio::spawn(control.run());

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining");
    ready.store(false, Ordering::Relaxed);
    workers.drain();
    let joined = tokio::task::spawn_blocking(move || join_all(threads));
    joined.await.context("waiting for the workers")?
}

fn tls_files(config: &Config) -> Option<TlsFiles> {
    config.listen?;
    Some(TlsFiles {
        cert: config.tls_cert_file.clone()?,
        key: config.tls_key_file.clone()?,
        client_ca: config.tls_client_ca_file.clone(),
    })
}

fn bound_addr(listeners: &Listeners) -> anyhow::Result<SocketAddr> {
    let listener = listeners.tls.first().or_else(|| listeners.plain.first());
    let listener = listener.context("no address to listen on")?;
    Ok(listener.local_addr()?)
}

fn port_of(listeners: &[TcpListener]) -> u16 {
    listeners.first().and_then(|listener| listener.local_addr().ok()).map_or(0, |addr| addr.port())
}

/// One socket per worker on the same port; the kernel spreads connections over them.
fn bind_all(key: &str, addr: Option<SocketAddr>, count: usize) -> anyhow::Result<Vec<TcpListener>> {
    let Some(mut addr) = addr else { return Ok(Vec::new()) };
    // Sockets that share a port would share it with another proxy's too.
    drop(TcpListener::bind(addr).with_context(|| format!("{key}: bind {addr}"))?);
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = bind(addr).with_context(|| format!("{key}: bind {addr}"))?;
        // Port 0 was chosen by the kernel: the others take the same.
        addr = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn bind(addr: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

type Threads = Vec<JoinHandle<anyhow::Result<()>>>;

fn start_workers(
    core: &CoreConfig,
    ids: &[u64],
    topology: &v1::Topology,
    listeners: Listeners,
    tls: Option<TlsSettings>,
    drain: Duration,
    outbox: &mpsc::UnboundedSender<worker::FromWorker>,
) -> anyhow::Result<(Workers, Threads)> {
    let topology = Arc::new(topology.clone());
    let mut tls_listeners = listeners.tls.into_iter();
    let mut plain_listeners = listeners.plain.into_iter();
    let (senders, inboxes): (Vec<_>, Vec<_>) =
        (0..core.worker_count).map(|_| mpsc::unbounded_channel::<ToWorker>()).unzip();
    let board = worker::StatsBoard::default();
    let mut threads = Vec::new();
    for (index, (&id, inbox)) in ids.iter().zip(inboxes).enumerate() {
        let mut peers = senders.clone();
        peers.remove(index);
        let start = WorkerStart {
            index,
            core: CoreConfig { worker_index: index as u32, seed: id, ..core.clone() },
            id: WorkerId(id),
            topology: topology.clone(),
            tls_listener: tls_listeners.next(),
            plain_listener: plain_listeners.next(),
            tls: tls.clone(),
            drain,
            peers,
            board: board.clone(),
            inbox,
            outbox: outbox.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("proxy-{index}"))
            .spawn(move || worker::run(start))
            .context("starting a worker thread")?;
        threads.push(thread);
    }
    Ok((Workers::new(senders), threads))
}

fn join_all(threads: Threads) -> anyhow::Result<()> {
    for thread in threads {
        match thread.join() {
            Ok(result) => result?,
            Err(_) => anyhow::bail!("a worker panicked"),
        }
    }
    Ok(())
}
