//! One event in, exact effects out. The view: shard 1 on nodes 1, 2, 3, led by node 1 in term 5.

use super::super::quorum::Verdict;
use super::super::view::testing::*;
use super::*;

const OLD: Primary = Primary { term: 5, node: 1 };

fn primary_dead() -> ClusterView {
    let mut view = three_nodes();
    verdict(&mut view, 1, Verdict::ObjectivelyDown { hard: true });
    view
}

fn started(view: &ClusterView) -> (Election, Vec<Effect>) {
    let cause = Cause::NodeDown { hard: true };
    let mut election = Election::new(ms(1030), SHARD, cause, Some(OLD), ms(1000));
    let effects = step(&mut election, 1030, view, Input::Wake);
    (election, effects)
}

fn step(election: &mut Election, at: u64, view: &ClusterView, input: Input) -> Vec<Effect> {
    let mut out = Vec::new();
    election.step(ms(at), view, input, &mut out);
    out
}

fn obeyed(view: &ClusterView, node: u64) -> Input {
    let mut status = view.nodes[&node].replicas[0].clone();
    status.leader_raft_id = 0;
    let reply = v1::ForgetLeaderReply { obeyed: true, status: Some(status), ..Default::default() };
    Input::ForgetReply { node, reply: Some(Box::new(reply)) }
}

fn vetoed(node: u64, retry_after_ms: u64) -> Input {
    let reply =
        v1::ForgetLeaderReply { retry_after_us: retry_after_ms * 1000, ..Default::default() };
    Input::ForgetReply { node, reply: Some(Box::new(reply)) }
}

fn forget(node: u64) -> Effect {
    Effect::Forget { node, term: 5, leader_raft_id: 11 }
}

#[test]
fn all_live_replicas_are_asked_at_once() {
    let (_, effects) = started(&primary_dead());
    assert_eq!(effects, [forget(2), forget(3)]);
}

#[test]
fn a_veto_is_asked_again_right_after_its_time() {
    let view = primary_dead();
    let (mut election, _) = started(&view);
    assert_eq!(step(&mut election, 1032, &view, vetoed(2, 240)), []);
    assert_eq!(election.next_wake(), Some(ms(1230)), "node 3 has not answered");
    assert_eq!(step(&mut election, 1033, &view, vetoed(3, 239)), []);
    assert_eq!(election.next_wake(), Some(ms(1273)));
    assert_eq!(step(&mut election, 1272, &view, Input::Wake), []);
    assert_eq!(step(&mut election, 1273, &view, Input::Wake), [forget(2), forget(3)]);
}

#[test]
fn the_best_log_campaigns_when_a_majority_has_forgotten() {
    let mut view = primary_dead();
    status_mut(&mut view, 3).last_index = 51;
    let (mut election, _) = started(&view);
    let two = obeyed(&view, 2);
    assert_eq!(step(&mut election, 1031, &view, two), []);
    let three = obeyed(&view, 3);
    let campaign = Effect::Campaign { node: 3, term: 5 };
    assert_eq!(step(&mut election, 1032, &view, three), [campaign]);
}

#[test]
fn a_greater_last_term_beats_a_longer_log() {
    let mut view = primary_dead();
    status_mut(&mut view, 2).last_index = 90;
    status_mut(&mut view, 2).last_term = 4;
    let (mut election, _) = started(&view);
    let (two, three) = (obeyed(&view, 2), obeyed(&view, 3));
    step(&mut election, 1031, &view, two);
    let campaign = Effect::Campaign { node: 3, term: 5 };
    assert_eq!(step(&mut election, 1032, &view, three), [campaign]);
}

#[test]
fn one_of_three_never_campaigns() {
    let mut view = primary_dead();
    verdict(&mut view, 3, Verdict::ObjectivelyDown { hard: false });
    let (mut election, effects) = started(&view);
    assert_eq!(effects, [forget(2)]);
    let two = obeyed(&view, 2);
    assert_eq!(step(&mut election, 1031, &view, two), []);
    assert_eq!(election.next_wake(), None, "nothing to do until somebody comes back");
    verdict(&mut view, 3, Verdict::Up);
    assert_eq!(step(&mut election, 2000, &view, Input::Wake), [forget(3)]);
}

#[test]
fn a_candidate_that_does_not_win_makes_room_for_the_next() {
    let view = primary_dead();
    let (mut election, _) = started(&view);
    let (two, three) = (obeyed(&view, 2), obeyed(&view, 3));
    step(&mut election, 1031, &view, two.clone());
    let first = step(&mut election, 1031, &view, three.clone());
    assert_eq!(first, [Effect::Campaign { node: 2, term: 5 }]);
    assert_eq!(step(&mut election, 1330, &view, Input::Wake), []);
    assert_eq!(step(&mut election, 1331, &view, Input::Wake), [forget(2), forget(3)]);
    step(&mut election, 1332, &view, two);
    let second = step(&mut election, 1332, &view, three);
    assert_eq!(second, [Effect::Campaign { node: 3, term: 5 }]);
}

#[test]
fn a_refused_campaign_is_ordered_again_soon() {
    let view = primary_dead();
    let (mut election, _) = started(&view);
    let (two, three) = (obeyed(&view, 2), obeyed(&view, 3));
    step(&mut election, 1031, &view, two.clone());
    step(&mut election, 1031, &view, three.clone());
    let refused = Input::CampaignReply { node: 2, started: false };
    assert_eq!(step(&mut election, 1033, &view, refused), [forget(3)]);
    step(&mut election, 1034, &view, three);
    assert_eq!(step(&mut election, 1053, &view, Input::Wake), [forget(2)]);
    let campaign = Effect::Campaign { node: 2, term: 5 };
    assert_eq!(step(&mut election, 1054, &view, two), [campaign]);
}

