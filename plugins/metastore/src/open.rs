//! Opening: which engine, in which directory, and what happens when the choice has changed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use windlass_core::{Error as CoreError, Result};

use crate::engine::Engine;
use crate::redb::Redb;
use crate::sled::Sled;
use crate::transaction::{Changes, Transaction};
use crate::writer::Store;
use crate::{Error, MetaStore};

/// The engines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    #[default]
    Sled,
    Redb,
}

/// How a database is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub engine: Choice,
    /// Bytes that the engine may keep of what it has read.
    pub cache: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { engine: Choice::default(), cache: 8 << 20 }
    }
}

impl Choice {
    fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }
}

/// Opens the database below `root`, which exists, or makes it. Where the other engine holds the records they are
/// carried over first, and its files stay beside as `<engine>.old`.
pub fn open(root: &Path, options: Options) -> Result<Arc<dyn MetaStore>> {
    let Options { engine, cache } = options;
    let dir = root.join(engine.name());
    let other = match engine {
        Choice::Sled => Choice::Redb,
        Choice::Redb => Choice::Sled,
    };
    let from = root.join(other.name());
    if !exists(&dir)? && exists(&from)? {
        match engine {
            Choice::Sled => carry_over::<Redb, Sled>(root, &from, &dir, cache)?,
            Choice::Redb => carry_over::<Sled, Redb>(root, &from, &dir, cache)?,
        }
        tracing::info!(from = other.name(), to = engine.name(), "metadata records carried over");
    }
    make_dir(&dir)?;
    sync_dir(root)?;
    Ok(match engine {
        Choice::Sled => Arc::new(Store::<Sled>::open(dir, cache)?),
        Choice::Redb => Arc::new(Store::<Redb>::open(dir, cache)?),
    })
}

/// Copies all records into a new database, which takes its name only when it is whole.
fn carry_over<From: Engine, To: Engine>(root: &Path, from: &Path, to: &Path, cache: usize) -> Result<()> {
    let new = with_suffix(to, "new");
    if exists(&new)? {
        fs::remove_dir_all(&new)
            .map_err(|source| CoreError::io(format!("remove {}", new.display()), source))?;
    }
    make_dir(&new)?;
    {
        let source = From::open(from, cache)?;
        let target = To::open(&new, cache)?;
        source.view(&mut |records| {
            let mut changes = Changes::default();
            records.scan(b"", &mut |key, value| {
                use windlass_core::metastore::Write;
                let mut tx = Transaction::new(records, &mut changes);
                tx.put(key, value)?;
                tx.keep();
                if changes.bytes > 1 << 20 {
                    target.commit(&std::mem::take(&mut changes))?;
                }
                Ok(true)
            })?;
            target.commit(&changes).map_err(Into::into)
        })?;
    }
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to).map_err(|source| CoreError::io(format!("rename {}", from.display()), source))
    };
    rename(&new, to)?;
    sync_dir(root)?;
    let old = with_suffix(from, "old");
    if exists(&old)? {
        fs::remove_dir_all(&old)
            .map_err(|source| CoreError::io(format!("remove {}", old.display()), source))?;
    }
    rename(from, &old)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|source| CoreError::io(format!("look for {}", path.display()), source))
}

fn make_dir(dir: &Path) -> Result<()> {
    match rustix::fs::mkdir(dir, rustix::fs::Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(CoreError::io(format!("make {}", dir.display()), errno.into())),
    }
}

/// Syncs the names in a directory.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(|source| Error::Io {
        what: "sync the directory",
        path: dir.to_owned(),
        source,
    })
}
