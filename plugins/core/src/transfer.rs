//! Transfer: images moved between registries, archives and the store.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use crate::image::Image;
use crate::platform::Platform;
use crate::{Context, Descriptor, Labels, Result};

/// What a registry asks and gets.
#[derive(Clone, Debug, Default)]
pub struct AuthRequest {
    pub host: String,
    pub reference: String,
    pub www_authenticate: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    None,
    Basic {
        username: String,
        secret: String,
    },
    /// A refresh (identity) token.
    Refresh {
        secret: String,
    },
    /// A whole Authorization header's value, valid until `expire_at`.
    Header {
        value: String,
        expire_at: Option<SystemTime>,
    },
}

/// Who knows credentials: a client over its stream, or configuration.
#[async_trait]
pub trait Authenticator: Send + Sync {
    async fn credentials(&self, request: AuthRequest) -> Result<Credentials>;
}

/// An image in a registry.
#[derive(Clone)]
pub struct Registry {
    pub reference: String,
    /// Extra headers for every request to the registry.
    pub headers: Vec<(String, String)>,
    /// Directories of `hosts.toml` trees joined by colons, empty for the daemon's own configuration.
    pub host_dir: String,
    /// `http` or `https` where hosts.toml says nothing; empty for the rule (http for loopback, else https).
    pub default_scheme: String,
    pub authenticator: Option<Arc<dyn Authenticator>>,
}

/// Names that an imported image gets beside its own.
#[derive(Clone, Debug, Default)]
pub struct ImageReference {
    pub name: String,
    pub is_prefix: bool,
    pub allow_overwrite: bool,
    pub add_digest: bool,
    pub skip_named_digest: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Unpack {
    pub platform: Option<Platform>,
    /// Empty for the default one.
    pub snapshotter: String,
}

/// How an image is fetched, where that differs from what the transferrer is configured to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetching {
    /// Blobs fetched at once; 0 for the configured number.
    pub at_once: usize,
    /// Bytes per range request of a layer; 0 for the configured number.
    pub range: u64,
    /// Tells the snapshotter of each layer which image, manifest and layers it belongs to: for remote snapshotters.
    pub annotate_snapshots: bool,
}

/// An image, or several, in the image store.
#[derive(Clone, Debug, Default)]
pub struct ImageStore {
    /// May be empty for an import that takes the archive's names.
    pub name: String,
    pub labels: Labels,
    /// Empty for all of them.
    pub platforms: Vec<Platform>,
    /// Fetch manifests and configs of other platforms too.
    pub all_metadata: bool,
    /// Most manifests to fetch of an index; 0 for all.
    pub manifest_limit: u32,
    pub extra_references: Vec<ImageReference>,
    pub unpacks: Vec<Unpack>,
    pub fetching: Fetching,
}

/// Bytes from a client; `None` at the end.
#[async_trait]
pub trait ByteSource: Send {
    async fn next(&mut self) -> Result<Option<Bytes>>;
}

/// Bytes to a client.
#[async_trait]
pub trait ByteSink: Send {
    async fn send(&mut self, data: Bytes) -> Result<()>;
    async fn finish(&mut self) -> Result<()>;
}

#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    pub media_type: String,
    pub platforms: Vec<Platform>,
    pub all_platforms: bool,
    pub skip_compatibility_manifest: bool,
    pub skip_non_distributable: bool,
}

pub enum Source {
    Registry(Registry),
    ImageStore(ImageStore),
    /// An image archive (OCI layout or docker save), plain or compressed.
    Archive {
        media_type: String,
        force_compress: bool,
        bytes: Box<dyn ByteSource>,
    },
}

pub enum Destination {
    Registry(Registry),
    ImageStore(ImageStore),
    Archive { options: ExportOptions, bytes: Box<dyn ByteSink> },
}

/// One line of progress: containerd's event words (`Resolving from …`, `waiting`, `downloading`, `complete`,
/// `extracting`, `extracted`, `saved`, …) because clients show them.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub event: String,
    pub name: String,
    pub parents: Vec<String>,
    pub progress: i64,
    pub total: i64,
    pub descriptor: Option<Descriptor>,
}

/// Takes progress. Must not block; a slow client loses intermediate lines, never the last one of a name.
pub trait ProgressSink: Send + Sync {
    fn progress(&self, progress: Progress);
}

/// A sink for callers who do not care.
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn progress(&self, _: Progress) {}
}

/// Moves images.
///
/// Pairs: registry → store (pull), store → registry (push), archive → store (import), store → archive (export),
/// store → store (tag). Any other pair is *unimplemented*. A transfer that was begun holds a lease of its own until
/// the image record is there; the same blob asked for by several transfers is fetched once.
#[async_trait]
pub trait Transferrer: Send + Sync {
    /// Answers the image records made or changed, empty for push and export.
    async fn transfer(
        &self,
        cx: &Context,
        source: Source,
        destination: Destination,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<Vec<Image>>;
}
