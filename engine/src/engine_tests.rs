use super::*;

/// One worker's view of an engine under test.
struct Client {
    engine: Engine,
    time_ms: u64,
    next: u64,
    out: Outcomes,
}

impl Client {
    fn new() -> Self {
        Self {
            engine: Engine::new(EngineConfig::default()),
            time_ms: 1_000_000,
            next: 1,
            out: Outcomes::new(),
        }
    }

    fn header(&self, op: RecordOp) -> RecordHeader {
        RecordHeader {
            op,
            flags: 0,
            db: 0,
            slot: Slot::default(),
            worker: WorkerId(1),
            seq: self.next,
            first_unacked: self.next,
            tag: self.next,
            body_len: 0,
        }
    }

    fn send(&mut self, header: RecordHeader, body: &[u8]) -> Vec<(u64, AnswerStatus, String)> {
        self.out.clear();
        self.time_ms += 1;
        let batch = BatchHeader { count: 1, time_ms: self.time_ms, seed: self.time_ms };
        self.engine.apply(&batch, 0, &header, body, &mut self.out);
        self.out
            .iter()
            .map(|(completion, payload)| {
                let text = String::from_utf8_lossy(payload).into_owned();
                (completion.tag, completion.status, text)
            })
            .collect()
    }

    fn run(&mut self, command: &str) -> String {
        let header = self.header(RecordOp::Command);
        self.next += 1;
        let answers = self.send(header, &encode(command));
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.into_iter().next().unwrap().2
    }
}

fn encode(command: &str) -> Vec<u8> {
    let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    let mut raw = Vec::new();
    holdfast_proto::resp::encode::command(&mut raw, args.into_iter());
    raw
}

#[test]
fn sets_and_gets() {
    let mut client = Client::new();
    assert_eq!(client.run("SET k hello"), "+OK\r\n");
    assert_eq!(client.run("GET k"), "$5\r\nhello\r\n");
    assert_eq!(client.run("set k 12"), "+OK\r\n");
    assert_eq!(client.run("get k"), "$2\r\n12\r\n");
    assert_eq!(client.engine.key_count(0), 1);
}

#[test]
fn select_inside_exec_lasts_to_its_end() {
    let mut client = Client::new();
    let mut body = vec![0, 0];
    let commands = ["SET k 0", "SELECT 3", "SET k 3", "SELECT 99", "SELECT x", "GET k"];
    body.extend_from_slice(&(commands.len() as u32).to_le_bytes());
    for command in commands {
        body.extend_from_slice(&encode(command));
    }
    let header = client.header(RecordOp::Exec);
    client.next += 1;
    let answers = client.send(header, &body);
    assert_eq!(
        answers[0].2,
        "*6\r\n+OK\r\n+OK\r\n+OK\r\n-ERR DB index is out of range\r\n\
         -ERR value is not an integer or out of range\r\n$1\r\n3\r\n"
    );
    assert_eq!(client.run("GET k"), "$1\r\n0\r\n");
}
