//! The streams of one connection and their buffers, whatever protocol carries them.
//!
//! Between a protocol's driver (one reader and one writer of frames) and the users of the streams stands one state
//! under one lock, which is never held across an await. What comes in waits in its stream's buffer; a full buffer
//! stops the reader and so, by TCP, the client. What goes out waits in its stream's buffer until the writer takes it,
//! stream by stream in turn; a full buffer makes the stream's user wait. Nothing here knows a frame's bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::half::{ReadHalf, WriteHalf};
use self::state::{Slot, Stage, State, wake};

pub(crate) mod half;
mod state;
#[cfg(test)]
mod tests;

/// Bytes a stream may hold for its user before the connection is read no further. Clients of Kubernetes know no
/// windows, so what they send over the announced window is taken too, up to here.
const STREAM_LIMIT: usize = 256 << 10;
/// The same for all streams of a connection together.
const TOTAL_LIMIT: usize = 2 << 20;
/// Bytes put together for one write.
const BATCH: usize = 64 << 10;
/// Answers that wait for the writer; more stop the reader.
const CONTROL_LIMIT: usize = 256;

/// A frame that is not data of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// A stream is accepted.
    Reply(u32),
    /// A stream is refused or given up, and why.
    Reset(u32, u32),
    /// The answer to a ping.
    Pong(Bytes),
    /// A message of its own on a stream, ahead of what was written to it.
    Message(u32, Bytes),
}

/// The last word of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    Done,
    /// The peer broke the protocol.
    Protocol,
}

/// Turns what is to be sent into a protocol's frames.
pub(crate) trait Encoder {
    fn control(&mut self, control: Control, out: &mut Vec<u8>);
    /// `end`: the last of this stream.
    fn data(&mut self, stream: u32, payload: &[u8], end: bool, out: &mut Vec<u8>);
    /// The peer may send so many bytes more; stream 0 is the session.
    fn credit(&mut self, stream: u32, bytes: u32, out: &mut Vec<u8>);
    fn goodbye(&mut self, why: Goodbye, out: &mut Vec<u8>);
}

/// What [`Mux::fill`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Some,
    None,
    /// Something, and nothing will ever follow it.
    Last,
}

/// A stream that the client opened.
pub(crate) struct Incoming {
    pub id: u32,
    pub headers: HashMap<String, String>,
    pub read: ReadHalf,
    pub write: WriteHalf,
}

impl Incoming {
    /// What the client says the stream is for.
    pub fn kind(&self) -> &str {
        self.headers.get("streamtype").map(String::as_str).unwrap_or_default()
    }
}

#[derive(Clone)]
pub(crate) struct Mux(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something to send.
    output: Notify,
    /// Room to read on.
    room: Notify,
    /// A new stream.
    accept: Notify,
    gone: CancellationToken,
    started: Instant,
    /// Milliseconds from `started` to the last movement.
    moved: AtomicU64,
    max_streams: usize,
}

// === impl Mux ===

