//! Kubernetes' container runtime interface, as one optional plugin over core's traits: never over a client of the daemon.
//!
//! - `plugin`, `config`: registration, and containerd's configuration keys. `service`: the gRPC edges, nothing else.
//! - `state`: what is known of pods and containers, in memory and in the records.
//! - `sandbox`, `container`: their lives, one file per step. `restore`: both after a restart.
//! - `spec`: the OCI runtime specification of a container. `io`: its streams and logs. `image`: images.
//! - `stats`, `events`: figures, and what happened.

mod state;
