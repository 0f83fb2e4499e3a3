//! Requests and their upgrades: a token is looked up, a protocol agreed, and the connection handed to its driver.
//! Nothing is read from a request but its head.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::Broken;
use crate::forward::{Forward, MAX_PORTS};
use crate::mux::{Goodbye, Mux};
use crate::remote::{self, Job, Session, Version};
use crate::server::Shared;
use crate::socket::Socket;
use crate::token;
use crate::websocket::{self, Codec};

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

const REMOTE_SPDY: &[(&str, Version)] = &[
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
];
const REMOTE_WEBSOCKET: &[(&str, (Version, Codec))] = &[
    ("v5.channel.k8s.io", (Version::V5, Codec::Binary)),
    ("v4.channel.k8s.io", (Version::V4, Codec::Binary)),
    ("v3.channel.k8s.io", (Version::V3, Codec::Binary)),
    ("v2.channel.k8s.io", (Version::V2, Codec::Binary)),
    ("channel.k8s.io", (Version::V1, Codec::Binary)),
    ("v4.base64.channel.k8s.io", (Version::V4, Codec::Base64)),
    ("base64.channel.k8s.io", (Version::V1, Codec::Base64)),
];
const FORWARD_SPDY: &[(&str, ())] = &[("portforward.k8s.io", ())];
const FORWARD_WEBSOCKET: &[(&str, Codec)] = &[
    ("SPDY/3.1+portforward.k8s.io", Codec::Tunnel),
    ("v4.channel.k8s.io", Codec::Binary),
    ("portforward.k8s.io", Codec::Binary),
    ("v4.base64.channel.k8s.io", Codec::Base64),
];

type Answer = Response<Full<Bytes>>;
/// An answer that ends the matter.
type Refusal = Box<Answer>;

/// A request's connection and what it needs.
pub(crate) struct Service {
    pub shared: Arc<Shared>,
    pub socket: Socket,
    /// The connection's share of the limit, held until its last task ends.
    pub permit: Arc<OwnedSemaphorePermit>,
}

/// What a request was agreed to become.
enum Agreed {
    RemoteSpdy(Version),
    RemoteWebSocket(Version, Codec),
    ForwardSpdy,
    ForwardWebSocket(Codec),
}

impl Service {
    pub async fn respond(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Answer, Infallible> {
        Ok(self.upgrade(&mut request).unwrap_or_else(|refusal| *refusal))
    }

    fn upgrade(&self, request: &mut Request<Incoming>) -> Result<Answer, Refusal> {
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "GET or POST"));
        }
        let not_found = || refusal(StatusCode::NOT_FOUND, "404 page not found");
        let path = request.uri().path().to_owned();
        let (verb, token) =
            path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(not_found)?;
        if !self.shared.tokens.peek(verb, token) {
            return Err(not_found());
        }
        // The token is used up only now, so that a client whose protocol is refused can try another.
        let (answer, agreed) = agree(verb, request.method(), request.headers())?;
        let wanted = self.shared.tokens.take(verb, token).ok_or_else(not_found)?;
        if let (token::Request::PortForward { ports, .. }, Agreed::ForwardWebSocket(codec)) =
            (&wanted, &agreed)
            && *codec != Codec::Tunnel
            && !(1..=MAX_PORTS).contains(&ports.len())
        {
            return Err(refusal(StatusCode::BAD_REQUEST, "the request names no ports, or too many"));
        }
        let upgraded = hyper::upgrade::on(request);
        let (shared, socket, permit) = (self.shared.clone(), self.socket.clone(), self.permit.clone());
        self.shared.tasks.spawn(async move {
            let _permit = permit;
            match upgraded.await {
                Ok(io) => shared.serve(TokioIo::new(io), &socket, wanted, agreed).await,
                Err(error) => tracing::debug!("streaming client left during the upgrade: {error}"),
            }
        });
        Ok(answer)
    }
}

