//! Limits as properties of a unit. They are the same as in the control files, which are written after; without them systemd
//! would put its defaults into the files whenever it looks at its units again (`daemon-reload`).
//!
//! What systemd has no property for is set in the files alone. Versions are not asked for: kernels that this crate needs
//! come with systemd 249 or later, which knows all that is sent here.

use super::super::convert::{cpu_weight, io_weight, swap_max};
use super::super::devices;
use super::wire::{Property, Value};
use crate::error::{Error, Result};
use crate::spec::{Cpu, DeviceRule, Memory, Resources};

/// More than any kernel is built for.
const MAX_CPU: usize = 8192;
const SECOND: u64 = 1_000_000;
const DEFAULT_PERIOD: u64 = 100_000;

pub fn of(resources: &Resources, unified: bool) -> Result<Vec<Property>> {
    let mut all = Vec::new();
    if let Some(memory) = &resources.memory {
        of_memory(memory, unified, &mut all)?;
    }
    if let Some(cpu) = &resources.cpu {
        of_cpu(cpu, unified, &mut all)?;
    }
    if let Some(limit) = resources.pids.as_ref().and_then(|p| p.limit) {
        // As the files have it: 0 is taken for 1.
        let limit = if limit == 0 { 1 } else { u64::try_from(limit).unwrap_or(u64::MAX) };
        all.push(("TasksMax", Value::Number(limit)));
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|b| b.weight).filter(|&w| w != 0) {
        all.push(if unified {
            ("IOWeight", Value::Number(io_weight(weight)))
        } else {
            ("BlockIOWeight", Value::Number(u64::from(weight)))
        });
    }
    for (name, value) in &resources.unified {
        of_file(name, value, &mut all)?;
    }
    Ok(all)
}

/// 0 is no limit that was asked for, -1 the lifting of one.
fn limit(value: Option<i64>) -> Option<Value> {
    value.filter(|&n| n != 0).map(|n| Value::Number(u64::try_from(n).unwrap_or(u64::MAX)))
}

fn of_memory(memory: &Memory, unified: bool, all: &mut Vec<Property>) -> Result<()> {
    if !unified {
        all.extend(limit(memory.limit).map(|value| ("MemoryLimit", value)));
        return Ok(());
    }
    all.extend(limit(memory.limit).map(|value| ("MemoryMax", value)));
    all.extend(limit(memory.reservation).map(|value| ("MemoryLow", value)));
    if let Some(swap) = swap_max(memory.limit, memory.swap)? {
        all.push(("MemorySwapMax", Value::Number(swap.parse().unwrap_or(u64::MAX))));
    }
    Ok(())
}

fn of_cpu(cpu: &Cpu, unified: bool, all: &mut Vec<Property>) -> Result<()> {
    if let Some(shares) = cpu.shares.filter(|&s| s != 0) {
        all.push(if unified {
            ("CPUWeight", Value::Number(cpu_weight(shares)))
        } else {
            ("CPUShares", Value::Number(shares.clamp(2, 262_144)))
        });
    }
    let period = cpu.period.filter(|&p| p != 0);
    if let Some(quota) = cpu.quota.filter(|&q| q != 0).or(period.map(|_| -1)) {
        quota_per_second(quota, period.unwrap_or(DEFAULT_PERIOD), all);
    }
    // systemd has no cpuset of version 1.
    if unified {
        for (name, list) in [("AllowedCPUs", &cpu.cpus), ("AllowedMemoryNodes", &cpu.mems)] {
            if !list.is_empty() {
                all.push((name, Value::Bytes(mask(list)?)));
            }
        }
    }
    Ok(())
}

fn quota_per_second(quota: i64, period: u64, all: &mut Vec<Property>) {
    let per_second = match u64::try_from(quota) {
        // systemd keeps whole per cents in the unit's file; rounded up, what is read back is enough for the container.
        Ok(quota) => {
            let exact = u128::from(quota) * u128::from(SECOND) / u128::from(period);
            u64::try_from(exact.next_multiple_of(u128::from(SECOND / 100))).unwrap_or(u64::MAX)
        }
        Err(_) => u64::MAX,
    };
    all.push(("CPUQuotaPerSecUSec", Value::Number(per_second)));
    if period != DEFAULT_PERIOD {
        all.push(("CPUQuotaPeriodUSec", Value::Number(period)));
    }
}

/// Files of version 2 that are set by name. What the kernel would not take is left to it to refuse.
fn of_file(name: &str, value: &str, all: &mut Vec<Property>) -> Result<()> {
    let number = |text: &str| match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse::<u64>().ok(),
    };
    let property = match name {
        "memory.max" => "MemoryMax",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "cpuset.cpus" | "cpuset.mems" if !value.trim().is_empty() => {
            let name = if name == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
            all.push((name, Value::Bytes(mask(value)?)));
            return Ok(());
        }
        "cpu.max" => {
            let mut parts = value.split_whitespace();
            let quota = parts.next().and_then(number);
            let period = parts.next().map_or(Some(DEFAULT_PERIOD), |p| p.parse().ok()).filter(|&p| p != 0);
            if let (Some(quota), Some(period)) = (quota, period) {
                quota_per_second(i64::try_from(quota).unwrap_or(-1), period, all);
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    all.extend(number(value).map(|number| (property, Value::Number(number))));
    Ok(())
}

/// A list like `0-3,7` as bits, the lowest first.
fn mask(list: &str) -> Result<Vec<u8>> {
    let wrong = || Error::Spec(format!("{list:?} is no list of processors or memory nodes"));
    let mut bytes = Vec::new();
    for range in list.trim().split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse::<usize>(), last.trim().parse::<usize>());
        let (Ok(first), Ok(last)) = (first, last) else { return Err(wrong()) };
        if first > last || last >= MAX_CPU {
            return Err(wrong());
        }
        bytes.resize(bytes.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bytes[bit / 8] |= 1 << (bit % 8));
    }
    if bytes.is_empty() { Err(wrong()) } else { Ok(bytes) }
}

