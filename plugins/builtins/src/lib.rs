//! The plugins that are built in. A crate that is only a dependency registers nothing: each is named here, and one that
//! is forgotten does not compile.
#![deny(unused_crate_dependencies)]

use windlass_content as _;
#[cfg(feature = "cri")]
use windlass_cri as _;
use windlass_diff as _;
use windlass_event as _;
use windlass_gc as _;
use windlass_metadata as _;
use windlass_metastore as _;
use windlass_runtime as _;
use windlass_service as _;
use windlass_snapshotter as _;
use windlass_transfer as _;

use windlass_core::registry::Registration;

/// All registrations of this build, in no particular order.
pub fn registrations() -> Vec<&'static Registration> {
    inventory::iter::<Registration>.into_iter().collect()
}
