//! Brings the Raft membership of a shard to what the metadata says.
//!
//! The metadata decides who should be a replica (a lost one was replaced by a learner with a new
//! raft id); the group's own membership follows, one change at a time: add the learner, wait until
//! it has caught up, then let it vote and remove the lost one in a single joint change. Declarative:
//! whichever sentinel leads looks at both sides and takes the next step, so any of them may die.

use holdfast_proto::v1;

use super::view::{ClusterView, quorum};

/// A learner has caught up when at most this many entries are missing.
const LAG_ENTRIES_MAX: u64 = 1024;

/// The next step for one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Order the primary on `node` to change the group's membership.
    Change { shard: u32, node: u64, add_learners: Vec<u64>, add_voters: Vec<u64>, remove: Vec<u64> },
    /// The learner votes already: record it.
    Promote { shard: u32, epoch: u64, raft_id: u64 },
}

/// The next step of every shard that needs one.
pub fn plan(view: &ClusterView) -> Vec<Step> {
    view.topology.shards.iter().filter_map(|shard| next_step(view, shard)).collect()
}

fn next_step(view: &ClusterView, shard: &v1::ShardInfo) -> Option<Step> {
    let primary = view.serving(shard.id)?.node;
    let primary_raft_id = shard.replicas.iter().find(|r| r.node == primary)?.raft_id;
    let leader = view.status(primary, shard.id, primary_raft_id)?;
    let membership = leader.membership.as_ref()?;
    // A joint configuration is left by the group itself; until then nothing may change.
    if !membership.voters_outgoing.is_empty() || membership.voters.is_empty() {
        return None;
    }
    let wanted: Vec<u64> = shard.replicas.iter().map(|r| r.raft_id).collect();
    let change = |add_learners, add_voters, remove| Step::Change {
        shard: shard.id,
        node: primary,
        add_learners,
        add_voters,
        remove,
    };
    for replica in &shard.replicas {
        let raft_id = replica.raft_id;
        if membership.voters.contains(&raft_id) {
            if replica.role() != v1::ReplicaRole::Voter {
                return Some(Step::Promote { shard: shard.id, epoch: shard.epoch, raft_id });
            }
            continue;
        }
        if !membership.learners.contains(&raft_id) {
            return Some(change(vec![raft_id], vec![], vec![]));
        }
        let status = view.status(replica.node, shard.id, raft_id);
        let caught_up = status.is_some_and(|s| {
            view.is_live(replica.node)
                && s.applied_index > 0
                && s.applied_index + LAG_ENTRIES_MAX >= leader.commit_index
        });
        return caught_up.then(|| {
            // The lost voter that this learner stands for goes in the same step, so the group never
            // needs more votes than before.
            let lost = membership.voters.iter().copied().find(|id| !wanted.contains(id));
            change(vec![], vec![raft_id], lost.into_iter().collect())
        });
    }
    remove_stray(view, shard, membership, &wanted).map(|stray| change(vec![], vec![], vec![stray]))
}

/// A member that the metadata does not know, once the others can do without it.
fn remove_stray(
    view: &ClusterView,
    shard: &v1::ShardInfo,
    membership: &v1::Membership,
    wanted: &[u64],
) -> Option<u64> {
    let members = membership.voters.iter().chain(&membership.learners);
    let stray = members.copied().find(|id| !wanted.contains(id))?;
    (view.live_voters(shard).count() >= quorum(shard)).then_some(stray)
}

#[cfg(test)]
mod tests {
    use super::super::view::testing::*;
    use super::*;

    /// Replica 12 on node 2 lost its data; 14 takes its place.
    fn replaced() -> ClusterView {
        let mut view = three_nodes();
        let shard = &mut topology_mut(&mut view).shards[0];
        shard.epoch = 2;
        shard.replicas[1].raft_id = 14;
        shard.replicas[1].role = v1::ReplicaRole::Learner.into();
        view
    }

    fn membership(view: &mut ClusterView, voters: &[u64], learners: &[u64]) {
        status_mut(view, 1).membership = Some(v1::Membership {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..Default::default()
        });
    }

    fn change(add_learners: &[u64], add_voters: &[u64], remove: &[u64]) -> Step {
        Step::Change {
            shard: SHARD,
            node: 1,
            add_learners: add_learners.to_vec(),
            add_voters: add_voters.to_vec(),
            remove: remove.to_vec(),
        }
    }

    #[test]
    fn a_healthy_shard_needs_nothing() {
        assert_eq!(plan(&three_nodes()), []);
    }

    #[test]
    fn a_replacement_goes_through_learner_and_joint_change_to_promotion() {
        let mut view = replaced();
        assert_eq!(plan(&view), [change(&[14], &[], &[])]);

        membership(&mut view, &[11, 12, 13], &[14]);
        assert_eq!(plan(&view), [], "the learner has not been heard of");

        let status = status_mut(&mut view, 2);
        (status.raft_id, status.applied_index) = (14, 0);
        assert_eq!(plan(&view), [], "it is empty");
        status_mut(&mut view, 2).applied_index = 40;
        assert_eq!(plan(&view), [change(&[], &[14], &[12])]);

        membership(&mut view, &[11, 14, 13], &[]);
        let promote = Step::Promote { shard: SHARD, epoch: 2, raft_id: 14 };
        assert_eq!(plan(&view), [promote]);
        topology_mut(&mut view).shards[0].replicas[1].role = v1::ReplicaRole::Voter.into();
        assert_eq!(plan(&view), []);
    }

    #[test]
    fn nothing_happens_during_a_joint_change_or_without_a_primary() {
        let mut view = replaced();
        let joint = status_mut(&mut view, 1).membership.as_mut().unwrap();
        joint.voters_outgoing = vec![11, 12, 13];
        assert_eq!(plan(&view), []);
        let mut view = replaced();
        status_mut(&mut view, 1).serving = false;
        assert_eq!(plan(&view), []);
    }

    #[test]
    fn a_stray_member_is_removed() {
        let mut view = three_nodes();
        membership(&mut view, &[11, 12, 13], &[20]);
        assert_eq!(plan(&view), [change(&[], &[], &[20])]);
    }
}
