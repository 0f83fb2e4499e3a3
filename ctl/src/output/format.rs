//! `--format`: tables, JSON, and templates.

use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use super::{compact, pretty, print, safe};

/// How lists and objects are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
    /// Text in which `{{.path.to.field}}` is replaced.
    Template(String),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ if text.contains("{{") => Ok(Self::Template(text.to_owned())),
            _ => Err("use table, json, or a template such as '{{.name}}'".to_owned()),
        }
    }
}

/// Prints rows: a table of `columns` (heading, field), or all fields in JSON or a template.
pub fn rows<T: Serialize>(format: &Format, columns: &[(&str, &str)], rows: &[T]) -> anyhow::Result<()> {
    let rows = rows.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    let text = match format {
        Format::Json => pretty(&rows)?,
        Format::Template(template) => rows.iter().map(|row| fill(template, row) + "\n").collect(),
        Format::Table => table(columns, &rows),
    };
    print(&text)
}

/// Prints one object: a template, one line of JSON, or indented JSON where a table was asked for.
pub fn object<T: Serialize>(format: &Format, object: &T) -> anyhow::Result<()> {
    let value = serde_json::to_value(object)?;
    print(&match format {
        Format::Template(template) => fill(template, &value) + "\n",
        Format::Json => compact(&value)?,
        Format::Table => pretty(&value)?,
    })
}

/// The value at a path such as `.labels.app`. Case does not matter, and keys may contain dots.
fn lookup<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let path = path.trim_start_matches('.');
    if path.is_empty() {
        return Some(value);
    }
    match value {
        Value::Object(map) => {
            let mut ends: Vec<_> = path.match_indices('.').map(|(at, _)| at).collect();
            ends.push(path.len());
            // The longest key first: labels are called containerd.io/gc.root.
            ends.iter().rev().find_map(|end| {
                let (name, rest) = path.split_at(*end);
                let exact = map.get(name);
                let found =
                    exact.or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v));
                lookup(found?, rest)
            })
        }
        Value::Array(list) => {
            let (name, rest) = path.split_once('.').unwrap_or((path, ""));
            lookup(list.get(name.parse::<usize>().ok()?)?, rest)
        }
        _ => None,
    }
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => safe(text),
        Some(other) => safe(&other.to_string()),
    }
}

fn fill(template: &str, row: &Value) -> String {
    let template = template.replace("\\t", "\t").replace("\\n", "\n");
    let mut out = String::new();
    let mut rest = template.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((expression, tail)) = after.split_once("}}") else {
            out.push_str("{{");
            rest = after;
            break;
        };
        let expression = expression.trim();
        match expression.strip_prefix("json ") {
            Some(path) => out.push_str(&safe(&lookup(row, path.trim()).unwrap_or(&Value::Null).to_string())),
            None => out.push_str(&plain(lookup(row, expression))),
        }
        rest = tail;
    }
    out + rest
}

fn table(columns: &[(&str, &str)], rows: &[Value]) -> String {
    let mut cells = vec![columns.iter().map(|(heading, _)| heading.to_string()).collect::<Vec<_>>()];
    cells.extend(rows.iter().map(|row| columns.iter().map(|(_, field)| plain(lookup(row, field))).collect()));
    let width = |at: usize| cells.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for line in &cells {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}   "));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_fill_fields() {
        let row = json!({"name": "x", "target": {"size": 5}, "labels": {"a": "b", "c.d/e": "f"}, "list": [{"n": 7}]});
        assert_eq!(fill("{{.Name}}: {{ .target.size }}\\t{{json .labels.a}}{{.none}}", &row), "x: 5\t\"b\"");
        assert_eq!(fill("{{.labels.c.d/e}} {{.list.0.n}} {{.list.9.n}}", &row), "f 7 ");
        assert_eq!(fill("{{.open", &row), "{{.open");
        assert_eq!(fill("{{.}}", &json!("a")), "a");
        assert_eq!(fill("{{.a}}", &json!({"a": "\x1b{{.b}}", "b": 1})), "\u{fffd}{{.b}}");
    }

    #[test]
    fn tables_line_up_and_hold_no_control_characters() {
        let text = table(
            &[("A", "a"), ("B", "b")],
            &[json!({"a": "long", "b": 1}), json!({"a": "\x1b[2J", "b": 2})],
        );
        assert_eq!(text, "A      B\nlong   1\n\u{fffd}[2J   2\n");
    }

    #[test]
    fn formats_are_told_apart() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert!("yaml".parse::<Format>().is_err());
        assert_eq!("{{.x}}".parse(), Ok(Format::Template("{{.x}}".into())));
    }
}
