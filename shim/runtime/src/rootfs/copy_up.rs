//! What a directory holds, copied into the tmpfs that is going to cover it (`tmpcopyup`).
//!
//! The directory is the image's: symlinks are copied, not followed, and only files, directories and symlinks count.

use super::root::read_link;
use crate::sys::{check, file};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

const MAX_DEPTH: usize = 64;

pub fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let open = |fd: &OwnedFd| file::openat(fd, ".", libc::O_RDONLY | libc::O_DIRECTORY, 0);
    let (from, to) = (open(from)?, open(to)?);
    copy_owner(&from, &to)?;
    copy_dir(&from, &to, 0)
}

fn copy_owner(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = file::fstat(from)?;
    file::fchown(to, stat.st_uid, stat.st_gid)?;
    file::fchmod(to, stat.st_mode & 0o7777)
}

fn copy_dir(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    for name in names(from)? {
        let stat = file::fstatat(from, &name, libc::AT_SYMLINK_NOFOLLOW)?;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                file::mkdirat(to, &name, 0o700)?;
                let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
                let (below, target) =
                    (file::openat(from, &name, flags, 0)?, file::openat(to, &name, flags, 0)?);
                copy_dir(&below, &target, depth + 1)?;
                copy_owner(&below, &target)?;
            }
            libc::S_IFREG => copy_file(from, to, &name)?,
            libc::S_IFLNK => {
                file::symlinkat(read_link(from, &name)?, to, &name)?;
                file::fchownat(to, &name, stat.st_uid, stat.st_gid, libc::AT_SYMLINK_NOFOLLOW)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &OsString) -> io::Result<()> {
    let source = file::openat(from, name, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK, 0)?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let target = file::openat(to, name, flags, 0o600)?;
    loop {
        // SAFETY: both offsets are null: the files' own positions are used.
        let n = check(unsafe {
            libc::sendfile(target.as_raw_fd(), source.as_raw_fd(), std::ptr::null_mut(), 1 << 30)
                as libc::c_long
        })?;
        if n == 0 {
            return copy_owner(&source, &target);
        }
    }
}

/// The names in a directory, by `getdents64`.
fn names(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    let mut buffer = [0u8; 8192];
    loop {
        // SAFETY: the buffer is valid for writing its whole length.
        let n = check(unsafe {
            libc::syscall(libc::SYS_getdents64, dir.as_fd().as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        })? as usize;
        if n == 0 {
            return Ok(names);
        }
        let mut at = 0;
        while at + 19 < n {
            let length = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            let name: Vec<u8> =
                buffer[at + 19..at + length].iter().copied().take_while(|b| *b != 0).collect();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
            at += length.max(20);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn trees_are_copied_without_following_links() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(a.path().join("dir")).unwrap();
        fs::write(a.path().join("dir/file"), "text").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", a.path().join("link")).unwrap();
        let open = |p: &std::path::Path| file::open(p, libc::O_PATH | libc::O_DIRECTORY, 0).unwrap();
        copy(&open(a.path()), &open(b.path())).unwrap();
        assert_eq!(fs::read_to_string(b.path().join("dir/file")).unwrap(), "text");
        assert_eq!(fs::read_link(b.path().join("link")).unwrap().to_str(), Some("/etc/passwd"));
    }
}
