//! The gRPC and ttrpc edges of the daemon, and nothing else: wire types in, core's traits called, wire types out.
//!
//! One file per service. Each is thin: what a call means is said on the trait in core that it calls. A call that changes
//! something runs in a task of its own, so a client that goes away leaves nothing half done.

mod containers;
mod content;
mod diff;
mod edge;
mod events;
mod health;
mod images;
mod introspection;
mod leases;
mod mounts;
mod namespaces;
mod sandboxes;
mod snapshots;
mod streaming;
mod tasks;
mod transfer;
mod version;
