//! Scenarios on the deterministic cluster.

#![allow(clippy::unwrap_used, clippy::field_reassign_with_default)]

use std::time::Duration;

use holdfast_consensus::testing::{Cluster, SHARD, World};
use holdfast_consensus::{
    CampaignError, ChangeError, ForgetError, MembershipChange, OpenError, ProposeError, Role,
    StepError, TransferError,
};
use holdfast_proto::ids::{LogIndex, RaftId, Term};
use holdfast_proto::v1;
use raft::eraftpb::MessageType;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn others(cluster: &Cluster, id: RaftId) -> Vec<RaftId> {
    cluster.running().into_iter().filter(|o| *o != id).collect()
}

fn converge(cluster: &mut Cluster) {
    let done = cluster.run_until(Duration::from_secs(60), |cluster| cluster.converged());
    assert!(done, "no convergence");
    cluster.check_logs();
}

#[test]
fn a_group_elects_one_leader_and_replicates() {
    for count in [2, 3, 5] {
        let mut cluster = Cluster::new(count, World::calm(count));
        let leader = cluster.elect();
        for n in 0..100u64 {
            cluster.propose(leader, format!("value {n}")).unwrap();
            if n % 7 == 0 {
                cluster.run(ms(3));
            }
        }
        cluster.run(ms(200));
        converge(&mut cluster);
        assert_eq!(cluster.machines[&leader].state.len(), 100);
        assert_eq!(cluster.oracle.elections(), 1);
    }
}

#[test]
fn a_single_replica_leads_at_once_and_has_a_lease() {
    let mut cluster = Cluster::new(1, World::calm(1));
    let started = cluster.now;
    let leader = cluster.elect();
    assert!(cluster.now - started < ms(200));
    cluster.propose(leader, "value").unwrap();
    cluster.run(ms(300));
    assert!(cluster.has_lease(leader));
    let token = cluster.read(leader);
    assert!(cluster.reads[&token].is_some());
    cluster.kill(leader);
    cluster.start(leader).unwrap();
    cluster.elect();
    assert_eq!(cluster.machines[&leader].state.len(), 1);
}

#[test]
fn a_lease_that_nobody_wants_ends_and_comes_back_with_the_next_read() {
    let mut cluster = Cluster::new(3, World::calm(5));
    let leader = cluster.elect();
    cluster.run(ms(300));
    assert!(cluster.has_lease(leader));
    cluster.with(leader, |r, _| r.want_lease(false));
    cluster.run(ms(1000));
    assert!(!cluster.has_lease(leader));
    assert_eq!(cluster.leader(), Some(leader), "heartbeats go on");
    let token = cluster.read(leader);
    cluster.run(ms(50));
    assert!(cluster.reads[&token].is_some());
    assert!(cluster.has_lease(leader), "the read's round is one like any other");
    cluster.with(leader, |r, _| r.want_lease(true));
    cluster.run(ms(1000));
    assert!(cluster.has_lease(leader));
}

#[test]
fn followers_refuse_proposals_and_never_forward_them() {
    let mut cluster = Cluster::new(3, World::calm(2));
    let leader = cluster.elect();
    cluster.run(ms(200));
    let term = Term(cluster.status(leader).term);
    for follower in others(&cluster, leader) {
        assert_eq!(
            cluster.propose(follower, "value"),
            Err(ProposeError::NotLeader { term, leader })
        );
        let token = cluster.read(follower);
        assert_eq!(cluster.reads[&token], None);
    }
}

#[test]
fn forget_leader_then_campaign_elects_at_once_and_plain_campaign_does_not() {
    let mut cluster = Cluster::new(3, World::calm(3));
    let leader = cluster.elect();
    cluster.run(ms(500));
    let term = Term(cluster.status(leader).term);
    let [a, b] = others(&cluster, leader)[..] else { panic!("two followers") };
    cluster.kill(leader);
    // Beyond the lease, far below the election timeout.
    cluster.run(ms(400));
    cluster.with(a, |r, now| r.campaign(now)).unwrap();
    cluster.run(ms(50));
    assert_eq!(cluster.leader(), None, "the voter still remembers a leader");

    for id in [a, b] {
        let forgot = cluster.with(id, |r, now| r.forget_leader(now, term, leader));
        assert_eq!(forgot, Ok(()));
    }
    cluster.with(a, |r, now| r.campaign(now)).unwrap();
    cluster.run(ms(15));
    assert_eq!(cluster.leader(), Some(a));
    cluster.run(ms(15));
    assert!(cluster.machines[&a].serving);
}

