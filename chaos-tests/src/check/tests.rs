//! Hand-made histories, good and bad, among them the known-bad ones of the literature.

use super::history::{Call, Model, NEVER, Operation, Outcome, Reply, Step, read, write};
use super::{Kind, Limits, Verdict, check};

fn op(model: Model, client: u32, times: (u64, u64), call: Call, reply: Reply) -> Operation {
    let (start, end) = times;
    let outcome = Outcome::Ok(reply);
    Operation { model, key: "x".into(), client, start, end, call, outcome }
}

fn unknown(model: Model, client: u32, start: u64, call: Call) -> Operation {
    let outcome = Outcome::Unknown;
    Operation { model, key: "x".into(), client, start, end: NEVER, call, outcome }
}

fn failed(mut operation: Operation) -> Operation {
    operation.outcome = Outcome::Failed;
    operation
}

fn verdict(operations: &[Operation]) -> Verdict {
    check(operations, &Limits::default())
}

#[track_caller]
fn good(operations: &[Operation]) {
    let verdict = verdict(operations);
    assert!(verdict.is_fine(), "{:#?}", verdict.faults);
}

#[track_caller]
fn bad(operations: &[Operation], kind: Kind) -> Verdict {
    let verdict = verdict(operations);
    assert!(verdict.count(kind) > 0, "{:#?}", verdict.faults);
    verdict
}

mod registers {
    use super::*;

    fn get(client: u32, times: (u64, u64), value: Option<i64>) -> Operation {
        op(Model::Register, client, times, Call::Get, Reply::Value(value))
    }

    fn set(client: u32, times: (u64, u64), value: i64) -> Operation {
        op(Model::Register, client, times, Call::Set { value }, Reply::Done)
    }

    fn cas(client: u32, times: (u64, u64), from: i64, to: i64, did: bool) -> Operation {
        let call = Call::Cas { from: Some(from), to };
        op(Model::Register, client, times, call, Reply::Did(did))
    }

    #[test]
    fn a_read_during_a_write_may_see_either_value() {
        good(&[set(1, (0, 10), 1), set(1, (20, 40), 2), get(2, (25, 30), Some(1))]);
        good(&[set(1, (0, 10), 1), set(1, (20, 40), 2), get(2, (25, 30), Some(2))]);
    }

    #[test]
    fn stale_read() {
        let history = [set(1, (0, 10), 1), set(1, (20, 30), 2), get(2, (40, 50), Some(1))];
        bad(&history, Kind::NotLinearizable);
    }

    #[test]
    fn a_read_must_not_go_back_behind_another_read() {
        // Both reads overlap the write; the second client's starts after the first one's end.
        let history = [
            set(1, (0, 10), 1),
            set(1, (20, 100), 2),
            get(2, (30, 40), Some(2)),
            get(3, (50, 60), Some(1)),
        ];
        bad(&history, Kind::NotLinearizable);
    }

    #[test]
    fn split_brain_acknowledges_on_both_sides() {
        let history = [
            set(1, (0, 10), 1),
            set(1, (20, 30), 2),
            set(2, (20, 30), 3),
            get(1, (40, 50), Some(2)),
            get(2, (40, 50), Some(3)),
        ];
        bad(&history, Kind::NotLinearizable);
    }

    #[test]
    fn lost_update_of_two_compare_and_sets() {
        let history =
            [set(1, (0, 10), 1), cas(1, (20, 40), 1, 2, true), cas(2, (25, 45), 1, 3, true)];
        bad(&history, Kind::NotLinearizable);
        let history =
            [set(1, (0, 10), 1), cas(1, (20, 40), 1, 2, true), cas(2, (25, 45), 1, 3, false)];
        good(&history);
    }

    #[test]
    fn aborted_read_sees_a_refused_write() {
        let history = [set(1, (0, 10), 1), failed(set(1, (20, 30), 2)), get(2, (40, 50), Some(2))];
        bad(&history, Kind::NotLinearizable);
    }

