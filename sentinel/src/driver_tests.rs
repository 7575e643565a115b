//! Three drivers in one process, joined by channels instead of sockets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Sender, bounded};
use holdfast_consensus::log::memory::MemoryStore;
use tempfile::TempDir;

use super::*;
use crate::core::metadata::command::{Found, RecordEvent};
use crate::core::metadata::{Command, Outcome, Rejection};
use crate::group::{INPUTS_MAX, MetadataGroup};

type Inboxes = Arc<Mutex<BTreeMap<u64, Sender<Input>>>>;

struct Member {
    group: MetadataGroup,
    inputs: Sender<Input>,
    thread: JoinHandle<()>,
    store: MemoryStore,
    dir: TempDir,
}

struct Cluster {
    inboxes: Inboxes,
    members: BTreeMap<u64, Member>,
}

impl Cluster {
    fn start() -> Self {
        let mut cluster = Self { inboxes: Inboxes::default(), members: BTreeMap::new() };
        for id in 1..=3 {
            cluster.start_member(id, MemoryStore::default(), tempfile::tempdir().unwrap());
        }
        cluster
    }

    fn start_member(&mut self, own: u64, store: MemoryStore, dir: TempDir) {
        let (inputs, received) = bounded(INPUTS_MAX);
        let (published, receiver) = watch::channel(Published::default());
        let inboxes = Arc::clone(&self.inboxes);
        let send = move |messages: Vec<v1::RaftMessage>| {
            let inboxes = inboxes.lock().unwrap();
            for message in messages {
                if let Some(inbox) = inboxes.get(&message.to) {
                    let _ = inbox.try_send(Input::Message(message));
                }
            }
        };
        let membership = super::Membership { own, members: vec![1, 2, 3] };
        let snapshots = Snapshots::new(dir.path());
        let driver =
            Driver::open(&membership, store.clone(), snapshots, Box::new(send), published).unwrap();
        let thread = std::thread::spawn(move || driver.run(&received));
        self.inboxes.lock().unwrap().insert(own, inputs.clone());
        let group = MetadataGroup::new(inputs.clone(), receiver);
        self.members.insert(own, Member { group, inputs, thread, store, dir });
    }

    /// Ends a member and keeps what it stored.
    fn stop_member(&mut self, id: u64) -> (MemoryStore, TempDir) {
        self.inboxes.lock().unwrap().remove(&id);
        let member = self.members.remove(&id).unwrap();
        member.inputs.send(Input::Stop).unwrap();
        member.thread.join().unwrap();
        (member.store, member.dir)
    }

    fn leader(&self) -> u64 {
        let began = Instant::now();
        loop {
            if let Some((id, _)) = self.members.iter().find(|(_, m)| m.group.leads()) {
                return *id;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "no leader");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn propose(&self, id: u64, command: Command) -> ProposeResult {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.members[&id].group.propose(command))
    }

    fn propose_to_leader(&self, command: &Command) -> Outcome {
        let began = Instant::now();
        loop {
            if let Ok(outcome) = self.propose(self.leader(), command.clone()) {
                return outcome;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "nobody takes the proposal");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_for_equal_states(&self) {
        let began = Instant::now();
        loop {
            let states: Vec<_> = self.members.values().map(|m| m.group.published()).collect();
            if states.windows(2).all(|pair| pair[0].metadata == pair[1].metadata) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "the states differ");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(mut self) {
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.stop_member(id);
        }
    }
}

fn found() -> Command {
    let spec = v1::ClusterSpec { shards: 1, replicas: 3, databases: 16, ..Default::default() };
    Command::Found(Found { cluster_id: vec![1; 16].into(), spec: Some(spec) })
}

fn event(text: &str) -> Command {
    Command::RecordEvent(RecordEvent { text: text.to_owned(), ..Default::default() })
}

#[test]
fn a_new_group_elects_its_first_member_soon_and_applies_everywhere() {
    let began = Instant::now();
    let cluster = Cluster::start();
    let leader = cluster.leader();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(cluster.propose(leader, found()).unwrap(), Outcome::Done);
    let again = cluster.propose(leader, found());
    assert!(matches!(again, Err(ProposeError::Rejected(Rejection::AlreadyFounded))));
    let follower = 1 + leader % 3;
    assert!(matches!(cluster.propose(follower, found()), Err(ProposeError::NotLeader)));
    cluster.wait_for_equal_states();
    let known = cluster.members[&follower].group.published();
    assert_eq!((known.leader, known.topology.version), (Some(leader), 1));
    cluster.end();
}

#[test]
fn another_member_takes_over_and_the_former_leader_catches_up() {
    let mut cluster = Cluster::start();
    cluster.propose_to_leader(&found());
    let first = cluster.leader();
    let (store, dir) = cluster.stop_member(first);
    cluster.propose_to_leader(&event("while the first leader was away"));
    assert_ne!(cluster.leader(), first);
    cluster.start_member(first, store, dir);
    cluster.wait_for_equal_states();
    let metadata = cluster.members[&first].group.published().metadata;
    assert!(metadata.events_after(0, 0).any(|e| e.text.starts_with("while")));
    cluster.end();
}

#[test]
fn a_member_that_was_away_for_long_gets_the_state_as_a_snapshot() {
    let mut cluster = Cluster::start();
    cluster.propose_to_leader(&found());
    let leader = cluster.leader();
    let away = 1 + leader % 3;
    let (store, dir) = cluster.stop_member(away);
    // Two snapshots and more than the tail of the log that is kept.
    let text = "x".repeat(2000);
    for _ in 0..2 * SNAPSHOT_EVERY + 10 {
        cluster.propose_to_leader(&event(&text));
    }
    cluster.start_member(away, store, dir);
    cluster.wait_for_equal_states();
    // What was installed is what a restart loads.
    let (store, dir) = cluster.stop_member(away);
    cluster.start_member(away, store, dir);
    cluster.propose_to_leader(&event("last"));
    cluster.wait_for_equal_states();
    cluster.end();
}
