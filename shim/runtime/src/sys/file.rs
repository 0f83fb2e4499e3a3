//! Files and directories, always relative to a descriptor where a path may be hostile.

use super::{check, cstr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub const RESOLVE_BENEATH: u64 = 0x08;
pub const RESOLVE_IN_ROOT: u64 = 0x10;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `openat2(2)`; `O_CLOEXEC` is always set. EAGAIN (a rename raced with `..`) is tried again a bounded number of times.
pub fn openat2(
    dir: impl AsFd,
    path: impl AsRef<Path>,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    let path = cstr(path)?;
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: u64::from(mode), resolve };
    let dir = dir.as_fd().as_raw_fd();
    let mut tries = 0;
    loop {
        // SAFETY: path is NUL-terminated and `how` is a valid open_how of the size given; both outlive the call.
        let result = check(unsafe {
            libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), &how, size_of::<OpenHow>())
        });
        match result {
            // SAFETY: the kernel has just given us this descriptor.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) && tries < 128 => {
                tries += 1
            }
            Err(error) => return Err(error),
        }
    }
}

/// `openat(2)` for trusted paths, `O_CLOEXEC` set.
pub fn openat(dir: impl AsFd, path: impl AsRef<Path>, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let path = cstr(path)?;
    // SAFETY: path is NUL-terminated and outlives the call.
    let fd = check(unsafe {
        libc::openat(dir.as_fd().as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC, mode as libc::c_uint)
            .into()
    })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `open(2)` for trusted paths, `O_CLOEXEC` set.
pub fn open(path: impl AsRef<Path>, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    openat(cwd(), path, flags, mode)
}

/// The working directory as a descriptor for the `*at` calls.
pub fn cwd() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is not a descriptor that anybody could close; the kernel knows it in every `*at` call.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

pub fn mkdirat(dir: impl AsFd, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    let path = cstr(path)?;
    // SAFETY: path is NUL-terminated and outlives the call.
    check(unsafe { libc::mkdirat(dir.as_fd().as_raw_fd(), path.as_ptr(), mode).into() }).map(drop)
}

pub fn mkdir(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    mkdirat(cwd(), path, mode)
}

pub fn rmdir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = cstr(path)?;
    // SAFETY: path is NUL-terminated and outlives the call.
    check(unsafe { libc::rmdir(path.as_ptr()).into() }).map(drop)
}

pub fn unlinkat(dir: impl AsFd, path: impl AsRef<Path>) -> io::Result<()> {
    let path = cstr(path)?;
    // SAFETY: path is NUL-terminated and outlives the call.
    check(unsafe { libc::unlinkat(dir.as_fd().as_raw_fd(), path.as_ptr(), 0).into() }).map(drop)
}

pub fn symlinkat(target: impl AsRef<Path>, dir: impl AsFd, path: impl AsRef<Path>) -> io::Result<()> {
    let (target, path) = (cstr(target)?, cstr(path)?);
    // SAFETY: both are NUL-terminated and outlive the call.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_fd().as_raw_fd(), path.as_ptr()).into() })
        .map(drop)
}

pub fn mknodat(dir: impl AsFd, path: impl AsRef<Path>, mode: u32, device: u64) -> io::Result<()> {
    let path = cstr(path)?;
    // SAFETY: path is NUL-terminated and outlives the call.
    check(unsafe { libc::mknodat(dir.as_fd().as_raw_fd(), path.as_ptr(), mode, device).into() }).map(drop)
}

pub fn fchownat(dir: impl AsFd, path: impl AsRef<Path>, uid: u32, gid: u32, flags: i32) -> io::Result<()> {
    let path = cstr(path)?;
    // SAFETY: path is NUL-terminated and outlives the call.
    check(unsafe { libc::fchownat(dir.as_fd().as_raw_fd(), path.as_ptr(), uid, gid, flags).into() }).map(drop)
}

pub fn fchown(fd: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::fchown(fd.as_fd().as_raw_fd(), uid, gid).into() }).map(drop)
}

pub fn fchmod(fd: impl AsFd, mode: u32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::fchmod(fd.as_fd().as_raw_fd(), mode).into() }).map(drop)
}

