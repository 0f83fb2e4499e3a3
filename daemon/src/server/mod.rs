//! What listens: gRPC, ttrpc, metrics and debug. It serves whatever plugins there are and knows none of them.

pub mod body;
pub mod call;
pub mod grpc;
pub mod http;
pub mod tls;
pub mod ttrpc;

use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most connections to one listener at a time; the next ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// Rest after an accept that failed, for want of descriptors mostly.
const BACK_OFF: std::time::Duration = std::time::Duration::from_millis(50);

/// Who may connect: everybody whom the socket's mode lets in, or only root, the daemon's user and the socket's owner.
#[derive(Clone, Copy, Debug)]
pub enum Admission {
    ByMode,
    Owner { uid: u32 },
}

impl Admission {
    fn admits(self, stream: &UnixStream) -> bool {
        let Self::Owner { uid } = self else { return true };
        match stream.peer_cred() {
            Ok(peer) if [0, uid, rustix::process::geteuid().as_raw()].contains(&peer.uid()) => true,
            Ok(peer) => {
                tracing::warn!(
                    uid = peer.uid(),
                    pid = peer.pid().unwrap_or(0),
                    "connection of another user refused"
                );
                false
            }
            Err(error) => {
                tracing::warn!(%error, "connection of an unknown user refused");
                false
            }
        }
    }
}

/// A unix socket that hands out connections of those who may connect, a bounded number at a time.
pub struct Door {
    listener: UnixListener,
    admission: Admission,
    places: Arc<Semaphore>,
}

impl Door {
    pub fn new(listener: StdListener, admission: Admission) -> std::io::Result<Self> {
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { listener, admission, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) })
    }

    /// The next connection, with its place. Never ends; dropping the future loses nobody.
    pub async fn next(&self) -> (UnixStream, OwnedSemaphorePermit) {
        loop {
            let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) if self.admission.admits(&stream) => return (stream, place),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }
}
