//! Where groups are.

use crate::stats::cgroup::*;
use crate::stats::files::Reader;

fn hierarchy(root: &std::path::Path, v2: bool) -> Hierarchy {
    Hierarchy { root: root.to_str().unwrap().to_owned(), v2 }
}

fn one(path: &str) -> Option<Group> {
    Some(Group::One(path.into()))
}

#[test]
fn names_lead_to_groups() {
    let root = tempfile::tempdir().unwrap();
    let machine = hierarchy(root.path(), true);
    let slices = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice";
    for (named, path) in [
        ("/kubepods/burstable/pod1/c1", "/kubepods/burstable/pod1/c1"),
        ("k8s//c1/", "/k8s/c1"),
        ("kubepods-burstable-pod1.slice:cri-containerd:c1", &format!("{slices}/cri-containerd-c1.scope")),
        (":cri:c2", "/system.slice/cri-c2.scope"),
        ("-.slice:cri:c3", "/cri-c3.scope"),
        ("a.slice:x:own.slice", "/a.slice/own.slice"),
        ("/with:two:colons", "/with:two:colons"),
    ] {
        assert_eq!(machine.find(named, 0), None, "{named}: there is none yet");
        std::fs::create_dir_all(root.path().join(&path[1..])).unwrap();
        assert_eq!(machine.find(named, 0), one(path), "{named}");
    }
    std::fs::create_dir_all(root.path().join("up")).unwrap();
    let long = format!("/{}", "x/".repeat(4000));
    for wrong in [
        "",
        "/",
        "//",
        "/k8s/../up",
        "/k8s/./c1",
        "a/b.slice:x:y",
        "a--b.slice:x:y",
        ".slice:x:y",
        "a:x:y",
        "\0",
        &long,
    ] {
        assert_eq!(machine.find(wrong, 0), None, "{wrong:?}");
    }
}

#[test]
fn pods_groups_are_paths_or_slices() {
    let root = tempfile::tempdir().unwrap();
    let machine = hierarchy(root.path(), true);
    std::fs::create_dir_all(root.path().join("kubepods/pod1")).unwrap();
    std::fs::create_dir_all(root.path().join("kubepods.slice/kubepods-pod2.slice")).unwrap();
    assert_eq!(machine.parent("/kubepods/pod1"), one("/kubepods/pod1"));
    assert_eq!(
        machine.parent("/kubepods.slice/kubepods-pod2.slice"),
        one("/kubepods.slice/kubepods-pod2.slice")
    );
    assert_eq!(machine.parent("kubepods-pod2.slice"), one("/kubepods.slice/kubepods-pod2.slice"));
    for none in ["", "/", "/kubepods/pod3", "/kubepods/../kubepods/pod1", "-.slice"] {
        assert_eq!(machine.parent(none), None, "{none:?}");
    }
}

#[test]
fn processes_know_their_groups() {
    let root = tempfile::tempdir().unwrap();
    let v1 = hierarchy(root.path(), false);
    let text = "12:pids:/p/c\n11:cpu,cpuacct:/a/c\n7:memory:/m/c\n3:blkio:/\n1:name=systemd:/s\n0::/u\n";
    let group = v1.member(text).unwrap();
    let Group::Split(paths) = &group else { panic!("{group:?}") };
    assert_eq!(paths.each_ref().map(|path| &**path), ["/a/c", "/a/c", "/m/c", "/p/c", ""]);
    let mut reader = Reader::default();
    assert!(v1.enter(&mut reader, &group, Controller::Memory));
    assert_eq!(reader.directory(), root.path().join("memory/m/c"));
    assert!(!v1.enter(&mut reader, &group, Controller::Blkio), "the root is the machine's");
    assert_eq!(v1.member("3:blkio:/\n2:memory:/../x\n0::/u\nbroken\n::\n"), None);

    let v2 = hierarchy(root.path(), true);
    assert_eq!(v2.member("1:name=systemd:/s\n0::/k/c\n"), one("/k/c"));
    assert_eq!(v2.member("0::/\n"), None);
    assert_eq!(v2.member("0::/../../x\n"), None);
}

#[test]
fn processes_of_groups_below_count() {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in [("g", "1\n2\n"), ("g/a", "3\n"), ("g/a/b", "4\nx\n0\n"), ("g/c", "")] {
        let dir = root.path().join("pids").join(path);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), text).unwrap();
    }
    let machine = hierarchy(root.path(), false);
    let found = |most| {
        let (mut pids, all) = processes(&machine, &mut Reader::default(), &Group::One("/g".into()), most);
        pids.sort_unstable();
        (pids, all)
    };
    assert_eq!(found(100), (vec![1, 2, 3, 4], true));
    let (few, all) = found(3);
    assert!(few.len() <= 3 && !all, "no more than asked for, and told so");
    let nowhere = processes(&machine, &mut Reader::default(), &Group::One("/none".into()), 9);
    assert_eq!(nowhere, (Vec::new(), false));
}
