//! Proxy workers, their links to the nodes, and the way between clients and proxies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use holdfast_node::sim::Connection;
use holdfast_proto::frame::{AnswerRef, AnswerStatus, RecordHeader, RequestRef, Response};
use holdfast_proto::ids::WorkerId;
use holdfast_proto::v1;
use holdfast_proxy::core::{Action, ClientKey, CoreConfig, Now, WorkerCore};

use super::machine::Clock;
use super::orders::Rpc;
use super::plan::Proc;
use super::world::{Event, World};
use super::{CLUSTER, SECRET};

/// Attempts to connect, as the proxy's shell makes them.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Data that a cut holds back are sent again after this long.
const RETRANSMISSION: Duration = Duration::from_millis(120);
/// A request waits this long for a primary. Shorter than the product's default, so that runs see it.
const HOLD_DEADLINE: Duration = Duration::from_secs(4);

/// A proxy process with one worker.
pub(crate) struct Proxy {
    pub(crate) core: Option<WorkerCore>,
    pub(crate) incarnation: u64,
    pub(crate) paused: bool,
    pub(crate) down: u32,
    pub(crate) clock: Clock,
    pub(crate) links: Vec<ProxyLink>,
    /// Clients by index in the core.
    pub(crate) clients: BTreeMap<u32, (ClientKey, usize)>,
    /// The next tick: when, and the number of that appointment.
    tick: Option<(Duration, u64)>,
    pub(crate) topology: Arc<v1::Topology>,
    pub(crate) proxy_id: u64,
    /// A new worker id was asked for.
    pub(crate) renewing: bool,
}

#[derive(Default)]
pub(crate) struct ProxyLink {
    conn: Option<u64>,
    retry: Duration,
}

/// One connection of a link. It belongs to one process on either side.
pub(crate) struct Conn {
    pub(crate) proxy: usize,
    pub(crate) proxy_inc: u64,
    link: usize,
    pub(crate) node: usize,
    pub(crate) node_inc: u64,
    server: Option<Connection>,
    established: bool,
    broken: bool,
    /// Bytes under way, with their time of arrival.
    to_node: VecDeque<(Duration, Vec<u8>)>,
    to_proxy: VecDeque<(Duration, Vec<u8>)>,
    input: BytesMut,
    worker: WorkerId,
    /// Tags of the writes that were sent.
    writes: BTreeSet<u64>,
}

impl Proxy {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            core: None,
            incarnation: 0,
            paused: false,
            down: 0,
            clock,
            links: Vec::new(),
            clients: BTreeMap::new(),
            tick: None,
            topology: Arc::default(),
            proxy_id: 0,
            renewing: false,
        }
    }

    fn now(&self, now: Duration) -> Now {
        Now { monotonic: self.clock.monotonic(now), unix_us: self.clock.wall_us(now) }
    }
}

impl World {
    pub(crate) fn start_proxy(&mut self, at: usize) {
        if self.sentinels.is_empty() {
            let (worker, topology) = (self.next_worker, Arc::clone(&self.fixed));
            self.next_worker += 1;
            return self.proxy_registered(at, at as u64 + 1, WorkerId(worker), topology);
        }
        self.register_proxy(at);
    }

    /// The proxy has its worker id: it begins to serve.
    pub(crate) fn proxy_registered(
        &mut self,
        at: usize,
        proxy_id: u64,
        worker: WorkerId,
        topology: Arc<v1::Topology>,
    ) {
        let config = CoreConfig {
            cluster_id: CLUSTER,
            secret: SECRET,
            proxy_id,
            worker_index: 0,
            worker_count: 1,
            announce_host: "proxy.example".to_owned(),
            announce_port: 6380,
            tls_port: 6380,
            plain_port: 0,
            clients_max: 100,
            clients_max_shown: 100,
            hold_deadline_us: HOLD_DEADLINE.as_micros() as u64,
            held_bytes_max: 1024 * 1024,
            seed: self.rng.draw(),
            process_id: 1,
        };
        let now = self.now;
        let proxy = &mut self.proxies[at];
        proxy.incarnation += 1;
        proxy.proxy_id = proxy_id;
        proxy.renewing = false;
        proxy.tick = None;
        proxy.links.clear();
        proxy.topology = Arc::clone(&topology);
        let core = WorkerCore::new(config, worker, topology, proxy.now(now));
        proxy.core = Some(core);
        self.note(|| format!("proxy {} starts as {worker}", at + 1));
        self.settle_proxy(at);
    }

