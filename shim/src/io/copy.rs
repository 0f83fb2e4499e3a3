//! Copying between descriptors on the event loop, through one buffer that all copies share.
//!
//! What a target does not take at once waits in a buffer of that copy's own, at most one read's worth, and nothing more
//! is read until it has gone: a reader that stalls stalls its own process only.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::{Context, Result};
use crate::log;
use crate::readiness::{self, Ready};

const CHUNK: usize = 32 << 10;
/// How long a terminal whose process has ended is read while others still hold it and are silent.
const LINGER: Duration = Duration::from_millis(200);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub enum Source {
    Own(Ready),
    /// A terminal's master, which is read and written by two copies.
    Shared(Rc<Ready>),
}

impl Source {
    /// The descriptor must not block.
    pub fn new(fd: OwnedFd) -> Result<Source> {
        readiness::both(fd).map(Source::Own).op("watch descriptor")
    }

    fn fd(&self) -> &Ready {
        match self {
            Source::Own(fd) => fd,
            Source::Shared(fd) => fd,
        }
    }
}

pub enum Target {
    Own(Ready),
    Shared(Rc<Ready>),
    /// A regular file; writing to it is not waited for.
    File(OwnedFd),
    Nowhere,
}

impl Target {
    /// A pipe, fifo or terminal; the descriptor must not block.
    pub fn stream(fd: OwnedFd) -> Result<Target> {
        readiness::both(fd).map(Target::Own).op("watch descriptor")
    }

    /// Writes what can be written now; the rest is returned as its length.
    fn write_now(&self, mut bytes: &[u8]) -> io::Result<usize> {
        let fd = match self {
            Target::Own(fd) => fd.as_fd(),
            Target::Shared(fd) => fd.as_fd(),
            Target::File(fd) => fd.as_fd(),
            Target::Nowhere => return Ok(0),
        };
        while !bytes.is_empty() {
            match rustix::io::write(fd, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes.len())
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        let fd = match self {
            Target::Own(fd) => fd,
            Target::Shared(fd) => fd,
            Target::File(_) | Target::Nowhere => return Ok(()),
        };
        while !bytes.is_empty() {
            let mut guard = fd.writable().await?;
            if let Ok(written) = guard.try_io(|fd| rustix::io::write(fd, bytes).map_err(io::Error::from)) {
                bytes = &bytes[written?..];
            }
        }
        Ok(())
    }
}

enum Read {
    /// Everything has been passed on.
    Done,
    /// What the target did not take.
    Rest(Vec<u8>),
    End,
}

/// Copies until the end of the source, an error of either, or until `ended` turns true and the source is empty; then
/// closes the target and calls `finish`.
pub async fn run(
    source: Source,
    target: Target,
    mut ended: Option<watch::Receiver<bool>>,
    finish: impl FnOnce(),
) {
    if let Err(error) = copy(&source, &target, &mut ended).await {
        log::debug!("copy of a stream ended: {error}");
    }
    drop(target);
    finish();
}

async fn copy(source: &Source, target: &Target, ended: &mut Option<watch::Receiver<bool>>) -> io::Result<()> {
    loop {
        let over = match ended {
            Some(ended) if !*ended.borrow() => {
                tokio::select! {
                    ready = source.fd().readable() => {
                        match ready?.try_io(|fd| step(fd.get_ref(), target)) {
                            Ok(Ok(Read::Rest(rest))) => target.write(&rest).await?,
                            Ok(Ok(Read::End)) => return Ok(()),
                            Ok(result) => drop(result?),
                            Err(_) => {}
                        }
                        continue;
                    }
                    _ = ended.changed() => continue,
                }
            }
            Some(_) => true,
            None => false,
        };
        if over {
            match step(source.fd().get_ref(), target) {
                Ok(Read::Done) => tokio::task::yield_now().await,
                Ok(Read::Rest(rest)) => target.write(&rest).await?,
                Ok(Read::End) => return Ok(()),
                // A pipe without data is empty for good. A terminal passes on what was written to it a moment later,
                // and says when its last user has gone.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let Source::Shared(terminal) = source else { return Ok(()) };
                    match tokio::time::timeout(LINGER, terminal.readable()).await {
                        Ok(guard) => guard?.clear_ready_matching(tokio::io::Ready::READABLE),
                        Err(_) => return Ok(()),
                    }
                }
                Err(error) => return Err(error),
            }
            continue;
        }
        let mut guard = source.fd().readable().await?;
        match guard.try_io(|fd| step(fd.get_ref(), target)) {
            Ok(Ok(Read::Rest(rest))) => {
                drop(guard);
                target.write(&rest).await?;
            }
            Ok(Ok(Read::End)) => return Ok(()),
            Ok(result) => drop(result?),
            Err(_) => {}
        }
    }
}

/// One read, and as much of the write as goes at once. `WouldBlock` is the source's.
fn step(source: &OwnedFd, target: &Target) -> io::Result<Read> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(CHUNK, 0);
        let length = loop {
            match rustix::io::read(source, &mut buffer[..]) {
                Ok(0) => return Ok(Read::End),
                Ok(length) => break length,
                Err(rustix::io::Errno::INTR) => {}
                // A terminal whose last user has gone.
                Err(rustix::io::Errno::IO) => return Ok(Read::End),
                Err(error) => return Err(error.into()),
            }
        };
        match target.write_now(&buffer[..length]) {
            Ok(0) => Ok(Read::Done),
            Ok(left) => Ok(Read::Rest(buffer[length - left..length].to_vec())),
            // The error must not be taken for the source's.
            Err(error) => Err(io::Error::other(error)),
        }
    })
}
