//! `containerd.services.version.v1.Version`

use tonic::Request;
use windlass_api::services::version as wire;

use crate::edge::{Answer, answer, serve};

/// The containerd release whose API this is: clients gate features on it.
const COMPATIBLE: &str = "2.3.4";

struct Edge;

#[tonic::async_trait]
impl wire::version_server::Version for Edge {
    async fn version(&self, _: Request<()>) -> Answer<wire::VersionResponse> {
        let version = format!("{COMPATIBLE}+windlass.{}", env!("CARGO_PKG_VERSION"));
        answer(Ok(wire::VersionResponse { version, revision: String::new() }))
    }
}

serve!(Version, "version", wire::version_server::VersionServer, [], |_| Ok(Edge));