    pub(crate) fn kill_proxy(&mut self, at: usize) {
        let proxy = &mut self.proxies[at];
        proxy.core = None;
        proxy.incarnation += 1;
        proxy.paused = false;
        let clients = std::mem::take(&mut proxy.clients);
        self.note(|| format!("proxy {} dies", at + 1));
        for (_, client) in clients.into_values() {
            let session = self.clients.session(client);
            let delay = self.latency();
            self.after(delay, Event::ClientGone { client, session });
        }
        let conns: Vec<u64> =
            self.conns.iter().filter(|(_, c)| c.proxy == at).map(|(id, _)| *id).collect();
        for conn in conns {
            self.break_conn(conn);
        }
    }

    /// A newer topology reaches a proxy.
    pub(crate) fn proxy_topology(&mut self, at: usize, topology: &Arc<v1::Topology>) {
        let now = self.now;
        let proxy = &mut self.proxies[at];
        proxy.topology = Arc::clone(topology);
        let clock = proxy.now(now);
        if let Some(core) = &mut proxy.core {
            core.topology(Arc::clone(topology), clock);
        }
        self.settle_proxy(at);
    }

    /// Carries out what a proxy wants.
    pub(crate) fn settle_proxy(&mut self, at: usize) {
        let now = self.now;
        let proxy = &mut self.proxies[at];
        let inc = proxy.incarnation;
        let Some(core) = &mut proxy.core else { return };
        let (mut clients, mut links, mut actions) = (Vec::new(), Vec::new(), Vec::new());
        core.take_dirty(&mut clients, &mut links, &mut actions);
        let mut outputs = Vec::new();
        for index in clients {
            let Some((key, client)) = proxy.clients.get(&index) else { continue };
            let Some((out, _)) = core.client_output(*key) else { continue };
            let bytes = out.split().to_vec();
            if !bytes.is_empty() {
                core.client_written(*key, bytes.len());
                outputs.push((*client, bytes));
            }
        }
        let hurry = core.tick_interval();
        for (client, bytes) in outputs {
            let session = self.clients.session(client);
            self.clients.send_reply(client, now, bytes.len());
            let at = self.clients.reply_arrives(client, now);
            self.at(at, Event::Reply { client, session, bytes });
        }
        for link in links {
            self.flush_link(at, link);
        }
        for action in actions {
            self.proxy_action(at, inc, action);
        }
        let due = now + self.proxies[at].clock.truly(hurry);
        let proxy = &mut self.proxies[at];
        if proxy.tick.is_none_or(|(at, _)| due < at) {
            self.next_appointment += 1;
            let appointment = self.next_appointment;
            proxy.tick = Some((due, appointment));
            self.at(due, Event::ProxyTick { proxy: at, inc, appointment });
        }
    }

    fn proxy_action(&mut self, at: usize, inc: u64, action: Action) {
        match action {
            Action::OpenLink { link } => {
                let links = &mut self.proxies[at].links;
                links.resize_with(links.len().max(link + 1), ProxyLink::default);
                links[link].retry = RETRY_FIRST;
                let delay = Duration::from_micros(self.rng.below(1000));
                self.after(delay, Event::Connect { proxy: at, inc, link });
            }
            Action::CloseLink { link } => {
                let conn = self.proxies[at].links.get(link).and_then(|l| l.conn);
                if let Some(conn) = conn {
                    self.break_conn(conn);
                }
            }
            Action::RenewSession => self.renew_session(at),
            // No client here asks for what these bring.
            Action::AskPeers { .. }
            | Action::Monitoring { .. }
            | Action::Monitored { .. }
            | Action::Propose { .. }
            // There is one worker.
            | Action::Redirect(_)
            | Action::OutageOver { .. } => {}
        }
    }

    pub(crate) fn proxy_tick(&mut self, at: usize, appointment: u64) {
        let now = self.now;
        let proxy = &mut self.proxies[at];
        if proxy.tick.is_none_or(|(_, number)| number != appointment) {
            return;
        }
        proxy.tick = None;
        let clock = proxy.now(now);
        if let Some(core) = &mut proxy.core {
            core.tick(clock);
        }
        self.settle_proxy(at);
    }

