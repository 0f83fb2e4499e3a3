//! Real shims with real containers: containerd's own, where `RIG` says where it is, and ours.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use windlass_core::Any;
use windlass_core::mount::Mount;
use windlass_core::task::{CreateOptions, ExecOptions, Io, Status, Tasks};
use windlass_runtime::Manager;

use crate::harness::*;

pub const CASES: &[Case] = &[
    ("stock::a_life", || each(life)),
    ("stock::kill_of_the_shim", || each(shim_killed)),
    ("stock::restart", || each(restart)),
    ("stock::the_time_of_a_cycle", || each(time)),
];

/// Runs a case with every shim that is there.
fn each<F: Future<Output = ()> + Send + 'static>(case: fn(Node, String) -> F) {
    let shims = [
        std::env::var("RIG").ok().map(|rig| PathBuf::from(rig).join("bin/containerd-shim-runc-v2")),
        std::env::var("WINDLASS_SHIM").ok().map(PathBuf::from),
    ];
    for shim in shims.into_iter().flatten() {
        assert!(shim.exists(), "{} is not there", shim.display());
        println!("  with {}", shim.display());
        run(async move {
            let mut node = Node::new().await;
            let rig = std::env::var("RIG").unwrap_or_default();
            node.env.push(format!("PATH={rig}/bin:{}", std::env::var("PATH").unwrap_or_default()));
            rootfs(&node.path().join("image"));
            let _containers = Containers;
            case(node, shim.to_string_lossy().into_owned()).await;
        });
    }
}

/// Kills what a failed case left running.
struct Containers;

impl Drop for Containers {
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if cgroup.contains(&format!("/windlass-test/{}-", namespace())) {
                signal(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = std::fs::remove_dir_all(format!("/run/containerd/runc/{}", namespace()));
    }
}

fn rootfs(dir: &Path) {
    for sub in ["bin", "proc", "dev", "tmp", "sys"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    std::fs::copy("/bin/busybox", dir.join("bin/busybox")).unwrap();
    for applet in ["sh", "true", "sleep", "echo", "cat"] {
        symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
}

fn process(args: &[&str]) -> serde_json::Value {
    serde_json::json!({ "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } })
}

fn container(node: &Node, shim: &str, id: &str, args: &[&str]) -> CreateOptions {
    let namespaces: Vec<_> =
        ["pid", "mount", "ipc", "uts", "network"].map(|kind| serde_json::json!({ "type": kind })).into();
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
        ],
        "linux": { "namespaces": namespaces, "cgroupsPath": format!("/windlass-test/{}-{id}", namespace()) },
    });
    let mut options = options("");
    options.spec.as_mut().unwrap().value = spec.to_string().into();
    options.runtime.name = shim.to_owned();
    options.rootfs = vec![Mount {
        kind: "bind".into(),
        source: node.path().join("image").to_string_lossy().into_owned(),
        target: String::new(),
        options: vec!["rbind".into(), "rw".into()],
    }];
    options
}

async fn run_to_end(manager: &Manager, node: &Node, shim: &str, id: &str, args: &[&str]) -> u32 {
    let options = container(node, shim, id, args);
    manager.create(cx(), id, options).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    manager.start(cx(), id, "").await.unwrap_or_else(|e| panic!("{}", e.chain()));
    let exit = manager.wait(cx(), id, "").await.unwrap();
    assert_eq!(manager.delete(cx(), id, "").await.unwrap().status, exit.status);
    exit.status
}

fn mounts_below(path: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(path.to_str().unwrap())).count()
}

async fn life(node: Node, shim: String) {
    let manager = node.manager().await;
    let mut told = node.watch();
    assert_eq!(run_to_end(&manager, &node, &shim, "a", &["sh", "-c", "exit 7"]).await, 7);
    let topics = told.until("/tasks/delete").await;
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    let output = node.path().join("out");
    let mut options = container(&node, &shim, "b", &["sh", "-c", "echo hello; sleep 1000"]);
    // Both: containerd's shim crashes where only one is a file.
    let uri = format!("file://{}", output.display());
    options.io = Io { stdout: uri.clone(), stderr: uri, ..Io::default() };
    let pid = manager.create(cx(), "b", options).await.unwrap();
    assert_eq!(manager.start(cx(), "b", "").await.unwrap(), pid);
    until("the task has said hello", || std::fs::read(&output).is_ok_and(|out| out == b"hello\n")).await;
    manager.pause(cx(), "b").await.unwrap();
    assert_eq!(manager.state(cx(), "b", "").await.unwrap().status, Status::Paused);
    manager.resume(cx(), "b").await.unwrap();
    assert!(manager.metrics(cx(), "b").await.unwrap().data.is_some());
    let spec = process(&["sh", "-c", "exit 3"]).to_string();
    let spec = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
        value: spec.into(),
    };
    manager.exec(cx(), "b", "e", ExecOptions { io: Io::default(), spec: Some(spec) }).await.unwrap();
    manager.start(cx(), "b", "e").await.unwrap();
    assert_eq!(manager.wait(cx(), "b", "e").await.unwrap().status, 3);
    assert_eq!(manager.delete(cx(), "b", "e").await.unwrap().status, 3);
    // Of the class that the shim chose; containerd's says unknown.
    let early = manager.delete(cx(), "b", "").await.unwrap_err();
    assert!(!early.is_not_found(), "{early}");
    end(&manager, "b").await;
    assert_eq!(mounts_below(node.path()), 0);
    let mut bad = container(&node, &shim, "bad", &["/no/such/program"]);
    bad.rootfs.clear();
    bad.rootfs.extend(container(&node, &shim, "bad", &[]).rootfs);
    match manager.create(cx(), "bad", bad).await {
        Err(error) => assert!(error.chain().contains("no such"), "{}", error.chain()),
        Ok(_) => {
            manager.start(cx(), "bad", "").await.unwrap_err();
            manager.delete(cx(), "bad", "").await.unwrap();
        }
    }
    assert_eq!(mounts_below(node.path()), 0);
    node.assert_clean().await;
}

