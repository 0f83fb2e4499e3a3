//! The `linux` section, but for its resources.

use super::{Resources, null};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    #[serde(default, deserialize_with = "null")]
    pub uid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "null")]
    pub gid_mappings: Vec<IdMapping>,
    #[serde(default, deserialize_with = "null")]
    pub sysctl: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null")]
    pub resources: Resources,
    #[serde(default, deserialize_with = "null")]
    pub cgroups_path: String,
    #[serde(default, deserialize_with = "null")]
    pub namespaces: Vec<Namespace>,
    #[serde(default, deserialize_with = "null")]
    pub devices: Vec<Device>,
    #[serde(default, deserialize_with = "null")]
    pub net_devices: BTreeMap<String, NetDevice>,
    pub seccomp: Option<Seccomp>,
    #[serde(default, deserialize_with = "null")]
    pub rootfs_propagation: String,
    #[serde(default, deserialize_with = "null")]
    pub masked_paths: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub readonly_paths: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub mount_label: String,
    pub intel_rdt: Option<IntelRdt>,
    pub memory_policy: Option<MemoryPolicy>,
    pub personality: Option<Personality>,
    #[serde(default, deserialize_with = "null")]
    pub time_offsets: BTreeMap<String, TimeOffset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    Pid,
    Network,
    Mount,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: NamespaceKind,
    /// Empty: a new one.
    #[serde(default, deserialize_with = "null")]
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct IdMapping {
    #[serde(rename = "containerID")]
    pub container_id: u32,
    #[serde(rename = "hostID")]
    pub host_id: u32,
    pub size: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct TimeOffset {
    #[serde(default)]
    pub secs: i64,
    #[serde(default)]
    pub nanosecs: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub major: i64,
    #[serde(default)]
    pub minor: i64,
    pub file_mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct NetDevice {
    #[serde(default, deserialize_with = "null")]
    pub name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntelRdt {
    #[serde(default, rename = "closID", deserialize_with = "null")]
    pub clos_id: String,
    #[serde(default, deserialize_with = "null")]
    pub schemata: Vec<String>,
    #[serde(default, deserialize_with = "null")]
    pub l3_cache_schema: String,
    #[serde(default, deserialize_with = "null")]
    pub mem_bw_schema: String,
    #[serde(default, deserialize_with = "null")]
    pub enable_monitoring: bool,
    #[serde(default, rename = "enableCMT", deserialize_with = "null")]
    pub enable_cmt: bool,
    #[serde(default, rename = "enableMBM", deserialize_with = "null")]
    pub enable_mbm: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Personality {
    pub domain: String,
    #[serde(default, deserialize_with = "null")]
    pub flags: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct MemoryPolicy {
    pub mode: String,
    #[serde(default, deserialize_with = "null")]
    pub nodes: String,
    #[serde(default, deserialize_with = "null")]
    pub flags: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null")]
    pub architectures: Vec<String>,
    /// Absent is not the same as empty.
    pub flags: Option<Vec<String>>,
    #[serde(default, deserialize_with = "null")]
    pub listener_path: String,
    #[serde(default, deserialize_with = "null")]
    pub listener_metadata: String,
    #[serde(default, deserialize_with = "null")]
    pub syscalls: Vec<SyscallRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyscallRule {
    #[serde(deserialize_with = "null")]
    pub names: Vec<String>,
    pub action: String,
    pub errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null")]
    pub args: Vec<SyscallArg>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyscallArg {
    pub index: u32,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: String,
}

impl Linux {
    /// The namespace of this kind, if the container has one of its own (new or joined).
    pub fn namespace(&self, kind: NamespaceKind) -> Option<&Namespace> {
        self.namespaces.iter().find(|n| n.kind == kind)
    }

    /// True when a new namespace of this kind is made.
    pub fn makes(&self, kind: NamespaceKind) -> bool {
        self.namespace(kind).is_some_and(|n| n.path.is_empty())
    }
}
