//! Tar headers as export writes them: POSIX, names that are too long as PAX records, sizes above 8 GiB in base 256.

const BLOCK: usize = 512;
/// Largest size that the field's octal digits hold.
const MAX_OCTAL: u64 = 0o77_777_777_777;

/// A header block, with an extension before it where the name needs one.
pub fn header(name: &str, mode: u32, size: u64, typeflag: u8) -> Vec<u8> {
    let mut out = Vec::new();
    if name.len() > 100 {
        let record = pax("path", name);
        out.extend(plain("PaxHeaders.0", 0o644, record.len() as u64, b'x'));
        out.extend_from_slice(&record);
        out.extend(padding(record.len() as u64));
    }
    out.extend(plain(name, mode, size, typeflag));
    out
}

fn plain(name: &str, mode: u32, size: u64, typeflag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let name = &name.as_bytes()[..name.len().min(100)];
    block[..name.len()].copy_from_slice(name);
    octal(&mut block[100..108], u64::from(mode));
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    if size <= MAX_OCTAL {
        octal(&mut block[124..136], size);
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    octal(&mut block[136..148], 0);
    block[156] = typeflag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(text.as_bytes());
}

/// A record counts its own length.
fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length += 1;
    }
    format!("{length} {key}={value}\n").into_bytes()
}

/// Zeros that fill the last block of data.
pub fn padding(size: u64) -> &'static [u8] {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { &[] } else { &ZEROS[over..] }
}

/// The archive's end.
pub fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}
