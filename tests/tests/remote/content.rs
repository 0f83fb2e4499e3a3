//! Content: blobs by `Read`, ingests by `Write`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use windlass_api::connect::MAX_MESSAGE;
use windlass_api::services::content as wire;
use windlass_core::content::{Blob, Info, Status, Store, Writer, WriterOptions};
use windlass_core::{Context, Digest, Error, FieldMask, Filters, Labels, Result};
use wire::content_client::ContentClient;

use super::{failed, mask, on, time};

#[derive(Clone)]
pub struct Content(pub Channel);

impl Content {
    fn client(&self) -> ContentClient<Channel> {
        ContentClient::new(self.0.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

fn info(i: wire::Info) -> Info {
    Info {
        digest: i.digest.parse().expect("a digest"),
        size: i.size as u64,
        created_at: time(i.created_at),
        updated_at: time(i.updated_at),
        labels: i.labels,
    }
}

fn status(s: wire::Status) -> Status {
    Status {
        reference: s.r#ref,
        offset: s.offset as u64,
        total: s.total as u64,
        expected: s.expected.parse().ok(),
        started_at: time(s.started_at),
        updated_at: time(s.updated_at),
    }
}

#[async_trait]
impl Store for Content {
    async fn info(&self, cx: &Context, digest: &Digest) -> Result<Info> {
        let request = on(cx, wire::InfoRequest { digest: digest.to_string() });
        Ok(info(self.client().info(request).await.map_err(failed)?.into_inner().info.expect("an info")))
    }

    async fn update(&self, cx: &Context, i: Info, fields: &FieldMask) -> Result<Info> {
        let changed = wire::Info { digest: i.digest.to_string(), labels: i.labels, ..Default::default() };
        let request = on(cx, wire::UpdateRequest { info: Some(changed), update_mask: mask(fields) });
        Ok(info(self.client().update(request).await.map_err(failed)?.into_inner().info.expect("an info")))
    }

    fn list<'a>(&'a self, cx: &Context, filters: &Filters) -> BoxStream<'a, Result<Info>> {
        let request = on(cx, wire::ListContentRequest { filters: filters.texts().to_vec() });
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

    async fn delete(&self, cx: &Context, digest: &Digest) -> Result<()> {
        let request = on(cx, wire::DeleteContentRequest { digest: digest.to_string() });
        self.client().delete(request).await.map_err(failed).map(drop)
    }

    async fn reader(&self, cx: &Context, digest: &Digest) -> Result<Arc<dyn Blob>> {
        let size = self.info(cx, digest).await?.size;
        Ok(Arc::new(RemoteBlob { content: self.clone(), cx: cx.clone(), digest: digest.clone(), size }))
    }

    async fn status(&self, cx: &Context, reference: &str) -> Result<Status> {
        let request = on(cx, wire::StatusRequest { r#ref: reference.into() });
        Ok(status(
            self.client().status(request).await.map_err(failed)?.into_inner().status.expect("a status"),
        ))
    }

    async fn list_statuses(&self, cx: &Context, filters: &Filters) -> Result<Vec<Status>> {
        let request = on(cx, wire::ListStatusesRequest { filters: filters.texts().to_vec() });
        let all = self.client().list_statuses(request).await.map_err(failed)?.into_inner().statuses;
        Ok(all.into_iter().map(status).collect())
    }

    async fn abort(&self, cx: &Context, reference: &str) -> Result<()> {
        let request = on(cx, wire::AbortRequest { r#ref: reference.into() });
        self.client().abort(request).await.map_err(failed).map(drop)
    }

    async fn writer(&self, cx: &Context, options: WriterOptions) -> Result<Box<dyn Writer>> {
        let (requests, receiver) = mpsc::channel(1);
        let first = wire::WriteContentRequest {
            action: wire::WriteAction::Stat.into(),
            r#ref: options.reference.clone(),
            total: options.total as i64,
            expected: options.expected.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        };
        requests.send(first).await.expect("the stream is open");
        let answers =
            self.client().write(on(cx, ReceiverStream::new(receiver))).await.map_err(failed)?.into_inner();
        let begun = Status {
            reference: options.reference,
            offset: 0,
            total: options.total,
            expected: options.expected,
            started_at: std::time::UNIX_EPOCH,
            updated_at: std::time::UNIX_EPOCH,
        };
        let mut writer = RemoteWriter { requests, answers, status: begun, digest: Digest::of(b"") };
        let answer = writer.answer().await?;
        writer.status.started_at = time(answer.started_at);
        writer.status.updated_at = time(answer.updated_at);
        Ok(Box::new(writer))
    }
}

struct RemoteBlob {
    content: Content,
    cx: Context,
    digest: Digest,
    size: u64,
}

#[async_trait]
impl Blob for RemoteBlob {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if offset >= self.size {
            return Ok(Bytes::new());
        }
        let (offset, size) = (offset as i64, len as i64);
        let request =
            on(&self.cx, wire::ReadContentRequest { digest: self.digest.to_string(), offset, size });
        let mut stream = self.content.client().read(request).await.map_err(failed)?.into_inner();
        let mut data = Vec::new();
        while let Some(message) = stream.message().await.map_err(failed)? {
            data.extend_from_slice(&message.data);
        }
        Ok(data.into())
    }
}

struct RemoteWriter {
    requests: mpsc::Sender<wire::WriteContentRequest>,
    answers: Streaming<wire::WriteContentResponse>,
    status: Status,
    digest: Digest,
}

impl RemoteWriter {
    async fn ask(&mut self, request: wire::WriteContentRequest) -> Result<wire::WriteContentResponse> {
        // Where the stream has ended the answer says why.
        let _ = self.requests.send(request).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<wire::WriteContentResponse> {
        let answer = self.answers.message().await.map_err(failed)?;
        let answer = answer.ok_or_else(|| Error::unavailable("the stream has ended"))?;
        self.status.offset = answer.offset as u64;
        self.digest = answer.digest.parse()?;
        Ok(answer)
    }
}

#[async_trait]
impl Writer for RemoteWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let end = self.status.offset + data.len() as u64;
        let request = wire::WriteContentRequest {
            action: wire::WriteAction::Write.into(),
            offset: self.status.offset as i64,
            data,
            ..Default::default()
        };
        let answer = self.ask(request).await?;
        assert_eq!(answer.offset as u64, end);
        self.status.updated_at = std::time::SystemTime::now();
        Ok(())
    }

    fn status(&self) -> Status {
        self.status.clone()
    }

    fn digest(&self) -> Digest {
        self.digest.clone()
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if size == self.status.offset {
            return Ok(());
        }
        assert_eq!(size, 0, "the wire knows a cut to nothing only");
        let action = wire::WriteAction::Write.into();
        self.ask(wire::WriteContentRequest { action, offset: 0, ..Default::default() }).await.map(drop)
    }

    async fn commit(&mut self, size: u64, expected: Option<&Digest>, labels: Labels) -> Result<Digest> {
        let request = wire::WriteContentRequest {
            action: wire::WriteAction::Commit.into(),
            offset: self.status.offset as i64,
            total: size as i64,
            expected: expected.map(ToString::to_string).unwrap_or_default(),
            labels,
            ..Default::default()
        };
        self.ask(request).await?;
        Ok(self.digest.clone())
    }
}
