//! Standard streams of one process: what the process gets, and what the shim keeps for as long as it lives.
//!
//! A client names streams by fifo path, `file://`, `binary://` or not at all. Where nothing forbids it the process gets
//! the fifo itself and no byte passes through the shim; it only keeps the other end open, so that readers may come and
//! go. Copying happens for terminals, files, and where ownership or a security module stands between process and fifo.

mod copy;
mod fifo;
mod logger;
mod uri;

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, spawn_local};

use self::copy::{Source, Target};
use self::fifo::Output;
use self::logger::Logger;
use self::uri::Uri;
use crate::error::{Context, Error, Result};
use crate::log;
use crate::readiness::{self, Ready};
use crate::reaper::Reaper;

/// Streams as a request names them; an empty name is no stream.
#[derive(Debug, Default, Clone)]
pub struct Stdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// What the streams of a process depend on besides their names.
pub struct Setup<'a> {
    /// The container's or the exec's id, for loggers.
    pub id: &'a str,
    pub namespace: &'a str,
    /// Owner of pipes.
    pub uid: u32,
    pub gid: u32,
    /// Whether fifos may be handed to the process itself.
    pub direct: bool,
    /// Whether stdin waits for [`ProcessIo::open_stdin`]. Opening it lets the client's first write through, and some
    /// clients can only tell of their input's end once Create has answered.
    pub late_stdin: bool,
}

/// What the process gets.
pub enum Child {
    Null,
    Fds([Option<OwnedFd>; 3]),
    Terminal,
}

/// Ends a task with its owner.
struct Bound(AbortHandle);

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tasks that wait for late readers; see [`fifo`].
type Late = Rc<RefCell<Vec<Bound>>>;

/// The shim's part of the streams. Dropping it closes everything.
#[derive(Default)]
pub struct ProcessIo {
    outputs: RefCell<Vec<Output>>,
    /// The write end of stdin's fifo, so that a client that detaches does not end the process's input.
    stdin: Cell<Option<OwnedFd>>,
    /// Name and pipe of an input that is not open yet.
    late_stdin: Cell<Option<(PathBuf, OwnedFd)>>,
    stdin_closed: Cell<bool>,
    copies: RefCell<Vec<JoinHandle<()>>>,
    inputs: RefCell<Vec<Bound>>,
    late: Late,
    logger: RefCell<Option<Logger>>,
    console: RefCell<Option<Rc<Ready>>>,
    ended: watch::Sender<bool>,
}

impl ProcessIo {
    /// Opens what the names say. Nothing here waits for the other end of a fifo.
    pub async fn open(stdio: &Stdio, setup: &Setup<'_>, reaper: &Rc<Reaper>) -> Result<(ProcessIo, Child)> {
        let io = ProcessIo::default();
        if stdio.terminal {
            return Ok((io, Child::Terminal));
        }
        if stdio.stdin.is_empty() && stdio.stdout.is_empty() && stdio.stderr.is_empty() {
            return Ok((io, Child::Null));
        }
        let stdin = match stdio.stdin.as_str() {
            "" => None,
            path => Some(io.input(Path::new(path), setup)?),
        };
        let (stdout, stderr) = match Uri::parse(&stdio.stdout)? {
            Uri::Binary { path, args, strict } => {
                let (logger, out, err) = Logger::start(&path, args, strict, setup, reaper).await?;
                *io.logger.borrow_mut() = Some(logger);
                (Some(out), Some(err))
            }
            Uri::File(path) => (Some(io.file(&path, setup)?), Some(io.file(&path, setup)?)),
            Uri::Fifo(path) => {
                let stdout = (!path.as_os_str().is_empty()).then(|| io.output(&path, setup)).transpose()?;
                let stderr = match Uri::parse(&stdio.stderr)? {
                    Uri::Fifo(path) if path.as_os_str().is_empty() => None,
                    Uri::Fifo(path) => Some(io.output(&path, setup)?),
                    Uri::File(path) => Some(io.file(&path, setup)?),
                    Uri::Binary { .. } => {
                        return Err(Error::invalid("a logger for stderr alone is not supported"));
                    }
                };
                (stdout, stderr)
            }
        };
        Ok((io, Child::Fds([stdin, stdout, stderr])))
    }

