//! Descriptors on the event loop.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub type Ready = AsyncFd<OwnedFd>;

/// Watches for both directions. The descriptor must not block.
pub fn both(fd: OwnedFd) -> io::Result<Ready> {
    watch(fd, Interest::READABLE | Interest::WRITABLE)
}

pub fn readable(fd: OwnedFd) -> io::Result<Ready> {
    watch(fd, Interest::READABLE)
}

fn watch(fd: OwnedFd, interest: Interest) -> io::Result<Ready> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, and `AsyncFd` takes it off the loop first.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
