//! What daemon and shims say to each other over ttrpc, and what a shim needs besides (bootstrap, options, metrics).
//!
//! Messages are generated for rust-protobuf's lite runtime: they parse and print, they do not reflect. A method that a
//! service leaves out answers UNIMPLEMENTED.

macro_rules! generated {
    ($group:literal) => {
        include!(concat!(env!("OUT_DIR"), "/shim/", $group, "/mod.rs"));
    };
}

/// Types that the services share: mounts, task states, platforms, metrics, runtime info.
#[allow(clippy::all)]
pub mod types {
    generated!("types");
}

/// `containerd.task.v2.Task`.
#[allow(clippy::all)]
pub mod task_v2 {
    use super::types::{mount, task};
    generated!("task_v2");
    pub use self::shim::*;
    pub use self::shim_ttrpc::{Task, TaskClient, create_task};
}

/// `containerd.task.v3.Task`. Same messages as [`task_v2`], other types.
#[allow(clippy::all)]
pub mod task_v3 {
    use super::types::{mount, task};
    generated!("task_v3");
    pub use self::shim::*;
    pub use self::shim_ttrpc::{Task, TaskClient, create_task};
}

/// `containerd.runtime.sandbox.v1.Sandbox`.
#[allow(clippy::all)]
pub mod sandbox_v1 {
    use super::types::{metrics, mount, platform};
    generated!("sandbox_v1");
    pub use self::sandbox::*;
    pub use self::sandbox_ttrpc::{Sandbox, SandboxClient, create_sandbox};
}

/// `containerd.services.events.ttrpc.v1.Events`: how events reach the daemon.
#[allow(clippy::all)]
pub mod forward {
    generated!("forward");
    pub use self::event::Envelope;
    pub use self::events::*;
    pub use self::events_ttrpc::{Events, EventsClient, create_events};
}

/// Task events, `containerd.events.*`.
#[allow(clippy::all)]
pub mod events {
    use super::types::mount;
    generated!("events");
    pub use self::task::*;
}

/// `containerd.runc.v1`: runtime options and checkpoint options.
#[allow(clippy::all)]
pub mod runc {
    generated!("runc");
    pub use self::oci::*;
}

/// `runtimeoptions.v1`: options of runtimes with a configuration file.
#[allow(clippy::all)]
pub mod runtimeoptions {
    generated!("runtimeoptions");
    pub use self::api::*;
}

/// `containerd.runtime.bootstrap.v1`: input and answer of `shim start`.
#[allow(clippy::all)]
pub mod bootstrap {
    generated!("bootstrap");
    pub use self::bootstrap::*;
}

/// `io.containerd.cgroups.v1`.
#[allow(clippy::all)]
pub mod cgroups_v1 {
    generated!("cgroups_v1");
    pub use self::metrics::*;
}

/// `io.containerd.cgroups.v2`.
#[allow(clippy::all)]
pub mod cgroups_v2 {
    generated!("cgroups_v2");
    pub use self::metrics::*;
}
