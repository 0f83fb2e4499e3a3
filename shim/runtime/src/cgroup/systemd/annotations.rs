//! Properties of a scope that annotations name: `org.systemd.property.NAME` with a value in the text form of GVariant, as
//! other runtimes take them. Numbers, booleans, strings, object paths, signatures, byte strings and lists of these are
//! read; tuples, dictionaries and variants are not.

use super::typed::Typed;
use super::wire::Value;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::str::FromStr;

const PREFIX: &str = "org.systemd.property.";
const MAX_DEPTH: usize = 16;
const SECOND: u64 = 1_000_000;

/// What annotations say of a scope; names are systemd's.
#[derive(Debug, Default)]
pub struct Properties(pub(super) Vec<(String, Value)>);

impl Properties {
    /// Reads all such annotations; others are passed over.
    pub fn of(annotations: &BTreeMap<String, String>) -> Result<Properties> {
        let ours = annotations.iter().filter_map(|(key, text)| Some((key, key.strip_prefix(PREFIX)?, text)));
        let read = |(key, name, text): (&String, &str, &String)| {
            property(name, text).map_err(|why| Error::Spec(format!("annotation {key}={text}: {why}")))
        };
        ours.map(read).collect::<Result<_>>().map(Properties)
    }
}

fn property(name: &str, text: &str) -> Result<(String, Value), String> {
    if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(format!("{name:?} is not the name of a property: letters alone, three or more"));
    }
    let value = parse(text)?;
    // What units' files call `TimeoutStopSec` is `TimeoutStopUSec` on the bus.
    match name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase())) {
        Some(stem) => Ok((format!("{stem}USec"), Value::Typed(Typed::Uint64(microseconds(&value)?)))),
        None => Ok((name.to_owned(), Value::Typed(value))),
    }
}

fn microseconds(seconds: &Typed) -> Result<u64, String> {
    let whole = match *seconds {
        Typed::Byte(n) => Some(n.into()),
        Typed::Int16(n) => u64::try_from(n).ok(),
        Typed::Uint16(n) => Some(n.into()),
        Typed::Int32(n) => u64::try_from(n).ok(),
        Typed::Uint32(n) => Some(n.into()),
        Typed::Int64(n) => u64::try_from(n).ok(),
        Typed::Uint64(n) => Some(n),
        Typed::Double(bits) => {
            let scaled = f64::from_bits(bits) * SECOND as f64;
            let fits = scaled >= 0.0 && scaled < u64::MAX as f64;
            return if fits { Ok(scaled as u64) } else { Err("no number of seconds".into()) };
        }
        _ => return Err("a number of seconds is expected".into()),
    };
    whole.and_then(|n| n.checked_mul(SECOND)).ok_or_else(|| "no number of seconds".into())
}

/// What is written, before its type is settled.
#[derive(Debug)]
struct Written {
    /// As far as it is said.
    signature: Option<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Number(String),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Written>),
}

fn parse(text: &str) -> Result<Typed, String> {
    let mut parser = Parser { rest: text };
    let written = parser.value(0)?;
    if !parser.peek().is_empty() {
        return Err(format!("there is more behind the value: {:?}", parser.rest));
    }
    let signature = written.signature()?;
    written.typed(&signature)
}

impl Written {
    fn signature(&self) -> Result<String, String> {
        if let Some(signature) = &self.signature {
            return Ok(signature.clone());
        }
        Ok(match &self.kind {
            Kind::Number(text) if is_fraction(text) => "d".into(),
            Kind::Number(_) => "i".into(),
            Kind::Bool(_) => "b".into(),
            Kind::Text(_) => "s".into(),
            Kind::Bytes(_) => "ay".into(),
            Kind::List(items) => {
                // One that says its type says it for all.
                let said = items.iter().find(|item| item.signature.is_some()).or(items.first());
                let item = said.ok_or("an empty list has no type: name it, as in @as []")?;
                format!("a{}", item.signature()?)
            }
        })
    }

