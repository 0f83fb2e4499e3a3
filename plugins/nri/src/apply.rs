//! An adjustment, carried out on an OCI spec.
//!
//! The spec is JSON; what the adjustment does not name stays as it is. On an error the spec may be half adjusted: the
//! caller adjusts a copy.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;

use protobuf::{Enum, EnumOrUnknown};
use serde_json::{Map, Value, json};
use windlass_api::nri::{
    ContainerAdjustment, Hook, Hooks, IOPrioClass, KeyValue, LinuxContainerAdjustment, LinuxDevice,
    LinuxIOPriority, LinuxMemoryPolicy, LinuxRdt, LinuxScheduler, LinuxSchedulerPolicy, LinuxSeccomp, Mount,
};

use crate::error::{Error, Result};
use crate::owners::removed;
use crate::propagation;
use crate::resources::{self, array, object};

type Object = Map<String, Value>;

/// Adjusts `spec`.
pub fn adjust(spec: &mut Value, adjust: &ContainerAdjustment) -> Result<()> {
    let spec = spec.as_object_mut().ok_or_else(|| Error::Spec("it is not an object".into()))?;
    if !adjust.annotations.is_empty() {
        texts(object(spec, "annotations"), &adjust.annotations);
    }
    if !adjust.env.is_empty() {
        env(array(object(spec, "process"), "env"), &adjust.env);
    }
    if !adjust.args.is_empty() {
        object(spec, "process").insert("args".into(), adjust.args.clone().into());
    }
    if !adjust.rlimits.is_empty() {
        let set: HashSet<&str> = adjust.rlimits.iter().map(|l| l.type_.as_str()).collect();
        let limits = array(object(spec, "process"), "rlimits");
        limits.retain(|l| !set.contains(l["type"].as_str().unwrap_or_default()));
        limits
            .extend(adjust.rlimits.iter().map(|l| json!({"type": l.type_, "hard": l.hard, "soft": l.soft})));
    }
    if let Some(hooks) = adjust.hooks.as_ref() {
        add_hooks(spec, hooks);
    }
    if let Some(linux) = adjust.linux.as_ref() {
        adjust_process(object(spec, "process"), linux)?;
        adjust_linux(object(spec, "linux"), linux)?;
    }
    mounts(spec, &adjust.mounts)
}

/// Sets and removes entries of a map of texts.
fn texts(map: &mut Object, changes: &HashMap<String, String>) {
    for key in changes.keys().filter_map(|key| removed(key)) {
        map.remove(key);
    }
    for (key, value) in changes.iter().filter(|(key, _)| removed(key).is_none()) {
        map.insert(key.clone(), value.as_str().into());
    }
}

/// A variable that is there is changed in its place; a new one comes last.
fn env(env: &mut Vec<Value>, changes: &[KeyValue]) {
    let mut by_name: HashMap<&str, Option<&str>> = HashMap::new();
    for change in changes {
        match removed(&change.key) {
            Some(name) => by_name.insert(name, None),
            None => by_name.insert(&change.key, Some(&change.value)),
        };
    }
    let mut placed = HashSet::new();
    env.retain_mut(|entry| {
        let text = entry.as_str().unwrap_or_default();
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        let Some((name, value)) = by_name.get_key_value(name) else { return true };
        match value {
            // Once is enough.
            Some(value) if placed.insert(*name) => {
                *entry = format!("{name}={value}").into();
                true
            }
            _ => false,
        }
    });
    let new = changes.iter().filter(|c| removed(&c.key).is_none() && placed.insert(&c.key));
    env.extend(new.map(|c| Value::from(format!("{}={}", c.key, c.value))));
}

fn add_hooks(spec: &mut Object, hooks: &Hooks) {
    let lists = [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ];
    for (when, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        array(object(spec, "hooks"), when).extend(list.iter().map(hook));
    }
}

fn hook(hook: &Hook) -> Value {
    let mut to = json!({"path": hook.path});
    if !hook.args.is_empty() {
        to["args"] = hook.args.clone().into();
    }
    if !hook.env.is_empty() {
        to["env"] = hook.env.clone().into();
    }
    if let Some(timeout) = hook.timeout.as_ref() {
        to["timeout"] = timeout.value.into();
    }
    to
}

