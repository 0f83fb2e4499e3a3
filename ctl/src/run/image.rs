//! An image as a container needs it: its configuration for one platform, and the chain of its layers.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use windlass_api::services::content::ReadContentRequest;
use windlass_api::services::images::GetImageRequest;
use windlass_core::platform::Platform;
use windlass_core::{Descriptor, Digest, snapshot};

use crate::client::Client;

/// Largest manifest or configuration that is read.
const LIMIT: usize = 8 << 20;
/// Deepest nesting of indexes.
const DEPTH: usize = 8;

#[derive(Deserialize, Default)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
}

/// OCI image specification 1.1, `config.md`: what a container inherits.
#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "PascalCase", default)]
pub struct Defaults {
    pub user: String,
    pub env: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_dir: String,
    pub stop_signal: String,
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

pub struct Image {
    pub name: String,
    pub defaults: Defaults,
    /// Name of the topmost snapshot; empty for an image without layers.
    pub chain: String,
}

/// Reads a small blob.
pub async fn read(client: &Client, digest: &str) -> Result<Vec<u8>> {
    let request = ReadContentRequest { digest: digest.to_owned(), ..Default::default() };
    let mut stream = client.content().read(request).await.with_context(|| format!("read content {digest}"))?.into_inner();
    let mut data = Vec::new();
    while let Some(part) = stream.message().await? {
        data.extend_from_slice(&part.data);
        if data.len() > LIMIT {
            bail!("content {digest} is larger than {LIMIT} bytes: no manifest or configuration is");
        }
    }
    Ok(data)
}

/// Finds the manifest for this machine below a descriptor and answers its configuration's digest.
async fn config_digest(client: &Client, target: &str) -> Result<Digest> {
    let host = Platform::host();
    let mut digest = target.to_owned();
    for _ in 0..DEPTH {
        let document: Document = serde_json::from_slice(&read(client, &digest).await?).context("read the manifest")?;
        if let Some(config) = document.config {
            return Ok(config.digest);
        }
        let ranked = document.manifests.iter().filter_map(|m| {
            let rank = m.platform.as_ref().map_or(Some(1000), |p| host.rank(p))?;
            Some((rank, m.digest.as_str().to_owned()))
        });
        let Some((_, best)) = ranked.min() else { bail!("the image has no manifest for {host}") };
        digest = best;
    }
    bail!("the image's indexes are nested deeper than {DEPTH}")
}

pub async fn find(client: &Client, name: &str) -> Result<Image> {
    let image = client
        .images()
        .get(GetImageRequest { name: name.to_owned() })
        .await
        .with_context(|| format!("image {name} (fetch it with: windlass pull {name})"))?
        .into_inner()
        .image
        .unwrap_or_default();
    let target = image.target.unwrap_or_default();
    let digest = config_digest(client, &target.digest).await?;
    let config: Config = serde_json::from_slice(&read(client, digest.as_str()).await?).context("read the image's configuration")?;
    let chain = snapshot::chain_id(&config.rootfs.diff_ids).map(|d| d.to_string()).unwrap_or_default();
    Ok(Image { name: image.name, defaults: config.config.unwrap_or_default(), chain })
}
