//! D-Bus's wire format, as far as the few messages need it that are exchanged with systemd.
//!
//! Own code, not a crate: what there is brings an executor or a macro's parser along, and the shim, of which there is one
//! per pod, stays small. Nothing here does I/O; what is read is of any size and shape, and is checked.

use super::typed::{Typed, alignment};

/// The values of a unit's properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
    Pids(Vec<u32>),
    Pairs(Vec<(String, String)>),
    /// What somebody else has put into words.
    Typed(Typed),
}

pub type Property = (&'static str, Value);

pub const CALL: u8 = 1;
pub const RETURN: u8 = 2;
pub const ERROR: u8 = 3;
pub const SIGNAL: u8 = 4;

/// Of a message, before its header's fields.
pub const FIXED: usize = 16;
/// Of a header's fields; systemd's are a few hundred bytes.
pub const MAX_FIELDS: usize = 16 << 10;
/// The format's own bound.
pub const MAX_BODY: usize = 128 << 20;
const ORDER: u8 = if cfg!(target_endian = "big") { b'B' } else { b'l' };

/// Puts values one after the other, each at a multiple of its size. Bodies begin at a multiple of 8.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub fn number(&mut self, value: u32) {
        self.pad(4);
        self.0.extend(value.to_ne_bytes());
    }

    pub fn text(&mut self, value: &str) {
        self.number(value.len() as u32);
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, value: &str) {
        self.0.push(value.len() as u8);
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    /// An array of elements that begin at multiples of `alignment`. Its length does not count the gap before the first.
    pub fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Writer)) {
        self.number(0);
        let length_at = self.0.len() - 4;
        self.pad(alignment);
        let start = self.0.len();
        elements(self);
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn aligned<const N: usize>(&mut self, bytes: [u8; N]) {
        self.pad(N);
        self.0.extend(bytes);
    }

    fn typed(&mut self, value: &Typed) {
        match value {
            Typed::Byte(n) => self.0.push(*n),
            Typed::Int16(n) => self.aligned(n.to_ne_bytes()),
            Typed::Uint16(n) => self.aligned(n.to_ne_bytes()),
            Typed::Int32(n) => self.aligned(n.to_ne_bytes()),
            Typed::Uint32(n) => self.aligned(n.to_ne_bytes()),
            Typed::Int64(n) => self.aligned(n.to_ne_bytes()),
            Typed::Uint64(n) | Typed::Double(n) => self.aligned(n.to_ne_bytes()),
            Typed::Bool(on) => self.number(u32::from(*on)),
            Typed::Text(text) | Typed::Path(text) => self.text(text),
            Typed::Signature(signature) => self.signature(signature),
            Typed::List { element, items } => {
                self.array(alignment(element), |w| items.iter().for_each(|item| w.typed(item)));
            }
        }
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(on) => {
                self.signature("b");
                self.number(u32::from(*on));
            }
            Value::Number(number) => {
                self.signature("t");
                self.pad(8);
                self.0.extend(number.to_ne_bytes());
            }
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Bytes(bytes) => {
                self.signature("ay");
                self.array(1, |w| w.0.extend(bytes));
            }
            Value::Pids(pids) => {
                self.signature("au");
                self.array(4, |w| pids.iter().for_each(|pid| w.number(*pid)));
            }
            Value::Pairs(pairs) => {
                self.signature("a(ss)");
                self.array(8, |w| {
                    for (first, second) in pairs {
                        w.pad(8);
                        w.text(first);
                        w.text(second);
                    }
                });
            }
            Value::Typed(value) => {
                self.signature(&value.signature());
                self.typed(value);
            }
        }
    }

    /// `a(sv)`
    pub fn properties<N: AsRef<str>>(&mut self, properties: &[(N, Value)]) {
        self.array(8, |w| {
            for (name, value) in properties {
                w.pad(8);
                w.text(name.as_ref());
                w.variant(value);
            }
        });
    }
}

/// What a message is about; a call's must all be there but the destination, which only a bus with more peers wants.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Header {
    pub kind: u8,
    pub serial: u32,
    pub reply_to: u32,
    pub path: String,
    pub interface: String,
    pub member: String,
    pub destination: String,
    pub error: String,
    pub signature: String,
}

