//! A channel to a daemon on its unix socket.

use std::path::Path;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use windlass_core::{Error, Result};

/// Largest message either way, as containerd's clients and servers have it. tonic's default for decoding is 4 MiB, and
/// the limit belongs to each client and server: `.max_decoding_message_size(MAX_MESSAGE)`, and the same for encoding.
pub const MAX_MESSAGE: usize = 16 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A blob travels in messages of up to a megabyte: a stream should hold one, the connection several.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

fn endpoint(path: &Path) -> Result<Endpoint> {
    let text = path.to_str().ok_or_else(|| Error::invalid(format!("socket path {path:?} is not UTF-8")))?;
    let bare = text.strip_prefix("unix://").unwrap_or(text);
    let endpoint = Endpoint::from_shared(format!("unix://{bare}"))
        .map_err(|source| Error::invalid(format!("socket path {path:?}")).with_source(source))?;
    Ok(endpoint
        // Go's servers accept any authority; h2's refuse one that is a path.
        .origin(http::Uri::from_static("http://localhost"))
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

/// Connects to the socket at `path` (`unix://` before it is allowed). The channel connects again by itself when the
/// daemon has been restarted.
pub async fn connect(path: impl AsRef<Path>) -> Result<Channel> {
    let path = path.as_ref();
    endpoint(path)?.connect().await.map_err(|source| refused(path, source))
}

/// Like [`connect`], but connects at the first call.
pub fn connect_lazily(path: impl AsRef<Path>) -> Result<Channel> {
    Ok(endpoint(path.as_ref())?.connect_lazy())
}

fn refused(path: &Path, source: tonic::transport::Error) -> Error {
    use std::io::ErrorKind;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&source);
    let mut kind = None;
    while let Some(error) = cause {
        kind = kind.or_else(|| error.downcast_ref::<std::io::Error>().map(std::io::Error::kind));
        cause = error.source();
    }
    let socket = path.display();
    match kind {
        Some(ErrorKind::PermissionDenied) => Error::denied(format!(
            "connect to {socket}: permission denied; run as the user who runs the daemon"
        )),
        Some(ErrorKind::NotFound) => {
            Error::unavailable(format!("connect to {socket}: no such socket; is the daemon running?"))
        }
        Some(ErrorKind::ConnectionRefused) => {
            Error::unavailable(format!("connect to {socket}: nobody listens; is the daemon running?"))
        }
        _ => Error::unavailable(format!("connect to {socket}")).with_source(source),
    }
}

#[cfg(test)]
mod tests {
    use windlass_core::Class;

    use super::*;

    #[tokio::test]
    async fn a_missing_daemon_is_said_plainly() {
        let dir = tempfile::tempdir().unwrap();
        let error = connect(dir.path().join("none.sock")).await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.message().contains("no such socket"), "{error}");
        let stale = dir.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        let error = connect(format!("unix://{}", stale.display())).await.unwrap_err();
        assert!(error.message().contains("nobody listens"), "{error}");
    }
}
