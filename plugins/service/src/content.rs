//! `containerd.services.content.v1.Content`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};
use windlass_api::convert::time;
use windlass_api::services::content as wire;
use windlass_api::status;
use windlass_core::content::{Blob, Info, Status, Store, Writer, WriterOptions};
use windlass_core::{Context, Digest, Error, Result, kinds};

use crate::edge::{
    Answer, Stream, answer, context, database, detach, filters, finish, mask, required, serve, stream,
};

/// Bytes in one message of a read, and where many read at a time: each holds a message that its reader may never take.
const PIECE: usize = 1 << 20;
const SMALL_PIECE: usize = 64 << 10;
/// Reads at a time that get large messages, and at all.
const FEW_READS: usize = 32;
const MOST_READS: usize = 1024;
/// Infos in one message of a list.
const PAGE: usize = 100;

struct Edge {
    store: Arc<dyn Store>,
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn unsigned(what: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::invalid(format!("{what} {number} is negative")))
}

fn to_wire(info: Info) -> wire::Info {
    wire::Info {
        digest: info.digest.to_string(),
        size: signed(info.size),
        created_at: Some(time::to_wire(info.created_at)),
        updated_at: Some(time::to_wire(info.updated_at)),
        labels: info.labels,
    }
}

fn from_wire(info: wire::Info) -> Result<Info> {
    Ok(Info {
        digest: info.digest.parse()?,
        size: unsigned("content size", info.size)?,
        created_at: time::from_wire(info.created_at)?.unwrap_or_else(time::zero),
        updated_at: time::from_wire(info.updated_at)?.unwrap_or_else(time::zero),
        labels: info.labels,
    })
}

fn status_to_wire(status: Status) -> wire::Status {
    wire::Status {
        started_at: Some(time::to_wire(status.started_at)),
        updated_at: Some(time::to_wire(status.updated_at)),
        r#ref: status.reference,
        offset: signed(status.offset),
        total: signed(status.total),
        expected: status.expected.map(String::from).unwrap_or_default(),
    }
}

/// One read under way.
struct Turn;

static READS: AtomicUsize = AtomicUsize::new(0);

impl Turn {
    fn take() -> Result<Self> {
        let turn = Self;
        if READS.fetch_add(1, Ordering::Relaxed) >= MOST_READS {
            return Err(Error::exhausted(format!(
                "{MOST_READS} reads of content are under way; try again later"
            )));
        }
        Ok(turn)
    }

    fn piece(&self) -> u64 {
        if READS.load(Ordering::Relaxed) > FEW_READS { SMALL_PIECE as u64 } else { PIECE as u64 }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        READS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pieces of a blob from `offset`, `left` bytes of it.
fn pieces(
    blob: Arc<dyn Blob>,
    offset: u64,
    left: u64,
    turn: Turn,
) -> impl futures::Stream<Item = Result<wire::ReadContentResponse>> {
    futures::stream::try_unfold((blob, offset, left, turn), |(blob, offset, left, turn)| async move {
        if left == 0 {
            return Ok(None);
        }
        let data: Bytes = blob.read_at(offset, left.min(turn.piece()) as usize).await?;
        if data.is_empty() {
            return Err(Error::data_loss(format!("content ends at {offset}, {left} bytes early")));
        }
        let read = data.len() as u64;
        let message = wire::ReadContentResponse { offset: signed(offset), data };
        Ok(Some((message, (blob, offset + read, left - read, turn))))
    })
}

#[tonic::async_trait]
impl wire::content_server::Content for Edge {
    async fn info(&self, request: Request<wire::InfoRequest>) -> Answer<wire::InfoResponse> {
        let cx = context(&request)?;
        answer(
            async {
                let info = self.store.info(&cx, &request.into_inner().digest.parse()?).await?;
                Ok(wire::InfoResponse { info: Some(to_wire(info)) })
            }
            .await,
        )
    }

    async fn update(&self, request: Request<wire::UpdateRequest>) -> Answer<wire::UpdateResponse> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move {
            let request = request.into_inner();
            let info = from_wire(required("content info", request.info)?)?;
            let updated = store.update(&cx, info, &mask(request.update_mask)).await?;
            Ok(wire::UpdateResponse { info: Some(to_wire(updated)) })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<wire::ListContentRequest>,
    ) -> Answer<Stream<wire::ListContentResponse>> {
        let cx = context(&request)?;
        let filters = filters(&request.into_inner().filters).map_err(status::grpc)?;
        let (sender, pages) = mpsc::channel(2);
        let store = self.store.clone();
        tokio::spawn(async move {
            let mut found = store.list(&cx, &filters).chunks(PAGE);
            while let Some(page) = found.next().await {
                let page: Result<Vec<_>> = page.into_iter().map(|info| info.map(to_wire)).collect();
                // A client that has gone ends the walk.
                if sender.send(page.map(|info| wire::ListContentResponse { info })).await.is_err() {
                    return;
                }
            }
        });
        stream(ReceiverStream::new(pages))
    }

    async fn delete(&self, request: Request<wire::DeleteContentRequest>) -> Answer<()> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move { store.delete(&cx, &request.into_inner().digest.parse()?).await }).await
    }

