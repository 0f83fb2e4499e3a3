//! `runtime.v1.ImageService`.

use std::sync::Arc;

use tonic::Request;
use windlass_api::cri;
use windlass_api::cri::image_service_server::ImageService;
use windlass_core::{Error, Result};

use super::{Answer, Stream, answer, chunked, streamed};
use crate::image::Images;

/// Serves `runtime.v1.ImageService`.
pub struct ImageEdge(pub Arc<Images>);

fn named(image: Option<cri::ImageSpec>) -> Result<cri::ImageSpec> {
    image.filter(|image| !image.image.is_empty()).ok_or_else(|| Error::invalid("an image must be named"))
}

impl ImageEdge {
    async fn status(&self, request: cri::ImageStatusRequest) -> Result<cri::ImageStatusResponse> {
        let found = self.0.status(&named(request.image)?, request.verbose).await?;
        let (image, info) =
            found.map(|(image, info)| (Some(image), info.into_iter().collect())).unwrap_or_default();
        Ok(cri::ImageStatusResponse { image, info })
    }

    async fn pull(&self, request: cri::PullImageRequest) -> Result<cri::PullImageResponse> {
        let image = named(request.image)?;
        let image_ref = self.0.pull(&image, request.auth, request.sandbox_config.as_ref()).await?;
        Ok(cri::PullImageResponse { image_ref })
    }

    async fn remove(&self, request: cri::RemoveImageRequest) -> Result<cri::RemoveImageResponse> {
        let (images, image) = (self.0.clone(), named(request.image)?);
        // Finished even where the client goes away.
        let removal = tokio::spawn(async move { images.remove(&image).await });
        removal
            .await
            .map_err(|e| Error::internal("the removal of an image ended early").with_source(e))??;
        Ok(cri::RemoveImageResponse {})
    }
}

#[tonic::async_trait]
impl ImageService for ImageEdge {
    async fn list_images(&self, request: Request<cri::ListImagesRequest>) -> Answer<cri::ListImagesResponse> {
        let images = self.0.list(request.into_inner().filter.as_ref());
        answer(Ok(cri::ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Answer<Stream<cri::StreamImagesResponse>> {
        let images = self.0.list(request.into_inner().filter.as_ref());
        streamed(Ok(chunked(images, |images| cri::StreamImagesResponse { images })))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        answer(self.status(request.into_inner()).await)
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Answer<cri::PullImageResponse> {
        answer(self.pull(request.into_inner()).await)
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        answer(self.remove(request.into_inner()).await)
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Answer<cri::ImageFsInfoResponse> {
        answer(self.0.fs_info().await)
    }
}
