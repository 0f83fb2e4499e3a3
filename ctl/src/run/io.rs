//! Standard streams of a container by fifo, as containerd's clients do it: the shim holds one end, we the other.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;

use crate::stream::unique;

/// How long output may take to arrive after the process has ended and its streams are closed.
const DRAIN: Duration = Duration::from_secs(5);

/// Directory of the fifos: root's, or the user's own.
fn base() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/run"), PathBuf::from).join("windlass-fifo")
}

/// The fifos of one process; removed when dropped.
pub struct Fifos {
    dir: PathBuf,
    pub stdin: String,
    pub stdout: String,
    /// Empty with a terminal, which has one output.
    pub stderr: String,
    copies: Vec<JoinHandle<()>>,
}

impl Fifos {
    /// Makes the fifos; `stdin` only where input is wanted.
    pub fn new(terminal: bool, stdin: bool) -> Result<Self> {
        let base = base();
        std::fs::create_dir_all(&base).with_context(|| format!("make {}", base.display()))?;
        let dir = base.join(unique("io"));
        std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let mut fifos =
            Self { dir, stdin: String::new(), stdout: String::new(), stderr: String::new(), copies: Vec::new() };
        if stdin {
            fifos.stdin = fifos.make("stdin")?;
        }
        fifos.stdout = fifos.make("stdout")?;
        if !terminal {
            fifos.stderr = fifos.make("stderr")?;
        }
        Ok(fifos)
    }

    fn make(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0)
            .with_context(|| format!("make fifo {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Starts copying. `input_done` runs when standard input has ended. Opening blocks until the shim has the other end,
    /// so each stream has a thread of its own.
    pub fn copy(&mut self, input_done: impl FnOnce() + Send + 'static) {
        if !self.stdin.is_empty() {
            let path = self.stdin.clone();
            tokio::task::spawn_blocking(move || {
                let Ok(mut fifo) = File::options().write(true).open(path) else { return };
                let _ = pass(&mut std::io::stdin(), &mut fifo);
                drop(fifo);
                input_done();
            });
        }
        for (path, error) in [(self.stdout.clone(), false), (self.stderr.clone(), true)] {
            if path.is_empty() {
                continue;
            }
            self.copies.push(tokio::task::spawn_blocking(move || {
                let Ok(mut fifo) = File::open(path) else { return };
                let _ = if error { pass(&mut fifo, &mut std::io::stderr()) } else { pass(&mut fifo, &mut std::io::stdout()) };
            }));
        }
    }

    /// Waits until all output has arrived.
    pub async fn drain(&mut self) {
        for copy in self.copies.drain(..) {
            let _ = tokio::time::timeout(DRAIN, copy).await;
        }
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Copies and flushes after every read: a person is looking.
fn pass(from: &mut dyn Read, to: &mut dyn Write) -> std::io::Result<()> {
    let mut buffer = [0; 32 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}

/// Where the output of a detached container goes: one file per container.
pub fn log_file(namespace: &str, id: &str) -> Result<PathBuf> {
    let dir = Path::new("/var/log/windlass").join(namespace);
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir.join(format!("{id}.log")))
}
