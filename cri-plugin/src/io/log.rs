//! A container's log file, which both of its streams are appended to.
//!
//! One lock around a write of whole lines: the streams' lines do not mix, and reopening comes between two writes. It is
//! only ever taken on threads that may block. A log that cannot be written does not hold the container up: its output is
//! dropped, which is said once, and the log goes on when writing works again. What stands in it are always whole lines.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};
use windlass_core::{Error, Result};

use super::Output;
use super::fifo::at;
use super::journal::{Intent, Journal};

/// Opens a log for reading and appending; its directory is made where it is missing. A path that is not absolute, leads
/// upwards, or names anything but a regular file or nothing is refused, a symbolic link too.
pub fn open(path: &Path) -> Result<File> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain {
        return Err(Error::invalid(format!("log path {path:?} must be absolute and without '..'")));
    }
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(at("make directory", parent))?;
    }
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        // Opening a fifo or a terminal must not wait, nor make it ours, before it is seen to be one.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => Error::invalid(format!("log {} is a symbolic link", path.display())),
            _ => at("open log", path)(error),
        })?;
    match file.metadata().map_err(at("stat log", path))?.is_file() {
        true => Ok(file),
        false => Err(Error::invalid(format!("log {} is not a regular file", path.display()))),
    }
}

pub struct Log {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    /// `None` where the log could not be opened after a restart.
    file: Option<File>,
    journal: Journal,
    /// Bytes dropped since the log could last be written; `None` while it can.
    dropped: Option<u64>,
}

impl Log {
    pub fn new(path: PathBuf, file: Option<File>, journal: Journal) -> Log {
        Log { path, inner: Mutex::new(Inner { file, journal, dropped: None }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends whole lines, which bring the log to offset `to` of the stream. An error is logged, not returned.
    pub fn append(&self, output: Output, to: u64, limit: usize, lines: &[u8]) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let result = inner.write(output, to, limit, lines);
        inner.journal.end(output, to);
        match (result, inner.dropped) {
            (Ok(()), None) => {}
            (Ok(()), Some(bytes)) => {
                inner.dropped = None;
                info!(log = %self.path.display(), bytes, "log can be written again; the output between is lost");
            }
            (Err((error, lost)), None) => {
                inner.dropped = Some(lost);
                warn!(log = %self.path.display(), %error, "log cannot be written, output is dropped until it can");
            }
            (Err((_, lost)), Some(bytes)) => inner.dropped = Some(bytes.saturating_add(lost)),
        }
    }

    /// Nothing more is to be appended for now.
    pub fn settle(&self) {
        if let Err(error) = self.lock().journal.settle() {
            warn!(log = %self.path.display(), %error, "write the log's journal");
        }
    }

    /// Goes on in a new file at the same path, or in the same one if it is still there.
    pub fn reopen(&self) -> Result<()> {
        let file = open(&self.path)?;
        let mut inner = self.lock();
        // A begun write would be looked for in the new file.
        inner.journal.settle().map_err(at("write the journal of", &self.path))?;
        inner.file = Some(file);
        Ok(())
    }
}

impl Inner {
    /// An error comes with the bytes that were not written.
    fn write(&mut self, output: Output, to: u64, limit: usize, lines: &[u8]) -> Result<(), (io::Error, u64)> {
        let all = |error: io::Error| (error, lines.len() as u64);
        let Some(file) = &self.file else { return Err(all(io::Error::other("log is not open"))) };
        let metadata = file.metadata().map_err(all)?;
        let intent = Intent {
            output,
            to,
            limit: limit as u64,
            device: metadata.dev(),
            inode: metadata.ino(),
            before: metadata.len(),
            length: lines.len() as u64,
        };
        self.journal.begin(intent).map_err(all)?;
        let mut written = 0;
        while written < lines.len() {
            match rustix::io::write(file, &lines[written..]) {
                Ok(count) if count > 0 => written += count,
                Err(rustix::io::Errno::INTR) => {}
                result => {
                    let error = result.map_or_else(io::Error::from, |_| io::ErrorKind::WriteZero.into());
                    let whole =
                        lines[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                    if whole != written
                        && let Err(error) = file.set_len(intent.before + whole as u64)
                    {
                        warn!(%error, "cut off the half line at a log's end");
                    }
                    return Err((error, (lines.len() - whole) as u64));
                }
            }
        }
        Ok(())
    }
}