impl Mux {
    pub fn new(max_streams: usize) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new()),
            output: Notify::new(),
            room: Notify::new(),
            accept: Notify::new(),
            gone: CancellationToken::new(),
            started: Instant::now(),
            moved: AtomicU64::new(0),
            max_streams,
        }))
    }

    /// Cancelled when the connection has ended.
    pub fn gone(&self) -> &CancellationToken {
        &self.0.gone
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- the side of the streams' users ---

    /// The next stream that the client opens; `None` when there will be no more.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            {
                let mut state = self.lock();
                if state.stage != Stage::Open {
                    return None;
                }
                if let Some(incoming) = state.incoming.pop_front() {
                    return Some(incoming);
                }
            }
            self.0.accept.notified().await;
        }
    }

    /// Sends a frame that is not data.
    pub fn send(&self, control: Control) {
        let mut state = self.lock();
        if state.stage == Stage::Open {
            state.control.push_back(control);
            self.0.output.notify_one();
        }
    }

    /// Gives a stream up in both directions.
    pub fn reset(&self, id: u32, code: u32) {
        let mut state = self.lock();
        if state.stage == Stage::Open {
            state.control.push_back(Control::Reset(id, code));
            self.0.output.notify_one();
        }
        state.forget(id);
        self.0.room.notify_one();
    }

    /// Lets what is buffered go out and then ends the connection. Input is thrown away from here on.
    pub fn finish(&self, why: Goodbye) {
        // Dropping an incoming stream takes the lock, so that happens outside.
        let _incoming = {
            let mut state = self.lock();
            if state.stage != Stage::Open {
                return;
            }
            state.stage = Stage::Finishing(why);
            let mut ids: Vec<u32> = state.streams.keys().copied().collect();
            ids.sort_unstable();
            for id in ids {
                state.stop(id, why == Goodbye::Protocol);
            }
            std::mem::take(&mut state.incoming)
        };
        self.wake_all();
    }

    // --- the side of the driver's reader ---

    /// Makes a stream. False: there are too many, or the connection is ending.
    pub fn open(&self, id: u32, headers: HashMap<String, String>, end: bool, one_way: bool) -> bool {
        let mut state = self.lock();
        if state.stage != Stage::Open
            || state.streams.len() >= self.0.max_streams
            || state.streams.contains_key(&id)
        {
            return false;
        }
        let slot = Slot {
            input_end: end,
            output_end: one_way,
            end_sent: one_way,
            ..Slot::new(state.initial_window)
        };
        state.streams.insert(id, slot);
        let (read, write) = self.halves(id);
        state.incoming.push_back(Incoming { id, headers, read, write });
        self.0.accept.notify_one();
        true
    }

    /// Makes a stream that both ends know without a word.
    pub fn channel(&self, id: u32) -> (ReadHalf, WriteHalf) {
        let mut state = self.lock();
        let slot = Slot::new(state.initial_window);
        state.streams.insert(id, slot);
        self.halves(id)
    }

    fn halves(&self, id: u32) -> (ReadHalf, WriteHalf) {
        (ReadHalf::new(self.clone(), id), WriteHalf::new(self.clone(), id))
    }

    /// Waits until a stream may receive; returns at once for one that nobody reads.
    pub async fn room(&self, id: u32) {
        loop {
            {
                let state = self.lock();
                let full = state.streams.get(&id).is_some_and(|slot| {
                    slot.takes() && (slot.input.len() >= STREAM_LIMIT || state.buffered >= TOTAL_LIMIT)
                });
                if state.stage != Stage::Open || !full {
                    return;
                }
            }
            self.0.room.notified().await;
        }
    }

    /// Waits until an answer may be sent, then sends it.
    pub async fn answer(&self, control: Control) {
        self.control_room().await;
        self.send(control);
    }

    pub async fn control_room(&self) {
        loop {
            {
                let state = self.lock();
                if state.stage != Stage::Open || state.control.len() < CONTROL_LIMIT {
                    return;
                }
            }
            self.0.room.notified().await;
        }
    }

    /// Bytes of a stream; those of an unknown stream are thrown away.
    pub fn received(&self, id: u32, bytes: &[u8]) {
        let mut state = self.lock();
        let open = state.stage == Stage::Open;
        let credited = state.session_credit(bytes.len());
        if let Some(slot) = state.streams.get_mut(&id)
            && slot.takes()
            && open
        {
            slot.input.extend_from_slice(bytes);
            wake(&mut slot.reader);
            state.buffered += bytes.len();
        }
        if credited {
            self.0.output.notify_one();
        }
    }

    /// The peer sends no more on a stream.
    pub fn ended(&self, id: u32) {
        let mut state = self.lock();
        if let Some(slot) = state.streams.get_mut(&id) {
            slot.input_end = true;
            wake(&mut slot.reader);
        }
        state.retire(id);
    }

    /// The peer has given a stream up.
    pub fn was_reset(&self, id: u32) {
        self.lock().forget(id);
    }

    /// The peer takes so much more; stream 0 is the session. False: more than a window can be.
    pub fn enlarge(&self, id: u32, bytes: u32) -> bool {
        let mut state = self.lock();
        let fits = if id == 0 {
            state.session_windows = true;
            state.session_window += i64::from(bytes);
            state.session_window <= i64::from(i32::MAX)
        } else {
            state.stream_windows = true;
            let mut fits = true;
            if let Some(slot) = state.streams.get_mut(&id) {
                slot.window += i64::from(bytes);
                fits = slot.window <= i64::from(i32::MAX);
            }
            state.queue(id);
            fits
        };
        self.0.output.notify_one();
        fits
    }

    /// The peer set the window of all streams, those that are open included.
    pub fn set_window(&self, bytes: u32) {
        let mut state = self.lock();
        let change = i64::from(bytes) - state.initial_window;
        state.initial_window += change;
        state.stream_windows = true;
        let ids: Vec<u32> = state.streams.keys().copied().collect();
        for id in ids {
            if let Some(slot) = state.streams.get_mut(&id) {
                slot.window += change;
            }
            state.queue(id);
        }
        self.0.output.notify_one();
    }

    /// The connection is over: whatever was received can still be read, nothing goes out.
    pub fn close(&self) {
        let _incoming = {
            let mut state = self.lock();
            state.stage = Stage::Closed;
            for slot in state.streams.values_mut() {
                slot.input_end = true;
                slot.output = BytesMut::new();
                slot.wake();
            }
            state.control.clear();
            state.credits.clear();
            std::mem::take(&mut state.incoming)
        };
        self.0.gone.cancel();
        self.wake_all();
    }

    fn wake_all(&self) {
        self.0.output.notify_one();
        self.0.room.notify_one();
        self.0.accept.notify_one();
    }

    // --- the side of the driver's writer ---

    /// Waits until [`fill`](Self::fill) may find something.
    pub async fn output(&self) {
        self.0.output.notified().await;
    }

    /// Puts what there is to send at the end of `out`, about [`BATCH`] bytes of it.
    pub fn fill(&self, encoder: &mut impl Encoder, out: &mut Vec<u8>) -> Fill {
        let mut state = self.lock();
        if matches!(state.stage, Stage::Closed | Stage::Finished) {
            return Fill::None;
        }
        let before = out.len();
        while out.len() < BATCH {
            let Some(control) = state.control.pop_front() else { break };
            encoder.control(control, out);
        }
        while out.len() < BATCH {
            let Some((id, bytes)) = state.credits.pop_first() else { break };
            encoder.credit(id, bytes, out);
        }
        while out.len() < BATCH && state.next_piece(encoder, out) {}
        if out.len() > before {
            self.0.room.notify_one();
        }
        if let Stage::Finishing(why) = state.stage
            && state.control.is_empty()
            && state.streams.values().all(|slot| slot.output.is_empty() && (slot.end_sent || slot.reset))
        {
            encoder.goodbye(why, out);
            state.stage = Stage::Finished;
            return Fill::Last;
        }
        // An encoder may have nothing to say for the end of a stream.
        if out.len() > before { Fill::Some } else { Fill::None }
    }

    // --- time ---

    /// Something moved.
    pub fn touch(&self) {
        let now = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.moved.store(now, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for so long.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let moved = self.0.started + Duration::from_millis(self.0.moved.load(Ordering::Relaxed));
            let quiet = moved.elapsed();
            if quiet >= limit {
                return;
            }
            tokio::time::sleep(limit - quiet).await;
        }
    }
}
