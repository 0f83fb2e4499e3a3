//! YAML to JSON, as much of it as configuration files use: one document, no anchors (a few lines of them can stand for
//! gigabytes), no tags, bounded depth.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

const MAX_DEPTH: usize = 64;

/// Reads one document; an empty one is null.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser::new_from_str(text);
    let mut document = None;
    while let Some(event) = next(&mut parser)? {
        match event {
            Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            _ if document.is_some() => return Err("there is more than one document".into()),
            event => document = Some(value(&mut parser, event, 0)?),
        }
    }
    Ok(document.unwrap_or(Value::Null))
}

type Events<'a> = Parser<'a, saphyr_parser::StrInput<'a>>;

fn next<'a>(parser: &mut Events<'a>) -> Result<Option<Event<'a>>, String> {
    parser.next().transpose().map(|e| e.map(|(event, _)| event)).map_err(|e| e.to_string())
}

fn value<'a>(parser: &mut Events<'a>, event: Event<'a>, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err("nested too deep".into());
    }
    let inner = |parser: &mut Events<'a>| match next(parser)? {
        Some(event) => Ok(event),
        None => Err("ends in the middle".to_owned()),
    };
    match event {
        Event::Scalar(text, style, 0, None) => Ok(scalar(&text, style)),
        Event::SequenceStart(0, None) => {
            let mut list = Vec::new();
            loop {
                match inner(parser)? {
                    Event::SequenceEnd => return Ok(Value::Array(list)),
                    event => list.push(value(parser, event, depth + 1)?),
                }
            }
        }
        Event::MappingStart(0, None) => {
            let mut map = Map::new();
            loop {
                let key = match inner(parser)? {
                    Event::MappingEnd => return Ok(Value::Object(map)),
                    Event::Scalar(key, _, 0, None) => key.into_owned(),
                    _ => return Err("a key is not plain text".into()),
                };
                let event = inner(parser)?;
                let value = value(parser, event, depth + 1)?;
                if map.insert(key.clone(), value).is_some() {
                    return Err(format!("key {key:?} is there twice"));
                }
            }
        }
        _ => Err("anchors, aliases and tags are not supported".into()),
    }
}

/// Plain words by the core schema of YAML 1.2.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
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
}
