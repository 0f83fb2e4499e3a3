//! TLS for registries: the system's authorities, read when the first HTTPS connection is made, and what `hosts.toml`
//! adds.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::{Error, Result};

/// What is configured beside the system's authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub ca: Vec<PathBuf>,
    /// Certificates, with keys where those are in files of their own.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    pub skip_verify: Option<bool>,
}

/// The system's authorities, shared as long as a transfer uses them: an idle daemon holds none.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: Mutex<Weak<RootCertStore>> = Mutex::new(Weak::new());
    let mut shared = ROOTS.lock().expect("no panic under this lock");
    if let Some(roots) = shared.upgrade() {
        return roots;
    }
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        tracing::warn!(
            ignored,
            errors = ?loaded.errors,
            "no certificate authorities found: install ca-certificates or set SSL_CERT_FILE"
        );
    }
    let roots = Arc::new(roots);
    *shared = Arc::downgrade(&roots);
    roots
}

/// Makes a client's configuration. Reads files: call it where blocking does not matter.
pub fn client(tls: &Tls) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Config(format!("TLS: {e}")))?;
    let builder = if tls.skip_verify == Some(true) {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        let mut roots = system_roots();
        for file in &tls.ca {
            let certs = read_certs(file)?;
            let roots = Arc::make_mut(&mut roots);
            for cert in certs {
                roots
                    .add(cert)
                    .map_err(|e| Error::Config(format!("CA certificate {}: {e}", file.display())))?;
            }
        }
        builder.with_root_certificates(roots)
    };
    let Some((cert, key)) = tls.client.first() else { return Ok(builder.with_no_client_auth()) };
    if tls.client.len() > 1 {
        tracing::warn!(used = %cert.display(), "several client certificates for one host: the first one is used");
    }
    let certs = read_certs(cert)?;
    let key_file = key.as_deref().unwrap_or(cert);
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|e| Error::Config(format!("private key {}: {e}", key_file.display())))?;
    builder
        .with_client_auth_cert(certs, key)
        .map_err(|e| Error::Config(format!("client certificate {}: {e}", cert.display())))
}

fn read_certs(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let failed =
        |e: rustls::pki_types::pem::Error| Error::Config(format!("certificate {}: {e}", file.display()));
    let certs: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if certs.is_empty() {
        return Err(Error::Config(format!("no certificate in {}", file.display())));
    }
    Ok(certs)
}

/// `skip_verify`: any certificate, but the handshake's signatures are still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
