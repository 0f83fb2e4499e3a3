//! Whether two entries of the same name are the same.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::error::{Error, Result};
use crate::xattr;

/// Attributes that layers carry.
pub fn attributes(parent: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let place = xattr::path_of(parent, name.to_bytes());
    let failed = |e: rustix::io::Errno| Error::file("read attributes of", path)(e);
    let mut found = Vec::new();
    for key in xattr::list(&place).map_err(failed)? {
        let bytes = key.to_bytes();
        let carried = bytes == b"security.capability"
            || (bytes.starts_with(b"user.") && !bytes.starts_with(b"user.overlay."));
        if carried && let Some(value) = xattr::get(&place, &key).map_err(failed)? {
            found.push((bytes.to_vec(), value));
        }
    }
    found.sort();
    Ok(found)
}

/// Compares what is at `name` in both directories; both are of the same kind.
pub fn same(
    (lower, lower_stat): (BorrowedFd<'_>, &Stat),
    (upper, upper_stat): (BorrowedFd<'_>, &Stat),
    name: &CStr,
    path: &[u8],
) -> Result<bool> {
    let (a, b) = (lower_stat, upper_stat);
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
        return Ok(true);
    }
    if (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) != (b.st_mode, b.st_uid, b.st_gid, b.st_rdev) {
        return Ok(false);
    }
    let kind = FileType::from_raw_mode(a.st_mode);
    // The times of a directory change with its entries: they say nothing.
    if kind != FileType::Directory {
        if a.st_size != b.st_size || (a.st_mtime, a.st_mtime_nsec) != (b.st_mtime, b.st_mtime_nsec) {
            return Ok(false);
        }
        // Whole seconds come from archives: two different files may well have the same.
        if a.st_mtime_nsec == 0 && !same_content(kind, lower, upper, name, path)? {
            return Ok(false);
        }
    }
    Ok(attributes(lower, name, path)? == attributes(upper, name, path)?)
}

fn same_content(
    kind: FileType,
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    name: &CStr,
    path: &[u8],
) -> Result<bool> {
    let failed = |e: rustix::io::Errno| Error::file("read", path)(e);
    match kind {
        FileType::Symlink => {
            let read = |fd| rustix::fs::readlinkat(fd, name, Vec::new()).map_err(failed);
            Ok(read(lower)? == read(upper)?)
        }
        FileType::RegularFile => {
            let open = |fd| {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(fd, name, flags, Mode::empty()).map_err(failed)
            };
            let (lower, upper) = (open(lower)?, open(upper)?);
            let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
            let mut at = 0;
            loop {
                let read = rustix::io::pread(&lower, &mut a[..], at).map_err(failed)?;
                let mut other = 0;
                while other < read {
                    match rustix::io::pread(&upper, &mut b[other..read], at + other as u64).map_err(failed)? {
                        0 => return Ok(false),
                        n => other += n,
                    }
                }
                if read == 0 {
                    return Ok(true);
                }
                if a[..read] != b[..read] {
                    return Ok(false);
                }
                at += read as u64;
            }
        }
        _ => Ok(true),
    }
}
