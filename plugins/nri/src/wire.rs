//! Pods and containers as NRI's messages. What a container's spec says is read here and nowhere else; a spec that says
//! it in a wrong way is read as if it said nothing.

use std::collections::HashMap;

use protobuf::{Enum, EnumOrUnknown, MessageField};
use serde_json::Value;
use windlass_api::nri::security_profile::ProfileType;
use windlass_api::nri::{self as api, CDIDevice, OptionalInt, OptionalUInt32};
use windlass_core::Labels;
use windlass_core::nri::{Container, Eviction, Pod, Seccomp, State, Update};

use crate::resources::{self, items, text};

fn map(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn texts(value: &Value) -> Vec<String> {
    items(value).iter().map(text).collect()
}

fn number<T: TryFrom<i64> + Default>(value: &Value) -> T {
    value.as_i64().and_then(|n| n.try_into().ok()).unwrap_or_default()
}

fn uint32(value: &Value) -> MessageField<OptionalUInt32> {
    let value = value.as_u64().and_then(|n| n.try_into().ok());
    MessageField::from_option(value.map(|value| OptionalUInt32 { value, ..OptionalUInt32::default() }))
}

/// The constant that the specification writes by its name.
fn constant<E: Enum + std::fmt::Debug>(name: &Value) -> EnumOrUnknown<E> {
    let name = name.as_str().unwrap_or_default();
    let named = E::VALUES.iter().find(|value| format!("{value:?}") == name);
    named.or(E::VALUES.first()).map(|value| EnumOrUnknown::new(*value)).expect("an enum has values")
}

pub fn pod(pod: &Pod) -> api::PodSandbox {
    let namespace = |ns: &windlass_core::nri::Namespace| api::LinuxNamespace {
        type_: ns.kind.clone(),
        path: ns.path.clone(),
        ..Default::default()
    };
    let linux = api::LinuxPodSandbox {
        pod_overhead: MessageField::from_option(resources::from_oci(&pod.overhead)),
        pod_resources: MessageField::from_option(resources::from_oci(&pod.resources)),
        cgroup_parent: pod.cgroup_parent.clone(),
        cgroups_path: pod.cgroups_path.clone(),
        namespaces: pod.namespaces.iter().map(namespace).collect(),
        resources: MessageField::from_option(resources::from_oci(&pod.sandbox_resources)),
        ..Default::default()
    };
    api::PodSandbox {
        id: pod.id.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        labels: map(&pod.labels),
        annotations: map(&pod.annotations),
        runtime_handler: pod.runtime_handler.clone(),
        linux: Some(linux).into(),
        pid: pod.pid,
        ips: pod.ips.clone(),
        ..Default::default()
    }
}

/// A container with the spec that it has.
pub fn container(container: &Container) -> api::Container {
    with_spec(container, &container.spec)
}

/// A container with another spec.
pub fn with_spec(container: &Container, spec: &Value) -> api::Container {
    let process = &spec["process"];
    let state = match container.state {
        State::Unknown => api::ContainerState::CONTAINER_UNKNOWN,
        State::Created => api::ContainerState::CONTAINER_CREATED,
        State::Paused => api::ContainerState::CONTAINER_PAUSED,
        State::Running => api::ContainerState::CONTAINER_RUNNING,
        State::Stopped => api::ContainerState::CONTAINER_STOPPED,
    };
    let device = |name: &String| CDIDevice { name: name.clone(), ..CDIDevice::default() };
    api::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.pod_id.clone(),
        name: container.name.clone(),
        state: state.into(),
        labels: map(&container.labels),
        annotations: map(&container.annotations),
        args: texts(&process["args"]),
        env: texts(&process["env"]),
        mounts: items(&spec["mounts"]).iter().map(mount).collect(),
        hooks: MessageField::from_option(hooks(&spec["hooks"])),
        linux: Some(linux(container, spec)).into(),
        pid: container.pid,
        rlimits: items(&process["rlimits"]).iter().map(rlimit).collect(),
        created_at: container.created_at,
        started_at: container.started_at,
        finished_at: container.finished_at,
        exit_code: container.exit_code,
        status_reason: container.reason.clone(),
        status_message: container.message.clone(),
        CDI_devices: container.cdi_devices.iter().map(device).collect(),
        user: MessageField::from_option(user(process)),
        ..Default::default()
    }
}

