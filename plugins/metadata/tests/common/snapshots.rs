//! A raw snapshotter in memory, which can also play a remote one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::Semaphore;
use windlass_core::mount::Mount;
use windlass_core::snapshot::{CommitOptions, Info, Kind, LABEL_REF, Snapshotter, Usage};
use windlass_core::{Context, Error, FieldMask, Filters, Labels, Result};

#[derive(Default)]
struct State {
    infos: BTreeMap<String, Info>,
    /// References of layers that need no unpacking.
    remote: Vec<String>,
    /// Every call passes here, where it is set.
    gate: Option<Arc<Semaphore>>,
    /// The next removals fail.
    fail_removals: bool,
}

#[derive(Clone, Default)]
pub struct FakeSnapshotter(Arc<Mutex<State>>);

impl FakeSnapshotter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
    pub fn names(&self) -> Vec<String> {
        self.state().infos.keys().cloned().collect()
    }
    pub fn labels_of(&self, name: &str) -> Labels {
        self.state().infos[name].labels.clone()
    }
    pub fn offer(&self, reference: &str) {
        self.state().remote.push(reference.to_owned());
    }
    pub fn gate(&self, gate: Option<Arc<Semaphore>>) {
        self.state().gate = gate;
    }
    pub fn fail_removals(&self, fail: bool) {
        self.state().fail_removals = fail;
    }
    pub fn put(&self, name: &str, parent: &str, kind: Kind) {
        let now = SystemTime::now();
        let info = Info {
            kind,
            name: name.into(),
            parent: parent.into(),
            labels: Labels::new(),
            created_at: now,
            updated_at: now,
        };
        self.state().infos.insert(name.into(), info);
    }
    /// Forgets the snapshots whose name ends so.
    pub fn lose(&self, end: &str) {
        self.state().infos.retain(|name, _| !name.ends_with(end));
    }
    /// What a commit does, without the record that follows it.
    pub fn commit_alone(&self, name: &str, key: &str) {
        let mut state = self.state();
        let mut info = state.infos.remove(key).unwrap();
        info.kind = Kind::Committed;
        info.name = name.into();
        state.infos.insert(name.into(), info);
    }

    async fn pass(&self) {
        let gate = self.state().gate.clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
    }

    async fn create(&self, key: &str, parent: &str, labels: Labels, kind: Kind) -> Result<Vec<Mount>> {
        self.pass().await;
        let remote = {
            let state = self.state();
            if state.infos.contains_key(key) {
                return Err(Error::exists(key));
            }
            if !parent.is_empty() && !state.infos.contains_key(parent) {
                return Err(Error::not_found(format!("parent {parent}")));
            }
            labels.get(LABEL_REF).filter(|r| state.remote.contains(r)).cloned()
        };
        if let Some(reference) = remote {
            let name = format!("remote/{reference}");
            self.put(&name, parent, Kind::Committed);
            self.state().infos.get_mut(&name).unwrap().labels = labels;
            return Err(Error::exists(reference));
        }
        self.put(key, parent, kind);
        self.state().infos.get_mut(key).unwrap().labels = labels;
        Ok(vec![Mount { kind: "fake".into(), source: key.into(), ..Mount::default() }])
    }
}

#[async_trait]
impl Snapshotter for FakeSnapshotter {
    async fn stat(&self, _: &Context, key: &str) -> Result<Info> {
        self.state().infos.get(key).cloned().ok_or_else(|| Error::not_found(format!("raw {key}")))
    }
    async fn update(&self, _: &Context, info: Info, fields: &FieldMask) -> Result<Info> {
        let mut state = self.state();
        let known = state.infos.get_mut(&info.name).ok_or_else(|| Error::not_found("raw"))?;
        let all = ["labels".to_owned()];
        for path in if fields.is_all() { &all[..] } else { &fields.0[..] } {
            FieldMask::apply_labels(path, &info.labels, &mut known.labels);
        }
        Ok(known.clone())
    }
    async fn usage(&self, cx: &Context, key: &str) -> Result<Usage> {
        self.stat(cx, key).await.map(|_| Usage { inodes: 1, size: 2 })
    }
    async fn mounts(&self, cx: &Context, key: &str) -> Result<Vec<Mount>> {
        let info = self.stat(cx, key).await?;
        Ok(vec![Mount { kind: "fake".into(), source: info.name, ..Mount::default() }])
    }
    async fn prepare(&self, _: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(key, parent, labels, Kind::Active).await
    }
    async fn view(&self, _: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(key, parent, labels, Kind::View).await
    }
    async fn commit(&self, _: &Context, name: &str, key: &str, options: CommitOptions) -> Result<()> {
        self.pass().await;
        if !self.state().infos.contains_key(key) {
            return Err(Error::not_found(format!("raw {key}")));
        }
        self.commit_alone(name, key);
        let mut state = self.state();
        let info = state.infos.get_mut(name).unwrap();
        info.labels = options.labels;
        if let Some(parent) = options.parent {
            info.parent = parent;
        }
        Ok(())
    }
    async fn remove(&self, _: &Context, key: &str) -> Result<()> {
        self.pass().await;
        let mut state = self.state();
        if state.fail_removals {
            return Err(Error::unavailable("on purpose"));
        }
        if state.infos.values().any(|info| info.parent == key) {
            return Err(Error::precondition(format!("{key} has children")));
        }
        state.infos.remove(key).map(drop).ok_or_else(|| Error::not_found(format!("raw {key}")))
    }
    fn list<'a>(&'a self, _: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>> {
        let all: Vec<_> =
            self.state().infos.values().filter(|i| filters.matches(*i)).cloned().map(Ok).collect();
        stream::iter(all).boxed()
    }
    async fn cleanup(&self, _: &Context) -> Result<()> {
        Ok(())
    }
}
