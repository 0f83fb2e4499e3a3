//! YAML, as much of it as configuration files use: one document, no anchors (a few lines of them can stand for gigabytes),
//! no tags, bounded depth. What is read knows its lines, for those who have to say where something is wrong.

use std::collections::HashSet;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

const MAX_DEPTH: usize = 64;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Error {
    /// From 1.
    pub line: usize,
    pub what: String,
}

/// A value and where it begins.
#[derive(Debug)]
pub struct Node {
    /// From 1.
    pub line: usize,
    pub kind: Kind,
}

#[derive(Debug)]
pub enum Kind {
    Scalar {
        text: String,
        /// Without quotes: a word may be a number, or null.
        plain: bool,
    },
    List(Vec<Node>),
    /// In the order of the file; no key is there twice.
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub struct Entry {
    pub key: String,
    /// The key's.
    pub line: usize,
    pub value: Node,
}

/// Reads one document as JSON; an empty one is null.
pub fn parse(text: &str) -> Result<Value, Error> {
    Ok(read(text)?.map_or(Value::Null, Node::into_json))
}

/// Reads one document; `None` is an empty one.
pub fn read(text: &str) -> Result<Option<Node>, Error> {
    let mut events = Events { parser: Parser::new_from_str(text), line: 1 };
    let mut document = None;
    while let Some(event) = events.next()? {
        match event {
            Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            _ if document.is_some() => return Err(events.wrong("there is more than one document")),
            event => document = Some(events.value(event, 0)?),
        }
    }
    Ok(document)
}

impl Node {
    /// Nothing: `~`, `null`, or no word at all.
    pub fn is_null(&self) -> bool {
        match &self.kind {
            Kind::Scalar { text, plain } => *plain && is_null(text),
            _ => false,
        }
    }

    fn into_json(self) -> Value {
        match self.kind {
            Kind::Scalar { text, plain: true } => word(&text),
            Kind::Scalar { text, plain: false } => Value::String(text),
            Kind::List(list) => list.into_iter().map(Node::into_json).collect(),
            Kind::Map(entries) => {
                let entries = entries.into_iter().map(|entry| (entry.key, entry.value.into_json()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }
}

struct Events<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// Of the last event.
    line: usize,
}

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<Option<Event<'a>>, Error> {
        match self.parser.next() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(Some(event))
            }
            Some(Err(error)) => Err(Error { line: error.marker().line(), what: error.info().to_owned() }),
        }
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error { line: self.line, what: what.into() }
    }

    fn inner(&mut self) -> Result<Event<'a>, Error> {
        self.next()?.ok_or_else(|| self.wrong("ends in the middle"))
    }

    fn value(&mut self, event: Event<'a>, depth: usize) -> Result<Node, Error> {
        if depth > MAX_DEPTH {
            return Err(self.wrong("nested too deep"));
        }
        let line = self.line;
        let kind = match event {
            Event::Scalar(text, style, 0, None) => {
                Kind::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(0, None) => Kind::List(self.list(depth)?),
            Event::MappingStart(0, None) => Kind::Map(self.map(depth)?),
            _ => return Err(self.wrong("anchors, aliases and tags are not supported")),
        };
        Ok(Node { line, kind })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Error> {
        let mut list = Vec::new();
        loop {
            match self.inner()? {
                Event::SequenceEnd => return Ok(list),
                event => list.push(self.value(event, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Error> {
        let (mut map, mut seen) = (Vec::new(), HashSet::new());
        loop {
            let key = match self.inner()? {
                Event::MappingEnd => return Ok(map),
                Event::Scalar(key, _, 0, None) => key.into_owned(),
                _ => return Err(self.wrong("a key is not plain text")),
            };
            let line = self.line;
            if !seen.insert(key.clone()) {
                return Err(self.wrong(format!("key {key:?} is there twice")));
            }
            let event = self.inner()?;
            let value = self.value(event, depth + 1)?;
            map.push(Entry { key, line, value });
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Plain words by the core schema of YAML 1.2.
fn word(text: &str) -> Value {
    match text {
        _ if is_null(text) => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix =
        |prefix: &str, radix| text.strip_prefix(prefix).and_then(|n| i64::from_str_radix(n, radix).ok());
    if let Some(number) = text.parse::<i64>().ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8)) {
        return number.into();
    }
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    match text.parse::<f64>() {
        Ok(number) if numeric => number.into(),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_become_json() {
        let text = r#"---
cdiVersion: "0.6.0"
kind: vendor.com/gpu
# a comment
devices:
- name: 0
  containerEdits:
    deviceNodes:
    - {path: /dev/x, major: 195, minor: 0x10, fileMode: 0o666}
    env: [A=b, "C=d", 'E']
    flag: true
    none: ~
    ratio: 1.5
    text: |
      two
      lines
"#;
        assert_eq!(
            parse(text).unwrap(),
            json!({"cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "devices": [{"name": 0, "containerEdits": {
                "deviceNodes": [{"path": "/dev/x", "major": 195, "minor": 16, "fileMode": 438}],
                "env": ["A=b", "C=d", "E"], "flag": true, "none": null, "ratio": 1.5, "text": "two\nlines\n"}}]})
        );
        assert_eq!(parse("").unwrap(), Value::Null);
    }

    #[test]
    fn what_could_grow_is_refused() {
        let deep = "[".repeat(5000);
        for wrong in
            ["a: &x [1]\nb: *x", "a: 1\na: 2", "a: 1\n---\nb: 2", "a: !!str 1", "a: [1", "? [a]\n: b", &deep]
        {
            assert!(parse(wrong).is_err(), "{wrong:.40}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line) in [("a: 1\nb:\n- x\na: 2", 4), ("a: 1\n\nb: [1\nc: 2", 4), ("a:\n  b: !!str 1", 2)]
        {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
        let node = read("\n# nothing\na:\n  b: ~\n").unwrap().unwrap();
        let Kind::Map(entries) = node.kind else { panic!("{node:?}") };
        let Kind::Map(inner) = &entries[0].value.kind else { panic!("{entries:?}") };
        assert_eq!((entries[0].line, inner[0].line, inner[0].value.line), (3, 4, 4));
        assert!(inner[0].value.is_null());
    }
}
