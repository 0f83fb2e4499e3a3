//! What is mounted where, and in which order.

use super::*;
use crate::spec::tests::{config, host, mappings, pod};
use std::os::unix::fs::symlink;

fn mount(host: &str, inside: &str) -> cri::Mount {
    cri::Mount { host_path: host.into(), container_path: inside.into(), ..Default::default() }
}

/// A specification with the default mounts and what is asked for on top.
fn run_with(
    host: &Host,
    settings: &Settings,
    pod: &Pod<'_>,
    mounts: Vec<cri::Mount>,
    volumes: &[Volume],
) -> Result<Value> {
    let config = cri::ContainerConfig { mounts, ..Default::default() };
    let mut spec = json!({"mounts": defaults(), "linux": {"namespaces": []}});
    apply(&mut spec, &Request { host, settings, pod, config: &config, volumes, label: "" })?;
    Ok(spec)
}

fn run(mounts: Vec<cri::Mount>) -> Result<Value> {
    let config = config(cri::NamespaceOption::default());
    run_with(&host(), &Settings::default(), &pod(&config, Path::new("/nosuch")), mounts, &[])
}

fn places(spec: &Value) -> Vec<&str> {
    spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect()
}

fn at<'a>(spec: &'a Value, place: &str) -> &'a Value {
    spec["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == place).unwrap()
}

const DEFAULT: [&str; 7] = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];

#[test]
fn paths_are_cleaned() {
    for (path, clean) in [
        ("", "/"),
        ("/", "/"),
        ("a", "/a"),
        ("/a/", "/a"),
        ("//a//./b", "/a/b"),
        ("/a/../../b", "/b"),
        ("../../..", "/"),
        ("/a/b/..", "/a"),
        ("/...", "/..."),
    ] {
        assert_eq!(super::clean(path), clean, "{path:?}");
    }
}

#[test]
fn everybody_has_the_kernels_file_systems() {
    let spec = run(Vec::new()).unwrap();
    assert_eq!(places(&spec), DEFAULT);
    assert_eq!(
        at(&spec, "/sys/fs/cgroup")["options"],
        json!(["nosuid", "noexec", "nodev", "relatime", "ro"])
    );
    assert!(spec["linux"].get("rootfsPropagation").is_none());
}

#[test]
fn what_is_asked_for_takes_the_place_of_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let spec =
        run(vec![mount(dir, "/b/c"), mount(dir, "/sys/"), mount(dir, "/dev/../dev/shm"), mount(dir, "a")])
            .unwrap();
    let expected =
        ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys/fs/cgroup", "/sys", "/a", "/b/c", "/dev/shm"];
    assert_eq!(places(&spec), expected);
    let bind =
        json!({"destination": "/a", "type": "bind", "source": dir, "options": ["rbind", "rprivate", "rw"]});
    assert_eq!(*at(&spec, "/a"), bind);
    let spec = run(vec![mount(dir, "/dev")]).unwrap();
    assert_eq!(places(&spec), ["/proc", "/sys", "/sys/fs/cgroup", "/dev"]);
}

#[test]
fn the_pods_files_are_there_unless_others_are() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["hosts", "hostname"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let shm = dir.path().join("shm");
    std::fs::create_dir(&shm).unwrap();
    let config = config(cri::NamespaceOption::default());
    let mut pod = pod(&config, dir.path());
    pod.shm = Some(&shm);
    let settings = Settings::default();
    let spec = run_with(&host(), &settings, &pod, Vec::new(), &[]).unwrap();
    for (place, name) in [("/etc/hosts", "hosts"), ("/etc/hostname", "hostname"), ("/dev/shm", "shm")] {
        assert_eq!(at(&spec, place)["source"], dir.path().join(name).to_str().unwrap());
        assert_eq!(at(&spec, place)["options"], json!(["rbind", "rprivate", "rw"]));
    }
    assert!(!places(&spec).contains(&"/etc/resolv.conf"));
    let own = tempfile::NamedTempFile::new().unwrap();
    let own = own.path().to_str().unwrap();
    let spec = run_with(&host(), &settings, &pod, vec![mount(own, "/etc/hosts")], &[]).unwrap();
    assert_eq!(at(&spec, "/etc/hosts")["source"], own);
    assert_eq!(places(&spec).iter().filter(|p| **p == "/etc/hosts").count(), 1);

    pod.userns = Some(mappings());
    let spec = run_with(&host(), &settings, &pod, Vec::new(), &[]).unwrap();
    let hosts = at(&spec, "/etc/hosts");
    assert_eq!(hosts["options"], json!(["rbind", "rprivate", "rw", "idmap"]));
    assert_eq!(hosts["uidMappings"], json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]));
    assert_eq!(hosts["gidMappings"], hosts["uidMappings"]);
    assert!(at(&spec, "/dev/shm").get("uidMappings").is_none());
    let old = Host { idmap_mounts: false, ..host() };
    assert!(matches!(run_with(&old, &settings, &pod, Vec::new(), &[]), Err(Error::Unsupported(_))));
}

