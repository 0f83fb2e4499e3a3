//! Images as file systems: for containers, as volumes, and what they take up.

use windlass_core::Class;
use windlass_core::mount;

use super::*;

fn volume(pod: &str, image: &str, sub_path: &str) -> Volume {
    Volume { pod: pod.into(), image: image.into(), sub_path: sub_path.into(), ..Volume::default() }
}

/// A registry with an image that tries to get out.
async fn hostile() -> (Registry, Made) {
    let registry = Registry::start().await;
    let made = images::image(&[images::tar(&[
        ("data/", b""),
        ("data/in/", b""),
        ("data/in/file", b"inside"),
        ("plain", b"x"),
    ])]);
    registry.add("vol", "1", &made);
    (registry, made)
}

fn is_read_only(dir: &Path) -> bool {
    matches!(std::fs::write(dir.join("new"), "x"), Err(e) if e.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_a_file_system_of_its_own() {
    let (registry, _) = served().await;
    let stack = Stack::new().await;
    let id = stack.pull(&name(&registry, "app:1")).await.unwrap();
    let image = stack.images.resolve(&id).unwrap();
    // Unpacked where it was pulled for, and where it was not.
    for snapshotter in ["overlayfs", "native"] {
        let prepared =
            stack.images.prepare_rootfs(&stack.cx, "c1", &image, Some(snapshotter), Default::default());
        let mounts = prepared.await.unwrap();
        let seen = tokio::task::spawn_blocking(move || {
            let temp = mount::temp(&mounts).unwrap();
            std::fs::write(temp.path().join("mine"), "x").unwrap();
            (
                std::fs::read_to_string(temp.path().join("etc/a")).unwrap(),
                temp.path().join("etc/gone").exists(),
            )
        });
        assert_eq!(seen.await.unwrap(), ("two".to_owned(), false), "{snapshotter}");
    }
    assert_eq!(stack.snapshots("native").await.len(), 4);
    let labels = stack.db.content().info(&stack.cx, &image.id).await.unwrap().labels;
    assert_eq!(labels["containerd.io/gc.ref.snapshot.native"], image.chain_id);
    let unknown =
        stack.images.prepare_rootfs(&stack.cx, "c2", &image, Some("none"), Default::default()).await;
    assert!(unknown.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_only_fetched_is_unpacked_when_it_is_run() {
    let (registry, made) = served().await;
    let stack = Stack::new().await;
    stack.pull_as_client(registry.image("app:1"), false).await;
    let tag = name(&registry, "app:1");
    stack.until(|images| images.resolve(&tag).is_some()).await;
    assert_eq!(stack.snapshots("overlayfs").await.len(), 0);
    let image = stack.images.resolve(&tag).unwrap();
    let records = stack.records().await.len();
    let mounts =
        stack.images.snapshot(&stack.cx, "v", &image, None, Default::default(), unpack::Access::View).await;
    assert!(mounts.is_ok(), "{mounts:?}");
    assert!(stack.snapshots("overlayfs").await.contains(&made.top()));
    assert_eq!(stack.records().await.len(), records);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_read_only_volume_of_a_pod() {
    let (registry, _) = hostile().await;
    let stack = Stack::new().await;
    let tag = name(&registry, "vol:1");
    let early = stack.images.volume(volume("pod", &tag, "")).await.unwrap_err();
    assert!(
        early.is_not_found() && early.message().starts_with("ImageVolumeMountFailed: "),
        "{}",
        early.message()
    );
    stack.pull(&tag).await.unwrap();

    // Several containers at once: one mount.
    let all = futures::future::join_all((0..5).map(|_| stack.images.volume(volume("pod", &tag, "")))).await;
    let whole = all[0].as_ref().unwrap().clone();
    assert!(all.iter().all(|v| v.as_ref().unwrap() == &whole));
    assert_eq!(std::fs::read_to_string(whole.join("data/in/file")).unwrap(), "inside");
    assert!(is_read_only(&whole));
    assert_eq!(stack.snapshots("overlayfs").await.len(), 2);

    let part = stack.images.volume(volume("pod", &tag, "data/in")).await.unwrap();
    assert_eq!(part, whole.join("data/in"));
    for (hostile, class) in [
        ("../../etc", Class::InvalidArgument),
        ("/etc", Class::InvalidArgument),
        ("data/../..", Class::InvalidArgument),
        ("plain", Class::InvalidArgument),
        ("nothing", Class::NotFound),
    ] {
        let error = stack.images.volume(volume("pod", &tag, hostile)).await.unwrap_err();
        assert_eq!(error.class(), class, "{hostile}");
        assert!(error.message().starts_with("ImageVolumeMountFailed: "), "{}", error.message());
    }
    for pod in ["../x", "", "a/b"] {
        assert_eq!(
            stack.images.volume(volume(pod, &tag, "")).await.unwrap_err().class(),
            Class::InvalidArgument
        );
    }

    // No collection takes what is mounted; it goes with the pod.
    windlass_core::gc::Collector::collect(&*stack.db).await.unwrap();
    assert_eq!(stack.snapshots("overlayfs").await.len(), 2);
    stack.images.volume(volume("other", &tag, "")).await.unwrap();
    assert!(whole.join("plain").exists());
    stack.images.release_volumes("pod").await.unwrap();
    assert!(!whole.exists());
    stack.images.release_volumes("pod").await.unwrap();
    assert_eq!(stack.snapshots("overlayfs").await.len(), 2);
    stack.images.release_volumes("other").await.unwrap();
    assert_eq!(stack.snapshots("overlayfs").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_outlive_the_daemon_and_not_their_pods() {
    let (registry, _) = hostile().await;
    let stack = Stack::new().await;
    let tag = name(&registry, "vol:1");
    stack.pull(&tag).await.unwrap();
    let kept = stack.images.volume(volume("kept", &tag, "")).await.unwrap();
    let gone = stack.images.volume(volume("gone", &tag, "")).await.unwrap();
    let lost = stack.images.volume(volume("lost", &tag, "")).await.unwrap();
    // As after a reboot.
    mount::unmount_all(&lost).unwrap();

    let again = stack.restarted().await;
    again.restore_volumes(|pod| pod != "gone").await.unwrap();
    assert!(kept.join("plain").exists());
    assert!(!gone.exists());
    assert_eq!(stack.snapshots("overlayfs").await.len(), 2);
    assert_eq!(again.volume(volume("kept", &tag, "")).await.unwrap(), kept);
    assert_eq!(again.volume(volume("lost", &tag, "")).await.unwrap(), lost);
    assert!(lost.join("plain").exists());
    for pod in ["kept", "lost"] {
        again.release_volumes(pod).await.unwrap();
    }
    assert_eq!(stack.snapshots("overlayfs").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_images_take_up_is_told_and_remembered() {
    let (registry, _) = served().await;
    let stack =
        Stack::with(config("stats_collect_period = 3600\n[runtime_platforms.vm]\nsnapshotter = 'native'"))
            .await;
    let id = stack.pull(&name(&registry, "app:1")).await.unwrap();
    let image = stack.images.resolve(&id).unwrap();
    stack.images.prepare_rootfs(&stack.cx, "c1", &image, None, Default::default()).await.unwrap();
    let info = stack.images.fs_info().await.unwrap();
    let place = |u: &cri::FilesystemUsage| PathBuf::from(&u.fs_id.as_ref().unwrap().mountpoint);
    assert_eq!(
        info.image_filesystems.iter().map(place).collect::<Vec<_>>(),
        [stack.root.path().join("overlayfs"), stack.root.path().join("native"),]
    );
    let bytes = |u: &cri::FilesystemUsage| u.used_bytes.unwrap().value;
    // The noise of the uppermost layer alone.
    assert!(bytes(&info.image_filesystems[0]) >= 300_000);
    assert!(
        info.image_filesystems[0].inodes_used.unwrap().value > 5 && info.image_filesystems[0].timestamp > 0
    );
    assert_eq!(bytes(&info.image_filesystems[1]), 0);
    assert!(bytes(&info.container_filesystems[0]) < bytes(&info.image_filesystems[0]));
    let (written, at) = stack.images.written(None, "c1").await.unwrap().unwrap();
    assert!(written.inodes >= 1 && at <= std::time::SystemTime::now());
    assert!(stack.images.written(None, "c2").await.unwrap().is_none());
    // Within the period nothing is measured.
    stack.images.remove(&spec(&id)).await.unwrap();
    assert_eq!(stack.images.fs_info().await.unwrap(), info);
}
