//! The targets.

use crate::engine::Client;
use bytes::{Bytes, BytesMut};
use holdfast_engine::rdb::{VERSION, crc64};
use holdfast_engine::{Engine, EngineConfig, Outcomes};
use holdfast_proto::frame::{
    AnswerRef, BATCH_HEADER_LEN, BatchHeader, Request, RequestRef, Response, split_record,
    whole_frames_len,
};
use holdfast_proto::resp::{Decoded, Decoder, Limits, ReplyScanner, parse_array, reply};
use smallvec::SmallVec;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher};

/// Gathers what happened into a signature.
struct Signature(foldhash::fast::FoldHasher<'static>);

impl Signature {
    fn new() -> Self {
        Self(foldhash::fast::FixedState::with_seed(1).build_hasher())
    }

    fn text(&mut self, text: &[u8]) {
        self.0.write(text);
    }

    /// What kind of value, not which value: the letters at its front.
    fn kind(&mut self, value: impl Debug) {
        let text = format!("{value:?}");
        let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
        self.0.write(&text.as_bytes()[..end.min(40)]);
    }

    /// A count, roughly: 0, 1, 2, 3, 4 to 7, 8 to 15, …
    fn count(&mut self, count: usize) {
        self.0.write_usize(if count < 4 { count } else { 2 + count.ilog2() as usize });
    }

    fn finish(self) -> u64 {
        self.0.finish()
    }
}

/// Requests of clients: the result does not depend on how the bytes are cut.
pub fn resp_requests(data: &[u8]) -> u64 {
    let mut signature = Signature::new();
    for limits in [Limits::AUTHENTICATED, Limits::UNAUTHENTICATED] {
        let whole = requests_in_pieces(data, data.len().max(1), &limits);
        for piece in [1, 7] {
            assert_eq!(requests_in_pieces(data, piece, &limits), whole, "pieces of {piece}");
        }
        signature.count(whole.0.len());
        signature.text(whole.1.as_deref().unwrap_or("").as_bytes());
        for request in &whole.0 {
            let mut args = SmallVec::new();
            let used = parse_array(request, &mut args).expect("a decoded request parses");
            assert_eq!(used, request.len());
            signature.count(args.len());
        }
    }
    signature.finish()
}

fn requests_in_pieces(data: &[u8], piece: usize, limits: &Limits) -> (Vec<Bytes>, Option<String>) {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    let mut requests = Vec::new();
    for chunk in data.chunks(piece) {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut buffer, limits) {
                Ok(Decoded::Request(request)) => requests.push(request.raw),
                Ok(Decoded::NeedMore) => break,
                Err(error) => return (requests, Some(error.to_string())),
            }
        }
    }
    (requests, None)
}

/// Replies of servers, as the load generator, tests and the proxy's merging read them.
pub fn resp_replies(data: &[u8]) -> u64 {
    let mut signature = Signature::new();
    let whole = replies_in_pieces(data, data.len().max(1));
    assert_eq!(replies_in_pieces(data, 3), whole);
    signature.count(whole.0.len());
    whole.0.iter().for_each(|reply| signature.text(&reply.as_bytes()[..reply.len().min(12)]));
    signature.kind(&whole.1);
    let raw = Bytes::copy_from_slice(data);
    signature.kind(reply::parse(&raw).map(|_| ()));
    signature.finish()
}

fn replies_in_pieces(data: &[u8], piece: usize) -> (Vec<String>, Option<String>) {
    let mut scanner = ReplyScanner::default();
    let mut buffer = BytesMut::new();
    let mut replies = Vec::new();
    for chunk in data.chunks(piece) {
        buffer.extend_from_slice(chunk);
        loop {
            match scanner.decode(&mut buffer) {
                Ok(Some(reply)) => replies.push(format!("{reply:?}")),
                Ok(None) => break,
                Err(error) => return (replies, Some(format!("{error:?}"))),
            }
        }
    }
    (replies, None)
}

/// Frames between proxies and nodes: both readers agree, and what was read is written back alike.
pub fn link_frames(data: &[u8]) -> u64 {
    let mut signature = Signature::new();
    signature.kind(whole_frames_len(data).is_ok());
    let mut buffer = BytesMut::from(data);
    let mut rest = data;
    loop {
        let decoded = Request::decode(&mut buffer);
        let borrowed = RequestRef::decode(rest);
        match decoded {
            Ok(Some(request)) => {
                signature.kind(&request);
                let (_, len) = borrowed.expect("both read the same frames");
                rest = &rest[len..];
                let mut written = BytesMut::new();
                request.encode(&mut written);
                let again = Request::decode(&mut written).expect("what is written can be read");
                assert_eq!(again, Some(request));
            }
            Ok(None) => break,
            Err(error) => {
                signature.kind(error);
                assert!(borrowed.is_err(), "only one reader refuses {borrowed:?}");
                break;
            }
        }
    }
    let mut buffer = BytesMut::from(data);
    let mut rest = data;
    loop {
        let borrowed = AnswerRef::decode(rest);
        match Response::decode(&mut buffer) {
            Ok(Some(response)) => {
                signature.kind(&response);
                if let Ok(Some((_, len))) = borrowed {
                    assert_eq!(rest.len() - len, buffer.len());
                }
                rest = &rest[rest.len() - buffer.len()..];
                let mut written = BytesMut::new();
                response.encode(&mut written);
                let again = Response::decode(&mut written).expect("what is written can be read");
                assert_eq!(again, Some(response));
            }
            Ok(None) => break,
            Err(error) => {
                signature.kind(error);
                break;
            }
        }
    }
    signature.finish()
}