    /// A new worker id for a proxy whose session expired.
    pub(crate) fn session_renewed(&mut self, at: usize, worker: WorkerId) {
        let now = self.now;
        let proxy = &mut self.proxies[at];
        proxy.renewing = false;
        let clock = proxy.now(now);
        if let Some(core) = &mut proxy.core {
            core.new_session(worker, clock);
        }
        self.note(|| format!("proxy {} goes on as {worker}", at + 1));
        self.settle_proxy(at);
    }

    fn renew_session(&mut self, at: usize) {
        self.note(|| format!("proxy {} needs a new session", at + 1));
        self.proxies[at].renewing = true;
        if self.sentinels.is_empty() {
            let worker = WorkerId(self.next_worker);
            self.next_worker += 1;
            let inc = self.proxies[at].incarnation;
            let rpc = Rpc::NewSession { worker };
            let delay = self.latency();
            self.after(delay, Event::Rpc { to: Proc::Proxy(at), inc, rpc: Box::new(rpc) });
        } else {
            self.register_proxy(at);
        }
    }

    // ----- links ------------------------------------------------------------------------------

    pub(crate) fn connect(&mut self, at: usize, link: usize) {
        let inc = self.proxies[at].incarnation;
        let addr = self.proxies[at].core.as_ref().and_then(|core| core.link_addr(link));
        let node = addr.and_then(|addr| addr.strip_prefix("node:")).and_then(|n| n.parse().ok());
        let Some(node) = node else {
            return self.after(RETRY_MAX, Event::Connect { proxy: at, inc, link });
        };
        let node: usize = node;
        let (a, b) = (Proc::Proxy(at), Proc::Node(node - 1));
        let round_trip = self.latency() + self.latency() + 2 * self.plan.far;
        if self.is_cut(a, b) || self.is_cut(b, a) {
            return self.after(CONNECT_TIMEOUT, Event::ConnectFailed { proxy: at, inc, link });
        }
        if !self.is_running(b) {
            return self.after(round_trip, Event::ConnectFailed { proxy: at, inc, link });
        }
        self.next_conn += 1;
        let id = self.next_conn;
        self.conns.insert(
            id,
            Conn {
                proxy: at,
                proxy_inc: inc,
                link,
                node: node - 1,
                node_inc: self.machines[node - 1].incarnation,
                server: None,
                established: false,
                broken: false,
                to_node: VecDeque::new(),
                to_proxy: VecDeque::new(),
                input: BytesMut::new(),
                worker: WorkerId::default(),
                writes: BTreeSet::new(),
            },
        );
        self.proxies[at].links[link].conn = Some(id);
        self.after(round_trip, Event::Connected { conn: id });
    }

