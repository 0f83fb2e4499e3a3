//! Named pipes between a client and a process, and the end of output on them.
//!
//! While the process lives the shim holds a read end, so a reader that vanishes neither breaks nor loses anything. At
//! the end that hold must go, for readers to see the end. If no reader is there at that moment, the shim keeps a write
//! end instead, which keeps the unread bytes, until a reader opens the fifo: that reader gets the bytes and then the end.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use tokio::task::spawn_local;

use super::{Bound, Late};
use crate::error::{Context, Result};
use crate::log;
use crate::readiness;

/// How long a fifo without a reader is left alone before it is watched. Mostly its reader has read all and is about to
/// remove it, and the end of a watch holds the loop up: the kernel waits for a grace period of some ten milliseconds.
const REMOVAL: Duration = Duration::from_millis(20);

/// Opens both ends, without waiting for anybody: (read, write), neither blocks.
pub fn both(path: &Path) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let read = open(path, OFlags::RDONLY | flags, Mode::empty()).at("open", path)?;
    let write = open(path, OFlags::WRONLY | flags, Mode::empty()).at("open", path)?;
    Ok((read, write))
}

/// For an end that a process gets: programs do not expect `EAGAIN`.
pub fn set_blocking(fd: &OwnedFd) -> rustix::io::Result<()> {
    fcntl_setfl(fd, OFlags::empty())
}

/// The hold on a fifo that a process writes to.
pub struct Output {
    path: PathBuf,
    read: OwnedFd,
}

impl Output {
    pub fn new(path: &Path, read: OwnedFd) -> Output {
        Output { path: path.to_owned(), read }
    }

    /// Gives the hold up. Every write end that the shim had must be closed by now.
    pub fn finish(self, late: &Late) {
        // While our own read end is open this cannot fail for want of a reader.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(write) = open(&self.path, flags, Mode::empty()) else { return };
        drop(self.read);
        if has_reader(&write) {
            return;
        }
        let path = self.path;
        let task = spawn_local(async move {
            if let Err(error) = wait_for_reader(&path, &write).await {
                log::warning!("wait for a reader of {}: {error}", path.display());
            }
        });
        late.borrow_mut().push(Bound(task.abort_handle()));
    }
}

fn has_reader(write: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(write.as_fd(), PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(PollFlags::ERR)
}

fn removed(write: &OwnedFd) -> bool {
    rustix::fs::fstat(write).is_ok_and(|stat| stat.st_nlink == 0)
}

async fn wait_for_reader(path: &Path, write: &OwnedFd) -> io::Result<()> {
    tokio::time::sleep(REMOVAL).await;
    if removed(write) || has_reader(write) {
        return Ok(());
    }
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, path, WatchFlags::OPEN | WatchFlags::DELETE_SELF | WatchFlags::ATTRIB)?;
    let watch = readiness::readable(watch)?;
    loop {
        // A reader may have come before the watch.
        if has_reader(write) {
            return Ok(());
        }
        let mut guard = watch.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 512];
        let read =
            guard.try_io(|fd| rustix::io::read(fd, &mut buffer[..]).map(|_| ()).map_err(io::Error::from));
        if let Ok(result) = read {
            result?;
        }
        if removed(write) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn fifo(dir: &Path) -> PathBuf {
        let path = dir.join("f");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        path
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn a_late_reader_gets_the_bytes_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        run(async {
            let late = Late::default();
            let (read, write) = both(&path).unwrap();
            rustix::io::write(&write, b"last words").unwrap();
            drop(write);
            Output::new(&path, read).finish(&late);
            assert_eq!(late.borrow().len(), 1);
            let read = std::thread::spawn(move || std::fs::read(path).unwrap());
            while !read.is_finished() {
                tokio::task::yield_now().await;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            assert_eq!(read.join().unwrap(), b"last words");
        });
    }

    #[test]
    fn a_reader_that_is_there_sees_the_end_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        run(async {
            let late = Late::default();
            let (read, write) = both(&path).unwrap();
            let mut reader = std::fs::File::open(&path).unwrap();
            rustix::io::write(&write, b"x").unwrap();
            drop(write);
            Output::new(&path, read).finish(&late);
            assert!(late.borrow().is_empty());
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, "x");
        });
    }
}
