use super::*;
use proptest::prelude::*;

fn decode_all(parts: &[&[u8]], limits: &Limits) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
    let mut buffer = BytesMut::new();
    let mut decoder = Decoder::default();
    let mut requests = Vec::new();
    for part in parts {
        buffer.extend_from_slice(part);
        while let Decoded::Request(request) = decoder.decode(&mut buffer, limits)? {
            // The raw bytes say the same as the positions.
            let mut again = SmallVec::new();
            assert_eq!(parse_array(&request.raw, &mut again), Ok(request.raw.len()));
            assert!(again.iter().copied().eq(request.iter()));
            assert_eq!(Args::parse(&request.raw).unwrap(), request.args);
            requests.push(request.iter().map(<[u8]>::to_vec).collect());
        }
    }
    Ok(requests)
}

fn error_of(bytes: &[u8], limits: &Limits) -> String {
    decode_all(&[bytes], limits).unwrap_err().to_string()
}

#[test]
fn requests_survive_every_split() {
    let wire = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$12\r\nhello\r\nworld\r\n\r\n*0\r\n*-1\r\nPING 'a b'\r\n\
                 *1\r\n$0\r\n\r\n  \r\nget x\n*10\r\n$1\r\n0\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n\
                 $1\r\n5\r\n$1\r\n6\r\n$1\r\n7\r\n$1\r\n8\r\n$10\r\nabcdefghij\r\n";
    let whole = decode_all(&[wire], &Limits::default()).unwrap();
    assert_eq!(whole.len(), 5);
    assert_eq!(whole[0][2], b"hello\r\nworld");
    assert_eq!(whole[1], [&b"PING"[..], b"a b"]);
    assert_eq!(whole[2], [b""]);
    assert_eq!(whole[4].len(), 10);
    for split in 0..=wire.len() {
        let parts = [&wire[..split], &wire[split..]];
        assert_eq!(decode_all(&parts, &Limits::default()).unwrap(), whole, "split at {split}");
    }
    let bytes: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(decode_all(&bytes, &Limits::default()).unwrap(), whole);
}

#[test]
fn errors_have_the_texts_of_redis() {
    let limits = Limits::default();
    for (wire, text) in [
        (&b"*abc\r\n"[..], "Protocol error: invalid multibulk length"),
        (b"*\r\n", "Protocol error: invalid multibulk length"),
        (b"*+1\r\n", "Protocol error: invalid multibulk length"),
        (b"*01\r\n", "Protocol error: invalid multibulk length"),
        (b"*2147483648\r\n", "Protocol error: invalid multibulk length"),
        (b"*99999999999999999999\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\r\nPING\r\n", "Protocol error: expected '$', got 'P'"),
        (b"*1\r\n:1\r\n", "Protocol error: expected '$', got ':'"),
        (b"*1\r\n\r\n", "Protocol error: expected '$', got '\r'"),
        (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$x\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$9223372036854775807\r\n", "Protocol error: invalid bulk length"),
        (b"PING \"a\r\n", "Protocol error: unbalanced quotes in request"),
    ] {
        assert_eq!(error_of(wire, &limits), text, "{}", wire.escape_ascii());
    }
    let long = |prefix: &[u8], c: u8| [prefix, &vec![c; 64 * 1024 + 1]].concat();
    assert_eq!(error_of(&long(b"", b'a'), &limits), "Protocol error: too big inline request");
    assert_eq!(error_of(&long(b"*", b'1'), &limits), "Protocol error: too big mbulk count string");
    assert_eq!(
        error_of(&long(b"*1\r\n$", b'1'), &limits),
        "Protocol error: too big bulk count string"
    );
}

#[test]
fn strangers_may_send_little() {
    let limits = Limits::UNAUTHENTICATED;
    assert_eq!(error_of(b"*11\r\n", &limits), "Protocol error: unauthenticated multibulk length");
    assert_eq!(
        error_of(b"*1\r\n$16385\r\n", &limits),
        "Protocol error: unauthenticated bulk length"
    );
    assert_eq!(error_of(b"*1\r\n$536870913\r\n", &limits), "Protocol error: invalid bulk length");
    let auth = b"*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n";
    assert_eq!(decode_all(&[auth], &limits).unwrap().len(), 1);
}

#[test]
fn requests_as_a_whole_are_bounded() {
    let limits = Limits { request_len_max: 40, ..Limits::default() };
    assert_eq!(
        error_of(b"*2\r\n$20\r\naaaaaaaaaaaaaaaaaaaa\r\n$20\r\n", &limits),
        "Protocol error: too big request"
    );
}

#[test]
fn an_announced_length_reserves_little() {
    let mut buffer = BytesMut::from(&b"*2\r\n$3\r\nSET\r\n$536870912\r\nabc"[..]);
    let decoded = decode_request(&mut buffer, &Limits::default()).unwrap();
    assert!(matches!(decoded, Decoded::NeedMore));
    assert!(buffer.capacity() < 4 * 1024 * 1024, "{}", buffer.capacity());
}

#[test]
fn many_arguments_in_small_pieces_are_not_looked_at_again() {
    // Quadratic behaviour would take minutes here.
    let count = 200_000;
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::from(format!("*{count}\r\n").as_bytes());
    for i in 0..count {
        buffer.extend_from_slice(b"$1\r\nx\r\n");
        let decoded = decoder.decode(&mut buffer, &Limits::default()).unwrap();
        assert_eq!(matches!(decoded, Decoded::Request(_)), i == count - 1);
    }
}

#[test]
fn integers_are_canonical() {
    for (text, number) in [
        ("0", Some(0)),
        ("-1", Some(-1)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("18446744073709551616", None),
        ("", None),
        ("-", None),
        ("-0", None),
        ("+1", None),
        ("01", None),
        (" 1", None),
        ("1 ", None),
        ("1x", None),
    ] {
        assert_eq!(parse_integer(text.as_bytes()), number, "{text:?}");
    }
}

fn request() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..12)
}

