//! What every lease manager must show.

use crate::lease::{Manager, Resource};
use crate::{Class, Context, Digest, Filters, Labels, Result};

/// Runs all cases; there are no leases.
pub async fn run(leases: &dyn Manager) {
    life(leases, &Context::new("lease-life")).await;
    resources(leases, &Context::new("lease-resources")).await;
}

fn class<T>(result: Result<T>) -> Option<Class> {
    result.err().map(|error| error.class())
}

fn resource(kind: &str, id: &str) -> Resource {
    Resource { id: id.into(), kind: kind.into() }
}

async fn life(leases: &dyn Manager, cx: &Context) {
    let labels = Labels::from([("a".into(), "b".into())]);
    let made = leases.create(cx, "l1", labels.clone()).await.unwrap();
    assert_eq!((made.id.as_str(), &made.labels), ("l1", &labels));
    leases.create(cx, "l0", Labels::new()).await.unwrap();
    assert_eq!(class(leases.create(cx, "l1", Labels::new()).await), Some(Class::AlreadyExists));
    assert_eq!(class(leases.create(cx, "", Labels::new()).await), Some(Class::InvalidArgument));
    let ids = |filters: &'static [&'static str]| async move {
        let list = leases.list(cx, &Filters::parse(filters).unwrap()).await.unwrap();
        list.into_iter().map(|lease| lease.id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(&[]).await, "l0 l1");
    assert_eq!(ids(&["id==l1"]).await, "l1");
    assert_eq!(ids(&["labels.a==b"]).await, "l1");
    assert!(leases.list(&Context::new("elsewhere"), &Filters::all()).await.unwrap().is_empty());
    leases.delete(cx, "l1").await.unwrap();
    assert_eq!(class(leases.delete(cx, "l1").await), Some(Class::NotFound));
    assert_eq!(ids(&[]).await, "l0");
}

async fn resources(leases: &dyn Manager, cx: &Context) {
    let digest = Digest::of(b"x").to_string();
    leases.create(cx, "l", Labels::new()).await.unwrap();
    assert!(leases.list_resources(cx, "l").await.unwrap().is_empty());
    let all = [
        resource("content", &digest),
        resource("images", "registry.example/image:1"),
        resource("ingests", "a reference/with everything\0"),
        resource("snapshots/native", "key"),
        resource("snapshots/overlayfs", "key"),
    ];
    for each in all.iter().rev() {
        leases.add_resource(cx, "l", each.clone()).await.unwrap();
        leases.add_resource(cx, "l", each.clone()).await.unwrap();
    }
    assert_eq!(leases.list_resources(cx, "l").await.unwrap(), all);
    leases.delete_resource(cx, "l", all[0].clone()).await.unwrap();
    leases.delete_resource(cx, "l", all[0].clone()).await.unwrap();
    assert_eq!(leases.list_resources(cx, "l").await.unwrap(), all[1..]);
    for (wrong, want) in [
        (resource("content", "no digest"), Class::InvalidArgument),
        (resource("content/x", &digest), Class::InvalidArgument),
        (resource("snapshots", "key"), Class::InvalidArgument),
        (resource("snapshots/a/b", "key"), Class::InvalidArgument),
        (resource("tasks", "t"), Class::Unimplemented),
        (resource("", "x"), Class::Unimplemented),
    ] {
        assert_eq!(class(leases.add_resource(cx, "l", wrong.clone()).await), Some(want), "{wrong:?}");
        assert_eq!(class(leases.delete_resource(cx, "l", wrong.clone()).await), Some(want), "{wrong:?}");
    }
    let missing = [
        class(leases.add_resource(cx, "none", all[1].clone()).await),
        class(leases.delete_resource(cx, "none", all[1].clone()).await),
        class(leases.list_resources(cx, "none").await),
    ];
    assert_eq!(missing, [Some(Class::NotFound); 3]);
    leases.delete(cx, "l").await.unwrap();
    leases.create(cx, "l", Labels::new()).await.unwrap();
    assert!(leases.list_resources(cx, "l").await.unwrap().is_empty(), "references go with their lease");
}
