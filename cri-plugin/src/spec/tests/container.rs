//! Specifications of whole containers.

use super::*;
use crate::spec::rootfs::Empty;
use crate::spec::tests::{config as pod_config, host, mappings, pod, userns};
use cri::NamespaceMode::{Container as Own, Node, Pod as Shared, Target};
use std::path::Path;

type Security = cri::LinuxContainerSecurityContext;

fn request(security: Security) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
        command: vec!["sh".into()],
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(security),
            resources: Some(cri::LinuxContainerResources {
                oom_score_adj: -998,
                cpu_shares: 2,
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

fn options(pid: cri::NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption { pid: pid as i32, ..Default::default() }
}

struct Case {
    host: Host,
    settings: Settings,
    pod: cri::PodSandboxConfig,
    config: cri::ContainerConfig,
    image: Value,
}

impl Case {
    fn new(security: Security) -> Self {
        Self {
            host: host(),
            settings: Settings::with(|_, runtime| runtime.privileged_without_host_devices = true),
            pod: pod_config(options(Own)),
            config: request(security),
            image: json!({}),
        }
    }

    fn build(&self, change: impl FnOnce(&mut Pod<'_>), target: Option<u32>) -> Result<Built> {
        let mut pod = pod(&self.pod, Path::new("/nosuch"));
        change(&mut pod);
        let image = Image { name: "image:1", config: &self.image };
        container(&self.host, &self.settings, &pod, "id", &self.config, &image, &[], &Empty, target)
    }

    fn spec(&self) -> Value {
        self.build(|_| {}, None).unwrap().spec
    }

    fn privileged(mut self) -> Self {
        let security = self.config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.privileged = true;
        self.pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        self
    }
}

fn namespace<'a>(spec: &'a Value, kind: &str) -> Option<&'a str> {
    let all = spec["linux"]["namespaces"].as_array().unwrap();
    let found = all.iter().find(|n| n["type"] == kind)?;
    Some(found.get("path").map_or("new", |p| p.as_str().unwrap()))
}

#[test]
fn a_plain_container() {
    let case = Case::new(Security::default());
    let built = case.build(|_| {}, None).unwrap();
    let spec = &built.spec;
    assert_eq!(spec["process"]["args"], json!(["sh"]));
    assert_eq!(spec["process"]["cwd"], "/");
    assert_eq!(spec["process"]["terminal"], false);
    assert_eq!(spec["process"]["noNewPrivileges"], false);
    assert_eq!(spec["process"]["oomScoreAdj"], -998);
    assert_eq!(spec["process"]["env"], json!([process::PATH, "HOSTNAME=pod-host"]));
    assert_eq!(spec["process"]["user"], json!({"uid": 0, "gid": 0, "additionalGids": [0]}));
    assert_eq!(spec["process"]["capabilities"]["bounding"], json!(windlass_core::capability::DEFAULT));
    assert_eq!(spec["root"], json!({"path": "rootfs"}));
    assert_eq!(spec["linux"]["cgroupsPath"], "/kubepods/pod1/id");
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!([]));
    assert_eq!(spec["linux"]["resources"]["cpu"]["shares"], 2);
    assert_eq!(spec["annotations"]["io.kubernetes.cri.image-name"], "image:1");
    for gone in ["seccomp", "mountLabel", "rootfsPropagation", "devices", "sysctl"] {
        assert!(spec["linux"].get(gone).is_none(), "{gone}");
    }
    for gone in ["rlimits", "apparmorProfile", "selinuxLabel"] {
        assert!(spec["process"].get(gone).is_none(), "{gone}");
    }
    assert!(spec.get("hooks").is_none() && spec.get("hostname").is_none());
    assert_eq!(built.stop_signal, 15);
    assert_eq!(built.user.linux.unwrap().supplemental_groups, [0]);
}

