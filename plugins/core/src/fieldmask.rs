//! Which fields an update changes.

use crate::error::{Error, Result};
use crate::types::Labels;

/// Paths in the form of `google.protobuf.FieldMask`: `labels`, `labels.some.key`, `target`. Empty means all that
/// may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldMask(pub Vec<String>);

impl FieldMask {
    pub fn all() -> Self {
        Self::default()
    }

    pub fn of(paths: &[&str]) -> Self {
        Self(paths.iter().map(|p| p.to_string()).collect())
    }

    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Applies `labels` and `labels.<key>` paths: takes `from`'s label into `to`, removes it where `from` has none
    /// or holds the empty string. Returns whether `path` was such a path.
    pub fn apply_labels(path: &str, from: &Labels, to: &mut Labels) -> bool {
        Self::apply_map("labels", path, from, to)
    }

    /// Like [`FieldMask::apply_labels`] for a map field of another name.
    pub fn apply_map(field: &str, path: &str, from: &Labels, to: &mut Labels) -> bool {
        if path == field {
            *to = from.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.clone(), v.clone())).collect();
            return true;
        }
        let Some(key) = path.strip_prefix(field).and_then(|p| p.strip_prefix('.')) else { return false };
        match from.get(key) {
            Some(value) if !value.is_empty() => to.insert(key.to_owned(), value.clone()),
            _ => to.remove(key),
        };
        true
    }

    /// The error for a path that cannot be updated.
    pub fn refused<T>(path: &str, of: &str) -> Result<T> {
        Err(Error::invalid(format!("cannot update {path:?} field on {of}")))
    }
}
