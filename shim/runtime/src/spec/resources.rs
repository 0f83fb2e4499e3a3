//! `linux.resources`: the limits that control groups keep.

use super::null;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    #[serde(default, deserialize_with = "null")]
    pub devices: Vec<DeviceRule>,
    pub memory: Option<Memory>,
    pub cpu: Option<Cpu>,
    pub pids: Option<PidsLimit>,
    #[serde(rename = "blockIO")]
    pub block_io: Option<BlockIo>,
    #[serde(default, deserialize_with = "null")]
    pub hugepage_limits: Vec<HugepageLimit>,
    pub network: Option<NetworkClass>,
    #[serde(default, deserialize_with = "null")]
    pub rdma: BTreeMap<String, RdmaLimit>,
    #[serde(default, deserialize_with = "null")]
    pub unified: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct DeviceRule {
    #[serde(default)]
    pub allow: bool,
    /// `a`, `c`, `b`, or empty for `a`.
    #[serde(default, rename = "type", deserialize_with = "null")]
    pub kind: String,
    /// Absent or -1: all.
    pub major: Option<i64>,
    pub minor: Option<i64>,
    #[serde(default, deserialize_with = "null")]
    pub access: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    pub limit: Option<i64>,
    pub reservation: Option<i64>,
    pub swap: Option<i64>,
    /// Obsolete: the kernel no longer keeps it, and runtimes pass it over.
    #[expect(dead_code, reason = "known, of no meaning here")]
    kernel: Option<i64>,
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Option<i64>,
    pub swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    pub disable_oom_killer: Option<bool>,
    /// Obsolete: groups are always hierarchical.
    #[expect(dead_code, reason = "known, of no meaning here")]
    use_hierarchy: Option<bool>,
    pub check_before_update: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    pub shares: Option<u64>,
    pub quota: Option<i64>,
    pub burst: Option<u64>,
    pub period: Option<u64>,
    pub realtime_runtime: Option<i64>,
    pub realtime_period: Option<u64>,
    #[serde(default, deserialize_with = "null")]
    pub cpus: String,
    #[serde(default, deserialize_with = "null")]
    pub mems: String,
    pub idle: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct PidsLimit {
    pub limit: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockIo {
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
    #[serde(default, deserialize_with = "null")]
    pub weight_device: Vec<WeightDevice>,
    #[serde(default, deserialize_with = "null")]
    pub throttle_read_bps_device: Vec<ThrottleDevice>,
    #[serde(default, deserialize_with = "null")]
    pub throttle_write_bps_device: Vec<ThrottleDevice>,
    #[serde(default, rename = "throttleReadIOPSDevice", deserialize_with = "null")]
    pub throttle_read_iops_device: Vec<ThrottleDevice>,
    #[serde(default, rename = "throttleWriteIOPSDevice", deserialize_with = "null")]
    pub throttle_write_iops_device: Vec<ThrottleDevice>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightDevice {
    pub major: i64,
    pub minor: i64,
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ThrottleDevice {
    pub major: i64,
    pub minor: i64,
    pub rate: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HugepageLimit {
    #[serde(rename = "pageSize")]
    pub page_size: String,
    pub limit: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct NetworkClass {
    #[serde(rename = "classID")]
    pub class_id: Option<u32>,
    #[serde(default, deserialize_with = "null")]
    pub priorities: Vec<InterfacePriority>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct InterfacePriority {
    pub name: String,
    pub priority: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RdmaLimit {
    pub hca_handles: Option<u32>,
    pub hca_objects: Option<u32>,
}
