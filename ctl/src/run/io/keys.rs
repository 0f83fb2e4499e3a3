//! Keys to leave a container with: `ctrl-p,ctrl-q`, or others, as Docker writes them.

use std::str::FromStr;

/// A sequence of keys, and how far it has been typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    sequence: Vec<u8>,
    typed: usize,
}

impl Default for Keys {
    fn default() -> Self {
        Self { sequence: vec![0x10, 0x11], typed: 0 }
    }
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = |name: &str| {
            let control = |c: u8| match c.to_ascii_lowercase() {
                c @ b'a'..=b'z' => Some(c - b'a' + 1),
                b'@' => Some(0),
                b'[' => Some(27),
                b'\\' => Some(28),
                b']' => Some(29),
                b'^' => Some(30),
                b'_' => Some(31),
                _ => None,
            };
            let byte = match name.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([c]) => control(*c),
                Some(_) => None,
                None => match name.as_bytes() {
                    [c] if c.is_ascii_graphic() => Some(*c),
                    _ => None,
                },
            };
            byte.ok_or_else(|| format!("{name:?} is no key: use letters and ctrl-LETTER, joined by commas"))
        };
        let sequence = text.split(',').map(key).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { sequence, typed: 0 })
    }
}

impl Keys {
    /// Takes what was typed; puts what is for the process into `out`. Whether the sequence is complete.
    pub fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        for byte in input {
            if *byte == self.sequence[self.typed] {
                self.typed += 1;
                if self.typed == self.sequence.len() {
                    return true;
                }
                continue;
            }
            // Held back for nothing: it was meant for the process.
            out.extend_from_slice(&self.sequence[..self.typed]);
            self.typed = usize::from(*byte == self.sequence[0]);
            if self.typed == 0 {
                out.push(*byte);
            } else if self.sequence.len() == 1 {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str, parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys: Keys = keys.parse().unwrap();
        let mut out = Vec::new();
        let done = parts.iter().any(|p| keys.take(p, &mut out));
        (out, done)
    }

    #[test]
    fn the_sequence_is_found_and_all_else_passes() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(Keys::default()));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"ab\x10", b"\x11c"]), (b"ab".to_vec(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"a\x10b\x11"]), (b"a\x10b\x11".to_vec(), false));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed("x", &[b"abx"]), (b"ab".to_vec(), true));
        assert_eq!(typed("ctrl-]", &[b"\x1d"]), (vec![], true));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in ["", "ctrl-", "ctrl-pp", "ab", "ctrl-p,,x", "ä"] {
            assert!(bad.parse::<Keys>().is_err(), "{bad}");
        }
    }
}
