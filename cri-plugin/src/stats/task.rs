//! Figures that a shim tells: for runtimes whose containers are in no control group of the machine's.

use windlass_api::convert::any;
use windlass_api::{cgroups_v1, cgroups_v2};
use windlass_core::Any;

use super::figures::{Cpu, Device, Figures, Memory, Pids, Pressure, Stall, Swap, Throttling};
use super::files::limit;

/// `None` for figures of a kind that nobody here knows.
pub fn read(data: &Any) -> Option<Figures> {
    if let Ok(metrics) = any::unpack::<cgroups_v2::Metrics>(data) {
        return Some(version2(metrics));
    }
    any::unpack::<cgroups_v1::Metrics>(data).ok().map(version1)
}

fn version1(metrics: cgroups_v1::Metrics) -> Figures {
    let cpu = metrics.cpu.and_then(|cpu| {
        let usage = cpu.usage?;
        Some(Cpu {
            usage: usage.total,
            user: usage.user,
            system: usage.kernel,
            throttling: cpu.throttling.map(|told| Throttling {
                periods: told.periods,
                throttled: told.throttled_periods,
                time: told.throttled_time,
            }),
            pressure: None,
        })
    });
    let kills = metrics.memory_oom_control.map(|control| control.oom_kill);
    let swap = metrics.memory.as_ref().and_then(|memory| {
        let (usage, both) = (memory.usage.as_ref()?, memory.swap.as_ref()?);
        // Not accounted for: the two together cannot be less than the one.
        (both.usage >= usage.usage).then(|| Swap {
            usage: both.usage - usage.usage,
            limit: limit(both.limit)
                .zip(limit(usage.limit))
                .map(|(both, memory)| both.saturating_sub(memory)),
        })
    });
    let memory = metrics.memory.and_then(|memory| {
        let usage = memory.usage?;
        Some(Memory {
            usage: usage.usage,
            limit: limit(usage.limit),
            rss: memory.total_rss,
            cache: memory.total_cache,
            mapped_file: memory.total_mapped_file,
            active_file: memory.total_active_file,
            inactive_file: memory.total_inactive_file,
            faults: memory.total_pg_fault,
            major_faults: memory.total_pg_maj_fault,
            own_faults: Some((memory.pg_fault, memory.pg_maj_fault)),
            kernel: memory.kernel.map(|kernel| kernel.usage),
            max_usage: Some(usage.max),
            failures: Some(usage.failcnt),
            oom_kills: kills,
            pressure: None,
        })
    });
    Figures {
        cpu,
        memory,
        swap,
        pids: metrics.pids.map(|pids| Pids { current: pids.current, limit: pids_limit(pids.limit) }),
        io_pressure: None,
        devices: metrics.blkio.map(devices).unwrap_or_default(),
    }
}

fn devices(told: cgroups_v1::BlkIoStat) -> Vec<Device> {
    let mut devices = Vec::<Device>::new();
    let lists = [(true, told.io_service_bytes_recursive), (false, told.io_serviced_recursive)];
    for (bytes, entry) in
        lists.into_iter().flat_map(|(bytes, list)| list.into_iter().map(move |e| (bytes, e)))
    {
        let known = devices.iter().rposition(|d| (d.major, d.minor) == (entry.major, entry.minor));
        let at = known.unwrap_or_else(|| {
            devices.push(Device { major: entry.major, minor: entry.minor, ..Device::default() });
            devices.len() - 1
        });
        let device = &mut devices[at];
        match (bytes, entry.op.to_ascii_lowercase().as_str()) {
            (true, "read") => device.read_bytes = entry.value,
            (false, "read") => device.reads = entry.value,
            (true, "write") => device.written_bytes = entry.value,
            (false, "write") => device.writes = entry.value,
            _ => {}
        }
    }
    devices
}

fn version2(metrics: cgroups_v2::Metrics) -> Figures {
    let cpu = metrics.cpu.map(|cpu| Cpu {
        usage: cpu.usage_usec.saturating_mul(1000),
        user: cpu.user_usec.saturating_mul(1000),
        system: cpu.system_usec.saturating_mul(1000),
        throttling: Some(Throttling {
            periods: cpu.nr_periods,
            throttled: cpu.nr_throttled,
            time: cpu.throttled_usec.saturating_mul(1000),
        }),
        pressure: cpu.psi.and_then(pressure),
    });
    let swap = metrics
        .memory
        .as_ref()
        .map(|memory| Swap { usage: memory.swap_usage, limit: limit(memory.swap_limit) });
    let events = metrics.memory_events;
    let memory = metrics.memory.map(|memory| Memory {
        usage: memory.usage,
        limit: limit(memory.usage_limit),
        rss: memory.anon,
        cache: memory.file,
        mapped_file: memory.file_mapped,
        active_file: memory.active_file,
        inactive_file: memory.inactive_file,
        faults: memory.pgfault,
        major_faults: memory.pgmajfault,
        own_faults: None,
        kernel: Some(memory.kernel_stack.saturating_add(memory.slab).saturating_add(memory.sock)),
        max_usage: Some(memory.max_usage),
        failures: events.as_ref().map(|events| events.max),
        oom_kills: events.as_ref().map(|events| events.oom_kill),
        pressure: memory.psi.and_then(pressure),
    });
    let (usage, io_pressure) = metrics.io.map(|io| (io.usage, io.psi)).unwrap_or_default();
    let devices = usage.into_iter().map(|told| Device {
        major: told.major,
        minor: told.minor,
        read_bytes: told.rbytes,
        written_bytes: told.wbytes,
        reads: told.rios,
        writes: told.wios,
    });
    Figures {
        cpu,
        memory,
        swap,
        pids: metrics.pids.map(|pids| Pids { current: pids.current, limit: pids_limit(pids.limit) }),
        io_pressure: io_pressure.and_then(pressure),
        devices: devices.collect(),
    }
}

/// Nought is how some shims say "none".
fn pids_limit(told: u64) -> Option<u64> {
    limit(told).filter(|limit| *limit != 0)
}

fn pressure(told: cgroups_v2::PsiStats) -> Option<Pressure> {
    let stall = |told: cgroups_v2::PsiData| Stall {
        avg10: told.avg10,
        avg60: told.avg60,
        avg300: told.avg300,
        total: told.total,
    };
    (told.some.is_some() || told.full.is_some())
        .then(|| Pressure { some: told.some.map(stall), full: told.full.map(stall) })
}
