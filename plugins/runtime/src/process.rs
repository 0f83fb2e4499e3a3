//! One run of a shim's binary: input in, bounded output out, an end within a time limit.
//!
//! It is started on a thread that may block and waited for by the runtime: no thread is held by a binary that hangs.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe;

use crate::error::{Error, Result};

/// Bytes of each output stream that are kept; the rest is read and dropped.
const MAX_OUTPUT: usize = 64 << 10;

pub struct Process {
    action: &'static str,
    /// There until the process is dropped.
    child: Option<Child>,
    pidfd: OwnedFd,
    /// What the pipe did not take at once.
    input: Option<(OwnedFd, Vec<u8>)>,
    stdout: Stream,
    stderr: Stream,
}

/// A process after a moment of waiting.
pub enum Settled {
    Ended(Result<Output>),
    Runs(Process),
}

pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Process {
    /// Starts `command` in a process group of its own. Blocks for the length of a `vfork` and an `exec`.
    pub fn spawn(action: &'static str, mut command: Command, input: Vec<u8>) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let program = command.get_program().to_owned();
        // No `pre_exec`, no uid: std then uses posix_spawn, which does not copy the daemon's page tables.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::io("run", &program))?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let parts = (|| {
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
            let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
                return Err(io::Error::other("standard streams are missing"));
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

    /// Waits on this thread, no longer than `limit`, for the process to end: most do at once, and then nobody need be
    /// woken. One that does not is for [`Process::finish`].
    pub fn settle(mut self, limit: Duration) -> Settled {
        let deadline = Instant::now() + limit;
        let mut ended = false;
        while !ended && self.input.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else { break };
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            let streams = [&self.stdout, &self.stderr].into_iter().filter(|stream| !stream.ended);
            fds.extend(streams.map(|stream| PollFd::new(&stream.pipe, PollFlags::IN)));
            match poll(&mut fds, Some(&left)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => break,
            }
            ended = !fds[0].revents().is_empty();
            self.drain();
        }
        match ended.then(|| self.outcome()).flatten() {
            Some(outcome) => Settled::Ended(outcome),
            None => Settled::Runs(self),
        }
    }

    /// Waits for the end; a process that exceeds the limit is killed with its group. A failure is an error with what the
    /// process said.
    pub async fn finish(mut self, limit: Duration) -> Result<Output> {
        let timed_out = self.run(limit).await.map_err(Error::io("watch shim", self.action))?;
        self.drain();
        if timed_out {
            return Err(Error::TimedOut { action: self.action, limit, output: self.said() });
        }
        // A debugger's claim comes before ours.
        for _ in 0..1000 {
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(Error::Cut("the shim's binary"))
    }

    /// What came of a process that has ended, if that can be had yet.
    fn outcome(&mut self) -> Option<Result<Output>> {
        match self.child.as_mut()?.try_wait() {
            Ok(None) => None,
            Err(source) => Some(Err(Error::io("wait for shim", self.action)(source))),
            Ok(Some(status)) if !status.success() => {
                Some(Err(Error::Exited { action: self.action, status, output: self.said() }))
            }
            Ok(Some(_)) => Some(Ok(Output {
                stdout: std::mem::take(&mut self.stdout.kept),
                stderr: std::mem::take(&mut self.stderr.kept),
            })),
        }
    }

    /// The process's output, for an error.
    fn said(&self) -> String {
        let mut said = String::from_utf8_lossy(&self.stderr.kept).into_owned();
        said.push_str(&String::from_utf8_lossy(&self.stdout.kept));
        said.truncate(said.floor_char_boundary(4096));
        said
    }

    /// Moves data on the runtime until the process ends; true where it had to be killed.
    async fn run(&mut self, limit: Duration) -> io::Result<bool> {
        // SAFETY: the descriptors are owned by `self`, which outlives these registrations and does not give them up.
        let watch = |fd: &OwnedFd| unsafe {
            AsyncFd::register_with_interest(Raw(fd.as_raw_fd()), Interest::READABLE)
        };
        let (ended, stdout, stderr) =
            (watch(&self.pidfd)?, watch(&self.stdout.pipe)?, watch(&self.stderr.pipe)?);
        let mut input = match self.input.take() {
            Some((fd, rest)) => Some((pipe::Sender::from_owned_fd(fd)?, rest)),
            None => None,
        };
        let (out, err) = (&mut self.stdout, &mut self.stderr);
        let mut work = async || {
            loop {
                tokio::select! {
                    biased;
                    ready = stdout.readable(), if !out.ended => out.ready(ready),
                    ready = stderr.readable(), if !err.ended => err.ready(ready),
                    done = write(&mut input), if input.is_some() => {
                        if done {
                            input = None;
                        }
                    }
                    _ = ended.readable() => return,
                }
            }
        };
        if tokio::time::timeout(limit, work()).await.is_ok() {
            return Ok(false);
        }
        if let Some(child) = &self.child {
            kill(child);
        }
        // SIGKILL works unless the process hangs in the kernel; then it is left to the reaper below.
        let _ = tokio::time::timeout(Duration::from_secs(1), work()).await;
        Ok(true)
    }

    fn drain(&mut self) {
        self.stdout.drain();
        self.stderr.drain();
    }
}

/// A descriptor that somebody else owns.
struct Raw(RawFd);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0
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
fn feed(stdin: std::process::ChildStdin, input: Vec<u8>) -> io::Result<Option<(OwnedFd, Vec<u8>)>> {
    let fd = OwnedFd::from(stdin);
    rustix::io::ioctl_fionbio(&fd, true)?;
    let mut sent = 0;
    while sent < input.len() {
        match rustix::io::write(&fd, &input[sent..]) {
            Ok(n) => sent += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(Some((fd, input[sent..].to_vec()))),
            // A shim need not read what it is told.
            Err(rustix::io::Errno::PIPE) => break,
            Err(e) => return Err(e.into()),
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

struct Stream {
    pipe: OwnedFd,
    kept: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn new(stream: impl Into<OwnedFd>) -> io::Result<Self> {
        let pipe = stream.into();
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe, kept: Vec::new(), ended: false })
    }

    fn ready(&mut self, ready: io::Result<AsyncFdReadyGuard<'_, Raw>>) {
        match ready {
            Ok(mut ready) => {
                if self.drain() {
                    ready.clear_ready();
                }
            }
            Err(_) => self.ended = true,
        }
    }

    /// Reads what is there; true where that was all. Bounded, as whoever else holds the pipe may write without end.
    fn drain(&mut self) -> bool {
        let mut buffer = [0; 4096];
        for _ in 0..=MAX_OUTPUT / buffer.len() {
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) => {
                    self.ended = true;
                    return true;
                }
                Ok(n) => {
                    let room = MAX_OUTPUT - self.kept.len();
                    self.kept.extend_from_slice(&buffer[..n.min(room)]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return true,
            }
        }
        false
    }
}
