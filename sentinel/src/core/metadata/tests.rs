//! One command in, the exact change out; and properties over random commands.

use std::collections::BTreeSet;

use holdfast_proto::v1;
use prost::Message;

use super::command::*;
use super::state::*;

fn apply(state: &mut Metadata, command: Command) -> Result<Outcome, Rejection> {
    state.apply(&LogRecord { time_ms: 1000, command: Some(command) })
}

fn found(shards: u32, replicas: u32) -> Command {
    let spec = v1::ClusterSpec { shards, replicas, databases: 16, ..Default::default() };
    Command::Found(Found { cluster_id: vec![1; 16].into(), spec: Some(spec) })
}

fn node(instance: &str, port: u16, incarnation: u64) -> v1::NodeInfo {
    let addr = |offset: u16| format!("127.0.0.1:{}", port + offset);
    v1::NodeInfo {
        instance: instance.to_owned(),
        link_addr: addr(0),
        peer_addr: addr(1),
        heartbeat_addr: addr(2),
        control_addr: addr(3),
        incarnation,
        ..Default::default()
    }
}

fn register(info: v1::NodeInfo) -> Command {
    Command::RegisterNode(RegisterNode { node: Some(info) })
}

fn create(nodes: &[&[u64]]) -> Command {
    let shards = nodes.iter().map(|nodes| PlacedShard { nodes: nodes.to_vec() });
    Command::CreateShards(CreateShards { shards: shards.collect() })
}

fn primary(shard: u32, term: u64, node: u64) -> Command {
    Command::PrimaryIs(PrimaryIs { shard, term, node })
}

fn replace(expected_epoch: u64, old_raft_id: u64, node: u64) -> Command {
    let reason = "its disk is empty".to_owned();
    Command::ReplaceReplica(ReplaceReplica { shard: 1, expected_epoch, old_raft_id, node, reason })
}

fn proxy(workers: u32) -> Command {
    Command::RegisterProxy(RegisterProxy { workers, ..Default::default() })
}

fn retire(proxy: u64) -> Command {
    Command::RetireProxy(RetireProxy { proxy, reason: "silent".to_owned() })
}

/// Two shards on three nodes.
fn cluster() -> Metadata {
    let mut state = Metadata::default();
    apply(&mut state, found(2, 3)).unwrap();
    for (instance, port) in [("a", 1000), ("b", 2000), ("c", 3000)] {
        apply(&mut state, register(node(instance, port, 1))).unwrap();
    }
    apply(&mut state, create(&[&[1, 2, 3], &[2, 3, 1]])).unwrap();
    state
}

fn shard(state: &Metadata, id: u32) -> &v1::ShardInfo {
    state.topology().unwrap().shards.iter().find(|s| s.id == id).unwrap()
}

fn kinds(state: &Metadata) -> Vec<&str> {
    state.events_after(0, 0).map(|e| e.kind.as_str()).collect()
}

#[test]
fn a_cluster_is_founded_once() {
    let mut state = Metadata::default();
    assert_eq!(apply(&mut state, proxy(1)), Err(Rejection::NotFounded));
    assert_eq!(apply(&mut state, found(2, 3)), Ok(Outcome::Done));
    assert_eq!(apply(&mut state, found(2, 3)), Err(Rejection::AlreadyFounded));
    let other = Found { cluster_id: vec![2; 16].into(), spec: None };
    assert_eq!(apply(&mut state, Command::Found(other)), Err(Rejection::AnotherCluster));
    assert_eq!(state.version(), 1);
}

#[test]
fn slots_are_divided_evenly_and_completely() {
    for count in [1, 2, 3, 5, 7, 100, 16384] {
        let mut next = 0;
        for at in 0..count {
            let range = even_slots(at, count);
            assert_eq!(range.first, next);
            let len = range.last + 1 - range.first;
            assert!((16384 / count..=16384 / count + 1).contains(&len));
            next = range.last + 1;
        }
        assert_eq!(next, 16384);
    }
}

