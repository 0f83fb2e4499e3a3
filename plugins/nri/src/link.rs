//! A connection to one plugin: ttrpc in both directions over one socket.
//!
//! Two tasks, one that reads and one that writes; both end with the connection, and so does every call that waits. It
//! knows no message of NRI's, and it never restarts.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use protobuf::{EnumOrUnknown, Message as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use ttrpc::proto::{FLAG_REMOTE_CLOSED, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Request, Response};
use windlass_api::status;
use windlass_core::Error as Status;

use crate::error::{Error, Result};
use crate::frame::{self, Assembler, HEADER, Message, PLUGIN, RUNTIME};

/// Messages that wait to be written.
const QUEUE: usize = 8;
/// Calls of the plugin's that are served at a time; one more is *resource exhausted*.
const SERVED: usize = 8;
/// How much is read at once.
const CHUNK: usize = 4096;

/// What the plugin may call.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers a call. A method that there is not is *unimplemented*.
    async fn serve(&self, service: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>, Status>;
}

/// Ends when dropped.
pub struct Link {
    shared: Arc<Shared>,
    _end: DropGuard,
}

struct Shared {
    out: mpsc::Sender<Vec<u8>>,
    /// Calls that wait for their answer, by stream; none once the connection has ended.
    waiting: Mutex<Option<HashMap<u32, oneshot::Sender<Vec<u8>>>>>,
    stream: AtomicU32,
    end: CancellationToken,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u32, oneshot::Sender<Vec<u8>>>>> {
        self.waiting.lock().expect("the list of calls is changed without panics")
    }
}

/// Forgets a call that is not waited for any more.
struct Waiting<'a>(&'a Shared, u32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.waiting().as_mut() {
            waiting.remove(&self.1);
        }
    }
}

// === impl Link ===

impl Link {
    /// Speaks over `stream`, inside a tokio runtime.
    pub fn start(stream: UnixStream, service: Arc<dyn Service>) -> Self {
        let (read, write) = stream.into_split();
        let (out, queue) = mpsc::channel(QUEUE);
        let end = CancellationToken::new();
        let shared = Arc::new(Shared {
            out,
            waiting: Mutex::new(Some(HashMap::new())),
            stream: AtomicU32::new(1),
            end: end.clone(),
        });
        tokio::spawn(writer(write, queue, end.clone()));
        tokio::spawn(reader(read, shared.clone(), service));
        Self { shared, _end: end.drop_guard() }
    }

    /// Calls a method of the plugin's and waits for its answer for as long as `limit`.
    pub async fn call(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>> {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
            ..Request::default()
        };
        let bytes = request.write_to_bytes().map_err(|e| Error::Protocol(e.to_string()))?;
        let stream = self.shared.stream.fetch_add(2, Ordering::Relaxed);
        let frames = frame::encode(PLUGIN, stream, MESSAGE_TYPE_REQUEST, FLAG_REMOTE_CLOSED, &bytes)?;
        let (answer, answered) = oneshot::channel();
        self.shared.waiting().as_mut().ok_or(Error::Closed)?.insert(stream, answer);
        let _waiting = Waiting(&self.shared, stream);
        let exchange = async {
            self.shared.out.send(frames).await.map_err(|_| Error::Closed)?;
            answered.await.map_err(|_| Error::Closed)
        };
        let payload = tokio::time::timeout(limit, exchange).await.map_err(|_| Error::Elapsed(limit))??;
        let response = Response::parse_from_bytes(&payload)
            .map_err(|e| Error::Protocol(format!("answer to {method}: {e}")))?;
        match response.status.as_ref() {
            Some(status) if status.code.value() != 0 => {
                let class = status::class(status.code.value());
                Err(Error::Answer(Status::new(class, status.message.clone())))
            }
            _ => Ok(response.payload),
        }
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.shared.end.cancel();
    }

    /// Is done when the connection has ended.
    pub fn ended(&self) -> CancellationToken {
        self.shared.end.clone()
    }
}

