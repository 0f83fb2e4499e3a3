//! Streams by namespace and id: a client opens one, a transfer takes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use windlass_core::stream::{self, Stream};
use windlass_core::{Any, Context, Error, Result};

/// How long a transfer waits for its client to open a stream.
const WAIT: Duration = Duration::from_secs(10);
/// Open streams of all clients together.
const MAX_STREAMS: usize = 10_000;
/// Longest id, in bytes.
const MAX_ID: usize = 256;

type Key = (String, String);

type Streams = Mutex<HashMap<Key, Arc<dyn Stream>>>;

/// The streaming manager.
pub struct Manager {
    streams: Arc<Streams>,
    opened: Notify,
    wait: Duration,
}

/// A stream that is forgotten when its taker closes it.
struct Managed {
    stream: Arc<dyn Stream>,
    key: Key,
    streams: Weak<Streams>,
}

#[async_trait]
impl Stream for Managed {
    async fn send(&self, message: Any) -> Result<()> {
        self.stream.send(message).await
    }

    async fn receive(&self) -> Result<Option<Any>> {
        self.stream.receive().await
    }

    async fn close(&self) {
        if let Some(streams) = self.streams.upgrade() {
            let mut streams = streams.lock().expect("no panic under this lock");
            // Another one may have the id by now.
            if streams.get(&self.key).is_some_and(|s| Arc::ptr_eq(s, &self.stream)) {
                streams.remove(&self.key);
            }
        }
        self.stream.close().await;
    }
}

impl Default for Manager {
    fn default() -> Self {
        Self::new(WAIT)
    }
}

impl Manager {
    pub fn new(wait: Duration) -> Self {
        Self { streams: Arc::default(), opened: Notify::new(), wait }
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<Key, Arc<dyn Stream>>> {
        self.streams.lock().expect("no panic under this lock")
    }
}

fn key(cx: &Context, id: &str) -> Key {
    (cx.namespace.clone(), id.to_owned())
}

#[async_trait]
impl stream::Manager for Manager {
    async fn register(&self, cx: &Context, id: &str, stream: Arc<dyn Stream>) -> Result<()> {
        if id.is_empty() || id.len() > MAX_ID {
            return Err(Error::invalid(format!("stream id must have 1 to {MAX_ID} bytes")));
        }
        {
            let mut streams = self.streams();
            if streams.len() >= MAX_STREAMS {
                return Err(Error::exhausted(format!("more than {MAX_STREAMS} streams are open")));
            }
            match streams.entry(key(cx, id)) {
                std::collections::hash_map::Entry::Occupied(_) => {
                    return Err(Error::exists(format!("stream {id:?} already exists")));
                }
                std::collections::hash_map::Entry::Vacant(place) => _ = place.insert(stream),
            }
        }
        self.opened.notify_waiters();
        Ok(())
    }

    async fn get(&self, cx: &Context, id: &str) -> Result<Arc<dyn Stream>> {
        let until = Instant::now() + self.wait;
        let key = key(cx, id);
        loop {
            let opened = self.opened.notified();
            if let Some(stream) = self.streams().get(&key) {
                let streams = Arc::downgrade(&self.streams);
                return Ok(Arc::new(Managed { stream: stream.clone(), key: key.clone(), streams }));
            }
            if timeout_at(until, opened).await.is_err() {
                return Err(Error::not_found(format!(
                    "stream {id:?} not found: its client has not opened it"
                )));
            }
        }
    }

    async fn remove(&self, cx: &Context, id: &str) {
        self.streams().remove(&key(cx, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::Class;
    use windlass_core::stream::Manager as _;

    struct Silent;
    #[async_trait]
    impl Stream for Silent {
        async fn send(&self, _: Any) -> Result<()> {
            Ok(())
        }
        async fn receive(&self) -> Result<Option<Any>> {
            Ok(None)
        }
        async fn close(&self) {}
    }

    #[tokio::test]
    async fn both_sides_meet_by_id() {
        let manager = Arc::new(Manager::default());
        let (cx, other) = (Context::new("a"), Context::new("b"));
        let waiting = tokio::spawn({
            let (manager, cx) = (manager.clone(), cx.clone());
            async move { manager.get(&cx, "x").await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        manager.register(&cx, "x", Arc::new(Silent)).await.unwrap();
        waiting.await.unwrap().unwrap();
        assert_eq!(
            manager.register(&cx, "x", Arc::new(Silent)).await.unwrap_err().class(),
            Class::AlreadyExists
        );
        manager.register(&other, "x", Arc::new(Silent)).await.unwrap();
        manager.remove(&cx, "x").await;
        manager.register(&cx, "x", Arc::new(Silent)).await.unwrap();
        manager.get(&cx, "x").await.unwrap().close().await;
        manager.register(&cx, "x", Arc::new(Silent)).await.unwrap();
        assert!(manager.register(&cx, "", Arc::new(Silent)).await.is_err());
    }

    #[tokio::test]
    async fn a_stream_that_never_comes_is_not_found() {
        let manager = Manager::new(Duration::from_millis(5));
        assert!(manager.get(&Context::new("a"), "x").await.err().unwrap().is_not_found());
    }
}
