//! The file system of a container.

use crate::harness::*;
use serde_json::json;
use std::fs;

pub const TESTS: &[Test] = &[
    ("masked_and_read_only", masked_and_read_only),
    ("read_only_root", read_only_root),
    ("devices_and_links", devices_and_links),
    ("device_rules", device_rules),
    ("bind_mounts", bind_mounts),
    ("tmpfs_with_contents", tmpfs_with_contents),
    ("recursive_read_only", recursive_read_only),
    ("id_mapped", id_mapped),
    ("propagation", propagation),
    ("cgroup_mount", cgroup_mount),
    ("without_pivot_root", without_pivot_root),
    ("mount_errors_are_clear", mount_errors_are_clear),
];

fn masked_and_read_only() {
    let out = Bundle::sh(
        "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; touch /sys/firmware/x; echo 1 > /proc/sys/kernel/domainname; \
         echo 1 > /proc/irq/default_smp_affinity",
    )
    .run();
    assert_eq!(out.out, "0\n0\n");
    assert_eq!(out.err.matches("Read-only file system").count(), 3, "{}", out.err);
}

fn read_only_root() {
    let mut bundle = Bundle::sh("touch /x; touch /dev/shm/x && echo yes");
    bundle.spec["root"]["readonly"] = json!(true);
    let output = bundle.run();
    assert_eq!(output.out, "yes\n");
    assert!(output.err.contains("Read-only file system"));
}

fn devices_and_links() {
    let mut bundle = Bundle::sh(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a %F' /dev/$d; done; \
         for l in fd stdin ptmx stdout stderr; do readlink /dev/$l; done; stat -c '%t:%T %a %u:%g' /dev/deep/node; stat -c %F /dev/pipe; \
         head -c 3 /dev/zero | wc -c; echo x > /dev/null",
    );
    bundle.spec["linux"]["devices"] = json!([
        {"path": "/dev/deep/node", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600}
    ]);
    let output = bundle.run();
    assert_eq!(
        output.out,
        "/dev/null 1:3 666 character special file\n/dev/zero 1:5 666 character special file\n\
         /dev/full 1:7 666 character special file\n/dev/random 1:8 666 character special file\n\
         /dev/urandom 1:9 666 character special file\n/dev/tty 5:0 666 character special file\n\
         /proc/self/fd\n/proc/self/fd/0\npts/ptmx\n/proc/self/fd/1\n/proc/self/fd/2\na:c8 640 5:6\nfifo\n3\n",
        "{}",
        output.err
    );
}

fn device_rules() {
    let script = "rm -f /tmp/x; mknod /tmp/x c 1 11 && : < /tmp/x && echo opened";
    let kmsg = || {
        let mut bundle = Bundle::sh(script);
        for set in ["bounding", "effective", "permitted"] {
            bundle.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYSLOG"));
        }
        bundle
    };
    let output = kmsg().run();
    assert!(
        output.out.is_empty() && output.err.contains("Operation not permitted"),
        "{} {}",
        output.out,
        output.err
    );
    let mut bundle = kmsg();
    bundle.spec["linux"]["resources"]["devices"]
        .as_array_mut()
        .unwrap()
        .push(json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}));
    assert_eq!(bundle.run().out, "opened\n");
    let mut bundle = kmsg();
    bundle.spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    assert_eq!(bundle.run().out, "opened\n");
}

fn bind_mounts() {
    let mut bundle = Bundle::sh(
        "cat /data/file /etc/single; touch /data/x; echo y > /rw/y; grep ' /data ' /proc/self/mountinfo; cat /rw/sub/deep",
    );
    let host = bundle.dir.path().join("host");
    fs::create_dir_all(host.join("sub")).unwrap();
    fs::write(host.join("file"), "content\n").unwrap();
    fs::write(host.join("sub/deep"), "deep\n").unwrap();
    let host = host.to_str().unwrap().to_string();
    bundle.mount(json!({"destination": "/data", "type": "bind", "source": host, "options": ["rbind", "ro", "nosuid", "noexec"]}));
    bundle.mount(json!({"destination": "/etc/single", "type": "bind", "source": format!("{host}/file"), "options": ["bind"]}));
    // Relative to the bundle.
    bundle.mount(json!({"destination": "/rw", "source": "host", "options": ["rbind", "rw"]}));
    let output = bundle.run();
    assert!(
        output.out.starts_with("content\ncontent\n") && output.out.ends_with("deep\n"),
        "{} {}",
        output.out,
        output.err
    );
    assert!(output.out.contains("/data ro,nosuid,") && output.out.contains("noexec"), "{}", output.out);
    assert!(output.err.contains("Read-only file system"));
    assert_eq!(fs::read_to_string(format!("{host}/y")).unwrap(), "y\n");
}

