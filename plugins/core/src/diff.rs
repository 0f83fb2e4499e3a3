//! Diffs: layers applied to mounts and made from them.

use std::io::Read;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::mount::Mount;
use crate::{Any, Context, Descriptor, Digest, Labels, Result};

/// Options of [`Differ::apply`].
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// Options for stream processors, by media type of the processor.
    pub payloads: std::collections::BTreeMap<String, Any>,
    /// Sync the file system before answering.
    pub sync: bool,
}

/// Options of [`Differ::compare`].
#[derive(Clone, Debug, Default)]
pub struct CompareOptions {
    /// Of the layer to make; an empty one means gzip of the OCI kind.
    pub media_type: String,
    /// The ingest's name; one is made up where it is empty.
    pub reference: String,
    /// Labels of the new content.
    pub labels: Labels,
    /// Cuts time stamps down to this one.
    pub source_date_epoch: Option<SystemTime>,
}

/// What came of a layer that was applied from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub size: u64,
}

/// Applies layers and makes them. Layers are hostile input: nothing is written outside the mounts.
///
/// Media types that it does not know are *unimplemented*, so that the next differ is asked.
#[async_trait]
pub trait Differ: Send + Sync {
    /// Applies a layer from the content store of the call's namespace; answers the uncompressed tar's descriptor.
    async fn apply(
        &self,
        cx: &Context,
        layer: &Descriptor,
        mounts: &[Mount],
        o: ApplyOptions,
    ) -> Result<Descriptor>;
    /// Makes a layer of what `upper` changes in `lower` and writes it into the content store.
    async fn compare(
        &self,
        cx: &Context,
        lower: &[Mount],
        upper: &[Mount],
        o: CompareOptions,
    ) -> Result<Descriptor>;
    /// Applies a layer that is still being read, for the single-pass pull; blocks, so call it on a blocking thread.
    /// Everything up to the end of `layer` is read, also what follows the tar's end.
    fn apply_stream(
        &self,
        media_type: &str,
        layer: &mut (dyn Read + Send),
        mounts: &[Mount],
    ) -> Result<Applied>;
}
