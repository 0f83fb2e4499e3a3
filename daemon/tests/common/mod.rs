//! A daemon of one test, with private directories.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tonic::Request;
use tonic::transport::Channel;

/// A command that starts a daemon, in the foreground.
pub fn windlassd(root: &Path, state: &Path, socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlassd"));
    command
        .arg("--root")
        .arg(root)
        .arg("--state")
        .arg(state)
        .arg("--address")
        .arg(socket)
        .args(["--log-level", "debug"]);
    command
}

/// A request in a namespace.
pub fn scoped<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", namespace.parse().expect("a namespace is ASCII"));
    request
}

pub struct Daemon {
    pub dir: tempfile::TempDir,
    child: Child,
    log: BufReader<ChildStderr>,
    elapsed: Duration,
}

impl Daemon {
    /// Starts it with `config`, in version 3, and waits until it serves.
    pub fn start(config: &str) -> Self {
        Self::with(config, |_| {})
    }

    pub fn with(config: &str, change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = format!("version = 3\n{config}");
        std::fs::write(dir.path().join("config.toml"), config).expect("the configuration is written");
        let (child, log) = spawn(dir.path(), change);
        let mut daemon = Self { dir, child, log, elapsed: Duration::ZERO };
        daemon.serving();
        daemon
    }

    /// Starts it again on the same directories.
    pub fn again(&mut self) {
        (self.child, self.log) = spawn(self.dir.path(), |_| {});
        self.serving();
    }

    fn serving(&mut self) {
        let begun = Instant::now();
        self.await_line("msg=\"serving\"");
        self.elapsed = begun.elapsed();
    }

    /// Reads the log up to a line that has `wanted` in it.
    pub fn await_line(&mut self, wanted: &str) {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let read = self.log.read_line(&mut line).expect("the log is read");
            assert!(read > 0, "the daemon ended without {wanted:?}:\n{seen}");
            if line.contains(wanted) {
                return;
            }
            seen.push_str(&line);
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("w.sock")
    }

    pub async fn connect(&self) -> Channel {
        windlass_api::connect::connect(self.socket()).await.expect("the daemon answers")
    }

    /// Bytes in memory.
    pub fn resident(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).expect("the daemon runs");
        statm.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).expect("statm has a second number")
            * 4096
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain signal to our own child, which has not been waited for.
        unsafe { libc::kill(self.pid() as i32, signal) };
    }

    pub fn wait(&mut self) -> ExitStatus {
        // What it still says must not fill the pipe.
        std::io::copy(&mut self.log, &mut std::io::sink()).expect("the log is read");
        self.child.wait().expect("a child can be waited for")
    }
}

fn spawn(dir: &Path, change: impl FnOnce(&mut Command)) -> (Child, BufReader<ChildStderr>) {
    let mut command = windlassd(&dir.join("root"), &dir.join("state"), &dir.join("w.sock"));
    command
        .arg("--config")
        .arg(dir.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    change(&mut command);
    let mut child = command.spawn().expect("windlassd starts");
    let log = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
    (child, log)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
