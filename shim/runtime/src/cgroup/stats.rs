//! Figures, read from the control files.

use super::dir::{Dir, field, parse_number};
use super::v1::Groups;
use crate::error::Result;
use crate::metrics::*;
use std::collections::HashMap;

/// `cpuacct.stat` counts in user ticks, which are hundredths of a second on every machine Linux runs on.
const NANOS_PER_TICK: u64 = 10_000_000;

fn lines(text: &str) -> HashMap<&str, u64> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(k, v)| (k, parse_number(v.trim()))).collect()
}

/// Fills fields of a struct from a map by their kernel names.
macro_rules! take {
    ($map:expr => $target:ident { $($field:ident),* $(,)? }) => {
        $( $target.$field = $map.get(stringify!($field)).copied().unwrap_or(0); )*
    };
}

pub fn v1(groups: &Groups) -> Result<MetricsV1> {
    Ok(MetricsV1 {
        hugetlb: groups.find("hugetlb").map(|d| hugetlb_v1(&d)).unwrap_or_default(),
        pids: groups.find("pids").and_then(|d| pids(&d)),
        cpu: cpu_v1(groups),
        memory: groups.find("memory").and_then(|d| memory_v1(&d)),
        blkio: groups.find("blkio").map(|d| blkio(&d)),
        rdma: groups.find("rdma").and_then(|d| rdma(&d)),
        memory_oom_control: groups.find("memory").and_then(|d| oom_control(&d)),
    })
}

fn pids(dir: &Dir) -> Option<Pids> {
    Some(Pids { current: dir.number("pids.current")?, limit: dir.number("pids.max").unwrap_or(u64::MAX) })
}

fn cpu_v1(groups: &Groups) -> Option<CpuV1> {
    let mut cpu = CpuV1::default();
    let mut found = false;
    if let Some(dir) = groups.find("cpuacct")
        && let Some(total) = dir.number("cpuacct.usage")
    {
        found = true;
        cpu.total = total;
        let stat = dir.try_read("cpuacct.stat").unwrap_or_default();
        cpu.user = field(&stat, "user").unwrap_or(0).saturating_mul(NANOS_PER_TICK);
        cpu.kernel = field(&stat, "system").unwrap_or(0).saturating_mul(NANOS_PER_TICK);
        let per_cpu = dir.try_read("cpuacct.usage_percpu").unwrap_or_default();
        cpu.per_cpu = per_cpu.split_whitespace().map(parse_number).collect();
    }
    if let Some(dir) = groups.find("cpu")
        && let Ok(stat) = dir.try_read("cpu.stat")
    {
        found = true;
        cpu.periods = field(&stat, "nr_periods").unwrap_or(0);
        cpu.throttled_periods = field(&stat, "nr_throttled").unwrap_or(0);
        cpu.throttled_time = field(&stat, "throttled_time").unwrap_or(0);
    }
    found.then_some(cpu)
}

fn memory_v1(dir: &Dir) -> Option<MemoryV1> {
    let text = dir.try_read("memory.stat").ok()?;
    let map = lines(&text);
    let mut memory = MemoryV1::default();
    take!(map => memory {
        cache, rss, rss_huge, mapped_file, dirty, writeback, pgpgin, pgpgout, pgfault, pgmajfault, inactive_anon,
        active_anon, inactive_file, active_file, unevictable, hierarchical_memory_limit, total_cache, total_rss,
        total_rss_huge, total_mapped_file, total_dirty, total_writeback, total_pgpgin, total_pgpgout, total_pgfault,
        total_pgmajfault, total_inactive_anon, total_active_anon, total_inactive_file, total_active_file,
        total_unevictable,
    });
    memory.hierarchical_swap_limit = map.get("hierarchical_memsw_limit").copied().unwrap_or(0);
    let entry = |module: &str| MemoryEntry {
        limit: dir.number(&format!("memory.{module}limit_in_bytes")).unwrap_or(0),
        usage: dir.number(&format!("memory.{module}usage_in_bytes")).unwrap_or(0),
        max: dir.number(&format!("memory.{module}max_usage_in_bytes")).unwrap_or(0),
        failcnt: dir.number(&format!("memory.{module}failcnt")).unwrap_or(0),
    };
    memory.usage = entry("");
    memory.swap = entry("memsw.");
    memory.kernel = entry("kmem.");
    memory.kernel_tcp = entry("kmem.tcp.");
    Some(memory)
}

