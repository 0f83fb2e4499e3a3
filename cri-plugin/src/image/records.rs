//! Image records, CRI's labels on them, and the index that follows them: whoever makes a record in this namespace makes an
//! image that CRI shows.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use windlass_core::event::{Event, Subscription};
use windlass_core::image::Image as Record;
use windlass_core::{Class, Descriptor, Digest, Error, FieldMask, Filters, Labels, Result};

use super::Images;
use super::inspect::{Facts, inspect};

/// Label: the record is CRI's, or CRI has seen it.
const LABEL_IMAGE: &str = "io.cri-containerd.image";
const MANAGED: &str = "managed";
const LABEL_PINNED: &str = "io.cri-containerd.pinned";
const PINNED: &str = "pinned";
/// Images read at once at the start.
const AT_ONCE: usize = 16;
/// Times that a record is made again while others create and delete it.
const MAX_TRIES: usize = 16;
/// One image's share of the time of everybody who waits for news.
const LIMIT: Duration = Duration::from_secs(60);

impl Images {
    /// What a record of this name carries.
    pub(super) fn labels(&self, name: &str) -> Labels {
        let mut labels = Labels::from([(LABEL_IMAGE.to_owned(), MANAGED.to_owned())]);
        if self.config.is_pinned(name) {
            labels.insert(LABEL_PINNED.into(), PINNED.into());
        }
        labels
    }

