//! Both transports over a real socket: what one end says, the other reads.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use windlass_api::connect::{MAX_MESSAGE, connect};
use windlass_api::scope::{self, Scope};
use windlass_api::services::content as w;
use windlass_api::services::content::content_client::ContentClient;
use windlass_api::services::content::content_server::{Content, ContentServer};
use windlass_api::{convert, shim, status};
use windlass_core::{Class, Context, Error};

const BIG: usize = 8 << 20;

struct Echo;

#[tonic::async_trait]
impl Content for Echo {
    async fn info(&self, request: Request<w::InfoRequest>) -> Result<Response<w::InfoResponse>, Status> {
        let cx = scope::from_grpc(request.metadata()).map_err(status::grpc)?;
        let digest = format!("{} {:?}", cx.namespace, cx.lease);
        Ok(Response::new(w::InfoResponse { info: Some(w::Info { digest, ..Default::default() }) }))
    }

    async fn delete(&self, request: Request<w::DeleteContentRequest>) -> Result<Response<()>, Status> {
        let cause = std::io::Error::other("disk");
        Err(status::grpc(
            Error::not_found(format!("content {}", request.into_inner().digest)).with_source(cause),
        ))
    }

    async fn read(
        &self,
        _: Request<w::ReadContentRequest>,
    ) -> Result<Response<BoxStream<w::ReadContentResponse>>, Status> {
        let message = w::ReadContentResponse { offset: 0, data: Bytes::from(vec![7; BIG]) };
        Ok(Response::new(stream::iter([Ok(message)]).boxed()))
    }
}

async fn serve(socket: &Path) -> tokio::task::JoinHandle<Result<(), tonic::transport::Error>> {
    let listener = UnixListener::bind(socket).expect("a fresh directory takes a socket");
    let service = ContentServer::new(Echo)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)))
}

#[tokio::test]
async fn grpc_carries_scope_errors_and_big_messages() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let server = serve(&socket).await;
    let channel = connect(&socket).await.unwrap();
    let scope = Scope::new(&Context::new("moby").with_lease("l")).unwrap();
    let mut client =
        ContentClient::with_interceptor(channel.clone(), scope).max_decoding_message_size(MAX_MESSAGE);

    let info = client.info(w::InfoRequest::default()).await.unwrap().into_inner().info.unwrap();
    assert_eq!(info.digest, "moby Some(\"l\")");
    let bare = ContentClient::new(channel).info(w::InfoRequest::default()).await.unwrap_err();
    assert_eq!(status::from_grpc(bare).class(), Class::FailedPrecondition);

    let error = client.delete(w::DeleteContentRequest { digest: "d".into() }).await.unwrap_err();
    let error = status::from_grpc(error);
    assert_eq!((error.class(), error.message()), (Class::NotFound, "content d: disk"));
    let error = client.status(w::StatusRequest::default()).await.unwrap_err();
    assert_eq!(status::from_grpc(error).class(), Class::Unimplemented);

    let mut read = client.read(w::ReadContentRequest::default()).await.unwrap().into_inner();
    assert_eq!(read.message().await.unwrap().unwrap().data.len(), BIG);
    server.abort();
}

struct Tasks;

#[async_trait::async_trait]
impl shim::task_v3::Task for Tasks {
    async fn state(
        &self,
        cx: &ttrpc::r#async::TtrpcContext,
        request: shim::task_v3::StateRequest,
    ) -> ttrpc::Result<shim::task_v3::StateResponse> {
        let cx = scope::from_ttrpc(cx).map_err(status::ttrpc)?;
        if request.id == "none" {
            return Err(status::ttrpc(Error::not_found("task none")));
        }
        Ok(shim::task_v3::StateResponse {
            id: cx.namespace,
            status: shim::types::task::Status::PAUSED.into(),
            ..Default::default()
        })
    }
}

#[tokio::test]
async fn ttrpc_carries_scope_and_errors() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix://{}", dir.path().join("s").display());
    let service = shim::task_v3::create_task(std::sync::Arc::new(Tasks));
    let mut server = ttrpc::r#async::Server::new().bind(&address).unwrap().register_service(service);
    server.start().await.unwrap();
    let connection = ttrpc::r#async::Client::connect(&address).await.unwrap();
    let client = shim::task_v3::TaskClient::new(connection.clone());
    let cx = || scope::ttrpc(&Context::new("k8s.io"), Duration::from_secs(10));

    let mut request = shim::task_v3::StateRequest::new();
    let state = client.state(cx(), &request).await.unwrap();
    assert_eq!(state.id, "k8s.io");
    assert_eq!(convert::task::from_shim(state.status), windlass_core::task::Status::Paused);
    let bare = client.state(ttrpc::context::with_timeout(0), &request).await.unwrap_err();
    assert_eq!(status::from_ttrpc(bare).class(), Class::FailedPrecondition);

    request.id = "none".into();
    let error = status::from_ttrpc(client.state(cx(), &request).await.unwrap_err());
    assert_eq!((error.class(), error.message()), (Class::NotFound, "task none"));

    // What the server does not have is unimplemented: a method, and a service.
    let error = client.pause(cx(), &shim::task_v3::PauseRequest::new()).await.unwrap_err();
    assert!(
        matches!(&error, ttrpc::Error::RpcStatus(s) if s.code() == ttrpc::Code::UNIMPLEMENTED),
        "{error}"
    );
    let old = shim::task_v2::TaskClient::new(connection);
    let error = old.pause(cx(), &shim::task_v2::PauseRequest::new()).await.unwrap_err();
    assert_eq!(status::from_ttrpc(error).class(), Class::Unimplemented);
    server.shutdown().await.unwrap();
}