pub fn fstat(fd: impl AsFd) -> io::Result<libc::stat> {
    // SAFETY: stat is plain data for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writing and outlives the call.
    check(unsafe { libc::fstat(fd.as_fd().as_raw_fd(), &mut stat).into() })?;
    Ok(stat)
}

/// `fstatat(2)` with the flags given; an empty path with `AT_EMPTY_PATH` means `dir` itself.
pub fn fstatat(dir: impl AsFd, path: impl AsRef<Path>, flags: i32) -> io::Result<libc::stat> {
    let path = cstr(path)?;
    // SAFETY: stat is plain data for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: path is NUL-terminated, `stat` is valid for writing; both outlive the call.
    check(unsafe { libc::fstatat(dir.as_fd().as_raw_fd(), path.as_ptr(), &mut stat, flags).into() })?;
    Ok(stat)
}

/// The type of the file system an open file is on (`PROC_SUPER_MAGIC` and so on).
pub fn fs_magic(fd: impl AsFd) -> io::Result<i64> {
    // SAFETY: statfs is plain data for which zero is valid.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writing and outlives the call.
    check(unsafe { libc::fstatfs(fd.as_fd().as_raw_fd(), &mut stat).into() })?;
    #[allow(clippy::unnecessary_cast)] // the field's type differs between C libraries
    Ok(stat.f_type as i64)
}

pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the buffer is valid for writing its whole length.
        let result = unsafe { libc::read(fd.as_fd().as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match check(result as libc::c_long) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            other => return other.map(|n| n as usize),
        }
    }
}

pub fn write(fd: impl AsFd, data: &[u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the buffer is valid for reading its whole length.
        let result = unsafe { libc::write(fd.as_fd().as_raw_fd(), data.as_ptr().cast(), data.len()) };
        match check(result as libc::c_long) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            other => return other.map(|n| n as usize),
        }
    }
}

/// Writes a kernel control file in one call, as its parsers want it.
pub fn write_file_at(dir: impl AsFd, path: impl AsRef<Path>, data: &[u8]) -> io::Result<()> {
    let file = openat(dir, path, libc::O_WRONLY, 0)?;
    let written = write(&file, data)?;
    if written == data.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Reads at most `limit` bytes; more is EFBIG.
pub fn read_all(fd: impl AsFd, limit: usize) -> io::Result<Vec<u8>> {
    let mut data = Vec::with_capacity(limit.min(4096));
    let mut chunk = [0u8; 4096];
    loop {
        let n = read(fd.as_fd(), &mut chunk)?;
        if n == 0 {
            return Ok(data);
        }
        if data.len() + n > limit {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        data.extend_from_slice(&chunk[..n]);
    }
}

/// What a descriptor refers to, in a path that the kernel follows without resolving names.
pub fn proc_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

pub fn umask(mask: u32) -> u32 {
    // SAFETY: takes no pointers and cannot fail.
    unsafe { libc::umask(mask as libc::mode_t) as u32 }
}

/// Closes every descriptor above 2 but the ones named; the list is sorted in place.
pub fn close_all_but(keep: &mut [RawFd]) -> io::Result<()> {
    keep.sort_unstable();
    let mut next: RawFd = 3;
    for &fd in keep.iter() {
        if fd > next {
            close_range(next, (fd - 1) as u32, 0)?;
        }
        next = next.max(fd + 1);
    }
    close_range(next, u32::MAX, 0)
}

/// Sets close-on-exec on every descriptor from `first`.
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: RawFd, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes no pointers; callers run in a forked child whose descriptors they own all.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// A copy with a number of at least `min`, close-on-exec.
pub fn dup_from(fd: impl AsFd, min: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer.
    let new = check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, min).into() })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(new as RawFd) })
}

/// Puts `fd` at `target` (0, 1 or 2) without close-on-exec.
pub fn dup_onto(fd: impl AsFd, target: RawFd) -> io::Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    if raw == target {
        // SAFETY: F_SETFD takes an integer.
        return check(unsafe { libc::fcntl(raw, libc::F_SETFD, 0).into() }).map(drop);
    }
    // SAFETY: takes no pointers; the standard descriptors belong to the process, not to an OwnedFd.
    check(unsafe { libc::dup2(raw, target).into() }).map(drop)
}
