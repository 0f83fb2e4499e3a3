//! A container's metrics.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Values;
use super::descriptors::*;
use crate::state::Container;
use crate::stats::collect::{Reading, Taken};
use crate::stats::figures::{Cpu, Device, Figures, Memory, Pressure};

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;
/// What cAdvisor calls the device of a container's root.
const ROOT: &str = "/";

/// What is the same for all containers, looked at once for a request.
#[derive(Default)]
pub struct Machine {
    /// File systems of writable layers, by snapshotter.
    pub(super) spaces: HashMap<String, Space>,
    /// Names of block devices.
    devices: HashMap<(u64, u64), String>,
}

/// A file system.
pub struct Space {
    bytes: u64,
    inodes: u64,
    free_inodes: u64,
}

impl Machine {
    /// Blocks.
    pub fn look(places: HashMap<String, PathBuf>) -> Self {
        let spaces = places.into_iter().filter_map(|(id, place)| {
            let about = rustix::fs::statvfs(&place).ok()?;
            let bytes = about.f_blocks.saturating_mul(about.f_frsize);
            Some((id, Space { bytes, inodes: about.f_files, free_inodes: about.f_ffree }))
        });
        let partitions = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
        Self { spaces: spaces.collect(), devices: devices(&partitions) }
    }

    /// `/dev/name`, or the numbers of a device that has no name here.
    fn device(&self, major: u64, minor: u64) -> String {
        self.devices.get(&(major, minor)).cloned().unwrap_or_else(|| format!("{major}:{minor}"))
    }
}

/// Lines of `major minor blocks name`.
fn devices(partitions: &str) -> HashMap<(u64, u64), String> {
    let lines = partitions.lines().filter_map(|line| {
        let parts: Vec<_> = line.split_whitespace().collect();
        let [major, minor, _, name] = parts[..] else { return None };
        Some(((major.parse().ok()?, minor.parse().ok()?), format!("/dev/{name}")))
    });
    lines.collect()
}

pub fn tell(values: &mut Values<'_>, taken: &Taken, reading: &Reading, machine: &Machine) {
    let figures = &reading.figures;
    life(values, &taken.container);
    if let Some(told) = &figures.cpu {
        cpu(values, told);
    }
    if let Some(told) = &figures.memory {
        memory(values, told);
    }
    values.put_known(&MEMORY_SWAP, &[], figures.swap.as_ref().map(|swap| swap.usage));
    pressures(values, figures);
    for device in &figures.devices {
        block_device(values, device, &machine.device(device.major, device.minor));
    }
    file_system(values, &taken.container, machine);
    processes(values, taken, figures);
    specification(values, &taken.container);
}

fn life(values: &mut Values<'_>, container: &Container) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    values.put(&LAST_SEEN, &[], now.as_secs());
    let started = u64::try_from(container.status().started_at).unwrap_or_default();
    values.put(&START_TIME, &[], started / NANOS);
}

fn cpu(values: &mut Values<'_>, cpu: &Cpu) {
    values.put(&CPU_USAGE, &[], cpu.usage / NANOS);
    values.put(&CPU_USER, &[], cpu.user / NANOS);
    values.put(&CPU_SYSTEM, &[], cpu.system / NANOS);
    if let Some(throttling) = &cpu.throttling {
        values.put(&CPU_PERIODS, &[], throttling.periods);
        values.put(&CPU_THROTTLED_PERIODS, &[], throttling.throttled);
        values.put(&CPU_THROTTLED, &[], throttling.time / NANOS);
    }
}

fn memory(values: &mut Values<'_>, memory: &Memory) {
    values.put(&MEMORY_USAGE, &[], memory.usage);
    values.put(&MEMORY_WORKING_SET, &[], memory.working_set());
    values.put(&MEMORY_RSS, &[], memory.rss);
    values.put(&MEMORY_CACHE, &[], memory.cache);
    values.put(&MEMORY_MAPPED_FILE, &[], memory.mapped_file);
    values.put(&MEMORY_ACTIVE_FILE, &[], memory.active_file);
    values.put(&MEMORY_INACTIVE_FILE, &[], memory.inactive_file);
    values.put_known(&MEMORY_KERNEL, &[], memory.kernel);
    values.put_known(&MEMORY_MAX_USAGE, &[], memory.max_usage);
    values.put_known(&MEMORY_FAILCNT, &[], memory.failures);
    values.put_known(&OOM_EVENTS, &[], memory.oom_kills);
    let (faults, major_faults) = memory.own_faults.unwrap_or((memory.faults, memory.major_faults));
    values.put(&MEMORY_FAILURES, &["pgfault", "container"], faults);
    values.put(&MEMORY_FAILURES, &["pgmajfault", "container"], major_faults);
    values.put(&MEMORY_FAILURES, &["pgfault", "hierarchy"], memory.faults);
    values.put(&MEMORY_FAILURES, &["pgmajfault", "hierarchy"], memory.major_faults);
}

