//! The connection of a link: keeps it up, moves bytes, decides nothing.

use crate::clock;
use crate::worker::Shell;
use bytes::{Buf, BytesMut};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

/// Answers are read in pieces of this size at most.
const READ_BYTES: usize = 256 * 1024;
/// Below the second after which TCP repeats a lost SYN: the next attempt comes sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Between attempts: a node that restarts is back within a second or so, and is to be found soon.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(250);
/// Reads in a row before other tasks get their turn.
const READS_PER_TURN: usize = 16;

/// Keeps one link connected for as long as the worker lives.
pub(crate) async fn run(shell: Rc<Shell>, link: usize) {
    let mut retry = RETRY_FIRST;
    loop {
        let addr = shell.core.borrow().link_addr(link).map(str::to_owned);
        let Some(addr) = addr else {
            tokio::time::sleep(RETRY_MAX).await;
            continue;
        };
        shell.take_link_close(link);
        match connect(&addr).await {
            Ok(stream) => {
                tracing::debug!(%addr, "link connected");
                let began = tokio::time::Instant::now();
                let end = serve(&shell, link, stream).await;
                tracing::info!(%addr, reason = %end, "link closed");
                if began.elapsed() > RETRY_MAX {
                    retry = RETRY_FIRST;
                }
            }
            Err(error) => tracing::debug!(%addr, %error, "link cannot connect"),
        }
        shell.core.borrow_mut().link_down(link, clock::now());
        shell.settle(None);
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

async fn connect(addr: &str) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(addr))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    holdfast_proto::tcp::prepare_internal(&stream)?;
    Ok(stream)
}

/// Moves bytes until the connection ends; says why it did.
async fn serve(shell: &Rc<Shell>, link: usize, mut stream: TcpStream) -> io::Error {
    shell.core.borrow_mut().link_up(link, clock::now());
    let mut buffer = BytesMut::new();
    let end = poll_fn(|cx| {
        shell.set_link_waker(link, Some(cx.waker()));
        if shell.take_link_close(link) {
            return Poll::Ready(io::Error::other("closed by the proxy"));
        }
        if let Poll::Ready(Err(error)) = poll_write(shell, link, &mut stream, cx) {
            return Poll::Ready(error);
        }
        match poll_read(shell, link, &mut stream, &mut buffer, cx) {
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    shell.set_link_waker(link, None);
    end
}

fn poll_write(
    shell: &Rc<Shell>,
    link: usize,
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let mut core = shell.core.borrow_mut();
    let out = core.link_output(link);
    while !out.is_empty() {
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, out))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        out.advance(written);
    }
    if out.capacity() > READ_BYTES {
        // After a burst of large values.
        *out = BytesMut::new();
    }
    Poll::Ready(Ok(()))
}

/// Ready only when the connection ends.
fn poll_read(
    shell: &Rc<Shell>,
    link: usize,
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Error> {
    for _ in 0..READS_PER_TURN {
        buffer.reserve(READ_BYTES / 4);
        let read = pin!(stream.read_buf(buffer));
        match ready!(std::future::Future::poll(read, cx)) {
            Ok(0) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) => return Poll::Ready(error),
        }
        let result = shell.core.borrow_mut().link_data(link, buffer, clock::now());
        shell.settle(None);
        if let Err(error) = result {
            return Poll::Ready(io::Error::other(error));
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}