fn tmpfs_with_contents() {
    let mut bundle = Bundle::sh(
        "cat /etc/passwd | head -n 1; stat -c %a /etc; echo new > /etc/new; touch /ro/x; ls /ro/sub; stat -f -c %S /small",
    );
    bundle.mount(json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}));
    bundle
        .mount(json!({"destination": "/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "nodev"]}));
    // Inside one that is read-only in the end.
    bundle.mount(
        json!({"destination": "/ro/sub", "type": "bind", "source": "/etc", "options": ["bind", "ro"]}),
    );
    bundle
        .mount(json!({"destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["size=4k"]}));
    let output = bundle.run();
    assert!(output.out.starts_with("root:x:0:0:root:/root:/bin/sh\n755\n"), "{}", output.out);
    assert!(output.out.contains("passwd"));
    assert!(output.err.contains("/ro/x: Read-only file system"), "{}", output.err);
    assert!(!bundle.rootfs().join("etc/new").exists());
}

fn recursive_read_only() {
    let mut bundle = Bundle::sh("touch /tree/a; touch /tree/inner/b");
    let host = bundle.dir.path().join("tree");
    fs::create_dir_all(host.join("inner")).unwrap();
    let inner = std::ffi::CString::new(host.join("inner").to_str().unwrap()).unwrap();
    // SAFETY: all strings are NUL-terminated.
    unsafe {
        assert_eq!(libc::mount(c"tmpfs".as_ptr(), inner.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()), 0);
    }
    let source = host.to_str().unwrap().to_string();
    bundle.mount(
        json!({"destination": "/tree", "type": "bind", "source": source, "options": ["rbind", "rro"]}),
    );
    let recursive = bundle.run().err;
    bundle.spec["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] = json!(["rbind", "ro"]);
    let plain = bundle.run().err;
    // SAFETY: the path is NUL-terminated.
    unsafe { libc::umount2(inner.as_ptr(), libc::MNT_DETACH) };
    assert_eq!(recursive.matches("Read-only file system").count(), 2, "{recursive}");
    assert_eq!(plain.matches("Read-only file system").count(), 1, "{plain}");
}

fn id_mapped() {
    if !kernel_is(6, 3) {
        return; // the test's directory is on tmpfs, which can map ids only since then
    }
    let mut bundle = Bundle::sh("stat -c %u:%g /mapped/file; touch /mapped/new");
    let host = bundle.dir.path().join("mapped");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "").unwrap();
    bundle.mount(json!({
        "destination": "/mapped", "type": "bind", "source": "mapped", "options": ["rbind"],
        "uidMappings": [{"containerID": 0, "hostID": 5000, "size": 100}],
        "gidMappings": [{"containerID": 0, "hostID": 6000, "size": 100}]
    }));
    assert_eq!(bundle.run().out, "5000:6000\n");
    // With the mapping of the container's own user namespace files of the host's root are its root's.
    let mut bundle = Bundle::sh("stat -c %u:%g /mapped/file; touch /mapped/new");
    bundle.user_namespace();
    let host = bundle.dir.path().join("mapped");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "").unwrap();
    bundle.mount(
        json!({"destination": "/mapped", "type": "bind", "source": "mapped", "options": ["rbind", "idmap"]}),
    );
    assert_eq!(bundle.run().out, "0:0\n");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(host.join("new")).unwrap());
    assert_eq!(owner, 0);
}

fn propagation() {
    let mut bundle = Bundle::sh("grep -E ' /(shared|slave|private) ' /proc/self/mountinfo");
    for kind in ["shared", "slave", "private"] {
        fs::create_dir(bundle.dir.path().join(kind)).unwrap();
        bundle.mount(json!({"destination": format!("/{kind}"), "type": "bind", "source": kind, "options": ["rbind", format!("r{kind}")]}));
    }
    let out = bundle.run().out;
    let find = |kind: &str| out.lines().find(|l| l.contains(&format!(" /{kind} "))).unwrap().to_string();
    assert!(find("shared").contains("shared:"), "{out}");
    assert!(!find("slave").contains("shared:") && !find("private").contains("shared:"), "{out}");
    for kind in ["rshared", "rslave", "rprivate", "shared", "slave", "private", "unbindable"] {
        let mut bundle = Bundle::sh("grep ' / ' /proc/self/mountinfo");
        bundle.spec["linux"]["rootfsPropagation"] = json!(kind);
        let before = mounts();
        let out = bundle.run().out;
        assert_eq!(out.contains("shared:"), kind.contains("shared"), "{kind}: {out}");
        assert_mounts(&before);
    }
}

fn cgroup_mount() {
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev", "relatime"]});
    let mut bundle = Bundle::sh(
        "cat /proc/self/cgroup; ls /sys/fs/cgroup; touch /sys/fs/cgroup/x; cat /sys/fs/cgroup/pids/tasks /sys/fs/cgroup/cgroup.procs",
    );
    bundle.mount(mount.clone());
    let output = bundle.run();
    assert!(output.out.contains(&bundle.id) && output.out.contains("1\n"), "{} {}", output.out, output.err);
    assert!(output.err.contains("Read-only file system"), "{}", output.err);
    bundle.namespace("cgroup", None);
    let output = bundle.run();
    assert!(!output.out.contains(&bundle.id), "{}", output.out);
    assert!(output.out.contains("\n1\n"), "{} {}", output.out, output.err);
}

fn without_pivot_root() {
    let mut bundle = Bundle::sh("ls /; cat /proc/self/mountinfo | head -n 1");
    bundle.no_pivot_root = true;
    let out = bundle.run().out;
    assert!(out.starts_with("bin\ndev\netc\nproc\n"), "{out}");
    let mut running = Running::new({
        let mut bundle = Bundle::new();
        bundle.no_pivot_root = true;
        bundle
    });
    assert!(running.exec("ls /").out.starts_with("bin\ndev\netc\nproc\n"));
}

fn mount_errors_are_clear() {
    let mut bundle = Bundle::new();
    bundle
        .mount(json!({"destination": "/x", "type": "bind", "source": "/no/such/thing", "options": ["bind"]}));
    let error = bundle.refused();
    assert!(error.contains("/no/such/thing: no such file or directory"), "{error}");
    let mut bundle = Bundle::new();
    bundle.mount(
        json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["flavour=sweet"]}),
    );
    let error = bundle.refused();
    assert!(error.contains("/x") && error.contains("flavour"), "{error}");
    let mut bundle = Bundle::new();
    bundle.mount(json!({"destination": "/x", "type": "nosuchfs", "source": "none"}));
    assert!(bundle.refused().contains("no such device"));
}
