//! The plugins that are built in: a list, and nothing else.
//!
//! A crate that is only a dependency registers nothing, because nothing of it is linked. A dependency that is forgotten
//! here does not compile.

#![deny(unused_crate_dependencies)]

use windlass_content as _;
#[cfg(feature = "cri")]
use windlass_cri as _;
use windlass_diff as _;
use windlass_event as _;
use windlass_gc as _;
use windlass_metadata as _;
use windlass_metastore as _;
#[cfg(feature = "cri")]
use windlass_nri as _;
use windlass_runtime as _;
use windlass_service as _;
use windlass_snapshotter as _;
use windlass_transfer as _;
