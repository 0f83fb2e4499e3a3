//! `containerd.services.snapshots.v1.Snapshots`

use std::sync::Arc;

use futures::StreamExt;
use tonic::Request;
use windlass_api::convert::{mount, time};
use windlass_api::services::snapshots as wire;
use windlass_core::snapshot::{CommitOptions, Info, Kind, Shared};
use windlass_core::{Error, Result, kinds, metadata};

use crate::edge::{
    Answer, Stream, answer, context, database, filters, finish, mask, required, serve, stream,
};

/// Snapshots in one message of a list.
const PAGE: usize = 100;

struct Edge {
    database: Arc<dyn metadata::Database>,
}

impl Edge {
    fn snapshotter(&self, id: &str) -> Result<Shared> {
        if id.is_empty() {
            return Err(Error::invalid("snapshotter argument missing"));
        }
        self.database.snapshotter(id).ok_or_else(|| {
            let known = self.database.snapshotters().join(", ");
            Error::invalid(format!("snapshotter not loaded: {id} (there are: {known})"))
        })
    }
}

fn to_wire(info: Info) -> wire::Info {
    let kind = match info.kind {
        Kind::View => wire::Kind::View,
        Kind::Active => wire::Kind::Active,
        Kind::Committed => wire::Kind::Committed,
    };
    wire::Info {
        name: info.name,
        parent: info.parent,
        kind: kind.into(),
        created_at: Some(time::to_wire(info.created_at)),
        updated_at: Some(time::to_wire(info.updated_at)),
        labels: info.labels,
    }
}

fn from_wire(info: wire::Info) -> Result<Info> {
    let kind = match info.kind() {
        wire::Kind::View => Kind::View,
        wire::Kind::Committed => Kind::Committed,
        wire::Kind::Active | wire::Kind::Unknown => Kind::Active,
    };
    Ok(Info {
        kind,
        name: info.name,
        parent: info.parent,
        labels: info.labels,
        created_at: time::from_wire(info.created_at)?.unwrap_or_else(time::zero),
        updated_at: time::from_wire(info.updated_at)?.unwrap_or_else(time::zero),
    })
}

fn mounts(all: Vec<windlass_core::mount::Mount>) -> Vec<windlass_api::types::Mount> {
    all.into_iter().map(mount::to_wire).collect()
}

#[tonic::async_trait]
impl wire::snapshots_server::Snapshots for Edge {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Answer<wire::PrepareSnapshotResponse> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let snapshotter = self.snapshotter(&request.snapshotter);
        finish(async move {
            let made = snapshotter?.prepare(&cx, &request.key, &request.parent, request.labels).await?;
            Ok(wire::PrepareSnapshotResponse { mounts: mounts(made) })
        })
        .await
    }

    async fn view(&self, request: Request<wire::ViewSnapshotRequest>) -> Answer<wire::ViewSnapshotResponse> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let snapshotter = self.snapshotter(&request.snapshotter);
        finish(async move {
            let made = snapshotter?.view(&cx, &request.key, &request.parent, request.labels).await?;
            Ok(wire::ViewSnapshotResponse { mounts: mounts(made) })
        })
        .await
    }

    async fn mounts(&self, request: Request<wire::MountsRequest>) -> Answer<wire::MountsResponse> {
        let cx = context(&request)?;
        let request = request.into_inner();
        answer(
            async {
                let found = self.snapshotter(&request.snapshotter)?.mounts(&cx, &request.key).await?;
                Ok(wire::MountsResponse { mounts: mounts(found) })
            }
            .await,
        )
    }

    async fn commit(&self, request: Request<wire::CommitSnapshotRequest>) -> Answer<()> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let snapshotter = self.snapshotter(&request.snapshotter);
        finish(async move {
            let parent = Some(request.parent).filter(|p| !p.is_empty());
            let options = CommitOptions { labels: request.labels, parent, ..CommitOptions::default() };
            snapshotter?.commit(&cx, &request.name, &request.key, options).await
        })
        .await
    }

    async fn remove(&self, request: Request<wire::RemoveSnapshotRequest>) -> Answer<()> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let snapshotter = self.snapshotter(&request.snapshotter);
        finish(async move { snapshotter?.remove(&cx, &request.key).await }).await
    }

    async fn stat(&self, request: Request<wire::StatSnapshotRequest>) -> Answer<wire::StatSnapshotResponse> {
        let cx = context(&request)?;
        let request = request.into_inner();
        answer(
            async {
                let info = self.snapshotter(&request.snapshotter)?.stat(&cx, &request.key).await?;
                Ok(wire::StatSnapshotResponse { info: Some(to_wire(info)) })
            }
            .await,
        )
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Answer<wire::UpdateSnapshotResponse> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let snapshotter = self.snapshotter(&request.snapshotter);
        finish(async move {
            let info = from_wire(required("snapshot info", request.info)?)?;
            let updated = snapshotter?.update(&cx, info, &mask(request.update_mask)).await?;
            Ok(wire::UpdateSnapshotResponse { info: Some(to_wire(updated)) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Answer<Stream<wire::ListSnapshotsResponse>> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let found = async {
            let filters = filters(&request.filters)?;
            let snapshotter = self.snapshotter(&request.snapshotter)?;
            let mut found = snapshotter.list(&cx, &filters);
            let mut all = Vec::new();
            while let Some(info) = found.next().await {
                all.push(to_wire(info?));
            }
            Ok::<_, Error>(all)
        };
        let all: Vec<wire::Info> = found.await.map_err(windlass_api::status::grpc)?;
        let pages: Vec<_> =
            all.chunks(PAGE).map(|p| Ok(wire::ListSnapshotsResponse { info: p.to_vec() })).collect();
        stream(futures::stream::iter(pages))
    }

    async fn usage(&self, request: Request<wire::UsageRequest>) -> Answer<wire::UsageResponse> {
        let cx = context(&request)?;
        let request = request.into_inner();
        answer(
            async {
                let usage = self.snapshotter(&request.snapshotter)?.usage(&cx, &request.key).await?;
                let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                Ok(wire::UsageResponse { size: number(usage.size), inodes: number(usage.inodes) })
            }
            .await,
        )
    }

    async fn cleanup(&self, request: Request<wire::CleanupRequest>) -> Answer<()> {
        let cx = context(&request)?;
        let snapshotter = self.snapshotter(&request.into_inner().snapshotter);
        finish(async move { snapshotter?.cleanup(&cx).await }).await
    }
}

serve!(Snapshots, "snapshots", wire::snapshots_server::SnapshotsServer, [kinds::Metadata], |ctx| {
    Ok(Edge { database: database(ctx)? })
});
