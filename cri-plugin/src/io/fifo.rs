//! The private directory of a container's streams, and its fifos.
//!
//! A fifo's read end is opened before a shim opens the other: until the first writer comes it is never ready, and only a
//! read that was not waited for would take that for the end. Its write end is opened when there is something to write
//! and somebody to read it, so that no byte is lost with the last reader.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use windlass_core::{Error, Result, validate};

/// How long a reader may go unseen whose own open waits for us: no event tells of it before it has succeeded.
const BLOCKED: Duration = Duration::from_millis(20);

pub fn at(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("{what} {}", path.display());
    move |source| Error::io(what, source)
}

/// Where the streams of the container or exec `id` are, below `dir`.
pub fn directory(dir: &Path, id: &str) -> Result<PathBuf> {
    validate::identifier("id", id)?;
    Ok(dir.join(id))
}

/// Makes a private directory, empty whatever was there. Parents are made, private too.
pub fn make_directory(path: &Path) -> Result<()> {
    remove_directory(path)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("make directory", path))
}

/// Removes a directory and all below it; that it is not there is no error.
pub fn remove_directory(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

pub fn make(path: &Path) -> Result<()> {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .map_err(|errno| at("make fifo", path)(errno.into()))
}

/// A fifo's read end; it does not block.
pub fn reader(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| at("open", path)(errno.into()))?;
    let file = std::fs::File::from(file);
    match file.metadata().map_err(at("stat", path))?.file_type().is_fifo() {
        true => Ok(file.into()),
        false => Err(Error::invalid(format!("{} is not a fifo", path.display()))),
    }
}

/// A fifo's write end, once somebody has opened it for reading.
pub async fn writer(path: &Path) -> io::Result<pipe::Sender> {
    let open = || pipe::OpenOptions::new().open_sender(path);
    let no_reader =
        |result: &io::Result<_>| matches!(result, Err(error) if error.raw_os_error() == Some(libc::ENXIO));
    let first = open();
    if !no_reader(&first) {
        return first;
    }
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, path, WatchFlags::OPEN | WatchFlags::DELETE_SELF | WatchFlags::ATTRIB)?;
    let watch = watched(watch)?;
    loop {
        // The reader may have come before the watch; a fifo that has gone is another error.
        let result = open();
        if !no_reader(&result) {
            return result;
        }
        let Ok(guard) = timeout(BLOCKED, watch.readable()).await else { continue };
        let mut guard = guard?;
        let mut events = [MaybeUninit::uninit(); 512];
        let read = guard
            .try_io(|fd| rustix::io::read(fd.get_ref(), &mut events[..]).map(drop).map_err(io::Error::from));
        if let Ok(result) = read {
            result?;
        }
    }
}

/// A descriptor whose readability can be waited for; it must not block.
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor answers with the same number until it is dropped, which `AsyncFd` does after it has
    // taken the descriptor off its poll set.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}
