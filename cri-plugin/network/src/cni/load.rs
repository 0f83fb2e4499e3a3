//! The networks that the configuration directory has, kept up to date.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Sender;

use super::config::{NetworkConfig, PluginConfig};
use super::watch::{Watch, is_config};
use crate::error::{Error, Result};

/// Most that a configuration file may have.
const MAX_FILE: u64 = 1 << 20;
/// Most files that are looked at.
const MAX_FILES: usize = 1024;
/// Before watching is tried again where the kernel refuses.
const PAUSE: Duration = Duration::from_secs(30);

/// What was loaded.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The first is that of the first interface. Those of the last load that went well, unless there is nothing any more.
    pub networks: Vec<Arc<NetworkConfig>>,
    /// What went wrong in the last load.
    pub error: Option<Arc<Error>>,
}

/// Where, and how many networks: nought for all.
#[derive(Clone, Debug)]
pub struct Loader {
    pub dir: PathBuf,
    pub max: usize,
}

impl Loader {
    /// Loads now. Blocks.
    pub fn load(&self, before: &State) -> State {
        match self.read() {
            Ok(networks) => State { networks, error: None },
            // Nothing there is an order too: the network has been taken away.
            Err(error @ Error::NoNetwork(_)) => State { networks: Vec::new(), error: Some(Arc::new(error)) },
            Err(error) => State { networks: before.networks.clone(), error: Some(Arc::new(error)) },
        }
    }

    fn read(&self) -> Result<Vec<Arc<NetworkConfig>>> {
        let mut networks = Vec::new();
        for path in files(&self.dir, is_config)? {
            networks.push(Arc::new(network(&path)?));
            if networks.len() == self.max {
                break;
            }
        }
        if networks.is_empty() { Err(Error::NoNetwork(self.dir.clone())) } else { Ok(networks) }
    }

    /// Loads at every change, for ever.
    pub async fn follow(self, state: Arc<Sender<State>>) {
        let mut inner = self.inner(&state.borrow());
        loop {
            // Watched first, then loaded: no change falls in between.
            let mut watch = match Watch::new(&self.dir, &inner) {
                Ok(watch) => Some(watch),
                Err(error) => {
                    let dir = self.dir.display();
                    tracing::error!(%error, %dir, "network configurations cannot be watched");
                    None
                }
            };
            let (loader, before) = (self.clone(), state.borrow().clone());
            let Ok(loaded) = tokio::task::spawn_blocking(move || loader.load(&before)).await else { return };
            let again = self.inner(&loaded);
            self.publish(&state, loaded);
            // A network that is new may have files of its own.
            if again != inner {
                inner = again;
                continue;
            }
            let noticed = match &mut watch {
                Some(watch) => watch.changed().await.is_ok(),
                None => false,
            };
            if !noticed {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn publish(&self, state: &Sender<State>, loaded: State) {
        let words = |state: &State| state.error.as_ref().map(|error| error.chain());
        let (was, is) = (words(&state.borrow()), words(&loaded));
        if was != is {
            match &is {
                Some(error) => tracing::warn!(error, "network configuration"),
                None => tracing::info!(network = loaded.networks[0].name, "network configuration loaded"),
            }
        }
        let same = |a: &State| {
            was == is
                && a.networks.len() == loaded.networks.len()
                && a.networks.iter().zip(&loaded.networks).all(|(a, b)| a.bytes == b.bytes)
        };
        state.send_if_modified(|state| {
            let changed = !same(state);
            if changed {
                *state = loaded.clone();
            }
            changed
        });
    }

    /// The directories in which networks may have more plugins.
    fn inner(&self, state: &State) -> Vec<PathBuf> {
        let own = state.networks.iter().filter(|network| !network.only_inlined);
        own.map(|network| self.dir.join(&network.name)).collect()
    }
}

/// Reads a network with all its plugins.
fn network(path: &Path) -> Result<NetworkConfig> {
    let wrong = |why| Error::Config { path: path.to_owned(), why };
    let bytes = read(path)?;
    if path.extension() != Some(OsStr::new("conflist")) {
        return NetworkConfig::single(&bytes).map_err(wrong);
    }
    let mut network = NetworkConfig::list(&bytes).map_err(wrong)?;
    if !network.only_inlined {
        let dir = path.parent().unwrap_or(Path::new("/")).join(&network.name);
        let mut plugins = Vec::new();
        for path in files(&dir, |name| Path::new(name).extension() == Some(OsStr::new("conf")))? {
            let plugin = PluginConfig::parse(&read(&path)?);
            plugins.push(plugin.map_err(|why| Error::Config { path, why })?);
        }
        network.append(plugins);
    }
    if network.plugins.is_empty() {
        return Err(wrong("no plugin configs found".into()));
    }
    Ok(network)
}

/// The files of a directory that have the right name, in order. None where there is no directory.
fn files(dir: &Path, fit: impl Fn(&OsStr) -> bool) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(Error::io("list", dir)(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        if !fit(&entry.file_name()) || entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if files.len() == MAX_FILES {
            return Err(Error::Config { path: dir.to_owned(), why: format!("more than {MAX_FILES} files") });
        }
        files.push(entry.path());
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        // A pipe of that name must not hold anybody up.
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(Error::io("read CNI config", path))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::Config { path: path.to_owned(), why: format!("larger than {MAX_FILE} bytes") });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), text).unwrap();
    }

