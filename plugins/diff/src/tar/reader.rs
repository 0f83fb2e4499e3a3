//! Reading an archive, member by member.

use std::io::BufRead;

use super::header::Header;
use super::pax::Pax;
use super::sparse::{self, skip};
use super::{BLOCK, Entry, Error, Kind, MAX_PATH, MAX_SPECIAL, Result, Time};

/// Reads members out of uncompressed bytes.
pub struct Reader<R> {
    source: R,
    /// Of the present member: data not yet read, and padding after it.
    left: u64,
    padding: u64,
}

impl<R: BufRead> Reader<R> {
    pub fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0 }
    }

    /// What is left behind the archive's end.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next member; what was left of the one before is read over.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut pax = None;
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.finish()?;
            let Some(block) = self.block()? else { return Ok(None) };
            let Some(header) = Header::parse(&block)? else { return self.end() };
            match header.type_flag() {
                b'x' => {
                    let data = self.special(header.size()?)?;
                    pax = Some(Pax::parse(&data)?);
                }
                b'g' => {
                    // Global headers are checked and otherwise of no effect, as elsewhere in the field.
                    let data = self.special(header.size()?)?;
                    Pax::parse(&data)?;
                }
                b'L' => long_name = Some(long(self.special(header.size()?)?)?),
                b'K' => long_link = Some(long(self.special(header.size()?)?)?),
                _ => return self.member(&header, pax.unwrap_or_default(), long_name, long_link).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: &Header<'_>,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let link = long_link.or(pax.link.take()).unwrap_or_else(|| header.link());
        let mut name = long_name.or(pax.path.take()).unwrap_or_else(|| header.name());
        let flag = header.type_flag();
        let kind = kind(flag, &name)?;
        let size = match pax.size {
            Some(size) => size,
            None => header.size()?,
        };
        // Whatever a header says: only files have data.
        self.left = if kind == Kind::File { size } else { 0 };
        self.padding = padding(self.left);
        let mut entry = Entry {
            kind,
            name: Vec::new(),
            link,
            size: self.left,
            mode: (header.mode()? & 0o7777) as u32,
            uid: id(pax.uid.map_or_else(|| header.uid(), Ok)?)?,
            gid: id(pax.gid.map_or_else(|| header.gid(), Ok)?)?,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?,
            atime: pax.atime.map_or_else(|| header.atime(), |time| Ok(Some(time)))?,
            device: (0, 0),
            xattrs: std::mem::take(&mut pax.xattrs),
            sparse: None,
        };
        if matches!(kind, Kind::Char | Kind::Block) {
            let number =
                |n: i64| u32::try_from(n).map_err(|_| Error::invalid("a device number out of range"));
            let (major, minor) = header.device()?;
            entry.device = (number(major)?, number(minor)?);
        }
        if kind == Kind::File {
            self.take_sparse(header, &pax, &mut entry, &mut name)?;
        }
        entry.name = checked(name)?;
        entry.link = checked(entry.link)?;
        Ok(entry)
    }

    fn take_sparse(
        &mut self,
        header: &Header<'_>,
        pax: &Pax,
        entry: &mut Entry,
        name: &mut Vec<u8>,
    ) -> Result<()> {
        let (extents, real_size) = if header.type_flag() == b'S' {
            let (table, more, real_size) = header.sparse()?;
            let next = || self.block()?.ok_or_else(|| Error::invalid("a sparse map is cut off"));
            (sparse::old_gnu(table, more, next)?, real_size)
        } else {
            let of = &pax.sparse;
            let extents = if of.is_version_1() {
                let (extents, used) = sparse::in_data(&mut self.source, self.left)?;
                self.left -= used;
                extents
            } else if let Some(extents) = of.extents()? {
                extents
            } else {
                return Ok(());
            };
            if let Some(real_name) = &of.name {
                name.clone_from(real_name);
            }
            (extents, of.real_size.unwrap_or(entry.size))
        };
        sparse::check(&extents, real_size, self.left)?;
        entry.size = real_size;
        entry.sparse = Some(extents);
        Ok(())
    }

    /// Some of the present member's data, at least one byte; `None` at its end.
    pub fn data(&mut self) -> Result<Option<&[u8]>> {
        if self.left == 0 {
            return Ok(None);
        }
        let buffer = self.source.fill_buf().map_err(Error::Read)?;
        if buffer.is_empty() {
            return Err(Error::invalid("the archive is cut off"));
        }
        let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        Ok(Some(&buffer[..step]))
    }

    /// Says how much of [`Reader::data`] was used.
    pub fn consume(&mut self, len: usize) {
        self.source.consume(len);
        self.left -= len as u64;
    }

    fn finish(&mut self) -> Result<()> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        skip(&mut self.source, rest)
    }

    /// A whole block; `None` where the archive ends without any.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let buffer = self.source.fill_buf().map_err(Error::Read)?;
            if buffer.is_empty() {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(Error::invalid("the archive ends in the middle of a block"));
            }
            let step = (BLOCK - filled).min(buffer.len());
            block[filled..filled + step].copy_from_slice(&buffer[..step]);
            self.source.consume(step);
            filled += step;
        }
        Ok(Some(block))
    }

    /// After one block of zeros: another one, or nothing.
    fn end(&mut self) -> Result<Option<Entry>> {
        match self.block()? {
            Some(block) if block.iter().any(|b| *b != 0) => {
                Err(Error::invalid("a header follows the end of the archive"))
            }
            _ => Ok(None),
        }
    }

    /// The data of an extended header or a long name.
    fn special(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_SPECIAL {
            return Err(Error::invalid(format!("an extended header of {size} bytes: at most {MAX_SPECIAL}")));
        }
        (self.left, self.padding) = (size, padding(size));
        let mut data = Vec::with_capacity(size as usize);
        while let Some(part) = self.data()? {
            data.extend_from_slice(part);
            let len = part.len();
            self.consume(len);
        }
        Ok(data)
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn kind(flag: u8, name: &[u8]) -> Result<Kind> {
    Ok(match flag {
        0 if name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(Error::invalid(format!("unhandled tar header type {other}"))),
    })
}

/// All ones means "leave it" to the kernel, so it is nobody's id.
fn id(number: i64) -> Result<u32> {
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| Error::invalid(format!("user or group id {number} is out of range")))
}

