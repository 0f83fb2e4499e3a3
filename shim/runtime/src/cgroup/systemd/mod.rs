//! Groups that systemd makes: a transient scope for each container, so that systemd knows the group and leaves it alone.
//!
//! - `wire`, `typed`, `bus`: how systemd is talked to. `properties`: limits in its words. `annotations`: what
//!   else a scope is told
//!
//! Nothing here writes a control file: the group is used like any other once the scope is there. One connection serves one
//! operation, and none is kept.

mod annotations;
mod bus;
mod properties;
mod typed;
mod wire;

pub use annotations::Properties;
pub use bus::BusError;

use crate::error::{Error, Result};
use crate::spec::Resources;
use bus::{Addresses, Bus};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::{Value, Writer};

/// For each operation, as other runtimes have it: a machine that is starting up keeps systemd busy.
const LIMIT: Duration = Duration::from_secs(30);
const MAX_UNIT: usize = 255;

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const ABSENT: &str = "org.freedesktop.systemd1.NoSuchUnit";

fn addresses() -> Addresses<'static> {
    Addresses { private: Path::new("/run/systemd/private"), bus: Path::new("/run/dbus/system_bus_socket") }
}

/// A container's unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    unit: String,
    slice: String,
}

impl Scope {
    /// Reads `cgroupsPath`: `slice:prefix:name`, or nothing. An error where there is no systemd.
    pub fn plan(configured: &str, id: &str) -> Result<Scope> {
        let scope = Scope::parse(configured, id)?;
        if !addresses().any() {
            return Err(Error::Unsupported(format!(
                "systemd cgroup driver: no systemd at {}; set SystemdCgroup = false",
                addresses().private.display()
            )));
        }
        Ok(scope)
    }

