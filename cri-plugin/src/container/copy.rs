//! Trees of files copied, with owners, modes, times, extended attributes and hard links: what an image has below a
//! volume's place goes into the volume.
//!
//! The source is an image's and hostile: nothing is followed, everything is reached by descriptors, and how deep a tree
//! may be is limited.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// Directories within directories.
const DEPTH: usize = 256;
/// Hard links that are remembered; more become files of their own.
const LINKS: usize = 1 << 16;
/// Longest list of attributes' names, and longest attribute: the kernel's own limit.
const XATTR: usize = 64 << 10;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Level {
    from: Dir,
    to: OwnedFd,
    /// Below the target's root.
    path: PathBuf,
    stat: Stat,
}

struct Copy<'a> {
    root: BorrowedFd<'a>,
    links: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
}

/// Copies what is in the directory `from` into the empty directory `to`, which gets its looks too. Answers whether there
/// was anything in it.
pub fn tree(from: OwnedFd, to: OwnedFd) -> io::Result<bool> {
    let root = to.try_clone()?;
    let mut copy = Copy { root: root.as_fd(), links: HashMap::new(), buffer: Vec::new() };
    let mut levels =
        vec![Level { stat: rustix::fs::fstat(&from)?, from: Dir::new(from)?, to, path: PathBuf::new() }];
    let mut any = false;
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.from.next() else {
            let done = levels.pop().expect("it was there a moment ago");
            // Last, because what was put in changed its times.
            copy.looks(done.from.fd()?, done.to.as_fd(), &done.stat)?;
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        any = true;
        let depth = levels.len();
        let level = levels.last().expect("it was there a moment ago");
        if let Some(below) = copy.entry(level, name)? {
            if depth >= DEPTH {
                return Err(io::Error::other(format!("directories are nested deeper than {DEPTH}")));
            }
            levels.push(below);
        }
    }
    Ok(any)
}

impl Copy<'_> {
    /// Copies one entry; answers the level below where it is a directory.
    fn entry(&mut self, level: &Level, name: &CStr) -> io::Result<Option<Level>> {
        let from = level.from.fd()?;
        let to = level.to.as_fd();
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let path = level.path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let to = rustix::fs::openat(to, name, DIRECTORY, Mode::empty())?;
            let from = rustix::fs::openat(from, name, DIRECTORY, Mode::empty())?;
            return Ok(Some(Level { from: Dir::new(from)?, to, path, stat }));
        }
        let key = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&key)
        {
            rustix::fs::linkat(self.root, first, to, name, AtFlags::empty())?;
            return Ok(None);
        }
        match kind {
            FileType::RegularFile => self.file(from, to, name, &stat)?,
            FileType::Symlink => {
                let target: CString = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)?;
                own(to, name, &stat)?;
                touch(to, name, &stat)?;
            }
            FileType::Socket => return Ok(None),
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
                own(to, name, &stat)?;
                // The mask of the process does not apply to it twice.
                rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
                touch(to, name, &stat)?;
            }
        }
        if stat.st_nlink > 1 && self.links.len() < LINKS {
            self.links.insert(key, path);
        }
        Ok(None)
    }

    fn file(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, seen: &Stat) -> io::Result<()> {
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = rustix::fs::openat(from, name, read, Mode::empty())?;
        let stat = rustix::fs::fstat(&from)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_ino != seen.st_ino {
            return Err(io::Error::other("a file became another while it was copied"));
        }
        let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(to, name, write, Mode::RUSR | Mode::WUSR)?;
        std::io::copy(
            &mut std::fs::File::from(from.try_clone()?),
            &mut std::fs::File::from(to.try_clone()?),
        )?;
        self.looks(from.as_fd(), to.as_fd(), &stat)
    }

    /// Owner, mode, extended attributes and times of a file or directory. A change of owner takes capabilities and
    /// set-id bits away, so it comes first.
    fn looks(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
        rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        self.attributes(from, to)?;
        Ok(rustix::fs::futimens(to, &times(stat))?)
    }

    fn attributes(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        let mut names = vec![0u8; XATTR];
        let length = match rustix::fs::flistxattr(from, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
            // The label of a volume is its own.
            if name == b"security.selinux" || name.starts_with(b"trusted.overlay.") {
                continue;
            }
            let name = CString::new(name)?;
            self.buffer.resize(XATTR, 0);
            let length = rustix::fs::fgetxattr(from, &name, &mut self.buffer[..])?;
            match rustix::fs::fsetxattr(to, &name, &self.buffer[..length], XattrFlags::empty()) {
                // The volume's file system may not have what the image's has.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

fn own(directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn touch(directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    Ok(rustix::fs::utimensat(directory, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        windlass_core::tree::open_dir(path).unwrap()
    }

    #[test]
    fn everything_about_a_tree_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/file"), "content").unwrap();
        fs::hard_link(from.join("sub/file"), from.join("link")).unwrap();
        symlink("/etc/passwd", from.join("symlink")).unwrap();
        lchown(from.join("symlink"), Some(5), Some(6)).unwrap();
        chown(from.join("sub/file"), Some(7), Some(8)).unwrap();
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        rustix::fs::mknodat(open(&from), "fifo", FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
        chown(&from, Some(9), Some(10)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();

        assert!(tree(open(&from), open(&to)).unwrap());
        let meta = |path: &str| fs::symlink_metadata(to.join(path)).unwrap();
        let file = meta("sub/file");
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (7, 8, 0o4751));
        assert_eq!(file.ino(), meta("link").ino(), "a hard link stays one");
        assert_eq!(file.mtime_nsec(), fs::metadata(from.join("sub/file")).unwrap().mtime_nsec());
        assert_eq!(fs::read(to.join("sub/file")).unwrap(), b"content");
        assert_eq!(fs::read_link(to.join("symlink")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!((meta("symlink").uid(), meta("symlink").gid()), (5, 6));
        assert_eq!(meta("fifo").mode(), fs::symlink_metadata(from.join("fifo")).unwrap().mode());
        assert!(meta("sub/deep").is_dir());
        assert_eq!((meta("").uid(), meta("").gid(), meta("").mode() & 0o7777), (9, 10, 0o1777));
        assert_eq!(meta("").mtime(), fs::metadata(&from).unwrap().mtime());
    }

    #[test]
    fn an_empty_directory_gives_its_looks_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        chown(&from, Some(3), Some(4)).unwrap();
        assert!(!tree(open(&from), open(&to)).unwrap());
        assert_eq!(fs::metadata(&to).unwrap().uid(), 3);
    }

    #[test]
    fn a_bottomless_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        fs::create_dir_all(from.join("d/".repeat(DEPTH + 1))).unwrap();
        let error = tree(open(&from), open(&to)).unwrap_err();
        assert!(error.to_string().contains("nested"), "{error}");
    }
}
