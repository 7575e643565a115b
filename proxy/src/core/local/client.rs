//! The CLIENT family. It speaks for the clients of this worker.

use super::connection::{BAD_NAME, help, is_valid_label, unknown_subcommand};
use super::{is_word, number};
use crate::core::client::{Client, ReplyMode, Stall};
use crate::core::{WorkerCore, respond, tracking};
use bytes::BytesMut;
use holdfast_proto::command;
use holdfast_proto::frame::UnblockReason;
use holdfast_proto::frame::push::Topic;
use holdfast_proto::resp::{RawRequest, encode};
use std::fmt::Write;

pub(super) fn client(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let sub = request.arg(1).to_ascii_lowercase();
    match sub.as_slice() {
        b"id" => encode::integer(out, core.clients.get(index).map_or(0, |c| c.id as i64)),
        b"getname" => get_name(core, index, out),
        b"setname" => set_name(core, index, request.arg(2), out),
        b"setinfo" => set_info(core, index, request, out),
        b"info" => {
            let text = core.describe_client(index);
            encode::bulk(out, text.as_bytes());
        }
        b"list" => list(core, index, request, out),
        b"kill" => kill(core, index, request, out),
        b"no-evict" | b"no-touch" => set_flag(core, index, request, out),
        b"reply" => reply(core, index, request, out),
        b"pause" => pause(core, request, out),
        b"unpause" => {
            // Ends at the next tick.
            if let Some((until_us, _)) = &mut core.client_pause {
                *until_us = 0;
                core.hurry = true;
            }
            encode::ok(out);
        }
        b"unblock" => unblock(core, request, out),
        b"getredir" => tracking::redirection(core, index, out),
        b"trackinginfo" => tracking::tracking_info(core, index, out),
        b"tracking" => tracking::tracking(core, index, request, out),
        b"caching" => tracking::caching(core, index, request, out),
        b"help" => help(out, HELP),
        _ => unknown_subcommand("client", request, out),
    }
}

fn get_name(core: &WorkerCore, index: u32, out: &mut BytesMut) {
    let Some(client) = core.clients.get(index) else { return };
    if client.name().is_empty() {
        encode::null(out, client.resp3);
    } else {
        encode::bulk(out, client.name());
    }
}

fn set_name(core: &mut WorkerCore, index: u32, name: &[u8], out: &mut BytesMut) {
    if !is_valid_label(name) {
        return encode::error(out, BAD_NAME);
    }
    if let Some(client) = core.clients.get_mut(index) {
        client.labels_mut().name = name.to_vec();
    }
    encode::ok(out);
}

fn set_info(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let (attribute, value) = (request.arg(2), request.arg(3));
    if !is_valid_label(value) {
        let attribute = String::from_utf8_lossy(attribute);
        let text =
            format!("ERR {attribute} cannot contain spaces, newlines or special characters.");
        return encode::error(out, &text);
    }
    let Some(client) = core.clients.get_mut(index) else { return };
    if is_word(attribute, "lib-name") {
        client.labels_mut().lib_name = value.to_vec();
    } else if is_word(attribute, "lib-ver") {
        client.labels_mut().lib_version = value.to_vec();
    } else {
        let attribute = String::from_utf8_lossy(attribute);
        return encode::error(out, &format!("ERR Unrecognized option '{attribute}'"));
    }
    encode::ok(out);
}

/// CLIENT LIST [TYPE type | ID id …]
fn list(core: &WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let mut wanted: Option<Vec<u64>> = None;
    let mut subscribers = None;
    if request.len() > 2 {
        if is_word(request.arg(2), "type") && request.len() == 4 {
            match request.arg(3).to_ascii_lowercase().as_slice() {
                b"normal" => subscribers = Some(false),
                b"pubsub" => subscribers = Some(true),
                b"master" | b"replica" | b"slave" => wanted = Some(Vec::new()),
                other => {
                    let kind = String::from_utf8_lossy(other);
                    return encode::error(out, &format!("ERR Unknown client type '{kind}'"));
                }
            }
        } else if is_word(request.arg(2), "id") && request.len() > 3 {
            let mut ids = Vec::new();
            for arg in request.iter().skip(3) {
                let Some(id) = number(arg) else {
                    return encode::error(out, "ERR Invalid client ID");
                };
                ids.push(id);
            }
            wanted = Some(ids);
        } else {
            return encode::error(out, respond::SYNTAX);
        }
    }
    let mut text = String::new();
    for (other, client) in core.clients.iter() {
        if wanted.as_ref().is_none_or(|ids| ids.contains(&client.id))
            && subscribers.is_none_or(|wanted| wanted == client.is_subscriber())
        {
            text.push_str(&core.describe_client(other));
        }
    }
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    encode::verbatim(out, b"txt", text.as_bytes(), resp3);
}