fn oom_control(dir: &Dir) -> Option<OomControl> {
    let text = dir.try_read("memory.oom_control").ok()?;
    let map = lines(&text);
    let mut control = OomControl::default();
    take!(map => control { oom_kill_disable, under_oom, oom_kill });
    Some(control)
}

/// Sizes of huge pages in the spelling of the control files, such as `2MB`.
fn huge_page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut sizes: Vec<u64> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok())
        .collect();
    sizes.sort_unstable();
    sizes
        .into_iter()
        .map(|kb| match kb {
            kb if kb % (1 << 20) == 0 => format!("{}GB", kb >> 20),
            kb if kb % (1 << 10) == 0 => format!("{}MB", kb >> 10),
            kb => format!("{kb}KB"),
        })
        .collect()
}

fn hugetlb_v1(dir: &Dir) -> Vec<Hugetlb> {
    let read = |size: String| {
        Some(Hugetlb {
            usage: dir.number(&format!("hugetlb.{size}.usage_in_bytes"))?,
            max: dir.number(&format!("hugetlb.{size}.max_usage_in_bytes"))?,
            failcnt: dir.number(&format!("hugetlb.{size}.failcnt"))?,
            pagesize: size,
        })
    };
    huge_page_sizes().into_iter().filter_map(read).collect()
}

fn hugetlb_v2(dir: &Dir) -> Vec<Hugetlb> {
    let read = |size: String| {
        let events = dir.try_read(&format!("hugetlb.{size}.events")).unwrap_or_default();
        Some(Hugetlb {
            usage: dir.number(&format!("hugetlb.{size}.current"))?,
            max: dir.number(&format!("hugetlb.{size}.max"))?,
            failcnt: field(&events, "max").unwrap_or(0),
            pagesize: size,
        })
    };
    huge_page_sizes().into_iter().filter_map(read).collect()
}

fn blkio(dir: &Dir) -> BlkioV1 {
    let names = device_names();
    let read = |name: &str| entries(&dir.try_read(&format!("blkio.{name}")).unwrap_or_default(), &names);
    let bfq = |name: &str| {
        let list = read(name);
        if list.is_empty() { read(&format!("bfq.{name}")) } else { list }
    };
    let mut blkio = BlkioV1 {
        io_service_bytes_recursive: bfq("io_service_bytes_recursive"),
        io_serviced_recursive: bfq("io_serviced_recursive"),
        io_queued_recursive: bfq("io_queued_recursive"),
        io_service_time_recursive: bfq("io_service_time_recursive"),
        io_wait_time_recursive: bfq("io_wait_time_recursive"),
        io_merged_recursive: bfq("io_merged_recursive"),
        io_time_recursive: bfq("time_recursive"),
        sectors_recursive: bfq("sectors_recursive"),
    };
    // Without a scheduler that counts, the throttle layer does.
    if blkio == BlkioV1::default() {
        blkio.io_serviced_recursive = read("throttle.io_serviced_recursive");
        blkio.io_service_bytes_recursive = read("throttle.io_service_bytes_recursive");
    }
    blkio
}

fn entries(text: &str, names: &HashMap<(u64, u64), String>) -> Vec<BlkioEntry> {
    let parse = |line: &str| {
        let mut fields = line.split([' ', ':']);
        let (major, minor): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let third = fields.next()?;
        let (op, value) = match fields.next() {
            Some(value) => (third, value),
            None => ("", third),
        };
        let device = names.get(&(major, minor)).cloned().unwrap_or_default();
        Some(BlkioEntry { op: op.to_string(), device, major, minor, value: value.parse().ok()? })
    };
    text.lines().filter_map(parse).collect()
}

/// `/dev` paths of block devices by number.
fn device_names() -> HashMap<(u64, u64), String> {
    let text = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let key = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((key, format!("/dev/{}", fields.nth(1)?)))
    };
    text.lines().filter_map(parse).collect()
}

fn rdma(dir: &Dir) -> Option<Rdma> {
    let read = |name: &str| {
        let text = dir.try_read(name).ok()?;
        let parse = |line: &str| {
            let mut fields = line.split_whitespace();
            let device = fields.next()?.to_string();
            let mut entry = RdmaEntry { device, ..RdmaEntry::default() };
            for field in fields {
                let (key, value) = field.split_once('=')?;
                let value = value.parse().unwrap_or(u32::MAX);
                match key {
                    "hca_handle" => entry.hca_handles = value,
                    "hca_object" => entry.hca_objects = value,
                    _ => {}
                }
            }
            Some(entry)
        };
        Some(text.lines().filter_map(parse).collect::<Vec<_>>())
    };
    Some(Rdma { current: read("rdma.current")?, limit: read("rdma.max").unwrap_or_default() })
}

