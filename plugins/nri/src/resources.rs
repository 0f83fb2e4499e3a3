//! Resources: from the runtime specification's JSON to NRI's message and back, and how one set is laid over another.

use std::collections::HashSet;

use protobuf::MessageField;
use serde_json::{Map, Value, json};
use windlass_api::nri::{
    HugepageLimit, LinuxCPU, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources, OptionalBool,
    OptionalInt64, OptionalUInt64,
};

use crate::error::Result;
use crate::owners::{Field, Owners};

fn int(value: &Value) -> MessageField<OptionalInt64> {
    let value = value.as_i64().map(|value| OptionalInt64 { value, ..OptionalInt64::default() });
    MessageField::from_option(value)
}

fn uint(value: &Value) -> MessageField<OptionalUInt64> {
    let value = value.as_u64().map(|value| OptionalUInt64 { value, ..OptionalUInt64::default() });
    MessageField::from_option(value)
}

fn boolean(value: &Value) -> MessageField<OptionalBool> {
    let value = value.as_bool().map(|value| OptionalBool { value, ..OptionalBool::default() });
    MessageField::from_option(value)
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The object at `key`, made if it is not there.
pub(crate) fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = map.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made an object")
}

/// The array at `key`, made if it is not there.
pub(crate) fn array<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let value = map.entry(key).or_insert_with(|| json!([]));
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("it was made an array")
}

/// OCI `LinuxResources` as a message; nothing for null.
pub fn from_oci(oci: &Value) -> Option<LinuxResources> {
    oci.as_object()?;
    let mut to = LinuxResources::new();
    let m = &oci["memory"];
    if m.is_object() {
        to.memory = Some(LinuxMemory {
            limit: int(&m["limit"]),
            reservation: int(&m["reservation"]),
            swap: int(&m["swap"]),
            kernel: int(&m["kernel"]),
            kernel_tcp: int(&m["kernelTCP"]),
            swappiness: uint(&m["swappiness"]),
            disable_oom_killer: boolean(&m["disableOOMKiller"]),
            use_hierarchy: boolean(&m["useHierarchy"]),
            ..LinuxMemory::default()
        })
        .into();
    }
    let c = &oci["cpu"];
    if c.is_object() {
        to.cpu = Some(LinuxCPU {
            shares: uint(&c["shares"]),
            quota: int(&c["quota"]),
            period: uint(&c["period"]),
            realtime_runtime: int(&c["realtimeRuntime"]),
            realtime_period: uint(&c["realtimePeriod"]),
            cpus: text(&c["cpus"]),
            mems: text(&c["mems"]),
            ..LinuxCPU::default()
        })
        .into();
    }
    let limit = |h: &Value| HugepageLimit {
        page_size: text(&h["pageSize"]),
        limit: h["limit"].as_u64().unwrap_or_default(),
        ..HugepageLimit::default()
    };
    to.hugepage_limits = items(&oci["hugepageLimits"]).iter().map(limit).collect();
    let rule = |d: &Value| LinuxDeviceCgroup {
        allow: d["allow"].as_bool().unwrap_or_default(),
        type_: text(&d["type"]),
        major: int(&d["major"]),
        minor: int(&d["minor"]),
        access: text(&d["access"]),
        ..LinuxDeviceCgroup::default()
    };
    to.devices = items(&oci["devices"]).iter().map(rule).collect();
    if oci["pids"].is_object() {
        let limit = oci["pids"]["limit"].as_i64().unwrap_or_default();
        to.pids = Some(LinuxPids { limit, ..LinuxPids::default() }).into();
    }
    if let Some(unified) = oci["unified"].as_object() {
        to.unified = unified.iter().map(|(k, v)| (k.clone(), text(v))).collect();
    }
    Some(to)
}

/// What is set in `from`, set in `oci` too. A new memory limit is the limit of memory and swap together, unless swap is
/// set as well.
pub fn write(oci: &mut Map<String, Value>, from: &LinuxResources) {
    if let Some(m) = from.memory.as_ref() {
        write_memory(oci, m);
    }
    if let Some(c) = from.cpu.as_ref() {
        write_cpu(oci, c);
    }
    if !from.hugepage_limits.is_empty() {
        let new: HashSet<&str> = from.hugepage_limits.iter().map(|l| l.page_size.as_str()).collect();
        let limits = array(oci, "hugepageLimits");
        limits.retain(|l| !new.contains(l["pageSize"].as_str().unwrap_or_default()));
        limits
            .extend(from.hugepage_limits.iter().map(|l| json!({"pageSize": l.page_size, "limit": l.limit})));
    }
    if !from.unified.is_empty() {
        let unified = object(oci, "unified");
        unified.extend(from.unified.iter().map(|(k, v)| (k.clone(), v.as_str().into())));
    }
    if let Some(pids) = from.pids.as_ref() {
        object(oci, "pids").insert("limit".into(), pids.limit.into());
    }
    for rule in &from.devices {
        array(oci, "devices").push(write_rule(rule));
    }
}