/// A GNU long name ends with zeros.
fn long(mut data: Vec<u8>) -> Result<Vec<u8>> {
    if let Some(end) = data.iter().position(|b| *b == 0) {
        data.truncate(end);
    }
    Ok(data)
}

fn checked(path: Vec<u8>) -> Result<Vec<u8>> {
    if path.len() > MAX_PATH {
        return Err(Error::invalid(format!("a path of {} bytes: at most {MAX_PATH}", path.len())));
    }
    if path.contains(&0) {
        return Err(Error::invalid("a path with a zero byte"));
    }
    Ok(path)
}

/// Old archives may hold times that no file system has: they become 1970, as elsewhere in the field.
pub fn bounded(time: Time) -> Time {
    /// The year 2262, where nanoseconds of 64 bits end.
    const LAST: i64 = i64::MAX / 1_000_000_000;
    if (0..LAST).contains(&time.seconds) { time } else { Time::default() }
}

#[cfg(test)]
mod tests {
    use super::super::Extent;
    use super::*;

    /// A member as it is, whatever is in it.
    fn raw(flag: u8, name: &str, size: usize, fields: &[(usize, &[u8])], data: &[u8]) -> Vec<u8> {
        let mut block = [0u8; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        for (at, bytes) in fields {
            block[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut member = [&block[..], data].concat();
        member.resize(member.len().next_multiple_of(BLOCK), 0);
        member
    }

    fn pax(records: &[(&str, &str)]) -> Vec<u8> {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let len = (rest + 1..).find(|len| *len == rest + len.to_string().len()).unwrap();
            data.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
        }
        raw(b'x', "pax", data.len(), &[], &data)
    }

    fn read(archive: &[u8]) -> Result<(Entry, Vec<u8>)> {
        let mut reader = Reader::new(archive);
        let entry = reader.next()?.expect("a member");
        let mut data = Vec::new();
        while let Some(part) = reader.data()? {
            data.extend_from_slice(part);
            let len = part.len();
            reader.consume(len);
        }
        assert!(reader.next()?.is_none());
        Ok((entry, data))
    }

    #[test]
    fn sparse_files_of_all_kinds_are_read() {
        let want = vec![Extent { offset: 10, len: 5 }, Extent { offset: 100, len: 3 }];
        let entries = b"00000000012\x0000000000005\x0000000000144\x0000000000003\0";
        let fields: [(usize, &[u8]); 3] = [(386, entries), (483, b"00000000310\0"), (257, b"ustar  \0")];
        let old = raw(b'S', "file", 8, &fields, b"helloyou");
        let v01 =
            [("GNU.sparse.numblocks", "2"), ("GNU.sparse.map", "10,5,100,3"), ("GNU.sparse.size", "200")];
        let v00 = [
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.size", "200"),
            ("GNU.sparse.offset", "10"),
            ("GNU.sparse.numbytes", "5"),
            ("GNU.sparse.offset", "100"),
            ("GNU.sparse.numbytes", "3"),
        ];
        let v1 = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "file"),
            ("GNU.sparse.realsize", "200"),
        ];
        let mut with_map = b"2\n10\n5\n100\n3\n".to_vec();
        with_map.resize(BLOCK, 0);
        with_map.extend_from_slice(b"helloyou");
        for archive in [
            old,
            [pax(&v01), raw(b'0', "file", 8, &[], b"helloyou")].concat(),
            [pax(&v00), raw(b'0', "file", 8, &[], b"helloyou")].concat(),
            [pax(&v1), raw(b'0', "GNUSparseFile/file", with_map.len(), &[], &with_map)].concat(),
        ] {
            let (entry, data) = read(&archive).unwrap();
            assert_eq!((entry.name.as_slice(), entry.size), (&b"file"[..], 200));
            assert_eq!(entry.sparse.as_ref(), Some(&want));
            assert_eq!(data, b"helloyou");
        }
        let lies = [pax(&v01), raw(b'0', "file", 9, &[], b"helloyou!")].concat();
        assert!(read(&lies).is_err());
    }

