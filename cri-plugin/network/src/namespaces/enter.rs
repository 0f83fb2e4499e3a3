//! Work inside a network namespace, on a thread that ends with it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::netlink::route::Routes;

/// Enough for the calls made here: they keep nothing large on the stack.
const STACK: usize = 128 << 10;

/// Runs `work` on a thread of its own.
pub(super) async fn thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (done, outcome) = oneshot::channel();
    let body = move || {
        let _ = done.send(work());
    };
    let builder = std::thread::Builder::new().name(name.into()).stack_size(STACK);
    builder.spawn(body).map_err(Error::io("start thread", name))?;
    outcome.await.map_err(|_| Error::Cut(name))
}

/// Runs `work`, which may block, in the network namespace held at `net`.
pub async fn inside<T: Send + 'static>(net: &Path, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let path = net.to_owned();
    let entered = move || {
        let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::errno("open", &path))?;
        match move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network)) {
            Ok(()) => Ok(work()),
            Err(Errno::INVAL) => Err(Error::NotNamespace(path)),
            Err(errno) => Err(Error::errno("enter", path)(errno)),
        }
    };
    thread("netns", entered).await?
}

/// Connects to a port of a pod's loopback, by IPv4 and, failing that, by IPv6. `limit` holds for each of the two.
pub async fn connect(net: &Path, port: u16, limit: Duration) -> Result<TcpStream> {
    // A socket stays in the namespace that it was made in; everything else can be done from here.
    let sockets = inside(net, || (socket(AddressFamily::INET), socket(AddressFamily::INET6))).await?;
    let failed = Error::io("connect to loopback in", net);
    let first = match reach(sockets.0, IpAddr::V4(Ipv4Addr::LOCALHOST), port, limit).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    match reach(sockets.1, IpAddr::V6(Ipv6Addr::LOCALHOST), port, limit).await {
        Ok(stream) => Ok(stream),
        // The first answer says more where there is no IPv6 at all.
        Err(_) => Err(failed(first)),
    }
}

fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

async fn reach(socket: io::Result<OwnedFd>, ip: IpAddr, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket?.into());
    tokio::time::timeout(limit, socket.connect(SocketAddr::new(ip, port))).await?
}

/// Brings up the loopback interface of this thread's network namespace; the kernel gives it its addresses.
pub(super) fn raise_loopback() -> Result<(), Errno> {
    // Always the first.
    Routes::open()?.set_up(1)
}
