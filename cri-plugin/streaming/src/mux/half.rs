//! The two ends of a stream that its user holds, as tokio's reader and writer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Mux;
use super::state::{Stage, give_back};

/// What the client sends on a stream. Dropping it throws away what is still to come.
pub(crate) struct ReadHalf {
    mux: Mux,
    id: u32,
}

/// What goes to the client on a stream. Shutting down or dropping it tells the client the end.
pub(crate) struct WriteHalf {
    mux: Mux,
    id: u32,
}

/// Both halves as one.
pub(crate) struct Both {
    pub read: ReadHalf,
    pub write: WriteHalf,
}

// === impl ReadHalf ===

impl ReadHalf {
    pub(super) fn new(mux: Mux, id: u32) -> Self {
        Self { mux, id }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.mux.lock();
        let open = state.stage == Stage::Open;
        let Some(slot) = state.streams.get_mut(&self.id) else { return Poll::Ready(Ok(())) };
        if slot.input.is_empty() {
            if slot.input_end || !open {
                return Poll::Ready(Ok(()));
            }
            slot.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = slot.input.len().min(buf.remaining());
        buf.put_slice(&slot.input[..length]);
        slot.input.advance(length);
        give_back(&mut slot.input);
        if state.taken(self.id, length) {
            self.mux.0.output.notify_one();
        }
        self.mux.0.room.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        let mut state = self.mux.lock();
        state.drain(self.id);
        if let Some(slot) = state.streams.get_mut(&self.id) {
            slot.unread = true;
            slot.reader = None;
        }
        state.retire(self.id);
        drop(state);
        self.mux.0.output.notify_one();
        self.mux.0.room.notify_one();
    }
}

// === impl WriteHalf ===

impl WriteHalf {
    pub(super) fn new(mux: Mux, id: u32) -> Self {
        Self { mux, id }
    }

    fn end(&self) {
        let mut state = self.mux.lock();
        if let Some(slot) = state.streams.get_mut(&self.id) {
            slot.output_end = true;
        }
        state.queue(self.id);
        drop(state);
        self.mux.0.output.notify_one();
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.mux.lock();
        if state.stage != Stage::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let limit = state.send_limit();
        let Some(slot) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if slot.reset || slot.output_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let free = limit.saturating_sub(slot.output.len());
        if free == 0 {
            slot.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = free.min(buf.len());
        slot.output.extend_from_slice(&buf[..length]);
        state.queue(self.id);
        drop(state);
        self.mux.0.output.notify_one();
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.end();
        let mut state = self.mux.lock();
        if let Some(slot) = state.streams.get_mut(&self.id) {
            slot.unwritten = true;
            slot.writer = None;
        }
        state.retire(self.id);
    }
}

// === impl Both ===

impl AsyncRead for Both {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Both {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}
