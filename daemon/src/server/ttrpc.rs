//! The ttrpc server, which shims send their events to.

use futures::StreamExt as _;
use ttrpc::asynchronous::transport::Listener;
use windlass_api::kinds::TtrpcServices;

use super::Door;

pub struct Server(ttrpc::r#async::Server);

impl Server {
    /// Serves `services` on `door` from now on.
    pub async fn start(door: Door, services: Vec<TtrpcServices>) -> ttrpc::Result<Self> {
        let connections = futures::stream::unfold(door, |door| async move {
            // The place is held by the stream of connections, not by each: shims connect and stay.
            let (stream, _place) = door.next().await;
            Some((Ok::<_, std::io::Error>(stream), door))
        });
        let mut server = ttrpc::r#async::Server::new().add_listener(Listener::new(connections.boxed()));
        for services in services {
            server = server.register_service(services);
        }
        server.start().await?;
        Ok(Self(server))
    }

    /// Takes no more connections, answers what is under way, closes.
    pub async fn stop(mut self) {
        if let Err(error) = self.0.shutdown().await {
            tracing::debug!(%error, "ttrpc server ended");
        }
    }
}