/// Entries of the log, applied to an engine: two replicas come to the same state and the same
/// answers, and a restart to the same state.
pub fn log_records(data: &[u8]) -> u64 {
    let mut signature = Signature::new();
    let mut replicas = [Client::default(), Client::default()];
    let mut outs = [Outcomes::new(), Outcomes::new()];
    let mut entry = Bytes::copy_from_slice(data);
    while let Ok(batch) = BatchHeader::decode(&entry) {
        if batch.time_ms > 1 << 60 || batch.count > 1000 {
            break;
        }
        let _ = entry.split_to(BATCH_HEADER_LEN);
        for index in 0..batch.count {
            let Ok((header, body)) = split_record(&mut entry) else {
                signature.text(b"cut");
                return signature.finish();
            };
            if is_too_big(&body) {
                continue;
            }
            signature.kind(header.op);
            for (replica, out) in replicas.iter_mut().zip(&mut outs) {
                replica.engine.apply(&batch, index, &header, &body, out);
            }
        }
    }
    let [first, second] = &outs;
    let answers = |out: &Outcomes| -> Vec<_> {
        out.iter().map(|(completion, reply)| (completion.status, reply.to_vec())).collect()
    };
    let answers_of_first = answers(first);
    assert_eq!(answers_of_first, answers(second));
    for (status, reply) in &answers_of_first {
        signature.kind(status);
        signature.text(&reply[..reply.len().min(8)]);
    }
    assert_eq!(replicas[0].engine.digest(), replicas[1].engine.digest());
    replicas[0].check_restart();
    signature.finish()
}

/// Commands of every family, one after the other.
pub fn commands(data: &[u8]) -> u64 {
    let mut signature = Signature::new();
    let mut client = Client::default();
    let (requests, _) = requests_in_pieces(data, data.len().max(1), &Limits::AUTHENTICATED);
    for request in requests.iter().take(200) {
        let mut args = SmallVec::new();
        let parsed = parse_array(request, &mut args);
        if parsed.is_err() || args.is_empty() || is_too_big(request) {
            continue;
        }
        signature.text(&args[0].to_ascii_uppercase()[..args[0].len().min(24)]);
        let reply = client.call_raw(request);
        let line = reply.iter().position(|&b| b == b'\r').unwrap_or(0);
        match reply.first() {
            Some(b'-') => signature.text(&reply[..line.min(30)]),
            Some(kind) => signature.text(&[*kind]),
            None => {}
        }
        if !reply.is_empty() {
            reply::parse(&Bytes::from(reply)).expect("a reply is one whole reply");
        }
    }
    client.check_restart();
    signature.finish()
}

/// Whether a command would legally take hundreds of megabytes or minutes: not what is looked for.
fn is_too_big(request: &[u8]) -> bool {
    let mut args = SmallVec::new();
    if parse_array(request, &mut args).is_err() {
        return false;
    }
    args.iter().any(|arg| {
        let digits = arg.strip_prefix(b"#").unwrap_or(arg);
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<i64>().ok());
        number.is_some_and(|n| (100_000..1 << 61).contains(&n.unsigned_abs()))
    })
}

/// RDB files: as they are, and with their checksum put right, so that the fuzzer gets past it.
pub fn rdb_files(data: &[u8]) -> u64 {
    let mut signature = Signature::new();
    let mut fixed = data.to_vec();
    if let Some(body) = fixed.len().checked_sub(8) {
        let crc = crc64::update(0, &fixed[..body]);
        fixed[body..].copy_from_slice(&crc.to_le_bytes());
    }
    for file in [data, &fixed] {
        match Engine::load(EngineConfig::default(), file) {
            Err(error) => signature.kind(error),
            Ok(engine) => {
                let mut client = Client::of(engine);
                use_every_key(&mut client, &mut signature);
                client.check_restart();
            }
        }
    }
    signature.finish()
}

