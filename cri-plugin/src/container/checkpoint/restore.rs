//! A container made of a checkpoint: taken apart → record → snapshot → changes → visible; and started by CRIU.
//!
//! What an unpacked checkpoint has lies in the container's directory until the container has been started, well or not.
//! The image that it was made of is found by the digest that it records, or pulled by that; no name is given to anything.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use windlass_api::cri;
use windlass_core::diff::Differ;
use windlass_core::mount::{self, Mount};
use windlass_core::{Digest, Error, Labels, Result, blocking, lease};

use super::archive::{self, Config};
use super::make::{LEASE, stamp};
use super::{CHANGES, IMAGES, LOG};
use crate::container::plan::Asked;
use crate::container::remove;
use crate::cri::{Cri, new_id};
use crate::image::Image;
use crate::state::{Container, Sandbox};

/// The key that allows all this.
const KEY: &str = "enable_experimental_restore_via_create";

/// Where a checkpoint is.
enum Source {
    File(PathBuf),
    Image(Arc<Image>),
}

/// A checkpoint taken apart, for the container that is to be made of it.
pub(in crate::container) struct Restored {
    dir: PathBuf,
    /// What it was made of.
    pub(in crate::container) image: Arc<Image>,
    /// What was asked for.
    pub(in crate::container) asked: cri::ContainerConfig,
}

impl Cri {
    /// Takes the checkpoint apart that a container is to be made of, if it is to be made of one: `asked` then names the
    /// image that the checkpoint was made of, and says in annotations what was done. On an error nothing is left.
    ///
    /// *Failed precondition* where that is not switched on, or CRIU is missing; *invalid argument* for what is no
    /// checkpoint.
    pub(in crate::container) async fn unpack_checkpoint(
        self: &Arc<Self>,
        id: &str,
        asked: &mut Asked,
    ) -> Result<Option<Restored>> {
        let Some(source) = self.source(&asked.config) else { return Ok(None) };
        self.may_restore(&asked.sandbox).await?;
        let dir = self.restore_dir(id);
        let unpacked = async {
            let config = match source {
                Source::File(path) => {
                    let to = dir.clone();
                    blocking(move || archive::unpack_file(&path, &to)).await?
                }
                Source::Image(image) => self.unpack_image(&image, &asked.sandbox, &dir).await?,
            };
            let image = self.base_image(&config, &asked.sandbox).await?;
            Ok((config, image))
        };
        match unpacked.await {
            Ok((config, image)) => {
                let before = asked.config.clone();
                rename(&mut asked.config, &config, image.name());
                Ok(Some(Restored { dir, image, asked: before }))
            }
            Err(error) => {
                self.discard_checkpoint(id).await;
                Err(error)
            }
        }
    }

    /// Takes an unpacked checkpoint away whose container has not been begun.
    pub(in crate::container) async fn discard_checkpoint(&self, id: &str) {
        if let Err(error) = remove::delete(vec![self.container_dir(id)]).await {
            tracing::warn!(%id, error = %error.chain(), "a checkpoint's files are left to the next start");
        }
    }

    /// The checkpoint that a request names in place of an image.
    fn source(&self, config: &cri::ContainerConfig) -> Option<Source> {
        let reference = config.image.as_ref().map_or("", |image| image.image.as_str());
        if reference.starts_with('/') {
            return Some(Source::File(PathBuf::from(reference)));
        }
        self.images.resolve(reference).filter(|image| image.checkpoint).map(Source::Image)
    }

    async fn may_restore(&self, sandbox: &Sandbox) -> Result<()> {
        if !self.config.enable_experimental_restore_via_create {
            return Err(Error::precondition(format!(
                "its image is a checkpoint, and restoring is switched off: set {KEY} = true for \
                 io.containerd.cri.v1.runtime, where only trusted checkpoints are restored"
            )));
        }
        self.has_criu(&sandbox.record.handler).await?;
        if crate::sandbox::user_namespace(sandbox.config())?.is_some() {
            return Err(Error::unimplemented(
                "a checkpoint cannot be restored in a pod that has a user namespace: its files have the ids of another",
            ));
        }
        self.differ().map(drop)
    }

