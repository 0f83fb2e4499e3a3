//! Walking two directories side by side.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode as FileMode, OFlags, Stat};
use rustix::io::Errno;
use windlass_core::tree;

use super::emit::{Change, Emitter};
use super::same::same;
use crate::error::{Error, Result};
use crate::xattr;

/// What a missing name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The upper tree is all there is: the file was deleted.
    Whole,
    /// The upper tree is an overlay's upper directory: the file is unchanged.
    Layer,
}

struct Level {
    path: Vec<u8>,
    lower: Option<OwnedFd>,
    upper: OwnedFd,
    mode: Mode,
    /// Not yet handled: name to whether it is in the upper directory.
    names: std::collections::btree_map::IntoIter<CString, bool>,
}

/// Tells `emitter` all changes, parents before their children and names in order.
pub fn walk(
    lower: Option<BorrowedFd<'_>>,
    upper: BorrowedFd<'_>,
    mode: Mode,
    emitter: &mut Emitter,
) -> Result<()> {
    let open = |fd: BorrowedFd<'_>| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(fd, c".", flags, FileMode::empty()).map_err(Error::file("open", b"/"))
    };
    let mut levels = vec![Level::new(Vec::new(), lower.map(open).transpose()?, open(upper)?, mode)?];
    while let Some(level) = levels.last_mut() {
        let Some((name, in_upper)) = level.names.next() else {
            if levels.pop().is_some_and(|l| !l.path.is_empty()) {
                emitter.leave();
            }
            continue;
        };
        let path = join(&level.path, name.to_bytes());
        let below = match &level.lower {
            Some(fd) => stat(fd.as_fd(), &name, &path)?,
            None => None,
        };
        let above = if in_upper { stat(level.upper.as_fd(), &name, &path)? } else { None };
        let above = match above {
            Some(stat) if level.mode == Mode::Layer && is_whiteout(&stat) => None,
            // It is gone since the directory was read, or was never there.
            None if in_upper && level.mode == Mode::Layer => continue,
            other => other,
        };
        let Some(above) = above else {
            if below.is_some() {
                emitter.deleted(&path)?;
            }
            continue;
        };
        if let Some(next) = level.compare(&name, path, below, above, emitter)? {
            levels.push(next);
        }
    }
    Ok(())
}

impl Level {
    fn new(path: Vec<u8>, lower: Option<OwnedFd>, upper: OwnedFd, mode: Mode) -> Result<Self> {
        let mut names = BTreeMap::new();
        if let Some(lower) = lower.as_ref().filter(|_| mode == Mode::Whole) {
            read(lower.as_fd(), &path, |name| {
                names.insert(name.to_owned(), false);
            })?;
        }
        read(upper.as_fd(), &path, |name| {
            names.insert(name.to_owned(), true);
        })?;
        Ok(Self { path, lower, upper, mode, names: names.into_iter() })
    }

    /// One name that the upper tree has; answers the directory to go into.
    fn compare(
        &self,
        name: &CStr,
        path: Vec<u8>,
        below: Option<Stat>,
        above: Stat,
        emitter: &mut Emitter,
    ) -> Result<Option<Self>> {
        let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        let change = match (&below, &self.lower) {
            (Some(below), Some(lower)) if kind(below) == kind(&above) => {
                match same((lower.as_fd(), below), (self.upper.as_fd(), &above), name, &path)? {
                    true => Change::None,
                    false => Change::Made,
                }
            }
            _ => Change::Made,
        };
        if kind(&above) != FileType::Directory {
            emitter.file(self.upper.as_fd(), name, &path, &above, change)?;
            return Ok(None);
        }
        emitter.enter(self.upper.as_fd(), name, &path, &above, change)?;
        let failed = |e: Errno| Error::file("open directory", &path)(e);
        let upper = tree::open_child(self.upper.as_fd(), name).map_err(failed)?;
        let lower = match (&below, &self.lower) {
            (Some(below), Some(lower)) if kind(below) == FileType::Directory => {
                Some(tree::open_child(lower.as_fd(), name).map_err(failed)?)
            }
            _ => None,
        };
        let opaque = self.mode == Mode::Layer && is_opaque(upper.as_fd(), &path)?;
        let mode = if opaque { Mode::Whole } else { self.mode };
        Ok(Some(Self::new(path, lower, upper, mode)?))
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn read(fd: BorrowedFd<'_>, path: &[u8], mut each: impl FnMut(&CStr)) -> Result<()> {
    let failed = |e: Errno| Error::file("read directory", path)(e);
    for entry in Dir::read_from(fd).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            each(entry.file_name());
        }
    }
    Ok(())
}

fn stat(fd: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Option<Stat>> {
    match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(Error::file("stat", path)(e)),
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: BorrowedFd<'_>, path: &[u8]) -> Result<bool> {
    let place = xattr::path_of(directory, b".");
    let value =
        xattr::get(&place, c"trusted.overlay.opaque").map_err(Error::file("read attributes of", path))?;
    Ok(value.as_deref() == Some(b"y"))
}
