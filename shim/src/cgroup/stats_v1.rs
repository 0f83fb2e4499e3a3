//! `io.containerd.cgroups.v1.Metrics`: which file becomes which field.

use std::fs;
use std::path::Path;

use super::{Cgroup, huge_page_sizes, number, pairs, rdma};
use crate::pb::Writer;

/// `memory.stat` in the order of the message's fields, which begin at 1.
const MEMORY: [&str; 32] = [
    "cache",
    "rss",
    "rss_huge",
    "mapped_file",
    "dirty",
    "writeback",
    "pgpgin",
    "pgpgout",
    "pgfault",
    "pgmajfault",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "hierarchical_memory_limit",
    "hierarchical_memsw_limit",
    "total_cache",
    "total_rss",
    "total_rss_huge",
    "total_mapped_file",
    "total_dirty",
    "total_writeback",
    "total_pgpgin",
    "total_pgpgout",
    "total_pgfault",
    "total_pgmajfault",
    "total_inactive_anon",
    "total_active_anon",
    "total_inactive_file",
    "total_active_file",
    "total_unevictable",
];

/// `blkio.*` files of kernels with the CFQ or BFQ scheduler, and their fields.
const BLKIO: [(u32, &str); 8] = [
    (1, "io_service_bytes_recursive"),
    (2, "io_serviced_recursive"),
    (3, "io_queued_recursive"),
    (4, "io_service_time_recursive"),
    (5, "io_wait_time_recursive"),
    (6, "io_merged_recursive"),
    (7, "time_recursive"),
    (8, "sectors_recursive"),
];
const BLKIO_THROTTLE: [(u32, &str); 2] = [(1, "throttle.io_service_bytes"), (2, "throttle.io_serviced")];

/// Kernel ticks are hundredths of a second wherever containerd runs.
const NANOS_PER_TICK: u64 = 10_000_000;

pub fn read(cgroup: &Cgroup) -> Vec<u8> {
    let mut out = Writer::default();
    if let Some(dir) = present(cgroup, "hugetlb") {
        for size in huge_page_sizes() {
            out.message(1, |out| {
                out.number(1, number(dir, &format!("hugetlb.{size}.usage_in_bytes")));
                out.number(2, number(dir, &format!("hugetlb.{size}.max_usage_in_bytes")));
                out.number(3, number(dir, &format!("hugetlb.{size}.failcnt")));
                out.text(4, &size);
            });
        }
    }
    if let Some(dir) = present(cgroup, "pids") {
        out.message(2, |out| {
            out.number(1, number(dir, "pids.current"));
            out.number(2, number(dir, "pids.max"));
        });
    }
    out.message(3, |out| cpu(cgroup, out));
    if let Some(dir) = present(cgroup, "memory") {
        out.message(4, |out| memory(dir, out));
    }
    if let Some(dir) = present(cgroup, "blkio") {
        out.message(5, |out| blkio(dir, out));
    }
    if let Some(dir) = present(cgroup, "rdma") {
        out.message(6, |out| {
            for (field, file) in [(1, "rdma.current"), (2, "rdma.max")] {
                for (device, handles, objects) in rdma(dir, file) {
                    out.message(field, |out| {
                        out.text(1, &device);
                        out.number(2, handles);
                        out.number(3, objects);
                    });
                }
            }
        });
    }
    if let Some(dir) = present(cgroup, "memory") {
        out.message(9, |out| {
            pairs(dir, "memory.oom_control", |name, value| match name {
                "oom_kill_disable" => out.number(1, value),
                "under_oom" => out.number(2, value),
                "oom_kill" => out.number(3, value),
                _ => {}
            });
        });
    }
    out.into_bytes()
}

fn present<'a>(cgroup: &'a Cgroup, controller: &str) -> Option<&'a Path> {
    cgroup.controller(controller).filter(|dir| dir.is_dir())
}

fn cpu(cgroup: &Cgroup, out: &mut Writer) {
    out.message(1, |out| {
        let Some(dir) = present(cgroup, "cpuacct") else { return };
        out.number(1, number(dir, "cpuacct.usage"));
        let (mut user, mut system) = (0, 0);
        pairs(dir, "cpuacct.stat", |name, value| match name {
            "user" => user = value,
            "system" => system = value,
            _ => {}
        });
        out.number(2, system.saturating_mul(NANOS_PER_TICK));
        out.number(3, user.saturating_mul(NANOS_PER_TICK));
        let each = fs::read_to_string(dir.join("cpuacct.usage_percpu")).unwrap_or_default();
        out.numbers(4, each.split_whitespace().filter_map(|value| value.parse().ok()));
    });
    out.message(2, |out| {
        let Some(dir) = present(cgroup, "cpu") else { return };
        pairs(dir, "cpu.stat", |name, value| match name {
            "nr_periods" => out.number(1, value),
            "nr_throttled" => out.number(2, value),
            "throttled_time" => out.number(3, value),
            _ => {}
        });
    });
}

