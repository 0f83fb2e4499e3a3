//! CNI 1.1 and all that came before: plugins are run to connect pods with networks and to take them off again.
//!
//! [`Network`] is the whole of it. It keeps the configurations of a directory up to date, runs their plugins within time
//! limits and remembers each attachment in the form of libcni, so that a later process can check and undo it. It does not
//! make network namespaces, and it does not know which pods there are: [`Network::collect`] asks.

mod bandwidth;
mod cache;
mod chain;
mod config;
mod exec;
mod gate;
mod load;
mod network;
mod orphans;
mod outcome;
mod pod;
mod result;
mod version;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

pub use config::{NetworkConfig, PluginConfig};
pub(crate) use exec::{Parameters, Verb};
pub use network::{Changes, Network};
pub use outcome::{DEFAULT_INTERFACE, InterfaceConfig, IpConfig, IpPreference, Outcome};
pub use pod::{Bandwidth, Capabilities, DnsServers, IpRange, Pod, PortMapping};
pub(crate) use result::{Answer, Interface, Ip};
pub use result::{Dns, Net, Route};
pub use version::Version;

/// Where things are, and how plugins are run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Configurations. It need not be there yet.
    pub conf_dir: PathBuf,
    /// Plugins; the first directory that has one counts.
    pub bin_dirs: Vec<PathBuf>,
    /// The attachments. libcni's own is `/var/lib/cni`.
    pub cache_dir: PathBuf,
    /// How many networks a pod is connected with; nought for all.
    pub max_conf_num: usize,
    pub limits: Limits,
    /// One network after the other instead of all at once.
    pub setup_serially: bool,
    /// What is built in is done without the reference plugins' programs, where they are what would be run, or are not there.
    pub builtin_plugins: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            cache_dir: "/var/lib/cni".into(),
            max_conf_num: 1,
            limits: Limits::default(),
            setup_serially: false,
            builtin_plugins: true,
        }
    }
}

/// The time that plugins have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For one plugin to ADD, DEL, CHECK or GC.
    pub exec: Duration,
    /// For one plugin to answer STATUS or VERSION.
    pub status: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { exec: Duration::from_secs(60), status: Duration::from_secs(10) }
    }
}