async fn writer(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>, end: CancellationToken) {
    let write = async {
        while let Some(frames) = queue.recv().await {
            socket.write_all(&frames).await?;
        }
        Ok::<_, io::Error>(())
    };
    let result = end.run_until_cancelled(write).await;
    if let Some(Err(error)) = result {
        tracing::debug!(%error, "write to plugin");
    }
    end.cancel();
}

async fn reader(mut socket: OwnedReadHalf, shared: Arc<Shared>, service: Arc<dyn Service>) {
    let served = Arc::new(Semaphore::new(SERVED));
    let read = read(&mut socket, &shared, &service, &served);
    match shared.end.clone().run_until_cancelled(read).await {
        Some(Err(Error::Closed)) | None => {}
        Some(Err(error)) => tracing::warn!(%error, "connection to plugin"),
        Some(Ok(())) => {}
    }
    // Whoever waits sees its sender dropped.
    shared.waiting().take();
    shared.end.cancel();
}

async fn read(
    socket: &mut OwnedReadHalf,
    shared: &Arc<Shared>,
    service: &Arc<dyn Service>,
    served: &Arc<Semaphore>,
) -> Result<()> {
    let gone = |_: io::Error| Error::Closed;
    let (mut answers, mut requests) = (Assembler::default(), Assembler::default());
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut head = [0; HEADER];
        socket.read_exact(&mut head).await.map_err(gone)?;
        let (connection, mut left) = frame::header(head)?;
        while left > 0 {
            let want = left.min(CHUNK);
            let got = socket.read(&mut chunk[..want]).await.map_err(gone)?;
            if got == 0 {
                return Err(Error::Closed);
            }
            left -= got;
            match connection {
                PLUGIN => answers.push(&chunk[..got], |message| answered(shared, message))?,
                RUNTIME => {
                    requests.push(&chunk[..got], |message| requested(shared, service, served, message))?
                }
                // A connection that nobody has opened.
                _ => {}
            }
        }
    }
}

fn answered(shared: &Shared, message: Message) -> Result<()> {
    if message.kind != MESSAGE_TYPE_RESPONSE {
        return Err(Error::Protocol(format!("message of type {} in an answer's place", message.kind)));
    }
    // One that nobody waits for is an answer that came too late.
    let waiting = shared.waiting().as_mut().and_then(|waiting| waiting.remove(&message.stream));
    if let Some(waiting) = waiting {
        let _ = waiting.send(message.payload);
    }
    Ok(())
}

fn requested(
    shared: &Arc<Shared>,
    service: &Arc<dyn Service>,
    served: &Arc<Semaphore>,
    message: Message,
) -> Result<()> {
    if message.kind != MESSAGE_TYPE_REQUEST {
        return Err(Error::Protocol(format!("message of type {} in a request's place", message.kind)));
    }
    let Ok(permit) = served.clone().try_acquire_owned() else {
        // Nothing here may wait: it would hold up the answers that follow.
        let refusal = Status::exhausted(format!("more than {SERVED} calls at a time"));
        let _ = shared.out.try_send(response(message.stream, Err(refusal))?);
        return Ok(());
    };
    let (shared, service) = (shared.clone(), service.clone());
    // What a call has begun is finished although the connection ends.
    tokio::spawn(async move {
        let _permit = permit;
        let answer = match Request::parse_from_bytes(&message.payload) {
            Ok(request) => service.serve(&request.service, &request.method, &request.payload).await,
            Err(error) => Err(Status::invalid(format!("request cannot be read: {error}"))),
        };
        if let Ok(frames) = response(message.stream, answer) {
            let _ = shared.end.run_until_cancelled(shared.out.send(frames)).await;
        }
    });
    Ok(())
}

fn response(stream: u32, answer: Result<Vec<u8>, Status>) -> Result<Vec<u8>> {
    let mut response = Response::new();
    match answer {
        Ok(payload) => response.payload = payload,
        Err(error) => {
            let mut status = ttrpc::Status::new();
            status.code = EnumOrUnknown::from_i32(status::code(error.class()));
            status.message = status::text(&error);
            response.status = Some(status).into();
        }
    }
    let bytes = response.write_to_bytes().map_err(|e| Error::Protocol(e.to_string()))?;
    frame::encode(RUNTIME, stream, MESSAGE_TYPE_RESPONSE, 0, &bytes)
}
