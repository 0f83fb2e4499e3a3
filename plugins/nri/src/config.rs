//! `io.containerd.nri.v1.nri`: containerd's configuration keys and defaults.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use windlass_core::{Error, Result};

/// The plugin's configuration. Times are written as Go writes them: `500ms`, `2s`, `1m30s`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Turns all of NRI off.
    pub disable: bool,
    /// Where plugins that nobody here has started register.
    pub socket_path: PathBuf,
    /// Plugins that are started: executables named `NN-name`.
    pub plugin_path: PathBuf,
    /// What they are configured with: `NN-name.conf` or `name.conf`.
    pub plugin_config_path: PathBuf,
    /// From a plugin's connection, or start, to its registration.
    pub plugin_registration_timeout: String,
    /// For the answer to one request.
    pub plugin_request_timeout: String,
    /// Makes no socket: only plugins that are started take part.
    pub disable_connections: bool,
    pub default_validator: Validator,
}

/// What the validator that is built in rejects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validator {
    pub enable: bool,
    pub reject_oci_hook_adjustment: bool,
    /// Other seccomp policies for containers that have the runtime's own, none, or one from a file.
    pub reject_runtime_default_seccomp_adjustment: bool,
    pub reject_unconfined_seccomp_adjustment: bool,
    pub reject_custom_seccomp_adjustment: bool,
    pub reject_namespace_adjustment: bool,
    pub reject_sysctl_adjustment: bool,
    /// Plugins, by name or `NN-name`, that must have been asked about every container.
    pub required_plugins: Vec<String>,
    /// The annotation by which a pod does without them.
    pub tolerate_missing_plugins_annotation: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            disable: false,
            socket_path: "/var/run/nri/nri.sock".into(),
            plugin_path: "/opt/nri/plugins".into(),
            plugin_config_path: "/etc/nri/conf.d".into(),
            plugin_registration_timeout: "5s".into(),
            plugin_request_timeout: "2s".into(),
            disable_connections: false,
            default_validator: Validator::default(),
        }
    }
}

/// What plugins are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub registration: Duration,
    pub request: Duration,
}

impl TryFrom<&Config> for Limits {
    type Error = Error;

    fn try_from(config: &Config) -> Result<Self> {
        Ok(Self {
            registration: duration("plugin_registration_timeout", &config.plugin_registration_timeout)?,
            request: duration("plugin_request_timeout", &config.plugin_request_timeout)?,
        })
    }
}

/// Limits of a limit.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Nothing can be done in no time, and nobody waits for more than a day.
fn duration(key: &str, text: &str) -> Result<Duration> {
    let bad =
        || Error::invalid(format!("{key} = {text:?} must be a time from 1ms to 24h, such as 500ms or 2s"));
    let given = windlass_core::duration::parse(text.trim()).ok_or_else(bad)?;
    if !(SHORTEST..=LONGEST).contains(&given) {
        return Err(bad());
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, millis) in [("5s", 5000), ("1m30s", 90_000), ("1.5s", 1500), ("250ms", 250)] {
            assert_eq!(duration("t", text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for bad in ["", "0s", "5", "s", "-1s", "1d", "25h", "1us", "1e9s"] {
            assert!(duration("t", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_defaults_are_containerds() {
        let limits = Limits::try_from(&Config::default()).unwrap();
        assert_eq!(limits, Limits { registration: Duration::from_secs(5), request: Duration::from_secs(2) });
        let config: Config = toml::from_str(
            "disable_connections = true\n[default_validator]\nenable = true\nrequired_plugins = [\"a\"]",
        )
        .unwrap();
        assert!(config.disable_connections && config.default_validator.enable && !config.disable);
        assert_eq!(config.default_validator.required_plugins, ["a"]);
    }
}
