//! What the plugin knows of pods and containers: in memory for answers, in the metadata database for good.
//!
//! The truth that outlives a call is in the records: a sandbox's in the sandbox store, a container's in the container
//! store, both with extensions of ours. [`State`] is the picture of them in memory, made anew at start. Nothing here calls a
//! shim, a CNI plugin or the network.
//!
//! - [`Table`]: entries by id, names taken, ids by prefix.
//! - [`record`]: what is written down, and its versions.
//! - [`Sandbox`], [`Container`]: an entry with its lock and its status.

mod container;
pub mod record;
mod sandbox;
mod table;

pub use container::{Container, Phase};
pub use sandbox::{Places, Sandbox, name as sandbox_name};
pub use table::{Reserved, Table};

/// Pods and containers of the plugin.
#[derive(Default)]
pub struct State {
    pub sandboxes: Table<Sandbox>,
    pub containers: Table<Container>,
}

impl State {
    /// Containers of a pod, in no particular order.
    pub fn containers_of(&self, sandbox: &str) -> Vec<std::sync::Arc<Container>> {
        self.containers.all().into_iter().filter(|container| container.record.sandbox_id == sandbox).collect()
    }
}
