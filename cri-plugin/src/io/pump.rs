//! The task of one output stream: fifo → log → clients.
//!
//! The log comes first, so nothing that a client does can keep a line out of it. Reading, cutting and writing happen in
//! rounds on threads that may block: a slow disk stops its own container, by the fifo that fills up, and no worker.
//! Between rounds the task holds no buffer.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, watch};
use tracing::{error, warn};

use super::clients::{Clients, Patience};
use super::log::Log;
use super::spool::Spool;
use super::stamp::Stamp;
use super::{Output, fifo, line};

/// Bytes taken from a fifo at once: what a fifo holds.
const CHUNK: usize = 64 << 10;
/// Bytes of a round, after which others get the thread.
const BUDGET: usize = 256 << 10;
/// Bytes of one write to the log, and a line more.
const BATCH: usize = 64 << 10;
/// A thread's buffer that has grown beyond this is given back.
const KEEP: usize = 256 << 10;

/// Rounds at a time, of all containers: logs on a disk that hangs must not take all threads there are.
static ROUNDS: Semaphore = Semaphore::const_new(32);

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    input: Vec<u8>,
    out: Vec<u8>,
    stamp: Stamp,
}

/// What a pump is told by its container. That the teller has gone means [`Order::Leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Run,
    /// Stop and leave everything for who comes next.
    Leave,
    /// Take what is there, and take that for the end.
    Finish,
}

pub struct Stream {
    output: Output,
    fifo: AsyncFd<OwnedFd>,
    /// `None` where there is no log.
    logged: Option<Mutex<Logged>>,
    pub clients: Clients,
}

/// A stream's way to the log.
pub struct Logged {
    pub spool: Spool,
    pub log: Arc<Log>,
    pub limit: usize,
    /// Offset up to which the log has the stream.
    pub done: u64,
    /// Offset up to which there is no newline after `done`.
    pub scanned: u64,
    /// Whether it has been said that the spool takes nothing.
    pub unkept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The fifo is empty.
    Empty,
    More,
    End,
}

struct Round {
    state: State,
    /// What was read, if somebody wants it.
    bytes: Vec<u8>,
}

// === impl Stream ===

impl Stream {
    /// `fifo` does not block. Must be called within the runtime.
    pub fn new(output: Output, fifo: OwnedFd, logged: Option<Logged>, terminal: bool) -> io::Result<Stream> {
        Ok(Stream {
            output,
            fifo: fifo::watched(fifo)?,
            logged: logged.map(Mutex::new),
            clients: Clients::new(Patience::of(terminal)),
        })
    }

    /// Copies until the stream's end or an order. With `opened` the fifo has had its writer: one that has none now has
    /// ended, where otherwise the writer is still to come.
    pub async fn run(self: Arc<Self>, opened: bool, mut orders: watch::Receiver<Order>) {
        let mut at_once = opened;
        loop {
            let order =
                if orders.has_changed().is_err() { Order::Leave } else { *orders.borrow_and_update() };
            let mut guard = None;
            match order {
                Order::Leave => return,
                Order::Run if !at_once => tokio::select! {
                    _ = orders.changed() => continue,
                    ready = self.fifo.readable() => match ready {
                        Ok(ready) => guard = Some(ready),
                        Err(error) => {
                            error!(%error, stream = self.output.name(), "watch a container's output");
                            break;
                        }
                    },
                },
                Order::Run | Order::Finish => {}
            }
            let round = self.round(order == Order::Finish).await;
            if let (State::Empty, Some(guard)) = (round.state, &mut guard) {
                guard.clear_ready();
            }
            let ordered = async {
                // An error is the order to leave, too.
                let _order = orders.wait_for(|order| *order != Order::Run).await;
            };
            // What is offered is queued at once; clients are waited for only where nobody waits for us.
            tokio::select! {
                biased;
                () = self.clients.offer(Bytes::from(round.bytes)) => {}
                () = ordered => {}
            }
            at_once = round.state == State::More;
            if round.state == State::End {
                break;
            }
        }
        self.clients.end();
    }

    /// With `finish` it is the last: a round takes more than a fifo holds, and a process that goes on writing must not
    /// keep anybody waiting.
    async fn round(self: &Arc<Self>, finish: bool) -> Round {
        if self.logged.is_none() {
            return self.pass(finish);
        }
        let permit = ROUNDS.acquire().await;
        let (stream, wanted) = (Arc::clone(self), self.clients.any());
        let round = tokio::task::spawn_blocking(move || stream.copy(finish, wanted)).await;
        drop(permit);
        round.unwrap_or_else(|error| {
            // The runtime's own end is nothing to report: the next daemon goes on.
            if error.is_panic() {
                error!(%error, stream = self.output.name(), "copying a container's output failed");
            }
            Round { state: State::End, bytes: Vec::new() }
        })
    }

    /// A round without a log.
    fn pass(&self, finish: bool) -> Round {
        let wanted = self.clients.any();
        let mut round = Round { state: State::More, bytes: Vec::new() };
        SCRATCH.with_borrow_mut(|scratch| {
            let mut total = 0;
            while total < BUDGET && round.state == State::More {
                scratch.input.clear();
                match read(self.fifo.get_ref(), &mut scratch.input) {
                    Ok(0) => round.state = State::End,
                    Ok(count) => total += count,
                    Err(error) => round.state = self.failed(&error),
                }
                if wanted {
                    round.bytes.extend_from_slice(&scratch.input);
                }
            }
            scratch.shrink();
        });
        round.finish(finish);
        round
    }

