//! Applying a layer: tar members become files below a root that they cannot leave.
//!
//! Every name is resolved by the kernel under the root (`openat2` with `RESOLVE_IN_ROOT`) and every last part without
//! following links, so neither the archive nor anybody who changes the tree meanwhile leads outside. Where the root is the
//! upper directory of an overlay, deletions are written as overlayfs has them.

mod dirs;
mod entry;
mod path;
mod target;
#[cfg(test)]
mod tests;
mod whiteout;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::Path;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use windlass_core::diff::Applied;
use windlass_core::tree;

use crate::decompress::{Decompressor, Limit};
use crate::error::{Error, Result};
use crate::media::Compression;
use crate::pipe::{Reader, pipe};
use crate::tar;
use crate::xattr::path_of as xattr_name;

use dirs::Dirs;
pub use target::{Form, Target};

/// Most bytes of directory names whose times are set at the end.
const MAX_DIRECTORY_NAMES: usize = 64 << 20;

/// Applies a layer to `target`. Blocks; decompression runs on this thread, files are written by another.
pub fn apply(
    layer: &mut dyn Read,
    compression: Compression,
    limit: Limit,
    target: &Target,
) -> Result<Applied> {
    let (writer, reader) = pipe();
    std::thread::scope(|scope| {
        let files = std::thread::Builder::new().name("apply".into()).spawn_scoped(scope, || {
            own_umask()?;
            let mut reader = tar::Reader::new(reader);
            Applier::new(target)?.run(&mut reader)?;
            reader.into_inner().finish().map_err(Error::Read)
        });
        let files = files.map_err(Error::Read)?;
        let sent = Decompressor::new(layer, compression, limit).and_then(|mut plain| writer.send(&mut plain));
        let applied =
            files.join().unwrap_or_else(|_| Err(Error::Invalid("the applying thread panicked".into())));
        match (sent, applied) {
            (Err(e), Err(applied)) if applied.is_broken_pipe() => Err(Error::Read(e)),
            (_, Err(e)) => Err(e),
            (Err(e), Ok(_)) => Err(Error::Read(e)),
            (Ok(()), Ok(applied)) => Ok(applied),
        }
    })
}

/// Gives this thread a file mode mask of its own, which lets everything through.
fn own_umask() -> Result<()> {
    // SAFETY: only the working directory, root and mask of this thread are separated from the others', no descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
        .map_err(Error::file("separate the mask of", b"thread"))?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Times of a directory, which come last: making entries changes them.
struct DirTimes {
    path: Vec<u8>,
    times: rustix::fs::Timestamps,
}

struct Applier<'a> {
    form: &'a Form,
    dirs: Dirs,
    times: Vec<DirTimes>,
    times_bytes: usize,
    /// Hashes of directory inode and name of all that this layer made, where opaque markers must spare it: in a tree that
    /// was not empty before.
    made: Option<HashSet<u64>>,
    /// The last directory whose way was noted.
    noted: Vec<u8>,
    hasher: RandomState,
    /// Owner and mode of new files are set explicitly: directories may hand on theirs.
    careful: bool,
    /// What new files get by themselves.
    own_ids: (u32, u32),
}

impl<'a> Applier<'a> {
    fn new(target: &'a Target) -> Result<Self> {
        let root = target.root().try_clone_to_owned().map_err(Error::file("open", b"/"))?;
        let fresh = is_empty(&root)?;
        let stat = rustix::fs::fstat(&root).map_err(Error::file("stat", b"/"))?;
        let acl = rustix::fs::fgetxattr_query(&root, c"system.posix_acl_default").is_ok();
        let own_ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(Self {
            form: target.form(),
            dirs: Dirs::new(root),
            times: Vec::new(),
            times_bytes: 0,
            made: (!fresh).then(HashSet::new),
            noted: Vec::new(),
            hasher: RandomState::new(),
            careful: !fresh || acl || stat.st_mode & 0o2000 != 0,
            own_ids,
        })
    }

    fn run(mut self, reader: &mut tar::Reader<Reader>) -> Result<()> {
        while let Some(entry) = reader.next()? {
            let Some(path) = path::clean(&entry.name) else { continue };
            if matches!(entry.kind, tar::Kind::Char | tar::Kind::Block) && target::in_user_namespace() {
                tracing::debug!(path = %String::from_utf8_lossy(&path), "no devices inside a user namespace: left out");
                continue;
            }
            let (parent, base) = path::split(&path);
            let parent = self.open_parent(parent)?;
            match whiteout::parse(base)? {
                Some(whiteout) => self.whiteout(&parent, &path, whiteout)?,
                None => self.entry(reader, &entry, &path, &parent, base)?,
            }
        }
        self.set_times()
    }

    fn open_parent(&mut self, parent: &[u8]) -> Result<dirs::Shared> {
        let made = self.dirs.open(parent, self.form)?;
        self.note_way_to(parent)?;
        for (directory, name) in self.dirs.take_made() {
            // Attributes that were taken over from below may be handed on.
            self.careful |= !self.form.lowers().is_empty();
            // Also where a link led to it.
            self.note(directory, &name);
        }
        Ok(made)
    }

    fn key(&self, directory: u64, name: &[u8]) -> u64 {
        self.hasher.hash_one((directory, name))
    }

    fn note(&mut self, directory: u64, name: &[u8]) {
        if self.made.is_some() {
            let key = self.key(directory, name);
            self.made.get_or_insert_default().insert(key);
        }
    }

    /// Notes all directories down to `path`: what this layer puts there makes them its own.
    fn note_way_to(&mut self, path: &[u8]) -> Result<()> {
        if self.made.is_none() || path == self.noted {
            return Ok(());
        }
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            let (above, name) = path::split(&path[..end]);
            if let Some(above) = self.dirs.find(above)? {
                self.note(above.inode(), name);
            }
        }
        self.noted = path.to_vec();
        Ok(())
    }

    /// Removes what is there, whatever it is.
    fn clear(&mut self, parent: &dirs::Shared, base: &[u8], path: &[u8]) -> Result<()> {
        // What was resolved through it may lead elsewhere now.
        self.dirs.forget();
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(base);
        tree::remove(parent.fd(), name).map_err(Error::file("remove", path))
    }

    fn remember_times(&mut self, path: &[u8], times: rustix::fs::Timestamps) -> Result<()> {
        self.times_bytes += path.len() + size_of::<DirTimes>();
        if self.times_bytes > MAX_DIRECTORY_NAMES {
            return Err(Error::Invalid("the names of its directories take more than 64 MiB".into()));
        }
        self.times.push(DirTimes { path: path.to_vec(), times });
        Ok(())
    }

    fn set_times(mut self) -> Result<()> {
        for DirTimes { path, times } in std::mem::take(&mut self.times) {
            let (parent, base) = path::split(&path);
            let Some(parent) = self.dirs.find(parent)? else { continue };
            match rustix::fs::utimensat(parent.fd(), base, &times, AtFlags::SYMLINK_NOFOLLOW) {
                // Removed again by a later member.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(Error::file("set times of", &path)(e)),
            }
        }
        Ok(())
    }
}

fn is_empty(root: &std::os::fd::OwnedFd) -> Result<bool> {
    let failed = |e: Errno| Error::file("read", b"/")(e);
    for entry in rustix::fs::Dir::read_from(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Syncs the file system that `path` is on.
pub fn sync_filesystem(path: &Path) -> Result<()> {
    let name = path.as_os_str().as_encoded_bytes();
    let directory = tree::open_dir(path).map_err(Error::file("open", name))?;
    rustix::fs::syncfs(&directory).map_err(Error::file("sync the file system of", name))
}