/// Payloads of RESTORE: the data is type and value, the footer is made to fit.
pub fn dump_payloads(data: &[u8]) -> u64 {
    let mut signature = Signature::new();
    let mut payload = data.to_vec();
    payload.extend_from_slice(&VERSION.to_le_bytes());
    let crc = crc64::update(0, &payload);
    payload.extend_from_slice(&crc.to_le_bytes());
    let mut client = Client::default();
    let reply = client.call(&[b"RESTORE", b"k", b"0", &payload]);
    signature.text(&reply);
    if reply == b"+OK\r\n" {
        let dump = client.call(&[b"DUMP", b"k"]);
        let start = dump.iter().position(|&b| b == b'\n').expect("a bulk string") + 1;
        let mut other = Client::default();
        let restored = other.call(&[b"RESTORE", b"k", b"0", &dump[start..dump.len() - 2]]);
        assert_eq!(restored, b"+OK\r\n", "what DUMP writes is restored");
        // The same records at the same times: equal values make equal digests.
        assert_eq!(other.engine.digest(), client.engine.digest(), "DUMP changes the value");
        use_every_key(&mut client, &mut signature);
        client.check_restart();
    }
    signature.finish()
}

/// Reads every key in every way and changes it: what was loaded must be fit for use.
fn use_every_key(client: &mut Client, signature: &mut Signature) {
    let reply = Bytes::from(client.call(&[b"KEYS", b"*"]));
    let reply = reply::parse(&reply).expect("a reply is one whole reply");
    let keys: Vec<Vec<u8>> = reply
        .as_array()
        .unwrap_or_default()
        .iter()
        .filter_map(|key| key.as_bytes().map(<[u8]>::to_vec))
        .take(20)
        .collect();
    signature.count(keys.len());
    for key in &keys {
        let kind = client.call(&[b"TYPE", key]);
        signature.text(&kind);
        signature.text(&client.call(&[b"OBJECT", b"ENCODING", key]));
        let key = key.as_slice();
        let uses: &[&[&[u8]]] = match kind.as_slice() {
            b"+string\r\n" => &[
                &[b"GET", key],
                &[b"PFCOUNT", key],
                &[b"PFADD", key, b"x"],
                &[b"BITCOUNT", key],
                &[b"SETBIT", key, b"7", b"1"],
                &[b"INCRBYFLOAT", key, b"1"],
                &[b"APPEND", key, b"x"],
            ],
            b"+list\r\n" => &[
                &[b"LRANGE", key, b"0", b"-1"],
                &[b"LPOS", key, b"1"],
                &[b"LINSERT", key, b"BEFORE", b"1", b"2"],
                &[b"LREM", key, b"-1", b"1"],
                &[b"RPUSH", key, b"x", b"1"],
                &[b"LPOP", key],
                &[b"RPOP", key, b"2"],
                &[b"LTRIM", key, b"1", b"-2"],
            ],
            b"+set\r\n" => &[
                &[b"SMEMBERS", key],
                &[b"SSCAN", key, b"0"],
                &[b"SINTER", key, key],
                &[b"SADD", key, b"x", b"1"],
                &[b"SREM", key, b"1"],
                &[b"SPOP", key],
            ],
            b"+zset\r\n" => &[
                &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
                &[b"ZRANGE", key, b"-inf", b"+inf", b"BYSCORE"],
                &[b"ZSCAN", key, b"0"],
                &[b"ZADD", key, b"1", b"x", b"2", b"1"],
                &[b"ZINCRBY", key, b"1", b"x"],
                &[b"GEOPOS", key, b"x"],
                &[b"GEOSEARCH", key, b"FROMLONLAT", b"0", b"0", b"BYRADIUS", b"9000", b"km"],
                &[b"ZPOPMIN", key],
                &[b"ZPOPMAX", key],
            ],
            b"+hash\r\n" => &[
                &[b"HGETALL", key],
                &[b"HSCAN", key, b"0"],
                &[b"HSET", key, b"x", b"1"],
                &[b"HINCRBY", key, b"x", b"1"],
                &[b"HRANDFIELD", key, b"3"],
                &[b"HDEL", key, b"x"],
            ],
            b"+stream\r\n" => &[
                &[b"XLEN", key],
                &[b"XRANGE", key, b"-", b"+"],
                &[b"XREVRANGE", key, b"+", b"-"],
                &[b"XINFO", b"STREAM", key, b"FULL"],
                &[b"XADD", key, b"*", b"f", b"v"],
                &[b"XGROUP", b"CREATE", key, b"g", b"0"],
                &[b"XREADGROUP", b"GROUP", b"g", b"c", b"STREAMS", key, b">"],
                &[b"XTRIM", key, b"MAXLEN", b"1"],
            ],
            _ => &[],
        };
        for args in uses {
            let reply = client.call(args);
            signature.text(&reply[..reply.len().min(6)]);
        }
    }
}
