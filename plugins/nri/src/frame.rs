//! Bytes on the socket: ttrpc messages, cut into the frames of NRI's multiplexer. Pure encoding; no I/O.
//!
//! A frame is a connection's number and a length, 32 bits each, big endian, and that many bytes. A ttrpc message is a
//! length, a stream's number, a type, flags and a payload.

use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX};

use crate::error::{Error, Result};

/// The connection on which the daemon calls the plugin.
pub const PLUGIN: u32 = 1;
/// The connection on which the plugin calls the daemon.
pub const RUNTIME: u32 = 2;

/// Longest ttrpc payload.
pub const MAX_MESSAGE: usize = MESSAGE_LENGTH_MAX;
/// Longest frame: a message with its header.
const MAX_FRAME: usize = MESSAGE_HEADER_LENGTH + MAX_MESSAGE;
/// Length of a frame's header.
pub const HEADER: usize = 8;
/// A plugin reads a message's first piece through a buffer of this size, and a frame that does not fit is an error to
/// it. The rest of a message must be one frame, because it queues no more than 256.
const FIRST: usize = 4096;
/// A buffer bigger than this is given back when it is empty.
const KEPT: usize = 64 << 10;

/// A ttrpc message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub stream: u32,
    pub kind: u8,
    pub payload: Vec<u8>,
}

/// Reads a frame's header: connection and length.
pub fn header(bytes: [u8; HEADER]) -> Result<(u32, usize)> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let length = u32::from_be_bytes([e, f, g, h]) as usize;
    if length > MAX_FRAME {
        return Err(Error::Protocol(format!("frame of {length} bytes is longer than {MAX_FRAME} bytes")));
    }
    Ok((u32::from_be_bytes([a, b, c, d]), length))
}

/// A message as frames of `connection`.
pub fn encode(connection: u32, stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Result<Vec<u8>> {
    if payload.len() > MAX_MESSAGE {
        return Err(Error::Oversized(payload.len()));
    }
    let (first, rest) = payload.split_at(payload.len().min(FIRST - MESSAGE_HEADER_LENGTH));
    let mut out = Vec::with_capacity(2 * HEADER + MESSAGE_HEADER_LENGTH + payload.len());
    frame(&mut out, connection, MESSAGE_HEADER_LENGTH + first.len());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(first);
    if !rest.is_empty() {
        frame(&mut out, connection, rest.len());
        out.extend_from_slice(rest);
    }
    Ok(out)
}

fn frame(out: &mut Vec<u8>, connection: u32, length: usize) {
    out.extend_from_slice(&connection.to_be_bytes());
    out.extend_from_slice(&(length as u32).to_be_bytes());
}

/// Puts messages together from what a connection's frames carry. It holds one message at most, and only as much of it
/// as has come.
#[derive(Default)]
pub struct Assembler {
    buffer: Vec<u8>,
}

impl Assembler {
    /// Adds bytes and hands the messages that they complete to `each`.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Message) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            let missing = self.missing()?;
            let (now, later) = bytes.split_at(bytes.len().min(missing));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.missing()? == 0 {
                each(self.take())?;
            }
        }
        Ok(())
    }

    /// How many bytes the header, or else the message, lacks.
    fn missing(&self) -> Result<usize> {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(MESSAGE_HEADER_LENGTH - self.buffer.len());
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            return Err(Error::Protocol(format!(
                "message of {length} bytes is longer than {MAX_MESSAGE} bytes"
            )));
        }
        Ok(match self.buffer.len() {
            short if short < MESSAGE_HEADER_LENGTH => MESSAGE_HEADER_LENGTH - short,
            have => MESSAGE_HEADER_LENGTH + length - have,
        })
    }

    fn take(&mut self) -> Message {
        let head: [u8; MESSAGE_HEADER_LENGTH] =
            self.buffer[..MESSAGE_HEADER_LENGTH].try_into().expect("a message has its header");
        let message = Message {
            stream: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            kind: head[8],
            payload: self.buffer[MESSAGE_HEADER_LENGTH..].to_vec(),
        };
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut rest = bytes;
        let mut all = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<HEADER>() {
            let (connection, length) = header(*head).unwrap();
            all.push((connection, tail[..length].to_vec()));
            rest = &tail[length..];
        }
        assert!(rest.is_empty());
        all
    }

    #[test]
    fn a_message_survives_whatever_its_length() {
        for length in [0, 1, 4085, 4086, 4087, 8192, 300_000, MAX_MESSAGE] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let sent = frames(&encode(PLUGIN, 7, 1, 0, &payload).unwrap());
            assert!(sent.len() <= 2 && sent[0].1.len() <= FIRST, "{length}");
            let mut assembler = Assembler::default();
            let mut got = Vec::new();
            for (connection, bytes) in sent {
                assert_eq!(connection, PLUGIN);
                let each = |m| {
                    got.push(m);
                    Ok(())
                };
                assembler.push(&bytes, each).unwrap();
            }
            assert_eq!(got, [Message { stream: 7, kind: 1, payload }], "{length}");
        }
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let mut bytes = Vec::new();
        for stream in [1, 3, 5] {
            for (_, part) in frames(&encode(RUNTIME, stream, 2, 0, &[stream as u8; 5000]).unwrap()) {
                bytes.extend(part);
            }
        }
        for step in [1, 3, 9, 10, 11, 5009, bytes.len()] {
            let mut assembler = Assembler::default();
            let mut got = Vec::new();
            for part in bytes.chunks(step) {
                let each = |m: Message| {
                    got.push((m.stream, m.payload.len()));
                    Ok(())
                };
                assembler.push(part, each).unwrap();
            }
            assert_eq!(got, [(1, 5000), (3, 5000), (5, 5000)], "{step}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        assert!(matches!(encode(PLUGIN, 1, 1, 0, &vec![0; MAX_MESSAGE + 1]), Err(Error::Oversized(_))));
        let mut head = [0, 0, 0, 1, 0, 0, 0, 0];
        head[4..].copy_from_slice(&(MAX_FRAME as u32).to_be_bytes());
        assert_eq!(header(head).unwrap(), (1, MAX_FRAME));
        head[4..].copy_from_slice(&(MAX_FRAME as u32 + 1).to_be_bytes());
        assert!(header(head).is_err());
        let mut message = (MAX_MESSAGE as u32 + 1).to_be_bytes().to_vec();
        message.extend([0, 0, 0, 1, 1, 0]);
        assert!(Assembler::default().push(&message, |_| panic!("no message")).is_err());
    }
}