/// Which clients CLIENT KILL names.
#[derive(Default)]
struct Filter {
    id: Option<u64>,
    addr: Option<Vec<u8>>,
    local_addr: Option<Vec<u8>>,
    user: Option<String>,
    nobody: bool,
    /// Subscribers only, or all others.
    subscribers: Option<bool>,
    max_age_s: Option<u64>,
}

impl Filter {
    fn matches(&self, client: &Client, now_us: u64) -> bool {
        let addr_is = |wanted: &Option<Vec<u8>>, addr: std::net::SocketAddr| {
            wanted.as_ref().is_none_or(|wanted| addr.to_string().as_bytes() == wanted.as_slice())
        };
        let age_s = (now_us - client.created_us) / 1_000_000;
        !self.nobody
            && self.subscribers.is_none_or(|wanted| wanted == client.is_subscriber())
            && self.id.is_none_or(|id| client.id == id)
            && addr_is(&self.addr, client.addr)
            && addr_is(&self.local_addr, client.local_addr)
            && self.user.as_ref().is_none_or(|user| client.account.name == *user)
            && self.max_age_s.is_none_or(|age| age_s >= age)
    }
}

fn kill(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    if request.len() == 3 {
        let filter = Filter { addr: Some(request.arg(2).to_vec()), ..Filter::default() };
        return match kill_matching(core, index, &filter, false) {
            0 => encode::error(out, "ERR No such client"),
            _ => encode::ok(out),
        };
    }
    let mut filter = Filter::default();
    let mut skip_me = true;
    let mut at = 2;
    while at < request.len() {
        if at + 1 >= request.len() {
            return encode::error(out, respond::SYNTAX);
        }
        let value = request.arg(at + 1);
        match request.arg(at).to_ascii_lowercase().as_slice() {
            b"id" => match number(value) {
                Some(id) if id > 0 => filter.id = Some(id),
                _ => return encode::error(out, "ERR client-id should be greater than 0"),
            },
            b"addr" => filter.addr = Some(value.to_vec()),
            b"laddr" => filter.local_addr = Some(value.to_vec()),
            b"type" => match value.to_ascii_lowercase().as_slice() {
                b"normal" => filter.subscribers = Some(false),
                b"pubsub" => filter.subscribers = Some(true),
                b"master" | b"replica" | b"slave" => filter.nobody = true,
                other => {
                    let kind = String::from_utf8_lossy(other);
                    return encode::error(out, &format!("ERR Unknown client type '{kind}'"));
                }
            },
            b"user" => {
                let user = String::from_utf8_lossy(value).into_owned();
                if core.users.get(&user).is_none() {
                    return encode::error(out, &format!("ERR No such user '{user}'"));
                }
                filter.user = Some(user);
            }
            b"skipme" if is_word(value, "yes") => skip_me = true,
            b"skipme" if is_word(value, "no") => skip_me = false,
            b"maxage" => match number(value) {
                Some(age) => filter.max_age_s = Some(age),
                None => return encode::error(out, "ERR maxage is not an integer or out of range"),
            },
            _ => return encode::error(out, respond::SYNTAX),
        }
        at += 2;
    }
    let killed = kill_matching(core, index, &filter, skip_me);
    encode::integer(out, killed);
}

fn kill_matching(core: &mut WorkerCore, index: u32, filter: &Filter, skip_me: bool) -> i64 {
    let now_us = core.now_us;
    let targets: Vec<u32> = core
        .clients
        .iter()
        .filter(|(other, client)| !(skip_me && *other == index) && filter.matches(client, now_us))
        .map(|(other, _)| other)
        .collect();
    for &target in &targets {
        if let Some(client) = core.clients.get_mut(target) {
            client.closing = true;
        }
        core.mark_client(target);
    }
    targets.len() as i64
}

fn set_flag(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let on = is_word(request.arg(2), "on");
    if !on && !is_word(request.arg(2), "off") {
        return encode::error(out, respond::SYNTAX);
    }
    if let Some(client) = core.clients.get_mut(index) {
        if is_word(request.arg(1), "no-evict") {
            client.no_evict = on;
        } else {
            client.no_touch = on;
        }
    }
    encode::ok(out);
}

