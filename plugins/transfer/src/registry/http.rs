//! HTTP/1.1 connections to one host: dialled, secured, kept while a transfer lasts. Knows nothing of registries.
//!
//! Every wait has a limit: for the dial, the handshake, the head of an answer, and for each part of a body.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{Error, Result};
use super::proxy::{self, Proxy};
use super::tls::{self, Tls};

/// The body of a request.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub dial: Duration,
    pub handshake: Duration,
    /// From the end of the request to the head of the answer.
    pub head: Duration,
    /// Between two parts of a body.
    pub idle: Duration,
    /// Tries of one request.
    pub attempts: u32,
    /// Wait before the second try; doubled for each further one.
    pub back_off: Duration,
    /// Longest wait that a registry may ask for.
    pub max_back_off: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            attempts: 5,
            back_off: Duration::from_millis(200),
            max_back_off: Duration::from_secs(60),
        }
    }
}

/// Kept connections that have been idle longer are not used again: the other side may have closed them.
const KEEP: Duration = Duration::from_secs(15);
const MAX_KEPT: usize = 8;

/// Scheme, host and port: what credentials are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub secure: bool,
    pub host: String,
    pub port: u16,
}

impl Origin {
    pub fn of(uri: &Uri) -> Result<Self> {
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(Error::Config(format!("{uri}: neither http nor https"))),
        };
        let host =
            uri.host().filter(|h| !h.is_empty()).ok_or_else(|| Error::Config(format!("{uri}: no host")))?;
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host: host.to_ascii_lowercase(), port })
    }

    /// As it stands in a Host header.
    pub fn authority(&self) -> String {
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Connections with one TLS configuration.
pub struct Transport {
    tls: Tls,
    config: OnceLock<Arc<rustls::ClientConfig>>,
    pub limits: Limits,
    /// A host that is tried by HTTPS first and answers in plain HTTP.
    fallback: bool,
    plain: OnceLock<()>,
    kept: Mutex<Vec<(Origin, SendRequest<Body>, Instant)>>,
}

/// An answer whose body has not been read.
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub url: Uri,
    incoming: Incoming,
    back: Option<(Arc<Transport>, Origin, SendRequest<Body>)>,
    idle: Duration,
    /// Read already, to be handed out first.
    unread: Option<Bytes>,
}

impl Transport {
    pub fn new(tls: Tls, limits: Limits, fallback: bool) -> Self {
        Self {
            tls,
            config: OnceLock::new(),
            limits,
            fallback,
            plain: OnceLock::new(),
            kept: Mutex::default(),
        }
    }

