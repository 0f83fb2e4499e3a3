//! Kubernetes' container runtime interface, as one optional plugin over core's traits: never over a client of the daemon.
//!
//! - `plugin`, `config`: registration, and containerd's configuration keys. `service`: the gRPC edges, nothing else.
//! - `cri`: what everything here holds on to.
//! - `state`: what is known of pods and containers, in memory and in the records.
//! - `sandbox`, `container`: their lives, one file per step. `restore`: both after a restart.
//! - `network`: what pods say to network plugins. `node`: what is said of the machine.
//! - `spec`: the OCI runtime specification of a container. `classes`: what containers may name in place of limits. `yaml`:
//!   the form of both's files.
//! - `io`: streams and logs. `image`: images. `tar`: archives written.
//! - `stats`, `events`: figures, and what happened.

mod classes;
mod config;
mod container;
mod cri;
mod events;
mod image;
mod io;
mod network;
mod node;
mod plugin;
mod restore;
mod sandbox;
mod service;
mod spec;
mod state;
mod stats;
mod tar;
mod yaml;

/// A named step: a test may stop, fail or kill the process here.
macro_rules! step {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| Err(windlass_core::Error::internal(concat!("injected at ", $name))));
    };
}
#[allow(unused_imports)]
pub(crate) use step;
