//! What every store of container records must show.

use std::collections::BTreeMap;

use crate::container::{Container, Runtime, Store};
use crate::{Any, Class, Context, FieldMask, Filters, Labels, Result};

/// Runs all cases; the store is empty.
pub async fn run(store: &dyn Store) {
    life(store, &Context::new("container-life")).await;
    lists_filter(store, &Context::new("container-list")).await;
    updates(store, &Context::new("container-update")).await;
    validation(store, &Context::new("container-valid")).await;
    walls(store).await;
}

fn any(text: &str) -> Any {
    Any { type_url: "types.example/spec".into(), value: text.to_owned().into() }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn container(id: &str) -> Container {
    Container {
        id: id.into(),
        labels: labels(&[("one", "1"), ("two", "2")]),
        image: "test image".into(),
        runtime: Runtime { name: "testruntime".into(), options: Some(any("options")) },
        spec: Some(any("spec")),
        snapshotter: "snapshotter".into(),
        snapshot_key: "test-snapshot-key".into(),
        created_at: std::time::UNIX_EPOCH,
        updated_at: std::time::UNIX_EPOCH,
        extensions: BTreeMap::from([("hello".into(), any("world"))]),
        sandbox_id: "box".into(),
    }
}

fn class<T>(result: Result<T>) -> Option<Class> {
    result.err().map(|error| error.class())
}

async fn life(store: &dyn Store, cx: &Context) {
    let made = store.create(cx, container("one")).await.unwrap();
    assert_eq!(made.created_at, made.updated_at);
    assert!(made.created_at.elapsed().unwrap().as_secs() < 60, "the store sets the times");
    let want = Container { created_at: made.created_at, updated_at: made.updated_at, ..container("one") };
    assert_eq!(made, want);
    assert_eq!(store.get(cx, "one").await.unwrap(), want, "all fields come back as they were");
    assert_eq!(class(store.create(cx, container("one")).await), Some(Class::AlreadyExists));
    store.delete(cx, "one").await.unwrap();
    assert_eq!(class(store.get(cx, "one").await), Some(Class::NotFound));
    assert_eq!(class(store.delete(cx, "one").await), Some(Class::NotFound));
    assert_eq!(class(store.update(cx, container("one"), &FieldMask::all()).await), Some(Class::NotFound));
}

async fn lists_filter(store: &dyn Store, cx: &Context) {
    assert!(store.list(cx, &Filters::all()).await.unwrap().is_empty());
    for n in [3, 1, 0, 2] {
        let mut made = container(&format!("c{n}"));
        made.image = format!("image-{n}");
        made.labels =
            labels(&[("even", if n % 2 == 0 { "yes" } else { "no" }), ("dotted.label/x", &n.to_string())]);
        store.create(cx, made).await.unwrap();
    }
    for (filters, want) in [
        (&[][..], "c0 c1 c2 c3"),
        (&["id==c1"], "c1"),
        (&["id==c1", "id==c3"], "c1 c3"),
        (&["id~=c[02]"], "c0 c2"),
        (&["image==image-2"], "c2"),
        (&["runtime.name==testruntime,id!=c0"], "c1 c2 c3"),
        (&["labels.even==yes"], "c0 c2"),
        (&["labels.\"dotted.label/x\"==3"], "c3"),
        (&["labels.absent"], ""),
        (&["nothing"], ""),
    ] {
        let list = store.list(cx, &Filters::parse(filters).unwrap()).await.unwrap();
        let ids: Vec<_> = list.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids.join(" "), want, "{filters:?}");
    }
}

async fn updates(store: &dyn Store, cx: &Context) {
    let made = store.create(cx, container("u")).await.unwrap();
    let update = |change: fn(&mut Container), paths: &'static [&'static str]| {
        let mut wanted = container("u");
        wanted.labels = labels(&[("two", "zwei"), ("three", "3")]);
        wanted.image = "other".into();
        wanted.spec = Some(any("other"));
        wanted.snapshot_key = "other".into();
        wanted.extensions = BTreeMap::from([("hello".into(), any("moon")), ("new".into(), any("new"))]);
        change(&mut wanted);
        async move { store.update(cx, wanted, &FieldMask::of(paths)).await }
    };
    let one = update(|_| {}, &["labels.two"]).await.unwrap();
    assert_eq!(one.labels, labels(&[("one", "1"), ("two", "zwei")]));
    assert_eq!((&one.image, one.created_at), (&made.image, made.created_at));
    assert!(one.updated_at >= made.updated_at);
    let one = update(|_| {}, &["labels.one"]).await.unwrap();
    assert_eq!(one.labels, labels(&[("two", "zwei")]), "a label that is not given is removed");
    let one = update(|_| {}, &["labels"]).await.unwrap();
    assert_eq!(one.labels, labels(&[("two", "zwei"), ("three", "3")]));
    let one = update(|_| {}, &["extensions.hello"]).await.unwrap();
    assert_eq!(one.extensions, BTreeMap::from([("hello".into(), any("moon"))]));
    let one = update(|_| {}, &["image", "spec"]).await.unwrap();
    assert_eq!((one.image.as_str(), &one.spec), ("other", &Some(any("other"))));
    assert_eq!(one.snapshot_key, "test-snapshot-key");
    assert_eq!(store.get(cx, "u").await.unwrap(), one);
    let all = update(|c| c.labels.clear(), &[]).await.unwrap();
    assert!(all.labels.is_empty());
    assert_eq!((all.snapshot_key.as_str(), all.extensions.len()), ("other", 2));
    assert_eq!(all.runtime, container("u").runtime);
    let refused = [
        update(|c| c.snapshotter = "x".into(), &[]).await,
        update(|c| c.runtime.name = "x".into(), &[]).await,
        update(|_| {}, &["id"]).await,
        update(|_| {}, &["snapshotter"]).await,
        update(|_| {}, &["nothing"]).await,
        update(|c| c.spec = None, &["spec"]).await,
        update(|c| c.id.clear(), &["labels"]).await,
    ];
    for result in refused {
        assert_eq!(class(result), Some(Class::InvalidArgument));
    }
    assert_eq!(store.get(cx, "u").await.unwrap(), all, "what was refused changed nothing");
}

async fn validation(store: &dyn Store, cx: &Context) {
    let changes: [fn(&mut Container); 8] = [
        |c| c.id.clear(),
        |c| c.id = "../escape".into(),
        |c| c.id = "a".repeat(77),
        |c| c.spec = None,
        |c| c.runtime.name.clear(),
        |c| c.snapshotter.clear(),
        |c| drop(c.extensions.insert(String::new(), any("x"))),
        |c| drop(c.labels.insert("large".into(), "x".repeat(5000))),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut wrong = container("wrong");
        change(&mut wrong);
        assert_eq!(class(store.create(cx, wrong).await), Some(Class::InvalidArgument), "change {n}");
    }
    assert!(store.list(cx, &Filters::all()).await.unwrap().is_empty());
}

async fn walls(store: &dyn Store) {
    let (here, there) = (Context::new("wall-1"), Context::new("wall-2"));
    store.create(&here, container("same")).await.unwrap();
    assert_eq!(class(store.get(&there, "same").await), Some(Class::NotFound));
    store.create(&there, container("same")).await.unwrap();
    store.delete(&here, "same").await.unwrap();
    store.get(&there, "same").await.unwrap();
}
