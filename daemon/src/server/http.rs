//! Metrics and the debug endpoint: plain HTTP/1.1 GET, on a unix socket or TCP.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Admission, Door};
use crate::config::Endpoint;

/// Connections at a time, for scrapers and people.
const MAX_CONNECTIONS: usize = 64;
const HEADERS: Duration = Duration::from_secs(10);

/// Makes the answers: path to content type and body, `None` for a path that is not there.
pub type Pages = Arc<dyn Fn(&str) -> Option<(&'static str, String)> + Send + Sync>;

/// Where to listen.
pub enum Place {
    Unix(Endpoint),
    Tcp(String),
}

impl Place {
    pub fn new(address: &str, owner: (Option<u32>, Option<u32>)) -> Self {
        let bare = address.strip_prefix("unix://").unwrap_or(address);
        if bare.starts_with('/') {
            Self::Unix(Endpoint { path: bare.into(), uid: owner.0, gid: owner.1 })
        } else {
            // Go writes `:1338` for all addresses.
            Self::Tcp(if bare.starts_with(':') { format!("0.0.0.0{bare}") } else { bare.to_owned() })
        }
    }
}

/// Listens and serves in the background until `stop`.
pub async fn start(place: Place, pages: Pages, stop: CancellationToken) -> Result<()> {
    match place {
        Place::Unix(endpoint) => {
            let listener = crate::socket::bind(&endpoint)?;
            let door = Door::new(listener, Admission::ByMode).context("listen")?;
            tokio::spawn(async move {
                loop {
                    let (stream, held) = tokio::select! {
                        next = door.next() => next,
                        () = stop.cancelled() => break,
                    };
                    let (pages, stop) = (pages.clone(), stop.clone());
                    tokio::spawn(async move {
                        connection(TokioIo::new(stream), pages, stop).await;
                        drop(held);
                    });
                }
                drop(std::fs::remove_file(&endpoint.path));
            });
        }
        Place::Tcp(address) => {
            let listener = tokio::net::TcpListener::bind(&address).await;
            let listener = listener.with_context(|| format!("listen on {address}"))?;
            let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            tokio::spawn(async move {
                loop {
                    let held = places.clone().acquire_owned().await.expect("the semaphore is never closed");
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        () = stop.cancelled() => break,
                    };
                    let Ok((stream, _)) = accepted else {
                        tokio::time::sleep(super::BACK_OFF).await;
                        continue;
                    };
                    let (pages, stop) = (pages.clone(), stop.clone());
                    tokio::spawn(async move {
                        connection(TokioIo::new(stream), pages, stop).await;
                        drop(held);
                    });
                }
            });
        }
    }
    Ok(())
}

async fn connection<I: Read + Write + Unpin + Send + 'static>(io: I, pages: Pages, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &pages);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(16 << 10);
    tokio::select! {
        result = builder.serve_connection(io, service) => {
            if let Err(error) = result {
                tracing::debug!(%error, "metrics or debug connection ended");
            }
        }
        () = stop.cancelled() => {}
    }
}

fn answer(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    let plain = |status, text: &str| {
        let mut response = Response::new(Full::from(text.to_owned()));
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is known here\n");
    }
    let Some((kind, text)) = pages(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND, "nothing is here\n");
    };
    let mut response = plain(StatusCode::OK, &text);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