impl Shared {
    async fn serve(
        &self,
        io: TokioIo<hyper::upgrade::Upgraded>,
        socket: &Socket,
        request: token::Request,
        agreed: Agreed,
    ) {
        let verb = request.verb();
        let job = match request {
            token::Request::PortForward { sandbox, ports } => {
                let forward = Forward { handler: self.handler.clone(), sandbox: sandbox.into() };
                return note(verb, self.forward(io, socket, forward, ports, agreed).await);
            }
            token::Request::Exec(exec) => Job::Exec(exec),
            token::Request::Attach(attach) => Job::Attach(attach),
        };
        note(verb, self.remote(io, socket, job, agreed).await);
    }

    async fn remote(
        &self,
        io: TokioIo<hyper::upgrade::Upgraded>,
        socket: &Socket,
        job: Job,
        agreed: Agreed,
    ) -> Result<(), Broken> {
        let handler = self.handler.clone();
        let mux = Mux::new(self.max_streams);
        match agreed {
            Agreed::RemoteWebSocket(version, codec) => {
                let session = Session { handler, job, version };
                tokio::spawn(session.websocket(mux.clone()));
                let signal = version == Version::V5;
                let channels = remote::CHANNELS;
                websocket::serve(&mux, codec, channels, signal, io, socket, self.idle, &self.stop).await
            }
            Agreed::RemoteSpdy(version) => {
                let session = Session { handler, job, version };
                tokio::spawn(session.spdy(mux.clone(), self.creation));
                self.spdy(&mux, io, socket).await
            }
            // The verb decided what was agreed.
            Agreed::ForwardSpdy | Agreed::ForwardWebSocket(_) => Ok(()),
        }
    }

    async fn forward(
        &self,
        io: TokioIo<hyper::upgrade::Upgraded>,
        socket: &Socket,
        forward: Forward,
        ports: Vec<u16>,
        agreed: Agreed,
    ) -> Result<(), Broken> {
        let mux = Mux::new(self.max_streams);
        match agreed {
            Agreed::ForwardSpdy => {
                tokio::spawn(forward.spdy(mux.clone(), self.creation));
                self.spdy(&mux, io, socket).await
            }
            Agreed::ForwardWebSocket(Codec::Tunnel) => {
                tokio::spawn(forward.spdy(mux.clone(), self.creation));
                self.tunnel(&mux, io, socket).await
            }
            Agreed::ForwardWebSocket(codec) => {
                // At most 254.
                let channels = 2 * ports.len() as u32;
                tokio::spawn(forward.websocket(mux.clone(), ports));
                websocket::serve(&mux, codec, channels, false, io, socket, self.idle, &self.stop).await
            }
            // The verb decided what was agreed.
            Agreed::RemoteSpdy(_) | Agreed::RemoteWebSocket(..) => Ok(()),
        }
    }

    async fn spdy(
        &self,
        mux: &Mux,
        io: TokioIo<hyper::upgrade::Upgraded>,
        socket: &Socket,
    ) -> Result<(), Broken> {
        let (read, write) = tokio::io::split(io);
        crate::spdy::serve(mux, read, write, socket, self.idle, &self.stop).await
    }

    /// SPDY whose bytes lie in the messages of a WebSocket.
    async fn tunnel(
        &self,
        mux: &Mux,
        io: TokioIo<hyper::upgrade::Upgraded>,
        socket: &Socket,
    ) -> Result<(), Broken> {
        let outer = Mux::new(1);
        let (read, write) = outer.channel(0);
        let inside = async {
            let end = crate::spdy::serve(mux, read, write, socket, self.idle, outer.gone()).await;
            outer.finish(Goodbye::Done);
            end
        };
        let outside = websocket::serve(&outer, Codec::Tunnel, 1, false, io, socket, self.idle, &self.stop);
        let (inside, outside) = tokio::join!(inside, outside);
        match inside {
            // What ended the tunnel says more.
            Err(Broken::Stopped | Broken::Truncated) => outside,
            inside => inside.and(outside),
        }
    }
}

/// Says in the log how a connection ended.
fn note(verb: &'static str, end: Result<(), Broken>) {
    match end {
        Ok(()) => tracing::debug!(verb, "streaming connection closed"),
        Err(error @ Broken::Protocol(_)) => tracing::warn!(verb, "streaming connection closed: {error}"),
        Err(Broken::Io(source)) => tracing::info!(verb, "streaming connection closed: it broke: {source}"),
        Err(error) => tracing::info!(verb, "streaming connection closed: {error}"),
    }
}

