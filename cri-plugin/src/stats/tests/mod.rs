//! Files become figures, figures become what CRI tells.

#![allow(clippy::unwrap_used)]

mod groups;
mod machine;
mod plugin;

use std::path::Path;
use std::time::{Duration, Instant};

use windlass_api::convert::any;
use windlass_api::{cgroups_v1, cgroups_v2};

use super::cgroup::{Group, Hierarchy};
use super::figures::*;
use super::files::Reader;
use super::network::{self, Interface, Traffic};
use super::rate::{Rate, Window};
use super::{task, v1, v2};

/// A hierarchy of plain files, with a group of this name in it.
const GROUP: &str = "/kubepods/pod1/c1";

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn read(root: &Path, v2: bool, detail: Detail) -> Figures {
    let hierarchy = Hierarchy { root: root.to_str().unwrap().to_owned(), v2 };
    let group = Group::One(GROUP.into());
    let read = if v2 { v2::read } else { v1::read };
    read(&hierarchy, &mut Reader::default(), &group, detail)
}

const V1: &[(&str, &str)] = &[
    ("cpuacct/kubepods/pod1/c1/cpuacct.usage", "7654321000\n"),
    ("cpuacct/kubepods/pod1/c1/cpuacct.stat", "user 300\nsystem 40\n"),
    ("cpu/kubepods/pod1/c1/cpu.stat", "nr_periods 9\nnr_throttled 2\nthrottled_time 5000000000\n"),
    ("memory/kubepods/pod1/c1/memory.usage_in_bytes", "1000000\n"),
    ("memory/kubepods/pod1/c1/memory.limit_in_bytes", "4000000\n"),
    ("memory/kubepods/pod1/c1/memory.memsw.limit_in_bytes", "6000000\n"),
    ("memory/kubepods/pod1/c1/memory.max_usage_in_bytes", "2000000\n"),
    ("memory/kubepods/pod1/c1/memory.kmem.usage_in_bytes", "77\n"),
    ("memory/kubepods/pod1/c1/memory.failcnt", "3\n"),
    ("memory/kubepods/pod1/c1/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
    (
        "memory/kubepods/pod1/c1/memory.stat",
        "cache 1\nrss 2\npgfault 5\npgmajfault 6\ninactive_file 1\nhierarchical_memory_limit 9\ntotal_cache 600000\n\
         total_rss 300000\ntotal_mapped_file 90\ntotal_pgfault 50\ntotal_pgmajfault 7\ntotal_inactive_file 200000\n\
         total_active_file 400000\ntotal_swap 12\n",
    ),
    ("pids/kubepods/pod1/c1/pids.current", "3\n"),
    ("pids/kubepods/pod1/c1/pids.max", "max\n"),
    ("blkio/kubepods/pod1/c1/blkio.bfq.io_serviced_recursive", "Total 0\n"),
    (
        "blkio/kubepods/pod1/c1/blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 11\n8:0 Write 12\n8:0 Sync 1\nTotal 23\n",
    ),
    (
        "blkio/kubepods/pod1/c1/blkio.throttle.io_serviced_recursive",
        "8:0 Read 1\n8:0 Write 2\n254:16 Read 9\nTotal 12\n",
    ),
];

#[test]
fn version_1_is_read() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), V1);
    let figures = read(root.path(), false, Detail::Everything);
    let throttling = Throttling { periods: 9, throttled: 2, time: 5_000_000_000 };
    let cpu = figures.cpu.as_ref().unwrap();
    assert_eq!((cpu.usage, cpu.user, cpu.system), (7_654_321_000, 3_000_000_000, 400_000_000));
    assert_eq!(cpu.throttling, Some(throttling));
    let memory = figures.memory.as_ref().unwrap();
    let expected = Memory {
        usage: 1_000_000,
        limit: Some(4_000_000),
        rss: 300_000,
        cache: 600_000,
        mapped_file: 90,
        active_file: 400_000,
        inactive_file: 200_000,
        faults: 50,
        major_faults: 7,
        own_faults: Some((5, 6)),
        kernel: Some(77),
        max_usage: Some(2_000_000),
        failures: Some(3),
        oom_kills: Some(4),
        pressure: None,
    };
    assert_eq!(*memory, expected);
    assert_eq!(figures.swap, Some(Swap { usage: 12, limit: Some(2_000_000) }));
    assert_eq!(figures.pids, Some(Pids { current: 3, limit: None }));
    let disk = Device { major: 8, minor: 0, read_bytes: 11, written_bytes: 12, reads: 1, writes: 2 };
    let other = Device { major: 254, minor: 16, reads: 9, ..Device::default() };
    assert_eq!(figures.devices, [disk, other]);

    let usual = read(root.path(), false, Detail::Usual);
    assert_eq!(usual.cpu.as_ref().unwrap().usage, cpu.usage);
    assert_eq!((usual.devices.len(), usual.cpu.unwrap().throttling), (0, None));
    assert_eq!(usual.memory.unwrap().working_set(), 800_000);
    let less = read(root.path(), false, Detail::Less);
    assert_eq!((less.memory.unwrap().limit, less.pids, less.swap), (Some(4_000_000), None, None));
}

