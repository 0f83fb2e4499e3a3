//! The state of a connection's streams: who may send, who may receive, who has ended. Changed under the lock of its
//! [`Mux`](super::Mux) alone; it wakes the streams' users but not the connection's reader and writer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::task::Waker;

use bytes::{Buf, BytesMut};

use super::{Control, Encoder, Goodbye, Incoming};

/// Bytes a stream's user may have written and the client not yet taken.
pub(super) const SEND_LIMIT: usize = 64 << 10;
/// The same for all streams of a connection together: with many streams each may hold less.
const SEND_TOTAL: usize = 4 << 20;
/// What a stream may hold however many there are.
const SEND_LEAST: usize = 4 << 10;
/// Payload of a frame that we send.
const PIECE: usize = 32 << 10;
/// Window of a stream and of a session that neither end has changed (SPDY 3.1, 2.6.8).
const WINDOW: i64 = 64 << 10;
/// Bytes taken by a stream's user after which the client is told.
const CREDIT: u32 = 32 << 10;
/// A buffer that has grown beyond this is given back once it is empty.
const KEEP: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// What is buffered goes out, nothing new is taken.
    Finishing(Goodbye),
    /// The last word has been handed to the writer.
    Finished,
    Closed,
}

pub(super) struct State {
    pub stage: Stage,
    pub streams: HashMap<u32, Slot>,
    /// Streams with something to send, in turn.
    pub ready: VecDeque<u32>,
    pub control: VecDeque<Control>,
    pub credits: BTreeMap<u32, u32>,
    pub incoming: VecDeque<Incoming>,
    /// Bytes in all input buffers.
    pub buffered: usize,
    /// Bytes received that the session's window has not got back.
    pub session_taken: u32,
    /// Window of streams to come, as the peer set it.
    pub initial_window: i64,
    pub session_window: i64,
    /// The peer has shown that it counts windows; until then only TCP holds us back, because the clients of
    /// Kubernetes never enlarge one.
    pub stream_windows: bool,
    pub session_windows: bool,
}

pub(super) struct Slot {
    pub input: BytesMut,
    /// The peer sends no more.
    pub input_end: bool,
    /// Nobody reads any more.
    pub unread: bool,
    pub reader: Option<Waker>,
    /// Bytes read by the user and not yet given back to the peer's window.
    pub taken: u32,
    pub output: BytesMut,
    /// The user writes no more.
    pub output_end: bool,
    /// The peer knows that.
    pub end_sent: bool,
    /// No user writes any more.
    pub unwritten: bool,
    pub writer: Option<Waker>,
    /// In `ready`.
    pub queued: bool,
    pub reset: bool,
    pub window: i64,
}

// === impl State ===

impl State {
    pub fn new() -> Self {
        Self {
            stage: Stage::Open,
            streams: HashMap::new(),
            ready: VecDeque::new(),
            control: VecDeque::new(),
            credits: BTreeMap::new(),
            incoming: VecDeque::new(),
            buffered: 0,
            session_taken: 0,
            initial_window: WINDOW,
            session_window: WINDOW,
            stream_windows: false,
            session_windows: false,
        }
    }

    /// Bytes that a stream may have waiting to be sent.
    pub fn send_limit(&self) -> usize {
        (SEND_TOTAL / self.streams.len().max(1)).clamp(SEND_LEAST, SEND_LIMIT)
    }

