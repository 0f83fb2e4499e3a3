//! Runtime handlers: which shim and runtime the containers of a pod are run by.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use serde::{Deserialize, Deserializer, Serialize};
use windlass_api::{runc, runtimeoptions};
use windlass_core::{Any, Error, Result};

use super::Pause;

/// Our shim's name, which is containerd's for runc.
pub const RUNC: &str = "io.containerd.runc.v2";

/// The table `containerd`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Containerd {
    pub default_runtime_name: String,
    pub ignore_blockio_not_enabled_errors: bool,
    pub ignore_rdt_not_enabled_errors: bool,
    #[serde(deserialize_with = "with_default")]
    pub runtimes: BTreeMap<String, Runtime>,
}

impl Default for Containerd {
    fn default() -> Self {
        Self {
            default_runtime_name: "runc".into(),
            ignore_blockio_not_enabled_errors: false,
            ignore_rdt_not_enabled_errors: false,
            runtimes: default_runtimes(),
        }
    }
}

fn default_runtimes() -> BTreeMap<String, Runtime> {
    BTreeMap::from([("runc".to_owned(), Runtime { runtime_type: RUNC.into(), ..Runtime::default() })])
}

/// A table of runtimes adds to the default one.
fn with_default<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Runtime>, D::Error> {
    let mut all = default_runtimes();
    all.extend(BTreeMap::<String, Runtime>::deserialize(from)?);
    Ok(all)
}

/// One table below `containerd.runtimes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Runtime {
    pub runtime_type: String,
    /// A shim's path, instead of what the type's name leads to.
    pub runtime_path: String,
    /// Patterns of pod annotations that are passed on.
    pub pod_annotations: Vec<String>,
    /// Patterns of container annotations that are passed on.
    pub container_annotations: Vec<String>,
    pub options: toml::Table,
    pub privileged_without_host_devices: bool,
    pub privileged_without_host_devices_all_devices_allowed: bool,
    pub cgroup_writable: bool,
    /// A specification that every container's begins as, JSON.
    pub base_runtime_spec: String,
    pub cni_conf_dir: String,
    pub cni_max_conf_num: usize,
    pub snapshotter: String,
    pub sandboxer: String,
    pub io_type: String,
    /// Ours; the whole plugin's where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            runtime_type: RUNC.into(),
            runtime_path: String::new(),
            pod_annotations: Vec::new(),
            container_annotations: Vec::new(),
            options: toml::Table::new(),
            privileged_without_host_devices: false,
            privileged_without_host_devices_all_devices_allowed: false,
            cgroup_writable: false,
            base_runtime_spec: String::new(),
            cni_conf_dir: String::new(),
            cni_max_conf_num: 0,
            snapshotter: String::new(),
            sandboxer: "podsandbox".into(),
            io_type: "fifo".into(),
            pause: None,
        }
    }
}

impl Containerd {
    pub fn validate(&self) -> Result<()> {
        if !self.runtimes.contains_key(&self.default_runtime_name) {
            return Err(Error::invalid(format!(
                "default_runtime_name: there is no table containerd.runtimes.{}",
                self.default_runtime_name
            )));
        }
        for (name, runtime) in &self.runtimes {
            runtime.validate().map_err(|error| error.context(format!("containerd.runtimes.{name}")))?;
        }
        Ok(())
    }

    pub fn handler(&self, name: &str) -> Result<Handler<'_>> {
        let name = if name.is_empty() { self.default_runtime_name.as_str() } else { name };
        let (name, config) = self.runtimes.get_key_value(name).ok_or_else(|| {
            let known: Vec<_> = self.runtimes.keys().map(String::as_str).collect();
            Error::invalid(format!("no runtime for {name:?} is configured; there are: {}", known.join(", ")))
        })?;
        Ok(Handler { name, config })
    }
}

