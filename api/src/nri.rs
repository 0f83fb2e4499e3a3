//! `nri.pkg.api.v1alpha1`: what NRI plugins and the daemon say to each other, over ttrpc and a multiplexed socket.
//!
//! As in [`crate::shim`], messages are generated for rust-protobuf's lite runtime.

#[allow(clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/shim/nri/mod.rs"));
}

pub use self::generated::api::*;