fn adjust_process(process: &mut Object, linux: &LinuxContainerAdjustment) -> Result<()> {
    if let Some(score) = linux.oom_score_adj.as_ref() {
        process.insert("oomScoreAdj".into(), score.value.into());
    }
    if let Some(priority) = linux.io_priority.as_ref() {
        set_or_remove(process, "ioPriority", io_priority(priority)?);
    }
    if let Some(wanted) = linux.scheduler.as_ref() {
        set_or_remove(process, "scheduler", scheduler(wanted)?);
    }
    Ok(())
}

fn set_or_remove(map: &mut Object, key: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(key.into(), value),
        None => map.remove(key),
    };
}

/// The name of a constant, as the specification writes it.
fn name<E: Enum + Debug>(value: &EnumOrUnknown<E>) -> Result<String> {
    let value = value.enum_value().map_err(|n| Error::Spec(format!("unknown constant {n}")))?;
    Ok(format!("{value:?}"))
}

fn io_priority(from: &LinuxIOPriority) -> Result<Option<Value>> {
    if from.class.enum_value() == Ok(IOPrioClass::IOPRIO_CLASS_NONE) {
        return Ok(None);
    }
    Ok(Some(json!({"class": name(&from.class)?, "priority": from.priority})))
}

fn scheduler(from: &LinuxScheduler) -> Result<Option<Value>> {
    if from.policy.enum_value() == Ok(LinuxSchedulerPolicy::SCHED_NONE) {
        return Ok(None);
    }
    let mut to = json!({"policy": name(&from.policy)?});
    for (key, value) in [("nice", from.nice), ("priority", from.priority)] {
        if value != 0 {
            to[key] = value.into();
        }
    }
    for (key, value) in [("runtime", from.runtime), ("deadline", from.deadline), ("period", from.period)] {
        if value != 0 {
            to[key] = value.into();
        }
    }
    if !from.flags.is_empty() {
        to["flags"] = from.flags.iter().map(name).collect::<Result<Vec<_>>>()?.into();
    }
    Ok(Some(to))
}

fn adjust_linux(linux: &mut Object, wanted: &LinuxContainerAdjustment) -> Result<()> {
    for wanted in &wanted.devices {
        device(linux, wanted);
    }
    if !wanted.cgroups_path.is_empty() {
        linux.insert("cgroupsPath".into(), wanted.cgroups_path.as_str().into());
    }
    if let Some(policy) = wanted.seccomp_policy.as_ref() {
        linux.insert("seccomp".into(), seccomp(policy));
    }
    for namespace in &wanted.namespaces {
        let kind = removed(&namespace.type_).unwrap_or(&namespace.type_);
        let list = array(linux, "namespaces");
        list.retain(|n| n["type"] != kind);
        if removed(&namespace.type_).is_none() {
            let mut to = json!({"type": kind});
            if !namespace.path.is_empty() {
                to["path"] = namespace.path.as_str().into();
            }
            list.push(to);
        }
    }
    if !wanted.sysctl.is_empty() {
        texts(object(linux, "sysctl"), &wanted.sysctl);
    }
    for key in wanted.net_devices.keys().filter_map(|key| removed(key)) {
        object(linux, "netDevices").remove(key);
    }
    for (key, device) in wanted.net_devices.iter().filter(|(key, _)| removed(key).is_none()) {
        let to = if device.name.is_empty() { json!({}) } else { json!({"name": device.name}) };
        object(linux, "netDevices").insert(key.clone(), to);
    }
    if let Some(policy) = wanted.memory_policy.as_ref() {
        linux.insert("memoryPolicy".into(), memory_policy(policy)?);
    }
    if let Some(wanted) = wanted.resources.as_ref() {
        resources::write(object(linux, "resources"), wanted);
        if wanted.blockio_class.as_ref().is_some_and(|class| class.value.is_empty()) {
            object(linux, "resources").remove("blockIO");
        }
        if let Some(class) = wanted.rdt_class.as_ref() {
            let rdt = (!class.value.is_empty()).then(|| json!({"closID": class.value}));
            set_or_remove(linux, "intelRdt", rdt);
        }
    }
    if let Some(wanted) = wanted.rdt.as_ref() {
        rdt(linux, wanted);
    }
    Ok(())
}