    #[test]
    fn a_write_without_an_answer_may_take_effect_late_but_once() {
        let late = unknown(Model::Register, 1, 20, Call::Set { value: 2 });
        good(&[
            set(1, (0, 10), 1),
            late.clone(),
            get(2, (40, 50), Some(1)),
            get(2, (60, 70), Some(2)),
        ]);
        let history = [
            set(1, (0, 10), 1),
            late,
            get(2, (40, 50), Some(2)),
            set(3, (60, 70), 3),
            get(2, (80, 90), Some(2)),
        ];
        bad(&history, Kind::NotLinearizable);
    }

    #[test]
    fn a_read_of_nothing_after_a_write_is_lost_data() {
        bad(&[set(1, (0, 10), 1), get(2, (20, 30), None)], Kind::NotLinearizable);
        good(&[get(2, (0, 30), None), set(1, (10, 20), 1)]);
    }

    #[test]
    fn instants_that_touch_overlap() {
        good(&[set(1, (0, 10), 1), get(2, (10, 20), None)]);
    }

    #[test]
    fn evidence_names_the_operation_that_does_not_fit() {
        let history = [set(1, (0, 10), 1), set(1, (20, 30), 2), get(2, (40, 50), Some(1))];
        let verdict = bad(&history, Kind::NotLinearizable);
        assert!(verdict.faults[0].evidence[0].contains("client 2: x"), "{verdict:?}");
    }
}

mod counters_and_lists {
    use super::*;

    fn add(client: u32, times: (u64, u64), number: i64) -> Operation {
        op(Model::Counter, client, times, Call::Add { by: 1 }, Reply::Number(number))
    }

    fn count(times: (u64, u64), value: i64) -> Operation {
        op(Model::Counter, 9, times, Call::Get, Reply::Value(Some(value)))
    }

    fn append(client: u32, times: (u64, u64), value: i64, len: i64) -> Operation {
        op(Model::List, client, times, Call::Append { value }, Reply::Number(len))
    }

    fn list(times: (u64, u64), values: &[i64]) -> Operation {
        op(Model::List, 9, times, Call::ReadList, Reply::List(values.to_vec()))
    }

    #[test]
    fn increments_count_once() {
        good(&[add(1, (0, 10), 1), add(2, (0, 10), 2), count((20, 30), 2)]);
        bad(&[add(1, (0, 10), 1), add(2, (20, 30), 2), count((40, 50), 1)], Kind::Lost);
        bad(&[add(1, (0, 10), 1), count((40, 50), 2)], Kind::Doubled);
        bad(&[add(1, (0, 10), 1), add(2, (0, 10), 1), count((40, 50), 2)], Kind::Lost);
    }

    #[test]
    fn an_increment_without_an_answer_counts_at_most_once() {
        let late = || unknown(Model::Counter, 3, 5, Call::Add { by: 1 });
        good(&[add(1, (0, 10), 1), late(), count((40, 50), 1)]);
        good(&[add(1, (0, 10), 1), late(), count((40, 50), 2)]);
        bad(&[add(1, (0, 10), 1), late(), count((40, 50), 3)], Kind::Doubled);
    }

    #[test]
    fn a_hundred_increments_without_an_answer_are_no_effort() {
        let mut history: Vec<Operation> =
            (0..100).map(|at| unknown(Model::Counter, 100 + at, 0, Call::Add { by: 1 })).collect();
        let mut number = 0;
        for round in 0..100 {
            number += 1 + i64::from(round % 3 == 0);
            history.push(add(1, (10 + 10 * round, 15 + 10 * round), number));
        }
        good(&history);
        history.push(count((5_000, 5_010), 300));
        bad(&history, Kind::Doubled);
    }

    #[test]
    fn acknowledged_appends_stay() {
        good(&[append(1, (0, 10), 7, 1), append(2, (5, 20), 8, 2), list((30, 40), &[7, 8])]);
        bad(
            &[append(1, (0, 10), 7, 1), append(2, (20, 30), 8, 1), list((40, 50), &[8])],
            Kind::Lost,
        );
        bad(&[append(1, (0, 10), 7, 1), list((40, 50), &[7, 7])], Kind::Doubled);
        bad(&[append(1, (0, 10), 7, 1), list((40, 50), &[7, 9])], Kind::Phantom);
        let refused = failed(append(2, (20, 30), 8, 2));
        bad(&[append(1, (0, 10), 7, 1), refused, list((40, 50), &[7, 8])], Kind::Phantom);
    }

