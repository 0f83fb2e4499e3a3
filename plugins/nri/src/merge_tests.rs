//! How answers of two plugins become one adjustment.

use windlass_api::nri::{Hook, OptionalInt, OptionalString, POSIXRlimit};

use super::*;
use crate::error::Error;

fn env(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into(), ..KeyValue::default() }
}

fn mount(destination: &str, source: &str) -> Mount {
    Mount { destination: destination.into(), source: source.into(), ..Mount::default() }
}

fn creation() -> Creation {
    let container = Container {
        id: "c".into(),
        args: vec!["old".into()],
        env: vec!["A=0".into(), "B=0".into()],
        mounts: vec![mount("/a", "old"), mount("/b", "old")],
        annotations: HashMap::from([("a".into(), "0".into()), ("b".into(), "0".into())]),
        ..Container::default()
    };
    Creation::new(PodSandbox::new(), container)
}

fn answer(fill: impl FnOnce(&mut ContainerAdjustment)) -> CreateContainerResponse {
    let mut adjust = ContainerAdjustment::new();
    fill(&mut adjust);
    CreateContainerResponse { adjust: Some(adjust).into(), ..Default::default() }
}

fn strings<T: Keyed>(list: &[T]) -> Vec<&str> {
    list.iter().map(Keyed::key).collect()
}

#[test]
fn a_second_plugin_sees_what_the_first_has_set_and_cannot_set_it() {
    let mut c = creation();
    c.apply(
        answer(|a| {
            a.env = vec![env("A", "1"), env("C", "1")];
            a.mounts = vec![mount("/b", "new"), mount("/c", "new")];
            a.annotations.insert("a".into(), "1".into());
        }),
        "10-a",
    )
    .unwrap();
    assert_eq!(c.container.env, ["B=0", "A=1", "C=1"]);
    assert_eq!(strings(&c.container.mounts), ["/a", "/b", "/c"]);
    assert_eq!(c.container.annotations["a"], "1");
    let conflict = |fill: fn(&mut ContainerAdjustment)| {
        let mut c = creation();
        c.apply(answer(fill), "10-a").unwrap();
        matches!(c.apply(answer(fill), "20-b"), Err(Error::Conflict { .. }))
    };
    assert!(conflict(|a| a.env = vec![env("A", "2")]));
    assert!(conflict(|a| a.mounts = vec![mount("/c", "x")]));
    assert!(conflict(|a| a.args = vec!["x".into()]));
    assert!(conflict(|a| a.annotations = HashMap::from([("z".into(), String::new())])));
    assert!(conflict(|a| a.rlimits = vec![POSIXRlimit::default()]));
    assert!(conflict(|a| a.CDI_devices = vec![Default::default()]));
    assert!(conflict(|a| a.linux.mut_or_insert_default().cgroups_path = "/x".into()));
    assert!(conflict(|a| a.linux.mut_or_insert_default().devices = vec![LinuxDevice::default()]));
    assert!(conflict(|a| {
        a.linux.mut_or_insert_default().oom_score_adj = Some(OptionalInt::default()).into();
    }));
    assert!(conflict(|a| {
        a.linux.mut_or_insert_default().sysctl = HashMap::from([("a".into(), "1".into())]);
    }));
    assert!(conflict(|a| {
        let kind = LinuxNamespace { type_: "network".into(), ..Default::default() };
        a.linux.mut_or_insert_default().namespaces = vec![kind];
    }));
    assert!(conflict(|a| {
        let rdt = a.linux.mut_or_insert_default().rdt.mut_or_insert_default();
        rdt.clos_id = Some(OptionalString::default()).into();
    }));
}

#[test]
fn what_is_removed_is_gone_and_may_be_set_by_who_removed_it() {
    let mut c = creation();
    let first = answer(|a| {
        a.env = vec![env("-A", ""), env("C", "1")];
        a.mounts = vec![mount("-/a", "")];
        a.annotations = HashMap::from([("-a".into(), String::new()), ("c".into(), "1".into())]);
    });
    c.apply(first, "10-a").unwrap();
    assert_eq!(c.container.env, ["B=0", "C=1"]);
    assert_eq!(strings(&c.container.mounts), ["/b"]);
    assert!(!c.container.annotations.contains_key("a"));
    assert_eq!(strings(&c.adjust.env), ["-A", "C"]);
    assert_eq!(strings(&c.adjust.mounts), ["-/a"]);
    // The second takes the first's away and sets its own.
    let second = answer(|a| {
        a.env = vec![env("-C", ""), env("C", "2")];
        a.annotations = HashMap::from([("-c".into(), String::new()), ("c".into(), "2".into())]);
    });
    c.apply(second, "20-b").unwrap();
    assert_eq!(c.container.env, ["B=0", "C=2"]);
    assert_eq!(strings(&c.adjust.env), ["-A", "C"]);
    assert_eq!((c.adjust.env[1].value.as_str(), c.adjust.annotations["c"].as_str()), ("2", "2"));
    assert!(!c.adjust.annotations.contains_key("-c"));
    // And a third may not.
    assert!(c.apply(answer(|a| a.env = vec![env("C", "3")]), "30-c").is_err());
    // What was removed from the container and is nobody's can be set.
    c.apply(answer(|a| a.mounts = vec![mount("/a", "new")]), "30-c").unwrap();
    assert_eq!(strings(&c.adjust.mounts), ["/a"]);
}

#[test]
fn hooks_add_up() {
    let mut c = creation();
    for plugin in ["10-a", "20-b"] {
        let hook = Hook { path: plugin.into(), ..Hook::default() };
        c.apply(answer(|a| a.hooks.mut_or_insert_default().poststop.push(hook)), plugin).unwrap();
    }
    assert_eq!(c.adjust.hooks.poststop.len(), 2);
    assert_eq!(c.container.hooks.poststop.len(), 2);
    assert_eq!(c.owners().owner("c", Field::OciHooks), Some("10-a,20-b"));
}

#[test]
fn arguments_are_taken_over_by_an_empty_first() {
    let mut c = creation();
    c.apply(answer(|a| a.args = vec!["one".into()]), "10-a").unwrap();
    c.apply(answer(|a| a.args = vec![String::new(), "two".into()]), "20-b").unwrap();
    assert_eq!((&c.adjust.args, &c.container.args), (&vec!["two".to_owned()], &vec!["two".to_owned()]));
    assert!(c.apply(answer(|a| a.args = vec!["three".into()]), "30-c").is_err());
}

#[test]
fn rdt_is_removed_and_set_again() {
    let mut c = creation();
    let set = |name: &str, remove| {
        let name = name.to_owned();
        answer(move |a| {
            let rdt = a.linux.mut_or_insert_default().rdt.mut_or_insert_default();
            rdt.remove = remove;
            rdt.clos_id = Some(OptionalString { value: name, ..Default::default() }).into();
        })
    };
    c.apply(set("one", false), "10-a").unwrap();
    assert!(c.apply(set("two", false), "20-b").is_err());
    c.apply(set("two", true), "20-b").unwrap();
    assert_eq!(c.adjust.linux.rdt.clos_id.value, "two");
    assert!(c.adjust.linux.rdt.remove);
}