    /// A round with a log; it may block.
    fn copy(&self, finish: bool, wanted: bool) -> Round {
        let mut round = Round { state: State::More, bytes: Vec::new() };
        let Some(logged) = &self.logged else { return round };
        let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
        SCRATCH.with_borrow_mut(|scratch| {
            let mut total = 0;
            while total < BUDGET && round.state == State::More {
                let keep = wanted.then_some(&mut round.bytes);
                match logged.spool.fill(self.fifo.get_ref(), CHUNK) {
                    Ok(0) => round.state = State::End,
                    Ok(count) => {
                        total += count;
                        logged.unkept = false;
                        logged.take(self.output, scratch, false, keep);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => round.state = State::Empty,
                    Err(error) => {
                        if !std::mem::replace(&mut logged.unkept, true) {
                            warn!(%error, stream = self.output.name(), "keep a container's output until lines are whole");
                        }
                        match logged.take_unkept(self.output, scratch, self.fifo.get_ref(), keep) {
                            Ok(0) => round.state = State::End,
                            Ok(count) => total += count,
                            Err(error) => round.state = self.failed(&error),
                        }
                    }
                }
            }
            round.finish(finish);
            if round.state == State::End {
                logged.take(self.output, scratch, true, None);
            }
            scratch.shrink();
        });
        logged.log.settle();
        round
    }

    /// What a failed read means.
    fn failed(&self, error: &io::Error) -> State {
        if error.kind() == io::ErrorKind::WouldBlock {
            return State::Empty;
        }
        warn!(%error, stream = self.output.name(), "read a container's output");
        State::End
    }
}

impl Round {
    fn finish(&mut self, finish: bool) {
        if finish {
            self.state = State::End;
        }
    }
}

// === impl Logged ===

impl Logged {
    /// Brings the log up to what the spool has, as far as lines are whole; with `end` all of it. What is new goes to
    /// `keep` too.
    fn take(&mut self, output: Output, scratch: &mut Scratch, end: bool, keep: Option<&mut Vec<u8>>) {
        let size = self.spool.size();
        scratch.input.clear();
        if let Err(error) = self.spool.read(self.scanned, &mut scratch.input) {
            warn!(%error, stream = output.name(), "read back a container's output; it is lost");
            (self.done, self.scanned) = (size, size);
            return;
        }
        if let Some(keep) = keep {
            keep.extend_from_slice(&scratch.input);
        }
        let held = size - self.done;
        if !end && held <= self.limit as u64 && line::find_newline(&scratch.input).is_none() {
            self.scanned = size;
            return;
        }
        if self.done < self.scanned {
            scratch.input.clear();
            if let Err(error) = self.spool.read(self.done, &mut scratch.input) {
                warn!(%error, stream = output.name(), "read back a container's output; it is lost");
                (self.done, self.scanned) = (size, size);
                return;
            }
        }
        self.done += self.write(output, scratch, end, None) as u64;
        self.scanned = size;
        self.spool.free(self.done);
    }

    /// The way past the spool, where its disk is full: nothing is kept, so what is not a whole line goes out in parts.
    fn take_unkept(
        &mut self,
        output: Output,
        scratch: &mut Scratch,
        fifo: &OwnedFd,
        keep: Option<&mut Vec<u8>>,
    ) -> io::Result<usize> {
        scratch.input.clear();
        let size = self.spool.size();
        self.spool.read(self.done, &mut scratch.input)?;
        let held = scratch.input.len();
        let count = read(fifo, &mut scratch.input)?;
        if let Some(keep) = keep {
            keep.extend_from_slice(&scratch.input[held..]);
        }
        self.write(output, scratch, true, Some(size));
        (self.done, self.scanned) = (size, size);
        self.spool.free(size);
        Ok(count)
    }

    /// Writes the lines of the input, whose first byte is at `done`, and answers how much of it they are. `to` is what
    /// the log is said to have after each write, where it is not what was written.
    fn write(&self, output: Output, scratch: &mut Scratch, end: bool, to: Option<u64>) -> usize {
        let Scratch { input, out, stamp } = scratch;
        let mut at = 0;
        loop {
            out.clear();
            while out.len() < BATCH
                && let Some(piece) = line::next(&input[at..], self.limit, end)
            {
                line::write(out, stamp, output, &piece);
                at += piece.length;
            }
            if out.is_empty() {
                return at;
            }
            self.log.append(output, to.unwrap_or(self.done + at as u64), self.limit, out);
        }
    }
}

impl Scratch {
    fn shrink(&mut self) {
        for buffer in [&mut self.input, &mut self.out] {
            buffer.clear();
            buffer.shrink_to(KEEP);
        }
    }
}

/// Appends what can be read now, at most a chunk.
fn read(fifo: &OwnedFd, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.reserve(CHUNK);
    loop {
        match rustix::io::read(fifo, rustix::buffer::spare_capacity(buffer)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