    #[test]
    fn duelling_histories_of_a_list() {
        let history = [
            append(1, (0, 10), 1, 1),
            append(1, (20, 30), 2, 2),
            append(2, (20, 30), 3, 2),
            list((40, 50), &[1, 2]),
            list((60, 70), &[1, 3]),
        ];
        bad(&history, Kind::NotLinearizable);
    }

    #[test]
    fn a_pipeline_of_a_thousand_appends_is_no_effort() {
        let mut history: Vec<Operation> =
            (0..1000).map(|at| append(1, (0, 1_000 + at as u64), at, at + 1)).collect();
        history.push(list((10_000, 10_001), &(0..1000).collect::<Vec<_>>()));
        good(&history);
        history[500] = append(1, (0, 1_500), 500, 500);
        bad(&history, Kind::NotLinearizable);
    }
}

mod sets_and_hashes {
    use super::*;

    #[test]
    fn membership() {
        let add = |times, value, number| {
            op(Model::Set, 1, times, Call::AddMember { value }, Reply::Number(number))
        };
        let remove = |times, value, number| {
            op(Model::Set, 2, times, Call::RemoveMember { value }, Reply::Number(number))
        };
        let all = |times, values: &[i64]| {
            op(Model::Set, 3, times, Call::Members, Reply::List(values.to_vec()))
        };
        good(&[
            add((0, 10), 1, 1),
            add((20, 30), 2, 1),
            remove((40, 50), 1, 1),
            all((60, 70), &[2]),
        ]);
        bad(&[add((0, 10), 1, 1), all((20, 30), &[])], Kind::NotLinearizable);
        bad(&[add((0, 10), 1, 1), all((20, 30), &[1, 1])], Kind::NotLinearizable);
        bad(&[add((0, 10), 1, 1), add((20, 30), 1, 1)], Kind::NotLinearizable);
        bad(&[add((0, 10), 1, 1), all((20, 30), &[1, 5])], Kind::NotLinearizable);
    }

    #[test]
    fn fields() {
        let set = |times, field, value, added| {
            op(Model::Hash, 1, times, Call::SetField { field, value }, Reply::Number(added))
        };
        let get = |times, field, value| {
            op(Model::Hash, 2, times, Call::GetField { field }, Reply::Value(value))
        };
        let all = |times, pairs: &[(i64, i64)]| {
            op(Model::Hash, 3, times, Call::Fields, Reply::Pairs(pairs.to_vec()))
        };
        good(&[set((0, 10), 1, 5, 1), set((20, 30), 1, 6, 0), get((40, 50), 1, Some(6))]);
        good(&[set((0, 10), 1, 5, 1), set((20, 30), 2, 6, 1), all((40, 50), &[(2, 6), (1, 5)])]);
        bad(
            &[set((0, 10), 1, 5, 1), set((20, 30), 1, 6, 0), get((40, 50), 1, Some(5))],
            Kind::NotLinearizable,
        );
        // Half of an atomic answer from before, half from after.
        let torn = [
            set((0, 10), 1, 5, 1),
            set((20, 30), 2, 6, 1),
            set((40, 50), 1, 7, 0),
            set((60, 70), 2, 8, 0),
            all((35, 75), &[(1, 5), (2, 8)]),
        ];
        bad(&torn, Kind::NotLinearizable);
    }
}

mod expiring {
    use super::*;

    const MS: u64 = 1_000_000;

    fn set(times: (u64, u64), value: i64) -> Operation {
        let call = Call::SetExpiring { value, ttl_ms: 1_000 };
        op(Model::Expiring, 1, (times.0 * MS, times.1 * MS), call, Reply::Done)
    }

