//! Clients attached to a stream.
//!
//! Each has a queue of its own, bounded in bytes. What goes to clients is in the log already, so a client can hold up
//! what comes next at most, and that only within [`Patience`]; then it is cut off.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Bytes that may wait for a client before the stream waits for it.
const QUEUE: usize = 256 << 10;
/// Bytes written at a time, so that a slow client is seen to move.
const PIECE: usize = 16 << 10;
/// How long a client may take nothing: one with a terminal, or any once the stream has ended.
const SILENCE: Duration = Duration::from_secs(10);
/// How long, all in all, one client without a terminal may hold its stream up.
const GRACE: Duration = Duration::from_secs(2);

/// What a stream puts up with from a client that is slower than it.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// A terminal's user is its flow control: waited for as long as it takes something now and then.
    Terminal,
    /// A debugging client must not slow a service down: waited for so long in all.
    Stream(Duration),
}

impl Patience {
    pub fn of(terminal: bool) -> Patience {
        if terminal { Patience::Terminal } else { Patience::Stream(GRACE) }
    }
}

/// The clients of one stream.
pub struct Clients {
    patience: Patience,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    clients: Vec<Arc<Client>>,
    ended: bool,
}

struct Client {
    queue: Mutex<Queue>,
    /// For the one that writes to the client.
    more: Notify,
    /// For the stream.
    room: Notify,
    /// For a write that hangs.
    over: Notify,
}

struct Queue {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// Bytes that the client has taken.
    taken: u64,
    grace: Duration,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The stream has ended; what is queued still goes out.
    Ended,
    /// The client has gone or was cut off.
    Gone,
}

/// A client's place in the list; dropping it takes the client out.
pub struct Seat<'a> {
    clients: &'a Clients,
    client: Arc<Client>,
}

// === impl Clients ===

impl Clients {
    pub fn new(patience: Patience) -> Clients {
        Clients { patience, list: Mutex::default() }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn any(&self) -> bool {
        !self.list().clients.is_empty()
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.list().clients.len()
    }

    /// A client sees what the stream gives from here on.
    pub fn join(&self) -> Seat<'_> {
        let mut list = self.list();
        let state = if list.ended { State::Ended } else { State::Open };
        let grace = match self.patience {
            Patience::Terminal => SILENCE,
            Patience::Stream(grace) => grace,
        };
        let queue = Queue { chunks: VecDeque::new(), bytes: 0, taken: 0, grace, state };
        let client = Arc::new(Client {
            queue: Mutex::new(queue),
            more: Notify::new(),
            room: Notify::new(),
            over: Notify::new(),
        });
        if !list.ended {
            list.clients.push(Arc::clone(&client));
        }
        Seat { clients: self, client }
    }

    /// Queues bytes for every client, and waits for those whose queue is full, as far as patience goes.
    pub async fn offer(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let clients = self.list().clients.clone();
        for client in &clients {
            client.push(bytes.clone());
        }
        drop(bytes);
        for client in clients {
            if !client.wait_for_room(self.patience).await {
                client.set(State::Gone);
            }
        }
    }

    /// The stream has ended.
    pub fn end(&self) {
        let clients = {
            let mut list = self.list();
            list.ended = true;
            std::mem::take(&mut list.clients)
        };
        for client in clients {
            client.set(State::Ended);
        }
    }
}

// === impl Client ===

impl Client {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        let mut queue = self.queue();
        if queue.state != State::Gone {
            queue.state = state;
        }
        if state == State::Gone {
            (queue.chunks, queue.bytes) = (VecDeque::new(), 0);
        }
        drop(queue);
        self.more.notify_one();
        self.room.notify_one();
        self.over.notify_one();
    }

    fn push(&self, bytes: Bytes) {
        let mut queue = self.queue();
        if queue.state == State::Open {
            queue.bytes += bytes.len();
            queue.chunks.push_back(bytes);
            drop(queue);
            self.more.notify_one();
        }
    }

    /// The next piece, or `None` at the end; an error if the client was cut off.
    async fn pull(&self) -> io::Result<Option<Bytes>> {
        loop {
            {
                let mut queue = self.queue();
                if queue.state == State::Gone {
                    return Err(cut_off());
                }
                if let Some(chunk) = queue.chunks.front_mut() {
                    let piece = chunk.split_to(chunk.len().min(PIECE));
                    if chunk.is_empty() {
                        queue.chunks.pop_front();
                    }
                    return Ok(Some(piece));
                }
                if queue.state == State::Ended {
                    return Ok(None);
                }
            }
            self.more.notified().await;
        }
    }

    fn took(&self, bytes: usize) {
        let mut queue = self.queue();
        queue.taken += bytes as u64;
        queue.bytes = queue.bytes.saturating_sub(bytes);
        drop(queue);
        self.room.notify_one();
    }

    /// Whether the client may stay.
    async fn wait_for_room(&self, patience: Patience) -> bool {
        loop {
            let (taken, limit) = {
                let queue = self.queue();
                if queue.bytes <= QUEUE || queue.state != State::Open {
                    return true;
                }
                (queue.taken, queue.grace)
            };
            let begun = Instant::now();
            let moved = timeout(limit, self.room.notified()).await.is_ok();
            let mut queue = self.queue();
            match patience {
                Patience::Stream(_) => {
                    queue.grace = queue.grace.saturating_sub(begun.elapsed());
                    if !moved || queue.grace.is_zero() {
                        return false;
                    }
                }
                Patience::Terminal if !moved && queue.taken == taken => return false,
                Patience::Terminal => {}
            }
        }
    }

    /// Comes back when a write has taken too long: the client was cut off, or the stream ended a while ago.
    async fn expired(&self) {
        loop {
            let state = self.queue().state;
            match state {
                State::Open => self.over.notified().await,
                State::Ended => return tokio::time::sleep(SILENCE).await,
                State::Gone => return,
            }
        }
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "client was too slow and has been cut off")
}

// === impl Seat ===

impl Seat<'_> {
    /// Passes the stream on until it ends. An error is the client's: it went away, or was too slow.
    pub async fn serve(&self, mut writer: impl AsyncWrite + Unpin) -> io::Result<()> {
        let client = &self.client;
        while let Some(mut piece) = client.pull().await? {
            while piece.has_remaining() {
                let write = async {
                    let count = writer.write(&piece).await?;
                    writer.flush().await.map(|()| count)
                };
                let count = tokio::select! {
                    result = write => result?,
                    () = client.expired() => return Err(cut_off()),
                };
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                piece.advance(count);
                client.took(count);
            }
        }
        timeout(SILENCE, writer.shutdown()).await.map_err(|_| cut_off())?
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.client.set(State::Gone);
        self.clients.list().clients.retain(|client| !Arc::ptr_eq(client, &self.client));
    }
}
