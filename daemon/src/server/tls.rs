//! TLS for the TCP listener: the server's certificate, and clients' certificates where a CA is named.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Tcp;

/// A peer that does not get on with its handshake holds a descriptor.
const HANDSHAKE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// `None` where configuration names no certificate.
    pub fn new(tcp: &Tcp) -> Result<Option<Self>> {
        if tcp.certificate.as_os_str().is_empty() {
            return Ok(None);
        }
        let chain = certificates(&tcp.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&tcp.key)
            .with_context(|| format!("read the key {}", tcp.key.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = if tcp.ca.as_os_str().is_empty() {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&tcp.ca)? {
                roots.add(certificate).with_context(|| format!("use the CA {}", tcp.ca.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        };
        let mut config = builder.with_single_cert(chain, key).context("use the TLS certificate and key")?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Some(Self(TlsAcceptor::from(Arc::new(config)))))
    }

    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
        tokio::time::timeout(HANDSHAKE, self.0.accept(stream)).await.map_err(late)?
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let doing = || format!("read the certificates {}", file.display());
    CertificateDer::pem_file_iter(file).with_context(doing)?.collect::<Result<_, _>>().with_context(doing)
}