    fn lock(times: (u64, u64), value: i64, did: bool) -> Operation {
        let call = Call::Lock { value, ttl_ms: 1_000 };
        op(Model::Expiring, 2, (times.0 * MS, times.1 * MS), call, Reply::Did(did))
    }

    fn get(times: (u64, u64), value: Option<i64>) -> Operation {
        op(Model::Expiring, 3, (times.0 * MS, times.1 * MS), Call::Get, Reply::Value(value))
    }

    #[test]
    fn a_value_lives_as_long_as_it_should() {
        good(&[set((0, 10), 1), get((900, 910), Some(1)), get((1100, 1110), None)]);
        bad(&[set((0, 10), 1), get((500, 510), None)], Kind::NotLinearizable);
        bad(&[set((0, 10), 1), get((1200, 1210), Some(1))], Kind::NotLinearizable);
    }

    #[test]
    fn what_was_gone_stays_gone() {
        good(&[set((0, 10), 1), get((990, 995), Some(1)), get((1000, 1005), None)]);
        let history = [set((0, 10), 1), get((990, 995), None), get((1000, 1005), Some(1))];
        bad(&history, Kind::NotLinearizable);
    }

    #[test]
    fn a_lock_has_one_owner() {
        good(&[lock((0, 10), 1, true), lock((20, 30), 2, false), lock((1100, 1110), 3, true)]);
        bad(&[lock((0, 10), 1, true), lock((20, 30), 2, true)], Kind::NotLinearizable);
        bad(&[lock((0, 10), 1, true), lock((1200, 1210), 2, false)], Kind::NotLinearizable);
    }
}

mod queues {
    use super::*;

    fn push(times: (u64, u64), value: i64) -> Operation {
        op(Model::Queue, 1, times, Call::Push { value }, Reply::Done)
    }

    fn pop(times: (u64, u64), value: Option<i64>) -> Operation {
        op(Model::Queue, 2, times, Call::Pop, Reply::Value(value))
    }

    #[test]
    fn each_element_is_delivered_once() {
        good(&[
            push((0, 10), 1),
            push((20, 30), 2),
            pop((0, 40), Some(1)),
            pop((50, 60), Some(2)),
            pop((70, 80), None),
        ]);
        bad(&[push((0, 10), 1), pop((20, 30), None)], Kind::Lost);
        bad(&[push((0, 10), 1), pop((20, 30), Some(1)), pop((40, 50), Some(1))], Kind::Doubled);
        bad(&[pop((20, 30), Some(1))], Kind::Phantom);
        bad(&[failed(push((0, 10), 1)), pop((20, 30), Some(1))], Kind::Phantom);
        bad(&[push((40, 50), 1), pop((20, 30), Some(1))], Kind::Phantom);
    }

    #[test]
    fn a_pop_without_an_answer_may_have_taken_one() {
        let lost = || unknown(Model::Queue, 3, 15, Call::Pop);
        good(&[push((0, 10), 1), lost(), pop((20, 30), None)]);
        bad(&[push((0, 10), 1), push((11, 12), 2), lost(), pop((20, 30), None)], Kind::Lost);
    }

    #[test]
    fn first_in_first_out() {
        let history =
            [push((0, 10), 1), push((20, 30), 2), pop((40, 50), Some(2)), pop((60, 70), Some(1))];
        bad(&history, Kind::Order);
        good(&[
            push((0, 25), 1),
            push((20, 30), 2),
            pop((40, 50), Some(2)),
            pop((60, 70), Some(1)),
        ]);
    }

    #[test]
    fn not_called_empty_while_something_is_in_it() {
        let history = [push((0, 10), 1), pop((20, 30), None), pop((40, 50), Some(1))];
        bad(&history, Kind::Stale);
        good(&[push((0, 25), 1), pop((20, 30), None), pop((40, 50), Some(1))]);
    }
}

mod transactions {
    use super::*;

