//! CONFIG. Parameters of the cluster live in the sentinels' metadata: a change holds for every
//! proxy and node. The others are shown as what they are here.

use super::connection::{help, unknown_subcommand};
use crate::core::WorkerCore;
use crate::core::proposals::Change;
use bytes::{Bytes, BytesMut};
use holdfast_proto::glob;
use holdfast_proto::parameters::{self, Parameter, Scope};
use holdfast_proto::resp::{RawRequest, encode};
use holdfast_proto::v1::PersistenceMode;
use std::collections::BTreeMap;

pub(super) fn config(core: &mut WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"get" => get(core, index, request, out),
        b"set" => match changes(core, request) {
            Ok(changes) if changes.is_empty() => encode::ok(out),
            Ok(changes) => {
                core.propose(index, request, Change::Settings(changes), encode::OK.to_vec());
            }
            Err(text) => encode::error(out, &text),
        },
        b"resetstat" => {
            core.stats.reset();
            encode::ok(out);
        }
        // What CONFIG SET changes is in the metadata, on the sentinels' disks, already.
        b"rewrite" => encode::ok(out),
        b"help" => help(out, HELP),
        _ => unknown_subcommand("config", request, out),
    }
}

fn get(core: &WorkerCore, index: u32, request: &RawRequest, out: &mut BytesMut) {
    let resp3 = core.clients.get(index).is_some_and(|client| client.resp3);
    let patterns: Vec<Vec<u8>> = request.iter().skip(2).map(<[u8]>::to_ascii_lowercase).collect();
    let mut found: Vec<(&str, String)> = Vec::new();
    for parameter in parameters::PARAMETERS {
        for name in [parameter.name, parameter.alias] {
            if !name.is_empty() && patterns.iter().any(|p| glob::matches(p, name.as_bytes())) {
                found.push((name, core.parameter(parameter)));
            }
        }
    }
    encode::map(out, found.len(), resp3);
    for (name, value) in found {
        encode::bulk(out, name.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
}

/// CONFIG SET name value [name value …]: what differs from the present values, or the error.
fn changes(core: &WorkerCore, request: &RawRequest) -> Result<BTreeMap<String, String>, String> {
    if !request.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'config|set' command".to_owned());
    }
    let mut given: Vec<(&'static Parameter, String, String)> = Vec::new();
    for at in (2..request.len()).step_by(2) {
        let name = String::from_utf8_lossy(request.arg(at)).into_owned();
        let value = String::from_utf8_lossy(request.arg(at + 1)).into_owned();
        let Some(parameter) = parameters::lookup(&name) else {
            return Err(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            ));
        };
        if given.iter().any(|(known, ..)| known.name == parameter.name) {
            return Err(failed(&name, "duplicate parameter"));
        }
        if parameter.scope == Scope::Operator && core.parameter(parameter) != value {
            return Err(failed(
                &name,
                "only the operator may change it: `holdfast parameters set`",
            ));
        }
        if parameter.scope == Scope::Fixed && core.parameter(parameter) != value {
            return Err(failed(&name, "can't set immutable config"));
        }
        given.push((parameter, name, value));
    }
    let mut changes = BTreeMap::new();
    for (parameter, name, value) in given {
        let current = core.parameter(parameter);
        if parameter.scope != Scope::Cluster {
            continue;
        }
        let value = parameters::check(parameter, &value, &current)
            .map_err(|error| failed(&name, &error.to_string()))?;
        if value != current {
            changes.insert(parameter.name.to_owned(), value);
        }
    }
    Ok(changes)
}

fn failed(name: &str, reason: &str) -> String {
    format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}")
}

impl WorkerCore {
    /// The present value of a parameter.
    pub(in crate::core) fn parameter(&self, parameter: &Parameter) -> String {
        let persistence = self.topology.spec.as_ref().map(|spec| spec.persistence());
        let aof =
            matches!(persistence, Some(PersistenceMode::AofAlways | PersistenceMode::AofEverysec));
        match parameter.name {
            "appendonly" => if aof { "yes" } else { "no" }.to_owned(),
            "appendfsync" if persistence == Some(PersistenceMode::AofAlways) => "always".to_owned(),
            "save" if persistence == Some(PersistenceMode::Rdb) => {
                "900 1 300 10 60 10000".to_owned()
            }
            "databases" => self.databases().to_string(),
            "maxclients" => self.clients_max_shown().to_string(),
            "port" => self.config.plain_port.to_string(),
            "tls-port" => self.config.tls_port.to_string(),
            parameters::REQUIREPASS => self.password().to_owned(),
            name => self.setting(name).unwrap_or(parameter.default).to_owned(),
        }
    }

    /// Most clients of this proxy.
    pub(in crate::core) fn clients_max_shown(&self) -> usize {
        let set = self.setting("maxclients").and_then(|text| text.parse().ok());
        set.unwrap_or(self.config.clients_max_shown)
    }

    /// Most clients of this worker.
    pub(in crate::core) fn clients_max(&self) -> usize {
        let workers = self.config.worker_count.max(1) as usize;
        match self.setting("maxclients") {
            Some(_) => self.clients_max_shown().div_ceil(workers),
            None => self.config.clients_max,
        }
    }

    /// Tells every shard to forget its statistics.
    pub(super) fn shards_body(words: &[&[u8]]) -> Bytes {
        let mut body = BytesMut::new();
        encode::command(&mut body, words.iter().copied());
        body.freeze()
    }
}

const HELP: &[&str] = &[
    "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "SET <directive> <value>",
    "    Set the configuration <directive> to <value>.",
    "RESETSTAT",
    "    Reset statistics reported by the INFO command.",
    "REWRITE",
    "    Rewrite the configuration file.",
    "HELP",
    "    Print this help.",
];