impl Runtime {
    fn validate(&self) -> Result<()> {
        if self.runtime_type.is_empty() {
            return Err(Error::invalid("runtime_type is empty"));
        }
        if !self.runtime_path.is_empty() && !self.runtime_path.starts_with('/') {
            return Err(Error::invalid(format!(
                "runtime_path: {:?} is not an absolute path",
                self.runtime_path
            )));
        }
        if self.privileged_without_host_devices_all_devices_allowed && !self.privileged_without_host_devices {
            return Err(Error::invalid(
                "privileged_without_host_devices_all_devices_allowed needs privileged_without_host_devices",
            ));
        }
        if !matches!(self.sandboxer.as_str(), "" | "podsandbox" | "shim") {
            return Err(Error::invalid(format!(
                "sandboxer: {:?} is neither podsandbox nor shim",
                self.sandboxer
            )));
        }
        if !matches!(self.io_type.as_str(), "" | "fifo" | "streaming") {
            return Err(Error::invalid(format!("io_type: {:?} is neither fifo nor streaming", self.io_type)));
        }
        if self.cgroup_writable && !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            return Err(Error::invalid("cgroup_writable needs cgroup v2 alone"));
        }
        Ok(())
    }
}

/// A runtime handler: its name and configuration.
#[derive(Clone, Copy, Debug)]
pub struct Handler<'a> {
    pub name: &'a str,
    pub config: &'a Runtime,
}

impl<'a> Handler<'a> {
    /// *Unimplemented* for what a configuration may say and this build does not do.
    pub fn usable(&self) -> Result<()> {
        let wants = |key: &str, value: &str| {
            Err(Error::unimplemented(format!(
                "runtime {}: {key} = {value:?} is not supported by this build",
                self.name
            )))
        };
        match (self.config.sandboxer.as_str(), self.config.io_type.as_str()) {
            ("shim", _) => wants("sandboxer", "shim"),
            (_, "streaming") => wants("io_type", "streaming"),
            _ => Ok(()),
        }
    }

    /// What the task manager finds the shim by.
    pub fn runtime_name(&self) -> &'a str {
        if self.config.runtime_path.is_empty() {
            &self.config.runtime_type
        } else {
            &self.config.runtime_path
        }
    }

    /// Whether the shim is one for runc and the like, whose containers join namespaces by path.
    pub fn is_ours(&self) -> bool {
        self.config.runtime_type == RUNC
    }

    /// The runtime's program, empty for the embedded one.
    pub fn binary(&self) -> &'a str {
        self.option("BinaryName").and_then(toml::Value::as_str).unwrap_or_default()
    }

    /// Whether cgroups are made by systemd.
    pub fn systemd_cgroup(&self) -> bool {
        self.option("SystemdCgroup").and_then(toml::Value::as_bool).unwrap_or(false)
    }

    /// The snapshotter of its containers, where it has one of its own.
    pub fn snapshotter(&self) -> Option<&'a str> {
        Some(self.config.snapshotter.as_str()).filter(|s| !s.is_empty())
    }

    fn option(&self, key: &str) -> Option<&'a toml::Value> {
        self.config.options.get(key)
    }

    /// The options as the shim is given them; `None` where nothing is said.
    pub fn options(&self) -> Option<Any> {
        if self.config.options.is_empty() {
            return None;
        }
        if self.is_ours() {
            let text = |key| self.option(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
            let flag = |key| self.option(key).and_then(toml::Value::as_bool).unwrap_or(false);
            let id = |key| {
                let number = self.option(key).and_then(toml::Value::as_integer);
                number.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
            };
            let options = runc::Options {
                no_pivot_root: flag("NoPivotRoot"),
                no_new_keyring: flag("NoNewKeyring"),
                shim_cgroup: text("ShimCgroup"),
                io_uid: id("IoUid"),
                io_gid: id("IoGid"),
                binary_name: text("BinaryName"),
                root: text("Root"),
                systemd_cgroup: flag("SystemdCgroup"),
                criu_image_path: text("CriuImagePath"),
                criu_work_path: text("CriuWorkPath"),
                ..runc::Options::default()
            };
            return Some(any("containerd.runc.v1.Options", &options));
        }
        let text = |key| self.option(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
        let mut options = runtimeoptions::Options {
            type_url: text("TypeUrl"),
            config_path: text("ConfigPath"),
            ..runtimeoptions::Options::default()
        };
        // Without a file, the runtime gets the whole table.
        if options.config_path.is_empty() {
            options.config_body = self.config.options.to_string().into_bytes();
        }
        Some(any("runtimeoptions.v1.Options", &options))
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: name.to_owned(), value: message.encode_to_vec().into() }
}