    /// Sends one request and waits for the head of its answer. `fresh` forbids a kept connection.
    pub async fn send(
        self: &Arc<Self>,
        method: &Method,
        url: &Uri,
        headers: &HeaderMap,
        body: Body,
        fresh: bool,
    ) -> Result<Response> {
        let origin = Origin::of(url)?;
        let mut sender = match self.kept(&origin).filter(|_| !fresh) {
            Some(sender) => sender,
            None => self.connect(&origin).await?,
        };
        let through = self.proxy(&origin, true)?;
        let mut request = http::Request::new(body);
        *request.method_mut() = method.clone();
        *request.headers_mut() = headers.clone();
        let host = HeaderValue::from_str(&origin.authority())
            .map_err(|_| Error::Config(format!("{}: not a host name", origin.host)))?;
        request.headers_mut().insert(header::HOST, host);
        if let Some(credentials) = through.as_ref().and_then(|p| p.authorization.as_ref()) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, credentials.clone());
        }
        // A plain request through a proxy names the whole address.
        let path = url.path_and_query().map_or("/", |p| p.as_str());
        *request.uri_mut() = match &through {
            Some(_) => url.clone(),
            None => path.parse().map_err(|_| Error::Config(format!("{}: bad path", shown(url))))?,
        };
        let sent = sender.send_request(request);
        let answer = timeout(self.limits.head, sent)
            .await
            .map_err(|_| self.late("the answer", &origin, self.limits.head))?
            .map_err(|source| Error::Http { url: shown(url), source })?;
        let (parts, incoming) = answer.into_parts();
        Ok(Response {
            status: parts.status,
            headers: parts.headers,
            url: url.clone(),
            incoming,
            back: Some((self.clone(), origin, sender)),
            idle: self.limits.idle,
            unread: None,
        })
    }

    /// An address that a host which fell back to plain HTTP names for itself, in the form in which `base` names it.
    pub fn canonical(&self, url: Uri, base: &Uri) -> Uri {
        let own = url.host() == base.host() && url.port_u16() == base.port_u16();
        if self.plain.get().is_none() || !own || url.scheme_str() != Some("http") {
            return url;
        }
        url.to_string().replacen("http://", "https://", 1).parse().unwrap_or(url)
    }

    fn late(&self, what: &'static str, origin: &Origin, limit: Duration) -> Error {
        Error::Timeout { what, host: origin.authority(), limit }
    }

    fn kept(&self, origin: &Origin) -> Option<SendRequest<Body>> {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        kept.retain(|(_, sender, since)| !sender.is_closed() && since.elapsed() < KEEP);
        let at = kept.iter().position(|(o, sender, _)| o == origin && sender.is_ready())?;
        Some(kept.swap_remove(at).1)
    }

    fn keep(&self, origin: Origin, sender: SendRequest<Body>) {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        if kept.len() < MAX_KEPT && !sender.is_closed() {
            kept.push((origin, sender, Instant::now()));
        }
    }

    fn proxy(&self, origin: &Origin, plain_only: bool) -> Result<Option<Proxy>> {
        let secure = origin.secure && self.plain.get().is_none();
        if plain_only && secure { Ok(None) } else { proxy::of(secure, &origin.host, origin.port) }
    }

    async fn connect(&self, origin: &Origin) -> Result<SendRequest<Body>> {
        if !origin.secure || self.plain.get().is_some() {
            return self.shake(origin, Stream::Plain(self.dial(origin).await?)).await;
        }
        let tcp = self.dial(origin).await?;
        match self.secure(origin, tcp).await {
            Ok(stream) => self.shake(origin, stream).await,
            Err(error) if self.fallback && speaks_plain(&error) => {
                let _ = self.plain.set(());
                tracing::debug!(host = %origin.host, "the host answers HTTPS in plain HTTP, which is used");
                let stream = Stream::Plain(self.dial(origin).await?);
                self.shake(origin, stream).await
            }
            Err(error) => Err(error),
        }
    }

    async fn dial(&self, origin: &Origin) -> Result<TcpStream> {
        let proxy = self.proxy(origin, false)?;
        let (host, port) =
            proxy.as_ref().map_or((origin.host.as_str(), origin.port), |p| (p.host.as_str(), p.port));
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let failed = |source| Error::Connect { host: format!("{host}:{port}"), source };
        let tcp = timeout(self.limits.dial, TcpStream::connect((name, port)))
            .await
            .map_err(|_| self.late("the connection", origin, self.limits.dial))?
            .map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        match proxy {
            Some(proxy) if origin.secure && self.plain.get().is_none() => {
                timeout(self.limits.handshake, proxy.tunnel(tcp, origin))
                    .await
                    .map_err(|_| self.late("the proxy's answer", origin, self.limits.handshake))?
            }
            _ => Ok(tcp),
        }
    }

    async fn secure(&self, origin: &Origin, tcp: TcpStream) -> Result<Stream> {
        let config = match self.config.get() {
            Some(config) => config.clone(),
            None => {
                let of = self.tls.clone();
                let made = tokio::task::spawn_blocking(move || tls::client(&of)).await;
                let made = made.map_err(|e| Error::Config(format!("TLS: {e}")))??;
                self.config.get_or_init(|| Arc::new(made)).clone()
            }
        };
        let name = origin.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name)
            .map_err(|_| Error::Config(format!("{}: not a host name", origin.host)))?;
        let stream = timeout(self.limits.handshake, TlsConnector::from(config).connect(name, tcp))
            .await
            .map_err(|_| self.late("the TLS handshake", origin, self.limits.handshake))?
            .map_err(|source| Error::Tls { host: origin.authority(), source })?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn shake(&self, origin: &Origin, stream: Stream) -> Result<SendRequest<Body>> {
        let failed = |source| Error::Http { url: origin.authority(), source };
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // Ends when the sender and the last body are gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "connection to registry ended");
            }
        });
        Ok(sender)
    }
}

/// Whether a TLS handshake failed because the other side does not speak TLS at all.
fn speaks_plain(error: &Error) -> bool {
    let Error::Tls { source, .. } = error else { return false };
    let inner = source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(_)))
        || matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

impl Response {
    /// The next part of the body.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(data) = self.unread.take() {
            return Ok(Some(data));
        }
        loop {
            let frame = timeout(self.idle, self.incoming.frame()).await.map_err(|_| Error::Timeout {
                what: "the next part of a body",
                host: self.url.authority().map(|a| a.to_string()).unwrap_or_default(),
                limit: self.idle,
            })?;
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
                Some(Err(source)) => return Err(Error::Http { url: shown(&self.url), source }),
                None => {
                    if let Some((transport, origin, sender)) = self.back.take() {
                        transport.keep(origin, sender);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Gives bytes back, which come next.
    pub fn unread(&mut self, data: Bytes) {
        self.unread = Some(data);
    }

    /// The whole body; an error above `limit` bytes.
    pub async fn collect(mut self, limit: u64) -> Result<Bytes> {
        let mut all = bytes::BytesMut::new();
        while let Some(part) = self.next().await? {
            if all.len() as u64 + part.len() as u64 > limit {
                return Err(Error::Answer { url: shown(&self.url), why: format!("more than {limit} bytes") });
            }
            all.extend_from_slice(&part);
        }
        Ok(all.freeze())
    }

    /// Reads a short rest so that the connection can be used again.
    pub async fn drain(self) {
        let _ = self.collect(64 << 10).await;
    }

    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub fn content_length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH).and_then(|l| l.trim().parse().ok())
    }

    /// Media type without parameters.
    pub fn content_type(&self) -> &str {
        self.header(header::CONTENT_TYPE).map_or("", |t| t.split(';').next().unwrap_or_default().trim())
    }
}

/// A URL for messages and logs: without user and without query, which may hold a signature.
pub fn shown(url: &Uri) -> String {
    let host = url.authority().map_or("", |a| a.as_str().rsplit('@').next().unwrap_or_default());
    format!("{}://{host}{}", url.scheme_str().unwrap_or("http"), url.path())
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
