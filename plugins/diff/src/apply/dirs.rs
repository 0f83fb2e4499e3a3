//! Directories of the tree, opened once and kept: most members of a layer lie beside the one before.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use windlass_core::snapshot::XATTR_IMPLIED;

use super::path::{clean, split};
use super::target::Form;
use crate::error::{Error, Result};
use crate::xattr;

/// Descriptors that are kept.
const KEPT: usize = 64;
/// Links that lead to directories which are not there yet, followed in a row.
const MAX_LINKS: usize = 40;

const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const LOOK: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open directory with its inode number.
#[derive(Clone)]
pub struct Shared(Rc<(OwnedFd, u64)>);

impl Shared {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }

    pub fn inode(&self) -> u64 {
        self.0.1
    }
}

pub struct Dirs {
    root: OwnedFd,
    open: HashMap<Vec<u8>, Shared>,
    /// Inode of the parent and name of directories made on the way.
    made: Vec<(u64, Vec<u8>)>,
}

impl Dirs {
    pub fn new(root: OwnedFd) -> Self {
        Self { root, open: HashMap::new(), made: Vec::new() }
    }

    /// Forgets all: something was removed that others may have been found through.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    pub fn take_made(&mut self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.made)
    }

    /// The directory at a clean path, links followed inside of the root; `None` where there is none.
    pub fn find(&mut self, path: &[u8]) -> Result<Option<Shared>> {
        if let Some(known) = self.open.get(path) {
            return Ok(Some(known.clone()));
        }
        let name = if path.is_empty() { b"." } else { path };
        match rustix::fs::openat2(&self.root, name, LOOK, Mode::empty(), RESOLVE) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(Error::file("stat", path))?;
                let shared = Shared(Rc::new((fd, stat.st_ino as u64)));
                if self.open.len() >= KEPT {
                    self.open.clear();
                }
                self.open.insert(path.to_vec(), shared.clone());
                Ok(Some(shared))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::file("open directory", path)(e)),
        }
    }

    /// Like [`Dirs::find`], made where it is missing.
    pub fn open(&mut self, path: &[u8], form: &Form) -> Result<Shared> {
        self.open_or_make(path, form, 0)
    }

    fn open_or_make(&mut self, path: &[u8], form: &Form, links: usize) -> Result<Shared> {
        if let Some(found) = self.find(path)? {
            return Ok(found);
        }
        if links > MAX_LINKS {
            return Err(Error::Invalid(format!(
                "too many links lead to {:?}",
                String::from_utf8_lossy(path)
            )));
        }
        // From the top, so that the depth of a path is no depth of calls.
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let part = &path[..end];
            if self.find(part)?.is_some() {
                continue;
            }
            let (above, base) = split(part);
            let parent =
                self.find(above)?.ok_or_else(|| Error::Invalid(format!("{part:?} has no parent")))?;
            match rustix::fs::mkdirat(parent.fd(), base, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    self.made.push((parent.inode(), base.to_vec()));
                    take_over(&parent, base, part, form)?;
                    self.mark_implied(&parent, base, part, form)?;
                }
                // A link that leads to nothing yet.
                Err(Errno::EXIST) => {
                    let target = rustix::fs::readlinkat(parent.fd(), base, Vec::new())
                        .map_err(Error::file("make directory", part))?;
                    let target = target.to_bytes();
                    let whole = if target.starts_with(b"/") {
                        target.to_vec()
                    } else {
                        [above, b"/", target].concat()
                    };
                    self.open_or_make(&clean(&whole).unwrap_or_default(), form, links + 1)?;
                }
                Err(e) => return Err(Error::file("make directory", part)(e)),
            }
        }
        self.find(path)?
            .ok_or_else(|| Error::Invalid(format!("cannot reach {:?}", String::from_utf8_lossy(path))))
    }

    /// Tells the snapshotter, which will know the parent, what looks like nothing in particular yet.
    fn mark_implied(&self, parent: &Shared, base: &[u8], path: &[u8], form: &Form) -> Result<()> {
        if !form.is_alone() {
            return Ok(());
        }
        for place in [xattr::path_of(parent.fd(), base), xattr::path_of(self.root.as_fd(), b".")] {
            match rustix::fs::setxattr(&*place, XATTR_IMPLIED, b"y", XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(Error::file("mark directory", path)(e)),
            }
        }
        Ok(())
    }
}

/// Gives a directory that the archive does not name the looks it has in the layers below.
fn take_over(parent: &Shared, base: &[u8], path: &[u8], form: &Form) -> Result<()> {
    for lower in form.lowers() {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = match rustix::fs::openat2(lower, path, flags, Mode::empty(), RESOLVE) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => continue,
            // A link, a device or the like: replaced here, nothing to take over.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(e) => return Err(Error::file("open in the layer below", path)(e)),
        };
        let stat = rustix::fs::fstat(&below).map_err(Error::file("stat", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new =
            rustix::fs::openat(parent.fd(), base, flags, Mode::empty()).map_err(Error::file("open", path))?;
        rustix::fs::fchown(&new, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
            .map_err(Error::file("change the owner of", path))?;
        rustix::fs::fchmod(&new, Mode::from_raw_mode(stat.st_mode & 0o7777))
            .map_err(Error::file("change the mode of", path))?;
        xattr::copy(&below, &new).map_err(Error::file("copy attributes of", path))?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
            last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
        };
        return rustix::fs::utimensat(parent.fd(), base, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::file("set times of", path));
    }
    Ok(())
}
