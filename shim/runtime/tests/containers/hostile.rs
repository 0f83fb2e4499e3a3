//! Images and configurations that try to reach out of the container.

use crate::harness::*;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

pub const TESTS: &[Test] = &[
    ("mounts_through_symlinks_stay_inside", mounts_through_symlinks_stay_inside),
    ("proc_and_sys_as_symlinks", proc_and_sys_as_symlinks),
    ("mounts_into_proc", mounts_into_proc),
    ("dev_as_symlink", dev_as_symlink),
    ("masks_through_symlinks", masks_through_symlinks),
    ("cwd_cannot_be_a_leak", cwd_cannot_be_a_leak),
    ("own_executable_is_refused", own_executable_is_refused),
    ("rootfs_as_symlink", rootfs_as_symlink),
    ("null_device_of_the_image", null_device_of_the_image),
    ("child_is_undumpable", child_is_undumpable),
];

fn mounts_through_symlinks_stay_inside() {
    let mut bundle = Bundle::sh("cat /hosttmp/marker; ls /");
    let marker = bundle.dir.path().join("source");
    fs::create_dir(&marker).unwrap();
    fs::write(marker.join("marker"), "inside\n").unwrap();
    symlink("../../../../../../../../hosttmp", bundle.rootfs().join("link")).unwrap();
    symlink("/hosttmp2", bundle.rootfs().join("abs")).unwrap();
    let before = mounts();
    bundle.mount(json!({"destination": "/link", "type": "bind", "source": "source", "options": ["bind"]}));
    bundle.mount(json!({"destination": "/abs/deep/er", "type": "tmpfs", "source": "tmpfs"}));
    bundle.mount(json!({"destination": "/../../../../dots", "type": "tmpfs", "source": "tmpfs"}));
    let output = bundle.run();
    assert!(
        output.out.starts_with("inside\n") && output.out.contains("dots\n"),
        "{} {}",
        output.out,
        output.err
    );
    for path in ["/hosttmp", "/hosttmp2", "/dots"] {
        assert!(!Path::new(path).exists(), "{path}");
    }
    assert!(bundle.rootfs().join("hosttmp2/deep/er").is_dir());
    assert_mounts(&before);
}

fn proc_and_sys_as_symlinks() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new();
        fs::remove_dir(bundle.rootfs().join(name)).unwrap();
        symlink("/tmp", bundle.rootfs().join(name)).unwrap();
        let error = bundle.refused();
        assert!(error.contains("must be an ordinary directory"), "{error}");
    }
}

fn mounts_into_proc() {
    for destination in ["/proc/self/attr", "/proc/sys", "/proc/1/x", "/proc"] {
        let mut bundle = Bundle::new();
        bundle.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
        let error = bundle.refused();
        assert!(error.contains("proc"), "{error}");
    }
    let mut bundle = Bundle::new();
    symlink("/proc/self", bundle.rootfs().join("way")).unwrap();
    bundle.mount(json!({"destination": "/way/attr", "type": "bind", "source": "/tmp", "options": ["bind"]}));
    assert!(bundle.refused().contains("inside /proc"));
    let mut bundle = Bundle::new();
    bundle.mount(json!({"destination": "/proc", "type": "bind", "source": "/tmp", "options": ["bind"]}));
    assert!(bundle.refused().contains("not of type proc"));
    // What tools like lxcfs do.
    let mut bundle = Bundle::sh("cat /proc/uptime");
    fs::write(bundle.dir.path().join("uptime"), "1.0 1.0\n").unwrap();
    bundle.mount(
        json!({"destination": "/proc/uptime", "type": "bind", "source": "uptime", "options": ["bind", "ro"]}),
    );
    assert_eq!(bundle.run().out, "1.0 1.0\n");
}

