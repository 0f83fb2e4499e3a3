//! Adjustments on a spec.

use protobuf::MessageField;
use windlass_api::nri::{
    LinuxNamespace, LinuxNetDevice, LinuxSeccompArg, LinuxSyscall, MpolFlag, MpolMode, OptionalFileMode,
    OptionalInt, OptionalRepeatedString, OptionalString, OptionalUInt32, POSIXRlimit,
};

use super::*;

fn set<T>(value: T) -> MessageField<T> {
    MessageField::some(value)
}

fn string(value: &str) -> MessageField<OptionalString> {
    set(OptionalString { value: value.into(), ..Default::default() })
}

fn spec() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {"args": ["a"], "env": ["PATH=/bin", "A=1", "B=1", "A=2"], "cwd": "/"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/a/b/c", "source": "/x"},
            {"destination": "/old", "source": "/x"},
        ],
        "annotations": {"keep": "1", "drop": "1"},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}],
            "devices": [{"path": "/dev/a", "type": "c", "major": 1, "minor": 1}],
            "sysctl": {"a": "1"}, "resources": {"memory": {"limit": 5}, "blockIO": {"weight": 1}},
            "intelRdt": {"closID": "x", "schemata": ["y"]},
        },
    })
}

fn applied(fill: impl FnOnce(&mut ContainerAdjustment)) -> Value {
    let mut wanted = ContainerAdjustment::new();
    fill(&mut wanted);
    let mut spec = spec();
    adjust(&mut spec, &wanted).unwrap();
    spec
}

fn linux(fill: impl FnOnce(&mut LinuxContainerAdjustment)) -> Value {
    applied(|a| fill(a.linux.mut_or_insert_default()))
}

#[test]
fn nothing_asked_is_nothing_done() {
    assert_eq!(applied(|_| {}), spec());
    let mut bare = json!({"ociVersion": "1"});
    adjust(&mut bare, &ContainerAdjustment::new()).unwrap();
    assert_eq!(bare["ociVersion"], "1");
    assert!(bare.get("linux").is_none() && bare.get("annotations").is_none());
    assert!(adjust(&mut json!([]), &ContainerAdjustment::new()).is_err());
}

#[test]
fn environment_arguments_and_annotations() {
    let env =
        |key: &str, value: &str| KeyValue { key: key.into(), value: value.into(), ..Default::default() };
    let spec = applied(|a| {
        a.env = vec![env("A", "9"), env("-B", ""), env("C", "x=y")];
        a.args = vec!["b".into(), "c".into()];
        a.annotations = HashMap::from([("-drop".into(), String::new()), ("new".into(), "2".into())]);
        a.rlimits = vec![POSIXRlimit { type_: "RLIMIT_CORE".into(), hard: 2, soft: 1, ..Default::default() }];
    });
    assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "A=9", "C=x=y"]));
    assert_eq!(spec["process"]["args"], json!(["b", "c"]));
    assert_eq!(spec["process"]["rlimits"], json!([{"type": "RLIMIT_CORE", "hard": 2, "soft": 1}]));
    assert_eq!(spec["annotations"], json!({"keep": "1", "new": "2"}));
}

#[test]
fn mounts_are_replaced_removed_and_sorted_by_depth() {
    let mount = |to: &str, from: &str, options: &[&str]| Mount {
        destination: to.into(),
        source: from.into(),
        type_: "bind".into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        ..Default::default()
    };
    let spec = applied(|a| {
        a.mounts = vec![mount("/a/b/c", "/new", &["ro"]), mount("-/old", "", &[]), mount("/z", "/z", &[])];
    });
    let order: Vec<_> =
        spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
    assert_eq!(order, ["/proc", "/z", "/a/b/c"]);
    assert_eq!(
        spec["mounts"][2],
        json!({"destination": "/a/b/c", "type": "bind", "source": "/new", "options": ["ro"]})
    );
}

#[test]
fn hooks_are_added_where_they_belong() {
    let hook = Hook {
        path: "/h".into(),
        args: vec!["h".into()],
        timeout: set(OptionalInt { value: 3, ..Default::default() }),
        ..Default::default()
    };
    let spec = applied(|a| {
        let hooks = a.hooks.mut_or_insert_default();
        hooks.create_runtime = vec![hook.clone()];
        hooks.poststop = vec![hook];
    });
    let want = json!([{"path": "/h", "args": ["h"], "timeout": 3}]);
    assert_eq!(spec["hooks"], json!({"createRuntime": want, "poststop": want}));
}

