//! ttrpc: requests and answers in frames over a unix socket, as containerd's Go library speaks it.
//!
//! Written out here instead of taken from the `ttrpc` crate, because a mutation must go on when its client has gone,
//! an unknown service or method must answer UNIMPLEMENTED, and the shim must stay small.

mod client;
mod frame;
mod server;

pub use client::Client;
pub use server::{Call, Serve, serve};
