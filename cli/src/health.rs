//! `holdfast health`: is the process at a metrics address ready? For health checks of containers,
//! whose image holds nothing but this program.

use anyhow::{Context, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Ask a process, at its metrics or admin address, whether it is ready; exit code 0 if it is.
#[derive(clap::Args, Debug)]
pub(crate) struct HealthArgs {
    /// Its `metrics-listen` or `admin-listen`.
    #[arg(default_value = "127.0.0.1:9100")]
    address: SocketAddr,
}

#[allow(clippy::print_stdout, reason = "the command's output")]
pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let address = args.address;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut reply = Vec::new();
    stream.take(8192).read_to_end(&mut reply).with_context(|| format!("ask {address}"))?;
    let reply = String::from_utf8_lossy(&reply);
    let status = reply.lines().next().unwrap_or("no answer");
    if !status.contains(" 200 ") {
        bail!("{address} is not ready: {status}");
    }
    println!("ready");
    Ok(())
}
