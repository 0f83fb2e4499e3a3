//! What is written down of pods and containers, as protobuf inside the records' extensions: fields may be added, numbers
//! are never used again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use windlass_api::cri;
use windlass_core::{Any, Error, Result};

/// Extension of a sandbox or container record: what does not change.
pub const RECORD: &str = "io.windlass.cri.record";
/// Extension: what changes.
pub const STATUS: &str = "io.windlass.cri.status";

/// A pod, as it was asked for.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxRecord {
    #[prost(message, optional, tag = "1")]
    pub config: Option<cri::PodSandboxConfig>,
    /// Name of the runtime handler, empty for the default one.
    #[prost(string, tag = "2")]
    pub handler: String,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "3")]
    pub created_at: i64,
    /// There is a process of the pod's own: a container and task with the pod's id.
    #[prost(bool, tag = "4")]
    pub pause: bool,
    /// Directory of the pod's namespace files, empty where the pod uses the host's.
    #[prost(string, tag = "5")]
    pub namespaces: String,
    /// The pod has a network namespace of its own.
    #[prost(bool, tag = "6")]
    pub network: bool,
}

/// A pod, as it is.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxStatus {
    #[prost(enumeration = "SandboxPhase", tag = "1")]
    pub phase: i32,
    /// First the primary address.
    #[prost(string, repeated, tag = "2")]
    pub ips: Vec<String>,
    /// What the network plugins answered, JSON.
    #[prost(bytes = "vec", tag = "3")]
    pub network: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub exited_at: i64,
    #[prost(message, optional, tag = "5")]
    pub overhead: Option<cri::LinuxContainerResources>,
    #[prost(message, optional, tag = "6")]
    pub resources: Option<cri::LinuxContainerResources>,
    /// Of the pod's own process, 0 for none.
    #[prost(uint32, tag = "7")]
    pub pid: u32,
    /// Network, namespaces and mounts have been taken down.
    #[prost(bool, tag = "8")]
    pub down: bool,
    /// How often the network plugins could not take the network down.
    #[prost(uint32, tag = "9")]
    pub failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SandboxPhase {
    /// Written before anything is made, so that a start after a crash finds what to clear away.
    Creating = 0,
    Ready = 1,
    NotReady = 2,
}

/// A container, as it was asked for.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerRecord {
    #[prost(message, optional, tag = "1")]
    pub config: Option<cri::ContainerConfig>,
    #[prost(string, tag = "2")]
    pub sandbox_id: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// Id of the image: its configuration's digest.
    #[prost(string, tag = "5")]
    pub image_id: String,
    /// A name of the image with its digest, where there is one.
    #[prost(string, tag = "6")]
    pub image_ref: String,
    /// Absolute, empty for none.
    #[prost(string, tag = "7")]
    pub log_path: String,
    /// Number of the signal that asks it to end.
    #[prost(uint32, tag = "8")]
    pub stop_signal: u32,
    #[prost(message, optional, tag = "9")]
    pub user: Option<cri::ContainerUser>,
    #[prost(string, tag = "10")]
    pub snapshotter: String,
    /// What was asked for, where it is restored from a checkpoint: then `config` names the image that the checkpoint was
    /// made of.
    #[prost(message, optional, tag = "11")]
    pub asked: Option<cri::ContainerConfig>,
}

/// A container, as it is.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatus {
    #[prost(int64, tag = "1")]
    pub started_at: i64,
    #[prost(int64, tag = "2")]
    pub finished_at: i64,
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
    #[prost(string, tag = "4")]
    pub reason: String,
    #[prost(string, tag = "5")]
    pub message: String,
    #[prost(message, optional, tag = "6")]
    pub resources: Option<cri::ContainerResources>,
    #[prost(uint32, tag = "7")]
    pub pid: u32,
    /// Written before the container is whole, so that a start after a crash finds what to clear away.
    #[prost(bool, tag = "8")]
    pub creating: bool,
}

/// A message as an extension holds it.
pub fn encode(message: &impl Message, name: &str) -> Any {
    Any { type_url: format!("windlass.cri/{name}"), value: message.encode_to_vec().into() }
}

/// A message out of an extension. *Data loss* where it cannot be read.
pub fn decode<M: Message + Default>(any: Option<&Any>, what: &str) -> Result<M> {
    let any = any.ok_or_else(|| Error::data_loss(format!("{what}: the record lacks its extension")))?;
    M::decode(&any.value[..])
        .map_err(|source| Error::data_loss(format!("{what}: unreadable record")).with_source(source))
}

/// The time of nanoseconds since 1970.
pub fn time(nanos: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// Nanoseconds since 1970, as CRI tells times.
pub fn nanos(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
