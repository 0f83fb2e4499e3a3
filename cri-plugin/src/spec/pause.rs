//! The specification of a pod's own process, where the pod has one.

use serde_json::{Value, json};

use super::annotations::{Subject, annotations, passed};
use super::container::{base, set, set_user};
use super::error::Result;
use super::host::Host;
use super::json::{list, object, strings};
use super::mounts::bind_sys;
use super::rootfs::Rootfs;
use super::settings::Settings;
use super::user::{self, Asked};
use super::{Image, Pod, namespaces, process, resources, seccomp, selinux, sysctl};
use windlass_api::cri;

/// The kernel takes it last: without it the pod is gone.
const OOM_SCORE: i64 = -998;
/// It sleeps.
const CPU_SHARES: u64 = 2;

/// Makes the specification of a pod's own process, run from `image`. Namespaces that the pod has files of are joined,
/// the others it asks for are made. Blocks.
pub fn pause(
    host: &Host,
    settings: &Settings,
    pod: &Pod<'_>,
    image: &Image<'_>,
    root: &dyn Rootfs,
) -> Result<Value> {
    let none = cri::LinuxSandboxSecurityContext::default();
    let security = pod.config.linux.as_ref().and_then(|l| l.security_context.as_ref()).unwrap_or(&none);
    let config = image.config()?;
    let mut own = settings.clone();
    // A base specification is for containers.
    own.base_runtime_spec = None;
    let mut spec = base(&own, pod.id);
    let args = process::args(&cri::ContainerConfig::default(), &config)?;
    let mut env = strings(&spec, "/process/env");
    env.push(process::PATH.to_owned());
    process::set_env(&mut env, config.env.iter().cloned());
    let fields = object(&mut spec, &["process"]);
    fields.insert("args".into(), json!(args));
    fields.insert("env".into(), json!(env));
    fields.insert("cwd".into(), process::cwd("", &config.working_dir)?.into());
    fields.insert("noNewPrivileges".into(), true.into());
    let score = host.clamp_oom_score_adj(OOM_SCORE, settings.config.restrict_oom_score_adj);
    fields.insert("oomScoreAdj".into(), score.into());
    object(&mut spec, &["root"]).insert("readonly".into(), true.into());
    namespaces::pause(&mut spec, host, pod)?;
    hostname(&mut spec, pod);
    mounts(&mut spec, pod);
    let path = resources::cgroups_path(settings.systemd_cgroup(), &pod.cgroup_parent, pod.id)?;
    let linux = object(&mut spec, &["linux"]);
    linux.insert("cgroupsPath".into(), path.into());
    linux.insert("sysctl".into(), json!(sysctl::sysctls(settings, pod.config)?));
    object(&mut spec, &["linux", "resources", "cpu"]).insert("shares".into(), CPU_SHARES.into());
    confine(&mut spec, host, settings, pod, security)?;
    let user = user::resolve(&Asked::by_pod(security)?, &config.user, root)?;
    set_user(&mut spec, &user);
    let own = annotations(pod.id, pod.config, Subject::Sandbox { image: image.name });
    let all = passed(&pod.config.annotations, &settings.runtime.pod_annotations).into_iter().chain(own);
    object(&mut spec, &["annotations"]).extend(all.map(|(k, v)| (k, v.into())));
    Ok(spec)
}

/// The name is set where the namespace is made; one that is joined has it.
fn hostname(spec: &mut Value, pod: &Pod<'_>) {
    let namespaces = spec["linux"]["namespaces"].as_array();
    let makes = namespaces.into_iter().flatten().any(|n| n["type"] == "uts" && n.get("path").is_none());
    if makes && !pod.config.hostname.is_empty() {
        object(spec, &[]).insert("hostname".into(), pod.config.hostname.as_str().into());
    }
}

fn mounts(spec: &mut Value, pod: &Pod<'_>) {
    let bind = |inside: &str, source: &std::path::Path| {
        // In a user namespace none of these may be taken away from what is bound.
        json!({"destination": inside, "type": "bind", "source": source,
            "options": ["rbind", "ro", "nosuid", "nodev", "noexec"]})
    };
    let resolv = pod.dir.join("resolv.conf");
    let mounts = list(object(spec, &[]), "mounts");
    if let Some(shm) = pod.shm {
        mounts.retain(|m| m["destination"] != "/dev/shm");
        mounts.push(bind("/dev/shm", shm));
    }
    if resolv.exists() {
        mounts.push(bind("/etc/resolv.conf", &resolv));
    }
    bind_sys(spec, pod.config, pod.userns.is_some());
}

fn confine(
    spec: &mut Value,
    host: &Host,
    settings: &Settings,
    pod: &Pod<'_>,
    security: &cri::LinuxSandboxSecurityContext,
) -> Result<()> {
    let bounding = strings(spec, "/process/capabilities/bounding");
    #[allow(deprecated, reason = "older kubelets say it so")]
    let older = &security.seccomp_profile_path;
    let asked = security.seccomp.as_ref();
    let filter = seccomp::profile(host, settings, asked, older, security.privileged, &bounding)?;
    let labels = selinux::labels(host, settings, pod.id, None, security.selinux_options.as_ref())?;
    let linux = object(spec, &["linux"]);
    set(linux, "seccomp", filter);
    set(linux, "mountLabel", (!labels.mount.is_empty()).then(|| labels.mount.into()));
    let label = (!labels.process.is_empty() && !security.privileged).then(|| labels.process.into());
    set(object(spec, &["process"]), "selinuxLabel", label);
    Ok(())
}

#[cfg(test)]
#[path = "tests/pause.rs"]
mod tests;