    fn input(&self, path: &Path, setup: &Setup<'_>) -> Result<OwnedFd> {
        require_fifo(path)?;
        if setup.direct && !setup.late_stdin {
            let (read, write) = fifo::both(path)?;
            self.stdin.set(Some(write));
            fifo::set_blocking(&read).at("set flags of", path)?;
            return Ok(read);
        }
        let (ours, theirs) = self.pipe(setup, false)?;
        self.late_stdin.set(Some((path.to_owned(), ours)));
        if !setup.late_stdin {
            self.open_stdin()?;
        }
        Ok(theirs)
    }

    /// Lets a client's input through, if it is not open yet.
    pub fn open_stdin(&self) -> Result<()> {
        let Some((path, pipe)) = self.late_stdin.take() else { return Ok(()) };
        let (read, write) = fifo::both(&path)?;
        if !self.stdin_closed.get() {
            self.stdin.set(Some(write));
        }
        let task = spawn_local(copy::run(Source::new(read)?, Target::stream(pipe)?, None, || {}));
        self.inputs.borrow_mut().push(Bound(task.abort_handle()));
        Ok(())
    }

    fn output(&self, path: &Path, setup: &Setup<'_>) -> Result<OwnedFd> {
        let kind = fs::metadata(path).at("stat", path)?.file_type();
        if !kind.is_fifo() {
            return self.file(path, setup);
        }
        let (read, write) = fifo::both(path)?;
        let output = Output::new(path, read);
        if setup.direct {
            fifo::set_blocking(&write).at("set flags of", path)?;
            self.outputs.borrow_mut().push(output);
            return Ok(write);
        }
        let (ours, theirs) = self.pipe(setup, true)?;
        self.copy(Source::new(ours)?, Target::stream(write)?, Some(output), None);
        Ok(theirs)
    }

    fn file(&self, path: &Path, setup: &Setup<'_>) -> Result<OwnedFd> {
        let file = append(path)?;
        let (ours, theirs) = self.pipe(setup, true)?;
        self.copy(Source::new(ours)?, Target::File(file), None, None);
        Ok(theirs)
    }

    /// A pipe as (ours, theirs); with `out` the process writes. Ours does not block.
    fn pipe(&self, setup: &Setup<'_>, out: bool) -> Result<(OwnedFd, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).op("make pipe")?;
        let (ours, theirs) = if out { (read, write) } else { (write, read) };
        if setup.uid != 0 || setup.gid != 0 {
            let (uid, gid) = (rustix::fs::Uid::from_raw(setup.uid), rustix::fs::Gid::from_raw(setup.gid));
            rustix::fs::fchown(&theirs, Some(uid), Some(gid)).op("change owner of pipe")?;
        }
        rustix::io::ioctl_fionbio(&ours, true).op("set flags of pipe")?;
        Ok((ours, theirs))
    }

    fn copy(
        &self,
        source: Source,
        target: Target,
        output: Option<Output>,
        ended: Option<watch::Receiver<bool>>,
    ) {
        let late = Rc::clone(&self.late);
        let finish = move || {
            if let Some(output) = output {
                output.finish(&late);
            }
        };
        self.copies.borrow_mut().push(spawn_local(copy::run(source, target, ended, finish)));
    }

