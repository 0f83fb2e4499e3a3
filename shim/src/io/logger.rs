//! Logging programs (`binary://`): they read the streams at descriptors 3 and 4 and say at 5 that they are ready.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Setup;
use crate::error::{Context, Error, Result};
use crate::log;
use crate::readiness;
use crate::reaper::{Exit, Reaper};
use crate::spawn::{self, Program};

/// How long a logger may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to read what is left once its input has ended, and then again after SIGTERM.
const FLUSH: Duration = Duration::from_secs(2);
const TERMINATE: Duration = Duration::from_secs(12);

pub struct Logger {
    pid: u32,
    exit: oneshot::Receiver<Exit>,
}

impl Logger {
    /// Starts the program and waits for it to be ready. Returns it with the write ends for stdout and stderr.
    pub async fn start(
        path: &Path,
        args: Vec<String>,
        strict: bool,
        setup: &Setup<'_>,
        reaper: &Rc<Reaper>,
    ) -> Result<(Logger, OwnedFd, OwnedFd)> {
        let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC).op("make pipe")?;
        let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC).op("make pipe")?;
        let (ready_read, ready_write) = pipe_with(PipeFlags::CLOEXEC).op("make pipe")?;
        let launch = reaper.launch();
        let pid = spawn::spawn(&Program {
            path,
            args,
            env: Some(vec![
                format!("CONTAINER_ID={}", setup.id),
                format!("CONTAINER_NAMESPACE={}", setup.namespace),
            ]),
            fds: vec![
                None,
                None,
                None,
                Some(out_read.as_fd()),
                Some(err_read.as_fd()),
                Some(ready_write.as_fd()),
            ],
            bound: false,
            dir: None,
        })
        .map_err(|error| {
            Error::unknown(format!("failed to start binary process: {}: {error}", path.display()))
        })?;
        let logger = Logger { pid, exit: reaper.watch(pid) };
        drop((launch, ready_write, out_read, err_read));
        match logger.ready(ready_read, strict).await {
            Ok(()) => Ok((logger, out_write, err_write)),
            Err(error) => {
                logger.signal(Signal::KILL);
                Err(error)
            }
        }
    }

    async fn ready(&self, read: OwnedFd, strict: bool) -> Result<()> {
        rustix::io::ioctl_fionbio(&read, true).op("set flags of pipe")?;
        let read = readiness::readable(read).op("watch pipe")?;
        let wait = async {
            loop {
                let mut guard = read.readable().await?;
                let mut byte = [0u8; 1];
                if let Ok(result) =
                    guard.try_io(|fd| rustix::io::read(fd, &mut byte).map_err(std::io::Error::from))
                {
                    return result;
                }
            }
        };
        match timeout(READY, wait).await {
            // The older protocol closes the descriptor without a word.
            Ok(Ok(count)) if count > 0 || !strict => Ok(()),
            Ok(Ok(_)) => Err(Error::unknown(
                "logging binary did not call ready (it may have crashed or exited prematurely)",
            )),
            Ok(Err(error)) => Err(Error::unknown(format!("failed to read from logging binary: {error}"))),
            Err(_) => Err(Error::unknown("logging binary was not ready in time")),
        }
    }

    /// Lets the program read what is left; one that does not end at its input's end is ended.
    pub async fn stop(mut self) {
        if timeout(FLUSH, &mut self.exit).await.is_ok() {
            return;
        }
        self.signal(Signal::TERM);
        if timeout(TERMINATE, &mut self.exit).await.is_err() {
            log::warning!("logger {} did not end and is killed", self.pid);
            self.signal(Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself; it is reaped here only, so the pid is still its own or nobody's.
        if let Some(pid) = Pid::from_raw(self.pid as i32) {
            let _ = kill_process(pid, signal);
        }
    }
}