    pub(crate) fn connected(&mut self, id: u64) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.broken {
            return;
        }
        conn.established = true;
        let (at, link, node) = (conn.proxy, conn.link, conn.node);
        let clock = self.proxies[at].now(now);
        if let Some(core) = &mut self.proxies[at].core {
            conn.worker = core.worker();
            core.link_up(link, clock);
        }
        self.note(|| format!("proxy {}: link to node {} is up", at + 1, node + 1));
        // As the shell does: whatever the core has, marked or not.
        self.flush_link(at, link);
        self.settle_proxy(at);
    }

    pub(crate) fn connect_failed(&mut self, at: usize, link: usize) {
        self.link_down(at, link);
    }

    fn link_down(&mut self, at: usize, link: usize) {
        let now = self.now;
        let proxy = &mut self.proxies[at];
        let clock = proxy.now(now);
        let inc = proxy.incarnation;
        let known = &mut proxy.links[link];
        known.conn = None;
        let retry = known.retry;
        known.retry = (retry * 2).min(RETRY_MAX);
        if let Some(core) = &mut proxy.core {
            core.link_down(link, clock);
        }
        self.settle_proxy(at);
        self.after(retry, Event::Connect { proxy: at, inc, link });
    }

    /// What a proxy's core has for a node goes on its way.
    fn flush_link(&mut self, at: usize, link: usize) {
        let Some(id) = self.proxies[at].links.get(link).and_then(|l| l.conn) else { return };
        let arrival = self.now + self.latency() + self.plan.far;
        let Some(conn) = self.conns.get_mut(&id).filter(|c| c.established && !c.broken) else {
            return;
        };
        let Some(core) = &mut self.proxies[at].core else { return };
        let bytes = core.link_output(link).split().to_vec();
        if bytes.is_empty() {
            return;
        }
        note_writes(&bytes, conn);
        let arrival = conn.to_node.back().map_or(arrival, |(last, _)| arrival.max(*last));
        conn.to_node.push_back((arrival, bytes));
        self.at(arrival, Event::LinkData { conn: id, to_node: true });
    }

    /// What a node's executors and consensus thread have for proxies goes on its way.
    pub(crate) fn flush_links_of_node(&mut self, at: usize) {
        let mut deliveries = Vec::new();
        let mut closed = Vec::new();
        let delay = self.latency() + self.plan.far;
        for (id, conn) in self.conns.iter_mut().filter(|(_, c)| c.node == at && !c.broken) {
            let (Some(server), Some(process)) = (&conn.server, &self.machines[at].process) else {
                continue;
            };
            let (bytes, close) = process.link_output(server);
            if close {
                closed.push(*id);
            }
            if bytes.is_empty() {
                continue;
            }
            let unusual = check_answers(&bytes, conn, &mut self.oracle);
            if self.verbose && !unusual.is_empty() {
                let ms = self.now.as_secs_f64() * 1000.0;
                let (from, to) = (at + 1, conn.proxy + 1);
                println!("{ms:>10.3} ms  node {from} to proxy {to}: {}", unusual.join(", "));
            }
            let arrival = self.now + delay;
            let arrival = conn.to_proxy.back().map_or(arrival, |(last, _)| arrival.max(*last));
            conn.to_proxy.push_back((arrival, bytes));
            deliveries.push((arrival, *id));
        }
        for (arrival, conn) in deliveries {
            self.at(arrival, Event::LinkData { conn, to_node: false });
        }
        for conn in closed {
            self.break_conn(conn);
        }
    }

    pub(crate) fn link_data(&mut self, id: u64, to_node: bool) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (proxy, node) = (Proc::Proxy(conn.proxy), Proc::Node(conn.node));
        let way = if to_node { (proxy, node) } else { (node, proxy) };
        if self.is_cut(way.0, way.1) {
            return self.after(RETRANSMISSION, Event::LinkData { conn: id, to_node });
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let queue = if to_node { &mut conn.to_node } else { &mut conn.to_proxy };
        let mut bytes = Vec::new();
        while queue.front().is_some_and(|(at, _)| *at <= now) {
            bytes.extend(queue.pop_front().map(|(_, bytes)| bytes).unwrap_or_default());
        }
        if bytes.is_empty() {
            return;
        }
        if to_node {
            let at = conn.node;
            self.machines[at].set_clock(now);
            let Some(process) = &self.machines[at].process else { return };
            let server = conn.server.get_or_insert_with(|| process.connect());
            let taken = process.link_data(server, &bytes);
            if let Err(error) = taken {
                self.oracle.report("link protocol", format!("node {}: {error:#}", at + 1));
            }
            self.settle_node(at);
        } else {
            let (at, link) = (conn.proxy, conn.link);
            conn.input.extend_from_slice(&bytes);
            let mut input = std::mem::take(&mut conn.input);
            self.proxies[at].links[link].retry = RETRY_FIRST;
            let clock = self.proxies[at].now(now);
            if let Some(core) = &mut self.proxies[at].core
                && let Err(error) = core.link_data(link, &mut input, clock)
            {
                self.oracle.report("link protocol", format!("proxy {}: {error}", at + 1));
            }
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.input = input;
            }
            self.settle_proxy(at);
        }
    }

    /// A connection breaks: each side that still runs learns of it after a while.
    pub(crate) fn break_conn(&mut self, id: u64) {
        let (a, b) = (self.latency(), self.latency());
        let lost = self.rng.chance(50);
        let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.broken) else { return };
        conn.broken = true;
        // What was sent before may still arrive, or not.
        if lost {
            conn.to_proxy.clear();
        }
        let last = conn.to_proxy.back().map_or(Duration::ZERO, |(at, _)| *at);
        let at = (self.now + b).max(last);
        self.after(a, Event::LinkGone { conn: id, to_node: true });
        self.at(at, Event::LinkGone { conn: id, to_node: false });
    }

    pub(crate) fn link_gone(&mut self, id: u64, to_node: bool) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (proxy, node) = (Proc::Proxy(conn.proxy), Proc::Node(conn.node));
        let way = if to_node { (proxy, node) } else { (node, proxy) };
        if self.is_cut(way.0, way.1) {
            return self.after(RETRANSMISSION, Event::LinkGone { conn: id, to_node });
        }
        if to_node {
            let at = conn.node;
            if let (Some(process), Some(server)) = (&self.machines[at].process, &conn.server) {
                process.disconnect(server);
            }
            return;
        }
        let (at, link, node) = (conn.proxy, conn.link, conn.node);
        self.note(|| format!("proxy {}: link to node {} is down", at + 1, node + 1));
        self.conns.remove(&id);
        if self.proxies[at].links.get(link).is_some_and(|l| l.conn == Some(id)) {
            self.link_down(at, link);
        }
    }

    // ----- clients ----------------------------------------------------------------------------

    pub(crate) fn connect_client(&mut self, client: usize) -> bool {
        let running: Vec<usize> =
            (0..self.proxies.len()).filter(|at| self.proxies[*at].core.is_some()).collect();
        if running.is_empty() {
            return false;
        }
        let at = running[self.rng.below(running.len() as u64) as usize];
        let now = self.now;
        let clock = self.proxies[at].now(now);
        let addr = std::net::SocketAddr::from(([10, 0, 0, 1], 1000 + client as u16));
        let proxy = &mut self.proxies[at];
        let Some(core) = &mut proxy.core else { return false };
        let Some(key) = core.client_connected(addr, addr, clock) else { return false };
        proxy.clients.insert(key.index, (key, client));
        self.clients.connected(client, at, key);
        true
    }

    pub(crate) fn request(&mut self, client: usize, session: u64, bytes: Vec<u8>) {
        let Some(at) = self.clients.proxy_of(client, session) else { return };
        let Some(key) = self.clients.key(client) else { return };
        let now = self.now;
        let clock = self.proxies[at].now(now);
        if let Some(core) = &mut self.proxies[at].core {
            core.client_data(key, BytesMut::from(&bytes[..]), clock);
        }
        self.settle_proxy(at);
    }

    /// The proxy learns that a client hung up, or the client that its proxy died.
    pub(crate) fn client_gone(&mut self, client: usize, session: u64) {
        let Some(at) = self.clients.proxy_of(client, session) else { return };
        let now = self.now;
        let clock = self.proxies[at].now(now);
        if let Some(key) = self.clients.key(client) {
            let proxy = &mut self.proxies[at];
            if proxy.clients.get(&key.index) == Some(&(key, client)) {
                proxy.clients.remove(&key.index);
                if let Some(core) = &mut proxy.core {
                    core.client_gone(key, clock);
                }
            }
        }
        self.clients.disconnected(client);
        self.settle_proxy(at);
        let session = self.clients.session(client);
        self.after(Duration::from_millis(20), Event::ClientWake { client, session });
    }
}

