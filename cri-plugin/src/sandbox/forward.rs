//! Port forwarding: a client's connection to a port inside a pod.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use windlass_api::cri;
use windlass_core::{Error, Result};

use super::host_network;
use crate::cri::Cri;

/// How long a port may take to take a connection.
const CONNECT: Duration = Duration::from_secs(30);

impl Cri {
    /// Answers where the client is to connect.
    pub async fn port_forward(
        self: &Arc<Self>,
        request: cri::PortForwardRequest,
    ) -> Result<cri::PortForwardResponse> {
        let sandbox = self.ready_sandbox(&request.pod_sandbox_id)?;
        let port = |port: &i32| {
            u16::try_from(*port)
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| Error::invalid(format!("{port} is no port")))
        };
        let ports = request.port.iter().map(port).collect::<Result<Vec<_>>>()?;
        let url = self.streaming_server()?.port_forward_url(&sandbox.id, &ports)?;
        Ok(cri::PortForwardResponse { url })
    }

    /// Copies between a client and a port, until both ways have ended or one breaks.
    pub(crate) async fn forward(
        &self,
        sandbox: &str,
        port: u16,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin + ?Sized),
    ) -> Result<()> {
        let sandbox = self.ready_sandbox(sandbox)?;
        let mut inside = if host_network(sandbox.config()) {
            // As `localhost` may be either.
            let connect = async {
                match TcpStream::connect(("127.0.0.1", port)).await {
                    Ok(stream) => Ok(stream),
                    Err(first) => TcpStream::connect(("::1", port)).await.map_err(|_| first),
                }
            };
            let failed = || Error::unavailable(format!("connect to port {port} of the machine"));
            match tokio::time::timeout(CONNECT, connect).await {
                Ok(connected) => connected.map_err(|e| failed().with_source(e))?,
                Err(_) => return Err(failed()),
            }
        } else {
            let namespace = self.namespaces_dir(&sandbox.id).join("net");
            windlass_network::namespaces::connect(&namespace, port, CONNECT).await.map_err(|e| {
                Error::from(e).context(format!("connect to port {port} of pod {}", sandbox.id))
            })?
        };
        match tokio::io::copy_bidirectional(client, &mut inside).await {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(Error::unavailable(format!("forward port {port} of pod {}", sandbox.id))
                    .with_source(error))
            }
        }
    }
}
