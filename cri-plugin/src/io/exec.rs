//! The streams of one exec: to a client as they come, or gathered for ExecSync.
//!
//! They end with the daemon: an exec has a client that waits for it or none.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{debug, warn};
use windlass_core::{Error, Result, task};

use super::{AttachStreams, CloseStdin, fifo};

/// Bytes copied at once; a buffer lives while there is something in it.
const CHUNK: usize = 32 << 10;

/// An exec's streams. Dropping it closes the daemon's ends and removes the fifos.
pub struct ExecIo {
    io: task::Io,
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    directory: Directory,
}

/// How a copy to a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The outputs have: nobody holds the process's streams any more.
    Streams,
    /// The client has. The process runs on and stops where it writes into a full fifo, unless the caller kills it or
    /// calls [`ExecIo::discard`].
    Client,
}

// === impl ExecIo ===

impl ExecIo {
    /// Makes the fifos in a directory of the exec's own, below that of the container's (`<dir>/<id>/exec/<exec_id>`,
    /// 0700), and opens them for reading. To be called before `Tasks::exec`. With a terminal there is no `stderr`.
    pub async fn create(
        dir: &Path,
        id: &str,
        exec_id: &str,
        terminal: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<ExecIo> {
        let directory = fifo::directory(&fifo::directory(dir, id)?.join("exec"), exec_id)?;
        let make = move || {
            let directory = Directory(directory);
            fifo::make_directory(&directory.0)?;
            let make = |wanted: bool, name: &str| -> Result<Option<PathBuf>> {
                let path = directory.0.join(name);
                wanted.then(|| fifo::make(&path).map(|()| path)).transpose()
            };
            let names =
                [make(stdin, "stdin")?, make(stdout, "stdout")?, make(stderr && !terminal, "stderr")?];
            let open = |path: &Option<PathBuf>| path.as_deref().map(fifo::reader).transpose();
            let outputs = [open(&names[1])?, open(&names[2])?];
            Ok::<_, Error>((directory, names, outputs))
        };
        let made = spawn_blocking(make).await;
        let (directory, names, [stdout, stderr]) =
            made.map_err(|error| Error::internal("make an exec's streams").with_source(error))??;
        let [stdin_name, stdout_name, stderr_name] =
            names.map(|name| name.map_or(String::new(), |path| path.to_string_lossy().into_owned()));
        let io = task::Io { stdin: stdin_name, stdout: stdout_name, stderr: stderr_name, terminal };
        Ok(ExecIo { io, stdout: watch(stdout)?, stderr: watch(stderr)?, directory })
    }

    /// The streams' names, for `Tasks::exec`.
    pub fn io(&self) -> task::Io {
        self.io.clone()
    }

    /// Copies between the process and a client until either ends; to be called once the process was started. A slow
    /// client slows the process. The end of the client's input closes the process's by `close_stdin`, without a
    /// terminal; with one it is the client's end. What the client did not ask for is read and dropped.
    pub async fn copy(&mut self, streams: AttachStreams, close_stdin: CloseStdin) -> Result<Ended> {
        let AttachStreams { stdin, stdout, stderr } = streams;
        let outputs = async {
            let copied = tokio::try_join!(pass(&mut self.stdout, stdout), pass(&mut self.stderr, stderr));
            match copied {
                Ok(_) => Ended::Streams,
                Err(error) => {
                    debug!(%error, "the client of an exec has gone");
                    Ended::Client
                }
            }
        };
        let (path, terminal) = (Path::new(&self.io.stdin), self.io.terminal);
        let input = async {
            let Some(mut reader) = stdin.filter(|_| !path.as_os_str().is_empty()) else {
                return std::future::pending().await;
            };
            if let Err(error) = feed(&mut *reader, path).await {
                debug!(%error, "an exec's input has ended before its client's");
                return std::future::pending().await;
            }
            if terminal {
                return Ended::Client;
            }
            // On a task of its own: begun is finished, whoever waits.
            if let Ok(Err(error)) = tokio::spawn(close_stdin()).await {
                warn!(error = %error.chain(), "close an exec's input");
            }
            std::future::pending().await
        };
        Ok(tokio::select! {
            ended = outputs => ended,
            ended = input => ended,
        })
    }

    /// Reads what is left to the end and drops it, so that the process can finish without its client.
    pub async fn discard(&mut self) {
        let _nobody = tokio::try_join!(pass(&mut self.stdout, None), pass(&mut self.stderr, None));
    }

    /// Gathers what the process writes, from now on and whoever waits: up to `limit` bytes of each output. What is
    /// beyond is read and dropped, so that the process can finish.
    pub fn collect(mut self, limit: usize) -> Collector {
        let mut tasks = JoinSet::new();
        let mut gather = |stream: Option<Receiver>| {
            let gathered = Gathered::default();
            if let Some(stream) = stream {
                tasks.spawn(collect(stream, limit, Arc::clone(&gathered)));
            }
            gathered
        };
        let (stdout, stderr) = (gather(self.stdout.take()), gather(self.stderr.take()));
        Collector { stdout, stderr, tasks, _directory: self.directory }
    }
}

fn watch(fd: Option<OwnedFd>) -> Result<Option<Receiver>> {
    fd.map(Receiver::from_owned_fd).transpose().map_err(|source| Error::io("watch an exec's output", source))
}

/// Copies an output to its end; an error is the client's. What is not asked for is dropped.
async fn pass(from: &mut Option<Receiver>, to: Option<Box<dyn AsyncWrite + Send + Unpin>>) -> io::Result<()> {
    let mut to = to;
    if let Some(stream) = from {
        let mut buffer = Vec::new();
        while fill(stream, &mut buffer).await? {
            if let Some(to) = &mut to {
                to.write_all(&buffer).await?;
                to.flush().await?;
            }
        }
    }
    *from = None;
    match &mut to {
        Some(to) => to.shutdown().await,
        None => Ok(()),
    }
}

/// Reads what is there into the buffer, which has memory only while there is something; false at the end.
async fn fill(stream: &Receiver, buffer: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        buffer.clear();
        buffer.reserve(CHUNK);
        match stream.try_read_buf(buffer) {
            // Nothing is read before the fifo was ready once, so it has had a writer.
            Ok(count) => return Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                *buffer = Vec::new();
                stream.readable().await?;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn feed(reader: &mut (dyn tokio::io::AsyncRead + Send + Unpin), path: &Path) -> io::Result<()> {
    let mut writer: Sender = fifo::writer(path).await?;
    let mut buffer = vec![0; CHUNK / 4];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => writer.write_all(&buffer[..count]).await?,
            Err(error) => {
                debug!(%error, "the input of an exec's client failed");
                return Ok(());
            }
        }
    }
}

// === impl Collector ===

type Gathered = Arc<Mutex<Vec<u8>>>;

/// The outputs of an exec while they are gathered. Dropping it stops that and removes the fifos.
pub struct Collector {
    stdout: Gathered,
    stderr: Gathered,
    tasks: JoinSet<()>,
    _directory: Directory,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Whether the outputs ended. If not, something that the process left behind still holds them.
    pub complete: bool,
}

impl Collector {
    /// What was gathered, once the outputs have ended, or `drain` has passed; without it there is no limit. To be called
    /// when the process has exited.
    pub async fn finish(mut self, drain: Option<Duration>) -> Collected {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let complete = match drain {
            Some(limit) => tokio::time::timeout(limit, ended).await.is_ok(),
            None => {
                ended.await;
                true
            }
        };
        self.tasks.shutdown().await;
        let take = |gathered: &Gathered| {
            std::mem::take(&mut *gathered.lock().unwrap_or_else(PoisonError::into_inner))
        };
        Collected { stdout: take(&self.stdout), stderr: take(&self.stderr), complete }
    }
}

async fn collect(stream: Receiver, limit: usize, gathered: Gathered) {
    let mut buffer = Vec::new();
    loop {
        match fill(&stream, &mut buffer).await {
            Ok(true) => {
                let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
                let room = limit.saturating_sub(gathered.len()).min(buffer.len());
                gathered.extend_from_slice(&buffer[..room]);
            }
            Ok(false) => return,
            Err(error) => {
                warn!(%error, "read an exec's output");
                return;
            }
        }
    }
}

// === impl Directory ===

/// Removes an exec's directory when it is done with.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = fifo::remove_directory(&path) {
                warn!(error = %error.chain(), "remove an exec's streams");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
