//! The specification of a container.

use serde_json::{Value, json};
use windlass_api::cri;

use super::annotations::{Subject, annotations, class_of, passed};
use super::error::{Result, invalid, unsupported};
use super::host::Host;
use super::json::{Object, object, strings};
use super::mounts::Request;
use super::rootfs::Rootfs;
use super::settings::Settings;
use super::user::{Asked, User};
use super::{
    Image, Pod, ROOT, VERSION, Volume, apparmor, caps, cdi, devices, image, mounts, namespaces, process,
    resources, seccomp, selinux, signal, user,
};
use crate::classes;

/// A specification, and what a container's record keeps of how it was made.
#[derive(Debug)]
pub struct Built {
    pub spec: Value,
    /// What stops it.
    pub stop_signal: u32,
    /// Who its process is, for a status.
    pub user: cri::ContainerUser,
}

/// What is the same for all parts.
struct Parts<'a> {
    host: &'a Host,
    settings: &'a Settings,
    pod: &'a Pod<'a>,
    id: &'a str,
    config: &'a cri::ContainerConfig,
    security: &'a cri::LinuxContainerSecurityContext,
    image: image::Config,
}

/// Makes the specification of a container. `root` is where its users are looked up; `target` the process of the
/// container whose pid namespace is asked for (mode TARGET). Blocks.
#[allow(clippy::too_many_arguments, reason = "a container is made of all of these, and nothing else is")]
pub fn container(
    host: &Host,
    settings: &Settings,
    pod: &Pod<'_>,
    id: &str,
    config: &cri::ContainerConfig,
    image: &Image<'_>,
    volumes: &[Volume],
    root: &dyn Rootfs,
    target: Option<u32>,
) -> Result<Built> {
    let none = cri::LinuxContainerSecurityContext::default();
    let security = config.linux.as_ref().and_then(|l| l.security_context.as_ref()).unwrap_or(&none);
    let pod_security = pod.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    if security.privileged && !pod_security.is_some_and(|s| s.privileged) {
        return invalid("no privileged container allowed in sandbox");
    }
    let parts = Parts { host, settings, pod, id, config, security, image: image.config()? };
    let stop_signal = signal::stop_signal(config.stop_signal, &parts.image.stop_signal)?;
    let labels = selinux::labels(
        host,
        settings,
        pod.id,
        security.selinux_options.as_ref(),
        pod_security.and_then(|s| s.selinux_options.as_ref()),
    )?;
    let mut spec = base(settings, id);
    parts.process(&mut spec)?;
    namespaces::container(&mut spec, host, pod, security, target)?;
    let request = Request { host, settings, pod, config, volumes, label: &labels.mount };
    mounts::apply(&mut spec, &request)?;
    devices::apply(&mut spec, settings, config)?;
    caps::apply(&mut spec, host, security.capabilities.as_ref(), security.privileged)?;
    parts.confine(&mut spec, &labels)?;
    parts.limits(&mut spec)?;
    let user = user::resolve(&Asked::by_container(security)?, &parts.image.user, root)?;
    set_user(&mut spec, &user);
    cdi::inject(&mut spec, &settings.config.cdi_spec_dirs, &cdi::asked(settings, config)?)?;
    rdt(&mut spec, settings, config.metadata.as_ref().map_or("", |m| m.name.as_str()))?;
    parts.annotate(&mut spec, image.name);
    Ok(Built { spec, stop_signal, user: user.to_cri() })
}

/// What a specification starts from: configuration's, or our own.
pub fn base(settings: &Settings, id: &str) -> Value {
    let mut spec = match &settings.base_runtime_spec {
        Some(base) => base.clone(),
        None => default(),
    };
    object(&mut spec, &["linux"]).insert("cgroupsPath".into(), format!("/k8s.io/{id}").into());
    object(&mut spec, &["root"]).insert("path".into(), ROOT.into());
    let fields = object(&mut spec, &[]);
    fields.entry("ociVersion").or_insert(VERSION.into());
    spec
}

