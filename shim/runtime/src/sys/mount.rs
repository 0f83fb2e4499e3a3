//! The mount calls: the descriptor-based ones, and the old `mount(2)` for what only it can do.

use super::{check, cstr};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

pub const MOUNT_ATTR_RDONLY: u64 = 0x01;
pub const MOUNT_ATTR_NOSUID: u64 = 0x02;
pub const MOUNT_ATTR_NODEV: u64 = 0x04;
pub const MOUNT_ATTR_NOEXEC: u64 = 0x08;
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// What `mount_setattr(2)` takes.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns: u64,
}

/// A file system being configured.
pub struct FsContext(OwnedFd);

impl FsContext {
    pub fn open(fstype: &str) -> io::Result<FsContext> {
        let name = cstr(fstype)?;
        // SAFETY: the name is NUL-terminated and outlives the call. 1 is FSOPEN_CLOEXEC.
        let fd = check(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), 1) })?;
        // SAFETY: the kernel has just given us this descriptor.
        Ok(FsContext(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    fn config(&self, command: u32, key: Option<&CString>, value: Option<&CString>) -> io::Result<()> {
        let key = key.map_or(std::ptr::null(), |k| k.as_ptr());
        let value = value.map_or(std::ptr::null(), |v| v.as_ptr());
        // SAFETY: key and value are null or NUL-terminated strings that outlive the call.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) })
            .map(drop)
    }

    /// One option as `mount -o` writes it: `key=value` or `flag`.
    pub fn option(&self, option: &str) -> io::Result<()> {
        match option.split_once('=') {
            Some((key, value)) => self.string(key, value),
            None => self.config(FSCONFIG_SET_FLAG, Some(&cstr(option)?), None),
        }
    }

    pub fn string(&self, key: &str, value: &str) -> io::Result<()> {
        self.config(FSCONFIG_SET_STRING, Some(&cstr(key)?), Some(&cstr(value)?))
    }

    pub fn create(&self) -> io::Result<()> {
        self.config(FSCONFIG_CMD_CREATE, None, None)
    }

    /// A detached mount with the `MOUNT_ATTR_*` given.
    pub fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        // SAFETY: takes no pointers. 1 is FSMOUNT_CLOEXEC.
        let fd =
            check(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), 1, attributes as u32) })?;
        // SAFETY: the kernel has just given us this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }

    /// What the kernel says about the last failure, if anything.
    pub fn message(&self) -> Option<String> {
        let mut buffer = [0u8; 512];
        let n = super::file::read(&self.0, &mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..n]);
        Some(text.trim_start_matches(['e', 'w', 'i', ' ']).trim_end().to_string())
    }
}

/// A detached copy of the mount at `path` (or at `dir` itself when `path` is empty), with all below it if `recursive`.
pub fn clone_tree(dir: impl AsFd, path: impl AsRef<Path>, recursive: bool) -> io::Result<OwnedFd> {
    let path = cstr(path)?;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: path is NUL-terminated and outlives the call.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_fd().as_raw_fd(), path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches a detached mount upon what `target` refers to.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    // SAFETY: both paths are empty NUL-terminated literals.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Changes attributes of the mount that `mount` is the root of.
pub fn set_attr(mount: impl AsFd, attr: Attr, recursive: bool) -> io::Result<()> {
    if attr == Attr::default() {
        return Ok(());
    }
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty literal, `attr` is a valid mount_attr of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &attr,
            size_of::<Attr>(),
        )
    })
    .map(drop)
}

/// The old `mount(2)`.
pub fn mount(
    source: Option<&Path>,
    target: &Path,
    fstype: Option<&str>,
    flags: libc::c_ulong,
    data: Option<&str>,
) -> io::Result<()> {
    let source = source.map(cstr).transpose()?;
    let target = cstr(target)?;
    let fstype = fstype.map(cstr).transpose()?;
    let data = data.map(cstr).transpose()?;
    let ptr = |s: &Option<CString>| s.as_ref().map_or(std::ptr::null(), |s| s.as_ptr());
    // SAFETY: all strings are null or NUL-terminated and outlive the call.
    check(unsafe {
        libc::mount(ptr(&source), target.as_ptr(), ptr(&fstype), flags, ptr(&data).cast()).into()
    })
    .map(drop)
}

pub fn umount(target: &Path, flags: i32) -> io::Result<()> {
    let target = cstr(target)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), flags).into() }).map(drop)
}

/// `pivot_root(".", ".")`: the working directory becomes the root, and the old root lies on top of it.
pub fn pivot_root_here() -> io::Result<()> {
    // SAFETY: both are NUL-terminated literals.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

pub fn chroot_here() -> io::Result<()> {
    // SAFETY: a NUL-terminated literal.
    check(unsafe { libc::chroot(c".".as_ptr()).into() }).map(drop)
}

pub fn fchdir(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::fchdir(fd.as_fd().as_raw_fd()).into() }).map(drop)
}

pub fn chdir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = cstr(path)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::chdir(path.as_ptr()).into() }).map(drop)
}