impl Header {
    /// The message's bytes.
    pub fn message(&self, body: &[u8]) -> Vec<u8> {
        let mut w = Writer(vec![ORDER, self.kind, 0, 1]);
        w.number(body.len() as u32);
        w.number(self.serial);
        let texts = [
            (1, "o", &self.path),
            (2, "s", &self.interface),
            (3, "s", &self.member),
            (4, "s", &self.error),
            (6, "s", &self.destination),
        ];
        w.array(8, |w| {
            for (code, kind, value) in texts.into_iter().filter(|(.., value)| !value.is_empty()) {
                w.pad(8);
                w.0.push(code);
                w.signature(kind);
                w.text(value);
            }
            if self.reply_to != 0 {
                w.pad(8);
                w.0.push(5);
                w.signature("u");
                w.number(self.reply_to);
            }
            if !self.signature.is_empty() {
                w.pad(8);
                w.0.push(8);
                w.signature("g");
                w.signature(&self.signature);
            }
        });
        w.pad(8);
        w.0.extend(body);
        w.0
    }

    /// From the fixed part: how long the fields (with the gap after them) and the body are.
    pub fn lengths(fixed: &[u8; FIXED]) -> Result<(usize, usize), &'static str> {
        if fixed[0] != ORDER || fixed[3] != 1 {
            return Err("not of this byte order and version");
        }
        let mut reader = Reader::new(&fixed[4..]);
        let lengths = (reader.number(), reader.number(), reader.number());
        let (Some(body), Some(_), Some(fields)) = lengths else { return Err("no lengths") };
        let fields = (fields as usize).next_multiple_of(8);
        if fields > MAX_FIELDS || body as usize > MAX_BODY {
            return Err("too long");
        }
        Ok((fields, body as usize))
    }

    /// Reads the fixed part and the fields.
    pub fn parse(fixed: &[u8; FIXED], fields: &[u8]) -> Result<Header, &'static str> {
        let length = Reader::new(&fixed[12..]).number().unwrap_or(0) as usize;
        let mut header = Header {
            kind: fixed[1],
            serial: Reader::new(&fixed[8..]).number().unwrap_or(0),
            ..Header::default()
        };
        let mut reader = Reader::new(fields.get(..length).ok_or("fields are cut short")?);
        while !reader.done() {
            header.field(&mut reader).ok_or("fields of no known form")?;
        }
        Ok(header)
    }

    fn field(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.pad(8)?;
        let code = reader.byte()?;
        match reader.signature()? {
            "u" => {
                let number = reader.number()?;
                if code == 5 {
                    self.reply_to = number;
                }
            }
            "g" => {
                let text = reader.signature()?;
                if code == 8 {
                    self.signature = text.to_owned();
                }
            }
            "s" | "o" => {
                let text = reader.text()?.to_owned();
                match code {
                    1 => self.path = text,
                    2 => self.interface = text,
                    3 => self.member = text,
                    4 => self.error = text,
                    6 => self.destination = text,
                    _ => {}
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// Takes values off; `None` is what is not there or not of that form.
#[derive(Debug)]
pub struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(data: &'a [u8]) -> Reader<'a> {
        Reader { data, at: 0 }
    }

    fn done(&self) -> bool {
        self.at >= self.data.len()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.data.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn pad(&mut self, to: usize) -> Option<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub fn number(&mut self) -> Option<u32> {
        self.pad(4)?;
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn rest_of_text(&mut self, length: usize) -> Option<&'a str> {
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        (self.byte()? == 0 && !text.contains('\0')).then_some(text)
    }

    /// A string or an object's path.
    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.number()? as usize;
        self.rest_of_text(length)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = self.byte()? as usize;
        self.rest_of_text(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(message: &[u8]) -> Result<(Header, usize), &'static str> {
        let fixed: &[u8; FIXED] = message.get(..FIXED).ok_or("short")?.try_into().unwrap();
        let (fields, body) = Header::lengths(fixed)?;
        let header = Header::parse(fixed, message.get(FIXED..FIXED + fields).ok_or("short")?)?;
        Ok((header, body))
    }

    #[test]
    fn headers_come_back() {
        let header = Header {
            kind: SIGNAL,
            serial: 7,
            reply_to: 3,
            path: "/org/x".into(),
            interface: "org.x".into(),
            member: "Member".into(),
            destination: "org.y".into(),
            error: "org.x.E".into(),
            signature: "uoss".into(),
        };
        let message = header.message(b"12345");
        assert_eq!((message.len() - 5) % 8, 0);
        assert_eq!(parse(&message), Ok((header, 5)));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_call_is_what_the_specification_says() {
        let header =
            Header { kind: CALL, serial: 1, path: "/a".into(), member: "M".into(), ..Header::default() };
        assert_eq!(
            header.message(&[]),
            b"l\x01\0\x01\0\0\0\0\x01\0\0\0\x1a\0\0\0\
              \x01\x01o\0\x02\0\0\0/a\0\0\0\0\0\0\
              \x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0"
        );
        let mut w = Writer::default();
        w.text("u");
        w.properties(&[("A", Value::Number(5)), ("B", Value::Bytes(vec![3]))]);
        assert_eq!(
            w.0,
            b"\x01\0\0\0u\0\0\0\x29\0\0\0\0\0\0\0\
              \x01\0\0\0A\0\x01t\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\
              \x01\0\0\0B\0\x02ay\0\0\0\x01\0\0\0\x03"
        );
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn values_of_any_type_are_aligned() {
        let written = |value: Typed| {
            let mut w = Writer::default();
            w.variant(&Value::Typed(value));
            w.0
        };
        let list = |element: &str, items: Vec<Typed>| Typed::List { element: element.into(), items };
        assert_eq!(written(Typed::Byte(7)), b"\x01y\0\x07");
        assert_eq!(written(Typed::Int16(-2)), b"\x01n\0\0\xfe\xff");
        assert_eq!(written(Typed::Uint16(1)), b"\x01q\0\0\x01\0");
        assert_eq!(written(Typed::Int32(-1)), b"\x01i\0\0\xff\xff\xff\xff");
        assert_eq!(written(Typed::Uint32(1)), b"\x01u\0\0\x01\0\0\0");
        assert_eq!(written(Typed::Int64(-1)), b"\x01x\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(written(Typed::Double(1f64.to_bits())), b"\x01d\0\0\0\0\0\0\0\0\0\0\0\0\xf0\x3f");
        assert_eq!(written(Typed::Bool(true)), b"\x01b\0\0\x01\0\0\0");
        assert_eq!(written(Typed::Path("/".into())), b"\x01o\0\0\x01\0\0\0/\0");
        assert_eq!(written(Typed::Signature("as".into())), b"\x01g\0\x02as\0");
        let texts = vec![Typed::Text("a".into()), Typed::Text("b".into())];
        assert_eq!(written(list("s", texts)), b"\x02as\0\x0e\0\0\0\x01\0\0\0a\0\0\0\x01\0\0\0b\0");
        assert_eq!(written(list("t", vec![Typed::Uint64(1)])), b"\x02at\0\x08\0\0\0\x01\0\0\0\0\0\0\0");
        assert_eq!(
            written(list("ay", vec![list("y", vec![Typed::Byte(5)]), list("y", vec![])])),
            b"\x03aay\0\0\0\0\x0c\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0"
        );
    }

    #[test]
    fn what_is_cut_or_bent_is_refused() {
        let header = Header { kind: RETURN, reply_to: 1, member: "M".into(), ..Header::default() };
        let message = header.message(&[]);
        for end in 0..message.len() {
            assert!(parse(&message[..end]).is_err(), "{end}");
        }
        for at in 0..message.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bent = message.clone();
                bent[at] = value;
                let _ = parse(&bent);
            }
        }
        let mut long = message.clone();
        long[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(parse(&long), Err("too long"));
        assert_eq!(Reader::new(&[9, 0, 0, 0, b'a', 0]).text(), None);
        assert_eq!(Reader::new(&[1, 0, 0, 0, 0xff, 0]).text(), None);
    }
}
