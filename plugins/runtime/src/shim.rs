//! The calls to a shim: task API version 3, or 2 where the shim is older. The messages of both are the same bytes.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use protobuf::Message;
use ttrpc::asynchronous::Client;
use windlass_api::{scope, status};
use windlass_core::Class;

use crate::bootstrap::Endpoint;
use crate::error::{Error, Result};

/// Largest frame of ttrpc.
const MAX_FRAME: usize = 4 << 20;

pub struct Shim {
    pub endpoint: Endpoint,
    namespace: String,
    client: Mutex<Option<Client>>,
    version: AtomicI32,
    /// Whether the shim has understood its version once.
    settled: AtomicBool,
    /// Held while a request is numbered and queued.
    turn: Mutex<()>,
}

impl Shim {
    pub fn new(endpoint: Endpoint, namespace: &str) -> Self {
        let version = AtomicI32::new(endpoint.version);
        let namespace = namespace.to_owned();
        Self {
            endpoint,
            namespace,
            client: Mutex::new(None),
            version,
            settled: AtomicBool::new(false),
            turn: Mutex::new(()),
        }
    }

    /// Puts a connection in place of the one before.
    pub fn attach(&self, client: Client) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }

    /// Ends the connection once the calls over it have ended.
    pub fn detach(&self) {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Calls a method of the task service. Without a limit it waits as long as the connection lives.
    pub async fn call<R: Message>(
        &self,
        method: &str,
        request: &impl Message,
        limit: Option<Duration>,
    ) -> Result<R> {
        let payload = request.write_to_bytes().map_err(|e| windlass_core::Error::internal(e.to_string()))?;
        if payload.len() > MAX_FRAME {
            return Err(windlass_core::Error::exhausted(format!(
                "message of {} bytes to the shim: at most {MAX_FRAME}",
                payload.len()
            ))
            .into());
        }
        let version = self.version.load(Ordering::Relaxed);
        let answer = self.request(version, method, payload.clone(), limit).await;
        let answer = match answer {
            // A shim that an older daemon started may answer in the name of a newer binary.
            Err(error)
                if version > 2 && error.is(Class::Unimplemented) && !self.settled.load(Ordering::Relaxed) =>
            {
                let answer = self.request(version - 1, method, payload, limit).await;
                if !answer.as_ref().is_err_and(|e| e.is(Class::Unimplemented) || e.is_closed()) {
                    self.version.store(version - 1, Ordering::Relaxed);
                }
                answer
            }
            answer => answer,
        };
        let payload = answer?;
        self.settled.store(true, Ordering::Relaxed);
        R::parse_from_bytes(&payload).map_err(|e| {
            windlass_core::Error::internal(format!("read the shim's answer to {method}"))
                .with_source(e)
                .into()
        })
    }

    async fn request(
        &self,
        version: i32,
        method: &str,
        payload: Vec<u8>,
        limit: Option<Duration>,
    ) -> Result<Vec<u8>> {
        let client =
            self.client.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Error::Closed)?;
        let header = |key: &str| ttrpc::proto::KeyValue {
            key: key.to_owned(),
            value: self.namespace.clone(),
            ..Default::default()
        };
        let mut request = ttrpc::Request::new();
        request.service = format!("containerd.task.v{version}.Task");
        request.method = method.to_owned();
        request.payload = payload;
        request.timeout_nano = limit.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
        request.metadata = vec![header(scope::NAMESPACE_TTRPC), header(scope::NAMESPACE)];
        let mut call = std::pin::pin!(client.request(request));
        // The first poll numbers the request and queues it. Shims in Go refuse numbers that do not rise, so no other
        // request may come between.
        let first = std::future::poll_fn(|cx| {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            Poll::Ready(call.as_mut().poll(cx))
        });
        let answer = match first.await {
            Poll::Ready(answer) => answer,
            Poll::Pending => call.await,
        };
        match answer {
            Ok(response) => Ok(response.payload),
            Err(error) => Err(failure(error, method, limit)),
        }
    }
}

fn failure(error: ttrpc::Error, method: &str, limit: Option<Duration>) -> Error {
    use ttrpc::Error as E;
    match &error {
        E::Socket(_) | E::LocalClosed | E::RemoteClosed | E::Eof => return Error::Closed,
        // What the client says where its writer has ended.
        E::Others(said) if said.contains("channel") => return Error::Closed,
        _ => {}
    }
    let answered = matches!(error, E::RpcStatus(_));
    let error = status::from_ttrpc(error);
    if !answered && error.is(Class::DeadlineExceeded) {
        let limit = limit.unwrap_or_default();
        let said = format!("the shim did not answer {method} within {limit:?}: context deadline exceeded");
        return windlass_core::Error::deadline(said).into();
    }
    error.into()
}
