//! Log lines on standard error, as `key=value` text (containerd's form) or JSON.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::config::Format;

/// Longest line, in bytes: a message may hold what a client sent.
const MAX_LINE: usize = 16 << 10;

/// Sends everything of `level` and above to standard error. Once per process.
pub fn init(level: &str, format: Format) {
    let ours = match level {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "warn" | "warning" => LevelFilter::WARN,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    // Libraries talk of every frame they see.
    let theirs = if ours == LevelFilter::TRACE { LevelFilter::DEBUG } else { ours.min(LevelFilter::WARN) };
    let filter = Targets::new().with_default(theirs).with_target("windlass", ours);
    let subscriber = tracing_subscriber::registry().with(Lines { format }.with_filter(filter));
    // Only a second call can fail, and the first one's choice stands then.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct Lines {
    format: Format,
}

/// Fields as they are printed, in order.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = cx.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        if let Some(span) = cx.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let mut all = Fields::default();
        for span in cx.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                all.0.extend(fields.0.iter().cloned());
            }
        }
        all.0.extend(own.0);
        let line = match self.format {
            Format::Text => text(event.metadata().level(), SystemTime::now(), &all.0),
            Format::Json => json(event.metadata().level(), SystemTime::now(), &all.0),
        };
        // A log that cannot be written to must not stop the daemon.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

fn name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn stamp(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}

fn message<'a>(fields: &'a [(&'static str, String)]) -> &'a str {
    fields.iter().rev().find(|(name, _)| *name == "message").map_or("", |(_, value)| value)
}

fn text(level: &Level, at: SystemTime, fields: &[(&'static str, String)]) -> String {
    let mut line = format!("time=\"{}\" level={} msg={:?}", stamp(at), name(level), message(fields));
    for (name, value) in fields.iter().filter(|(name, _)| *name != "message") {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+:".contains(&b);
        // A String takes whatever is written to it.
        let _ = if !value.is_empty() && value.bytes().all(plain) {
            write!(line, " {name}={value}")
        } else {
            write!(line, " {name}={value:?}")
        };
    }
    ended(line)
}

fn ended(mut line: String) -> String {
    if line.len() > MAX_LINE {
        let mut end = MAX_LINE;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line.push('\n');
    line
}

fn json(level: &Level, at: SystemTime, fields: &[(&'static str, String)]) -> String {
    let mut object = serde_json::Map::new();
    let mut put = |key: &str, value: &str| {
        let mut cut = value.len().min(MAX_LINE);
        while !value.is_char_boundary(cut) {
            cut -= 1;
        }
        object.insert(key.to_owned(), value[..cut].into());
    };
    for (name, value) in fields.iter().filter(|(name, _)| *name != "message") {
        put(name, value);
    }
    put("time", &stamp(at));
    put("level", name(level));
    put("msg", message(fields));
    let mut line = serde_json::Value::Object(object).to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Vec<(&'static str, String)> {
        vec![("message", "plugin \"x\"".into()), ("plugin", "io.a/b".into()), ("error", "a b\nc".into())]
    }

    #[test]
    fn a_line_is_a_line() {
        let line = text(&Level::WARN, SystemTime::UNIX_EPOCH, &fields());
        let want = "time=\"1970-01-01T00:00:00Z\" level=warning msg=\"plugin \\\"x\\\"\" plugin=io.a/b error=\"a b\\nc\"\n";
        assert_eq!(line, want);
    }

    #[test]
    fn json_lines_are_json() {
        let line = json(&Level::INFO, SystemTime::UNIX_EPOCH, &fields());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["level"].as_str(), value["error"].as_str()), (Some("info"), Some("a b\nc")));
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn long_lines_are_cut() {
        assert!(
            text(&Level::INFO, SystemTime::UNIX_EPOCH, &[("message", "ä".repeat(MAX_LINE))]).len()
                < MAX_LINE + 8
        );
    }
}