fn note_writes(mut bytes: &[u8], conn: &mut Conn) {
    while let Ok((request, len)) = RequestRef::decode(bytes) {
        match request {
            RequestRef::Write { record, .. } => {
                if let Ok(header) = RecordHeader::decode(record) {
                    conn.writes.insert(header.tag);
                }
            }
            RequestRef::Hello { worker, .. } => conn.worker = worker,
            _ => {}
        }
        bytes = &bytes[len..];
        if bytes.is_empty() {
            return;
        }
    }
}

/// Checks a node's frames; returns those that are neither results nor pongs.
fn check_answers(mut bytes: &[u8], conn: &Conn, oracle: &mut super::oracle::Oracle) -> Vec<String> {
    let mut unusual = Vec::new();
    while bytes.len() >= 4 {
        if let Ok(Some((answer, len))) = AnswerRef::decode(bytes) {
            let result = matches!(answer.status, AnswerStatus::Reply | AnswerStatus::Blocked);
            if result && conn.writes.contains(&answer.tag) {
                oracle.replied(conn.worker, answer.tag);
            }
            if answer.status != AnswerStatus::Reply {
                unusual.push(format!("{:?} of {:#x}", answer.status, answer.tag));
            }
            bytes = &bytes[len..];
        } else {
            let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
            let mut frame = BytesMut::from(&bytes[..(4 + len).min(bytes.len())]);
            match Response::decode(&mut frame) {
                Ok(Some(Response::Pong { .. })) => {}
                Ok(Some(other)) => unusual.push(format!("{other:?}")),
                _ => {}
            }
            bytes = bytes.get(4 + len..).unwrap_or_default();
        }
    }
    unusual
}
