//! One worker: a thread with its own runtime, listeners, links and core.
//!
//! All its tasks run on its thread and share the core through a `RefCell`; no borrow lives across
//! an await. After each call into the core, [`Shell::settle`] wakes the tasks whose buffers got
//! bytes; they run after the tasks that are ready already, so what arrives together leaves
//! together, in one write per connection.
//!
//! Hot path: nothing here may block or log per command.

use crate::client_io;
use crate::clock;
use crate::core::{
    Action, Change, ChangeError, CoreConfig, OutageReport, Redirected, Stats, WorkerCore,
};
use crate::link_io;
use crate::tls::TlsSettings;
use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use holdfast_proto::ids::{ShardId, Term, WorkerId};
use holdfast_proto::v1;
use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;

/// What the control thread tells a worker.
pub(crate) enum ToWorker {
    Topology(Arc<v1::Topology>),
    NewSession(WorkerId),
    Stats(oneshot::Sender<Stats>),
    /// A command of another worker's client that concerns the clients of all.
    Peer {
        request: Bytes,
        reply: oneshot::Sender<Bytes>,
    },
    /// Clients of that worker watch commands, or do so no more.
    Monitoring {
        worker: usize,
        on: bool,
    },
    /// A line for clients that watch commands.
    Monitored(Bytes),
    /// About clients that track for clients of other workers.
    Redirected(Redirected),
    /// What came of [`FromWorker::Propose`].
    Proposed {
        ask: usize,
        result: Result<u64, ChangeError>,
    },
    /// Accept nobody any more; end when no client has a command running.
    Drain,
}

/// What a worker tells the control thread.
pub(crate) enum FromWorker {
    RenewSession {
        worker: usize,
    },
    /// The other proxies are to carry out a command and bring back their workers' answers.
    AskProxies {
        request: Bytes,
        reply: oneshot::Sender<Vec<Bytes>>,
    },
    /// A client changes the cluster's metadata.
    Propose {
        worker: usize,
        ask: usize,
        change: Change,
    },
    OutageOver {
        shard: ShardId,
        term: Term,
        outage: OutageReport,
        unix_ms: u64,
    },
}

/// What a worker is started with.
pub(crate) struct WorkerStart {
    pub(crate) index: usize,
    pub(crate) core: CoreConfig,
    pub(crate) id: WorkerId,
    pub(crate) topology: Arc<v1::Topology>,
    pub(crate) tls_listener: Option<TcpListener>,
    pub(crate) plain_listener: Option<TcpListener>,
    pub(crate) tls: Option<TlsSettings>,
    pub(crate) drain: Duration,
    /// The other workers.
    pub(crate) peers: Vec<mpsc::UnboundedSender<ToWorker>>,
    /// What every worker counted lately, by index.
    pub(crate) board: StatsBoard,
    pub(crate) inbox: mpsc::UnboundedReceiver<ToWorker>,
    pub(crate) outbox: mpsc::UnboundedSender<FromWorker>,
}

/// Where workers leave their numbers for each other, once a second.
pub(crate) type StatsBoard = Arc<Mutex<Vec<Stats>>>;

/// What the tasks of a worker share.
pub(crate) struct Shell {
    index: usize,
    pub(crate) core: RefCell<WorkerCore>,
    /// Buffer that all clients' bytes are read into; pieces are cut off as they fill.
    pub(crate) pool: RefCell<BytesMut>,
    /// Tasks by client index.
    client_wakers: RefCell<Vec<Option<Waker>>>,
    /// Tasks by link.
    link_wakers: RefCell<Vec<Option<Waker>>>,
    /// Links whose connection is to be dropped.
    pub(crate) link_closes: RefCell<Vec<bool>>,
    peers: Vec<mpsc::UnboundedSender<ToWorker>>,
    board: StatsBoard,
    tick: Notify,
    dirty_clients: RefCell<Vec<u32>>,
    dirty_links: RefCell<Vec<usize>>,
    actions: RefCell<Vec<Action>>,
    outbox: mpsc::UnboundedSender<FromWorker>,
    pub(crate) handshakes: Cell<usize>,
    pub(crate) draining: Cell<bool>,
}

/// Runs a worker until it is drained.
pub(crate) fn run(start: WorkerStart) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // Look at sockets after this many tasks: small, so that a burst of ready clients does not
        // delay answers; large enough to gather a batch.
        .event_interval(61)
        .build()
        .context("starting a worker's runtime")?;
    LocalSet::new().block_on(&runtime, serve(start))
}

