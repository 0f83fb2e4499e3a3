//! Snapshots as layers of overlayfs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use windlass_core::metastore::MetaStore;
use windlass_core::mount::{IdMap, Mount};
use windlass_core::snapshot::{self, CommitOptions, Info, Kind, Snapshotter, Usage};
use windlass_core::{Context, Error, FieldMask, Filters, Labels, Result};

use crate::error;
use crate::host;
use crate::layered::Layered;
use crate::storage::Snapshot;

/// Where the files of a snapshot are, shown where it is configured.
const LABEL_UPPER: &str = "containerd.io/snapshot/overlay.upperdir";

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub upperdir_label: bool,
    pub sync_remove: bool,
    pub slow_chown: bool,
    /// For overlay mounts; a bind has none of them.
    pub mount_options: Vec<String>,
}

pub struct Overlay {
    layered: Layered,
    upperdir_label: bool,
    mount_options: Vec<String>,
    remap_ids: bool,
    capabilities: Vec<String>,
}

impl Overlay {
    /// Opens the snapshotter below `root`; `id` names its records. Blocks.
    pub fn open(root: &Path, id: &str, store: Arc<dyn MetaStore>, options: Options) -> Result<Self> {
        let layered = Layered::open(root, id, store, true, options.sync_remove)?;
        host::check_root(root)?;
        let mut mount_options = options.mount_options;
        let has = |all: &[String], key: &str| all.iter().any(|o| o.split('=').next() == Some(key));
        if !has(&mount_options, "userxattr") && host::needs_user_xattr(root) {
            mount_options.push("userxattr".into());
        }
        if !has(&mount_options, "index") && host::knows_index() {
            mount_options.push("index=off".into());
        }
        let remap_ids = host::maps_overlays();
        let mut capabilities = Vec::new();
        if remap_ids {
            capabilities.push(snapshot::CAPABILITY_REMAP_IDS.to_owned());
        }
        if !options.slow_chown {
            capabilities.push(snapshot::CAPABILITY_ONLY_REMAP_IDS.to_owned());
        }
        if !host::in_user_namespace() {
            // Layers unpacked on their own hold whiteout devices, which a user namespace cannot make.
            capabilities.push(snapshot::CAPABILITY_REBASE.to_owned());
        }
        Ok(Self { layered, upperdir_label: options.upperdir_label, mount_options, remap_ids, capabilities })
    }

    fn labelled(&self, number: u64, mut info: Info) -> Info {
        if self.upperdir_label {
            info.labels.insert(LABEL_UPPER.into(), text(self.layered.dirs.fs(number)));
        }
        info
    }

    fn mounts_of(&self, snapshot: &Snapshot) -> Vec<Mount> {
        let dirs = &self.layered.dirs;
        let record = &snapshot.record;
        let mut options = Vec::new();
        if self.remap_ids {
            for (label, option) in [(snapshot::LABEL_UIDMAP, "uidmap"), (snapshot::LABEL_GIDMAP, "gidmap")] {
                options.extend(record.labels.get(label).map(|map| format!("{option}={map}")));
            }
        }
        let bind = |number: u64, mode: &str, mut options: Vec<String>| {
            options.extend([mode.to_owned(), "rbind".to_owned()]);
            vec![Mount { kind: "bind".into(), source: text(dirs.fs(number)), target: String::new(), options }]
        };
        let active = record.kind == Kind::Active;
        match snapshot.parents.as_slice() {
            [] => return bind(record.number, if active { "rw" } else { "ro" }, options),
            [parent] if !active => return bind(*parent, "ro", options),
            _ => {}
        }
        if active {
            options.push(format!("workdir={}", text(dirs.work(record.number))));
            options.push(format!("upperdir={}", text(dirs.fs(record.number))));
        }
        let lowers: Vec<String> = snapshot.parents.iter().map(|n| text(dirs.fs(*n))).collect();
        options.push(format!("lowerdir={}", lowers.join(":")));
        options.extend(self.mount_options.iter().cloned());
        vec![Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }]
    }

    async fn create(&self, kind: Kind, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let mapped = mapped_root(&labels)?;
        let dirs = self.layered.dirs.clone();
        let fill = move |number: u64, parents: &[u64]| {
            // The new root belongs to whom the parent's did, or to the container's root.
            let owner = match (mapped, parents.first()) {
                (Some(owner), _) => Some(owner),
                (None, Some(parent)) => {
                    let path = dirs.fs(*parent);
                    let meta = std::fs::metadata(&path).map_err(error::Error::io("stat", &path))?;
                    Some((meta.uid(), meta.gid()))
                }
                (None, None) => None,
            };
            if let Some((uid, gid)) = owner.filter(|owner| *owner != (0, 0)) {
                let path = dirs.fs(number);
                let changed = std::os::unix::fs::lchown(&path, Some(uid), Some(gid));
                changed.map_err(error::Error::io("change the owner of", &path))?;
            }
            Ok(())
        };
        let snapshot = self.layered.create(kind, key, parent, labels, fill).await?;
        Ok(self.mounts_of(&snapshot))
    }
}

/// What the container's root is outside, where the labels map ids.
fn mapped_root(labels: &Labels) -> Result<Option<(u32, u32)>> {
    match (labels.get(snapshot::LABEL_UIDMAP), labels.get(snapshot::LABEL_GIDMAP)) {
        (None, None) => Ok(None),
        (Some(uids), Some(gids)) => {
            let root = |map: &str| IdMap::host_root(&IdMap::parse_list(map)?);
            Ok(Some((root(uids)?, root(gids)?)))
        }
        _ => Err(Error::invalid("a snapshot's id mapping needs both labels, for users and for groups")),
    }
}

/// The root was checked to be UTF-8.
fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

#[async_trait]
impl Snapshotter for Overlay {
    async fn stat(&self, _: &Context, key: &str) -> Result<Info> {
        let record = self.layered.storage.get(key)?;
        Ok(self.labelled(record.number, record.info(key)))
    }

    async fn update(&self, _: &Context, info: Info, fields: &FieldMask) -> Result<Info> {
        let (number, info) = self.layered.update(info, fields).await?;
        Ok(self.labelled(number, info))
    }

    async fn usage(&self, _: &Context, key: &str) -> Result<Usage> {
        self.layered.usage(key).await
    }

    async fn mounts(&self, _: &Context, key: &str) -> Result<Vec<Mount>> {
        Ok(self.mounts_of(&self.layered.storage.mountable(key)?))
    }

    async fn prepare(&self, _: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels).await
    }

    async fn view(&self, _: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels).await
    }

    async fn commit(&self, _: &Context, name: &str, key: &str, options: CommitOptions) -> Result<()> {
        self.layered.commit(name, key, options).await
    }

    async fn remove(&self, _: &Context, key: &str) -> Result<()> {
        self.layered.remove(key).await
    }

    fn list<'a>(&'a self, _: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>> {
        let filters = filters.clone();
        let found = async move { self.layered.list(&filters).await };
        let each = move |found: Result<Vec<(u64, Info)>>| match found {
            Ok(all) => {
                futures::stream::iter(all.into_iter().map(|(n, info)| Ok(self.labelled(n, info)))).boxed()
            }
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        };
        futures::stream::once(found).flat_map(each).boxed()
    }

    async fn cleanup(&self, _: &Context) -> Result<()> {
        self.layered.cleanup().await
    }

    fn capabilities(&self) -> Vec<String> {
        self.capabilities.clone()
    }
}
