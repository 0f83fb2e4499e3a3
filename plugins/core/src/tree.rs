//! Directory trees on disk: removed, measured, opened, without following links, crossing mounts or recursion.
//!
//! Everything works on directory descriptors, so a tree that somebody changes meanwhile cannot lead outside.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::snapshot::Usage;

/// Descriptors kept open on the way down; a deeper removal opens the way up again.
const OPEN_LEVELS: usize = 128;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory by its path, links followed.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a directory that is a direct child; neither a link nor a mount point.
pub fn open_child(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match rustix::fs::openat2(parent, name, DIRECTORY, Mode::empty(), resolve) {
        // Kernels and sandboxes without openat2: the link is still refused.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()),
        other => other,
    }
}

/// Removes what is at `path`, whatever it is. Nothing there is fine.
pub fn remove_path(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    match open_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }) {
        Ok(parent) => remove(parent.as_fd(), name),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

struct Level {
    /// `None` once too many lie below it; opened again on the way up.
    dir: Option<Dir>,
    name: CString,
    id: (u64, u64),
}

impl Level {
    fn open(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Self> {
        let fd = open_child(parent, name)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self {
            dir: Some(Dir::new(fd)?),
            name: name.to_owned(),
            id: (stat.st_dev as u64, stat.st_ino as u64),
        })
    }

    fn dir(&mut self) -> &mut Dir {
        self.dir.as_mut().expect("the innermost levels are open")
    }
}

/// Removes the entry `name` of `parent` with all that is in it. A mount point inside is an error (`EXDEV`), and what it
/// holds stays.
pub fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let name = CString::new(name.as_bytes())?;
    if !is_dir_left(parent, &name)? {
        return Ok(());
    }
    let mut levels = vec![match Level::open(parent, &name) {
        Ok(level) => level,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    }];
    while let Some(level) = levels.last_mut() {
        let dir = level.dir();
        let Some(entry) = dir.next() else {
            let done = levels.pop().expect("it was there a moment ago");
            match levels.last_mut() {
                Some(above) => {
                    if above.dir.is_none() {
                        above.dir = Some(reopen(&done, above.id)?);
                    }
                    drop_dir(above.dir().fd()?, &done.name)?;
                }
                None => drop_dir(parent, &done.name)?,
            }
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let fd = dir.fd()?;
        if entry.file_type() != FileType::Directory && !is_dir_left(fd, name)? {
            continue;
        }
        match Level::open(fd, name) {
            Ok(next) => levels.push(next),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        if levels.len() > OPEN_LEVELS {
            let far = levels.len() - OPEN_LEVELS;
            levels[far - 1].dir = None;
        }
    }
    Ok(())
}

/// Unlinks what is not a directory; whether there is one.
fn is_dir_left(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::ISDIR) => Ok(true),
        Err(e) => match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            _ => Err(e.into()),
        },
    }
}

fn drop_dir(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The parent of a level that has just been emptied, if it is still the one that we came through.
fn reopen(child: &Level, id: (u64, u64)) -> io::Result<Dir> {
    let child = child.dir.as_ref().expect("the innermost levels are open");
    let fd = rustix::fs::openat(child.fd()?, c"..", DIRECTORY, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if (stat.st_dev as u64, stat.st_ino as u64) != id {
        return Err(io::Error::other("the directory was moved while it was being removed"));
    }
    Ok(Dir::new(fd)?)
}

/// Inodes and allocated bytes of a tree, its root included. A file with several names counts once.
pub fn usage(path: &Path) -> io::Result<Usage> {
    let root = open_dir(path)?;
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let want = StatxFlags::BLOCKS | StatxFlags::NLINK | StatxFlags::INO | StatxFlags::TYPE;
    let mut count = |stat: &rustix::fs::Statx| {
        let several =
            stat.stx_nlink > 1 && FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory;
        if !several || linked.insert((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)) {
            usage.inodes += 1;
            usage.size += stat.stx_blocks * 512;
        }
    };
    count(&rustix::fs::statx(&root, c"", AtFlags::EMPTY_PATH, want)?);
    let mut levels = vec![Dir::new(root)?];
    while let Some(dir) = levels.last_mut() {
        let Some(entry) = dir.next() else {
            levels.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let fd = dir.fd()?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        let stat = match rustix::fs::statx(fd, name, flags, want) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        count(&stat);
        if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
            match open_child(fd, name) {
                Ok(next) => levels.push(Dir::new(next)?),
                Err(Errno::NOENT | Errno::XDEV) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn removal_takes_the_tree_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::write(tree.join("a/b/file"), "x").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("nowhere", tree.join("dangling")).unwrap();
        remove_path(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("kept").exists());
        remove_path(&tree).unwrap();
        remove_path(&dir.path().join("no/such/parent")).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_the_descriptors_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut fd = open_dir(dir.path()).unwrap();
        for depth in 0..1500 {
            rustix::fs::mkdirat(&fd, c"d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&fd, c"e", Mode::RWXU).unwrap();
            fd = open_child(fd.as_fd(), c"d").unwrap_or_else(|e| panic!("depth {depth}: {e}"));
        }
        drop(fd);
        remove_path(&dir.path().join("d")).unwrap();
        assert!(!dir.path().join("d").exists());
    }

    #[test]
    fn a_file_with_two_names_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let base = usage(dir.path()).unwrap();
        std::fs::write(dir.path().join("one"), vec![1u8; 100_000]).unwrap();
        let one = usage(dir.path()).unwrap();
        assert_eq!(one.inodes, base.inodes + 1);
        assert!(one.size >= base.size + 100_000);
        std::fs::hard_link(dir.path().join("one"), dir.path().join("two")).unwrap();
        assert_eq!(usage(dir.path()).unwrap(), one);
    }
}
