//! The specification of a pod's own process.

use super::*;
use crate::spec::rootfs::Empty;
use crate::spec::tests::{config, host, mappings, pod};
use std::path::Path;

fn image() -> Value {
    json!({"config": {"Entrypoint": ["/pause"], "Env": ["A=1"], "User": "65535:65535"}})
}

fn run(pod: &Pod<'_>) -> Result<Value> {
    let config = image();
    pause(&host(), &Settings::default(), pod, &Image { name: "pause:1", config: &config }, &Empty)
}

fn namespace<'a>(spec: &'a Value, kind: &str) -> Option<&'a str> {
    let found = spec["linux"]["namespaces"].as_array().unwrap().iter().find(|n| n["type"] == kind)?;
    Some(found.get("path").map_or("new", |p| p.as_str().unwrap()))
}

#[test]
fn a_pods_own_process() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("resolv.conf"), "").unwrap();
    let config = config(cri::NamespaceOption::default());
    let mut pod = pod(&config, dir.path());
    pod.shm = Some(dir.path());
    let spec = run(&pod).unwrap();
    assert_eq!(spec["process"]["args"], json!(["/pause"]));
    assert_eq!(spec["process"]["user"], json!({"uid": 65535, "gid": 65535, "additionalGids": [65535]}));
    assert_eq!(spec["process"]["oomScoreAdj"], -998);
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": true}));
    assert_eq!(spec["linux"]["resources"]["cpu"]["shares"], 2);
    assert_eq!(spec["linux"]["cgroupsPath"], "/kubepods/pod1/sandbox");
    assert_eq!(spec["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"], "0");
    assert_eq!(spec["annotations"]["io.kubernetes.cri.container-type"], "sandbox");
    assert_eq!(spec["annotations"]["io.kubernetes.cri.podsandbox.image-name"], "pause:1");
    let mounts = spec["mounts"].as_array().unwrap();
    for place in ["/dev/shm", "/etc/resolv.conf"] {
        let all: Vec<_> = mounts.iter().filter(|m| m["destination"] == place).collect();
        assert_eq!(all.len(), 1, "{place}");
        assert_eq!(all[0]["options"], json!(["rbind", "ro", "nosuid", "nodev", "noexec"]));
    }
    assert_eq!(namespace(&spec, "network"), Some("/run/net"));
    assert_eq!(namespace(&spec, "pid"), Some("new"));
    assert!(spec.get("hostname").is_none(), "the namespace that is joined has its name");
}

#[test]
fn namespaces_that_are_not_there_are_made() {
    let node = cri::NamespaceMode::Node as i32;
    let config = config(cri::NamespaceOption::default());
    let mut own = pod(&config, Path::new("/nosuch"));
    (own.uts, own.ipc, own.userns) = (None, None, Some(mappings()));
    let spec = run(&own).unwrap();
    assert_eq!(namespace(&spec, "uts"), Some("new"));
    assert_eq!(namespace(&spec, "ipc"), Some("new"));
    assert_eq!(namespace(&spec, "user"), Some("new"));
    assert_eq!(spec["hostname"], "pod-host");
    assert_eq!(spec["linux"]["uidMappings"][0]["hostID"], 100_000);
    let config = super::super::tests::config(cri::NamespaceOption {
        network: node,
        ipc: node,
        pid: node,
        ..Default::default()
    });
    let spec = run(&pod(&config, Path::new("/nosuch"))).unwrap();
    for kind in ["network", "uts", "ipc", "pid"] {
        assert_eq!(namespace(&spec, kind), None, "{kind}");
    }
    assert_eq!(spec["linux"]["sysctl"], json!({}));
}

#[test]
fn a_pod_that_makes_no_sense_is_refused() {
    let mut wrong = config(cri::NamespaceOption::default());
    wrong.linux.as_mut().unwrap().sysctls.insert("kernel.panic".into(), "1".into());
    assert!(run(&pod(&wrong, Path::new("/nosuch"))).is_err());
    let plain = config(cri::NamespaceOption::default());
    let empty = json!({});
    let result = pause(
        &host(),
        &Settings::default(),
        &pod(&plain, Path::new("/nosuch")),
        &Image { name: "x", config: &empty },
        &Empty,
    );
    assert!(result.is_err());
}
