//! The calling end: one request at a time over one connection, which is all that ordered events need.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::frame::{self, Request, Response};

pub struct Client {
    stream: UnixStream,
    next: u32,
}

impl Client {
    pub async fn connect(path: &Path) -> io::Result<Client> {
        Ok(Client { stream: UnixStream::connect(path).await?, next: 1 })
    }

    /// Sends a request and waits for its answer. After an error the connection is of no more use.
    pub async fn call(
        &mut self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        limit: Duration,
    ) -> io::Result<Response> {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nanos: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
        };
        let stream = self.next;
        self.next = self.next.checked_add(2).ok_or_else(|| io::Error::other("stream ids are used up"))?;
        let exchange = async {
            let payload = request.encode().map_err(io::Error::other)?;
            self.stream.write_all(&frame::encode(stream, frame::REQUEST, &payload)).await?;
            loop {
                let Ok((header, payload)) = frame::read(&mut self.stream).await? else {
                    return Err(io::Error::other("answer is over the size limit"));
                };
                if header.stream == stream && header.kind == frame::RESPONSE {
                    return Response::decode(&payload).map_err(io::Error::other);
                }
            }
        };
        timeout(limit, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}