#[test]
fn devices_come_with_the_right_to_use_them() {
    let device = |path: &str, kind: &str| LinuxDevice {
        path: path.into(),
        type_: kind.into(),
        major: 7,
        minor: 8,
        file_mode: set(OptionalFileMode { value: 0o600, ..Default::default() }),
        ..Default::default()
    };
    let spec = linux(|l| l.devices = vec![device("-/dev/a", ""), device("/dev/b", "b")]);
    assert_eq!(
        spec["linux"]["devices"],
        json!([{"path": "/dev/b", "type": "b", "major": 7, "minor": 8, "fileMode": 0o600}])
    );
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        json!([{"allow": true, "type": "b", "major": 7, "minor": 8, "access": "rwm"}])
    );
}

#[test]
fn what_a_process_has() {
    let spec = linux(|l| {
        l.oom_score_adj = set(OptionalInt { value: -7, ..Default::default() });
        l.io_priority = set(LinuxIOPriority {
            class: IOPrioClass::IOPRIO_CLASS_RT.into(),
            priority: 2,
            ..Default::default()
        });
        l.scheduler = set(LinuxScheduler {
            policy: LinuxSchedulerPolicy::SCHED_DEADLINE.into(),
            runtime: 5,
            ..Default::default()
        });
    });
    let process = &spec["process"];
    assert_eq!(process["oomScoreAdj"], -7);
    assert_eq!(process["ioPriority"], json!({"class": "IOPRIO_CLASS_RT", "priority": 2}));
    assert_eq!(process["scheduler"], json!({"policy": "SCHED_DEADLINE", "runtime": 5}));
    let mut unknown = ContainerAdjustment::new();
    let scheduler = LinuxScheduler { policy: EnumOrUnknown::from_i32(99), ..Default::default() };
    unknown.linux.mut_or_insert_default().scheduler = set(scheduler);
    assert!(adjust(&mut spec.clone(), &unknown).is_err());
}

#[test]
fn what_a_container_has() {
    let namespace = |kind: &str, path: &str| LinuxNamespace {
        type_: kind.into(),
        path: path.into(),
        ..Default::default()
    };
    let spec = linux(|l| {
        l.namespaces = vec![namespace("-pid", ""), namespace("network", "/m"), namespace("uts", "")];
        l.sysctl = HashMap::from([("-a".into(), String::new()), ("b".into(), "2".into())]);
        l.net_devices =
            HashMap::from([("eth1".into(), LinuxNetDevice { name: "e".into(), ..Default::default() })]);
        l.cgroups_path = "/cg".into();
        let policy = l.memory_policy.mut_or_insert_default();
        policy.mode = MpolMode::MPOL_BIND.into();
        policy.nodes = "0".into();
        policy.flags = vec![MpolFlag::MPOL_F_STATIC_NODES.into()];
        l.rdt.mut_or_insert_default().schemata =
            set(OptionalRepeatedString { value: vec!["z".into()], ..Default::default() });
    });
    let linux = &spec["linux"];
    assert_eq!(linux["namespaces"], json!([{"type": "network", "path": "/m"}, {"type": "uts"}]));
    assert_eq!((&linux["sysctl"], &linux["cgroupsPath"]), (&json!({"b": "2"}), &json!("/cg")));
    assert_eq!(linux["netDevices"], json!({"eth1": {"name": "e"}}));
    assert_eq!(
        linux["memoryPolicy"],
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]})
    );
    assert_eq!(linux["intelRdt"], json!({"closID": "x", "schemata": ["z"]}));
}

#[test]
fn classes_and_resources() {
    let spec = linux(|l| {
        let r = l.resources.mut_or_insert_default();
        *r = resources::from_oci(&json!({"memory": {"limit": 64}, "pids": {"limit": 3}})).unwrap();
        r.blockio_class = string("");
        r.rdt_class = string("gold");
    });
    assert_eq!(
        spec["linux"]["resources"],
        json!({"memory": {"limit": 64, "swap": 64}, "pids": {"limit": 3}})
    );
    assert_eq!(spec["linux"]["intelRdt"], json!({"closID": "gold"}));
    let spec = self::linux(|l| l.resources.mut_or_insert_default().rdt_class = string(""));
    assert!(spec["linux"].get("intelRdt").is_none());
}

#[test]
fn a_seccomp_policy_replaces_the_one_there_is() {
    let spec = linux(|l| {
        l.seccomp_policy = set(LinuxSeccomp {
            default_action: "SCMP_ACT_ERRNO".into(),
            default_errno: set(OptionalUInt32 { value: 38, ..Default::default() }),
            architectures: vec!["SCMP_ARCH_X86_64".into()],
            syscalls: vec![LinuxSyscall {
                names: vec!["clone".into()],
                action: "SCMP_ACT_ALLOW".into(),
                args: vec![LinuxSeccompArg { value: 1, op: "SCMP_CMP_EQ".into(), ..Default::default() }],
                ..Default::default()
            }],
            ..Default::default()
        });
    });
    assert_eq!(
        spec["linux"]["seccomp"],
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                          "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}],
        })
    );
}
