//! A registry for tests: pull and push, and faults in the order in which they were asked for.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use windlass_core::{Digest, transfer};

use super::images::{Blob, MANIFEST, Made};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What goes wrong with a request.
#[derive(Clone)]
pub enum Fault {
    Status(u16, Vec<(&'static str, String)>),
    /// So many bytes of the body, then silence.
    Stall(usize),
    /// So many bytes of the body, then the connection breaks.
    Break(usize),
    /// Other bytes of the same length.
    Lie,
    /// More or fewer bytes, and a Content-Length that says so.
    Length(i64),
    /// A Content-Length that is not said, and a body cut short.
    Short(usize),
    Page,
    /// Another registry's same path.
    Redirect(String),
    /// Ranges are ignored.
    NoRange,
    /// Of a request with a body: breaks after about so many bytes of it.
    BreakUpload(usize),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: usize,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, Bytes>,
    /// By repository and tag or digest.
    manifests: HashMap<(String, String), (String, Bytes)>,
    faults: Vec<(String, VecDeque<Fault>)>,
    seen: Vec<Seen>,
    uploads: HashMap<String, Vec<u8>>,
    /// Repositories that each blob was pushed to; empty for all.
    auth: Option<Auth>,
    tokens: usize,
}

#[derive(Clone)]
pub enum Auth {
    Basic(String),
    /// Bearer tokens from this registry's own `/token`, for the user and password or refresh token.
    Token {
        user: String,
        secret: String,
        post: bool,
    },
}

#[derive(Clone)]
pub struct Registry {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    pub requests: Arc<Notify>,
    /// PEM, of a registry that is reached by HTTPS.
    pub certificate: String,
}

impl Registry {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self::at(&listener, String::new());
        let serving = this.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serving.clone().connection(tcp));
            }
        });
        this
    }

    /// One that is reached by HTTPS as `localhost`, with a certificate of its own making.
    pub async fn secure() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let this = Self::at(&listener, made.cert.pem());
        let (serving, acceptor) = (this.clone(), tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (serving, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        serving.connection(tls).await;
                    }
                });
            }
        });
        this
    }

    fn at(listener: &TcpListener, certificate: String) -> Self {
        let addr = listener.local_addr().unwrap();
        Self { addr, state: Arc::default(), requests: Arc::default(), certificate }
    }

    async fn connection(self, io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
        let service = hyper::service::service_fn(move |request| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.serve(request).await) }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
    }

    /// A reference to an image here.
    pub fn image(&self, name: &str) -> transfer::Registry {
        transfer::Registry {
            reference: format!("{}/{name}", self.addr),
            headers: Vec::new(),
            host_dir: String::new(),
            default_scheme: "http".into(),
            authenticator: None,
        }
    }

    pub fn add(&self, repository: &str, tag: &str, made: &Made) {
        self.add_blobs(&made.blobs());
        self.add_document(repository, tag, MANIFEST, &made.manifest);
    }

    pub fn add_blobs(&self, blobs: &[Blob]) {
        self.state.lock().unwrap().blobs.extend(blobs.iter().cloned());
    }

    pub fn add_document(&self, repository: &str, tag: &str, media_type: &str, (digest, data): &Blob) {
        let mut state = self.state.lock().unwrap();
        for name in [tag, digest.as_str()] {
            state.manifests.insert((repository.into(), name.into()), (media_type.into(), data.clone()));
        }
    }

    /// The next requests whose path contains `path` meet these, one each.
    pub fn fault(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.push((path.into(), faults.into_iter().collect()));
    }

    pub fn require(&self, auth: Auth) {
        self.state.lock().unwrap().auth = Some(auth);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    pub fn clear(&self) {
        self.state.lock().unwrap().seen.clear();
    }

    pub fn count(&self, method: Method, part: &str) -> usize {
        self.seen().iter().filter(|s| s.method == method && s.path.contains(part)).count()
    }

    pub fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.state.lock().unwrap().blobs.get(digest).cloned()
    }

    pub fn manifest(&self, repository: &str, name: &str) -> Option<(String, Bytes)> {
        self.state.lock().unwrap().manifests.get(&(repository.into(), name.into())).cloned()
    }

    pub fn remove_blob(&self, digest: &Digest) {
        self.state.lock().unwrap().blobs.remove(digest);
    }

    async fn serve(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let fault = {
            let mut state = self.state.lock().unwrap();
            let found = state
                .faults
                .iter_mut()
                .find(|(part, faults)| path.contains(part.as_str()) && !faults.is_empty());
            found.and_then(|(_, faults)| faults.pop_front())
        };
        let mut data = Vec::new();
        let limit = match fault {
            Some(Fault::BreakUpload(n)) => n,
            _ => usize::MAX,
        };
        let mut body = body;
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(part) = frame.into_data() {
                data.extend_from_slice(&part);
            }
            if data.len() >= limit {
                break;
            }
        }
        let seen = Seen {
            method: parts.method.clone(),
            path: path.clone(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers.clone(),
            body: data.len(),
        };
        self.state.lock().unwrap().seen.push(seen.clone());
        self.requests.notify_waiters();
        if let Some(Fault::BreakUpload(_)) = fault {
            // What has arrived is kept, as registries do.
            let mut state = self.state.lock().unwrap();
            if let Some(upload) = state.uploads.get_mut(&path) {
                upload.extend_from_slice(&data);
            }
            drop(state);
            return broken();
        }
        match &fault {
            Some(Fault::Status(code, headers)) => {
                let mut response = Response::builder().status(*code);
                for (name, value) in headers {
                    response = response.header(*name, value);
                }
                return response.body(full(Bytes::from_static(b"fault"))).unwrap();
            }
            Some(Fault::Page) => {
                return Response::builder()
                    .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
                    .body(full("<html>please log in</html>".into()))
                    .unwrap();
            }
            Some(Fault::Redirect(to)) => {
                return Response::builder()
                    .status(307)
                    .header(header::LOCATION, format!("{to}{path}"))
                    .body(full(Bytes::new()))
                    .unwrap();
            }
            _ => {}
        }
        if path == "/token" {
            return self.token(&seen, &data);
        }
        if let Some(refused) = self.refused(&parts.headers) {
            return refused;
        }
        let answer = self.answer(&seen, data);
        twisted(answer, fault, &seen.headers)
    }

    fn refused(&self, headers: &HeaderMap) -> Option<Response<Body>> {
        let auth = self.state.lock().unwrap().auth.clone()?;
        let got = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (ok, challenge) = match auth {
            Auth::Basic(want) => (got == want, "Basic realm=\"test\"".to_owned()),
            Auth::Token { .. } => (
                got.starts_with("Bearer token-"),
                format!(
                    "Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:x:pull\"",
                    self.addr
                ),
            ),
        };
        (!ok).then(|| {
            Response::builder()
                .status(401)
                .header(header::WWW_AUTHENTICATE, challenge)
                .body(full(Bytes::new()))
                .unwrap()
        })
    }

    fn token(&self, seen: &Seen, body: &[u8]) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        let Some(Auth::Token { user, secret, post }) = state.auth.clone() else { return status(404) };
        let body = String::from_utf8_lossy(body).into_owned();
        let good = if seen.method == Method::POST {
            if !post {
                return status(405);
            }
            let wanted = if user.is_empty() {
                format!("refresh_token={secret}")
            } else {
                format!("username={user}&password={secret}")
            };
            body.contains(&wanted)
        } else {
            use base64::Engine;
            let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{secret}"));
            seen.headers.get(header::AUTHORIZATION).is_some_and(|v| v == &format!("Basic {basic}"))
        };
        if !good {
            return status(401);
        }
        state.tokens += 1;
        let token = format!("{{\"token\":\"token-{}\",\"expires_in\":300}}", state.tokens);
        Response::new(full(token.into()))
    }

    fn answer(&self, seen: &Seen, data: Vec<u8>) -> Response<Body> {
        let Some(rest) = seen.path.strip_prefix("/v2/") else { return status(404) };
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            return self.manifests(seen, repository, name, data);
        }
        if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
            return self.uploads(seen, repository, upload, data);
        }
        let Some((_, digest)) = rest.split_once("/blobs/") else { return status(404) };
        let found = digest.parse().ok().and_then(|d: Digest| self.blob(&d));
        match found {
            Some(blob) => sent(blob, "application/octet-stream", digest, seen),
            None => status(404),
        }
    }

    fn manifests(&self, seen: &Seen, repository: &str, name: &str, data: Vec<u8>) -> Response<Body> {
        if seen.method == Method::PUT {
            let digest = Digest::of(&data);
            let kind = seen.headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
            let blob = (digest.clone(), Bytes::from(data));
            self.add_document(repository, name, &kind, &blob);
            return Response::builder()
                .status(201)
                .header("docker-content-digest", digest.as_str())
                .body(full(Bytes::new()))
                .unwrap();
        }
        match self.manifest(repository, name) {
            Some((kind, data)) => {
                let digest = Digest::of(&data);
                sent(data, &kind, digest.as_str(), seen)
            }
            None => status(404),
        }
    }

    fn uploads(&self, seen: &Seen, repository: &str, upload: &str, data: Vec<u8>) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        let location = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}");
        let of = |key: &str| {
            let prefix = format!("{key}=");
            seen.query.split('&').find_map(|p| p.strip_prefix(&prefix)).map(|v| v.replace("%3A", ":"))
        };
        match seen.method {
            Method::POST => {
                if let (Some(digest), Some(_)) = (of("mount"), of("from"))
                    && state.blobs.contains_key(&digest.parse().unwrap())
                {
                    return status(201);
                }
                // Never an id again, also where an upload has ended meanwhile.
                static IDS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
                let id = format!("u{}", IDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
                state.uploads.insert(location(&id), Vec::new());
                Response::builder()
                    .status(202)
                    .header(header::LOCATION, location(&id))
                    .body(full(Bytes::new()))
                    .unwrap()
            }
            Method::GET => {
                let Some(present) = state.uploads.get(&seen.path) else { return status(404) };
                Response::builder()
                    .status(204)
                    .header(header::RANGE, format!("0-{}", present.len().saturating_sub(1)))
                    .header(header::LOCATION, location(upload))
                    .body(full(Bytes::new()))
                    .unwrap()
            }
            Method::PATCH => {
                let Some(present) = state.uploads.get_mut(&seen.path) else { return status(404) };
                present.extend_from_slice(&data);
                Response::builder()
                    .status(202)
                    .header(header::LOCATION, location(upload))
                    .body(full(Bytes::new()))
                    .unwrap()
            }
            _ => {
                let Some(mut all) = state.uploads.remove(&seen.path) else { return status(404) };
                all.extend_from_slice(&data);
                let digest = Digest::of(&all);
                if of("digest").as_deref() != Some(digest.as_str()) {
                    return status(400);
                }
                state.blobs.insert(digest, all.into());
                status(201)
            }
        }
    }
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).body(full(Bytes::new())).unwrap()
}

