//! SPDY/3.1, the server's side, as far as Kubernetes' clients use it: streams that the client opens. No push, no
//! credentials, no priorities.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::drive::{self, Input};
use crate::error::Broken;
use crate::mux::{Control, Encoder, Goodbye, Mux};
use crate::socket::Socket;

pub(crate) mod dictionary;
pub(crate) mod frame;
pub(crate) mod headers;

use frame::{Head, kind};
use headers::Inflater;

/// Longest control frame. Ours and Kubernetes' are below 200 bytes.
const MAX_CONTROL: usize = 16 << 10;

/// Serves SPDY on a connection until it ends.
pub(crate) async fn serve(
    mux: &Mux,
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    socket: &Socket,
    idle: Duration,
    stop: &CancellationToken,
) -> Result<(), Broken> {
    let reader = Reader {
        mux: mux.clone(),
        socket: socket.clone(),
        input: Input::new(read),
        headers: Inflater::new(),
        last: 0,
    };
    drive::run(mux, reader.run(), write, Frames::default(), idle, stop).await
}

struct Reader<R> {
    mux: Mux,
    socket: Socket,
    input: Input<R>,
    headers: Inflater,
    /// The stream opened last: their numbers only grow.
    last: u32,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(mut self) -> Result<(), Broken> {
        while let Some(head) = self.input.head::<{ frame::HEAD }>().await? {
            self.mux.touch();
            match Head::parse(head) {
                Head::Data { stream: 0, .. } => return Err(Broken::Protocol("data without a stream")),
                Head::Data { stream, end, length } => self.data(stream, end, length).await?,
                Head::Control { version, kind, flags, length } => {
                    if version != frame::VERSION {
                        return Err(Broken::Protocol("another version of SPDY"));
                    }
                    if length > MAX_CONTROL {
                        return Err(Broken::Protocol("a control frame that is too long"));
                    }
                    self.control(kind, flags, length).await?;
                }
            }
        }
        Ok(())
    }

    async fn data(&mut self, stream: u32, end: bool, length: usize) -> Result<(), Broken> {
        let mut left = length;
        while left > 0 {
            drive::room(&self.mux, stream, &self.socket).await?;
            let piece = self.input.some(left).await?;
            left -= piece.len();
            self.mux.received(stream, &piece);
        }
        if end {
            self.mux.ended(stream);
        }
        Ok(())
    }

    async fn control(&mut self, kind: u16, flags: u8, length: usize) -> Result<(), Broken> {
        let body = self.input.exactly(length).await?;
        match kind {
            kind::SYN_STREAM => self.open(flags, &body).await?,
            // We open no streams, so there is nothing to reply to; but the header block belongs to the one stream of
            // compressed bytes.
            kind::SYN_REPLY | kind::HEADERS => {
                let block = body.get(4..).ok_or(Broken::Protocol("a short header frame"))?;
                self.headers.read(block)?;
                if kind == kind::HEADERS && flags & frame::FIN != 0 {
                    self.mux.ended(word(&body, 0)? & frame::STREAM);
                }
            }
            kind::RST_STREAM => {
                exact(&body, 8)?;
                self.mux.was_reset(word(&body, 0)? & frame::STREAM);
            }
            kind::SETTINGS => self.settings(&body)?,
            kind::PING => {
                exact(&body, 4)?;
                // Ours would have even numbers, and we send none.
                if word(&body, 0)? % 2 == 1 {
                    self.mux.answer(Control::Pong(Bytes::copy_from_slice(&body))).await;
                }
            }
            kind::WINDOW_UPDATE => self.window(&body).await?,
            // The client opens no more streams; those that are open go on, and it closes the connection when they
            // have ended.
            kind::GOAWAY => exact(&body, 8)?,
            _ => tracing::debug!(kind, "unknown SPDY control frame ignored"),
        }
        Ok(())
    }

    async fn open(&mut self, flags: u8, body: &[u8]) -> Result<(), Broken> {
        let stream = word(body, 0)? & frame::STREAM;
        let block = body.get(10..).ok_or(Broken::Protocol("a short SYN_STREAM"))?;
        let headers = self.headers.read(block)?;
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Broken::Protocol("a stream's number that is even or does not grow"));
        }
        self.last = stream;
        self.mux.control_room().await;
        let end = flags & frame::FIN != 0;
        let one_way = flags & frame::UNIDIRECTIONAL != 0;
        if !self.mux.open(stream, headers, end, one_way) {
            self.mux.send(Control::Reset(stream, frame::REFUSED_STREAM));
        }
        Ok(())
    }

    fn settings(&mut self, body: &[u8]) -> Result<(), Broken> {
        let count = word(body, 0)?;
        let entries = body.get(4..).unwrap_or_default();
        if usize::try_from(count).ok().and_then(|c| c.checked_mul(8)) != Some(entries.len()) {
            return Err(Broken::Protocol("SETTINGS of another length than its entries"));
        }
        for entry in entries.chunks_exact(8) {
            let value = word(entry, 4)?;
            if word(entry, 0)? & 0x00ff_ffff == frame::INITIAL_WINDOW {
                if i32::try_from(value).is_err() {
                    return Err(Broken::Protocol("a window that is too large"));
                }
                self.mux.set_window(value);
            }
        }
        Ok(())
    }

    async fn window(&mut self, body: &[u8]) -> Result<(), Broken> {
        exact(body, 8)?;
        let (stream, bytes) = (word(body, 0)? & frame::STREAM, word(body, 4)? & frame::STREAM);
        if self.mux.enlarge(stream, bytes) {
            return Ok(());
        }
        if stream == 0 {
            return Err(Broken::Protocol("a session's window that is too large"));
        }
        self.mux.control_room().await;
        self.mux.reset(stream, frame::FLOW_CONTROL_ERROR);
        Ok(())
    }
}

