//! The key-value engine under all records.

use bytes::Bytes;

use crate::Result;

/// Reads of one consistent or newer state.
pub trait Read {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Calls `each` for every pair whose key starts with `prefix`, in key order, until it answers false.
    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8]) -> Result<bool>) -> Result<()>;
}

/// Reads that see the transaction's own writes, and writes.
pub trait Write: Read {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    fn delete(&mut self, key: &[u8]) -> Result<()>;
}

/// A boxed transaction body. It may run only once, on the engine's writer thread.
pub type Body<'a> = Box<dyn FnOnce(&mut dyn Write) -> Result<()> + Send + 'a>;

/// Ordered keys and values with one writer.
///
/// - `update` runs the body alone; where it answers an error nothing is changed and the error comes back. Where it
///   succeeds, the change is durable (synced to disk) before `update` returns. Concurrent updates share one sync.
/// - `view` never waits for a writer.
/// - A crash at any point leaves every acknowledged update and no half one.
/// Both block: call them on a blocking thread or where a fraction of a millisecond does not matter.
pub trait MetaStore: Send + Sync {
    fn view(&self, body: &mut dyn FnMut(&dyn Read) -> Result<()>) -> Result<()>;
    fn update(&self, body: Body<'static>) -> Result<()>;
}
