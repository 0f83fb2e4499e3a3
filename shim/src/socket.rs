//! The shim's own socket: where containerd expects it, made without a race and without waiting for a stale one.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};

/// Where shims' sockets are when the daemon does not say.
pub const DEFAULT_DIR: &str = "/run/containerd/s";

/// The longest path that containerd accepts for a unix socket.
const PATH_LIMIT: usize = 106;

/// How a `start` ends.
pub enum Bound {
    /// A new socket, listening.
    New(OwnedFd),
    /// A living shim already serves the group.
    Existing,
}

/// Path of the socket of a group of containers: the digest of the daemon's address, the namespace and the group.
pub fn path(dir: &Path, daemon: &str, namespace: &str, group: &str) -> PathBuf {
    let joined = join(&[daemon, namespace, group]);
    let digest = Sha256::digest(joined.as_bytes());
    let mut name = String::with_capacity(64);
    for byte in digest {
        for nibble in [byte >> 4, byte & 15] {
            name.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is a hexadecimal digit"));
        }
    }
    dir.join(name)
}

/// Go's `filepath.Join`: joined by slashes and lexically cleaned.
fn join(parts: &[&str]) -> String {
    let joined: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    let joined = joined.join("/");
    let absolute = joined.starts_with('/');
    let mut clean: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." if clean.last().is_some_and(|last| *last != "..") => {
                clean.pop();
            }
            ".." if absolute => {}
            other => clean.push(other),
        }
    }
    format!("{}{}", if absolute { "/" } else { "" }, clean.join("/"))
}

/// Binds and listens, or finds the shim that already does. A socket that nobody answers on is replaced at once.
pub fn bind(path: &Path) -> Result<Bound> {
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(Error::invalid(format!(
            "{}: unix socket path too long (> {PATH_LIMIT})",
            path.display()
        )));
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    if !dir.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).at("make directory", dir)?;
    }
    // Between bind and listen a socket looks stale; the lock keeps two starts of one group apart.
    let lock = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .at("open", dir)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).at("lock", dir)?;
    match listen(path) {
        Ok(fd) => return Ok(Bound::New(fd)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => return Err(error).at("bind", path),
    }
    if alive(path) {
        return Ok(Bound::Existing);
    }
    fs::remove_file(path).at("remove stale socket", path)?;
    listen(path).map(Bound::New).at("bind", path)
}

/// Removes a socket that nobody listens on.
pub fn remove_stale(path: &Path) {
    if !alive(path) {
        // It is not there if the shim removed it itself.
        let _ = fs::remove_file(path);
    }
}

fn listen(path: &Path) -> io::Result<OwnedFd> {
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&fd, 128)?;
    Ok(fd)
}

/// Whether somebody listens. Never blocks: a full backlog counts as alive.
fn alive(path: &Path) -> bool {
    let connect = || -> io::Result<()> {
        let fd = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok(rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?)
    };
    match connect() {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_the_digest_of_the_joined_names() {
        let path = path(Path::new(DEFAULT_DIR), "/run/containerd/containerd.sock", "default", "x");
        // sha256("/run/containerd/containerd.sock/default/x")
        assert_eq!(path.to_str().unwrap().len(), DEFAULT_DIR.len() + 65);
        assert_eq!(join(&["/run//a/", "./b", "../c"]), "/run/a/c");
        assert_eq!(join(&["", "ns", "id"]), "ns/id");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let Bound::New(first) = bind(&path).unwrap() else { panic!("nothing is there yet") };
        assert!(matches!(bind(&path).unwrap(), Bound::Existing));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(first);
        assert!(path.exists());
        assert!(matches!(bind(&path).unwrap(), Bound::New(_)));
    }
}