async fn serve(start: WorkerStart) -> anyhow::Result<()> {
    let mut inbox = start.inbox;
    let core = WorkerCore::new(start.core, start.id, start.topology, clock::now());
    let shell = Rc::new(Shell {
        index: start.index,
        core: RefCell::new(core),
        pool: RefCell::new(BytesMut::new()),
        client_wakers: RefCell::default(),
        link_wakers: RefCell::default(),
        link_closes: RefCell::default(),
        peers: start.peers,
        board: start.board,
        tick: Notify::new(),
        dirty_clients: RefCell::default(),
        dirty_links: RefCell::default(),
        actions: RefCell::default(),
        outbox: start.outbox,
        handshakes: Cell::new(0),
        draining: Cell::new(false),
    });
    shell.settle(None);
    let mut listeners = Vec::new();
    for (listener, tls) in [(start.tls_listener, start.tls), (start.plain_listener, None)] {
        if let Some(listener) = listener {
            let listener =
                tokio::net::TcpListener::from_std(listener).context("registering a listener")?;
            let task = client_io::accept(shell.clone(), listener, tls);
            listeners.push(tokio::task::spawn_local(task));
        }
    }
    tokio::task::spawn_local(tick(shell.clone()));
    tokio::task::spawn_local(exchange_stats(shell.clone()));
    let mut monitoring: Vec<usize> = Vec::new();
    while let Some(message) = inbox.recv().await {
        match message {
            ToWorker::Topology(topology) => {
                shell.core.borrow_mut().topology(topology, clock::now());
                shell.settle(None);
            }
            ToWorker::NewSession(worker) => {
                shell.core.borrow_mut().new_session(worker, clock::now());
                shell.settle(None);
            }
            ToWorker::Stats(reply) => {
                let _ = reply.send(shell.core.borrow_mut().stats().clone());
            }
            ToWorker::Peer { request, reply } => {
                let answer = shell.core.borrow_mut().answer_peer(&request, clock::now());
                let _ = reply.send(answer);
                shell.settle(None);
            }
            ToWorker::Monitoring { worker, on } => {
                monitoring.retain(|known| *known != worker);
                if on {
                    monitoring.push(worker);
                }
                shell.core.borrow_mut().set_monitors_elsewhere(!monitoring.is_empty());
            }
            ToWorker::Monitored(line) => {
                shell.core.borrow_mut().monitored(&line);
                shell.settle(None);
            }
            ToWorker::Redirected(message) => {
                shell.core.borrow_mut().redirected(message, clock::now());
                shell.settle(None);
            }
            ToWorker::Proposed { ask, result } => {
                shell.core.borrow_mut().proposed(ask, result, clock::now());
                shell.settle(None);
            }
            ToWorker::Drain => break,
        }
    }
    for listener in listeners {
        listener.abort();
    }
    shell.drain(start.drain).await;
    Ok(())
}

async fn tick(shell: Rc<Shell>) {
    loop {
        let interval = shell.core.borrow().tick_interval();
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shell.tick.notified() => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        shell.core.borrow_mut().tick(clock::now());
        shell.settle(None);
    }
}

/// Leaves this worker's numbers for the others and takes theirs.
async fn exchange_stats(shell: Rc<Shell>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        shell.core.borrow_mut().set_usage(clock::process_usage());
        if shell.peers.is_empty() {
            continue;
        }
        let own = shell.core.borrow_mut().stats().clone();
        let mut others = Stats::default();
        {
            let mut board = shell.board.lock().unwrap_or_else(PoisonError::into_inner);
            if board.len() <= shell.index {
                board.resize_with(shell.index + 1, Stats::default);
            }
            board[shell.index] = own;
            for (index, stats) in board.iter().enumerate() {
                if index != shell.index {
                    others.merge(stats);
                }
            }
        }
        shell.core.borrow_mut().set_peer_stats(others);
    }
}

/// Passes a command on to the other workers of all proxies and brings back their answers.
async fn ask_peers(shell: Rc<Shell>, ask: usize, request: Bytes) {
    let mut answers = Vec::with_capacity(shell.peers.len());
    let mut waiting = Vec::with_capacity(shell.peers.len());
    for peer in &shell.peers {
        let (reply, answer) = oneshot::channel();
        // A worker that has been drained has no clients.
        let _ = peer.send(ToWorker::Peer { request: request.clone(), reply });
        waiting.push(answer);
    }
    let (reply, others) = oneshot::channel();
    let _ = shell.outbox.send(FromWorker::AskProxies { request, reply });
    for answer in waiting {
        if let Ok(answer) = answer.await {
            answers.push(answer);
        }
    }
    answers.extend(others.await.unwrap_or_default());
    shell.core.borrow_mut().peers_answered(ask, &answers, clock::now());
    shell.settle(None);
}

