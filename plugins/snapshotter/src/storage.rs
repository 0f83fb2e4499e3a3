//! Records of one snapshotter in the metadata engine: names, parents, children.
//!
//! `snapshots/<snapshotter>/r/<name>` is a record, `snapshots/<snapshotter>/c/<parent's number>/<number>` says that a
//! snapshot is a child. Nothing here touches directories.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use windlass_core::metastore::{MetaStore, Read, Write};
use windlass_core::snapshot::{CommitOptions, Info, Kind, Usage};
use windlass_core::{Error, FieldMask, Filters, Labels, Result};

use crate::record::Record;

/// Longest chain that is followed: overlayfs takes 500 layers, and a circle ends here.
const MAX_DEPTH: usize = 4096;

#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn MetaStore>,
    keys: Keys,
}

#[derive(Clone)]
struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    fn record(&self, name: &str) -> Vec<u8> {
        format!("{}r/{name}", self.prefix).into_bytes()
    }

    fn children(&self, parent: u64) -> Vec<u8> {
        format!("{}c/{parent:016x}/", self.prefix).into_bytes()
    }

    fn child(&self, parent: u64, number: u64) -> Vec<u8> {
        format!("{}c/{parent:016x}/{number:016x}", self.prefix).into_bytes()
    }

    fn get(&self, tx: &(impl Read + ?Sized), name: &str) -> Result<Option<Record>> {
        tx.get(&self.record(name))?.map(|bytes| Record::decode(name, &bytes)).transpose()
    }

    fn found(&self, tx: &(impl Read + ?Sized), name: &str) -> Result<Record> {
        self.get(tx, name)?.ok_or_else(|| Error::not_found(format!("snapshot {name} does not exist")))
    }

    fn put(&self, tx: &mut dyn Write, name: &str, record: &Record) -> Result<()> {
        tx.put(&self.record(name), &record.encode()?)
    }

    /// Numbers from `parent` down to the base.
    fn chain(&self, tx: &(impl Read + ?Sized), parent: &str) -> Result<Vec<u64>> {
        let mut chain = Vec::new();
        let mut next = parent.to_owned();
        while !next.is_empty() {
            let record = self.get(tx, &next)?;
            let record = record.ok_or_else(|| Error::not_found(format!("missing parent {next:?}")))?;
            chain.push(record.number);
            if chain.len() > MAX_DEPTH {
                return Err(Error::data_loss(format!(
                    "snapshot {parent:?} has more than {MAX_DEPTH} ancestors"
                )));
            }
            next = record.parent;
        }
        Ok(chain)
    }

    /// A parent that may have children.
    fn parent(&self, tx: &(impl Read + ?Sized), name: &str) -> Result<Record> {
        let found = self.get(tx, name)?;
        let parent = found.ok_or_else(|| Error::not_found(format!("missing parent {name:?}")))?;
        if parent.kind != Kind::Committed {
            return Err(Error::invalid(format!("parent {name:?} is not a committed snapshot")));
        }
        Ok(parent)
    }
}

/// A snapshot and the directories that it needs.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub record: Record,
    /// Numbers of the ancestors, the parent first.
    pub parents: Vec<u64>,
}

impl Storage {
    pub fn new(store: Arc<dyn MetaStore>, snapshotter: &str) -> Self {
        Self { store, keys: Keys { prefix: format!("snapshots/{snapshotter}/").into() } }
    }

    fn read<T>(&self, body: impl Fn(&dyn Read) -> Result<T>) -> Result<T> {
        let mut answer = None;
        self.store.view(&mut |tx| {
            answer = Some(body(tx)?);
            Ok(())
        })?;
        answer.ok_or_else(|| Error::internal("the metadata engine did not run a view"))
    }

