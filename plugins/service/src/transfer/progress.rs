//! Progress on its way to a client that may be slow: of each name only the newest line waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use windlass_api::convert::{any, descriptor};
use windlass_api::transfer as wire;
use windlass_core::stream::Stream;
use windlass_core::transfer::{self, ProgressSink};

/// How long the last lines may take after the transfer has ended.
const LAST: Duration = Duration::from_secs(2);
/// Names that wait at most; an image has as many as it has blobs.
const NAMES: usize = 4096;

#[derive(Default)]
struct Queue {
    waiting: Mutex<(VecDeque<transfer::Progress>, bool)>,
    changed: Notify,
}

impl ProgressSink for Queue {
    fn progress(&self, line: transfer::Progress) {
        {
            let (waiting, _) = &mut *self.waiting.lock().expect("the lock is held for a moment only");
            let same = waiting.iter().position(|old| !line.name.is_empty() && old.name == line.name);
            match same {
                Some(at) => waiting[at] = line,
                None if waiting.len() < NAMES => waiting.push_back(line),
                None => {}
            }
        }
        self.changed.notify_one();
    }
}

pub struct Progress {
    queue: Arc<Queue>,
    sending: tokio::task::JoinHandle<()>,
}

fn to_wire(line: transfer::Progress) -> wire::Progress {
    wire::Progress {
        event: line.event,
        name: line.name,
        parents: line.parents,
        progress: line.progress,
        total: line.total,
        desc: line.descriptor.as_ref().map(descriptor::to_wire),
    }
}

async fn send(queue: Arc<Queue>, stream: Arc<dyn Stream>) {
    loop {
        let (next, ended) = {
            let (waiting, ended) = &mut *queue.waiting.lock().expect("the lock is held for a moment only");
            (waiting.pop_front(), *ended)
        };
        match next {
            Some(line) => {
                if stream.send(any::pack(&to_wire(line))).await.is_err() {
                    return;
                }
            }
            None if ended => break,
            None => queue.changed.notified().await,
        }
    }
    stream.close().await;
}

impl Progress {
    pub fn new(stream: Arc<dyn Stream>) -> Self {
        let queue = Arc::new(Queue::default());
        let sending = tokio::spawn(send(queue.clone(), stream));
        Self { queue, sending }
    }

    pub fn sink(&self) -> Arc<dyn ProgressSink> {
        self.queue.clone()
    }

    /// Sends what waits, then closes the stream.
    pub async fn finish(mut self) {
        self.end();
        if tokio::time::timeout(LAST, &mut self.sending).await.is_err() {
            self.sending.abort();
        }
    }

    fn end(&self) {
        self.queue.waiting.lock().expect("the lock is held for a moment only").1 = true;
        self.queue.changed.notify_one();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Of a transfer whose client has gone.
        self.end();
    }
}
