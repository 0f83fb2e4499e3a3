//! Streams: byte and message channels between a client and a transfer, met by id.

use async_trait::async_trait;

use crate::{Any, Context, Result};

/// Both directions of one stream, as the streaming service carries it.
#[async_trait]
pub trait Stream: Send + Sync {
    async fn send(&self, message: Any) -> Result<()>;
    /// `None` when the other side is done.
    async fn receive(&self) -> Result<Option<Any>>;
    async fn close(&self);
}

/// Streams by namespace and id. An id in use is *already exists*; a stream nobody took ends with its client.
#[async_trait]
pub trait Manager: Send + Sync {
    async fn register(&self, cx: &Context, id: &str, stream: std::sync::Arc<dyn Stream>) -> Result<()>;
    /// Takes a stream; waits for the client to open it, up to the manager's time limit, then *not found*.
    async fn get(&self, cx: &Context, id: &str) -> Result<std::sync::Arc<dyn Stream>>;
    /// Forgets a stream whose client has gone.
    async fn remove(&self, cx: &Context, id: &str);
}