/// Sets a device and allows it, or removes it.
fn device(linux: &mut Object, wanted: &LinuxDevice) {
    let path = removed(&wanted.path).unwrap_or(&wanted.path);
    let list = array(linux, "devices");
    list.retain(|d| d["path"] != path);
    if removed(&wanted.path).is_some() {
        return;
    }
    let mut to = json!({"path": path, "type": wanted.type_, "major": wanted.major, "minor": wanted.minor});
    if let Some(mode) = wanted.file_mode.as_ref() {
        to["fileMode"] = mode.value.into();
    }
    if let Some(uid) = wanted.uid.as_ref() {
        to["uid"] = uid.value.into();
    }
    if let Some(gid) = wanted.gid.as_ref() {
        to["gid"] = gid.value.into();
    }
    list.push(to);
    // Only a block device can be made anew inside.
    let access = if wanted.type_ == "b" { "rwm" } else { "rw" };
    array(object(linux, "resources"), "devices").push(json!({
        "allow": true, "type": wanted.type_, "major": wanted.major, "minor": wanted.minor, "access": access,
    }));
}

fn seccomp(from: &LinuxSeccomp) -> Value {
    let arg = |a: &windlass_api::nri::LinuxSeccompArg| {
        let mut to = json!({"index": a.index, "value": a.value, "op": a.op});
        if a.value_two != 0 {
            to["valueTwo"] = a.value_two.into();
        }
        to
    };
    let syscall = |s: &windlass_api::nri::LinuxSyscall| {
        let mut to = json!({"names": s.names, "action": s.action});
        if let Some(errno) = s.errno_ret.as_ref() {
            to["errnoRet"] = errno.value.into();
        }
        if !s.args.is_empty() {
            to["args"] = s.args.iter().map(arg).collect::<Vec<_>>().into();
        }
        to
    };
    let mut to = json!({"defaultAction": from.default_action});
    if let Some(errno) = from.default_errno.as_ref() {
        to["defaultErrnoRet"] = errno.value.into();
    }
    for (key, list) in [("architectures", &from.architectures), ("flags", &from.flags)] {
        if !list.is_empty() {
            to[key] = list.clone().into();
        }
    }
    for (key, text) in [("listenerPath", &from.listener_path), ("listenerMetadata", &from.listener_metadata)]
    {
        if !text.is_empty() {
            to[key] = text.as_str().into();
        }
    }
    if !from.syscalls.is_empty() {
        to["syscalls"] = from.syscalls.iter().map(syscall).collect::<Vec<_>>().into();
    }
    to
}

fn memory_policy(from: &LinuxMemoryPolicy) -> Result<Value> {
    let mut to = json!({"mode": name(&from.mode)?});
    if !from.nodes.is_empty() {
        to["nodes"] = from.nodes.as_str().into();
    }
    if !from.flags.is_empty() {
        to["flags"] = from.flags.iter().map(name).collect::<Result<Vec<_>>>()?.into();
    }
    Ok(to)
}

fn rdt(linux: &mut Object, wanted: &LinuxRdt) {
    if wanted.remove {
        linux.remove("intelRdt");
    }
    if let Some(id) = wanted.clos_id.as_ref() {
        object(linux, "intelRdt").insert("closID".into(), id.value.as_str().into());
    }
    if let Some(schemata) = wanted.schemata.as_ref() {
        object(linux, "intelRdt").insert("schemata".into(), schemata.value.clone().into());
    }
    if let Some(monitoring) = wanted.enable_monitoring.as_ref() {
        object(linux, "intelRdt").insert("enableMonitoring".into(), monitoring.value.into());
    }
}

/// Replaces, adds and removes mounts; a deeper one comes later.
fn mounts(spec: &mut Object, wanted: &[Mount]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let gone: HashSet<&str> =
        wanted.iter().map(|m| removed(&m.destination).unwrap_or(&m.destination)).collect();
    array(spec, "mounts").retain(|m| !gone.contains(m["destination"].as_str().unwrap_or_default()));
    for m in wanted.iter().filter(|m| removed(&m.destination).is_none()) {
        if let Some(needed) = propagation::needed(&m.options) {
            propagation::check(&m.source, needed)?;
            propagation::root(object(spec, "linux"), needed);
        }
        let mut to = json!({"destination": m.destination});
        for (key, text) in [("type", &m.type_), ("source", &m.source)] {
            if !text.is_empty() {
                to[key] = text.as_str().into();
            }
        }
        if !m.options.is_empty() {
            to["options"] = m.options.clone().into();
        }
        array(spec, "mounts").push(to);
    }
    array(spec, "mounts").sort_by_cached_key(|m| {
        let destination = m["destination"].as_str().unwrap_or_default();
        let parts = destination.split('/').filter(|part| !part.is_empty() && *part != ".").count();
        (parts, destination.to_owned())
    });
    Ok(())
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