    /// `+list:value` appends, `list=values` is a read.
    fn txn(client: u32, times: (u64, u64), text: &str) -> Operation {
        let (mut steps, mut lists) = (Vec::new(), Vec::new());
        for word in text.split_whitespace() {
            if let Some(append) = word.strip_prefix('+') {
                let (key, value) = append.split_once(':').unwrap();
                steps.push(Step { key: key.parse().unwrap(), append: value.parse().ok() });
                lists.push(None);
            } else {
                let (key, values) = word.split_once('=').unwrap();
                steps.push(Step { key: key.parse().unwrap(), append: None });
                let values = values.split(',').filter(|text| !text.is_empty());
                lists.push(Some(values.map(|value| value.parse().unwrap()).collect()));
            }
        }
        let call = Call::Transaction { steps };
        op(Model::Transactions, client, times, call, Reply::Lists(lists))
    }

    #[track_caller]
    fn cycle(operations: &[Operation], name: &str) {
        let verdict = bad(operations, Kind::Cycle);
        assert!(verdict.faults[0].text.starts_with(name), "{:#?}", verdict.faults);
    }

    #[test]
    fn serial() {
        good(&[
            txn(1, (0, 10), "+1:1 +2:1 1=1"),
            txn(2, (0, 10), "1=1 +1:2 2=1"),
            txn(1, (20, 30), "1=1,2 2=1 3="),
        ]);
    }

    #[test]
    fn write_cycle_g0() {
        let history = [
            txn(1, (0, 10), "+1:1 +2:1"),
            txn(2, (0, 10), "+1:2 +2:2"),
            txn(3, (20, 30), "1=1,2 2=2,1"),
        ];
        cycle(&history, "G0");
    }

    #[test]
    fn aborted_and_phantom_reads() {
        let history = [failed(txn(1, (0, 10), "+1:1")), txn(2, (20, 30), "1=1")];
        let verdict = bad(&history, Kind::Phantom);
        assert!(verdict.faults[0].text.starts_with("G1a"), "{verdict:?}");
        bad(&[txn(2, (20, 30), "1=1")], Kind::Phantom);
    }

    #[test]
    fn dirty_intermediate_read_g1b() {
        let history =
            [txn(1, (0, 10), "+1:1 +1:2"), txn(2, (0, 10), "1=1"), txn(3, (20, 30), "1=1,2")];
        cycle(&history, "G1b");
    }

    #[test]
    fn circular_information_flow_g1c() {
        let history = [txn(1, (0, 10), "+1:1 2=1"), txn(2, (0, 10), "+2:1 1=1")];
        cycle(&history, "G1c");
    }

    #[test]
    fn read_skew_g_single() {
        let history =
            [txn(1, (0, 10), "+1:1 +2:1"), txn(2, (0, 10), "1= 2=1"), txn(3, (20, 30), "1=1 2=1")];
        cycle(&history, "G-single");
    }

    #[test]
    fn lost_update_of_two_transactions() {
        let history =
            [txn(1, (0, 10), "1= +1:1"), txn(2, (0, 10), "1= +1:2"), txn(3, (20, 30), "1=1,2")];
        cycle(&history, "G-single");
    }

    #[test]
    fn write_skew_g2_item() {
        let history =
            [txn(1, (0, 10), "1= +2:1"), txn(2, (0, 10), "2= +1:1"), txn(3, (20, 30), "1=1 2=1")];
        cycle(&history, "G2-item");
    }

    #[test]
    fn stale_read_needs_real_time() {
        let history = [txn(1, (0, 10), "+1:1"), txn(2, (20, 30), "1="), txn(3, (40, 50), "1=1")];
        cycle(&history, "G-single-realtime");
        good(&[txn(1, (0, 25), "+1:1"), txn(2, (20, 30), "1="), txn(3, (40, 50), "1=1")]);
    }

    #[test]
    fn acknowledged_append_that_no_one_ever_sees() {
        let history = [txn(1, (0, 10), "+1:1"), txn(2, (20, 30), "+1:2"), txn(3, (40, 50), "1=2")];
        cycle(&history, "G0-realtime");
    }

