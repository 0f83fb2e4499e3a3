//! The key-value engine under all records.

use bytes::Bytes;

use crate::{Error, Result};

/// Told of each pair of a scan; answers whether to go on.
pub type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool>;

/// Reads of one consistent or newer state.
pub trait Read {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Calls `each` for every pair whose key starts with `prefix` and is not below `start`, in key order, until it
    /// answers false.
    fn scan_from(&self, prefix: &[u8], start: &[u8], each: Each<'_>) -> Result<()>;

    /// All pairs whose key starts with `prefix`, likewise.
    fn scan(&self, prefix: &[u8], each: Each<'_>) -> Result<()> {
        self.scan_from(prefix, prefix, each)
    }
}

/// Reads that see the transaction's own writes, and writes.
pub trait Write: Read {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    fn delete(&mut self, key: &[u8]) -> Result<()>;
}

/// A boxed transaction body. It runs at most once, on the engine's writer thread, and must be short: all writers wait
/// for it.
pub type Body<'a> = Box<dyn FnOnce(&mut dyn Write) -> Result<()> + Send + 'a>;

/// Told once what came of a submitted body; runs on the engine's writer thread, so it only passes the word on.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// Ordered keys and values with one writer.
///
/// - `update` runs the body alone; where it answers an error nothing is changed and the error comes back. Where it
///   succeeds, the change is durable (synced to disk) before `update` returns. Concurrent updates share one sync; a
///   body that fails, or panics, takes only its own changes with it.
/// - Bodies run in the order in which they were submitted, each seeing all changes before it.
/// - `view` never waits for a disk; all of a view sees one state. It holds writers up, so it must be short.
/// - A crash at any point leaves every acknowledged update and no half one.
/// - *Unavailable* once the engine has failed or is closed, *resource exhausted* where too many bodies wait.
///
/// `view` and `update` block; `submit` does not.
pub trait MetaStore: Send + Sync {
    fn view(&self, body: &mut dyn FnMut(&dyn Read) -> Result<()>) -> Result<()>;

    /// Queues a body and answers at once; `done` hears what came of it.
    fn submit(&self, body: Body<'static>, done: Done);

    fn update(&self, body: Body<'static>) -> Result<()> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        self.submit(
            body,
            Box::new(move |result| {
                // The receiver waits below, so it is there.
                let _ = send.send(result);
            }),
        );
        receive.recv().unwrap_or_else(|_| Err(Error::unavailable("the metadata engine has ended")))
    }
}
