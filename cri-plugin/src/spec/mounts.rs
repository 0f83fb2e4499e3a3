//! What is mounted in a container: the kernel's own file systems, the pod's files, volumes, and what was asked for.
//!
//! Paths inside are cleaned here (absolute, no `..`); links in them are the runtime's to resolve, within the root.
//! Paths of the host are the kubelet's word: they are followed, and made where they are missing.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde_json::{Value, json};
use windlass_api::cri;

use super::error::{Error, Result, invalid, unsupported};
use super::host::Host;
use super::json::{list, object};
use super::namespaces::{IdMap, id_maps, maps_to_json, pod_options};
use super::settings::Settings;
use super::{Pod, Volume, propagation, selinux};

/// All that a container's mounts depend on.
pub struct Request<'a> {
    pub host: &'a Host,
    pub settings: &'a Settings,
    pub pod: &'a Pod<'a>,
    pub config: &'a cri::ContainerConfig,
    pub volumes: &'a [Volume],
    /// SELinux's, empty where there is none.
    pub label: &'a str,
}

/// One bind mount on its way.
struct Bind {
    inside: String,
    mount: cri::Mount,
}

/// Absolute, with neither `.` nor `..` nor doubled slashes: what a container's own root makes of a path.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A path of the host with its links resolved.
pub fn host_path(path: &str) -> Result<PathBuf> {
    if !path.starts_with('/') || path.contains('\0') {
        return invalid(format!("host path {path:?} is not absolute"));
    }
    let failed = Error::io("resolve", path);
    let resolved = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|file| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())));
    resolved.map_err(failed)
}

/// The file systems that every container has. `shm` is the pod's where it has one.
pub fn defaults() -> Value {
    let mount = |path: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": path, "type": kind, "source": source, "options": options});
    let plain = ["nosuid", "noexec", "nodev"];
    json!([
        mount("/proc", "proc", "proc", &plain),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &plain),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ])
}

/// In a user namespace whose network is not its own no sysfs can be mounted: the host's is bound.
pub fn bind_sys(spec: &mut Value, config: &cri::PodSandboxConfig, mapped: bool) {
    let node = cri::NamespaceMode::Node as i32;
    if !mapped || pod_options(config).is_none_or(|o| o.network != node) {
        return;
    }
    let mounts = list(object(spec, &[]), "mounts");
    for mount in mounts.iter_mut().filter(|m| m["destination"] == "/sys") {
        *mount = json!({"destination": "/sys", "type": "bind", "source": "/sys",
            "options": ["rbind", "rro", "nosuid", "nodev", "noexec"]});
    }
}

/// Writes `mounts`, and `linux.rootfsPropagation` where a mount needs it. Makes missing host paths; blocks.
pub fn apply(spec: &mut Value, request: &Request<'_>) -> Result<()> {
    let binds = binds(request)?;
    let mut mounts = std::mem::take(list(object(spec, &[]), "mounts"));
    mounts.retain(|m| m["destination"] != "/run" || m["type"] != "tmpfs");
    mounts.push(cgroup(spec, request));
    let covers = |path: &str| binds.iter().any(|b| b.inside == path);
    mounts.retain(|m| {
        let path = clean(m["destination"].as_str().unwrap_or_default());
        // Who brings a /dev brings all of it.
        !(covers(&path) || path.starts_with("/dev/") && covers("/dev"))
    });
    let mut root = None;
    for bind in &binds {
        let (mount, needs) = bind_mount(request, bind)?;
        root = propagation::stronger(root, needs);
        mounts.push(mount);
    }
    object(spec, &[]).insert("mounts".into(), Value::Array(mounts));
    bind_sys(spec, request.pod.config, request.pod.userns.is_some());
    if let Some(root) = root {
        object(spec, &["linux"]).insert("rootfsPropagation".into(), root.into());
    }
    Ok(())
}

/// The control groups: read-only, unless configuration says otherwise.
fn cgroup(spec: &Value, request: &Request<'_>) -> Value {
    let access = if request.settings.runtime.cgroup_writable { "rw" } else { "ro" };
    let mut options: Vec<&str> = vec!["nosuid", "noexec", "nodev", "relatime", access];
    let namespaces = spec["linux"]["namespaces"].as_array();
    if !namespaces.is_some_and(|all| all.iter().any(|n| n["type"] == "cgroup")) {
        options.extend(request.host.cgroup_options.iter().map(String::as_str));
    }
    json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options})
}

/// What was asked for, and what the pod and the image add where nothing was: parents before what lies in them.
fn binds(request: &Request<'_>) -> Result<Vec<Bind>> {
    let mut binds = Vec::new();
    for mount in &request.config.mounts {
        if mount.container_path.is_empty() || mount.container_path.contains('\0') {
            return invalid(format!("container path {:?} is no path", mount.container_path));
        }
        let mut mount = mount.clone();
        let inside = clean(&mount.container_path);
        if inside == "/" {
            return invalid("nothing can be mounted over the container's root");
        }
        if mount.image.is_some()
            && let Some(volume) = request.volumes.iter().find(|v| clean(&v.container_path) == inside)
        {
            mount.host_path = volume.host_path.to_string_lossy().into_owned();
        }
        if mount.host_path.is_empty() {
            return invalid(format!("mount {inside}: there is no host path"));
        }
        binds.push(Bind { inside, mount });
    }
    let own = binds.len();
    for mount in added(request) {
        let inside = clean(&mount.container_path);
        if inside != "/" && !binds[..own].iter().any(|b| b.inside == inside) {
            binds.push(Bind { inside, mount });
        }
    }
    binds.sort_by_key(|b| b.inside.matches('/').count());
    Ok(binds)
}

