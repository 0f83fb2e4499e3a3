//! New, shared and joined namespaces.

use crate::harness::*;
use serde_json::json;
use std::fs;

pub const TESTS: &[Test] = &[
    ("own_namespaces", own_namespaces),
    ("host_namespaces", host_namespaces),
    ("joined_namespaces", joined_namespaces),
    ("joined_pid_namespace", joined_pid_namespace),
    ("user_namespace", user_namespace),
    ("user_namespace_with_joined_network", user_namespace_with_joined_network),
    ("joined_user_namespace", joined_user_namespace),
    ("sysctls", sysctls),
    ("loopback_is_up", loopback_is_up),
    ("time_offsets", time_offsets),
    ("wrong_namespaces", wrong_namespaces),
];

const ALL: &str = "for n in pid net ipc uts mnt user cgroup; do readlink /proc/self/ns/$n; done";

fn links(pid: &str) -> Vec<String> {
    ["pid", "net", "ipc", "uts", "mnt", "user", "cgroup"]
        .iter()
        .map(|n| fs::read_link(format!("/proc/{pid}/ns/{n}")).unwrap().to_str().unwrap().to_string())
        .collect()
}

fn own_namespaces() {
    let mut bundle = Bundle::sh(&format!("echo $$; {ALL}"));
    bundle.namespace("cgroup", None);
    let output = bundle.run();
    let mut lines = output.out.lines();
    assert_eq!(lines.next(), Some("1"));
    let host = links("self");
    for (inside, outside) in lines.zip(&host) {
        assert_eq!(inside == outside, inside.starts_with("user"), "{inside}");
    }
}

fn host_namespaces() {
    let mut bundle = Bundle::sh(ALL);
    for kind in ["pid", "network", "ipc", "uts"] {
        bundle.without_namespace(kind);
    }
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    let output = bundle.run();
    for (inside, outside) in output.out.lines().zip(links("self")) {
        assert_eq!(inside == outside, !inside.starts_with("mnt"), "{inside}");
    }
}

fn joined_namespaces() {
    let sandbox = Running::new(Bundle::new());
    let pid = sandbox.container.pid().to_string();
    let mut bundle = Bundle::sh(&format!("hostname; {ALL}"));
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        bundle.namespace(kind, Some(&format!("/proc/{pid}/ns/{file}")));
    }
    bundle.spec["hostname"] = json!("changed");
    let output = bundle.run();
    let mut lines = output.out.lines();
    assert_eq!(lines.next(), Some("changed"));
    for (inside, shared) in lines.zip(links(&pid)) {
        let same = ["net", "ipc", "uts", "user", "cgroup"].iter().any(|n| inside.starts_with(n));
        assert_eq!(*inside == shared, same, "{inside}");
    }
}

fn joined_pid_namespace() {
    let sandbox = Running::new(Bundle::new());
    let pid = sandbox.container.pid();
    let mut bundle = Bundle::sh("echo $$; readlink /proc/1/exe; sleep 1000");
    bundle.namespace("pid", Some(&format!("/proc/{pid}/ns/pid")));
    let (stdio, out, _err) = pipes();
    let mut container = bundle.create(stdio).unwrap();
    container.start().unwrap();
    let mut out = fs::File::from(out);
    assert_ne!(line(&mut out), "1");
    assert_eq!(line(&mut out), "/bin/busybox");
    // Our own children are born where we are, as ever.
    assert_eq!(
        fs::read_link("/proc/self/ns/pid").unwrap(),
        fs::read_link("/proc/self/ns/pid_for_children").unwrap()
    );
    // The sandbox's end is its end.
    sandbox.container.kill(libc::SIGKILL, false).unwrap();
    assert_eq!(wait(&container.pidfd().unwrap()), 137);
    container.delete(false).unwrap();
    drop(sandbox);
    bundle.assert_clean();
}

