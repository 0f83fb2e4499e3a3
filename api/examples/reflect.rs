//! Serves reflection and nothing else on a socket: `reflect /run/x.sock`, until its standard input ends. For trying
//! grpcurl and the descriptor comparison without a daemon.

use std::io::Read;

use prost::Message;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;
use windlass_api::reflection::{FILE_DESCRIPTOR_SET, Reflection};

/// Every service but those that are spoken over ttrpc only.
fn services(sets: &[&[u8]]) -> Result<Vec<String>, prost::DecodeError> {
    let mut names = Vec::new();
    for set in sets {
        for file in prost_types::FileDescriptorSet::decode(*set)?.file {
            let package = file.package();
            let shim = package.starts_with("containerd.task.") || package.starts_with("containerd.runtime.");
            if !shim && !package.contains(".ttrpc.") {
                names.extend(file.service.iter().map(|s| format!("{package}.{}", s.name())));
            }
        }
    }
    Ok(names)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: reflect SOCKET")?;
    let listener = UnixListener::bind(&path)?;
    let mut routes = Routes::builder();
    let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
    Reflection::new(services(&[FILE_DESCRIPTOR_SET, health])?, &[health]).add(&mut routes);
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let served = Server::builder().add_routes(routes.routes());
    served.serve_with_incoming_shutdown(UnixListenerStream::new(listener), async { drop(end.await) }).await?;
    std::fs::remove_file(path)?;
    Ok(())
}
