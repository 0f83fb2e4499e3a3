//! Import, export, tag and echo.

#![allow(clippy::unwrap_used)]

mod common;

use common::images::{self, gzip, image_for, noise, tar, three};
use common::registry::Registry;
use common::{Memory, Pieces, Stack};
use windlass_core::platform::Platform;
use windlass_core::transfer::{Destination, ExportOptions, ImageReference, ImageStore, Source};
use windlass_core::{Class, Digest, Result};
use windlass_transfer::archive::reader::Reader;

const NAME: &str = "docker.io/library/app:1";

fn prefix(name: &str, add_digest: bool) -> ImageReference {
    ImageReference {
        name: name.into(),
        is_prefix: true,
        allow_overwrite: true,
        add_digest,
        skip_named_digest: true,
    }
}

async fn import(stack: &Stack, data: &[u8], references: Vec<ImageReference>) -> Result<Vec<String>> {
    let to = ImageStore { extra_references: references, ..stack.store("") };
    let from = Source::Archive { media_type: String::new(), force_compress: false, bytes: Pieces::of(data) };
    let images = stack.transfer(from, Destination::ImageStore(to)).await?;
    Ok(images.into_iter().map(|i| i.name).collect())
}

async fn export(stack: &Stack, options: ExportOptions) -> Result<Vec<u8>> {
    let memory = Memory::default();
    let from = ImageStore { name: NAME.into(), ..ImageStore::default() };
    let to = Destination::Archive { options, bytes: Box::new(memory.clone()) };
    stack.transfer(Source::ImageStore(from), to).await?;
    let data = memory.0.lock().unwrap().clone();
    Ok(data)
}

