//! Limits, and the names of control groups.

use super::*;

fn host() -> Host {
    Host { swap: true, hugetlb: true, ..Host::default() }
}

fn run(asked: cri::LinuxContainerResources, current: Value) -> Result<Value> {
    resources(&host(), &Settings::default(), &asked, &current)
}

#[test]
fn limits_are_carried_over_and_others_stay() {
    let asked = cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: -1,
        cpu_shares: 512,
        memory_limit_in_bytes: 1 << 30,
        cpuset_cpus: "0-1,3".into(),
        unified: [("memory.high".to_owned(), "5".to_owned())].into(),
        ..Default::default()
    };
    let current = json!({"devices": [{"allow": false}], "pids": {"limit": 9}, "cpu": {"burst": 7, "shares": 2},
        "memory": {"limit": 1, "swap": 1}, "unified": {"memory.low": "1", "memory.high": "1"}});
    assert_eq!(
        run(asked, current).unwrap(),
        json!({"devices": [{"allow": false}], "pids": {"limit": 9},
            "cpu": {"burst": 7, "shares": 512, "period": 100_000, "quota": -1, "cpus": "0-1,3"},
            "memory": {"limit": 1 << 30, "swap": 1 << 30},
            "unified": {"memory.low": "1", "memory.high": "5"}})
    );
}

#[test]
fn swap_is_as_much_as_memory_unless_said_otherwise() {
    for (limit, swap, has, expected) in [
        (100, 0, true, json!({"limit": 100, "swap": 100})),
        (100, 300, true, json!({"limit": 100, "swap": 300})),
        (100, -1, true, json!({"limit": 100, "swap": -1})),
        (0, 300, true, json!({"swap": 300})),
        (0, 0, true, json!({})),
        (100, 300, false, json!({"limit": 100})),
        (100, 0, false, json!({"limit": 100})),
    ] {
        let asked = cri::LinuxContainerResources {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: swap,
            ..Default::default()
        };
        let host = Host { swap: has, ..Host::default() };
        let found = resources(&host, &Settings::default(), &asked, &Value::Null).unwrap();
        assert_eq!(found["memory"], expected, "{limit} {swap} {has}");
    }
}

#[test]
fn huge_pages_depend_on_configuration_and_kernel() {
    let asked = cri::LinuxContainerResources {
        hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 4 }],
        ..Default::default()
    };
    let on = Settings::with(|config, _| config.disable_hugetlb_controller = false);
    let strict = Settings::with(|config, _| {
        config.disable_hugetlb_controller = false;
        config.tolerate_missing_hugetlb_controller = false;
    });
    let without = Host::default();
    let run = |host: &Host, settings: &Settings| {
        resources(host, settings, &asked, &json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}))
            .map(|r| r["hugepageLimits"][0]["limit"].clone())
    };
    assert_eq!(run(&host(), &Settings::default()).unwrap(), 1);
    assert_eq!(run(&host(), &on).unwrap(), 4);
    assert_eq!(run(&without, &on).unwrap(), 1);
    assert!(run(&without, &strict).is_err());
}

#[test]
fn nonsense_is_refused() {
    let base = cri::LinuxContainerResources::default;
    for asked in [
        cri::LinuxContainerResources { cpu_period: -1, ..base() },
        cri::LinuxContainerResources { cpu_shares: -1, ..base() },
        cri::LinuxContainerResources { cpuset_cpus: "0\n1".into(), ..base() },
        cri::LinuxContainerResources { cpuset_mems: "/".into(), ..base() },
        cri::LinuxContainerResources { unified: [("../x.y".to_owned(), String::new())].into(), ..base() },
        cri::LinuxContainerResources { unified: [("cgroup".to_owned(), String::new())].into(), ..base() },
    ] {
        assert!(run(asked.clone(), Value::Null).is_err(), "{asked:?}");
    }
}

#[test]
fn a_status_tells_what_was_set() {
    let asked = cri::LinuxContainerResources {
        cpu_period: 1,
        cpu_quota: 2,
        cpu_shares: 3,
        memory_limit_in_bytes: 4,
        memory_swap_limit_in_bytes: 5,
        cpuset_cpus: "0".into(),
        cpuset_mems: "1".into(),
        hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 6 }],
        unified: [("a.b".to_owned(), "c".to_owned())].into(),
        oom_score_adj: 7,
    };
    let on = Settings::with(|config, _| config.disable_hugetlb_controller = false);
    let found = resources(&host(), &on, &asked, &Value::Null).unwrap();
    let status = resources_status(&json!({"process": {"oomScoreAdj": 7}, "linux": {"resources": found}}));
    assert_eq!(status.linux, Some(asked));
    assert_eq!(resources_status(&json!({})).linux, Some(Default::default()));
}

#[test]
fn groups_are_named_as_the_driver_has_it() {
    for (systemd, parent, expected) in [
        (false, "", Some("/k8s.io/id")),
        (false, "/", Some("/k8s.io/id")),
        (false, "/kubepods/pod1", Some("/kubepods/pod1/id")),
        (false, "/kubepods/pod1/", Some("/kubepods/pod1/id")),
        (false, "/a.slice/b.slice", Some("/a.slice/b.slice/id")),
        (false, "/a/../b", None),
        (false, "/a\0", None),
        (true, "", Some("system.slice:cri-containerd:id")),
        (true, "/kubepods.slice/kubepods-pod1.slice", Some("kubepods-pod1.slice:cri-containerd:id")),
        (true, "kubepods-pod1.slice", Some("kubepods-pod1.slice:cri-containerd:id")),
        (true, "/kubepods/pod1", None),
        (true, "a:b.slice", None),
    ] {
        assert_eq!(cgroups_path(systemd, parent, "id").ok().as_deref(), expected, "{systemd} {parent}");
    }
}
