//! Plugins that are installed here: found, and started with a connection as descriptor 3.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::error::{Error, Result};
use crate::peer::Identity;

/// Longest configuration of a plugin.
const MAX_CONFIG: u64 = 1 << 20;
/// The descriptor that a plugin finds its connection at.
const SOCKET: i32 = 3;
/// How a WebAssembly module starts.
const WASM: [u8; 4] = *b"\0asm";

/// A plugin that can be started.
#[derive(Debug, PartialEq)]
pub struct Installed {
    pub identity: Identity,
    pub path: PathBuf,
    pub config: String,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}

/// All plugins in `dir` in the order of their names. What is not a plugin is logged and left out. Blocks.
pub fn discover(dir: &Path, configs: &Path) -> Result<Vec<Installed>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("read directory", dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("read directory", dir))?.path();
        match installed(&path, configs) {
            Ok(Some(plugin)) => found.push(plugin),
            Ok(None) => {}
            Err(error) => {
                let error = windlass_core::Error::from(error).chain();
                tracing::warn!(path = %path.display(), error, "NRI plugin left out");
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn installed(path: &Path, configs: &Path) -> Result<Option<Installed>> {
    // A link to a plugin is a plugin.
    let meta = fs::metadata(path).map_err(failed("look at", path))?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Ok(None);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let identity = Identity::parse(name)?;
    let mut start = [0; WASM.len()];
    let read = File::open(path).and_then(|mut file| file.read(&mut start)).map_err(failed("read", path))?;
    if read == start.len() && start == WASM {
        return Err(Error::Name {
            name: identity.base,
            index: identity.index,
            reason: "WebAssembly is not supported, install an executable",
        });
    }
    let config = config(configs, &identity)?;
    Ok(Some(Installed { identity, path: path.to_owned(), config }))
}

/// What the plugin is configured with: the file with its index goes before the one without.
fn config(dir: &Path, identity: &Identity) -> Result<String> {
    for name in [format!("{identity}.conf"), format!("{}.conf", identity.base)] {
        let path = dir.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.map_err(failed("open", &path))?,
        };
        let mut text = String::new();
        file.take(MAX_CONFIG + 1).read_to_string(&mut text).map_err(failed("read", &path))?;
        if text.len() as u64 > MAX_CONFIG {
            let source = io::Error::other("longer than 1 MiB");
            return Err(Error::Io { operation: "read", path, source });
        }
        return Ok(text);
    }
    Ok(String::new())
}

/// Starts a plugin; answers this end of its connection, and the process, which is killed when dropped. Blocks, inside a
/// tokio runtime.
pub fn start(plugin: &Installed) -> Result<(UnixStream, Child)> {
    let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket pair for", &plugin.path))?;
    ours.set_nonblocking(true).map_err(failed("set up a socket for", &plugin.path))?;
    let mut command = Command::new(&plugin.path);
    command
        .env_clear()
        .env("NRI_PLUGIN_NAME", &plugin.identity.base)
        .env("NRI_PLUGIN_IDX", &plugin.identity.index)
        .env("NRI_PLUGIN_SOCKET", SOCKET.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let socket = theirs.as_raw_fd();
    // SAFETY: between fork and exec it only calls dup2 and fcntl, which are async-signal-safe, on a descriptor that
    // `theirs` keeps open until the process has been spawned.
    unsafe {
        command.pre_exec(move || pass(socket));
    }
    let child = command.spawn().map_err(failed("start", &plugin.path))?;
    Ok((ours, child))
}

/// Makes `socket` descriptor 3 of the program that is executed next.
fn pass(socket: i32) -> io::Result<()> {
    // SAFETY: neither call touches memory.
    let result = unsafe {
        if socket == SOCKET { libc::fcntl(SOCKET, libc::F_SETFD, 0) } else { libc::dup2(socket, SOCKET) }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_found_by_name_with_their_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (plugins, configs) = (dir.path().join("plugins"), dir.path().join("conf.d"));
        assert_eq!(discover(&plugins, &configs).unwrap(), []);
        fs::create_dir_all(plugins.join("30-directory")).unwrap();
        fs::create_dir_all(&configs).unwrap();
        for (name, mode) in
            [("20-b", 0o755), ("10-a", 0o700), ("15-text", 0o644), ("noindex", 0o755), ("40-w", 0o755)]
        {
            fs::write(plugins.join(name), if name == "40-w" { "\0asm\x01\0\0\0" } else { "#!/bin/sh\n" })
                .unwrap();
            fs::set_permissions(plugins.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::write(configs.join("a.conf"), "general").unwrap();
        fs::write(configs.join("b.conf"), "general").unwrap();
        fs::write(configs.join("20-b.conf"), "special").unwrap();
        let found = discover(&plugins, &configs).unwrap();
        let all: Vec<_> = found.iter().map(|p| (p.identity.to_string(), p.config.as_str())).collect();
        assert_eq!(all, [("10-a".to_owned(), "general"), ("20-b".to_owned(), "special")]);
        // One that cannot be configured is left out alone.
        fs::write(configs.join("10-a.conf"), vec![b'x'; MAX_CONFIG as usize + 1]).unwrap();
        assert_eq!(discover(&plugins, &configs).unwrap().len(), 1);
    }
}
