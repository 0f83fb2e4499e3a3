//! The streams of one container, from the making of its fifos to their removal.

use std::fs::File;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tracing::{debug, warn};
use windlass_core::{Error, Result, blocking, task};

use super::clients::Seat;
use super::fifo::{self, at};
use super::journal::Journal;
use super::log::{self, Log};
use super::pump::{Logged, Order, Stream};
use super::recover::recover;
use super::spool::Spool;
use super::{AttachStreams, CloseStdin, Output, line};

/// Bytes of input passed on at once.
const INPUT: usize = 8 << 10;
/// How long the disk of a log may take for the rest of the output.
const CLOSE: Duration = Duration::from_secs(5);

/// A container's streams while the daemon lives. Dropping it leaves the fifos and the container as they are, to be
/// found by [`ContainerIo::reattach`].
pub struct ContainerIo {
    io: task::Io,
    stdin_once: bool,
    log: Option<Arc<Log>>,
    stdout: Arc<Stream>,
    /// `None` with a terminal, which has one output.
    stderr: Option<Arc<Stream>>,
    orders: watch::Sender<Order>,
    /// Streams that are still copied.
    live: watch::Receiver<usize>,
}

/// What the blocking part of opening gives.
struct Opened {
    io: task::Io,
    log: Option<Arc<Log>>,
    outputs: Vec<(Output, std::os::fd::OwnedFd, Option<Logged>)>,
}

struct Wanted {
    directory: PathBuf,
    terminal: bool,
    stdin: bool,
    log: Option<PathBuf>,
    limit: usize,
}

// === impl ContainerIo ===

impl ContainerIo {
    /// Makes the directory `<dir>/<id>` (0700) with the fifos in it, in place of whatever was there; opens the log, whose
    /// directory is made where it is missing, and begins to copy. To be called before the container's task is made.
    ///
    /// `max_log_line` is in bytes of content, 0 and less for no limit (a line of 1 MiB ends then, too). Without
    /// `log_path` output goes to attached clients only.
    ///
    /// *Invalid argument*: the id is none, the log path is relative, has `..`, or names something other than a regular
    /// file.
    pub async fn create(
        dir: &Path,
        id: &str,
        terminal: bool,
        stdin: bool,
        stdin_once: bool,
        log_path: Option<&Path>,
        max_log_line: i64,
    ) -> Result<Arc<ContainerIo>> {
        let wanted = Wanted::new(dir, id, terminal, stdin, log_path, max_log_line)?;
        let opened = blocking(move || wanted.create()).await?;
        ContainerIo::start(opened, stdin_once, false)
    }

    /// After a restart of the daemon: goes on where the earlier one stopped, with the same arguments. The container may
    /// have ended meanwhile; what it wrote still comes. A log that cannot be opened is reported and output is dropped
    /// until [`ContainerIo::reopen_log`] succeeds. For a container whose task was never made, use `create` again.
    ///
    /// *Not found*: there are no such fifos.
    pub async fn reattach(
        dir: &Path,
        id: &str,
        terminal: bool,
        stdin: bool,
        stdin_once: bool,
        log_path: Option<&Path>,
        max_log_line: i64,
    ) -> Result<Arc<ContainerIo>> {
        let wanted = Wanted::new(dir, id, terminal, stdin, log_path, max_log_line)?;
        let opened = blocking(move || wanted.reopen()).await?;
        ContainerIo::start(opened, stdin_once, true)
    }

    fn start(opened: Opened, stdin_once: bool, had_writer: bool) -> Result<Arc<ContainerIo>> {
        let Opened { io, log, outputs } = opened;
        let (orders, _) = watch::channel(Order::Run);
        let (live, running) = watch::channel(outputs.len());
        let live = Arc::new(live);
        let (mut stdout, mut stderr) = (None, None);
        for (output, fd, logged) in outputs {
            let stream = Stream::new(output, fd, logged, io.terminal)
                .map_err(|source| Error::io(format!("watch {}", output.name()), source))?;
            let stream = Arc::new(stream);
            let (task, orders, live) = (Arc::clone(&stream), orders.subscribe(), Counted(Arc::clone(&live)));
            tokio::spawn(async move {
                task.run(had_writer, orders).await;
                drop(live);
            });
            *(if output == Output::Stdout { &mut stdout } else { &mut stderr }) = Some(stream);
        }
        let stdout = stdout.expect("every container has a standard output");
        Ok(Arc::new(ContainerIo { io, stdin_once, log, stdout, stderr, orders, live: running }))
    }

    /// The streams' names, for `Tasks::create`.
    pub fn io(&self) -> task::Io {
        self.io.clone()
    }

