//! Leases: references that protect what is being worked on from collection.

use std::borrow::Cow;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::filter::{self, Fields};
use crate::{Context, Filters, Labels, Result};

/// Label: when the lease expires, RFC 3339.
pub const LABEL_EXPIRE: &str = "containerd.io/gc.expire";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: String,
    pub created_at: SystemTime,
    pub labels: Labels,
}

/// What a lease refers to. Kinds: `content`, `snapshots/<snapshotter>`, `ingests`, `images`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    pub id: String,
    pub kind: String,
}

/// Leases of a namespace. Filter fields: `id`, `labels.<key>`.
#[async_trait]
pub trait Manager: Send + Sync {
    /// An empty id is *invalid argument*: callers make one up (`generate_id`).
    async fn create(&self, cx: &Context, id: &str, labels: Labels) -> Result<Lease>;
    async fn delete(&self, cx: &Context, id: &str) -> Result<()>;
    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Lease>>;
    async fn add_resource(&self, cx: &Context, lease: &str, resource: Resource) -> Result<()>;
    async fn delete_resource(&self, cx: &Context, lease: &str, resource: Resource) -> Result<()>;
    async fn list_resources(&self, cx: &Context, lease: &str) -> Result<Vec<Resource>>;
}

impl Fields for Lease {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id", ..] => (!self.id.is_empty()).then_some(Cow::Borrowed(self.id.as_str())),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            _ => None,
        }
    }
}