#[test]
fn hosts_ipc_comes_with_hosts_shm() {
    let node = cri::NamespaceMode::Node as i32;
    let config = config(cri::NamespaceOption { ipc: node, ..Default::default() });
    let spec = run_with(&host(), &Settings::default(), &pod(&config, Path::new("/nosuch")), Vec::new(), &[])
        .unwrap();
    assert_eq!(at(&spec, "/dev/shm")["source"], host_path("/dev/shm").unwrap().to_str().unwrap());
}

#[test]
fn a_user_namespace_on_the_hosts_network_has_the_hosts_sys() {
    let node = cri::NamespaceMode::Node as i32;
    let config = config(cri::NamespaceOption { network: node, ..Default::default() });
    let mut pod = pod(&config, Path::new("/nosuch"));
    let sys = |pod: &Pod<'_>| {
        let spec = run_with(&host(), &Settings::default(), pod, Vec::new(), &[]).unwrap();
        at(&spec, "/sys")["type"].as_str().unwrap().to_owned()
    };
    assert_eq!(sys(&pod), "sysfs");
    pod.userns = Some(mappings());
    assert_eq!(sys(&pod), "bind");
}

#[test]
fn volumes_and_images() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let volume = |inside: &str| Volume { host_path: path.into(), container_path: inside.into() };
    let config = config(cri::NamespaceOption::default());
    let pod = pod(&config, Path::new("/nosuch"));
    let image = |inside: &str, host: &str| cri::Mount {
        image: Some(cri::ImageSpec { image: "i".into(), ..Default::default() }),
        readonly: true,
        ..mount(host, inside)
    };
    let on = Settings::default();
    let off = Settings::with(|config, _| config.ignore_image_defined_volumes = true);
    let run =
        |settings: &Settings, mounts, volumes: &[Volume]| run_with(&host(), settings, &pod, mounts, volumes);
    let spec = run(&on, Vec::new(), &[volume("/data"), volume("../x")]).unwrap();
    assert_eq!(places(&spec)[7..], ["/data", "/x"]);
    assert_eq!(places(&run(&off, Vec::new(), &[volume("/data")]).unwrap()), DEFAULT);
    for settings in [&on, &off] {
        let spec = run(settings, vec![image("/img/", "")], &[volume("/img")]).unwrap();
        assert_eq!(at(&spec, "/img")["source"], path.to_str().unwrap());
        assert_eq!(at(&spec, "/img")["options"], json!(["rbind", "rprivate", "ro"]));
        assert_eq!(places(&spec).len(), 8);
    }
    assert!(run(&on, vec![image("/img", path.to_str().unwrap())], &[]).is_ok());
    assert!(run(&on, vec![image("/img", "")], &[]).is_err());
}

#[test]
fn host_paths_are_made_and_resolved() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("a/b");
    run(vec![mount(missing.to_str().unwrap(), "/x")]).unwrap();
    assert!(missing.is_dir());
    let link = dir.path().join("link");
    symlink(&missing, &link).unwrap();
    let spec = run(vec![mount(link.to_str().unwrap(), "/x")]).unwrap();
    assert_eq!(at(&spec, "/x")["source"], missing.to_str().unwrap());
}

#[test]
fn read_only_in_two_ways() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let slave = cri::MountPropagation::PropagationHostToContainer as i32;
    let config = config(cri::NamespaceOption::default());
    let pod = pod(&config, Path::new("/nosuch"));
    let kernel = Host { rro_mounts: false, ..host() };
    let with = |readonly, recursive, propagation| {
        vec![cri::Mount { readonly, recursive_read_only: recursive, propagation, ..mount(dir, "/x") }]
    };
    let run = |host: &Host, settings: &Settings, mounts| {
        run_with(host, settings, &pod, mounts, &[]).map(|s| at(&s, "/x")["options"][2].clone())
    };
    let plain = Settings::default();
    assert_eq!(run(&host(), &plain, with(false, false, 0)).unwrap(), "rw");
    assert_eq!(run(&host(), &plain, with(true, false, 0)).unwrap(), "ro");
    assert_eq!(run(&host(), &plain, with(true, true, 0)).unwrap(), "rro");
    assert!(run(&host(), &plain, with(false, true, 0)).is_err());
    assert!(run(&host(), &plain, with(true, true, slave)).is_err());
    let error = run(&kernel, &plain, with(true, true, 0)).unwrap_err();
    assert!(error.to_string().starts_with("RROUnsupported: "), "{error}");
}

