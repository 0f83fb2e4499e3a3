//! What every store of sandbox records must show.

use std::collections::BTreeMap;

use crate::container::Runtime;
use crate::sandbox::{Sandbox, Store};
use crate::{Any, Class, Context, FieldMask, Filters, Labels, Result};

fn class<T>(result: Result<T>) -> Option<Class> {
    result.err().map(|error| error.class())
}

fn any(text: &str) -> Any {
    Any { type_url: "types.example/spec".into(), value: text.to_owned().into() }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn sandbox(id: &str) -> Sandbox {
    Sandbox {
        id: id.into(),
        labels: labels(&[("a", "1"), ("b", "2")]),
        runtime: Runtime { name: "test".into(), options: Some(any("options")) },
        spec: Some(any("spec")),
        sandboxer: "podsandbox".into(),
        created_at: std::time::UNIX_EPOCH,
        updated_at: std::time::UNIX_EPOCH,
        extensions: BTreeMap::from([("ext".into(), any("ext"))]),
    }
}

/// Runs all cases; the store is empty.
pub async fn run(store: &dyn Store) {
    let cx = &Context::new("sandboxes");
    assert_eq!(class(store.get(cx, "1").await), Some(Class::NotFound));
    let made = store.create(cx, sandbox("1")).await.unwrap();
    let want = Sandbox { created_at: made.created_at, updated_at: made.updated_at, ..sandbox("1") };
    assert!(made.created_at == made.updated_at && made.created_at != std::time::UNIX_EPOCH);
    assert_eq!((&made, &store.get(cx, "1").await.unwrap()), (&want, &want));
    assert_eq!(class(store.create(cx, sandbox("1")).await), Some(Class::AlreadyExists));
    for bad in ["", "a b", "../x"] {
        assert_eq!(class(store.create(cx, sandbox(bad)).await), Some(Class::InvalidArgument), "{bad:?}");
    }

    let other = Sandbox { labels: labels(&[("a", "x")]), ..sandbox("2") };
    store.create(cx, other).await.unwrap();
    for (filters, want) in [
        (&[][..], "1 2"),
        (&["id==2"], "2"),
        (&["labels.b"], "1"),
        (&["labels.a==x", "id==1"], "1 2"),
        (&["id==3"], ""),
    ] {
        let list = store.list(cx, &Filters::parse(filters).unwrap()).await.unwrap();
        let ids: Vec<_> = list.iter().map(|s| s.id.as_str()).collect();
        assert_eq!(ids.join(" "), want, "{filters:?}");
    }
    assert!(store.list(&Context::new("elsewhere"), &Filters::all()).await.unwrap().is_empty());

    let change = |change: fn(&mut Sandbox), paths: &'static [&'static str]| {
        let mut wanted = sandbox("1");
        wanted.labels = labels(&[("b", "zwei")]);
        wanted.extensions = BTreeMap::from([("new".into(), any("new"))]);
        wanted.spec = Some(any("other"));
        change(&mut wanted);
        async move { store.update(cx, wanted, &FieldMask::of(paths)).await }
    };
    let one = change(|_| {}, &["labels.b", "labels.a", "extensions.new"]).await.unwrap();
    assert_eq!(one.labels, labels(&[("b", "zwei")]));
    assert_eq!((one.extensions.len(), &one.spec), (2, &Some(any("spec"))));
    let one = change(|s| s.runtime.name = "other".into(), &["runtime", "spec"]).await.unwrap();
    assert_eq!((one.runtime.name.as_str(), &one.spec), ("other", &Some(any("other"))));
    let all = change(|s| s.runtime.name = "other".into(), &[]).await.unwrap();
    assert_eq!((all.extensions.len(), all.created_at), (1, made.created_at));
    assert_eq!(store.get(cx, "1").await.unwrap(), all);
    assert_eq!(class(change(|_| {}, &[]).await), Some(Class::InvalidArgument), "the runtime stays");
    assert_eq!(class(change(|_| {}, &["sandboxer"]).await), Some(Class::InvalidArgument));
    assert_eq!(class(change(|s| s.id = "gone".into(), &["labels"]).await), Some(Class::NotFound));

    store.delete(cx, "1").await.unwrap();
    assert_eq!(class(store.delete(cx, "1").await), Some(Class::NotFound));
    assert_eq!(class(store.get(cx, "1").await), Some(Class::NotFound));
}
