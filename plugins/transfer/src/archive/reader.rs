//! A tar reader that is bounded: POSIX and GNU headers, long names and sizes from extensions of limited length.
//!
//! What it does not understand for sure (sparse files, bad checksums, a name given twice by extensions) is an error, so
//! that no other reader sees another archive.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// Longest extension (long name, PAX records), in bytes.
const MAX_EXTENSION: u64 = 64 << 10;
/// Largest entry, in bytes.
const MAX_SIZE: u64 = 1 << 50;
/// Extensions before one entry.
const MAX_EXTENSIONS: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// With its target.
    Symlink(String),
    Other,
}

/// An entry's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As in the archive, not cleaned.
    pub name: String,
    pub kind: Kind,
    /// Bytes of data that follow.
    pub size: u64,
}

/// Reads an archive entry by entry; between two calls of [`Reader::entry`] it yields the present entry's data.
pub struct Reader<R> {
    inner: R,
    left: u64,
    padding: u64,
}

#[derive(Default)]
struct Extensions {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tar: {}", why.into()))
}

impl<R: Read> Reader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// What stands behind the last entry that was read.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; `None` at the archive's end. Data that was not read is skipped.
    pub fn entry(&mut self) -> io::Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        for _ in 0..=MAX_EXTENSIONS {
            self.skip()?;
            let Some(block) = self.block()? else { return Ok(None) };
            let size = number(&block[124..136])?;
            if size > MAX_SIZE {
                return Err(bad("size out of range"));
            }
            let typeflag = block[156];
            let with_data = !matches!(typeflag, b'1'..=b'6');
            self.left = if with_data { size } else { 0 };
            self.padding = self.left.next_multiple_of(BLOCK as u64) - self.left;
            match typeflag {
                b'L' => extensions.path = once(extensions.path.take(), cut(&self.extension()?)?)?,
                b'K' => extensions.link = once(extensions.link.take(), cut(&self.extension()?)?)?,
                b'x' => {
                    let records = self.extension()?;
                    extensions.pax(&records)?;
                }
                b'g' => drop(self.extension()?),
                b'S' => return Err(bad("sparse files are not supported")),
                _ => return self.described(&block, typeflag, size, extensions).map(Some),
            }
        }
        Err(bad("too many extensions before one entry"))
    }

    fn described(
        &mut self,
        block: &[u8; BLOCK],
        typeflag: u8,
        size: u64,
        found: Extensions,
    ) -> io::Result<Entry> {
        let name = match found.path {
            Some(name) => name,
            None => {
                let name = cut(&block[..100])?;
                let prefix = if &block[257..262] == b"ustar" && block[262] == 0 {
                    cut(&block[345..500])?
                } else {
                    String::new()
                };
                if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
            }
        };
        let kind = match typeflag {
            0 | b'0' | b'7' if name.ends_with('/') => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'5' => Kind::Directory,
            b'2' => Kind::Symlink(found.link.map_or_else(|| cut(&block[157..257]), Ok)?),
            _ => Kind::Other,
        };
        let size = if typeflag == b'0' || typeflag == 0 || typeflag == b'7' {
            found.size.unwrap_or(size)
        } else {
            self.left
        };
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(Entry { name, kind, size })
    }

    /// The next header; `None` at the end: two empty blocks, or nothing more.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        for _ in 0..2 {
            let mut got = 0;
            while got < BLOCK {
                match self.inner.read(&mut block[got..]) {
                    Ok(0) if got == 0 => return Ok(None),
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => got += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if block.iter().any(|b| *b != 0) {
                verify(&block)?;
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MAX_EXTENSION {
            return Err(bad(format!("an extension of {} bytes, at most {MAX_EXTENSION}", self.left)));
        }
        let mut data = vec![0; self.left as usize];
        self.read_exact(&mut data)?;
        Ok(data)
    }

    fn skip(&mut self) -> io::Result<()> {
        let left = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(left), &mut io::sink())?;
        (self.left, self.padding) = (0, 0);
        if skipped == left { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut out[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

impl Extensions {
    /// `length key=value\n` records.
    fn pax(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let space = data.iter().position(|b| *b == b' ').ok_or_else(|| bad("malformed PAX record"))?;
            let length: usize = std::str::from_utf8(&data[..space])
                .ok()
                .and_then(|n| n.parse().ok())
                .filter(|n| *n > space + 1 && *n <= data.len() && data[*n - 1] == b'\n')
                .ok_or_else(|| bad("malformed PAX record"))?;
            let record = &data[space + 1..length - 1];
            data = &data[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(|| bad("malformed PAX record"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let text = || String::from_utf8(value.to_vec()).map_err(|_| bad("a PAX value that is not UTF-8"));
            match key {
                b"path" => self.path = once(self.path.take(), text()?)?,
                b"linkpath" => self.link = once(self.link.take(), text()?)?,
                b"size" => {
                    let size = text()?.parse().ok().filter(|s| *s <= MAX_SIZE);
                    let size = size.ok_or_else(|| bad("a PAX size that is out of range"))?;
                    self.size = once(self.size.take(), size)?;
                }
                key if key.starts_with(b"GNU.sparse") => return Err(bad("sparse files are not supported")),
                _ => {}
            }
        }
        Ok(())
    }
}

fn once<T>(present: Option<T>, new: T) -> io::Result<Option<T>> {
    if present.is_some() { Err(bad("a value given twice by extensions")) } else { Ok(Some(new)) }
}

/// Text up to the first zero.
fn cut(bytes: &[u8]) -> io::Result<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).map_err(|_| bad("a name that is not UTF-8"))
}

/// Octal, or GNU's base 256.
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        if field[0] != 0x80 {
            return Err(bad("number out of range"));
        }
        return field[1..]
            .iter()
            .try_fold(0u64, |n, b| n.checked_mul(256).map(|n| n | u64::from(*b)))
            .ok_or_else(|| bad("number out of range"));
    }
    let text = std::str::from_utf8(field).map_err(|_| bad("malformed number"))?;
    let text = text.trim_matches(|c| c == ' ' || c == '\0');
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(text, 8).map_err(|_| bad("malformed number"))
}

fn verify(block: &[u8; BLOCK]) -> io::Result<()> {
    let said = number(&block[148..156])?;
    let at = |(n, b): (usize, &u8)| if (148..156).contains(&n) { 32 } else { u64::from(*b) };
    let sum: u64 = block.iter().enumerate().map(at).sum();
    let signed: i64 = block
        .iter()
        .enumerate()
        .map(|(n, b)| if (148..156).contains(&n) { 32 } else { i64::from(*b as i8) })
        .sum();
    if said == sum || i64::try_from(said) == Ok(signed) {
        Ok(())
    } else {
        Err(bad("header checksum is wrong: not a tar archive"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::header;
    use super::*;

    fn file(name: &str, data: &[u8]) -> Vec<u8> {
        let mut out = header(name, 0o644, data.len() as u64, b'0');
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        let mut tar = header("blobs/", 0o755, 0, b'5');
        tar.extend(file("a", b"hello"));
        tar.extend(file(&long, &vec![7; 1000]));
        tar.extend([0; 2 * BLOCK]);
        let mut reader = Reader::new(&tar[..]);
        assert_eq!(reader.entry().unwrap().unwrap().kind, Kind::Directory);
        assert_eq!(reader.entry().unwrap().unwrap().size, 5);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(reader.entry().unwrap().unwrap().name, long);
        assert_eq!(reader.entry().unwrap(), None);
    }

    #[test]
    fn hostile_archives_are_refused() {
        let good = file("a", b"x");
        let mut flipped = good.clone();
        flipped[0] ^= 1;
        let huge = header("x", 0, u64::MAX, b'0');
        let long_name = header("x", 0, 1 << 40, b'L');
        let mut sparse = header("x", 0, 0, b'S');
        sparse.extend([0; BLOCK]);
        let mut pax = header("x", 0, 28, b'x');
        pax.extend(b"28 size=18446744073709551615\n");
        pax.resize(2 * BLOCK, 0);
        for tar in [flipped, huge, long_name, sparse, pax, good[..100].to_vec()] {
            let mut reader = Reader::new(&tar[..]);
            assert!(reader.entry().and_then(|_| reader.entry()).is_err());
        }
        let mut many = Vec::new();
        for _ in 0..10 {
            let mut x = header("x", 0, 2, b'g');
            x.extend([b' '; BLOCK]);
            many.extend(x);
        }
        assert!(Reader::new(&many[..]).entry().is_err());
        assert!(Reader::new(&good[..BLOCK]).entry().unwrap().is_some());
    }
}
