//! What every store of image records must show.

use std::time::{Duration, UNIX_EPOCH};

use crate::image::{Image, Store};
use crate::{Class, Context, Descriptor, Digest, FieldMask, Filters, Labels, Result};

/// Runs all cases; the store is empty.
pub async fn run(store: &dyn Store) {
    life(store, &Context::new("image-life")).await;
    lists_filter(store, &Context::new("image-list")).await;
    updates(store, &Context::new("image-update")).await;
    validation(store, &Context::new("image-valid")).await;
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn image(name: &str, content: &str) -> Image {
    let mut target = Descriptor::new("application/x-manifest", Digest::of(content.as_bytes()), 10);
    target.annotations = labels(&[("note", "a"), ("other", "b")]);
    Image {
        name: name.into(),
        target,
        labels: labels(&[("one", "1"), ("two", "2")]),
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
    }
}

fn class<T>(result: Result<T>) -> Option<Class> {
    result.err().map(|error| error.class())
}

async fn life(store: &dyn Store, cx: &Context) {
    let name = "registry.example/some/image:latest@odd name\0";
    let made = store.create(cx, image(name, "x")).await.unwrap();
    assert!(made.created_at == made.updated_at && made.created_at != UNIX_EPOCH);
    assert_eq!(store.get(cx, name).await.unwrap(), made);
    assert_eq!((&made.target, &made.labels), (&image(name, "x").target, &image(name, "x").labels));
    assert_eq!(class(store.create(cx, image(name, "x")).await), Some(Class::AlreadyExists));
    let other = Descriptor::new("m", Digest::of(b"other"), 1);
    assert_eq!(class(store.delete(cx, name, Some(&other)).await), Some(Class::NotFound));
    store.delete(cx, name, Some(&made.target)).await.unwrap();
    assert_eq!(class(store.get(cx, name).await), Some(Class::NotFound));
    assert_eq!(class(store.delete(cx, name, None).await), Some(Class::NotFound));
    let epoch = UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    let made = store.create(cx, Image { updated_at: epoch, ..image("dated", "x") }).await.unwrap();
    assert_eq!((made.created_at, made.updated_at), (epoch, epoch));
    let later = epoch + Duration::from_secs(1);
    let updated = Image { updated_at: later, ..image("dated", "x") };
    let made = store.update(cx, updated, &FieldMask::of(&["labels"])).await.unwrap();
    assert_eq!((made.created_at, made.updated_at), (epoch, later));
}

async fn lists_filter(store: &dyn Store, cx: &Context) {
    for n in [2, 0, 1] {
        let mut made = image(&format!("i{n}"), &n.to_string());
        made.labels = labels(&[("n", &n.to_string())]);
        made.target.annotations = labels(&[("a.b", &n.to_string())]);
        if n == 1 {
            made.target.media_type = "application/y".into();
        }
        store.create(cx, made).await.unwrap();
    }
    let digest = format!("target.digest=={}", Digest::of(b"2"));
    for (filters, want) in [
        (&[][..], "i0 i1 i2"),
        (&["name==i1"], "i1"),
        (&["name~=^i[12]$"], "i1 i2"),
        (&["target.mediatype==application/y"], "i1"),
        (&[digest.as_str()], "i2"),
        (&["labels.n==0", "labels.n==2"], "i0 i2"),
        (&["annotations.\"a.b\"==0"], "i0"),
        (&["labels.m"], ""),
    ] {
        let list = store.list(cx, &Filters::parse(filters).unwrap()).await.unwrap();
        let names: Vec<_> = list.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names.join(" "), want, "{filters:?}");
    }
}

async fn updates(store: &dyn Store, cx: &Context) {
    let made = store.create(cx, image("u", "x")).await.unwrap();
    let update = |paths: &'static [&'static str]| {
        let mut wanted = image("u", "y");
        wanted.target.annotations = labels(&[("note", "c")]);
        wanted.labels = labels(&[("two", "zwei")]);
        async move { store.update(cx, wanted, &FieldMask::of(paths)).await }
    };
    let one = update(&["labels.two"]).await.unwrap();
    assert_eq!(one.labels, labels(&[("one", "1"), ("two", "zwei")]));
    assert_eq!((&one.target, one.created_at), (&made.target, made.created_at));
    assert_eq!(update(&["labels.one"]).await.unwrap().labels, labels(&[("two", "zwei")]));
    let one = update(&["annotations.note"]).await.unwrap();
    assert_eq!(one.target.annotations, labels(&[("note", "c"), ("other", "b")]));
    assert_eq!(one.target.digest, Digest::of(b"x"));
    assert_eq!(update(&["annotations"]).await.unwrap().target.annotations, labels(&[("note", "c")]));
    assert_eq!(update(&["target"]).await.unwrap().target.digest, Digest::of(b"y"));
    let all = update(&[]).await.unwrap();
    assert_eq!((all.labels.len(), all.created_at), (1, made.created_at));
    assert_eq!(store.get(cx, "u").await.unwrap(), all);
    assert_eq!(class(update(&["name"]).await), Some(Class::InvalidArgument));
    assert_eq!(class(update(&["target.digest"]).await), Some(Class::InvalidArgument));
    assert_eq!(class(store.update(cx, image("gone", "x"), &FieldMask::all()).await), Some(Class::NotFound));
    assert_eq!(
        class(store.update(cx, image("", "x"), &FieldMask::all()).await),
        Some(Class::InvalidArgument)
    );
}

async fn validation(store: &dyn Store, cx: &Context) {
    let changes: [fn(&mut Image); 4] = [
        |i| i.name.clear(),
        |i| i.target.size = 0,
        |i| i.target.media_type.clear(),
        |i| drop(i.labels.insert("k".repeat(4090), "12345678".into())),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut wrong = image("wrong", "x");
        change(&mut wrong);
        assert_eq!(class(store.create(cx, wrong).await), Some(Class::InvalidArgument), "change {n}");
    }
}
