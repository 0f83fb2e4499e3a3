//! Archives read as a stream: regular files and directories with their names and sizes, whoever wrote them. Archives are
//! hostile: anything else in one, and what two readers could take for different things, is an error.
//!
//! Nothing is written here, and names are not judged: see the caller's table of names.

use std::io::{self, Read};

use super::{BLOCK, Kind};

/// Largest extended header, in bytes.
const MAX_EXTENDED: u64 = 64 << 10;
/// Most members of an archive.
const MAX_MEMBERS: usize = 1 << 16;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the archive")]
    Read(#[source] io::Error),
    #[error("it is no tar, or a damaged one: {0}")]
    Malformed(&'static str),
    #[error("member {name:?} {why}")]
    Member { name: String, why: &'static str },
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Read(source) => Self::io(message, source),
            _ => Self::invalid(message),
        }
    }
}

/// A member: what comes before its data.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    /// As it stands in the archive.
    pub name: String,
    pub kind: Kind,
    /// Bytes of data, which [`Reader::data`] gives.
    pub size: u64,
}

/// What an extended header says of the member behind it.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    size: Option<u64>,
}

/// An archive that is being read.
pub struct Reader<R> {
    from: R,
    /// Of the present member: data that is not read yet, and what fills its last block.
    left: u64,
    fill: u64,
    members: usize,
}

// === impl Reader ===

impl<R: Read> Reader<R> {
    pub fn new(from: R) -> Self {
        Self { from, left: 0, fill: 0, members: 0 }
    }

    /// The next member; what is left of the one before is passed over. `None` at the end mark.
    pub fn next(&mut self) -> Result<Option<Member>, Error> {
        let mut extended = Extended::default();
        loop {
            self.pass_over()?;
            let block = self.block()?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            check_sum(&block)?;
            self.members += 1;
            if self.members > MAX_MEMBERS {
                return Err(Error::Malformed("it has too many members"));
            }
            let size = number(&block[124..136]).ok_or(Error::Malformed("a size is no number"))?;
            match block[156] {
                b'x' => extended = self.extended(size)?,
                b'g' => self.global(size)?,
                _ => return self.member(&block, size, extended).map(Some),
            }
        }
    }

    /// Data of the present member.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    fn member(&mut self, block: &[u8; BLOCK], size: u64, extended: Extended) -> Result<Member, Error> {
        let name = match extended.name {
            Some(name) => name,
            None => name(block)?,
        };
        let refuse = |why| Err(Error::Member { name: name.clone(), why });
        let kind = match block[156] {
            b'0' | 0 if name.ends_with('/') => Kind::Directory,
            b'0' | 0 => Kind::File,
            b'5' => Kind::Directory,
            b'1' | b'2' => return refuse("is a link, and only files and directories may be in it"),
            b'3' | b'4' | b'6' => {
                return refuse("is a device or fifo, and only files and directories may be in it");
            }
            _ => return refuse("is of a kind that is not known"),
        };
        let size = extended.size.unwrap_or(size);
        if kind == Kind::Directory && size != 0 {
            return refuse("is a directory with data");
        }
        self.begin(size)?;
        Ok(Member { name, kind, size })
    }

    fn begin(&mut self, size: u64) -> Result<(), Error> {
        if size > i64::MAX as u64 {
            return Err(Error::Malformed("a size is too large"));
        }
        (self.left, self.fill) = (size, size.next_multiple_of(BLOCK as u64) - size);
        Ok(())
    }

    fn extended(&mut self, size: u64) -> Result<Extended, Error> {
        let mut extended = Extended::default();
        for (key, value) in records(&self.whole(size)?)? {
            match key {
                "path" => extended.name = Some(value.to_owned()),
                "size" => {
                    let size = value.parse().map_err(|_| Error::Malformed("a size is no number"))?;
                    extended.size = Some(size);
                }
                _ if key.starts_with("GNU.sparse") => {
                    return Err(Error::Malformed("it has sparse files, which are not read here"));
                }
                _ => {}
            }
        }
        Ok(extended)
    }

    /// What is said of all members must not change what they are.
    fn global(&mut self, size: u64) -> Result<(), Error> {
        let data = self.whole(size)?;
        if records(&data)?.iter().any(|(key, _)| matches!(*key, "path" | "size" | "linkpath")) {
            return Err(Error::Malformed("a global header names files"));
        }
        Ok(())
    }

    fn whole(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > MAX_EXTENDED {
            return Err(Error::Malformed("an extended header is too large"));
        }
        self.begin(size)?;
        let mut data = Vec::new();
        self.data().read_to_end(&mut data).map_err(Error::Read)?;
        Ok(data)
    }

    fn pass_over(&mut self) -> Result<(), Error> {
        let rest = self.left + self.fill;
        let passed = io::copy(&mut (&mut self.from).take(rest), &mut io::sink()).map_err(Error::Read)?;
        if passed < rest {
            return Err(Error::Malformed("it ends early"));
        }
        (self.left, self.fill) = (0, 0);
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK], Error> {
        let mut block = [0; BLOCK];
        self.from.read_exact(&mut block).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Malformed("it ends early"),
            _ => Error::Read(error),
        })?;
        Ok(block)
    }
}