#[test]
fn a_node_that_registers_again_keeps_its_id() {
    let mut state = cluster();
    let again = register(node("b", 2500, 2));
    assert_eq!(apply(&mut state, again), Ok(Outcome::NodeRegistered { id: 2 }));
    let info = &state.topology().unwrap().nodes[1];
    assert_eq!((info.link_addr.as_str(), info.incarnation), ("127.0.0.1:2500", 2));
    assert_eq!(state.topology().unwrap().nodes.len(), 3);
    assert_eq!(kinds(&state).last(), Some(&"node-started"));
}

#[test]
fn a_copied_data_directory_is_refused() {
    let mut state = cluster();
    let mut clone = node("x", 4000, 1);
    clone.id = 2;
    let error = apply(&mut state, register(clone)).unwrap_err();
    assert!(matches!(error, Rejection::WrongInstance { id: 2, .. }));
    let mut stranger = node("x", 4000, 1);
    stranger.id = 9;
    assert_eq!(apply(&mut state, register(stranger)), Err(Rejection::UnknownNode(9)));
}

#[test]
fn an_older_process_does_not_overwrite_a_newer_one() {
    let mut state = cluster();
    apply(&mut state, register(node("a", 1000, 5))).unwrap();
    let stale = Rejection::StaleIncarnation { node: 1, given: 4, actual: 5 };
    assert_eq!(apply(&mut state, register(node("a", 1000, 4))), Err(stale));
}

#[test]
fn an_emptied_directory_at_a_known_address_is_a_new_node() {
    let mut state = cluster();
    let outcome = apply(&mut state, register(node("new", 2000, 7)));
    assert_eq!(outcome, Ok(Outcome::NodeRegistered { id: 4 }));
    let former = &state.topology().unwrap().nodes[1];
    assert_eq!(former.health(), v1::NodeHealth::ObjectivelyDown);
    assert_eq!(former.heartbeat_addr, "");
    assert_eq!(kinds(&state).last(), Some(&"node-replaced"));
}

#[test]
fn shards_are_created_once_on_known_distinct_nodes() {
    let mut state = cluster();
    assert_eq!(apply(&mut state, create(&[&[1, 2, 3], &[1, 2, 3]])), Err(Rejection::ShardsExist));
    let raft_ids: Vec<u64> =
        (1..=2).flat_map(|id| shard(&state, id).replicas.iter().map(|r| r.raft_id)).collect();
    assert_eq!(raft_ids, [1, 2, 3, 4, 5, 6]);

    let mut state = Metadata::default();
    apply(&mut state, found(1, 2)).unwrap();
    apply(&mut state, register(node("a", 1000, 1))).unwrap();
    assert_eq!(apply(&mut state, create(&[&[1, 2]])), Err(Rejection::UnknownNode(2)));
    assert!(matches!(apply(&mut state, create(&[&[1, 1]])), Err(Rejection::Invalid(_))));
    assert!(matches!(apply(&mut state, create(&[&[1]])), Err(Rejection::Invalid(_))));
}

#[test]
fn the_greatest_term_is_primary() {
    let mut state = cluster();
    assert_eq!(apply(&mut state, primary(1, 5, 2)), Ok(Outcome::Done));
    assert_eq!(apply(&mut state, primary(1, 5, 2)), Ok(Outcome::Unchanged));
    let stale = |given| Err(Rejection::StaleTerm { shard: 1, given, actual: 5 });
    assert_eq!(apply(&mut state, primary(1, 4, 1)), stale(4));
    assert_eq!(apply(&mut state, primary(1, 5, 1)), stale(5), "two winners of one term");
    assert!(matches!(apply(&mut state, primary(1, 6, 99)), Err(Rejection::Invalid(_))));
    assert_eq!((shard(&state, 1).primary_node, shard(&state, 1).term), (2, 5));
}

#[test]
fn a_plan_made_for_an_older_epoch_does_nothing() {
    let mut state = cluster();
    let first = apply(&mut state, replace(1, 2, 2));
    assert_eq!(first, Ok(Outcome::ReplicaAdded { raft_id: 7 }));
    let before = state.clone();
    let stale = Rejection::StaleEpoch { shard: 1, expected: 1, actual: 2 };
    assert_eq!(apply(&mut state, replace(1, 3, 3)), Err(stale));
    assert_eq!(state, before);
}