#[test]
fn what_the_security_context_says() {
    let profile = cri::SecurityProfile::default();
    let mut case = Case::new(Security {
        no_new_privs: true,
        readonly_rootfs: true,
        masked_paths: vec!["/proc/kcore".into()],
        readonly_paths: vec!["/proc/sys".into()],
        run_as_user: Some(cri::Int64Value { value: 1000 }),
        run_as_group: Some(cri::Int64Value { value: 2000 }),
        supplemental_groups: vec![3000],
        seccomp: Some(profile),
        ..Default::default()
    });
    case.config.tty = true;
    case.config.working_dir = "/w".into();
    case.config.stop_signal = cri::Signal::Sigusr1 as i32;
    case.pod.hostname.clear();
    case.image =
        json!({"config": {"StopSignal": "SIGQUIT", "WorkingDir": "/i", "Env": ["A=1"], "User": "5"}});
    let built = case.build(|_| {}, None).unwrap();
    let spec = built.spec;
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert_eq!(spec["process"]["terminal"], true);
    assert_eq!(spec["process"]["cwd"], "/w");
    assert_eq!(spec["process"]["env"], json!([process::PATH, "TERM=xterm", "HOSTNAME=node", "A=1"]));
    assert_eq!(spec["root"]["readonly"], true);
    assert_eq!(spec["linux"]["maskedPaths"], json!(["/proc/kcore"]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!(["/proc/sys"]));
    assert_eq!(spec["process"]["user"], json!({"uid": 1000, "gid": 2000, "additionalGids": [2000, 3000]}));
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(built.stop_signal, 10);
    assert!(
        Case::new(Security { masked_paths: vec!["proc".into()], ..Default::default() })
            .build(|_| {}, None)
            .is_err()
    );
}

#[test]
fn privilege_is_the_pods_to_give() {
    let alone = Case::new(Security { privileged: true, ..Default::default() });
    assert_eq!(
        alone.build(|_| {}, None).unwrap_err().to_string(),
        "no privileged container allowed in sandbox"
    );
    let mut case = Case::new(Security {
        masked_paths: vec!["/proc/kcore".into()],
        seccomp: Some(cri::SecurityProfile::default()),
        ..Default::default()
    })
    .privileged();
    case.host.cgroup_v2 = true;
    case.settings.runtime.privileged_without_host_devices = false;
    let spec = case.spec();
    assert_eq!(spec["process"]["capabilities"]["effective"], json!(case.host.capabilities));
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert!(spec["linux"].get("seccomp").is_none());
    assert_eq!(namespace(&spec, "cgroup"), None);
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert!(spec["linux"]["devices"].as_array().unwrap().iter().any(|d| d["path"] == "/dev/null"));
    let sys = spec["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/sys").unwrap();
    assert!(sys["options"].as_array().unwrap().contains(&json!("rw")));
}

#[test]
fn namespaces_are_the_pods_its_own_or_the_hosts() {
    let case = |pod_mode, mode, target: Option<u32>, pid: Option<u32>| {
        let mut case = Case::new(Security { namespace_options: Some(options(mode)), ..Default::default() });
        case.pod = pod_config(options(pod_mode));
        case.host.cgroup_v2 = true;
        case.build(|p| p.pid = pid, target).map(|b| b.spec).ok()
    };
    for (pod_mode, mode, target, pid, expected) in [
        (Own, Own, None, None, Some(Some("new"))),
        (Shared, Shared, None, Some(7), Some(Some("/proc/7/ns/pid"))),
        (Shared, Own, None, Some(7), Some(Some("new"))),
        (Own, Shared, None, None, Some(Some("new"))),
        (Node, Node, None, None, Some(None)),
        (Node, Shared, None, None, Some(None)),
        (Own, Node, None, None, None),
        (Own, Target, Some(9), None, Some(Some("/proc/9/ns/pid"))),
        (Own, Target, None, None, None),
    ] {
        let spec = case(pod_mode, mode, target, pid);
        let found = spec.as_ref().map(|s| namespace(s, "pid"));
        assert_eq!(found, expected, "{pod_mode:?} {mode:?} {target:?} {pid:?}");
    }
    let spec = case(Own, Own, None, None).unwrap();
    assert_eq!(namespace(&spec, "network"), Some("/run/net"));
    assert_eq!(namespace(&spec, "ipc"), Some("/run/ipc"));
    assert_eq!(namespace(&spec, "uts"), Some("/run/uts"));
    assert_eq!(namespace(&spec, "mount"), Some("new"));
    assert_eq!(namespace(&spec, "cgroup"), Some("new"));
    assert_eq!(namespace(&spec, "user"), None);
    let on_host = Case::new(Security::default());
    let spec = on_host.build(|p| (p.net, p.ipc, p.uts) = (None, None, None), None).unwrap().spec;
    for kind in ["network", "ipc", "uts", "cgroup"] {
        assert_eq!(namespace(&spec, kind), None, "{kind}");
    }
}

#[test]
fn user_namespaces_are_the_pods() {
    let asked = |userns| Security {
        namespace_options: Some(cri::NamespaceOption { userns_options: userns, ..options(Own) }),
        ..Default::default()
    };
    let case = Case::new(asked(Some(userns())));
    let own = |p: &mut Pod<'_>| (p.userns, p.user) = (Some(mappings()), Some("/run/user".into()));
    let spec = case.build(own, None).unwrap().spec;
    assert_eq!(namespace(&spec, "user"), Some("/run/user"));
    assert_eq!(spec["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]));
    assert_eq!(spec["linux"]["gidMappings"], spec["linux"]["uidMappings"]);
    // Neither more nor less than the pod.
    assert!(case.build(|_| {}, None).is_err());
    assert!(Case::new(asked(None)).build(own, None).is_err());
    assert!(case.build(|p| p.userns = Some(mappings()), None).is_err());
    let mut old = Case::new(asked(Some(userns())));
    old.host.userns = false;
    assert!(matches!(old.build(own, None), Err(crate::spec::error::Error::Unsupported(_))));
    let node = cri::UserNamespace { mode: Node as i32, ..Default::default() };
    assert!(Case::new(asked(Some(node))).build(|_| {}, None).is_ok());
    for change in [
        (|u: &mut cri::UserNamespace| u.uids.clear()) as fn(&mut cri::UserNamespace),
        |u| u.gids.clear(),
        |u| u.uids.push(u.uids[0]),
        |u| u.mode = Node as i32,
        |u| u.mode = Own as i32,
        |u| u.mode = 9,
        |u| u.uids[0].length = 0,
        |u| u.uids[0].host_id = u32::MAX,
        |u| u.uids[0].container_id = 5,
    ] {
        let mut wrong = userns();
        change(&mut wrong);
        assert!(Case::new(asked(Some(wrong.clone()))).build(own, None).is_err(), "{wrong:?}");
    }
}

#[test]
fn scores_are_what_the_machine_permits() {
    let mut case = Case::new(Security::default());
    case.host.min_oom_score_adj = -10;
    assert_eq!(case.spec()["process"]["oomScoreAdj"], -10);
    case.host.oom_score_adj = 5;
    case.settings = Settings::with(|config, _| config.restrict_oom_score_adj = true);
    assert_eq!(case.spec()["process"]["oomScoreAdj"], 5);
    case.config.linux.as_mut().unwrap().resources = None;
    assert!(case.spec()["process"].get("oomScoreAdj").is_none());
}

#[test]
fn a_base_specification_comes_through() {
    let mut case = Case::new(Security::default());
    case.settings.base_runtime_spec = Some(json!({
        "ociVersion": "1.0.2",
        "unknown": {"x": 1},
        "process": {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 9}], "apparmorProfile": "p",
            "env": ["BASE=1"], "capabilities": {"bounding": ["CAP_KILL"]}, "user": {"umask": 18}},
        "hooks": {"poststop": [{"path": "/x"}]},
        "mounts": [{"destination": "/run", "type": "tmpfs", "source": "tmpfs"}, {"destination": "/extra"}],
        "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}, "resources": {"pids": {"limit": 5}},
            "namespaces": [{"type": "time"}]},
    }));
    let spec = case.spec();
    assert_eq!(spec["ociVersion"], "1.0.2");
    assert_eq!(spec["unknown"], json!({"x": 1}));
    assert_eq!(spec["process"]["rlimits"][0]["hard"], 9);
    assert_eq!(spec["process"]["apparmorProfile"], "p");
    assert_eq!(spec["process"]["env"], json!(["BASE=1", process::PATH, "HOSTNAME=pod-host"]));
    assert_eq!(spec["process"]["capabilities"]["permitted"], json!(["CAP_KILL"]));
    assert_eq!(spec["process"]["user"]["umask"], 18);
    assert_eq!(spec["hooks"]["poststop"][0]["path"], "/x");
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
    assert_eq!(spec["linux"]["resources"]["pids"]["limit"], 5);
    assert_eq!(namespace(&spec, "time"), Some("new"));
    let places: Vec<_> = spec["mounts"].as_array().unwrap().iter().map(|m| &m["destination"]).collect();
    assert_eq!(places, ["/extra", "/sys/fs/cgroup"]);
    let privileged = case.privileged().spec();
    assert!(privileged["linux"].get("seccomp").is_none());
    assert!(privileged["process"].get("apparmorProfile").is_none());
}

