//! `io.containerd.gc.v1.scheduler`, with containerd's configuration keys and defaults.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use windlass_core::gc;
use windlass_core::kinds::{self, Gc};
use windlass_core::registry::{InitContext, Kind, Plugin, Registration, unknown_keys};
use windlass_core::{Error, Result};

use crate::Scheduler;

/// The plugin's configuration. Times are written as Go writes them: `100ms`, `1.5s`, `2m`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The share of time that collections may take, at most 0.5.
    pub pause_threshold: f64,
    /// Deletions after which a collection is scheduled at once; 0: the first of them makes one due.
    pub deletion_threshold: i64,
    /// Changes after which the next scheduled collection runs although nothing was deleted; 0: none.
    pub mutation_threshold: i64,
    /// From the reason for a collection to the collection.
    pub schedule_delay: String,
    /// From the start to the first collection.
    pub startup_delay: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: "0ms".into(),
            startup_delay: "100ms".into(),
        }
    }
}

/// What the scheduler goes by: the configuration within its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub(crate) pause: f64,
    pub(crate) deletions: u64,
    pub(crate) mutations: u64,
    pub(crate) schedule_delay: Duration,
    pub(crate) startup_delay: Duration,
}

impl TryFrom<&Config> for Limits {
    type Error = Error;

    fn try_from(config: &Config) -> Result<Self> {
        if config.pause_threshold.is_nan() {
            return Err(Error::invalid("pause_threshold must be a number from 0 to 0.5"));
        }
        Ok(Self {
            pause: config.pause_threshold.clamp(0.0, 0.5),
            deletions: config.deletion_threshold.max(0) as u64,
            mutations: config.mutation_threshold.max(0) as u64,
            schedule_delay: duration("schedule_delay", &config.schedule_delay)?,
            startup_delay: duration("startup_delay", &config.startup_delay)?,
        })
    }
}

/// Parses `[-]<number><unit>…`; what is below zero is zero.
fn duration(name: &str, text: &str) -> Result<Duration> {
    let bad = || Error::invalid(format!("{name} = {text:?} is not a duration: write 100ms, 1.5s or 2m"));
    match text.trim().strip_prefix('-') {
        Some(rest) => windlass_core::duration::parse(rest).map(|_| Duration::ZERO),
        None => windlass_core::duration::parse(text.trim()),
    }
    .ok_or_else(bad)
}

struct SchedulerPlugin;

impl Plugin for SchedulerPlugin {
    type Kind = Gc;
    const ID: &'static str = "scheduler";
    const REQUIRES: &'static [&'static str] = &[kinds::Metadata::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn gc::Scheduler>> {
        let config: Config = ctx.config()?;
        let limits = Limits::try_from(&config)?;
        ctx.export("PauseThreshold", limits.pause.to_string());
        ctx.export("DeletionThreshold", limits.deletions.to_string());
        ctx.export("MutationThreshold", limits.mutations.to_string());
        ctx.export("ScheduleDelay", format!("{:?}", limits.schedule_delay));
        let collector = ctx.single::<kinds::Metadata>()?.collector();
        Ok(Arc::new(Scheduler::start(collector, limits)))
    }

    fn check(config: &toml::Table) -> Result<Vec<String>> {
        let parsed = Config::deserialize(toml::Value::Table(config.clone())).map_err(|source| {
            Error::invalid("configuration of the collection's scheduler").with_source(source)
        })?;
        Limits::try_from(&parsed)?;
        Ok(unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> toml::Table {
        toml::Table::try_from(Config::default()).expect("the configuration is a table")
    }
}

inventory::submit! { Registration::of::<SchedulerPlugin>() }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in
            [("0ms", 0), ("100ms", 100), ("1.5s", 1500), ("1m30s", 90_000), ("-5s", 0), ("0", 0)]
        {
            assert_eq!(duration("d", text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for bad in ["", "5", "fast", "1d", "ms", "1e400h"] {
            assert!(duration("d", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_out_of_bounds_are_brought_within() {
        let config = Config { pause_threshold: 7.0, mutation_threshold: -1, ..Config::default() };
        let limits = Limits::try_from(&config).unwrap();
        assert_eq!((limits.pause, limits.mutations), (0.5, 0));
        assert!(Limits::try_from(&Config { pause_threshold: f64::NAN, ..Config::default() }).is_err());
    }

    #[test]
    fn unknown_keys_are_named() {
        let config: toml::Table = toml::from_str("pause_threshold = 0.1\npause_treshold = 0.1").unwrap();
        assert_eq!(SchedulerPlugin::check(&config).unwrap(), ["pause_treshold"]);
        assert!(SchedulerPlugin::check(&toml::from_str("schedule_delay = \"soon\"").unwrap()).is_err());
    }
}
