//! Control groups and other limits.

use crate::harness::*;
use serde_json::json;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use windlass_oci_runtime::{Metrics, Stdio};

pub const TESTS: &[Test] = &[
    ("group_limits", group_limits),
    ("block_io", block_io),
    ("cache_groups", cache_groups),
    ("updates", updates),
    ("figures", figures),
    ("out_of_memory", out_of_memory),
    ("process_limit", process_limit),
    ("resource_limits", resource_limits),
    ("oom_scores", oom_scores),
    ("groups_of_the_container", groups_of_the_container),
    ("groups_of_another_container", groups_of_another_container),
    ("limits_that_cannot_be", limits_that_cannot_be),
];

fn v1() -> bool {
    !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Reads a control file by its v1 controller and name, or its v2 name.
fn control(bundle: &Bundle, controller: &str, one: &str, two: &str) -> String {
    let base = std::path::Path::new("/sys/fs/cgroup");
    let path =
        if v1() { base.join(controller).join(&bundle.id).join(one) } else { base.join(&bundle.id).join(two) };
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_string()
}

fn group_limits() {
    let mut bundle = Bundle::new();
    let resources = &mut bundle.spec["linux"]["resources"];
    resources["memory"] = json!({"limit": 64 << 20, "reservation": 32 << 20});
    resources["cpu"] = json!({"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"});
    resources["pids"] = json!({"limit": 33});
    let running = Running::new(bundle);
    let bundle = &running.bundle;
    assert_eq!(control(bundle, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(control(bundle, "memory", "memory.soft_limit_in_bytes", "memory.low"), (32 << 20).to_string());
    assert_eq!(control(bundle, "pids", "pids.max", "pids.max"), "33");
    assert_eq!(control(bundle, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    if v1() {
        assert_eq!(control(bundle, "cpu", "cpu.shares", ""), "512");
        assert_eq!(control(bundle, "cpu", "cpu.cfs_quota_us", ""), "50000");
    } else {
        assert_eq!(control(bundle, "", "", "cpu.max"), "50000 100000");
        assert_eq!(control(bundle, "", "", "cpu.weight"), "59");
    }
}

/// `major:minor` of some disk.
fn disk() -> (u64, u64) {
    let disks = fs::read_dir("/sys/block").unwrap().flatten();
    let read = |e: fs::DirEntry| fs::read_to_string(e.path().join("dev")).ok();
    let text = disks.filter_map(read).next().expect("there is a block device");
    let (major, minor) = text.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn block_io() {
    let (major, minor) = disk();
    let mut bundle = Bundle::new();
    let at = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    bundle.spec["linux"]["resources"]["blockIO"] = json!({
        "throttleReadBpsDevice": at(1 << 30), "throttleWriteBpsDevice": at(2 << 30),
        "throttleReadIOPSDevice": at(30_000), "throttleWriteIOPSDevice": at(40_000),
    });
    let running = Running::new(bundle);
    let bundle = &running.bundle;
    for (file, key, rate) in [
        ("read_bps", "rbps", 1 << 30),
        ("write_bps", "wbps", 2 << 30),
        ("read_iops", "riops", 30_000),
        ("write_iops", "wiops", 40_000u64),
    ] {
        let found = control(bundle, "blkio", &format!("blkio.throttle.{file}_device"), "io.max");
        let device = format!("{major}:{minor} ");
        let wanted = if v1() { format!("{device}{rate}") } else { format!("{key}={rate}") };
        assert!(found.starts_with(&device) && found.contains(&wanted), "{file}: {found}");
    }
    let weight = json!({"blockIO": {"weight": 80}});
    let updated = running.container.update(weight.to_string().as_bytes());
    let there = |name: &str| running.bundle.groups().iter().any(|group| group.join(name).exists());
    if ["blkio.weight", "blkio.bfq.weight", "io.bfq.weight", "io.weight"].into_iter().any(there) {
        updated.unwrap();
    } else {
        assert!(updated.unwrap_err().report().contains("scheduler bfq"));
    }
}

fn cache_groups() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["intelRdt"] = json!({"closID": "gold"});
    let mount = bundle.dir.path().join("resctrl");
    bundle.resctrl = Some(mount.clone());
    assert!(bundle.refused().contains("mount -t resctrl"));
    for dir in [mount.clone(), mount.join("gold")] {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("schemata"), "").unwrap();
        fs::write(dir.join("tasks"), "").unwrap();
    }
    bundle.spec["linux"]["intelRdt"]["closID"] = json!("silver");
    assert!(bundle.refused().contains("no control group \"silver\""));
    bundle.spec["linux"]["intelRdt"]["closID"] = json!("gold");
    let mut running = Running::new(bundle);
    let tasks = || fs::read_to_string(mount.join("gold/tasks")).unwrap();
    assert_eq!(tasks(), running.container.pid().to_string());
    // What is added later joins as well, whoever has loaded the container.
    let process = running.process("true");
    fs::write(mount.join("gold/tasks"), "").unwrap();
    let child = running.exec_child(&process, Stdio::Null).unwrap();
    assert_eq!(tasks(), child.pid.to_string());
    assert_eq!(wait(&child.pidfd), 0);
    assert_eq!(fs::read_to_string(mount.join("tasks")).unwrap(), "");
}

fn updates() {
    let running = Running::new(Bundle::new());
    let update = |value: serde_json::Value| running.container.update(value.to_string().as_bytes());
    for limit in [100u64 << 20, 50 << 20, 200 << 20] {
        update(json!({"memory": {"limit": limit}})).unwrap();
        assert_eq!(
            control(&running.bundle, "memory", "memory.limit_in_bytes", "memory.max"),
            limit.to_string()
        );
    }
    update(json!({"pids": {"limit": 7}, "cpu": {"quota": 20000, "period": 50000}})).unwrap();
    assert_eq!(control(&running.bundle, "pids", "pids.max", "pids.max"), "7");
    update(json!({"pids": {"limit": -1}})).unwrap();
    assert_eq!(control(&running.bundle, "pids", "pids.max", "pids.max"), "max");
    assert!(update(json!({"memory": {"limit": "x"}})).is_err());
    // A property that is not known is passed over, as the specification demands, and changes nothing.
    update(json!({"surprise": 1})).unwrap();
    assert_eq!(control(&running.bundle, "pids", "pids.max", "pids.max"), "max");
}

fn figures() {
    let mut running = Running::new(Bundle::sh("while true; do echo; done > /dev/null"));
    running.exec("true");
    match running.container.stats().unwrap() {
        Metrics::V1(m) => {
            assert_eq!(m.pids.unwrap().limit, u64::MAX);
            assert!(m.cpu.as_ref().unwrap().total > 0 && !m.cpu.unwrap().per_cpu.is_empty());
            let memory = m.memory.unwrap();
            assert!(memory.usage.usage > 0 && memory.usage.limit > 0 && memory.pgfault > 0);
            assert!(m.memory_oom_control.is_some());
        }
        Metrics::V2(m) => {
            assert!(m.cpu.unwrap().usage_usec > 0);
            assert!(m.memory.unwrap().usage > 0);
            assert_eq!(m.pids.unwrap().current, 1);
        }
    }
}

fn readable(events: &impl AsFd) -> bool {
    let mut poll = libc::pollfd { fd: events.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, 5000) == 1 }
}

fn out_of_memory() {
    let mut bundle = Bundle::new();
    bundle.args(&["tail", "/dev/zero"]);
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
    let mut container = bundle.create(Stdio::Null).unwrap();
    let mut events = container.oom_events().unwrap();
    assert!(!events.drain().unwrap());
    container.start().unwrap();
    assert!(readable(&events));
    assert_eq!(wait(&container.pidfd().unwrap()), 137);
    assert!(events.drain().unwrap());
    assert!(!events.drain().unwrap());
    container.delete(false).unwrap();
    assert!(!events.drain().unwrap(), "the end of the group is no shortage");
    bundle.assert_clean();
}

fn process_limit() {
    let mut bundle = Bundle::sh("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo done");
    bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 4});
    let output = bundle.run();
    assert!(output.err.contains("fork"), "{} {}", output.out, output.err);
}

fn resource_limits() {
    let mut bundle = Bundle::sh("grep -E 'open files|core file' /proc/self/limits");
    bundle.spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
    ]);
    let out = bundle.run().out;
    let words = |name: &str| -> Vec<String> {
        out.lines().find(|l| l.contains(name)).unwrap().split_whitespace().map(str::to_string).collect()
    };
    assert_eq!(words("open files")[3..5], ["77", "99"]);
    assert_eq!(words("core file")[4..6], ["0", "0"]);
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": u64::MAX}]);
    let error = bundle.refused();
    assert!(error.contains("RLIMIT_NOFILE cannot be raised"), "{error}");
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_FUN", "soft": 1, "hard": 1}]);
    assert!(bundle.refused().contains("RLIMIT_FUN"));
    // Those of the container hold for processes that say nothing else.
    let mut bundle = Bundle::new();
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]);
    let mut running = Running::new(bundle);
    let mut process = running.process("grep 'open files' /proc/self/limits");
    process.as_object_mut().unwrap().remove("rlimits");
    assert!(running.exec_process(&process).out.contains("55"));
}

