//! Bytes and questions over a client's stream: containerd's windows of credit, and its auth messages.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::{Message, Name};
use tokio::sync::Mutex;
use windlass_api::convert::{any, time};
use windlass_api::transfer as wire;
use windlass_core::stream::Stream;
use windlass_core::transfer::{AuthRequest, Authenticator, ByteSink, ByteSource, Credentials};
use windlass_core::{Any, Error, Result};

/// Largest piece of data in one message, and the credit that a receiver gives: containerd's numbers.
const PIECE: usize = 32 << 10;
const WINDOW: i64 = 2 * PIECE as i64;
/// How long a person may take to answer for credentials.
const ANSWER: Duration = Duration::from_secs(300);

fn decode<M: Message + Name + Default>(message: &Any) -> Result<Option<M>> {
    if any::name(&message.type_url) != M::full_name() {
        return Ok(None);
    }
    M::decode(message.value.clone())
        .map(Some)
        .map_err(|source| Error::invalid(M::full_name()).with_source(source))
}

/// Bytes from the client.
pub struct Receiver {
    stream: Arc<dyn Stream>,
    credit: i64,
}

impl Receiver {
    pub fn new(stream: Arc<dyn Stream>) -> Self {
        Self { stream, credit: 0 }
    }
}

#[async_trait]
impl ByteSource for Receiver {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.credit < WINDOW {
                self.credit += WINDOW;
                // The client may have sent all it has and gone: what it sent counts.
                let _ = self.stream.send(any::pack(&wire::WindowUpdate { update: WINDOW as i32 })).await;
            }
            let Some(message) = self.stream.receive().await? else { return Ok(None) };
            if let Some(data) = decode::<wire::Data>(&message)? {
                self.credit -= data.data.len() as i64;
                return Ok(Some(data.data));
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // The client's side ends when ours does.
        let stream = self.stream.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { stream.close().await });
        }
    }
}

/// Bytes to the client.
pub struct Sender {
    stream: Arc<dyn Stream>,
    credit: i64,
}

impl Sender {
    pub fn new(stream: Arc<dyn Stream>) -> Self {
        Self { stream, credit: 0 }
    }
}

#[async_trait]
impl ByteSink for Sender {
    async fn send(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            while self.credit <= 0 {
                let message = self.stream.receive().await?;
                let message =
                    message.ok_or_else(|| Error::canceled("the client stopped reading the archive"))?;
                if let Some(update) = decode::<wire::WindowUpdate>(&message)? {
                    self.credit += i64::from(update.update.max(0));
                }
            }
            let piece = data.split_to(data.len().min(PIECE).min(self.credit as usize));
            self.credit -= piece.len() as i64;
            self.stream.send(any::pack(&wire::Data { data: piece })).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        self.stream.close().await;
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let stream = self.stream.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { stream.close().await });
        }
    }
}

/// Asks the client for credentials, one question at a time.
pub struct Asker {
    stream: Arc<dyn Stream>,
    turn: Mutex<()>,
}

impl Asker {
    pub fn new(stream: Arc<dyn Stream>) -> Self {
        Self { stream, turn: Mutex::new(()) }
    }
}

fn credentials(response: wire::AuthResponse) -> Result<Credentials> {
    Ok(match response.auth_type() {
        wire::AuthType::None => Credentials::None,
        wire::AuthType::Credentials => {
            Credentials::Basic { username: response.username, secret: response.secret }
        }
        wire::AuthType::Refresh => Credentials::Refresh { secret: response.secret },
        wire::AuthType::Header => {
            Credentials::Header { value: response.secret, expire_at: time::from_wire(response.expire_at)? }
        }
    })
}

#[async_trait]
impl Authenticator for Asker {
    async fn credentials(&self, request: AuthRequest) -> Result<Credentials> {
        let _turn = self.turn.lock().await;
        let question = wire::AuthRequest {
            host: request.host,
            reference: request.reference,
            wwwauthenticate: request.www_authenticate,
        };
        self.stream.send(any::pack(&question)).await?;
        let answer = tokio::time::timeout(ANSWER, self.stream.receive()).await;
        let answer = answer.map_err(|_| Error::deadline("the client does not answer for credentials"))??;
        let answer = answer.ok_or_else(|| Error::canceled("the client closed the stream for credentials"))?;
        let response = decode::<wire::AuthResponse>(&answer)?;
        credentials(
            response.ok_or_else(|| Error::invalid(format!("{:?} is no auth response", answer.type_url)))?,
        )
    }
}
