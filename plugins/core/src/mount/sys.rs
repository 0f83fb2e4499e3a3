//! The system calls of mounting: the new mount API where the kernel has it, mount(2) elsewhere.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree,
};

use super::options::{Options, attr};

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// mount_setattr(2) on the mount `fd` itself, or the tree under it.
fn set_attributes(fd: BorrowedFd<'_>, attributes: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant, the structure lives through the call and its size is the one passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where a mount goes.
pub(super) struct Place<'a> {
    root: &'a Path,
    target: &'a str,
    fd: OwnedFd,
}

impl<'a> Place<'a> {
    /// `target` below `root`, looked up inside of it.
    pub fn new(root: &'a Path, target: &'a str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let mut fd = rustix::fs::open(root, flags, Mode::empty())?;
        let target = target.trim_start_matches('/');
        if !target.is_empty() {
            fd = rustix::fs::openat2(&fd, target, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        }
        Ok(Self { root, target, fd })
    }

    /// The same place after a mount: what lies on top of it now.
    pub fn top(&self) -> io::Result<Self> {
        Self::new(self.root, self.target)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A name for a descriptor that mount(2) takes.
pub(super) fn name_of(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", place, c"", flags)?)
}

/// A detached copy of the mount, or of the mounts, at `source`, with ids mapped.
pub(super) fn mapped_copy(
    source: &Path,
    recursive: bool,
    attributes: u64,
    user_namespace: Option<&OwnedFd>,
) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, flags)?;
    if let Some(namespace) = user_namespace {
        let raw = namespace.as_raw_fd() as u64;
        let mapping = MountAttr {
            set: attr::IDMAP | attributes,
            propagation: libc::MS_PRIVATE,
            user_namespace: raw,
            ..MountAttr::default()
        };
        set_attributes(tree.as_fd(), &mapping, recursive)?;
    } else if attributes != 0 {
        set_attributes(tree.as_fd(), &changes(attributes), false)?;
    }
    Ok(tree)
}

/// What sets these attributes. Times are one field: whoever sets one of its values clears the others.
fn changes(attributes: u64) -> MountAttr {
    let clear = if attributes & attr::ATIME != 0 { attr::ATIME } else { 0 };
    MountAttr { set: attributes, clear, ..MountAttr::default() }
}

/// Bind mounts `source` on `place`.
pub(super) fn bind(
    source: &Path,
    place: &Place<'_>,
    options: &Options,
    user_namespace: Option<&OwnedFd>,
) -> io::Result<()> {
    let recursive = options.has(libc::MS_REC);
    match mapped_copy(source, recursive, options.attributes(), user_namespace) {
        Ok(tree) => {
            let (set, clear) = options.recursive;
            if set | clear != 0 {
                set_attributes(tree.as_fd(), &MountAttr { set, clear, ..MountAttr::default() }, true)?;
            }
            attach(tree.as_fd(), place.fd())
        }
        // Before 5.12: two steps, and no mapping.
        Err(e)
            if e.raw_os_error() == Some(libc::ENOSYS)
                && user_namespace.is_none()
                && options.recursive == (0, 0) =>
        {
            let kept = options.flags & (libc::MS_BIND | libc::MS_REC) as u32;
            classic(&source.to_string_lossy(), place.fd(), "", kept, "")?;
            if options.flags & !kept != 0 {
                classic("", place.top()?.fd(), "", options.flags | libc::MS_REMOUNT as u32, "")?;
            }
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Puts a mapped copy of the mount at `place` on top of it.
pub(super) fn remap(place: &Place<'_>, user_namespace: &OwnedFd) -> io::Result<()> {
    let copy = mapped_copy(&name_of(place.top()?.fd()), false, 0, Some(user_namespace))?;
    attach(copy.as_fd(), place.top()?.fd())
}

/// mount(2).
pub(super) fn classic(
    source: &str,
    place: BorrowedFd<'_>,
    kind: &str,
    flags: u32,
    data: &str,
) -> io::Result<()> {
    let data = CString::new(data)?;
    let data = (!data.is_empty()).then_some(&*data);
    Ok(rustix::mount::mount(source, name_of(place), kind, MountFlags::from_bits_retain(flags), data)?)
}

pub(super) fn change_propagation(place: &Place<'_>, options: &Options) -> io::Result<()> {
    if options.propagation.is_empty() {
        return Ok(());
    }
    let top = place.top()?;
    for flags in &options.propagation {
        let flags = MountPropagationFlags::from_bits_retain(*flags);
        rustix::mount::mount_change(name_of(top.fd()), flags)?;
    }
    Ok(())
}

/// Takes the uppermost mount off; whether there was one.
pub(super) fn unmount(target: &Path) -> io::Result<bool> {
    match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        // Whoever still uses it keeps what it has; the place is free at once.
        Err(Errno::BUSY) => {
            rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            Ok(true)
        }
        Err(e) => Err(e.into()),
    }
}

/// Mount points on and below `path`, the deepest first.
pub(super) fn mount_points(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(unescape)
        .filter(|p| p.starts_with(path))
        .collect();
    points.reverse();
    Ok(points)
}

/// The table writes space, tab, newline and backslash in octal.
fn unescape(field: &str) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|c| std::str::from_utf8(c).ok()).and_then(|c| u8::from_str_radix(c, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_as_written() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(r"/plain\"), Path::new("/plain\\"));
    }
}