    /// Makes the record `name` point to `target`, with these labels at least.
    pub(super) async fn put(&self, name: &str, target: &Descriptor, labels: &Labels) -> Result<()> {
        let now = SystemTime::UNIX_EPOCH;
        let record = Record {
            name: name.to_owned(),
            target: target.clone(),
            labels: labels.clone(),
            created_at: now,
            updated_at: now,
        };
        let mut mask: Vec<String> = labels.keys().map(|key| format!("labels.{key}")).collect();
        mask.push("target".into());
        let mask = FieldMask(mask);
        for _ in 0..MAX_TRIES {
            match self.records.get(&self.cx, name).await {
                Ok(old) if old.target.digest == target.digest && has(&old.labels, labels) => return Ok(()),
                Ok(_) => match self.records.update(&self.cx, record.clone(), &mask).await {
                    // Deleted in between.
                    Err(error) if error.is_not_found() => {}
                    done => return done.map(|_| ()),
                },
                Err(error) if error.is_not_found() => {
                    match self.records.create(&self.cx, record.clone()).await {
                        Err(error) if error.is(Class::AlreadyExists) => {}
                        done => return done.map(|_| ()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::aborted(format!("image {name:?} is created and deleted all the time")))
    }

    /// What `target` points to, read once.
    pub(super) async fn facts(&self, target: &Descriptor) -> Result<Arc<Facts>> {
        match self.index.facts(&target.digest) {
            Some(facts) => Ok(facts),
            None => Ok(Arc::new(inspect(&*self.content, &self.cx, target).await?.0)),
        }
    }

    /// Brings the index up to date with the record `name`, as it is now.
    pub(super) async fn refresh(&self, name: &str) -> Result<()> {
        let _held = self.names.lock(name).await;
        let record = match self.records.get(&self.cx, name).await {
            Ok(record) => record,
            Err(error) if error.is_not_found() => {
                self.index.remove(name);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match self.facts(&record.target).await {
            Ok(facts) => {
                self.index.set(name, &record.target, &facts, is_pinned(&record.labels));
                Ok(())
            }
            Err(error) => {
                // What cannot be read cannot be run: it is not shown.
                self.index.remove(name);
                Err(error)
            }
        }
    }

    /// Takes up a record that somebody else made or changed: gives it CRI's labels, and its image a record by its id.
    async fn adopt(&self, name: &str) -> Result<()> {
        let record = match self.records.get(&self.cx, name).await {
            Err(error) if error.is_not_found() => return self.refresh(name).await,
            record => record?,
        };
        let known = self.index.facts(&record.target.digest);
        let facts = match known {
            Some(facts) => facts,
            None => match self.ready(&record.target).await? {
                Some(facts) => facts,
                None => {
                    tracing::debug!(image = %name, "not all of it is here: not shown");
                    self.index.remove(name);
                    return Ok(());
                }
            },
        };
        let wanted = self.labels(name);
        if !has(&record.labels, &wanted) {
            let id = facts.id.as_str();
            if name != id {
                self.put(id, &record.target, &wanted).await?;
                self.refresh(id).await?;
            }
            self.relabel(name, wanted).await?;
        }
        self.refresh(name).await
    }

    /// Adds labels and leaves everything else as it is now.
    async fn relabel(&self, name: &str, labels: Labels) -> Result<()> {
        let mask = FieldMask(labels.keys().map(|key| format!("labels.{key}")).collect());
        let now = SystemTime::UNIX_EPOCH;
        // Not looked at: the mask names labels alone.
        let target = Descriptor::new("", Digest::of(b""), 0);
        let record = Record { name: name.to_owned(), target, labels, created_at: now, updated_at: now };
        match self.records.update(&self.cx, record, &mask).await {
            Err(error) if error.is_not_found() => Ok(()),
            done => done.map(|_| ()),
        }
    }

    /// An image that can be run: unpacked, or with all layers at hand. `None` for one of which something is missing.
    async fn ready(&self, target: &Descriptor) -> Result<Option<Arc<Facts>>> {
        let (facts, layers) = match inspect(&*self.content, &self.cx, target).await {
            Ok(found) => found,
            Err(error) if matches!(error.class(), Class::NotFound | Class::InvalidArgument) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let unpacked = match self.snapshotter(&self.config.snapshotter) {
            Ok(_) if facts.chain_id.is_empty() => true,
            Ok(snapshotter) => snapshotter.stat(&self.cx, &facts.chain_id).await.is_ok(),
            Err(_) => false,
        };
        if !unpacked {
            for layer in &layers {
                match self.content.info(&self.cx, layer).await {
                    Err(error) if error.is_not_found() => return Ok(None),
                    found => found?,
                };
            }
        }
        Ok(Some(Arc::new(facts)))
    }

    /// Reads all records. Names that the index has and the store has not are forgotten.
    pub(super) async fn load(&self) -> Result<()> {
        let records = self.records.list(&self.cx, &Filters::all()).await?;
        let mut targets: HashMap<Digest, (Descriptor, String)> = HashMap::new();
        for record in &records {
            let target = || (record.target.clone(), record.name.clone());
            targets.entry(record.target.digest.clone()).or_insert_with(target);
        }
        let read = futures::stream::iter(targets).map(|(digest, (target, name))| async move {
            let facts = match self.index.facts(&digest) {
                Some(facts) => Ok(Some(facts)),
                None => self.ready(&target).await,
            };
            (digest, name, facts)
        });
        let mut facts = HashMap::new();
        let mut read = std::pin::pin!(read.buffer_unordered(AT_ONCE));
        while let Some((target, name, found)) = read.next().await {
            match found {
                Ok(Some(found)) => _ = facts.insert(target, found),
                Ok(None) => tracing::warn!(image = %name, "not all of it is here: not shown"),
                Err(error) => tracing::warn!(image = %name, error = %error.chain(), "cannot read an image"),
            }
        }
        let mut gone: std::collections::HashSet<String> = self.index.names().into_iter().collect();
        for record in &records {
            gone.remove(&record.name);
            let Some(facts) = facts.get(&record.target.digest) else { continue };
            self.index.set(&record.name, &record.target, facts, is_pinned(&record.labels));
            if !has(&record.labels, &self.labels(&record.name)) {
                self.adopt_logged(&record.name).await;
            }
        }
        for name in gone {
            self.refresh(&name).await?;
        }
        tracing::debug!(images = self.index.list().len(), "images loaded");
        Ok(())
    }

    async fn adopt_logged(&self, name: &str) {
        let done = tokio::time::timeout(LIMIT, self.adopt(name)).await;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(image = %name, error = %error.chain(), "cannot take up an image")
            }
            Err(_) => tracing::warn!(image = %name, "taking up an image takes too long"),
        }
    }

    pub(super) fn subscribe(&self) -> Result<Subscription> {
        self.exchange.subscribe(&[format!(
            "namespace=={},topic~=/^.images.(create|update|delete)$/",
            self.cx.namespace
        )])
    }
}

/// Follows image events as long as there are images. Who falls behind reads everything again.
pub(super) async fn follow(images: Weak<Images>, mut events: Subscription) {
    loop {
        let next = events.next().await;
        let Some(images) = images.upgrade() else { return };
        match next {
            // The daemon ends.
            None => return,
            Some(Ok(envelope)) => {
                if let Event::ImageCreate { name, .. }
                | Event::ImageUpdate { name, .. }
                | Event::ImageDelete { name } = &envelope.event
                {
                    images.adopt_logged(name).await;
                }
            }
            Some(Err(error)) => {
                tracing::warn!(error = %error.chain(), "image events were missed: reading all images again");
                let again = images.subscribe();
                let loaded = images.load().await;
                match (again, loaded) {
                    (Ok(again), Ok(())) => events = again,
                    (Err(error), _) | (_, Err(error)) => {
                        tracing::error!(error = %error.chain(), "images of others are not followed any more");
                        return;
                    }
                }
            }
        }
    }
}

fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn is_pinned(labels: &Labels) -> bool {
    labels.get(LABEL_PINNED).is_some_and(|value| value == PINNED)
}
