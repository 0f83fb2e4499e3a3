//! What goes wrong with directories, and the class that clients see.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// For `map_err`: an operating system error with what was done to which path.
    pub fn io<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source: source.into() }
    }
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            // A missing directory is no missing snapshot: callers would take it for that.
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::internal(message).with_source(source)
            }
            Error::Io { source, .. } => Self::io(message, source),
        }
    }
}