/// Bytes that look like the protocol often enough to get past the first line.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "*", "$", "\r\n", "\r", "\n", "-1", "0", "1", "2", "3", "16384", "536870912",
            "4294967296", "9223372036854775807", "\"", "'", "\\x", "PING", " ", "*1\r\n$4\r\nPING\r\n",
            "*2\r\n", "$3\r\nabc\r\n",
        ]).prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn encoded_requests_come_back(requests in prop::collection::vec(request(), 1..6), split in any::<prop::sample::Index>()) {
        let mut wire = Vec::new();
        for request in &requests {
            encode::command(&mut wire, request.iter().map(Vec::as_slice));
        }
        let split = split.index(wire.len() + 1);
        let got = decode_all(&[&wire[..split], &wire[split..]], &Limits::default()).unwrap();
        prop_assert_eq!(got, requests);
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_depend_on_splits(wire in hostile(), step in 1usize..9) {
        for limits in [Limits::AUTHENTICATED, Limits::UNAUTHENTICATED] {
            let whole = decode_all(&[&wire], &limits);
            let parts: Vec<&[u8]> = wire.chunks(step).collect();
            prop_assert_eq!(decode_all(&parts, &limits), whole);
        }
        let _ = parse_array(&wire, &mut SmallVec::new());
        let _ = Args::parse(&wire);
    }
}

#[test]
fn an_endless_length_line_is_told_by_its_length_however_it_arrives() {
    let limits = Limits::AUTHENTICATED;
    let digits = "1".repeat(limits.inline_len_max + 1);
    for (wire, error) in [
        (format!("*{digits}"), ProtocolError::TooBigMultibulkCount),
        (format!("*{digits}\r\nPING\r\n"), ProtocolError::TooBigMultibulkCount),
        (format!("*1\r\n${digits}"), ProtocolError::TooBigBulkCount),
        (format!("*1\r\n${digits}\r\nPING\r\n"), ProtocolError::TooBigBulkCount),
    ] {
        assert_eq!(decode_all(&[wire.as_bytes()], &limits), Err(error));
    }
}
