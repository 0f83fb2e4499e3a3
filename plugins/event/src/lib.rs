//! The event exchange: passes what happened on to whoever subscribed.
//!
//! An event is kept once, however many watch: subscribers' queues hold references. Nothing is stored, and no
//! subscriber can make a publisher wait.

mod exchange;
mod plugin;
mod subscriber;

pub use exchange::{Exchange, QUEUE};
