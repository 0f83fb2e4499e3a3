//! What can go wrong with a built-in plugin, and how a plugin would say it.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::cni::{Net, Verb};
use crate::error::{Error, with_sources};

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Config(String),
    #[error("{operation} {what}")]
    Kernel { operation: &'static str, what: String, source: Errno },
    #[error("{operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("link {0:?} is there and is no bridge: name another one in the network's configuration")]
    NotBridge(String),
    #[error(
        "bridge {bridge:?} has the address {found}, not the gateway's {wanted}: remove it, or set forceAddress"
    )]
    OtherAddress { bridge: String, found: Net, wanted: Net },
    #[error("no address is free in {0}: enlarge the range, or remove what is left of pods that are gone")]
    Full(String),
    #[error("{} is locked by another program for too long", .0.display())]
    Locked(PathBuf),
    #[error("{0}")]
    Changed(String),
    #[error("{0:?} does not come up: see whether its bridge is up")]
    Down(String),
    /// Entering the pod's network namespace, or a file of it.
    #[error(transparent)]
    Namespace(#[from] Error),
    #[error("the kernel gives no random numbers: {0}")]
    Random(String),
    #[error("it was ended before it was done")]
    Cut,
}

impl Problem {
    pub fn kernel(operation: &'static str, what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |source| Self::Kernel { operation, what, source }
    }

    /// As an error of the plugin.
    pub fn of(self, plugin: &str, verb: Verb) -> Error {
        // The specification's codes: 7 for the configuration, 11 for what may pass; 999 is what the reference plugins
        // say for everything else.
        let code = match &self {
            Self::Config(_) => 7,
            Self::Locked(_) | Self::Full(_) => 11,
            _ => 999,
        };
        let msg = with_sources(self.to_string(), &self);
        Error::Failed { plugin: plugin.into(), operation: verb.word(), code, msg, details: String::new() }
    }
}
