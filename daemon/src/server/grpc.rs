//! The gRPC server: HTTP/2 straight on the socket.
//!
//! Every limit that a client can lean on is set here. What a peer may hold: a connection one of a bounded number of places,
//! a stream one of a bounded number per connection, an answer no more than the send buffer beyond the window that its
//! reader opened.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};
use tower_service::Service as _;

use super::body::Watched;
use super::call::Call;
use super::{Door, tls};
use crate::metrics::Metrics;

/// RPCs of one connection at a time. A client that waits for each of its containers over one connection needs one each.
const MAX_STREAMS: u32 = 8192;
/// What a client may send before the service has taken it, per RPC and per connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What an RPC's answer may hold in memory beyond what its reader has room for.
const SEND_BUFFER: usize = 256 << 10;
const HEADERS: u32 = 64 << 10;
/// RPCs that are being answered when the daemon stops have this long.
const GRACE: Duration = Duration::from_millis(1500);
/// A TCP peer that has gone without a word is found out.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Everything that a connection needs.
#[derive(Clone)]
pub struct Server {
    pub routes: Routes,
    pub metrics: Option<Arc<Metrics>>,
    /// Set when the daemon stops: nobody is let in, streams end.
    pub stop: CancellationToken,
    /// Set when those who are still there are cut off.
    pub cut: CancellationToken,
    pub connections: TaskTracker,
    begun: Arc<AtomicU64>,
}

impl Server {
    pub fn new(routes: Routes, metrics: Option<Arc<Metrics>>) -> Self {
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        Self {
            routes: routes.prepare(),
            metrics,
            stop,
            cut,
            connections: TaskTracker::new(),
            begun: Arc::default(),
        }
    }

    /// Calls begun since the start.
    pub fn calls(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Serves a unix socket until the daemon stops.
    pub async fn unix(self, door: Door) {
        loop {
            let (stream, place) = tokio::select! {
                next = door.next() => next,
                () = self.stop.cancelled() => return,
            };
            let info = tonic::transport::server::Connected::connect_info(&stream);
            let server = self.clone();
            self.connections.spawn(async move {
                server.connection(TokioIo::new(stream), Peer::Unix(info)).await;
                drop(place);
            });
        }
    }

    /// Serves TCP until the daemon stops.
    pub async fn tcp(self, listener: tokio::net::TcpListener, tls: Option<tls::Acceptor>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a TCP connection could not be accepted");
                    tokio::time::sleep(super::BACK_OFF).await;
                    continue;
                }
            };
            let info = tonic::transport::server::Connected::connect_info(&stream);
            let (server, tls) = (self.clone(), tls.clone());
            self.connections.spawn(async move {
                match tls {
                    None => server.connection(TokioIo::new(stream), Peer::Tcp(info)).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => server.connection(TokioIo::new(stream), Peer::Tcp(info)).await,
                        Err(error) => tracing::debug!(%error, "TLS handshake failed"),
                    },
                }
            });
        }
    }

    async fn connection<I: Read + Write + Unpin + Send + 'static>(self, io: I, peer: Peer) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADERS);
        if matches!(peer, Peer::Tcp(_)) {
            builder.keep_alive_interval(KEEP_ALIVE);
        }
        if let Some(metrics) = &self.metrics {
            metrics.connected();
        }
        let (stop, cut, metrics) = (self.stop.clone(), self.cut.clone(), self.metrics.clone());
        let mut connection = pin!(builder.serve_connection(io, Session { server: self, peer }));
        let mut stopping = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    break;
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = cut.cancelled() => break,
            }
        }
        if let Some(metrics) = metrics {
            metrics.disconnected();
        }
    }

    /// Ends streams, lets calls that are under way finish for a moment, and closes every connection.
    pub async fn drain(&self) {
        self.stop.cancel();
        self.connections.close();
        if tokio::time::timeout(GRACE, self.connections.wait()).await.is_err() {
            self.cut.cancel();
            self.connections.wait().await;
        }
    }
}

#[derive(Clone)]
enum Peer {
    Unix(UdsConnectInfo),
    Tcp(TcpConnectInfo),
}

/// One connection's way to the services.
#[derive(Clone)]
struct Session {
    server: Server,
    peer: Peer,
}

impl hyper::service::Service<Request<Incoming>> for Session {
    type Response = Response<Watched>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        match &self.peer {
            Peer::Unix(info) => request.extensions_mut().insert(info.clone()).map(drop),
            Peer::Tcp(info) => request.extensions_mut().insert(info.clone()).map(drop),
        };
        self.server.begun.fetch_add(1, Ordering::Relaxed);
        let mut call = Call::begin(request.uri().path(), request.headers(), self.server.metrics.clone());
        let mut routes = self.server.routes.clone();
        let stop = self.server.stop.clone();
        let answer = routes.call(request);
        Box::pin(async move {
            let response = answer.await.unwrap_or_else(|never| match never {});
            call.see(response.headers());
            Ok(response.map(|body| Watched::new(body, stop, call)))
        })
    }
}
