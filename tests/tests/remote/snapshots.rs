//! One snapshotter of the daemon.

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::transport::Channel;
use windlass_api::convert::mount;
use windlass_api::services::snapshots as wire;
use windlass_core::mount::Mount;
use windlass_core::snapshot::{CommitOptions, Info, Kind, Snapshotter, Usage};
use windlass_core::{Context, FieldMask, Filters, Labels, Result};
use wire::snapshots_client::SnapshotsClient;

use super::{failed, mask, on, time};

pub struct Snapshots {
    pub channel: Channel,
    pub id: String,
    pub capabilities: Vec<String>,
}

impl Snapshots {
    fn client(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }
}

fn info(i: wire::Info) -> Info {
    let kind = match i.kind() {
        wire::Kind::View => Kind::View,
        wire::Kind::Active => Kind::Active,
        wire::Kind::Committed => Kind::Committed,
        wire::Kind::Unknown => panic!("a snapshot without a kind"),
    };
    Info {
        kind,
        name: i.name,
        parent: i.parent,
        labels: i.labels,
        created_at: time(i.created_at),
        updated_at: time(i.updated_at),
    }
}

fn mounts(all: Vec<windlass_api::types::Mount>) -> Vec<Mount> {
    all.into_iter().map(mount::from_wire).collect()
}

#[async_trait]
impl Snapshotter for Snapshots {
    async fn stat(&self, cx: &Context, key: &str) -> Result<Info> {
        let request = wire::StatSnapshotRequest { snapshotter: self.id.clone(), key: key.into() };
        Ok(info(
            self.client().stat(on(cx, request)).await.map_err(failed)?.into_inner().info.expect("an info"),
        ))
    }

    async fn update(&self, cx: &Context, i: Info, fields: &FieldMask) -> Result<Info> {
        let changed = wire::Info { name: i.name, labels: i.labels, ..Default::default() };
        let (snapshotter, update_mask) = (self.id.clone(), mask(fields));
        let request = wire::UpdateSnapshotRequest { snapshotter, info: Some(changed), update_mask };
        Ok(info(
            self.client().update(on(cx, request)).await.map_err(failed)?.into_inner().info.expect("an info"),
        ))
    }

    async fn usage(&self, cx: &Context, key: &str) -> Result<Usage> {
        let request = wire::UsageRequest { snapshotter: self.id.clone(), key: key.into() };
        let usage = self.client().usage(on(cx, request)).await.map_err(failed)?.into_inner();
        Ok(Usage { inodes: usage.inodes as u64, size: usage.size as u64 })
    }

    async fn mounts(&self, cx: &Context, key: &str) -> Result<Vec<Mount>> {
        let request = wire::MountsRequest { snapshotter: self.id.clone(), key: key.into() };
        Ok(mounts(self.client().mounts(on(cx, request)).await.map_err(failed)?.into_inner().mounts))
    }

    async fn prepare(&self, cx: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let (snapshotter, key, parent) = (self.id.clone(), key.into(), parent.into());
        let request = wire::PrepareSnapshotRequest { snapshotter, key, parent, labels };
        Ok(mounts(self.client().prepare(on(cx, request)).await.map_err(failed)?.into_inner().mounts))
    }

    async fn view(&self, cx: &Context, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let (snapshotter, key, parent) = (self.id.clone(), key.into(), parent.into());
        let request = wire::ViewSnapshotRequest { snapshotter, key, parent, labels };
        Ok(mounts(self.client().view(on(cx, request)).await.map_err(failed)?.into_inner().mounts))
    }

    async fn commit(&self, cx: &Context, name: &str, key: &str, options: CommitOptions) -> Result<()> {
        let request = wire::CommitSnapshotRequest {
            snapshotter: self.id.clone(),
            name: name.into(),
            key: key.into(),
            labels: options.labels,
            parent: options.parent.unwrap_or_default(),
        };
        self.client().commit(on(cx, request)).await.map_err(failed).map(drop)
    }

    async fn remove(&self, cx: &Context, key: &str) -> Result<()> {
        let request = wire::RemoveSnapshotRequest { snapshotter: self.id.clone(), key: key.into() };
        self.client().remove(on(cx, request)).await.map_err(failed).map(drop)
    }

    fn list<'a>(&'a self, cx: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>> {
        let (snapshotter, filters) = (self.id.clone(), filters.texts().to_vec());
        let request = on(cx, wire::ListSnapshotsRequest { snapshotter, filters });
        let all = async move {
            let pages: Vec<_> = match self.client().list(request).await {
                Ok(pages) => pages.into_inner().collect().await,
                Err(status) => vec![Err(status)],
            };
            let infos = pages.into_iter().flat_map(|page| match page {
                Ok(page) => page.info.into_iter().map(|i| Ok(info(i))).collect(),
                Err(status) => vec![Err(failed(status))],
            });
            futures::stream::iter(infos.collect::<Vec<_>>())
        };
        futures::stream::once(all).flatten().boxed()
    }

    async fn cleanup(&self, cx: &Context) -> Result<()> {
        let request = on(cx, wire::CleanupRequest { snapshotter: self.id.clone() });
        self.client().cleanup(request).await.map_err(failed).map(drop)
    }

    fn capabilities(&self) -> Vec<String> {
        self.capabilities.clone()
    }
}