    /// Takes the files of an image that holds a checkpoint: as a layer's files they are in a snapshot.
    async fn unpack_image(&self, image: &Arc<Image>, sandbox: &Sandbox, dir: &Path) -> Result<Config> {
        let (lease, key) = (new_id()?, new_id()?);
        let expires = Labels::from([(lease::LABEL_EXPIRE.to_owned(), stamp(SystemTime::now() + LEASE))]);
        self.database.leases().create(&self.cx, &lease, expires).await?;
        let cx = self.cx.clone().with_lease(&lease);
        let handler = self.handler(&sandbox.record.handler)?;
        let name = handler.snapshotter().unwrap_or_else(|| self.images.snapshotter_of(handler.name));
        let unpacked = async {
            let mounts = self.images.view(&cx, &key, image, Some(name)).await?;
            let (to, shown) = (dir.to_owned(), image.name().to_owned());
            let unpacked = blocking(move || {
                let place = mount::temp_read_only(&mounts)?;
                let config = archive::unpack_tree(place.path(), &to);
                config.map_err(|error| error.context(format!("checkpoint in image {shown}")))
            });
            let unpacked = unpacked.await;
            if let Some(snapshotter) = self.database.snapshotter(name)
                && let Err(error) = snapshotter.remove(&cx, &key).await
            {
                // The lease, and with it this, goes in any case.
                tracing::debug!(key, error = %error.chain(), "a view stays until it is collected");
            }
            unpacked
        };
        let unpacked = unpacked.await;
        if let Err(error) = self.database.leases().delete(&self.cx, &lease).await {
            tracing::warn!(lease, error = %error.chain(), "the lease of a checkpoint stays until it expires");
        }
        unpacked
    }

    /// The image that a checkpoint was made of: the very same, by its digest.
    async fn base_image(self: &Arc<Self>, config: &Config, sandbox: &Sandbox) -> Result<Arc<Image>> {
        let shown = |text: &str| text.chars().take(256).collect::<String>();
        let (reference, name) = (config.rootfs_image_ref.as_str(), shown(&config.rootfs_image_name));
        let image = match Base::of(reference) {
            Some(Base::Id(id)) => self.images.resolve(id.as_str()).ok_or_else(|| {
                Error::not_found(format!(
                    "the checkpoint was made of image {id} ({name:?}), which is not there: pull it"
                ))
            })?,
            Some(Base::Name) => match self.images.resolve(reference) {
                Some(image) => image,
                None => self.pull_base(reference, sandbox).await?,
            },
            None => {
                return Err(Error::invalid(format!(
                    "the checkpoint says that it was made of image {:?}, which is neither a name with a digest nor an id",
                    shown(reference)
                )));
            }
        };
        if image.checkpoint {
            return Err(Error::invalid(format!(
                "the checkpoint was made of {}, which is a checkpoint",
                image.id
            )));
        }
        Ok(image)
    }

    async fn pull_base(self: &Arc<Self>, reference: &str, sandbox: &Sandbox) -> Result<Arc<Image>> {
        let spec = cri::ImageSpec {
            image: reference.to_owned(),
            runtime_handler: sandbox.record.handler.clone(),
            ..cri::ImageSpec::default()
        };
        let id = self.images.pull(&spec, None, Some(sandbox.config())).await.map_err(|error| {
            error.context("the image that the checkpoint was made of is not there; pull it first where it needs credentials")
        })?;
        let gone = || Error::unavailable(format!("image {id} was removed meanwhile, try again"));
        self.images.resolve(&id).ok_or_else(gone)
    }

    /// Puts what the container changed into its snapshot. Afterwards, that and the rest of the checkpoint is on disk.
    pub(in crate::container) async fn apply_changes(
        &self,
        restored: &Restored,
        rootfs: Vec<Mount>,
    ) -> Result<()> {
        let (differ, dir) = (self.differ()?.clone(), restored.dir.clone());
        blocking(move || apply(&*differ, &dir, &rootfs)).await.map_err(|error| error.context("restore files"))
    }

    /// Directory of CRIU's images for a container that is to be restored, empty for any other.
    pub(in crate::container) fn images_of(&self, container: &Container) -> String {
        match container.record.asked {
            Some(_) => self.restore_dir(&container.id).join(IMAGES).to_string_lossy().into_owned(),
            None => String::new(),
        }
    }

    /// A restored container's log goes on where it was, unless there is one already.
    pub(in crate::container) async fn restore_log(&self, container: &Container) {
        if container.record.asked.is_none() || container.record.log_path.is_empty() {
            return;
        }
        let (from, to) = (self.restore_dir(&container.id).join(LOG), container.record.log_path.clone());
        if let Err(error) = blocking(move || copy_log(&from, Path::new(&to))).await {
            tracing::warn!(id = %container.id, error = %error.chain(), "the log of a checkpoint is not restored");
        }
    }

