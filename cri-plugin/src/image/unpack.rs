//! File systems for containers: a snapshot over an image, unpacked before where it is not.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;
use windlass_core::mount::Mount;
use windlass_core::platform::Platform;
use windlass_core::transfer::{self, ByteSource, Destination, ImageStore, NoProgress, Source};
use windlass_core::{Context, Descriptor, Error, Labels, Result};

use super::{Image, Images};
use crate::tar::{BLOCK, Kind, header};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Label that tells a remote snapshotter which image a snapshot is for.
const LABEL_IMAGE: &str = "containerd.io/snapshot/cri.image-ref";

/// How a snapshot is made of an image.
pub(super) enum Access {
    Active,
    View,
}

impl Images {
    /// Makes the writable snapshot `key` over an image and answers its mounts. `cx` holds the lease that protects the
    /// snapshot until its container's record does. `snapshotter`: none for the default one; what is not unpacked there yet
    /// is. `labels`: id mappings ([`windlass_core::snapshot::LABEL_UIDMAP`]).
    ///
    /// *Already exists* where there is such a key; *failed precondition* where the image has to be unpacked and its layers
    /// are not there any more.
    pub async fn prepare_rootfs(
        &self,
        cx: &Context,
        key: &str,
        image: &Image,
        snapshotter: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        self.snapshot(cx, key, image, snapshotter, labels, Access::Active).await
    }

    /// Like [`Self::prepare_rootfs`], a snapshot that is read only.
    pub async fn view(
        &self,
        cx: &Context,
        key: &str,
        image: &Image,
        snapshotter: Option<&str>,
    ) -> Result<Vec<Mount>> {
        self.snapshot(cx, key, image, snapshotter, Labels::new(), Access::View).await
    }

    pub(super) async fn snapshot(
        &self,
        cx: &Context,
        key: &str,
        image: &Image,
        snapshotter: Option<&str>,
        mut labels: Labels,
        access: Access,
    ) -> Result<Vec<Mount>> {
        let id = snapshotter.filter(|s| !s.is_empty()).unwrap_or(&self.config.snapshotter);
        let with = self.snapshotter(id)?;
        if !self.config.disable_snapshot_annotations {
            labels.entry(LABEL_IMAGE.into()).or_insert_with(|| image.name().to_owned());
        }
        let parent = image.chain_id.as_str();
        let make = async |labels: Labels| match access {
            Access::Active => with.prepare(cx, key, parent, labels).await,
            Access::View => with.view(cx, key, parent, labels).await,
        };
        match make(labels.clone()).await {
            Err(error) if error.is_not_found() && !parent.is_empty() => {}
            done => return done,
        }
        tracing::info!(image = %image.id, snapshotter = %id, "image is not unpacked, unpacking it");
        self.unpack(image, id)
            .await
            .map_err(|e| e.context(format!("unpack image {} for {id}", image.name())))?;
        make(labels).await
    }

    /// Unpacks what is in the content store: the transferrer imports an archive that holds no more than the image's name.
    async fn unpack(&self, image: &Image, snapshotter: &str) -> Result<()> {
        let facts = self.facts(&image.target).await?;
        let platform = Platform::host();
        let unpack =
            transfer::Unpack { platform: Some(platform.clone()), snapshotter: snapshotter.to_owned() };
        let to = ImageStore { platforms: vec![platform], unpacks: vec![unpack], ..ImageStore::default() };
        let bytes = Box::new(Once(Some(layout(&facts.manifest).into())));
        let from = Source::Archive { media_type: String::new(), force_compress: false, bytes };
        let done = self
            .transfer
            .transfer(&self.cx, from, Destination::ImageStore(to), std::sync::Arc::new(NoProgress))
            .await;
        match done {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Err(Error::precondition(format!(
                "its layers are not in the content store any more: pull it again ({})",
                error.chain()
            ))),
            Err(error) => Err(error),
        }
    }
}

/// An archive in one piece.
struct Once(Option<Bytes>);

#[async_trait]
impl ByteSource for Once {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.take())
    }
}

/// An OCI layout that only points to a manifest.
fn layout(manifest: &Descriptor) -> Vec<u8> {
    // What an index's platform says is not asked again.
    let entry = Descriptor::new(&manifest.media_type, manifest.digest.clone(), manifest.size);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    let mut tar = Vec::new();
    for (name, data) in [("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json", index.as_str())]
    {
        tar.extend_from_slice(&header(name, data.len() as u64, Kind::File, 0o644));
        tar.extend_from_slice(data.as_bytes());
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}
