//! What images there are, in memory: by record name, and by id. A record name belongs to one image; an image is there as
//! long as a record names it. Nothing in here awaits or reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde_json::value::RawValue;
use tokio::sync::watch;
use windlass_api::cri;
use windlass_core::{Descriptor, Digest};

use super::inspect::{self, Config, Facts};
use super::reference::{Name, Sort, is_hex, sort_of};

/// Fewest digits of an id that stand for it.
const MIN_PREFIX: usize = 4;

/// An image as it was when it was looked up; it does not change.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its config.
    pub id: Digest,
    /// Its tags, sorted: full names of records.
    pub names: Vec<String>,
    /// Its names by digest, sorted.
    pub digests: Vec<String>,
    /// Names of all its records: tags, digests, the id and whatever else points to it.
    pub references: Vec<String>,
    /// What the record that was seen last points to.
    pub target: Descriptor,
    /// Of its uppermost layer; empty where it has none.
    pub chain_id: String,
    /// Bytes as they were sent.
    pub size: u64,
    /// The user it is for, where that is a number.
    pub uid: Option<i64>,
    /// And where it is a name.
    pub username: String,
    pub pinned: bool,
    /// It holds a checkpoint of a container.
    pub checkpoint: bool,
    config: Arc<RawValue>,
}

// === impl Image ===

impl Image {
    /// What it says of the process that it is for.
    pub fn config(&self) -> Config {
        // It was parsed when the image was read.
        inspect::parse(&self.config).unwrap_or_default()
    }

    /// The `config` section of its configuration in a document of its own, as JSON.
    pub fn document(&self) -> serde_json::Value {
        let section: serde_json::Value = serde_json::from_str(self.config.get()).unwrap_or_default();
        serde_json::json!({ "config": section })
    }

    /// The name for people and for records of containers: a tag, else a digest, else the id.
    pub fn name(&self) -> &str {
        self.names.first().or(self.digests.first()).map_or(self.id.as_str(), String::as_str)
    }

    pub fn to_cri(&self) -> cri::Image {
        cri::Image {
            id: self.id.to_string(),
            repo_tags: self.names.clone(),
            repo_digests: self.digests.clone(),
            size: self.size,
            uid: self.uid.map(|value| cri::Int64Value { value }),
            username: self.username.clone(),
            spec: None,
            pinned: self.pinned,
        }
    }
}

#[derive(Default)]
pub struct Index {
    tables: RwLock<Tables>,
    /// Counts changes.
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct Tables {
    names: HashMap<String, Named>,
    images: BTreeMap<Digest, Entry>,
    /// Images by what their records point to.
    targets: HashMap<Digest, Arc<Facts>>,
}

struct Named {
    id: Digest,
    pinned: bool,
}

struct Entry {
    image: Arc<Image>,
    names: BTreeSet<String>,
    targets: BTreeSet<Digest>,
}

// === impl Index ===

impl Index {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record `name` points to `target`, which is this image.
    pub fn set(&self, name: &str, target: &Descriptor, facts: &Arc<Facts>, pinned: bool) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if tables.names.get(name).is_some_and(|old| old.id != facts.id) {
            tables.remove(name);
        }
        tables.names.insert(name.to_owned(), Named { id: facts.id.clone(), pinned });
        tables.targets.insert(target.digest.clone(), facts.clone());
        let entry = tables.images.entry(facts.id.clone()).or_insert_with(|| Entry::new(facts, target));
        entry.names.insert(name.to_owned());
        entry.targets.insert(target.digest.clone());
        tables.rebuild(&facts.id, Some(target));
        drop(tables);
        self.revision.send_modify(|n| *n += 1);
    }

    /// The record `name` is gone.
    pub fn remove(&self, name: &str) {
        self.tables.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.revision.send_modify(|n| *n += 1);
    }

    /// Is woken by every change.
    #[cfg(test)]
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub fn names(&self) -> Vec<String> {
        self.read().names.keys().cloned().collect()
    }

    /// What is known of an image that a record points to by this digest.
    pub fn facts(&self, target: &Digest) -> Option<Arc<Facts>> {
        self.read().targets.get(target).cloned()
    }

    pub fn list(&self) -> Vec<Arc<Image>> {
        self.read().images.values().map(|e| e.image.clone()).collect()
    }

    /// By id, whole or an unambiguous beginning of it; by a tag or digest in any form; by the name of a record.
    pub fn resolve(&self, text: &str) -> Option<Arc<Image>> {
        let tables = self.read();
        if let Ok(id) = text.parse::<Digest>() {
            return tables.images.get(&id).map(|e| e.image.clone());
        }
        let normal = Name::parse(text).map(|name| name.normal().to_string()).ok();
        let named = normal.and_then(|name| tables.named(&name)).or_else(|| tables.named(text));
        named.or_else(|| tables.beginning(text))
    }
}

// === impl Tables ===

impl Tables {
    fn named(&self, name: &str) -> Option<Arc<Image>> {
        Some(self.images.get(&self.names.get(name)?.id)?.image.clone())
    }

