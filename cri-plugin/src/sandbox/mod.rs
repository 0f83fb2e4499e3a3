//! The life of a pod: what surrounds its containers.
//!
//! A pod is a record, namespaces held by file, a network, a few files, and a process of its own only where its containers
//! share a PID namespace, configuration asks for it, or the runtime is somebody else's.
//!
//! - `run`, `undo`, `stop`, `remove`: one file per way through. `record`: what is written down when.
//! - `files`: `/etc/hosts` and its like, and shared memory. `pause`: the process.
//! - `status`, `info`, `list`: what is told. `event`, `nri`: what is told unasked. `update`: other resources. `forward`: ports.
//!
//! Whoever changes a pod holds its lock. Every wait on something outside is bounded, so that a stop always ends.

mod event;
mod files;
mod forward;
mod info;
mod list;
mod nri;
mod pause;
mod record;
mod remove;
mod run;
mod status;
mod stop;
mod undo;
mod update;

use std::path::Path;

use windlass_api::cri;
use windlass_core::{Error, Result};
use windlass_network::namespaces::{IdMap, Mapping};

use crate::config::Handler;
use crate::cri::Cri;
use crate::spec::{self, Mappings};
use crate::state::{Places, Sandbox};

pub use nri::Owner;
pub use status::wire as wire_status;

/// Label: what a record is of.
pub const KIND: &str = "io.cri-containerd.kind";
/// The value of [`KIND`] for pods.
pub const KIND_SANDBOX: &str = "sandbox";
/// Who makes the pods, as records say it.
pub const SANDBOXER: &str = "podsandbox";

/// The namespaces that a pod asks for; all its own where it says nothing.
pub fn namespaces(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
}

/// Whether the pod uses the machine's network.
pub fn host_network(config: &cri::PodSandboxConfig) -> bool {
    namespaces(config).network() == cri::NamespaceMode::Node
}

/// Whether the pod uses the machine's IPC.
pub fn host_ipc(config: &cri::PodSandboxConfig) -> bool {
    namespaces(config).ipc() == cri::NamespaceMode::Node
}

/// The cgroup that the pod's containers live below, empty for the usual one.
pub fn cgroup_parent(config: &cri::PodSandboxConfig) -> &str {
    config.linux.as_ref().map_or("", |linux| &linux.cgroup_parent)
}

/// The ids of the pod's user namespace; `None` where it uses the machine's. *Invalid argument* for another mode or a
/// mapping that is none.
pub fn user_namespace(config: &cri::PodSandboxConfig) -> Result<Option<Mapping>> {
    let Some(maps) = Mappings::of_pod(config)? else { return Ok(None) };
    if host_network(config) {
        return Err(Error::invalid("a user namespace cannot be had with the machine's network"));
    }
    let ids = |all: &[spec::IdMap]| {
        all.iter().map(|m| IdMap { container: m.container, host: m.host, size: m.size }).collect()
    };
    Ok(Some(Mapping { uids: ids(&maps.uids), gids: ids(&maps.gids) }))
}

/// A pod as specifications of its containers need to know it.
fn spec_pod<'a>(
    namespaces_dir: &Path,
    id: &'a str,
    config: &'a cri::PodSandboxConfig,
    places: &'a Places,
    pid: u32,
) -> Result<spec::Pod<'a>> {
    let own_network = !host_network(config);
    let userns = Mappings::of_pod(config)?;
    let held = |wanted: bool, kind: &str| wanted.then(|| namespaces_dir.join(kind));
    Ok(spec::Pod {
        id,
        config,
        dir: &places.dir,
        shm: (!host_ipc(config)).then_some(places.shm.as_path()),
        net: held(own_network, "net"),
        ipc: held(!host_ipc(config), "ipc"),
        uts: held(own_network, "uts"),
        user: held(userns.is_some(), "user"),
        userns,
        pid: (pid != 0).then_some(pid),
        cgroup_parent: cgroup_parent(config).to_owned(),
    })
}

impl Cri {
    /// Where a pod's files are.
    fn places(&self, id: &str) -> Places {
        let dir = self.sandbox_dir(id);
        Places { shm: dir.join("shm"), dir }
    }

    /// A pod as the specifications of its containers need to know it.
    pub(crate) fn spec_pod<'a>(&self, sandbox: &'a Sandbox, _handler: &Handler<'_>) -> Result<spec::Pod<'a>> {
        let places = sandbox.places.get_or_init(|| self.places(&sandbox.id));
        let pid = sandbox.status().pid;
        spec_pod(&self.namespaces_dir(&sandbox.id), &sandbox.id, sandbox.config(), places, pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(options: cri::NamespaceOption) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn nothing_said_is_everything_of_its_own() {
        let empty = cri::PodSandboxConfig::default();
        assert!(!host_network(&empty) && !host_ipc(&empty));
        assert!(user_namespace(&empty).expect("none is asked for").is_none());
    }

    #[test]
    fn user_namespaces_have_mappings() {
        let pod = |mode: cri::NamespaceMode, sizes: &[u32], network: cri::NamespaceMode| {
            let ids = sizes.iter().map(|n| cri::IdMapping { container_id: 0, host_id: 1 << 16, length: *n });
            config(cri::NamespaceOption {
                network: network.into(),
                userns_options: Some(cri::UserNamespace {
                    mode: mode.into(),
                    uids: ids.clone().collect(),
                    gids: ids.collect(),
                }),
                ..Default::default()
            })
        };
        use cri::NamespaceMode::{Container, Node, Pod};
        let mapping =
            user_namespace(&pod(Pod, &[65536], Pod)).expect("it is whole").expect("it is asked for");
        assert_eq!(mapping.uids, [IdMap { container: 0, host: 1 << 16, size: 65536 }]);
        assert!(user_namespace(&pod(Node, &[], Pod)).expect("none is asked for").is_none());
        for wrong in
            [pod(Pod, &[], Pod), pod(Node, &[1], Pod), pod(Container, &[1], Pod), pod(Pod, &[1], Node)]
        {
            assert!(user_namespace(&wrong).is_err());
        }
    }
}
