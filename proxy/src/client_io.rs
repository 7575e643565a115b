//! Connections of clients: accepting, the TLS handshake, moving bytes.

use crate::clock;
use crate::core::{ClientKey, TOO_MANY_CLIENTS};
use crate::tls::TlsSettings;
use crate::worker::Shell;
use bytes::{Buf, BytesMut};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// All clients' bytes are read into one buffer of this size, of which pieces are cut off.
const POOL_BYTES: usize = 64 * 1024;
/// With less room than this left in the buffer, a new one is taken.
const POOL_ROOM_BYTES_MIN: usize = 16 * 1024;
/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes going on at a time in a worker; more wait in the listener's queue, so that a storm
/// of connections does not take the processor from established ones. A guess.
const HANDSHAKES_MAX: usize = 128;
/// First byte of a TLS connection: a record of type "handshake".
const TLS_HANDSHAKE_RECORD: u8 = 0x16;
/// Reads in a row before other tasks get their turn.
const READS_PER_TURN: usize = 8;

/// Accepts clients for as long as the worker lives.
pub(crate) async fn accept(shell: Rc<Shell>, listener: TcpListener, tls: Option<TlsSettings>) {
    loop {
        while shell.handshakes.get() >= HANDSHAKES_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or the client left meanwhile.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        prepare(&stream, shell.core.borrow().keepalive());
        match &tls {
            None => {
                tokio::task::spawn_local(serve(shell.clone(), stream, addr));
            }
            Some(tls) => {
                let acceptor = TlsAcceptor::from(tls.current());
                shell.handshakes.set(shell.handshakes.get() + 1);
                tokio::task::spawn_local(handshake(shell.clone(), stream, addr, acceptor));
            }
        }
    }
}

fn prepare(stream: &TcpStream, keepalive: Option<Duration>) {
    // Failures here mean that the client is gone already; reading will tell.
    let _ = stream.set_nodelay(true);
    if let Some(idle) = keepalive {
        // The interval of Redis (`anetKeepAlive`): three probes in the time of one wait.
        let interval = (idle / 3).max(Duration::from_secs(1));
        let keepalive = socket2::TcpKeepalive::new().with_time(idle).with_interval(interval);
        let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
    }
}

async fn handshake(shell: Rc<Shell>, stream: TcpStream, addr: SocketAddr, acceptor: TlsAcceptor) {
    let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, secure(stream, &acceptor)).await;
    shell.handshakes.set(shell.handshakes.get() - 1);
    match result {
        Err(_) => tracing::debug!(client.addr = %addr, "TLS handshake timed out"),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
            tracing::warn!(
                client.addr = %addr,
                "plain text on the TLS port: connection closed; clients must connect with rediss://"
            );
        }
        Ok(Err(error)) => tracing::debug!(client.addr = %addr, %error, "TLS handshake failed"),
        Ok(Ok(stream)) => serve(shell, stream, addr).await,
    }
}

/// An error of kind `InvalidInput`: the client does not speak TLS.
async fn secure(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> io::Result<Box<tokio_rustls::server::TlsStream<TcpStream>>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE_RECORD {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let stream = acceptor.accept(stream).await?;
    Ok(Box::new(stream))
}

/// Streams that know their own address.
trait LocalAddr {
    fn local_addr(&self) -> Option<SocketAddr>;
}

impl LocalAddr for TcpStream {
    fn local_addr(&self) -> Option<SocketAddr> {
        Self::local_addr(self).ok()
    }
}

impl LocalAddr for Box<tokio_rustls::server::TlsStream<TcpStream>> {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.get_ref().0.local_addr().ok()
    }
}

async fn serve<S>(shell: Rc<Shell>, mut stream: S, addr: SocketAddr)
where
    S: AsyncRead + AsyncWrite + LocalAddr + Unpin,
{
    let local = LocalAddr::local_addr(&stream).unwrap_or(addr);
    let key = shell.core.borrow_mut().client_connected(addr, local, clock::now());
    let Some(key) = key else {
        let _ = stream.write_all(TOO_MANY_CLIENTS).await;
        let _ = stream.shutdown().await;
        return;
    };
    let end = poll_fn(|cx| poll_client(&shell, key, &mut stream, cx)).await;
    shell.set_client_waker(key.index, None);
    shell.core.borrow_mut().client_gone(key, clock::now());
    shell.settle(None);
    if let Err(error) = end {
        tracing::debug!(client.addr = %addr, %error, "client connection ended");
        return;
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
}

/// Ready when the connection is to be closed (`Ok`) or broke.
fn poll_client<S: AsyncRead + AsyncWrite + Unpin>(
    shell: &Rc<Shell>,
    key: ClientKey,
    stream: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    shell.set_client_waker(key.index, Some(cx.waker()));
    for _ in 0..READS_PER_TURN {
        // Not being able to write must not keep from reading: a client may send a long pipeline
        // before it reads the first reply.
        if let Poll::Ready(done) = poll_write(shell, key, stream, cx)?
            && done
        {
            return Poll::Ready(Ok(()));
        }
        if !shell.core.borrow().wants_input(key) {
            return Poll::Pending;
        }
        let Some(chunk) = ready!(poll_read(shell, stream, cx))? else {
            return Poll::Ready(Ok(()));
        };
        shell.core.borrow_mut().client_data(key, chunk, clock::now());
        shell.settle(Some(key.index));
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Writes what there is; true: all is written and the client is to be closed.
fn poll_write<S: AsyncWrite + Unpin>(
    shell: &Rc<Shell>,
    key: ClientKey,
    stream: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    let mut core = shell.core.borrow_mut();
    let Some((out, closing)) = core.client_output(key) else { return Poll::Ready(Ok(true)) };
    let mut total = 0;
    while !out.is_empty() {
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, out))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        out.advance(written);
        total += written;
    }
    ready!(Pin::new(&mut *stream).poll_flush(cx))?;
    if total > 0 {
        core.client_written(key, total);
    }
    Poll::Ready(Ok(closing))
}

/// Bytes of the client, cut off the worker's common buffer; `None` at the end of the stream.
fn poll_read<S: AsyncRead + Unpin>(
    shell: &Rc<Shell>,
    stream: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<BytesMut>>> {
    let mut pool = shell.pool.borrow_mut();
    if pool.capacity() < POOL_ROOM_BYTES_MIN {
        *pool = BytesMut::with_capacity(POOL_BYTES);
    }
    let read = pin!(stream.read_buf(&mut *pool));
    let count = ready!(std::future::Future::poll(read, cx))?;
    Poll::Ready(Ok((count > 0).then(|| pool.split())))
}
