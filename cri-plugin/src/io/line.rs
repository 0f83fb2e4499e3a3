//! The CRI log format: `<time> <stream> <P|F> <content>\n`, and where a stream is cut into such lines.
//!
//! A line of the stream that is longer than the limit becomes several of the log, all but the last tagged `P`; so is what
//! has no newline when the stream ends. A carriage return before a newline is not content. The functions are pure: what
//! was cut once is cut the same way again after a crash.

use super::Output;
use super::stamp::Stamp;

/// Content of one line where the configuration sets no limit: a line is held until it is whole, and one container must
/// not be able to take all memory with it.
pub const LONGEST: usize = 1 << 20;

/// The limit in bytes that a configured one means; 0 and less are none.
pub fn limit(configured: i64) -> usize {
    match usize::try_from(configured) {
        Ok(0) | Err(_) => LONGEST,
        Ok(limit) => limit.min(LONGEST),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub content: &'a [u8],
    /// Whether the stream's line ends here.
    pub full: bool,
    /// Bytes of the input that this is, with the newline.
    pub length: usize,
}

/// The first line of the log that `input` gives, or `None` if more must come first. With `end` nothing more will come.
pub fn next(input: &[u8], limit: usize, end: bool) -> Option<Piece<'_>> {
    // A line that fits ends at most two bytes after the limit: `\r\n`.
    let window = &input[..input.len().min(limit + 2)];
    if let Some(newline) = find_newline(window) {
        let line = &window[..newline];
        let content = line.strip_suffix(b"\r").unwrap_or(line);
        if content.len() <= limit {
            return Some(Piece { content, full: true, length: newline + 1 });
        }
    } else if end && window.len() <= limit {
        return (!window.is_empty()).then_some(Piece { content: window, full: false, length: window.len() });
    } else if window.len() <= limit || !end && window.len() == limit + 1 && window[limit] == b'\r' {
        return None;
    }
    Some(Piece { content: &window[..limit], full: false, length: limit })
}

/// Bytes of `input` that its first `count` lines of the log are.
pub fn length_of(input: &[u8], limit: usize, count: usize) -> usize {
    let mut at = 0;
    for _ in 0..count {
        match next(&input[at..], limit, true) {
            Some(piece) => at += piece.length,
            None => break,
        }
    }
    at
}

pub fn write(out: &mut Vec<u8>, stamp: &mut Stamp, output: Output, piece: &Piece<'_>) {
    out.extend_from_slice(stamp.now());
    out.push(b' ');
    out.extend_from_slice(output.name().as_bytes());
    out.extend_from_slice(if piece.full { b" F " } else { b" P " });
    out.extend_from_slice(piece.content);
    out.push(b'\n');
}

pub fn find_newline(bytes: &[u8]) -> Option<usize> {
    // SAFETY: the pointer and length are those of a live slice, which memchr only reads.
    let found = unsafe { libc::memchr(bytes.as_ptr().cast(), i32::from(b'\n'), bytes.len()) };
    (!found.is_null()).then(|| found as usize - bytes.as_ptr() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of `input` as (tag, content), and what is left.
    fn cut(input: &[u8], limit: usize, end: bool) -> (Vec<(char, Vec<u8>)>, usize) {
        let (mut at, mut lines) = (0, Vec::new());
        while let Some(piece) = next(&input[at..], limit, end) {
            lines.push((if piece.full { 'F' } else { 'P' }, piece.content.to_vec()));
            at += piece.length;
        }
        (lines, input.len() - at)
    }

    #[test]
    fn cuts_lines() {
        // Input, limit, whether it ends, the log's lines, bytes left.
        type Row<'a> = (&'a str, usize, bool, &'a [(char, &'a str)], usize);
        let table: &[Row<'_>] = &[
            ("", 4, false, &[], 0),
            ("", 4, true, &[], 0),
            ("\n", 4, false, &[('F', "")], 0),
            ("\r\n", 4, false, &[('F', "")], 0),
            ("\n\n", 4, false, &[('F', ""), ('F', "")], 0),
            ("ab\ncd\n", 4, false, &[('F', "ab"), ('F', "cd")], 0),
            ("ab\r\ncd\n", 4, false, &[('F', "ab"), ('F', "cd")], 0),
            ("ab\ncd", 4, false, &[('F', "ab")], 2),
            ("ab\ncd", 4, true, &[('F', "ab"), ('P', "cd")], 0),
            // Exactly the limit is not too long, also when it is not known yet.
            ("abcd\n", 4, false, &[('F', "abcd")], 0),
            ("abcd", 4, false, &[], 4),
            ("abcd", 4, true, &[('P', "abcd")], 0),
            ("abcd\r\n", 4, false, &[('F', "abcd")], 0),
            ("abcd\r", 4, false, &[], 5),
            ("abcd\r", 4, true, &[('P', "abcd"), ('P', "\r")], 0),
            ("abcd\rx\n", 4, false, &[('P', "abcd"), ('F', "\rx")], 0),
            ("abcde\n", 4, false, &[('P', "abcd"), ('F', "e")], 0),
            ("abcde", 4, false, &[('P', "abcd")], 1),
            ("abcdefgh\n", 4, false, &[('P', "abcd"), ('F', "efgh")], 0),
            ("abcdefghi\n", 4, false, &[('P', "abcd"), ('P', "efgh"), ('F', "i")], 0),
            ("a\rb\n", 4, false, &[('F', "a\rb")], 0),
            ("a\0b\n", 1, false, &[('P', "a"), ('P', "\0"), ('F', "b")], 0),
        ];
        for (input, limit, end, expected, left) in table {
            let expected: Vec<_> =
                expected.iter().map(|(tag, text)| (*tag, text.as_bytes().to_vec())).collect();
            assert_eq!(cut(input.as_bytes(), *limit, *end), (expected, *left), "{input:?}");
        }
    }

    #[test]
    fn cuts_the_same_however_it_comes() {
        let input = b"one\r\ntwo\nthree three three\n\nfour\rfive\r\nsixsixsix".as_slice();
        let (whole, _) = cut(input, 5, true);
        for step in 1..input.len() {
            let (mut lines, mut at) = (Vec::new(), 0);
            for seen in (step..input.len()).step_by(step) {
                while let Some(piece) = next(&input[at..seen], 5, false) {
                    lines.push((if piece.full { 'F' } else { 'P' }, piece.content.to_vec()));
                    at += piece.length;
                }
            }
            lines.extend(cut(&input[at..], 5, true).0);
            assert_eq!(lines, whole, "in steps of {step}");
        }
        assert_eq!(length_of(input, 5, 2), b"one\r\ntwo\n".len());
        assert_eq!(length_of(input, 5, 3), b"one\r\ntwo\nthree".len());
    }

    #[test]
    fn limits() {
        assert_eq!(
            [limit(-1), limit(0), limit(7), limit(16_384), limit(i64::MAX)],
            [LONGEST, LONGEST, 7, 16_384, LONGEST]
        );
    }

    #[test]
    fn lines_look_as_the_kubelet_parses_them() {
        let mut out = Vec::new();
        let mut stamp = Stamp::default();
        write(&mut out, &mut stamp, Output::Stderr, &Piece { content: b"a b", full: false, length: 3 });
        write(&mut out, &mut stamp, Output::Stdout, &Piece { content: b"", full: true, length: 1 });
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(&lines[0][30..], " stderr P a b");
        assert_eq!(&lines[1][30..], " stdout F ");
    }
}
