//! Pushes.

#![allow(clippy::unwrap_used)]

mod common;

use common::Stack;
use common::images::{self, INDEX, three};
use common::registry::{Fault, Registry};
use http::Method;
use windlass_core::Class;
use windlass_core::platform::Platform;
use windlass_core::transfer::{Destination, ImageStore, Source};

async fn push(stack: &Stack, name: &str, to: windlass_core::transfer::Registry) -> windlass_core::Result<()> {
    let from = ImageStore { name: name.into(), ..ImageStore::default() };
    stack.transfer(Source::ImageStore(from), Destination::Registry(to)).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_up_once() {
    let made = three();
    let (from, to) = (Registry::start().await, Registry::start().await);
    from.add("app", "m", &made);
    let index = images::index(&[(&made, &Platform::host().to_string())]);
    from.add_document("app", "1", INDEX, &index);
    let stack = Stack::new("overlayfs");
    let source = from.image("app:1");
    let name = source.reference.clone();
    stack.pull(source).await.unwrap();
    push(&stack, &name, to.image("mine/app:2")).await.unwrap();
    for (digest, data) in made.blobs() {
        assert_eq!(to.blob(&digest).unwrap(), data);
    }
    assert_eq!(to.manifest("mine/app", "2").unwrap().1, index.1);
    assert_eq!(to.manifest("mine/app", made.manifest.0.as_str()).unwrap().1, made.manifest.1);
    // Manifests follow their blobs, and the index comes last.
    let puts: Vec<_> = to.seen().into_iter().filter(|s| s.method == Method::PUT).map(|s| s.path).collect();
    assert!(puts.last().unwrap().ends_with("/manifests/2"));
    assert!(puts[puts.len() - 2].ends_with(made.manifest.0.as_str()));
    to.clear();
    push(&stack, &name, to.image("mine/app:2")).await.unwrap();
    assert_eq!(to.count(Method::PUT, "/") + to.count(Method::POST, "/"), 0);
    stack.assert_no_lease().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_the_same_registry_are_mounted() {
    let made = three();
    let registry = Registry::start().await;
    registry.add("base/app", "1", &made);
    let stack = Stack::new("overlayfs");
    let source = registry.image("base/app:1");
    let name = source.reference.clone();
    stack.pull(source).await.unwrap();
    registry.clear();
    // It is not known in the other repository.
    registry.fault("/v2/new/app/blobs/sha256", vec![Fault::Status(404, vec![]); 4]);
    push(&stack, &name, registry.image("new/app:1")).await.unwrap();
    let mounts: Vec<_> = registry.seen().into_iter().filter(|s| s.method == Method::POST).collect();
    assert_eq!(mounts.len(), 4);
    assert!(
        mounts.iter().all(|m| m.query.contains("from=base%2Fapp") && m.query.contains("mount=sha256%3A"))
    );
    assert_eq!(registry.count(Method::PUT, "/blobs/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_uploads_go_on_where_they_were() {
    let made = three();
    let (from, to) = (Registry::start().await, Registry::start().await);
    from.add("app", "1", &made);
    let stack = Stack::new("overlayfs");
    let source = from.image("app:1");
    let name = source.reference.clone();
    stack.pull(source).await.unwrap();
    to.fault("/blobs/uploads/u", [Fault::BreakUpload(20_000)]);
    push(&stack, &name, to.image("app:1")).await.unwrap();
    for (digest, data) in made.blobs() {
        assert_eq!(to.blob(&digest).unwrap(), data);
    }
    assert!(to.count(Method::PATCH, "/") + to.count(Method::GET, "/blobs/uploads/") > 0, "{:?}", to.seen());
    let refused = Registry::start().await;
    refused.fault("/", vec![Fault::Status(403, vec![]); 100]);
    assert_eq!(
        push(&stack, &name, refused.image("app:1")).await.unwrap_err().class(),
        Class::PermissionDenied
    );
    assert!(push(&stack, "nothing", to.image("x:1")).await.unwrap_err().is_not_found());
}