#[test]
fn the_veto_holds_while_the_leader_lives() {
    let mut cluster = Cluster::new(3, World::calm(4));
    let leader = cluster.elect();
    cluster.run(ms(500));
    let term = Term(cluster.status(leader).term);
    for follower in others(&cluster, leader) {
        let forgot = cluster.with(follower, |r, now| r.forget_leader(now, term, leader));
        assert!(matches!(forgot, Err(ForgetError::Veto { .. })));
        let campaigned = cluster.with(follower, |r, now| r.campaign(now));
        assert!(matches!(campaigned, Err(CampaignError::Veto { .. })));
        let other_term =
            cluster.with(follower, |r, now| r.forget_leader(now, Term(term.0 + 1), leader));
        assert!(matches!(other_term, Err(ForgetError::Mismatch { .. })));
    }
    assert_eq!(
        cluster.with(leader, |r, now| r.forget_leader(now, term, leader)),
        Err(ForgetError::Leading)
    );
    cluster.run(ms(500));
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.oracle.elections(), 1);
}

#[test]
fn votes_are_refused_after_a_start() {
    let mut cluster = Cluster::new(3, World::calm(5));
    let leader = cluster.elect();
    cluster.run(ms(500));
    let term = Term(cluster.status(leader).term);
    let [a, b] = others(&cluster, leader)[..] else { panic!("two followers") };
    cluster.kill(b);
    cluster.kill(leader);
    cluster.run(ms(300));
    cluster.start(b).unwrap();
    cluster.with(a, |r, now| r.forget_leader(now, term, leader)).unwrap();
    cluster.with(a, |r, now| r.campaign(now)).unwrap();
    cluster.run(ms(100));
    assert_eq!(cluster.leader(), None, "b may have confirmed a lease");
    cluster.run(ms(200));
    cluster.with(a, |r, now| r.campaign(now)).unwrap();
    cluster.run(ms(50));
    assert_eq!(cluster.leader(), Some(a));
}

/// etcd's TestReadOnlyDuplicateRequest: with a context used twice, a delayed answer to the first
/// use confirms the second. Ours are never used twice, so the old answer confirms nothing.
#[test]
fn a_delayed_heartbeat_answer_confirms_no_later_read() {
    let mut cluster = Cluster::new(3, World::calm(6));
    let leader = cluster.elect();
    cluster.run(ms(500));
    let token = cluster.read(leader);
    cluster.run(ms(20));
    assert!(cluster.reads[&token].is_some());

    // From now on the leader hears nothing new; old answers are replayed to it.
    let term = cluster.status(leader).term;
    cluster.isolate(leader, true);
    let token = cluster.read(leader);
    for from in others(&cluster, leader) {
        for counter in 0..100u64 {
            let mut context = Vec::new();
            for part in [term, counter, leader.0] {
                context.extend_from_slice(&part.to_be_bytes());
            }
            let used = counter < 2;
            if !used {
                break;
            }
            let answer = v1::RaftMessage {
                kind: MessageType::MsgHeartbeatResponse as u32,
                from: from.0,
                to: leader.0,
                term,
                context: context.into(),
                ..Default::default()
            };
            cluster.with(leader, |r, now| r.step(now, answer)).unwrap();
        }
    }
    assert!(!cluster.reads.contains_key(&token));
    // The quorum check ends its leadership, and the read with it.
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.reads[&token], None);
}

#[test]
fn read_requests_from_the_network_are_dropped() {
    let mut cluster = Cluster::new(3, World::calm(7));
    let leader = cluster.elect();
    let follower = others(&cluster, leader)[0];
    let term = cluster.status(leader).term;
    for kind in [
        MessageType::MsgReadIndex,
        MessageType::MsgPropose,
        MessageType::MsgTransferLeader,
        MessageType::MsgHup,
        MessageType::MsgReadIndexResp,
    ] {
        let message = v1::RaftMessage {
            kind: kind as u32,
            from: follower.0,
            to: leader.0,
            term,
            ..Default::default()
        };
        assert!(matches!(
            cluster.with(leader, |r, now| r.step(now, message)),
            Err(StepError::Invalid(_))
        ));
    }
}

