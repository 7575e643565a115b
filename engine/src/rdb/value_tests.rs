use super::super::{VERSION, crc64, payload, ziplist};
use super::*;
use crate::digest::Digest;
use crate::value::stream::group::{Group, Pending};
use crate::value::stream::{Stream, StreamId};
use proptest::prelude::*;

const REDIS: EncodingLimits = EncodingLimits::REDIS;
/// Nothing is small.
const BIG: EncodingLimits = EncodingLimits {
    list_max_listpack_bytes: 64,
    hash_max_listpack_entries: 0,
    set_max_intset_entries: 0,
    set_max_listpack_entries: 0,
    zset_max_listpack_entries: 0,
    ..REDIS
};

fn digest_of(value: &Value) -> [u8; 16] {
    let mut digest = Digest::new();
    reference(value).digest(&mut digest);
    digest.finish()
}

fn reference(value: &Value) -> ValueRef<'_> {
    match value {
        Value::Int(value) => ValueRef::Int(*value),
        Value::Str(bytes) => ValueRef::Str(bytes),
        Value::List(list) => ValueRef::List(list),
        Value::Set(set) => ValueRef::Set(set),
        Value::ZSet(zset) => ValueRef::ZSet(zset),
        Value::Hash(hash) => ValueRef::Hash(hash),
        Value::Stream(stream) => ValueRef::Stream(stream),
    }
}

/// A payload with a right footer.
fn signed(mut body: Vec<u8>) -> Vec<u8> {
    body.extend_from_slice(&VERSION.to_le_bytes());
    let crc = crc64::update(0, &body);
    body.extend_from_slice(&crc.to_le_bytes());
    body
}

fn read_body(body: &[u8]) -> Result<Value, Error> {
    crate::hash::enter(5);
    payload::read(&signed(body.to_vec()), &REDIS)
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    StringWriter::plain().string(bytes, out);
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..30),
        2 => any::<i64>().prop_map(|value| value.to_string().into_bytes()),
        2 => (-100i64..100).prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(0u8..3, 0..500),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let limits = any::<bool>().prop_map(|big| if big { BIG } else { REDIS });
    let texts = prop::collection::vec(text(), 1..150);
    (0..6, texts, limits).prop_map(|(kind, texts, limits)| {
        crate::hash::enter(5);
        match kind {
            0 => Value::from_bytes(&texts.concat()),
            1 => {
                let mut list = List::new();
                texts.iter().for_each(|text| list.push(End::Back, text, &limits));
                Value::List(Box::new(list))
            }
            2 => {
                let mut set = Set::new();
                texts.iter().for_each(|text| {
                    set.add(text, &limits);
                });
                Value::Set(Box::new(set))
            }
            3 => {
                let mut zset = ZSet::new();
                for (i, text) in texts.iter().enumerate() {
                    let score = if i % 2 == 0 { text.len() as f64 } else { i as f64 / 7.0 };
                    zset.insert(text, score, &limits);
                }
                Value::ZSet(Box::new(zset))
            }
            4 => Value::Stream(Box::new(stream_of(&texts))),
            _ => {
                let mut hash = Hash::new();
                for pair in texts.windows(2) {
                    hash.set(&pair[0], &pair[1], &limits);
                }
                hash.set(b"one", b"more", &limits);
                Value::Hash(Box::new(hash))
            }
        }
    })
}

/// Entries, groups and pending entries that follow from the texts.
fn stream_of(texts: &[Vec<u8>]) -> Stream {
    let mut stream = Stream::default();
    let mut group = Group::new(b"group", StreamId::new(3, 1), None);
    for (at, text) in texts.iter().enumerate() {
        let id = StreamId::new(at as u64 / 4 + 1, at as u64 % 4);
        if text.len() % 3 == 0 {
            stream.log.append(id, &[text, text]);
        } else {
            stream.log.append(id, &[b"field", text]);
        }
        if text.len() % 2 == 0 {
            let (consumer, _) = group.see_consumer(&text[..text.len().min(1)], at as u64);
            group.consumer_mut(consumer).active_ms = (at % 3 > 0).then_some(at as u64);
            let pending = Pending { id, delivered_ms: at as u64, deliveries: 1, consumer };
            group.set_pending(pending);
        }
        if text.len() % 5 == 0 {
            stream.log.delete(&[id]);
        }
    }
    stream.groups_mut().insert(group);
    stream.groups_mut().insert(Group::new(b"", StreamId::MIN, Some(7)));
    stream
}