/// The pod's files and the image's volumes.
fn added(request: &Request<'_>) -> Vec<cri::Mount> {
    let pod = request.pod;
    let security = request.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let to_cri = |maps: &[IdMap]| {
        let one = |m: &IdMap| cri::IdMapping { host_id: m.host, container_id: m.container, length: m.size };
        maps.iter().map(one).collect::<Vec<_>>()
    };
    let (uid_mappings, gid_mappings) =
        pod.userns.as_ref().map(|m| (to_cri(&m.uids), to_cri(&m.gids))).unwrap_or_default();
    let mapped = |host: &Path, inside: &str, readonly| cri::Mount {
        container_path: inside.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        readonly,
        selinux_relabel: true,
        uid_mappings: uid_mappings.clone(),
        gid_mappings: gid_mappings.clone(),
        ..Default::default()
    };
    let readonly = security.is_some_and(|s| s.readonly_rootfs);
    let mut mounts = Vec::new();
    for name in ["hostname", "hosts", "resolv.conf"] {
        let file = pod.dir.join(name);
        if file.exists() {
            mounts.push(mapped(&file, &format!("/etc/{name}"), readonly));
        }
    }
    let on_host = pod_options(pod.config).is_some_and(|o| o.ipc == cri::NamespaceMode::Node as i32);
    let shm = if on_host { Some(Path::new("/dev/shm")) } else { pod.shm };
    if let Some(shm) = shm {
        // It is empty at first, so that nothing in it has an owner to be mapped.
        mounts.push(cri::Mount {
            container_path: "/dev/shm".to_owned(),
            host_path: shm.to_string_lossy().into_owned(),
            selinux_relabel: !on_host,
            ..Default::default()
        });
    }
    if !request.settings.config.ignore_image_defined_volumes {
        mounts.extend(request.volumes.iter().map(|v| mapped(&v.host_path, &v.container_path, false)));
    }
    mounts
}

/// The mount as OCI writes it, and what it needs of the root's propagation.
fn bind_mount(request: &Request<'_>, bind: &Bind) -> Result<(Value, Option<&'static str>)> {
    let Bind { inside, mount } = bind;
    let path = Path::new(&mount.host_path);
    if path.is_absolute() && fs::metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        fs::create_dir_all(path).map_err(|error| {
            let path = path.display();
            Error::Unsupported(format!(
                "mount: the host path {path} is not there and cannot be made: {error}"
            ))
        })?;
    }
    let source = host_path(&mount.host_path)?;
    let (propagation, root) = propagation::check(&source, mount.propagation)?;
    let mut options = vec!["rbind", propagation, access(request, mount)?];
    if mount.selinux_relabel {
        selinux::relabel(&source, request.label)?;
    }
    let mut json = json!({"destination": inside, "type": "bind", "source": source});
    let uids = id_maps("user", &mount.uid_mappings)?;
    let gids = id_maps("group", &mount.gid_mappings)?;
    if uids.is_empty() != gids.is_empty() {
        return invalid(format!("mount {inside}: user and group mappings go together"));
    }
    if !uids.is_empty() {
        if !request.host.idmap_mounts {
            return unsupported(format!("mount {inside}: this kernel cannot map the ids of a mount"));
        }
        // Some runtimes map where there are mappings, some where the option is.
        options.push("idmap");
        json["uidMappings"] = maps_to_json(&uids);
        json["gidMappings"] = maps_to_json(&gids);
    }
    json["options"] = json!(options);
    Ok((json, root))
}

fn access(request: &Request<'_>, mount: &cri::Mount) -> Result<&'static str> {
    let path = &mount.host_path;
    if !mount.recursive_read_only {
        return Ok(if mount.readonly { "ro" } else { "rw" });
    }
    if !mount.readonly {
        return invalid(format!("recursive read-only mount conflicts with RW mount (hostPath={path:?})"));
    }
    if !request.host.rro_mounts {
        // The kubelet knows this case by its first word.
        return unsupported(format!(
            "RROUnsupported: runtime handler does not support recursive read-only mounts (hostPath={path:?})"
        ));
    }
    if mount.propagation != cri::MountPropagation::PropagationPrivate as i32 {
        return invalid(format!("recursive read-only mount needs private propagation (hostPath={path:?})"));
    }
    Ok("rro")
}

/// For the privileged: control groups and sysfs can be written to.
pub fn writable_kernel(spec: &mut Value) {
    for mount in list(object(spec, &[]), "mounts") {
        if matches!(mount["type"].as_str(), Some("sysfs" | "cgroup")) {
            for option in list(object(mount, &[]), "options").iter_mut().filter(|o| *o == "ro") {
                *option = "rw".into();
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/mounts.rs"]
mod tests;
