//! A pod's network: namespaces that are held by files instead of a process, and the caller of CNI plugins.
//!
//! - [`namespaces`] makes, keeps and ends them, and runs things inside.
//! - [`cni`] reads network configurations, runs plugins and remembers what they answered.
//! - The plugins that most networks are made of are built in, and need no process.
//!
//! None knows what a pod sandbox is to CRI, keeps records of pods, or decides when one is to go: that is the caller's.

mod builtin;
pub mod cni;
mod error;
pub mod namespaces;
mod netlink;

pub use error::{Error, Result};
