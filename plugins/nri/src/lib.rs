//! The Node Resource Interface: plugins in processes of their own that follow and adjust pods and containers.
//!
//! - [`host`], [`relay`], [`states`]: all plugins together, and core's trait. [`plugin`] registers it, [`config`] is its
//!   configuration.
//! - [`accept`], [`launch`], [`peer`], [`sync`]: how a plugin comes, joins and is asked.
//! - [`link`], [`frame`]: the connection: ttrpc both ways over NRI's multiplexer.
//! - [`merge`], [`update`], [`owners`]: what several plugins ask for, made one. [`validate`] judges it.
//! - [`apply`], [`resources`], [`propagation`], [`wire`]: to and from core's types and OCI's JSON.
//!
//! It knows no container store and changes no container: the owner of containers attaches itself and is asked to.

pub mod config;
pub mod host;

mod accept;
mod apply;
mod error;
mod frame;
mod launch;
mod link;
mod merge;
mod owners;
mod peer;
mod plugin;
mod propagation;
mod relay;
mod resources;
mod states;
mod sync;
mod update;
mod validate;
mod wire;

pub use config::{Config, Limits};
pub use host::Host;
