//! A transaction's own view: the engine's state with the changes of its group, and its own, laid over it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use windlass_core::Result;
use windlass_core::metastore::{Each, Read, Write};

use crate::Error;

/// Longest key that is stored, in bytes (containerd's bound too).
const MAX_KEY: usize = 32 * 1024;

/// Finished changes by key: a value, or `None` for a deletion.
#[derive(Default)]
pub(crate) struct Changes {
    map: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// Bytes of the values put, also of those overwritten since.
    pub(crate) bytes: usize,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&Bytes>)> {
        self.map.iter().map(|(key, value)| (key.as_slice(), value.as_ref()))
    }
}

/// One body's transaction. Dropped without [`Transaction::keep`] it leaves the changes as they were.
pub(crate) struct Transaction<'a> {
    base: &'a dyn Read,
    changes: &'a mut Changes,
    /// What stood in the changes before, oldest first.
    undo: Vec<(Vec<u8>, Option<Option<Bytes>>)>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(base: &'a dyn Read, changes: &'a mut Changes) -> Self {
        Self { base, changes, undo: Vec::new() }
    }

    pub(crate) fn keep(mut self) {
        self.undo.clear();
    }

    fn change(&mut self, key: &[u8], value: Option<Bytes>) -> Result<()> {
        if key.len() > MAX_KEY {
            return Err(Error::Key { length: key.len(), limit: MAX_KEY }.into());
        }
        self.changes.bytes += value.as_ref().map_or(0, Bytes::len);
        let before = self.changes.map.insert(key.to_vec(), value);
        self.undo.push((key.to_vec(), before));
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        for (key, before) in self.undo.drain(..).rev() {
            match before {
                Some(value) => self.changes.map.insert(key, value),
                None => self.changes.map.remove(&key),
            };
        }
    }
}

impl Read for Transaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.changes.map.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.base.get(key),
        }
    }

    fn scan_from(&self, prefix: &[u8], start: &[u8], each: Each<'_>) -> Result<()> {
        let range = (Bound::Included(start.max(prefix).to_vec()), Bound::Unbounded);
        let mut ours =
            self.changes.map.range(range).take_while(|(key, _)| key.starts_with(prefix)).peekable();
        let mut go_on = true;
        self.base.scan_from(prefix, start, &mut |key, value| {
            while let Some((changed, new)) = ours.next_if(|(changed, _)| changed.as_slice() < key) {
                if let Some(new) = new
                    && !each(changed, new)?
                {
                    go_on = false;
                    return Ok(false);
                }
            }
            go_on = match ours.next_if(|(changed, _)| changed.as_slice() == key) {
                Some((_, Some(new))) => each(key, new)?,
                Some((_, None)) => true,
                None => each(key, value)?,
            };
            Ok(go_on)
        })?;
        for (changed, new) in ours {
            if !go_on {
                break;
            }
            if let Some(new) = new {
                go_on = each(changed, new)?;
            }
        }
        Ok(())
    }
}

impl Write for Transaction<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.change(key, Some(Bytes::copy_from_slice(value)))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.change(key, None)
    }
}
