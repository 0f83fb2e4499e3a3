//! Processes: clone, namespaces, identity, limits, signals, waiting.

use super::{check, cstr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
pub const CLONE_NEWTIME: i32 = 0x80;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The two sides of a clone.
pub enum Clone {
    Child,
    Parent { pid: u32, pidfd: OwnedFd },
}

/// `clone3(2)` like a fork, with the `CLONE_NEW*` flags given and, if wanted, straight into a v2 control group.
///
/// With `sibling` the new process gets the caller's parent (`CLONE_PARENT`).
///
/// # Safety
/// The calling process must be single-threaded: the child runs ordinary code.
pub unsafe fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>, sibling: bool) -> io::Result<Clone> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        ..CloneArgs::default()
    };
    if sibling {
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(group) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given; without a stack of its own the child goes on with a copy
    // of ours, as after fork. The contract of this function covers the rest.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &mut args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Clone::Child);
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(Clone::Parent { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Ends the process at once: no destructors, no exit handlers.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(status) }
}

pub fn setns(fd: impl AsFd, flags: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setns(fd.as_fd().as_raw_fd(), flags).into() }).map(drop)
}

pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::unshare(flags).into() }).map(drop)
}

pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

pub fn pidfd_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: the siginfo pointer may be null.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Reaps a child by its pidfd, blocking; ECHILD when somebody else did.
pub fn reap(pidfd: impl AsFd) -> io::Result<()> {
    // SAFETY: siginfo_t is plain data for which zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        let id = pidfd.as_fd().as_raw_fd() as libc::id_t;
        // SAFETY: `info` is valid for writing. __WALL: a CLONE_PARENT child may have no exit signal.
        let result = unsafe { libc::waitid(libc::P_PIDFD, id, &mut info, libc::WEXITED | libc::__WALL) };
        match check(result.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Waits until one descriptor has one of `events` (or an error), or until the time is over: then false.
pub fn wait_for(fd: impl AsFd, events: i16, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = left.as_millis().min(i32::MAX as u128) as i32
            + i32::from(!left.subsec_nanos().is_multiple_of(1_000_000));
        // SAFETY: `poll` is one valid pollfd.
        match check(unsafe { libc::poll(&mut poll, 1, millis).into() }) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) => {}
            Ok(_) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

pub fn setsid() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setsid().into() }).map(drop)
}

/// The calling thread's identity, all of real, effective and saved. The raw calls: libc's would reach for other threads.
pub fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

pub fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the slice is valid for reading its length.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

pub fn prctl(option: i32, a: libc::c_ulong, b: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: callers pass only options whose arguments are integers.
    check(unsafe { libc::prctl(option, a, b, 0 as libc::c_ulong, 0 as libc::c_ulong).into() })
        .map(|n| n as i32)
}

pub fn set_rlimit(pid: u32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    // The kernel's rlimit64.
    let limit = [soft, hard];
    // SAFETY: `limit` is valid for reading, the old value is not asked for.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, resource, limit.as_ptr(), std::ptr::null_mut::<u64>())
    })
    .map(drop)
}

pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the buffer is valid for reading its length.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()).into() }).map(drop)
}

pub fn set_domainname(name: &str) -> io::Result<()> {
    // SAFETY: the buffer is valid for reading its length.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()).into() }).map(drop)
}

/// Joins a new session keyring of this name. A kernel without keyrings says ENOSYS.
pub fn new_session_keyring(name: &str) -> io::Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let name = cstr(name)?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
        .map(|id| id as i32)
}

/// Back to the default for every signal, and none blocked: what a program expects to be started with.
pub fn reset_signals() {
    // The kernel's sigaction: libc's would keep the signals that it uses itself. All zero is SIG_DFL and an empty mask.
    const MASK_SIZE: usize = 8;
    let default = [0u64; 8];
    // SAFETY: the array is larger than the kernel's structure, the old action is not asked for; sigset_t is plain data
    // for which zero is valid.
    unsafe {
        for signal in 1..=64 {
            if signal != libc::SIGKILL && signal != libc::SIGSTOP {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    default.as_ptr(),
                    std::ptr::null_mut::<u64>(),
                    MASK_SIZE,
                );
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// A bounded pause for states that the kernel tells no event of.
pub fn pause_for(time: Duration) {
    let time = libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ };
    // SAFETY: no descriptors are passed, the time is valid for reading, the mask may be null.
    unsafe { libc::ppoll(std::ptr::null_mut(), 0, &time, std::ptr::null()) };
}
