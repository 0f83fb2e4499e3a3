//! Namespaces: the walls between users of one daemon.

use async_trait::async_trait;

use crate::{FieldMask, Labels, Result};

/// Label on a namespace: content of others is reachable by digest (`shared`) or not (`isolated`).
pub const LABEL_SHARED: &str = "containerd.io/namespace.shareable";
/// Label on a namespace: the runtime for containers that name none.
pub const LABEL_RUNTIME: &str = "containerd.io/defaults/runtime";
/// Label on a namespace: the snapshotter for containers that name none.
pub const LABEL_SNAPSHOTTER: &str = "containerd.io/defaults/snapshotter";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub name: String,
    pub labels: Labels,
}

#[async_trait]
pub trait Store: Send + Sync {
    /// One that does not exist has no labels; it is not an error (clients ask for a namespace's defaults before anything
    /// is in it).
    async fn get(&self, name: &str) -> Result<Namespace>;
    /// Sorted by name.
    async fn list(&self) -> Result<Vec<Namespace>>;
    async fn create(&self, namespace: Namespace) -> Result<Namespace>;
    /// Paths: `labels`, `labels.<key>`.
    async fn update(&self, namespace: Namespace, fields: &FieldMask) -> Result<Namespace>;
    /// *Failed precondition*, with what is left, while anything is in it.
    async fn delete(&self, name: &str) -> Result<()>;
}