pub fn v2(dir: &Dir) -> Result<MetricsV2> {
    // The one file that every group has: its absence means that the group is gone.
    let cpu_stat = dir.read("cpu.stat")?;
    Ok(MetricsV2 {
        pids: pids(dir),
        cpu: Some(cpu_v2(dir, &cpu_stat)),
        memory: memory_v2(dir),
        rdma: rdma(dir),
        io: io(&dir.try_read("io.stat").unwrap_or_default()),
        io_psi: psi(dir, "io.pressure"),
        hugetlb: hugetlb_v2(dir),
        memory_events: memory_events(dir),
    })
}

fn cpu_v2(dir: &Dir, stat: &str) -> CpuV2 {
    let map = lines(stat);
    let mut cpu = CpuV2 { psi: psi(dir, "cpu.pressure"), ..CpuV2::default() };
    take!(map => cpu {
        usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, nr_bursts, burst_usec,
    });
    cpu
}

fn memory_v2(dir: &Dir) -> Option<MemoryV2> {
    let text = dir.try_read("memory.stat").ok()?;
    let map = lines(&text);
    let mut memory = MemoryV2::default();
    take!(map => memory {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp, inactive_anon,
        active_anon, inactive_file, active_file, unevictable, slab_reclaimable, slab_unreclaimable, pgfault, pgmajfault,
        workingset_refault, workingset_activate, workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate,
        pgdeactivate, pglazyfree, pglazyfreed, thp_fault_alloc, thp_collapse_alloc,
    });
    let number = |name: &str| dir.number(name).unwrap_or(0);
    memory.usage = number("memory.current");
    memory.usage_limit = number("memory.max");
    memory.max_usage = number("memory.peak");
    memory.swap_usage = number("memory.swap.current");
    memory.swap_limit = number("memory.swap.max");
    memory.swap_max_usage = number("memory.swap.peak");
    memory.psi = psi(dir, "memory.pressure");
    Some(memory)
}

fn memory_events(dir: &Dir) -> Option<MemoryEvents> {
    let text = dir.try_read("memory.events").ok()?;
    let map = lines(&text);
    let mut events = MemoryEvents::default();
    take!(map => events { low, high, max, oom, oom_kill, oom_group_kill });
    Some(events)
}

fn io(text: &str) -> Vec<IoEntry> {
    let parse = |line: &str| {
        let mut fields = line.split(' ');
        let (major, minor) = fields.next()?.split_once(':')?;
        let mut entry =
            IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
        for (key, value) in fields.filter_map(|f| f.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(parse).collect()
}

/// Absent where pressure is not accounted.
fn psi(dir: &Dir, name: &str) -> Option<Psi> {
    parse_psi(&dir.try_read(name).ok()?)
}

fn parse_psi(text: &str) -> Option<Psi> {
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let data = match fields.next()? {
            "some" => &mut psi.some,
            "full" => &mut psi.full,
            _ => continue,
        };
        for (key, value) in fields.filter_map(|f| f.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().ok()?,
                "avg60" => data.avg60 = value.parse().ok()?,
                "avg300" => data.avg300 = value.parse().ok()?,
                "total" => data.total = value.parse().ok()?,
                _ => {}
            }
        }
    }
    Some(psi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read() {
        let io = io("8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=0\n253:1 \n");
        assert_eq!((io[0].major, io[0].rbytes, io[0].wios, io.len()), (8, 90430464, 1252, 2));
        let psi = parse_psi("some avg10=1.50 avg60=0.00 avg300=0.25 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n")
            .unwrap();
        assert_eq!((psi.some.avg10, psi.some.total, psi.full.total), (1.5, 77, 3));
        let names = HashMap::from([((8, 0), "/dev/sda".to_string())]);
        let list = entries("8:0 Read 100\n8:0 5\nTotal 100\n", &names);
        assert_eq!((list.len(), list[0].op.as_str(), list[0].value, list[1].value), (2, "Read", 100, 5));
        assert_eq!(list[0].device, "/dev/sda");
    }
}
