//! What all tests of the streams share: a shim's side of the fifos, and clients.
#![allow(clippy::unwrap_used)]

mod attach;
mod crash;
mod exec;
mod log;
mod measure;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use windlass_core::task;

use super::{CloseStdin, ContainerIo};

const LONG: Duration = Duration::from_secs(60);

/// Both ends of a fifo, as a shim holds them while its process lives; dropping it is the process's end.
struct Pipe {
    _read: OwnedFd,
    write: File,
}

impl Pipe {
    fn open(path: &str) -> Pipe {
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let read = open(path, OFlags::RDONLY | flags, Mode::empty()).unwrap();
        let write = open(path, OFlags::WRONLY | flags, Mode::empty()).unwrap();
        fcntl_setfl(&write, OFlags::empty()).unwrap();
        Pipe { _read: read, write: write.into() }
    }

    /// Blocks while the fifo is full, as a process does.
    fn say(&mut self, text: impl AsRef<[u8]>) {
        self.write.write_all(text.as_ref()).unwrap();
    }
}

struct Shim {
    stdout: Pipe,
    stderr: Option<Pipe>,
}

impl Shim {
    fn open(io: &task::Io) -> Shim {
        let stderr = (!io.stderr.is_empty()).then(|| Pipe::open(&io.stderr));
        Shim { stdout: Pipe::open(&io.stdout), stderr }
    }

    fn err(&mut self) -> &mut Pipe {
        self.stderr.as_mut().unwrap()
    }
}

struct Rig {
    dir: tempfile::TempDir,
    log: PathBuf,
    terminal: bool,
    stdin_once: bool,
    limit: i64,
}

impl Rig {
    fn new() -> Rig {
        // A state directory is on a tmpfs.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let log = dir.path().join("logs/0.log");
        Rig { dir, log, terminal: false, stdin_once: false, limit: 16_384 }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("io")
    }

    async fn create(&self) -> Arc<ContainerIo> {
        let Rig { log, terminal, stdin_once, limit, .. } = self;
        ContainerIo::create(&self.state(), "c1", *terminal, true, *stdin_once, Some(log), *limit)
            .await
            .unwrap()
    }

    async fn reattach(&self) -> Arc<ContainerIo> {
        let Rig { log, terminal, stdin_once, limit, .. } = self;
        ContainerIo::reattach(&self.state(), "c1", *terminal, true, *stdin_once, Some(log), *limit)
            .await
            .unwrap()
    }

    /// The log's lines without their times; for when nothing is written.
    fn lines(&self) -> Vec<String> {
        lines(&self.log)
    }

    /// The lines that are there while more may be written.
    fn seen(&self) -> Vec<String> {
        seen(&self.log)
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read(path).unwrap();
    assert!(text.last().is_none_or(|last| *last == b'\n'), "torn line at the end of {}", path.display());
    seen(path)
}

fn seen(path: &Path) -> Vec<String> {
    let text = std::fs::read(path).unwrap_or_default();
    // A reader may come in the middle of a write.
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let text = String::from_utf8_lossy(&text[..whole]).into_owned();
    let without_time = |line: &str| line.split_once(' ').map(|(_, rest)| rest.to_owned());
    text.lines().map(|line| without_time(line).unwrap_or_else(|| panic!("bad line {line:?}"))).collect()
}

/// For containers whose input is not closed by their client.
fn never() -> CloseStdin {
    Box::new(|| Box::pin(async { panic!("the input must not be closed") }))
}

/// Waits for a condition that becomes true by itself.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}
