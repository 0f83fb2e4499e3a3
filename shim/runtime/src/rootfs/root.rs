//! The root directory of the container, and names resolved inside it: no symlink, `..` or race leads out, for every
//! lookup is an `openat2` with `RESOLVE_IN_ROOT`.

use crate::error::{Context, Error, Result};
use crate::sys::file::{self, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

const MAX_LINKS: usize = 40;

/// What has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Dir,
    File,
}

pub struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A name of the configuration as a relative path without `.` and `..`; these are taken out by their letters, as
/// runtimes always did.
pub fn clean(path: impl AsRef<Path>) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.as_ref().components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

impl Root {
    pub fn open(path: &Path) -> Result<Root> {
        let fd = file::open(path, libc::O_PATH | libc::O_DIRECTORY, 0).at("open rootfs", path)?;
        Ok(Root { fd })
    }

    pub fn from_fd(fd: OwnedFd) -> Root {
        Root { fd }
    }

    fn lookup(&self, path: &Path, flags: i32, resolve: u64) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        file::openat2(&self.fd, path, flags, 0, resolve)
    }

    /// A handle (`O_PATH`) of what the name stands for, symlinks followed inside the root.
    pub fn resolve(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        self.lookup(&clean(path), libc::O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    }

    /// The same, but a symlink anywhere on the way is ELOOP.
    pub fn resolve_plain(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        self.lookup(&clean(path), libc::O_PATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    }

    /// The name, made (directories 0755, files 0644 and empty) as far as it is missing.
    pub fn ensure(&self, path: impl AsRef<Path>, kind: Kind) -> Result<OwnedFd> {
        let path = clean(path);
        self.ensure_at(&path, kind, 0).at("create in rootfs", Path::new("/").join(&path))
    }

    fn ensure_at(&self, path: &Path, kind: Kind, links: usize) -> io::Result<OwnedFd> {
        match self.resolve(path) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
        if links > MAX_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        };
        let dir = self.ensure_at(parent, Kind::Dir, links)?;
        let made = match kind {
            Kind::Dir => file::mkdirat(&dir, name, 0o755),
            Kind::File => file::openat2(
                &dir,
                name,
                libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY,
                0o644,
                RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
            )
            .map(drop),
        };
        match made {
            Ok(()) => self.lookup(path, libc::O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS),
            // A symlink to what is not there: make that, inside the root.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => match read_link(&dir, name) {
                Ok(target) => {
                    let target = PathBuf::from(target);
                    let next = if target.is_absolute() { target } else { parent.join(target) };
                    self.ensure_at(&clean(next), kind, links + 1)
                }
                Err(_) => self.resolve(path),
            },
            Err(error) => Err(error),
        }
    }

    /// Like `ensure` for a directory, but neither it nor its parents may be symlinks: for `/proc` and `/sys`, which a
    /// hostile image could otherwise have mounted somewhere else than where they will be looked for.
    pub fn ensure_plain_dir(&self, path: &str) -> Result<OwnedFd> {
        match self.resolve_plain(path) {
            Ok(fd) => Ok(fd),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.ensure(path, Kind::Dir)?;
                self.resolve_plain(path).at("open in rootfs", path)
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR | libc::EXDEV)) => {
                Err(Error::Spec(format!("{path} in the rootfs must be an ordinary directory, not a symlink")))
            }
            Err(error) => Err(error).at("open in rootfs", path),
        }
    }

    /// The directory that holds `path` (made if missing) and the last name.
    pub fn parent(&self, path: &str) -> Result<(OwnedFd, OsString)> {
        let path = clean(path);
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok((self.ensure(parent, Kind::Dir)?, name.to_owned())),
            _ => Err(Error::Spec("the root directory cannot be replaced".into())),
        }
    }
}

pub fn read_link(dir: impl AsFd, name: &OsStr) -> io::Result<OsString> {
    let fd = file::openat(&dir, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let mut buffer = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: an empty path reads the link that the descriptor refers to; the buffer is valid for its whole length.
    let n = unsafe {
        use std::os::fd::AsRawFd;
        libc::readlinkat(fd.as_raw_fd(), c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    buffer.truncate(crate::sys::check(n as libc::c_long)? as usize);
    Ok(OsString::from_vec(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn symlinks_stay_inside() {
        let (dir, root) = root();
        symlink("/", dir.path().join("abs")).unwrap();
        symlink("../../../../../..", dir.path().join("up")).unwrap();
        for link in ["abs", "up"] {
            root.ensure(format!("/{link}/made-{link}/deep"), Kind::Dir).unwrap();
            assert!(dir.path().join(format!("made-{link}/deep")).is_dir());
            assert!(!Path::new(&format!("/made-{link}")).exists());
        }
    }

    #[test]
    fn dangling_symlinks_are_made_inside() {
        let (dir, root) = root();
        symlink("/nowhere/file", dir.path().join("link")).unwrap();
        root.ensure("/link", Kind::File).unwrap();
        assert!(dir.path().join("nowhere/file").is_file());
        symlink("loop2", dir.path().join("loop1")).unwrap();
        symlink("loop1", dir.path().join("loop2")).unwrap();
        assert!(root.ensure("/loop1/x", Kind::Dir).is_err());
    }

    #[test]
    fn plain_directories_only() {
        let (dir, root) = root();
        symlink("/etc", dir.path().join("proc")).unwrap();
        assert!(root.ensure_plain_dir("/proc").is_err());
        root.ensure_plain_dir("/sys").unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(root.ensure("/file/x", Kind::Dir).is_err());
    }

    #[test]
    fn names_are_cleaned() {
        assert_eq!(clean("/a/../../b/./c/"), Path::new("b/c"));
        assert_eq!(clean("../.."), Path::new(""));
    }
}
