//! The configuration as `crictl info` prints it and as tools read it: containerd's JSON names.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Config;

/// JSON names that are not the key's words joined.
const NAMES: &[(&str, &str)] = &[
    ("restrict_oom_score_adj", "restrictOOMScoreAdj"),
    ("device_ownership_from_security_context", "device_ownership_from_security_context"),
    ("netns_mounts_under_state_dir", "netnsMountsUnderStateDir"),
    ("enable_unprivileged_icmp", "enableUnprivilegedICMP"),
    ("enable_cdi", "enableCDI"),
    ("drain_exec_sync_io_timeout", "drainExecSyncIOTimeout"),
    ("enable_criu", "enableCRIU"),
    ("ignore_blockio_not_enabled_errors", "ignoreBlockIONotEnabledErrors"),
    ("pod_annotations", "PodAnnotations"),
    ("container_annotations", "ContainerAnnotations"),
    ("privileged_without_host_devices", "privileged_without_host_devices"),
    (
        "privileged_without_host_devices_all_devices_allowed",
        "privileged_without_host_devices_all_devices_allowed",
    ),
    ("io_type", "io_type"),
];

/// The whole configuration with the directories in use.
pub fn config(config: &Config, root: &Path, state: &Path, address: &str) -> Value {
    let value = serde_json::to_value(config).unwrap_or(Value::Null);
    let Value::Object(mut shown) = named(value) else { return Value::Null };
    shown.insert("containerdRootDir".into(), json!(root.parent().unwrap_or(root)));
    shown.insert("containerdEndpoint".into(), json!(address));
    shown.insert("rootDir".into(), json!(root));
    shown.insert("stateDir".into(), json!(state));
    Value::Object(shown)
}

/// The same with the keys of tables in their JSON names; the names of runtimes and their options stay as they are.
fn named(value: Value) -> Value {
    let Value::Object(table) = value else { return value };
    let mut shown = Map::new();
    for (key, value) in table {
        let value = match key.as_str() {
            "options" => value,
            "runtimes" => match value {
                Value::Object(all) => {
                    Value::Object(all.into_iter().map(|(name, v)| (name, named(v))).collect())
                }
                other => other,
            },
            _ => named(value),
        };
        shown.insert(name(&key), value);
    }
    Value::Object(shown)
}

fn name(key: &str) -> String {
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == key) {
        return (*name).to_owned();
    }
    let mut words = key.split('_');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        name.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_tools_read() {
        let shown = config(&Config::default(), Path::new("/r/plugin"), Path::new("/s/plugin"), "/sock");
        assert_eq!(shown["containerd"]["defaultRuntimeName"], "runc");
        assert_eq!(shown["containerd"]["runtimes"]["runc"]["runtimeType"], "io.containerd.runc.v2");
        assert_eq!(shown["cni"]["confDir"], "/etc/cni/net.d");
        assert_eq!(shown["containerdRootDir"], "/r");
        assert_eq!(shown["restrictOOMScoreAdj"], false);
        assert_eq!(shown["cdiSpecDirs"][0], "/etc/cdi");
    }
}