pub fn full(data: Bytes) -> Body {
    Full::new(data).map_err(|never| match never {}).boxed_unsync()
}

fn broken() -> Response<Body> {
    let parts = futures::stream::iter([Err(std::io::Error::other("broken"))]);
    Response::new(BodyExt::boxed_unsync(StreamBody::new(parts)))
}

fn sent(data: Bytes, kind: &str, digest: &str, seen: &Seen) -> Response<Body> {
    let size = data.len();
    let body = if seen.method == Method::HEAD { Bytes::new() } else { data };
    Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, size)
        .header("docker-content-digest", digest)
        .body(full(body))
        .unwrap()
}

/// Applies ranges, then the fault.
fn twisted(response: Response<Body>, fault: Option<Fault>, request: &HeaderMap) -> Response<Body> {
    use futures::FutureExt;
    if response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let data = body.collect().now_or_never().unwrap().unwrap().to_bytes();
    let size = data.len();
    let mut data = data;
    if let Some(range) = request.get(header::RANGE).filter(|_| !matches!(fault, Some(Fault::NoRange)))
        && !data.is_empty()
    {
        let range = range.to_str().unwrap().trim_start_matches("bytes=").to_owned();
        let (start, end) = range.split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end: usize = end.parse().map_or(size, |e: usize| e + 1);
        data = data.slice(start..end);
        parts.status = StatusCode::PARTIAL_CONTENT;
        let value = format!("bytes {start}-{}/{size}", end - 1);
        parts.headers.insert(header::CONTENT_RANGE, value.parse().unwrap());
        parts.headers.insert(header::CONTENT_LENGTH, data.len().into());
    }
    let cut = |n: usize| data.slice(..n.min(data.len()));
    let then = |first: Bytes, stall: bool| {
        let parts = futures::stream::unfold(Some(first), move |first| async move {
            match first {
                Some(data) => Some((Ok(Frame::data(data)), None)),
                None if stall => std::future::pending().await,
                // A moment for the bytes to leave before the connection goes.
                None => {
                    tokio::task::yield_now().await;
                    Some((Err(std::io::Error::other("broken")), None))
                }
            }
        });
        BodyExt::boxed_unsync(StreamBody::new(parts))
    };
    let body = match fault {
        Some(Fault::Stall(n)) => then(cut(n), true),
        Some(Fault::Break(n)) => then(cut(n), false),
        Some(Fault::Lie) => full(vec![7; data.len()].into()),
        Some(Fault::Length(more)) => {
            let mut data = data.to_vec();
            data.resize(usize::try_from(data.len() as i64 + more).unwrap(), 0);
            parts.headers.insert(header::CONTENT_LENGTH, data.len().into());
            full(data.into())
        }
        Some(Fault::Short(n)) => {
            parts.headers.remove(header::CONTENT_LENGTH);
            let frames = futures::stream::iter([Ok(Frame::data(cut(n)))]);
            StreamBody::new(frames).boxed_unsync()
        }
        _ => full(data),
    };
    Response::from_parts(parts, body)
}