#[test]
fn a_paused_leader_wakes_without_a_lease() {
    let mut cluster = Cluster::new(3, World::calm(8));
    let old = cluster.elect();
    cluster.run(ms(500));
    assert!(cluster.has_lease(old));
    cluster.pause(old);
    let done = cluster.run_until(Duration::from_secs(5), |c| {
        c.leader().is_some_and(|id| c.machines[&id].serving)
    });
    assert!(done);
    let new = cluster.leader().unwrap();
    assert_ne!(new, old);
    cluster.propose(new, "value").unwrap();
    cluster.run(ms(100));
    // It has not processed anything yet and believes to lead.
    assert!(!cluster.has_lease(old));
    cluster.resume(old);
    let token = cluster.read(old);
    cluster.run(ms(100));
    assert_eq!(cluster.reads[&token], None);
    converge(&mut cluster);
}

#[test]
fn hand_over_is_quick_and_gives_the_lease_up() {
    let mut cluster = Cluster::new(3, World::calm(9));
    let old = cluster.elect();
    cluster.run(ms(500));
    let target = others(&cluster, old)[0];
    for n in 0..20u64 {
        cluster.propose(old, format!("value {n}")).unwrap();
    }
    cluster.with(old, |r, now| r.transfer_leader(now, target)).unwrap();
    assert!(!cluster.has_lease(old));
    assert_eq!(cluster.propose(old, "late"), Err(ProposeError::Transferring { to: target }));
    cluster.run(ms(30));
    assert_eq!(cluster.leader(), Some(target));
    converge(&mut cluster);
    assert_eq!(cluster.machines[&target].state.len(), 20);
}

#[test]
fn hand_over_is_quick_under_load() {
    for seed in 0..100 {
        let mut world = World::calm(seed);
        world.write = (ms(1), ms(4));
        world.checkpoints = 20;
        let mut cluster = Cluster::new(3, world);
        let old = cluster.elect();
        for n in 0..100u64 {
            cluster.propose(old, format!("value {n}")).unwrap();
            cluster.run(ms(3));
        }
        let target = others(&cluster, old)[seed as usize % 2];
        cluster.with(old, |r, now| r.transfer_leader(now, target)).unwrap();
        let done = cluster.run_until(ms(120), |c| c.machines[&target].serving);
        assert!(done, "seed {seed}");
    }
}

#[test]
fn a_hand_over_to_a_dead_target_is_aborted_and_bars_the_lease() {
    let mut cluster = Cluster::new(3, World::calm(10));
    let leader = cluster.elect();
    cluster.run(ms(500));
    let target = others(&cluster, leader)[0];
    cluster.isolate(target, true);
    cluster.with(leader, |r, now| r.transfer_leader(now, target)).unwrap();
    cluster.run(ms(700));
    assert_eq!(cluster.leader(), Some(leader));
    cluster.propose(leader, "value").unwrap();
    cluster.run(ms(300));
    assert!(!cluster.has_lease(leader), "never again in this term");
    let token = cluster.read(leader);
    cluster.run(ms(50));
    assert!(cluster.reads[&token].is_some());
    let missing = cluster.with(leader, |r, now| r.transfer_leader(now, RaftId(9)));
    assert_eq!(missing, Err(TransferError::NotVoter(RaftId(9))));
}

#[test]
fn a_stalled_disk_makes_the_leader_hand_over() {
    let mut cluster = Cluster::new(3, World::calm(11));
    let old = cluster.elect();
    cluster.run(ms(500));
    cluster.world.write = (Duration::from_secs(30), Duration::from_secs(30));
    cluster.propose(old, "stalls here").unwrap();
    cluster.world.write = (ms(1), ms(1));
    cluster.run(ms(1600));
    let new = cluster.leader().unwrap();
    assert_ne!(new, old);
    assert!(cluster.machines[&new].serving);
}