/// A process of root's with Docker's capabilities and no devices.
pub fn default() -> Value {
    let kinds = ["pid", "ipc", "uts", "mount", "network"];
    json!({
        "ociVersion": VERSION,
        "root": {"path": ROOT},
        "process": {
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                "bounding": windlass_core::capability::DEFAULT, "effective": windlass_core::capability::DEFAULT, "permitted": windlass_core::capability::DEFAULT,
            },
        },
        "mounts": mounts::defaults(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": kinds.map(|kind| json!({"type": kind})),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

pub fn set_user(spec: &mut Value, user: &User) {
    let fields = object(spec, &["process", "user"]);
    if let Value::Object(own) = user.to_json() {
        fields.extend(own);
    }
}

/// Sets a field, or takes it out where there is no value.
pub fn set(object: &mut Object, key: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(object.insert(key.into(), value)),
        None => drop(object.remove(key)),
    }
}

impl Parts<'_> {
    /// What runs, with what around it.
    fn process(&self, spec: &mut Value) -> Result<()> {
        let args = process::args(self.config, &self.image)?;
        let name = match self.pod.config.hostname.as_str() {
            "" => &self.host.hostname,
            name => name,
        };
        let env = process::env(strings(spec, "/process/env"), self.config, &self.image, name)?;
        let cwd = process::cwd(&self.config.working_dir, &self.image.working_dir)?;
        let fields = object(spec, &["process"]);
        fields.insert("args".into(), json!(args));
        fields.insert("env".into(), json!(env));
        fields.insert("cwd".into(), cwd.into());
        fields.insert("terminal".into(), self.config.tty.into());
        fields.insert("noNewPrivileges".into(), self.security.no_new_privs.into());
        if self.security.readonly_rootfs {
            object(spec, &["root"]).insert("readonly".into(), true.into());
        }
        Ok(())
    }

    /// What keeps it from the rest; for the privileged: what does not.
    fn confine(&self, spec: &mut Value, labels: &selinux::Labels) -> Result<()> {
        let (security, privileged) = (self.security, self.security.privileged);
        let paths = |list: &[String]| match list.iter().find(|p| !p.starts_with('/') || p.contains('\0')) {
            Some(path) => invalid(format!("masked or read-only path {path:?} is not absolute")),
            None => Ok(json!(list)),
        };
        if privileged || !self.settings.config.disable_proc_mount {
            let linux = object(spec, &["linux"]);
            for (key, list) in
                [("maskedPaths", &security.masked_paths), ("readonlyPaths", &security.readonly_paths)]
            {
                let list = if privileged { json!([]) } else { paths(list)? };
                linux.insert(key.into(), list);
            }
        }
        if privileged {
            mounts::writable_kernel(spec);
            devices::privileged(spec, self.settings)?;
        }
        let bounding = strings(spec, "/process/capabilities/bounding");
        #[allow(deprecated, reason = "older kubelets say it so")]
        let (older_seccomp, older_apparmor) = (&security.seccomp_profile_path, &security.apparmor_profile);
        let (host, settings) = (self.host, self.settings);
        let asked = security.seccomp.as_ref();
        let seccomp = seccomp::profile(host, settings, asked, older_seccomp, privileged, &bounding)?;
        let asked = security.apparmor.as_ref();
        let apparmor = apparmor::profile(host, settings, asked, older_apparmor, privileged)?;
        // A base specification may bring its own, for those who ask for none.
        let base = self.settings.base_runtime_spec.is_some() && !privileged;
        if seccomp.is_some() || !base {
            set(object(spec, &["linux"]), "seccomp", seccomp);
        }
        let process = object(spec, &["process"]);
        if apparmor.is_some() || !base {
            set(process, "apparmorProfile", apparmor.map(Value::from));
        }
        let label = (!labels.process.is_empty() && !privileged).then(|| labels.process.as_str().into());
        set(process, "selinuxLabel", label);
        let label = (!labels.mount.is_empty()).then(|| labels.mount.as_str().into());
        set(object(spec, &["linux"]), "mountLabel", label);
        Ok(())
    }

    fn limits(&self, spec: &mut Value) -> Result<()> {
        let parent = &self.pod.cgroup_parent;
        let path = resources::cgroups_path(self.settings.systemd_cgroup(), parent, self.id)?;
        let asked = self.config.linux.as_ref().and_then(|l| l.resources.as_ref());
        let linux = object(spec, &["linux"]);
        linux.insert("cgroupsPath".into(), path.into());
        if let Some(asked) = asked {
            let current = linux.get("resources").cloned().unwrap_or_default();
            let all = resources::resources(self.host, self.settings, asked, &current)?;
            linux.insert("resources".into(), all);
            let score = self
                .host
                .clamp_oom_score_adj(asked.oom_score_adj, self.settings.config.restrict_oom_score_adj);
            object(spec, &["process"]).insert("oomScoreAdj".into(), score.into());
        }
        self.classes(spec)
    }

    /// Classes of block I/O and of cache, which annotations ask for.
    fn classes(&self, spec: &mut Value) -> Result<()> {
        let settings = self.settings;
        let name = self.config.metadata.as_ref().map_or("", |m| m.name.as_str());
        let class = |kind| class_of(kind, name, &self.config.annotations, &self.pod.config.annotations);
        if let Some((class, _)) = class("blockio") {
            block_io(spec, settings, name, class)?;
        }
        if let Some((class, origin)) = class("rdt") {
            // Where there is no resctrl, that is to be told.
            if settings.classes.rdt.enabled().is_ok()
                && let Err(error) = settings.classes.rdt.allowed(class, origin)
            {
                return unsupported(format!("container {name:?}: {error}"));
            }
            object(spec, &["linux"]).insert("intelRdt".into(), json!({"closID": class}));
        }
        Ok(())
    }

    /// Ours come last: what is let through cannot stand in their place.
    fn annotate(&self, spec: &mut Value, image: &str) {
        let name = self.config.metadata.as_ref().map_or("", |m| m.name.as_str());
        let image = match self.config.image.as_ref().map(|i| i.user_specified_image.as_str()) {
            Some(name) if !name.is_empty() => name,
            _ => image,
        };
        let own = annotations(self.pod.id, self.pod.config, Subject::Container { name, image });
        let all = passed(&self.pod.config.annotations, &self.settings.runtime.pod_annotations)
            .into_iter()
            .chain(passed(&self.config.annotations, &self.settings.runtime.container_annotations))
            .chain(own);
        object(spec, &["annotations"]).extend(all.map(|(k, v)| (k, v.into())));
    }
}

/// Gives a container the parameters of a block I/O class.
pub fn block_io(spec: &mut Value, settings: &Settings, container: &str, class: &str) -> Result<()> {
    match settings.classes.block_io(class) {
        Ok(parameters) => drop(object(spec, &["linux", "resources"]).insert("blockIO".into(), parameters)),
        Err(classes::Error::Disabled(why))
            if settings.config.containerd.ignore_blockio_not_enabled_errors =>
        {
            settings.classes.leave_out_block_io(&why);
        }
        Err(classes::Error::Disabled(why)) => {
            return unsupported(format!(
                "blockio disabled, refusing to set blockio class of container {container:?} to {class:?}: {why}; \
                 containerd.ignore_blockio_not_enabled_errors = true runs it without"
            ));
        }
        Err(error) => {
            return unsupported(format!("blockio class of container {container:?}: {error}"));
        }
    }
    Ok(())
}

/// Checks the RDT class of a container, whoever has named it: an adjustment, a device or an annotation. A class by name is
/// a group that is there; one that comes with its own shares is the runtime's to make.
pub fn rdt(spec: &mut Value, settings: &Settings, container: &str) -> Result<()> {
    let Some(wanted) = spec.pointer("/linux/intelRdt").and_then(Value::as_object) else { return Ok(()) };
    let class = wanted.get("closID").and_then(Value::as_str).unwrap_or_default().to_owned();
    let shares = ["schemata", "l3CacheSchema", "memBwSchema", "enableMonitoring", "enableCMT", "enableMBM"];
    let checked = if shares.iter().any(|key| wanted.contains_key(*key)) {
        settings.classes.rdt.enabled().map(|()| class.clone())
    } else {
        settings.classes.rdt.clos(&class)
    };
    match checked {
        Ok(clos) if clos != class => {
            object(spec, &["linux", "intelRdt"]).insert("closID".into(), clos.into());
        }
        Ok(_) => {}
        Err(classes::Error::Disabled(why)) if settings.config.containerd.ignore_rdt_not_enabled_errors => {
            object(spec, &["linux"]).remove("intelRdt");
            settings.classes.leave_out_rdt(&why);
        }
        Err(classes::Error::Disabled(why)) => {
            return unsupported(format!(
                "RDT disabled, refusing to set RDT class of container {container:?} to {class:?}: {why}; \
                 containerd.ignore_rdt_not_enabled_errors = true runs it without"
            ));
        }
        Err(error) => return unsupported(format!("RDT class of container {container:?}: {error}")),
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests/container.rs"]
mod tests;
