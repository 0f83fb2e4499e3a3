//! The numbered directories: made before their records, removed after them, swept where no record names them.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rustix::fs::{AtFlags, CWD, Mode};
use windlass_core::Result;
use windlass_core::snapshot::Kind;
use windlass_core::tree;

use crate::error::Error;
use crate::storage::Storage;

pub struct Dirs {
    base: PathBuf,
    /// Whether active snapshots have a `work` directory.
    work: bool,
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Reserved numbers whose records are not there yet.
    pending: HashSet<u64>,
    /// Numbers to remove.
    doomed: Vec<u64>,
    /// Threads that are removing.
    removing: usize,
}

/// A number whose directory is being filled. Dropped without [`Reserved::keep`], the directory goes again.
pub struct Reserved {
    dirs: Arc<Dirs>,
    pub number: u64,
    kept: bool,
}

impl Reserved {
    /// The record is there: the directory belongs to it.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.dirs.state().pending.remove(&self.number);
        if !self.kept {
            self.dirs.remove_later(vec![self.number]);
        }
    }
}

impl Dirs {
    /// Opens `<root>/snapshots`. Makes the directories of records that a crash of the machine took before they were on
    /// disk, and removes those that no record names.
    pub fn open(root: &Path, work: bool, storage: &Storage) -> Result<Arc<Self>> {
        let base = root.join("snapshots");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&base)
            .map_err(Error::io("make directory", &base))?;
        let dirs = Arc::new(Self { base, work, state: Mutex::default(), idle: Condvar::new() });
        let records = storage.numbers()?;
        let present = dirs.present()?;
        let highest = records.iter().map(|(number, _)| *number).chain(present).max().unwrap_or(0);
        dirs.state().next = highest + 1;
        for (number, kind) in records {
            if dirs.fs(number).exists() {
                continue;
            }
            if kind == Kind::Committed {
                let path = dirs.fs(number);
                tracing::error!(path = %path.display(), "the directory of a committed snapshot is missing");
                continue;
            }
            tracing::warn!(number, "making the missing directory of an uncommitted snapshot again");
            dirs.make(number, kind)?;
        }
        Ok(dirs)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the state of directories is changed without panics")
    }

    fn path(&self, number: u64) -> PathBuf {
        self.base.join(number.to_string())
    }

    /// Where the files of a snapshot are.
    pub fn fs(&self, number: u64) -> PathBuf {
        self.path(number).join("fs")
    }

    pub fn work(&self, number: u64) -> PathBuf {
        self.path(number).join("work")
    }

    pub fn reserve(self: &Arc<Self>) -> Reserved {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.pending.insert(number);
        Reserved { dirs: self.clone(), number, kept: false }
    }

    /// Makes the directories of a snapshot; those that are there stay.
    pub fn make(&self, number: u64, kind: Kind) -> Result<(), Error> {
        let path = self.path(number);
        let make = |path: &Path, mode: u32| -> Result<(), Error> {
            match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(Error::io("make directory", path)(e)),
            }
            // Whatever the umask says: it is the container's root directory.
            let changed = rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty());
            changed.map_err(Error::io("change the mode of", path))
        };
        make(&path, 0o700)?;
        make(&path.join("fs"), 0o755)?;
        if self.work && kind == Kind::Active {
            make(&path.join("work"), 0o711)?;
        }
        Ok(())
    }

    fn present(&self) -> Result<Vec<u64>, Error> {
        let failed = Error::io::<std::io::Error>("read directory", &self.base);
        let read = std::fs::read_dir(&self.base).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let numbers = read.map_err(failed)?.into_iter();
        Ok(numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Removes directories on a thread of the blocking pool, one thread at a time.
    pub fn remove_later(self: &Arc<Self>, numbers: Vec<u64>) {
        let mut state = self.state();
        state.doomed.extend(numbers);
        if state.removing > 0 || state.doomed.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // Outside a runtime nobody serves any more; the next start sweeps.
            return;
        };
        state.removing += 1;
        let dirs = self.clone();
        runtime.spawn_blocking(move || dirs.drain());
    }

    /// Removes directories now. Blocks.
    pub fn remove_now(&self, numbers: Vec<u64>) {
        let mut state = self.state();
        state.doomed.extend(numbers);
        state.removing += 1;
        drop(state);
        self.drain();
        let state = self.state();
        drop(
            self.idle
                .wait_while(state, |s| s.removing > 0)
                .expect("the state of directories is changed without panics"),
        );
    }

    fn drain(&self) {
        loop {
            let mut state = self.state();
            let Some(number) = state.doomed.pop() else {
                state.removing -= 1;
                self.idle.notify_all();
                return;
            };
            drop(state);
            let path = self.path(number);
            if let Err(error) = self.remove(number) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a snapshot's directory; cleanup tries again");
            }
        }
    }

    fn remove(&self, number: u64) -> std::io::Result<()> {
        let base = tree::open_dir(&self.base)?;
        tree::remove(base.as_fd(), number.to_string().as_ref())
    }

    /// Removes all directories that no record names and nobody is filling. Blocks.
    pub fn sweep(&self, storage: &Storage) -> Result<()> {
        // In this order: what is made meanwhile is not in the list, what gets its record meanwhile is in one of both.
        let present = self.present()?;
        let pending = self.state().pending.clone();
        let in_use = storage.in_use()?;
        let orphans = present.into_iter().filter(|n| !pending.contains(n) && !in_use.contains(n)).collect();
        self.remove_now(orphans);
        Ok(())
    }
}
