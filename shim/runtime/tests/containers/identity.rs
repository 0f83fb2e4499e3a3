//! Who a process is and what it may do.

use crate::harness::*;
use serde_json::{Value, json};
use std::os::unix::net::UnixListener;
use windlass_oci_runtime::Stdio;

pub const TESTS: &[Test] = &[
    ("capabilities", capabilities),
    ("users_and_groups", users_and_groups),
    ("no_new_privileges", no_new_privileges),
    ("seccomp_refuses", seccomp_refuses),
    ("seccomp_without_no_new_privileges", seccomp_without_no_new_privileges),
    ("seccomp_kills", seccomp_kills),
    ("seccomp_notifies", seccomp_notifies),
    ("labels_need_their_module", labels_need_their_module),
    ("scheduling", scheduling),
];

const STATUS: &str = "grep -E 'Cap|Groups|NoNewPrivs|Seccomp:' /proc/self/status";

fn field(out: &str, name: &str) -> String {
    let line = out
        .lines()
        .find_map(|l| l.strip_prefix(&format!("{name}:")))
        .unwrap_or_else(|| panic!("{name}: {out}"));
    line.trim().to_string()
}

fn capabilities() {
    let mut bundle = Bundle::sh(STATUS);
    bundle.spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"], "effective": ["CAP_CHOWN"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]
    });
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let out = bundle.run().out;
    assert_eq!(field(&out, "CapBnd"), "0000000000001021");
    // What execve makes of it for one who is not root: the ambient set.
    assert_eq!(field(&out, "CapEff"), "0000000000000020");
    assert_eq!(field(&out, "CapAmb"), "0000000000000020");
    bundle.spec["process"].as_object_mut().unwrap().remove("capabilities");
    let out = bundle.run().out;
    for set in ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(field(&out, set), "0000000000000000", "{set}");
    }
    let mut bundle = Bundle::new();
    bundle.spec["process"]["capabilities"]["bounding"]
        .as_array_mut()
        .unwrap()
        .push(json!("CAP_OF_THE_FUTURE"));
    let mut container = bundle.create(Stdio::Null).unwrap();
    assert!(container.warnings()[0].contains("CAP_OF_THE_FUTURE"));
    container.delete(true).unwrap();
}

fn users_and_groups() {
    let mut bundle = Bundle::sh("id -u; id -g; grep Groups /proc/self/status; touch /tmp/x || echo denied");
    bundle.spec["process"]["user"] = json!({"uid": 4000000000u32, "gid": 77, "additionalGids": [5, 6]});
    assert_eq!(bundle.run().out, "4000000000\n77\nGroups:\t5 6 \ndenied\n");
    bundle.spec["process"]["user"] = json!({"uid": 0, "gid": 0});
    assert!(bundle.run().out.contains("Groups:\t \n"));
    // A directory that only the user may enter, and one that only root may.
    let mut bundle = Bundle::sh("pwd");
    let home = bundle.rootfs().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    bundle.spec["process"]["cwd"] = json!("/home");
    bundle.spec["process"]["capabilities"] = json!({});
    std::os::unix::fs::chown(&home, Some(1000), Some(1000)).unwrap();
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(bundle.run().out, "/home\n");
}

fn no_new_privileges() {
    let mut bundle = Bundle::sh(STATUS);
    assert_eq!(field(&bundle.run().out, "NoNewPrivs"), "1");
    bundle.spec["process"]["noNewPrivileges"] = json!(false);
    assert_eq!(field(&bundle.run().out, "NoNewPrivs"), "0");
}

fn profile(action: &str) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat", "not_a_call"], "action": action}]})
}

fn seccomp_refuses() {
    let mut bundle = Bundle::sh(&format!("mkdir /tmp/x; touch /tmp/y; {STATUS}"));
    bundle.spec["linux"]["seccomp"] = profile("SCMP_ACT_ERRNO");
    bundle.spec["linux"]["seccomp"]["syscalls"][0]["errnoRet"] = json!(95);
    let output = bundle.run();
    assert!(
        output.err.contains("mkdir: can't create directory '/tmp/x': Operation not supported"),
        "{}",
        output.err
    );
    assert_eq!(field(&output.out, "Seccomp"), "2");
    assert!(bundle.rootfs().join("tmp/y").exists());
    // A list of what is allowed, as the usual profiles are.
    let names = [
        "execve",
        "brk",
        "arch_prctl",
        "exit_group",
        "exit",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "readlink",
        "readlinkat",
        "getrandom",
        "mprotect",
        "mmap",
        "munmap",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "prctl",
        "newfstatat",
        "fstat",
        "read",
        "write",
        "uname",
        "futex",
        "rt_sigaction",
        "ioctl",
        "poll",
    ];
    let mut bundle = Bundle::new();
    bundle.args(&["echo", "fine"]);
    bundle.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    let output = bundle.run();
    assert_eq!(output.out, "fine\n", "{} {}", output.code, output.err);
    let mut running = Running::new({
        let mut bundle = Bundle::new();
        bundle.spec["linux"]["seccomp"] = profile("SCMP_ACT_ERRNO");
        bundle
    });
    assert!(running.exec("mkdir /tmp/x").err.contains("not permitted"));
}

