//! The socket pair between the caller and the child: whole messages, with at most a few descriptors each.

use super::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The largest message; errors are cut to fit.
pub const MAX_MESSAGE: usize = 16 * 1024;
/// Enough for one of every v1 hierarchy.
const MAX_FDS: usize = 24;

/// One end of a `SOCK_SEQPACKET` pair. The other end going away reads as an empty message.
#[derive(Debug)]
pub struct Channel(OwnedFd);

pub fn pair() -> io::Result<(Channel, Channel)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` is valid for writing two descriptors.
    check(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()).into()
    })?;
    // SAFETY: the kernel has just given us both descriptors.
    unsafe { Ok((Channel(OwnedFd::from_raw_fd(fds[0])), Channel(OwnedFd::from_raw_fd(fds[1])))) }
}

impl Channel {
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub fn send(&self, data: &[u8], fds: &[RawFd]) -> io::Result<()> {
        send(&self.0, data, fds)
    }

    /// The next message and its descriptors; an empty message means that the peer is gone.
    pub fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut data = vec![0u8; MAX_MESSAGE];
        let mut control = [0u64; 16];
        let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        // SAFETY: msghdr is plain data for which zero is valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let n = loop {
            // SAFETY: the header points to buffers that are valid for writing their whole lengths.
            let result = unsafe { libc::recvmsg(self.0.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
            match check(result as libc::c_long) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                other => break other? as usize,
            }
        };
        let mut fds = Vec::new();
        // SAFETY: the kernel has filled in the control buffer; the CMSG macros stay within msg_controllen, and each
        // descriptor in an SCM_RIGHTS message is ours from now on.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&message);
            while !header.is_null() {
                if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                    let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                    let first = libc::CMSG_DATA(header).cast::<RawFd>();
                    for i in 0..bytes / size_of::<RawFd>() {
                        fds.push(OwnedFd::from_raw_fd(first.add(i).read_unaligned()));
                    }
                }
                header = libc::CMSG_NXTHDR(&message, header);
            }
        }
        data.truncate(n);
        Ok((data, fds))
    }
}

/// Sends bytes with descriptors over any unix socket; never raises SIGPIPE.
pub fn send(socket: impl AsFd, data: &[u8], fds: &[RawFd]) -> io::Result<()> {
    if fds.len() > MAX_FDS || data.len() > MAX_MESSAGE {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut control = [0u64; 16];
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: msghdr is plain data for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let size = size_of_val(fds) as u32;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: the control buffer (128 bytes, aligned) holds one header and MAX_FDS descriptors.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), size as usize);
        }
    }
    loop {
        // SAFETY: the header points to buffers that outlive the call.
        let result = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
        match check(result as libc::c_long) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Connects to a unix socket by path.
pub fn connect(path: &str) -> io::Result<OwnedFd> {
    UnixStream::connect(path).map(OwnedFd::from)
}

/// Connects to a unix stream socket by path. The kernel waits no longer than `limit` where the other side's queue is full,
/// and says EAGAIN then.
pub fn connect_within(path: &Path, limit: Duration) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).into() })?;
    // SAFETY: the kernel has just given us this descriptor.
    let stream = unsafe { UnixStream::from_raw_fd(fd as RawFd) };
    stream.set_write_timeout(Some(limit))?;
    // SAFETY: sockaddr_un is plain data for which zero is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One less: the name ends with a zero.
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is valid for reading the size given.
    check(unsafe { libc::connect(stream.as_raw_fd(), (&raw const address).cast(), size).into() })?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        let (a, b) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        a.send(b"one", &[]).unwrap();
        a.send(b"two", &[file.as_raw_fd(), file.as_raw_fd()]).unwrap();
        drop(a);
        assert_eq!(b.receive().unwrap().0, b"one");
        let (data, fds) = b.receive().unwrap();
        assert_eq!((data.as_slice(), fds.len()), (&b"two"[..], 2));
        assert!(b.receive().unwrap().0.is_empty());
    }
}
