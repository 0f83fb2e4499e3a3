//! `io.containerd.cgroups.v2.Metrics`: which file becomes which field.

use std::fs;
use std::path::Path;

use super::{huge_page_sizes, number, pairs, parse_number, rdma};
use crate::pb::Writer;

/// `memory.stat` in the order of the message's fields, which begin at 1.
const MEMORY: [&str; 31] = [
    "anon",
    "file",
    "kernel_stack",
    "slab",
    "sock",
    "shmem",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "anon_thp",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "slab_reclaimable",
    "slab_unreclaimable",
    "pgfault",
    "pgmajfault",
    "workingset_refault",
    "workingset_activate",
    "workingset_nodereclaim",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "pgactivate",
    "pgdeactivate",
    "pglazyfree",
    "pglazyfreed",
    "thp_fault_alloc",
    "thp_collapse_alloc",
];
const MEMORY_FILES: [(u32, &str); 6] = [
    (32, "memory.current"),
    (33, "memory.max"),
    (34, "memory.swap.current"),
    (35, "memory.swap.max"),
    (36, "memory.peak"),
    (37, "memory.swap.peak"),
];
const CPU: [(u32, &str); 8] = [
    (1, "usage_usec"),
    (2, "user_usec"),
    (3, "system_usec"),
    (4, "nr_periods"),
    (5, "nr_throttled"),
    (6, "throttled_usec"),
    (8, "nr_bursts"),
    (9, "burst_usec"),
];
const MEMORY_EVENTS: [&str; 6] = ["low", "high", "max", "oom", "oom_kill", "oom_group_kill"];
const IO: [(u32, &str); 4] = [(3, "rbytes"), (4, "wbytes"), (5, "rios"), (6, "wios")];

pub fn read(dir: &Path) -> Vec<u8> {
    let mut out = Writer::default();
    out.message(1, |out| {
        out.number(1, number(dir, "pids.current"));
        out.number(2, number(dir, "pids.max"));
    });
    out.message(2, |out| {
        pairs(dir, "cpu.stat", |name, value| {
            if let Some((field, _)) = CPU.iter().find(|(_, known)| *known == name) {
                out.number(*field, value);
            }
        });
        pressure(dir, "cpu.pressure", 7, out);
    });
    out.message(4, |out| memory(dir, out));
    out.message(5, |out| {
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
    out.message(6, |out| io(dir, out));
    for size in huge_page_sizes() {
        out.message(7, |out| {
            out.number(1, number(dir, &format!("hugetlb.{size}.current")));
            out.number(2, number(dir, &format!("hugetlb.{size}.max")));
            out.text(3, &size);
            pairs(dir, &format!("hugetlb.{size}.events"), |name, value| {
                if name == "max" {
                    out.number(4, value);
                }
            });
        });
    }
    if dir.join("memory.events").exists() {
        out.message(8, |out| {
            pairs(dir, "memory.events", |name, value| {
                if let Some(index) = MEMORY_EVENTS.iter().position(|known| *known == name) {
                    out.number(index as u32 + 1, value);
                }
            });
        });
    }
    out.into_bytes()
}

fn memory(dir: &Path, out: &mut Writer) {
    let known = pairs(dir, "memory.stat", |name, value| {
        if let Some(index) = MEMORY.iter().position(|known| *known == name) {
            out.number(index as u32 + 1, value);
        }
    });
    if known {
        for (field, file) in MEMORY_FILES {
            out.number(field, number(dir, file));
        }
        pressure(dir, "memory.pressure", 38, out);
    }
}

/// Lines of `major:minor name=value …`.
fn io(dir: &Path, out: &mut Writer) {
    let text = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    for line in text.lines() {
        let mut parts = line.split_whitespace();
        let Some((major, minor)) = parts.next().and_then(|device| device.split_once(':')) else { continue };
        out.message(1, |out| {
            out.number(1, parse_number(major));
            out.number(2, parse_number(minor));
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                if let Some((field, _)) = IO.iter().find(|(_, known)| *known == name) {
                    out.number(*field, parse_number(value));
                }
            }
        });
    }
    pressure(dir, "io.pressure", 2, out);
}

/// Lines of `some|full avg10=… avg60=… avg300=… total=…`; kernels without pressure figures have no such file.
fn pressure(dir: &Path, file: &str, field: u32, out: &mut Writer) {
    let Ok(text) = fs::read_to_string(dir.join(file)) else { return };
    out.message(field, |out| {
        for line in text.lines() {
            let mut parts = line.split_whitespace();
            let field = match parts.next() {
                Some("some") => 1,
                Some("full") => 2,
                _ => continue,
            };
            out.message(field, |out| {
                for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                    match name {
                        "avg10" => out.double(1, value.parse().unwrap_or(0.0)),
                        "avg60" => out.double(2, value.parse().unwrap_or(0.0)),
                        "avg300" => out.double(3, value.parse().unwrap_or(0.0)),
                        "total" => out.number(4, parse_number(value)),
                        _ => {}
                    }
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use protobuf::Message;
    use windlass_api::shim::cgroups_v2::Metrics;

    use super::*;

    #[test]
    fn files_become_the_fields_of_the_message() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
        write("pids.current", "3\n");
        write("cpu.stat", "usage_usec 10\nuser_usec 4\nburst_usec 9\n");
        write("cpu.pressure", "some avg10=0.50 avg60=0.00 avg300=0.00 total=77\n");
        write("memory.stat", "anon 5\nthp_collapse_alloc 31\n");
        write("memory.max", "max\n");
        write("memory.events", "low 0\noom_kill 2\noom_group_kill 1\n");
        write("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        let metrics = Metrics::parse_from_bytes(&read(root.path())).unwrap();
        assert_eq!(metrics.pids.current, 3);
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.burst_usec), (10, 9));
        assert_eq!((metrics.cpu.psi.some.avg10, metrics.cpu.psi.some.total), (0.5, 77));
        assert_eq!((metrics.memory.anon, metrics.memory.thp_collapse_alloc), (5, 31));
        assert_eq!(metrics.memory.usage_limit, u64::MAX);
        assert_eq!((metrics.memory_events.oom_kill, metrics.memory_events.oom_group_kill), (2, 1));
        assert_eq!(
            (metrics.io.usage[0].major, metrics.io.usage[0].minor, metrics.io.usage[0].wios),
            (8, 16, 4)
        );
    }
}
