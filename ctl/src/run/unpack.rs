//! Unpacking an image that is there but not in the snapshotter that a container wants.

use anyhow::{Context as _, Result, bail, ensure};
use tonic::Code;
use windlass_api::services::content::{Info, UpdateRequest};
use windlass_api::services::diff::ApplyRequest;
use windlass_api::services::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use windlass_api::types;
use windlass_core::{Descriptor, snapshot};

use super::image::Image;
use crate::client::Client;
use crate::output;
use crate::stream::unique;

/// Makes the image's snapshots in `snapshotter`, those that are missing. `client` holds a lease.
pub async fn unpack(client: &Client, image: &Image, snapshotter: &str) -> Result<()> {
    ensure!(
        image.layers.len() == image.diff_ids.len(),
        "image {}: {} layers but {} diff ids",
        image.name,
        image.layers.len(),
        image.diff_ids.len()
    );
    let mut parent = String::new();
    for (at, layer) in image.layers.iter().enumerate() {
        let chain = snapshot::chain_id(&image.diff_ids[..=at]).map(|d| d.to_string()).unwrap_or_default();
        let stat = StatSnapshotRequest { snapshotter: snapshotter.into(), key: chain.clone() };
        match client.snapshots().stat(stat).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::NotFound => {
                output::note(&format!(
                    "unpacking layer {} of {} into {snapshotter}",
                    at + 1,
                    image.layers.len()
                ));
                apply(client, snapshotter, &parent, &chain, layer, image.diff_ids[at].as_str()).await?;
            }
            Err(status) => return Err(status.into()),
        }
        parent = chain;
    }
    keep(client, image, snapshotter).await
}

async fn apply(
    client: &Client,
    snapshotter: &str,
    parent: &str,
    chain: &str,
    layer: &Descriptor,
    diff_id: &str,
) -> Result<()> {
    let key = format!("{} {chain}", unique("extract"));
    let prepare = PrepareSnapshotRequest {
        snapshotter: snapshotter.into(),
        key: key.clone(),
        parent: parent.into(),
        ..Default::default()
    };
    let mounts = client.snapshots().prepare(prepare).await.context("prepare a snapshot")?.into_inner().mounts;
    let diff = types::Descriptor {
        media_type: layer.media_type.clone(),
        digest: layer.digest.to_string(),
        size: i64::try_from(layer.size).unwrap_or(i64::MAX),
        ..Default::default()
    };
    let request = ApplyRequest { diff: Some(diff), mounts, ..Default::default() };
    let applied =
        client.diff().apply(request).await.with_context(|| format!("unpack layer {}", layer.digest));
    let result = match applied {
        Ok(answer) => {
            let got = answer.into_inner().applied.unwrap_or_default().digest;
            if got == diff_id {
                let commit = CommitSnapshotRequest {
                    snapshotter: snapshotter.into(),
                    name: chain.into(),
                    key: key.clone(),
                    ..Default::default()
                };
                match client.snapshots().commit(commit).await {
                    Ok(_) => return Ok(()),
                    // Somebody else was quicker.
                    Err(status) if status.code() == Code::AlreadyExists => Ok(()),
                    Err(status) => Err(status).context("commit a snapshot"),
                }
            } else {
                Err(anyhow::anyhow!("layer {} holds {got}, not {diff_id} as the image says", layer.digest))
            }
        }
        Err(error) => Err(error),
    };
    // The first error is the one to show; what is left the collector takes once the lease has gone.
    let _ = client.snapshots().remove(RemoveSnapshotRequest { snapshotter: snapshotter.into(), key }).await;
    result
}

/// Lets the image's configuration hold its snapshots, so that they are not collected while the image is there.
async fn keep(client: &Client, image: &Image, snapshotter: &str) -> Result<()> {
    if image.chain.is_empty() {
        bail!("image {} has no layers", image.name);
    }
    let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    let paths = vec![format!("labels.{label}")];
    let info = Info {
        digest: image.config.clone(),
        labels: [(label, image.chain.clone())].into(),
        ..Default::default()
    };
    let request = UpdateRequest { info: Some(info), update_mask: Some(windlass_api::FieldMask { paths }) };
    client.content().update(request).await.context("label the image's configuration")?;
    Ok(())
}
