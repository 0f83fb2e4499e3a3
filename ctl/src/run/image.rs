//! An image as a container needs it: its configuration for one platform, and its layers.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use windlass_api::services::content::ReadContentRequest;
use windlass_core::platform::Platform;
use windlass_core::{Descriptor, Digest, snapshot};

use crate::client::Client;
use crate::names;
use crate::output::Remedy;

/// Largest manifest or configuration that is read.
const LIMIT: usize = 8 << 20;
/// Deepest nesting of indexes.
const DEPTH: usize = 8;

#[derive(Deserialize, Default)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// OCI image specification 1.1, `config.md`: what a container inherits.
#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "PascalCase", default)]
pub struct Defaults {
    pub user: Option<String>,
    pub env: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub stop_signal: Option<String>,
}

#[derive(Deserialize, Default)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize, Default)]
struct Config {
    #[serde(default)]
    config: Option<Defaults>,
    #[serde(default)]
    rootfs: RootFs,
}

/// The manifest of one platform.
pub struct Manifest {
    pub digest: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// Bytes of the configuration and the layers, as they are in the registry.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|l| l.size).fold(self.config.size, u64::saturating_add)
    }
}

#[derive(Default)]
pub struct Image {
    pub name: String,
    pub defaults: Defaults,
    /// Name of the topmost snapshot; empty for an image without layers.
    pub chain: String,
    pub diff_ids: Vec<Digest>,
    pub layers: Vec<Descriptor>,
    /// Digest of the configuration.
    pub config: String,
}

/// Reads a small blob.
pub async fn read(client: &Client, digest: &str) -> Result<Vec<u8>> {
    let request = ReadContentRequest { digest: digest.to_owned(), ..Default::default() };
    let about = || format!("read content {digest}");
    let mut stream = client.content().read(request).await.with_context(about)?.into_inner();
    let mut data = Vec::new();
    while let Some(part) = stream.message().await.with_context(about)? {
        data.extend_from_slice(&part.data);
        if data.len() > LIMIT {
            bail!("content {digest} is larger than {LIMIT} bytes: no manifest or configuration is");
        }
    }
    Ok(data)
}

/// A small blob as JSON.
pub async fn read_json(client: &Client, digest: &str) -> Result<Value> {
    serde_json::from_slice(&read(client, digest).await?)
        .with_context(|| format!("content {digest} is not JSON"))
}

/// Finds the manifest for a platform at or below a descriptor.
pub async fn manifest(client: &Client, target: &str, platform: &Platform) -> Result<Manifest> {
    let mut digest = target.to_owned();
    for _ in 0..DEPTH {
        let document: Document = serde_json::from_slice(&read(client, &digest).await?)
            .with_context(|| format!("read manifest {digest}"))?;
        if let Some(config) = document.config {
            return Ok(Manifest { digest, config, layers: document.layers });
        }
        let ranked = document.manifests.iter().filter_map(|m| {
            let rank = m.platform.as_ref().map_or(Some(1000), |p| platform.rank(p))?;
            Some((rank, m.digest.as_str().to_owned()))
        });
        let Some((_, best)) = ranked.min() else { bail!("the image has no manifest for {platform}") };
        digest = best;
    }
    bail!("the image's indexes are nested deeper than {DEPTH}")
}

/// The image behind a record, for a platform.
pub async fn load(
    client: &Client,
    record: windlass_api::services::images::Image,
    platform: &Platform,
) -> Result<Image> {
    let target = record.target.unwrap_or_default();
    let fetch = || format!("fetch it with: windlass pull --platform {platform} {}", record.name);
    let manifest = manifest(client, &target.digest, platform)
        .await
        .with_context(|| format!("image {}", record.name))
        .remedy_for(tonic::Code::NotFound, fetch())?;
    let config = read(client, manifest.config.digest.as_str())
        .await
        .with_context(|| format!("image {}", record.name))
        .remedy_for(tonic::Code::NotFound, fetch())?;
    let config: Config = serde_json::from_slice(&config).context("read the image's configuration")?;
    let chain = snapshot::chain_id(&config.rootfs.diff_ids).map(|d| d.to_string()).unwrap_or_default();
    Ok(Image {
        name: record.name,
        defaults: config.config.unwrap_or_default(),
        chain,
        diff_ids: config.rootfs.diff_ids,
        layers: manifest.layers,
        config: manifest.config.digest.to_string(),
    })
}

/// The image that was typed, which must be there.
pub async fn find(client: &Client, typed: &str, platform: &Platform) -> Result<Image> {
    load(client, names::image(client, typed).await?, platform).await
}
