//! What goes wrong with layers, and the class that clients see.

use std::io;

use windlass_core::Error as Core;

use crate::decompress::Bomb;
use crate::tar;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tar(#[from] tar::Error),
    /// Reading or decompressing the layer.
    #[error("read layer")]
    Read(#[source] io::Error),
    #[error("{operation} {path:?}")]
    File { operation: &'static str, path: String, source: io::Error },
    #[error("invalid layer: {0}")]
    Invalid(String),
    #[error(transparent)]
    Core(#[from] Core),
}

impl Error {
    /// For `map_err`: an operating system error with what was done to which path of the layer.
    pub fn file<E: Into<io::Error>>(operation: &'static str, path: &[u8]) -> impl FnOnce(E) -> Self {
        let path = String::from_utf8_lossy(path).into_owned();
        move |source| Self::File { operation, path, source: source.into() }
    }

    /// Whether it only says that the other thread has ended, which knows better why.
    pub fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Tar(tar::Error::Read(e)) | Self::Read(e) => e.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}

impl From<Error> for Core {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Core(error) => error,
            Error::Tar(tar::Error::Read(source)) | Error::Read(source) => read(message, source),
            Error::Tar(tar::Error::Invalid(_)) | Error::Invalid(_) => Self::invalid(message),
            Error::File { source, .. } => match source.kind() {
                // Nothing that a caller looks for is missing: the layer is at odds with itself.
                io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists => {
                    Self::unknown(message).with_source(source)
                }
                _ => Self::io(message, source),
            },
        }
    }
}

fn read(message: String, source: io::Error) -> Core {
    if source.get_ref().is_some_and(|e| e.is::<Bomb>()) {
        return Core::exhausted(message).with_source(source);
    }
    // An error of ours that passed through a reader keeps its class.
    match source.downcast::<Core>() {
        Ok(core) => core.context(message),
        Err(source) => Core::unknown(message).with_source(source),
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
