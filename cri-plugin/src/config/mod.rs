//! containerd's configuration keys of `io.containerd.cri.v1.runtime`, with its defaults and a few of our own.
//!
//! - `runtime`: runtime handlers. `cni`: networks. `server`: the streaming server's keys (`io.containerd.grpc.v1.cri`).
//! - `shown`: the configuration as `crictl info` prints it.

mod cni;
mod runtime;
mod server;
mod shown;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use windlass_core::{Error, Result};

pub use cni::Cni;
pub use runtime::{Containerd, Handler, Runtime};
pub use server::Server;

/// When a pod has a process of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pause {
    /// Where its containers share a PID namespace, or the runtime is somebody else's.
    #[default]
    Auto,
    Always,
}

/// The keys of `io.containerd.cri.v1.runtime`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub enable_selinux: bool,
    pub selinux_category_range: u32,
    /// Bytes; none or less is no limit.
    pub max_container_log_line_size: i64,
    pub disable_apparmor: bool,
    pub restrict_oom_score_adj: bool,
    pub disable_proc_mount: bool,
    pub unset_seccomp_profile: String,
    pub tolerate_missing_hugetlb_controller: bool,
    pub disable_hugetlb_controller: bool,
    pub device_ownership_from_security_context: bool,
    pub ignore_image_defined_volumes: bool,
    /// They always are, so that nothing is done with it.
    pub netns_mounts_under_state_dir: bool,
    pub enable_unprivileged_ports: bool,
    pub enable_unprivileged_icmp: bool,
    pub enable_cdi: bool,
    pub cdi_spec_dirs: Vec<String>,
    /// Go's notation; `0s` is no limit.
    pub drain_exec_sync_io_timeout: String,
    pub ignore_deprecation_warnings: Vec<String>,
    pub stats_collect_period: String,
    pub stats_retention_period: String,
    pub enable_criu: bool,
    /// Containers may be made of checkpoints.
    pub enable_experimental_restore_via_create: bool,
    /// Ours.
    pub pause: Pause,
    pub containerd: Containerd,
    pub cni: Cni,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enable_selinux: false,
            selinux_category_range: 1024,
            max_container_log_line_size: 16 << 10,
            disable_apparmor: false,
            restrict_oom_score_adj: false,
            disable_proc_mount: false,
            unset_seccomp_profile: String::new(),
            tolerate_missing_hugetlb_controller: true,
            disable_hugetlb_controller: true,
            device_ownership_from_security_context: false,
            ignore_image_defined_volumes: false,
            netns_mounts_under_state_dir: false,
            enable_unprivileged_ports: true,
            enable_unprivileged_icmp: true,
            enable_cdi: true,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            drain_exec_sync_io_timeout: "0s".into(),
            ignore_deprecation_warnings: Vec::new(),
            stats_collect_period: String::new(),
            stats_retention_period: String::new(),
            enable_criu: true,
            enable_experimental_restore_via_create: false,
            pause: Pause::Auto,
            containerd: Containerd::default(),
            cni: Cni::default(),
        }
    }
}

impl Config {
    /// Checks what no type can hold. Called once, before anything starts.
    pub fn validate(&self) -> Result<()> {
        self.containerd.validate()?;
        self.cni.validate()?;
        for (key, text) in [
            ("drain_exec_sync_io_timeout", &self.drain_exec_sync_io_timeout),
            ("stats_collect_period", &self.stats_collect_period),
            ("stats_retention_period", &self.stats_retention_period),
        ] {
            duration(text).map_err(|error| error.context(key))?;
        }
        match self.unset_seccomp_profile.as_str() {
            "" | "unconfined" | "runtime/default" | "docker/default" => Ok(()),
            other if other.starts_with("localhost/") => Ok(()),
            other => Err(Error::invalid(format!(
                "unset_seccomp_profile: {other:?} is none of unconfined, runtime/default, localhost/<path>"
            ))),
        }
    }

    /// Logs what has no effect here.
    pub fn warn(&self) {
        for (key, why) in self.ineffective() {
            tracing::warn!("{key} has no effect: {why}");
        }
    }

    /// Keys that are set and do nothing, and why.
    fn ineffective(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        if !self.ignore_deprecation_warnings.is_empty() {
            found.push(("ignore_deprecation_warnings", "there are no such warnings here"));
        }
        found
    }