/// The data of one member.
pub struct Data<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.0.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.0.from.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends early"));
        }
        self.0.left -= read as u64;
        Ok(read)
    }
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), Error> {
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
    // The field itself counts as spaces.
    match number(&block[148..156]) {
        Some(told) if told == sum - own + 8 * u64::from(b' ') => Ok(()),
        _ => Err(Error::Malformed("a check sum is wrong")),
    }
}

/// Octal digits, or GNU's form of larger numbers.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = (u64::from(field[0] & 0x7f), &field[1..]);
        return rest.iter().try_fold(first, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(text, 8).ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn name(block: &[u8; BLOCK]) -> Result<String, Error> {
    let text = |field: &[u8]| {
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end])
            .map(str::to_owned)
            .map_err(|_| Error::Malformed("a name is not UTF-8"))
    };
    let name = text(&block[..100])?;
    // GNU's older form has other things where the prefix would be.
    let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500])? } else { String::new() };
    Ok(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

/// The records of an extended header: `LENGTH KEY=VALUE\n`, where the length counts all of it.
fn records(data: &[u8]) -> Result<Vec<(&str, &str)>, Error> {
    let mut found = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let (record, after) = record(rest).ok_or(Error::Malformed("an extended header cannot be read"))?;
        found.extend(record);
        rest = after;
    }
    Ok(found)
}

