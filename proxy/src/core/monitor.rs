//! MONITOR: clients that are told every command, of all workers of the process.

use super::{Action, WorkerCore};
use bytes::{BufMut, Bytes, BytesMut};
use holdfast_proto::command::{CommandSpec, flag};
use holdfast_proto::resp::RawRequest;

/// Who watches.
#[derive(Default)]
pub(super) struct Monitors {
    /// Index and generation of clients of this worker.
    clients: Vec<(u32, u32)>,
    /// Clients of other workers watch, too.
    elsewhere: bool,
}

impl WorkerCore {
    /// MONITOR.
    pub(super) fn begin_monitor(&mut self, index: u32) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if !std::mem::replace(&mut client.monitor, true) {
            self.monitors.clients.push((index, client.generation));
            self.actions.push(Action::Monitoring { on: true });
        }
    }

    /// A client left or was reset.
    pub(super) fn end_monitor(&mut self, index: u32, generation: u32) {
        let before = self.monitors.clients.len();
        self.monitors.clients.retain(|known| *known != (index, generation));
        if before > 0 && self.monitors.clients.is_empty() {
            self.actions.push(Action::Monitoring { on: false });
        }
    }

    /// Do clients of other workers want to be told?
    pub fn set_monitors_elsewhere(&mut self, on: bool) {
        self.monitors.elsewhere = on;
    }

    /// Tells the watchers of a command that is about to run.
    pub(super) fn feed_monitors(&mut self, index: u32, spec: &CommandSpec, request: &RawRequest) {
        if self.monitors.clients.is_empty() && !self.monitors.elsewhere {
            return;
        }
        if spec.flags.has_any(flag::SKIP_MONITOR | flag::ADMIN) {
            return;
        }
        let Some(client) = self.clients.get(index) else { return };
        let (seconds, micros) = (self.unix_us / 1_000_000, self.unix_us % 1_000_000);
        let mut line = BytesMut::new();
        let head = format!("+{seconds}.{micros:06} [{} {}]", client.db, client.addr);
        line.put_slice(head.as_bytes());
        for (at, arg) in request.iter().enumerate() {
            line.put_u8(b' ');
            let secret = is_secret(spec, request, at);
            quote(if secret { b"(redacted)" } else { arg }, &mut line);
        }
        line.put_slice(b"\r\n");
        let line = line.freeze();
        if self.monitors.elsewhere {
            self.actions.push(Action::Monitored { line: line.clone() });
        }
        self.tell_monitors(&line);
    }

    /// A line of another worker.
    pub fn monitored(&mut self, line: &Bytes) {
        self.tell_monitors(line);
    }

    fn tell_monitors(&mut self, line: &[u8]) {
        for at in 0..self.monitors.clients.len() {
            let (index, generation) = self.monitors.clients[at];
            let limit = self.output_hard_bytes;
            if let Some(client) = self.clients.of_generation(index, generation) {
                client.output.extend_from_slice(line);
                // As for any slow reader; without a limit of the operator's, a quarter GiB.
                const OUTPUT_BYTES_MAX: u64 = 256 * 1024 * 1024;
                let limit = if limit == 0 { OUTPUT_BYTES_MAX } else { limit };
                if client.output.len() as u64 > limit {
                    client.output.clear();
                    client.closing = true;
                }
                self.mark_client(index);
            }
        }
    }
}

/// Names and passwords of AUTH and HELLO are not shown.
fn is_secret(spec: &CommandSpec, request: &RawRequest, at: usize) -> bool {
    let is_auth = |at: usize| request.arg(at).eq_ignore_ascii_case(b"auth");
    match spec.name {
        "auth" => at > 0,
        "hello" => (at > 2 && is_auth(at - 1)) || (at > 3 && is_auth(at - 2)),
        _ => false,
    }
}

/// As Redis quotes arguments (`sdscatrepr`).
fn quote(arg: &[u8], out: &mut BytesMut) {
    out.put_u8(b'"');
    for &c in arg {
        match c {
            b'\\' | b'"' => out.put_slice(&[b'\\', c]),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            7 => out.put_slice(b"\\a"),
            8 => out.put_slice(b"\\b"),
            b' '..=b'~' => out.put_u8(c),
            _ => out.put_slice(format!("\\x{c:02x}").as_bytes()),
        }
    }
    out.put_u8(b'"');
}