fn dev_as_symlink() {
    let mut bundle = Bundle::sh("ls /escape");
    bundle.spec["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
    symlink("../../../../../escape", bundle.rootfs().join("dev")).unwrap();
    assert!(bundle.run().out.contains("null"));
    assert!(!Path::new("/escape").exists());
}

fn masks_through_symlinks() {
    let mut bundle = Bundle::sh("cat /etc/secret | wc -c; cat /alias | wc -c");
    fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
    symlink("/../../../etc/secret", bundle.rootfs().join("alias")).unwrap();
    bundle.spec["linux"]["maskedPaths"] = json!(["/alias", "/no/such/path"]);
    assert_eq!(bundle.run().out, "0\n0\n");
}

fn cwd_cannot_be_a_leak() {
    for fd in 3..12 {
        let mut bundle = Bundle::sh("pwd; ls ../../../../..");
        bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        if let Ok(output) = bundle.try_run() {
            assert!(!output.out.contains("lost+found") && !output.out.contains("boot"), "{}", output.out);
        }
        bundle.assert_clean();
    }
    let mut running = Running::new(Bundle::new());
    for fd in 3..12 {
        let mut process = running.process("ls ../../../../..");
        process["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        assert!(running.exec_child(&process, windlass_oci_runtime::Stdio::Null).is_err(), "{fd}");
    }
}

fn own_executable_is_refused() {
    let mut bundle = Bundle::new();
    bundle.args(&["/proc/self/exe"]);
    let error = bundle.refused();
    assert!(error.contains("the runtime itself"), "{error}");
    let mut running = Running::new(Bundle::new());
    symlink("/proc/self/exe", running.bundle.rootfs().join("bin/innocent")).unwrap();
    let mut process = running.process("");
    process["args"] = json!(["innocent"]);
    let error = running.exec_child(&process, windlass_oci_runtime::Stdio::Null).err().unwrap().report();
    assert!(error.contains("the runtime itself"), "{error}");
    let script = running.bundle.rootfs().join("bin/script");
    fs::write(&script, "#! /proc/self/exe arg\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    process["args"] = json!(["script"]);
    let error = running.exec_child(&process, windlass_oci_runtime::Stdio::Null).err().unwrap().report();
    assert!(error.contains("the runtime itself"), "{error}");
}

fn rootfs_as_symlink() {
    let mut bundle = Bundle::new();
    symlink("/", bundle.dir.path().join("elsewhere")).unwrap();
    bundle.spec["root"]["path"] = json!("elsewhere");
    assert!(bundle.refused().contains("symlink"));
}

fn null_device_of_the_image() {
    // Without a /dev of its own the container gets the nodes in the image's, whatever lay there.
    let mut bundle = Bundle::sh("stat -c %t:%T /dev/null; cat /etc/secret | wc -c");
    bundle.spec["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
    fs::write(bundle.rootfs().join("dev/null"), "not null").unwrap();
    fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
    symlink("/etc/passwd", bundle.rootfs().join("dev/zero")).unwrap();
    bundle.spec["linux"]["maskedPaths"] = json!(["/etc/secret"]);
    assert_eq!(bundle.run().out, "1:3\n0\n");
    // Where /dev is bound, nothing is made in it, and a false null device is not used as a mask.
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.dir.path().join("dev")).unwrap();
    fs::write(bundle.dir.path().join("dev/null"), "not null").unwrap();
    fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
    bundle.spec["mounts"] =
        json!([{"destination": "/dev", "type": "bind", "source": "dev", "options": ["bind"]}]);
    bundle.spec["linux"]["maskedPaths"] = json!(["/etc/secret"]);
    assert!(bundle.refused().contains("not the null device"));
}

fn child_is_undumpable() {
    // Of an ordinary process these belong to its user, of an undumpable one to root: nobody inside can look at them.
    let mut bundle = Bundle::new();
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let mut container = bundle.create(windlass_oci_runtime::Stdio::Null).unwrap();
    let owner = |pid: u32| {
        std::os::unix::fs::MetadataExt::uid(&fs::symlink_metadata(format!("/proc/{pid}/exe")).unwrap())
    };
    assert_eq!(owner(container.pid()), 0);
    container.delete(true).unwrap();
    bundle.assert_clean();
}
