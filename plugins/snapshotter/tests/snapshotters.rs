//! Both snapshotters against the contract, and what their directories must show.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use windlass_core::metastore::MetaStore;
use windlass_core::snapshot::{self, Snapshotter};
use windlass_core::testsuite::snapshot as suite;
use windlass_core::{Context, Labels, mount};
use windlass_snapshotter::{Native, Options, Overlay};

fn cx() -> Context {
    Context::new("test")
}

fn store(root: &Path) -> Arc<dyn MetaStore> {
    let directory = root.join("meta");
    std::fs::create_dir_all(&directory).unwrap();
    windlass_metastore::open(&directory, windlass_metastore::Options::default()).unwrap()
}

fn overlay(root: &Path, options: Options) -> Overlay {
    Overlay::open(root, "overlayfs", store(root), options).unwrap()
}

fn numbers(root: &Path) -> usize {
    std::fs::read_dir(root.join("snapshots")).unwrap().count()
}

#[tokio::test]
async fn overlayfs_holds_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let snapshotter = overlay(dir.path(), Options::default());
    suite::run(&suite::Env { snapshotter: &snapshotter, cx: cx() }).await;
    snapshotter.cleanup(&cx()).await.unwrap();
    assert_eq!(numbers(dir.path()), 0);
}

#[tokio::test]
async fn native_holds_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let snapshotter = Native::open(dir.path(), "native", store(dir.path())).unwrap();
    suite::run(&suite::Env { snapshotter: &snapshotter, cx: cx() }).await;
    snapshotter.cleanup(&cx()).await.unwrap();
    assert_eq!(numbers(dir.path()), 0);
}

#[tokio::test]
async fn a_start_sweeps_and_mends() {
    let dir = tempfile::tempdir().unwrap();
    let mounts = {
        let snapshotter = overlay(dir.path(), Options::default());
        snapshotter.prepare(&cx(), "kept", "", Labels::new()).await.unwrap()
    };
    let fs = Path::new(&mounts[0].source);
    // A crash between directory and record, and a power cut that took a directory whose record was synced.
    std::fs::create_dir_all(dir.path().join("snapshots/77/fs")).unwrap();
    std::fs::remove_dir_all(fs.parent().unwrap()).unwrap();
    let snapshotter = overlay(dir.path(), Options::default());
    assert!(fs.exists() && fs.parent().unwrap().join("work").exists());
    snapshotter.cleanup(&cx()).await.unwrap();
    assert_eq!(numbers(dir.path()), 1);
    let next = snapshotter.prepare(&cx(), "next", "", Labels::new()).await.unwrap();
    assert!(next[0].source.ends_with("/78/fs"), "numbers are not used twice: {}", next[0].source);
}

#[tokio::test]
async fn labels_map_ids() {
    let dir = tempfile::tempdir().unwrap();
    let snapshotter = overlay(dir.path(), Options::default());
    let capabilities = snapshotter.capabilities();
    for capability in
        [snapshot::CAPABILITY_REMAP_IDS, snapshot::CAPABILITY_ONLY_REMAP_IDS, snapshot::CAPABILITY_REBASE]
    {
        assert!(capabilities.iter().any(|c| c == capability), "{capability}");
    }
    snapshotter.prepare(&cx(), "base", "", Labels::new()).await.unwrap();
    let base = snapshotter.mounts(&cx(), "base").await.unwrap();
    std::fs::write(Path::new(&base[0].source).join("file"), "x").unwrap();
    snapshotter.commit(&cx(), "layer", "base", Default::default()).await.unwrap();
    let pair = |label: &str, map: &str| (label.to_owned(), map.to_owned());
    let labels =
        Labels::from([pair(snapshot::LABEL_UIDMAP, "0:1000:10"), pair(snapshot::LABEL_GIDMAP, "0:2000:10")]);
    let mounts = snapshotter.prepare(&cx(), "mapped", "layer", labels.clone()).await.unwrap();
    assert_eq!(
        (mounts[0].value("uidmap"), mounts[0].value("gidmap")),
        (Some("0:1000:10"), Some("0:2000:10"))
    );
    let temp = mount::temp(&mounts).unwrap();
    for path in [temp.path().to_owned(), temp.path().join("file")] {
        use std::os::unix::fs::MetadataExt;
        let meta = path.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1000, 2000), "{}", path.display());
    }
    let half = Labels::from([pair(snapshot::LABEL_UIDMAP, "0:1000:10")]);
    assert!(snapshotter.prepare(&cx(), "half", "layer", half).await.is_err());
    let odd = Labels::from([pair(snapshot::LABEL_UIDMAP, "x"), pair(snapshot::LABEL_GIDMAP, "0:1:1")]);
    assert!(snapshotter.prepare(&cx(), "odd", "layer", odd).await.is_err());
}