    fn names(state: &State) -> Vec<&str> {
        state.networks.iter().map(|network| network.name.as_str()).collect()
    }

    #[test]
    fn the_first_files_count() {
        let dir = tempfile::tempdir().unwrap();
        let loader = |max| Loader { dir: dir.path().into(), max };
        let empty = loader(1).load(&State::default());
        assert!(empty.error.unwrap().to_string().ends_with("cni plugin not initialized"));
        write(dir.path(), "20-b.conf", r#"{"name":"b","type":"x"}"#);
        write(dir.path(), "10-a.conflist", r#"{"name":"a","plugins":[{"type":"x"}]}"#);
        write(dir.path(), "05.txt", "nothing");
        write(dir.path(), "30-c.json", "{");
        fs::create_dir(dir.path().join("00.conf")).unwrap();
        assert_eq!(names(&loader(1).load(&State::default())), ["a"]);
        let two = loader(2).load(&State::default());
        assert_eq!(names(&two), ["a", "b"]);
        // The broken one is the third: what was there before stays.
        let all = loader(0).load(&two);
        assert_eq!(names(&all), ["a", "b"]);
        assert!(all.error.unwrap().chain().contains("30-c.json"));
    }

    #[test]
    fn plugins_of_their_own_files() {
        let dir = tempfile::tempdir().unwrap();
        let loader = Loader { dir: dir.path().into(), max: 1 };
        write(dir.path(), "a.conflist", r#"{"name":"a","cniVersion":"1.1.0"}"#);
        assert!(loader.load(&State::default()).error.unwrap().chain().contains("no plugin configs found"));
        write(dir.path(), "a/2.conf", r#"{"type":"two"}"#);
        write(dir.path(), "a/1.conf", r#"{"type":"one"}"#);
        let state = loader.load(&State::default());
        let kinds =
            |state: &State| state.networks[0].plugins.iter().map(|p| p.kind.clone()).collect::<Vec<_>>();
        assert_eq!(kinds(&state), ["one", "two"]);
        // The cache's copy has them too.
        assert_eq!(NetworkConfig::any(&state.networks[0].bytes).unwrap().plugins.len(), 2);
        let only = r#"{"name":"a","loadOnlyInlinedPlugins":true,"plugins":[{"type":"x"}]}"#;
        write(dir.path(), "a.conflist", only);
        assert_eq!(kinds(&loader.load(&State::default())), ["x"]);
    }
}
