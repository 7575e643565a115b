use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PACKED: EncodingLimits =
    EncodingLimits { zset_max_listpack_entries: 5000, ..EncodingLimits::REDIS };
const BIG: EncodingLimits =
    EncodingLimits { zset_max_listpack_entries: 0, ..EncodingLimits::REDIS };

type Model = BTreeMap<Vec<u8>, f64>;

fn in_order(model: &Model) -> Vec<(f64, Vec<u8>)> {
    let mut elements: Vec<_> =
        model.iter().map(|(member, &score)| (score, member.clone())).collect();
    elements.sort_by(|a, b| compare(a.0, &a.1, b.0, &b.1));
    elements
}

fn contents(zset: &ZSet) -> Vec<(f64, Vec<u8>)> {
    zset.iter().map(|(member, score)| (score, member.to_vec())).collect()
}

fn digest_of(zset: &ZSet) -> [u8; 16] {
    let mut digest = Digest::new();
    zset.digest(&mut digest);
    digest.finish()
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-4i32..4).prop_map(f64::from),
        2 => any::<f64>().prop_filter("not NaN", |score| !score.is_nan()),
        1 => Just(f64::INFINITY),
        1 => Just(f64::NEG_INFINITY),
        1 => Just(-0.0),
        1 => Just(0.1),
        1 => Just(1e17),
    ]
}

fn member() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0u32..60).prop_map(|member| member.to_string().into_bytes()),
        "[a-c]{0,3}".prop_map(String::into_bytes),
    ]
}

fn bound() -> impl Strategy<Value = Bound<f64>> {
    prop_oneof![
        score().prop_map(Bound::Included),
        score().prop_map(Bound::Excluded),
        Just(Bound::Unbounded),
    ]
}

fn check(zset: &ZSet, model: &Model) {
    let expected = in_order(model);
    assert_eq!(contents(zset), expected);
    assert_eq!(zset.len(), model.len());
    for (rank, (score, member)) in expected.iter().enumerate() {
        assert_eq!(zset.rank(member), Some((rank, *score)));
        assert_eq!(zset.score(member), Some(*score));
        let (got, got_score) = zset.get(rank).expect("in range");
        assert_eq!((got.to_vec(), got_score), (member.clone(), *score));
    }
    if let Repr::Big(big) = &zset.0 {
        assert_eq!(big.memory, big.table.iter().map(Scored::memory).sum::<usize>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn encodings_equal_a_model(
        ops in prop::collection::vec((0u8..5, member(), score()), 0..200),
        (low, high) in (bound(), bound()),
        (low_member, high_member) in (member(), member()),
        (from, count, reverse) in (0usize..80, 0usize..80, any::<bool>()),
    ) {
        crate::hash::enter(3);
        let limits = [&EncodingLimits::REDIS, &PACKED, &BIG];
        let mut zsets = [(); 3].map(|()| ZSet::new());
        let mut model = Model::new();
        for (op, member, score) in ops {
            let old = model.get(&member).copied();
            for (zset, limits) in zsets.iter_mut().zip(limits) {
                if op == 0 {
                    prop_assert_eq!(zset.remove(&member), old);
                } else {
                    let expected = match old {
                        None => Inserted::Added,
                        Some(old) if old == score => Inserted::Same,
                        Some(_) => Inserted::Moved,
                    };
                    prop_assert_eq!(zset.insert(&member, score, limits), expected);
                }
            }
            if op == 0 {
                model.remove(&member);
            } else {
                model.insert(member, score);
            }
        }
        let expected = in_order(&model);
        for zset in &mut zsets {
            check(zset, &model);
            check(&zset.clone(), &model);
        }
        for zset in &zsets {
            prop_assert_eq!(digest_of(zset), digest_of(&zsets[0]));
            let above = |score: f64| match low {
                Bound::Included(low) => score >= low,
                Bound::Excluded(low) => score > low,
                Bound::Unbounded => true,
            };
            let below = |score: f64| match high {
                Bound::Included(high) => score <= high,
                Bound::Excluded(high) => score < high,
                Bound::Unbounded => true,
            };
            let ranks = zset.score_ranks((low, high));
            let wanted: Vec<usize> = (0..expected.len())
                .filter(|&rank| above(expected[rank].0) && below(expected[rank].0))
                .collect();
            prop_assert_eq!(ranks.collect::<Vec<_>>(), wanted);
            let lex = |zset: &ZSet| {
                zset.lex_ranks(LexBound::Included(&low_member), LexBound::Excluded(&high_member))
            };
            prop_assert_eq!(lex(zset), lex(&zsets[0]));
            let ranks = from.min(expected.len())..(from + count).min(expected.len());
            let mut seen = Vec::new();
            zset.visit(ranks.clone(), reverse, |member, score| seen.push((score, member.to_vec())));
            let mut wanted = expected[ranks].to_vec();
            if reverse {
                wanted.reverse();
            }
            prop_assert_eq!(seen, wanted);
        }
        for zset in &mut zsets {
            let ranks = from.min(expected.len())..(from + count).min(expected.len());
            zset.remove_ranks(ranks.clone());
            let mut model = model.clone();
            for (_, member) in &expected[ranks] {
                model.remove(member);
            }
            check(zset, &model);
        }
    }

    #[test]
    fn lex_ranks_of_equal_scores(
        members in prop::collection::btree_set("[a-c]{0,4}", 0..60),
        low in "[a-c]{0,4}",
        high in "[a-c]{0,4}",
    ) {
        for limits in [&PACKED, &BIG] {
            let mut zset = ZSet::new();
            for member in &members {
                zset.insert(member.as_bytes(), 0.0, limits);
            }
            let bounds = (LexBound::Excluded(low.as_bytes()), LexBound::Included(high.as_bytes()));
            let wanted = members.iter().filter(|member| **member > low && **member <= high).count();
            prop_assert_eq!(zset.lex_ranks(bounds.0, bounds.1).len(), wanted);
            prop_assert_eq!(zset.lex_ranks(LexBound::Lowest, LexBound::Highest).len(), members.len());
            prop_assert_eq!(zset.lex_ranks(LexBound::Highest, LexBound::Lowest).len(), 0);
        }
    }
}

#[test]
fn a_packed_set_is_checked_when_it_is_taken_over() {
    let limits = &EncodingLimits::REDIS;
    let packed = |elements: &[&str]| {
        let mut packed = Packed::new();
        elements.iter().for_each(|element| packed.push_back(element.as_bytes()));
        packed
    };
    assert!(ZSet::from_packed(packed(&["a", "1", "b", "1.5"]), limits).is_some());
    for bad in [
        &["a", "1", "b"][..],
        &["a", "2", "b", "1"],
        &["b", "1", "a", "1"],
        &["a", "1", "a", "2"],
        &["a", "nan"],
        &["a", "-0"],
        &["a", "x"],
    ] {
        assert!(ZSet::from_packed(packed(bad), limits).is_none(), "{bad:?}");
    }
}
