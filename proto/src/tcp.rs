//! Connections between Holdfast's processes: how soon a broken path is noticed.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// A connection whose peer acknowledges nothing for this long is given up. Without it TCP sends again
/// after ever longer pauses, and a path that heals stays silent for up to as long as it was cut.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);
/// A silent connection is probed this often: who waits for an answer has nothing to send that would
/// tell it of a peer that gave the connection up. The kernel's smallest interval.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Prepares a connection between two processes of a cluster. A process that is only slow or stopped
/// keeps it: its kernel acknowledges.
///
/// # Errors
/// The kernel's, which on Linux only a closed connection gives.
pub fn prepare_internal(stream: &tokio::net::TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    let fd = stream.as_fd();
    let timeout_ms = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(fd, timeout_ms)?;
    sockopt::set_tcp_keepidle(fd, PROBE_EVERY)?;
    sockopt::set_tcp_keepintvl(fd, PROBE_EVERY)?;
    sockopt::set_socket_keepalive(fd, true)?;
    Ok(())
}