fn user_namespace() {
    let script = "id -u; cat /proc/self/uid_map; touch /tmp/file; stat -c %u /tmp/file; echo x > /dev/null; \
                  stat -c %t:%T /dev/zero; grep CapEff /proc/self/status; cat /data/file; touch /data/x";
    let mut bundle = Bundle::sh(script);
    bundle.user_namespace();
    // Below a directory that the mapped root cannot pass.
    let private = bundle.dir.path().join("private");
    fs::create_dir_all(private.join("data")).unwrap();
    fs::write(private.join("data/file"), "reached\n").unwrap();
    fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    bundle.mount(
        json!({"destination": "/data", "type": "bind", "source": "private/data", "options": ["rbind", "ro"]}),
    );
    bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]}));
    bundle.namespace("cgroup", None);
    let output = bundle.run();
    let lines: Vec<&str> = output.out.lines().map(str::trim).collect();
    assert_eq!(lines[0], "0", "{} {}", output.out, output.err);
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert_eq!((lines[2], lines[3], lines[5]), ("0", "1:5", "reached"), "{}", output.out);
    assert!(output.err.contains("Read-only file system"));
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.rootfs().join("tmp/file")).unwrap());
    assert_eq!(owner, 100000);
    bundle.args(&["sleep", "1000"]);
    let mut running = Running::new(bundle);
    assert_eq!(running.exec("id -u; cat /proc/1/comm; readlink /proc/self/ns/user > /tmp/ns; touch /tmp/y; stat -c %u /tmp/y").out, "0\nsleep\n0\n");
    let mut process = running.process("id -u; tty");
    process["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [10]});
    assert!(running.exec_process(&process).out.starts_with("1000\n"));
    let terminal = {
        let mut process = running.process("tty");
        process["terminal"] = json!(true);
        running.exec_child(&process, windlass_oci_runtime::Stdio::Terminal).unwrap()
    };
    assert_eq!(read(terminal.terminal.unwrap()), "/dev/pts/0\r\n");
    wait(&terminal.pidfd);
}

fn user_namespace_with_joined_network() {
    let sandbox = Running::new(Bundle::new());
    let pid = sandbox.container.pid().to_string();
    let mut bundle = Bundle::sh("id -u; readlink /proc/self/ns/net; echo $$");
    bundle.user_namespace();
    bundle.namespace("network", Some(&format!("/proc/{pid}/ns/net")));
    // Its sysfs is not theirs to mount: the network namespace belongs to another user namespace.
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "sysfs");
    let output = bundle.run();
    assert_eq!(output.out, format!("0\n{}\n1\n", links(&pid)[1]), "{}", output.err);
}

fn joined_user_namespace() {
    let sandbox = Running::new({
        let mut bundle = Bundle::new();
        bundle.user_namespace();
        bundle
    });
    let pid = sandbox.container.pid().to_string();
    for join_pid in [false, true] {
        let mut bundle = Bundle::sh(
            "id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/net; touch /tmp/x; echo $$",
        );
        bundle.user_namespace();
        for (kind, file) in [("user", "user"), ("network", "net"), ("ipc", "ipc")] {
            bundle.namespace(kind, Some(&format!("/proc/{pid}/ns/{file}")));
        }
        if join_pid {
            bundle.namespace("pid", Some(&format!("/proc/{pid}/ns/pid")));
        }
        let output = bundle.run();
        let expected = links(&pid);
        let mut lines = output.out.lines();
        assert_eq!(lines.next(), Some("0"), "{}", output.err);
        assert_eq!(lines.next(), Some(expected[5].as_str()));
        assert_eq!(lines.next(), Some(expected[1].as_str()));
        assert_eq!(lines.next() == Some("1"), !join_pid);
        let owner =
            std::os::unix::fs::MetadataExt::uid(&fs::metadata(bundle.rootfs().join("tmp/x")).unwrap());
        assert_eq!(owner, 100000);
    }
}

fn sysctls() {
    let mut bundle = Bundle::sh(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/conf/lo/rp_filter",
    );
    bundle.spec["linux"]["sysctl"] =
        json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "net/ipv4/conf/lo/rp_filter": "2"});
    let before = fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    assert_eq!(bundle.run().out, "1\n1\n2\n");
    assert_eq!(before, fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap());
    bundle.spec["linux"]["sysctl"] = json!({"kernel.panic": "1"});
    assert!(bundle.refused().contains("not in a separate kernel namespace"));
    bundle.spec["linux"]["sysctl"] = json!({"net.no.such.thing": "1"});
    assert!(bundle.refused().contains("net/no/such/thing"));
}

fn loopback_is_up() {
    let out = Bundle::sh("ip addr show lo").run().out;
    assert!(out.contains("127.0.0.1") && out.contains("UP"), "{out}");
}

fn time_offsets() {
    let mut bundle = Bundle::sh("cat /proc/self/timens_offsets; head -c 12 /proc/uptime");
    bundle.namespace("time", None);
    bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1000000}, "monotonic": {"secs": 5}});
    for user in [false, true] {
        if user {
            bundle.user_namespace();
        }
        let out = bundle.run().out;
        let uptime: f64 = out.lines().last().unwrap().split_whitespace().next().unwrap().parse().unwrap();
        assert!(uptime > 1000000.0 && out.contains("1000000"), "{out}");
    }
}

fn wrong_namespaces() {
    let mut bundle = Bundle::new();
    bundle.namespace("network", Some("/proc/self/ns/uts"));
    assert!(bundle.refused().contains("not a network namespace"));
    bundle.namespace("network", Some("/nowhere"));
    assert!(bundle.refused().contains("/nowhere"));
    let mut bundle = Bundle::new();
    bundle.without_namespace("uts");
    assert!(bundle.refused().contains("UTS"));
}
