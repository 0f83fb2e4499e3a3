//! The keys of a configuration file and what may stand behind each: containerd's, versions 2 to 4.

use windlass_core::duration;

use super::document::{Document, KeyPath, shown};
use super::{Error, Warning};

/// What a value may be.
pub enum Shape {
    Text,
    /// An absolute path, or empty.
    Path,
    Whole(i64, i64),
    Flag,
    Texts,
    /// `1m30s`.
    Duration,
    OneOf(&'static [&'static str]),
    Table(&'static [Key]),
    /// Any keys, all values of one shape.
    Map(&'static Shape),
    /// Checked elsewhere.
    Any,
}

pub struct Key(pub &'static str, pub Shape);

use Shape::{Any, Flag, Map, OneOf, Path, Table, Text, Texts, Whole};

const ID: Shape = Whole(0, u32::MAX as i64);
const SIZE: Shape = Whole(0, 1 << 30);

pub const LEVELS: &[&str] = &["", "trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"];

const GRPC: &[Key] = &[
    Key("address", Path),
    Key("uid", ID),
    Key("gid", ID),
    Key("max_recv_message_size", SIZE),
    Key("max_send_message_size", SIZE),
    Key("tcp_address", Text),
    Key("tcp_tls_ca", Path),
    Key("tcp_tls_cert", Path),
    Key("tcp_tls_key", Path),
    Key("tcp_tls_common_name", Text),
];

const SOCKET: &[Key] = &[Key("address", Path), Key("uid", ID), Key("gid", ID)];

const DEBUG: &[Key] = &[
    Key("level", OneOf(LEVELS)),
    Key("format", OneOf(&["", "text", "json"])),
    Key("log_trace_id", Flag),
    Key("address", Text),
    Key("uid", ID),
    Key("gid", ID),
];

const PROXY: &[Key] = &[
    Key("type", Text),
    Key("address", Text),
    Key("platform", Text),
    Key("exports", Map(&Text)),
    Key("capabilities", Texts),
];

const PROCESSOR: &[Key] =
    &[Key("accepts", Texts), Key("returns", Text), Key("path", Text), Key("args", Texts), Key("env", Texts)];

/// A file's top level.
pub const FILE: Shape = Table(&[
    Key("version", Whole(0, super::VERSION)),
    Key("root", Path),
    Key("state", Path),
    Key("temp", Path),
    Key("plugin_dir", Text),
    Key("debug", Table(DEBUG)),
    Key("metrics", Table(&[Key("address", Text), Key("grpc_histogram", Flag)])),
    Key("grpc", Table(GRPC)),
    Key("ttrpc", Table(SOCKET)),
    Key("disabled_plugins", Texts),
    Key("required_plugins", Texts),
    Key("plugins", Map(&Map(&Any))),
    Key("oom_score", Whole(-1000, 1000)),
    Key("cgroup", Table(&[Key("path", Text)])),
    Key("timeouts", Map(&Shape::Duration)),
    Key("imports", Texts),
    Key("stream_processors", Map(&Table(PROCESSOR))),
    Key("proxy_plugins", Map(&Table(PROXY))),
]);

/// Names in `timeouts` that have a meaning: the plugin of shims takes them as its own limits.
pub const TIMEOUTS: &[&str] = &[
    "io.containerd.timeout.shim.cleanup",
    "io.containerd.timeout.shim.load",
    "io.containerd.timeout.shim.shutdown",
    "io.containerd.timeout.task.state",
];

/// The plugins that are the daemon's own listeners, by URI.
pub const SERVERS: &[(&str, Shape)] = &[
    (
        super::SERVER_GRPC,
        Table(&[
            Key("address", Path),
            Key("uid", ID),
            Key("gid", ID),
            Key("max_recv_message_size", SIZE),
            Key("max_send_message_size", SIZE),
        ]),
    ),
    (
        super::SERVER_TCP,
        Table(&[
            Key("address", Text),
            Key("tls_ca", Path),
            Key("tls_cert", Path),
            Key("tls_key", Path),
            Key("tls_common_name", Text),
            Key("max_recv_message_size", SIZE),
            Key("max_send_message_size", SIZE),
        ]),
    ),
    (super::SERVER_TTRPC, Table(SOCKET)),
    (super::SERVER_DEBUG, Table(&[Key("address", Text), Key("uid", ID), Key("gid", ID)])),
    (super::SERVER_METRICS, Table(&[Key("address", Text)])),
    (super::GRPC_METRICS, Table(&[Key("grpc_histogram", Flag)])),
];

/// Checks `value`, which stands at `path` of `document`, and warns of keys that no shape knows.
pub fn check(
    document: &Document,
    value: &toml::Value,
    shape: &Shape,
    path: &mut KeyPath,
    warnings: &mut Vec<Warning>,
) -> Result<(), Error> {
    let bad = |why: String| Error::Value { place: document.place(path).cloned(), key: shown(path), why };
    let wrong = |wanted: &str| bad(format!("{wanted} is expected, not {}", kind(value)));
    match shape {
        Any => {}
        Text => drop(value.as_str().ok_or_else(|| wrong("text"))?),
        Path => {
            let text = value.as_str().ok_or_else(|| wrong("a path"))?;
            if !text.is_empty() && !text.starts_with('/') {
                return Err(bad(format!("{text:?} is not an absolute path")));
            }
        }
        Whole(least, most) => {
            let number = value.as_integer().ok_or_else(|| wrong("a whole number"))?;
            if !(*least..=*most).contains(&number) {
                return Err(bad(format!("{number} is not between {least} and {most}")));
            }
        }
        Flag => drop(value.as_bool().ok_or_else(|| wrong("true or false"))?),
        Texts => {
            let items = value.as_array().ok_or_else(|| wrong("a list of texts"))?;
            if let Some(odd) = items.iter().find(|item| !item.is_str()) {
                return Err(bad(format!("a list of texts is expected, not one with {}", kind(odd))));
            }
        }
        Shape::Duration => {
            let text = value.as_str().ok_or_else(|| wrong("a duration like \"1m30s\""))?;
            duration::parse(text).ok_or_else(|| bad(format!("{text:?} is not a duration like \"1m30s\"")))?;
        }
        OneOf(allowed) => {
            let text = value.as_str().ok_or_else(|| wrong("text"))?;
            if !allowed.contains(&text) {
                let named: Vec<_> = allowed.iter().filter(|a| !a.is_empty()).copied().collect();
                return Err(bad(format!("{text:?} is none of {}", named.join(", "))));
            }
        }
        Map(shape) => {
            for (key, value) in value.as_table().ok_or_else(|| wrong("a table"))? {
                path.push(key.clone());
                check(document, value, shape, path, warnings)?;
                path.pop();
            }
        }
        Table(keys) => {
            for (key, value) in value.as_table().ok_or_else(|| wrong("a table"))? {
                path.push(key.clone());
                match keys.iter().find(|k| k.0 == key) {
                    Some(known) => check(document, value, &known.1, path, warnings)?,
                    None => warnings.push(Warning::unknown(document, path)),
                }
                path.pop();
            }
        }
    }
    Ok(())
}

fn kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "text",
        toml::Value::Integer(_) => "a whole number",
        toml::Value::Float(_) => "a number with a fraction",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a table",
    }
}