#[test]
fn propagation_needs_a_mount_that_shares() {
    use rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount as mount_at, mount_change, unmount,
    };
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            unmount(&self.0, UnmountFlags::DETACH).unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    mount_at("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), None).unwrap();
    let _mounted = Mounted(dir.path().into());
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let sub = dir.path().join("sub");
    let with = |propagation: cri::MountPropagation| {
        let asked = cri::Mount { propagation: propagation as i32, ..mount(sub.to_str().unwrap(), "/x") };
        run(vec![asked]).map(|s| {
            let options = at(&s, "/x")["options"][1].as_str().unwrap().to_owned();
            (options, s["linux"]["rootfsPropagation"].as_str().map(str::to_owned))
        })
    };
    use cri::MountPropagation::*;
    let change = |flags| mount_change(dir.path(), flags).unwrap();
    change(MountPropagationFlags::PRIVATE);
    assert_eq!(with(PropagationPrivate).unwrap(), ("rprivate".into(), None));
    let error = with(PropagationBidirectional).unwrap_err().to_string();
    assert!(
        error.contains("is not a shared mount") && error.contains(dir.path().to_str().unwrap()),
        "{error}"
    );
    assert!(with(PropagationHostToContainer).is_err());
    change(MountPropagationFlags::SHARED);
    assert_eq!(with(PropagationBidirectional).unwrap(), ("rshared".into(), Some("rshared".into())));
    assert_eq!(with(PropagationHostToContainer).unwrap(), ("rslave".into(), Some("rslave".into())));
    let asked = |p: cri::MountPropagation, at: &str| cri::Mount {
        propagation: p as i32,
        ..mount(sub.to_str().unwrap(), at)
    };
    let both =
        run(vec![asked(PropagationBidirectional, "/a"), asked(PropagationHostToContainer, "/b")]).unwrap();
    assert_eq!(both["linux"]["rootfsPropagation"], "rshared");
    let wrong = cri::Mount { propagation: 7, ..mount(sub.to_str().unwrap(), "/x") };
    assert!(run(vec![wrong]).is_err());
}

#[test]
fn nonsense_is_refused() {
    let map = |length| vec![cri::IdMapping { host_id: 1, container_id: 0, length }];
    for asked in [
        mount("", "/x"),
        mount("relative", "/x"),
        mount("/tmp\0", "/x"),
        mount("/tmp", ""),
        mount("/tmp", "/"),
        mount("/tmp", "/a/.."),
        mount("/tmp", "/x\0"),
        cri::Mount { uid_mappings: map(1), ..mount("/tmp", "/x") },
        cri::Mount { uid_mappings: map(0), gid_mappings: map(1), ..mount("/tmp", "/x") },
        cri::Mount { uid_mappings: map(u32::MAX), gid_mappings: map(u32::MAX), ..mount("/tmp", "/x") },
    ] {
        let ok = asked.uid_mappings == map(u32::MAX);
        assert_eq!(run(vec![asked.clone()]).is_ok(), ok, "{asked:?}");
    }
}

#[test]
fn control_groups_may_be_writable_and_keep_the_hosts_options() {
    let config = config(cri::NamespaceOption::default());
    let pod = pod(&config, Path::new("/nosuch"));
    let settings = Settings::with(|_, runtime| runtime.cgroup_writable = true);
    let host = Host { cgroup_v2: true, cgroup_options: vec!["nsdelegate".into()], ..host() };
    let spec = run_with(&host, &settings, &pod, Vec::new(), &[]).unwrap();
    assert_eq!(
        at(&spec, "/sys/fs/cgroup")["options"],
        json!(["nosuid", "noexec", "nodev", "relatime", "rw", "nsdelegate"])
    );
    let mut spec = run(Vec::new()).unwrap();
    writable_kernel(&mut spec);
    for place in ["/sys", "/sys/fs/cgroup"] {
        let options = at(&spec, place)["options"].as_array().unwrap();
        assert!(options.contains(&json!("rw")) && !options.contains(&json!("ro")), "{place}");
    }
}
