//! One subscriber: its filters, its queue, and what ends it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc;
use windlass_core::event::Envelope;
use windlass_core::{Error, Filters, Result};

use crate::exchange::Subscribers;

/// The exchange's end.
pub struct Subscriber {
    pub id: u64,
    filters: Filters,
    queue: mpsc::Sender<Arc<Envelope>>,
    overflowed: Arc<AtomicBool>,
}

/// What became of an offered event.
pub enum Offer {
    Done,
    /// The subscriber is to be forgotten: it has gone, or its queue was full.
    End,
}

impl Subscriber {
    /// Both ends of a new subscription; dropping the stream takes the subscriber off `list`.
    pub fn new(id: u64, filters: Filters, queue: usize, list: Weak<Subscribers>) -> (Self, Events) {
        let (tx, rx) = mpsc::channel(queue);
        let overflowed = Arc::new(AtomicBool::new(false));
        let subscriber = Self { id, filters, queue: tx, overflowed: overflowed.clone() };
        (subscriber, Events { id, queue: rx, overflowed, list })
    }

    pub fn offer(&self, envelope: &Arc<Envelope>) -> Offer {
        if !self.filters.matches(&**envelope) {
            return Offer::Done;
        }
        match self.queue.try_send(envelope.clone()) {
            Ok(()) => Offer::Done,
            Err(mpsc::error::TrySendError::Closed(_)) => Offer::End,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.overflowed.store(true, Ordering::Release);
                Offer::End
            }
        }
    }
}

/// The subscriber's end.
pub struct Events {
    id: u64,
    queue: mpsc::Receiver<Arc<Envelope>>,
    overflowed: Arc<AtomicBool>,
    list: Weak<Subscribers>,
}

impl Stream for Events {
    type Item = Result<Arc<Envelope>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.queue.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(envelope)) => Poll::Ready(Some(Ok(envelope))),
            // Taken, so that the error is said once.
            Poll::Ready(None) => Poll::Ready(self.overflowed.swap(false, Ordering::AcqRel).then(|| {
                Err(Error::exhausted("subscriber is too slow: its queue of events is full; subscribe again"))
            })),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(list) = self.list.upgrade() {
            list.remove(self.id);
        }
    }
}