#[test]
fn a_second_lost_replica_of_three_may_be_data_loss() {
    let mut state = cluster();
    apply(&mut state, replace(1, 2, 2)).unwrap();
    let error = apply(&mut state, replace(2, 3, 3)).unwrap_err();
    assert!(error.to_string().starts_with("DATA-LOSS-POSSIBLE"), "{error}");
    // Once the first one votes again, the next may go.
    let promote = PromoteReplica { shard: 1, expected_epoch: 2, raft_id: 7 };
    apply(&mut state, Command::PromoteReplica(promote)).unwrap();
    assert_eq!(apply(&mut state, replace(3, 3, 3)), Ok(Outcome::ReplicaAdded { raft_id: 8 }));
    let replicas: Vec<u64> = shard(&state, 1).replicas.iter().map(|r| r.raft_id).collect();
    assert_eq!(replicas, [1, 7, 8]);
}

#[test]
fn a_lost_learner_is_replaced_without_a_majority() {
    let mut state = cluster();
    apply(&mut state, replace(1, 2, 2)).unwrap();
    assert_eq!(apply(&mut state, replace(2, 7, 2)), Ok(Outcome::ReplicaAdded { raft_id: 8 }));
}

#[test]
fn worker_ids_are_never_given_twice() {
    let mut state = cluster();
    let workers = |state: &mut Metadata, count| match apply(state, proxy(count)) {
        Ok(Outcome::ProxyRegistered { workers, .. }) => workers,
        other => panic!("{other:?}"),
    };
    assert_eq!(workers(&mut state, 2), [1, 2]);
    assert_eq!(workers(&mut state, 1), [3]);
    assert_eq!(workers(&mut state, 2), [4, 5]);
    apply(&mut state, retire(2)).unwrap();
    let topology = state.topology().unwrap();
    assert_eq!((topology.retired_workers_below, &topology.retired_workers[..]), (1, &[3][..]));
    apply(&mut state, retire(1)).unwrap();
    let topology = state.topology().unwrap();
    assert_eq!((topology.retired_workers_below, &topology.retired_workers[..]), (4, &[][..]));
    apply(&mut state, retire(3)).unwrap();
    assert_eq!(state.topology().unwrap().retired_workers_below, 6);
    assert_eq!(workers(&mut state, 1), [6]);
    assert!(matches!(apply(&mut state, proxy(0)), Err(Rejection::Invalid(_))));
}

#[test]
fn a_late_verdict_about_a_former_process_is_stale() {
    let mut state = cluster();
    apply(&mut state, register(node("a", 1000, 5))).unwrap();
    let health = v1::NodeHealth::ObjectivelyDown.into();
    let down = |incarnation| {
        Command::SetHealth(SetHealth { node: 1, health, incarnation, reason: String::new() })
    };
    let stale = Rejection::StaleIncarnation { node: 1, given: 1, actual: 5 };
    assert_eq!(apply(&mut state, down(1)), Err(stale));
    assert_eq!(apply(&mut state, down(5)), Ok(Outcome::Done));
    assert_eq!(apply(&mut state, down(5)), Ok(Outcome::Unchanged));
}

#[test]
fn settings_change_and_the_password_stays_out_of_the_history() {
    let mut state = cluster();
    let settings = [("requirepass", "s3cret"), ("timeout", "30")];
    let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    apply(&mut state, Command::SetSettings(SetSettings { settings })).unwrap();
    let spec = state.topology().unwrap().spec.as_ref().unwrap();
    assert_eq!(spec.password, "s3cret");
    assert_eq!(spec.settings.get("timeout").map(String::as_str), Some("30"));
    assert!(!spec.settings.contains_key("requirepass"));
    assert!(state.events_after(0, 0).all(|e| !e.text.contains("s3cret")));
}

#[test]
fn wrong_settings_change_nothing() {
    let mut state = cluster();
    let set = |pairs: &[(&str, &str)]| {
        let settings = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Command::SetSettings(SetSettings { settings })
    };
    let before = state.clone();
    for wrong in [
        &[("timeout", "30"), ("hz", "many")][..],
        &[("no-such-parameter", "1")],
        &[("databases", "3")],
    ] {
        assert!(matches!(apply(&mut state, set(wrong)), Err(Rejection::Invalid(_))), "{wrong:?}");
        assert_eq!(state, before);
    }
    apply(&mut state, set(&[("maxmemory", "1GB"), ("lua-time-limit", "9")])).unwrap();
    let spec = state.topology().unwrap().spec.as_ref().unwrap();
    assert_eq!(spec.settings.get("maxmemory").map(String::as_str), Some("1073741824"));
    assert_eq!(spec.settings.get("busy-reply-threshold").map(String::as_str), Some("9"));
}