proptest! {
    #[test]
    fn values_round_trip(value in values(), big in any::<bool>()) {
        let payload = payload::write(reference(&value));
        let limits = if big { BIG } else { REDIS };
        let back = payload::read(&payload, &limits).unwrap();
        prop_assert_eq!(digest_of(&back), digest_of(&value));
    }

    #[test]
    fn damaged_values_do_no_harm(
        value in values(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut body = payload::write(reference(&value));
        body.truncate(body.len() - 10);
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        if let Ok(value) = payload::read(&signed(body), &REDIS) {
            // What was accepted can be used and written.
            let again = payload::write(reference(&value));
            let back = payload::read(&again, &REDIS).unwrap();
            prop_assert_eq!(digest_of(&back), digest_of(&value));
        }
    }

    #[test]
    fn garbage_does_no_harm(kind in 0u8..22, rest in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut body = vec![kind];
        body.extend_from_slice(&rest);
        // Whatever it says, it must not panic.
        let _ = read_body(&body);
    }
}

#[test]
fn claimed_counts_reserve_nothing() {
    for kind in [kind::LIST, kind::SET, kind::ZSET_2, kind::HASH, kind::LIST_QUICKLIST_2] {
        let mut body = vec![kind];
        length(u64::MAX, &mut body);
        body.extend_from_slice(b"\x01a");
        assert!(matches!(read_body(&body), Err(Error::Truncated)), "kind {kind}");
    }
}

#[test]
fn forms_of_older_versions() {
    let mut expected = List::new();
    for text in [&b"abc"[..], b"32767", b"0"] {
        expected.push(End::Back, text, &REDIS);
    }
    let expected = digest_of(&Value::List(Box::new(expected)));
    let elements: &[&[u8]] = &[b"\x03abc", b"\xc0\xff\x7f", b"\xf1"];
    let packed = ziplist::tests::build(elements);

    let mut linked = vec![kind::LIST];
    length(3, &mut linked);
    for text in [&b"abc"[..], b"32767", b"0"] {
        string(text, &mut linked);
    }
    assert_eq!(digest_of(&read_body(&linked).unwrap()), expected);

    let mut body = vec![kind::LIST_ZIPLIST];
    string(&packed, &mut body);
    assert_eq!(digest_of(&read_body(&body).unwrap()), expected);

    let mut body = vec![kind::LIST_QUICKLIST];
    length(2, &mut body);
    string(&ziplist::tests::build(&elements[..1]), &mut body);
    string(&ziplist::tests::build(&elements[1..]), &mut body);
    assert_eq!(digest_of(&read_body(&body).unwrap()), expected);

    let mut hash = Hash::new();
    hash.set(b"foo", b"bar", &REDIS);
    let expected = digest_of(&Value::Hash(Box::new(hash)));
    let mut body = vec![kind::HASH_ZIPMAP];
    string(b"\x01\x03foo\x03\x00bar\xff", &mut body);
    assert_eq!(digest_of(&read_body(&body).unwrap()), expected);
    let mut body = vec![kind::HASH_ZIPLIST];
    string(&ziplist::tests::build(&[b"\x03foo", b"\x03bar"]), &mut body);
    assert_eq!(digest_of(&read_body(&body).unwrap()), expected);

    let mut zset = ZSet::new();
    zset.insert(b"a", 1.5, &REDIS);
    zset.insert(b"b", f64::INFINITY, &REDIS);
    let expected = digest_of(&Value::ZSet(Box::new(zset)));
    let mut body = vec![kind::ZSET];
    length(2, &mut body);
    body.extend_from_slice(b"\x01b\xfe\x01a\x031.5");
    assert_eq!(digest_of(&read_body(&body).unwrap()), expected);
    let mut body = vec![kind::ZSET_ZIPLIST];
    string(&ziplist::tests::build(&[b"\x01a", b"\x031.5", b"\x01b", b"\x03inf"]), &mut body);
    assert_eq!(digest_of(&read_body(&body).unwrap()), expected);
}

#[test]
fn what_is_refused() {
    let odd = ziplist::tests::build(&[b"\x01a"]);
    let twice = ziplist::tests::build(&[b"\x01a", b"\xf1", b"\x01a", b"\xf2"]);
    for (kind, packed) in
        [(kind::HASH_ZIPLIST, &odd), (kind::HASH_ZIPLIST, &twice), (kind::ZSET_ZIPLIST, &twice)]
    {
        let mut body = vec![kind];
        string(packed, &mut body);
        assert!(matches!(read_body(&body), Err(Error::Corrupt(_))));
    }
    let mut nan = vec![kind::ZSET_2, 1, 1, b'a'];
    double(f64::NAN, &mut nan);
    assert!(matches!(read_body(&nan), Err(Error::Corrupt(_))));
    assert!(matches!(read_body(&[kind::SET, 0]), Err(Error::Corrupt(_))));
    assert!(matches!(read_body(&[kind::STREAM_LISTPACKS_2]), Err(Error::Truncated)));
    // One entry is claimed and none is there.
    let short = [kind::STREAM_LISTPACKS, 0, 1, 5, 0, 0];
    assert!(matches!(read_body(&short), Err(Error::Corrupt("stream"))));
    assert!(matches!(read_body(&[kind::MODULE_2]), Err(Error::NotSupported("modules"))));
    assert!(matches!(read_body(&[]), Err(Error::Truncated)));
}