    async fn read(
        &self,
        request: Request<wire::ReadContentRequest>,
    ) -> Answer<Stream<wire::ReadContentResponse>> {
        let cx = context(&request)?;
        let request = request.into_inner();
        let opened = async {
            let digest: Digest = request.digest.parse()?;
            let blob = self.store.reader(&cx, &digest).await?;
            let (size, offset) = (blob.size(), request.offset.max(0) as u64);
            if offset > size {
                return Err(Error::out_of_range(format!("read past object length {size} bytes")));
            }
            let wanted = u64::try_from(request.size).ok().filter(|n| *n > 0).unwrap_or(u64::MAX);
            Ok(pieces(blob, offset, wanted.min(size - offset), Turn::take()?))
        };
        stream(opened.await.map_err(status::grpc)?)
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Answer<wire::StatusResponse> {
        let cx = context(&request)?;
        let found = self.store.status(&cx, &request.into_inner().r#ref).await;
        answer(found.map(|s| wire::StatusResponse { status: Some(status_to_wire(s)) }))
    }

    async fn list_statuses(
        &self,
        request: Request<wire::ListStatusesRequest>,
    ) -> Answer<wire::ListStatusesResponse> {
        let cx = context(&request)?;
        answer(
            async {
                let all = self.store.list_statuses(&cx, &filters(&request.into_inner().filters)?).await?;
                Ok(wire::ListStatusesResponse { statuses: all.into_iter().map(status_to_wire).collect() })
            }
            .await,
        )
    }

    async fn write(
        &self,
        request: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Answer<Stream<wire::WriteContentResponse>> {
        let cx = context(&request)?;
        let mut requests = request.into_inner();
        let (sender, answers) = mpsc::channel(2);
        let store = self.store.clone();
        // A task of its own: a commit that has begun is finished also where the client has gone.
        detach(async move {
            let mut session = Session { cx, store, writer: None, total: 0, expected: None };
            loop {
                let request = match requests.message().await {
                    Ok(Some(request)) => request,
                    // The ingest stays and can be resumed.
                    Ok(None) | Err(_) => return,
                };
                let last = request.action() == wire::WriteAction::Commit;
                let answer = session.step(request).await;
                let last = last || answer.is_err();
                if last {
                    // The writer's lock is free before the client reads the answer.
                    session.writer = None;
                }
                if sender.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        stream(ReceiverStream::new(answers))
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Answer<()> {
        let (cx, store) = (context(&request)?, self.store.clone());
        finish(async move { store.abort(&cx, &request.into_inner().r#ref).await }).await
    }
}

/// One write stream: it names its ingest first, then writes, asks and commits.
struct Session {
    cx: Context,
    store: Arc<dyn Store>,
    writer: Option<Box<dyn Writer>>,
    total: u64,
    expected: Option<Digest>,
}

impl Session {
    async fn step(&mut self, request: wire::WriteContentRequest) -> Result<wire::WriteContentResponse> {
        let first = self.writer.is_none();
        self.expect(&request, first).await?;
        if first {
            if request.r#ref.is_empty() {
                return Err(Error::invalid("first message must have a reference"));
            }
            let options = WriterOptions {
                reference: request.r#ref.clone(),
                total: self.total,
                expected: self.expected.clone(),
                ..WriterOptions::default()
            };
            self.writer = Some(self.store.writer(&self.cx, options).await?);
        }
        let writer = self.writer.as_mut().expect("the first message opened the writer");
        let before = writer.status();
        let mut response = wire::WriteContentResponse { action: request.action, ..Default::default() };
        let mut offset = before.offset;
        match request.action() {
            wire::WriteAction::Stat => {
                response.started_at = Some(time::to_wire(before.started_at));
                response.updated_at = Some(time::to_wire(before.updated_at));
                response.total = signed(self.total);
            }
            wire::WriteAction::Write | wire::WriteAction::Commit => {
                let at = unsigned("write offset", request.offset)?;
                if at > 0 && at != offset {
                    let why = format!("write @{at} must occur at current offset {offset}");
                    return Err(Error::out_of_range(why));
                }
                if at == 0 && offset > 0 {
                    writer.truncate(0).await?;
                    offset = 0;
                }
                if !request.data.is_empty() {
                    offset += request.data.len() as u64;
                    writer.write(request.data).await?;
                }
                if response.action() == wire::WriteAction::Commit {
                    let digest = writer.commit(self.total, self.expected.as_ref(), request.labels).await?;
                    response.offset = signed(offset);
                    response.digest = digest.to_string();
                    return Ok(response);
                }
            }
        }
        response.offset = signed(offset);
        response.digest = writer.digest().to_string();
        Ok(response)
    }

    /// Takes what the request says it expects. Content that is there already ends a later step: the ingest goes.
    async fn expect(&mut self, request: &wire::WriteContentRequest, first: bool) -> Result<()> {
        if request.total > 0 {
            self.total = unsigned("total", request.total)?;
        }
        if request.expected.is_empty() {
            return Ok(());
        }
        let digest: Digest = request.expected.parse()?;
        if !first && self.store.info(&self.cx, &digest).await.is_ok() {
            if let Some(writer) = self.writer.take() {
                let reference = writer.status().reference;
                drop(writer);
                self.store.abort(&self.cx, &reference).await?;
            }
            return Err(Error::exists(format!("blob with expected digest {digest} exists")));
        }
        self.expected = Some(digest);
        Ok(())
    }
}

serve!(Content, "content", wire::content_server::ContentServer, [kinds::Metadata], |ctx| {
    Ok(Edge { store: database(ctx)?.content() })
});
