//! Namespaces: the pod's by path, the container's own made new, the host's by leaving them out.

use std::path::Path;

use serde_json::{Value, json};
use windlass_api::cri;

use super::Pod;
use super::error::{Result, invalid, unsupported};
use super::host::Host;
use super::json::{list, object};

/// A range of ids inside and the range outside that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    pub container: u32,
    pub host: u32,
    pub size: u32,
}

/// The maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mappings {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

impl IdMap {
    pub fn to_json(self) -> Value {
        json!({"containerID": self.container, "hostID": self.host, "size": self.size})
    }
}

pub fn maps_to_json(maps: &[IdMap]) -> Value {
    maps.iter().map(|m| m.to_json()).collect()
}

/// Ranges as CRI gives them, checked.
pub fn id_maps(what: &str, maps: &[cri::IdMapping]) -> Result<Vec<IdMap>> {
    maps.iter()
        .map(|m| {
            let fits = |start: u32| u64::from(start) + u64::from(m.length) <= 1 << 32;
            if m.length == 0 || !fits(m.host_id) || !fits(m.container_id) {
                return invalid(format!("{what} mapping: a range is empty or runs over the end"));
            }
            Ok(IdMap { container: m.container_id, host: m.host_id, size: m.length })
        })
        .collect()
}

impl Mappings {
    /// What the options ask for; `None`: the node's user namespace.
    pub fn of(options: Option<&cri::UserNamespace>) -> Result<Option<Self>> {
        let Some(options) = options else { return Ok(None) };
        let own = match cri::NamespaceMode::try_from(options.mode) {
            Ok(cri::NamespaceMode::Node) => false,
            Ok(cri::NamespaceMode::Pod) => true,
            _ => return invalid(format!("user namespace mode {} is not supported", options.mode)),
        };
        for (what, maps) in [("user", &options.uids), ("group", &options.gids)] {
            match maps.len() {
                0 if own => return invalid(format!("a user namespace needs a {what} mapping")),
                0 => {}
                _ if !own => return invalid("the node's user namespace is asked for, and mappings, too"),
                // Snapshots are mapped by one range.
                1 => {}
                n => return invalid(format!("{what} mapping: {n} ranges, only one is supported")),
            }
        }
        if !own {
            return Ok(None);
        }
        let maps = Self { uids: id_maps("user", &options.uids)?, gids: id_maps("group", &options.gids)? };
        if maps.uids[0].container != 0 || maps.gids[0].container != 0 {
            return invalid("the mappings of a user namespace must begin with the container's 0");
        }
        Ok(Some(maps))
    }

    /// What a pod asks for.
    pub fn of_pod(config: &cri::PodSandboxConfig) -> Result<Option<Self>> {
        Self::of(pod_options(config).and_then(|o| o.userns_options.as_ref()))
    }
}

pub fn pod_options(config: &cri::PodSandboxConfig) -> Option<&cri::NamespaceOption> {
    config.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()
}

/// Puts one namespace in the place of what the base says about that type.
fn set(spec: &mut Value, kind: &str, namespace: Option<Option<&Path>>) {
    let all = list(object(spec, &["linux"]), "namespaces");
    all.retain(|n| n["type"] != kind);
    match namespace {
        None => {}
        Some(None) => all.push(json!({"type": kind})),
        Some(Some(path)) => all.push(json!({"type": kind, "path": path})),
    }
}

fn set_mappings(spec: &mut Value, maps: &Mappings) {
    let linux = object(spec, &["linux"]);
    linux.insert("uidMappings".into(), maps_to_json(&maps.uids));
    linux.insert("gidMappings".into(), maps_to_json(&maps.gids));
}

fn check_host(host: &Host, maps: Option<&Mappings>) -> Result<()> {
    if maps.is_some() && !host.userns {
        return unsupported("user namespaces are not enabled on this node");
    }
    Ok(())
}

/// The namespaces of a container. The mappings of a user namespace that is joined are told as well: they are not
/// written, but runtimes reckon with them.
pub fn container(
    spec: &mut Value,
    host: &Host,
    pod: &Pod<'_>,
    security: &cri::LinuxContainerSecurityContext,
    target: Option<u32>,
) -> Result<()> {
    let options = security.namespace_options.as_ref();
    let maps = Mappings::of(options.and_then(|o| o.userns_options.as_ref()))?;
    if maps != pod.userns {
        return invalid("the user namespace of the container is not that of its pod");
    }
    check_host(host, maps.as_ref())?;
    set(spec, "mount", Some(None));
    // What is inside sees itself at the top. On version 1, and for those that may see all, it is the host's view.
    if host.cgroup_v2 && !security.privileged {
        set(spec, "cgroup", Some(None));
    }
    for (kind, path) in [("network", &pod.net), ("ipc", &pod.ipc), ("uts", &pod.uts)] {
        set(spec, kind, path.as_deref().map(Some));
    }
    let pid = pid(pod, options, target)?;
    set(spec, "pid", pid.as_ref().map(|path| path.as_deref().map(Path::new)));
    if let Some(maps) = &maps {
        let Some(user) = &pod.user else {
            return invalid("the pod's user namespace is gone");
        };
        set(spec, "user", Some(Some(user)));
        set_mappings(spec, maps);
    }
    Ok(())
}

/// The pid namespace: none for the host's, without a path for a new one.
fn pid(
    pod: &Pod<'_>,
    options: Option<&cri::NamespaceOption>,
    target: Option<u32>,
) -> Result<Option<Option<String>>> {
    let of = |pid: u32| Some(Some(format!("/proc/{pid}/ns/pid")));
    let pod_on_host = pod_options(pod.config).is_some_and(|o| o.pid == cri::NamespaceMode::Node as i32);
    let mode = options.map_or(0, |o| o.pid);
    Ok(match cri::NamespaceMode::try_from(mode) {
        Ok(cri::NamespaceMode::Container) => Some(None),
        Ok(cri::NamespaceMode::Pod) => match pod.pid {
            Some(pid) => of(pid),
            None if pod_on_host => None,
            // The pod was made without a process of its own, so that there is nothing to share.
            None => Some(None),
        },
        Ok(cri::NamespaceMode::Node) if pod_on_host => None,
        Ok(cri::NamespaceMode::Node) => {
            return invalid("the container asks for the node's pid namespace, its pod does not");
        }
        Ok(cri::NamespaceMode::Target) => match target {
            Some(pid) => of(pid),
            None => return invalid("the container whose pid namespace is asked for does not run"),
        },
        Err(_) => return invalid(format!("pid namespace mode {mode} is not known")),
    })
}

/// The namespaces of a pod's own process: those that are there already are joined, the others made.
pub fn pause(spec: &mut Value, host: &Host, pod: &Pod<'_>) -> Result<()> {
    check_host(host, pod.userns.as_ref())?;
    let node = cri::NamespaceMode::Node as i32;
    let options = pod_options(pod.config).cloned().unwrap_or_default();
    set(spec, "mount", Some(None));
    let own_network = options.network != node;
    for (kind, path, own) in [
        ("network", &pod.net, own_network),
        ("uts", &pod.uts, own_network),
        ("ipc", &pod.ipc, options.ipc != node),
    ] {
        set(spec, kind, own.then_some(path.as_deref()));
    }
    set(spec, "pid", (options.pid != node).then_some(None));
    if let Some(maps) = &pod.userns {
        set(spec, "user", Some(pod.user.as_deref()));
        set_mappings(spec, maps);
    }
    Ok(())
}
