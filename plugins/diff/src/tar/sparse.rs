//! Sparse files: their tables, checked.

use std::io::BufRead;

use super::header::number;
use super::pax::decimal;
use super::{BLOCK, Error, Extent, Result};

/// Most extents of one file that are kept.
const MAX_EXTENTS: usize = 1 << 17;
const ENTRY: usize = 24;

/// Adds the used entries of an old GNU table.
fn table(bytes: &[u8], extents: &mut Vec<Extent>) -> Result<()> {
    for entry in bytes.chunks_exact(ENTRY) {
        if entry[0] == 0 {
            return Ok(());
        }
        let field = |bytes| {
            u64::try_from(number(bytes)?).map_err(|_| Error::invalid("a negative place in a sparse map"))
        };
        push(extents, Extent { offset: field(&entry[..12])?, len: field(&entry[12..])? })?;
    }
    Ok(())
}

fn push(extents: &mut Vec<Extent>, extent: Extent) -> Result<()> {
    if extents.len() == MAX_EXTENTS {
        return Err(Error::invalid(format!("a sparse file of more than {MAX_EXTENTS} parts")));
    }
    extents.push(extent);
    Ok(())
}

/// The table of the header, and of the blocks after it while one says that more follow.
pub fn old_gnu(
    first: &[u8],
    mut more: bool,
    mut next_block: impl FnMut() -> Result<[u8; BLOCK]>,
) -> Result<Vec<Extent>> {
    let mut extents = Vec::new();
    table(first, &mut extents)?;
    while more {
        let block = next_block()?;
        table(&block[..504], &mut extents)?;
        more = block[504] != 0;
    }
    Ok(extents)
}

/// The table at the beginning of the data, in the form 1.0; also how many bytes it took, blocks filled up.
pub fn in_data(data: &mut impl BufRead, limit: u64) -> Result<(Vec<Extent>, u64)> {
    let mut used = 0u64;
    let mut next = || -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            let byte = *data
                .fill_buf()
                .map_err(Error::Read)?
                .first()
                .ok_or_else(|| Error::invalid("a sparse map is cut off"))?;
            data.consume(1);
            used += 1;
            if used > limit || digits.len() > 20 {
                return Err(Error::invalid("a sparse map does not end"));
            }
            match byte {
                b'\n' => return decimal(&digits),
                byte => digits.push(byte),
            }
        }
    };
    let count = next()?;
    let mut extents = Vec::new();
    for _ in 0..count {
        push(&mut extents, Extent { offset: next()?, len: next()? })?;
    }
    let padding = (BLOCK as u64 - used % BLOCK as u64) % BLOCK as u64;
    skip(data, padding)?;
    used += padding;
    if used > limit {
        return Err(Error::invalid("a sparse map is longer than its file"));
    }
    Ok((extents, used))
}

/// Reads `len` bytes away.
pub fn skip(data: &mut impl BufRead, mut len: u64) -> Result<()> {
    while len > 0 {
        let buffer = data.fill_buf().map_err(Error::Read)?;
        if buffer.is_empty() {
            return Err(Error::invalid("the archive is cut off"));
        }
        let step = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
        data.consume(step);
        len -= step as u64;
    }
    Ok(())
}

/// Extents in order, apart from each other, within the file, and as much data as there is.
pub fn check(extents: &[Extent], real_size: u64, data: u64) -> Result<()> {
    let (mut end, mut total) = (0u64, 0u64);
    for extent in extents {
        let next =
            extent.offset.checked_add(extent.len).filter(|next| extent.offset >= end && *next <= real_size);
        end = next.ok_or_else(|| Error::invalid("a sparse map that overlaps or leaves its file"))?;
        total += extent.len;
    }
    if total != data {
        return Err(Error::invalid("a sparse map that does not fit its data"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_be_in_order_and_fit() {
        let e = |offset, len| Extent { offset, len };
        assert!(check(&[e(0, 5), e(10, 5), e(20, 0)], 20, 10).is_ok());
        for (bad, size, data) in [
            (vec![e(0, 5), e(4, 1)], 20, 6),
            (vec![e(0, 21)], 20, 21),
            (vec![e(u64::MAX, 2)], u64::MAX, 2),
            (vec![e(0, 5)], 20, 4),
        ] {
            assert!(check(&bad, size, data).is_err(), "{bad:?}");
        }
        let mut data = &b"2\n0\n5\n10\n5\n"[..];
        assert!(in_data(&mut data, 1024).is_err(), "padding is missing");
        let mut endless = &[b'1'; 100][..];
        assert!(in_data(&mut endless, 1024).is_err());
    }
}