/// Version 1 has one list of devices, which systemd writes as well: without a policy of its own it would open the group
/// to every device. On version 2 it has a program of its own, none for a unit without a policy, beside that of the
/// container, and both must agree; there nothing is said.
pub fn of_devices(configured: &[DeviceRule]) -> Result<Vec<Property>> {
    let allowed = devices::allowed(configured)?;
    let policy = if allowed.is_some() { "strict" } else { "auto" };
    Ok(vec![
        ("DevicePolicy", Value::Text(policy.into())),
        ("DeviceAllow", Value::Pairs(allowed.unwrap_or_default())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(json: &str, unified: bool) -> Vec<(&'static str, u64)> {
        let numbers = of(&serde_json::from_str(json).unwrap(), unified).unwrap().into_iter();
        numbers
            .filter_map(|(name, v)| if let Value::Number(n) = v { Some((name, n)) } else { None })
            .collect()
    }

    const USUAL: &str = r#"{"memory":{"limit":1000,"swap":1500,"reservation":7},"pids":{"limit":0},
        "cpu":{"shares":1024,"quota":12345,"period":100000},"blockIO":{"weight":10}}"#;

    #[test]
    fn both_versions() {
        let expected = [
            ("MemoryMax", 1000),
            ("MemoryLow", 7),
            ("MemorySwapMax", 500),
            ("CPUWeight", 100),
            ("CPUQuotaPerSecUSec", 130_000),
            ("TasksMax", 1),
            ("IOWeight", 1),
        ];
        assert_eq!(given(USUAL, true), expected);
        let expected = [
            ("MemoryLimit", 1000),
            ("CPUShares", 1024),
            ("CPUQuotaPerSecUSec", 130_000),
            ("TasksMax", 1),
            ("BlockIOWeight", 10),
        ];
        assert_eq!(given(USUAL, false), expected);
    }

    #[test]
    fn absent_and_lifted() {
        assert_eq!(given("{}", true), []);
        assert_eq!(given(r#"{"memory":{"limit":0},"cpu":{"shares":0,"quota":0}}"#, true), []);
        let lifted =
            given(r#"{"memory":{"limit":-1},"cpu":{"quota":-1,"period":50000},"pids":{"limit":-1}}"#, true);
        let names = ["MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec"].map(|name| (name, u64::MAX));
        assert_eq!(lifted[..3], names);
        assert_eq!(lifted[3..], [("CPUQuotaPeriodUSec", 50_000), ("TasksMax", u64::MAX)]);
    }

    #[test]
    fn files_by_name() {
        let files = r#"{"unified":{"memory.high":"max","pids.max":"5\n","cpu.max":"50000 200000","memory.oom.group":"1",
            "memory.min":"nonsense"}}"#;
        let expected = [
            ("CPUQuotaPerSecUSec", 250_000),
            ("CPUQuotaPeriodUSec", 200_000),
            ("MemoryHigh", u64::MAX),
            ("TasksMax", 5),
        ];
        assert_eq!(given(files, true), expected);
        let one = of(&serde_json::from_str(r#"{"unified":{"cpuset.cpus":"1"}}"#).unwrap(), true).unwrap();
        assert_eq!(one, [("AllowedCPUs", Value::Bytes(vec![2]))]);
    }

    #[test]
    fn masks() {
        assert_eq!(mask("0-3,7").unwrap(), [0b1000_1111]);
        assert_eq!(mask(" 9 \n").unwrap(), [0, 2]);
        for wrong in ["", ",", "a", "3-1", "1-", "-1", "8192", "0-99999999999"] {
            assert!(mask(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn devices_of_version_1() {
        let rules = |json| of_devices(&serde_json::from_str::<Vec<DeviceRule>>(json).unwrap()).unwrap();
        let strict =
            rules(r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"access":"r"}]"#);
        assert_eq!(strict[0].1, Value::Text("strict".into()));
        let Value::Pairs(pairs) = &strict[1].1 else { panic!("{strict:?}") };
        let has = |path: &str, access: &str| pairs.contains(&(path.to_owned(), access.to_owned()));
        assert!(has("block-8", "r") && has("/dev/char/1:3", "rwm") && has("char-*", "m"), "{pairs:?}");
        let open = rules(r#"[{"allow":true,"access":"rwm"}]"#);
        assert_eq!(open[0].1, Value::Text("auto".into()));
        assert_eq!(open[1].1, Value::Pairs(vec![]));
    }
}