/// A stack that has the three-layer image under [`NAME`].
async fn with_image() -> (Stack, images::Made) {
    let made = three();
    let other = image_for(&Platform::parse("linux/s390x").unwrap(), &[tar(&[("x", b"y")])]);
    let registry = Registry::start().await;
    registry.add("app", "a", &made);
    registry.add("app", "b", &other);
    let index = images::index(&[(&made, &Platform::host().to_string()), (&other, "linux/s390x")]);
    registry.add_document("app", "1", images::INDEX, &index);
    let stack = Stack::new("overlayfs");
    stack.pull_to(registry.image("app:1"), stack.store(NAME)).await.unwrap();
    (stack, made)
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(archive);
    let mut names = Vec::new();
    while let Some(entry) = reader.entry().unwrap() {
        names.push(entry.name);
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_can_be_imported() {
    let (stack, made) = with_image().await;
    let archive = export(&stack, ExportOptions::default()).await.unwrap();
    let found = names(&archive);
    assert!(found.windows(2).all(|w| w[0] < w[1]), "{found:?}");
    for name in ["blobs/", "blobs/sha256/", "index.json", "manifest.json", "oci-layout"] {
        assert!(found.iter().any(|n| n == name), "{name} in {found:?}");
    }
    for data in [archive.clone(), gzip(&archive), zstd::stream::encode_all(&archive[..], 1).unwrap()] {
        let other = Stack::new("overlayfs");
        let images = import(&other, &data, vec![prefix("x", false)]).await.unwrap();
        assert_eq!(images, [NAME]);
        for (digest, _) in made.blobs() {
            assert!(other.has(&digest).await);
        }
        assert_eq!(other.snapshots().await.len(), 3);
        let labels = other.labels(&made.config.0).await;
        assert_eq!(labels["containerd.io/gc.ref.snapshot.overlayfs"], made.top());
        other
            .look(&made.top(), |root| assert!(root.join("data").exists() && !root.join("etc/gone").exists()))
            .await;
        other.assert_no_lease().await;
        assert_eq!(other.ingests().await, []);
        // Again, into what is there.
        import(&other, &data, vec![prefix("x", false)]).await.unwrap();
    }
    let skipped =
        export(&stack, ExportOptions { skip_compatibility_manifest: true, ..ExportOptions::default() })
            .await
            .unwrap();
    assert!(!names(&skipped).contains(&"manifest.json".to_owned()));
    // Not all platforms are here.
    let all = ExportOptions { all_platforms: true, ..ExportOptions::default() };
    assert!(export(&stack, all).await.unwrap_err().is_not_found());
}

fn docker_archive(made: &images::Made, tars: &[Vec<u8>], tags: &[&str]) -> Vec<u8> {
    let config = format!("{}.json", made.config.0.encoded());
    let layers: Vec<String> = (0..tars.len()).map(|n| format!("l{n}/layer.tar")).collect();
    let manifest = serde_json::json!([{"Config": config, "RepoTags": tags, "Layers": layers}]).to_string();
    let mut files: Vec<(&str, &[u8])> =
        vec![(&config, &made.config.1), ("manifest.json", manifest.as_bytes())];
    for (name, tar) in layers.iter().zip(tars) {
        files.push((name, tar));
    }
    tar(&files)
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_archives_are_imported() {
    let tars = [tar(&[("a", b"1")]), tar(&[("b", &noise(100_000, 9))])];
    let made = images::image(&tars);
    let archive = docker_archive(&made, &tars, &["app:1", "me/other"]);
    let stack = Stack::new("overlayfs");
    let mut images = import(&stack, &archive, vec![prefix("x", false)]).await.unwrap();
    images.sort();
    assert_eq!(images, ["docker.io/library/app:1", "docker.io/me/other:latest"]);
    assert_eq!(stack.snapshots().await.len(), 2);
    assert!(stack.has(&made.diff_ids[0]).await);
    // By digest where the archive gives no name.
    let nameless = docker_archive(&made, &tars, &[]);
    let images = import(&stack, &nameless, vec![prefix("some/name", true)]).await.unwrap();
    assert!(images.iter().any(|n| n.starts_with("some/name@sha256:")), "{images:?}");
    // Compressed on the way where that is asked for.
    let fresh = Stack::new("overlayfs");
    let to = ImageStore { extra_references: vec![prefix("x", false)], ..fresh.store("") };
    let from =
        Source::Archive { media_type: String::new(), force_compress: true, bytes: Pieces::of(&archive) };
    let images = fresh.transfer(from, Destination::ImageStore(to)).await.unwrap();
    let target = &images[0].target.digest;
    let data = windlass_core::content::read_all(&*database(&fresh).content(), &fresh.cx, target, 1 << 20)
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&data).contains("diff.tar.gzip"));
}

fn database(stack: &Stack) -> std::sync::Arc<dyn windlass_core::metadata::Database> {
    stack.db.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_archives_leave_nothing() {
    let made = three();
    let wrong = format!("blobs/sha256/{}", Digest::of(b"other").encoded());
    let many: Vec<(&str, &[u8])> = vec![("same", b"x"); 20];
    let big = vec![b' '; 5 << 20];
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let good = docker_archive(&made, &[], &["a:1"]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", tar(&[])),
        ("no archive", noise(10_000, 4)),
        ("nothing in it", tar(&many)),
        ("a blob under another's name", tar(&[(&wrong, b"not that")])),
        ("documents without bound", tar(&[("manifest.json", &big)])),
        ("documents without end", tar(&[("manifest.json", deep.as_bytes())])),
        ("an unknown layout", tar(&[("oci-layout", br#"{"imageLayoutVersion":"9"}"#)])),
        ("no index", tar(&[("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)])),
        (
            "files that are not there",
            tar(&[("manifest.json", br#"[{"Config":"../../etc/passwd","Layers":[]}]"#)]),
        ),
        ("bad names", docker_archive(&made, &[], &["../../x:1"])),
        ("layers that do not fit", good.clone()),
        ("cut short", good[..700].to_vec()),
        ("cut short, compressed", gzip(&good)[..60].to_vec()),
    ];
    for (what, data) in cases {
        let stack = Stack::new("overlayfs");
        let error = import(&stack, &data, vec![prefix("x", false)]).await.expect_err(what);
        assert!(
            matches!(error.class(), Class::InvalidArgument | Class::FailedPrecondition),
            "{what}: {}",
            error.chain()
        );
        stack.assert_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_get_further_names() {
    let (stack, _) = with_image().await;
    let from = ImageStore { name: NAME.into(), ..ImageStore::default() };
    let to = ImageStore { name: "other:2".into(), ..ImageStore::default() };
    let images = stack.transfer(Source::ImageStore(from), Destination::ImageStore(to)).await.unwrap();
    assert_eq!(images[0].name, "other:2");
    assert_eq!(database(&stack).images().get(&stack.cx, "other:2").await.unwrap().target, images[0].target);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_echoed() {
    let stack = Stack::new("overlayfs");
    let data = noise(100_000, 5);
    let memory = Memory::default();
    let from = Source::Archive { media_type: "x".into(), force_compress: false, bytes: Pieces::of(&data) };
    let to = Destination::Archive { options: ExportOptions::default(), bytes: Box::new(memory.clone()) };
    stack.transfer(from, to).await.unwrap();
    assert_eq!(*memory.0.lock().unwrap(), data);
}
