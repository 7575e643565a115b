//! What is compared: a stock server or any other endpoint over TCP, and the engine in this process.

use super::grammar::Args;
use bytes::{Bytes, BytesMut};
use holdfast_proto::resp::{ReplyScanner, Value, encode};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A server with several clients.
pub(crate) trait Target {
    /// Sends a command of one client and waits for its reply.
    fn run(&mut self, client: usize, args: &Args) -> Value;
    /// Empties the server and makes its clients new ones.
    fn reset(&mut self, resp3: bool);
    /// Called once in a while with nothing else going on; panics if the server's inner state is bad.
    fn check(&mut self) {}
}

/// How many clients each target has.
pub(crate) const CLIENTS: usize = 2;

/// A server behind an address; the process is ours if we started it.
pub(crate) struct Endpoint {
    pub(crate) clients: Vec<Connection>,
    child: Option<Child>,
    address: String,
}

impl Endpoint {
    /// A stock redis-server on a free port; `None` when none is installed.
    pub(crate) fn stock() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--dir", "/tmp", "--hz", "100"])
            .args(["--enable-debug-command", "yes"])
            // SORT ALPHA compares by locale.
            .env("LC_ALL", "C")
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let address = format!("127.0.0.1:{port}");
        for _ in 0..500 {
            if TcpStream::connect(&address).is_ok() {
                return Some(Self::new(address, Some(child)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not listen on {address}");
    }

    pub(crate) fn at(address: &str) -> Self {
        Self::new(address.to_owned(), None)
    }

    fn new(address: String, child: Option<Child>) -> Self {
        let clients = (0..CLIENTS).map(|_| Connection::new(&address)).collect();
        Self { clients, child, address }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::new(&self.address)
    }
}

impl Target for Endpoint {
    fn run(&mut self, client: usize, args: &Args) -> Value {
        self.clients[client].run(args)
    }

    fn reset(&mut self, resp3: bool) {
        for client in &mut self.clients {
            client.run_words("RESET");
            client.run_words(if resp3 { "HELLO 3" } else { "HELLO 2" });
        }
        assert!(self.clients[0].run_words("FLUSHALL").is_ok());
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One TCP connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    scanner: ReplyScanner,
}

impl Connection {
    fn new(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the server is there");
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::new(), scanner: ReplyScanner::default() }
    }

    pub(crate) fn send(&mut self, args: &Args) {
        let mut request = Vec::new();
        encode::command(&mut request, args.iter().map(Vec::as_slice));
        self.stream.write_all(&request).unwrap();
    }

    /// The next reply; `None` when none comes within the time.
    pub(crate) fn receive(&mut self, wait: Duration) -> Option<Value> {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let mut chunk = [0; 1 << 14];
        loop {
            if let Some(value) = self.scanner.decode(&mut self.buffer).expect("a valid reply") {
                return Some(value);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(len) => self.buffer.extend_from_slice(&chunk[..len]),
                Err(_) => return None,
            }
        }
    }

    pub(crate) fn run(&mut self, args: &Args) -> Value {
        self.send(args);
        self.receive(Duration::from_secs(20))
            .unwrap_or_else(|| panic!("no reply in 20 s to {}", super::play::show(args)))
    }

    pub(crate) fn run_words(&mut self, words: &str) -> Value {
        self.run(&words.split(' ').map(|word| word.as_bytes().to_vec()).collect())
    }
}

/// Reads the one reply in `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Value {
    holdfast_proto::resp::reply::parse(&Bytes::copy_from_slice(bytes))
        .unwrap_or_else(|error| panic!("{error}: {}", bytes.escape_ascii()))
}