/// The first record, and what is behind it. Values that are not text are passed over: no name is among them.
#[expect(clippy::type_complexity, reason = "one caller")]
fn record(data: &[u8]) -> Option<(Option<(&str, &str)>, &[u8])> {
    let space = data.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let key = std::str::from_utf8(&record[..equals]).ok()?;
    let value = match std::str::from_utf8(&record[equals + 1..]) {
        Ok(value) => Some((key, value)),
        Err(_) if matches!(key, "path" | "size") => return None,
        Err(_) => None,
    };
    Some((value, &data[length..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::header;
    use super::*;

    fn archive(members: &[(&str, u8, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, flag, data) in members {
            let mut block = header(name, data.len() as u64, Kind::File, 0o600);
            block[156] = *flag;
            seal(&mut block);
            bytes.extend_from_slice(&block);
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    fn seal(block: &mut [u8; BLOCK]) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, Error> {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        while let Some(member) = reader.next()? {
            let mut data = Vec::new();
            reader.data().read_to_end(&mut data).map_err(Error::Read)?;
            all.push((member, data));
        }
        Ok(all)
    }

    fn refused(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_here_is_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/b"), "x".repeat(513)).unwrap();
        let mut bytes = Vec::new();
        super::super::directory(&mut bytes, dir.path()).unwrap();
        let all = read(&bytes).unwrap();
        let names: Vec<_> = all.iter().map(|(m, d)| (m.name.as_str(), m.kind, d.len())).collect();
        assert_eq!(names, [("sub/", Kind::Directory, 0), ("sub/b", Kind::File, 513)]);
    }

    #[test]
    fn what_other_programs_write_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let long = "n".repeat(120);
        std::fs::write(dir.path().join(&long), "x").unwrap();
        for format in ["pax", "ustar", "gnu"] {
            let name = if format == "pax" { long.as_str() } else { "short" };
            std::fs::write(dir.path().join(name), "data").unwrap();
            let args = ["-c", "-C", dir.path().to_str().unwrap(), "--format", format, name];
            let output = std::process::Command::new("tar").args(args).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let all = read(&output.stdout).unwrap();
            assert_eq!(all[0].0, Member { name: name.to_owned(), kind: Kind::File, size: 4 }, "{format}");
            assert_eq!(all[0].1, b"data");
        }
    }

    #[test]
    fn a_member_that_nobody_reads_is_passed_over() {
        let bytes = archive(&[("a", b'0', &[1; 700]), ("b", b'0', b"2")]);
        let mut reader = Reader::new(&bytes[..]);
        reader.next().unwrap();
        reader.data().read_exact(&mut [0; 600]).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().name, "b");
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn links_devices_and_the_unknown_are_refused() {
        for (flag, word) in [
            (b'1', "is a link"),
            (b'2', "is a link"),
            (b'3', "device"),
            (b'4', "device"),
            (b'6', "fifo"),
            (b'L', "not known"),
            (b'S', "not known"),
        ] {
            let said = refused(&archive(&[("name", flag, b"")]));
            assert!(said.contains("\"name\"") && said.contains(word), "{said}");
        }
    }

    #[test]
    fn tricks_with_extended_headers_are_refused() {
        let one = |text: &str| archive(&[("x", b'x', text.as_bytes()), ("a", b'0', b"12345")]);
        assert_eq!(read(&one("13 path=name\n")).unwrap()[0].0.name, "name");
        assert_eq!(read(&one("10 size=5\n")).unwrap()[0].1, b"12345");
        for (text, word) in [
            ("22 GNU.sparse.major=1\n", "sparse"),
            ("11 size=5x\n", "no number"),
            ("99 path=a\n", "cannot be read"),
            ("path=a\n", "cannot be read"),
            ("0 path=a\n", "cannot be read"),
            ("9 path=a", "cannot be read"),
        ] {
            let said = refused(&one(text));
            assert!(said.contains(word), "{text}: {said}");
        }
        let global = archive(&[("g", b'g', b"12 path=abc\n"), ("a", b'0', b"")]);
        assert!(refused(&global).contains("global"), "{}", refused(&global));
        let large = archive(&[("x", b'x', &vec![b' '; MAX_EXTENDED as usize + 1])]);
        assert!(refused(&large).contains("too large"));
    }

    #[test]
    fn damage_is_seen() {
        let good = archive(&[("a", b'0', &[7; 600])]);
        for (bytes, word) in [
            (&good[..300], "ends early"),
            (&good[..700], "read the archive"),
            (&good[..3 * BLOCK], "ends early"),
            (&b"plain text, and long enough to be a block".repeat(20)[..], "check sum"),
        ] {
            let said = refused(bytes);
            assert!(said.contains(word), "{said}");
        }
        let mut huge = header("a", 0, Kind::File, 0o600);
        huge[124..136].copy_from_slice(&[0xff; 12]);
        seal(&mut huge);
        assert!(refused(&huge).contains("no number"));
        let mut directory = header("d/", 9, Kind::Directory, 0o600);
        seal(&mut directory);
        assert!(refused(&directory).contains("directory with data"));
    }
}
