//! Tables, JSON, templates, and errors as a person reads them.

use std::io::Write;
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

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
        Format::Json => serde_json::to_string_pretty(&rows)? + "\n",
        Format::Template(template) => rows.iter().map(|row| fill(template, row) + "\n").collect(),
        Format::Table => table(columns, &rows),
    };
    print(&text)
}

/// Prints one object: JSON, or a template.
pub fn object<T: Serialize>(format: &Format, object: &T) -> anyhow::Result<()> {
    let value = serde_json::to_value(object)?;
    print(&match format {
        Format::Template(template) => fill(template, &value) + "\n",
        _ => serde_json::to_string_pretty(&value)? + "\n",
    })
}

/// Writes to standard output; a reader that has gone is no error of ours.
pub fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn lookup<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|p| !p.is_empty()).try_fold(value, |value, name| match value {
        Value::Object(map) => {
            map.get(name).or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v))
        }
        Value::Array(list) => name.parse::<usize>().ok().and_then(|at| list.get(at)),
        _ => None,
    })
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn fill(template: &str, row: &Value) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((expression, tail)) = after.split_once("}}") else {
            out.push_str("{{");
            rest = after;
            break;
        };
        let expression = expression.trim();
        match expression.strip_prefix("json ") {
            Some(path) => out.push_str(&lookup(row, path.trim()).unwrap_or(&Value::Null).to_string()),
            None => out.push_str(&plain(lookup(row, expression))),
        }
        rest = tail;
    }
    (out + rest).replace("\\t", "\t").replace("\\n", "\n")
}

fn table(columns: &[(&str, &str)], rows: &[Value]) -> String {
    let mut cells = vec![columns.iter().map(|(heading, _)| heading.to_string()).collect::<Vec<_>>()];
    cells.extend(rows.iter().map(|row| columns.iter().map(|(_, field)| safe(&plain(lookup(row, field)))).collect()));
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

/// Text from outside without control characters: a terminal obeys those.
pub fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `12.3 MiB`.
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (1..UNITS.len()).take_while(|p| size >= 1 << (10 * p)).count();
    if power == 0 {
        return format!("{size} B");
    }
    format!("{:.1} {}", size as f64 / (1u64 << (10 * power)) as f64, UNITS[power])
}

/// `3 minutes ago`.
pub fn ago(seconds: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let past = (now - seconds).max(0);
    let (count, unit) = match past {
        0..60 => (past, "second"),
        60..3600 => (past / 60, "minute"),
        3600..86400 => (past / 3600, "hour"),
        _ => (past / 86400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// An error with its causes and, where one is known, a remedy.
pub fn error(error: &anyhow::Error) -> String {
    if let Some(status) = error.chain().find_map(|e| e.downcast_ref::<tonic::Status>()) {
        let mut context: Vec<_> = error.chain().take_while(|e| !e.is::<tonic::Status>()).map(ToString::to_string).collect();
        context.push(status.message().to_owned());
        return safe_lines(&context.join(": "));
    }
    if let Some(core) = error.chain().find_map(|e| e.downcast_ref::<windlass_core::Error>()) {
        return safe_lines(&core.chain());
    }
    safe_lines(&format!("{error:#}"))
}

fn safe_lines(text: &str) -> String {
    text.split('\n').map(safe).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_fill_fields() {
        let row = json!({"name": "x", "target": {"size": 5}, "labels": {"a": "b"}});
        assert_eq!(fill("{{.Name}}: {{ .target.size }}\\t{{json .labels}}{{.none}}", &row), "x: 5\t{\"a\":\"b\"}");
        assert_eq!(fill("{{.open", &row), "{{.open");
    }

    #[test]
    fn tables_line_up_and_hold_no_control_characters() {
        let text = table(&[("A", "a"), ("B", "b")], &[json!({"a": "long", "b": 1}), json!({"a": "\x1b[2J", "b": 2})]);
        assert_eq!(text, "A      B\nlong   1\n\u{fffd}[2J   2\n");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }
}
