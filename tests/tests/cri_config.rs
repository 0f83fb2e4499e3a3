//! What configuration files beside the daemon's own say of containers, and what becomes of them when such a file is wrong.

use std::path::Path;

use windlass_api::cri::{ContainerConfig, ExecRequest, NamespaceMode, PodSandboxConfig};
use windlass_tests::Daemon;
use windlass_tests::cri::{Node, pod, script};

const IDLE: &str = "trap 'exit 5' TERM; sleep 1000 & wait";
/// The limits of a container as it sees them itself, of either version.
const READ: &str =
    "cat /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device 2>/dev/null || cat /sys/fs/cgroup/io.max";

/// A whole disk: its path, and its number as control groups write it.
fn disk() -> (String, String) {
    let disks = std::fs::read_dir("/sys/block").expect("there are block devices").flatten();
    let known = disks.filter_map(|entry| {
        let path = format!("/dev/{}", entry.file_name().to_string_lossy());
        let number = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        Path::new(&path).exists().then(|| (path, number.trim().to_owned()))
    });
    known.into_iter().next().expect("a block device is in /dev")
}

fn of_class(pod: &PodSandboxConfig, name: &str, kind: &str, class: &str) -> ContainerConfig {
    let mut config = script(pod, name, IDLE);
    config.annotations.insert(format!("io.kubernetes.cri.{kind}-class"), class.to_owned());
    config
}

#[test]
fn a_class_of_block_io_limits_a_container() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("classes.yaml");
    let (device, number) = disk();
    let classes = format!(
        "Classes:\n  slow:\n  - Devices: ['{device}', '/dev/nosuch*']\n    ThrottleReadBps: 300Mi\n  free: []\n"
    );
    std::fs::write(&file, &classes).expect("it is written");
    let config = format!(
        "[plugins.\"io.containerd.service.v1.tasks-service\"]\nblockio_config_file = \"{}\"\n",
        file.display()
    );
    let mut node = Node::with(Daemon::builder().config(&config));
    assert!(node.daemon.log().contains("/dev/nosuch*"), "what leads nowhere is told: {}", node.daemon.log());
    let mut host = pod(&node, "host", NamespaceMode::Node, false);
    // The pod's annotation is for those that name none themselves.
    host.annotations.insert("blockio.resources.beta.kubernetes.io/pod".into(), "slow".into());
    let host_id = node.run_pod(&host).expect("a pod");
    let slow = node.run(&host_id, &script(&host, "slow", IDLE), &host);
    let free = node.run(&host_id, &of_class(&host, "free", "blockio", "free"), &host);
    let limits = node.says(&slow, READ);
    assert!(limits.contains(&number) && limits.contains(&(300 << 20).to_string()), "{limits}");
    assert!(!node.says(&free, READ).contains(&number));
    let error = node.create(&host_id, &of_class(&host, "gold", "blockio", "gold"), &host);
    let error = error.expect_err("there is no such class");
    let (class, path) = ("\"gold\"", file.to_string_lossy().into_owned());
    assert!(error.message().contains(class) && error.message().contains(&path), "{error}");

    // A file that is wrong costs those alone who name a class; they hear what is wrong.
    std::fs::write(&file, "Classes:\n  slow:\n  - Weight: heavy\n").expect("it is written");
    node.daemon.kill();
    node.daemon.start();
    let wrong = format!("{path}:3: Weight: \"heavy\"");
    assert!(node.daemon.log().contains(&wrong.replace('"', "\\\"")) || node.daemon.log().contains(&wrong));
    let shown = node.daemon.windlass(&["plugins", "ls"]).ok();
    let row = shown.lines().find(|line| line.contains("tasks-service")).expect("it is listed");
    assert!(row.contains("error"), "{row}");
    let error = node.create(&host_id, &of_class(&host, "late", "blockio", "slow"), &host);
    assert!(error.expect_err("there are no classes").message().contains(&wrong));
    let mut other = pod(&node, "other", NamespaceMode::Node, false);
    other.annotations.clear();
    let other_id = node.run_pod(&other).expect("a pod");
    node.run(&other_id, &script(&other, "plain", IDLE), &other);
    node.end();
}

#[test]
fn a_class_of_rdt_needs_its_group() {
    let node = Node::start();
    let host = pod(&node, "host", NamespaceMode::Node, false);
    let host_id = node.run_pod(&host).expect("a pod");
    let error = node.create(&host_id, &of_class(&host, "a", "rdt", "windlass-nosuch"), &host);
    let error = error.expect_err("there is no such group");
    let words = match Path::new("/sys/fs/resctrl/schemata").exists() {
        true => "no control group \"windlass-nosuch\"",
        false => "mount -t resctrl",
    };
    assert!(error.message().contains(words), "{error}");
    node.end();
}

#[test]
fn streams_are_served_over_tls_without_a_certificate() {
    let config = "[plugins.\"io.containerd.grpc.v1.cri\"]\nenable_tls_streaming = true\n";
    let node = Node::with(Daemon::builder().config(config));
    let host = pod(&node, "host", NamespaceMode::Node, false);
    let host_id = node.run_pod(&host).expect("a pod");
    let container_id = node.run(&host_id, &script(&host, "a", IDLE), &host);
    let request = ExecRequest { container_id, cmd: vec!["true".into()], stdout: true, ..Default::default() };
    let answer = node.call(|mut client| async move { client.exec(request).await }).expect("it has a URL");
    assert!(answer.url.starts_with("https://127.0.0.1:"), "{}", answer.url);
    node.end();
}
