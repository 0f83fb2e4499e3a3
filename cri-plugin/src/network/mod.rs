//! What pods say to network plugins, and the networks of the runtime handlers. Running plugins is `windlass_network`'s.

pub mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use windlass_api::cri;
use windlass_core::{Error, Result};
use windlass_network::cni::{self, Bandwidth, Capabilities, DnsServers, Network, Pod, PortMapping};

use crate::config::Config;
use crate::cri::Cri;
use crate::state::record::SandboxRecord;

/// Capability: the pod's annotations.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// The networks: one for all handlers, and those of handlers that have their own.
pub struct Networks {
    default: Network,
    handlers: BTreeMap<String, Network>,
    preference: cni::IpPreference,
    /// Pods that are being made: theirs is not to be collected.
    making: Arc<Mutex<BTreeSet<String>>>,
    /// Somebody's network could not be taken down: what its plugins hold is to be collected.
    left: AtomicBool,
}

/// What a pod's networks gave it.
pub struct Connected {
    /// First the primary one.
    pub ips: Vec<String>,
    /// JSON, as verbose statuses show it.
    pub raw: Vec<u8>,
}

/// A pod that is being made, as long as this lives.
pub struct Making(Arc<Mutex<BTreeSet<String>>>, String);

impl Drop for Making {
    fn drop(&mut self) {
        ids(&self.0).remove(&self.1);
    }
}

fn ids(all: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    all.lock().expect("nothing panics while it holds the ids")
}

impl Networks {
    /// Starts to watch the directories of configurations; there need not be any. `cache` lasts.
    pub async fn new(config: &Config, cache: &Path) -> Result<Self> {
        let limits = config.cni.limits()?;
        let open = async |dir: &str, max: usize| {
            let settings = cni::Settings {
                conf_dir: PathBuf::from(dir),
                bin_dirs: config.cni.programs().into_iter().map(PathBuf::from).collect(),
                cache_dir: cache.to_owned(),
                max_conf_num: max,
                setup_serially: config.cni.setup_serially,
                builtin_plugins: config.cni.builtin_plugins,
                limits,
            };
            Network::open(settings).await.map_err(Error::from)
        };
        let mut handlers = BTreeMap::new();
        for (name, runtime) in &config.containerd.runtimes {
            if !runtime.cni_conf_dir.is_empty() {
                let max = if runtime.cni_max_conf_num == 0 { 1 } else { runtime.cni_max_conf_num };
                handlers.insert(name.clone(), open(&runtime.cni_conf_dir, max).await?);
            }
        }
        Ok(Self {
            default: open(&config.cni.conf_dir, config.cni.max_conf_num).await?,
            handlers,
            preference: cni::IpPreference::parse(&config.cni.ip_pref).unwrap_or_default(),
            making: Arc::default(),
            left: AtomicBool::new(false),
        })
    }

    fn of(&self, handler: &str) -> &Network {
        self.handlers.get(handler).unwrap_or(&self.default)
    }

    /// Whether pods can be given a network.
    pub async fn status(&self) -> Result<()> {
        self.default.status().await.map_err(told)
    }

    /// What came of reading the configurations.
    pub fn load_status(&self) -> String {
        match (self.default.load_error(), self.default.networks()) {
            (Some(error), _) => format!("cni config load failed: {}", error.chain()),
            (None, Err(error)) => format!("cni config load failed: {}", error.chain()),
            (None, Ok(_)) => "OK".to_owned(),
        }
    }

    /// The configurations in use, as `crictl info` prints them.
    pub fn shown(&self) -> Value {
        self.default.describe()
    }

    /// Nothing of this pod is collected from now on, for as long as the answer lives.
    pub fn making(&self, id: &str) -> Making {
        ids(&self.making).insert(id.to_owned());
        Making(self.making.clone(), id.to_owned())
    }

    /// A pod is to get its network; everything or nothing, as far as plugins can.
    pub async fn setup(
        &self,
        handler: &str,
        id: &str,
        netns: &Path,
        config: &cri::PodSandboxConfig,
        capabilities: Capabilities,
    ) -> Result<Connected> {
        let pod = pod(id, netns, config, capabilities);
        let outcome = self.of(handler).attach(pod).await.map_err(told)?;
        let ips: Vec<String> = outcome.primary_ips(self.preference).iter().map(ToString::to_string).collect();
        if ips.is_empty() {
            // The caller takes it down again.
            return Err(Error::unavailable("network plugins gave the pod no address"));
        }
        Ok(Connected { ips, raw: outcome.to_json().to_string().into_bytes() })
    }

    /// A pod's network is taken down; `netns` is `None` where its namespace is gone. Any number of times.
    pub async fn remove(
        &self,
        handler: &str,
        id: &str,
        netns: Option<&Path>,
        config: Option<&cri::PodSandboxConfig>,
    ) -> Result<()> {
        let config = config.ok_or_else(|| Error::data_loss(format!("pod {id} has no configuration")))?;
        let pod = pod(id, netns.unwrap_or(Path::new("")), config, capabilities(config)?);
        self.of(handler).detach(pod).await.map_err(told)
    }

    /// What plugins still hold of a pod is to be collected once it is gone.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }
}

