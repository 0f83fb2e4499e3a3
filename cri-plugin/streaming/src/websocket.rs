//! WebSocket (RFC 6455), the server's side, with Kubernetes' channels in its messages: the first byte of a message is
//! the number of a channel, the rest belongs to that channel. No extensions; a message is never held in one piece.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::drive::{self, Input};
use crate::error::Broken;
use crate::mux::{Control, Encoder, Goodbye, Mux};
use crate::socket::Socket;

pub(crate) mod frame;
pub(crate) mod message;

use frame::{Head, opcode};
use message::Message;

/// How channels lie in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// A byte for the channel, then its bytes, in binary messages.
    Binary,
    /// The channel as a digit, then its bytes in base64, in text messages.
    Base64,
    /// No channel: all messages together are one stream of bytes.
    Tunnel,
}

/// Serves messages on a connection until it ends. `channels`: how many there are; `close_signal`: whether the message
/// 255, CHANNEL ends a channel (v5).
#[allow(clippy::too_many_arguments)]
pub(crate) async fn serve(
    mux: &Mux,
    codec: Codec,
    channels: u32,
    close_signal: bool,
    io: impl AsyncRead + AsyncWrite,
    socket: &Socket,
    idle: Duration,
    stop: &CancellationToken,
) -> Result<(), Broken> {
    let (read, write) = tokio::io::split(io);
    tokio::pin!(read, write);
    let reader = Reader {
        mux: mux.clone(),
        socket: socket.clone(),
        input: Input::new(read),
        message: Message::new(codec, channels, close_signal),
    };
    drive::run(mux, reader.run(), write, Frames { codec }, idle, stop).await
}

struct Reader<R> {
    mux: Mux,
    socket: Socket,
    input: Input<R>,
    message: Message,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(mut self) -> Result<(), Broken> {
        while let Some([first, second]) = self.input.head().await? {
            let mut head = Head::parse(first, second).map_err(Broken::Protocol)?;
            match head.length {
                126 => head.length = u16::from_be_bytes(self.input.array().await?).into(),
                127 => head.length = u64::from_be_bytes(self.input.array().await?),
                _ => {}
            }
            let mask = self.input.array().await?;
            if head.is_control() {
                self.control(&head, mask).await?;
            } else {
                self.mux.touch();
                self.data(&head, mask).await?;
            }
        }
        Ok(())
    }

