//! Changes of the configuration directory, by inotify. The directory need not be there yet, may be replaced, and may be
//! behind a link.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// How often a tree that is being changed is tried.
const ATTEMPTS: usize = 16;

/// Watches from when it was made. Made anew after every change.
pub struct Watch {
    fd: AsyncFd<OwnedFd>,
    /// The watch of the directory above, where only one name counts.
    above: Above,
}

impl Watch {
    /// Watches `dir` and the directories `inner` that are in it. What is missing is watched for. Must be called on the
    /// runtime; does not block for long.
    pub fn new(dir: &Path, inner: &[PathBuf]) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            // A directory that went away meanwhile is looked for anew.
            if let Some(above) = arm(&fd, dir, inner)? {
                // SAFETY: the descriptor is owned by what it is wrapped in, and never given up or replaced.
                return Ok(Self { fd: unsafe { AsyncFd::register(fd) }?, above });
            }
        }
        Err(io::Error::other("the directories above it do not stay as they are"))
    }

    /// Waits for a change that may matter.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            match relevant(ready.get_inner(), self.above.as_ref()) {
                Ok(true) => return Ok(()),
                Ok(false) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The watch of the directory above and the name that counts in it.
type Above = Option<(i32, Vec<u8>)>;

/// Watches from the root down: a directory that appears between two steps is seen by the upper of the two. None if one
/// was gone when its turn came.
fn arm(fd: &OwnedFd, dir: &Path, inner: &[PathBuf]) -> io::Result<Option<Above>> {
    let changes = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE;
    let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
    let mut above = None;
    let ancestors: Vec<_> = dir.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    for pair in ancestors.windows(2).rev() {
        let (below, here) = (pair[0], pair[1]);
        // Of the ancestors, only that which holds the directory, or would, is watched for what is in it.
        let holds = below == dir || !below.is_dir();
        let watch = match inotify::add_watch(fd, here, if holds { itself | changes } else { itself }) {
            Ok(watch) => watch,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if holds {
            above = below.file_name().map(|name| (watch, name.as_bytes().to_vec()));
            if !below.is_dir() {
                return Ok(Some(above));
            }
        }
    }
    for path in std::iter::once(dir).chain(inner.iter().map(PathBuf::as_path)) {
        match inotify::add_watch(fd, path, itself | changes) {
            // It will be seen to appear by the watch above it.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Some(above))
}

/// Reads all events that are there and says whether any of them counts.
fn relevant(fd: &OwnedFd, above: Option<&(i32, Vec<u8>)>) -> Result<bool, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut found = false;
    loop {
        match reader.next() {
            Ok(event) => {
                let elsewhere = above.is_some_and(|(watch, name)| {
                    let other = event.file_name().is_some_and(|file| file.to_bytes() != name);
                    event.wd() == *watch && other && !event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                });
                found |= !elsewhere;
            }
            Err(Errno::AGAIN) => return Ok(found),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a file of this name is a network's configuration.
pub fn is_config(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|ext| ext == "conf" || ext == "conflist" || ext == "json")
}