fn write_memory(oci: &mut Map<String, Value>, m: &LinuxMemory) {
    let mut set = Vec::new();
    if let Some(limit) = m.limit.as_ref().map(|l| l.value).filter(|limit| *limit != 0) {
        set.extend([("limit", json!(limit)), ("swap", json!(limit))]);
    }
    let ints = [
        ("reservation", &m.reservation),
        ("swap", &m.swap),
        ("kernel", &m.kernel),
        ("kernelTCP", &m.kernel_tcp),
    ];
    set.extend(ints.into_iter().filter_map(|(key, v)| Some((key, json!(v.as_ref()?.value)))));
    set.extend(m.swappiness.as_ref().map(|v| ("swappiness", json!(v.value))));
    set.extend(m.disable_oom_killer.as_ref().map(|v| ("disableOOMKiller", json!(v.value))));
    set.extend(m.use_hierarchy.as_ref().map(|v| ("useHierarchy", json!(v.value))));
    put(oci, "memory", set);
}

fn write_cpu(oci: &mut Map<String, Value>, c: &LinuxCPU) {
    let mut set = Vec::new();
    let uints = [("shares", &c.shares), ("period", &c.period), ("realtimePeriod", &c.realtime_period)];
    set.extend(uints.into_iter().filter_map(|(key, v)| Some((key, json!(v.as_ref()?.value)))));
    let ints = [("quota", &c.quota), ("realtimeRuntime", &c.realtime_runtime)];
    set.extend(ints.into_iter().filter_map(|(key, v)| Some((key, json!(v.as_ref()?.value)))));
    let texts = [("cpus", &c.cpus), ("mems", &c.mems)];
    set.extend(texts.into_iter().filter(|(_, v)| !v.is_empty()).map(|(key, v)| (key, json!(v))));
    put(oci, "cpu", set);
}

fn put(oci: &mut Map<String, Value>, key: &str, set: Vec<(&str, Value)>) {
    if !set.is_empty() {
        object(oci, key).extend(set.into_iter().map(|(key, value)| (key.to_owned(), value)));
    }
}

fn write_rule(rule: &LinuxDeviceCgroup) -> Value {
    let mut to = json!({"allow": rule.allow});
    if !rule.type_.is_empty() {
        to["type"] = rule.type_.as_str().into();
    }
    if let Some(major) = rule.major.as_ref() {
        to["major"] = major.value.into();
    }
    if let Some(minor) = rule.minor.as_ref() {
        to["minor"] = minor.value.into();
    }
    if !rule.access.is_empty() {
        to["access"] = rule.access.as_str().into();
    }
    to
}

/// `LinuxResources` as JSON that says no more than what is set.
pub fn to_oci(from: &LinuxResources) -> Value {
    let mut oci = Map::new();
    write(&mut oci, from);
    Value::Object(oci)
}

/// A message that is there is set, whatever its value.
fn is_set<T: Default + PartialEq>(value: &T) -> bool {
    *value != T::default()
}