    fn beginning(&self, text: &str) -> Option<Arc<Image>> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() < MIN_PREFIX || !hex.bytes().all(is_hex) {
            return None;
        }
        let begins = |e: &&Entry| e.image.id.encoded().starts_with(hex);
        let mut found = self.images.values().filter(begins);
        let one = found.next()?;
        // Two that begin so are none.
        found.next().is_none().then(|| one.image.clone())
    }

    fn remove(&mut self, name: &str) {
        let Some(named) = self.names.remove(name) else { return };
        let Some(entry) = self.images.get_mut(&named.id) else { return };
        entry.names.remove(name);
        if !entry.names.is_empty() {
            self.rebuild(&named.id, None);
            return;
        }
        if let Some(entry) = self.images.remove(&named.id) {
            for target in &entry.targets {
                self.targets.remove(target);
            }
        }
    }

    /// Makes the image anew after its names have changed.
    fn rebuild(&mut self, id: &Digest, target: Option<&Descriptor>) {
        let Some(entry) = self.images.get_mut(id) else { return };
        let mut image = Image::clone(&entry.image);
        image.references = entry.names.iter().cloned().collect();
        let sorted = |sort: Sort| entry.names.iter().filter(|n| sort_of(n) == sort).cloned().collect();
        (image.names, image.digests) = (sorted(Sort::Tag), sorted(Sort::Digest));
        image.pinned = entry.names.iter().any(|n| self.names.get(n).is_some_and(|n| n.pinned));
        if let Some(target) = target {
            image.target = target.clone();
        }
        entry.image = Arc::new(image);
    }
}

impl Entry {
    fn new(facts: &Facts, target: &Descriptor) -> Self {
        let image = Image {
            id: facts.id.clone(),
            names: Vec::new(),
            digests: Vec::new(),
            references: Vec::new(),
            target: target.clone(),
            chain_id: facts.chain_id.clone(),
            size: facts.size,
            uid: facts.uid,
            username: facts.username.clone(),
            pinned: false,
            checkpoint: facts.checkpoint,
            config: facts.config.clone(),
        };
        Self { image: Arc::new(image), names: BTreeSet::new(), targets: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(id: &str) -> Arc<Facts> {
        Arc::new(Facts {
            id: Digest::of(id.as_bytes()),
            chain_id: String::new(),
            size: 7,
            manifest: target(id),
            config: RawValue::from_string("{}".into()).unwrap().into(),
            uid: None,
            username: String::new(),
            checkpoint: false,
        })
    }

    fn target(of: &str) -> Descriptor {
        Descriptor::new("m", Digest::of(format!("target {of}").as_bytes()), 1)
    }

    fn tags(image: &Image) -> Vec<&str> {
        image.names.iter().map(String::as_str).collect()
    }

    #[test]
    fn an_image_has_all_its_names_and_goes_with_the_last() {
        let index = Index::default();
        let a = facts("a");
        let digest = format!("docker.io/library/x@{}", target("a").digest);
        for name in ["docker.io/library/x:2", "docker.io/library/x:1", &digest, a.id.as_str()] {
            index.set(name, &target("a"), &a, false);
        }
        let image = index.resolve("x:1").unwrap();
        assert_eq!(tags(&image), ["docker.io/library/x:1", "docker.io/library/x:2"]);
        assert_eq!(image.digests, std::slice::from_ref(&digest));
        assert_eq!((index.list().len(), image.name()), (1, "docker.io/library/x:1"));
        assert!(index.facts(&target("a").digest).is_some());
        for name in &image.references {
            index.remove(name);
        }
        assert!(index.list().is_empty() && index.names().is_empty());
        assert!(index.facts(&target("a").digest).is_none());
    }

    #[test]
    fn a_tag_moves_from_one_image_to_another() {
        let index = Index::default();
        let (a, b) = (facts("a"), facts("b"));
        index.set("r/x:1", &target("a"), &a, false);
        index.set(a.id.as_str(), &target("a"), &a, false);
        index.set("r/x:1", &target("b"), &b, false);
        assert_eq!(tags(&index.resolve(a.id.as_str()).unwrap()), Vec::<&str>::new());
        assert_eq!(tags(&index.resolve(b.id.as_str()).unwrap()), ["r/x:1"]);
    }

    #[test]
    fn an_image_is_pinned_while_one_of_its_names_is() {
        let index = Index::default();
        let a = facts("a");
        index.set("r.io/x:1", &target("a"), &a, true);
        index.set("r.io/x:2", &target("a"), &a, false);
        assert!(index.resolve("r.io/x:2").unwrap().pinned);
        index.set("r.io/x:1", &target("a"), &a, false);
        assert!(!index.resolve("r.io/x:2").unwrap().pinned);
        index.set("r.io/x:1", &target("a"), &a, true);
        index.remove("r.io/x:1");
        assert!(!index.resolve("r.io/x:2").unwrap().pinned);
    }

    #[test]
    fn images_are_found_by_every_form_of_their_names() {
        let index = Index::default();
        let (a, b) = (facts("a"), facts("b"));
        index.set("docker.io/library/x:latest", &target("a"), &a, false);
        index.set("odd name", &target("b"), &b, false);
        let id = a.id.clone();
        for text in [
            "x",
            "x:latest",
            "docker.io/library/x",
            id.as_str(),
            id.encoded(),
            &id.encoded()[..8],
            &id.as_str()[..20],
        ] {
            assert_eq!(index.resolve(text).map(|i| i.id.clone()), Some(id.clone()), "{text}");
        }
        assert_eq!(index.resolve("odd name").unwrap().id, b.id);
        for none in ["", "y", "x:2", &id.encoded()[..3], "sha256:", Digest::of(b"").as_str()] {
            assert!(index.resolve(none).is_none(), "{none}");
        }
    }

    #[test]
    fn the_beginning_of_two_ids_is_no_name() {
        let index = Index::default();
        let with = |hex: char| {
            let mut facts = Arc::into_inner(facts("a")).unwrap();
            facts.id = format!("sha256:abcdef{}", hex.to_string().repeat(58)).parse().unwrap();
            Arc::new(facts)
        };
        index.set("r.io/x:1", &target("a"), &with('1'), false);
        index.set("r.io/x:2", &target("b"), &with('2'), false);
        assert!(index.resolve("abcdef").is_none());
        assert!(index.resolve("abcdef1").is_some());
    }
}