/// Agrees on a protocol: the first of the client's that the server knows.
fn agree(verb: &str, method: &Method, headers: &HeaderMap) -> Result<(Answer, Agreed), Refusal> {
    let forward = verb == "portforward";
    if !names(headers, &header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade")) {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: no Connection: Upgrade in the request",
        ));
    }
    let upgrade: Vec<&str> = names(headers, &header::UPGRADE).collect();
    if upgrade.iter().any(|name| name.eq_ignore_ascii_case("websocket")) {
        let (answer, agreed) = agree_websocket(forward, method, headers)?;
        return Ok((answer, agreed));
    }
    if !upgrade.iter().any(|name| name.eq_ignore_ascii_case(SPDY)) {
        return Err(refusal(StatusCode::BAD_REQUEST, "unable to upgrade: neither SPDY/3.1 nor WebSocket"));
    }
    let offered: Vec<&str> = names(headers, &STREAM_PROTOCOL).collect();
    if offered.is_empty() {
        let text = "unable to upgrade: header X-Stream-Protocol-Version is missing or empty";
        return Err(refusal(StatusCode::BAD_REQUEST, text));
    }
    let agreed = if forward {
        first(&offered, FORWARD_SPDY).map(|(name, ())| (name, Agreed::ForwardSpdy))
    } else {
        first(&offered, REMOTE_SPDY).map(|(name, version)| (name, Agreed::RemoteSpdy(version)))
    };
    let Some((name, agreed)) = agreed else {
        let mut refusal = refusal(StatusCode::FORBIDDEN, "unable to upgrade: unable to negotiate protocol");
        let remote = REMOTE_SPDY.iter().map(|(name, _)| *name);
        let accepted: Vec<_> = if forward { vec![FORWARD_SPDY[0].0] } else { remote.collect() };
        for name in accepted {
            refusal.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
        }
        return Err(refusal);
    };
    Ok((switching(SPDY, &[(STREAM_PROTOCOL, HeaderValue::from_static(name))]), agreed))
}

fn agree_websocket(forward: bool, method: &Method, headers: &HeaderMap) -> Result<(Answer, Agreed), Refusal> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if *method != Method::GET {
        return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET"));
    }
    if text(header::SEC_WEBSOCKET_VERSION) != "13" {
        let mut refusal = refusal(StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is spoken");
        refusal.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(refusal);
    }
    let accept = websocket::frame::accept(text(header::SEC_WEBSOCKET_KEY).trim())
        .and_then(|accept| HeaderValue::try_from(accept).ok())
        .ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "a WebSocket's key is 16 bytes in base64"))?;
    let offered: Vec<&str> = names(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    let agreed = match (forward, offered.is_empty()) {
        (true, true) => Some((None, Agreed::ForwardWebSocket(Codec::Binary))),
        (false, true) => Some((None, Agreed::RemoteWebSocket(Version::V1, Codec::Binary))),
        (true, false) => first(&offered, FORWARD_WEBSOCKET)
            .map(|(name, codec)| (Some(name), Agreed::ForwardWebSocket(codec))),
        (false, false) => first(&offered, REMOTE_WEBSOCKET)
            .map(|(name, (version, codec))| (Some(name), Agreed::RemoteWebSocket(version, codec))),
    };
    let Some((name, agreed)) = agreed else {
        return Err(refusal(StatusCode::FORBIDDEN, "none of the requested WebSocket protocols is supported"));
    };
    let mut extra = vec![(header::SEC_WEBSOCKET_ACCEPT, accept)];
    extra.extend(name.map(|name| (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name))));
    Ok((switching("websocket", &extra), agreed))
}

/// The comma-separated values of a header that may come several times.
fn names<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

fn first<T: Copy>(offered: &[&str], known: &'static [(&'static str, T)]) -> Option<(&'static str, T)> {
    offered.iter().find_map(|offer| known.iter().find(|(name, _)| name == offer)).copied()
}

fn switching(protocol: &'static str, extra: &[(HeaderName, HeaderValue)]) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    headers.extend(extra.iter().cloned());
    answer
}

fn refusal(status: StatusCode, text: &str) -> Refusal {
    let mut answer = Response::new(Full::from(format!("{text}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Box::new(answer)
}
