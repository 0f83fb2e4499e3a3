//! Settings: where things are, and how long a shim may take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use windlass_core::{Error, Result};

/// Time limits of everything that waits for a shim. A shim that exceeds one hurts itself alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The binary's `start`.
    #[serde(deserialize_with = "duration")]
    pub launch: Duration,
    /// The binary's `delete`, after the shim died.
    #[serde(deserialize_with = "duration")]
    pub cleanup: Duration,
    /// The binary's `-info`.
    #[serde(deserialize_with = "duration")]
    pub info: Duration,
    #[serde(deserialize_with = "duration")]
    pub connect: Duration,
    /// Task creation: mounts, hooks, restoring from a checkpoint.
    #[serde(deserialize_with = "duration")]
    pub create: Duration,
    /// Start of a task or an exec.
    #[serde(deserialize_with = "duration")]
    pub start: Duration,
    #[serde(deserialize_with = "duration")]
    pub delete: Duration,
    #[serde(deserialize_with = "duration")]
    pub checkpoint: Duration,
    /// A state, which many callers ask for all tasks at once.
    #[serde(deserialize_with = "duration")]
    pub state: Duration,
    /// Every other call.
    #[serde(deserialize_with = "duration")]
    pub call: Duration,
    /// The first call after the daemon's restart.
    #[serde(deserialize_with = "duration")]
    pub load: Duration,
    #[serde(deserialize_with = "duration")]
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            launch: s(30),
            cleanup: s(10),
            info: s(10),
            connect: s(10),
            create: s(300),
            start: s(300),
            delete: s(60),
            checkpoint: s(600),
            state: s(2),
            call: s(30),
            load: s(5),
            shutdown: s(3),
        }
    }
}

impl Limits {
    /// The keys in a table, with the values in effect.
    pub fn table() -> toml::Table {
        let limits = Self::default();
        let entries = [
            ("launch", limits.launch),
            ("cleanup", limits.cleanup),
            ("info", limits.info),
            ("connect", limits.connect),
            ("create", limits.create),
            ("start", limits.start),
            ("delete", limits.delete),
            ("checkpoint", limits.checkpoint),
            ("state", limits.state),
            ("call", limits.call),
            ("load", limits.load),
            ("shutdown", limits.shutdown),
        ];
        entries.into_iter().map(|(key, d)| (key.to_owned(), format!("{}s", d.as_secs()).into())).collect()
    }
}

/// Limits by containerd's names, as the table `timeouts` of a configuration has them, and the keys that they are here.
const NAMES: [(&str, &str); 4] = [
    ("io.containerd.timeout.shim.cleanup", "cleanup"),
    ("io.containerd.timeout.shim.load", "load"),
    ("io.containerd.timeout.shim.shutdown", "shutdown"),
    ("io.containerd.timeout.task.state", "state"),
];

impl Limits {
    /// The defaults, then those that have containerd's names, then our `own` table. One of nought would be none at all under
    /// containerd; as there is always one here, it is passed over.
    pub fn new(own: &toml::Table, named: &BTreeMap<String, Duration>) -> Result<Self> {
        let mut table = Self::table();
        for (name, key) in NAMES {
            match named.get(name) {
                Some(limit) if limit.is_zero() => {
                    tracing::warn!("timeouts.{name:?} is passed over: there is always a limit here")
                }
                Some(limit) => drop(table.insert(key.into(), format!("{}ns", limit.as_nanos()).into())),
                None => {}
            }
        }
        table.extend(own.clone());
        table.try_into().map_err(|e| Error::invalid("limits of shims").with_source(e))
    }
}

/// How shims are started.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The daemon's sockets, as shims are told them.
    pub grpc_address: String,
    pub ttrpc_address: String,
    /// The daemon's own executable.
    pub executable: PathBuf,
    /// Where shims put their sockets.
    pub socket_dir: PathBuf,
    /// `NAME=value`, added to every shim's environment.
    pub env: Vec<String>,
    /// Binaries of runtimes by name, before the usual places.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// OCI runtime of `io.containerd.runc.v2` where a task's options name none; the shim's own where `None`.
    pub oci_runtime: Option<String>,
    pub limits: Limits,
}

/// Longest limit that can be set.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

/// A duration in Go's notation: `90s`, `1m30s`, `1.5h`, `250ms`. More than zero and at most a day.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let bad = || {
        Error::invalid(format!(
            "duration {text:?}: write it as 90s, 1m30s or 250ms, more than 0, at most 24h"
        ))
    };
    let given = windlass_core::duration::parse(text.trim()).ok_or_else(bad)?;
    if given.is_zero() || given > LONGEST {
        return Err(bad());
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [("90s", 90_000), ("1m30s", 90_000), ("250ms", 250), ("1.5h", 5_400_000)] {
            assert_eq!(parse_duration(text).unwrap().as_millis(), millis, "{text}");
        }
        for bad in ["", "0s", "5", "s", "-1s", "1d", "25h", "1s2", "..s", "1e9s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_are_read_and_their_table_is_complete() {
        let limits: Limits = toml::from_str("create = \"7s\"").unwrap();
        assert_eq!(limits.create, Duration::from_secs(7));
        assert_eq!(limits.state, Limits::default().state);
        assert!(toml::from_str::<Limits>("nonsense = \"7s\"").is_err());
        assert!(toml::from_str::<Limits>("create = \"0s\"").is_err());
        let named = BTreeMap::from([
            ("io.containerd.timeout.shim.load".to_owned(), Duration::from_secs(9)),
            ("io.containerd.timeout.task.state".to_owned(), Duration::from_millis(1500)),
            ("io.containerd.timeout.shim.cleanup".to_owned(), Duration::ZERO),
        ]);
        let limits = Limits::new(&"load = \"4s\"".parse().unwrap(), &named).unwrap();
        assert_eq!(limits.load, Duration::from_secs(4), "the own key wins");
        assert_eq!(limits.state, Duration::from_millis(1500));
        assert_eq!(limits.cleanup, Limits::default().cleanup);
        assert!(Limits::new(&"nonsense = \"7s\"".parse().unwrap(), &named).is_err());
        let again: Limits = toml::Value::Table(Limits::table()).try_into().unwrap();
        assert_eq!(format!("{again:?}"), format!("{:?}", Limits::default()));
    }
}
