//! The serving end: one task per connection, one per request.
//!
//! A request is worked on to its end even when its client goes away, except where a service says that it only waits.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::frame::{self, Request, Response, Status};
use crate::error::{Code, Result};
use crate::log;

/// Requests of one connection that may be in progress; a client over it is told so.
const IN_FLIGHT: usize = 4096;

/// How long a client may leave an answer unread before it is cut off.
const STALLED: Duration = Duration::from_secs(60);

/// A request as a service sees it.
pub struct Call {
    pub service: String,
    pub method: String,
    pub payload: Vec<u8>,
}

/// What is served on a socket.
pub trait Serve: 'static {
    /// Whether this service exists; if not, the answer is UNIMPLEMENTED.
    fn knows(&self, service: &str) -> bool;
    /// Whether the call only waits, so that it ends with its client.
    fn waits(&self, method: &str) -> bool;
    /// Answers one call. `None`: there is no such method.
    fn call(self: Rc<Self>, call: Call) -> impl Future<Output = Option<Result<Vec<u8>>>>;
    /// Nobody has been connected for a while.
    fn left_alone(&self);
}

/// Accepts until `stop` turns true, then returns; connections end with the process. The service is told each time that
/// nobody was connected for as long as `patience`.
pub async fn serve<S: Serve>(
    listener: UnixListener,
    service: Rc<S>,
    mut stop: watch::Receiver<bool>,
    patience: Duration,
) {
    let user = rustix::process::geteuid();
    let gone = Rc::new(Notify::new());
    loop {
        let alone = Rc::strong_count(&gone) == 1;
        let stream = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = gone.notified() => continue,
            () = tokio::time::sleep(patience), if alone => {
                service.left_alone();
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::error!("accept: {error}");
                    // Out of descriptors: give running requests the time to free some.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        match socket_peercred(&stream) {
            Ok(peer) if peer.uid == user => {}
            _ => {
                log::warning!("refused a client of another user");
                continue;
            }
        }
        let (read, write) = stream.into_split();
        let connection = Rc::new(Connection {
            write: Mutex::new(Some(write)),
            closed: Notify::new(),
            gone: Cell::new(false),
            in_flight: Cell::new(0),
        });
        let (service, gone) = (Rc::clone(&service), Rc::clone(&gone));
        spawn_local(async move {
            connection.run(read, service).await;
            gone.notify_one();
        });
    }
}

struct Connection {
    write: Mutex<Option<OwnedWriteHalf>>,
    closed: Notify,
    gone: Cell<bool>,
    in_flight: Cell<usize>,
}