#[test]
fn users_change_only_from_what_was_expected() {
    let mut state = cluster();
    let change = |name: &str, expected: &str, rules: &str| v1::UserChange {
        name: name.to_owned(),
        expected: expected.to_owned(),
        rules: rules.to_owned(),
    };
    let users = |changes: Vec<v1::UserChange>| Command::ChangeUsers(ChangeUsers { changes });
    let (old, new) = ("on nopass ~* +get", "on nopass ~* +set");
    assert_eq!(apply(&mut state, users(vec![change("joe", "", old)])), Ok(Outcome::Done));
    let stale = Err(Rejection::StaleUser("joe".to_owned()));
    let both = vec![change("ann", "", old), change("joe", "", new)];
    assert_eq!(apply(&mut state, users(both)), stale, "all of them or none");
    assert_eq!(state.topology().unwrap().spec.as_ref().unwrap().users.len(), 1);
    assert_eq!(apply(&mut state, users(vec![change("joe", old, new)])), Ok(Outcome::Done));
    let wrong = vec![change("joe", new, "on +nosuchcommand")];
    assert!(matches!(apply(&mut state, users(wrong)), Err(Rejection::Invalid(_))));
    assert_eq!(apply(&mut state, users(vec![change("joe", new, "")])), Ok(Outcome::Done));
    assert!(state.topology().unwrap().spec.as_ref().unwrap().users.is_empty());
    let texts: Vec<&str> = state.events_after(0, 0).map(|e| e.text.as_str()).collect();
    assert!(texts.contains(&"users changed: joe") && texts.iter().all(|t| !t.contains("nopass")));
}

#[test]
fn requirepass_replaces_the_passwords_of_a_changed_default_user() {
    let mut state = cluster();
    let rules = "on sanitize-payload #30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4 ~a* resetchannels -@all +get";
    let change = v1::UserChange {
        name: "default".to_owned(),
        expected: String::new(),
        rules: rules.to_owned(),
    };
    apply(&mut state, Command::ChangeUsers(ChangeUsers { changes: vec![change] })).unwrap();
    let settings = [("requirepass".to_owned(), "new".to_owned())].into();
    apply(&mut state, Command::SetSettings(SetSettings { settings })).unwrap();
    let spec = state.topology().unwrap().spec.as_ref().unwrap();
    let user = holdfast_proto::acl::User::parse(&spec.users["default"]).unwrap();
    assert!(user.accepts(b"new") && !user.accepts(b"pw"));
    assert!(spec.users["default"].ends_with(" ~a* resetchannels -@all +get"));
}

#[test]
fn a_failover_is_recorded_once_and_amended_by_the_proxies() {
    let mut state = cluster();
    let report = v1::FailoverReport {
        shard: 1,
        old_node: 1,
        new_node: 2,
        term: 6,
        detected_ms: 30.0,
        elected_ms: 290.0,
        ..Default::default()
    };
    let record =
        Command::RecordFailover(RecordFailover { report: Some(report), last_alive_ms: 50_000 });
    let version = state.version();
    assert_eq!(apply(&mut state, record.clone()), Ok(Outcome::Done));
    assert_eq!(apply(&mut state, record), Ok(Outcome::Unchanged));
    for (first_reply_unix_ms, held) in [(50_320, 5), (50_310, 7), (50_400, 0)] {
        let seen = v1::ProxyFailoverReport {
            shard: 1,
            term: 6,
            first_reply_unix_ms,
            held,
            ..Default::default()
        };
        apply(&mut state, Command::AmendFailover(AmendFailover { seen: Some(seen) })).unwrap();
    }
    let event = state.events_after(0, 1).next().unwrap().clone();
    let report = event.failover.unwrap();
    assert_eq!((event.time_ms, report.first_reply_ms, report.requests_held), (50_290, 310.0, 12));
    assert_eq!(state.version(), version, "history is no topology");
}

