//! The socket on which plugins register.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::{Error, Result};
use crate::host::{Shared, warn};

/// Plugins that are registering at a time; others wait in the socket's queue.
const JOINING: usize = 16;
/// Between two attempts where there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}

/// Listens on `path` until the host ends; what it answers is done when the socket is gone.
pub async fn listen(shared: Arc<Shared>, path: PathBuf) -> Result<JoinHandle<()>> {
    let socket = path.clone();
    let bound = spawn_blocking(move || bind(&socket)).await.map_err(|_| Error::Closed)?;
    let (listener, inode) = bound?;
    let listener = UnixListener::from_std(listener).map_err(failed("listen on", &path))?;
    Ok(tokio::spawn(async move {
        let end = shared.end.clone();
        end.run_until_cancelled(accept(shared, listener)).await;
        // Unless it is another's by now.
        let remove = move || match fs::symlink_metadata(&path) {
            Ok(meta) if (meta.dev(), meta.ino()) == inode => drop(fs::remove_file(&path)),
            _ => {}
        };
        let _ = spawn_blocking(remove).await;
    }))
}

/// Whether it could not be listened because another process does.
pub fn taken(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
}

/// A socket that nobody but its owner can connect to at any time: it is given its mode before it has its name. With it
/// comes which file it is.
fn bind(path: &Path) -> Result<(std::os::unix::net::UnixListener, (u64, u64))> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).map_err(failed("make directory", dir))?;
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            let source =
                io::Error::new(io::ErrorKind::AlreadyExists, "there is something else than a socket");
            return Err(failed("listen on", path)(source));
        }
        // Somebody who lives keeps what is his.
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(failed("listen on", path)(io::ErrorKind::AddrInUse.into()));
        }
        _ => {}
    }
    let fresh = dir.join(format!(".{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let listener = std::os::unix::net::UnixListener::bind(&fresh).map_err(failed("listen on", &fresh))?;
    let named = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| listener.set_nonblocking(true))
        .and_then(|()| fs::symlink_metadata(path));
    match named {
        Ok(meta) => Ok((listener, (meta.dev(), meta.ino()))),
        Err(error) => {
            let _ = fs::remove_file(&fresh);
            Err(failed("listen on", path)(error))
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: UnixListener) {
    let joining = Arc::new(Semaphore::new(JOINING));
    while let Ok(permit) = joining.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept NRI plugin");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = shared.admit(stream).await {
                warn(error, "NRI plugin did not join");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_private_and_replaces_a_stale_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/nri.sock");
        let first = bind(&path).unwrap().0;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = bind(&path).unwrap_err();
        assert!(taken(&error), "{error}");
        drop(first);
        let _second = bind(&path).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let file = dir.path().join("file");
        fs::write(&file, "keep").unwrap();
        assert!(bind(&file).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"keep");
    }
}
