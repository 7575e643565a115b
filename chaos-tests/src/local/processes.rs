//! Runs processes, hurts them, and starts each again when it dies.

use super::network::Network;
use crate::target::Death;
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pause before a process that died of itself is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// How long a process may take to end when asked to.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// How to start a process.
pub struct Spec {
    pub name: String,
    pub command: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub log: PathBuf,
}

/// A thread that keeps [`Processes`] running until it is dropped.
pub struct Supervisor {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    pub fn start(processes: Arc<Processes>) -> anyhow::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let run = move || {
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = processes.supervise() {
                    eprintln!("chaos: {error:#}");
                }
                // How late a death may be noticed.
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let thread = std::thread::Builder::new().name("supervisor".to_owned()).spawn(run)?;
        Ok(Self { stopping, thread: Some(thread) })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// All processes of a run; dropped, they are killed.
pub struct Processes {
    network: Arc<Network>,
    slots: Mutex<BTreeMap<String, Slot>>,
    deaths: Mutex<Vec<Death>>,
}

struct Slot {
    spec: Spec,
    child: Option<Child>,
    wanted: bool,
    /// Dies on its own account, as a fault wants it to.
    may_die: bool,
    start_at: Instant,
}

impl Processes {
    pub fn new(network: Arc<Network>) -> Self {
        Self { network, slots: Mutex::default(), deaths: Mutex::default() }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.slots.lock().expect("no thread panics with the lock")
    }

    /// Starts a process for the first time.
    pub fn add(&self, spec: Spec) -> anyhow::Result<()> {
        let name = spec.name.clone();
        let start_at = Instant::now();
        let mut slot = Slot { spec, child: None, wanted: true, may_die: false, start_at };
        self.spawn(&mut slot)?;
        self.slots().insert(name, slot);
        Ok(())
    }

    fn spawn(&self, slot: &mut Slot) -> anyhow::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&slot.spec.log)?;
        let mut words = self.network.prefix(&slot.spec.name);
        words.extend(slot.spec.command.iter().cloned());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .envs(slot.spec.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", slot.spec.name))?;
        slot.child = Some(child);
        Ok(())
    }

    /// Notices deaths and starts again what should run. To be called every few milliseconds.
    pub fn supervise(&self) -> anyhow::Result<()> {
        for slot in self.slots().values_mut() {
            if let Some(child) = &mut slot.child
                && let Some(status) = child.try_wait()?
            {
                slot.child = None;
                slot.start_at = Instant::now() + RESTART_PAUSE;
                if slot.wanted && !slot.may_die {
                    self.deaths.lock().expect("no thread panics with the lock").push(Death {
                        name: slot.spec.name.clone(),
                        at: Instant::now(),
                        status: status.to_string(),
                        last_words: last_lines(&slot.spec.log),
                    });
                }
            }
            if slot.wanted && slot.child.is_none() && Instant::now() >= slot.start_at {
                self.spawn(slot)?;
            }
        }
        Ok(())
    }

    /// Deaths that no fault explains.
    pub fn deaths(&self) -> Vec<Death> {
        self.deaths.lock().expect("no thread panics with the lock").clone()
    }

    /// SIGKILL; it stays down until [`start`](Self::start).
    pub fn kill(&self, name: &str) -> anyhow::Result<()> {
        let mut slots = self.slots();
        let slot = slots.get_mut(name).context("a known process")?;
        slot.wanted = false;
        if let Some(mut child) = slot.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub fn start(&self, name: &str) -> anyhow::Result<()> {
        let mut slots = self.slots();
        let slot = slots.get_mut(name).context("a known process")?;
        slot.wanted = true;
        if slot.child.is_none() {
            self.spawn(slot)?;
        }
        Ok(())
    }

    /// SIGTERM and the wait for its end. Returns whether it ended in time and cleanly.
    pub fn stop(&self, name: &str) -> anyhow::Result<bool> {
        let mut child = {
            let mut slots = self.slots();
            let slot = slots.get_mut(name).context("a known process")?;
            slot.wanted = false;
            let Some(child) = slot.child.take() else { return Ok(true) };
            child
        };
        let pid = Pid::from_raw(child.id() as i32).context("a pid")?;
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + STOP_GRACE;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            // Nothing better to wait on than the child itself, briefly.
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill()?;
        child.wait()?;
        Ok(false)
    }

    /// SIGSTOP, SIGCONT.
    pub fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let slots = self.slots();
        let slot = slots.get(name).context("a known process")?;
        if let Some(pid) = slot.child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32)) {
            kill_process(pid, signal).with_context(|| format!("signal {name}"))?;
        }
        Ok(())
    }

    /// Whether its death is part of a fault.
    pub fn set_may_die(&self, name: &str, may_die: bool) -> anyhow::Result<()> {
        self.slots().get_mut(name).context("a known process")?.may_die = may_die;
        Ok(())
    }

    /// SIGKILL to all; nothing is started again.
    pub fn kill_all(&self) {
        for slot in self.slots().values_mut() {
            slot.wanted = false;
            if let Some(mut child) = slot.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn last_lines(log: &std::path::Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(4096)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
