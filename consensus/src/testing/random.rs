//! Random runs: faults, orders and proposals at once, then healing and convergence.

use std::time::Duration;

use holdfast_proto::ids::{RaftId, Term};

use super::{Cluster, World};
use crate::MembershipChange;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Faults a run may inject besides kills, pauses, partitions, and wrong or late orders.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Machines die and lose what they had not synced.
    pub power_loss: bool,
    /// Members come and go.
    pub membership: bool,
}

fn someone(cluster: &mut Cluster, among: &[RaftId]) -> Option<RaftId> {
    let count = among.len() as u64;
    (count > 0).then(|| among[cluster.rng.below(count) as usize])
}

fn active(cluster: &Cluster) -> Vec<RaftId> {
    let machines = cluster.machines.values();
    let active = machines.filter(|m| m.replica.is_some() && !m.paused);
    active.map(|m| m.raft_id).collect()
}

fn fault(cluster: &mut Cluster, faults: Faults, next_id: &mut u64) {
    let all: Vec<_> = cluster.machines.keys().copied().collect();
    let Some(id) = someone(cluster, &all) else {
        return;
    };
    let down = cluster.machines[&id].replica.is_none();
    match cluster.rng.below(12) {
        0 if !down => cluster.kill(id),
        1 if !down && faults.power_loss => cluster.power_loss(id),
        0..=3 if down && !cluster.machines[&id].amnesiac => {
            cluster.start(id).expect("what survived is consistent");
        }
        2 if !cluster.machines[&id].paused => cluster.pause(id),
        2..=4 if cluster.machines[&id].paused => cluster.resume(id),
        5 => cluster.isolate(id, true),
        6 => cluster.cut.clear(),
        7 => {
            if let Some(other) = someone(cluster, &all) {
                cluster.cut.insert((id, other));
            }
        }
        8 if !down && !cluster.machines[&id].paused => failover(cluster, id),
        9 => {
            let (leader, running) = (cluster.leader(), active(cluster));
            if let (Some(leader), Some(to)) = (leader, someone(cluster, &running)) {
                let _ = cluster.with(leader, |r, now| r.transfer_leader(now, to));
            }
        }
        10 if faults.membership => change_membership(cluster, next_id),
        11 if !down && !cluster.machines[&id].paused => cluster.checkpoint(id),
        _ => {}
    }
}

/// What the sentinels order; here often wrongly or late.
fn failover(cluster: &mut Cluster, target: RaftId) {
    let status = cluster.status(target);
    let (term, leader) = (Term(status.term), RaftId(status.leader_raft_id));
    for id in active(cluster) {
        let _ = cluster.with(id, |r, now| r.forget_leader(now, term, leader));
    }
    let _ = cluster.with(target, |r, now| r.campaign(now));
}

fn change_membership(cluster: &mut Cluster, next_id: &mut u64) {
    let Some(leader) = cluster.leader() else {
        return;
    };
    let membership = cluster.status(leader).membership.unwrap_or_default();
    let mut change = MembershipChange::default();
    if let Some(learner) = membership.learners.first() {
        change.add_voters.push(RaftId(*learner));
        let victims: Vec<_> = membership.voters.iter().filter(|v| **v != leader.0).collect();
        if membership.voters.len() >= 3 {
            let at = cluster.rng.below(victims.len() as u64) as usize;
            change.remove.push(RaftId(*victims[at]));
        }
    } else if cluster.machines.len() < 8 {
        *next_id += 1;
        cluster.add(RaftId(*next_id), Vec::new());
        change.add_learners.push(RaftId(*next_id));
    }
    let _ = cluster.with(leader, |r, now| r.change_membership(now, &change));
}

/// One run over `count` founding members; panics if an invariant breaks or the cluster does not
/// recover. Returns a hash of everything that happened.
pub fn run(mut world: World, count: u64, faults: Faults) -> u64 {
    let seed = world.seed;
    // With unsynced acknowledgements every machine that dies is lost for good.
    world.sync_always = faults.power_loss || seed.is_multiple_of(2);
    let mut cluster = Cluster::new(count, world);
    let mut next_id = 100;
    let mut proposed = 0u64;
    for _ in 0..600 {
        let pause = cluster.rng.below(30);
        cluster.run(ms(pause));
        let running = active(&cluster);
        if let Some(id) = someone(&mut cluster, &running) {
            for _ in 0..cluster.rng.below(4) {
                proposed += 1;
                let padding = "x".repeat(cluster.rng.below(200) as usize);
                let _ = cluster.propose(id, format!("{proposed} {padding}"));
            }
            if cluster.rng.chance(20) {
                cluster.read(id);
            }
        }
        if cluster.rng.chance(15) {
            fault(&mut cluster, faults, &mut next_id);
        }
    }
    cluster.check_logs();
    heal(&mut cluster, seed);
    cluster.trace ^ cluster.now.as_micros() as u64
}

fn heal(cluster: &mut Cluster, seed: u64) {
    cluster.cut.clear();
    cluster.world.loss = 0;
    let all: Vec<_> = cluster.machines.keys().copied().collect();
    for id in all {
        if cluster.machines[&id].paused {
            cluster.resume(id);
        }
        if cluster.machines[&id].replica.is_none() && !cluster.machines[&id].amnesiac {
            cluster.start(id).expect("what survived is consistent");
        }
        assert!(!cluster.machines[&id].amnesiac, "seed {seed}: nothing was lost");
    }
    let before = cluster.oracle.acknowledged();
    let served = cluster.run_until(Duration::from_secs(60), |c| {
        let Some(leader) = c.leader() else {
            return false;
        };
        c.machines[&leader].serving && c.propose(leader, "after").is_ok()
    });
    assert!(served, "seed {seed}: no leader serves after healing: {:#?}", describe(cluster));
    let converged = cluster.run_until(Duration::from_secs(60), |c| {
        let Some(leader) = c.leader() else {
            return false;
        };
        let membership = c.status(leader).membership.unwrap_or_default();
        let members = [membership.voters, membership.learners].concat();
        let last = c.status(leader).last_index;
        last > before.0
            && members.iter().all(|id| {
                let id = RaftId(*id);
                c.status(id).applied_index == last
                    && c.machines[&id].state == c.machines[&leader].state
            })
    });
    assert!(converged, "seed {seed}: no convergence: {:#?}", describe(cluster));
    cluster.check_logs();
    assert!(cluster.oracle.acknowledged() > before, "seed {seed}");
}

fn describe(cluster: &Cluster) -> Vec<String> {
    let running = cluster.running().into_iter();
    running.map(|id| format!("{:?}", cluster.status(id))).collect()
}
