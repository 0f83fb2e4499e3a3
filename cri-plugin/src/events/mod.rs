//! What happened to pods and containers, told to whoever follows (`GetContainerEvents`).
//!
//! Nobody waits for a follower: each has a bounded queue, and one that does not keep up is cut off, so that it lists
//! anew instead of believing a picture with holes. Nothing is kept for those who are not there.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context as TaskContext, Poll};

use futures::Stream;
use tokio::sync::mpsc;
use windlass_api::cri;
use windlass_core::{Error, Result};

/// Events that wait for one follower. An event carries the statuses of a whole pod, some kilobytes.
const QUEUE: usize = 256;
/// Followers at the same time: the kubelet is one.
const FOLLOWERS: usize = 64;

/// One event; the followers share it.
type Event = Arc<cri::ContainerEventResponse>;

struct Follower {
    queue: mpsc::Sender<Event>,
    /// Set when it is cut off.
    cut: Arc<AtomicBool>,
}

/// Passes events on.
#[derive(Default)]
pub struct Events(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    followers: Vec<Follower>,
    closed: bool,
}

/// Receives events from when it was made.
pub struct Follow {
    queue: mpsc::Receiver<Event>,
    cut: Arc<AtomicBool>,
}

impl Events {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while it holds the followers")
    }

    /// Whether anybody follows: what nobody reads need not be made.
    pub fn wanted(&self) -> bool {
        !self.inner().followers.is_empty()
    }

    /// Follows from now on. *Resource exhausted* where too many do.
    pub fn follow(&self) -> Result<Follow> {
        let mut inner = self.inner();
        inner.followers.retain(|follower| !follower.queue.is_closed());
        if inner.closed {
            return Err(Error::unavailable("the daemon is going down"));
        }
        if inner.followers.len() >= FOLLOWERS {
            return Err(Error::exhausted(format!("{FOLLOWERS} clients follow container events already")));
        }
        let (queue, receiver) = mpsc::channel(QUEUE);
        let cut = Arc::new(AtomicBool::new(false));
        inner.followers.push(Follower { queue, cut: cut.clone() });
        Ok(Follow { queue: receiver, cut })
    }

    /// Tells all followers. Those whose queue is full are cut off.
    pub fn tell(&self, event: cri::ContainerEventResponse) {
        let event = Arc::new(event);
        self.inner().followers.retain(|follower| match follower.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                follower.cut.store(true, Ordering::Release);
                tracing::warn!("a client that follows container events is too slow, it is cut off");
                false
            }
        });
    }

    /// Ends every follower after what is queued, and takes no new ones.
    pub fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.followers.clear();
    }
}

impl Stream for Follow {
    type Item = Result<cri::ContainerEventResponse>;

    /// Ends where the daemon goes down; with *resource exhausted* where the follower was too slow.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        match self.queue.poll_recv(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(Some(Ok(Arc::unwrap_or_clone(event)))),
            Poll::Ready(None) if self.cut.swap(false, Ordering::AcqRel) => {
                Poll::Ready(Some(Err(Error::exhausted(
                    "events came faster than they were read, and were dropped; list everything anew",
                ))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn event(id: &str) -> cri::ContainerEventResponse {
        cri::ContainerEventResponse { container_id: id.to_owned(), ..Default::default() }
    }

    #[tokio::test]
    async fn followers_get_what_happens_from_then_on() {
        let events = Events::default();
        events.tell(event("before"));
        assert!(!events.wanted());
        let mut follow = events.follow().expect("there is room");
        assert!(events.wanted());
        events.tell(event("a"));
        events.tell(event("b"));
        events.close();
        let mut seen = Vec::new();
        while let Some(event) = follow.next().await {
            seen.push(event.expect("it was not cut off").container_id);
        }
        assert_eq!(seen, ["a", "b"]);
        assert!(events.follow().is_err(), "nobody follows a daemon that goes down");
    }

    #[tokio::test]
    async fn a_slow_follower_is_cut_off_alone() {
        let events = Events::default();
        let slow = events.follow().expect("there is room");
        let mut quick = events.follow().expect("there is room");
        for n in 0..=QUEUE {
            events.tell(event(&n.to_string()));
            let event = quick.next().await.expect("it keeps up").expect("it keeps up");
            assert_eq!(event.container_id, n.to_string());
        }
        let seen: Vec<_> = slow.collect().await;
        assert_eq!(seen.iter().filter(|event| event.is_ok()).count(), QUEUE, "what was queued is read");
        assert!(seen.last().is_some_and(Result::is_err), "and then it is told");
        assert!(events.wanted());
        drop(quick);
        events.tell(event("nobody"));
        assert!(!events.wanted());
    }

    #[tokio::test]
    async fn followers_that_have_gone_make_room() {
        let events = Events::default();
        let held: Vec<_> = (0..FOLLOWERS).map(|_| events.follow().expect("there is room")).collect();
        assert!(events.follow().is_err());
        drop(held);
        assert!(events.follow().is_ok());
    }
}