#[test]
fn a_lost_synced_tail_is_amnesia() {
    let mut cluster = Cluster::new(3, World { sync_always: false, ..World::calm(12) });
    let leader = cluster.elect();
    // Let the elections' own syncs pass, then acknowledge unsynced entries.
    cluster.run(ms(1100));
    for n in 0..50u64 {
        cluster.propose(leader, format!("value {n}")).unwrap();
    }
    cluster.run(ms(100));
    let victim = others(&cluster, leader)[0];
    assert!(cluster.machines[&victim].store.unsynced() > 0);
    // The side record would keep it from running. Were it run all the same, the leader's commit
    // index would show what it lost.
    cluster.kill(victim);
    cluster.machines[&victim].store.crash(0);
    cluster.start(victim).unwrap();
    cluster.run(ms(500));
    assert!(cluster.machines[&victim].amnesiac);
    assert!(cluster.machines[&victim].replica.is_none());
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn a_vote_survives_power_loss_in_every_mode() {
    use holdfast_consensus::LogStore;
    let mut cluster = Cluster::new(3, World { sync_always: false, ..World::calm(18) });
    let leader = cluster.elect();
    let term = Term(cluster.status(leader).term);
    let mut votes = 0;
    for id in cluster.running() {
        let mut store = cluster.machines[&id].store.clone();
        store.crash(0);
        let stored = store.load(SHARD).unwrap().unwrap();
        if stored.hard_state.term == term && stored.hard_state.vote == leader {
            votes += 1;
        }
    }
    assert!(votes >= 2, "a majority remembers");
}

#[test]
fn a_log_shorter_than_its_commit_index_is_not_opened() {
    use holdfast_consensus::log::LogStore;
    use holdfast_consensus::log::memory::MemoryStore;
    use holdfast_consensus::{Replica, ReplicaConfig, StoredState};
    let voters = [RaftId(1), RaftId(2)];
    let mut stored = StoredState::founding(RaftId(1), &voters);
    stored.hard_state.commit = LogIndex(5);
    let cfg = ReplicaConfig::new(SHARD, RaftId(1), ms(0), 1);
    let reader = MemoryStore::new().reader();
    let opened = Replica::new(cfg, Some(stored), reader);
    assert!(matches!(opened, Err(OpenError::Amnesia(_))));
}

fn change(
    cluster: &mut Cluster,
    leader: RaftId,
    change: MembershipChange,
) -> Result<(Term, LogIndex), ChangeError> {
    cluster.with(leader, |r, now| r.change_membership(now, &change))
}

#[test]
fn a_replica_is_replaced_through_learner_snapshot_and_joint_state() {
    let mut cluster = Cluster::new(3, World::calm(13));
    let leader = cluster.elect();
    for n in 0..30u64 {
        cluster.propose(leader, format!("value {n}")).unwrap();
        cluster.run(ms(2));
    }
    let dead = others(&cluster, leader)[0];
    cluster.kill(dead);
    cluster.machines.remove(&dead);
    let new = RaftId(4);
    cluster.add(new, Vec::new());
    let add = MembershipChange { add_learners: vec![new], ..Default::default() };
    change(&mut cluster, leader, add.clone()).unwrap();
    assert_eq!(change(&mut cluster, leader, add), Err(ChangeError::Pending), "one at a time");
    let done = cluster.run_until(Duration::from_secs(10), |c| c.machines[&new].state.len() == 30);
    assert!(done, "the learner catches up");
    let swap = MembershipChange { add_voters: vec![new], remove: vec![dead], ..Default::default() };
    change(&mut cluster, leader, swap).unwrap();
    let done = cluster.run_until(Duration::from_secs(10), |c| {
        let membership = c.status(new).membership.unwrap();
        let mut voters = membership.voters.clone();
        voters.sort_unstable();
        voters.len() == 3 && voters.contains(&4) && membership.voters_outgoing.is_empty()
    });
    assert!(done, "the joint state is left");
    converge(&mut cluster);
    // The new voter's vote counts.
    let third = others(&cluster, leader).into_iter().find(|id| *id != new).unwrap();
    cluster.kill(leader);
    let leader = cluster.elect();
    assert!([third, new].contains(&leader));
    assert_eq!(cluster.machines[&leader].state.len(), 30);
}

#[test]
fn the_leader_cannot_be_removed() {
    let mut cluster = Cluster::new(3, World::calm(14));
    let leader = cluster.elect();
    cluster.run(ms(200));
    let remove = MembershipChange { remove: vec![leader], ..Default::default() };
    assert_eq!(change(&mut cluster, leader, remove), Err(ChangeError::RemovesLeader));
}

/// Found by the random runs: a hand-over that overtakes the removal of its target.
#[test]
fn a_leader_that_finds_itself_removed_steps_down() {
    let mut cluster = Cluster::new(3, World::calm(17));
    let leader = cluster.elect();
    cluster.run(ms(500));
    let target = others(&cluster, leader)[0];
    let remove = MembershipChange { remove: vec![target], ..Default::default() };
    change(&mut cluster, leader, remove).unwrap();
    // It gets the entry and wins, then learns that the entry is committed.
    cluster.filter = Some(|m| m.kind == MessageType::MsgAppendResponse as u32 && m.index > 2);
    cluster.run(ms(4));
    cluster.kill(leader);
    cluster.filter = None;
    cluster.run(ms(400));
    let term = Term(cluster.status(target).term);
    for id in others(&cluster, leader) {
        let _ = cluster.with(id, |r, now| r.forget_leader(now, term, leader));
    }
    cluster.with(target, |r, now| r.campaign(now)).unwrap();
    cluster.run(ms(500));
    cluster.start(leader).unwrap();
    let done = cluster.run_until(Duration::from_secs(10), |c| {
        c.leader().is_some_and(|id| id != target && c.machines[&id].serving)
    });
    assert!(done);
    let leader = cluster.leader().unwrap();
    cluster.propose(leader, "value").unwrap();
}

#[test]
fn a_joint_state_is_left_even_if_the_leader_changes_in_it() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(3, World::calm(100 + seed));
        let leader = cluster.elect();
        cluster.run(ms(200));
        for id in [4, 5] {
            cluster.add(RaftId(id), Vec::new());
        }
        let both =
            MembershipChange { add_voters: vec![RaftId(4), RaftId(5)], ..Default::default() };
        change(&mut cluster, leader, both).unwrap();
        cluster.run(Duration::from_micros(500 * seed));
        cluster.kill(leader);
        cluster.run(Duration::from_secs(5));
        cluster.start(leader).unwrap();
        let done = cluster.run_until(Duration::from_secs(30), |c| {
            c.running().into_iter().all(|id| {
                let membership = c.status(id).membership.unwrap_or_default();
                membership.voters_outgoing.is_empty()
            })
        });
        assert!(done, "seed {seed}");
        cluster.elect();
    }
}