/// The big-endian word at `offset` of a control frame.
fn word(body: &[u8], offset: usize) -> Result<u32, Broken> {
    body.get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map(|bytes| u32::from_be_bytes(*bytes))
        .ok_or(Broken::Protocol("a short control frame"))
}

fn exact(body: &[u8], length: usize) -> Result<(), Broken> {
    if body.len() == length { Ok(()) } else { Err(Broken::Protocol("a control frame of a wrong length")) }
}

/// Headers of a stream by name, in lower case.
pub(crate) type Headers = HashMap<String, String>;

/// Writes frames.
#[derive(Default)]
pub(crate) struct Frames {
    headers: headers::Plain,
}

impl Encoder for Frames {
    fn control(&mut self, control: Control, out: &mut Vec<u8>) {
        match control {
            Control::Reply(stream) => {
                let block = self.headers.empty();
                frame::control(kind::SYN_REPLY, 0, &[&stream.to_be_bytes(), &block], out);
            }
            Control::Reset(stream, code) => {
                frame::control(kind::RST_STREAM, 0, &[&stream.to_be_bytes(), &code.to_be_bytes()], out);
            }
            Control::Pong(body) => frame::control(kind::PING, 0, &[&body], out),
            Control::Message(stream, payload) => frame::data(stream, false, &payload, out),
        }
    }

    fn data(&mut self, stream: u32, payload: &[u8], end: bool, out: &mut Vec<u8>) {
        frame::data(stream, end, payload, out);
    }

    fn credit(&mut self, stream: u32, bytes: u32, out: &mut Vec<u8>) {
        frame::control(kind::WINDOW_UPDATE, 0, &[&stream.to_be_bytes(), &bytes.to_be_bytes()], out);
    }

    fn goodbye(&mut self, why: Goodbye, out: &mut Vec<u8>) {
        let status = u32::from(why == Goodbye::Protocol);
        frame::control(kind::GOAWAY, 0, &[&0u32.to_be_bytes(), &status.to_be_bytes()], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_their_bytes() {
        let mut frames = Frames::default();
        let mut out = Vec::new();
        frames.data(5, b"hi", true, &mut out);
        frames.control(Control::Reset(7, 3), &mut out);
        frames.control(Control::Pong(Bytes::from_static(&[0, 0, 0, 9])), &mut out);
        frames.credit(0, 0x10000, &mut out);
        frames.goodbye(Goodbye::Protocol, &mut out);
        let expected: &[&[u8]] = &[
            &[0, 0, 0, 5, 1, 0, 0, 2, b'h', b'i'],
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0, 3],
            &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9],
            &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0],
            &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn replies_are_read_by_a_common_inflater() {
        let mut frames = Frames::default();
        let mut inflater = Inflater::new();
        for stream in [1u32, 3, 5] {
            let mut out = Vec::new();
            frames.control(Control::Reply(stream), &mut out);
            assert_eq!(&out[..4], &[0x80, 3, 0, 2]);
            assert_eq!(&out[8..12], &stream.to_be_bytes());
            assert!(inflater.read(&out[12..]).unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn no_input_upsets_the_reader() {
        let mut deflater = headers::tests::Deflater::new();
        let mut bytes = Vec::new();
        for stream in [1u32, 3, 5] {
            let block = deflater.block(&[("streamtype", "data"), ("port", "80")]);
            let head = stream.to_be_bytes();
            frame::control(kind::SYN_STREAM, 0, &[&head, &[0; 6], &block], &mut bytes);
            frame::data(stream, stream == 5, b"some bytes of data", &mut bytes);
        }
        frame::control(kind::SETTINGS, 0, &[&[0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0]], &mut bytes);
        frame::control(kind::PING, 0, &[&[0, 0, 0, 1]], &mut bytes);
        frame::control(kind::WINDOW_UPDATE, 0, &[&[0, 0, 0, 3, 0, 0, 1, 0]], &mut bytes);
        frame::control(kind::HEADERS, 0, &[&[0, 0, 0, 3], &deflater.block(&[("a", "b")])], &mut bytes);
        frame::control(kind::RST_STREAM, 0, &[&[0, 0, 0, 1, 0, 0, 0, 5]], &mut bytes);
        frame::control(kind::GOAWAY, 0, &[&[0; 8]], &mut bytes);
        let (well, broken) =
            crate::tests::mutations::try_mutations(&bytes, |mux, socket, bytes| async move {
                let input = Input::new(bytes.as_slice());
                Reader { mux, socket, input, headers: Inflater::new(), last: 0 }.run().await
            })
            .await;
        assert!(well > 1000 && broken > 1000, "{well} well, {broken} broken");
    }
}
