//! Images as volumes of pods: a read-only view of an image, mounted once per pod and image, which all of the pod's
//! containers share. The mounts outlive the daemon; they go with the pod.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use windlass_core::{Class, Error, Filters, Labels, Result, blocking, mount, tree, validate};

use super::unpack::Access;
use super::{Image, Images};

/// Label of a volume's snapshot: the pod.
const LABEL_POD: &str = "io.windlass.cri.image-volume";
/// Label: no collection takes it. It goes with the pod.
const LABEL_ROOT: &str = "containerd.io/gc.root";
/// How CRI marks a failure to mount an image.
const MOUNT_FAILED: &str = "ImageVolumeMountFailed";
const MAX_PATH: usize = 4096;

/// An image to be mounted.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    /// Id of the pod.
    pub pod: String,
    /// The image, as it was asked for: anything that [`Images::resolve`] takes.
    pub image: String,
    /// A directory in it, empty for all of it.
    pub sub_path: String,
    /// Empty for the default one.
    pub snapshotter: String,
    /// Id mappings: `windlass_core::snapshot::LABEL_UIDMAP` and its like.
    pub labels: Labels,
}

impl Images {
    /// Mounts an image for a pod, where it is not mounted already; answers the directory to bind into a container, with no
    /// symbolic link in its path. Nothing of it can be written to.
    ///
    /// *Not found* for an image that has not been pulled and for a sub path that is not there; *invalid argument* for a sub
    /// path that leads up, or is no directory. Messages begin with CRI's `ImageVolumeMountFailed`.
    pub async fn volume(self: &Arc<Self>, volume: Volume) -> Result<PathBuf> {
        let this = self.clone();
        // In a task of its own: a mount that has begun is finished under its lock.
        let task = tokio::spawn(async move {
            let shown = volume.image.clone();
            this.mounted(volume).await.map_err(|e| e.context(format!("{MOUNT_FAILED}: image {shown:?}")))
        });
        task.await.map_err(|e| Error::internal("mount of an image ended unexpectedly").with_source(e))?
    }

    async fn mounted(&self, volume: Volume) -> Result<PathBuf> {
        validate::identifier("pod id", &volume.pod)?;
        check_sub_path(&volume.sub_path)?;
        let image = self
            .resolve(&volume.image)
            .ok_or_else(|| Error::not_found("not found: it has to be pulled first"))?;
        let snapshotter = match volume.snapshotter.as_str() {
            "" => self.config.snapshotter.clone(),
            id => id.to_owned(),
        };
        validate::identifier("snapshotter", &snapshotter)?;
        let name = format!("{snapshotter}@{}", image.id.encoded());
        let target = self.of_pod(&volume.pod).join(&name);
        let _held = self.volumes.lock(&volume.pod).await;
        if !blocking({
            let target = target.clone();
            move || is_mounted(&target)
        })
        .await?
        {
            self.mount(&volume, &image, &snapshotter, &name, &target).await?;
        }
        blocking(move || inside(&target, &volume.sub_path)).await
    }

    async fn mount(
        &self,
        volume: &Volume,
        image: &Image,
        snapshotter: &str,
        name: &str,
        target: &Path,
    ) -> Result<()> {
        let key = key(&volume.pod, name);
        let mut labels = volume.labels.clone();
        labels.insert(LABEL_POD.into(), volume.pod.clone());
        labels.insert(LABEL_ROOT.into(), "image volume".into());
        let made = self.snapshot(&self.cx, &key, image, Some(snapshotter), labels, Access::View).await;
        let mounts = match made {
            // Of an attempt that was cut off, or of a time before a reboot.
            Err(error) if error.is(Class::AlreadyExists) => {
                self.snapshotter(snapshotter)?.mounts(&self.cx, &key).await?
            }
            made => made?,
        };
        let place = target.to_owned();
        let done = blocking(move || {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o711);
            builder
                .create(&place)
                .map_err(|e| Error::io(format!("make directory {}", place.display()), e))?;
            mount::mount_all(&mounts, &place)
        })
        .await;
        if done.is_err() {
            self.drop_view(snapshotter, &key).await?;
        }
        done
    }

    /// Unmounts all images that are mounted for a pod. None is fine; what could not be let go is tried again by the next
    /// call.
    pub async fn release_volumes(self: &Arc<Self>, pod: &str) -> Result<()> {
        validate::identifier("pod id", pod)?;
        let (this, pod) = (self.clone(), pod.to_owned());
        let task = tokio::spawn(async move { this.released(&pod).await });
        task.await.map_err(|e| Error::internal("unmount of images ended unexpectedly").with_source(e))?
    }

    async fn released(&self, pod: &str) -> Result<()> {
        let directory = self.of_pod(pod);
        let _held = self.volumes.lock(pod).await;
        let listed = directory.clone();
        for name in blocking(move || entries(&listed)).await? {
            let target = directory.join(&name);
            blocking(move || unmount(&target)).await?;
            let snapshotter = name.split('@').next().unwrap_or_default();
            self.drop_view(snapshotter, &key(pod, &name)).await?;
            let target = directory.join(&name);
            blocking(move || remove_dir(&target)).await?;
        }
        blocking(move || remove_dir(&directory)).await
    }

    async fn drop_view(&self, snapshotter: &str, key: &str) -> Result<()> {
        match self.snapshotter(snapshotter)?.remove(&self.cx, key).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// After a start: lets go what belongs to pods that are no more, and views that a reboot unmounted.
    pub async fn restore_volumes(self: &Arc<Self>, is_there: impl Fn(&str) -> bool + Send) -> Result<()> {
        let volumes = self.state.join("volumes");
        for pod in blocking(move || entries(&volumes)).await? {
            if !is_there(&pod) {
                self.release_volumes(&pod).await?;
            }
        }
        for id in self.database.snapshotters() {
            let snapshotter = self.snapshotter(&id)?;
            let filters = Filters::parse(&[format!("labels.\"{LABEL_POD}\"")])?;
            let views: Vec<_> = snapshotter.list(&self.cx, &filters).collect().await;
            for view in views {
                let view = view?;
                let pod = view.labels.get(LABEL_POD).map_or("", String::as_str);
                let name = view.name.rsplit(' ').next().unwrap_or_default();
                let target = self.of_pod(pod).join(name);
                if validate::identifier("pod id", pod).is_err()
                    || !blocking(move || is_mounted(&target)).await?
                {
                    self.drop_view(&id, &view.name).await?;
                }
            }
        }
        Ok(())
    }

    fn of_pod(&self, pod: &str) -> PathBuf {
        self.state.join("volumes").join(pod)
    }
}

