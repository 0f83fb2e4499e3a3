//! Names for the generated modules, shorter than the packages.

#[allow(clippy::all, clippy::unwrap_used, clippy::doc_markdown, dead_code)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/grpc/mod.rs"));
}

/// `containerd.services.*.v1`.
pub mod services {
    use super::generated::containerd::services as s;
    pub use s::containers::v1 as containers;
    pub use s::content::v1 as content;
    pub use s::diff::v1 as diff;
    pub use s::events::ttrpc::v1 as forward;
    pub use s::events::v1 as events;
    pub use s::images::v1 as images;
    pub use s::introspection::v1 as introspection;
    pub use s::leases::v1 as leases;
    pub use s::mounts::v1 as mounts;
    pub use s::namespaces::v1 as namespaces;
    pub use s::sandbox::v1 as sandbox;
    pub use s::snapshots::v1 as snapshots;
    pub use s::streaming::v1 as streaming;
    pub use s::tasks::v1 as tasks;
    pub use s::transfer::v1 as transfer;
    pub use s::version::v1 as version;
}

/// `containerd.events`, and the image events, whose package is the image service's.
pub mod events {
    pub use super::generated::containerd::events::*;
    pub use super::services::images::{ImageCreate, ImageDelete, ImageUpdate};
}

/// `containerd.types.transfer`: sources and destinations of a transfer, and what its streams carry.
pub use generated::containerd::types::transfer;

/// `containerd.types`.
pub mod types {
    pub use super::generated::containerd::types::*;
    /// `containerd.v1.types`: states of tasks and processes.
    pub use super::generated::containerd::v1::types as task;
}

/// `containerd.runc.v1`: options of the runtime `io.containerd.runc.v2`.
pub use generated::containerd::runc::v1 as runc;
/// `containerd.runtime.bootstrap.v1`.
pub use generated::containerd::runtime::bootstrap::v1 as bootstrap;
/// `google.rpc`.
pub use generated::google::rpc;
/// `io.containerd.cgroups.v1`.
pub use generated::io::containerd::cgroups::v1 as cgroups_v1;
/// `io.containerd.cgroups.v2`.
pub use generated::io::containerd::cgroups::v2 as cgroups_v2;
/// `runtimeoptions.v1`: options of runtimes with a configuration file.
pub use generated::runtimeoptions::v1 as runtimeoptions;

/// `containerd.task.v2`, `containerd.task.v3` and `containerd.runtime.sandbox.v1` for shims that speak gRPC.
pub mod grpc_shim {
    pub use super::generated::containerd::runtime::sandbox::v1 as sandbox_v1;
    pub use super::generated::containerd::task::{v2 as task_v2, v3 as task_v3};
}

/// `runtime.v1`: the container runtime interface.
#[cfg(feature = "cri")]
pub use generated::runtime::v1 as cri;

/// `google.protobuf` as prost has it; `google.protobuf.Empty` is `()`.
pub use prost_types::{Any, Duration, FieldMask, Struct, Timestamp, Value};
