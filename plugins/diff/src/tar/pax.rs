//! PAX extended headers.

use super::{Error, Extent, MAX_PATH, Result, Time};

/// What the extended header of one member says; what it does not say is `None`.
#[derive(Debug, Default)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub mtime: Option<Time>,
    pub atime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU's sparse files, of the forms 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub struct Sparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// Offsets and lengths in turn, as 0.0 and 0.1 list them.
    map: Vec<u64>,
    blocks: Option<u64>,
}

impl Sparse {
    /// The extents of the forms 0.0 and 0.1.
    pub fn extents(&self) -> Result<Option<Vec<Extent>>> {
        let Some(blocks) = self.blocks else { return Ok(None) };
        if self.map.len() as u64 != blocks.saturating_mul(2) {
            return Err(Error::invalid("a sparse map is not as long as it says"));
        }
        Ok(Some(self.map.chunks_exact(2).map(|pair| Extent { offset: pair[0], len: pair[1] }).collect()))
    }

    pub fn is_version_1(&self) -> bool {
        (self.major, self.minor) == (Some(1), Some(0))
    }
}

impl Pax {
    /// Parses `length key=value\n` records. A later record of the same key wins; an empty value takes it back.
    pub fn parse(mut data: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        while !data.is_empty() {
            let (key, value, rest) = record(data)?;
            pax.take(key, value)?;
            data = rest;
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.retain(|(known, _)| known != name);
            // An attribute may well be empty: it is not taken back.
            if name.is_empty() || name.contains(&0) {
                return Err(Error::invalid("an extended attribute without a proper name"));
            }
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        match key {
            b"path" => self.path = path(value)?,
            b"linkpath" => self.link = path(value)?,
            b"size" => self.size = opt(value, decimal)?,
            b"uid" => self.uid = opt(value, signed)?,
            b"gid" => self.gid = opt(value, signed)?,
            b"mtime" => self.mtime = opt(value, time)?,
            b"atime" => self.atime = opt(value, time)?,
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.take_sparse(key, value)?;
                }
            }
        }
        Ok(())
    }

    fn take_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let sparse = &mut self.sparse;
        match key {
            b"major" => sparse.major = opt(value, decimal)?,
            b"minor" => sparse.minor = opt(value, decimal)?,
            b"name" => sparse.name = path(value)?,
            b"realsize" | b"size" => sparse.real_size = opt(value, decimal)?,
            b"numblocks" => sparse.blocks = opt(value, decimal)?,
            b"offset" => {
                if !sparse.map.len().is_multiple_of(2) {
                    return Err(Error::invalid("a sparse map has two offsets in a row"));
                }
                sparse.map.push(decimal(value)?);
            }
            b"numbytes" => {
                if sparse.map.len().is_multiple_of(2) {
                    return Err(Error::invalid("a sparse map has a length without an offset"));
                }
                sparse.map.push(decimal(value)?);
            }
            b"map" => sparse.map = value.split(|b| *b == b',').map(decimal).collect::<Result<_>>()?,
            _ => {}
        }
        Ok(())
    }
}

/// Splits one record off.
fn record(data: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let bad = || Error::invalid("a malformed extended header");
    let space = data.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
    let len = usize::try_from(decimal(&data[..space])?).map_err(|_| bad())?;
    if len <= space + 1 || len > data.len() || data[len - 1] != b'\n' {
        return Err(bad());
    }
    let body = &data[space + 1..len - 1];
    let equals = body.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or_else(bad)?;
    Ok((&body[..equals], &body[equals + 1..], &data[len..]))
}

fn opt<T>(value: &[u8], parse: fn(&[u8]) -> Result<T>) -> Result<Option<T>> {
    if value.is_empty() { Ok(None) } else { parse(value).map(Some) }
}

fn path(value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err(Error::invalid("a path with a zero byte"));
    }
    if value.len() > MAX_PATH {
        return Err(Error::invalid(format!("a path of {} bytes: at most {MAX_PATH}", value.len())));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

pub fn decimal(value: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(value).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    let number = text.and_then(|t| t.parse::<u64>().ok()).filter(|n| i64::try_from(*n).is_ok());
    number.ok_or_else(|| Error::invalid(format!("{:?} is not a number", String::from_utf8_lossy(value))))
}

fn signed(value: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(value).ok().and_then(|t| t.parse().ok());
    text.ok_or_else(|| Error::invalid(format!("{:?} is not a number", String::from_utf8_lossy(value))))
}

/// `seconds[.fraction]`, both of any length within reason, perhaps negative.
fn time(value: &[u8]) -> Result<Time> {
    let bad = || Error::invalid(format!("{:?} is not a time", String::from_utf8_lossy(value)));
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let nanos: u32 = format!("{fraction:0<9.9}").parse().map_err(|_| bad())?;
    if whole.starts_with('-') && nanos > 0 {
        let seconds = seconds.checked_sub(1).ok_or_else(bad)?;
        return Ok(Time { seconds, nanos: 1_000_000_000 - nanos });
    }
    Ok(Time { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_parsed() {
        let pax = Pax::parse(b"12 path=a/b\n14 size=12345\n17 mtime=12.0625\n26 SCHILY.xattr.user.x=a\n\n")
            .unwrap();
        assert_eq!(pax.path.unwrap(), b"a/b");
        assert_eq!(pax.size, Some(12345));
        assert_eq!(pax.mtime, Some(Time { seconds: 12, nanos: 62_500_000 }));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"a\n".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"6 a=b\n\n",
            b"99999999999999999999 a=b\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"7 =bbb\n",
            b"12 path=a\0b\n",
            b"11 size=-1\n",
            b"29 size=9223372036854775808\n",
            b"12 mtime=x.y\n",
            b"23 GNU.sparse.offset=\n",
        ] {
            assert!(Pax::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_before_1970_count_down() {
        assert_eq!(time(b"-1.25").unwrap(), Time { seconds: -2, nanos: 750_000_000 });
        assert_eq!(time(b"1.123456789999").unwrap(), Time { seconds: 1, nanos: 123_456_789 });
    }
}
