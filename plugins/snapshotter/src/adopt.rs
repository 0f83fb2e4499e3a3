//! A layer that was unpacked alone gets its parent: directories that its archive does not name, made only because something
//! lies in them, look as they do below.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use windlass_core::snapshot::XATTR_IMPLIED;
use windlass_core::tree;

use crate::copy;

struct Level {
    dir: Dir,
    fd: OwnedFd,
    /// Relative to the root.
    path: Vec<u8>,
}

/// Fits the layer at `root` onto `parents`, the nearest first.
pub fn adopt(root: &Path, parents: impl Iterator<Item = PathBuf>) -> io::Result<()> {
    let parents = parents.map(|p| tree::open_dir(&p)).collect::<io::Result<Vec<_>>>()?;
    let root = tree::open_dir(root)?;
    if let Some(parent) = parents.first() {
        // The root itself belongs to whom the parent's does.
        let (above, below) = (rustix::fs::fstat(&root)?, rustix::fs::fstat(parent)?);
        if (above.st_uid, above.st_gid) != (below.st_uid, below.st_gid) {
            rustix::fs::fchown(&root, Some(Uid::from_raw(below.st_uid)), Some(Gid::from_raw(below.st_gid)))?;
        }
    }
    if !unmark(root.as_fd())? {
        return Ok(());
    }
    let mut levels = vec![Level { dir: Dir::read_from(&root)?, fd: root, path: Vec::new() }];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.dir.next() else {
            levels.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
            continue;
        }
        let fd = tree::open_child(level.fd.as_fd(), name)?;
        let mut path = level.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        if unmark(fd.as_fd())?
            && let Some(below) = find(&parents, &path)?
        {
            copy::looks(below.as_fd(), fd.as_fd())?;
        }
        levels.push(Level { dir: Dir::read_from(&fd)?, fd, path });
    }
    Ok(())
}

/// Takes the mark away; whether there was one.
fn unmark(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match rustix::fs::fremovexattr(fd, XATTR_IMPLIED) {
        Ok(()) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The directory as the layers below show it, links followed inside of each.
fn find(parents: &[OwnedFd], path: &[u8]) -> io::Result<Option<OwnedFd>> {
    for parent in parents {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(parent, path, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::NOENT) => {}
            // Something else is there, or it was deleted.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}
