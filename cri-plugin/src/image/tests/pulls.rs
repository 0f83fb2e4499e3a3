//! Pulls: what they leave, what they share, and what a registry may do to them.

use base64::Engine;
use futures::FutureExt;
use http::Method;
use windlass_core::Class;

use super::registry::{Auth, Fault};
use super::*;

fn credentials(server: &str) -> Option<cri::AuthConfig> {
    Some(cri::AuthConfig {
        username: "user".into(),
        password: "secret".into(),
        server_address: server.into(),
        ..Default::default()
    })
}

fn basic() -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("user:secret"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_image_is_listed_with_all_that_is_known_of_it() {
    let registry = Registry::start().await;
    let made = of_user(&images::three(), "1002:1003");
    registry.add("app", "1", &made);
    let stack = Stack::new().await;
    let tag = name(&registry, "app:1");
    let id = stack.pull(&tag).await.unwrap();
    assert_eq!(id, made.config.0.as_str());

    let size = made.manifest.1.len() + made.blobs().iter().map(|b| b.1.len()).sum::<usize>();
    let digest = name(&registry, &format!("app@{}", made.manifest.0));
    let want = cri::Image {
        id: id.clone(),
        repo_tags: vec![tag.clone()],
        repo_digests: vec![digest.clone()],
        size: size as u64,
        uid: Some(cri::Int64Value { value: 1002 }),
        ..Default::default()
    };
    assert_eq!(stack.images.list(None), std::slice::from_ref(&want));
    for form in [&tag, &digest, &id, &id[7..20].to_owned()] {
        let (image, info) = stack.images.status(&spec(form), false).await.unwrap().expect("it is there");
        assert_eq!((image, info.len()), (want.clone(), 0));
    }
    let (_, info) = stack.images.status(&spec(&id), true).await.unwrap().unwrap();
    let info: Value = serde_json::from_str(&info["info"]).unwrap();
    assert_eq!(info["chainID"], made.top());
    assert_eq!(info["imageSpec"]["config"]["User"], "1002:1003");
    assert_eq!(info["imageSpec"]["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);

    for record in stack.records().await {
        assert_eq!(record.labels["io.cri-containerd.image"], "managed", "{}", record.name);
        assert_eq!(record.target.digest, made.manifest.0);
    }
    assert_eq!(stack.records().await.len(), 3);
    assert_eq!(stack.snapshots("overlayfs").await.len(), 3);
    let image = stack.images.resolve(&tag).unwrap();
    assert_eq!((image.config().env, image.config().cmd), (vec!["A=1".to_owned()], vec!["true".to_owned()]));
    assert_eq!(image.document()["config"]["User"], "1002:1003");
    assert!(stack.images.status(&spec("nothing"), true).await.unwrap().is_none());
    let only = cri::ImageFilter { image: Some(spec(&tag)) };
    assert_eq!(stack.images.list(Some(&only)).len(), 1);
    let none = cri::ImageFilter { image: Some(spec("nothing")) };
    assert_eq!(stack.images.list(Some(&none)), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_without_tag_and_with_digest_are_pulled() {
    let (registry, made) = served().await;
    registry.add("app", "latest", &made);
    let stack = Stack::new().await;
    stack.pull(&name(&registry, "app")).await.unwrap();
    let list = stack.images.list(None);
    assert_eq!(list[0].repo_tags, [name(&registry, "app:latest")]);

    let stack = Stack::new().await;
    let digest = name(&registry, &format!("app@{}", made.manifest.0));
    stack.pull(&name(&registry, &format!("app:1@{}", made.manifest.0))).await.unwrap();
    let list = stack.images.list(None);
    assert_eq!((list[0].repo_tags.len(), list[0].repo_digests.as_slice()), (0, &[digest][..]));

    for bad in ["", "A/B", "app@sha256:1", "http://x/y"] {
        assert_eq!(stack.pull(bad).await.unwrap_err().class(), Class::InvalidArgument, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_an_index_is_the_one_of_this_platform() {
    let registry = Registry::start().await;
    let made = images::three();
    let other = images::image_for(&Platform::parse("linux/s390x").unwrap(), &[images::tar(&[("x", b"y")])]);
    registry.add("app", "a", &made);
    registry.add("app", "b", &other);
    let index = images::index(&[(&other, "linux/s390x"), (&made, &Platform::host().to_string())]);
    registry.add_document("app", "1", images::INDEX, &index);
    let stack = Stack::new().await;
    let id = stack.pull(&name(&registry, "app:1")).await.unwrap();
    assert_eq!(id, made.config.0.as_str());
    let size: usize = [&index, &made.manifest].into_iter().chain(&made.blobs()).map(|b| b.1.len()).sum();
    assert_eq!(stack.images.list(None)[0].size, size as u64);
    assert_eq!(stack.images.list(None)[0].repo_digests, [name(&registry, &format!("app@{}", index.0))]);

    // What is for no platform in particular comes last, wherever it stands.
    let mut index: Value = serde_json::from_slice(&index.1).unwrap();
    index["manifests"][0].as_object_mut().unwrap().remove("platform");
    registry.add_document("app", "2", images::INDEX, &images::blob(index.to_string()));
    assert_eq!(stack.pull(&name(&registry, "app:2")).await.unwrap(), made.config.0.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_fetched_again_but_the_tag_is_looked_up() {
    let (registry, made) = served().await;
    let stack = Stack::new().await;
    let tag = name(&registry, "app:1");
    let first = stack.pull(&tag).await.unwrap();
    registry.clear();
    assert_eq!(stack.pull(&tag).await.unwrap(), first);
    assert_eq!(registry.count(Method::GET, "/blobs/"), 0);
    assert!(registry.count(Method::HEAD, "/manifests/1") > 0);

    // The tag moves on; the image it was on keeps its digest.
    let next = of_user(&made, "www-data");
    registry.add("app", "1", &next);
    let second = stack.pull(&tag).await.unwrap();
    assert_eq!(second, next.config.0.as_str());
    assert_eq!(stack.images.resolve(&tag).unwrap().id, next.config.0);
    let old = stack.images.resolve(&first).unwrap();
    assert_eq!((old.names.len(), old.digests.len()), (0, 1));
    assert_eq!(stack.images.resolve(&second).unwrap().username, "www-data");
    // Only the config and the manifest differ.
    for layer in &made.layers {
        assert_eq!(registry.count(Method::GET, layer.0.as_str()), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_want_the_same_share_one_pull() {
    let (registry, made) = served().await;
    let stack = Stack::new().await;
    let tag = name(&registry, "app:1");
    // All have asked before the first answer can come.
    let waiting = futures::future::join_all((0..20).map(|_| stack.pull(&tag)));
    let ids = waiting.await;
    assert!(ids.iter().all(|id| id.as_ref().is_ok_and(|id| id == made.config.0.as_str())), "{ids:?}");
    assert_eq!(registry.count(Method::HEAD, "/manifests/"), 1);
    for (digest, _) in made.blobs() {
        assert_eq!(registry.count(Method::GET, digest.as_str()), 1, "{digest}");
    }
    assert!(stack.images.flights.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_an_image_by_somebody_elses_credentials() {
    let (registry, _) = served().await;
    registry.require(Auth::Basic(basic()));
    let stack = Stack::new().await;
    let image = spec(&name(&registry, "app:1"));
    let may = stack.images.pull(&image, credentials(""), None);
    let may_not = stack.images.pull(&image, None, None);
    let (may, may_not) = tokio::join!(may, may_not);
    may.unwrap();
    assert_eq!(may_not.unwrap_err().class(), Class::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_their_host_alone() {
    let (registry, made) = served().await;
    registry.require(Auth::Basic(basic()));
    let stack = Stack::new().await;
    let image = spec(&name(&registry, "app:1"));
    let other = stack.images.pull(&image, credentials("https://other.example"), None).await;
    assert_eq!(other.unwrap_err().class(), Class::Unauthenticated);
    let sent = || registry.seen().iter().any(|s| s.headers.contains_key(http::header::AUTHORIZATION));
    assert!(!sent());

    // A host that the registry sends on to gets nothing.
    let (elsewhere, _) = served().await;
    registry.fault(made.layers[0].0.as_str(), [Fault::Redirect(format!("http://{}", elsewhere.addr))]);
    stack.images.pull(&image, credentials(&format!("https://{}", registry.addr)), None).await.unwrap();
    assert!(sent());
    assert_eq!(elsewhere.count(Method::GET, made.layers[0].0.as_str()), 1);
    assert!(elsewhere.seen().iter().all(|s| !s.headers.contains_key(http::header::AUTHORIZATION)));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_every_kind_are_taken() {
    let (registry, _) = served().await;
    // No secret goes over plain HTTP but where that is ordered.
    let hosts = tempfile::tempdir().unwrap();
    let host = hosts.path().join(registry.addr.to_string());
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("hosts.toml"), format!("server = 'http://{}'", registry.addr)).unwrap();
    let stack =
        Stack::with(config(&format!("registry = {{ config_path = '{}' }}", hosts.path().display()))).await;
    let image = spec(&name(&registry, "app:1"));
    registry.require(Auth::Token { user: "user".into(), secret: "secret".into(), post: true });
    stack.images.pull(&image, credentials(""), None).await.unwrap();
    registry.require(Auth::Token { user: String::new(), secret: "refresh".into(), post: true });
    let identity = cri::AuthConfig { identity_token: "refresh".into(), ..Default::default() };
    stack.images.pull(&image, Some(identity), None).await.unwrap();
    registry.require(Auth::Basic("Bearer ready".into()));
    let ready = cri::AuthConfig { registry_token: "ready".into(), ..Default::default() };
    stack.images.pull(&image, Some(ready), None).await.unwrap();
    let broken = cri::AuthConfig { auth: "%".into(), ..Default::default() };
    let error = stack.images.pull(&image, Some(broken), None).await.unwrap_err();
    assert_eq!(error.class(), Class::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_whose_they_are() {
    let (registry, _) = served().await;
    let stack = Stack::new().await;
    let error = stack.pull(&name(&registry, "nothing:1")).await.unwrap_err();
    assert!(error.is_not_found() && error.message().contains("nothing:1"), "{}", error.message());
    registry.fault("/manifests/", vec![Fault::Status(503, Vec::new()); 20]);
    let error = stack.pull(&name(&registry, "app:1")).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.message().starts_with("RegistryUnavailable: "), "{}", error.message());
    // Nobody listens there.
    let error = stack.pull("127.0.0.1:1/app:1").await.unwrap_err();
    assert!(error.message().starts_with("RegistryUnavailable: "), "{}", error.message());
    assert_eq!((stack.images.list(None).len(), stack.records().await.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_falls_silent_is_given_up() {
    let (registry, made) = served().await;
    let stack = Stack::with(config("image_pull_progress_timeout = '400ms'")).await;
    let tag = name(&registry, "app:1");
    registry.fault(made.layers[2].0.as_str(), [Fault::Stall(1000)]);
    let error = tokio::time::timeout(PATIENCE, stack.pull(&tag)).await.expect("in time").unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    let message = error.message();
    assert!(
        message.starts_with("RegistryUnavailable: ") && message.contains("image_pull_progress_timeout"),
        "{message}"
    );
    assert_eq!(stack.images.list(None), []);
    // The retry goes on where this one stopped.
    stack.pull(&tag).await.unwrap();
    assert_eq!(stack.images.list(None).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_waits_for_stops_and_can_be_taken_up() {
    let (registry, made) = served().await;
    let stack = Stack::new().await;
    let tag = name(&registry, "app:1");
    let layer = made.layers[2].0.to_string();
    registry.fault(&layer, [Fault::Stall(1000)]);
    {
        let (one, two) = (stack.pull(&tag), stack.pull(&tag));
        let mut one = Box::pin(one);
        let mut two = Box::pin(two);
        let mut asked = Box::pin(async {
            loop {
                let next = registry.requests.notified();
                if registry.count(Method::GET, &layer) > 0 {
                    break;
                }
                next.await;
            }
        });
        tokio::select! {
            _ = &mut one => panic!("it cannot end"),
            _ = &mut two => panic!("it cannot end"),
            () = &mut asked => {}
        }
        drop(one);
        // Somebody still waits.
        assert!(two.as_mut().now_or_never().is_none());
        assert!(!stack.images.flights.is_empty());
    }
    let done = tokio::time::timeout(PATIENCE, stack.pull(&tag)).await.expect("the first has let go");
    done.unwrap();
    assert_eq!(stack.images.list(None).len(), 1);
    assert_eq!(stack.snapshots("overlayfs").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_images_say_so() {
    let (registry, made) = served().await;
    registry.add("other", "1", &of_user(&made, "1"));
    let pause = name(&registry, "app:1");
    let stack = Stack::with(config(&format!("pinned_images = {{ sandbox = '{pause}' }}"))).await;
    assert_eq!(stack.images.config().sandbox_image(), pause);
    stack.pull(&pause).await.unwrap();
    stack.pull(&name(&registry, "other:1")).await.unwrap();
    let pinned: Vec<_> =
        stack.images.list(None).into_iter().filter(|i| i.pinned).map(|i| i.repo_tags).collect();
    assert_eq!(pinned, [vec![pause.clone()]]);
    let record = stack.db.images().get(&stack.cx, &pause).await.unwrap();
    assert_eq!(record.labels["io.cri-containerd.pinned"], "pinned");
    assert!(stack.restarted().await.resolve(&pause).unwrap().pinned);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_of_old_configurations_are_asked() {
    let (registry, made) = served().await;
    let text = format!("[registry.mirrors.'up.example']\nendpoint = ['http://{}']", registry.addr);
    let stack = Stack::with(config(&text)).await;
    assert_eq!(stack.pull("up.example/app:1").await.unwrap(), made.config.0.as_str());
    assert_eq!(stack.images.list(None)[0].repo_tags, ["up.example/app:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_configuration_are_sent() {
    let (registry, _) = served().await;
    let stack = Stack::with(config("[registry.headers]\nX-Rack = ['12']")).await;
    stack.pull(&name(&registry, "app:1")).await.unwrap();
    assert!(registry.seen().iter().all(|s| s.headers["x-rack"] == "12"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_handlers_snapshotter_is_unpacked_into() {
    let (registry, _) = served().await;
    let stack = Stack::with(config("[runtime_platforms.vm]\nsnapshotter = 'native'")).await;
    let mut image = spec(&name(&registry, "app:1"));
    image.runtime_handler = "vm".into();
    stack.images.pull(&image, None, None).await.unwrap();
    assert_eq!((stack.snapshots("native").await.len(), stack.snapshots("overlayfs").await.len()), (3, 0));
    // As older clients say it.
    image.runtime_handler.clear();
    stack.images.pull(&image, None, Some(&cri::PodSandboxConfig::default())).await.unwrap();
    assert_eq!(stack.snapshots("overlayfs").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn unpacked_layers_may_be_discarded() {
    let (registry, made) = served().await;
    let stack = Stack::with(config("discard_unpacked_layers = true")).await;
    let tag = name(&registry, "app:1");
    stack.pull(&tag).await.unwrap();
    windlass_core::gc::Collector::collect(&*stack.db).await.unwrap();
    assert!(!stack.has(&made.layers[0].0).await && stack.has(&made.config.0).await);
    assert_eq!(stack.snapshots("overlayfs").await.len(), 3);
    // It is whole all the same, for a daemon that starts now too.
    assert!(stack.restarted().await.resolve(&tag).is_some());
    let key = "rootfs";
    let image = stack.images.resolve(&tag).unwrap();
    stack.images.prepare_rootfs(&stack.cx, key, &image, None, Default::default()).await.unwrap();
    let other = stack.images.prepare_rootfs(&stack.cx, key, &image, Some("native"), Default::default()).await;
    assert_eq!(other.unwrap_err().class(), Class::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_snapshotters_are_told_of_the_image() {
    let (registry, made) = served().await;
    let stack = Stack::with(config("disable_snapshot_annotations = false")).await;
    let tag = name(&registry, "app:1");
    stack.pull(&tag).await.unwrap();
    let info = stack.db.snapshotter("overlayfs").unwrap().stat(&stack.cx, &made.chain(1)).await.unwrap();
    assert_eq!(info.labels["containerd.io/snapshot/cri.image-ref"], tag);
    assert_eq!(info.labels["containerd.io/snapshot/cri.layer-digest"], made.layers[0].0.as_str());
    let layers = &info.labels["containerd.io/snapshot/cri.image-layers"];
    assert_eq!(layers.split(',').count(), 3);
}
