//! Namespaces that a user namespace owns: a short-lived process makes them, since a thread of the daemon cannot.
//!
//! The process shares the daemon's memory and descriptors, so it costs next to nothing, and does nothing but system
//! calls. It is killed as soon as its namespaces are open here.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::set_parent_process_death_signal;
use rustix::process::{Pid, Signal, WaitOptions, getpid, getppid, pidfd_send_signal, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::{IdMap, Made, Mapping};
use crate::error::{Error, Result};

/// Lines that the kernel takes.
const MAX_RANGES: usize = 340;
const STACK: usize = 32 << 10;
/// What the process says when a step is done; anything else is the error.
const DONE: [u8; 4] = [0; 4];

pub(super) fn validate(what: &'static str, ranges: &[IdMap]) -> Result<()> {
    let whole = |m: &IdMap| {
        m.size > 0
            && m.container.checked_add(m.size - 1).is_some()
            && m.host.checked_add(m.size - 1).is_some()
    };
    if ranges.is_empty() || ranges.len() > MAX_RANGES || !ranges.iter().all(whole) {
        return Err(Error::invalid(
            what,
            format!("{ranges:?}"),
            "1 to 340 ranges of at least one id are possible",
        ));
    }
    Ok(())
}

/// Makes the namespaces of `flags`, owned by a new user namespace with `mapping` or by the one held at `join`.
pub(super) fn make(flags: UnshareFlags, mapping: Option<&Mapping>, join: Option<&Path>) -> Result<Made> {
    let join = match join {
        Some(path) => {
            let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            Some(fd.map_err(Error::errno("open", path))?)
        }
        None => None,
    };
    let failed = |step| Error::errno(step, "user namespace");
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(failed("talk to"))?;
    let plan = Plan {
        flags,
        join: join.as_ref().map(AsRawFd::as_raw_fd),
        talk: theirs.as_raw_fd(),
        parent: getpid(),
    };
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let maker = Maker::start(&plan, &mut stack).map_err(Error::io("start process for", "user namespace"))?;
    maker.step(&ours).map_err(failed("enter"))?;
    let proc = PathBuf::from(format!("/proc/{}", maker.pid.as_raw_nonzero()));
    if let Some(mapping) = mapping {
        write_map(&proc.join("uid_map"), &mapping.uids)?;
        write_map(&proc.join("gid_map"), &mapping.gids)?;
    }
    rustix::io::write(&ours, &[0]).map_err(failed("talk to"))?;
    maker.step(&ours).map_err(failed("make the namespaces of"))?;
    let mut made = super::open(&proc.join("ns"), flags, mapping.is_some())?;
    made.root = match mapping {
        Some(mapping) => root(&mapping.uids).zip(root(&mapping.gids)),
        None => read_root(&proc.join("uid_map")).zip(read_root(&proc.join("gid_map"))),
    };
    Ok(made)
}

fn root(ranges: &[IdMap]) -> Option<u32> {
    ranges.iter().find(|m| m.container == 0).map(|m| m.host)
}

fn read_root(map: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(map).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "0").then(|| words.next()?.parse().ok()).flatten()
    })
}

fn write_map(path: &Path, ranges: &[IdMap]) -> Result<()> {
    let mut text = String::new();
    for IdMap { container, host, size } in ranges {
        let _ = writeln!(text, "{container} {host} {size}");
    }
    let file = OpenOptions::new().write(true).open(path);
    // One write: the kernel takes a map only whole.
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::io("write", path))
}

/// What the process reads. It is on the stack of a thread that outlives the process.
struct Plan {
    flags: UnshareFlags,
    join: Option<RawFd>,
    talk: RawFd,
    parent: Pid,
}

struct Maker {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Maker {
    fn start(plan: &Plan, stack: &mut [u128]) -> io::Result<Self> {
        let mut flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD;
        if plan.join.is_none() {
            flags |= libc::CLONE_NEWUSER;
        }
        let mut pidfd: RawFd = -1;
        // SAFETY: the set is written before it is read. All signals are held back on this thread, and so in the
        // process: a handler must not run twice over in one memory. The thread ends soon and needs none.
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        }
        // SAFETY: the stack and the plan live until `self` is dropped, which waits for the process to be gone: both are
        // borrowed from the one caller, `make`, which drops it first. The function only makes system calls that touch no
        // thread-local data. No signal is sent at its end, so nobody else's wait finds it.
        let pid = unsafe {
            let top = stack.as_mut_ptr_range().end;
            let plan = std::ptr::from_ref(plan).cast_mut();
            libc::clone(body, top.cast(), flags, plan.cast(), &raw mut pidfd)
        };
        let pid = match pid {
            -1 => return Err(io::Error::last_os_error()),
            pid => Pid::from_raw(pid).expect("clone answers with a process id"),
        };
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
    }

    /// Waits until a step is done, or the process is.
    fn step(&self, talk: &OwnedFd) -> Result<(), Errno> {
        let mut fds = [PollFd::new(talk, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
        while let Err(errno) = poll(&mut fds, None) {
            if errno != Errno::INTR {
                return Err(errno);
            }
        }
        if fds[0].revents().is_empty() {
            return Err(Errno::SRCH);
        }
        let mut said = [0; 4];
        match rustix::io::read(talk, &mut said)? {
            4 if said == DONE => Ok(()),
            4 => Err(Errno::from_raw_os_error(i32::from_ne_bytes(said))),
            _ => Err(Errno::PROTO),
        }
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        // A process that says nothing at its end is found by this option alone.
        let options = WaitOptions::from_bits_retain(libc::__WALL as u32);
        while let Err(Errno::INTR) = waitpid(Some(self.pid), options) {}
    }
}

/// The process. System calls only, and none by libc: its errno is that of the thread that waits.
extern "C" fn body(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the pointer is that of a plan which outlives this process; see `Maker::start`.
    let plan = unsafe { &*plan.cast::<Plan>() };
    // SAFETY: both descriptors are open in the one table, and stay so until the process has been waited for.
    let (talk, join) =
        unsafe { (BorrowedFd::borrow_raw(plan.talk), plan.join.map(|fd| BorrowedFd::borrow_raw(fd))) };
    let say = |outcome: Result<(), Errno>| {
        let code = outcome.err().map_or(0, |errno| errno.raw_os_error());
        let _ = rustix::io::write(talk, &code.to_ne_bytes());
        outcome.is_ok()
    };
    let entered = join.map_or(Ok(()), |fd| move_into_link_name_space(fd, Some(LinkNameSpaceType::User)));
    // A daemon that is killed takes this process with it. Entering would have undone it.
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    if getppid() != Some(plan.parent) || !say(entered.and(bound)) {
        return 1;
    }
    let mut byte = [0];
    if rustix::io::read(talk, &mut byte) != Ok(1) {
        return 1;
    }
    // SAFETY: the flags name namespaces only.
    if say(unsafe { unshare_unsafe(plan.flags) }) {
        // Until it is killed.
        let _ = rustix::io::read(talk, &mut byte);
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_whole() {
        let range = |container, host, size| IdMap { container, host, size };
        assert!(validate("uid mapping", &[range(0, 100_000, 65_536)]).is_ok());
        assert!(validate("uid mapping", &[range(0, u32::MAX, 1)]).is_ok());
        assert!(validate("uid mapping", &[]).is_err());
        assert!(validate("uid mapping", &[range(0, 1, 0)]).is_err());
        assert!(validate("uid mapping", &[range(0, u32::MAX, 2)]).is_err());
        assert!(validate("uid mapping", &[range(0, 1, 1); 341]).is_err());
    }
}
