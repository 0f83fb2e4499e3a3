//! Members that become files, in as few system calls as each needs.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use windlass_core::snapshot::XATTR_IMPLIED;

use super::dirs::Shared;
use super::path::{clean, split};
use super::target::Form;
use super::{Applier, xattr_name};
use crate::error::{Error, Result};
use crate::pipe::Reader;
use crate::tar::{self, Entry, Kind, bounded};

const CREATE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn times(entry: &Entry) -> Timestamps {
    let of = |time: tar::Time| Timespec { tv_sec: time.seconds, tv_nsec: time.nanos as _ };
    let access = entry.atime.map_or(entry.mtime, |atime| atime.max(entry.mtime));
    Timestamps { last_access: of(bounded(access)), last_modification: of(bounded(entry.mtime)) }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

/// What can be given to a file by its descriptor or to another thing by its name.
enum Handle<'a> {
    File(&'a OwnedFd),
    Named(BorrowedFd<'a>, &'a [u8]),
}

impl Applier<'_> {
    pub(super) fn entry(
        &mut self,
        reader: &mut tar::Reader<Reader>,
        entry: &Entry,
        path: &[u8],
        parent: &Shared,
        base: &[u8],
    ) -> Result<()> {
        match entry.kind {
            Kind::File => self.file(reader, entry, path, parent, base)?,
            Kind::Directory => self.directory(entry, path, parent, base)?,
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(Error::Invalid(format!(
                        "link {:?} leads nowhere",
                        String::from_utf8_lossy(path)
                    )));
                }
                let make = || rustix::fs::symlinkat(entry.link.as_slice(), parent.fd(), base);
                self.make("make link", path, parent, base, make)?;
                self.dress(Handle::Named(parent.fd(), base), entry, path, false)?;
                let at = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(parent.fd(), base, &times(entry), at)
                    .map_err(Error::file("set times of", path))?;
            }
            Kind::HardLink => self.hard_link(entry, path, parent, base)?,
            Kind::Char | Kind::Block | Kind::Fifo => self.node(entry, path, parent, base)?,
        }
        self.note(parent.inode(), base);
        Ok(())
    }

    /// Runs `make`; where something is in the way it goes first.
    fn make<T>(
        &mut self,
        what: &'static str,
        path: &[u8],
        parent: &Shared,
        base: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(parent, base, path)?;
                make().map_err(Error::file(what, path))
            }
            other => other.map_err(Error::file(what, path)),
        }
    }

    fn file(
        &mut self,
        reader: &mut tar::Reader<Reader>,
        entry: &Entry,
        path: &[u8],
        parent: &Shared,
        base: &[u8],
    ) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let create = || rustix::fs::openat(parent.fd(), base, CREATE, mode);
        let file = self.make("create", path, parent, base, create)?;
        match &entry.sparse {
            None => copy(reader, &file, path, u64::MAX)?,
            Some(extents) => {
                for extent in extents {
                    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(extent.offset))
                        .map_err(Error::file("write", path))?;
                    copy(reader, &file, path, extent.len)?;
                }
                rustix::fs::ftruncate(&file, entry.size).map_err(Error::file("set the size of", path))?;
            }
        }
        self.dress(Handle::File(&file), entry, path, false)?;
        rustix::fs::futimens(&file, &times(entry)).map_err(Error::file("set times of", path))
    }

    fn directory(&mut self, entry: &Entry, path: &[u8], parent: &Shared, base: &[u8]) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o1777);
        let mut merged = false;
        match rustix::fs::mkdirat(parent.fd(), base, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(parent.fd(), base, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(Error::file("stat", path))?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                merged = kind == FileType::Directory;
                if !merged {
                    self.clear(parent, base, path)?;
                    rustix::fs::mkdirat(parent.fd(), base, mode)
                        .map_err(Error::file("make directory", path))?;
                }
                if kind == FileType::CharacterDevice
                    && stat.st_rdev == 0
                    && let Form::Overlay { opaque, .. } = self.form
                {
                    // It replaces a whiteout: what the whiteout hid must not show through.
                    let name = xattr_name(parent.fd(), base);
                    rustix::fs::lsetxattr(&*name, *opaque, b"y", XattrFlags::empty())
                        .map_err(Error::file("mark opaque", path))?;
                }
            }
            Err(e) => return Err(Error::file("make directory", path)(e)),
        }
        if merged && self.form.is_alone() {
            // It may have been made for something in it; now it has looks of its own.
            match rustix::fs::lremovexattr(&*xattr_name(parent.fd(), base), XATTR_IMPLIED) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(e) => return Err(Error::file("take the mark off", path)(e)),
            }
        }
        self.careful |= entry.mode & 0o2000 != 0;
        self.dress(Handle::Named(parent.fd(), base), entry, path, merged)?;
        self.remember_times(path, times(entry))
    }

    fn node(&mut self, entry: &Entry, path: &[u8], parent: &Shared, base: &[u8]) -> Result<()> {
        let kind = match entry.kind {
            Kind::Char => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.make("make device", path, parent, base, || {
            rustix::fs::mknodat(parent.fd(), base, kind, mode, device)
        })?;
        self.dress(Handle::Named(parent.fd(), base), entry, path, false)?;
        rustix::fs::utimensat(parent.fd(), base, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::file("set times of", path))
    }

    /// A second name for something that the layer, or the tree before it, has; never for what a link points to.
    fn hard_link(&mut self, entry: &Entry, path: &[u8], parent: &Shared, base: &[u8]) -> Result<()> {
        let nothing =
            || Error::Invalid(format!("hard link {:?} leads nowhere", String::from_utf8_lossy(path)));
        let target = clean(&entry.link).ok_or_else(nothing)?;
        if target == path {
            return Err(Error::Invalid(format!("hard link {:?} to itself", String::from_utf8_lossy(path))));
        }
        let (above, name) = split(&target);
        let from = self.dirs.find(above)?.ok_or_else(nothing)?;
        let link = || rustix::fs::linkat(from.fd(), name, parent.fd(), base, AtFlags::empty());
        match link() {
            // Both may be the same file already, or the new name a directory that holds the old one.
            Err(Errno::EXIST) => {
                let stat = |fd, name| rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
                let old = stat(from.fd(), name).map_err(Error::file("link to", &target))?;
                let new = stat(parent.fd(), base).map_err(Error::file("link", path))?;
                if (old.st_dev, old.st_ino) != (new.st_dev, new.st_ino) {
                    self.clear(parent, base, path)?;
                    link().map_err(Error::file("link", path))?;
                }
            }
            other => other.map_err(Error::file("link", path))?,
        }
        self.redress(entry, path, parent, base)
    }

    /// Headers of hard links repeat what the first name had; where one does not, it has the last word.
    fn redress(&mut self, entry: &Entry, path: &[u8], parent: &Shared, base: &[u8]) -> Result<()> {
        let at = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(parent.fd(), base, at).map_err(Error::file("stat", path))?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let mut mode_left = stat.st_mode & 0o7777 != entry.mode && !is_link;
        if (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) {
            let (uid, gid) = owner(entry);
            rustix::fs::chownat(parent.fd(), base, uid, gid, at)
                .map_err(Error::file("change the owner of", path))?;
            // The kernel takes setuid and setgid away.
            mode_left = !is_link;
        }
        if mode_left {
            chmod(parent.fd(), base, entry.mode).map_err(Error::file("change the mode of", path))?;
        }
        self.attributes(&Handle::Named(parent.fd(), base), entry, path)?;
        let times = times(entry);
        let (seconds, nanos) = (stat.st_mtime as i64, stat.st_mtime_nsec as i64);
        if (seconds, nanos) != (times.last_modification.tv_sec, times.last_modification.tv_nsec) {
            rustix::fs::utimensat(parent.fd(), base, &times, at)
                .map_err(Error::file("set times of", path))?;
        }
        Ok(())
    }

    /// Owner, attributes and mode, in this order: each takes away some of what comes later.
    fn dress(&mut self, handle: Handle<'_>, entry: &Entry, path: &[u8], merged: bool) -> Result<()> {
        let careful = self.careful || merged;
        let chowned = careful || (entry.uid, entry.gid) != self.own_ids;
        if chowned {
            let (uid, gid) = owner(entry);
            let changed = match handle {
                Handle::File(file) => rustix::fs::fchown(file, uid, gid),
                Handle::Named(parent, base) => {
                    rustix::fs::chownat(parent, base, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                }
            };
            changed.map_err(Error::file("change the owner of", path))?;
        }
        self.attributes(&handle, entry, path)?;
        let special = if entry.kind == Kind::Directory { 0o6000 } else { 0o7000 };
        if entry.kind == Kind::Symlink || !(careful || entry.mode & special != 0) {
            return Ok(());
        }
        let changed = match handle {
            Handle::File(file) => rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)),
            Handle::Named(parent, base) => chmod(parent, base, entry.mode),
        };
        changed.map_err(Error::file("change the mode of", path))
    }

    fn attributes(&mut self, handle: &Handle<'_>, entry: &Entry, path: &[u8]) -> Result<()> {
        for (name, value) in &entry.xattrs {
            // What overlayfs itself reads must not come from an archive, and `trusted.` is the administrator's.
            let own = match self.form {
                Form::Overlay { prefix, .. } => name.starts_with(prefix),
                Form::Plain => false,
            };
            if own || name.starts_with(b"trusted.") {
                tracing::debug!(attribute = %String::from_utf8_lossy(name), "attribute of a layer left out");
                continue;
            }
            // Handed on to what is made in the directory.
            self.careful |= name == b"system.posix_acl_default";
            let key = CString::new(name.as_slice())
                .map_err(|_| Error::Invalid("an attribute with a zero byte".into()))?;
            let set = match handle {
                Handle::File(file) => rustix::fs::fsetxattr(file, &*key, value, XattrFlags::empty()),
                Handle::Named(parent, base) => {
                    rustix::fs::lsetxattr(&*xattr_name(*parent, base), &*key, value, XattrFlags::empty())
                }
            };
            match set {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                // Only files and directories can have those.
                Err(Errno::PERM)
                    if name.starts_with(b"user.") && !matches!(entry.kind, Kind::File | Kind::Directory) => {}
                Err(e) => return Err(Error::file("set attributes of", path)(e)),
            }
        }
        Ok(())
    }
}

/// Changes the mode of what is there and is no link.
fn chmod(parent: BorrowedFd<'_>, base: &[u8], mode: u32) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, base, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Symlink {
        return Ok(());
    }
    // Through its descriptor: the name may be somebody else's by now.
    let path = xattr_name(fd.as_fd(), b"");
    rustix::fs::chmodat(
        rustix::fs::CWD,
        &path.to_bytes()[..path.to_bytes().len() - 1],
        Mode::from_raw_mode(mode),
        AtFlags::empty(),
    )
}

/// Writes up to `limit` bytes of the member's data.
fn copy(reader: &mut tar::Reader<Reader>, file: &OwnedFd, path: &[u8], mut limit: u64) -> Result<()> {
    while limit > 0 {
        let Some(data) = reader.data()? else { return Ok(()) };
        let step = usize::try_from(limit).unwrap_or(usize::MAX).min(data.len());
        match rustix::io::write(file, &data[..step]) {
            Ok(written) => {
                reader.consume(written);
                limit -= written as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::file("write", path)(e)),
        }
    }
    Ok(())
}
