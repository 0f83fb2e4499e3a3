//! What can go wrong below the records.

use std::io;
use std::path::PathBuf;

use windlass_core::Class;

/// An engine's error: what was done, to which database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} the sled database {path}")]
    Sled { what: &'static str, path: PathBuf, source: sled::Error },
    #[error("{what} the redb database {path}")]
    Redb { what: &'static str, path: PathBuf, source: Box<redb::Error> },
    #[error("the metadata database {path} is damaged: {why}; restore a copy or move it away to start afresh")]
    Damaged { path: PathBuf, why: &'static str },
    #[error("key of {length} bytes: at most {limit} are stored")]
    Key { length: usize, limit: usize },
}

impl From<Error> for windlass_core::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Io { source, .. } | Error::Sled { source: sled::Error::Io(source), .. } => {
                Self::io(message, source)
            }
            Error::Sled { source: source @ sled::Error::Corruption { .. }, .. } => {
                Self::data_loss(message).with_source(source)
            }
            Error::Sled { source, .. } => Self::internal(message).with_source(source),
            Error::Redb { source, .. } => match *source {
                redb::Error::Io(source) => Self::io(message, source),
                source @ redb::Error::Corrupted(_) => Self::data_loss(message).with_source(source),
                source => Self::internal(message).with_source(source),
            },
            Error::Damaged { .. } => Self::new(Class::DataLoss, message),
            Error::Key { .. } => Self::invalid(message),
        }
    }
}
