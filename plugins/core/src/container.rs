//! Container records: what a task is made from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::filter::{self, Fields};
use crate::{Any, Context, FieldMask, Filters, Labels, Result};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// `io.containerd.runc.v2`, or an absolute path of a shim.
    pub name: String,
    pub options: Option<Any>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub labels: Labels,
    /// Name of the image, informative.
    pub image: String,
    pub runtime: Runtime,
    /// The OCI runtime specification as its maker encoded it; JSON in practice. Carried byte for byte.
    pub spec: Option<Any>,
    pub snapshotter: String,
    pub snapshot_key: String,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
    pub extensions: BTreeMap<String, Any>,
    /// Sandbox that the container belongs to, empty for none.
    pub sandbox_id: String,
}

/// Container records of a namespace.
///
/// Filter fields: `id`, `image`, `runtime.name`, `labels.<key>`. The record refers to its snapshot and image, so
/// neither is collected. Id, snapshotter, runtime and creation time never change once made.
#[async_trait]
pub trait Store: Send + Sync {
    async fn get(&self, cx: &Context, id: &str) -> Result<Container>;
    /// Sorted by id.
    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Container>>;
    async fn create(&self, cx: &Context, container: Container) -> Result<Container>;
    /// Paths: `labels`, `labels.<key>`, `image`, `spec`, `extensions`, `extensions.<key>`, `snapshotkey`,
    /// `runtime` only where it was empty.
    async fn update(&self, cx: &Context, container: Container, fields: &FieldMask) -> Result<Container>;
    async fn delete(&self, cx: &Context, id: &str) -> Result<()>;
}

impl Fields for Container {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let text = match path {
            ["id", ..] => &self.id,
            ["runtime", "name", ..] => &self.runtime.name,
            ["image", ..] => &self.image,
            ["labels", key @ ..] => return filter::label(&self.labels, key),
            _ => return None,
        };
        (!text.is_empty()).then_some(Cow::Borrowed(text.as_str()))
    }
}
