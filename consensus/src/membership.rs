//! Membership changes: what may be asked for, and as which Raft entry it is proposed.

use holdfast_proto::ids::RaftId;
use holdfast_proto::v1;
use raft::eraftpb::{ConfChangeType, ConfChangeV2};

use crate::convert::single_change;
use crate::error::ChangeError;

/// A change of a group's membership. With more than one element it goes through a joint state,
/// which the leader leaves by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipChange {
    /// New voters; a learner among them is promoted.
    pub add_voters: Vec<RaftId>,
    /// New learners.
    pub add_learners: Vec<RaftId>,
    /// Members to remove, voters or learners.
    pub remove: Vec<RaftId>,
}

/// The Raft entry for a change of `current`, proposed by the leader `own`.
pub(crate) fn plan(
    current: &v1::Membership,
    own: RaftId,
    change: &MembershipChange,
) -> Result<ConfChangeV2, ChangeError> {
    if !current.voters_outgoing.is_empty() {
        return Err(ChangeError::Joint);
    }
    if change.remove.contains(&own) || change.add_learners.contains(&own) {
        return Err(ChangeError::RemovesLeader);
    }
    let mut all: Vec<u64> = Vec::new();
    let lists = [&change.add_voters, &change.add_learners, &change.remove];
    for id in lists.into_iter().flatten() {
        if id.0 == 0 || all.contains(&id.0) {
            return Err(ChangeError::Invalid("an id is 0 or named twice"));
        }
        all.push(id.0);
    }
    let mut singles = Vec::new();
    for id in &change.add_voters {
        if !current.voters.contains(&id.0) {
            singles.push(single_change(ConfChangeType::AddNode, id.0));
        }
    }
    for id in &change.add_learners {
        if current.voters.contains(&id.0) {
            return Err(ChangeError::Invalid("a voter cannot become a learner"));
        }
        if !current.learners.contains(&id.0) {
            singles.push(single_change(ConfChangeType::AddLearnerNode, id.0));
        }
    }
    for id in &change.remove {
        if current.voters.contains(&id.0) || current.learners.contains(&id.0) {
            singles.push(single_change(ConfChangeType::RemoveNode, id.0));
        }
    }
    if singles.is_empty() {
        return Err(ChangeError::Nothing);
    }
    let mut entry = ConfChangeV2::default();
    entry.set_changes(singles.into());
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[u64], learners: &[u64]) -> v1::Membership {
        v1::Membership {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn refuses_what_cannot_be_applied() {
        let current = members(&[1, 2, 3], &[4]);
        let own = RaftId(1);
        let change = |voters: &[u64], learners: &[u64], remove: &[u64]| {
            let ids = |list: &[u64]| list.iter().map(|id| RaftId(*id)).collect();
            plan(
                &current,
                own,
                &MembershipChange {
                    add_voters: ids(voters),
                    add_learners: ids(learners),
                    remove: ids(remove),
                },
            )
        };
        assert_eq!(change(&[], &[], &[1]), Err(ChangeError::RemovesLeader));
        assert_eq!(change(&[2], &[], &[]), Err(ChangeError::Nothing));
        assert!(matches!(change(&[5], &[], &[5]), Err(ChangeError::Invalid(_))));
        assert!(matches!(change(&[], &[2], &[]), Err(ChangeError::Invalid(_))));
        assert_eq!(change(&[4], &[5], &[2]).unwrap().get_changes().len(), 3);
    }
}