const V2: &[(&str, &str)] = &[
    (
        "kubepods/pod1/c1/cpu.stat",
        "usage_usec 7000\nuser_usec 5000\nsystem_usec 2000\nnice_usec 0\nnr_periods 9\nnr_throttled 2\nthrottled_usec 8\n",
    ),
    (
        "kubepods/pod1/c1/cpu.pressure",
        "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
    ),
    ("kubepods/pod1/c1/memory.current", "1000\n"),
    ("kubepods/pod1/c1/memory.max", "max\n"),
    ("kubepods/pod1/c1/memory.peak", "2000\n"),
    ("kubepods/pod1/c1/memory.swap.current", "30\n"),
    ("kubepods/pod1/c1/memory.swap.max", "100\n"),
    ("kubepods/pod1/c1/memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 2\n"),
    ("kubepods/pod1/c1/memory.pressure", "some avg10=NaN avg60=x avg300=0.00 total=9\n"),
    (
        "kubepods/pod1/c1/memory.stat",
        "anon 400\nfile 500\nkernel_stack 16\npagetables 20\nslab 4\nfile_mapped 60\nactive_file 300\ninactive_file 200\n\
         pgfault 12\npgmajfault 1\n",
    ),
    ("kubepods/pod1/c1/pids.current", "2\n"),
    ("kubepods/pod1/c1/pids.max", "64\n"),
    ("kubepods/pod1/c1/io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:1\n"),
    ("kubepods/pod1/c1/io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=3\n"),
];

#[test]
fn version_2_is_read() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), V2);
    let figures = read(root.path(), true, Detail::Everything);
    let cpu = figures.cpu.as_ref().unwrap();
    assert_eq!((cpu.usage, cpu.user, cpu.system), (7_000_000, 5_000_000, 2_000_000));
    assert_eq!(cpu.throttling, Some(Throttling { periods: 9, throttled: 2, time: 8000 }));
    let some = cpu.pressure.as_ref().unwrap().some.clone().unwrap();
    assert_eq!(some, Stall { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 77 });
    let memory = figures.memory.as_ref().unwrap();
    assert_eq!((memory.usage, memory.limit, memory.working_set(), memory.rss), (1000, None, 800, 400));
    assert_eq!(
        (memory.kernel, memory.max_usage, memory.failures, memory.oom_kills),
        (Some(40), Some(2000), Some(6), Some(2))
    );
    let waits = memory.pressure.as_ref().unwrap().some.clone().unwrap();
    assert_eq!(waits, Stall { total: 9, ..Stall::default() }, "what is no number counts as nothing");
    assert_eq!(figures.swap, Some(Swap { usage: 30, limit: Some(100) }));
    assert_eq!(figures.pids, Some(Pids { current: 2, limit: Some(64) }));
    assert_eq!(
        figures.devices[0],
        Device { major: 8, minor: 0, read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 }
    );

    let told = figures.cpu_usage(42, Some(7)).unwrap();
    assert_eq!((told.timestamp, told.usage_nano_cores.unwrap().value), (42, 7));
    assert_eq!(told.psi.unwrap().some.unwrap().total, 77_000, "nanoseconds");
    let told = figures.memory_usage(42).unwrap();
    assert_eq!((told.available_bytes.unwrap().value, told.page_faults.unwrap().value), (0, 12));
    let told = figures.swap_usage(42).unwrap();
    assert_eq!((told.swap_available_bytes.unwrap().value, told.swap_usage_bytes.unwrap().value), (70, 30));
    assert_eq!(figures.io_usage(42).unwrap().psi.unwrap().some.unwrap().total, 3000);

    let less = read(root.path(), true, Detail::Less);
    assert!(less.memory.is_some() && less.pids.is_none() && less.swap.is_none());
    // A newer kernel says what it holds.
    write(root.path(), &[("kubepods/pod1/c1/memory.stat", "anon 400\nkernel 99\nslab 4\n")]);
    assert_eq!(read(root.path(), true, Detail::Everything).memory.unwrap().kernel, Some(99));
}

