//! A network of its own for each process: Linux network namespaces joined by a bridge.
//!
//! Everything happens inside namespaces that the run made for itself ([`enter`]), so that nothing of
//! it is visible on the machine and nothing is left behind, however the run ends. Packets are dropped
//! where they arrive, so both ends see what they would see of a broken network: silence.

use anyhow::{Context, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Set in the environment of the run inside the namespaces: `namespaces` or `shared`.
const INSIDE: &str = "HOLDFAST_CHAOS_INSIDE";
const BRIDGE: &str = "chaos0";

/// Runs this program again inside namespaces of its own and returns its exit code; `None` if it is
/// inside already, or if namespaces are not to be had (or not `wanted`), where links cannot be cut.
pub fn enter(wanted: bool) -> anyhow::Result<Option<i32>> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    if !wanted {
        return Ok(None);
    }
    let is_root = rustix::process::geteuid().is_root();
    let mut unshare = vec!["unshare", "--net", "--mount", "--pid", "--mount-proc", "--kill-child"];
    if !is_root {
        unshare.push("--map-root-user");
    }
    let probe = Command::new(unshare[0])
        .args(&unshare[1..])
        .args(["sh", "-c", "ip link add probe0 type bridge && echo 'flush ruleset' | nft -f -"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            eprintln!("chaos: no network namespaces here, links stay whole ({reason})");
            return Ok(None);
        }
        Err(error) => {
            eprintln!("chaos: no network namespaces here, links stay whole (unshare: {error})");
            return Ok(None);
        }
    }
    // `setpriv` ties the life of `unshare` to ours, `--kill-child` that of the run to `unshare`: no
    // process of the run outlives this one.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(&unshare)
        .arg(std::env::current_exe().context("find this program")?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "namespaces")
        .status()
        .context("run inside namespaces")?;
    Ok(Some(status.code().unwrap_or(2)))
}

/// What is wrong with the links. Names are those of processes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkFault {
    /// Nothing that `from` sends reaches `to`.
    Drop { from: String, to: String },
    /// So many in a hundred packets get lost.
    Lose { from: String, to: String, percent: u8 },
    /// All that the process sends goes through a line of so many kbit/s.
    Slow { process: String, kbit: u32 },
}

/// The namespaces and the rules in them.
pub struct Network {
    spaces: BTreeMap<String, Space>,
    /// Rules in force, per process.
    applied: Mutex<BTreeMap<String, (String, Option<u32>)>>,
    cuts: bool,
}

struct Space {
    addr: Ipv4Addr,
    /// Keeps the namespace alive.
    file: Option<File>,
}

impl Network {
    /// Makes a namespace per name, or with no namespaces just an address per name.
    pub fn new(names: &[String]) -> anyhow::Result<Self> {
        let cuts = std::env::var(INSIDE).is_ok_and(|value| value == "namespaces");
        let mut spaces = BTreeMap::new();
        if cuts {
            run("ip", &["link", "set", "lo", "up"])?;
            run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
            run("ip", &["addr", "add", "10.77.0.254/24", "dev", BRIDGE])?;
            run("ip", &["link", "set", BRIDGE, "up"])?;
        }
        for (index, name) in names.iter().enumerate() {
            let last = u8::try_from(index + 1).context("too many processes")?;
            let space = if cuts {
                let addr = Ipv4Addr::new(10, 77, 0, last);
                Space { addr, file: Some(make_space(index, addr)?) }
            } else {
                Space { addr: Ipv4Addr::new(127, 77, 0, last), file: None }
            };
            spaces.insert(name.clone(), space);
        }
        Ok(Self { spaces, applied: Mutex::default(), cuts })
    }

    /// Whether links can be cut.
    pub fn cuts(&self) -> bool {
        self.cuts
    }

    pub fn addr(&self, name: &str) -> Ipv4Addr {
        self.spaces[name].addr
    }

    /// The words before a command that make it run in a process's namespace.
    pub fn prefix(&self, name: &str) -> Vec<String> {
        match &self.spaces[name].file {
            None => Vec::new(),
            Some(file) => {
                let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
                vec!["nsenter".to_owned(), format!("--net={path}"), "--".to_owned()]
            }
        }
    }

