//! Exec and attach: the client's streams brought to the handler, the outcome brought back.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::mux::half::{ReadHalf, WriteHalf};
use crate::mux::{Control, Goodbye, Incoming, Mux};
use crate::spdy::frame::PROTOCOL_ERROR;
use crate::status::Outcome;
use crate::{Attach, Exec, Handler, Size, Streams};

/// Channels over WebSocket, whose numbers are those of the descriptors where there are any.
pub(crate) const CHANNELS: u32 = 5;
const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;

/// Sizes that wait for the handler.
const SIZES: usize = 8;
/// Longest JSON of one size.
const MAX_SIZE: usize = 1024;

/// Versions of the remote command protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V1,
    V2,
    /// Adds sizes.
    V3,
    /// Adds the exit code.
    V4,
    /// Adds the close signal, WebSocket only.
    V5,
}

pub(crate) enum Job {
    Exec(Exec),
    Attach(Attach),
}

pub(crate) struct Session {
    pub handler: Arc<dyn Handler>,
    pub job: Job,
    pub version: Version,
}

/// The ends of the streams that the server holds.
#[derive(Default)]
struct Ends {
    error: Option<WriteHalf>,
    stdin: Option<ReadHalf>,
    stdout: Option<WriteHalf>,
    stderr: Option<WriteHalf>,
    resize: Option<ReadHalf>,
    /// The silent sides of `stdin` and `resize`: to end one would tell the client to end its own.
    silent: Vec<WriteHalf>,
}

impl Job {
    /// Standard streams that were asked for.
    fn wanted(&self) -> [bool; 3] {
        match self {
            Self::Exec(exec) => [exec.stdin, exec.stdout, exec.stderr],
            Self::Attach(attach) => [attach.stdin, attach.stdout, attach.stderr],
        }
    }

    fn tty(&self) -> bool {
        match self {
            Self::Exec(exec) => exec.tty,
            Self::Attach(attach) => attach.tty,
        }
    }

    fn doing(&self) -> &'static str {
        match self {
            Self::Exec(_) => "executing command in",
            Self::Attach(_) => "attaching to",
        }
    }
}

// === impl Session ===

impl Session {
    /// Waits for the client to open its streams, then does the work.
    pub async fn spdy(self, mux: Mux, creation: Duration) {
        let mut ends = Ends::default();
        let wanted = self.job.wanted();
        // Kubernetes' client opens a stream of sizes with every terminal, and waits for the answer before it looks at
        // any other: a command that has ended by then would leave it without one.
        let sized = self.job.tty() && self.version >= Version::V3;
        let opened = tokio::time::timeout(creation, async {
            while !ends.complete(wanted, sized) {
                let Some(incoming) = mux.accept().await else { return false };
                ends.add(incoming, wanted, &mux);
            }
            true
        });
        match opened.await {
            Ok(true) => self.perform(&mux, ends).await,
            Ok(false) => tracing::debug!("streaming client left before it opened its streams"),
            Err(_) => {
                tracing::warn!("streaming client did not open its streams within {creation:?}");
                mux.finish(Goodbye::Done);
            }
        }
    }

    /// Makes the channels of a WebSocket, and does the work over them when awaited.
    pub fn websocket(self, mux: Mux) -> impl Future<Output = ()> + Send {
        let [stdin, stdout, stderr] = self.job.wanted();
        let mut ends = Ends { error: Some(mux.channel(ERROR).1), ..Ends::default() };
        let (resize, silent) = mux.channel(RESIZE);
        ends.resize = Some(resize);
        ends.silent.push(silent);
        if stdin {
            let (read, silent) = mux.channel(STDIN);
            ends.stdin = Some(read);
            ends.silent.push(silent);
        }
        ends.stdout = stdout.then(|| mux.channel(STDOUT).1);
        ends.stderr = stderr.then(|| mux.channel(STDERR).1);
        // An empty message on the first channel that the server writes tells the client that it is connected.
        let hello = if stdout {
            STDOUT
        } else if stderr {
            STDERR
        } else {
            ERROR
        };
        mux.send(Control::Message(hello, bytes::Bytes::new()));
        async move { self.perform(&mux, ends).await }
    }

    async fn perform(self, mux: &Mux, mut ends: Ends) {
        let json = self.version >= Version::V4;
        let (sizes, resize) = mpsc::channel(SIZES);
        if let Some(stream) = ends.resize.take() {
            tokio::spawn(pass_sizes(stream, sizes.clone()));
        }
        let io = Streams {
            stdin: ends.stdin.take().map(|half| Box::new(half) as _),
            stdout: ends.stdout.take().map(|half| Box::new(half) as _),
            stderr: ends.stderr.take().map(|half| Box::new(half) as _),
            resize,
            gone: mux.gone().clone(),
        };
        // In a task of its own: a panic of the handler must reach the client as an error.
        let mut work = tokio::spawn(work(self.handler, self.job, io));
        // Whoever waits for sizes is told when none can come any more.
        let mut sizes = Some(sizes);
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                incoming = mux.accept(), if sizes.is_some() => match incoming {
                    Some(incoming) => mux.reset(incoming.id, PROTOCOL_ERROR),
                    None => sizes = None,
                },
            }
        };
        let outcome = outcome.unwrap_or_else(|_| Outcome::Failed {
            doing: "serving",
            error: windlass_core::Error::internal("the runtime's handler panicked"),
        });
        match &outcome {
            // What fails because the client has gone is no fault of anybody's.
            Outcome::Failed { doing, error } if mux.gone().is_cancelled() => {
                tracing::debug!("error {doing} container after its client left: {}", error.chain());
            }
            Outcome::Failed { doing, error } => {
                tracing::warn!("error {doing} container: {}", error.chain());
            }
            Outcome::Success | Outcome::Exit { .. } => {}
        }
        if let Some(mut error) = ends.error.take() {
            // A client that has gone needs no status.
            let _ = error.write_all(&outcome.bytes(json)).await;
        }
        mux.finish(Goodbye::Done);
    }
}