impl Connection {
    async fn run<S: Serve>(self: Rc<Self>, mut read: OwnedReadHalf, service: Rc<S>) {
        let mut last = 0;
        loop {
            let (header, payload) = match frame::read(&mut read).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(header)) => {
                    let text = format!(
                        "message length {} exceed maximum message size of {}",
                        header.length,
                        frame::LIMIT
                    );
                    self.fail(header.stream, Code::ResourceExhausted, text).await;
                    continue;
                }
                Err(_) => break,
            };
            // Streams other than plain requests are not part of any service here.
            if header.kind != frame::REQUEST {
                continue;
            }
            if header.stream.is_multiple_of(2) {
                self.fail(
                    header.stream,
                    Code::InvalidArgument,
                    "StreamID must be odd for client initiated streams".into(),
                )
                .await;
                continue;
            }
            if header.stream <= last {
                self.fail(
                    header.stream,
                    Code::InvalidArgument,
                    "StreamID cannot be re-used and must increment".into(),
                )
                .await;
                continue;
            }
            last = header.stream;
            match Request::decode(&payload) {
                Ok(request) if self.in_flight.get() < IN_FLIGHT => {
                    self.in_flight.set(self.in_flight.get() + 1);
                    spawn_local(Rc::clone(&self).answer(header.stream, request, Rc::clone(&service)));
                }
                Ok(_) => {
                    self.fail(header.stream, Code::ResourceExhausted, "too many requests in progress".into())
                        .await
                }
                Err(error) => {
                    self.fail(
                        header.stream,
                        Code::InvalidArgument,
                        format!("unmarshal request error: {error}"),
                    )
                    .await;
                }
            }
        }
        self.close().await;
    }

    async fn answer<S: Serve>(self: Rc<Self>, stream: u32, request: Request, service: Rc<S>) {
        let Request { service: name, method, payload, timeout_nanos } = request;
        if !service.knows(&name) {
            self.in_flight.set(self.in_flight.get() - 1);
            return self.fail(stream, Code::Unimplemented, format!("service {name}")).await;
        }
        let unknown = format!("method {method}");
        let waits = service.waits(&method);
        let call = service.call(Call { service: name, method, payload });
        let result = if waits {
            let limit = match u64::try_from(timeout_nanos) {
                Ok(nanos) if nanos > 0 => Duration::from_nanos(nanos),
                _ => Duration::from_secs(u64::from(u32::MAX)),
            };
            let closed = self.closed.notified();
            tokio::select! {
                result = call => Some(result),
                () = closed => None,
                () = tokio::time::sleep(limit) => None,
            }
        } else {
            Some(call.await)
        };
        self.in_flight.set(self.in_flight.get() - 1);
        let response = match result {
            Some(Some(Ok(payload))) => Response { status: None, payload },
            Some(Some(Err(error))) => Response { status: Some(Status::from(&error)), payload: Vec::new() },
            Some(None) => {
                Response { status: Some(Status::bare(Code::Unimplemented, unknown)), payload: Vec::new() }
            }
            None => {
                let status = Status::bare(Code::DeadlineExceeded, "context deadline exceeded".into());
                Response { status: Some(status), payload: Vec::new() }
            }
        };
        self.send(stream, &response).await;
    }

    async fn fail(&self, stream: u32, code: Code, message: String) {
        let status = Some(Status::bare(code, message));
        self.send(stream, &Response { status, payload: Vec::new() }).await;
    }

    async fn send(&self, stream: u32, response: &Response) {
        if self.gone.get() {
            return;
        }
        let Ok(mut payload) = response.encode() else { return };
        if payload.len() > frame::LIMIT {
            let status = Status::bare(
                Code::ResourceExhausted,
                format!("message length {} exceeds the limit", payload.len()),
            );
            payload = Response { status: Some(status), payload: Vec::new() }.encode().unwrap_or_default();
        }
        let frame = frame::encode(stream, frame::RESPONSE, &payload);
        let mut write = self.write.lock().await;
        let Some(half) = write.as_mut() else { return };
        if !matches!(timeout(STALLED, half.write_all(&frame)).await, Ok(Ok(()))) {
            *write = None;
            self.gone.set(true);
            self.closed.notify_waiters();
        }
    }

    async fn close(&self) {
        self.gone.set(true);
        self.closed.notify_waiters();
        // A writer that is stuck gives the lock back at once: its peer has closed.
        *self.write.lock().await = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::serve::on_loop;

    struct Nothing(mpsc::UnboundedSender<()>);

    impl Serve for Nothing {
        fn knows(&self, _: &str) -> bool {
            false
        }

        fn waits(&self, _: &str) -> bool {
            false
        }

        async fn call(self: Rc<Self>, _: Call) -> Option<Result<Vec<u8>>> {
            None
        }

        fn left_alone(&self) {
            let _ = self.0.send(());
        }
    }

    #[test]
    fn who_has_no_client_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        on_loop(async move {
            let listener = UnixListener::bind(&path).unwrap();
            let (told, mut alone) = mpsc::unbounded_channel();
            let (_stop, stopped) = watch::channel(false);
            let patience = Duration::from_millis(50);
            spawn_local(serve(listener, Rc::new(Nothing(told)), stopped, patience));
            alone.recv().await.unwrap();

            let client = UnixStream::connect(&path).await.unwrap();
            while alone.try_recv().is_ok() {}
            timeout(10 * patience, alone.recv()).await.unwrap_err();
            drop(client);
            alone.recv().await.unwrap();
            Ok(())
        })
        .unwrap();
    }
}
