//! The keys of `io.containerd.grpc.v1.cri`: where exec, attach and port forward are served.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use windlass_core::{Error, Result};
use windlass_streaming::Settings;

/// Longer than any connection.
const FOREVER: Duration = Duration::from_secs(366 * 24 * 60 * 60);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Whether the interface itself is kept off the daemon's TCP listener, where it has one.
    pub disable_tcp_service: bool,
    /// Empty for the address of the default route.
    pub stream_server_address: String,
    /// 0 for any that is free.
    pub stream_server_port: String,
    pub stream_idle_timeout: String,
    /// With a certificate of the server's own making where none is named.
    pub enable_tls_streaming: bool,
    pub x509_key_pair_streaming: Tls,
}

/// A certificate and its key, PEM files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    pub tls_cert_file: String,
    pub tls_key_file: String,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            disable_tcp_service: true,
            stream_server_address: "127.0.0.1".into(),
            stream_server_port: "0".into(),
            stream_idle_timeout: "4h0m0s".into(),
            enable_tls_streaming: false,
            x509_key_pair_streaming: Tls::default(),
        }
    }
}

impl Server {
    pub fn validate(&self) -> Result<()> {
        self.port()?;
        super::duration(&self.stream_idle_timeout).map_err(|error| error.context("stream_idle_timeout"))?;
        let Tls { tls_cert_file, tls_key_file } = &self.x509_key_pair_streaming;
        if tls_cert_file.is_empty() != tls_key_file.is_empty() {
            return Err(Error::invalid(
                "x509_key_pair_streaming: tls_cert_file and tls_key_file belong together",
            ));
        }
        if !tls_cert_file.is_empty() && !self.enable_tls_streaming {
            return Err(Error::invalid("x509_key_pair_streaming needs enable_tls_streaming"));
        }
        Ok(())
    }

    fn port(&self) -> Result<u16> {
        let text = &self.stream_server_port;
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|_| Error::invalid(format!("stream_server_port: {text:?} is not a port")))
    }

    /// What the streaming server is started with.
    pub fn settings(&self) -> Result<Settings> {
        let Tls { tls_cert_file, tls_key_file } = &self.x509_key_pair_streaming;
        let tls = match (self.enable_tls_streaming, tls_cert_file.as_str()) {
            (false, _) => None,
            (true, "") => Some(windlass_streaming::Tls::SelfMade),
            (true, cert) => {
                Some(windlass_streaming::Tls::Files { cert: cert.into(), key: tls_key_file.into() })
            }
        };
        let idle = super::duration(&self.stream_idle_timeout)?;
        Ok(Settings {
            address: self.stream_server_address.clone(),
            port: self.port()?.to_string(),
            // Nought is for ever; a year is as good.
            idle_timeout: if idle.is_zero() { FOREVER } else { idle },
            tls,
            ..Settings::default()
        })
    }
}
