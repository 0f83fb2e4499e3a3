//! This machine's own control groups and network namespaces. Needs root.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use windlass_api::cri;
use windlass_network::namespaces::{self, Wanted};

use super::plugin::{Pod, container, pod, running};
use crate::container::tests::Stack;
use crate::spec::Host;
use crate::state::record::ContainerStatus;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Takes memory and CPU.
const WORK: &str = "read go; x=$(head -c 1000000 /dev/zero | tr '\\0' a); while :; do :; done";

/// Groups below one of the test's own, in every hierarchy there is; gone with it.
struct Groups {
    base: String,
    mounts: Vec<PathBuf>,
    made: Vec<PathBuf>,
}

impl Groups {
    fn new() -> Self {
        let base =
            format!("windlass-figures-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mounts = if Host::detect().cgroup_v2 {
            vec![PathBuf::from("/sys/fs/cgroup")]
        } else {
            let each = ["cpuacct", "cpu", "memory", "pids", "blkio"]
                .map(|name| PathBuf::from("/sys/fs/cgroup").join(name));
            each.into_iter().filter(|mount| mount.is_dir()).collect()
        };
        let mut groups = Self { base, mounts, made: Vec::new() };
        groups.make("");
        groups
    }

    /// Makes a group and answers its path below the hierarchies.
    fn make(&mut self, name: &str) -> String {
        for mount in &self.mounts {
            let dir = mount.join(&self.base).join(name);
            fs::create_dir(&dir).unwrap();
            self.made.push(dir);
        }
        format!("/{}/{name}", self.base)
    }

    fn join(&self, path: &str, pid: u32) {
        for mount in &self.mounts {
            fs::write(mount.join(&path[1..]).join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for dir in self.made.iter().rev() {
            // A process that has been waited for may be in its group for a moment more.
            let until = Instant::now() + Duration::from_secs(5);
            while fs::remove_dir(dir).is_err() && dir.exists() && Instant::now() < until {
                std::thread::yield_now();
            }
        }
    }
}

/// A process that is ended with the test.
struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_this_machine_are_read() {
    let stack = Stack::new().await;
    let cri = &stack.cri;
    let mut groups = Groups::new();
    let (parent, group) = (groups.make("pod"), groups.make("pod/c"));
    let mut busy = Busy(Command::new("sh").args(["-c", WORK]).stdin(Stdio::piped()).spawn().unwrap());
    groups.join(&group, busy.0.id());
    // It begins once it is in the group.
    busy.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let net = cri.namespaces_dir("p1");
    fs::create_dir_all(net.parent().unwrap()).unwrap();
    let net = namespaces::create(&net, Wanted { net: true, ..Default::default() }).await.unwrap();
    let inside = format!("--net={}", net.net().display());
    let add = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other0"];
    assert!(Command::new("nsenter").arg(inside).args(add).status().unwrap().success());
    pod(cri, "p1", Pod { cgroup_parent: parent, network: true, ..Pod::default() });
    let status = ContainerStatus { pid: busy.0.id(), ..running(Duration::from_secs(5)) };
    let made = container(&stack, "p1", "a", &group, status.clone()).await;
    // One whose specification tells nothing true is found by its process.
    let other = container(&stack, "p1", "b", "/windlass-none/b", status).await;

    let ask =
        async || cri.list_pod_sandbox_stats(Default::default()).await.unwrap().stats.remove(0).linux.unwrap();
    let usage = |told: &Option<cri::CpuUsage>| told.as_ref().unwrap().usage_core_nano_seconds.unwrap().value;
    let works = |told: &cri::LinuxPodSandboxStats| {
        let first = &told.containers[0];
        let rate = first.cpu.as_ref().unwrap().usage_nano_cores.map_or(0, |rate| rate.value);
        let memory = first.memory.as_ref().unwrap().usage_bytes.unwrap().value;
        // One process, in both containers.
        rate > 0 && memory > 0 && told.process.as_ref().unwrap().process_count.unwrap().value == 2
    };
    let working = async {
        loop {
            let told = ask().await;
            if works(&told) {
                break told;
            }
        }
    };
    let first = tokio::time::timeout(Duration::from_secs(30), working).await.unwrap();
    assert_eq!(first.containers.len(), 2);
    let memory = first.containers[0].memory.as_ref().unwrap();
    assert!(memory.timestamp > 0 && memory.working_set_bytes.unwrap().value > 0);
    let network = first.network.as_ref().unwrap();
    let names: Vec<_> = network.interfaces.iter().map(|one| one.name.as_str()).collect();
    assert!(names.len() == 2 && names.contains(&"other0"), "{names:?}");
    assert_eq!(network.default_interface.as_ref().unwrap().name, "eth0");
    assert!(usage(&first.cpu) > 0, "the pod's own group");
    let second = ask().await;
    assert!(usage(&second.cpu) >= usage(&first.cpu));
    assert_eq!(
        stack.tasks.calls().iter().filter(|call| call.starts_with("metrics")).count(),
        0,
        "no shim is asked"
    );

    let metrics = cri.list_pod_sandbox_metrics(Default::default()).await.unwrap().pod_metrics.remove(0);
    assert_eq!(metrics.metrics.len(), 16, "eight of each interface");
    assert_eq!(metrics.metrics[0].label_values[..5], ["p1", "default", "", "p1", ""]);
    let value = |id: &str, name: &str| {
        let of = metrics.container_metrics.iter().find(|one| one.container_id == id).unwrap();
        of.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value.unwrap().value)
    };
    for id in [&made.id, &other.id] {
        assert_eq!(value(id, "container_processes"), Some(1));
        assert!(value(id, "container_file_descriptors") >= Some(3));
        assert!(value(id, "container_ulimits_soft") > Some(0));
        assert!(value(id, "container_memory_max_usage_bytes") > Some(0));
    }
    // Gone while it is thought to run: nothing is told of it, and nobody is held up.
    drop(busy);
    drop(groups);
    let last = ask().await;
    assert!(last.containers.iter().all(|one| one.cpu.is_none()));
    namespaces::remove(&net.dir).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn two_hundred_pods() {
    const PODS: usize = 200;
    let stack = Stack::new().await;
    let cri = &stack.cri;
    let mut groups = Groups::new();
    let mut held = Vec::new();
    for n in 0..PODS {
        let (parent, group) = (groups.make(&format!("{n}")), groups.make(&format!("{n}/c")));
        let id = format!("pod{n:0>61}");
        let dir = cri.namespaces_dir(&id);
        fs::create_dir_all(dir.parent().unwrap()).unwrap();
        held.push(namespaces::create(&dir, Wanted { net: true, ..Default::default() }).await.unwrap());
        pod(cri, &id, Pod { cgroup_parent: parent, network: true, ..Pod::default() });
        container(&stack, &id, &format!("c{n}"), &group, running(Duration::from_secs(5))).await;
    }
    let cpu = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it is given a timespec to write to.
        assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    for what in ["pods", "containers", "metrics"] {
        for round in 0..6 {
            let (begun, used) = (Instant::now(), cpu());
            let told = match what {
                "pods" => cri.list_pod_sandbox_stats(Default::default()).await.unwrap().stats.len(),
                "containers" => cri.list_container_stats(Default::default()).await.unwrap().stats.len(),
                _ => cri.list_pod_sandbox_metrics(Default::default()).await.unwrap().pod_metrics.len(),
            };
            assert_eq!(told, PODS);
            eprintln!("{what} {round}: {:?} of CPU, {:?} in all", cpu() - used, begun.elapsed());
        }
    }
    for net in held {
        namespaces::remove(&net.dir).await.unwrap();
    }
}