#[test]
fn a_follower_behind_the_log_gets_a_snapshot() {
    let mut world = World::calm(15);
    world.tune = |cfg| {
        cfg.log_tail_bytes = 1000;
        cfg.cache_bytes = 1000;
    };
    let mut cluster = Cluster::new(3, world);
    let leader = cluster.elect();
    cluster.run(ms(200));
    let behind = others(&cluster, leader)[0];
    cluster.isolate(behind, true);
    // The marks by which the tail is measured are 256 KiB apart.
    for _ in 0..30u64 {
        cluster.propose(leader, vec![7; 100_000]).unwrap();
        cluster.run(ms(100));
    }
    // It counts as live until the next check of the quorum.
    cluster.run(Duration::from_secs(3));
    cluster.checkpoint(leader);
    cluster.run(ms(200));
    let first = *cluster.machines[&leader].store.entries(SHARD).keys().next().unwrap_or(&u64::MAX);
    assert!(first > 20, "the log was cut: {first}");
    cluster.isolate(behind, false);
    converge(&mut cluster);
    assert_eq!(cluster.machines[&behind].state.len(), 30);
    // And it restarts from it.
    cluster.kill(behind);
    cluster.start(behind).unwrap();
    converge(&mut cluster);
    assert_eq!(cluster.machines[&behind].state.len(), 30);
}

/// raft-rs#417: while a follower pulls a checkpoint, it is offered newer ones, some of them twice.
#[test]
fn more_snapshots_while_one_is_pulled_do_no_harm() {
    let mut world = World { duplicates: 40, ..World::calm(43) };
    world.tune = |cfg| {
        cfg.log_tail_bytes = 1000;
        cfg.cache_bytes = 1000;
        cfg.snapshot_retry = ms(1);
    };
    let mut cluster = Cluster::new(3, world);
    let leader = cluster.elect();
    cluster.run(ms(200));
    let behind = others(&cluster, leader)[0];
    let mut count = 0;
    let mut grow = |cluster: &mut Cluster, pause| {
        // The marks by which the tail is measured are 256 KiB apart.
        cluster.propose(leader, vec![7; 300_000]).unwrap();
        cluster.run(pause);
        cluster.checkpoint(leader);
        count += 1;
        count
    };
    for _ in 0..3 {
        cluster.isolate(behind, true);
        for _ in 0..30 {
            grow(&mut cluster, ms(100));
        }
        cluster.isolate(behind, false);
        for _ in 0..40 {
            grow(&mut cluster, ms(5));
        }
    }
    let count = grow(&mut cluster, ms(5));
    converge(&mut cluster);
    assert_eq!(cluster.machines[&behind].state.len(), count);
    cluster.kill(behind);
    cluster.start(behind).unwrap();
    converge(&mut cluster);
    assert_eq!(cluster.machines[&behind].state.len(), count);
}

