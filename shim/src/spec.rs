//! The few fields of a bundle's `config.json` that the shim itself looks at.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Context, Error, Result};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    annotations: HashMap<String, String>,
    process: Process,
    linux: Linux,
    hooks: HashMap<String, Option<Vec<IgnoredAny>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Process {
    apparmor_profile: String,
    selinux_label: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    r#type: String,
    path: String,
}

/// Annotations that put containers into one shim, the first one that is there wins.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

impl Spec {
    pub fn read(bundle: &Path) -> Result<Spec> {
        let path = bundle.join("config.json");
        let json = fs::read(&path).at("read", &path)?;
        Self::parse(&json).map_err(|error| Error::invalid(format!("parse {}: {error}", path.display())))
    }

    pub fn parse(json: &[u8]) -> serde_json::Result<Spec> {
        serde_json::from_slice(json)
    }

    /// The group that the container wants to share a shim with.
    pub fn group(&self) -> Option<&str> {
        GROUPS.iter().find_map(|name| self.annotations.get(*name)).map(String::as_str)
    }

    /// Whether the end of init leaves the container's other processes alive, for want of a pid namespace of its own.
    pub fn shares_pids(&self) -> bool {
        !self.linux.namespaces.iter().any(|ns| ns.r#type == "pid" && ns.path.is_empty())
    }

    /// Whether other people's programs run while the container is made, started or removed.
    pub fn has_hooks(&self) -> bool {
        self.hooks.values().flatten().any(|hooks| !hooks.is_empty())
    }

    /// Whether a security module may judge the files behind the process's descriptors by their path or label.
    pub fn confined(&self) -> bool {
        !self.process.apparmor_profile.is_empty() || !self.process.selinux_label.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks() {
        let hooks = |json: &str| Spec::parse(json.as_bytes()).unwrap().has_hooks();
        assert!(!hooks(r#"{"hooks":{"prestart":[],"poststop":null}}"#));
        assert!(hooks(r#"{"hooks":{"createRuntime":[{"path":"/h"}]}}"#));
    }

    #[test]
    fn group_namespaces_and_labels() {
        let spec = Spec::parse(
            br#"{"ociVersion":"1.2.0","annotations":{"io.kubernetes.cri.sandbox-id":"pod"},
                "process":{"args":["sh"],"apparmorProfile":"cri"},"linux":{"namespaces":[{"type":"pid"}]}}"#,
        )
        .unwrap();
        assert_eq!(spec.group(), Some("pod"));
        assert!(!spec.shares_pids());
        assert!(spec.confined());
        let spec =
            Spec::parse(br#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#).unwrap();
        assert!(spec.shares_pids() && spec.group().is_none() && !spec.confined());
    }
}
