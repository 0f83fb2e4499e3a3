//! Pulls, from registries that behave and from such that do not.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use async_trait::async_trait;
use common::images::{self, INDEX, MANIFEST, Made, blob, image_for, noise, tar, three};
use common::registry::{Auth, Fault, Registry};
use common::{Lines, Stack};
use http::Method;
use http::header::{AUTHORIZATION, RANGE};
use windlass_core::gc::Collector as _;
use windlass_core::metadata::Database as _;
use windlass_core::platform::Platform;
use windlass_core::transfer::{AuthRequest, Authenticator, Credentials, Destination, Source, Transferrer};
use windlass_core::{Class, Context, Digest, Result};
use windlass_transfer::Config;
use windlass_transfer::local::recover;

const APP: &str = "app:1";

async fn served(made: &Made) -> Registry {
    let registry = Registry::start().await;
    registry.add("app", "1", made);
    registry
}

async fn pulled(stack: &Stack, made: &Made) {
    for (digest, _) in made.blobs() {
        assert!(stack.has(&digest).await);
    }
    stack.look(&made.top(), check_three).await;
    stack.assert_no_lease().await;
    assert_eq!(stack.ingests().await, []);
}

fn check_three(root: &std::path::Path) {
    assert_eq!(std::fs::read_to_string(root.join("etc/a")).unwrap(), "two");
    assert!(!root.join("etc/gone").exists());
    assert_eq!(std::fs::read(root.join("data")).unwrap(), noise(300_000, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_unpacked_in_one_pass() {
    let made = three();
    let other = image_for(&Platform::parse("linux/s390x").unwrap(), &[tar(&[("x", b"y")])]);
    let registry = Registry::start().await;
    registry.add("app", "amd", &made);
    registry.add("app", "z", &other);
    let host = Platform::host().to_string();
    let index = images::index(&[(&other, "linux/s390x"), (&made, &host)]);
    registry.add_document("app", "1", INDEX, &index);
    let stack = Stack::new("overlayfs");
    let lines = Arc::new(Lines::default());
    let from = registry.image(APP);
    let name = from.reference.clone();
    let mut to = stack.store(&name);
    to.all_metadata = true;
    to.labels.insert("mine".into(), "1".into());
    let pulled_images = stack
        .local
        .transfer(&stack.cx, Source::Registry(from), Destination::ImageStore(to), lines.clone())
        .await
        .unwrap();
    assert_eq!((pulled_images[0].name.as_str(), &pulled_images[0].target.digest), (name.as_str(), &index.0));
    assert_eq!(pulled_images[0].labels["mine"], "1");
    pulled(&stack, &made).await;
    // The other platform's documents are there, its layers are not.
    assert!(stack.has(&other.manifest.0).await && stack.has(&other.config.0).await);
    assert!(!stack.has(&other.layers[0].0).await);

    let labels = stack.labels(&index.0).await;
    assert_eq!(labels["containerd.io/gc.ref.content.m.0"], other.manifest.0.as_str());
    assert_eq!(labels["containerd.io/gc.ref.content.m.1"], made.manifest.0.as_str());
    assert_eq!(labels["containerd.io/distribution.source.127.0.0.1"], "app");
    let labels = stack.labels(&made.manifest.0).await;
    assert_eq!(labels["containerd.io/gc.ref.content.config"], made.config.0.as_str());
    assert_eq!(labels["containerd.io/gc.ref.content.l.2"], made.layers[2].0.as_str());
    let labels = stack.labels(&made.config.0).await;
    assert_eq!(labels["containerd.io/gc.ref.snapshot.overlayfs"], made.top());
    let labels = stack.labels(&made.layers[1].0).await;
    assert_eq!(labels["containerd.io/uncompressed"], made.diff_ids[1].as_str());
    assert_eq!(labels["containerd.io/distribution.source.127.0.0.1"], "app");

    let snapshots = stack.snapshots().await;
    assert_eq!(snapshots.len(), 3);
    let top = snapshots.iter().find(|s| s.name == made.top()).unwrap();
    assert_eq!(top.parent, made.chain(2));
    assert_eq!(top.labels["containerd.io/snapshot.ref"], made.top());
    for layer in &made.layers {
        assert_eq!(registry.count(Method::GET, layer.0.as_str()), 1);
    }
    let lines = lines.0.lock().unwrap();
    let of = |name: String| -> Vec<String> {
        lines.iter().filter(|l| l.name == name).map(|l| l.event.clone()).collect()
    };
    let layer = of(format!("layer-{}", made.layers[2].0));
    assert_eq!((layer[0].as_str(), layer.last().unwrap().as_str()), ("waiting", "extracted"));
    assert!(layer.contains(&"complete".to_owned()));
    assert_eq!(of(name.clone()), ["fetching image content", "saved"]);
    assert_eq!(lines[0].event, format!("Resolving from OCI Registry ({name})"));
    assert_eq!(lines.last().unwrap().event, format!("Completed pull from OCI Registry ({name})"));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_keep_their_whiteouts() {
    let made = three();
    let registry = served(&made).await;
    let stack = Stack::new("overlayfs");
    stack.pull(registry.image(APP)).await.unwrap();
    let found = walk(&stack.path().join("snapshots"), "gone");
    assert!(found.iter().any(|p| p.symlink_metadata().unwrap().file_type().is_char_device()), "{found:?}");
}

fn walk(dir: &std::path::Path, name: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
        if entry.file_name() == name {
            found.push(entry.path());
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path(), name));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshotter_without_rebase_gets_layers_one_after_the_other() {
    let made = three();
    let registry = served(&made).await;
    let stack = Stack::new("native");
    stack.pull(registry.image(APP)).await.unwrap();
    pulled(&stack, &made).await;
    let sequential = Stack::with("overlayfs", Config { max_concurrent_unpacks: 1, ..Config::default() });
    sequential.pull(registry.image(APP)).await.unwrap();
    pulled(&sequential, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_and_stalled_downloads_are_resumed_at_the_byte() {
    let made = three();
    let registry = served(&made).await;
    let layer = made.layers[2].0.as_str();
    registry.fault(layer, [Fault::Break(100_000), Fault::Stall(50_000), Fault::Short(1_000)]);
    let stack = Stack::new("overlayfs");
    stack.pull(registry.image(APP)).await.unwrap();
    pulled(&stack, &made).await;
    let ranges: Vec<String> = registry
        .seen()
        .iter()
        .filter(|s| s.path.contains(layer))
        .filter_map(|s| Some(s.headers.get(RANGE)?.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(ranges.last().unwrap(), "bytes=151000-", "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_without_ranges_are_read_again() {
    let made = three();
    let registry = served(&made).await;
    registry.fault(made.layers[2].0.as_str(), [Fault::Break(100_000), Fault::NoRange]);
    let stack = Stack::new("overlayfs");
    stack.pull(registry.image(APP)).await.unwrap();
    pulled(&stack, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_may_be_fetched_by_parts() {
    let made = three();
    let registry = served(&made).await;
    registry.fault(made.layers[2].0.as_str(), [Fault::Break(10)]);
    let config = Config { concurrent_layer_fetch_buffer: 64 << 10, ..Config::default() };
    let stack = Stack::with("overlayfs", config.clone());
    stack.pull(registry.image(APP)).await.unwrap();
    pulled(&stack, &made).await;
    assert!(registry.count(Method::GET, made.layers[2].0.as_str()) >= 2);
    // A host that ignores ranges is asked once more, as a whole.
    registry.clear();
    registry.fault(made.layers[2].0.as_str(), [Fault::NoRange, Fault::NoRange, Fault::NoRange]);
    let stack = Stack::with("overlayfs", config);
    stack.pull(registry.image(APP)).await.unwrap();
    pulled(&stack, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_registries_are_asked_again() {
    let made = three();
    let registry = served(&made).await;
    registry.fault(
        "/manifests/1",
        [
            Fault::Status(429, vec![("retry-after", "0".into())]),
            Fault::Status(500, vec![]),
            Fault::Status(503, vec![]),
        ],
    );
    registry.fault(made.layers[0].0.as_str(), [Fault::Status(502, vec![]), Fault::Status(429, vec![])]);
    let stack = Stack::new("overlayfs");
    stack.pull(registry.image(APP)).await.unwrap();
    pulled(&stack, &made).await;
    let always = Stack::new("overlayfs");
    registry.fault("/manifests/1", vec![Fault::Status(500, vec![]); 50]);
    let error = always.pull(registry.image(APP)).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{}", error.chain());
    always.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_leave_nothing() {
    let made = three();
    let top = made.layers[2].0.clone();
    for (fault, class) in [
        (Fault::Lie, Class::FailedPrecondition),
        (Fault::Length(10), Class::Unknown),
        (Fault::Length(-10), Class::Unknown),
        (Fault::Page, Class::Unknown),
        (Fault::Status(404, vec![]), Class::NotFound),
        (Fault::Status(403, vec![]), Class::PermissionDenied),
    ] {
        for of in [&top, &made.config.0, &made.manifest.0] {
            let registry = served(&made).await;
            registry.fault(of.as_str(), [fault.clone()]);
            let stack = Stack::new("overlayfs");
            let error = stack.pull(registry.image(APP)).await.unwrap_err();
            assert_eq!(error.class(), class, "{}", error.chain());
            stack.assert_clean_of(of).await;
            stack.pull(registry.image(APP)).await.unwrap();
            pulled(&stack, &made).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_for_people_is_named() {
    let registry = served(&three()).await;
    registry.fault("/manifests/", [Fault::Page]);
    let stack = Stack::new("overlayfs");
    let error = stack.pull(registry.image(APP)).await.unwrap_err();
    assert!(error.chain().contains("web page"), "{}", error.chain());
    stack.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_lies_about_layers_leaves_nothing() {
    let tars = [tar(&[("a", b"1")]), tar(&[("b", b"2")])];
    let wrong = [Digest::of(&tars[0]), Digest::of(b"other")];
    let made = images::image_with(&Platform::host(), &wrong, &tars);
    let registry = served(&made).await;
    for snapshotter in ["overlayfs", "native"] {
        let stack = Stack::new(snapshotter);
        let error = stack.pull(registry.image(APP)).await.unwrap_err();
        assert!(error.chain().contains("wrong diff id"), "{}", error.chain());
        assert!(!stack.has(&made.layers[1].0).await || snapshotter == "native");
        assert!(stack.snapshots().await.iter().all(|s| s.kind == windlass_core::snapshot::Kind::Committed));
    }
    let few = images::image_with(&Platform::host(), &wrong[..1], &tars);
    let registry = served(&few).await;
    let stack = Stack::new("overlayfs");
    assert!(stack.pull(registry.image(APP)).await.unwrap_err().chain().contains("don't match"));
    stack.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_documents_are_refused() {
    let made = three();
    let registry = served(&made).await;
    let stack = Stack::new("overlayfs");
    let both = blob(format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}}"#,
        images::descriptor(images::CONFIG, &made.config)
    ));
    registry.add_document("app", "both", MANIFEST, &both);
    registry.add_document("app", "both-index", INDEX, &both);
    for tag in ["both", "both-index"] {
        let error = stack.pull(registry.image(&format!("app:{tag}"))).await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument, "{}", error.chain());
    }
    // An index of an index of an index …
    let mut inner = images::index(&[(&made, &Platform::host().to_string())]);
    for _ in 0..10_000 {
        let next = blob(
            serde_json::json!({"schemaVersion": 2, "manifests": [images::descriptor(INDEX, &inner)]})
                .to_string(),
        );
        registry.add_document("app", "deep", INDEX, &next);
        inner = next;
    }
    registry.clear();
    let error = stack.pull(registry.image("app:deep")).await.unwrap_err();
    assert!(error.chain().contains("nests"), "{}", error.chain());
    assert!(registry.seen().len() < 100);
    // A manifest and a config that are too large to be read.
    let large = blob(noise(5 << 20, 1));
    registry.add_document("app", "large", MANIFEST, &large);
    assert!(stack.pull(registry.image("app:large")).await.is_err());
    let config = blob(noise(5 << 20, 2));
    registry.add_blobs(std::slice::from_ref(&config));
    let manifest = serde_json::json!({"schemaVersion": 2, "config": images::descriptor(images::CONFIG, &config), "layers": []});
    registry.add_document("app", "config", MANIFEST, &blob(manifest.to_string()));
    let error = stack.pull(registry.image("app:config")).await.unwrap_err();
    assert_eq!(error.class(), Class::InvalidArgument, "{}", error.chain());
    stack.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_that_are_not_there_are_not_found() {
    let other = image_for(&Platform::parse("linux/s390x").unwrap(), &[tar(&[("x", b"y")])]);
    let registry = served(&other).await;
    registry.add_document("app", "1", INDEX, &images::index(&[(&other, "linux/s390x")]));
    let stack = Stack::new("overlayfs");
    let error = stack.pull(registry.image(APP)).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.chain().contains("linux/s390x"));
    let error = stack.pull(registry.image("app:missing")).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    stack.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_fetched_again() {
    let made = three();
    let registry = served(&made).await;
    let stack = Stack::new("overlayfs");
    stack.pull(registry.image(APP)).await.unwrap();
    registry.clear();
    stack.pull(registry.image(APP)).await.unwrap();
    assert_eq!(registry.count(Method::GET, "/"), 0, "{:?}", registry.seen());
    // Snapshots that are missing are made from content.
    let snapshots = stack.db.snapshotter("overlayfs").unwrap();
    for n in (1..=3).rev() {
        snapshots.remove(&stack.cx, &made.chain(n)).await.unwrap();
    }
    stack.pull(registry.image(APP)).await.unwrap();
    assert_eq!(registry.count(Method::GET, "/"), 0);
    pulled(&stack, &made).await;
    // Content that is missing is fetched, though the snapshot is there.
    stack.db.content().delete(&stack.cx, &made.layers[0].0).await.unwrap();
    stack.db.collect().await.unwrap();
    stack.pull(registry.image(APP)).await.unwrap();
    assert_eq!(registry.count(Method::GET, "/blobs/"), 1);
    pulled(&stack, &made).await;
}

/// Runs a collection at every line of progress.
struct Collecting(Arc<dyn windlass_core::metadata::Database>);

impl windlass_core::transfer::ProgressSink for Collecting {
    fn progress(&self, _: windlass_core::transfer::Progress) {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.0.collect())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_held_as_soon_as_it_is_counted_on() {
    let made = three();
    let registry = served(&made).await;
    let stack = Stack::new("overlayfs");
    let name = stack.pull(registry.image(APP)).await.unwrap().remove(0).name;
    // Nothing refers to content and snapshots any more, and they are not collected yet.
    stack.db.images().delete(&stack.cx, &name, None).await.unwrap();
    let (from, to) = (registry.image(APP), stack.store(&name));
    let sink = Arc::new(Collecting(stack.db.clone()));
    let to = Destination::ImageStore(to);
    stack.local.transfer(&stack.cx, Source::Registry(from), to, sink).await.unwrap();
    pulled(&stack, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pulls_fetch_once() {
    let made = three();
    let registry = served(&made).await;
    let stack = Stack::new("overlayfs");
    let pulls = (0..8).map(|n| {
        let (local, from) = (stack.local.clone(), registry.image(APP));
        let to = stack.store(&format!("name/of:{n}"));
        let cx = stack.cx.clone();
        tokio::spawn(async move {
            local
                .transfer(
                    &cx,
                    Source::Registry(from),
                    Destination::ImageStore(to),
                    Arc::new(Lines::default()),
                )
                .await
        })
    });
    for pull in pulls.collect::<Vec<_>>() {
        pull.await.unwrap().unwrap();
    }
    for (digest, _) in made.blobs() {
        assert_eq!(registry.count(Method::GET, digest.as_str()), 1);
    }
    pulled(&stack, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_hangs_does_not_hold_up_another_on_the_same_base() {
    let base = tar(&[("base", b"x")]);
    let (slow, quick) = (
        images::image(&[base.clone(), tar(&[("slow", &noise(200_000, 3))])]),
        images::image(&[base, tar(&[("quick", b"y")])]),
    );
    let registry = Registry::start().await;
    registry.add("app", "slow", &slow);
    registry.add("app", "quick", &quick);
    registry.fault(slow.layers[1].0.as_str(), vec![Fault::Stall(1000); 4]);
    let stack = Arc::new(Stack::new("overlayfs"));
    let hanging = tokio::spawn({
        let (stack, from) = (stack.clone(), registry.image("app:slow"));
        async move { stack.pull(from).await }
    });
    while registry.count(Method::GET, slow.layers[1].0.as_str()) == 0 {
        registry.requests.notified().await;
    }
    stack.pull(registry.image("app:quick")).await.unwrap();
    assert!(!hanging.is_finished());
    hanging.await.unwrap().unwrap();
    assert_eq!(stack.snapshots().await.len(), 3);
    stack.assert_no_lease().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_leaves_what_can_be_resumed() {
    let made = three();
    let registry = served(&made).await;
    let layer = made.layers[2].0.clone();
    let config = Config::default();
    let stack = Arc::new(Stack::with("overlayfs", config));
    registry.fault(layer.as_str(), [Fault::Stall(100_000)]);
    let pulling = tokio::spawn({
        let (stack, from) = (stack.clone(), registry.image(APP));
        async move { stack.pull(from).await }
    });
    while stack.ingests().await.iter().all(|(_, offset)| *offset != 100_000) {
        tokio::task::yield_now().await;
    }
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    // It takes back what it began; the wait is for its own task.
    while !stack.snapshots().await.is_empty()
        || !stack.db.leases().list(&stack.cx, &Default::default()).await.unwrap().is_empty()
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(stack.ingests().await, [(format!("layer-{layer}"), 100_000)]);
    registry.clear();
    stack.pull(registry.image(APP)).await.unwrap();
    pulled(&stack, &made).await;
    let resumed = registry.seen().into_iter().find(|s| s.path.contains(layer.as_str())).unwrap();
    assert_eq!(resumed.headers[RANGE], "bytes=100000-");
}

struct Known(Credentials);

#[async_trait]
impl Authenticator for Known {
    async fn credentials(&self, request: AuthRequest) -> Result<Credentials> {
        assert!(!request.host.is_empty() && !request.www_authenticate.is_empty());
        Ok(self.0.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_ask_get_credentials() {
    let made = three();
    let basic = || Credentials::Basic { username: "me".into(), secret: "pw".into() };
    let token = |user: &str, post| Auth::Token { user: user.into(), secret: "pw".into(), post };
    for (auth, credentials) in [
        (Auth::Basic("Basic bWU6cHc=".into()), basic()),
        (token("me", true), basic()),
        (token("me", false), basic()),
        (token("", true), Credentials::Refresh { secret: "pw".into() }),
        (token("me", false), Credentials::Header { value: "Bearer token-x".into(), expire_at: None }),
    ] {
        let registry = served(&made).await;
        registry.require(auth.clone());
        let stack = Stack::new("overlayfs");
        let mut from = registry.image(APP);
        let error = stack.pull(from.clone()).await.unwrap_err();
        assert_eq!(error.class(), Class::Unauthenticated, "{}", error.chain());
        from.authenticator =
            Some(Arc::new(Known(Credentials::Basic { username: "x".into(), secret: "y".into() })));
        let error = stack.pull(from.clone()).await.unwrap_err();
        assert_eq!(error.class(), Class::Unauthenticated, "{}", error.chain());
        stack.assert_clean().await;
        registry.clear();
        from.authenticator = Some(Arc::new(Known(credentials)));
        stack.pull(from).await.unwrap();
        pulled(&stack, &made).await;
        // One token serves the whole pull.
        assert!(registry.count(Method::POST, "/token") <= 1 && registry.count(Method::GET, "/token") <= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_with_their_host() {
    let made = three();
    let (registry, elsewhere) = (served(&made).await, served(&made).await);
    // The other one asks as well, and is told nothing.
    registry.require(Auth::Basic("Basic bWU6cHc=".into()));
    let to = format!("http://{}", elsewhere.addr);
    for layer in &made.layers {
        registry.fault(layer.0.as_str(), [Fault::Redirect(to.clone())]);
    }
    let stack = Stack::new("overlayfs");
    let mut from = registry.image(APP);
    from.headers.push(("x-secret".into(), "s".into()));
    from.authenticator =
        Some(Arc::new(Known(Credentials::Basic { username: "me".into(), secret: "pw".into() })));
    stack.pull(from.clone()).await.unwrap();
    pulled(&stack, &made).await;
    assert!(
        registry
            .seen()
            .iter()
            .any(|s| s.headers.contains_key(AUTHORIZATION) && s.headers.contains_key("x-secret"))
    );
    assert!(elsewhere.count(Method::GET, "/blobs/") >= 3);
    for seen in elsewhere.seen() {
        assert!(
            !seen.headers.contains_key(AUTHORIZATION) && !seen.headers.contains_key("x-secret"),
            "{seen:?}"
        );
    }
    // Where the other host asks for credentials, the pull fails rather than telling.
    let guarded = served(&made).await;
    guarded.require(Auth::Basic("Basic bWU6cHc=".into()));
    registry.fault("/blobs/", vec![Fault::Redirect(format!("http://{}", guarded.addr)); 20]);
    let fresh = Stack::new("overlayfs");
    assert_eq!(fresh.pull(from).await.unwrap_err().class(), Class::Unauthenticated);
    assert!(guarded.seen().iter().all(|s| !s.headers.contains_key(AUTHORIZATION)));
    fresh.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_redirects_end() {
    let made = three();
    let registry = served(&made).await;
    registry.fault("/manifests/", vec![Fault::Redirect(format!("http://{}", registry.addr)); 100]);
    let stack = Stack::new("overlayfs");
    let error = stack.pull(registry.image(APP)).await.unwrap_err();
    assert!(error.chain().contains("redirects"), "{}", error.chain());
    stack.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_come_without_credentials() {
    let made = three();
    let (registry, foreign) = (served(&made).await, served(&made).await);
    let layer = &made.layers[2];
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest.1).unwrap();
    let url = format!("http://{}/v2/app/blobs/{}", foreign.addr, layer.0);
    manifest["layers"][2]["urls"] = serde_json::json!(["ftp://x/y", url]);
    registry.add_document("app", "1", MANIFEST, &blob(manifest.to_string()));
    registry.require(Auth::Basic("Basic bWU6cHc=".into()));
    let stack = Stack::new("overlayfs");
    let mut from = registry.image(APP);
    from.authenticator =
        Some(Arc::new(Known(Credentials::Basic { username: "me".into(), secret: "pw".into() })));
    stack.pull(from).await.unwrap();
    pulled(&stack, &made).await;
    assert_eq!(foreign.count(Method::GET, layer.0.as_str()), 1);
    assert!(!foreign.seen()[0].headers.contains_key(AUTHORIZATION));
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_fail_over() {
    let made = three();
    let (upstream, broken, mirror) = (served(&made).await, Registry::start().await, served(&made).await);
    mirror.remove_blob(&made.layers[1].0);
    broken.fault("/", vec![Fault::Status(500, vec![]); 100]);
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("registry.example");
    std::fs::create_dir(&host).unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
         [host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"http://{}\".header]\nx-mirror = \"yes\"\n",
        upstream.addr, broken.addr, mirror.addr, mirror.addr
    );
    std::fs::write(host.join("hosts.toml"), text).unwrap();
    let config = Config { config_path: dir.path().to_str().unwrap().into(), ..Config::default() };
    let stack = Stack::with("overlayfs", config);
    let mut from = upstream.image(APP);
    from.reference = "registry.example/app:1".into();
    from.default_scheme = String::new();
    let images = stack.pull(from).await.unwrap();
    assert_eq!(images[0].name, "registry.example/app:1");
    pulled(&stack, &made).await;
    assert!(!broken.seen().is_empty());
    assert!(mirror.seen().iter().all(|s| s.query == "ns=registry.example" && s.headers["x-mirror"] == "yes"));
    let asked: Vec<String> = upstream.seen().into_iter().map(|s| s.path).collect();
    assert_eq!(asked, [format!("/v2/app/blobs/{}", made.layers[1].0)]);
    let labels = stack.labels(&made.layers[1].0).await;
    assert_eq!(labels["containerd.io/distribution.source.registry.example"], "app");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_by_digest_needs_no_tag() {
    let made = three();
    let registry = served(&made).await;
    let stack = Stack::new("overlayfs");
    let name = format!("app@{}", made.manifest.0);
    let images = stack.pull(registry.image(&name)).await.unwrap();
    assert_eq!(images[0].target.digest, made.manifest.0);
    let wrong = stack.pull(registry.image("app@sha256:12")).await.unwrap_err();
    assert_eq!(wrong.class(), Class::InvalidArgument);
    let none = stack.pull(registry.image("app")).await.unwrap_err();
    assert_eq!(none.class(), Class::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_falls_back_to_plain_http() {
    let made = three();
    let registry = served(&made).await;
    let stack = Stack::new("overlayfs");
    let mut from = registry.image(APP);
    from.default_scheme = String::new();
    stack.pull(from).await.unwrap();
    pulled(&stack, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_namespace_shares_content() {
    let made = three();
    let registry = served(&made).await;
    let mut stack = Stack::new("overlayfs");
    stack.pull(registry.image(APP)).await.unwrap();
    registry.clear();
    stack.cx = Context::new("other");
    stack.pull(registry.image(APP)).await.unwrap();
    pulled(&stack, &made).await;
    let fetched: Vec<_> =
        registry.seen().into_iter().filter(|s| s.method == Method::GET).map(|s| s.path).collect();
    assert_eq!(fetched, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_transfer_left_is_cleaned_up() {
    let stack = Stack::new("overlayfs");
    let snapshots = stack.db.snapshotter("overlayfs").unwrap();
    let leases = stack.db.leases();
    let dead = "0123456789abcdef-1";
    let ingest = async |cx: &Context, reference: &str| {
        let options =
            windlass_core::content::WriterOptions { reference: reference.into(), ..Default::default() };
        stack.db.content().writer(cx, options).await.unwrap().write("half".into()).await.unwrap();
    };
    for lease in
        [format!("transfer-{dead}"), format!("transfer-{dead}2"), "mine".into(), "transfer-mine".into()]
    {
        leases.create(&stack.cx, &lease, Default::default()).await.unwrap();
        let cx = stack.cx.clone().with_lease(&lease);
        let key = if lease == "mine" {
            "extract-123-AbC_ sha256:x".into()
        } else {
            format!("extract-{dead} {lease}")
        };
        snapshots.prepare(&cx, &key, "", Default::default()).await.unwrap();
        if lease.ends_with('2') {
            ingest(&cx, "layer-x").await;
            ingest(&cx, &format!("import-{dead}")).await;
        }
    }
    // Four half-made things of transfers under whatever lease, and the lease that protects nothing.
    assert_eq!(recover::clean(stack.db.clone()).await, 5);
    let keys: Vec<_> = stack.snapshots().await.into_iter().map(|s| s.name).collect();
    assert_eq!(keys, ["extract-123-AbC_ sha256:x"]);
    let leases: Vec<_> =
        leases.list(&stack.cx, &Default::default()).await.unwrap().into_iter().map(|l| l.id).collect();
    assert_eq!(leases, ["mine".to_owned(), format!("transfer-{dead}2"), "transfer-mine".into()]);
    assert_eq!(stack.ingests().await, [("layer-x".to_owned(), 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_needs_an_authority_or_an_order_to_do_without() {
    let made = three();
    let registry = Registry::secure().await;
    registry.add("app", "1", &made);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(format!("localhost_{}_", registry.addr.port()));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("ca.pem"), &registry.certificate).unwrap();
    std::fs::write(dir.join("other.pem"), Registry::secure().await.certificate).unwrap();
    let url = format!("https://localhost:{}", registry.addr.port());
    for (text, good) in [
        ("ca = \"ca.pem\"\n", true),
        ("skip_verify = true\n", true),
        ("ca = \"other.pem\"\n", false),
        ("ca = \"nothing.pem\"\n", false),
        ("", false),
    ] {
        std::fs::write(dir.join("hosts.toml"), format!("server = \"{url}\"\n{text}")).unwrap();
        let config = Config { config_path: root.path().to_str().unwrap().into(), ..Config::default() };
        let stack = Stack::with("overlayfs", config);
        let mut from = registry.image(APP);
        from.reference = format!("localhost:{}/app:1", registry.addr.port());
        from.default_scheme = String::new();
        let result = stack.pull(from).await;
        assert_eq!(result.is_ok(), good, "{text}: {result:?}");
        if good {
            pulled(&stack, &made).await;
        } else {
            assert!(registry.seen().is_empty());
            stack.assert_clean().await;
        }
        registry.clear();
    }
}