fn mount(m: &Value) -> api::Mount {
    api::Mount {
        destination: text(&m["destination"]),
        type_: text(&m["type"]),
        source: text(&m["source"]),
        options: texts(&m["options"]),
        ..Default::default()
    }
}

fn rlimit(l: &Value) -> api::POSIXRlimit {
    api::POSIXRlimit {
        type_: text(&l["type"]),
        hard: l["hard"].as_u64().unwrap_or_default(),
        soft: l["soft"].as_u64().unwrap_or_default(),
        ..Default::default()
    }
}

fn user(process: &Value) -> Option<api::User> {
    process.as_object()?;
    let user = &process["user"];
    Some(api::User {
        uid: number(&user["uid"]),
        gid: number(&user["gid"]),
        additional_gids: items(&user["additionalGids"]).iter().map(number).collect(),
        ..Default::default()
    })
}

fn hooks(hooks: &Value) -> Option<api::Hooks> {
    hooks.as_object()?;
    let hook = |h: &Value| api::Hook {
        path: text(&h["path"]),
        args: texts(&h["args"]),
        env: texts(&h["env"]),
        timeout: MessageField::from_option(
            h["timeout"].as_i64().map(|value| OptionalInt { value, ..OptionalInt::default() }),
        ),
        ..Default::default()
    };
    let of = |when: &str| items(&hooks[when]).iter().map(hook).collect();
    Some(api::Hooks {
        prestart: of("prestart"),
        create_runtime: of("createRuntime"),
        create_container: of("createContainer"),
        start_container: of("startContainer"),
        poststart: of("poststart"),
        poststop: of("poststop"),
        ..Default::default()
    })
}

fn linux(container: &Container, spec: &Value) -> api::LinuxContainer {
    let (process, linux) = (&spec["process"], &spec["linux"]);
    let namespace = |ns: &Value| api::LinuxNamespace {
        type_: text(&ns["type"]),
        path: text(&ns["path"]),
        ..Default::default()
    };
    let strings = |value: &Value| {
        let entries = value.as_object().into_iter().flatten();
        entries.map(|(k, v)| (k.clone(), text(v))).collect::<HashMap<_, _>>()
    };
    let net = linux["netDevices"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), api::LinuxNetDevice { name: text(&v["name"]), ..Default::default() }));
    let score = process["oomScoreAdj"].as_i64();
    api::LinuxContainer {
        namespaces: items(&linux["namespaces"]).iter().map(namespace).collect(),
        devices: items(&linux["devices"]).iter().map(device).collect(),
        resources: MessageField::from_option(resources::from_oci(&linux["resources"])),
        oom_score_adj: MessageField::from_option(
            score.map(|value| OptionalInt { value, ..OptionalInt::default() }),
        ),
        cgroups_path: text(&linux["cgroupsPath"]),
        io_priority: MessageField::from_option(io_priority(&process["ioPriority"])),
        seccomp_profile: MessageField::from_option(container.seccomp.as_ref().map(profile)),
        seccomp_policy: MessageField::from_option(seccomp(&linux["seccomp"])),
        sysctl: strings(&linux["sysctl"]),
        net_devices: net.collect(),
        scheduler: MessageField::from_option(scheduler(&process["scheduler"])),
        rdt: MessageField::from_option(rdt(&linux["intelRdt"])),
        ..Default::default()
    }
}