    fn parse(configured: &str, id: &str) -> Result<Scope> {
        let parts: Vec<&str> = configured.split(':').collect();
        let (slice, prefix, name) = match parts[..] {
            [""] => ("", "runc", id),
            [slice, prefix, name] => (slice, prefix, name),
            _ => {
                return Err(Error::Spec(format!(
                    "systemd cgroup driver: expected cgroupsPath to be of format \"slice:prefix:name\", got \
                     {configured:?}; set SystemdCgroup = false for paths"
                )));
            }
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        if name.ends_with(".slice") {
            return Err(Error::Unsupported(format!(
                "systemd cgroup driver: a container cannot be the slice {name:?}, it gets a scope"
            )));
        }
        let scope = Scope { unit: format!("{prefix}-{name}.scope"), slice: slice.to_owned() };
        let fine = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\".contains(&b);
        let valid = |unit: &str| unit.len() <= MAX_UNIT && unit.bytes().all(fine);
        if name.is_empty() || !valid(&scope.unit) || !valid(slice) {
            return Err(Error::Spec(format!(
                "systemd cgroup driver: {configured:?} does not name a slice and a scope: names have letters, digits and \
                 \":-_.\\\", {MAX_UNIT} in all"
            )));
        }
        expand(slice)?;
        Ok(scope)
    }

    /// Below each hierarchy's root.
    pub fn path(&self) -> PathBuf {
        expand(&self.slice).unwrap_or_default().join(&self.unit)
    }

    /// Makes the scope with this process in it, and its slices. Returns when all is there. Limits count more than `more`.
    pub fn start(&self, pid: u32, resources: &Resources, more: Properties, unified: bool) -> Result<()> {
        self.start_at(&addresses(), pid, resources, more, unified)
    }

    fn start_at(
        &self,
        at: &Addresses<'_>,
        pid: u32,
        resources: &Resources,
        more: Properties,
        unified: bool,
    ) -> Result<()> {
        let mut all = vec![
            ("Description", Value::Text(format!("container {}", self.unit))),
            ("Slice", Value::Text(self.slice.clone())),
            ("Delegate", Value::Bool(true)),
            ("PIDs", Value::Pids(vec![pid])),
            ("DefaultDependencies", Value::Bool(false)),
            // A scope whose process was killed is no failure that somebody should look at.
            ("CollectMode", Value::Text("inactive-or-failed".into())),
            ("MemoryAccounting", Value::Bool(true)),
            ("CPUAccounting", Value::Bool(true)),
            (if unified { "IOAccounting" } else { "BlockIOAccounting" }, Value::Bool(true)),
            ("TasksAccounting", Value::Bool(true)),
        ];
        // systemd has a default for units that say nothing; a container that was given no limit has none. The last one counts.
        all.push(("TasksMax", Value::Number(u64::MAX)));
        let mut limits = properties::of(resources, unified)?;
        if !unified {
            limits.extend(properties::of_devices(&resources.devices)?);
        }
        let owned = |properties: Vec<wire::Property>| {
            properties.into_iter().map(|(name, value)| (Cow::Borrowed(name), value))
        };
        let more = more.0.into_iter().map(|(name, value)| (Cow::Owned(name), value));
        let all: Vec<_> = owned(all).chain(more).chain(owned(limits)).collect();
        let mut body = Writer::default();
        body.text(&self.unit);
        body.text("replace");
        body.properties(&all);
        // No units beside it.
        body.array(8, |_| {});
        let start = |bus: &mut Bus| {
            let call = |bus: &mut Bus| bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
            let answer = match call(bus) {
                // What a container of that name left behind when it failed.
                Err(BusError::Refused { name, .. }) if name == EXISTS => {
                    let _ = self.reset(bus);
                    call(bus)
                }
                other => other,
            }?;
            match bus.job(&answer)?.as_str() {
                "done" => Ok(()),
                result => {
                    let _ = self.reset(bus);
                    Err(BusError::Job(result.to_owned()))
                }
            }
        };
        self.with(at, "start", start)
    }

    /// Changes limits; what is absent stays as it is.
    pub fn update(&self, resources: &Resources, unified: bool) -> Result<()> {
        self.update_at(&addresses(), resources, unified)
    }

    fn update_at(&self, at: &Addresses<'_>, resources: &Resources, unified: bool) -> Result<()> {
        let properties = properties::of(resources, unified)?;
        if properties.is_empty() {
            return Ok(());
        }
        let mut body = Writer::default();
        body.text(&self.unit);
        // Until the next boot, as the unit itself.
        body.number(1);
        body.properties(&properties);
        // systemd answers first and writes its files then: what the caller writes must come after.
        self.with(at, "update", |bus| {
            bus.call("SetUnitProperties", "sba(sv)", &body)?;
            bus.settle()
        })
    }

    /// Ends the scope, whose processes have ended. Most often systemd has seen that by itself.
    pub fn stop(&self) -> Result<()> {
        self.stop_at(&addresses())
    }

    fn stop_at(&self, at: &Addresses<'_>) -> Result<()> {
        let mut body = Writer::default();
        body.text(&self.unit);
        body.text("replace");
        self.with(at, "stop", |bus| {
            match bus.call("StopUnit", "ss", &body) {
                Ok(answer) => drop(bus.job(&answer)?),
                Err(BusError::Refused { name, .. }) if name == ABSENT => return Ok(()),
                Err(error) => return Err(error),
            }
            self.reset(bus)
        })
    }

    /// Makes systemd forget a unit that failed; it has usually done so.
    fn reset(&self, bus: &mut Bus) -> Result<(), BusError> {
        let mut body = Writer::default();
        body.text(&self.unit);
        match bus.call("ResetFailedUnit", "s", &body) {
            Err(BusError::Refused { name, .. }) if name == ABSENT => Ok(()),
            other => other.map(drop),
        }
    }

    fn with<T>(
        &self,
        at: &Addresses<'_>,
        op: &'static str,
        work: impl FnOnce(&mut Bus) -> Result<T, BusError>,
    ) -> Result<T> {
        Bus::connect(at, &self.unit, LIMIT)
            .and_then(|mut bus| work(&mut bus))
            .map_err(|source| Error::Systemd { op, unit: self.unit.clone(), source: Box::new(source) })
    }
}

/// A slice's path: the names before its dashes are those of the slices around it.
fn expand(slice: &str) -> Result<PathBuf> {
    if slice == "-.slice" {
        return Ok(PathBuf::new());
    }
    let wrong = || Error::Spec(format!("systemd cgroup driver: {slice:?} is no name of a slice"));
    let stem = slice.strip_suffix(".slice").ok_or_else(wrong)?;
    if stem.contains('/') || stem.split('-').any(str::is_empty) {
        return Err(wrong());
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.map(|end| format!("{}.slice", &stem[..end])).collect())
}

#[cfg(test)]
mod tests;
