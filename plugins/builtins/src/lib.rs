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
use windlass_runtime as _;
use windlass_service as _;
use windlass_snapshotter as _;
use windlass_transfer as _;

#[cfg(test)]
mod tests {
    use windlass_core::registry::{Graph, Registration};

    /// Every plugin of a full build, by URI.
    const PLUGINS: &[&str] = &[];

    #[test]
    fn the_list_is_what_is_linked() {
        let mut found: Vec<String> = inventory::iter::<Registration>.into_iter().map(Registration::uri).collect();
        found.sort();
        let mut want: Vec<String> = PLUGINS.iter().map(|p| (*p).to_owned()).collect();
        want.retain(|uri| cfg!(feature = "cri") || !uri.contains("cri"));
        want.sort();
        assert_eq!(found, want, "a plugin came or went: say so in this list");
    }

    #[test]
    fn no_plugins_require_each_other() {
        Graph::order(inventory::iter::<Registration>.into_iter().collect()).unwrap();
    }
}
