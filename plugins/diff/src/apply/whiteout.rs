//! Deletions: `.wh.name` and `.wh..wh..opq`, OCI image specification 1.1, `layer.md`.

use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use windlass_core::tree;

use super::dirs::Shared;
use super::target::Form;
use super::{Applier, xattr_name};
use crate::error::{Error, Result};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// Hides one name.
    Name(&'a [u8]),
    /// Hides all that lower layers have in the directory.
    Opaque,
    /// AUFS' own housekeeping: of no meaning here.
    Meta,
}

/// What a member's last part says; `None` for an ordinary name.
pub fn parse(base: &[u8]) -> Result<Option<Whiteout<'_>>> {
    let Some(name) = base.strip_prefix(PREFIX) else { return Ok(None) };
    match name {
        _ if base == OPAQUE => Ok(Some(Whiteout::Opaque)),
        b"" | b"." | b".." => {
            Err(Error::Invalid(format!("whiteout {:?} names no file", String::from_utf8_lossy(base))))
        }
        name if name.starts_with(PREFIX) => Ok(Some(Whiteout::Meta)),
        name => Ok(Some(Whiteout::Name(name))),
    }
}

impl Applier<'_> {
    pub(super) fn whiteout(&mut self, parent: &Shared, path: &[u8], whiteout: Whiteout<'_>) -> Result<()> {
        match whiteout {
            Whiteout::Meta => Ok(()),
            Whiteout::Opaque => self.opaque(parent, path),
            Whiteout::Name(name) => match self.form {
                Form::Plain => self.clear(parent, name, path),
                Form::Overlay { .. } => self.hide(parent, name, path),
            },
        }
    }

    /// Puts overlayfs' whiteout at `name`.
    fn hide(&mut self, parent: &Shared, name: &[u8], path: &[u8]) -> Result<()> {
        let make = || rustix::fs::mknodat(parent.fd(), name, FileType::CharacterDevice, Mode::empty(), 0);
        if make() == Err(rustix::io::Errno::EXIST) {
            self.clear(parent, name, path)?;
            make().map_err(Error::file("make whiteout", path))?;
        }
        self.note(parent.inode(), name);
        Ok(())
    }

    fn opaque(&mut self, parent: &Shared, path: &[u8]) -> Result<()> {
        if let Form::Overlay { opaque, .. } = self.form {
            let name = xattr_name(parent.fd(), b".");
            rustix::fs::setxattr(&*name, *opaque, b"y", XattrFlags::empty())
                .map_err(Error::file("mark opaque", path))?;
        }
        if self.made.is_some() {
            self.clear_others(parent, path)?;
        }
        Ok(())
    }

    /// Removes what was in a directory before this layer.
    fn clear_others(&mut self, parent: &Shared, path: &[u8]) -> Result<()> {
        self.dirs.forget();
        let failed = |e: rustix::io::Errno| Error::file("read directory", path)(e);
        let open = |fd: rustix::fd::BorrowedFd<'_>| -> Result<rustix::fs::Dir> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(fd, c".", flags, Mode::empty()).map_err(failed)?;
            rustix::fs::Dir::new(fd).map_err(failed)
        };
        let mut levels = vec![(open(parent.fd())?, parent.inode())];
        while let Some((dir, inode)) = levels.last_mut() {
            let Some(entry) = dir.next() else {
                levels.pop();
                continue;
            };
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let key = self.key(*inode, name.to_bytes());
            let fd = dir.fd().map_err(failed)?;
            if !self.made.as_ref().is_some_and(|made| made.contains(&key)) {
                let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name.to_bytes());
                tree::remove(fd, name).map_err(Error::file("remove what is hidden by", path))?;
            } else if entry.file_type() == FileType::Directory {
                let child = tree::open_child(fd, name).map_err(failed)?;
                let inode = rustix::fs::fstat(&child).map_err(failed)?.st_ino as u64;
                levels.push((open(child.as_fd())?, inode));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whiteouts_name_one_entry_of_their_directory() {
        assert_eq!(parse(b"file").unwrap(), None);
        assert_eq!(parse(b".wh.file").unwrap(), Some(Whiteout::Name(b"file")));
        assert_eq!(parse(b".wh..wh..opq").unwrap(), Some(Whiteout::Opaque));
        assert_eq!(parse(b".wh..wh.plnk").unwrap(), Some(Whiteout::Meta));
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