    /// Connects a client to the running container: it sees what comes from now on. Comes back without an error when the
    /// outputs it asked for have ended, or when its input has and that is not what the container's input ends with.
    /// With `stdin_once` and no terminal, the end of the input closes the container's, once and for all, by
    /// `close_stdin`, also if this future is dropped; the outputs go on. Any number of clients may be attached.
    ///
    /// *Unavailable*: the client went away, or was so slow that it was cut off (after it has held a container without a
    /// terminal up for 2 s in all, or has taken nothing for 10 s with one). The log has everything at that time.
    pub async fn attach(&self, streams: AttachStreams, close_stdin: CloseStdin) -> Result<()> {
        let AttachStreams { stdin, stdout, stderr } = streams;
        let any = stdout.is_some() || stderr.is_some() && self.stderr.is_some();
        // The seats are taken before anything is waited for, so that input's echo is not missed.
        let out = stdout.map(|writer| (self.stdout.clients.join(), writer));
        let err = match (&self.stderr, stderr) {
            (Some(stream), Some(writer)) => Some((stream.clients.join(), writer)),
            _ => None,
        };
        let outputs = async {
            if !any {
                self.ended().await;
                return Ok(());
            }
            tokio::try_join!(serve(out), serve(err)).map(drop)
        };
        let mut once = StdinOnce { close: None, path: PathBuf::from(&self.io.stdin) };
        let input = async {
            let Some(reader) = stdin.filter(|_| !self.io.stdin.is_empty()) else { return pending().await };
            if self.stdin_once && !self.io.terminal {
                once.close = Some(close_stdin);
            }
            if copy_input(reader, &once.path).await.is_err() {
                // The container does not read any more; its outputs say when it ends.
                once.close = None;
                return pending().await;
            }
            if once.close.is_some() {
                once.finish().await;
                pending().await
            }
        };
        let result = tokio::select! {
            result = outputs => Some(result),
            () = input => None,
        };
        match result {
            Some(Ok(())) => {
                // The container's input has ended with the container.
                once.close = None;
                Ok(())
            }
            Some(Err(error)) => Err(Error::unavailable("the attached client has gone").with_source(error)),
            None => Ok(()),
        }
    }

    /// Goes on in a new log at the same path, after the old one was moved away: every line is whole in one of the two.
    /// Without a log it does nothing.
    pub async fn reopen_log(&self) -> Result<()> {
        let Some(log) = self.log.clone() else { return Ok(()) };
        blocking(move || log.reopen()).await
    }

    /// Waits until all output is in the log and with the clients. False if it has not ended within `limit`: a process
    /// that the container left behind may hold the streams for as long as it likes. Then [`ContainerIo::close`].
    pub async fn wait(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.ended()).await.is_ok()
    }

    async fn ended(&self) {
        let mut live = self.live.clone();
        // An error is that all that count are gone, too.
        let _ended = live.wait_for(|live| *live == 0).await;
    }

    /// Takes what is in the fifos, takes that for the end, and stops copying; clients see the end. For a container that
    /// has ended. Does nothing where all has been copied. A log whose disk does not answer is not waited for longer than
    /// [`CLOSE`]; what is under way is written when it does.
    pub async fn close(&self) {
        self.orders.send_replace(Order::Finish);
        if !self.wait(CLOSE).await {
            warn!(streams = %self.io.stdout, "the disk of a container's log does not answer");
        }
    }

    /// Stops copying and leaves everything to [`ContainerIo::reattach`], as the daemon's end does; comes back when
    /// nothing is written any more.
    #[cfg(test)]
    pub async fn detach(&self) {
        self.orders.send_replace(Order::Leave);
        self.ended().await;
    }

    #[cfg(test)]
    pub(super) fn attached(&self) -> usize {
        self.stdout.clients.count() + self.stderr.as_ref().map_or(0, |stream| stream.clients.count())
    }
}

/// Counts a copying task for as long as it lives, however it ends.
struct Counted(Arc<watch::Sender<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|live| *live = live.saturating_sub(1));
    }
}

async fn serve(client: Option<(Seat<'_>, Box<dyn AsyncWrite + Send + Unpin>)>) -> io::Result<()> {
    match client {
        Some((seat, writer)) => seat.serve(writer).await,
        None => Ok(()),
    }
}

/// Passes a client's input on until it ends or the client fails; an error is the container's end of it.
async fn copy_input(mut reader: Box<dyn AsyncRead + Send + Unpin>, path: &Path) -> io::Result<()> {
    let mut writer = fifo::writer(path).await?;
    let mut buffer = vec![0; INPUT];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => writer.write_all(&buffer[..count]).await?,
            Err(error) => {
                debug!(%error, "an attached client's input failed");
                return Ok(());
            }
        }
    }
}

