//! Mounts as values. Mounting itself is done where a mount is used.

use serde::{Deserialize, Serialize};

/// A mount in the form of `mount(8)`: `options` as in fstab. `target` is a path below the place where a list of
/// mounts is put, empty for the place itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub kind: String,
    pub source: String,
    pub target: String,
    pub options: Vec<String>,
}
