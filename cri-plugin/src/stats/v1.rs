//! Figures out of version 1's files: one hierarchy per controller.

use super::cgroup::{Controller, Group, Hierarchy};
use super::figures::{Cpu, Detail, Device, Figures, Memory, Pids, Swap, Throttling};
use super::files::{Reader, number, pairs};

/// Kernel ticks are hundredths of a second wherever Kubernetes runs.
const NANOS_PER_TICK: u64 = 10_000_000;

/// Schedulers count; without one, only the throttling layer does.
const BLKIO: [&str; 3] = ["blkio.bfq.", "blkio.", "blkio.throttle."];

pub fn read(hierarchy: &Hierarchy, reader: &mut Reader, group: &Group, detail: Detail) -> Figures {
    let mut figures = Figures::default();
    let everything = detail == Detail::Everything;
    if hierarchy.enter(reader, group, Controller::Cpuacct) {
        figures.cpu = cpuacct(reader, everything);
    }
    if everything
        && let Some(cpu) = &mut figures.cpu
        && hierarchy.enter(reader, group, Controller::Cpu)
    {
        cpu.throttling = reader.text("cpu.stat").map(throttling);
    }
    if hierarchy.enter(reader, group, Controller::Memory) {
        (figures.memory, figures.swap) = memory(reader, detail);
    }
    if detail >= Detail::Usual && hierarchy.enter(reader, group, Controller::Pids) {
        figures.pids = reader.number("pids.current").map(|current| Pids { current, limit: None });
        if everything && let Some(pids) = &mut figures.pids {
            pids.limit = reader.limit("pids.max");
        }
    }
    if everything && hierarchy.enter(reader, group, Controller::Blkio) {
        figures.devices = devices(reader);
    }
    figures
}

fn cpuacct(reader: &mut Reader, everything: bool) -> Option<Cpu> {
    let mut cpu = Cpu { usage: reader.number("cpuacct.usage")?, ..Cpu::default() };
    if everything {
        for (name, ticks) in pairs(reader.text("cpuacct.stat").unwrap_or_default()) {
            match name {
                "user" => cpu.user = ticks.saturating_mul(NANOS_PER_TICK),
                "system" => cpu.system = ticks.saturating_mul(NANOS_PER_TICK),
                _ => {}
            }
        }
    }
    Some(cpu)
}

fn throttling(text: &str) -> Throttling {
    let mut throttling = Throttling::default();
    for (name, value) in pairs(text) {
        match name {
            "nr_periods" => throttling.periods = value,
            "nr_throttled" => throttling.throttled = value,
            "throttled_time" => throttling.time = value,
            _ => {}
        }
    }
    throttling
}

fn memory(reader: &mut Reader, detail: Detail) -> (Option<Memory>, Option<Swap>) {
    let Some(usage) = reader.number("memory.usage_in_bytes") else { return (None, None) };
    let mut memory = Memory { usage, limit: reader.limit("memory.limit_in_bytes"), ..Memory::default() };
    let mut swapped = None;
    let mut own = (0, 0);
    for (name, value) in pairs(reader.text("memory.stat").unwrap_or_default()) {
        match name {
            "pgfault" => own.0 = value,
            "pgmajfault" => own.1 = value,
            "total_rss" => memory.rss = value,
            "total_cache" => memory.cache = value,
            "total_mapped_file" => memory.mapped_file = value,
            "total_active_file" => memory.active_file = value,
            "total_inactive_file" => memory.inactive_file = value,
            "total_pgfault" => memory.faults = value,
            "total_pgmajfault" => memory.major_faults = value,
            // Only there where swap is accounted for.
            "total_swap" => swapped = Some(value),
            _ => {}
        }
    }
    if detail == Detail::Everything {
        memory.own_faults = Some(own);
        memory.max_usage = reader.number("memory.max_usage_in_bytes");
        memory.failures = reader.number("memory.failcnt");
        memory.kernel = reader.number("memory.kmem.usage_in_bytes");
        let control = reader.text("memory.oom_control").unwrap_or_default();
        memory.oom_kills = pairs(control).find(|(name, _)| *name == "oom_kill").map(|(_, kills)| kills);
    }
    let swap = swapped.filter(|_| detail >= Detail::Usual).map(|usage| Swap {
        usage,
        // The file limits both together.
        limit: memory.limit.and_then(|memory| {
            let both = reader.limit("memory.memsw.limit_in_bytes")?;
            Some(both.saturating_sub(memory))
        }),
    });
    (Some(memory), swap)
}

fn devices(reader: &mut Reader) -> Vec<Device> {
    let mut devices = Vec::new();
    for prefix in BLKIO {
        for bytes in [true, false] {
            let what = if bytes { "io_service_bytes_recursive" } else { "io_serviced_recursive" };
            let text = reader.text(&format!("{prefix}{what}")).unwrap_or_default();
            text.lines().filter_map(operation).for_each(|found| count(&mut devices, bytes, &found));
        }
        if !devices.is_empty() {
            break;
        }
    }
    devices
}

/// A line of `major:minor operation value`.
fn operation(line: &str) -> Option<(u64, u64, &str, u64)> {
    let mut parts = line.split_whitespace();
    let (major, minor) = parts.next()?.split_once(':')?;
    Some((number(major)?, number(minor)?, parts.next()?, number(parts.next()?)?))
}

fn count(devices: &mut Vec<Device>, bytes: bool, &(major, minor, operation, value): &(u64, u64, &str, u64)) {
    // Lines of a device follow each other.
    let known = devices.iter().rposition(|device| (device.major, device.minor) == (major, minor));
    let at = known.unwrap_or_else(|| {
        devices.push(Device { major, minor, ..Device::default() });
        devices.len() - 1
    });
    let device = &mut devices[at];
    match (operation, bytes) {
        ("Read", true) => device.read_bytes = value,
        ("Read", false) => device.reads = value,
        ("Write", true) => device.written_bytes = value,
        ("Write", false) => device.writes = value,
        _ => {}
    }
}
