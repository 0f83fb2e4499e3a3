//! What becomes of images: removed, made by others, found again after a start.

use windlass_core::Class;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_with_all_its_names_and_frees_its_space() {
    let (registry, made) = served().await;
    registry.add("app", "2", &made);
    registry.add("other", "3", &made);
    let kept = images::image(&[images::tar(&[("x", b"kept")])]);
    registry.add("kept", "1", &kept);
    let stack = Stack::new().await;
    for image in ["app:1", "app:2", "other:3", "kept:1"] {
        stack.pull(&name(&registry, image)).await.unwrap();
    }
    let list = stack.images.list(None);
    assert_eq!(list.len(), 2);
    let image = list.iter().find(|i| i.id == made.config.0.as_str()).unwrap();
    assert_eq!((image.repo_tags.len(), image.repo_digests.len()), (3, 2));

    stack.images.remove(&spec(&name(&registry, "app:2"))).await.unwrap();
    let left: Vec<_> = stack.images.list(None).into_iter().map(|i| i.id).collect();
    assert_eq!(left, [kept.config.0.to_string()]);
    for (digest, _) in made.blobs().iter().chain([&made.manifest]) {
        assert!(!stack.has(digest).await, "{digest} takes up space");
    }
    assert_eq!(stack.snapshots("overlayfs").await, [kept.top()]);
    assert_eq!(stack.records().await.len(), 3);
    // Again, and what was never there: fine.
    stack.images.remove(&spec(&name(&registry, "app:2"))).await.unwrap();
    stack.images.remove(&spec("never/seen")).await.unwrap();
    // By id, several at once.
    let (one, two) = (spec(kept.config.0.as_str()), spec(kept.config.0.encoded()));
    let (one, two) = tokio::join!(stack.images.remove(&one), stack.images.remove(&two));
    one.unwrap();
    two.unwrap();
    assert_eq!((stack.images.list(None).len(), stack.records().await.len()), (0, 0));
    assert_eq!(stack.snapshots("overlayfs").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_needs_stays_when_its_image_goes() {
    let (registry, made) = served().await;
    let stack = Stack::new().await;
    let id = stack.pull(&name(&registry, "app:1")).await.unwrap();
    let image = stack.images.resolve(&id).unwrap();
    stack.db.leases().create(&stack.cx, "pod", Default::default()).await.unwrap();
    let cx = stack.cx.clone().with_lease("pod");
    stack.images.prepare_rootfs(&cx, "container", &image, None, Default::default()).await.unwrap();
    stack.images.remove(&spec(&id)).await.unwrap();
    assert!(!stack.has(&made.layers[0].0).await);
    assert_eq!(stack.snapshots("overlayfs").await.len(), 4);
    let taken = stack.images.prepare_rootfs(&cx, "container", &image, None, Default::default()).await;
    assert_eq!(taken.unwrap_err().class(), Class::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_images_shows() {
    let (registry, made) = served().await;
    let stack = Stack::new().await;
    let from = registry.image("app:1");
    let tag = from.reference.clone();
    stack.pull_as_client(from, true).await;
    stack.until(|images| images.resolve(&tag).is_some_and(|i| i.references.len() == 2)).await;
    // It is CRI's from now on, and has a record by its id.
    let id = made.config.0.as_str();
    let record = stack.db.images().get(&stack.cx, id).await.unwrap();
    assert_eq!(record.labels["io.cri-containerd.image"], "managed");
    assert_eq!(stack.images.list(None)[0].id, id);

    // Another tag, by a plain record.
    let mut another = record.clone();
    another.name = name(&registry, "app:other");
    stack.db.images().create(&stack.cx, another.clone()).await.unwrap();
    stack.until(|images| images.resolve(&tag).is_some_and(|i| i.names.len() == 2)).await;
    // And gone again.
    stack.db.images().delete(&stack.cx, &another.name, None).await.unwrap();
    stack.until(|images| images.resolve(&tag).is_some_and(|i| i.names.len() == 1)).await;
    stack.images.remove(&spec(&tag)).await.unwrap();
    assert_eq!(stack.images.list(None), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_other_namespaces_are_not_shown() {
    let (registry, _) = served().await;
    let stack = Stack::new().await;
    let cx = Context::new("moby");
    let to = ImageStore { name: name(&registry, "app:1"), ..ImageStore::default() };
    let from = Source::Registry(registry.image("app:1"));
    let done = stack.local.transfer(&cx, from, Destination::ImageStore(to), Arc::new(NoProgress)).await;
    done.unwrap();
    // One that is shown comes after it.
    stack.pull_as_client(registry.image("app:1"), true).await;
    stack.until(|images| !images.list(None).is_empty()).await;
    stack.db.images().delete(&cx, &name(&registry, "app:1"), None).await.unwrap();
    assert_eq!(stack.images.list(None).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_found_again_after_a_start() {
    let (registry, made) = served().await;
    registry.add("app", "2", &of_user(&made, "7"));
    let stack = Stack::new().await;
    let whole = stack.pull(&name(&registry, "app:1")).await.unwrap();
    stack.pull(&name(&registry, "app:2")).await.unwrap();
    let again = stack.restarted().await;
    assert_eq!(again.list(None), stack.images.list(None));
    assert_eq!(again.list(None).len(), 2);

    // One that lacks its config is not shown, and holds up nothing.
    stack.db.content().delete(&stack.cx, &of_user(&made, "7").config.0).await.unwrap();
    let again = stack.restarted().await;
    assert_eq!(again.list(None).iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), [whole.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_neither_layers_nor_snapshots_is_not_shown() {
    let (registry, made) = served().await;
    let stack = Stack::new().await;
    stack.pull_as_client(registry.image("app:1"), false).await;
    let tag = name(&registry, "app:1");
    stack.until(|images| images.resolve(&tag).is_some()).await;
    stack.db.content().delete(&stack.cx, &made.layers[1].0).await.unwrap();
    assert_eq!(stack.restarted().await.list(None), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_misses_events_reads_everything_again() {
    let (registry, _) = served().await;
    let stack = Stack::new().await;
    // Far more than a queue holds, at once.
    let none = windlass_core::event::Event::ImageDelete { name: "no.such/image:1".into() };
    for _ in 0..windlass_event::QUEUE * 3 {
        windlass_core::event::Exchange::publish(&*stack.exchange, &stack.cx, none.clone());
    }
    let from = registry.image("app:1");
    let tag = from.reference.clone();
    stack.pull_as_client(from, true).await;
    stack.until(|images| images.resolve(&tag).is_some()).await;
}