fn device(d: &Value) -> api::LinuxDevice {
    let mode = d["fileMode"].as_u64().and_then(|mode| mode.try_into().ok());
    api::LinuxDevice {
        path: text(&d["path"]),
        type_: text(&d["type"]),
        major: d["major"].as_i64().unwrap_or_default(),
        minor: d["minor"].as_i64().unwrap_or_default(),
        file_mode: MessageField::from_option(
            mode.map(|value| api::OptionalFileMode { value, ..Default::default() }),
        ),
        uid: uint32(&d["uid"]),
        gid: uint32(&d["gid"]),
        ..Default::default()
    }
}

fn profile(seccomp: &Seccomp) -> api::SecurityProfile {
    let (kind, reference) = match seccomp {
        Seccomp::RuntimeDefault => (ProfileType::RUNTIME_DEFAULT, String::new()),
        Seccomp::Unconfined => (ProfileType::UNCONFINED, String::new()),
        Seccomp::Localhost(reference) => (ProfileType::LOCALHOST, reference.clone()),
    };
    api::SecurityProfile { profile_type: kind.into(), localhost_ref: reference, ..Default::default() }
}

fn io_priority(value: &Value) -> Option<api::LinuxIOPriority> {
    value.as_object()?;
    let priority = number(&value["priority"]);
    Some(api::LinuxIOPriority { class: constant(&value["class"]), priority, ..Default::default() })
}

fn scheduler(value: &Value) -> Option<api::LinuxScheduler> {
    value.as_object()?;
    Some(api::LinuxScheduler {
        policy: constant(&value["policy"]),
        nice: number(&value["nice"]),
        priority: number(&value["priority"]),
        flags: items(&value["flags"]).iter().map(constant).collect(),
        runtime: value["runtime"].as_u64().unwrap_or_default(),
        deadline: value["deadline"].as_u64().unwrap_or_default(),
        period: value["period"].as_u64().unwrap_or_default(),
        ..Default::default()
    })
}

fn rdt(value: &Value) -> Option<api::LinuxRdt> {
    value.as_object()?;
    let schemata = api::OptionalRepeatedString { value: texts(&value["schemata"]), ..Default::default() };
    let monitoring = value["enableMonitoring"].as_bool().unwrap_or_default();
    Some(api::LinuxRdt {
        clos_id: Some(api::OptionalString { value: text(&value["closID"]), ..Default::default() }).into(),
        schemata: Some(schemata).into(),
        enable_monitoring: Some(api::OptionalBool { value: monitoring, ..Default::default() }).into(),
        ..Default::default()
    })
}

fn seccomp(value: &Value) -> Option<api::LinuxSeccomp> {
    value.as_object()?;
    let arg = |a: &Value| api::LinuxSeccompArg {
        index: number(&a["index"]),
        value: a["value"].as_u64().unwrap_or_default(),
        value_two: a["valueTwo"].as_u64().unwrap_or_default(),
        op: text(&a["op"]),
        ..Default::default()
    };
    let syscall = |s: &Value| api::LinuxSyscall {
        names: texts(&s["names"]),
        action: text(&s["action"]),
        errno_ret: uint32(&s["errnoRet"]),
        args: items(&s["args"]).iter().map(arg).collect(),
        ..Default::default()
    };
    Some(api::LinuxSeccomp {
        default_action: text(&value["defaultAction"]),
        default_errno: uint32(&value["defaultErrnoRet"]),
        architectures: texts(&value["architectures"]),
        flags: texts(&value["flags"]),
        listener_path: text(&value["listenerPath"]),
        listener_metadata: text(&value["listenerMetadata"]),
        syscalls: items(&value["syscalls"]).iter().map(syscall).collect(),
        ..Default::default()
    })
}

/// A plugin's update as core has it.
pub fn update(update: &api::ContainerUpdate) -> Update {
    let resources = update.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    Update {
        container_id: update.container_id.clone(),
        resources: resources.map_or_else(|| Value::Object(Default::default()), resources::to_oci),
        ignore_failure: update.ignore_failure,
    }
}

