//! Messages as they come in, in pieces of any size: which channel they are for, and what of them is already known.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Codec;
use super::frame::opcode;
use crate::mux::Mux;

/// The number that says that a channel ends (v5).
const CLOSE: u8 = 255;

pub(crate) struct Message {
    codec: Codec,
    channels: u32,
    close_signal: bool,
    state: State,
    /// Characters of base64 that wait to be four.
    rest: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between messages.
    Between,
    /// In a message whose channel is not yet known.
    Begun,
    /// In a message of this channel.
    Channel(u32),
    /// In a message that ends a channel, and which, once that is known.
    Closing(Option<u8>),
    /// In a message of a channel that does not exist, which is thrown away.
    Unknown,
}

impl Message {
    pub fn new(codec: Codec, channels: u32, close_signal: bool) -> Self {
        Self { codec, channels, close_signal, state: State::Between, rest: Vec::new() }
    }

    /// A frame of data begins.
    pub fn frame(&mut self, kind: u8) -> Result<(), &'static str> {
        match (kind == opcode::CONTINUATION, self.state == State::Between) {
            (true, true) => Err("the continuation of no message"),
            (false, false) => Err("a message within a message"),
            (true, false) => Ok(()),
            (false, true) => {
                self.state = if self.codec == Codec::Tunnel { State::Channel(0) } else { State::Begun };
                Ok(())
            }
        }
    }

    /// The channel that the next bytes are for.
    pub fn channel(&self) -> Option<u32> {
        match self.state {
            State::Channel(channel) => Some(channel),
            _ => None,
        }
    }

    /// How many bytes may be taken while no channel is known.
    pub fn wants(&self) -> u64 {
        match self.state {
            State::Unknown => u64::MAX,
            _ => 1,
        }
    }

    /// The next bytes of the message.
    pub fn take(&mut self, bytes: &[u8], mux: &Mux) -> Result<(), &'static str> {
        match (self.state, bytes) {
            (State::Begun, [number]) => self.state = self.number(*number),
            (State::Closing(None), [channel]) => self.state = State::Closing(Some(*channel)),
            (State::Channel(channel), _) if self.codec == Codec::Base64 => {
                self.text(bytes, channel, mux)?;
            }
            (State::Channel(channel), _) => mux.received(channel, bytes),
            (State::Unknown, _) => {}
            (State::Between | State::Begun | State::Closing(_), _) => {
                return Err("a close signal of another length than two bytes");
            }
        }
        Ok(())
    }

    /// The message is complete.
    pub fn end(&mut self, mux: &Mux) -> Result<(), &'static str> {
        match std::mem::replace(&mut self.state, State::Between) {
            State::Closing(Some(channel)) if u32::from(channel) < self.channels => mux.ended(channel.into()),
            State::Closing(_) => return Err("a close signal for no channel"),
            _ => {}
        }
        if self.rest.is_empty() { Ok(()) } else { Err("base64 that ends too early") }
    }

    fn number(&self, number: u8) -> State {
        if self.close_signal && number == CLOSE {
            return State::Closing(None);
        }
        let number = if self.codec == Codec::Base64 { number.wrapping_sub(b'0') } else { number };
        if u32::from(number) < self.channels { State::Channel(number.into()) } else { State::Unknown }
    }

    fn text(&mut self, mut bytes: &[u8], channel: u32, mux: &Mux) -> Result<(), &'static str> {
        let refused = |_| "a message that is not base64";
        if !self.rest.is_empty() {
            let missing = (4 - self.rest.len()).min(bytes.len());
            self.rest.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.rest.len() < 4 {
                return Ok(());
            }
            mux.received(channel, &STANDARD.decode(&self.rest).map_err(refused)?);
            self.rest.clear();
        }
        let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
        if !whole.is_empty() {
            mux.received(channel, &STANDARD.decode(whole).map_err(refused)?);
        }
        self.rest.extend_from_slice(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Feeds one message byte by byte and returns what its channel received.
    async fn received(codec: Codec, message: &[u8], channel: u32) -> Result<Vec<u8>, &'static str> {
        let mux = Mux::new(10);
        let (mut read, _write) = mux.channel(channel);
        let mut state = Message::new(codec, 5, true);
        state.frame(opcode::BINARY)?;
        for byte in message {
            state.take(&[*byte], &mux)?;
        }
        state.end(&mux)?;
        mux.close();
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).await.unwrap();
        Ok(bytes)
    }

    #[tokio::test]
    async fn messages_reach_their_channels() {
        assert_eq!(received(Codec::Binary, b"\x00abc", 0).await.unwrap(), b"abc");
        assert_eq!(received(Codec::Binary, b"\x04abc", 0).await.unwrap(), b"");
        assert_eq!(
            received(Codec::Binary, b"\x09abc", 0).await.unwrap(),
            b"",
            "a channel that does not exist"
        );
        assert_eq!(received(Codec::Base64, b"0YWJjZA==", 0).await.unwrap(), b"abcd");
        assert_eq!(received(Codec::Tunnel, b"\x00abc", 0).await.unwrap(), b"\x00abc");
    }

    #[tokio::test]
    async fn wrong_messages_are_refused() {
        assert!(received(Codec::Base64, b"0YWJ", 0).await.is_err(), "too short");
        assert!(received(Codec::Base64, b"0????", 0).await.is_err(), "other characters");
        assert!(received(Codec::Binary, b"\xff", 0).await.is_err(), "no channel to close");
        assert!(received(Codec::Binary, b"\xff\x07", 0).await.is_err(), "a channel that does not exist");
        assert!(received(Codec::Binary, b"\xff\x00\x00", 0).await.is_err(), "too long");
        let mut state = Message::new(Codec::Binary, 5, false);
        assert!(state.frame(opcode::CONTINUATION).is_err());
        state.frame(opcode::TEXT).unwrap();
        assert!(state.frame(opcode::BINARY).is_err());
    }

    #[tokio::test]
    async fn the_close_signal_ends_a_channel() {
        let mux = Mux::new(10);
        let (mut read, _write) = mux.channel(0);
        let mut state = Message::new(Codec::Binary, 5, true);
        for message in [&[0, b'x'][..], &[255, 0]] {
            state.frame(opcode::BINARY).unwrap();
            state.take(&message[..1], &mux).unwrap();
            state.take(&message[1..], &mux).unwrap();
            state.end(&mux).unwrap();
        }
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"x");
    }
}
