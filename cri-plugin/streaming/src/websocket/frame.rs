//! Heads of WebSocket frames and the handshake's answer (RFC 6455, 5.2 and 4.2.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(crate) mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// Most bytes in a control frame.
const MAX_CONTROL: u64 = 125;

/// The first two bytes of a client's frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The last frame of its message.
    pub end: bool,
    pub opcode: u8,
    /// 126 and 127: the length follows in two or eight bytes.
    pub length: u64,
}

impl Head {
    pub fn parse(first: u8, second: u8) -> Result<Self, &'static str> {
        let head = Self { end: first & 0x80 != 0, opcode: first & 0x0f, length: (second & 0x7f).into() };
        if first & 0x70 != 0 {
            return Err("a frame with bits of an extension that was not agreed");
        }
        if second & 0x80 == 0 {
            return Err("a frame without a mask");
        }
        match head.opcode {
            opcode::CONTINUATION | opcode::TEXT | opcode::BINARY => Ok(head),
            opcode::CLOSE | opcode::PING | opcode::PONG if head.end && head.length <= MAX_CONTROL => Ok(head),
            opcode::CLOSE | opcode::PING | opcode::PONG => Err("a control frame in parts or too long"),
            _ => Err("a frame of an unknown kind"),
        }
    }

    pub fn is_control(&self) -> bool {
        self.opcode >= opcode::CLOSE
    }
}

/// Takes the mask off a piece of a payload that lies `offset` bytes into it.
pub(crate) fn unmask(bytes: &mut [u8], mut mask: [u8; 4], offset: usize) {
    mask.rotate_left(offset % 4);
    for word in bytes.chunks_mut(4) {
        for (byte, mask) in word.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

/// Writes the head of a whole message.
pub(crate) fn head(opcode: u8, length: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    if let Ok(length @ 0..=125) = u8::try_from(length) {
        out.push(length);
    } else if let Ok(length) = u16::try_from(length) {
        out.push(126);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

/// What the server answers to a client's key; `None` for a key that is not 16 bytes in base64.
pub(crate) fn accept(key: &str) -> Option<String> {
    if STANDARD.decode(key).ok()?.len() != 16 {
        return None;
    }
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Some(STANDARD.encode(hash.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_answered() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ==").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(accept("c2hvcnQ="), None);
        assert_eq!(accept("?"), None);
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        assert_eq!(Head::parse(0x81, 0x85), Ok(Head { end: true, opcode: opcode::TEXT, length: 5 }));
        let mut hello = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        unmask(&mut hello, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&hello, b"Hello");
        let mut rest = [0x4d, 0x51, 0x58];
        unmask(&mut rest, [0x37, 0xfa, 0x21, 0x3d], 2);
        assert_eq!(&rest, b"llo");
    }

    #[test]
    fn wrong_heads_are_refused() {
        for (first, second) in
            [(0xc1, 0x85), (0x81, 0x05), (0x09, 0x80), (0x89, 0xfe), (0x83, 0x80), (0x8b, 0x80)]
        {
            assert!(Head::parse(first, second).is_err(), "{first:#x} {second:#x}");
        }
    }
}
