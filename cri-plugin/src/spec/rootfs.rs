//! Files of a container's root file system, read from outside. Whoever made the image is no friend: nothing outside of
//! the root is reached, nothing but a regular file is opened, and nothing waits.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

/// The root file system of a container that does not run yet.
pub trait Rootfs {
    /// Opens a regular file by its path from the root, symbolic links resolved inside of it. `NotFound` where there is
    /// none; other kinds of file are `InvalidInput`. Never blocks.
    fn open(&self, path: &str) -> io::Result<File>;
}

/// A root file system that is a directory here: a mount, attached or not.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl From<OwnedFd> for Tree {
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

impl Rootfs for Tree {
    fn open(&self, path: &str) -> io::Result<File> {
        let found = resolve(&self.0, path)?;
        if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // Only now, for to open a device or a FIFO has effects of its own.
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        Ok(openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?.into())
    }
}

fn resolve(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..16 {
        match openat2(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed while `..` was walked.
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Err(io::Error::from(io::ErrorKind::ResourceBusy))
}

/// A root file system with nothing in it, for those that have no users to look up.
#[derive(Debug)]
pub struct Empty;

impl Rootfs for Empty {
    fn open(&self, _: &str) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::tree;
    use rustix::fs::mknodat;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_inside_are_opened() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("etc")).unwrap();
        std::fs::write(at("etc/real"), "inside").unwrap();
        symlink("/etc/real", at("etc/absolute")).unwrap();
        symlink(outside.path().join("secret"), at("etc/out")).unwrap();
        symlink("../../../../../../etc/real", at("etc/up")).unwrap();
        symlink("loop", at("etc/loop")).unwrap();
        symlink("/proc/self/fd/0", at("etc/magic")).unwrap();
        mknodat(CWD, at("etc/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        mknodat(CWD, at("etc/null"), FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3))
            .unwrap();
        let root = tree(dir.path());
        for inside in ["/etc/real", "etc/real", "/etc/absolute", "/etc/up", "/../etc/real"] {
            let mut text = String::new();
            root.open(inside).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside", "{inside}");
        }
        for (path, kind) in [
            ("/etc/out", io::ErrorKind::NotFound),
            ("/etc/none", io::ErrorKind::NotFound),
            ("/etc/magic", io::ErrorKind::NotFound),
            ("/etc/fifo", io::ErrorKind::InvalidInput),
            ("/etc/null", io::ErrorKind::InvalidInput),
            ("/etc", io::ErrorKind::InvalidInput),
        ] {
            assert_eq!(root.open(path).unwrap_err().kind(), kind, "{path}");
        }
        assert!(root.open("/etc/loop").is_err());
    }
}
