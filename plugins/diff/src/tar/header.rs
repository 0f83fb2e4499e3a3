//! One header block.

use super::{BLOCK, Error, Result, Time};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header block whose checksum is right.
pub struct Header<'a> {
    block: &'a [u8; BLOCK],
    pub format: Format,
}

impl<'a> Header<'a> {
    /// `None` for a block of zeros.
    pub fn parse(block: &'a [u8; BLOCK]) -> Result<Option<Self>> {
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let stated = number(&block[148..156])?;
        let sums = |byte: fn(u8) -> i64| -> i64 {
            block.iter().enumerate().map(|(n, b)| if (148..156).contains(&n) { 32 } else { byte(*b) }).sum()
        };
        if stated != sums(i64::from) && stated != sums(|b| i64::from(b as i8)) {
            return Err(Error::invalid("a header's checksum is wrong"));
        }
        let format = match (&block[257..263], &block[263..265]) {
            (b"ustar\0", _) if &block[508..512] == b"tar\0" => Format::Star,
            (b"ustar\0", _) => Format::Ustar,
            (b"ustar ", b" \0") => Format::Gnu,
            _ => Format::V7,
        };
        Ok(Some(Self { block, format }))
    }

    pub fn type_flag(&self) -> u8 {
        self.block[156]
    }

    /// Name, with the prefix where the format has one.
    pub fn name(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = match self.format {
            Format::Ustar => text(&self.block[345..500]),
            Format::Star => text(&self.block[345..476]),
            Format::V7 | Format::Gnu => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub fn mode(&self) -> Result<i64> {
        number(&self.block[100..108])
    }

    pub fn uid(&self) -> Result<i64> {
        number(&self.block[108..116])
    }

    pub fn gid(&self) -> Result<i64> {
        number(&self.block[116..124])
    }

    pub fn size(&self) -> Result<u64> {
        size(number(&self.block[124..136])?)
    }

    pub fn mtime(&self) -> Result<Time> {
        Ok(Time { seconds: number(&self.block[136..148])?, nanos: 0 })
    }

    pub fn atime(&self) -> Result<Option<Time>> {
        let field = match self.format {
            Format::Gnu => &self.block[345..357],
            Format::Star => &self.block[476..488],
            _ => return Ok(None),
        };
        if field[0] == 0 {
            return Ok(None);
        }
        Ok(Some(Time { seconds: number(field)?, nanos: 0 }))
    }

    pub fn device(&self) -> Result<(i64, i64)> {
        match self.format {
            Format::V7 => Ok((0, 0)),
            _ => Ok((number(&self.block[329..337])?, number(&self.block[337..345])?)),
        }
    }

    /// The old GNU sparse table: the extents, whether more blocks follow, and the file's size with holes.
    pub fn sparse(&self) -> Result<(&'a [u8], bool, u64)> {
        if self.format != Format::Gnu {
            return Err(Error::invalid("a sparse file of the GNU kind in an archive that is not"));
        }
        Ok((&self.block[386..482], self.block[482] != 0, size(number(&self.block[483..495])?)?))
    }
}

fn size(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::invalid("a negative size"))
}

/// Up to the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A number in octal or, where the first bit is set, in base 256.
pub fn number(field: &[u8]) -> Result<i64> {
    let bad = || Error::invalid(format!("a bad number {:?} in a header", String::from_utf8_lossy(field)));
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        // The mark itself is no part of the number.
        let first = if negative { field[0] as i8 as i128 } else { i128::from(field[0] & 0x3f) };
        let value = field[1..].iter().try_fold(first, |all, b| {
            let next = (all << 8) | i128::from(*b);
            (next >> 100 == 0 || next >> 100 == -1).then_some(next)
        });
        return value.and_then(|v| i64::try_from(v).ok()).ok_or_else(bad);
    }
    let trimmed = field.trim_ascii_start();
    let start = trimmed.iter().position(|b| *b != 0).unwrap_or(trimmed.len());
    let digits = text(&trimmed[start..]).trim_ascii();
    digits
        .iter()
        .try_fold(0i64, |all, b| match b {
            b'0'..=b'7' => all.checked_mul(8)?.checked_add(i64::from(b - b'0')),
            _ => None,
        })
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(number(b"77777777777\0").unwrap(), 0o77777777777);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]).unwrap(), 256);
        assert_eq!(number(&[0xff; 8]).unwrap(), -1);
        assert!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        for bad in [&b"0000008\0"[..], b"-1\0\0\0\0\0\0", b"12x4567\0"] {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }
}