fn oom_scores() {
    let mut bundle = Bundle::sh("cat /proc/self/oom_score_adj");
    bundle.spec["process"]["oomScoreAdj"] = json!(500);
    assert_eq!(bundle.run().out, "500\n");
    bundle.spec["process"]["oomScoreAdj"] = json!(-999);
    bundle.clamp = true;
    let (stdio, out, _err) = pipes();
    let mut container = bundle.create(stdio).unwrap();
    container.start().unwrap();
    let out = read(out);
    wait(&container.pidfd().unwrap());
    // With the right to lower it, it is lowered; without it, somebody is told.
    assert_eq!(out != "-999\n", container.warnings().iter().any(|w| w.contains("-999")), "{out}");
    let permitted = out == "-999\n";
    container.delete(false).unwrap();
    bundle.clamp = false;
    if !permitted {
        let error = bundle.refused();
        assert!(error.contains("oomScoreAdj -999") && error.contains("CAP_SYS_RESOURCE"), "{error}");
    }
}

fn groups_of_the_container() {
    // What a container makes below its groups goes with it.
    let mut bundle = Bundle::sh(
        "for d in /sys/fs/cgroup/*/; do mkdir -p $d/own/deeper; done; mkdir -p /sys/fs/cgroup/own/deeper; sleep 1000",
    );
    bundle.mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}),
    );
    bundle.namespace("cgroup", None);
    let mut running = Running::new(bundle);
    let below = |r: &Running| r.bundle.groups().iter().all(|g| g.join("own/deeper").exists());
    for _ in 0..200 {
        if below(&running) {
            break;
        }
        running.exec("sleep 0.02");
    }
    assert!(below(&running));
    assert!(running.exec("cat /proc/self/cgroup").out.contains(":/\n"));
}

fn groups_of_another_container() {
    let mut running = Running::new(Bundle::new());
    let mut second = Bundle::new();
    second.spec["linux"]["cgroupsPath"] = running.bundle.spec["linux"]["cgroupsPath"].clone();
    let error = second.try_run().err().expect("its cgroup is another container's");
    assert!(error.report().contains("is not empty: 1 process(es) found"), "{}", error.report());
    assert_eq!(running.exec("echo alive").out, "alive\n");
}

fn limits_that_cannot_be() {
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 4096});
    // Too little to start in: whichever way it ends, nothing is left.
    let _ = bundle.try_run();
    bundle.assert_clean();
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["resources"]["cpu"] = json!({"cpus": "4000"});
    assert!(bundle.refused().contains("cpuset.cpus"));
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["resources"]["devices"] = json!([{"allow": true, "type": "z"}]);
    assert!(bundle.refused().contains("unknown type"));
    if v1() {
        let mut bundle = Bundle::new();
        bundle.spec["linux"]["resources"]["unified"] = json!({"memory.high": "1G"});
        assert!(bundle.refused().contains("cgroup v2"));
    }
}
