//! The gRPC edges: wire types in, a method of [`Cri`](crate::cri::Cri) called, wire types out. Nothing else.

mod image;
mod runtime;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use tonic::{Response, Status};
use windlass_api::{cri, status};
use windlass_core::Result;

use crate::events::Follow;

pub use image::ImageEdge;
pub use runtime::RuntimeEdge;

/// Bytes of one message of a streamed list.
const CHUNK: usize = 1 << 20;

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = tonic::codegen::BoxStream<T>;

fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map(Response::new).map_err(status::grpc)
}

fn streamed<T: Send + 'static>(result: Result<BoxStream<'static, Result<T>>>) -> Answer<Stream<T>> {
    let items = result.map_err(status::grpc)?;
    Ok(Response::new(Box::pin(items.map(|item| item.map_err(status::grpc)))))
}

/// A list in messages of at most a megabyte, or of one item where that is larger. None at all for an empty list.
pub fn chunked<T, R>(items: Vec<T>, wrap: fn(Vec<T>) -> R) -> BoxStream<'static, Result<R>>
where
    T: Message + 'static,
    R: Send + 'static,
{
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut size = 0;
    for item in items {
        let length = item.encoded_len();
        if !chunk.is_empty() && size + length > CHUNK {
            chunks.push(std::mem::take(&mut chunk));
            size = 0;
        }
        size += length;
        chunk.push(item);
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    stream::iter(chunks).map(move |chunk| Ok(wrap(chunk))).boxed()
}

/// What happens, one by one.
fn followed(follow: Follow) -> BoxStream<'static, Result<cri::ContainerEventResponse>> {
    follow.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lists_are_cut_by_size() {
        let pod = |n: usize| cri::PodSandbox { id: "x".repeat(n), ..Default::default() };
        let sizes = async |items: Vec<cri::PodSandbox>| -> Vec<usize> {
            chunked(items, |pods| pods.len()).map(|n| n.expect("no chunk fails")).collect().await
        };
        assert_eq!(sizes(Vec::new()).await, [] as [usize; 0]);
        assert_eq!(sizes(vec![pod(10), pod(10), pod(CHUNK), pod(2 * CHUNK), pod(1)]).await, [2, 1, 1, 1]);
    }
}