    /// The runtime handler of a name, the default one for an empty name. *Invalid argument* for an unknown one.
    pub fn handler(&self, name: &str) -> Result<Handler<'_>> {
        self.containerd.handler(name)
    }

    /// Whether a pod of this handler has a process of its own in any case.
    pub fn always_pauses(&self, handler: &Handler<'_>) -> bool {
        handler.config.pause.unwrap_or(self.pause) == Pause::Always || !handler.is_ours()
    }

    /// How long the output of an exec may last after its process; `None` for no limit.
    pub fn drain_timeout(&self) -> Option<Duration> {
        duration(&self.drain_exec_sync_io_timeout).ok().filter(|limit| !limit.is_zero())
    }

    /// How often figures are taken for rates.
    pub fn stats_period(&self) -> Duration {
        duration(&self.stats_collect_period).ok().filter(|d| !d.is_zero()).unwrap_or(Duration::from_secs(1))
    }

    /// The configuration and directories as tools read them, JSON.
    pub fn shown(&self, root: &std::path::Path, state: &std::path::Path, address: &str) -> serde_json::Value {
        shown::config(self, root, state, address)
    }
}

/// A duration in Go's notation, `1m30s`; empty is none. *Invalid argument*.
pub fn duration(text: &str) -> Result<Duration> {
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    windlass_core::duration::parse(text)
        .ok_or_else(|| Error::invalid(format!("{text:?} is not a duration like \"1m30s\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_containerds() {
        let config = Config::default();
        config.validate().expect("defaults are valid");
        let handler = config.handler("").expect("there is a default handler");
        assert_eq!((handler.name, handler.runtime_name()), ("runc", "io.containerd.runc.v2"));
        assert!(!config.always_pauses(&handler));
        assert!(config.handler("nowhere").is_err_and(|e| e.message().contains("nowhere")));
        assert_eq!(config.drain_timeout(), None);
        let limits = config.cni.limits().expect("there are limits");
        assert_eq!((limits.exec, limits.status), (Duration::from_secs(60), Duration::from_secs(10)));
    }

    #[test]
    fn a_table_of_containerds_is_read() {
        let config: Config = toml::from_str(
            r#"
            enable_selinux = true
            drain_exec_sync_io_timeout = "1m30s"
            [containerd]
              default_runtime_name = "crun"
              [containerd.runtimes.crun]
                runtime_type = "io.containerd.runc.v2"
                [containerd.runtimes.crun.options]
                  BinaryName = "/usr/bin/crun"
                  SystemdCgroup = true
              [containerd.runtimes.kata]
                runtime_type = "io.containerd.kata.v2"
                snapshotter = "devmapper"
            "#,
        )
        .expect("the table is well formed");
        config.validate().expect("the table is valid");
        assert_eq!(config.handler("").expect("named").name, "crun");
        assert!(config.always_pauses(&config.handler("kata").expect("it is configured")));
        assert_eq!(config.drain_timeout(), Some(Duration::from_secs(90)));
        // As containerd has it, a table of runtimes does not take the default one away.
        assert!(config.handler("runc").is_ok());
    }

    #[test]
    fn keys_without_effect_are_named() {
        assert_eq!(Config::default().ineffective(), []);
        let config: Config =
            toml::from_str("ignore_deprecation_warnings = ['x']").expect("the table is well formed");
        let keys: Vec<_> = config.ineffective().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["ignore_deprecation_warnings"]);
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, word) in [
            ("drain_exec_sync_io_timeout = \"soon\"", "drain_exec_sync_io_timeout"),
            ("[containerd]\ndefault_runtime_name = \"x\"", "default_runtime_name"),
            ("[cni]\nip_pref = \"x\"", "ip_pref"),
            ("[cni]\nexec_timeout = \"soon\"", "cni.exec_timeout"),
            ("[cni]\nexec_timeout = \"0s\"", "cni.exec_timeout"),
            ("[cni]\nstatus_timeout = \"\"", "cni.status_timeout"),
            ("unset_seccomp_profile = \"x\"", "unset_seccomp_profile"),
        ] {
            let error = toml::from_str::<Config>(text)
                .map_err(|e| Error::invalid(e.to_string()))
                .and_then(|c| c.validate());
            assert!(error.as_ref().is_err_and(|e| e.message().contains(word)), "{text}: {error:?}");
        }
    }
}
