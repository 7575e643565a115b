//! The live status below `up`'s output.

use super::supervisor::{Death, Process};
use crate::cluster::ClusterAccess;
use holdfast_proto::v1::NodeHealth;
use std::io::{IsTerminal, Write};

/// One line that is redrawn in place on a terminal, and events above it.
pub(crate) struct StatusLine {
    redraw: bool,
    last_event: u64,
    first_update: bool,
}

impl StatusLine {
    pub(crate) fn new(wanted: bool) -> Self {
        let redraw = wanted && std::io::stderr().is_terminal();
        Self { redraw, last_event: 0, first_update: true }
    }

    pub(crate) fn say(&self, text: &str) {
        if self.redraw {
            eprint!("\r\x1b[2K");
        }
        eprintln!("holdfast: {text}");
    }

    pub(crate) fn death(&self, death: &Death) {
        self.say(&format!("{} ended ({}), starting it again", death.name, death.status));
        if let Some(words) = death.last_words.as_ref().filter(|words| !words.is_empty()) {
            eprintln!("{words}");
        }
    }

    /// Prints new events of the cluster and redraws the line.
    pub(crate) async fn update(&mut self, access: &ClusterAccess, processes: &[Process]) {
        // Asking a sentinel each second costs next to nothing; with none alive there is no news.
        let Ok(events) = access.events_after(self.last_event).await else { return };
        for event in events {
            self.last_event = self.last_event.max(event.id);
            if !self.first_update {
                self.say(&format!("{}: {}", event.kind, event.text));
            }
        }
        self.first_update = false;
        if !self.redraw {
            return;
        }
        let Ok(status) = access.status().await else { return };
        let Some(topology) = status.topology else { return };
        let up = status.nodes.iter().filter(|node| node.health() == NodeHealth::Up).count();
        let primaries: Vec<String> = topology
            .shards
            .iter()
            .map(|shard| match shard.primary_node {
                0 => format!("shard {}: no primary", shard.id),
                node => format!("shard {}: n{node} (term {})", shard.id, shard.term),
            })
            .collect();
        let restarts: u32 = processes.iter().map(|process| process.restarts).sum();
        eprint!(
            "\r\x1b[2Knodes {up}/{} up · {} · {restarts} restarts ",
            topology.nodes.len(),
            primaries.join(" · "),
        );
        let _ = std::io::stderr().flush();
    }
}
