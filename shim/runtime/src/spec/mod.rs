//! The OCI runtime configuration: exactly what is honoured. A field that these structs do not know is an error, for
//! the container would run with less (or more) than was asked; sections of other platforms are passed over.

mod linux;
mod resources;
mod validate;

pub use linux::*;
pub use resources::*;
pub use validate::sysctl_dots;

use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The largest configuration that is read.
pub const MAX_CONFIG: usize = 16 << 20;

/// Go writes an absent list as `null`.
fn null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    #[serde(default)]
    pub oci_version: String,
    pub process: Option<Process>,
    pub root: Option<Root>,
    #[serde(default, deserialize_with = "null")]
    pub hostname: String,
    #[serde(default, deserialize_with = "null")]
    pub domainname: String,
    #[serde(default, deserialize_with = "null")]
    pub mounts: Vec<Mount>,
    #[serde(default, deserialize_with = "null")]
    pub hooks: Hooks,
    #[serde(default, deserialize_with = "null")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null")]
    pub linux: Linux,
    #[serde(default)]
    #[expect(dead_code, reason = "known, of no meaning here")]
    solaris: serde::de::IgnoredAny,
    #[serde(default)]
    #[expect(dead_code, reason = "known, of no meaning here")]
    windows: serde::de::IgnoredAny,
    #[serde(default)]
    #[expect(dead_code, reason = "known, of no meaning here")]
    vm: serde::de::IgnoredAny,
    #[serde(default)]
    #[expect(dead_code, reason = "known, of no meaning here")]
    zos: serde::de::IgnoredAny,
    #[serde(default)]
    #[expect(dead_code, reason = "known, of no meaning here")]
    freebsd: serde::de::IgnoredAny,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Root {
    pub path: String,
    #[serde(default)]
    pub readonly: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    pub destination: String,
    #[serde(default, rename = "type", deserialize_with = "null")]
    pub fstype: String,
    #[serde(default, deserialize_with = "null")]
    pub source: String,
    #[serde(default, deserialize_with = "null")]
    pub options: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "null")]
    pub gid_mappings: Vec<IdMapping>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    #[serde(default)]
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    #[serde(default, deserialize_with = "null")]
    pub user: User,
    #[serde(default, deserialize_with = "null")]
    pub args: Vec<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "known, of no meaning here")]
    command_line: serde::de::IgnoredAny,
    #[serde(default, deserialize_with = "null")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub cwd: String,
    pub capabilities: Option<Capabilities>,
    #[serde(default, deserialize_with = "null")]
    pub rlimits: Vec<Rlimit>,
    #[serde(default)]
    pub no_new_privileges: bool,
    #[serde(default, deserialize_with = "null")]
    pub apparmor_profile: String,
    pub oom_score_adj: Option<i32>,
    pub scheduler: Option<Scheduler>,
    #[serde(default, deserialize_with = "null")]
    pub selinux_label: String,
    pub io_priority: Option<IoPriority>,
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct ConsoleSize {
    pub height: u16,
    pub width: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    pub umask: Option<u32>,
    #[serde(default, deserialize_with = "null")]
    pub additional_gids: Vec<u32>,
    /// Meant for Windows; clients fill it in all the same.
    #[serde(default)]
    #[expect(dead_code, reason = "known, of no meaning here")]
    username: serde::de::IgnoredAny,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Capabilities {
    #[serde(default, deserialize_with = "null")]
    pub bounding: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub effective: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub inheritable: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub permitted: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub ambient: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Rlimit {
    #[serde(rename = "type")]
    pub name: String,
    pub hard: u64,
    pub soft: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Scheduler {
    pub policy: String,
    #[serde(default)]
    pub nice: i32,
    #[serde(default)]
    pub priority: i32,
    #[serde(default, deserialize_with = "null")]
    pub flags: Vec<String>,
    #[serde(default)]
    pub runtime: u64,
    #[serde(default)]
    pub deadline: u64,
    #[serde(default)]
    pub period: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct IoPriority {
    pub class: String,
    #[serde(default)]
    pub priority: i32,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct CpuAffinity {
    #[serde(default, deserialize_with = "null")]
    pub initial: String,
    #[serde(default, rename = "final", deserialize_with = "null")]
    pub finally: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    #[serde(default, deserialize_with = "null")]
    pub prestart: Vec<Hook>,
    #[serde(default, deserialize_with = "null")]
    pub create_runtime: Vec<Hook>,
    #[serde(default, deserialize_with = "null")]
    pub create_container: Vec<Hook>,
    #[serde(default, deserialize_with = "null")]
    pub start_container: Vec<Hook>,
    #[serde(default, deserialize_with = "null")]
    pub poststart: Vec<Hook>,
    #[serde(default, deserialize_with = "null")]
    pub poststop: Vec<Hook>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Hook {
    pub path: String,
    #[serde(default, deserialize_with = "null")]
    pub args: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub env: Vec<String>,
    /// Seconds; more than zero.
    pub timeout: Option<i64>,
}

impl Spec {
    /// Reads and checks a configuration.
    pub fn parse(json: &[u8]) -> Result<Spec> {
        let spec: Spec =
            serde_json::from_slice(json).map_err(|e| Error::Spec(format!("config.json: {e}")))?;
        spec.validate()?;
        Ok(spec)
    }
}

impl Process {
    /// Reads and checks a process of its own, as `exec` takes it.
    pub fn parse(json: &[u8]) -> Result<Process> {
        let process: Process =
            serde_json::from_slice(json).map_err(|e| Error::Spec(format!("process: {e}")))?;
        process.validate()?;
        Ok(process)
    }
}
