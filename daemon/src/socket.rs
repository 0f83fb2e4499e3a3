//! Listening on unix sockets: stale ones are replaced, those of a living daemon are not.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::config::Endpoint;

/// Binds a socket: mode 0600, or 0660 where configuration names a group that may use it.
pub fn bind(endpoint: &Endpoint) -> Result<UnixListener> {
    let path = endpoint.path.as_path();
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
    }
    clear(path)?;
    // Bound under a name of its own, then given owner and mode, then moved: nobody connects in between.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push("~");
    let hidden = Path::new(&hidden);
    let doing = || format!("listen on {}", path.display());
    remove(hidden).with_context(doing)?;
    let bound = if hidden.as_os_str().len() <= 107 { hidden } else { path };
    let listener = UnixListener::bind(bound).with_context(doing)?;
    std::fs::set_permissions(bound, std::fs::Permissions::from_mode(mode(endpoint))).with_context(doing)?;
    if endpoint.uid.is_some() || endpoint.gid.is_some() {
        std::os::unix::fs::chown(bound, endpoint.uid, endpoint.gid).with_context(doing)?;
    }
    if bound != path {
        std::fs::rename(bound, path).with_context(doing)?;
    }
    listener.set_nonblocking(true).with_context(doing)?;
    Ok(listener)
}

/// Whether a group may use the socket: then its mode says who, else only its owner and root.
pub fn shared(endpoint: &Endpoint) -> bool {
    endpoint.gid.is_some_and(|gid| gid != rustix::process::getegid().as_raw())
}

fn mode(endpoint: &Endpoint) -> u32 {
    if shared(endpoint) { 0o660 } else { 0o600 }
}

/// Removes what a dead daemon left; refuses what is not a socket, or is one that somebody listens on.
fn clear(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} is there and is not a socket; move it away or choose another --address", path.display())
        }
        Ok(_) => {}
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another daemon listens on {}; stop it or choose another --address", path.display());
    }
    remove(path).with_context(|| format!("remove the stale socket {}", path.display()))
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(dir: &tempfile::TempDir) -> Endpoint {
        Endpoint { path: dir.path().join("deep/er/a.sock"), ..Endpoint::default() }
    }

    #[test]
    fn stale_sockets_are_replaced_and_live_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = endpoint(&dir);
        drop(bind(&endpoint).unwrap());
        let _alive = bind(&endpoint).unwrap();
        let mode = std::fs::metadata(&endpoint.path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let said = bind(&endpoint).unwrap_err().to_string();
        assert!(said.contains("another daemon listens"), "{said}");
    }

    #[test]
    fn a_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint { path: dir.path().join("a"), ..Endpoint::default() };
        std::fs::write(&endpoint.path, "mine").unwrap();
        assert!(bind(&endpoint).unwrap_err().to_string().contains("not a socket"));
        assert_eq!(std::fs::read(&endpoint.path).unwrap(), b"mine");
    }
}
