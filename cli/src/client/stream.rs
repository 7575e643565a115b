//! A client connection, TLS or plain, authenticated and on its database.

use super::{ClientTls, Uri};
use anyhow::{Context, bail};
use rustls::pki_types::ServerName;
use std::pin::Pin;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// TLS or plain TCP.
pub enum ClientStream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Connects, authenticates with the URI's credentials and selects its database.
pub async fn connect(uri: &Uri, tls: Option<&ClientTls>) -> anyhow::Result<ClientStream> {
    let tcp = TcpStream::connect((uri.host.as_str(), uri.port)).await.context("connect")?;
    tcp.set_nodelay(true)?;
    let mut stream = match tls {
        None => ClientStream::Plain(tcp),
        Some(tls) => {
            let name = ServerName::try_from(uri.host.clone()).context("host name")?;
            let stream = tls.connector().connect(name, tcp).await.context("TLS handshake")?;
            ClientStream::Tls(Box::new(stream))
        }
    };
    if let Some(password) = &uri.password {
        let user = uri.user.as_deref().unwrap_or("default");
        call(&mut stream, &["AUTH", user, password]).await?;
    }
    if uri.database != 0 {
        call(&mut stream, &["SELECT", &uri.database.to_string()]).await?;
    }
    Ok(stream)
}

/// Sends one command whose answer is a single line, and returns that line.
async fn call(stream: &mut ClientStream, words: &[&str]) -> anyhow::Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    if let Some(error) = line.strip_prefix('-') {
        bail!("{}: {error}", words[0]);
    }
    Ok(line)
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
