//! Fuzz targets: everything that parses bytes of strangers, of disks or of peers.
//!
//! A target is a function of bytes that must not panic, hang or eat memory, and that checks what
//! must hold for any input. It returns a *signature* of what the input made happen (kinds of errors,
//! how far it got): inputs with a new signature are worth keeping and mutating, which stands in for
//! the coverage feedback that a compiler's instrumentation would give. So the targets run on a stable
//! compiler: `fuzz/tests/targets.rs` drives them, over the corpora in `fuzz/corpus`. For libFuzzer or
//! AFL call [`Target::run`] from their entry points.

#![forbid(unsafe_code)]

pub mod engine;
pub mod mutate;
pub mod seeds;
pub mod targets;

/// One thing to fuzz.
#[derive(Clone, Copy)]
pub struct Target {
    /// Also the name of its folder in `fuzz/corpus`.
    pub name: &'static str,
    pub run: fn(&[u8]) -> u64,
    /// Inputs are RESP requests and are also mutated argument by argument.
    pub resp: bool,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "resp_requests",
        run: targets::resp_requests,
        resp: true,
        seeds: seeds::requests,
    },
    Target { name: "resp_replies", run: targets::resp_replies, resp: false, seeds: seeds::replies },
    Target { name: "link_frames", run: targets::link_frames, resp: false, seeds: seeds::frames },
    Target { name: "log_records", run: targets::log_records, resp: false, seeds: seeds::batches },
    Target { name: "commands", run: targets::commands, resp: true, seeds: seeds::requests },
    Target { name: "rdb_files", run: targets::rdb_files, resp: false, seeds: seeds::rdb_files },
    Target {
        name: "dump_payloads",
        run: targets::dump_payloads,
        resp: false,
        seeds: seeds::payloads,
    },
];