    /// Runs `body` on the engine's writer; the change is on disk when this answers.
    async fn write<T: Send + 'static>(
        &self,
        body: impl FnOnce(&Keys, &mut dyn Write) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = tokio::sync::oneshot::channel();
        let slot = Arc::new(Mutex::new(None));
        let (keys, filled) = (self.keys.clone(), slot.clone());
        self.store.submit(
            Box::new(move |tx| {
                let value = body(&keys, tx)?;
                *filled.lock().expect("the slot is only assigned") = Some(value);
                Ok(())
            }),
            Box::new(move |result| {
                // The caller may have given up; the change stands all the same.
                let _ = send.send(result);
            }),
        );
        receive.await.unwrap_or_else(|_| Err(Error::unavailable("the metadata engine has ended")))?;
        let value = slot.lock().expect("the slot is only assigned").take();
        value.ok_or_else(|| Error::internal("the metadata engine did not run an update"))
    }

    pub fn get(&self, name: &str) -> Result<Record> {
        self.read(|tx| self.keys.found(tx, name))
    }

    /// An active snapshot or view with its ancestors.
    pub fn mountable(&self, name: &str) -> Result<Snapshot> {
        self.read(|tx| {
            let record = self.keys.found(tx, name)?;
            if record.kind == Kind::Committed {
                return Err(Error::precondition(format!("requested snapshot {name} not active or view")));
            }
            Ok(Snapshot { parents: self.keys.chain(tx, &record.parent)?, record })
        })
    }

    /// Numbers from a future parent down to the base.
    pub fn chain(&self, parent: &str) -> Result<Vec<u64>> {
        self.read(|tx| self.keys.chain(tx, parent))
    }

    /// Checks what can be checked before a directory is made; answers the ancestors' numbers.
    pub fn may_create(&self, name: &str, parent: &str) -> Result<Vec<u64>> {
        self.read(|tx| {
            if !parent.is_empty() {
                self.keys.parent(tx, parent)?;
            }
            if tx.get(&self.keys.record(name))?.is_some() {
                return Err(Error::exists(format!("snapshot {name}")));
            }
            self.keys.chain(tx, parent)
        })
    }

    pub async fn create(&self, name: &str, record: Record) -> Result<Snapshot> {
        let name = name.to_owned();
        self.write(move |keys, tx| {
            if !record.parent.is_empty() {
                let parent = keys.parent(tx, &record.parent)?;
                tx.put(&keys.child(parent.number, record.number), name.as_bytes())?;
            }
            if tx.get(&keys.record(&name))?.is_some() {
                return Err(Error::exists(format!("snapshot {name}")));
            }
            keys.put(tx, &name, &record)?;
            Ok(Snapshot { parents: keys.chain(tx, &record.parent)?, record })
        })
        .await
    }

    pub async fn commit(&self, name: &str, key: &str, usage: Usage, options: CommitOptions) -> Result<()> {
        let (name, key) = (name.to_owned(), key.to_owned());
        self.write(move |keys, tx| {
            if tx.get(&keys.record(&name))?.is_some() {
                return Err(Error::exists(format!("committed snapshot {name}")));
            }
            let found = keys.get(tx, &key)?;
            let mut record =
                found.ok_or_else(|| Error::not_found(format!("failed to get active snapshot {key:?}")))?;
            if record.kind != Kind::Active {
                return Err(Error::precondition(format!("snapshot {key:?} is not active")));
            }
            match options.parent {
                Some(parent) if parent != record.parent && !parent.is_empty() => {
                    if !record.parent.is_empty() {
                        return Err(Error::invalid(format!(
                            "cannot change parent of active snapshot {key:?} on commit"
                        )));
                    }
                    record.parent = parent;
                }
                _ => {}
            }
            if !record.parent.is_empty() {
                let parent = keys.get(tx, &record.parent)?.ok_or_else(|| {
                    Error::not_found(format!("missing parent {:?} of snapshot {key:?}", record.parent))
                })?;
                if parent.kind != Kind::Committed {
                    return Err(Error::precondition(format!("parent {:?} is not committed", record.parent)));
                }
                tx.put(&keys.child(parent.number, record.number), name.as_bytes())?;
            }
            record.kind = Kind::Committed;
            record.labels = options.labels;
            record.usage = usage;
            record.touch(true);
            tx.delete(&keys.record(&key))?;
            keys.put(tx, &name, &record)
        })
        .await
    }

    /// Answers the number of the directory that nothing names any more.
    pub async fn remove(&self, name: &str) -> Result<u64> {
        let name = name.to_owned();
        self.write(move |keys, tx| {
            let found = keys.get(tx, &name)?;
            let record = found.ok_or_else(|| Error::not_found(format!("snapshot {name}")))?;
            let mut child = None;
            tx.scan(&keys.children(record.number), &mut |_, value| {
                child = Some(String::from_utf8_lossy(value).into_owned());
                Ok(false)
            })?;
            if let Some(child) = child {
                return Err(Error::precondition(format!(
                    "cannot remove snapshot with child: {name} is the parent of {child}"
                )));
            }
            if !record.parent.is_empty()
                && let Some(parent) = keys.get(tx, &record.parent)?
            {
                tx.delete(&keys.child(parent.number, record.number))?;
            }
            tx.delete(&keys.record(&name))?;
            Ok(record.number)
        })
        .await
    }

    pub async fn update(&self, name: &str, labels: Labels, fields: FieldMask) -> Result<Record> {
        let name = name.to_owned();
        self.write(move |keys, tx| {
            let mut record = keys.found(tx, &name)?;
            if fields.is_all() {
                FieldMask::apply_labels("labels", &labels, &mut record.labels);
            }
            for path in &fields.0 {
                if !FieldMask::apply_labels(path, &labels, &mut record.labels) {
                    return FieldMask::refused(path, &format!("snapshot {name:?}"));
                }
            }
            record.touch(false);
            keys.put(tx, &name, &record)?;
            Ok(record)
        })
        .await
    }

    /// All records in order of their names.
    fn all(&self) -> Result<Vec<(String, Record)>> {
        let prefix = self.keys.record("");
        // Decoded afterwards: writers wait for a view.
        let raw = self.read(|tx| {
            let mut raw = Vec::new();
            tx.scan(&prefix, &mut |key, value| {
                raw.push((key[prefix.len()..].to_vec(), value.to_vec()));
                Ok(true)
            })?;
            Ok(raw)
        })?;
        let decode = |(name, value): (Vec<u8>, Vec<u8>)| {
            let name = String::from_utf8_lossy(&name).into_owned();
            Record::decode(&name, &value).map(|record| (name, record))
        };
        raw.into_iter().map(decode).collect()
    }

    /// What matches, with the number of each.
    pub fn list(&self, filters: &Filters) -> Result<Vec<(u64, Info)>> {
        let infos = self.all()?.into_iter().map(|(name, record)| (record.number, record.info(&name)));
        Ok(infos.filter(|(_, info)| filters.matches(info)).collect())
    }

    /// Numbers and kinds of all snapshots.
    pub fn numbers(&self) -> Result<Vec<(u64, Kind)>> {
        Ok(self.all()?.into_iter().map(|(_, record)| (record.number, record.kind)).collect())
    }

    pub fn in_use(&self) -> Result<HashSet<u64>> {
        Ok(self.numbers()?.into_iter().map(|(number, _)| number).collect())
    }
}
