//! Standard streams of a process by fifo, as containerd's clients do it: the shim holds one end, we the other.

mod input;
mod keys;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use keys::Keys;

use crate::stream::unique;

/// How long output may take to arrive after the process has ended.
const DRAIN: Duration = Duration::from_secs(5);

/// What the streams tell.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Standard input has ended.
    InputEnded,
    /// The keys to leave were typed.
    Detach,
    /// Ctrl-C was typed on a raw terminal; it goes to the process as well.
    Interrupt,
    /// Nobody reads our output any more.
    OutputGone,
}

/// Directory of the fifos: root's, or the user's own.
fn base() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map_or_else(|| PathBuf::from("/run"), PathBuf::from)
        .join("windlass-fifo")
}

/// The fifos of one process. Removed when dropped, unless they were [`kept`](Self::keep) or are somebody else's.
pub struct Fifos {
    dir: Option<PathBuf>,
    pub stdin: String,
    pub stdout: String,
    /// Empty with a terminal, which has one output.
    pub stderr: String,
    copies: Vec<JoinHandle<()>>,
    events: mpsc::UnboundedReceiver<Event>,
    teller: mpsc::UnboundedSender<Event>,
}

impl Fifos {
    fn none(dir: Option<PathBuf>) -> Self {
        let (teller, events) = mpsc::unbounded_channel();
        let empty = String::new;
        Self { dir, stdin: empty(), stdout: empty(), stderr: empty(), copies: Vec::new(), events, teller }
    }

    /// Makes the fifos that are asked for; none for a stream that goes elsewhere.
    pub fn new(stdin: bool, stdout: bool, stderr: bool) -> Result<Self> {
        let base = base();
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true).mode(0o700).create(&base).with_context(|| format!("make {}", base.display()))?;
        let dir = base.join(unique("io"));
        make.recursive(false).create(&dir).with_context(|| format!("make {}", dir.display()))?;
        let mut fifos = Self::none(Some(dir));
        if stdin {
            fifos.stdin = fifos.make("stdin")?;
        }
        if stdout {
            fifos.stdout = fifos.make("stdout")?;
        }
        if stderr {
            fifos.stderr = fifos.make("stderr")?;
        }
        Ok(fifos)
    }

    /// The fifos of a process that runs; what is no fifo is left out.
    pub fn of(stdin: &str, stdout: &str, stderr: &str) -> Self {
        use std::os::unix::fs::FileTypeExt;
        let fifo = |path: &str| {
            let is = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo());
            if is { path.to_owned() } else { String::new() }
        };
        let mut fifos = Self::none(None);
        (fifos.stdin, fifos.stdout, fifos.stderr) = (fifo(stdin), fifo(stdout), fifo(stderr));
        fifos
    }

    fn make(&self, name: &str) -> Result<String> {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let path = self.dir.as_deref().unwrap_or(Path::new("")).join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .with_context(|| format!("make fifo {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Starts copying output. Opening blocks until the shim has the other end, so each stream has a thread of its own,
    /// and this comes before the task is made.
    pub fn copy_output(&mut self) {
        for (path, error) in [(self.stdout.clone(), false), (self.stderr.clone(), true)] {
            if path.is_empty() {
                continue;
            }
            let teller = self.teller.clone();
            self.copies.push(tokio::task::spawn_blocking(move || {
                let Ok(mut fifo) = File::open(path) else { return };
                let copied = if error {
                    pass(&mut fifo, &mut std::io::stderr())
                } else {
                    pass(&mut fifo, &mut std::io::stdout())
                };
                if copied.is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
                    let _ = teller.send(Event::OutputGone);
                }
            }));
        }
    }

    /// Starts copying input. `keys` to leave are looked for where a person types them.
    pub fn copy_input(&self, keys: Option<Keys>) {
        if self.stdin.is_empty() {
            return;
        }
        let (path, teller) = (self.stdin.clone(), self.teller.clone());
        tokio::task::spawn_blocking(move || input::copy(&path, keys, &teller));
    }

    /// What happens next to the streams; waits for ever where nothing does.
    pub async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Whether somebody stopped reading our output, as far as was told by now.
    pub fn output_gone(&mut self) -> bool {
        std::iter::from_fn(|| self.events.try_recv().ok()).any(|event| matches!(event, Event::OutputGone))
    }

    /// Waits until all output has arrived.
    pub async fn drain(&mut self) {
        let all = futures::future::join_all(self.copies.drain(..));
        let _ = tokio::time::timeout(DRAIN, all).await;
    }

    /// Leaves the fifos to the process: it runs on, and somebody may attach.
    pub fn keep(mut self) {
        self.dir = None;
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Removes the fifos that a process was left with, if they are ours.
pub fn remove(paths: [&str; 3]) {
    let base = base();
    for path in paths {
        let Some(dir) = Path::new(path).parent() else { continue };
        let plain = dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with("io-"));
        if plain && dir.parent() == Some(base.as_path()) {
            let _ = std::fs::remove_dir_all(dir);
        }
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