fn pressures(values: &mut Values<'_>, figures: &Figures) {
    let mut tell = |pressure: Option<&Pressure>, waiting, stalled| {
        let Some(pressure) = pressure else { return };
        values.put_known(waiting, &[], pressure.some.as_ref().map(|stall| stall.total / MICROS));
        values.put_known(stalled, &[], pressure.full.as_ref().map(|stall| stall.total / MICROS));
    };
    let cpu = figures.cpu.as_ref().and_then(|cpu| cpu.pressure.as_ref());
    let memory = figures.memory.as_ref().and_then(|memory| memory.pressure.as_ref());
    tell(cpu, &PRESSURE_CPU_WAITING, &PRESSURE_CPU_STALLED);
    tell(memory, &PRESSURE_MEMORY_WAITING, &PRESSURE_MEMORY_STALLED);
    tell(figures.io_pressure.as_ref(), &PRESSURE_IO_WAITING, &PRESSURE_IO_STALLED);
}

fn block_device(values: &mut Values<'_>, device: &Device, name: &str) {
    values.put(&FS_READ_BYTES, &[name], device.read_bytes);
    values.put(&FS_READS, &[name], device.reads);
    values.put(&FS_WRITTEN_BYTES, &[name], device.written_bytes);
    values.put(&FS_WRITES, &[name], device.writes);
    let (major, minor) = (device.major.to_string(), device.minor.to_string());
    values.put(&BLKIO_USAGE, &[name, &major, &minor, "Read"], device.read_bytes);
    values.put(&BLKIO_USAGE, &[name, &major, &minor, "Write"], device.written_bytes);
}

fn file_system(values: &mut Values<'_>, container: &Container, machine: &Machine) {
    values.put_known(&FS_USAGE, &[ROOT], container.kept.layer().map(|layer| layer.usage.size));
    if let Some(space) = machine.space(&container.record.snapshotter) {
        values.put(&FS_LIMIT, &[ROOT], space.bytes);
        values.put(&FS_INODES, &[ROOT], space.inodes);
        values.put(&FS_INODES_FREE, &[ROOT], space.free_inodes);
    }
}

fn processes(values: &mut Values<'_>, taken: &Taken, figures: &Figures) {
    let counted = &taken.processes;
    let threads = figures.pids.as_ref().map(|pids| pids.current);
    values.put_known(&PROCESSES, &[], counted.processes.or(threads));
    values.put_known(&THREADS, &[], threads);
    values.put_known(&THREADS_MAX, &[], figures.pids.as_ref().map(|pids| pids.limit.unwrap_or(0)));
    values.put_known(&FILE_DESCRIPTORS, &[], counted.descriptors);
    values.put_known(&SOCKETS, &[], counted.sockets);
    values.put_known(&ULIMITS, &["max_open_files"], counted.open_files);
}

fn specification(values: &mut Values<'_>, container: &Container) {
    let status = container.status();
    let Some(linux) = status.resources.as_ref().and_then(|resources| resources.linux.as_ref()) else {
        return;
    };
    // Nought, or less, is how "not set" is written.
    let set = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
    values.put_known(&SPEC_CPU_PERIOD, &[], set(linux.cpu_period));
    values.put_known(&SPEC_CPU_SHARES, &[], set(linux.cpu_shares));
    values.put_known(&SPEC_MEMORY_LIMIT, &[], set(linux.memory_limit_in_bytes));
    values.put_known(&SPEC_MEMORY_SWAP_LIMIT, &[], set(linux.memory_swap_limit_in_bytes));
    let reserved = linux.unified.get("memory.low").and_then(|text| crate::stats::files::number(text));
    values.put_known(&SPEC_MEMORY_RESERVATION, &[], reserved.and_then(crate::stats::files::limit));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        let found = devices("major minor  #blocks  name\n\n 254        0  268435456 vda\n   8 1 x\n");
        assert_eq!(found, HashMap::from([((254, 0), "/dev/vda".to_owned())]));
        let machine = Machine { devices: found, ..Machine::default() };
        assert_eq!((machine.device(254, 0), machine.device(9, 1)), ("/dev/vda".into(), "9:1".into()));
    }
}