    async fn control(&mut self, head: &Head, mask: [u8; 4]) -> Result<(), Broken> {
        // At most 125 bytes, which the head was checked for.
        let mut payload = self.input.exactly(head.length as usize).await?;
        frame::unmask(&mut payload, mask, 0);
        match head.opcode {
            opcode::CLOSE => Err(Broken::Closed),
            opcode::PING => {
                self.mux.answer(Control::Pong(Bytes::copy_from_slice(&payload))).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn data(&mut self, head: &Head, mask: [u8; 4]) -> Result<(), Broken> {
        self.message.frame(head.opcode).map_err(Broken::Protocol)?;
        let mut left = head.length;
        let mut offset = 0;
        while left > 0 {
            // What is not for a channel, the channel's number for one, waits for none.
            let most = match self.message.channel() {
                Some(channel) => {
                    drive::room(&self.mux, channel, &self.socket).await?;
                    left
                }
                None => left.min(self.message.wants()),
            };
            let mut piece = self.input.some(usize::try_from(most).unwrap_or(usize::MAX)).await?;
            frame::unmask(&mut piece, mask, offset);
            offset += piece.len();
            left -= piece.len() as u64;
            self.message.take(&piece, &self.mux).map_err(Broken::Protocol)?;
        }
        if head.end {
            self.message.end(&self.mux).map_err(Broken::Protocol)?;
        }
        Ok(())
    }
}

/// Writes messages.
struct Frames {
    codec: Codec,
}

impl Frames {
    fn message(&self, channel: u32, payload: &[u8], out: &mut Vec<u8>) {
        // There are never more than 255 channels.
        let channel = channel as u8;
        match self.codec {
            Codec::Binary => {
                frame::head(opcode::BINARY, payload.len() + 1, out);
                out.push(channel);
                out.extend_from_slice(payload);
            }
            Codec::Base64 => {
                let text = STANDARD.encode(payload);
                frame::head(opcode::TEXT, text.len() + 1, out);
                out.push(b'0'.wrapping_add(channel));
                out.extend_from_slice(text.as_bytes());
            }
            Codec::Tunnel => {
                frame::head(opcode::BINARY, payload.len(), out);
                out.extend_from_slice(payload);
            }
        }
    }
}

impl Encoder for Frames {
    fn control(&mut self, control: Control, out: &mut Vec<u8>) {
        match control {
            Control::Pong(payload) => {
                frame::head(opcode::PONG, payload.len(), out);
                out.extend_from_slice(&payload);
            }
            Control::Message(channel, payload) => self.message(channel, &payload, out),
            // Channels are neither opened nor given up.
            Control::Reply(_) | Control::Reset(..) => {}
        }
    }

    fn data(&mut self, stream: u32, payload: &[u8], _end: bool, out: &mut Vec<u8>) {
        // No message tells a client the end of one channel.
        if !payload.is_empty() {
            self.message(stream, payload, out);
        }
    }

    fn credit(&mut self, _stream: u32, _bytes: u32, _out: &mut Vec<u8>) {}

    fn goodbye(&mut self, why: Goodbye, out: &mut Vec<u8>) {
        let code: u16 = match why {
            Goodbye::Done => 1000,
            Goodbye::Protocol => 1002,
        };
        frame::head(opcode::CLOSE, 2, out);
        out.extend_from_slice(&code.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(codec: Codec, channel: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Frames { codec }.data(channel, payload, true, &mut out);
        out
    }

    #[test]
    fn messages_have_their_bytes() {
        assert_eq!(encoded(Codec::Binary, 1, b"hi"), [0x82, 3, 1, b'h', b'i']);
        assert_eq!(encoded(Codec::Base64, 1, b"hi"), *b"\x81\x051aGk=");
        assert_eq!(encoded(Codec::Tunnel, 0, b"hi"), [0x82, 2, b'h', b'i']);
        assert!(encoded(Codec::Binary, 1, b"").is_empty(), "the end of a channel is not said");
        let long = encoded(Codec::Binary, 2, &[7; 300]);
        assert_eq!(&long[..5], &[0x82, 126, 1, 45, 2]);
        let longer = encoded(Codec::Tunnel, 0, &vec![7; 70_000]);
        assert_eq!(&longer[..10], &[0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }

    #[test]
    fn control_frames_have_their_bytes() {
        let mut out = Vec::new();
        let mut frames = Frames { codec: Codec::Binary };
        frames.control(Control::Pong(Bytes::from_static(b"x")), &mut out);
        frames.control(Control::Message(1, Bytes::new()), &mut out);
        frames.goodbye(Goodbye::Done, &mut out);
        assert_eq!(out, [0x8a, 1, b'x', 0x82, 1, 1, 0x88, 2, 0x03, 0xe8]);
    }

    #[tokio::test]
    async fn no_input_upsets_the_reader() {
        let mut bytes = Vec::new();
        for payload in [&b"\x00some bytes"[..], &[0; 300], b"\x04{}", &[255, 0], b"\x09nobody"] {
            let begin = bytes.len();
            frame::head(opcode::BINARY, payload.len(), &mut bytes);
            bytes[begin + 1] |= 0x80;
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(payload);
        }
        bytes.extend_from_slice(b"\x89\x84\0\0\0\0ping\x01\x82\0\0\0\x000Y\x80\x83\0\0\0\0WJj");
        for codec in [Codec::Binary, Codec::Base64, Codec::Tunnel] {
            let tried = crate::tests::mutations::try_mutations(&bytes, |mux, socket, bytes| async move {
                let _channels: Vec<_> = (0..5).map(|channel| mux.channel(channel)).collect();
                let (input, message) = (Input::new(bytes.as_slice()), Message::new(codec, 5, true));
                Reader { mux: mux.clone(), socket, input, message }.run().await
            });
            let (well, broken) = tried.await;
            assert!(broken > 1000 && (well > 500 || codec == Codec::Base64), "{codec:?}: {well}, {broken}");
        }
    }
}
