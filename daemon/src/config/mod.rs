//! The daemon's configuration: containerd's `config.toml`, versions 2, 3 and 4, its imports and drop-in files.
//!
//! Everything is checked before anything starts: a wrong value is an error that names file, line and key, an unknown key
//! a warning that does. What is checked here knows no plugin; each plugin checks its own table.

mod document;
mod load;
mod merge;
mod migrate;
mod print;
mod schema;
mod settings;

use std::fmt;
use std::path::PathBuf;

pub use document::Place;
pub use load::{Config, load};
pub use print::{defaults, migrated};
pub use settings::{Endpoint, Format, Settings, Tcp};

/// The newest version of the file, which older ones are migrated to.
pub const VERSION: i64 = 4;

pub const DEFAULT_FILE: &str = "/etc/windlass/config.toml";
pub const DEFAULT_ROOT: &str = "/var/lib/windlass";
pub const DEFAULT_STATE: &str = "/run/windlass";
pub const DEFAULT_ADDRESS: &str = "/run/windlass/windlass.sock";

pub const SERVER_GRPC: &str = "io.containerd.server.v1.grpc";
pub const SERVER_TCP: &str = "io.containerd.server.v1.grpc-tcp";
pub const SERVER_TTRPC: &str = "io.containerd.server.v1.ttrpc";
pub const SERVER_DEBUG: &str = "io.containerd.server.v1.debug";
pub const SERVER_METRICS: &str = "io.containerd.server.v1.metrics";
pub const GRPC_METRICS: &str = "io.containerd.metrics.v1.grpc-prometheus";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read configuration {}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("configuration {} has {size} bytes, more than a configuration can have", file.display())]
    TooLarge { file: PathBuf, size: u64 },
    #[error("configuration {} imports more than {limit} files", file.display())]
    TooMany { file: PathBuf, limit: usize },
    #[error("{place}: {why}")]
    Syntax { place: Place, why: String },
    #[error("{}{key}: {why}", At(place))]
    Value { place: Option<Place>, key: String, why: String },
}

struct At<'a>(&'a Option<Place>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |place| write!(f, "{place}: "))
    }
}

/// Something in a configuration that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub place: Option<Place>,
    pub key: String,
    pub why: String,
}

impl Warning {
    fn unknown(document: &document::Document, path: &[String]) -> Self {
        Self::at(document, path, "unknown key, ignored")
    }

    fn at(document: &document::Document, path: &[String], why: &str) -> Self {
        Self { place: document.place(path).cloned(), key: document::shown(path), why: why.to_owned() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}: {}", At(&self.place), self.key, self.why)
    }
}
