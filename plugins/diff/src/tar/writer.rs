//! Writing an archive: ustar headers, PAX records for what they cannot hold.

use std::io::{self, Write};

use super::{BLOCK, Entry, Kind, Time};

/// Writes members to `out`.
pub struct Writer<W> {
    out: W,
    /// Of the present member's data.
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self { out, left: 0, padding: 0 }
    }

    /// Begins a member. Its data, `entry.size` bytes where it is a file, must be written before the next one.
    pub fn header(&mut self, entry: &Entry) -> io::Result<()> {
        if self.left != 0 {
            return Err(io::Error::other("a file became shorter while it was read"));
        }
        self.pad()?;
        let mut records = Vec::new();
        for (name, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        let main = block(entry, &mut records);
        if !records.is_empty() {
            let header = Entry {
                kind: Kind::File,
                name: b"PaxHeaders/entry".to_vec(),
                size: records.len() as u64,
                ..Entry::empty()
            };
            let mut header = block(&header, &mut Vec::new());
            header[156] = b'x';
            checksum(&mut header);
            self.out.write_all(&header)?;
            self.out.write_all(&records)?;
            self.out.write_all(&[0; BLOCK][..padding(records.len() as u64)])?;
        }
        self.out.write_all(&main)?;
        self.left = if entry.kind == Kind::File { entry.size } else { 0 };
        self.padding = padding(self.left);
        Ok(())
    }

    /// More than the member's size is an error.
    pub fn data(&mut self, data: &[u8]) -> io::Result<()> {
        let left = self.left.checked_sub(data.len() as u64);
        self.left = left.ok_or_else(|| io::Error::other("a file became longer while it was read"))?;
        self.out.write_all(data)
    }

    fn pad(&mut self) -> io::Result<()> {
        let padding = std::mem::take(&mut self.padding);
        self.out.write_all(&[0; BLOCK][..padding])
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        if self.left != 0 {
            return Err(io::Error::other("a file became shorter while it was read"));
        }
        self.pad()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

impl Entry {
    /// A file of nothing and nobody.
    pub fn empty() -> Self {
        Self {
            kind: Kind::File,
            name: Vec::new(),
            link: Vec::new(),
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            atime: None,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// `length key=value\n`, the length counting itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn block(entry: &Entry, records: &mut Vec<u8>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    name(&mut block, &entry.name, records);
    if entry.link.len() <= 100 && entry.link.is_ascii() {
        block[157..157 + entry.link.len()].copy_from_slice(&entry.link);
    } else {
        record(records, b"linkpath", &entry.link);
    }
    octal(&mut block[100..108], u64::from(entry.mode));
    for (place, key, id) in [(108..116, b"uid", entry.uid), (116..124, b"gid", entry.gid)] {
        if !octal(&mut block[place], u64::from(id)) {
            record(records, key, id.to_string().as_bytes());
        }
    }
    if !octal(&mut block[124..136], entry.size) {
        record(records, b"size", entry.size.to_string().as_bytes());
    }
    let seconds = entry.mtime.seconds;
    let plain = u64::try_from(seconds).is_ok_and(|s| octal(&mut block[136..148], s));
    if !plain || entry.mtime.nanos != 0 {
        record(records, b"mtime", time(entry.mtime).as_bytes());
    }
    block[156] = match entry.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Char => b'3',
        Kind::Block => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    };
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], u64::from(entry.device.0));
    octal(&mut block[337..345], u64::from(entry.device.1));
    checksum(&mut block);
    block
}

/// Into the name field, into name and prefix, or into a record.
fn name(block: &mut [u8; BLOCK], name: &[u8], records: &mut Vec<u8>) {
    if name.is_ascii() && name.len() <= 100 {
        block[..name.len()].copy_from_slice(name);
        return;
    }
    if name.is_ascii() && name.len() <= 256 {
        // A slash at the end stays with the last part.
        let body = name.strip_suffix(b"/").unwrap_or(name);
        let split = body.iter().rposition(|b| *b == b'/').and_then(|last| {
            let first = name.len().saturating_sub(101);
            (first..=last.min(155)).find(|at| body[*at] == b'/' && *at > 0)
        });
        if let Some(at) = split {
            let (prefix, rest) = (&name[..at], &name[at + 1..]);
            block[..rest.len()].copy_from_slice(rest);
            block[345..345 + prefix.len()].copy_from_slice(prefix);
            return;
        }
    }
    record(records, b"path", name);
    let shown = name.len().min(100);
    block[..shown].copy_from_slice(&name[..shown]);
}

/// Digits and a zero byte; whether they fit.
fn octal(field: &mut [u8], value: u64) -> bool {
    let width = field.len() - 1;
    let digits = format!("{value:0width$o}");
    let fits = digits.len() == width;
    if fits {
        field[..width].copy_from_slice(digits.as_bytes());
    } else {
        field[..width].fill(b'0');
    }
    fits
}

fn time(time: Time) -> String {
    let (mut seconds, mut nanos) = (time.seconds, time.nanos);
    let mut sign = "";
    if seconds < 0 {
        sign = "-";
        seconds = seconds.saturating_neg();
        if nanos > 0 {
            seconds -= 1;
            nanos = 1_000_000_000 - nanos;
        }
    }
    let text = format!("{sign}{seconds}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;

    fn there_and_back(entry: &Entry, data: &[u8]) {
        let mut writer = Writer::new(Vec::new());
        writer.header(entry).unwrap();
        writer.data(data).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut reader = Reader::new(&bytes[..]);
        assert_eq!(reader.next().unwrap().as_ref(), Some(entry));
        let mut read = Vec::new();
        while let Some(part) = reader.data().unwrap() {
            read.extend_from_slice(part);
            let len = part.len();
            reader.consume(len);
        }
        assert_eq!(read, data);
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let plain = Entry { name: b"a/b".to_vec(), size: 5, mode: 0o4755, uid: 1, gid: 2, ..Entry::empty() };
        there_and_back(&plain, b"hello");
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(90));
        there_and_back(&Entry { name: long.into_bytes(), ..plain.clone() }, b"hello");
        let longer = "very-long-name/".repeat(200);
        let directory = Entry { kind: Kind::Directory, name: longer.into_bytes(), size: 0, ..plain.clone() };
        there_and_back(&directory, b"");
        let odd = Entry {
            uid: 3_000_000_000,
            gid: 2_097_152,
            mtime: Time { seconds: -5, nanos: 250_000_000 },
            name: "ünï".into(),
            xattrs: vec![(b"user.x".to_vec(), vec![0, 255, b'\n']), (b"user.empty".to_vec(), Vec::new())],
            ..plain.clone()
        };
        there_and_back(&odd, b"hello");
        let link = Entry { kind: Kind::Symlink, link: vec![b'x'; 300], size: 0, ..plain.clone() };
        there_and_back(&link, b"");
        there_and_back(&Entry { kind: Kind::Char, device: (5, 1), size: 0, ..plain }, b"");
    }

    #[test]
    fn names_are_split_where_they_may() {
        for (head, tail) in [(1, 99), (1, 100), (50, 100), (155, 100), (156, 100), (200, 20), (20, 101)] {
            for end in ["", "/"] {
                let name = format!("{}/{}{end}", "d".repeat(head), "f".repeat(tail));
                let kind = if end.is_empty() { Kind::File } else { Kind::Directory };
                there_and_back(&Entry { kind, name: name.into_bytes(), ..Entry::empty() }, b"");
            }
        }
    }

    #[test]
    fn a_file_that_changes_its_size_is_an_error() {
        let mut writer = Writer::new(Vec::new());
        writer.header(&Entry { name: b"f".to_vec(), size: 3, ..Entry::empty() }).unwrap();
        assert!(writer.data(b"four").is_err());
        writer.data(b"tw").unwrap();
        assert!(writer.finish().is_err());
    }
}
