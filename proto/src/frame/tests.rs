use super::*;

fn header(body_len: u32) -> RecordHeader {
    RecordHeader {
        op: RecordOp::Command,
        flags: flags::RESP3,
        db: 3,
        slot: Slot::of_key(b"foo"),
        worker: WorkerId(77),
        seq: 12,
        first_unacked: 9,
        tag: u64::MAX - 1,
        body_len,
    }
}

fn requests() -> Vec<Request> {
    let body = b"*1\r\n$4\r\nPING\r\n";
    let mut record = BytesMut::new();
    header(body.len() as u32).encode(&mut record);
    record.put_slice(body);
    vec![
        Request::Hello {
            version: LINK_VERSION,
            cluster_id: [1; 16],
            secret: [2; 32],
            worker: WorkerId(5),
        },
        Request::Write { shard: ShardId(2), record: record.freeze() },
        Request::Read(ReadRequest {
            shard: ShardId(1),
            flags: 0,
            db: 0,
            slot: Slot::of_key(b"a"),
            tag: 4,
            depends_on_slot: Slot::of_key(b"b"),
            depends_on_seq: 8,
            op: ReadOp::WatchVersions,
            body: Bytes::from_static(body),
        }),
        Request::Ping { nonce: 6 },
        Request::Register { number: 3, entries: Bytes::from_static(b"entries") },
    ]
}

#[test]
fn requests_survive_every_split() {
    let mut wire = BytesMut::new();
    for request in requests() {
        request.encode(&mut wire);
    }
    for split in 0..=wire.len() {
        let mut got = Vec::new();
        let mut buffer = BytesMut::new();
        for part in [&wire[..split], &wire[split..]] {
            buffer.put_slice(part);
            while let Some(request) = Request::decode(&mut buffer).unwrap() {
                got.push(request);
            }
        }
        assert_eq!(got, requests(), "split at {split}");
    }
}

#[test]
fn borrowed_requests_are_the_same_requests() {
    let mut wire = BytesMut::new();
    for request in requests() {
        request.encode(&mut wire);
    }
    for cut in 0..wire.len() {
        assert!(whole_frames_len(&wire[..cut]).unwrap() <= cut);
    }
    assert_eq!(whole_frames_len(&wire).unwrap(), wire.len());
    let mut rest = &wire[..];
    for request in requests() {
        let (borrowed, len) = RequestRef::decode(rest).unwrap();
        rest = &rest[len..];
        match (borrowed, request) {
            (RequestRef::Write { shard: a, record: r }, Request::Write { shard, record }) => {
                assert_eq!((a, r), (shard, &record[..]));
            }
            (RequestRef::Read { shard, header, body }, Request::Read(read)) => {
                assert_eq!((shard, header.tag, header.op), (read.shard, read.tag, read.op));
                assert_eq!((header.slot, header.db, header.flags), (read.slot, read.db, 0));
                assert_eq!(header.depends_on_slot, read.depends_on_slot);
                assert_eq!(header.depends_on_seq, read.depends_on_seq);
                assert_eq!(body, &read.body[..]);
            }
            (RequestRef::Ping { nonce: a }, Request::Ping { nonce }) => assert_eq!(a, nonce),
            (
                RequestRef::Register { number: a, entries: e },
                Request::Register { number, entries },
            ) => assert_eq!((a, e), (number, &entries[..])),
            (RequestRef::Hello { worker: a, .. }, Request::Hello { worker, .. }) => {
                assert_eq!(a, worker);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn responses_round_trip() {
    let responses = vec![
        Response::HelloOk { node: NodeId(3) },
        Response::HelloRefused { reason: Bytes::from_static(b"no") },
        Response::Answer { tag: 9, status: AnswerStatus::Gap, payload: Bytes::from_static(b"x") },
        Response::PrimaryIs { shard: ShardId(1), term: Term(4), node: NodeId(2) },
        Response::Pong { nonce: 1 },
        Response::Registered { number: 7 },
        Response::Message { message: Bytes::from_static(b"m") },
        Response::Invalidate { keys: Bytes::new() },
    ];
    let mut wire = BytesMut::new();
    for response in &responses {
        response.encode(&mut wire);
    }
    let mut got = Vec::new();
    while let Some(response) = Response::decode(&mut wire).unwrap() {
        got.push(response);
    }
    assert_eq!(got, responses);
    assert!(wire.is_empty());
}

#[test]
fn begin_write_equals_encode() {
    let mut direct = BytesMut::new();
    let h = header(3);
    begin_write(ShardId(7), &h, &mut direct);
    direct.put_slice(b"abc");
    let Some(Request::Write { shard, record }) = Request::decode(&mut direct).unwrap() else {
        panic!("not a write");
    };
    assert_eq!(shard, ShardId(7));
    let mut record = record;
    assert_eq!(split_record(&mut record).unwrap(), (h, Bytes::from_static(b"abc")));
}

#[test]
fn borrowed_answers_equal_owned_ones() {
    let mut wire = BytesMut::new();
    begin_answer(9, AnswerStatus::Gap, 3, &mut wire);
    wire.put_slice(b"abc");
    for end in 0..wire.len() {
        assert_eq!(AnswerRef::decode(&wire[..end]), Ok(None));
    }
    let answer = AnswerRef { tag: 9, status: AnswerStatus::Gap, payload: b"abc" };
    assert_eq!(AnswerRef::decode(&wire), Ok(Some((answer, wire.len()))));
    let mut pong = BytesMut::new();
    Response::Pong { nonce: u64::MAX }.encode(&mut pong);
    pong.put_slice(&wire);
    assert_eq!(AnswerRef::decode(&pong), Ok(None));
    // A frame that is too short for its kind.
    let mut wire = BytesMut::from(&[2, 0, 0, 0, KIND_ANSWER][..]);
    wire.put_bytes(0, 20);
    assert_eq!(AnswerRef::decode(&wire), Err(FrameError::Short));
}

#[test]
fn hostile_lengths_are_refused() {
    let mut wire = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
    assert_eq!(Request::decode(&mut wire), Err(FrameError::TooLong(u32::MAX as usize)));
    // A record that claims a longer body than the frame has.
    let mut wire = BytesMut::new();
    begin_write(ShardId(1), &header(10), &mut wire);
    let len = (wire.len() - 4) as u32;
    wire[..4].copy_from_slice(&len.to_le_bytes());
    assert_eq!(Request::decode(&mut wire), Err(FrameError::Short));
}
