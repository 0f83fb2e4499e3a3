//! Figures of containers and pods, told when somebody asks; nothing is measured for nobody.
//!
//! - `containers`, `pods`: stats. [`metrics`]: metrics by cAdvisor's names. Each a method of [`Cri`](crate::cri::Cri).
//! - `collect`: reads what a request needs, in one go. `cgroup`: where to. `v1`, `v2`: files of control groups. `task`: what
//!   shims tell. `network`, `process`: what processes and interfaces tell. `files`: how files are read.
//! - `figures`: what all of these come to. `rate`: what two samples differ by.
//! - `kept`: what lasts between requests. `layers`: what containers have written, measured beside the requests.

mod cgroup;
mod collect;
mod containers;
mod figures;
mod files;
mod kept;
mod layers;
mod metrics;
mod network;
mod pods;
mod process;
mod rate;
mod task;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::sync::Arc;

use tokio::sync::Semaphore;

pub use kept::Kept;

/// What is held for figures, beside what is kept with each container and pod.
pub struct Shared {
    /// Turns of threads that read files.
    threads: Arc<Semaphore>,
    layers: layers::Layers,
}

impl Default for Shared {
    fn default() -> Self {
        Self { threads: Arc::new(Semaphore::new(collect::AT_ONCE)), layers: layers::Layers::default() }
    }
}
