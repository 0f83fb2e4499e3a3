//! Header blocks of SPDY: one zlib stream per direction over the whole connection, names and values in it by length.
//! A block is bounded before it is inflated, while it is inflated and in the number of its headers.

use flate2::{Decompress, FlushDecompress, Status};

use super::Headers;
use super::dictionary::{ADLER, dictionary};
use crate::error::Broken;

/// Longest block after inflation.
const MAX_BLOCK: usize = 8 << 10;
/// Most headers in a block.
const MAX_HEADERS: u32 = 128;

/// Reads the client's blocks.
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the next block.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, Broken> {
        let bytes = self.inflate(block)?;
        parse(&bytes).ok_or(Broken::Protocol("a malformed header block"))
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let (taken, made) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(block, &mut piece, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - taken).unwrap_or(usize::MAX);
            let made = usize::try_from(self.0.total_out() - made).unwrap_or(usize::MAX);
            block = block.get(taken..).unwrap_or_default();
            bytes.extend_from_slice(piece.get(..made).unwrap_or_default());
            if bytes.len() > MAX_BLOCK {
                return Err(Broken::Protocol("a header block that inflates beyond its bound"));
            }
            match result {
                Err(error) if error.needs_dictionary() == Some(ADLER) => {
                    self.0
                        .set_dictionary(dictionary())
                        .map_err(|_| Broken::Protocol("a header block with an unknown dictionary"))?;
                }
                Err(_) => return Err(Broken::Protocol("a header block that does not inflate")),
                Ok(Status::StreamEnd) => return Err(Broken::Protocol("the end of the header stream")),
                Ok(_) if block.is_empty() && made < piece.len() => return Ok(bytes),
                Ok(_) if taken == 0 && made == 0 => {
                    return Err(Broken::Protocol("a header block that does not inflate"));
                }
                Ok(_) => {}
            }
        }
    }
}

/// Headers of a block. Several values of one name stay joined by their zero bytes.
fn parse(mut bytes: &[u8]) -> Option<Headers> {
    let count = number(&mut bytes)?;
    if count > MAX_HEADERS {
        return None;
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut bytes)?.to_ascii_lowercase();
        let value = text(&mut bytes)?;
        if name.is_empty() || headers.insert(name, value).is_some() {
            return None;
        }
    }
    bytes.is_empty().then_some(headers)
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*number))
}

fn text(bytes: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Writes our blocks. The only one we send is empty, so it goes into stored blocks: a deflater would cost some 260 KiB
/// per connection to save nothing.
#[derive(Default)]
pub(crate) struct Plain {
    begun: bool,
}

impl Plain {
    /// A block without headers.
    pub fn empty(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20);
        if !self.begun {
            self.begun = true;
            // Deflate with a 32 KiB window, a dictionary, and the check bits of RFC 1950; then the dictionary's name.
            out.extend_from_slice(&[0x78, 0x20]);
            out.extend_from_slice(&ADLER.to_be_bytes());
        }
        // RFC 1951, 3.2.4: not the last block, stored, its length and the complement, the count of no headers.
        out.extend_from_slice(&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        // The empty block by which a reader knows that it has everything.
        out.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        out
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    /// A client's compressor.
    pub struct Deflater(Compress);

    impl Deflater {
        pub fn new() -> Self {
            let mut compress = Compress::new(Compression::default(), true);
            compress.set_dictionary(dictionary()).unwrap();
            Self(compress)
        }

        pub fn raw(&mut self, bytes: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(bytes.len() + 1024);
            self.0.compress_vec(bytes, &mut out, FlushCompress::Sync).unwrap();
            assert!(out.len() < out.capacity(), "all of it is flushed");
            out
        }

        pub fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut bytes = (headers.len() as u32).to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
            self.raw(&bytes)
        }
    }

    #[test]
    fn blocks_of_one_stream_are_read_one_after_another() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        for value in ["error", "stdin", "stdout"] {
            let block = deflater.block(&[("Streamtype", value), ("port", "80")]);
            let headers = inflater.read(&block).unwrap();
            assert_eq!(headers["streamtype"], value);
            assert_eq!(headers["port"], "80");
        }
        let long = "x".repeat(8_000);
        assert_eq!(inflater.read(&deflater.block(&[("a", &long)])).unwrap()["a"], long);
    }

    #[test]
    fn bombs_and_lies_are_refused() {
        let broken =
            |bytes: &[u8]| Inflater::new().read(&Deflater::new().raw(bytes)).unwrap_err().to_string();
        assert!(broken(&vec![0; 8 << 20]).contains("beyond its bound"));
        assert!(broken(&u32::MAX.to_be_bytes()).contains("malformed"));
        assert!(broken(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]).contains("malformed"));
        assert!(broken(&[0, 0, 0, 0, 7]).contains("malformed"), "bytes after the headers");
        assert!(broken(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).contains("malformed"), "a name of nothing");
        let twice = [0, 0, 0, 2, 0, 0, 0, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 1, b'A', 0, 0, 0, 0];
        assert!(broken(&twice).contains("malformed"), "a name twice");
        assert!(Inflater::new().read(b"\x78\x9c\xff\xff\xff").is_err());
        assert!(Inflater::new().read(b"no zlib").is_err());
        assert!(Inflater::new().read(b"").is_err());
    }

    #[test]
    fn another_dictionary_and_an_ended_stream_are_refused() {
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(b"something else").unwrap();
        let mut out = Vec::with_capacity(1024);
        compress.compress_vec(&[0; 4], &mut out, FlushCompress::Sync).unwrap();
        assert!(Inflater::new().read(&out).is_err());

        let mut deflater = Deflater::new();
        let mut out = Vec::with_capacity(1024);
        deflater.0.compress_vec(&[0; 4], &mut out, FlushCompress::Finish).unwrap();
        assert!(Inflater::new().read(&out).is_err());
    }
}
