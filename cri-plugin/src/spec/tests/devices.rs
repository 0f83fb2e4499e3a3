//! Device nodes, and leave to use them.

use super::*;
use std::os::unix::fs::symlink;

fn ask(host: &str, inside: &str, permissions: &str) -> cri::ContainerConfig {
    let device = cri::Device {
        host_path: host.into(),
        container_path: inside.into(),
        permissions: permissions.into(),
    };
    cri::ContainerConfig { devices: vec![device], ..Default::default() }
}

fn run(config: &cri::ContainerConfig) -> Result<Value> {
    let mut spec = json!({"linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}}});
    apply(&mut spec, &Settings::default(), config)?;
    Ok(spec["linux"].take())
}

#[test]
fn a_device_comes_with_leave_to_use_it() {
    let linux = run(&ask("/dev/null", "/dev/../dev/mine", "rw")).unwrap();
    let device = &linux["devices"][0];
    assert_eq!(device["path"], "/dev/mine");
    assert_eq!((&device["type"], &device["major"], &device["minor"]), (&json!("c"), &json!(1), &json!(3)));
    assert_eq!(device["fileMode"], 0o666);
    assert_eq!(
        linux["resources"]["devices"],
        json!([{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}])
    );
}

#[test]
fn links_and_directories_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("d/sub")).unwrap();
    std::fs::create_dir_all(at("d/pts")).unwrap();
    std::fs::write(at("d/file"), "").unwrap();
    for (name, kind) in [
        ("d/zero", rustix::fs::FileType::CharacterDevice),
        ("d/sub/one", rustix::fs::FileType::CharacterDevice),
        ("d/pts/own", rustix::fs::FileType::CharacterDevice),
        ("d/console", rustix::fs::FileType::CharacterDevice),
        ("d/fifo", rustix::fs::FileType::Fifo),
    ] {
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, at(name), kind, mode, rustix::fs::makedev(1, 5)).unwrap();
    }
    symlink(at("d"), at("link")).unwrap();
    let linux = run(&ask(at("link").to_str().unwrap(), "/dev/x", "r")).unwrap();
    let mut paths: Vec<_> =
        linux["devices"].as_array().unwrap().iter().map(|d| d["path"].as_str().unwrap()).collect();
    paths.sort();
    assert_eq!(paths, ["/dev/x/sub/one", "/dev/x/zero"]);
    let linux = run(&ask(at("link/zero").to_str().unwrap(), "", "r")).unwrap();
    assert_eq!(linux["devices"][0]["path"], at("d/zero").to_str().unwrap());
}

#[test]
fn owners_are_the_users_where_configuration_says_so() {
    let settings = Settings::with(|config, _| config.device_ownership_from_security_context = true);
    let mut config = ask("/dev/null", "/dev/null", "rw");
    config.linux = Some(cri::LinuxContainerConfig {
        security_context: Some(cri::LinuxContainerSecurityContext {
            run_as_user: Some(cri::Int64Value { value: 7 }),
            ..Default::default()
        }),
        ..Default::default()
    });
    let mut spec = json!({});
    apply(&mut spec, &settings, &config).unwrap();
    let device = &spec["linux"]["devices"][0];
    // What nobody names stays the host's.
    let gid = std::fs::metadata("/dev/null").unwrap().gid();
    assert_eq!((&device["uid"], &device["gid"]), (&json!(7), &json!(gid)));
}

#[test]
fn what_is_no_device_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = file.path().to_str().unwrap();
    for (path, access) in
        [(file, "rw"), ("/dev/nosuch", "rw"), ("dev/null", "rw"), ("/dev/null", "x"), ("", "r")]
    {
        assert!(run(&ask(path, "/dev/x", access)).is_err(), "{path} {access}");
    }
}

#[test]
fn the_privileged_have_all() {
    let run = |without, all| {
        let mut spec = json!({"linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}}});
        let settings = Settings::with(|_, runtime| {
            runtime.privileged_without_host_devices = without;
            runtime.privileged_without_host_devices_all_devices_allowed = all;
        });
        privileged(&mut spec, &settings).unwrap();
        let devices = spec["linux"]["devices"].as_array().cloned().unwrap_or_default();
        let null = devices.iter().any(|d| d["path"] == "/dev/null");
        assert!(!devices.iter().any(|d| d["path"].as_str().unwrap().starts_with("/dev/pts/")));
        (null, spec["linux"]["resources"]["devices"][0]["allow"] == true)
    };
    assert_eq!(run(false, false), (true, true));
    assert_eq!(run(true, false), (false, false));
    assert_eq!(run(true, true), (false, true));
}
