//! redb: a copy-on-write tree in one file. Views are its own read transactions; a commit is one write transaction with
//! immediate durability (one sync; the pages of the state before stay untouched until then).

use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{ReadableDatabase, TableDefinition, TableError};
use windlass_core::Result;
use windlass_core::metastore::{Each, Read};

use crate::Error;
use crate::engine::Engine;
use crate::transaction::Changes;

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const FILE: &str = "meta.redb";

pub(crate) struct Redb {
    path: PathBuf,
    database: redb::Database,
}

/// The table in one read transaction; `None` before the first commit.
struct View<'a> {
    path: &'a Path,
    table: Option<redb::ReadOnlyTable<&'static [u8], &'static [u8]>>,
}

// === impl Redb ===

impl Redb {
    fn error(&self, what: &'static str, source: impl Into<redb::Error>) -> Error {
        error(what, &self.path, source)
    }
}

fn error(what: &'static str, path: &Path, source: impl Into<redb::Error>) -> Error {
    Error::Redb { what, path: path.to_owned(), source: Box::new(source.into()) }
}

impl Engine for Redb {
    fn open(dir: &Path, cache: usize) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let mut builder = redb::Database::builder();
        builder.set_cache_size(cache);
        let database = builder.create(&path).map_err(|source| error("open", &path, source))?;
        crate::open::sync_dir(dir)?;
        Ok(Self { path, database })
    }

    fn view(&self, body: &mut dyn FnMut(&dyn Read) -> Result<()>) -> Result<()> {
        let tx = self.database.begin_read().map_err(|e| self.error("read", e))?;
        let table = match tx.open_table(RECORDS) {
            Ok(table) => Some(table),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(source) => return Err(self.error("read", source).into()),
        };
        body(&View { path: &self.path, table })
    }

    fn commit(&self, changes: &Changes) -> Result<(), Error> {
        let tx = self.database.begin_write().map_err(|e| self.error("write to", e))?;
        {
            let mut table = tx.open_table(RECORDS).map_err(|e| self.error("write to", e))?;
            for (key, value) in changes.iter() {
                match value {
                    Some(value) => table.insert(key, &value[..]).map(drop),
                    None => table.remove(key).map(drop),
                }
                .map_err(|e| self.error("write to", e))?;
            }
        }
        tx.commit().map_err(|e| self.error("commit to", e))
    }
}

// === impl View ===

impl Read for View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let Some(table) = &self.table else { return Ok(None) };
        let found = table.get(key).map_err(|e| error("read", self.path, e))?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn scan_from(&self, prefix: &[u8], start: &[u8], each: Each<'_>) -> Result<()> {
        let Some(table) = &self.table else { return Ok(()) };
        for pair in table.range(start.max(prefix)..).map_err(|e| error("read", self.path, e))? {
            let (key, value) = pair.map_err(|e| error("read", self.path, e))?;
            if !key.value().starts_with(prefix) || !each(key.value(), value.value())? {
                break;
            }
        }
        Ok(())
    }
}