    /// A container has been started: nothing of its checkpoint is needed any more.
    pub(in crate::container) async fn forget_checkpoint(&self, container: &Container) {
        if container.record.asked.is_none() {
            return;
        }
        if let Err(error) = remove::delete(vec![self.restore_dir(&container.id)]).await {
            tracing::warn!(id = %container.id, error = %error.chain(), "a checkpoint's files stay until its container goes");
        }
    }

    /// What makes and applies layers.
    pub(super) fn differ(&self) -> Result<&Arc<dyn Differ>> {
        self.differ.as_ref().ok_or_else(|| {
            Error::precondition(
                "checkpoints need the plugin io.containerd.differ.v1.walking, which does not run here",
            )
        })
    }

    fn restore_dir(&self, id: &str) -> PathBuf {
        self.container_dir(id).join("restore")
    }
}

/// How a checkpoint names the image that it was made of.
#[derive(Debug, PartialEq, Eq)]
enum Base {
    Id(Digest),
    /// A name with a digest.
    Name,
}

impl Base {
    fn of(reference: &str) -> Option<Self> {
        let bare = reference.len() == 64 && reference.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = if bare { format!("sha256:{reference}") } else { reference.to_owned() };
        if let Ok(id) = id.parse() {
            return Some(Self::Id(id));
        }
        let (name, digest) = reference.split_once('@')?;
        (!name.is_empty() && digest.parse::<Digest>().is_ok()).then_some(Self::Name)
    }
}

/// The request as the rest of the work takes it: for the image that the checkpoint was made of.
fn rename(config: &mut cri::ContainerConfig, checkpoint: &Config, image: &str) {
    let asked = config.image.take().unwrap_or_default();
    let told = if asked.user_specified_image.is_empty() { &asked.image } else { &asked.user_specified_image };
    let at: String = checkpoint.checkpointed_time.chars().filter(char::is_ascii_graphic).take(64).collect();
    for (key, value) in [("restored", "true"), ("checkpointedAt", &at), ("checkpointImage", told.as_str())] {
        config.annotations.insert(key.to_owned(), value.to_owned());
    }
    config.image =
        Some(cri::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..asked });
}