    /// Connects the terminal's master to the streams.
    pub async fn attach_console(
        &self,
        master: OwnedFd,
        stdio: &Stdio,
        setup: &Setup<'_>,
        reaper: &Rc<Reaper>,
    ) -> Result<()> {
        rustix::io::ioctl_fionbio(&master, true).op("set flags of console")?;
        let master = Rc::new(readiness::both(master).op("watch console")?);
        *self.console.borrow_mut() = Some(Rc::clone(&master));
        let ended = Some(self.ended.subscribe());
        match Uri::parse(&stdio.stdout)? {
            Uri::Binary { path, args, strict } => {
                let (logger, out, _) = Logger::start(&path, args, strict, setup, reaper).await?;
                *self.logger.borrow_mut() = Some(logger);
                rustix::io::ioctl_fionbio(&out, true).op("set flags of pipe")?;
                self.copy(Source::Shared(Rc::clone(&master)), Target::stream(out)?, None, ended);
            }
            Uri::File(path) => {
                self.copy(Source::Shared(Rc::clone(&master)), Target::File(append(&path)?), None, ended);
            }
            // Somebody must take the output, or the terminal's buffer fills and the process stops.
            Uri::Fifo(path) if path.as_os_str().is_empty() => {
                self.copy(Source::Shared(Rc::clone(&master)), Target::Nowhere, None, ended);
            }
            Uri::Fifo(path) => {
                require_fifo(&path)?;
                let (read, write) = fifo::both(&path)?;
                let output = Output::new(&path, read);
                self.copy(Source::Shared(Rc::clone(&master)), Target::stream(write)?, Some(output), ended);
            }
        }
        if !stdio.stdin.is_empty() {
            let path = Path::new(&stdio.stdin);
            require_fifo(path)?;
            let (read, write) = fifo::both(path)?;
            self.stdin.set(Some(write));
            // A copy's end is the end of the client's terminal: the container's hangs up with it.
            let hangup = self.ended.clone();
            let task = spawn_local(copy::run(Source::new(read)?, Target::Shared(master), None, move || {
                hangup.send_replace(true);
            }));
            self.inputs.borrow_mut().push(Bound(task.abort_handle()));
        }
        Ok(())
    }

    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        let console = self.console.borrow();
        let Some(console) = console.as_ref() else { return Ok(()) };
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(console.get_ref(), size).op("resize console")
    }

    /// The process reads its input's end once the client has closed its side too.
    pub fn close_stdin(&self) {
        self.stdin_closed.set(true);
        drop(self.stdin.take());
    }

    /// To be called when the process has ended: lets readers see the end of what it wrote.
    pub fn exited(&self) {
        self.ended.send_replace(true);
        for output in self.outputs.borrow_mut().drain(..) {
            output.finish(&self.late);
        }
        self.inputs.borrow_mut().clear();
        drop((self.stdin.take(), self.late_stdin.take()));
    }

    /// Waits until everything the process wrote has been passed on, but no longer than `limit`; then closes.
    pub async fn drain(&self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        let copies = std::mem::take(&mut *self.copies.borrow_mut());
        for mut copy in copies {
            if tokio::time::timeout_at(deadline, &mut copy).await.is_err() {
                log::error!("output was not taken in {} s and is given up", limit.as_secs());
                copy.abort();
            }
        }
        self.exited();
        self.late.borrow_mut().clear();
        *self.console.borrow_mut() = None;
        let logger = self.logger.borrow_mut().take();
        if let Some(logger) = logger {
            logger.stop().await;
        }
    }
}

impl Drop for ProcessIo {
    fn drop(&mut self) {
        for copy in self.copies.borrow().iter() {
            copy.abort();
        }
    }
}

fn require_fifo(path: &Path) -> Result<()> {
    match fs::metadata(path).at("stat", path)?.file_type().is_fifo() {
        true => Ok(()),
        false => Err(Error::invalid(format!("{} is not a fifo", path.display()))),
    }
}

fn append(path: &Path) -> Result<OwnedFd> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).at("make directory", dir)?;
    }
    let file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(path)
        .at("open", PathBuf::from(path))?;
    Ok(file.into())
}
