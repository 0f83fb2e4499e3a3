//! Decides when to collect: soon after something was deleted, after many changes, and at once when asked, but never so
//! often that collection takes more than its share of the time.

mod plugin;
mod scheduler;

pub use plugin::Config;
pub use scheduler::Scheduler;