/// Lays what `plugin` asks for over each of `targets`, once it is sure that nobody else has set it.
pub fn merge(
    owners: &mut Owners,
    container: &str,
    plugin: &str,
    asked: &LinuxResources,
    targets: &mut [&mut LinuxResources],
) -> Result<()> {
    macro_rules! take {
        ($group:ident { $($name:ident: $field:ident),* $(,)? }) => {
            if let Some(group) = asked.$group.as_ref() { $(
                if is_set(&group.$name) {
                    owners.claim(container, Field::$field, plugin)?;
                    for target in targets.iter_mut() {
                        target.$group.mut_or_insert_default().$name = group.$name.clone();
                    }
                }
            )* }
        };
        ($($name:ident: $field:ident),* $(,)?) => { $(
            if asked.$name.is_some() {
                owners.claim(container, Field::$field, plugin)?;
                for target in targets.iter_mut() {
                    target.$name = asked.$name.clone();
                }
            }
        )* };
    }
    take!(memory {
        limit: MemLimit,
        reservation: MemReservation,
        swap: MemSwapLimit,
        kernel: MemKernelLimit,
        kernel_tcp: MemTCPLimit,
        swappiness: MemSwappiness,
        disable_oom_killer: MemDisableOomKiller,
        use_hierarchy: MemUseHierarchy,
    });
    take!(cpu {
        shares: CPUShares,
        quota: CPUQuota,
        period: CPUPeriod,
        realtime_runtime: CPURealtimeRuntime,
        realtime_period: CPURealtimePeriod,
        cpus: CPUSetCPUs,
        mems: CPUSetMems,
    });
    take!(blockio_class: BlockioClass, rdt_class: RdtClass, pids: PidsLimit);
    for limit in &asked.hugepage_limits {
        owners.claim_entry(container, Field::HugepageLimits, &limit.page_size, plugin)?;
    }
    for (key, value) in &asked.unified {
        owners.claim_entry(container, Field::CgroupsUnified, key, plugin)?;
        for target in targets.iter_mut() {
            target.unified.insert(key.clone(), value.clone());
        }
    }
    let sizes: HashSet<&str> = asked.hugepage_limits.iter().map(|l| l.page_size.as_str()).collect();
    for target in targets.iter_mut().filter(|_| !sizes.is_empty()) {
        target.hugepage_limits.retain(|l| !sizes.contains(l.page_size.as_str()));
        target.hugepage_limits.extend(asked.hugepage_limits.iter().cloned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Value {
        json!({
            "memory": {"limit": 1, "reservation": 2, "swap": 3, "kernel": 4, "kernelTCP": 5, "swappiness": 6,
                       "disableOOMKiller": true, "useHierarchy": false},
            "cpu": {"shares": 1, "quota": -1, "period": 3, "realtimeRuntime": 4, "realtimePeriod": 5,
                    "cpus": "0-1", "mems": "0"},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
            "pids": {"limit": 100},
            "unified": {"memory.high": "7"},
            "devices": [{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
        })
    }

    #[test]
    fn resources_survive_the_way_there_and_back() {
        assert_eq!(to_oci(&from_oci(&full()).unwrap()), full());
        assert!(from_oci(&Value::Null).is_none());
        assert_eq!(to_oci(&LinuxResources::new()), json!({}));
    }

    #[test]
    fn what_is_not_set_stays() {
        let mut oci = full();
        let asked = from_oci(&json!({
            "memory": {"limit": 77}, "cpu": {"cpus": "3"}, "unified": {"pids.max": "1"},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 2}],
        }));
        write(oci.as_object_mut().unwrap(), &asked.unwrap());
        let mut want = full();
        want["memory"]["limit"] = 77.into();
        want["memory"]["swap"] = 77.into();
        want["cpu"]["cpus"] = "3".into();
        want["unified"]["pids.max"] = "1".into();
        want["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 2}]);
        assert_eq!(oci, want);
    }

    #[test]
    fn every_field_has_an_owner_and_only_one() {
        let asked = from_oci(&full()).unwrap();
        let mut owners = Owners::default();
        let mut target = LinuxResources::new();
        merge(&mut owners, "c", "10-a", &asked, &mut [&mut target]).unwrap();
        // Device rules are added where a container is made, and belong to nobody.
        let mut want = full();
        want.as_object_mut().unwrap().remove("devices");
        assert_eq!(to_oci(&target), want);
        for (pointer, value) in [
            ("memory/limit", json!(1)),
            ("memory/swappiness", json!(1)),
            ("memory/disableOOMKiller", json!(false)),
            ("cpu/shares", json!(1)),
            ("cpu/quota", json!(1)),
            ("cpu/mems", json!("0")),
            ("pids/limit", json!(1)),
            ("unified/memory.high", json!("8")),
        ] {
            let (group, key) = pointer.split_once('/').unwrap();
            let again = from_oci(&json!({group: {key: value}})).unwrap();
            assert!(merge(&mut owners, "c", "20-b", &again, &mut [&mut target]).is_err(), "{pointer}");
            let other = merge(&mut owners, pointer, "20-b", &again, &mut [&mut target]);
            assert!(other.is_ok(), "{pointer}");
        }
    }
}
