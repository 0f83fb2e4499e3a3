//! What all protocols' drivers share: a reader's buffer, the writer's loop, and the life of a connection.

use std::future::Future;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::error::Broken;
use crate::mux::{Encoder, Fill, Goodbye, Mux};
use crate::socket::Socket;

/// Bytes read at once, and the longest piece of a frame that is handed on.
const READ: usize = 32 << 10;
/// A writer's buffer that has grown beyond this is given back when there is nothing to write.
const KEEP: usize = 8 << 10;
/// How long the last word may take to a client that is cut off.
const FAREWELL: Duration = Duration::from_secs(1);

/// Bytes of a connection, taken in pieces as its frames demand.
pub(crate) struct Input<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// The next `N` bytes; `None` at the end of the connection where a frame may end.
    pub async fn head<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Broken> {
        while self.buffer.len() < N {
            if self.read(N).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(Broken::Truncated) };
            }
        }
        let mut bytes = [0; N];
        self.buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }

    /// The next `N` bytes of a frame.
    pub async fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        self.head().await?.ok_or(Broken::Truncated)
    }

    /// The next `length` bytes of a frame. The caller bounds them.
    pub async fn exactly(&mut self, length: usize) -> Result<BytesMut, Broken> {
        while self.buffer.len() < length {
            if self.read(length).await? == 0 {
                return Err(Broken::Truncated);
            }
        }
        Ok(self.buffer.split_to(length))
    }

    /// At least one and at most `most` bytes of a frame, as they come.
    pub async fn some(&mut self, most: usize) -> Result<BytesMut, Broken> {
        if self.buffer.is_empty() && self.read(1).await? == 0 {
            return Err(Broken::Truncated);
        }
        let length = self.buffer.len().min(most).min(READ);
        Ok(self.buffer.split_to(length))
    }

    async fn read(&mut self, wanted: usize) -> Result<usize, Broken> {
        let wanted = wanted.max(READ);
        self.buffer.reserve(wanted.saturating_sub(self.buffer.len()));
        Ok(self.io.read_buf(&mut self.buffer).await?)
    }
}

/// Waits for room in a stream; fails if the client hangs up meanwhile.
pub(crate) async fn room(mux: &Mux, stream: u32, socket: &Socket) -> Result<(), Broken> {
    tokio::select! {
        biased;
        () = mux.room(stream) => Ok(()),
        () = socket.hung_up() => Err(Broken::HungUp),
    }
}

/// Writes what the streams have to say until the last word.
async fn write<W, E>(mux: &Mux, mut io: W, mut encoder: E) -> Result<(), Broken>
where
    W: AsyncWrite + Unpin,
    E: Encoder,
{
    let mut out = Vec::new();
    loop {
        out.clear();
        match mux.fill(&mut encoder, &mut out) {
            Fill::Some => {
                io.write_all(&out).await?;
                mux.touch();
            }
            Fill::None => {
                io.flush().await?;
                out.shrink_to(KEEP);
                mux.output().await;
            }
            Fill::Last => {
                io.write_all(&out).await?;
                io.shutdown().await?;
                return Ok(());
            }
        }
    }
}

/// Runs a connection to its end and says why it ended, `Ok` if its work was done.
///
/// `read` ends with `Ok` when the client has closed the connection. After the last word of ours the reader goes on
/// until then: to close earlier, with something unread, would make the kernel take back what the client has not read.
pub(crate) async fn run<W, E>(
    mux: &Mux,
    read: impl Future<Output = Result<(), Broken>>,
    io: W,
    encoder: E,
    idle: Duration,
    stop: &CancellationToken,
) -> Result<(), Broken>
where
    W: AsyncWrite + Unpin,
    E: Encoder,
{
    let _close = CloseOnDrop(mux);
    let write = write(mux, io, encoder);
    tokio::pin!(read, write);
    let mut written = false;
    let end = loop {
        tokio::select! {
            end = &mut read => break end,
            end = &mut write, if !written => match end {
                Ok(()) => written = true,
                // A client that closes at the last moment says so to the reader; a broken pipe says less.
                Err(error) => break Err(error),
            },
            () = mux.idle(idle) => break Err(Broken::Idle),
            () = stop.cancelled() => break Err(Broken::Stopped),
        }
    };
    let farewell = match &end {
        Err(Broken::Protocol(_)) => Some(Goodbye::Protocol),
        Err(Broken::Closed | Broken::Stopped | Broken::Idle) => Some(Goodbye::Done),
        _ => None,
    };
    if let Some(why) = farewell
        && !written
    {
        mux.finish(why);
        // The client may well not listen any more.
        let _ = tokio::time::timeout(FAREWELL, write).await;
    }
    match end {
        Err(Broken::Closed) => Ok(()),
        // It is over anyhow: a client may tear the connection down as it likes.
        Err(Broken::Io(_) | Broken::Truncated) if written => Ok(()),
        end => end,
    }
}

/// Tells the users of the streams, whatever way the connection ends.
struct CloseOnDrop<'a>(&'a Mux);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