    /// Puts a stream in line if it has something to send.
    pub fn queue(&mut self, id: u32) {
        if let Some(slot) = self.streams.get_mut(&id)
            && !slot.queued
            && slot.sends()
        {
            slot.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Sends a piece of the stream whose turn it is. False: nothing can be sent now.
    pub fn next_piece(&mut self, encoder: &mut impl Encoder, out: &mut Vec<u8>) -> bool {
        let Some(id) = self.ready.pop_front() else { return false };
        let session = if self.session_windows { self.session_window } else { i64::MAX };
        let Some(slot) = self.streams.get_mut(&id) else { return true };
        slot.queued = false;
        if !slot.sends() {
            return true;
        }
        let window = if self.stream_windows { slot.window } else { i64::MAX };
        let allowed = usize::try_from(window.min(session).max(0)).unwrap_or(usize::MAX);
        let length = slot.output.len().min(PIECE).min(allowed);
        if length == 0 && !slot.output.is_empty() {
            // A stream without a window comes back with one; without the session's window none can go on.
            if session <= 0 {
                slot.queued = true;
                self.ready.push_front(id);
                return false;
            }
            return true;
        }
        let end = slot.output_end && length == slot.output.len();
        encoder.data(id, &slot.output[..length], end, out);
        slot.output.advance(length);
        slot.window -= length as i64;
        self.session_window -= length as i64;
        slot.end_sent |= end;
        give_back(&mut slot.output);
        wake(&mut slot.writer);
        self.queue(id);
        self.retire(id);
        true
    }

    /// Counts bytes against the session's window and gives them back at once: what holds them is bounded by stream.
    pub fn session_credit(&mut self, bytes: usize) -> bool {
        self.session_taken = self.session_taken.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        let due = self.session_taken >= CREDIT;
        if due {
            self.credits.insert(0, std::mem::take(&mut self.session_taken));
        }
        due
    }

    /// Bytes of a stream have been taken out of its buffer.
    pub fn taken(&mut self, id: u32, bytes: usize) -> bool {
        self.buffered -= bytes;
        let Some(slot) = self.streams.get_mut(&id) else { return false };
        slot.taken = slot.taken.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if slot.taken < CREDIT || slot.input_end || self.stage != Stage::Open {
            return false;
        }
        *self.credits.entry(id).or_default() += std::mem::take(&mut slot.taken);
        true
    }

    /// A stream is over in both directions; what it received can still be read.
    pub fn forget(&mut self, id: u32) {
        self.credits.remove(&id);
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.reset = true;
            slot.input_end = true;
            slot.output = BytesMut::new();
            slot.wake();
        }
        self.retire(id);
    }

    /// The end of a stream because its connection ends.
    pub fn stop(&mut self, id: u32, drop_output: bool) {
        self.drain(id);
        if let Some(slot) = self.streams.get_mut(&id) {
            slot.output_end = true;
            if drop_output {
                slot.output = BytesMut::new();
                slot.end_sent = true;
            }
            slot.wake();
        }
        self.queue(id);
    }

    /// Throws away what a stream has received.
    pub fn drain(&mut self, id: u32) {
        if let Some(slot) = self.streams.get_mut(&id) {
            let bytes = slot.input.len();
            slot.input = BytesMut::new();
            self.taken(id, bytes);
        }
    }

    /// Forgets a stream that nobody uses and that the peer has done with.
    pub fn retire(&mut self, id: u32) {
        let done = self.streams.get(&id).is_some_and(|slot| {
            slot.unread && slot.unwritten && (slot.reset || (slot.end_sent && slot.input_end))
        });
        if done {
            self.streams.remove(&id);
            self.credits.remove(&id);
        }
    }
}

// === impl Slot ===

impl Slot {
    pub fn new(window: i64) -> Self {
        Self {
            input: BytesMut::new(),
            input_end: false,
            unread: false,
            reader: None,
            taken: 0,
            output: BytesMut::new(),
            output_end: false,
            end_sent: false,
            unwritten: false,
            writer: None,
            queued: false,
            reset: false,
            window,
        }
    }

    /// Whether what comes in is kept.
    pub fn takes(&self) -> bool {
        !(self.unread || self.input_end || self.reset)
    }

    /// Whether there is something to send, windows aside.
    pub fn sends(&self) -> bool {
        !self.reset && !self.end_sent && (self.output_end || !self.output.is_empty())
    }

    pub fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Frees an empty buffer that has grown.
pub(super) fn give_back(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > KEEP {
        *buffer = BytesMut::new();
    }
}