fn seccomp_without_no_new_privileges() {
    let mut bundle = Bundle::sh("mkdir /tmp/x; id -u");
    bundle.spec["process"]["noNewPrivileges"] = json!(false);
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bundle.spec["linux"]["seccomp"] = profile("SCMP_ACT_ERRNO");
    let output = bundle.run();
    assert!(output.err.contains("not permitted") && output.out == "1000\n", "{} {}", output.out, output.err);
}

fn seccomp_kills() {
    let mut bundle = Bundle::sh("mkdir /tmp/x; echo survived");
    bundle.spec["linux"]["seccomp"] = profile("SCMP_ACT_KILL_PROCESS");
    assert_eq!(bundle.run().out, "survived\n", "the shell's child is killed, not the shell");
    bundle.args(&["mkdir", "/tmp/x"]);
    assert_eq!(bundle.run().code, 128 + libc::SIGSYS);
}

fn seccomp_notifies() {
    let mut bundle = Bundle::new();
    bundle.args(&["mkdir", "/tmp/x"]);
    let path = bundle.dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.spec["linux"]["seccomp"] = profile("SCMP_ACT_NOTIFY");
    assert!(bundle.refused().contains("listenerPath"));
    bundle.spec["linux"]["seccomp"]["listenerPath"] = json!(path);
    bundle.spec["linux"]["seccomp"]["listenerMetadata"] = json!("meta");
    for no_new_privileges in [true, false] {
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let mut container = bundle.create(Stdio::Null).unwrap();
        container.start().unwrap();
        let (socket, _) = listener.accept().unwrap();
        let agent = crate::basics::receive_fd(&socket);
        // Answer the one call with an error of our own.
        let error = answer(&agent, libc::EXDEV);
        assert_eq!(error, container.pid());
        assert_eq!(wait(&container.pidfd().unwrap()), 1);
        container.delete(false).unwrap();
    }
}

/// Takes one notification and answers it with an errno; gives the process that it is about.
fn answer(agent: &impl std::os::fd::AsRawFd, errno: i32) -> u32 {
    #[repr(C)]
    struct Notification {
        id: u64,
        pid: u32,
        flags: u32,
        data: [u64; 8],
    }
    #[repr(C)]
    struct Response {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    // SAFETY: both structures have the kernel's layout and sizes; zero is valid for the first, as the call wants it.
    unsafe {
        let mut notification: Notification = std::mem::zeroed();
        let received = libc::ioctl(agent.as_raw_fd(), 0xc050_2100, &mut notification);
        assert_eq!(received, 0, "{}", std::io::Error::last_os_error());
        let response = Response { id: notification.id, value: 0, error: -errno, flags: 0 };
        assert_eq!(
            libc::ioctl(agent.as_raw_fd(), 0xc018_2101, &response),
            0,
            "{}",
            std::io::Error::last_os_error()
        );
        notification.pid
    }
}

fn labels_need_their_module() {
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let mut bundle = Bundle::new();
        bundle.spec["process"]["apparmorProfile"] = json!("some-profile");
        assert!(bundle.refused().contains("apparmor is not enabled"));
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        let mut bundle = Bundle::new();
        bundle.spec["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
        assert!(bundle.refused().contains("selinux"));
        bundle.spec["process"].as_object_mut().unwrap().remove("selinuxLabel");
        bundle.spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0");
        assert!(bundle.refused().contains("SELinux"));
    }
}

fn scheduling() {
    let mut bundle = Bundle::sh("cat /proc/self/stat; cat /proc/self/personality");
    bundle.spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    bundle.spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    bundle.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    let out = bundle.run().out;
    let fields: Vec<&str> = out.lines().next().unwrap().split(' ').collect();
    assert_eq!((fields[18], fields[40]), ("7", "3"), "{out}");
    assert_eq!(out.lines().nth(1), Some("00000008"));
    bundle.spec["process"]["scheduler"] = json!({"policy": "SCHED_NICE"});
    assert!(bundle.refused().contains("SCHED_NICE"));
    let mut running = Running::new(Bundle::new());
    let mut process = running.process("grep Cpus_allowed_list /proc/self/status");
    process["execCPUAffinity"] = json!({"final": "0"});
    assert_eq!(running.exec_process(&process).out, "Cpus_allowed_list:\t0\n");
}