/// What went wrong, and what to do about it. The class stays: a failing plugin is *unknown*, as under containerd.
fn told(error: windlass_network::Error) -> Error {
    use windlass_network::Error as E;
    let remedy = match error.cause() {
        E::NoPlugin { .. } => "install the plugin there, or name its directory in cni.bin_dirs",
        E::TimedOut { .. } => {
            "see what the plugin waits for, or give it more time by cni.exec_timeout or cni.status_timeout"
        }
        E::Failed { .. } => "see the plugin's documentation, and the network's configuration in cni.conf_dir",
        E::Died { .. } | E::Garbage { .. } | E::Flood { .. } => {
            "run the plugin by hand, and install one that works in cni.bin_dirs"
        }
        E::Unsupported { .. } => {
            "install a newer plugin, or lower cniVersion in the network's configuration in cni.conf_dir"
        }
        E::Config { .. } => "mend or remove the file",
        // Also no network at all: tools look for what that message ends with, and it says where one is missing.
        _ => return error.into(),
    };
    Error::new(error.class(), format!("{}; {remedy}", error.chain()))
}

impl Cri {
    /// Gives a pod its network.
    pub(crate) async fn connect_pod(
        &self,
        id: &str,
        record: &SandboxRecord,
        config: &cri::PodSandboxConfig,
        capabilities: Capabilities,
    ) -> Result<Connected> {
        let path = self.namespaces_dir(id).join("net");
        let connected = self.networks.setup(&record.handler, id, &path, config, capabilities).await;
        connected.map_err(|error| error.context("set up the network"))
    }

    /// In the background: what network plugins hold for pods that are gone is given back, where there may be any.
    pub(crate) fn collect_network(self: &Arc<Self>) {
        if !self.networks.left.swap(false, Ordering::Relaxed) {
            return;
        }
        let cri = self.clone();
        self.work.spawn(async move {
            let networks = std::iter::once(&cri.networks.default).chain(cri.networks.handlers.values());
            for network in networks {
                let pods = cri.clone();
                let valid = move || {
                    // First those that are being made: they are visible before they are no more.
                    let mut all = ids(&pods.networks.making).clone();
                    let there = pods.state.sandboxes.all();
                    let connected = there.iter().filter(|pod| pod.record.network && !pod.status().down);
                    all.extend(connected.map(|pod| pod.id.clone()));
                    all
                };
                if let Err(error) = network.collect(valid).await {
                    tracing::warn!(error = %error.chain(), "network plugins do not give back what belongs to nobody");
                    cri.networks.leave();
                }
            }
        });
    }
}

/// A pod as plugins know it.
fn pod(id: &str, netns: &Path, config: &cri::PodSandboxConfig, capabilities: Capabilities) -> Pod {
    let metadata = config.metadata.clone().unwrap_or_default();
    Pod {
        id: id.to_owned(),
        netns: netns.to_owned(),
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        args: Vec::new(),
        capabilities,
    }
}

pub(crate) fn capabilities(config: &cri::PodSandboxConfig) -> Result<Capabilities> {
    let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.clone());
    let dns = config.dns_config.as_ref().map(|dns| DnsServers {
        servers: dns.servers.clone(),
        searches: dns.searches.clone(),
        options: dns.options.clone(),
    });
    let mut capabilities = Capabilities {
        port_mappings: config
            .port_mappings
            .iter()
            .filter(|p| p.host_port > 0)
            .map(port)
            .collect::<Result<_>>()?,
        bandwidth: Bandwidth::from_annotations(|key| config.annotations.get(key).map(String::as_str))?,
        dns,
        cgroup_path: parent.filter(|parent| !parent.is_empty()),
        ..Capabilities::default()
    };
    capabilities.other.insert(ANNOTATIONS.into(), json!(config.annotations));
    Ok(capabilities)
}

fn port(mapping: &cri::PortMapping) -> Result<PortMapping> {
    let number = |what: &str, port: i32| {
        u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Error::invalid(format!("{what} port {port}")))
    };
    let protocol = match mapping.protocol() {
        cri::Protocol::Tcp => "tcp",
        cri::Protocol::Udp => "udp",
        cri::Protocol::Sctp => "sctp",
    };
    Ok(PortMapping {
        host_port: number("host", mapping.host_port)?,
        container_port: number("container", mapping.container_port)?,
        protocol: protocol.into(),
        host_ip: mapping.host_ip.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_without_one_of_the_machines_are_left_out() {
        let mapping =
            |host_port, container_port| cri::PortMapping { host_port, container_port, ..Default::default() };
        let pod = |port_mappings| cri::PodSandboxConfig { port_mappings, ..Default::default() };
        let told = capabilities(&pod(vec![mapping(0, 80), mapping(8080, 80)])).expect("both are ports");
        assert_eq!(told.port_mappings.len(), 1);
        assert_eq!((told.port_mappings[0].host_port, told.port_mappings[0].protocol.as_str()), (8080, "tcp"));
        assert!(capabilities(&pod(vec![mapping(70_000, 80)])).is_err());
        assert!(capabilities(&pod(vec![mapping(8080, 0)])).is_err());
    }
}