    fn typed(&self, signature: &str) -> Result<Typed, String> {
        let unfit = || format!("{:?} does not fit the type {signature:?}", self.kind);
        if self.signature.as_ref().is_some_and(|own| own != signature) {
            return Err(unfit());
        }
        match (&self.kind, signature) {
            (Kind::Number(text), _) => number(text, signature)
                .ok_or_else(|| format!("{text:?} is not a number of the type {signature:?}")),
            (Kind::Bool(on), "b") => Ok(Typed::Bool(*on)),
            (Kind::Text(text), "s") => Ok(Typed::Text(text.clone())),
            (Kind::Text(text), "o") if text.starts_with('/') => Ok(Typed::Path(text.clone())),
            (Kind::Text(text), "g") if text.len() <= 255 => Ok(Typed::Signature(text.clone())),
            (Kind::Bytes(bytes), "ay") => Ok(list("y", bytes.iter().map(|b| Typed::Byte(*b)).collect())),
            (Kind::List(items), _) => {
                let element = signature.strip_prefix('a').ok_or_else(unfit)?;
                let items = items.iter().map(|item| item.typed(element)).collect::<Result<_, _>>()?;
                Ok(list(element, items))
            }
            _ => Err(unfit()),
        }
    }
}

fn list(element: &str, items: Vec<Typed>) -> Typed {
    Typed::List { element: element.to_owned(), items }
}

fn is_fraction(text: &str) -> bool {
    !text.contains("0x") && text.contains(['.', 'e'])
}

fn number(text: &str, signature: &str) -> Option<Typed> {
    /// Decimal, `0x` or, with a leading zero, octal.
    fn whole<T: TryFrom<i128>>(text: &str) -> Option<T> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (digits, radix) = match digits.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
            None => (digits, 10),
        };
        // A second sign is none.
        let fine = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let value = i128::from_str_radix(digits, radix).ok().filter(|_| fine)?;
        T::try_from(if negative { -value } else { value }).ok()
    }
    Some(match signature {
        "y" => Typed::Byte(whole(text)?),
        "n" => Typed::Int16(whole(text)?),
        "q" => Typed::Uint16(whole(text)?),
        "i" => Typed::Int32(whole(text)?),
        "u" => Typed::Uint32(whole(text)?),
        "x" => Typed::Int64(whole(text)?),
        "t" => Typed::Uint64(whole(text)?),
        "d" => Typed::Double(f64::from_str(text).ok().filter(|n| n.is_finite())?.to_bits()),
        _ => return None,
    })
}