impl Shell {
    /// Wakes whoever has something to write and carries out what the core asks for. `running` is
    /// the client whose task this is called from: it looks at its own output anyway.
    pub(crate) fn settle(self: &Rc<Self>, running: Option<u32>) {
        let mut clients = self.dirty_clients.borrow_mut();
        let mut links = self.dirty_links.borrow_mut();
        let mut actions = self.actions.borrow_mut();
        let hurry = {
            let mut core = self.core.borrow_mut();
            core.take_dirty(&mut clients, &mut links, &mut actions);
            core.tick_interval() < Duration::from_millis(10)
        };
        let wakers = self.client_wakers.borrow();
        for index in clients.drain(..) {
            if running != Some(index)
                && let Some(Some(waker)) = wakers.get(index as usize)
            {
                waker.wake_by_ref();
            }
        }
        for link in links.drain(..) {
            self.wake_link(link);
        }
        if hurry {
            self.tick.notify_one();
        }
        for action in actions.drain(..) {
            self.perform(action);
        }
    }

    fn perform(self: &Rc<Self>, action: Action) {
        match action {
            Action::OpenLink { link } => {
                tokio::task::spawn_local(link_io::run(self.clone(), link));
            }
            Action::CloseLink { link } => {
                let mut closes = self.link_closes.borrow_mut();
                if closes.len() <= link {
                    closes.resize(link + 1, false);
                }
                closes[link] = true;
                drop(closes);
                self.wake_link(link);
            }
            Action::AskPeers { ask, request } => {
                tokio::task::spawn_local(ask_peers(self.clone(), ask, request));
            }
            Action::Monitoring { on } => {
                for peer in &self.peers {
                    let _ = peer.send(ToWorker::Monitoring { worker: self.index, on });
                }
            }
            Action::Monitored { line } => {
                for peer in &self.peers {
                    let _ = peer.send(ToWorker::Monitored(line.clone()));
                }
            }
            Action::Redirect(message) => {
                for peer in &self.peers {
                    let _ = peer.send(ToWorker::Redirected(message.clone()));
                }
            }
            Action::Propose { ask, change } => {
                let _ = self.outbox.send(FromWorker::Propose { worker: self.index, ask, change });
            }
            Action::RenewSession => {
                let _ = self.outbox.send(FromWorker::RenewSession { worker: self.index });
            }
            Action::OutageOver { shard, term, outage } => {
                let unix_ms = clock::now().unix_us / 1000;
                let _ = self.outbox.send(FromWorker::OutageOver { shard, term, outage, unix_ms });
            }
        }
    }

    /// Takes a pending order to drop a link's connection.
    pub(crate) fn take_link_close(&self, link: usize) -> bool {
        self.link_closes.borrow_mut().get_mut(link).is_some_and(std::mem::take)
    }

    pub(crate) fn set_client_waker(&self, index: u32, waker: Option<&Waker>) {
        set_waker(&self.client_wakers, index as usize, waker);
    }

    pub(crate) fn set_link_waker(&self, link: usize, waker: Option<&Waker>) {
        set_waker(&self.link_wakers, link, waker);
    }

    fn wake_link(&self, link: usize) {
        if let Some(Some(waker)) = self.link_wakers.borrow().get(link) {
            waker.wake_by_ref();
        }
    }

    /// Lets running commands finish: clients without one are closed at once.
    async fn drain(self: &Rc<Self>, grace: Duration) {
        self.draining.set(true);
        let deadline = tokio::time::Instant::now() + grace;
        while self.core.borrow_mut().close_idle_for_drain() > 0
            && tokio::time::Instant::now() < deadline
        {
            self.settle(None);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.settle(None);
        // The last replies are on their way to the sockets.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn set_waker(wakers: &RefCell<Vec<Option<Waker>>>, index: usize, waker: Option<&Waker>) {
    let mut wakers = wakers.borrow_mut();
    if wakers.len() <= index {
        wakers.resize(index + 1, None);
    }
    match (&mut wakers[index], waker) {
        (Some(old), Some(new)) => old.clone_from(new),
        (slot, new) => *slot = new.cloned(),
    }
}
