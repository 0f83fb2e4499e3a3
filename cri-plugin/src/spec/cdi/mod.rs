//! The Container Device Interface: devices by name, described by files that vendors put on the node.
//!
//! Files are read when a device is asked for and not before: most containers ask for none, and a file may have come a
//! moment ago.

mod edits;
mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use windlass_api::cri;

use super::error::{Result, invalid, unsupported};
use super::settings::Settings;

const ANNOTATION: &str = "cdi.k8s.io/";
const MAX_DEVICES: usize = 4096;

/// The names that a container asks for, each once: in its own field, then in annotations.
pub fn asked(settings: &Settings, config: &cri::ContainerConfig) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let fields = config.cdi_devices.iter().map(|d| d.name.clone());
    let annotations = config.annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION));
    let annotated = annotations.flat_map(|(_, value)| value.split(',')).map(str::to_owned);
    if !settings.config.enable_cdi {
        // Annotations are words that others may use; the field is a request.
        let names: Vec<_> = fields.collect();
        if names.is_empty() {
            return Ok(names);
        }
        return unsupported(format!(
            "CDI devices ({}) requested but CDI support is explicitly disabled",
            names.join(", ")
        ));
    }
    for name in fields.chain(annotated) {
        if !valid_qualified(&name) {
            return invalid(format!("invalid CDI device name {name:?}"));
        }
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > MAX_DEVICES {
            return invalid("too many CDI devices");
        }
    }
    Ok(names)
}

/// Puts devices into a specification. One that no file describes, or two files of the same rank do, is an error. To be
/// called when the process' user is known.
pub fn inject(spec: &mut Value, dirs: &[impl AsRef<Path>], names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let files = file::all(dirs);
    let mut found: BTreeMap<&str, Vec<(&file::File, &file::Device)>> = BTreeMap::new();
    for name in names {
        let Some((kind, device)) = name.split_once('=') else {
            return invalid(format!("invalid CDI device name {name:?}"));
        };
        let of_kind = files.iter().filter(|f| f.kind == kind);
        let all = of_kind.flat_map(|f| f.devices.iter().map(move |d| (f, d)));
        let mut matching: Vec<_> = all.filter(|(_, d)| d.name.to_text() == device).collect();
        let top = matching.iter().map(|(f, _)| f.priority).max();
        matching.retain(|(f, _)| Some(f.priority) == top);
        found.insert(name, matching);
    }
    let missing: Vec<_> = found.iter().filter(|(_, all)| all.len() != 1).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        return unsupported(format!("unresolvable CDI devices {}", missing.join(", ")));
    }
    let mut done: Vec<&PathBuf> = Vec::new();
    for name in names {
        for (file, device) in found.get(name.as_str()).into_iter().flatten() {
            if !done.contains(&&file.path) {
                done.push(&file.path);
                edits::apply(spec, &file.container_edits)?;
            }
            edits::apply(spec, &device.container_edits)?;
        }
    }
    Ok(())
}

/// `vendor/class=device`.
fn valid_qualified(name: &str) -> bool {
    name.split_once('=').is_some_and(|(kind, device)| valid_kind(kind) && valid_name(device))
}

/// `vendor/class`, each of letters, digits, `.`, `-` and `_`, that begins with a letter and ends with none of the signs.
fn valid_kind(kind: &str) -> bool {
    let part = |p: &str| p.starts_with(|c: char| c.is_ascii_alphabetic()) && valid(p, "._-");
    kind.split_once('/').is_some_and(|(vendor, class)| part(vendor) && part(class))
}

fn valid_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && valid(name, "._-:")
}

fn valid(text: &str, signs: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}

#[cfg(test)]
#[path = "../tests/cdi.rs"]
mod tests;