async fn work(handler: Arc<dyn Handler>, job: Job, io: Streams) -> Outcome {
    let doing = job.doing();
    match job {
        Job::Exec(exec) => {
            let cmd = exec.cmd.clone();
            match handler.exec(exec, io).await {
                Ok(0) => Outcome::Success,
                Ok(code) => Outcome::Exit { code, cmd },
                Err(error) => Outcome::Failed { doing, error },
            }
        }
        Job::Attach(attach) => match handler.attach(attach, io).await {
            Ok(()) => Outcome::Success,
            Err(error) => Outcome::Failed { doing, error },
        },
    }
}

// === impl Ends ===

impl Ends {
    /// Whether everything is there that must be; sizes may be there without.
    fn complete(&self, [stdin, stdout, stderr]: [bool; 3], sized: bool) -> bool {
        self.error.is_some()
            && (self.resize.is_some() || !sized)
            && self.stdin.is_some() == stdin
            && self.stdout.is_some() == stdout
            && self.stderr.is_some() == stderr
    }

    /// Takes a stream that the client opened, or refuses it.
    fn add(&mut self, incoming: Incoming, [stdin, stdout, stderr]: [bool; 3], mux: &Mux) {
        let kind = incoming.kind();
        let free = match kind {
            "error" => self.error.is_none(),
            "stdin" => self.stdin.is_none(),
            "stdout" => self.stdout.is_none(),
            "stderr" => self.stderr.is_none(),
            "resize" => self.resize.is_none(),
            _ => false,
        };
        if !free {
            tracing::warn!("streaming client opened a stream that is unknown or open already: {kind:?}");
            return mux.reset(incoming.id, PROTOCOL_ERROR);
        }
        mux.send(Control::Reply(incoming.id));
        let kind = kind.to_owned();
        let Incoming { read, write, .. } = incoming;
        // A stream that nobody asked for ends at once, by dropping it.
        match kind.as_str() {
            "error" => self.error = Some(write),
            "stdin" if stdin => {
                self.stdin = Some(read);
                self.silent.push(write);
            }
            "resize" => {
                self.resize = Some(read);
                self.silent.push(write);
            }
            "stdout" if stdout => self.stdout = Some(write),
            "stderr" if stderr => self.stderr = Some(write),
            _ => {}
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSize {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

/// Reads sizes from a stream until it ends, the handler has ended, or what comes is no size.
async fn pass_sizes(mut stream: ReadHalf, sizes: mpsc::Sender<Size>) {
    let mut buffer = Vec::new();
    let mut piece = [0; 256];
    loop {
        let length = tokio::select! {
            read = stream.read(&mut piece) => read.unwrap_or(0),
            () = sizes.closed() => 0,
        };
        if length == 0 {
            return;
        }
        buffer.extend_from_slice(&piece[..length]);
        let Some(found) = take_sizes(&mut buffer) else {
            tracing::warn!("streaming client sent a terminal size that is none");
            return;
        };
        for size in found {
            if sizes.send(size).await.is_err() {
                return;
            }
        }
    }
}

/// Takes all whole sizes from the front of a buffer; `None` if something else is there.
fn take_sizes(buffer: &mut Vec<u8>) -> Option<Vec<Size>> {
    let mut found = Vec::new();
    let mut stream = serde_json::Deserializer::from_slice(buffer).into_iter::<WireSize>();
    let mut used = 0;
    while let Some(next) = stream.next() {
        match next {
            Ok(size) => found.push(Size { width: size.width, height: size.height }),
            Err(error) if error.is_eof() => break,
            Err(_) => return None,
        }
        used = stream.byte_offset();
    }
    buffer.drain(..used);
    (buffer.len() <= MAX_SIZE).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_taken_whole_and_bounded() {
        let mut buffer = b"{\"Width\":80,\"Height\":24}\n{\"width\":1,\"height\":2}{\"Wid".to_vec();
        let found = take_sizes(&mut buffer).unwrap();
        assert_eq!(found, [Size { width: 80, height: 24 }, Size { width: 1, height: 2 }]);
        assert_eq!(buffer, b"{\"Wid");
        buffer.extend_from_slice(b"th\":7}");
        assert_eq!(take_sizes(&mut buffer).unwrap(), [Size { width: 7, height: 0 }]);
        assert_eq!(take_sizes(&mut b"{\"Width\":70000}".to_vec()), None);
        assert_eq!(take_sizes(&mut b"[]]".to_vec()), None);
        assert_eq!(take_sizes(&mut vec![b' '; 10]), Some(Vec::new()));
        assert_eq!(take_sizes(&mut format!("{{\"x\":\"{}", "x".repeat(2000)).into_bytes()), None);
    }
}
