//! Signals of the serving process, turned into readiness of an eventfd.
//!
//! Handlers, not a signal mask and not `SIG_IGN`: both of those are inherited over `exec` and would reach containers;
//! a handler goes back to the default there.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use crate::readiness::{self, Ready};

static WAKE: AtomicI32 = AtomicI32::new(-1);
static TERMINATE: AtomicBool = AtomicBool::new(false);

/// Resolves whenever a child may have ended or the shim was asked to end.
pub struct Signals {
    fd: Ready,
}

impl Signals {
    /// Installs the handlers; once per process. Needs the event loop.
    pub fn install() -> io::Result<Signals> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        WAKE.store(fd.as_raw_fd(), Ordering::SeqCst);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT] {
            handle(signal, wake)?;
        }
        handle(libc::SIGPIPE, nothing)?;
        handle(libc::SIGHUP, nothing)?;
        Ok(Signals { fd: readiness::readable(fd)? })
    }

    /// Waits for the next signal; several may be folded into one.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            let mut guard = self.fd.readable().await?;
            let mut count = [0u8; 8];
            let read = guard.try_io(|fd| rustix::io::read(fd, &mut count).map_err(io::Error::from));
            if let Ok(result) = read {
                return result.map(drop);
            }
        }
    }

    /// Whether SIGTERM or SIGINT came.
    pub fn terminated(&self) -> bool {
        TERMINATE.load(Ordering::Relaxed)
    }
}

extern "C" fn nothing(_: libc::c_int) {}

extern "C" fn wake(signal: libc::c_int) {
    if signal != libc::SIGCHLD {
        TERMINATE.store(true, Ordering::Relaxed);
    }
    let one = 1u64.to_ne_bytes();
    // SAFETY: `write` may be called from a handler; the buffer is ours; errno is put back, since the handler may have
    // come between a system call and the look at its errno.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(WAKE.load(Ordering::Relaxed), one.as_ptr().cast(), one.len());
        *libc::__errno_location() = errno;
    }
}

fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: the structure is fully set before use, and both handlers only do what a handler may.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART | if signal == libc::SIGCHLD { libc::SA_NOCLDSTOP } else { 0 };
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