    #[test]
    fn long_names_of_gnu_are_read() {
        let name = "long/".repeat(50);
        let archive = [
            raw(b'L', "././@LongLink", name.len() + 1, &[], format!("{name}\0").as_bytes()),
            raw(b'K', "././@LongLink", name.len() + 1, &[], format!("{name}\0").as_bytes()),
            raw(b'2', "short", 0, &[], b""),
        ]
        .concat();
        let (entry, _) = read(&archive).unwrap();
        assert_eq!((entry.name.as_slice(), entry.link.as_slice()), (name.as_bytes(), name.as_bytes()));
    }

    #[test]
    fn sizes_say_the_same_to_everybody() {
        // PAX has the last word on a file's size, and what has no data has none whatever its header says.
        let archive = [pax(&[("size", "3")]), raw(b'0', "f", 700, &[], b"abc")].concat();
        assert_eq!(read(&archive).unwrap().1, b"abc");
        for flag in [b'1', b'2', b'3', b'5', b'6'] {
            let archive = raw(flag, "f", 700, &[], b"");
            assert!(read(&archive).unwrap().1.is_empty());
        }
        for (what, archive) in [
            ("an endless header", raw(b'x', "pax", 2 << 20, &[], b"")),
            ("an unknown kind", raw(b'Z', "f", 0, &[], b"")),
            ("an id of all ones", [pax(&[("uid", "4294967295")]), raw(b'0', "f", 0, &[], b"")].concat()),
            ("a name with a zero", [pax(&[("path", "a\0b")]), raw(b'0', "f", 0, &[], b"")].concat()),
            ("a header after the end", [vec![0; BLOCK], raw(b'0', "f", 0, &[], b"")].concat()),
        ] {
            let mut reader = Reader::new(&archive[..]);
            assert!(reader.next().is_err(), "{what}");
        }
    }

    #[test]
    fn a_global_header_changes_nothing() {
        let mut global = pax(&[("path", "elsewhere")]);
        global[156] = b'g';
        global[148..156].fill(b' ');
        let sum: u32 = global[..BLOCK].iter().map(|b| u32::from(*b)).sum();
        global[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let archive = [global, raw(b'0', "f", 0, &[], b"")].concat();
        assert_eq!(read(&archive).unwrap().0.name, b"f");
    }
}
