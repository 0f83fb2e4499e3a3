//! The list of subscribers, and publishing to them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use windlass_core::event::{self, Envelope, Event, Subscription};
use windlass_core::{Context, Error, Filters, Result, validate};

use crate::subscriber::{Offer, Subscriber};

/// Events that may wait for one subscriber. A burst of a full node (500 pods that stop at once, some ten events each)
/// fits.
pub const QUEUE: usize = 8192;

/// Go's zero time, which stands for "no time" on the wire: seconds before 1970.
const ZERO_TIME: Duration = Duration::from_secs(62_135_596_800);

/// An exchange in memory.
pub struct Exchange {
    subscribers: Arc<Subscribers>,
    queue: usize,
    next: AtomicU64,
}

/// Everybody who listens. `None` once the exchange is closed.
#[derive(Default)]
pub struct Subscribers(RwLock<Option<Vec<Subscriber>>>);

impl Exchange {
    /// `queue`: events that may wait for one subscriber, at least 1.
    pub fn new(queue: usize) -> Self {
        let subscribers = Arc::new(Subscribers(RwLock::new(Some(Vec::new()))));
        Self { subscribers, queue: queue.max(1), next: AtomicU64::new(0) }
    }

    fn send(&self, envelope: Envelope) {
        tracing::trace!(topic = %envelope.topic, namespace = %envelope.namespace, "event");
        let envelope = Arc::new(envelope);
        for id in self.subscribers.offer(&envelope) {
            self.subscribers.remove(id);
        }
    }
}

impl Subscribers {
    /// Offers an event to all; answers the ids of those whose time is over. The lock is shared: publishers do not wait
    /// for each other, and a queue keeps the order in which one publisher sent.
    fn offer(&self, envelope: &Arc<Envelope>) -> Vec<u64> {
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let ended = list.iter().flatten().filter(|s| matches!(s.offer(envelope), Offer::End));
        ended.map(|s| s.id).collect()
    }

    fn add(&self, subscriber: Subscriber) {
        if let Some(list) = self.0.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            list.push(subscriber);
        }
    }

    pub fn remove(&self, id: u64) {
        if let Some(list) = self.0.write().unwrap_or_else(PoisonError::into_inner).as_mut()
            && let Some(at) = list.iter().position(|s| s.id == id)
        {
            list.swap_remove(at);
        }
    }

    fn close(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.0.read().unwrap().as_ref().map_or(0, Vec::len)
    }
}

// === impl Exchange ===

impl event::Exchange for Exchange {
    fn publish(&self, cx: &Context, event: Event) {
        let Some(topic) = event.topic() else {
            tracing::error!("an event without a topic of its own was published and is dropped");
            return;
        };
        let (namespace, topic) = (cx.namespace.clone(), topic.to_owned());
        self.send(Envelope { timestamp: SystemTime::now(), namespace, topic, event });
    }

    fn forward(&self, envelope: Envelope) -> Result<()> {
        validate::identifier("namespace", &envelope.namespace)
            .map_err(|e| e.context("event envelope has invalid namespace"))?;
        topic(&envelope.topic).map_err(|e| e.context(format!("envelope topic {:?}", envelope.topic)))?;
        if envelope.timestamp <= UNIX_EPOCH - ZERO_TIME {
            return Err(Error::invalid("timestamp must be set on forwarded event"));
        }
        self.send(envelope);
        Ok(())
    }

    fn subscribe(&self, filters: &[String]) -> Result<Subscription> {
        let filters =
            Filters::parse(filters).map_err(|e| e.context("failed parsing subscription filters"))?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (subscriber, events) =
            Subscriber::new(id, filters, self.queue, Arc::downgrade(&self.subscribers));
        self.subscribers.add(subscriber);
        Ok(events.boxed())
    }

    fn close(&self) {
        self.subscribers.close();
    }
}