#[test]
fn what_cannot_be_read_is_not_told() {
    let root = tempfile::tempdir().unwrap();
    for v2 in [false, true] {
        assert_eq!(read(root.path(), v2, Detail::Everything), Figures::default(), "no such group");
    }
    let big = "x".repeat(300 << 10);
    write(
        root.path(),
        &[
            ("kubepods/pod1/c1/cpu.stat", "user_usec 5\nusage_usec -3\nusage_usec\n\n= =\n"),
            ("kubepods/pod1/c1/memory.current", "12\n"),
            ("kubepods/pod1/c1/memory.stat", &big),
            ("kubepods/pod1/c1/pids.current", "99999999999999999999999\n"),
            ("kubepods/pod1/c1/io.stat", "x:y rbytes=1\n8 rbytes=1\n:\n8:0 rbytes= wbytes=-1 =\n"),
            ("kubepods/pod1/c1/io.pressure", "some\nnone avg10=1\n"),
            ("cpuacct/kubepods/pod1/c1/cpuacct.usage", "many\n"),
            ("blkio/kubepods/pod1/c1/blkio.throttle.io_serviced_recursive", "8:0\n8:0 Read\n8 Read 1\n"),
        ],
    );
    std::fs::write(root.path().join("kubepods/pod1/c1/memory.max"), [0xff, 0xfe]).unwrap();
    std::os::unix::fs::symlink("/proc/self/status", root.path().join("kubepods/pod1/c1/memory.peak"))
        .unwrap();
    let figures = read(root.path(), true, Detail::Everything);
    assert_eq!((figures.cpu, figures.pids, figures.io_pressure), (None, None, None));
    let memory = figures.memory.unwrap();
    assert_eq!((memory.usage, memory.rss, memory.limit, memory.max_usage), (12, 0, None, None));
    assert_eq!(figures.devices, [Device { major: 8, ..Device::default() }]);
    assert!(read(root.path(), false, Detail::Everything).is_empty());
}

#[test]
fn limits_that_do_not_limit_are_none() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), V1);
    // As the kernel says it: the largest number, in whole pages.
    write(root.path(), &[("memory/kubepods/pod1/c1/memory.limit_in_bytes", "9223372036854771712\n")]);
    let figures = read(root.path(), false, Detail::Usual);
    assert_eq!(figures.memory.unwrap().limit, None);
    assert_eq!(figures.swap.unwrap().limit, None);
}