/// raft-rs#555, #557: a reject that was on its way for long must not make the leader take back what
/// the follower has since acknowledged.
#[test]
fn a_delayed_reject_takes_nothing_back() {
    let mut cluster = Cluster::new(3, World::calm(44));
    let leader = cluster.elect();
    for n in 0..20u64 {
        cluster.propose(leader, format!("value {n}")).unwrap();
    }
    cluster.run(ms(500));
    let follower = others(&cluster, leader)[0];
    let matched = |cluster: &Cluster| {
        let replica = cluster.machines[&leader].replica.as_ref().unwrap();
        replica.progress().iter().find(|p| p.raft_id == follower).unwrap().matched
    };
    for probing in [false, true] {
        let status = cluster.status(leader);
        let known = matched(&cluster);
        assert_eq!(known.0, status.last_index);
        for index in 0..=status.last_index {
            for reject_hint in [0, index / 2, index, status.last_index] {
                if probing {
                    cluster.with(leader, |r, _| r.report_unreachable(follower));
                }
                let reject = v1::RaftMessage {
                    kind: MessageType::MsgAppendResponse as u32,
                    from: follower.0,
                    to: leader.0,
                    term: status.term,
                    index,
                    reject: true,
                    reject_hint,
                    ..Default::default()
                };
                cluster.with(leader, |r, now| r.step(now, reject)).unwrap();
                assert_eq!(matched(&cluster), known, "{index} {reject_hint}");
            }
        }
        cluster.propose(leader, "and on").unwrap();
        cluster.run(ms(500));
        converge(&mut cluster);
    }
    assert_eq!(cluster.machines[&follower].state.len(), 22);
    assert_eq!(cluster.oracle.elections(), 1);
}

#[test]
fn roles_are_reported() {
    let mut cluster = Cluster::new(3, World::calm(16));
    let leader = cluster.elect();
    cluster.run(ms(200));
    let replica = cluster.machines[&leader].replica.as_ref().unwrap();
    assert_eq!(replica.role().role, Role::Leader);
    assert_eq!(replica.progress().len(), 3);
    for follower in others(&cluster, leader) {
        let replica = cluster.machines[&follower].replica.as_ref().unwrap();
        assert_eq!(replica.role().leader, leader);
        assert!(replica.progress().is_empty());
    }
}

/// Runs a fixed workload and stops it after `steps` events.
fn interrupted(count: u64, steps: u64) -> Cluster {
    let mut world = World::calm(count);
    world.write = (ms(1), ms(4));
    world.checkpoints = 10;
    world.tune = |cfg| cfg.log_tail_bytes = 500;
    let mut cluster = Cluster::new(count, world);
    for step in 0..steps {
        cluster.step();
        if let Some(leader) = cluster.leader()
            && step % 3 == 0
        {
            let _ = cluster.propose(leader, format!("value {step}"));
        }
    }
    cluster
}

fn recovers(cluster: &mut Cluster) {
    let before = cluster.oracle.acknowledged();
    let leader = cluster.elect();
    let mut placed = cluster.propose(leader, "after");
    for _ in 0..100 {
        if placed.is_ok() {
            break;
        }
        cluster.run(ms(50));
        let leader = cluster.elect();
        placed = cluster.propose(leader, "after");
    }
    assert!(placed.expect("a leader takes it").1 > before);
    converge(cluster);
    assert!(cluster.oracle.acknowledged() > before);
}

#[test]
fn a_replica_may_die_at_any_step() {
    for steps in 0..400 {
        let mut cluster = interrupted(3, steps);
        let victim = RaftId(1 + steps % 3);
        cluster.power_loss(victim);
        cluster.start(victim).unwrap();
        recovers(&mut cluster);
    }
}

#[test]
fn all_machines_may_lose_power_at_any_step() {
    for count in [1, 3] {
        for steps in 0..300 {
            let mut cluster = interrupted(count, steps);
            for id in 1..=count {
                cluster.power_loss(RaftId(id));
            }
            for id in 1..=count {
                cluster.start(RaftId(id)).unwrap();
            }
            recovers(&mut cluster);
        }
    }
}

#[test]
fn a_new_group_elects_at_once() {
    for count in [3, 5] {
        let mut cluster = Cluster::new(count, World::calm(count));
        let started = cluster.now;
        assert_eq!(cluster.elect(), RaftId(1));
        let took = cluster.now - started;
        assert!(took < ms(350), "{took:?}");
    }
}
