//! From a runtime's name to its binary.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Finds binaries and remembers where they were.
pub struct Resolver {
    configured: BTreeMap<String, PathBuf>,
    /// The daemon's directory.
    beside: Option<PathBuf>,
    found: Mutex<HashMap<String, PathBuf>>,
}

impl Resolver {
    pub fn new(configured: BTreeMap<String, PathBuf>, executable: &Path) -> Self {
        Self { configured, beside: executable.parent().map(Path::to_owned), found: Mutex::default() }
    }

    /// `io.containerd.runc.v2` is `containerd-shim-runc-v2`, beside the daemon or in PATH; an absolute path is itself.
    pub fn resolve(&self, runtime: &str) -> Result<PathBuf> {
        if let Some(path) = self.configured.get(runtime) {
            return exists(path);
        }
        if runtime.starts_with('/') {
            return exists(Path::new(runtime));
        }
        let binary = binary_name(runtime).ok_or_else(|| Error::RuntimeName(runtime.to_owned()))?;
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&binary).cloned();
        // A binary that was moved by an upgrade is looked for again.
        if let Some(path) = known.filter(|path| is_program(path)) {
            return Ok(path);
        }
        let path = std::env::var_os("PATH");
        let found = self
            .candidates(&binary, path.as_deref())
            .find(|path| is_program(path))
            .ok_or_else(|| Error::NotInstalled { runtime: runtime.to_owned(), binary: binary.clone() })?;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(binary, found.clone());
        Ok(found)
    }

    fn candidates<'a>(
        &'a self,
        binary: &'a str,
        path: Option<&'a OsStr>,
    ) -> impl Iterator<Item = PathBuf> + 'a {
        let in_path = path.into_iter().flat_map(std::env::split_paths).filter(|dir| dir.is_absolute());
        self.beside.clone().into_iter().chain(in_path).map(move |dir| dir.join(binary))
    }
}

fn exists(path: &Path) -> Result<PathBuf> {
    path.metadata().map_err(|source| Error::BinaryPath { path: path.to_owned(), source })?;
    Ok(path.to_owned())
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The last two parts of the name make the binary's.
fn binary_name(runtime: &str) -> Option<String> {
    if runtime.contains('/') || runtime.contains('\0') {
        return None;
    }
    let parts: Vec<&str> = runtime.split('.').collect();
    match parts.as_slice() {
        ["", ..] => None,
        [.., name, version] => Some(format!("containerd-shim-{name}-{version}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_binaries() {
        assert_eq!(binary_name("io.containerd.runc.v2").unwrap(), "containerd-shim-runc-v2");
        assert_eq!(binary_name("kata.v2").unwrap(), "containerd-shim-kata-v2");
        for bad in ["", "runc", ".a", "a/b.v1", "./x.v2"] {
            assert_eq!(binary_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn beside_the_daemon_comes_first_and_configuration_before_all() {
        let dir = tempfile::tempdir().unwrap();
        let shim = dir.path().join("containerd-shim-test-v9");
        std::fs::write(&shim, "").unwrap();
        let mut resolver = Resolver::new(BTreeMap::new(), &dir.path().join("daemon"));
        assert!(matches!(resolver.resolve("io.test.v9"), Err(Error::NotInstalled { .. })));
        std::fs::set_permissions(&shim, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(resolver.resolve("io.test.v9").unwrap(), shim);
        assert_eq!(resolver.resolve(shim.to_str().unwrap()).unwrap(), shim);
        assert!(matches!(resolver.resolve("/no/such/shim"), Err(Error::BinaryPath { .. })));
        resolver.configured.insert("io.test.v9".into(), "/bin/sh".into());
        assert_eq!(resolver.resolve("io.test.v9").unwrap(), Path::new("/bin/sh"));
    }
}
