//! Runs the cluster's processes and starts each again when it dies.

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Pause before a process that died is started again; doubles with each death in quick succession.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A process that lived this long died of something new: the pause starts small again.
const LIVED_LONG: Duration = Duration::from_secs(10);
/// How long a process may take to finish after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// One process of the cluster.
pub(crate) struct Process {
    pub(crate) name: String,
    role: &'static str,
    config: PathBuf,
    log: PathBuf,
    state: State,
    pause: Duration,
    pub(crate) restarts: u32,
}

enum State {
    Running { child: Child, since: Instant },
    Waiting { until: Instant },
}

/// What the supervisor tells the person watching.
pub(crate) struct Death {
    pub(crate) name: String,
    pub(crate) status: ExitStatus,
    /// The last lines of its log, when it died soon after its start.
    pub(crate) last_words: Option<String>,
}

impl Process {
    /// Starts `holdfast ROLE --config CONFIG`, its output appended to `log`.
    pub(crate) fn start(
        name: &str,
        role: &'static str,
        config: &Path,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let mut process = Self {
            name: name.to_owned(),
            role,
            config: config.to_owned(),
            log: log.to_owned(),
            state: State::Waiting { until: Instant::now() },
            pause: RESTART_PAUSE_MIN,
            restarts: 0,
        };
        process.spawn()?;
        Ok(process)
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let program = std::env::current_exe().context("find this program")?;
        let child = Command::new(program)
            .arg(self.role)
            .arg("--config")
            .arg(&self.config)
            .arg("--end-with-parent")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        self.state = State::Running { child, since: Instant::now() };
        Ok(())
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Running { child, .. } => Some(child.id()),
            State::Waiting { .. } => None,
        }
    }

    /// Notices a death and starts the process again once its pause is over.
    pub(crate) fn supervise(&mut self, now: Instant) -> anyhow::Result<Option<Death>> {
        match &mut self.state {
            State::Running { child, since } => {
                let Some(status) = child.try_wait()? else { return Ok(None) };
                let lived = now.saturating_duration_since(*since);
                if lived >= LIVED_LONG {
                    self.pause = RESTART_PAUSE_MIN;
                }
                self.state = State::Waiting { until: now + self.pause };
                self.pause = (self.pause * 2).min(RESTART_PAUSE_MAX);
                let last_words = (lived < Duration::from_secs(3)).then(|| last_lines(&self.log));
                Ok(Some(Death { name: self.name.clone(), status, last_words }))
            }
            State::Waiting { until } if now >= *until => {
                self.restarts += 1;
                self.spawn()?;
                Ok(None)
            }
            State::Waiting { .. } => Ok(None),
        }
    }

    /// Asks the process to finish.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end; past the grace period the process is killed.
    pub(crate) fn wait(&mut self) {
        let deadline = Instant::now() + STOP_GRACE;
        while let State::Running { child, .. } = &mut self.state {
            match child.try_wait() {
                Ok(None) if Instant::now() < deadline => {
                    // Nothing better to wait on than the child itself, briefly.
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return;
                }
                Ok(Some(_)) | Err(_) => return,
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid as i32)) {
            // It may have died meanwhile; then there is nothing to do.
            let _ = kill_process(pid, signal);
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(2048)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join("\n")
}