/// A type's name, or its signature behind `@`.
fn signature(word: &str) -> Option<String> {
    let known = match word {
        "boolean" => "b",
        "byte" => "y",
        "int16" => "n",
        "uint16" => "q",
        "int32" => "i",
        "uint32" => "u",
        "int64" => "x",
        "uint64" => "t",
        "double" => "d",
        "string" => "s",
        "objectpath" => "o",
        "signature" => "g",
        _ => {
            let said = word.strip_prefix('@')?;
            let element = said.trim_start_matches('a');
            let fine = said.len() - element.len() < MAX_DEPTH
                && element.len() == 1
                && "bynqiuxtdsog".contains(element);
            return fine.then(|| said.to_owned());
        }
    };
    Some(known.to_owned())
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// What is left, without space before it.
    fn peek(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.rest
    }

    fn takes(&mut self, what: &str) -> bool {
        let after = self.peek().strip_prefix(what);
        after.inspect(|rest| self.rest = rest).is_some()
    }

    fn value(&mut self, depth: usize) -> Result<Written, String> {
        if depth > MAX_DEPTH {
            return Err("nested too deep".into());
        }
        let rest = self.peek();
        if rest.starts_with(['b']) && rest[1..].starts_with(['\'', '"']) {
            self.rest = &rest[1..];
            let bytes = self.quoted(true)?;
            return Ok(Written { signature: None, kind: Kind::Bytes(bytes) });
        }
        if rest.starts_with(['\'', '"']) {
            let text = String::from_utf8(self.quoted(false)?).map_err(|_| "a string is no text")?;
            if text.contains('\0') {
                return Err("a string contains NUL".into());
            }
            return Ok(Written { signature: None, kind: Kind::Text(text) });
        }
        if self.takes("[") {
            return self.list(depth);
        }
        let word = self.word();
        match word {
            "true" | "false" => Ok(Written { signature: None, kind: Kind::Bool(word == "true") }),
            _ if word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                Ok(Written { signature: None, kind: Kind::Number(word.to_owned()) })
            }
            _ => {
                let signature = signature(word).ok_or_else(|| match rest {
                    "" => "a value is missing".to_owned(),
                    _ => format!("{rest:?} is no value: numbers, true, false, quoted strings and lists are"),
                })?;
                let mut inner = self.value(depth + 1)?;
                if inner.signature.is_some() {
                    return Err("a value has two types".into());
                }
                inner.signature = Some(signature);
                Ok(inner)
            }
        }
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest;
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.@".contains(c))).unwrap_or(rest.len());
        self.rest = &rest[end..];
        &rest[..end]
    }

    fn list(&mut self, depth: usize) -> Result<Written, String> {
        let mut items = Vec::new();
        if !self.takes("]") {
            loop {
                items.push(self.value(depth + 1)?);
                if self.takes("]") {
                    break;
                }
                if !self.takes(",") {
                    return Err("a list does not end".into());
                }
            }
        }
        Ok(Written { signature: None, kind: Kind::List(items) })
    }

    /// What is within quotes, escapes resolved. Byte strings end with NUL and have octal escapes.
    fn quoted(&mut self, bytes: bool) -> Result<Vec<u8>, String> {
        let mut chars = self.rest.char_indices();
        let quote = chars.next().map(|(_, quote)| quote);
        let mut found = String::new();
        let mut raw = Vec::new();
        while let Some((at, c)) = chars.next() {
            if Some(c) == quote {
                self.rest = &self.rest[at + c.len_utf8()..];
                raw.extend(found.as_bytes());
                raw.extend(bytes.then_some(0));
                return Ok(raw);
            }
            if c != '\\' {
                found.push(c);
                continue;
            }
            let (_, escape) = chars.next().ok_or("a string does not end")?;
            let mut code = |digits: usize, radix: u32| {
                let text: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                let fine = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
                u32::from_str_radix(&text, radix).ok().filter(|_| fine).ok_or("an escape is cut short")
            };
            match escape {
                'a' => found.push('\x07'),
                'b' => found.push('\x08'),
                'f' => found.push('\x0c'),
                'n' => found.push('\n'),
                'r' => found.push('\r'),
                't' => found.push('\t'),
                '\n' => {}
                'u' | 'U' if !bytes => {
                    let code = code(if escape == 'u' { 4 } else { 8 }, 16)?;
                    found.push(char::from_u32(code).ok_or("an escape stands for no letter")?);
                }
                '0'..='3' if bytes => {
                    let first = escape as u32 - '0' as u32;
                    raw.extend(std::mem::take(&mut found).as_bytes());
                    raw.push((first * 64 + code(2, 8)?) as u8);
                }
                other => found.push(other),
            }
        }
        Err("a string does not end".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, text: &str) -> Result<(String, Typed)> {
        let annotations = BTreeMap::from([(format!("{PREFIX}{name}"), text.to_owned())]);
        let mut properties = Properties::of(&annotations)?.0;
        let (name, Value::Typed(value)) = properties.remove(0) else { panic!("{properties:?}") };
        Ok((name, value))
    }

    fn texts(texts: &[&str]) -> Typed {
        list("s", texts.iter().map(|t| Typed::Text((*t).to_owned())).collect())
    }

    #[test]
    fn seconds_become_microseconds() {
        for text in [
            "byte 234",
            "int16 234",
            "uint16 234",
            "int32 234",
            "uint32 234",
            "int64 234",
            "uint64 234",
            "234",
            "234.0",
            "@t 0xea",
        ] {
            let (name, value) = one("TimeoutStopSec", text).unwrap();
            assert_eq!((name.as_str(), value), ("TimeoutStopUSec", Typed::Uint64(234_000_000)), "{text}");
        }
        assert_eq!(one("TimeoutStopSec", "234.789").unwrap().1, Typed::Uint64(234_789_000));
        for (name, text, value) in [
            ("TimeoutStopUSec", "uint64 123456789", Typed::Uint64(123_456_789)),
            // No such pair of names.
            ("FOOSec", "123", Typed::Int32(123)),
            ("Sec", "123", Typed::Int32(123)),
        ] {
            assert_eq!(one(name, text).unwrap(), (name.to_owned(), value));
        }
        for text in ["false", "'x'", "-1", "int64 -5", "uint64 18446744073709551615", "1e99", "-0.5", "[1]"] {
            let error = one("TimeoutStopSec", text).unwrap_err().report();
            assert!(
                error.contains("org.systemd.property.TimeoutStopSec=") && error.contains("seconds"),
                "{error}"
            );
        }
    }

    #[test]
    fn values_have_the_types_they_say() {
        let bytes = |bytes: &[u8]| list("y", bytes.iter().map(|b| Typed::Byte(*b)).collect());
        for (text, value) in [
            ("'inactive-or-failed'", Typed::Text("inactive-or-failed".into())),
            (r#"  "a'b\"\n\u00e4\\"  "#, Typed::Text("a'b\"\nä\\".into())),
            ("true", Typed::Bool(true)),
            ("boolean false", Typed::Bool(false)),
            ("-7", Typed::Int32(-7)),
            ("017", Typed::Int32(15)),
            ("0", Typed::Int32(0)),
            ("uint64 0xffffffffffffffff", Typed::Uint64(u64::MAX)),
            ("int64 -9223372036854775808", Typed::Int64(i64::MIN)),
            ("double 3", Typed::Double(3f64.to_bits())),
            ("objectpath '/a'", Typed::Path("/a".into())),
            ("signature 'as'", Typed::Signature("as".into())),
            ("['a.service', 'b.service']", texts(&["a.service", "b.service"])),
            ("@as []", texts(&[])),
            ("[1, uint64 2]", list("t", vec![Typed::Uint64(1), Typed::Uint64(2)])),
            ("@at [3]", list("t", vec![Typed::Uint64(3)])),
            (
                "[[1], [2]]",
                list("ai", vec![list("i", vec![Typed::Int32(1)]), list("i", vec![Typed::Int32(2)])]),
            ),
            (r"b'a\001\t'", bytes(b"a\x01\t\0")),
        ] {
            assert_eq!(one("After", text).unwrap(), ("After".to_owned(), value), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_told() {
        for (text, said) in [
            ("", "a value is missing"),
            ("uint64", "a value is missing"),
            ("invalid-value", "is no value"),
            ("'open", "does not end"),
            (r"'x\", "does not end"),
            (r"'\u12'", "cut short"),
            (r"'\ud800'", "no letter"),
            (r"'\u0000'", "NUL"),
            ("[1, 'a']", "does not fit"),
            ("[1, 2", "does not end"),
            ("[1 2]", "does not end"),
            ("[]", "has no type"),
            ("1 2", "more behind"),
            ("byte 256", "not a number of the type \"y\""),
            ("2147483648", "not a number of the type \"i\""),
            ("uint32 -1", "not a number of the type \"u\""),
            ("--1", "not a number"),
            ("0x", "not a number"),
            ("08", "not a number"),
            ("double 1e999", "not a number"),
            ("uint64 byte 1", "two types"),
            ("string 1", "not a number"),
            ("uint64 'a'", "does not fit"),
            ("objectpath 'a'", "does not fit"),
            ("@a{ss} {}", "is no value"),
            ("{'a': 'b'}", "is no value"),
            ("<1>", "is no value"),
            ("('a', 1)", "is no value"),
        ] {
            let error = one("After", text).unwrap_err().report();
            assert!(error.contains("org.systemd.property.After=") && error.contains(said), "{text}: {error}");
        }
        let deep = "[".repeat(10_000);
        assert!(one("After", &deep).unwrap_err().report().contains("too deep"));
        let deep = format!("@{}s []", "a".repeat(300));
        assert!(one("After", &deep).is_err());
        for name in ["", "Xo", "Number1", "A.B", "Ünit"] {
            assert!(one(name, "1").unwrap_err().report().contains("not the name of a property"), "{name}");
        }
        let others = BTreeMap::from([("some.other.annotation".to_owned(), "x".to_owned())]);
        assert!(Properties::of(&others).unwrap().0.is_empty());
    }
}