    #[test]
    fn lists_that_contradict_each_other() {
        let history = [
            txn(1, (0, 10), "+1:1"),
            txn(2, (0, 10), "+1:2"),
            txn(3, (20, 30), "1=1"),
            txn(4, (20, 30), "1=2"),
            txn(4, (40, 50), "1=2,1"),
        ];
        cycle(&history, "lists of 1 contradict");
    }

    #[test]
    fn an_append_applied_twice() {
        let history = [txn(1, (0, 10), "+1:1"), txn(2, (20, 30), "1=1,1")];
        bad(&history, Kind::Doubled);
    }

    #[test]
    fn a_transaction_without_an_answer_happened_or_not() {
        let mut late = txn(1, (5, 10), "+1:9 +2:9");
        late.outcome = Outcome::Unknown;
        late.end = NEVER;
        good(&[late.clone(), txn(2, (20, 30), "1= 2="), txn(2, (40, 50), "1=9 2=9")]);
        good(&[late.clone(), txn(2, (20, 30), "1= 2=")]);
        cycle(&[late, txn(2, (20, 30), "1=9 2="), txn(2, (40, 50), "1=9 2=9")], "G-single");
    }
}

#[test]
fn what_takes_too_long_is_a_fault() {
    // Twenty concurrent writes and reads of values that fit no order.
    let mut history: Vec<Operation> = (0..20)
        .map(|at| op(Model::Register, at, (0, 100), Call::Set { value: at.into() }, Reply::Done))
        .collect();
    for at in 0..20 {
        let read = Reply::Value(Some(i64::from(at)));
        history.push(op(Model::Register, 100 + at, (0, 100), Call::Get, read));
    }
    history.push(op(Model::Register, 99, (0, 100), Call::Get, Reply::Value(Some(77))));
    let limits = Limits { steps_per_object: 10_000, ..Limits::default() };
    let verdict = check(&history, &limits);
    assert_eq!(verdict.count(Kind::Inconclusive), 1);
    assert!(!verdict.is_fine());
    let no_time = Limits { time: std::time::Duration::ZERO, ..Limits::default() };
    assert_eq!(check(&history, &no_time).count(Kind::Inconclusive), 1);
}

#[test]
fn an_answer_that_a_call_cannot_have_is_a_fault() {
    bad(&[op(Model::Counter, 1, (0, 1), Call::Add { by: 1 }, Reply::Done)], Kind::Malformed);
    bad(&[op(Model::List, 1, (0, 1), Call::Get, Reply::Value(None))], Kind::Malformed);
}

#[test]
fn a_file_survives_a_round_trip() {
    let steps = vec![Step { key: 1, append: Some(3) }, Step { key: 2, append: None }];
    let history = vec![
        op(Model::Register, 1, (0, 10), Call::Cas { from: None, to: 3 }, Reply::Did(true)),
        unknown(Model::Expiring, 1, 20, Call::Lock { value: 2, ttl_ms: 5 }),
        failed(op(Model::Set, 2, (1, 2), Call::AddMember { value: 1 }, Reply::Number(1))),
        op(
            Model::Transactions,
            3,
            (5, 6),
            Call::Transaction { steps },
            Reply::Lists(vec![None, Some(vec![3])]),
        ),
    ];
    let mut bytes = Vec::new();
    write(&mut bytes, &history).unwrap();
    assert_eq!(read(bytes.as_slice()).unwrap(), history);
    let documented = "{\"model\":\"counter\",\"key\":\"c:1\",\"client\":4,\"start\":1300,\"end\":null,\
                      \"call\":{\"f\":\"add\",\"by\":1},\"outcome\":\"unknown\"}\n\
                      {\"model\":\"register\",\"key\":\"r:1\",\"client\":3,\"start\":1200,\"end\":4100,\
                      \"call\":{\"f\":\"set\",\"value\":7},\"outcome\":{\"ok\":\"done\"}}";
    assert_eq!(read(documented.as_bytes()).unwrap().len(), 2);
    let wrong = documented.replace("4100", "null");
    assert!(read(wrong.as_bytes()).unwrap_err().to_string().starts_with("line 2: "));
}
