//! A pod's network: namespaces that are held by files instead of a process, and the caller of CNI plugins.
//!
//! - [`namespaces`] makes, keeps and ends them, and runs things inside.
//! - [`cni`] reads network configurations, runs plugins and remembers what they answered.
//!
//! Neither knows what a pod sandbox is to CRI, keeps records of pods, or decides when one is to go: that is the caller's.

pub mod cni;
mod error;
pub mod namespaces;

pub use error::{Error, Result};
