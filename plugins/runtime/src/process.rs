//! One run of a shim's binary: input in, bounded output out, an end within a time limit.
//!
//! It is started on a thread that may block and waited for by the runtime: no thread is held by a binary that hangs.

use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;

use crate::error::{Error, Result};

/// Bytes of each output stream that are kept; the rest is read and dropped.
const MAX_OUTPUT: usize = 64 << 10;

pub struct Process {
    action: &'static str,
    /// There until the process is dropped.
    child: Option<Child>,
    pidfd: AsyncFd<OwnedFd>,
    /// What the pipe did not take at once.
    input: Option<(pipe::Sender, Vec<u8>)>,
    stdout: Stream,
    stderr: Stream,
}

pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

struct Stream {
    pipe: pipe::Receiver,
    kept: Vec<u8>,
    ended: bool,
}

impl Process {
    /// Starts `command` in a process group of its own. Blocks for the length of a `vfork` and an `exec`; called within
    /// the runtime's context.
    pub fn spawn(action: &'static str, mut command: Command, input: Vec<u8>) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let program = command.get_program().to_owned();
        // No `pre_exec`, no uid: std then uses posix_spawn, which does not copy the daemon's page tables.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::io("run", &program))?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let parts = (|| {
            let pid = Pid::from_child(&child);
            let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
            // SAFETY: an `OwnedFd` owns its descriptor, always answers the same one, and is not taken out before the
            // registration ends.
            let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
            let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
                return Err(std::io::Error::other("standard streams are missing"));
            };
            Ok((pidfd, feed(stdin, input)?, Stream::new(stdout)?, Stream::new(stderr)?))
        })();
        match parts {
            Ok((pidfd, input, stdout, stderr)) => {
                Ok(Self { action, child: Some(child), pidfd, input, stdout, stderr })
            }
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::io("watch", &program)(source))
            }
        }
    }

    /// Waits for the end; a process that exceeds the limit is killed with its group. A failure is an error with what the
    /// process said.
    pub async fn finish(mut self, limit: Duration) -> Result<Output> {
        let ended = tokio::time::timeout(limit, self.run()).await;
        if ended.is_err() {
            self.kill();
            // SIGKILL works unless the process hangs in the kernel; then it is left to the reaper below.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.run()).await;
        }
        self.drain();
        let status = self.status().await;
        let output = || {
            let mut said = String::from_utf8_lossy(&self.stderr.kept).into_owned();
            said.push_str(&String::from_utf8_lossy(&self.stdout.kept));
            said.truncate(said.floor_char_boundary(4096));
            said
        };
        match status {
            _ if ended.is_err() => Err(Error::TimedOut { action: self.action, limit, output: output() }),
            Ok(Some(status)) if !status.success() => {
                Err(Error::Exited { action: self.action, status, output: output() })
            }
            Ok(Some(_)) => Ok(Output {
                stdout: std::mem::take(&mut self.stdout.kept),
                stderr: std::mem::take(&mut self.stderr.kept),
            }),
            Ok(None) => {
                Err(Error::Exited { action: self.action, status: ExitStatus::default(), output: output() })
            }
            Err(source) => Err(Error::io("wait for shim", self.action)(source)),
        }
    }

    /// Moves data until the process ends. Its streams may stay open beyond that, in a child of its own.
    async fn run(&mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.stdout.read(), if !self.stdout.ended => {}
                () = self.stderr.read(), if !self.stderr.ended => {}
                done = write(&mut self.input), if self.input.is_some() => {
                    if done {
                        self.input = None;
                    }
                }
                _ = self.pidfd.readable() => return,
            }
        }
    }

    /// The end of a process that has ended. A debugger's claim comes before ours.
    async fn status(&mut self) -> std::io::Result<Option<ExitStatus>> {
        for _ in 0..1000 {
            let status = self.child.as_mut().map_or(Ok(None), Child::try_wait)?;
            if status.is_some() {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(None)
    }

    fn drain(&mut self) {
        self.stdout.drain();
        self.stderr.drain();
    }

    fn kill(&self) {
        if let Some(child) = &self.child {
            kill(child);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        kill(&child);
        // A killed process is dead soon; one that hangs in the kernel must not hold a thread of the runtime.
        let _ = std::thread::Builder::new().name("shim-reaper".into()).spawn(move || child.wait());
    }
}

fn kill(child: &Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
}

/// Writes what the pipe takes at once, as it nearly always takes all.
fn feed(stdin: std::process::ChildStdin, input: Vec<u8>) -> std::io::Result<Option<(pipe::Sender, Vec<u8>)>> {
    let fd = OwnedFd::from(stdin);
    rustix::io::ioctl_fionbio(&fd, true)?;
    let mut file = std::fs::File::from(fd);
    let mut sent = 0;
    while sent < input.len() {
        match file.write(&input[sent..]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let sender = pipe::Sender::from_owned_fd(file.into())?;
                return Ok(Some((sender, input[sent..].to_vec())));
            }
            // A shim need not read what it is told.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => break,
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Writes some of the rest; answers whether it is done.
async fn write(input: &mut Option<(pipe::Sender, Vec<u8>)>) -> bool {
    let Some((pipe, rest)) = input else { return true };
    match pipe.write(rest).await {
        Ok(n) => {
            rest.drain(..n);
            rest.is_empty()
        }
        Err(_) => true,
    }
}

impl Stream {
    fn new(stream: impl Into<OwnedFd>) -> std::io::Result<Self> {
        let fd = stream.into();
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { pipe: pipe::Receiver::from_owned_fd(fd)?, kept: Vec::new(), ended: false })
    }

    async fn read(&mut self) {
        let mut buffer = [0; 4096];
        match self.pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => self.ended = true,
            Ok(n) => self.keep(&buffer[..n]),
        }
    }

    /// Reads what is there. Bounded, as whoever else holds the pipe may write without end.
    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..=MAX_OUTPUT / buffer.len() {
            match self.pipe.try_read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => self.keep(&buffer[..n]),
            }
        }
    }

    fn keep(&mut self, data: &[u8]) {
        let room = MAX_OUTPUT - self.kept.len();
        self.kept.extend_from_slice(&data[..data.len().min(room)]);
    }
}
