//! Requests to a plugin whose tasks are not real.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use serde_json::json;
use windlass_api::convert::any;
use windlass_api::{cgroups_v2, cri};
use windlass_core::metadata::Database as _;
use windlass_core::{Any, Class, container, snapshot};

use crate::container::tests::Stack;
use crate::cri::Cri;
use crate::state::record::{
    ContainerRecord, ContainerStatus, SandboxPhase, SandboxRecord, SandboxStatus, nanos,
};
use crate::state::{Container, Sandbox};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a test has of a pod.
#[derive(Clone, Default)]
pub struct Pod {
    pub handler: String,
    pub cgroup_parent: String,
    pub phase: Option<SandboxPhase>,
    pub network: bool,
}

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

pub fn pod(cri: &Arc<Cri>, id: &str, pod: Pod) {
    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: id.into(),
            namespace: "default".into(),
            ..Default::default()
        }),
        labels: labels(id),
        linux: Some(cri::LinuxPodSandboxConfig { cgroup_parent: pod.cgroup_parent, ..Default::default() }),
        ..Default::default()
    };
    let record = SandboxRecord {
        config: Some(config),
        handler: pod.handler,
        network: pod.network,
        ..Default::default()
    };
    let phase = pod.phase.unwrap_or(SandboxPhase::Ready);
    let status = SandboxStatus { phase: phase.into(), ..Default::default() };
    cri.state.sandboxes.restore(Arc::new(Sandbox::new(id.into(), record, status)));
}

/// A container with a record whose specification names a group.
pub async fn container(
    stack: &Stack,
    pod: &str,
    name: &str,
    cgroups_path: &str,
    status: ContainerStatus,
) -> Arc<Container> {
    let id = format!("{name:0>64}");
    let spec = json!({"linux": {"cgroupsPath": cgroups_path}});
    let written = container::Container {
        id: id.clone(),
        labels: Default::default(),
        image: String::new(),
        runtime: container::Runtime { name: "io.containerd.runc.v2".into(), options: None },
        spec: Some(Any { type_url: "spec".into(), value: serde_json::to_vec(&spec).unwrap().into() }),
        snapshotter: "native".into(),
        snapshot_key: id.clone(),
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
        extensions: Default::default(),
        sandbox_id: pod.to_owned(),
    };
    stack.db.containers().create(&stack.cri.cx, written).await.unwrap();
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { user_specified_image: "busybox:1".into(), ..Default::default() }),
        labels: labels(name),
        ..Default::default()
    };
    let record = ContainerRecord {
        config: Some(config),
        sandbox_id: pod.into(),
        name: format!("{name}_{pod}"),
        created_at: nanos(SystemTime::now()),
        snapshotter: "native".into(),
        ..Default::default()
    };
    let container = Arc::new(Container::new(id, record, status));
    stack.cri.state.containers.restore(container.clone());
    container
}

pub fn running(ago: Duration) -> ContainerStatus {
    let linux = cri::LinuxContainerResources {
        cpu_shares: 512,
        memory_limit_in_bytes: 1 << 20,
        ..Default::default()
    };
    ContainerStatus {
        started_at: nanos(SystemTime::now() - ago),
        resources: Some(cri::ContainerResources { linux: Some(linux), windows: None }),
        ..Default::default()
    }
}

fn told(usage_usec: u64) -> Any {
    any::pack(&cgroups_v2::Metrics {
        cpu: Some(cgroups_v2::CpuStat { usage_usec, ..Default::default() }),
        memory: Some(cgroups_v2::MemoryStat { usage: 1000, inactive_file: 300, ..Default::default() }),
        pids: Some(cgroups_v2::PidsStat { current: 4, limit: 0 }),
        ..Default::default()
    })
}

fn ids(stats: &[cri::ContainerStats]) -> Vec<&str> {
    stats.iter().map(|one| one.attributes.as_ref().unwrap().id.trim_start_matches('0')).collect()
}

