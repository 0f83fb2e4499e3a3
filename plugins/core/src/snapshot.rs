//! Snapshots: chains of file system states.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::filter::{self, Fields};
use crate::mount::Mount;
use crate::{Context, FieldMask, Filters, Labels, Result};

/// Capability: an active snapshot may be committed with a parent given at commit, so layers unpack in parallel.
pub const CAPABILITY_REBASE: &str = "rebase";
/// Labels with this prefix are inherited from the unpacker's `prepare` by the snapshotter.
pub const LABEL_PREFIX: &str = "containerd.io/snapshot/";
/// Capability: labels [`LABEL_UIDMAP`] and [`LABEL_GIDMAP`] are honoured by idmapped mounts.
pub const CAPABILITY_REMAP_IDS: &str = "remap-ids";
/// Capability: and only so, never by changing the owner of every file.
pub const CAPABILITY_ONLY_REMAP_IDS: &str = "only-remap-ids";
/// Mappings of a snapshot for a user namespace: `container:host:size`, several joined by commas.
pub const LABEL_UIDMAP: &str = "containerd.io/snapshot/uidmapping";
/// Like [`LABEL_UIDMAP`] for groups.
pub const LABEL_GIDMAP: &str = "containerd.io/snapshot/gidmapping";
/// Attribute of directories that a differ made in a layer of no known parent only because something lies in them, and of
/// that layer's root where there is one. The snapshotter that commits the layer over a parent gives them the parent's
/// looks and takes the attribute away.
pub const XATTR_IMPLIED: &str = "trusted.windlass.implied";
/// Names the chain id that an extraction will be committed under.
pub const LABEL_REF: &str = "containerd.io/snapshot.ref";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    View,
    Active,
    Committed,
}

impl Kind {
    /// As filters write it.
    pub fn filter_name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub kind: Kind,
    /// Key of an active snapshot or view, name of a committed one.
    pub name: String,
    /// Empty at the base.
    pub parent: String,
    pub labels: Labels,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
}

impl Fields for Info {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["kind"] => Some(Cow::Borrowed(self.kind.filter_name())),
            ["name"] => Some(Cow::Borrowed(&self.name)),
            ["parent"] => Some(Cow::Borrowed(&self.parent)),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            _ => None,
        }
    }
}

/// What a snapshot takes up without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub inodes: u64,
    /// Bytes.
    pub size: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.inodes += other.inodes;
        self.size += other.size;
    }
}

/// A snapshotter.
///
/// - Keys and names share one space: a taken one is *already exists*.
/// - `prepare` makes an active snapshot over a committed parent (or none), `view` a read-only one; both answer the
///   mounts. `commit` turns an active one into a committed one under `name`; the key is gone then.
/// - Only committed snapshots are parents: another one is *failed precondition* (*invalid argument* for a missing
///   kind); removal of a parent is *failed precondition*.
/// - Mounting is the caller's business. `mounts` answers the same mounts again.
/// - Removal drops the record first; what is left on disk is taken by `cleanup`, which runs at start as well.
/// - Filter fields: `kind`, `name`, `parent`, `labels.<key>`.
#[async_trait]
pub trait Snapshotter: Send + Sync {
    async fn stat(&self, cx: &Context, key: &str) -> Result<Info>;
    /// Changes labels: paths `labels` and `labels.<key>`.
    async fn update(&self, cx: &Context, info: Info, fields: &FieldMask) -> Result<Info>;
    /// Of an active snapshot as it is now; of a committed one as it was committed.
    async fn usage(&self, cx: &Context, key: &str) -> Result<Usage>;
    async fn mounts(&self, cx: &Context, key: &str) -> Result<Vec<Mount>>;
    async fn prepare(&self, cx: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>>;
    async fn view(&self, cx: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>>;
    async fn commit(&self, cx: &Context, name: &str, key: &str, options: CommitOptions) -> Result<()>;
    async fn remove(&self, cx: &Context, key: &str) -> Result<()>;
    fn list<'a>(&'a self, cx: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>>;
    /// Deletes from disk what no record names.
    async fn cleanup(&self, cx: &Context) -> Result<()>;
    /// What it can do beyond the contract: [`CAPABILITY_REBASE`] and others.
    fn capabilities(&self) -> Vec<String> {
        Vec::new()
    }
}

#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    pub labels: Labels,
    /// A parent for a snapshot that was prepared without one; needs [`CAPABILITY_REBASE`].
    pub parent: Option<String>,
    /// Who makes the files durable. `Caller` is for a puller that syncs once for all layers of an image
    /// ([`crate::mount::sync`]) before it commits the first.
    pub sync: crate::content::Sync,
    /// What it takes up, where the caller has just asked by [`Snapshotter::usage`]; measured again otherwise.
    pub usage: Option<Usage>,
}

/// A shared snapshotter.
pub type Shared = Arc<dyn Snapshotter>;

/// Chain id of a list of diff ids, base first (OCI image specification, `config.md`): `None` for no layers.
pub fn chain_id(diff_ids: &[crate::Digest]) -> Option<crate::Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(
        rest.iter()
            .fold(first.clone(), |chain, diff| crate::Digest::of(format!("{chain} {diff}").as_bytes())),
    )
}
