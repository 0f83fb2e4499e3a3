//! Requests before their upgrade, TLS, and the server's end.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Spdy, request, split};
use super::*;
use crate::Tls;

const SPDY: &[(&str, &str)] =
    &[("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", "v4.channel.k8s.io")];

fn websocket<'a>(version: &'a str, key: &'a str, protocol: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", version),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Protocol", protocol),
    ]
}

async fn status(url: &str, method: &str, headers: &[(&str, &str)]) -> String {
    let (_stream, answer) = request(url, method, headers).await;
    answer[9..12].to_owned()
}

#[tokio::test]
async fn refusals_say_why_and_leave_the_url_usable() {
    let daemon = daemon().await;
    let url = daemon.exec(&["cat"]);
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let none: &[(&str, &str)] = &[];
    for (method, headers, expected) in [
        ("PUT", SPDY, "405"),
        ("GET", none, "400"),
        ("GET", &SPDY[..2], "400"),
        ("GET", &[("Connection", "Upgrade"), ("Upgrade", "h2c")][..], "400"),
        ("GET", &websocket("8", key, "v4.channel.k8s.io")[..], "426"),
        ("GET", &websocket("13", "short", "v4.channel.k8s.io")[..], "400"),
        ("GET", &websocket("13", key, "chat")[..], "403"),
        ("POST", &websocket("13", key, "v4.channel.k8s.io")[..], "405"),
    ] {
        assert_eq!(status(&url, method, headers).await, expected, "{method} {headers:?}");
    }
    let headers = [SPDY[0], SPDY[1], ("X-Stream-Protocol-Version", "v9.channel.k8s.io")];
    let (_stream, answer) = request(&url, "POST", &headers).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let accepted = answer.matches("x-accepted-stream-protocol-versions").count();
    assert_eq!(accepted, 4, "{answer}");

    assert_eq!(status(&url, "POST", SPDY).await, "101");
    assert_eq!(status(&url, "POST", SPDY).await, "404", "once");
    assert_eq!(status(&url.replace("/exec/", "/attach/"), "POST", SPDY).await, "404");
    let (address, _) = split(&url);
    for path in ["/", "/exec", "/exec/", "/exec/AAAAAAAAAAAAAAAA", "/other/x"] {
        assert_eq!(status(&format!("http://{address}{path}"), "GET", SPDY).await, "404", "{path}");
    }
}

#[tokio::test]
async fn a_websocket_forward_needs_ports() {
    let daemon = daemon().await;
    let headers = websocket("13", "dGhlIHNhbXBsZSBub25jZQ==", "v4.channel.k8s.io");
    let url = daemon.server.port_forward_url("s", &[]).unwrap();
    assert_eq!(status(&url, "GET", &headers).await, "400");
    let url = daemon.server.port_forward_url("s", &vec![80; 200]).unwrap();
    assert_eq!(status(&url, "GET", &headers).await, "400");
}

#[tokio::test]
async fn heads_are_bounded_in_size_and_time() {
    let settings = Settings { creation_timeout: Duration::from_millis(50), ..Settings::default() };
    let daemon = daemon_with(settings).await;
    let url = daemon.exec(&["cat"]);
    let (address, _) = split(&url);
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    // An end or a reset, but soon.
    let _ = within(slow.read_to_end(&mut rest)).await;

    // One that has had an answer and asks for nothing more.
    let (mut quiet, _) = request(&format!("http://{address}/"), "GET", SPDY).await;
    let _ = within(quiet.read_to_end(&mut rest)).await;

    let mut long = TcpStream::connect(address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let _ = long.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = within(long.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn streams_run_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let tls = Tls::Files { cert, key: key.clone() };
    let daemon = daemon_with(Settings { tls: Some(tls.clone()), ..Settings::default() }).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    exec_over_tls(&daemon, config).await.unwrap();

    std::fs::write(&key, "no key").unwrap();
    let settings = Settings { tls: Some(tls), ..Settings::default() };
    let error = Server::start(settings, Arc::new(Echo::default())).await.err().unwrap();
    assert!(error.is(windlass_core::Class::FailedPrecondition), "{}", error.chain());
    assert!(error.chain().contains("key.pem"), "{}", error.chain());
}

/// Takes any certificate, and keeps it.
#[derive(Debug, Default)]
struct Anyone(std::sync::Mutex<Vec<u8>>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        end_entity: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = end_entity.to_vec();
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_certificate_is_made_where_none_is_named() {
    let provider = || Arc::new(rustls::crypto::ring::default_provider());
    let client = || {
        rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap()
    };
    let settings = || Settings { tls: Some(Tls::SelfMade), ..Settings::default() };
    let (daemon, anyone) = (daemon_with(settings()).await, Arc::new(Anyone::default()));
    let config = client().dangerous().with_custom_certificate_verifier(anyone.clone()).with_no_client_auth();
    exec_over_tls(&daemon, config).await.unwrap();
    // It is good for the name in the URL, to who trusts it; nobody else does, and no other server has it.
    let shown = anyone.0.lock().unwrap().clone();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(shown.into()).unwrap();
    let config = || client().with_root_certificates(roots.clone()).with_no_client_auth();
    exec_over_tls(&daemon, config()).await.unwrap();
    let other = daemon_with(settings()).await;
    assert!(exec_over_tls(&other, config()).await.is_err());
}

/// Runs a command through a WebSocket over TLS.
async fn exec_over_tls(daemon: &Daemon, config: rustls::ClientConfig) -> std::io::Result<()> {
    use rustls::pki_types::ServerName;

    let url = daemon.exec(&["both"]);
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let (address, path) = split(&url);
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(&[0x88, 2, 0x03, 0xe8]) {
        seen.push(within(stream.read_u8()).await.unwrap());
    }
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("101") && seen.contains("to stdout") && seen.contains("to stderr"), "{seen}");
    Ok(())
}

#[tokio::test]
async fn the_end_of_the_server_tells_everyone_and_frees_the_address() {
    let daemon = daemon().await;
    let url = daemon.exec(&["wait"]);
    let mut spdy = Spdy::exec(&url).await;
    let waiting = daemon.exec(&["cat"]);
    let mut unused = TcpStream::connect(split(&waiting).0).await.unwrap();
    within(daemon.server.close()).await;
    daemon.told(1).await;
    let (_, goodbye) = spdy.rest().await;
    assert_eq!(goodbye, 0);
    assert_eq!(within(unused.read(&mut [0; 9])).await.unwrap_or(0), 0);
    let (address, _) = split(&url);
    let port = address.rsplit(':').next().unwrap().to_owned();
    let settings = Settings { port, ..Settings::default() };
    let again = Server::start(settings, Arc::new(Echo::default())).await.unwrap();
    within(again.close()).await;
}
