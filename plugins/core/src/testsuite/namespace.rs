//! What every store of namespaces must show. That one is not deleted while anything is in it concerns other stores too:
//! their implementations test it.

use crate::namespace::{Namespace, Store};
use crate::{Class, FieldMask, Labels, Result};

fn class<T>(result: Result<T>) -> Option<Class> {
    result.err().map(|error| error.class())
}

fn namespace(name: &str, labels: &[(&str, &str)]) -> Namespace {
    let labels: Labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Namespace { name: name.into(), labels }
}

/// Runs all cases; names that begin with `ns-` are free.
pub async fn run(store: &dyn Store) {
    let made = namespace("ns-b", &[("one", "1"), ("two", "2")]);
    assert_eq!(store.create(made.clone()).await.unwrap(), made);
    assert_eq!(store.get("ns-b").await.unwrap(), made);
    store.create(namespace("ns-a", &[])).await.unwrap();
    assert_eq!(class(store.create(made).await), Some(Class::AlreadyExists));
    let names = || async {
        let list = store.list().await.unwrap();
        list.into_iter().map(|n| n.name).filter(|n| n.starts_with("ns-")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names().await, "ns-a ns-b");
    for bad in ["", "a/b", "..", "ns-\0"] {
        assert_eq!(class(store.create(namespace(bad, &[])).await), Some(Class::InvalidArgument), "{bad:?}");
    }
    let large = "x".repeat(5000);
    assert_eq!(class(store.create(namespace("ns-c", &[("k", &large)])).await), Some(Class::InvalidArgument));

    let change = namespace("ns-b", &[("two", "zwei"), ("three", "3")]);
    let updated = store.update(change.clone(), &FieldMask::of(&["labels.two", "labels.one"])).await.unwrap();
    assert_eq!(updated.labels, namespace("", &[("two", "zwei")]).labels);
    assert_eq!(store.get("ns-b").await.unwrap(), updated);
    assert_eq!(store.update(change.clone(), &FieldMask::all()).await.unwrap(), change);
    assert_eq!(class(store.update(change, &FieldMask::of(&["name"])).await), Some(Class::InvalidArgument));

    assert_eq!(store.get("ns-none").await.unwrap(), namespace("ns-none", &[]));
    store.delete("ns-a").await.unwrap();
    assert_eq!(class(store.delete("ns-a").await), Some(Class::NotFound));
    assert_eq!(names().await, "ns-b");
    store.delete("ns-b").await.unwrap();
    assert!(store.get("ns-b").await.unwrap().labels.is_empty());
}
