//! A shim's log: read from the fifo in its bundle and passed on to the daemon's, a bounded amount of it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longest line that is passed on.
const MAX_LINE: usize = 4096;
/// Lines that are passed on in one [`WINDOW`]; the others are read, so that the shim never waits, and counted.
const MAX_LINES: u32 = 200;
const WINDOW: Duration = Duration::from_secs(5);
/// How long a shim that was let go may still write.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Keeps a log read; once it is dropped the log is read to its end, which is the shim's.
pub struct Follower {
    stop: oneshot::Sender<()>,
    reading: JoinHandle<()>,
}

impl Follower {
    /// Waits until the shim has closed its log: nothing closes it before the process ends. At once where the shim never
    /// opened it.
    pub async fn ended(self) {
        drop(self.stop);
        let _ = self.reading.await;
    }
}

/// Reads a log on the runtime.
pub fn follow(fifo: OwnedFd, namespace: String, id: String) -> std::io::Result<Follower> {
    let pipe = pipe::Receiver::from_owned_fd(fifo)?;
    let (tx, rx) = oneshot::channel();
    let log = Log { lines: Lines::default(), budget: Budget::new(), namespace, id };
    Ok(Follower { stop: tx, reading: tokio::spawn(log.read(pipe, rx)) })
}

struct Log {
    lines: Lines,
    budget: Budget,
    namespace: String,
    id: String,
}

impl Log {
    async fn read(mut self, mut pipe: pipe::Receiver, mut dropped: oneshot::Receiver<()>) {
        // Open for writing too, the fifo has no end while shims come and go.
        tokio::select! {
            () = self.copy(&mut pipe) => return,
            _ = &mut dropped => {}
        }
        // Without a reader the shim's last words would kill it. Open for reading alone, the fifo ends with the shim.
        let own = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        let Ok(last) =
            rustix::fs::open(own, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        else {
            return;
        };
        drop(pipe);
        if let Ok(mut last) = pipe::Receiver::from_owned_fd(last) {
            let _ = tokio::time::timeout(LAST_WORDS, self.copy(&mut last)).await;
        }
    }

    async fn copy(&mut self, pipe: &mut pipe::Receiver) {
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
            let Self { lines, budget, namespace, id } = self;
            lines.push(&buffer[..n], |line| {
                if let Some(dropped) = budget.take() {
                    if dropped > 0 {
                        tracing::warn!(%namespace, %id, dropped, "the shim logged more than was passed on");
                    }
                    pass_on(line, namespace, id);
                }
            });
        }
    }
}

/// Cuts bytes into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, data: &[u8], mut each: impl FnMut(&str)) {
        for part in data.split_inclusive(|b| *b == b'\n') {
            let room = MAX_LINE - self.0.len();
            self.0.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                each(String::from_utf8_lossy(&self.0).trim());
                self.0.clear();
            }
        }
    }
}

struct Budget {
    since: Instant,
    left: u32,
    dropped: u64,
}

impl Budget {
    fn new() -> Self {
        Self { since: Instant::now(), left: MAX_LINES, dropped: 0 }
    }

    /// Whether a line may pass; then how many did not before it.
    fn take(&mut self) -> Option<u64> {
        if self.since.elapsed() >= WINDOW {
            (self.since, self.left) = (Instant::now(), MAX_LINES);
        }
        if self.left == 0 {
            self.dropped += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

/// logrus' text form says the level; what has none comes from a panic or a runtime and matters.
fn pass_on(line: &str, namespace: &str, id: &str) {
    if line.is_empty() {
        return;
    }
    match level(line) {
        "trace" | "debug" => tracing::debug!(%namespace, %id, "shim: {line}"),
        "info" => tracing::info!(%namespace, %id, "shim: {line}"),
        "error" | "fatal" | "panic" => tracing::error!(%namespace, %id, "shim: {line}"),
        _ => tracing::warn!(%namespace, %id, "shim: {line}"),
    }
}

fn level(line: &str) -> &str {
    let after = line.split_once("level=").map_or("", |(_, rest)| rest);
    let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
    &after[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_bounded() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        lines.push(b"one\ntw", |l| seen.push(l.to_owned()));
        lines.push(b"o\n", |l| seen.push(l.to_owned()));
        for _ in 0..100 {
            lines.push(&[b'x'; 1000], |l| seen.push(l.to_owned()));
        }
        lines.push(b"\nlast\n", |l| seen.push(l.to_owned()));
        assert_eq!((seen[0].as_str(), seen[1].as_str(), seen[3].as_str()), ("one", "two", "last"));
        assert_eq!(seen[2].len(), MAX_LINE);
    }

    #[test]
    fn levels_are_logrus() {
        assert_eq!(level("time=\"x\" level=info msg=\"y\""), "info");
        assert_eq!(level("panic: oh"), "");
    }

    #[test]
    fn a_flood_is_counted() {
        let mut budget = Budget::new();
        for _ in 0..MAX_LINES {
            assert_eq!(budget.take(), Some(0));
        }
        assert_eq!(budget.take(), None);
        budget.since -= WINDOW;
        assert_eq!(budget.take(), Some(1));
    }
}
