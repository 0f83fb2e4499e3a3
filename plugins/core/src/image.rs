//! Image records: a name that points to a descriptor.

use std::borrow::Cow;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::filter::{self, Fields};
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
    /// Both times become now, unless the caller names another in `updated_at` (`source_date_epoch` of the wire);
    /// [`SystemTime::UNIX_EPOCH`] stands for now. A `created_at` of the caller is ignored.
    async fn create(&self, cx: &Context, image: Image) -> Result<Image>;
    /// Paths: `labels`, `labels.<key>`, `target`, `annotations`, `annotations.<key>`; an empty mask sets both
    /// target and labels. As for `create`, `updated_at` may name another time than now; `created_at` stays.
    async fn update(&self, cx: &Context, image: Image, fields: &FieldMask) -> Result<Image>;
    /// Deletes; with `target` only while the record points there, else *not found*. The garbage becomes due for
    /// collection; a caller who wants it gone runs the collector.
    async fn delete(&self, cx: &Context, name: &str, target: Option<&Descriptor>) -> Result<()>;
}

impl Fields for Image {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let text = match path {
            ["name", ..] => self.name.as_str(),
            ["target", "digest", ..] => self.target.digest.as_str(),
            ["target", "mediatype", ..] => self.target.media_type.as_str(),
            ["labels", key @ ..] => return filter::label(&self.labels, key),
            ["annotations", key @ ..] => return filter::label(&self.target.annotations, key),
            _ => return None,
        };
        (!text.is_empty()).then_some(Cow::Borrowed(text))
    }
}