fn memory(dir: &Path, out: &mut Writer) {
    pairs(dir, "memory.stat", |name, value| {
        if let Some(index) = MEMORY.iter().position(|known| *known == name) {
            out.number(index as u32 + 1, value);
        }
    });
    for (field, module) in
        [(33, "memory"), (34, "memory.memsw"), (35, "memory.kmem"), (36, "memory.kmem.tcp")]
    {
        out.message(field, |out| {
            for (field, what) in [(1, "limit"), (2, "usage"), (3, "max_usage")] {
                out.number(field, number(dir, &format!("{module}.{what}_in_bytes")));
            }
            out.number(4, number(dir, &format!("{module}.failcnt")));
        });
    }
}

fn blkio(dir: &Path, out: &mut Writer) {
    let devices = devices();
    let mut any = false;
    for (field, file) in BLKIO {
        any |= blkio_file(dir, field, file, &devices, out);
    }
    // Devices without such a scheduler are counted by the throttling layer only.
    if !any {
        for (field, file) in BLKIO_THROTTLE {
            blkio_file(dir, field, file, &devices, out);
        }
    }
}

fn blkio_file(dir: &Path, field: u32, file: &str, devices: &[(u64, u64, String)], out: &mut Writer) -> bool {
    let text = fs::read_to_string(dir.join(format!("blkio.{file}"))).unwrap_or_default();
    let mut any = false;
    for line in text.lines() {
        let parts: Vec<&str> = line.split([' ', ':']).collect();
        let (op, value) = match parts[..] {
            [_, _, value] => ("", value),
            [_, _, op, value] => (op, value),
            _ => continue,
        };
        let (Ok(major), Ok(minor)) = (parts[0].parse::<u64>(), parts[1].parse::<u64>()) else { continue };
        any = true;
        out.message(field, |out| {
            out.text(1, op);
            let device = devices.iter().find(|known| (known.0, known.1) == (major, minor));
            out.text(2, device.map_or("", |known| known.2.as_str()));
            out.number(3, major);
            out.number(4, minor);
            out.number(5, value.parse().unwrap_or(0));
        });
    }
    any
}

/// Block devices by number, from `/proc/partitions`.
fn devices() -> Vec<(u64, u64, String)> {
    let text = fs::read_to_string("/proc/partitions").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let parts: Vec<&str> = line.split_whitespace().collect();
            match parts[..] {
                [major, minor, _, name] => {
                    Some((major.parse().ok()?, minor.parse().ok()?, format!("/dev/{name}")))
                }
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use protobuf::Message;
    use windlass_api::shim::cgroups_v1::Metrics;

    use super::*;

    #[test]
    fn files_become_the_fields_of_the_message() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("pids/pids.current", "3\n");
        write("pids/pids.max", "max\n");
        write("memory/memory.stat", "cache 1\nrss 2\ntotal_unevictable 32\nunknown 5\n");
        write("memory/memory.limit_in_bytes", "4096\n");
        write("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n");
        write("cpuacct/cpuacct.usage", "123\n");
        write("cpuacct/cpuacct.stat", "user 2\nsystem 3\n");
        write("cpuacct/cpuacct.usage_percpu", "60 63\n");
        write("blkio/blkio.throttle.io_serviced", "8:0 Read 5\nTotal 5\n");
        let groups =
            ["pids", "memory", "cpuacct", "blkio"].map(|name| (name.to_owned(), root.path().join(name)));
        let metrics = Metrics::parse_from_bytes(&read(&Cgroup::V1(groups.to_vec()))).unwrap();
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, u64::MAX));
        assert_eq!((metrics.memory.cache, metrics.memory.rss, metrics.memory.total_unevictable), (1, 2, 32));
        assert_eq!(metrics.memory.usage.limit, 4096);
        assert_eq!(metrics.memory_oom_control.oom_kill, 7);
        assert_eq!((metrics.cpu.usage.total, metrics.cpu.usage.user), (123, 20_000_000));
        assert_eq!(metrics.cpu.usage.per_cpu, [60, 63]);
        assert_eq!(metrics.blkio.io_serviced_recursive[0].op, "Read");
        assert!(metrics.hugetlb.is_empty());
    }
}
