//! One connection that sends a command and waits for its reply.

use super::stream::{ClientStream, connect};
use super::{ClientTls, Uri};
use bytes::{BufMut, BytesMut};
use holdfast_proto::resp::reply::{ReplyError, ReplyScanner, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection broke: whether the command was executed is unknown.
    #[error("connection lost: {0}")]
    Lost(#[from] std::io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("not RESP: {0}")]
    NotResp(#[from] ReplyError),
}

/// A connection with its buffers.
pub struct Connection {
    stream: ClientStream,
    input: BytesMut,
    output: BytesMut,
    scanner: ReplyScanner,
}

impl Connection {
    /// Connects, authenticates and selects the URI's database.
    pub async fn open(uri: &Uri, tls: Option<&ClientTls>) -> anyhow::Result<Self> {
        let stream = connect(uri, tls).await?;
        Ok(Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            scanner: ReplyScanner::default(),
        })
    }

    /// Sends one command and waits for its reply.
    pub async fn call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Result<Value, CallError> {
        self.push(words);
        self.flush().await?;
        self.reply().await
    }

    /// Queues one command.
    pub fn push<A: AsRef<[u8]>>(&mut self, words: &[A]) {
        self.output.put_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            let word = word.as_ref();
            self.output.put_slice(format!("${}\r\n", word.len()).as_bytes());
            self.output.put_slice(word);
            self.output.put_slice(b"\r\n");
        }
    }

    /// Sends what is queued.
    pub async fn flush(&mut self) -> Result<(), CallError> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        self.stream.flush().await?;
        Ok(())
    }

    /// Waits for the next reply.
    pub async fn reply(&mut self) -> Result<Value, CallError> {
        loop {
            if let Some(value) = self.scanner.decode(&mut self.input)? {
                return Ok(value);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(CallError::Closed);
            }
        }
    }
}
