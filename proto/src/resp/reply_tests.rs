use super::*;
use proptest::prelude::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn write(value: &Value, out: &mut Vec<u8>) {
    use crate::resp::encode;
    let line = |out: &mut Vec<u8>, kind: u8, text: &[u8]| {
        out.push(kind);
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    };
    match value {
        Value::Simple(text) => line(out, b'+', text),
        Value::Error(text) => line(out, b'-', text),
        Value::Integer(number) => encode::integer(out, *number),
        Value::Bulk(text) => encode::bulk(out, text),
        Value::Null => encode::null(out, true),
        Value::NullArray => encode::null_array(out, false),
        Value::Array(elements) | Value::Set(elements) | Value::Push(elements) => {
            match value {
                Value::Array(_) => encode::array(out, elements.len()),
                Value::Set(_) => encode::set(out, elements.len(), true),
                _ => encode::push(out, elements.len(), true),
            }
            elements.iter().for_each(|element| write(element, out));
        }
        Value::Map(pairs) => {
            encode::map(out, pairs.len(), true);
            pairs.iter().for_each(|(k, v)| (write(k, out), write(v, out)).0);
        }
        Value::Double(number) => encode::double(out, *number, true),
        Value::Boolean(value) => encode::boolean(out, *value, true),
        Value::BigNumber(digits) => encode::big_number(out, digits, true),
        Value::Verbatim(format, text) => encode::verbatim(out, format, text, true),
        Value::Attributed(pairs, value) => {
            line(out, b'|', pairs.len().to_string().as_bytes());
            pairs.iter().for_each(|(k, v)| (write(k, out), write(v, out)).0);
            write(value, out);
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        "[a-zA-Z ]{0,12}".prop_map(|t| Value::Simple(bytes(&t))),
        "ERR [a-z ]{0,12}".prop_map(|t| Value::Error(bytes(&t))),
        any::<i64>().prop_map(Value::Integer),
        prop::collection::vec(any::<u8>(), 0..30).prop_map(|b| Value::Bulk(b.into())),
        Just(Value::Null),
        Just(Value::NullArray),
        any::<f64>()
            .prop_filter("NaN is not equal to itself", |n| !n.is_nan())
            .prop_map(Value::Double),
        any::<bool>().prop_map(Value::Boolean),
        "-?[1-9][0-9]{0,40}".prop_map(|t| Value::BigNumber(bytes(&t))),
        "[a-z\r\n]{0,12}".prop_map(|t| Value::Verbatim(*b"txt", bytes(&t))),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let pairs = prop::collection::vec((inner.clone(), inner.clone()), 0..4);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Set),
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Push),
            pairs.clone().prop_map(Value::Map),
            (pairs, inner).prop_map(|(pairs, value)| Value::Attributed(pairs, Box::new(value))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn replies_come_back(values in prop::collection::vec(value(), 1..4), step in 1usize..40) {
        let mut wire = Vec::new();
        values.iter().for_each(|value| write(value, &mut wire));
        let mut scanner = ReplyScanner::default();
        let mut buffer = BytesMut::new();
        let mut got = Vec::new();
        for part in wire.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(value) = scanner.decode(&mut buffer).unwrap() {
                got.push(value);
            }
        }
        prop_assert_eq!(got, values);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn hostile_replies_do_not_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "*", "$", "%", "~", "|", ">", "=", "!", ",", "#t", "_", "(", "\r\n", "\r", "-1", "0", "1", "2",
        "3", "99999999999", "9223372036854775807", "txt:", "abc", "+OK\r\n", ":1\r\n",
    ]), 0..24)) {
        let wire = pieces.concat();
        let _ = decode(&mut BytesMut::from(wire.as_bytes()));
        let _ = parse(&Bytes::from(wire));
    }
}

#[test]
fn nesting_is_bounded() {
    let mut wire = BytesMut::from("*1\r\n".repeat(NESTING_MAX + 1).as_bytes());
    assert_eq!(decode(&mut wire), Err(ReplyError::TooDeep));
    let mut wire = BytesMut::from("*1\r\n".repeat(NESTING_MAX).as_bytes());
    wire.extend_from_slice(b":1\r\n");
    assert!(decode(&mut wire).unwrap().is_some());
}

#[test]
fn nulls_of_resp2() {
    let mut wire = BytesMut::from(&b"*3\r\n$-1\r\n*-1\r\n*0\r\n"[..]);
    let expected = Value::Array(vec![Value::Null, Value::NullArray, Value::Array(vec![])]);
    assert_eq!(decode(&mut wire), Ok(Some(expected)));
    let mut wire = BytesMut::from(&b"%-1\r\n"[..]);
    assert_eq!(decode(&mut wire), Err(ReplyError::BadNumber));
}