fn apply(differ: &dyn Differ, dir: &Path, rootfs: &[Mount]) -> Result<()> {
    let path = dir.join(CHANGES);
    let at = |e| Error::io(format!("read {}", path.display()), e);
    match File::open(&path) {
        Ok(mut file) => {
            let media_type = archive::layer_type(&file).map_err(at)?;
            differ.apply_stream(media_type, &mut file, rootfs)?;
            fs::remove_file(&path).map_err(|e| Error::io(format!("remove {}", path.display()), e))?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(at(e)),
    }
    let upper = rootfs.first().and_then(Mount::writes_to).map(Path::new);
    for path in [Some(dir), upper].into_iter().flatten() {
        let synced = File::open(path).and_then(|at| Ok(rustix::fs::syncfs(&at)?));
        synced.map_err(|e| Error::io(format!("sync {}", path.display()), e))?;
    }
    Ok(())
}

/// Whole lines, into a log that is empty.
fn copy_log(from: &Path, to: &Path) -> Result<()> {
    let mut from = match fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(from) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(format!("open {}", from.display()), e)),
    };
    let mut log = crate::io::open_log(to)?;
    let mut copied = || {
        if log.metadata()?.len() != 0 || io::copy(&mut from, &mut log)? == 0 {
            return Ok(());
        }
        let mut last = [0];
        from.seek(SeekFrom::End(-1))?;
        from.read_exact(&mut last)?;
        if last == *b"\n" { Ok(()) } else { log.write_all(b"\n") }
    };
    copied().map_err(|e| Error::io(format!("write {}", to.display()), e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::Ordering;

    use windlass_core::Class;
    use windlass_core::metadata::Database as _;

    use super::*;
    use crate::container::tests::Stack;

    fn asks_for(image: &str) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn an_image_is_recorded_by_its_digest_or_not_at_all() {
        let hex = "a".repeat(64);
        let id: Digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(Base::of(id.as_str()), Some(Base::Id(id.clone())));
        assert_eq!(Base::of(&hex), Some(Base::Id(id)));
        assert_eq!(Base::of(&format!("r.io/a@sha256:{hex}")), Some(Base::Name));
        assert_eq!(Base::of(&format!("r.io/a:1@sha256:{hex}")), Some(Base::Name));
        for bad in ["", "r.io/a:1", "r.io/a", "@sha256:aa", "r.io/a@sha256:aa", "r.io/a@latest", &hex[1..]] {
            assert_eq!(Base::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_request_names_the_image_and_keeps_all_else() {
        let mut config = asks_for("/var/x.tar");
        config.mounts = vec![cri::Mount { container_path: "/m".into(), ..Default::default() }];
        config.annotations.insert("own".into(), "1".into());
        let checkpoint: Config = serde_json::from_str(
            r#"{"checkpointedTime":"2026-01-02T03:04:05Z\n","annotations":{"cdi.k8s.io/x":"y"},"mounts":[{"a":1}]}"#,
        )
        .unwrap();
        rename(&mut config, &checkpoint, "r.io/a:1");
        assert_eq!(config.image.unwrap().image, "r.io/a:1");
        let told: Vec<_> = config.annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("checkpointImage", "/var/x.tar"),
            ("checkpointedAt", "2026-01-02T03:04:05Z"),
            ("own", "1"),
            ("restored", "true"),
        ];
        assert_eq!(told, expected);
        assert_eq!(config.mounts.len(), 1);
    }

    #[tokio::test]
    async fn restoring_is_off_and_says_how_to_switch_it_on() {
        let stack = Stack::new().await;
        stack.running("a").await;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: "pod".into(),
            config: Some(asks_for("/var/lib/kubelet/checkpoints/x.tar")),
            ..Default::default()
        };
        let error = stack.cri.create_container(request).await.unwrap_err();
        assert!(error.is(Class::FailedPrecondition) && error.chain().contains(KEY), "{}", error.chain());
        assert_eq!(stack.cri.state.containers.all().len(), 1);
        let error = stack.cri.has_criu("").await.unwrap_err();
        assert!(error.is(Class::Unimplemented) && error.message().contains("embedded runtime"), "{error}");
    }

    #[tokio::test]
    async fn a_restored_container_is_started_from_its_checkpoint_which_goes_then() {
        for fails in [false, true] {
            let stack = Stack::new().await;
            let log = stack.root.path().join("logs/c.log");
            let container = stack.restored("a", &log).await;
            let dir = stack.cri.restore_dir(&container.id);
            fs::create_dir_all(dir.join(IMAGES)).unwrap();
            fs::write(dir.join(LOG), "2026-01-02T03:04:05Z stdout F 7").unwrap();
            stack.tasks.refuse_start.store(fails, Ordering::SeqCst);
            let request = cri::StartContainerRequest { container_id: container.id.clone() };
            assert_eq!(stack.cri.start_container(request).await.is_err(), fails);
            let from = dir.join(IMAGES).to_string_lossy().into_owned();
            assert_eq!(stack.tasks.calls()[0], format!("restore {} {from}", container.id));
            assert_eq!(fs::read_to_string(&log).unwrap(), "2026-01-02T03:04:05Z stdout F 7\n");
            assert!(!dir.exists(), "nothing of it is kept");
        }
    }

    #[tokio::test]
    async fn a_log_that_is_there_stays_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        copy_log(&from, &to).unwrap();
        assert!(!to.exists(), "there was none");
        fs::write(&from, "old\n").unwrap();
        fs::write(&to, "new\n").unwrap();
        copy_log(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "new\n");
        fs::remove_file(&to).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("link")).unwrap();
        assert!(copy_log(&root.path().join("link"), &to).is_err());
        assert!(copy_log(&from, &root.path().join("link")).is_err());
    }

    #[tokio::test]
    async fn changes_go_into_the_snapshot_and_nowhere_else() {
        let stack = Stack::new().await;
        let container = stack.running("a").await;
        let snapshotter = stack.db.snapshotter("native").unwrap();
        let rootfs = snapshotter.mounts(&stack.cri.cx, &container.id).await.unwrap();
        let upper = PathBuf::from(&rootfs[0].source);
        fs::write(upper.join("gone"), "").unwrap();
        let dir = stack.root.path().join("restore");
        fs::create_dir(&dir).unwrap();
        let changes = stack.root.path().join("changes");
        fs::create_dir(&changes).unwrap();
        fs::write(changes.join("new"), "by the container").unwrap();
        fs::write(changes.join(".wh.gone"), "").unwrap();
        let mut tar = Vec::new();
        crate::tar::directory(&mut tar, &changes).unwrap();
        fs::write(dir.join(CHANGES), &tar).unwrap();
        apply(&**stack.cri.differ().unwrap(), &dir, &rootfs).unwrap();
        assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "by the container");
        assert!(!upper.join("gone").exists() && !dir.join(CHANGES).exists());
        // Without any, there is nothing to do.
        apply(&**stack.cri.differ().unwrap(), &dir, &rootfs).unwrap();
        fs::write(dir.join(CHANGES), &tar[..700]).unwrap();
        assert!(apply(&**stack.cri.differ().unwrap(), &dir, &rootfs).is_err());
    }
}