#[test]
fn annotations_cannot_stand_in_for_ours() {
    let mut case = Case::new(Security::default());
    case.settings.runtime.pod_annotations = vec!["*".into(), "*/*".into()];
    case.settings.runtime.container_annotations = vec!["run.x/*".into()];
    case.pod.annotations = [("io.kubernetes.cri.sandbox-id", "forged"), ("pod/x", "1")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    case.config.annotations =
        [("run.x/a", "2"), ("other/a", "3")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    case.config.image = Some(cri::ImageSpec { user_specified_image: "asked:1".into(), ..Default::default() });
    let all = &case.spec()["annotations"];
    assert_eq!(all["io.kubernetes.cri.sandbox-id"], "sandbox");
    assert_eq!(all["io.kubernetes.cri.image-name"], "asked:1");
    assert_eq!((&all["pod/x"], &all["run.x/a"]), (&json!("1"), &json!("2")));
    assert!(all.get("other/a").is_none());
}

const BLOCKIO: &str = "io.kubernetes.cri.blockio-class";

#[test]
fn a_blockio_class_becomes_parameters() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("classes.yaml");
    std::fs::write(&file, "Classes: {slow: [{Weight: 20}], free: []}").unwrap();
    let blockio_config_file = file.to_string_lossy().into_owned();
    let classes = classes::Classes::new(&classes::Config { blockio_config_file, ..Default::default() });
    let mut case = Case::new(Security::default());
    case.settings.classes = classes.unwrap().into();
    case.pod.annotations.insert("blockio.resources.beta.kubernetes.io/pod".into(), "slow".into());
    let spec = case.spec();
    assert_eq!(spec["linux"]["resources"]["blockIO"], json!({"weight": 20}));
    assert_eq!(spec["linux"]["resources"]["cpu"]["shares"], 2);
    case.config.annotations.insert(BLOCKIO.into(), "free".into());
    assert_eq!(case.spec()["linux"]["resources"]["blockIO"], json!({}));
    // A class that is not there is an error also for those who do without any.
    case.settings.config = Settings::with(|config, _| {
        config.containerd.ignore_blockio_not_enabled_errors = true;
    })
    .config;
    case.config.annotations.insert(BLOCKIO.into(), "gold".into());
    let error = case.build(|_| {}, None).unwrap_err().to_string();
    assert!(error.contains("\"gold\"") && error.contains(&*file.to_string_lossy()), "{error}");
}

#[test]
fn an_rdt_class_is_a_group_that_is_there() {
    let mount = classes::rdt::fake(&["gold", "silver"]);
    let file = mount.path().join("rdt.yaml");
    let denied = "{kubernetes: {denyPodAnnotation: true}}";
    std::fs::write(&file, format!("partitions: {{p: {{classes: {{silver: {denied}}}}}}}")).unwrap();
    let mut case = Case::new(Security::default());
    case.settings.classes = classes::Classes::of_rdt(mount.path(), &file.to_string_lossy()).into();
    let mut with = |class: &str, container: bool| {
        case.config.annotations.clear();
        case.pod.annotations.clear();
        match container {
            true => case.config.annotations.insert("io.kubernetes.cri.rdt-class".into(), class.into()),
            false => case
                .pod
                .annotations
                .insert("rdt.resources.beta.kubernetes.io/container.c".into(), class.into()),
        };
        case.build(|_| {}, None)
            .map(|built| built.spec["linux"]["intelRdt"].clone())
            .map_err(|e| e.to_string())
    };
    assert_eq!(with("gold", false), Ok(json!({"closID": "gold"})));
    assert_eq!(with("silver", true), Ok(json!({"closID": "silver"})));
    assert_eq!(with("system/default", true), Ok(json!({"closID": "/"})));
    assert_eq!(with("", true), Ok(Value::Null));
    let error = with("silver", false).unwrap_err();
    assert!(error.contains("denyPodAnnotation") && error.contains("rdt.yaml"), "{error}");
    let error = with("bronze", true).unwrap_err();
    assert!(
        error.contains("no control group \"bronze\"") && error.contains(&*mount.path().to_string_lossy()),
        "{error}"
    );
}

#[test]
fn an_rdt_class_is_checked_whoever_names_it() {
    let mount = classes::rdt::fake(&["gold"]);
    let settings =
        Settings { classes: classes::Classes::of_rdt(mount.path(), "").into(), ..Settings::default() };
    let none = Settings {
        classes: classes::Classes::of_rdt(&mount.path().join("nosuch"), "").into(),
        ..Settings::default()
    };
    let mut ignoring = Settings::with(|config, _| config.containerd.ignore_rdt_not_enabled_errors = true);
    ignoring.classes = none.classes.clone();
    let check = |settings: &Settings, wanted: Value| {
        let mut spec = json!({"linux": {"intelRdt": wanted, "seccomp": 1}});
        rdt(&mut spec, settings, "c").map(|()| spec["linux"].clone()).map_err(|e| e.to_string())
    };
    assert!(check(&settings, json!({"closID": "gold"})).is_ok());
    assert!(check(&settings, json!({"closID": "other"})).unwrap_err().contains("\"other\""));
    // Made by the runtime, with what it says.
    assert!(check(&settings, json!({"closID": "other", "schemata": ["L3:0=f"]})).is_ok());
    for wanted in [json!({"closID": "gold"}), json!({"schemata": ["L3:0=f"]})] {
        let error = check(&none, wanted.clone()).unwrap_err();
        assert!(error.contains("RDT disabled") && error.contains("mount -t resctrl"), "{error}");
        assert_eq!(check(&ignoring, wanted), Ok(json!({"seccomp": 1})));
    }
    assert!(check(&none, Value::Null).is_ok());
}

#[test]
fn classes_need_configuration() {
    let with = |key: &str, value: &str| {
        let mut case = Case::new(Security::default());
        case.config.annotations.insert(key.into(), value.into());
        case
    };
    let (blockio, rdt) = (BLOCKIO, "io.kubernetes.cri.rdt-class");
    let error = |case: &Case| case.build(|_| {}, None).unwrap_err().to_string();
    for (key, words, remedy) in [
        (blockio, "blockio disabled, refusing", "containerd.ignore_blockio_not_enabled_errors"),
        (rdt, "RDT disabled, refusing", "containerd.ignore_rdt_not_enabled_errors"),
    ] {
        let error = error(&with(key, "gold"));
        assert!(error.starts_with(words) && error.contains("\"gold\"") && error.contains(remedy), "{error}");
    }
    for key in [blockio, rdt] {
        let mut case = with(key, "x");
        case.settings = Settings::with(|config, _| {
            config.containerd.ignore_blockio_not_enabled_errors = true;
            config.containerd.ignore_rdt_not_enabled_errors = true;
        });
        assert!(case.build(|_| {}, None).is_ok());
    }
}

#[test]
fn systemd_has_its_own_form() {
    let mut case = Case::new(Security::default());
    case.settings.runtime.options.insert("SystemdCgroup".into(), true.into());
    let built = case.build(|p| p.cgroup_parent = "/a.slice/a-b.slice".into(), None).unwrap();
    assert_eq!(built.spec["linux"]["cgroupsPath"], "a-b.slice:cri-containerd:id");
    assert!(case.build(|_| {}, None).is_err());
}

#[test]
fn requests_that_make_no_sense_are_invalid() {
    let mut case = Case::new(Security::default());
    case.config.command.clear();
    let error = windlass_core::Error::from(case.build(|_| {}, None).unwrap_err());
    assert_eq!(error.class(), windlass_core::Class::InvalidArgument);
    let case = Case::new(Security { supplemental_groups_policy: 7, ..Default::default() });
    assert!(case.build(|_| {}, None).is_err());
    let case = Case::new(Security { run_as_username: "nosuch".into(), ..Default::default() });
    assert!(case.build(|_| {}, None).is_err());
    let mut case = Case::new(Security::default());
    case.config.stop_signal = 99;
    assert!(case.build(|_| {}, None).is_err());
}