async fn shim_killed(node: Node, shim: String) {
    let manager = node.manager().await;
    let mut told = node.watch();
    let options = container(&node, &shim, "a", &["sleep", "1000"]);
    let pid = manager.create(cx(), "a", options).await.unwrap();
    manager.start(cx(), "a", "").await.unwrap();
    told.until("/tasks/start").await;
    let server = node.shims().into_iter().find(|p| *p != pid as i32).expect("the shim runs in its bundle");
    signal(server, rustix::process::Signal::KILL);
    assert_eq!(manager.wait(cx(), "a", "").await.unwrap().status, 137);
    let topics = told.until("/tasks/delete").await;
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    until("the container's process has ended", || !Path::new(&format!("/proc/{pid}/root/bin")).exists())
        .await;
    assert!(!node.bundle("a").exists());
    assert_eq!(mounts_below(node.path()), 0);
    until("all shims have ended", || node.shims().is_empty()).await;
}

async fn restart(node: Node, shim: String) {
    let manager = node.manager().await;
    for (id, seconds) in [("long", "1000"), ("short", "0.3")] {
        manager.create(cx(), id, container(&node, &shim, id, &["sleep", seconds])).await.unwrap();
        manager.start(cx(), id, "").await.unwrap();
    }
    drop(manager);
    let manager = node.manager().await;
    assert_eq!(manager.state(cx(), "long", "").await.unwrap().status, Status::Running);
    assert_eq!(manager.wait(cx(), "short", "").await.unwrap().status, 0);
    assert_eq!(manager.delete(cx(), "short", "").await.unwrap().status, 0);
    end(&manager, "long").await;
    node.assert_clean().await;
}

async fn time(node: Node, shim: String) {
    let manager = node.manager().await;
    run_to_end(&manager, &node, &shim, "warm", &["true"]).await;
    const ROUNDS: u32 = 20;
    let (begun, before) = (std::time::Instant::now(), crate::life::rusage());
    for n in 0..ROUNDS {
        run_to_end(&manager, &node, &shim, &format!("t{n}"), &["true"]).await;
    }
    let cpu = (crate::life::rusage() - before) / ROUNDS;
    println!("a cycle of `true`: {:.1?}, of which the daemon computes {cpu:.0?}", begun.elapsed() / ROUNDS);
    node.assert_clean().await;
}
