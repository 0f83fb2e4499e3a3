//! Copies a directory tree with everything that a container could see: owners, modes, times, attributes, links, holes.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use windlass_core::tree;

/// Longest value of an extended attribute that the kernel has.
const MAX_ATTRIBUTE: usize = 64 << 10;

struct Level {
    from: Dir,
    to: OwnedFd,
    /// Set when all entries are there: making them changes the times.
    stat: Stat,
    /// Relative to the root.
    path: Vec<u8>,
}

/// Copies what is in `from`, and what `from` itself is like, to the existing directory `to`.
pub fn tree(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (tree::open_dir(from)?, tree::open_dir(to)?);
    let root = target.try_clone()?;
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut levels = vec![Level::new(source, target, Vec::new())?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.from.next() else {
            let level = levels.pop().expect("it was there a moment ago");
            rustix::fs::futimens(&level.to, &times(&level.stat))?;
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let mut path = level.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let source = level.from.fd()?;
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            rustix::fs::mkdirat(&level.to, name, Mode::RWXU)?;
            let next =
                Level::new(tree::open_child(source, name)?, tree::open_child(level.to.as_fd(), name)?, path)?;
            levels.push(next);
            continue;
        }
        if stat.st_nlink > 1 {
            let id = (stat.st_dev as u64, stat.st_ino as u64);
            if let Some(first) = links.get(&id) {
                rustix::fs::linkat(&root, first.as_slice(), &level.to, name, AtFlags::empty())?;
                continue;
            }
            links.insert(id, path);
        }
        copy_one(source, level.to.as_fd(), name, &stat)?;
    }
    Ok(())
}

impl Level {
    fn new(from: OwnedFd, to: OwnedFd, path: Vec<u8>) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&from)?;
        own(to.as_fd(), c"", &stat, AtFlags::EMPTY_PATH)?;
        rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        attributes(&name_of(from.as_fd(), c"."), &name_of(to.as_fd(), c"."), b"")?;
        Ok(Self { from: Dir::new(from)?, to, stat, path })
    }
}

/// Gives the directory `to` owner, mode, attributes and times of the directory `from`; what overlayfs marks stays apart.
pub fn looks(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    own(to, c"", &stat, AtFlags::EMPTY_PATH)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    attributes(&name_of(from, c"."), &name_of(to, c"."), b"trusted.")?;
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

fn own(fd: BorrowedFd<'_>, name: &CStr, stat: &Stat, flags: AtFlags) -> io::Result<()> {
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    Ok(rustix::fs::chownat(fd, name, owner.0, owner.1, flags)?)
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    }
}

/// Anything but a directory.
fn copy_one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match kind {
        FileType::RegularFile => {
            let source = rustix::fs::openat(
                from,
                name,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(to, name, create, Mode::RUSR | Mode::WUSR)?;
            data(&source, &target, stat.st_size as u64)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, name)?;
        }
        FileType::Socket => return Ok(()),
        _ => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev as _)?,
    }
    own(to, name, stat, AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        // The name was made here a moment ago and is no link.
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    attributes(&name_of(from, name), &name_of(to, name), b"")?;
    Ok(rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Shares the data where the file system can, else copies it and leaves holes out.
fn data(from: &OwnedFd, to: &OwnedFd, size: u64) -> io::Result<()> {
    if size == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).max(start + 1);
        extent(from, to, start, end.min(size))?;
        at = end;
    }
    Ok(rustix::fs::ftruncate(to, size)?)
}

fn extent(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let len = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), len) {
            // The file became shorter.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return by_hand(from, to, read_at, end);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn by_hand(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0u8; 256 << 10];
    let mut at = start;
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::pread(from, &mut buffer[..len], at)?;
        if read == 0 {
            return Ok(());
        }
        let mut done = 0;
        while done < read {
            done += rustix::io::pwrite(to, &buffer[done..read], at + done as u64)?;
        }
        at += read as u64;
    }
    Ok(())
}

/// A path to an entry of an open directory; its last part is not followed by the `l…xattr` calls.
fn name_of(directory: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).expect("neither part holds a zero")
}

/// Copies all attributes, but those that begin with `without`, where that is not empty.
fn attributes(from: &CStr, to: &CStr, without: &[u8]) -> io::Result<()> {
    let size = match rustix::fs::llistxattr_query(from) {
        Ok(size) => size,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    if size == 0 {
        return Ok(());
    }
    let mut names = vec![0u8; MAX_ATTRIBUTE];
    let size = rustix::fs::llistxattr(from, &mut names[..])?;
    let mut value = vec![0u8; MAX_ATTRIBUTE];
    for name in names[..size].split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !without.is_empty() && name.to_bytes().starts_with(without) {
            continue;
        }
        let copied = rustix::fs::lgetxattr(from, name, &mut value[..])
            .and_then(|size| rustix::fs::lsetxattr(to, name, &value[..size], XattrFlags::empty()));
        if let Err(error) = copied {
            // Some, such as those of security modules, cannot be set in most places.
            tracing::debug!(attribute = ?name, %error, "an extended attribute is not copied");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_copy_is_like_the_original() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("sub/file"), "content").unwrap();
        std::fs::hard_link(from.join("sub/file"), from.join("twin")).unwrap();
        symlink("sub/file", from.join("link")).unwrap();
        let sparse = std::fs::File::create(from.join("sparse")).unwrap();
        sparse.write_all_at(b"end", 10 << 20).unwrap();
        std::os::unix::fs::chown(from.join("sub"), Some(3), Some(4)).unwrap();
        std::fs::set_permissions(from.join("sub"), std::fs::Permissions::from_mode(0o2751)).unwrap();
        rustix::fs::setxattr(from.join("sub/file"), c"user.test", b"value", XattrFlags::empty()).unwrap();
        rustix::fs::mknodat(tree::open_dir(&from).unwrap(), "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
        tree(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("link")).unwrap(), "content");
        let meta = |p: &str| std::fs::symlink_metadata(to.join(p)).unwrap();
        assert_eq!(meta("sub/file").ino(), meta("twin").ino());
        assert_eq!((meta("sub").uid(), meta("sub").gid(), meta("sub").mode() & 0o7777), (3, 4, 0o2751));
        assert_eq!(meta("sub").mtime(), std::fs::metadata(from.join("sub")).unwrap().mtime());
        assert_eq!(meta("sparse").size(), (10 << 20) + 3);
        assert!(meta("sparse").blocks() < 100, "holes stay holes");
        assert_eq!(FileType::from_raw_mode(meta("fifo").mode()), FileType::Fifo);
        let mut value = [0u8; 16];
        assert_eq!(rustix::fs::getxattr(to.join("twin"), c"user.test", &mut value[..]).unwrap(), 5);
    }
}
