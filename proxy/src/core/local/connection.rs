//! PING, ECHO, AUTH, HELLO, RESET, QUIT, SELECT.

use super::{is_word, number};
use crate::core::client::ReplyMode;
use crate::core::{WorkerCore, respond};
use bytes::BytesMut;
use holdfast_proto::command;
use holdfast_proto::resp::{RawRequest, encode};

/// What clients are told the server is; they choose their features by it.
pub(crate) const REDIS_VERSION: &str = "7.2.4";

pub(super) fn ping(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let client = core.clients.get(index);
    let subscriber = client.is_some_and(|client| client.is_subscriber() && !client.resp3);
    match request.len() {
        1 | 2 if subscriber => {
            encode::array(out, 2);
            encode::bulk(out, b"pong");
            encode::bulk(out, if request.len() == 2 { request.arg(1) } else { b"" });
        }
        1 => encode::simple(out, "PONG"),
        2 => encode::bulk(out, request.arg(1)),
        _ => encode::error(out, "ERR wrong number of arguments for 'ping' command"),
    }
}

pub(super) fn echo(_: &mut WorkerCore, _: u32, request: &RawRequest, out: &mut BytesMut) {
    encode::bulk(out, request.arg(1));
}

pub(super) fn auth(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let (user, password) = match request.len() {
        2 if core.users.default_user().user.nopass => {
            return encode::error(out, respond::AUTH_WITHOUT_PASSWORD);
        }
        2 => (&b"default"[..], request.arg(1)),
        3 => (request.arg(1), request.arg(2)),
        _ => return encode::error(out, respond::SYNTAX),
    };
    if core.authenticate(index, user, password) {
        encode::ok(out);
    } else {
        encode::error(out, respond::WRONGPASS);
    }
}

/// HELLO [protover [AUTH username password] [SETNAME clientname]]
pub(super) fn hello(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let mut protocol = None;
    if request.len() > 1 {
        match number::<i64>(request.arg(1)) {
            Some(version @ 2..=3) => protocol = Some(version),
            Some(_) => return encode::error(out, respond::NOPROTO),
            None => {
                return encode::error(
                    out,
                    "ERR Protocol version is not an integer or out of range",
                );
            }
        }
    }
    let mut name = None;
    let mut at = 2;
    while at < request.len() {
        let left = request.len() - at - 1;
        if is_word(request.arg(at), "auth") && left >= 2 {
            if !core.authenticate(index, request.arg(at + 1), request.arg(at + 2)) {
                return encode::error(out, respond::WRONGPASS);
            }
            at += 3;
        } else if is_word(request.arg(at), "setname") && left >= 1 {
            if !is_valid_label(request.arg(at + 1)) {
                return encode::error(out, BAD_NAME);
            }
            name = Some(request.arg(at + 1));
            at += 2;
        } else {
            let option = String::from_utf8_lossy(request.arg(at));
            let text = format!("ERR Syntax error in HELLO option '{option}'");
            return encode::error(out, &text);
        }
    }
    let Some(client) = core.clients.get_mut(index) else { return };
    if !client.authenticated {
        return encode::error(out, respond::HELLO_NOAUTH);
    }
    if let Some(name) = name {
        client.labels_mut().name = name.to_vec();
    }
    if let Some(protocol) = protocol {
        client.resp3 = protocol == 3;
    }
    let (resp3, id) = (client.resp3, client.id);
    encode::map(out, 7, resp3);
    let pair = |out: &mut BytesMut, key: &str, value: &str| {
        encode::bulk(out, key.as_bytes());
        encode::bulk(out, value.as_bytes());
    };
    pair(out, "server", "redis");
    pair(out, "version", REDIS_VERSION);
    encode::bulk(out, b"proto");
    encode::integer(out, if resp3 { 3 } else { 2 });
    encode::bulk(out, b"id");
    encode::integer(out, id as i64);
    pair(out, "mode", "standalone");
    pair(out, "role", "master");
    encode::bulk(out, b"modules");
    encode::array(out, 0);
}

pub(super) const BAD_NAME: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

/// Names are shown in CLIENT LIST, which is text: no blanks or control characters.
pub(super) fn is_valid_label(label: &[u8]) -> bool {
    label.iter().all(|&c| (b'!'..=b'~').contains(&c))
}

pub(super) fn reset(core: &mut WorkerCore, index: u32, _: &RawRequest, out: &mut BytesMut) {
    let open = core.is_open();
    let account = core.users.default_user().clone();
    let Some(client) = core.clients.get_mut(index) else { return };
    let subscriptions = client.subscriptions.take();
    let tracking = client.tracking.take();
    core.forget_subscriptions(index, subscriptions);
    core.stop_tracking(index, tracking);
    let Some(client) = core.clients.get_mut(index) else { return };
    client.transaction = None;
    client.forget_watches();
    client.resp3 = false;
    client.db = 0;
    client.reply_mode = ReplyMode::On;
    client.authenticated = open;
    client.account = account;
    client.no_evict = false;
    client.no_touch = false;
    client.monitor = false;
    let generation = client.generation;
    if let Some(labels) = &mut client.labels {
        labels.name.clear();
    }
    core.end_monitor(index, generation);
    encode::simple(out, "RESET");
}

pub(super) fn quit(core: &mut WorkerCore, index: u32, _: &RawRequest, out: &mut BytesMut) {
    encode::ok(out);
    if let Some(client) = core.clients.get_mut(index) {
        client.close_when_answered();
        client.closing = client.outstanding() == 0;
    }
}

pub(super) fn select(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let Some(db) = number::<i64>(request.arg(1)) else {
        return encode::error(out, respond::NOT_AN_INTEGER);
    };
    if db < 0 || db >= i64::from(core.databases()) {
        return encode::error(out, respond::DB_OUT_OF_RANGE);
    }
    if let Some(client) = core.clients.get_mut(index) {
        client.db = db as u16;
    }
    encode::ok(out);
}

/// The error of a container command for a subcommand that it does not have.
pub(super) fn unknown_subcommand(name: &str, request: &RawRequest, out: &mut BytesMut) {
    let Some(parent) = command::lookup(name.as_bytes()) else { return };
    let sub = if request.len() > 1 { request.arg(1) } else { b"" };
    encode::error(out, &command::unknown_subcommand_error(parent, sub));
}

/// A HELP reply: one status per line.
pub(crate) fn help(out: &mut BytesMut, lines: &[&str]) {
    encode::array(out, lines.len());
    for line in lines {
        encode::simple(out, line);
    }
}