#[test]
fn shims_tell_the_same() {
    let memory = cgroups_v2::MemoryStat {
        usage: 1000,
        inactive_file: 200,
        usage_limit: u64::MAX,
        swap_usage: 30,
        swap_limit: 100,
        ..Default::default()
    };
    let metrics = cgroups_v2::Metrics {
        cpu: Some(cgroups_v2::CpuStat { usage_usec: 7, ..Default::default() }),
        memory: Some(memory),
        pids: Some(cgroups_v2::PidsStat { current: 3, limit: 0 }),
        ..Default::default()
    };
    let figures = task::read(&any::pack(&metrics)).unwrap();
    assert_eq!(figures.cpu.as_ref().unwrap().usage, 7000);
    assert_eq!(
        (figures.memory.as_ref().unwrap().working_set(), figures.memory.as_ref().unwrap().limit),
        (800, None)
    );
    assert_eq!(figures.swap, Some(Swap { usage: 30, limit: Some(100) }));
    assert_eq!(figures.pids, Some(Pids { current: 3, limit: None }));

    let entry = |usage, limit| Some(cgroups_v1::MemoryEntry { usage, limit, ..Default::default() });
    let memory = cgroups_v1::MemoryStat {
        usage: entry(1000, 4000),
        swap: entry(1012, 6000),
        total_inactive_file: 300,
        ..Default::default()
    };
    let usage = cgroups_v1::CpuUsage { total: 9, kernel: 4, user: 5, per_cpu: Vec::new() };
    let blkio = |op: &str, value| cgroups_v1::BlkIoEntry {
        op: op.into(),
        major: 8,
        minor: 1,
        value,
        ..Default::default()
    };
    let metrics = cgroups_v1::Metrics {
        cpu: Some(cgroups_v1::CpuStat { usage: Some(usage), throttling: None }),
        memory: Some(memory),
        blkio: Some(cgroups_v1::BlkIoStat {
            io_service_bytes_recursive: vec![blkio("Read", 1), blkio("write", 2)],
            io_serviced_recursive: vec![blkio("read", 3), blkio("Total", 9)],
            ..Default::default()
        }),
        ..Default::default()
    };
    let figures = task::read(&any::pack(&metrics)).unwrap();
    assert_eq!(figures.cpu.as_ref().unwrap().system, 4);
    assert_eq!(figures.memory.as_ref().unwrap().working_set(), 700);
    assert_eq!(figures.swap, Some(Swap { usage: 12, limit: Some(2000) }));
    let device = Device { major: 8, minor: 1, read_bytes: 1, written_bytes: 2, reads: 3, writes: 0 };
    assert_eq!(figures.devices, [device]);

    let strange = windlass_core::Any { type_url: "x.Metrics".into(), value: Default::default() };
    assert_eq!(task::read(&strange), None);
}

#[test]
fn rates_are_of_two_samples_far_enough_apart() {
    let window = Window { least: Duration::from_secs(1), most: Duration::from_secs(60) };
    let start = Instant::now();
    let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
    let mut rate = Rate::default();
    assert_eq!(rate.take(start, 1_000, window), None, "one sample is none");
    assert_eq!(rate.take(after(0.5), 900_000_000, window), None, "too close");
    assert_eq!(rate.take(after(2.0), 1_000_001_000, window), Some(500_000_000));
    assert_eq!(rate.take(after(2.2), 9_000_000_000, window), Some(500_000_000), "the last one is told again");
    assert_eq!(rate.take(after(4.0), 5_000_001_000, window), Some(2_000_000_000), "two cores");
    assert_eq!(rate.take(after(6.0), 7, window), None, "less than before: something else");
    assert_eq!(rate.take(after(8.0), 7, window), Some(0));
    assert_eq!(rate.take(after(99.0), 8, window), None, "too far apart");
    assert_eq!(rate.take(after(98.0), 9, window), None, "time does not run backwards");

    let mut begun = Rate::default();
    begun.begin(start);
    assert_eq!(begun.take(after(4.0), 1_000_000_000, window), Some(250_000_000));
    begun.begin(after(3.9));
    assert_eq!(begun.take(after(5.0), 1_000_000_000, window), Some(0), "it has begun once");
}

#[test]
fn interfaces_are_read() {
    let text = "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
         \x20   lo: 30 17 0 0 0 0 0 0 30 17 0 0 0 0 0 0\n\
         \x20 net1:1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n\
         \x20 eth0: 380342587   22867    1    2    0     0          0         0  1960962   17681    3    4    0     0       0          0\n\
         \x20 bad0: 1 2 3\n  odd0: 1 2 x 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
    let found = network::parse(text);
    let net1 = Interface {
        name: "net1".into(),
        received: Traffic { bytes: 1, packets: 2, errors: 3, dropped: 4 },
        sent: Traffic { bytes: 5, packets: 6, errors: 7, dropped: 8 },
    };
    assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["net1", "eth0"]);
    assert_eq!(found[0], net1);
    let usage = network::usage(&found, 5).unwrap();
    let default = usage.default_interface.unwrap();
    assert_eq!((default.name.as_str(), default.rx_bytes.unwrap().value), ("eth0", 380_342_587));
    assert_eq!(usage.interfaces.len(), 2);
    assert_eq!(network::usage(&found[..1], 5).unwrap().default_interface.unwrap().name, "net1");
    assert_eq!(network::usage(&network::parse(""), 5), None);
}
