//! What keeps a specification from being made, and the class that clients see.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for makes no sense, whoever asks.
    #[error("{0}")]
    Invalid(String),
    /// What was asked for is not to be had on this machine, or with this configuration.
    #[error("{0}")]
    Unsupported(String),
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// A file that was read but not understood.
    #[error("{operation} {}", path.display())]
    Parse { operation: &'static str, path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Error {
    /// For `map_err`: an operating system error with what was done to which path.
    pub fn io<E: Into<io::Error>>(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { operation, path, source: source.into() }
    }

    /// For `map_err`: a file that cannot be read as what it should be.
    pub fn parse<E>(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = path.as_ref().to_owned();
        move |source| Self::Parse { operation, path, source: source.into() }
    }
}

pub fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Invalid(message.into()))
}

pub fn unsupported<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Unsupported(message.into()))
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Invalid(_) => Self::invalid(message),
            Error::Unsupported(_) => Self::precondition(message),
            // A missing file is no missing container: callers would take it for that.
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::internal(message).with_source(source)
            }
            Error::Io { source, .. } => Self::io(message, source),
            Error::Parse { source, .. } => Self::invalid(message).with_source(source),
        }
    }
}