fn reply(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let Some(client) = core.clients.get_mut(index) else { return };
    if is_word(request.arg(2), "on") {
        client.reply_mode = ReplyMode::On;
        encode::ok(out);
    } else if is_word(request.arg(2), "off") {
        client.reply_mode = ReplyMode::Off;
    } else if is_word(request.arg(2), "skip") {
        if client.reply_mode == ReplyMode::On {
            client.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        encode::error(out, respond::SYNTAX);
    }
}

fn pause(core: &mut WorkerCore, request: &RawRequest, out: &mut BytesMut) {
    let Some(milliseconds) = number::<i64>(request.arg(2)) else {
        return encode::error(out, "ERR timeout is not an integer or out of range");
    };
    let Ok(milliseconds) = u64::try_from(milliseconds) else {
        return encode::error(out, "ERR timeout is negative");
    };
    let writes_only = match request.len() {
        3 => false,
        4 if is_word(request.arg(3), "write") => true,
        4 if is_word(request.arg(3), "all") => false,
        _ => return encode::error(out, "ERR CLIENT PAUSE mode must be WRITE or ALL"),
    };
    let until_us = core.now_us.saturating_add(milliseconds.saturating_mul(1000));
    core.client_pause = Some((until_us, writes_only));
    encode::ok(out);
}

/// CLIENT UNBLOCK client-id [TIMEOUT | ERROR]
fn unblock(core: &mut WorkerCore, request: &RawRequest, out: &mut BytesMut) {
    let reason = match request.len() {
        3 => UnblockReason::Timeout,
        4 if is_word(request.arg(3), "timeout") => UnblockReason::Timeout,
        4 if is_word(request.arg(3), "error") => UnblockReason::Error,
        _ => {
            return encode::error(out, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
        }
    };
    let Some(id) = number(request.arg(2)) else {
        return encode::error(out, respond::NOT_AN_INTEGER);
    };
    let blocked = core
        .clients
        .by_id(id)
        .and_then(|target| core.clients.get(target))
        .and_then(|client| client.blocked);
    let done = blocked.is_some_and(|handle| core.unblock(handle, reason));
    encode::integer(out, i64::from(done));
}

impl WorkerCore {
    /// The client's line of CLIENT LIST.
    pub(in crate::core) fn describe_client(&self, index: u32) -> String {
        let Some(client) = self.clients.get(index) else { return String::new() };
        let labels = client.labels.as_deref();
        let text = |bytes: Option<&Vec<u8>>| {
            bytes.map_or(String::new(), |bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let mut flags = String::new();
        if client.is_subscriber() {
            flags.push('P');
        }
        if client.tracking.is_some() {
            flags.push('t');
        }
        if client.monitor {
            flags.push('O');
        }
        if client.transaction.is_some() {
            flags.push('x');
        }
        if client.blocked.is_some() || matches!(client.stall, Stall::Paused) {
            flags.push('b');
        }
        if client.closing {
            flags.push('c');
        }
        if client.no_evict {
            flags.push('e');
        }
        if client.no_touch {
            flags.push('T');
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let mut line = String::new();
        let command = command::all().nth(client.last_command as usize).map_or("NULL", |c| c.name);
        let multi = client.transaction.as_ref().map_or(-1, |t| t.len() as i64);
        let memory = size_of::<Client>() + client.input.capacity() + client.output.capacity();
        // Writing to a String cannot fail.
        let _ = writeln!(
            line,
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} \
             multi={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={} oll={} omem=0 \
             tot-mem={} events=r cmd={} user={} redir={} resp={} lib-name={} lib-ver={}",
            client.id,
            client.addr,
            client.local_addr,
            text(labels.map(|l| &l.name)),
            (self.now_us - client.created_us) / 1_000_000,
            (self.now_us - client.active_us) / 1_000_000,
            flags,
            client.db,
            client.subscribed(Topic::Channel),
            client.subscribed(Topic::Pattern),
            client.subscribed(Topic::ShardChannel),
            multi,
            client.input.len(),
            client.output.len(),
            client.outstanding(),
            memory,
            command,
            client.account.name,
            client.redirection(),
            if client.resp3 { 3 } else { 2 },
            text(labels.map(|l| &l.lib_name)),
            text(labels.map(|l| &l.lib_version)),
        );
        line
    }
}

const HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME",
    "    Return the name of the current connection.",
    "GETREDIR",
    "    Return the client ID we are redirecting to when tracking is enabled.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are ADDR, LADDR, ID, TYPE, USER, SKIPME, MAXAGE.",
    "LIST [options ...]",
    "    Return information about client connections. Options are TYPE and ID.",
    "NO-EVICT (ON|OFF)",
    "    Protect current client connection from eviction.",
    "NO-TOUCH (ON|OFF)",
    "    Will not touch LRU/LFU stats when this mode is on.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETINFO <LIB-NAME|LIB-VER> <value>",
    "    Set client meta attr.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "TRACKINGINFO",
    "    Report tracking status for the current connection.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client.",
    "UNPAUSE",
    "    Stop the current client pause, resuming traffic.",
    "HELP",
    "    Print this help.",
];
