//! Heads of SPDY frames, read and written. Nothing is kept here.

/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 8;
/// The version in control frames: 3.1 changed flow control alone.
pub(crate) const VERSION: u16 = 3;
/// The bits of a word that are a stream's number.
pub(crate) const STREAM: u32 = 0x7fff_ffff;

pub(crate) const FIN: u8 = 1;
pub(crate) const UNIDIRECTIONAL: u8 = 2;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const REFUSED_STREAM: u32 = 3;
pub(crate) const CANCEL: u32 = 5;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 7;

/// The setting that has the first window of each stream.
pub(crate) const INITIAL_WINDOW: u32 = 7;

/// Kinds of control frames.
pub(crate) mod kind {
    pub const SYN_STREAM: u16 = 1;
    pub const SYN_REPLY: u16 = 2;
    pub const RST_STREAM: u16 = 3;
    pub const SETTINGS: u16 = 4;
    pub const PING: u16 = 6;
    pub const GOAWAY: u16 = 7;
    pub const HEADERS: u16 = 8;
    pub const WINDOW_UPDATE: u16 = 9;
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Data { stream: u32, end: bool, length: usize },
    Control { version: u16, kind: u16, flags: u8, length: usize },
}

impl Head {
    pub fn parse(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, d, flags, x, y, z] = bytes;
        // 24 bits fit.
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Self::Data { stream, end: flags & FIN != 0, length };
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        Self::Control { version, kind: u16::from_be_bytes([c, d]), flags, length }
    }
}

/// Writes a control frame whose body comes in parts, all of it below 2^24 bytes.
pub(crate) fn control(kind: u16, flags: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    flags_and_length(flags, length, out);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Writes a data frame, below 2^24 bytes.
pub(crate) fn data(stream: u32, end: bool, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(stream & STREAM).to_be_bytes());
    flags_and_length(if end { FIN } else { 0 }, payload.len(), out);
    out.extend_from_slice(payload);
}

fn flags_and_length(flags: u8, length: usize, out: &mut Vec<u8>) {
    debug_assert!(length < 1 << 24, "a frame's length has 24 bits");
    let length = (length & 0x00ff_ffff) as u32;
    out.extend_from_slice(&(u32::from(flags) << 24 | length).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        assert_eq!(
            Head::parse([0x7f, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff]),
            Head::Data { stream: STREAM, end: true, length: (1 << 24) - 1 }
        );
        assert_eq!(
            Head::parse([0x80, 3, 0, 1, 2, 0, 1, 0]),
            Head::Control { version: 3, kind: kind::SYN_STREAM, flags: UNIDIRECTIONAL, length: 256 }
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        data(9, true, b"abc", &mut out);
        let (head, rest) = out.split_first_chunk().unwrap();
        assert_eq!(Head::parse(*head), Head::Data { stream: 9, end: true, length: 3 });
        assert_eq!(rest, b"abc");
    }
}