#[tokio::test]
async fn lists_are_filtered() {
    let stack = Stack::new().await;
    let cri = &stack.cri;
    for id in ["p1", "p2"] {
        pod(cri, id, Pod::default());
    }
    pod(cri, "gone", Pod { phase: Some(SandboxPhase::NotReady), ..Pod::default() });
    container(&stack, "p1", "a", "/none/a", ContainerStatus::default()).await;
    container(&stack, "p1", "b", "/none/b", ContainerStatus::default()).await;
    let c = container(&stack, "p2", "c", "/none/c", ContainerStatus::default()).await;
    container(&stack, "old", "d", "/none/d", ContainerStatus::default()).await;
    let list = async |id: &str, pod: &str, label_selector| {
        let filter = cri::ContainerStatsFilter { id: id.into(), pod_sandbox_id: pod.into(), label_selector };
        let request = cri::ListContainerStatsRequest { filter: Some(filter) };
        cri.list_container_stats(request).await.unwrap().stats
    };
    let none = BTreeMap::new;
    assert_eq!(ids(&list("", "", none()).await), ["a", "b", "c", "d"]);
    assert_eq!(ids(&list("", "p1", none()).await), ["a", "b"]);
    assert_eq!(ids(&list("", "old", none()).await), ["d"], "its pod has gone");
    assert_eq!(ids(&list(&c.id, "", none()).await), ["c"]);
    assert_eq!(ids(&list(&c.id, "p1", none()).await), [""; 0]);
    assert_eq!(ids(&list("nowhere", "", none()).await), [""; 0]);
    assert_eq!(ids(&list("", "", labels("b")).await), ["b"]);
    assert_eq!(ids(&list("", "p2", labels("b")).await), [""; 0]);
    let all = cri.list_container_stats(Default::default()).await.unwrap().stats;
    assert!(all.iter().all(|one| one.cpu.is_none() && one.memory.is_none()), "none of them runs");
    let streamed: Vec<_> =
        cri.stream_container_stats(Default::default()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(streamed.iter().map(|chunk| chunk.container_stats.len()).sum::<usize>(), 4);

    let pods = async |id: &str, label_selector| {
        let filter = Some(cri::PodSandboxStatsFilter { id: id.into(), label_selector });
        let stats =
            cri.list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest { filter }).await.unwrap().stats;
        stats.into_iter().map(|pod| pod.attributes.unwrap().id).collect::<Vec<_>>()
    };
    assert_eq!(pods("", none()).await, ["p1", "p2"], "ready ones");
    assert_eq!(pods("p2", none()).await, ["p2"]);
    assert_eq!(pods("gone", none()).await, [""; 0]);
    assert_eq!(pods("", labels("p1")).await, ["p1"]);
    let ask = async |id: &str| {
        cri.pod_sandbox_stats(cri::PodSandboxStatsRequest { pod_sandbox_id: id.into() })
            .await
            .unwrap_err()
            .class()
    };
    assert_eq!((ask("gone").await, ask("nowhere").await), (Class::Unavailable, Class::NotFound));
    let request = cri::ContainerStatsRequest { container_id: "nowhere".into() };
    assert!(cri.container_stats(request).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn shims_are_asked_where_no_group_is_found() {
    let stack = Stack::new().await;
    let cri = &stack.cri;
    pod(cri, "p1", Pod::default());
    pod(cri, "vm", Pod { handler: "vm".into(), ..Pod::default() });
    let lost = container(&stack, "p1", "lost", "/windlass-none/lost", running(Duration::from_secs(10))).await;
    let silent = container(&stack, "p1", "silent", "/windlass-none/silent", running(Duration::ZERO)).await;
    // The group of this name is the guest's, not one of ours.
    let guest = container(&stack, "vm", "guest", "/", running(Duration::from_secs(3600))).await;
    for (container, usage) in [(&lost, 5_000_000), (&guest, 7_000_000)] {
        stack.tasks.figures.lock().unwrap().insert(container.id.clone(), told(usage));
    }
    let ask = async |id: &str| {
        let request = cri::ContainerStatsRequest { container_id: id.into() };
        cri.container_stats(request).await.unwrap().stats.unwrap()
    };
    let stats = ask(&lost.id).await;
    let cpu = stats.cpu.unwrap();
    assert_eq!(cpu.usage_core_nano_seconds.unwrap().value, 5_000_000_000);
    // Five seconds of CPU in the ten that it runs; the test itself may take some.
    let rate = cpu.usage_nano_cores.expect("it began a short while ago").value;
    assert!((200_000_000..=500_000_000).contains(&rate), "{rate}");
    assert_eq!(stats.memory.unwrap().working_set_bytes.unwrap().value, 700);
    let stats = ask(&silent.id).await;
    assert!(stats.cpu.is_none() && stats.attributes.is_some());
    let cpu = ask(&guest.id).await.cpu.unwrap();
    assert_eq!(cpu.usage_core_nano_seconds.unwrap().value, 7_000_000_000);
    assert_eq!(cpu.usage_nano_cores, None, "one sample of something old");

    let stats = cri.list_pod_sandbox_stats(Default::default()).await.unwrap().stats;
    let linux =
        stats.into_iter().find(|pod| pod.attributes.as_ref().unwrap().id == "p1").unwrap().linux.unwrap();
    assert_eq!(
        linux.cpu.unwrap().usage_core_nano_seconds.unwrap().value,
        5_000_000_000,
        "the sum of what is known"
    );
    assert_eq!((linux.process.unwrap().process_count.unwrap().value, linux.containers.len()), (4, 2));
    assert_eq!(linux.network, None);
}

#[tokio::test]
async fn writable_layers_are_measured_beside_the_requests() {
    let stack = Stack::new().await;
    let cri = &stack.cri;
    pod(cri, "p1", Pod::default());
    let made = container(&stack, "p1", "a", "/none/a", ContainerStatus::default()).await;
    let snapshotter = stack.db.snapshotter("native").unwrap();
    let mounts = snapshot::Snapshotter::prepare(&*snapshotter, &cri.cx, &made.id, "", Default::default())
        .await
        .unwrap();
    std::fs::write(std::path::Path::new(&mounts[0].source).join("file"), vec![1_u8; 100_000]).unwrap();
    let layer =
        async || cri.list_container_stats(Default::default()).await.unwrap().stats.remove(0).writable_layer;
    let measured = async {
        while made.kept.layer().is_none() {
            tokio::task::yield_now().await;
        }
    };
    layer().await;
    tokio::time::timeout(PATIENCE, measured).await.unwrap();
    let layer = layer().await.unwrap();
    assert!(layer.used_bytes.unwrap().value >= 100_000 && layer.inodes_used.unwrap().value >= 1);
    assert!(layer.timestamp > 0);
}

#[tokio::test]
async fn metrics_fit_their_descriptors() {
    let stack = Stack::new().await;
    let cri = &stack.cri;
    pod(cri, "p1", Pod::default());
    pod(cri, "gone", Pod { phase: Some(SandboxPhase::NotReady), ..Pod::default() });
    let lost = container(&stack, "p1", "lost", "/windlass-none/lost", running(Duration::from_secs(10))).await;
    stack.tasks.figures.lock().unwrap().insert(lost.id.clone(), told(5_000_000));
    let descriptors = cri.list_metric_descriptors(Default::default()).await.unwrap().descriptors;
    let keys: BTreeMap<_, _> = descriptors.iter().map(|one| (one.name.as_str(), &one.label_keys)).collect();
    assert_eq!(keys.len(), descriptors.len(), "a name is given once");
    assert!(descriptors.iter().all(|one| one.help.ends_with('.') && one.label_keys.len() >= 5));
    for name in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_fs_usage_bytes",
    ] {
        assert!(keys.contains_key(name), "{name}");
    }
    assert_eq!(
        *keys["container_network_receive_bytes_total"],
        ["pod", "namespace", "container", "id", "image", "interface"]
    );
    let streamed: Vec<_> =
        cri.stream_pod_sandbox_metrics(Default::default()).await.unwrap().try_collect().await.unwrap();
    let pods: Vec<_> = streamed.into_iter().flat_map(|chunk| chunk.pod_sandbox_metrics).collect();
    assert_eq!(pods.len(), 1, "ready ones");
    let metrics = &pods[0].container_metrics[0].metrics;
    for metric in metrics {
        assert_eq!(metric.label_values.len(), keys[metric.name.as_str()].len(), "{}", metric.name);
        assert_eq!(&metric.label_values[..5], ["p1", "default", "lost", lost.id.as_str(), "busybox:1"]);
        assert!(metric.timestamp > 0 && metric.value.is_some());
    }
    let value = |name: &str| metrics.iter().find(|m| m.name == name).map(|m| m.value.unwrap().value);
    assert_eq!(value("container_cpu_usage_seconds_total"), Some(5));
    assert_eq!(value("container_memory_working_set_bytes"), Some(700));
    assert_eq!(value("container_spec_cpu_shares"), Some(512));
    assert_eq!(value("container_spec_memory_limit_bytes"), Some(1 << 20));
    assert_eq!(value("container_threads"), Some(4));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(value("container_start_time_seconds").is_some_and(|at| at <= now && at > now - 3600));
}