#[tokio::test]
async fn options_are_honoured() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        upperdir_label: true,
        sync_remove: true,
        slow_chown: true,
        mount_options: vec!["index=on".into()],
    };
    let snapshotter = overlay(dir.path(), options);
    snapshotter.prepare(&cx(), "key", "", Labels::new()).await.unwrap();
    let info = snapshotter.stat(&cx(), "key").await.unwrap();
    let upper = info.labels.get("containerd.io/snapshot/overlay.upperdir").unwrap();
    assert!(Path::new(upper).is_dir());
    assert!(!snapshotter.capabilities().iter().any(|c| c == snapshot::CAPABILITY_ONLY_REMAP_IDS));
    snapshotter.commit(&cx(), "layer", "key", Default::default()).await.unwrap();
    let mounts = snapshotter.prepare(&cx(), "top", "layer", Labels::new()).await.unwrap();
    assert!(mounts[0].has("index=on") && !mounts[0].has("index=off"));
    snapshotter.remove(&cx(), "top").await.unwrap();
    assert_eq!(numbers(dir.path()), 1, "removal waited for the files");
    let comma = dir.path().join("a,b");
    std::fs::create_dir(&comma).unwrap();
    assert!(
        Overlay::open(&comma, "overlayfs", store(dir.path().join("other").as_path()), Options::default())
            .is_err()
    );
}

#[tokio::test]
async fn a_layer_unpacked_alone_takes_after_its_parent() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = tempfile::tempdir().unwrap();
    let snapshotter = overlay(dir.path(), Options::default());
    let base = snapshotter.prepare(&cx(), "base", "", Labels::new()).await.unwrap();
    let base = Path::new(&base[0].source);
    std::fs::create_dir_all(base.join("tmp/deep")).unwrap();
    std::fs::set_permissions(base.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(base.join("tmp/deep"), Some(5), Some(6)).unwrap();
    std::os::unix::fs::chown(base, Some(1), Some(2)).unwrap();
    snapshotter.commit(&cx(), "lower", "base", Default::default()).await.unwrap();
    let alone = snapshotter.prepare(&cx(), "alone", "", Labels::new()).await.unwrap();
    let alone = Path::new(&alone[0].source);
    std::fs::create_dir_all(alone.join("tmp/deep/own")).unwrap();
    std::fs::create_dir(alone.join("named")).unwrap();
    for implied in ["", "tmp", "tmp/deep"] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(alone.join(implied), snapshot::XATTR_IMPLIED, b"y", flags).unwrap();
    }
    let options = snapshot::CommitOptions { parent: Some("lower".into()), ..Default::default() };
    snapshotter.commit(&cx(), "upper", "alone", options).await.unwrap();
    let look = |path: &str| {
        let meta = alone.join(path).metadata().unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    assert_eq!(look("tmp"), (0o1777, 0, 0));
    assert_eq!(look("tmp/deep"), (0o755, 5, 6));
    assert_eq!((look("").1, look("").2), (1, 2));
    assert_eq!(look("tmp/deep/own").1, 0);
    for path in ["", "tmp", "tmp/deep"] {
        assert!(rustix::fs::getxattr(alone.join(path), snapshot::XATTR_IMPLIED, &mut [0u8; 8][..]).is_err());
    }
}