// === impl StdinOnce ===

/// The duty to close a container's input with the first client's.
struct StdinOnce {
    close: Option<CloseStdin>,
    path: PathBuf,
}

impl StdinOnce {
    async fn finish(&mut self) {
        if let Some(close) = self.close.take() {
            // On a task of its own: begun is finished, whoever waits.
            let _done = tokio::spawn(close_input(close, std::mem::take(&mut self.path))).await;
        }
    }
}

impl Drop for StdinOnce {
    fn drop(&mut self) {
        if let (Some(close), Ok(runtime)) = (self.close.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(close_input(close, std::mem::take(&mut self.path)));
        }
    }
}

async fn close_input(close: CloseStdin, path: PathBuf) {
    match close().await {
        // Nobody can open it again, not after a restart either.
        Ok(()) => {
            let _gone = tokio::fs::remove_file(path).await;
        }
        Err(error) => warn!(error = %error.chain(), "close a container's input"),
    }
}

// === impl Wanted ===

impl Wanted {
    fn new(
        dir: &Path,
        id: &str,
        terminal: bool,
        stdin: bool,
        log: Option<&Path>,
        max_log_line: i64,
    ) -> Result<Wanted> {
        let directory = fifo::directory(dir, id)?;
        Ok(Wanted {
            directory,
            terminal,
            stdin,
            log: log.map(Path::to_owned),
            limit: line::limit(max_log_line),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn outputs(&self) -> &'static [Output] {
        if self.terminal { &[Output::Stdout] } else { &[Output::Stdout, Output::Stderr] }
    }

    fn create(self) -> Result<Opened> {
        let file = self.log.as_deref().map(log::open).transpose()?;
        let directory = self.directory.clone();
        self.make(file).inspect_err(|_| {
            // The error that matters is the first.
            let _left = fifo::remove_directory(&directory);
        })
    }

    fn make(self, file: Option<File>) -> Result<Opened> {
        fifo::make_directory(&self.directory)?;
        if self.stdin {
            fifo::make(&self.path("stdin"))?;
        }
        for output in self.outputs() {
            fifo::make(&self.path(output.name()))?;
        }
        let path = self.path("journal");
        let journal =
            file.is_some().then(|| Journal::create(&path)).transpose().map_err(at("make", &path))?;
        self.open(file, journal)
    }

    fn reopen(self) -> Result<Opened> {
        // Clients of execs went with the earlier daemon.
        fifo::remove_directory(&self.path("exec"))?;
        let Some(path) = self.log.as_deref() else { return self.open(None, None) };
        let file = log::open(path).inspect_err(|error| {
            warn!(error = %error.chain(), "a container's output is dropped until its log is reopened");
        });
        let path = self.path("journal");
        let journal = Journal::open(&path).map_err(at("open", &path))?;
        self.open(file.ok(), Some(journal))
    }

    fn open(self, file: Option<File>, journal: Option<Journal>) -> Result<Opened> {
        let mut spools = Vec::new();
        let mut log = None;
        if let (Some(mut journal), Some(path)) = (journal, &self.log) {
            for output in [Output::Stdout, Output::Stderr] {
                let path = self.path(output.name()).with_extension("spool");
                spools.push(Spool::open(path.clone()).map_err(at("open", &path))?);
            }
            recover(&mut journal, file.as_ref(), [&spools[0], &spools[1]])
                .map_err(at("settle what was left half written of", path))?;
            let done = [Output::Stdout, Output::Stderr].map(|output| journal.done(output));
            log = Some((Arc::new(Log::new(path.clone(), file, journal)), done));
        }
        let mut spools = spools.into_iter();
        let mut outputs = Vec::new();
        for output in self.outputs() {
            let fd = fifo::reader(&self.path(output.name()))?;
            let logged = log.as_ref().zip(spools.next()).map(|((log, done), spool)| {
                let done = done[*output as usize];
                Logged { spool, log: Arc::clone(log), limit: self.limit, done, scanned: done, unkept: false }
            });
            outputs.push((*output, fd, logged));
        }
        Ok(Opened { io: self.io(), log: log.map(|(log, _)| log), outputs })
    }

    fn io(&self) -> task::Io {
        let name = |name: &str| self.path(name).to_string_lossy().into_owned();
        task::Io {
            stdin: if self.stdin { name("stdin") } else { String::new() },
            stdout: name("stdout"),
            stderr: if self.terminal { String::new() } else { name("stderr") },
            terminal: self.terminal,
        }
    }
}
