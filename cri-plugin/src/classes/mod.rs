//! Classes that containers name, by annotation or through plugins, and the files that say what a class is.
//!
//! - `blockio`: weights and throttles of block devices. `devices`, `quantity`: what its file is written in.
//! - `rdt`: shares of caches and of the memory's bandwidth, by groups that somebody else makes.
//!
//! Files are read once, at start; a change counts after a restart, as with containerd. Devices are looked up whenever a
//! container asks for its class, so that a disk that came later is limited too.

mod blockio;
mod devices;
mod quantity;
pub mod rdt;

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use rdt::{Origin, Rdt};

/// Where the files are named.
const TABLE: &str = "[plugins.\"io.containerd.service.v1.tasks-service\"]";
const MAX_FILE: u64 = 4 << 20;

/// The keys of `io.containerd.service.v1.tasks-service`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub blockio_config_file: String,
    pub rdt_config_file: String,
}

impl Config {
    pub fn validate(&self) -> windlass_core::Result<()> {
        for (key, path) in
            [("blockio_config_file", &self.blockio_config_file), ("rdt_config_file", &self.rdt_config_file)]
        {
            if !path.is_empty() && !path.starts_with('/') {
                return Err(windlass_core::Error::invalid(format!(
                    "{key}: {path:?} is not an absolute path"
                )));
            }
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {what}", path.display())]
    Content { path: PathBuf, line: usize, what: String },
    /// There are no classes of this kind; the text says why, and what to do about it.
    #[error("{0}")]
    Disabled(String),
    #[error("there is no blockio class {class:?} in {}, which has {known}", path.display())]
    Unknown { class: String, path: PathBuf, known: String },
    #[error("there is no control group {class:?} in {}: make it, or name another RDT class", mount.display())]
    NoGroup { class: String, mount: PathBuf },
    #[error("RDT class {class:?} must not be named so: {key} in {}", path.display())]
    Denied { class: String, path: PathBuf, key: &'static str },
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Io { source, .. } => Self::io(message, source),
            Error::Content { .. } => Self::invalid(message),
            Error::Disabled(_) | Error::Unknown { .. } | Error::NoGroup { .. } | Error::Denied { .. } => {
                Self::precondition(message)
            }
        }
    }
}

/// All classes. The default has none.
#[derive(Debug, Default)]
pub struct Classes {
    block_io: Option<blockio::File>,
    /// Why there are none, where they have been asked for.
    failed: Option<String>,
    pub rdt: Rdt,
    /// Whether it has been said that classes are left out, of block I/O and of RDT.
    told: [AtomicBool; 2],
}

impl Classes {
    /// Reads the files that configuration names. Blocks.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let block_io = match config.blockio_config_file.as_str() {
            "" => None,
            path => Some(blockio::File::read(Path::new(path))?),
        };
        if let Some(file) = &block_io {
            for class in file.names() {
                file.class(class, |pattern| tell_unused(file, class, pattern));
            }
        }
        let rdt = Rdt::new(&config.rdt_config_file)?;
        if let Some(why) = rdt.ineffective() {
            tracing::warn!("{why}");
        }
        Ok(Self { block_io, rdt, ..Self::default() })
    }

    /// None at all, because their plugin is not there.
    pub fn failed(why: String) -> Self {
        Self { rdt: Rdt::failed(why.clone()), failed: Some(why), ..Self::default() }
    }

    /// A block I/O class as `linux.resources.blockIO`. *Disabled* where no file names any. Blocks.
    pub fn block_io(&self, class: &str) -> Result<Value, Error> {
        let Some(file) = &self.block_io else {
            return Err(Error::Disabled(match &self.failed {
                Some(why) => why.clone(),
                None => format!("blockio_config_file under {TABLE} names no file of classes"),
            }));
        };
        file.class(class, |pattern| tell_unused(file, class, pattern)).ok_or_else(|| {
            let known: Vec<_> = file.names().collect();
            Error::Unknown {
                class: class.to_owned(),
                path: file.path.clone(),
                known: if known.is_empty() { "none".into() } else { known.join(", ") },
            }
        })
    }

    /// Logs, the first time, that containers run without the block I/O classes they name.
    pub fn leave_out_block_io(&self, why: &str) {
        if !self.told[0].swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "blockio disabled, containers run without the blockio classes they name \
                 (ignore_blockio_not_enabled_errors): {why}"
            );
        }
    }

    /// The same for RDT classes.
    pub fn leave_out_rdt(&self, why: &str) {
        if !self.told[1].swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "RDT disabled, containers run without the RDT classes they name (ignore_rdt_not_enabled_errors): {why}"
            );
        }
    }

    /// Classes of RDT alone, with a directory in the place of resctrl.
    #[cfg(test)]
    pub fn of_rdt(mount: &Path, file: &str) -> Self {
        Self { rdt: Rdt::at(mount, file), ..Self::default() }
    }
}

fn tell_unused(file: &blockio::File, class: &str, pattern: &str) {
    tracing::warn!(
        class, pattern, file = %file.path.display(),
        "blockio class: no block device, partitions aside, matches; the class does without"
    );
}

/// The text of a file of a sensible size.
fn text(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let mut options = std::fs::File::options();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        let what = format!("not a file of at most {MAX_FILE} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, what)));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str) -> (tempfile::TempDir, Result<Classes, Error>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.yaml");
        std::fs::write(&path, text).unwrap();
        let blockio_config_file = path.to_string_lossy().into_owned();
        let classes = Classes::new(&Config { blockio_config_file, ..Config::default() });
        (dir, classes)
    }

    #[test]
    fn a_class_is_known_unknown_or_there_are_none() {
        let (dir, classes) = with_file("Classes: {slow: [{Weight: 10}], fast: [{Weight: 900}]}");
        let classes = classes.unwrap();
        assert_eq!(classes.block_io("slow").unwrap(), serde_json::json!({"weight": 10}));
        let error = classes.block_io("gold").unwrap_err().to_string();
        let file = dir.path().join("b.yaml");
        assert_eq!(
            error,
            format!("there is no blockio class \"gold\" in {}, which has fast, slow", file.display())
        );
        let none = Classes::default().block_io("slow").unwrap_err();
        assert!(matches!(&none, Error::Disabled(why) if why.contains("blockio_config_file")), "{none}");
        let failed = Classes::failed("it broke".into());
        for error in [failed.block_io("slow").unwrap_err(), failed.rdt.clos("slow").unwrap_err()] {
            assert!(matches!(&error, Error::Disabled(why) if why == "it broke"), "{error}");
        }
        let (_dir, broken) = with_file("Classes: [");
        assert!(broken.is_err());
    }

    #[test]
    fn paths_are_absolute() {
        let config = Config { rdt_config_file: "rdt.yaml".into(), ..Config::default() };
        let error = config.validate().unwrap_err();
        assert!(error.message().contains("rdt_config_file: \"rdt.yaml\""), "{error:?}");
        Config { blockio_config_file: "/b.yaml".into(), ..Config::default() }.validate().unwrap();
    }
}
