//! The listener, its TLS, and the URLs that lead to it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_core::Result;

use crate::error::Error;
use crate::http::Service;
use crate::socket::Socket;
use crate::token::{Request, Tokens};
use crate::{Attach, Exec, Handler, Settings, Tls};

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// Time to wait when the system has no more descriptors.
const RETRY: Duration = Duration::from_millis(100);
/// How long [`Server::close`] waits for connections to say their last word.
const CLOSE: Duration = Duration::from_secs(5);

/// A running server. It ends with [`close`](Self::close), or at once when it is dropped.
pub struct Server {
    base: String,
    shared: Arc<Shared>,
}

/// What all connections share.
pub(crate) struct Shared {
    pub handler: Arc<dyn Handler>,
    pub tokens: Tokens,
    pub idle: Duration,
    pub creation: Duration,
    pub max_streams: usize,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

impl Server {
    /// Listens and serves until [`close`](Self::close).
    pub async fn start(settings: Settings, handler: Arc<dyn Handler>) -> Result<Self> {
        let (listener, url_address) = listen(&settings.address, &settings.port).await?;
        let tls = match settings.tls.clone() {
            Some(tls) => {
                let host = url_address.ip().to_string();
                let read = tokio::task::spawn_blocking(move || acceptor(&tls, &host));
                Some(read.await.map_err(Error::from)??)
            }
            None => None,
        };
        let base = format!("{}://{url_address}/", if tls.is_some() { "https" } else { "http" });
        let shared = Arc::new(Shared {
            handler,
            tokens: Tokens::default(),
            idle: settings.idle_timeout,
            creation: settings.creation_timeout,
            max_streams: settings.max_streams,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let limit = Arc::new(Semaphore::new(settings.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        shared.tasks.spawn(accept(listener, tls, limit, shared.clone()));
        tracing::info!(address = %url_address, "streaming server listens");
        Ok(Self { base, shared })
    }

    /// A URL under which a command can be run once, within a minute.
    pub fn exec_url(&self, exec: Exec) -> Result<String> {
        check(&exec.container_id, exec.tty, [exec.stdin, exec.stdout, exec.stderr])?;
        self.url(Request::Exec(exec))
    }

    /// A URL under which a container can be attached to once, within a minute.
    pub fn attach_url(&self, attach: Attach) -> Result<String> {
        check(&attach.container_id, attach.tty, [attach.stdin, attach.stdout, attach.stderr])?;
        self.url(Request::Attach(attach))
    }

    /// A URL under which ports of a sandbox can be forwarded, over one connection that begins within a minute. The
    /// ports count only for clients that cannot name them themselves; others may forward any.
    pub fn port_forward_url(&self, sandbox_id: &str, ports: &[u16]) -> Result<String> {
        if sandbox_id.is_empty() {
            return Err(Error::Invalid("missing required pod_sandbox_id").into());
        }
        self.url(Request::PortForward { sandbox: sandbox_id.to_owned(), ports: ports.to_vec() })
    }

    fn url(&self, request: Request) -> Result<String> {
        Ok(format!("{}{}", self.base, self.shared.tokens.insert(request)?))
    }

    /// Ends all connections, which tells their handlers, and frees the address.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(CLOSE, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("streaming connections did not end within {CLOSE:?}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// The rules of the CRI for exec and attach.
fn check(container: &str, tty: bool, [stdin, stdout, stderr]: [bool; 3]) -> Result<(), Error> {
    if container.is_empty() {
        return Err(Error::Invalid("missing required container_id"));
    }
    if tty && stderr {
        return Err(Error::Invalid("tty and stderr cannot both be true"));
    }
    if !(stdin || stdout || stderr) {
        return Err(Error::Invalid("one of stdin, stdout, or stderr must be set"));
    }
    Ok(())
}

/// Listens on an address and says which one the URLs shall have.
async fn listen(address: &str, port: &str) -> Result<(TcpListener, SocketAddr), Error> {
    let host = match address {
        "" => node_address().to_string(),
        address => address.trim_start_matches('[').trim_end_matches(']').to_owned(),
    };
    let number: u16 = match port {
        "" => 0,
        port => port.parse().map_err(|_| Error::Invalid("the stream server port is not a port"))?,
    };
    let shown = format!("{host}:{port}");
    let resolved = tokio::net::lookup_host((host.as_str(), number)).await;
    let addresses = resolved.map_err(|source| Error::Resolve { address: shown.clone(), source })?;
    let mut failed = None;
    for address in addresses {
        let listener = TcpListener::bind(address).await.and_then(|l| Ok((l.local_addr()?, l)));
        match listener {
            Ok((mut local, listener)) => {
                if local.ip().is_unspecified() {
                    local.set_ip(node_address());
                }
                return Ok((listener, local));
            }
            Err(source) => failed = Some(Error::Listen { address: shown.clone(), source }),
        }
    }
    Err(failed.unwrap_or(Error::NoAddress(shown)))
}

/// The address that this node has towards its default route; loopback if it has none.
fn node_address() -> IpAddr {
    // Connecting a datagram socket sends nothing; it only asks for the route. The targets are documentation addresses.
    for (any, far) in [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")] {
        let found = std::net::UdpSocket::bind(any).and_then(|socket| {
            socket.connect(far)?;
            socket.local_addr()
        });
        if let Ok(address) = found
            && !address.ip().is_unspecified()
        {
            return address.ip();
        }
    }
    tracing::warn!("no default route: the stream server uses the loopback address");
    Ipv4Addr::LOCALHOST.into()
}

/// Reads the certificate, or makes one for `host`. Blocks.
fn acceptor(tls: &Tls, host: &str) -> Result<TlsAcceptor, Error> {
    let config = match tls {
        Tls::Files { cert, key } => {
            let unfit = |source| Error::Tls { cert: cert.clone(), key: key.clone(), source };
            let (chain, key) = read(cert, key)?;
            configured(chain, key).map_err(unfit)?
        }
        Tls::SelfMade => {
            let (chain, key) = self_made(host)?;
            configured(chain, key).map_err(|source| Error::SelfMadeTls { source })?
        }
    };
    Ok(TlsAcceptor::from(Arc::new(config)))
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read(cert: &Path, key: &Path) -> Result<Pair, Error> {
    let certificate = |source| Error::Certificate { path: cert.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(cert)
        .map_err(certificate)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|source| Error::Key { path: key.to_owned(), source })?;
    Ok((chain, key))
}

/// A certificate for the names under which clients come: the URLs' host, the node's, and the loopback's.
fn self_made(host: &str) -> Result<Pair, Error> {
    // A node without a name has one less in its certificate.
    let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for name in [host, node.trim(), "localhost", "127.0.0.1", "::1"] {
        // Whatever else a kernel calls its node is no name that a certificate could hold.
        let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        if fine && !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "windlass streaming server");
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((vec![certificate.der().clone()], key.into()))
}

fn configured(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes connections until the server stops.
async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, limit: Arc<Semaphore>, shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    loop {
        let next = async {
            let permit = limit.clone().acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                shared.tasks.spawn(connection(stream, tls.clone(), permit, shared.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!("the streaming server cannot accept a connection: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted)
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    permit: OwnedSemaphorePermit,
    shared: Arc<Shared>,
) {
    let socket = match Socket::new(stream) {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!("streaming client left: {error}"),
    };
    let service = Service { shared: shared.clone(), socket: socket.clone(), permit: Arc::new(permit) };
    let Some(tls) = tls else { return requests(socket, service).await };
    let greeting = tokio::time::timeout(shared.creation, tls.accept(socket));
    let greeted = tokio::select! {
        greeted = greeting => greeted,
        () = shared.stop.cancelled() => return,
    };
    match greeted {
        Ok(Ok(stream)) => requests(stream, service).await,
        Ok(Err(error)) => tracing::info!("streaming client failed the TLS handshake: {error}"),
        Err(_) => tracing::info!("streaming client took too long for the TLS handshake"),
    }
}

/// Serves the requests of a connection until one of them takes it over.
async fn requests<I>(io: I, service: Service)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stop, creation) = (service.shared.stop.clone(), service.shared.creation);
    let service = Arc::new(service);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(creation)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), service_fn(move |request| service.clone().respond(request)))
        .with_upgrades();
    tokio::select! {
        end = connection => if let Err(error) = end {
            tracing::debug!("streaming client's request failed: {error}");
        },
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_the_cri_hold() {
        let class = |result: Result<(), Error>| windlass_core::Error::from(result.unwrap_err()).class();
        assert_eq!(class(check("", false, [true; 3])), windlass_core::Class::InvalidArgument);
        assert_eq!(class(check("c", true, [true; 3])), windlass_core::Class::InvalidArgument);
        assert_eq!(class(check("c", false, [false; 3])), windlass_core::Class::InvalidArgument);
        assert!(check("c", true, [true, true, false]).is_ok());
    }

    #[tokio::test]
    async fn addresses_are_resolved_as_urls_need_them() {
        let (_listener, local) = listen("127.0.0.1", "0").await.unwrap();
        assert!(local.ip().is_loopback() && local.port() != 0);
        let (_listener, local) = listen("localhost", "").await.unwrap();
        assert!(local.ip().is_loopback());
        let (_listener, anywhere) = listen("0.0.0.0", "0").await.unwrap();
        assert_eq!(anywhere.ip(), node_address());
        assert!(!anywhere.ip().is_unspecified());
        let (_listener, node) = listen("", "0").await.unwrap();
        assert_eq!(node.ip(), node_address());
        assert!(listen("127.0.0.1", "http").await.is_err());
        let taken = listen("127.0.0.1", &local.port().to_string()).await;
        assert!(taken.is_err() || local.ip().is_ipv6());
    }
}
