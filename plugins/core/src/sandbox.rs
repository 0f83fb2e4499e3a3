//! Sandbox records: what a pod is kept under.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::container::Runtime;
use crate::filter::{self, Fields};
use crate::{Any, Context, FieldMask, Filters, Labels, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    pub labels: Labels,
    pub runtime: Runtime,
    pub spec: Option<Any>,
    pub sandboxer: String,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
    pub extensions: BTreeMap<String, Any>,
}

/// Sandbox records of a namespace. Filter fields: `id`, `runtime.name`, `labels.<key>`.
#[async_trait]
pub trait Store: Send + Sync {
    async fn get(&self, cx: &Context, id: &str) -> Result<Sandbox>;
    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Sandbox>>;
    async fn create(&self, cx: &Context, sandbox: Sandbox) -> Result<Sandbox>;
    /// Paths: `labels`, `labels.<key>`, `extensions`, `extensions.<key>`, `runtime`, `spec`.
    async fn update(&self, cx: &Context, sandbox: Sandbox, fields: &FieldMask) -> Result<Sandbox>;
    async fn delete(&self, cx: &Context, id: &str) -> Result<()>;
}

impl Fields for Sandbox {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id", ..] => Some(Cow::Borrowed(self.id.as_str())),
            ["runtime", "name", ..] => Some(Cow::Borrowed(self.runtime.name.as_str())),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            _ => None,
        }
    }
}