#[test]
fn the_preferred_primary_of_a_new_shard_may_try_more_than_once() {
    let mut view = three_nodes();
    for node in 1..=3 {
        let status = status_mut(&mut view, node);
        status.role = v1::RaftRole::Follower.into();
        (status.term, status.leader_raft_id, status.serving) = (1, 0, false);
    }
    let cause = Cause::Founding { preferred: 3 };
    let mut election = Election::new(ms(1000), SHARD, cause, None, ms(1000));
    let mut campaigns = Vec::new();
    for at in (1000..=1000 + 300 * 4).step_by(300) {
        for effect in step(&mut election, at, &view, Input::Wake) {
            if let Effect::Campaign { node, .. } = effect {
                campaigns.push(node);
            }
        }
    }
    assert_eq!(campaigns, [3, 3, 3, 3, 1]);
}

#[test]
fn the_winner_ends_it_with_a_report() {
    let mut view = primary_dead();
    let (mut election, _) = started(&view);
    let primary = Primary { term: 6, node: 2 };
    view.primary_reported(SHARD, primary);
    let effects = step(&mut election, 1290, &view, Input::Wake);
    let report = v1::FailoverReport {
        shard: SHARD,
        old_node: 1,
        new_node: 2,
        term: 6,
        detected_ms: 30.0,
        elected_ms: 290.0,
        ..Default::default()
    };
    assert_eq!(effects, [Effect::Won { primary, report, last_alive: ms(1000) }]);
}

#[test]
fn an_old_primary_that_serves_on_calls_it_off() {
    let mut view = primary_dead();
    let (mut election, _) = started(&view);
    verdict(&mut view, 1, Verdict::Up);
    assert_eq!(step(&mut election, 1100, &view, Input::Wake), [Effect::CalledOff]);
}

#[test]
fn a_deposed_leader_that_still_believes_in_itself_is_not_the_winner() {
    let mut view = three_nodes();
    let old = Some(Primary { term: 7, node: 2 });
    let mut election = Election::new(ms(1030), SHARD, Cause::Leaderless, old, ms(1000));
    let effects = step(&mut election, 1030, &view, Input::Wake);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Won { .. } | Effect::CalledOff)));
    status_mut(&mut view, 3).term = 8;
    status_mut(&mut view, 3).role = v1::RaftRole::Leader.into();
    status_mut(&mut view, 3).serving = true;
    let effects = step(&mut election, 1040, &view, Input::Wake);
    assert!(matches!(effects[..], [Effect::Won { .. }]));
}

#[test]
fn the_better_log_is_waited_for_but_not_for_long() {
    let mut view = three_nodes();
    // Five replicas, one dead: three of the four others are a majority without the best log.
    let shard = &mut topology_mut(&mut view).shards[0];
    for node in [4, 5] {
        let mut replica = shard.replicas[0];
        (replica.node, replica.raft_id) = (node, node + 10);
        shard.replicas.push(replica);
    }
    for node in [4, 5] {
        view.heartbeat(ms(1000), reply(node));
    }
    status_mut(&mut view, 5).last_index = 60;
    verdict(&mut view, 1, Verdict::ObjectivelyDown { hard: true });
    let (mut election, effects) = started(&view);
    assert_eq!(effects.len(), 4);
    for node in [2, 3, 4] {
        let reply = obeyed(&view, node);
        assert_eq!(step(&mut election, 1031, &view, reply), []);
    }
    assert_eq!(election.next_wake(), Some(ms(1091)));
    assert_eq!(
        step(&mut election, 1091, &view, Input::Wake),
        [Effect::Campaign { node: 2, term: 5 }]
    );
}

#[test]
fn many_vetoes_slow_the_questions_down() {
    let view = primary_dead();
    let (mut election, _) = started(&view);
    let mut at = 1032;
    for _ in 0..VETOES_FAST_MAX {
        step(&mut election, at, &view, vetoed(2, 10));
        at += 11;
        let effects = step(&mut election, at, &view, Input::Wake);
        assert!(effects.contains(&forget(2)), "at {at}: {effects:?}");
    }
    step(&mut election, at, &view, vetoed(2, 10));
    let effects = step(&mut election, at + 499, &view, Input::Wake);
    assert!(!effects.contains(&forget(2)));
    let effects = step(&mut election, at + 500, &view, Input::Wake);
    assert!(effects.contains(&forget(2)));
}

#[test]
fn a_new_shard_waits_for_its_preferred_primary() {
    let mut view = three_nodes();
    for node in 1..=3 {
        let status = status_mut(&mut view, node);
        status.role = v1::RaftRole::Follower.into();
        (status.term, status.leader_raft_id, status.serving) = (1, 0, false);
    }
    let preferred = view.nodes.remove(&3).unwrap();
    let cause = Cause::Founding { preferred: 3 };
    let mut election = Election::new(ms(1030), SHARD, cause, None, ms(1030));
    assert_eq!(step(&mut election, 1030, &view, Input::Wake), [], "a majority, but not node 3");
    view.nodes.insert(3, preferred);
    let campaign = Effect::Campaign { node: 3, term: 1 };
    assert_eq!(step(&mut election, 1200, &view, Input::Wake), [campaign]);
}
