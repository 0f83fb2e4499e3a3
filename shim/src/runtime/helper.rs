//! A fork of the shim that does what may take long: hooks are other people's programs, and the shim must not wait for
//! them in its one thread.
//!
//! The helper makes the container and stays until it has been started, because a container that waits at its start ends
//! with its maker. It is told what to do, and tells what came of it, over a socket pair. When it has gone, the
//! container's process is the shim's child.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use crate::error::{Code, Context, Error, Result};
use crate::readiness::{self, Ready};

/// How long one step may take. Every hook has a limit of its own, which is shorter.
const LIMIT: Duration = Duration::from_secs(600);
/// An answer is a pid, or an error message.
const MESSAGE: usize = 8 << 10;
const DONE: u8 = b'k';
const FAILED: u8 = b'e';
const GO: u8 = b'g';

/// The shim's end.
pub struct Helper {
    socket: Ready,
    pid: u32,
}

/// The helper's end.
pub struct Task {
    socket: OwnedFd,
}

impl Helper {
    /// Forks; `body` runs in the helper, which ends with it. Only `keep` and the standard streams stay open there.
    pub fn fork(keep: &[RawFd], body: impl FnOnce(&Task)) -> Result<Helper> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .op("make socket pair")?;
        // SAFETY: the process has one thread, so the child may do what the parent may.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).op("fork"),
            0 => {
                let task = Task { socket: theirs };
                let mut keep: Vec<RawFd> =
                    keep.iter().copied().chain([0, 1, 2, task.socket.as_raw_fd()]).collect();
                // SAFETY: what is closed belongs to values that the child never touches or drops: it leaves by `_exit`.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    close_others(&mut keep);
                    body(&task);
                    libc::_exit(0)
                }
            }
            pid => {
                rustix::io::ioctl_fionbio(&ours, true).op("set flags of socket")?;
                Ok(Helper { socket: readiness::both(ours).op("watch socket")?, pid: pid.unsigned_abs() })
            }
        }
    }

    /// Lets the helper do its next step.
    pub fn go(&self) -> Result<()> {
        rustix::io::write(self.socket.get_ref(), &[GO]).op("tell helper")?;
        Ok(())
    }

    /// What came of a step: a number, and a descriptor if the step made one.
    pub async fn result(&self) -> Result<(u32, Option<OwnedFd>)> {
        let receive = async {
            loop {
                let mut guard = self.socket.readable().await?;
                if let Ok(message) = guard.try_io(|socket| receive(socket.as_fd())) {
                    return message;
                }
            }
        };
        let Ok(message) = timeout(LIMIT, receive).await else {
            if let Some(pid) = Pid::from_raw(self.pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
            return Err(Error::class(Code::DeadlineExceeded, "the runtime's helper did not answer"));
        };
        let (bytes, fd) = message.op("hear from helper")?;
        match bytes.split_first() {
            Some((&DONE, rest)) => {
                let number =
                    <[u8; 4]>::try_from(rest).map_err(|_| Error::unknown("the helper sent no number"))?;
                Ok((u32::from_ne_bytes(number), fd))
            }
            Some((&FAILED, rest)) => {
                let (code, message) = rest.split_at_checked(1).unwrap_or((&[2], rest));
                let message = String::from_utf8_lossy(message).into_owned();
                Err(match code {
                    [12] => Error::unimplemented(message),
                    [6] => Error::exists(message),
                    [9] => Error::precondition(message),
                    _ => Error::unknown(message),
                })
            }
            _ => Err(Error::unknown("the runtime's helper ended without an answer")),
        }
    }
}

impl Task {
    pub fn answer(&self, result: &Result<(u32, Option<OwnedFd>)>) {
        let (bytes, fd) = match result {
            Ok((number, fd)) => ([&[DONE], &number.to_ne_bytes()[..]].concat(), fd.as_ref()),
            Err(error) => {
                let (code, _) = error.wire();
                let mut bytes = vec![FAILED, code as u8];
                let text = error.to_string();
                bytes.extend_from_slice(&text.as_bytes()[..text.len().min(MESSAGE - 2)]);
                (bytes, None)
            }
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(|fd| fd.as_fd()).collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        // If the shim has gone there is nobody to tell, and its end is this one's.
        let _ = sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
    }

    /// Waits for the word to go on; false when it will not come, or when `over` became readable.
    pub fn wait(&self, over: Option<BorrowedFd<'_>>) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        fds.extend(over.as_ref().map(|over| PollFd::new(over, PollFlags::IN)));
        while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
        let mut byte = [0u8; 1];
        fds[0].revents().contains(PollFlags::IN) && rustix::io::read(&self.socket, &mut byte) == Ok(1)
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0u8; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last();
        }
    }
    bytes.truncate(received.bytes);
    Ok((bytes, fd))
}

/// Closes every descriptor that is not in `keep`.
///
/// # Safety
/// Nothing may use the closed descriptors any more.
unsafe fn close_others(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut next = 0;
    for fd in keep.iter().copied() {
        if fd > next {
            // SAFETY: as promised by the caller.
            unsafe { libc::close_range(next as libc::c_uint, (fd - 1) as libc::c_uint, 0) };
        }
        next = next.max(fd + 1);
    }
    // SAFETY: as promised by the caller.
    unsafe { libc::close_range(next as libc::c_uint, libc::c_uint::MAX, 0) };
}
