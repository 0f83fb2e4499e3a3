//! The keys of `io.containerd.grpc.v1.cri`: where exec, attach and port forward are served.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use windlass_core::{Error, Result};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Whether the interface itself is not served over TCP.
    pub disable_tcp_service: bool,
    /// Empty for the address of the default route.
    pub stream_server_address: String,
    /// 0 for any that is free.
    pub stream_server_port: String,
    pub stream_idle_timeout: String,
    pub enable_tls_streaming: bool,
    pub x509_key_pair_streaming: Tls,
}

/// A certificate and its key, PEM files; without them one is made up.
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
            return Err(Error::invalid("x509_key_pair_streaming: tls_cert_file and tls_key_file belong together"));
        }
        if !tls_cert_file.is_empty() && !self.enable_tls_streaming {
            return Err(Error::invalid("x509_key_pair_streaming needs enable_tls_streaming"));
        }
        Ok(())
    }

    pub fn port(&self) -> Result<u16> {
        let text = &self.stream_server_port;
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|_| Error::invalid(format!("stream_server_port: {text:?} is not a port")))
    }

    /// How long a connection may be idle; `None` for ever.
    pub fn idle_timeout(&self) -> Option<Duration> {
        super::duration(&self.stream_idle_timeout).ok().filter(|d| !d.is_zero())
    }
}
