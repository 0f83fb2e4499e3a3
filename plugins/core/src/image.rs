//! Image records: a name that points to a descriptor.

use std::time::SystemTime;

use async_trait::async_trait;

use crate::{Context, Descriptor, FieldMask, Filters, Labels, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub name: String,
    pub target: Descriptor,
    pub labels: Labels,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
}

/// Image records of a namespace.
///
/// Filter fields: `name`, `target.digest`, `target.mediatype`, `labels.<key>`, `annotations.<key>`.
/// Publishes image-create, image-update and image-delete events.
#[async_trait]
pub trait Store: Send + Sync {
    async fn get(&self, cx: &Context, name: &str) -> Result<Image>;
    /// Sorted by name.
    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Image>>;
    async fn create(&self, cx: &Context, image: Image) -> Result<Image>;
    /// Paths: `labels`, `labels.<key>`, `target`, `annotations`, `annotations.<key>`; an empty mask sets both
    /// target and labels. `source_date_epoch` of the wire sets `image.updated_at` when it is not now.
    async fn update(&self, cx: &Context, image: Image, fields: &FieldMask) -> Result<Image>;
    /// Deletes; with `target` only while the record points there, else *not found*. The garbage becomes due for
    /// collection; a caller who wants it gone runs the collector.
    async fn delete(&self, cx: &Context, name: &str, target: Option<&Descriptor>) -> Result<()>;
}
