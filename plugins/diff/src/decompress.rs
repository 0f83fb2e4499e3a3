//! Decompression as it streams, with bounds on memory and on how much may come out of how little.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use crate::media::Compression;

/// Read from the layer at a time.
const INPUT: usize = 128 << 10;
/// Largest window of zstd that is allowed, as a power of two: 128 MiB, its own default.
const ZSTD_WINDOW: u32 = 27;

/// How much a layer may inflate: beyond `free` bytes, `ratio` times what was read. Layers of zeros reach a thousand, other
/// honest ones about ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub ratio: u64,
    pub free: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self { ratio: 200, free: 1 << 30 }
    }
}

/// Refused by [`Limit`]; recognised by its type where errors are mapped.
#[derive(Debug, thiserror::Error)]
#[error(
    "the layer inflates to more than {0} bytes, over {1} times its size: it is refused, see max_inflation_ratio"
)]
pub struct Bomb(u64, u64);

struct Counted<R> {
    source: R,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.read.set(self.read.get() + n as u64);
        Ok(n)
    }
}

/// Reads a layer's uncompressed bytes.
pub struct Decompressor<'a> {
    stream: Box<dyn Read + 'a>,
    read: Rc<Cell<u64>>,
    written: u64,
    limit: Limit,
}

impl<'a> Decompressor<'a> {
    pub fn new(layer: impl Read + 'a, compression: Compression, limit: Limit) -> io::Result<Self> {
        let read = Rc::new(Cell::new(0));
        let counted = Counted { source: layer, read: read.clone() };
        let mut input = BufReader::with_capacity(INPUT, counted);
        let stream: Box<dyn Read + 'a> = match compression {
            Compression::None => Box::new(input),
            Compression::Detect => {
                let magic = peek(&mut input)?;
                if magic.starts_with(&[0x1f, 0x8b, 0x08]) {
                    Box::new(flate2::bufread::MultiGzDecoder::new(io::Cursor::new(magic).chain(input)))
                } else if is_zstd(&magic) {
                    let mut decoder =
                        zstd::stream::read::Decoder::with_buffer(io::Cursor::new(magic).chain(input))?;
                    decoder.window_log_max(ZSTD_WINDOW)?;
                    Box::new(decoder)
                } else {
                    Box::new(io::Cursor::new(magic).chain(input))
                }
            }
        };
        Ok(Self { stream, read, written: 0, limit })
    }
}

impl Read for Decompressor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.written += n as u64;
        if self.written > self.limit.free && self.written > self.read.get().saturating_mul(self.limit.ratio) {
            return Err(io::Error::other(Bomb(self.written, self.limit.ratio)));
        }
        Ok(n)
    }
}

/// A frame of zstd, or a skippable one before it.
fn is_zstd(magic: &[u8]) -> bool {
    magic == [0x28, 0xb5, 0x2f, 0xfd]
        || (magic.len() == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == [0x2a, 0x4d, 0x18])
}

/// The first four bytes, fewer where there are none.
fn peek(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut magic = Vec::with_capacity(4);
    input.take(4).read_to_end(&mut magic)?;
    Ok(magic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read(data: &[u8], compression: Compression, limit: Limit) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decompressor::new(data, compression, limit)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn compression_is_told_by_the_bytes() {
        let limit = Limit::default();
        let two_members = [gzip(b"hello "), gzip(b"world")].concat();
        assert_eq!(read(&two_members, Compression::Detect, limit).unwrap(), b"hello world");
        let frames =
            [zstd::encode_all(&b"hello "[..], 1).unwrap(), zstd::encode_all(&b"world"[..], 1).unwrap()]
                .concat();
        assert_eq!(read(&frames, Compression::Detect, limit).unwrap(), b"hello world");
        for plain in [&b""[..], b"ab", b"plain text"] {
            assert_eq!(read(plain, Compression::Detect, limit).unwrap(), plain);
            assert_eq!(read(plain, Compression::None, limit).unwrap(), plain);
        }
    }

    #[test]
    fn a_cut_off_stream_is_an_error() {
        let whole = gzip(&vec![7; 100_000]);
        assert!(read(&whole[..whole.len() - 5], Compression::Detect, Limit::default()).is_err());
        let whole = zstd::encode_all(&vec![7; 100_000][..], 1).unwrap();
        assert!(read(&whole[..whole.len() - 2], Compression::Detect, Limit::default()).is_err());
    }

    #[test]
    fn a_bomb_is_refused() {
        let limit = Limit { ratio: 100, free: 1 << 20 };
        let bomb = gzip(&vec![0; 8 << 20]);
        let error = read(&bomb, Compression::Detect, limit).unwrap_err();
        assert!(error.get_ref().unwrap().is::<Bomb>(), "{error}");
        assert_eq!(read(&bomb, Compression::Detect, Limit::default()).unwrap().len(), 8 << 20);
    }
}