/// The other way round, for those that failed.
pub fn failed(update: Update) -> api::ContainerUpdate {
    let linux = api::LinuxContainerUpdate {
        resources: MessageField::from_option(resources::from_oci(&update.resources)),
        ..Default::default()
    };
    api::ContainerUpdate {
        container_id: update.container_id,
        linux: Some(linux).into(),
        ignore_failure: update.ignore_failure,
        ..Default::default()
    }
}

pub fn eviction(eviction: api::ContainerEviction) -> Eviction {
    Eviction { container_id: eviction.container_id, reason: eviction.reason }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_spec_is_read() {
        let spec = json!({
            "process": {
                "args": ["sh", "-c", "true"], "env": ["A=1"], "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1}], "oomScoreAdj": -5,
                "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3},
                "scheduler": {"policy": "SCHED_FIFO", "priority": 9, "flags": ["SCHED_FLAG_RECLAIM"]},
            },
            "mounts": [{"destination": "/a", "type": "bind", "source": "/b", "options": ["ro"]}],
            "hooks": {"poststop": [{"path": "/h", "timeout": 3}]},
            "linux": {
                "namespaces": [{"type": "network", "path": "/n"}], "cgroupsPath": "/c",
                "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 438, "uid": 0}],
                "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
                            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]},
                "sysctl": {"a.b": "1"}, "netDevices": {"eth0": {"name": "e"}},
                "intelRdt": {"closID": "gold"}, "resources": {"memory": {"limit": 9}},
            },
        });
        let given = Container {
            id: "c".into(),
            spec: std::sync::Arc::new(spec),
            seccomp: Some(Seccomp::Localhost("p.json".into())),
            state: State::Running,
            ..Container::default()
        };
        let c = container(&given);
        assert_eq!((c.args.len(), c.env[0].as_str(), c.mounts[0].source.as_str()), (3, "A=1", "/b"));
        assert_eq!(c.hooks.poststop[0].timeout.value, 3);
        assert_eq!((c.user.uid, c.user.additional_gids.as_slice()), (5, [7].as_slice()));
        assert_eq!(c.rlimits[0].hard, 2);
        assert_eq!(c.state.enum_value(), Ok(api::ContainerState::CONTAINER_RUNNING));
        let l = &c.linux;
        assert_eq!((l.oom_score_adj.value, l.resources.memory.limit.value), (-5, 9));
        assert_eq!(l.io_priority.class.enum_value(), Ok(api::IOPrioClass::IOPRIO_CLASS_BE));
        assert_eq!(l.scheduler.policy.enum_value(), Ok(api::LinuxSchedulerPolicy::SCHED_FIFO));
        assert_eq!(l.scheduler.flags[0].enum_value(), Ok(api::LinuxSchedulerFlag::SCHED_FLAG_RECLAIM));
        assert_eq!(l.devices[0].file_mode.value, 0o666);
        assert!(l.devices[0].uid.is_some() && l.devices[0].gid.is_none());
        assert_eq!(
            (l.seccomp_policy.default_errno.value, l.seccomp_profile.localhost_ref.as_str()),
            (1, "p.json")
        );
        assert_eq!((l.sysctl["a.b"].as_str(), l.net_devices["eth0"].name.as_str()), ("1", "e"));
        assert_eq!((l.rdt.clos_id.value.as_str(), l.cgroups_path.as_str()), ("gold", "/c"));
    }

    #[test]
    fn a_spec_that_makes_no_sense_is_read_as_nothing() {
        for spec in [json!(null), json!([1]), json!({"process": 1, "linux": [], "mounts": {}, "hooks": ""})] {
            let c = with_spec(&Container::default(), &spec);
            assert!(c.args.is_empty() && c.mounts.is_empty() && c.hooks.is_none() && c.user.is_none());
        }
    }
}
