//! Devices by name: files of vendors, and what they put into a specification.

use super::*;
use serde_json::json;
use std::fs;

const YAML: &str = r#"
cdiVersion: 0.6.0
kind: vendor.com/gpu
containerEdits:
  env: [COMMON=1]
devices:
- name: 0
  containerEdits:
    env: [A=new, B=2]
    deviceNodes:
    - path: /dev/inside
      hostPath: /dev/null
    mounts:
    - hostPath: /usr
      containerPath: /mnt/../opt/lib
      options: [ro, nosuid]
    hooks:
    - hookName: createContainer
      path: /bin/hook
      args: [hook, x]
      timeout: 3
    additionalGids: [0, 7]
- name: "1"
  containerEdits:
    deviceNodes:
    - {path: /dev/full, type: c, major: 1, minor: 7, permissions: r, uid: 3, fileMode: 0o600}
    netDevices:
    - {hostInterfaceName: eth9, name: net0}
    intelRdt: {closID: gold}
"#;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|n| n.to_string()).collect()
}

fn spec() -> Value {
    json!({"process": {"env": ["A=old"], "user": {"uid": 1000, "gid": 0, "additionalGids": [5]}},
        "mounts": [{"destination": "/proc"}, {"destination": "/a/b/c"}, {"destination": "/opt/lib"}],
        "linux": {"devices": [{"path": "/dev/inside", "old": true}]}})
}

#[test]
fn devices_are_put_in() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("v.yaml"), YAML).unwrap();
    let dirs = [dir.path().to_owned(), "/nosuch".into()];
    let mut found = spec();
    inject(&mut found, &dirs, &names(&["vendor.com/gpu=0", "vendor.com/gpu=1"])).unwrap();
    assert_eq!(found["process"]["env"], json!(["A=new", "COMMON=1", "B=2"]));
    assert_eq!(found["process"]["user"]["additionalGids"], json!([5, 7]));
    assert_eq!(
        found["linux"]["devices"],
        json!([{"path": "/dev/inside", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 1000},
            {"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 384, "uid": 3}])
    );
    assert_eq!(
        found["linux"]["resources"]["devices"],
        json!([{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 7, "access": "r"}])
    );
    assert_eq!(
        found["mounts"],
        json!([{"destination": "/proc"},
            {"destination": "/opt/lib", "source": "/usr", "type": "bind", "options": ["ro", "nosuid", "rbind"]},
            {"destination": "/a/b/c"}])
    );
    assert_eq!(
        found["hooks"],
        json!({"createContainer": [{"path": "/bin/hook", "args": ["hook", "x"], "env": [], "timeout": 3}]})
    );
    assert_eq!(found["linux"]["netDevices"], json!({"eth9": {"name": "net0"}}));
    assert_eq!(found["linux"]["intelRdt"], json!({"closID": "gold"}));
}

#[test]
fn later_directories_win_and_equals_conflict() {
    let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = |env: &str| {
        format!(
            r#"{{"cdiVersion": "0.5.0", "kind": "v.io/x", "devices": [{{"name": "d", "containerEdits": {{"env": ["{env}"], "mounts": null}}}}]}}"#
        )
    };
    let dirs = [low.path().to_owned(), high.path().to_owned()];
    let run = || {
        let mut spec = json!({});
        inject(&mut spec, &dirs, &names(&["v.io/x=d"])).map(|()| spec["process"]["env"][0].clone())
    };
    fs::write(low.path().join("a.json"), file("W=low")).unwrap();
    assert_eq!(run().unwrap(), "W=low");
    fs::write(high.path().join("a.json"), file("W=high")).unwrap();
    assert_eq!(run().unwrap(), "W=high");
    fs::write(high.path().join("b.json"), file("W=other")).unwrap();
    assert!(run().is_err());
    fs::write(high.path().join("b.json"), "not json").unwrap();
    assert_eq!(run().unwrap(), "W=high");
}

#[test]
fn what_is_unknown_or_wrong_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("v.yaml"), YAML).unwrap();
    let dirs = [dir.path().to_owned()];
    let error = inject(&mut json!({}), &dirs, &names(&["vendor.com/gpu=9", "vendor.com/gpu=0"])).unwrap_err();
    assert_eq!(error.to_string(), "unresolvable CDI devices vendor.com/gpu=9");
    assert!(inject(&mut json!({}), &dirs, &names(&["vendor.com"])).is_err());
    let device = |edits: &str| {
        let text = format!(
            r#"{{"cdiVersion": "0.5.0", "kind": "v.io/x", "devices": [{{"name": "d", "containerEdits": {edits}}}]}}"#
        );
        file::parse(&text, true)
    };
    assert!(device("{}").is_ok());
    for wrong in [
        r#"{"env": ["=x"]}"#,
        r#"{"env": ["x"]}"#,
        r#"{"deviceNodes": [{"path": ""}]}"#,
        r#"{"deviceNodes": [{"path": "/x", "type": "z"}]}"#,
        r#"{"deviceNodes": [{"path": "/x", "permissions": "q"}]}"#,
        r#"{"hooks": [{"hookName": "nope", "path": "/x"}]}"#,
        r#"{"hooks": [{"hookName": "poststop", "path": "x"}]}"#,
        r#"{"mounts": [{"hostPath": "", "containerPath": "/x"}]}"#,
        r#"{"netDevices": [{"hostInterfaceName": "", "name": "x"}]}"#,
        r#"{"additionalGids": [-1]}"#,
        "3",
    ] {
        assert!(device(wrong).is_err(), "{wrong}");
    }
    for wrong in [
        r#"{"cdiVersion": "9.0.0", "kind": "v.io/x", "devices": []}"#,
        r#"{"cdiVersion": "0.5.0", "kind": "x", "devices": []}"#,
        r#"{"cdiVersion": "0.5.0", "kind": "v.io/x"}"#,
        r#"{"cdiVersion": "0.5.0", "kind": "v.io/x", "devices": [{"name": "a"}, {"name": "a"}]}"#,
    ] {
        assert!(file::parse(wrong, true).is_err(), "{wrong}");
    }
}

#[test]
fn names_come_from_the_field_and_from_annotations() {
    let config = |fields: &[&str], annotations: &[(&str, &str)]| cri::ContainerConfig {
        cdi_devices: fields.iter().map(|n| cri::CdiDevice { name: n.to_string() }).collect(),
        annotations: annotations.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        ..Default::default()
    };
    let on = Settings::default();
    let off = Settings::with(|config, _| config.enable_cdi = false);
    let both = config(&["a/b=c", "a/b=c"], &[("cdi.k8s.io/x", "a/b=d,a/b=c"), ("other", "q/r=s")]);
    assert_eq!(asked(&on, &both).unwrap(), ["a/b=c", "a/b=d"]);
    assert!(asked(&off, &both).is_err());
    assert!(asked(&off, &config(&[], &[("cdi.k8s.io/x", "a/b=d")])).unwrap().is_empty());
    for wrong in ["", "a", "a/b", "a/b=", "/b=c", "a/=c", "1/b=c", "a/b=c/d", "a/b=../c", "a /b=c", "a/b=c,"]
    {
        assert!(asked(&on, &config(&[wrong], &[])).is_err(), "{wrong:?}");
    }
    assert!(asked(&on, &config(&[], &[("cdi.k8s.io/x", "a/b=d,")])).is_err());
}