/// Accepts `/a/b`: identifiers, each behind a slash.
fn topic(topic: &str) -> Result<()> {
    if topic.is_empty() {
        return Err(Error::invalid("must not be empty"));
    }
    let Some(rest) = topic.strip_prefix('/') else { return Err(Error::invalid("must start with '/'")) };
    if rest.is_empty() {
        return Err(Error::invalid("must have at least one component"));
    }
    rest.split('/').try_for_each(|component| {
        validate::identifier("identifier", component)
            .map_err(|e| e.context(format!("failed validation on component {component:?}")))
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use windlass_core::{Any, Class, event::Exchange as _};

    use super::*;

    fn oom(id: &str) -> Event {
        Event::TaskOom { container_id: id.into() }
    }

    fn exchange() -> Exchange {
        Exchange::new(4)
    }

    fn cx() -> Context {
        Context::new("ns")
    }

    async fn next(events: &mut Subscription) -> Arc<Envelope> {
        events.next().await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn events_keep_their_order_and_reach_all() {
        let exchange = exchange();
        let mut one = exchange.subscribe(&[]).unwrap();
        let mut two = exchange.subscribe(&[]).unwrap();
        for id in ["a", "b", "c"] {
            exchange.publish(&cx(), oom(id));
        }
        for events in [&mut one, &mut two] {
            for id in ["a", "b", "c"] {
                let envelope = next(events).await;
                assert_eq!((envelope.topic.as_str(), envelope.namespace.as_str()), ("/tasks/oom", "ns"));
                assert_eq!(envelope.event, oom(id));
            }
        }
        assert!(one.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn filters_choose() {
        let exchange = exchange();
        let filters = ["topic==/tasks/oom,event.container_id==b".to_owned(), "namespace==other".to_owned()];
        let mut events = exchange.subscribe(&filters).unwrap();
        for id in ["a", "b"] {
            exchange.publish(&cx(), oom(id));
        }
        exchange.publish(&Context::new("other"), Event::ImageDelete { name: "x".into() });
        assert_eq!(next(&mut events).await.event, oom("b"));
        assert_eq!(next(&mut events).await.namespace, "other");
        assert!(events.next().now_or_never().is_none());
        let error = exchange.subscribe(&["topic=".to_owned()]).err().unwrap();
        assert_eq!(error.class(), Class::InvalidArgument);
        assert!(error.message().starts_with("failed parsing subscription filters"), "{error}");
    }

    #[tokio::test]
    async fn the_slow_one_is_cut_off_and_the_others_are_not() {
        let exchange = exchange();
        let mut slow = exchange.subscribe(&[]).unwrap();
        let mut quick = exchange.subscribe(&[]).unwrap();
        for n in 0..6 {
            exchange.publish(&cx(), oom(&n.to_string()));
            assert_eq!(next(&mut quick).await.event, oom(&n.to_string()));
        }
        assert_eq!(exchange.subscribers.count(), 1);
        for n in 0..4 {
            assert_eq!(next(&mut slow).await.event, oom(&n.to_string()));
        }
        assert_eq!(slow.next().await.unwrap().unwrap_err().class(), Class::ResourceExhausted);
        assert!(slow.next().await.is_none());
    }

    #[tokio::test]
    async fn who_leaves_is_forgotten_and_close_ends_all() {
        let exchange = exchange();
        let gone = exchange.subscribe(&["topic==/never".to_owned()]).unwrap();
        let mut stays = exchange.subscribe(&[]).unwrap();
        drop(gone);
        assert_eq!(exchange.subscribers.count(), 1);
        exchange.publish(&cx(), oom("last"));
        exchange.close();
        assert_eq!(next(&mut stays).await.event, oom("last"));
        assert!(stays.next().await.is_none());
        assert!(exchange.subscribe(&[]).unwrap().next().await.is_none());
    }

    #[test]
    fn envelopes_are_checked() {
        let exchange = exchange();
        let good = Envelope {
            timestamp: SystemTime::now(),
            namespace: "ns".into(),
            topic: "/a/b-c".into(),
            event: Event::Other(Any::default()),
        };
        exchange.forward(good.clone()).unwrap();
        let zero = UNIX_EPOCH - ZERO_TIME;
        let bad = [
            Envelope { namespace: String::new(), ..good.clone() },
            Envelope { namespace: "a/b".into(), ..good.clone() },
            Envelope { topic: String::new(), ..good.clone() },
            Envelope { topic: "a".into(), ..good.clone() },
            Envelope { topic: "/".into(), ..good.clone() },
            Envelope { topic: "/a//b".into(), ..good.clone() },
            Envelope { topic: "/a/.".into(), ..good.clone() },
            Envelope { timestamp: zero, ..good },
        ];
        for envelope in bad {
            assert_eq!(
                exchange.forward(envelope.clone()).unwrap_err().class(),
                Class::InvalidArgument,
                "{envelope:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_thousand_watchers_share_one_event() {
        let exchange = exchange();
        let mut watchers: Vec<_> = (0..1000).map(|_| exchange.subscribe(&[]).unwrap()).collect();
        exchange.publish(&cx(), oom("a"));
        let first = next(&mut watchers[0]).await;
        for watcher in &mut watchers[1..] {
            assert!(Arc::ptr_eq(&first, &next(watcher).await));
        }
    }
}