fn key(pod: &str, name: &str) -> String {
    format!("image-volume {pod} {name}")
}

/// Names in a directory; none where it is not there.
fn entries(directory: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::io(format!("read directory {}", directory.display()), e);
    let list = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.map_err(failed)?,
    };
    list.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove_dir(directory: &Path) -> Result<()> {
    match std::fs::remove_dir(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove directory {}", directory.display()), e))
        }
        _ => Ok(()),
    }
}

fn unmount(target: &Path) -> Result<()> {
    if is_mounted(target)? { mount::unmount_all(target) } else { Ok(()) }
}

/// Whether something is mounted on a directory; nothing is on one that is not there.
fn is_mounted(target: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    match rustix::fs::statx(CWD, target, flags, StatxFlags::TYPE) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::io(format!("stat {}", target.display()), e.into())),
    }
}

fn check_sub_path(path: &str) -> Result<()> {
    let bad = |why: &str| {
        Err(Error::invalid(format!("sub path {:?} {why}", path.chars().take(128).collect::<String>())))
    };
    if path.len() > MAX_PATH {
        return bad("is too long");
    }
    if path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return bad("must be relative and must not lead up");
    }
    Ok(())
}

/// The directory `sub` below `root`. Links in it, which the image made, lead nowhere outside; the path that is answered has
/// none, so that whoever uses it comes to the same place.
fn inside(root: &Path, sub: &str) -> Result<PathBuf> {
    if sub.is_empty() {
        return Ok(root.to_owned());
    }
    let fd = tree::open_dir(root).map_err(|e| Error::io(format!("open {}", root.display()), e))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let found = rustix::fs::openat2(&fd, sub, flags, Mode::empty(), resolve).map_err(|e| match e {
        rustix::io::Errno::NOTDIR => Error::invalid(format!("sub path {sub:?} is no directory")),
        e => Error::io(format!("open sub path {sub:?}"), e.into()),
    })?;
    let (real_root, real) = (path_of(fd.as_fd())?, path_of(found.as_fd())?);
    let below = real
        .strip_prefix(&real_root)
        .map_err(|_| Error::invalid(format!("sub path {sub:?} leads outside of the image")))?;
    // An empty one would add a slash.
    Ok(if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) })
}

/// Where an open directory lies.
fn path_of(fd: BorrowedFd<'_>) -> Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|e| Error::io("find an open directory", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        symlink("/a", root.join("absolute")).unwrap();
        symlink("../../../outside", root.join("a/up")).unwrap();
        symlink("../../../a/b", root.join("a/clamped")).unwrap();
        symlink("/proc/self/root", root.join("a/magic")).unwrap();
        let at = |sub: &str| inside(&root, sub);
        assert_eq!(at("").unwrap(), root);
        assert_eq!(at("a/b").unwrap(), root.join("a/b"));
        // Links are followed as a process that has the image as its root would.
        assert_eq!(at("absolute/b").unwrap(), root.join("a/b"));
        assert_eq!(at("a/clamped").unwrap(), root.join("a/b"));
        assert!(at("a/up").unwrap_err().is_not_found());
        assert!(at("a/magic").is_err());
        assert!(at("file").unwrap_err().is(Class::InvalidArgument));
        assert!(at("nothing").unwrap_err().is_not_found());
        for bad in ["/etc", "..", "a/../..", "a/..", "a\0b", &"a/".repeat(4000)] {
            assert!(check_sub_path(bad).is_err(), "{bad}");
        }
    }
}
