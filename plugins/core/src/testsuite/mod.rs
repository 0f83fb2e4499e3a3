//! Conformance suites: what every implementation of a noun must show. An implementation's tests call them; they panic
//! where the contract is broken. One module per noun.
#![allow(clippy::unwrap_used)]

pub mod container;
pub mod content;
pub mod image;
pub mod lease;
pub mod metastore;
pub mod namespace;
pub mod sandbox;
pub mod snapshot;
