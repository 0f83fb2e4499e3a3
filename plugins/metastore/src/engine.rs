//! What the writer asks of an engine.

use std::path::Path;

use windlass_core::Result;
use windlass_core::metastore::Read;

use crate::Error;
use crate::transaction::Changes;

/// An open database. Closed when dropped.
pub(crate) trait Engine: Send + Sync + Sized + 'static {
    /// Opens or makes the database in `dir`, which exists. Whatever a crash has left there is put right.
    fn open(dir: &Path, cache: usize) -> Result<Self, Error>;

    /// All reads of `body` see one state. Never waits for the disk's sync.
    fn view(&self, body: &mut dyn FnMut(&dyn Read) -> Result<()>) -> Result<()>;

    /// Makes the changes visible all at once, and durable before it returns. Only one thread calls it. After an error
    /// the engine is dropped and opened again: which of the changes are there is unknown until then.
    fn commit(&self, changes: &Changes) -> Result<(), Error>;
}
