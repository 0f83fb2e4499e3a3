//! `containerd.services.images.v1.Images`

use std::sync::Arc;
use std::time::SystemTime;

use tonic::Request;
use windlass_api::convert::{descriptor, time};
use windlass_api::services::images as wire;
use windlass_core::image::{Image, Store};
use windlass_core::{Result, gc, kinds};

use crate::edge::{Answer, answer, context, database, filters, finish, mask, required, serve};

struct Edge {
    store: Arc<dyn Store>,
    scheduler: Arc<dyn gc::Scheduler>,
}

fn to_wire(image: Image) -> wire::Image {
    wire::Image {
        name: image.name,
        labels: image.labels,
        target: Some(descriptor::to_wire(&image.target)),
        created_at: Some(time::to_wire(image.created_at)),
        updated_at: Some(time::to_wire(image.updated_at)),
    }
}

fn from_wire(image: wire::Image) -> Result<Image> {
    Ok(Image {
        name: image.name,
        target: descriptor::required("image target", image.target)?,
        labels: image.labels,
        // The store's own clock, whatever the client read elsewhere; only `source_date_epoch` says otherwise.
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
    })
}

#[tonic::async_trait]
impl wire::images_server::Images for Edge {
    async fn get(&self, request: Request<wire::GetImageRequest>) -> Answer<wire::GetImageResponse> {
        let cx = context(&request)?;
        let found = self.store.get(&cx, &request.into_inner().name).await;
        answer(found.map(|i| wire::GetImageResponse { image: Some(to_wire(i)) }))
    }

    async fn list(&self, request: Request<wire::ListImagesRequest>) -> Answer<wire::ListImagesResponse> {
        let cx = context(&request)?;
        answer(
            async {
                let all = self.store.list(&cx, &filters(&request.into_inner().filters)?).await?;
                Ok(wire::ListImagesResponse { images: all.into_iter().map(to_wire).collect() })
            }
            .await,
        )
    }

    async fn create(&self, request: Request<wire::CreateImageRequest>) -> Answer<wire::CreateImageResponse> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move {
            let request = request.into_inner();
            let mut image = from_wire(required("image", request.image)?)?;
            // The store's own time unless the client names one; the times of the message are not the client's to set.
            image.updated_at = time::from_wire(request.source_date_epoch)?.unwrap_or(std::time::UNIX_EPOCH);
            let created = store.create(&cx, image).await?;
            Ok(wire::CreateImageResponse { image: Some(to_wire(created)) })
        })
        .await
    }

    async fn update(&self, request: Request<wire::UpdateImageRequest>) -> Answer<wire::UpdateImageResponse> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move {
            let request = request.into_inner();
            let mut wanted = required("image", request.image)?;
            let fields = mask(request.update_mask);
            if !fields.is_all() && wanted.target.as_ref().is_none_or(|t| t.digest.is_empty()) {
                // A change of labels alone names no target; the record's own takes its place.
                wanted.target = Some(descriptor::to_wire(&store.get(&cx, &wanted.name).await?.target));
            }
            let mut image = from_wire(wanted)?;
            image.updated_at = time::from_wire(request.source_date_epoch)?.unwrap_or(std::time::UNIX_EPOCH);
            let updated = store.update(&cx, image, &fields).await?;
            Ok(wire::UpdateImageResponse { image: Some(to_wire(updated)) })
        })
        .await
    }

    async fn delete(&self, request: Request<wire::DeleteImageRequest>) -> Answer<()> {
        let (cx, store, scheduler) = (context(&request)?, self.store.clone(), self.scheduler.clone());
        finish(async move {
            let request = request.into_inner();
            let target = request.target.map(descriptor::from_wire).transpose()?;
            store.delete(&cx, &request.name, target.as_ref()).await?;
            if request.sync {
                scheduler.collect_now().await?;
            }
            Ok(())
        })
        .await
    }
}

serve!(Images, "images", wire::images_server::ImagesServer, [kinds::Metadata, kinds::Gc], |ctx| {
    Ok(Edge { store: database(ctx)?.images(), scheduler: ctx.single::<kinds::Gc>()? })
});