    /// Makes exactly these faults hold.
    pub fn set(&self, faults: &BTreeSet<LinkFault>) -> anyhow::Result<()> {
        if !self.cuts {
            ensure!(faults.is_empty(), "links cannot be cut here");
            return Ok(());
        }
        let mut applied = self.applied.lock().expect("no thread panics with the lock");
        for name in self.spaces.keys() {
            let wanted = (self.rules(name, faults), rate(name, faults));
            let known = applied.get(name).cloned().unwrap_or_default();
            if wanted.0 != known.0 {
                self.apply_rules(name, &wanted.0)?;
            }
            if wanted.1 != known.1 {
                self.apply_rate(name, wanted.1)?;
            }
            applied.insert(name.clone(), wanted);
        }
        Ok(())
    }

    fn rules(&self, name: &str, faults: &BTreeSet<LinkFault>) -> String {
        let mut rules = String::new();
        for fault in faults {
            match fault {
                LinkFault::Drop { from, to } if to == name => {
                    let _ = writeln!(rules, "  ip saddr {} drop", self.addr(from));
                }
                LinkFault::Lose { from, to, percent } if to == name => {
                    let from = self.addr(from);
                    let _ =
                        writeln!(rules, "  ip saddr {from} numgen random mod 100 < {percent} drop");
                }
                _ => {}
            }
        }
        rules
    }

    fn apply_rules(&self, name: &str, rules: &str) -> anyhow::Result<()> {
        let mut script = "flush ruleset\n".to_owned();
        if !rules.is_empty() {
            let _ = writeln!(
                script,
                "table inet chaos {{\n chain arriving {{\n  type filter hook input priority 0\n{rules} }}\n}}"
            );
        }
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), &script)?;
        let path = file.path().to_str().context("a plain path")?;
        self.run_in(name, &["nft", "-f", path]).with_context(|| format!("rules {script}"))
    }

    fn apply_rate(&self, name: &str, kbit: Option<u32>) -> anyhow::Result<()> {
        match kbit {
            Some(kbit) => {
                let rate = format!("{kbit}kbit");
                let queue = ["root", "tbf", "rate", &rate, "burst", "16kb", "latency", "400ms"];
                self.run_in(
                    name,
                    &[&["tc", "qdisc", "replace", "dev", "eth0"][..], &queue].concat(),
                )
            }
            None => self.run_in(name, &["tc", "qdisc", "del", "dev", "eth0", "root"]),
        }
    }

    fn run_in(&self, name: &str, words: &[&str]) -> anyhow::Result<()> {
        let prefix = self.prefix(name);
        let mut all: Vec<&str> = prefix.iter().map(String::as_str).collect();
        all.extend(words);
        run(all[0], &all[1..])
    }
}

fn rate(name: &str, faults: &BTreeSet<LinkFault>) -> Option<u32> {
    faults.iter().find_map(|fault| match fault {
        LinkFault::Slow { process, kbit } if process == name => Some(*kbit),
        _ => None,
    })
}

/// A namespace with an interface on the bridge.
fn make_space(index: usize, addr: Ipv4Addr) -> anyhow::Result<File> {
    let mut holder = Command::new("unshare").args(["--net", "sleep", "60"]).spawn()?;
    let pid = holder.id();
    let made = (|| {
        let path = format!("/proc/{pid}/ns/net");
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_link(&path)? == ours {
            ensure!(Instant::now() < deadline, "unshare does not get its namespace");
            // It says nothing when it is ready; looking again is all there is.
            std::thread::sleep(Duration::from_millis(2));
        }
        let file = File::open(&path)?;
        let outer = format!("chaos-{index}");
        let pid = pid.to_string();
        run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        run("ip", &["link", "set", &outer, "master", BRIDGE, "up"])?;
        let inner =
            format!("ip addr add {addr}/24 dev eth0 && ip link set eth0 up && ip link set lo up");
        run("nsenter", &[&format!("--net={path}"), "--", "sh", "-c", &inner])?;
        anyhow::Ok(file)
    })();
    let _ = holder.kill();
    let _ = holder.wait();
    made
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", words.join(" "), error.trim());
    }
    Ok(())
}