#[test]
fn the_history_is_bounded_and_its_ids_go_on() {
    let mut state = cluster();
    let before = state.last_event_id();
    for _ in 0..2 * EVENTS_MAX {
        apply(&mut state, Command::RecordEvent(RecordEvent::default())).unwrap();
    }
    let ids: Vec<u64> = state.events_after(0, 0).map(|e| e.id).collect();
    assert!(ids.len() <= EVENTS_MAX);
    assert_eq!(ids.last(), Some(&(before + 2 * EVENTS_MAX as u64)));
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    let last = *ids.last().unwrap();
    assert_eq!(state.events_after(last - 3, 0).count(), 3);
    assert_eq!(state.events_after(0, 2).map(|e| e.id).collect::<Vec<_>>(), [last - 1, last]);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_command() -> impl Strategy<Value = Command> {
        prop_oneof![
            (1..6_u16, 1..4_u64).prop_map(|(n, i)| register(node(&n.to_string(), n * 1000, i))),
            (1..4_u16, 6..9_u16).prop_map(|(n, i)| register(node(&i.to_string(), n * 1000, 1))),
            Just(create(&[&[1, 2, 3], &[2, 3, 1]])),
            (1..4_u32, 0..9_u64, 0..6_u64).prop_map(|(s, t, n)| primary(s, t, n)),
            (0..5_u64, 0..12_u64, 0..6_u64).prop_map(|(e, r, n)| replace(e, r, n)),
            (1..3_u32, 0..5_u64, 0..12_u64).prop_map(|(shard, expected_epoch, raft_id)| {
                Command::PromoteReplica(PromoteReplica { shard, expected_epoch, raft_id })
            }),
            (0..4_u32).prop_map(proxy),
            (0..5_u64).prop_map(retire),
            (0..4_u64, 0..4_u64, 0..4_i32).prop_map(|(node, incarnation, health)| {
                Command::SetHealth(SetHealth { node, health, incarnation, reason: String::new() })
            }),
            Just(found(2, 3)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn whatever_is_proposed_the_metadata_stays_sound(
            commands in proptest::collection::vec(any_command(), 1..80)
        ) {
            let mut state = Metadata::default();
            apply(&mut state, found(2, 3)).unwrap();
            let (mut raft_ids, mut workers) = (BTreeSet::new(), BTreeSet::new());
            for command in commands {
                let before = state.clone();
                let outcome = apply(&mut state, command);
                let (old, new) = (before.topology().unwrap(), state.topology().unwrap());
                match outcome {
                    // A rejected command changes nothing.
                    Err(_) | Ok(Outcome::Unchanged) => prop_assert_eq!(&before, &state),
                    Ok(outcome) => {
                        if let Outcome::ProxyRegistered { workers: given, .. } = &outcome {
                            for worker in given {
                                prop_assert!(workers.insert(*worker), "worker id given twice");
                                prop_assert!(*worker >= new.retired_workers_below);
                            }
                        }
                        if let Outcome::ReplicaAdded { raft_id } = outcome {
                            prop_assert!(raft_ids.insert(raft_id), "raft id given twice");
                        }
                        prop_assert!(new.version >= old.version);
                        prop_assert_eq!(new.version > old.version, new != old);
                    }
                }
                for shard in &new.shards {
                    raft_ids.extend(shard.replicas.iter().map(|r| r.raft_id));
                    let nodes: BTreeSet<u64> = shard.replicas.iter().map(|r| r.node).collect();
                    prop_assert_eq!(nodes.len(), shard.replicas.len(), "one replica per node");
                    let voters = shard.replicas.iter().filter(|r| r.role() == v1::ReplicaRole::Voter);
                    prop_assert!(voters.count() > shard.replicas.len() / 2, "intact majority");
                }
            }
            // A snapshot is the state.
            let copy = Metadata::decode_snapshot(&state.encode_snapshot()).unwrap();
            prop_assert_eq!(copy, state);
        }
    }

    #[test]
    fn log_records_survive_the_disk() {
        let record = LogRecord { time_ms: 7, command: Some(found(2, 3)) };
        assert_eq!(LogRecord::decode(&record.encode_to_vec()[..]).unwrap(), record);
    }
}
