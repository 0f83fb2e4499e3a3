//! A running container's state put into a file: what CRIU dumps, what the container changed in its root file system, and
//! what is known of it, in the archive's layout that Kubernetes' tools read (`checkpointctl`).
//!
//! The container goes on as if nothing had been.

use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use windlass_api::{cri, runc};
use windlass_core::content::Blob;
use windlass_core::diff::CompareOptions;
use windlass_core::task::Status;
use windlass_core::{Context, Error, Labels, Result, blocking, container, lease};

use super::{CHANGES, CONFIG, IMAGES, LOG};
use crate::container::status;
use crate::cri::{Cri, new_id};
use crate::state::Container;
use crate::tar;

/// How long what is made on the way is protected from collection, should the daemon die.
pub(super) const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// How the directories begin in which checkpoints are made, by what the task did before; their leases follow.
const OF_RUNNING: &str = "checkpoint-";
const OF_PAUSED: &str = "paused-checkpoint-";
/// Bytes that are copied at a time.
const PART: usize = 1 << 20;

impl Cri {
    /// *Unimplemented* with the embedded runtime, which has nothing that could dump a process; *failed precondition* where
    /// CRIU is missing or switched off; *deadline exceeded* where the dump takes longer than the request allows, in seconds,
    /// or than the shim allows its runtime. The container goes on when the runtime has let go of it.
    pub async fn checkpoint_container(
        self: &Arc<Self>,
        request: cri::CheckpointContainerRequest,
    ) -> Result<cri::CheckpointContainerResponse> {
        let container = self.running(&request.container_id)?;
        let failed = |error: Error| error.context(format!("checkpoint container {}", container.id));
        let sandbox = self.state.sandboxes.get(&container.record.sandbox_id)?;
        self.has_criu(&sandbox.record.handler).await.map_err(failed)?;
        let (cri, of) = (self.clone(), container.clone());
        let limit =
            u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let work = async move { cri.checkpoint(&of, &request.location, limit).await };
        self.finish(work).await.map_err(failed)?;
        Ok(cri::CheckpointContainerResponse {})
    }

    /// All steps. The container's lock is held while it is dumped, and not while the archive is written.
    async fn checkpoint(&self, container: &Container, location: &str, limit: Option<Duration>) -> Result<()> {
        let location = Location::new(location)?;
        let lease = new_id()?;
        let record = self.database.containers().get(&self.cx, &container.id).await?;
        let expires = Labels::from([(lease::LABEL_EXPIRE.to_owned(), stamp(SystemTime::now() + LEASE))]);
        self.database.leases().create(&self.cx, &lease, expires).await?;
        let cx = self.cx.clone().with_lease(&lease);
        let dumped = async {
            let _lock = container.lock.lock().await;
            self.running(&container.id)?;
            let paused = self.tasks.state(&self.cx, &container.id, "").await?.status == Status::Paused;
            let kind = if paused { OF_PAUSED } else { OF_RUNNING };
            let dir =
                Directory::new(self.container_dir(&container.id).join(format!("{kind}{lease}"))).await?;
            self.dump(&cx, container, &record, &dir.0, paused, limit).await?;
            Ok(dir)
        };
        let dumped: Result<Directory> = dumped.await;
        if let Err(error) = self.database.leases().delete(&self.cx, &lease).await {
            tracing::warn!(lease, error = %error.chain(), "the lease of a checkpoint stays until it expires");
        }
        let dir = dumped?;
        let files = self.described(container, &record)?;
        let log = container.record.log_path.clone();
        let (from, to) = (dir.0.clone(), location);
        blocking(move || {
            for (name, bytes) in files {
                fs::write(from.join(name), bytes).map_err(|e| Error::io(format!("write {name}"), e))?;
            }
            copy_log(&log, &from.join(LOG))?;
            to.write(&from)
        })
        .await
    }

    /// The task is stopped for as long as it takes to dump it and what it changed, so that both belong together. One that
    /// was `paused` before stays so.
    async fn dump(
        &self,
        cx: &Context,
        container: &Container,
        record: &container::Container,
        dir: &Path,
        paused: bool,
        limit: Option<Duration>,
    ) -> Result<()> {
        let dumped = async {
            if !paused {
                self.tasks.pause(&self.cx, &container.id).await?;
            }
            let images = dir.join(IMAGES);
            let sandbox = self.state.sandboxes.get(&container.record.sandbox_id)?;
            let ours = self.handler(&sandbox.record.handler)?.is_ours();
            let options = ours.then(|| options(dir));
            self.tasks.checkpoint(&self.cx, &container.id, &images.to_string_lossy(), options).await?;
            self.changes(cx, record, dir).await
        };
        let dumped = match limit {
            None => dumped.await,
            Some(limit) => tokio::time::timeout(limit, dumped)
                .await
                .unwrap_or_else(|_| Err(Error::deadline(format!("the dump was not done within {limit:?}")))),
        };
        if paused {
            return dumped;
        }
        // Also where it could not be paused: the answer may have come too late.
        let resumed = self.tasks.resume(&self.cx, &container.id).await;
        if let Err(error) = &resumed {
            tracing::error!(id = %container.id, error = %error.chain(), "the container does not go on after its checkpoint");
        }
        dumped.and(resumed.map_err(|error| error.context("let the container go on")))
    }

    /// After a restart: a container whose checkpoint was cut off goes on, and what was made of the checkpoint goes.
    pub(in crate::container) async fn end_cut_off_checkpoint(&self, id: &str, paused: bool) {
        let Ok(mut entries) = tokio::fs::read_dir(self.container_dir(id)).await else { return };
        let mut left = Vec::new();
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().into_string().unwrap_or_default();
            let lease = name.strip_prefix(OF_RUNNING).or_else(|| name.strip_prefix(OF_PAUSED));
            let Some(lease) = lease.map(str::to_owned) else { continue };
            if paused && name.starts_with(OF_RUNNING) {
                tracing::warn!(id, "a checkpoint was cut off, the container goes on");
                if let Err(error) = self.tasks.resume(&self.cx, id).await {
                    tracing::error!(id, error = %error.chain(), "the container does not go on");
                    // To be tried again by the next start.
                    return;
                }
            }
            match self.database.leases().delete(&self.cx, &lease).await {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(lease, error = %error.chain(), "the lease of a checkpoint stays until it expires");
                }
                _ => {}
            }
            left.push(entry.path());
        }
        if let Err(error) = crate::container::remove::delete(left).await {
            tracing::warn!(id, error = %error.chain(), "a checkpoint that was cut off is left over");
        }
    }

    /// What the container changed in its root file system.
    async fn changes(&self, cx: &Context, record: &container::Container, dir: &Path) -> Result<()> {
        let differ = self.differ()?;
        let snapshotter = self.database.snapshotter(&record.snapshotter).ok_or_else(|| {
            Error::precondition(format!("snapshotter {:?} does not run any more", record.snapshotter))
        })?;
        let upper = snapshotter.mounts(cx, &record.snapshot_key).await?;
        let parent = snapshotter.stat(cx, &record.snapshot_key).await?.parent;
        let lease = cx.lease.as_deref().unwrap_or_default();
        let key = format!("{}-checkpoint-{lease}", record.snapshot_key);
        let lower = if parent.is_empty() {
            Vec::new()
        } else {
            snapshotter.view(cx, &key, &parent, Labels::new()).await?
        };
        let compare =
            CompareOptions { reference: format!("checkpoint-{lease}"), ..CompareOptions::default() };
        let compared = differ.compare(cx, &lower, &upper, compare).await;
        if !parent.is_empty()
            && let Err(error) = snapshotter.remove(cx, &key).await
        {
            // The lease, and with it this, goes in any case.
            tracing::debug!(key, error = %error.chain(), "a view stays until it is collected");
        }
        let blob = self.database.content().reader(cx, &compared?.digest).await?;
        copy_blob(&*blob, &dir.join(CHANGES)).await
    }

    /// What is known of the container, as the archive's files.
    fn described(
        &self,
        container: &Container,
        record: &container::Container,
    ) -> Result<[(&'static str, Vec<u8>); 4]> {
        let told = status::wire(self, container);
        let now = container.status().clone();
        let image = told.image.as_ref().map_or("", |image| image.image.as_str());
        let config = json!({
            "id": container.id,
            "name": container.record.name,
            "rootfsImage": image,
            "rootfsImageRef": told.image_ref,
            "rootfsImageName": image,
            "runtime": record.runtime.name,
            "createdTime": stamp(record.created_at),
            "checkpointedTime": stamp(SystemTime::now()),
            "restoredTime": "0001-01-01T00:00:00Z",
            "restored": false,
        });
        let own = json!({
            "Version": "v1",
            "Pid": now.pid,
            "CreatedAt": container.record.created_at,
            "StartedAt": now.started_at,
            "FinishedAt": now.finished_at,
            "ExitCode": now.exit_code,
            "Reason": now.reason,
            "Message": now.message,
        });
        let spec = record.spec.as_ref().map_or(Vec::new(), |spec| spec.value.to_vec());
        Ok([
            (CONFIG, config.to_string().into_bytes()),
            ("status.dump", shown(&told).to_string().into_bytes()),
            ("status", own.to_string().into_bytes()),
            ("spec.dump", spec),
        ])
    }
}

/// A container's status by the names that CRI's JSON has.
fn shown(status: &cri::ContainerStatus) -> Value {
    json!({
        "id": status.id,
        "metadata": status.metadata,
        "state": status.state,
        "created_at": status.created_at,
        "started_at": status.started_at,
        "image": status.image,
        "image_ref": status.image_ref,
        "image_id": status.image_id,
        "labels": status.labels,
        "annotations": status.annotations,
        "mounts": status.mounts,
        "log_path": status.log_path,
    })
}

/// Options for a shim of ours; others are given none, as their types are not known. CRIU's logs go beside its images.
fn options(work: &Path) -> windlass_core::Any {
    windlass_api::convert::any::pack(&runc::CheckpointOptions {
        exit: false,
        work_path: work.to_string_lossy().into_owned(),
        ..runc::CheckpointOptions::default()
    })
}

/// A time as Go's JSON has it.
pub(super) fn stamp(at: SystemTime) -> String {
    let at = time::OffsetDateTime::from(at);
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| "1970-01-01T00:00:00Z".into())
}

/// Where a checkpoint is made; removed when dropped. That it is there says that the task may have been paused for it.
struct Directory(PathBuf);

impl Directory {
    async fn new(path: PathBuf) -> Result<Self> {
        let dir = path.clone();
        blocking(move || {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|e| Error::io(format!("make {}", dir.display()), e))
        })
        .await?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "a checkpoint's directory stays");
        }
    }
}

/// The archive that is asked for.
struct Location(PathBuf);

impl Location {
    fn new(text: &str) -> Result<Self> {
        let path = PathBuf::from(text);
        if !path.is_absolute() || path.file_name().is_none() || text.ends_with('/') || path.is_dir() {
            return Err(Error::invalid(format!("location {text:?} must be an absolute path of a file")));
        }
        if !path.parent().is_some_and(Path::is_dir) {
            return Err(Error::invalid(format!("location {text:?} is in a directory that is not there")));
        }
        Ok(Self(path))
    }

    /// Writes the archive; it is there whole, or not at all.
    fn write(self, from: &Path) -> Result<()> {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        // Another checkpoint may go to the same place.
        let unique = from.file_name().unwrap_or_default().to_string_lossy();
        let part = self.0.with_file_name(format!(".{name}.{unique}"));
        let written = || {
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            let mut file = BufWriter::with_capacity(PART, file);
            tar::directory(&mut file, from)?;
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(&part, &self.0)?;
            fs::File::open(self.0.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        written().map_err(|e| {
            let _ = fs::remove_file(&part);
            Error::io(format!("write {}", self.0.display()), e)
        })
    }
}

/// The log as it is now; there need not be any.
fn copy_log(from: &str, to: &Path) -> Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    let copy = || {
        // It is in a directory of the machine's, where somebody may have put something else.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut log = fs::OpenOptions::new().read(true).custom_flags(flags).open(from)?;
        if log.metadata()?.is_file() {
            std::io::copy(&mut log, &mut fs::File::create(to)?)?;
        }
        Ok::<_, std::io::Error>(())
    };
    match copy() {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("copy {from}"), error))
        }
        _ => Ok(()),
    }
}

async fn copy_blob(blob: &dyn Blob, to: &Path) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let failed = |e| Error::io(format!("write {}", to.display()), e);
    let mut file = tokio::fs::File::create(to).await.map_err(failed)?;
    let mut offset = 0;
    loop {
        let part = blob.read_at(offset, PART).await?;
        if part.is_empty() {
            return file.flush().await.map_err(failed);
        }
        offset += part.len() as u64;
        file.write_all(&part).await.map_err(failed)?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use windlass_core::metadata::Database as _;
    use windlass_core::task::Tasks as _;

    use super::*;
    use crate::container::tests::Stack;

    #[tokio::test]
    async fn an_archive_has_what_tools_look_for() {
        let stack = Stack::new().await;
        let container = stack.running("a").await;
        let snapshotter = stack.db.snapshotter("native").unwrap();
        let mounts = snapshotter.mounts(&stack.cri.cx, &container.id).await.unwrap();
        fs::write(Path::new(&mounts[0].source).join("changed"), "by the container").unwrap();
        let location = stack.root.path().join("out.tar");
        stack.cri.checkpoint(&container, location.to_str().unwrap(), None).await.unwrap();
        let calls = stack.tasks.calls();
        let order: Vec<_> = calls.iter().map(|call| call.split(' ').next().unwrap()).collect();
        assert_eq!(order[order.len() - 3..], ["pause", "checkpoint", "resume"]);

        let run = |args: &[&str]| {
            let output = std::process::Command::new("tar").args(args).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let archive = location.to_str().unwrap();
        let listed = run(&["-tf", archive]);
        let expected = [
            "checkpoint/",
            "checkpoint/pages-1.img",
            "config.dump",
            "dump.log",
            "rootfs-diff.tar",
            "spec.dump",
            "status",
            "status.dump",
        ];
        assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
        let json = |name| -> Value { serde_json::from_str(&run(&["-xOf", archive, name])).unwrap() };
        assert_eq!(json("config.dump")["id"], container.id);
        assert_eq!(json("config.dump")["runtime"], "io.containerd.runc.v2");
        assert_eq!(json("status")["Pid"], 42);
        assert_eq!(json("status.dump")["metadata"]["name"], "a");
        assert_eq!(json("spec.dump")["process"]["args"][0], "x");
        let dir = stack.root.path().join("unpacked");
        fs::create_dir(&dir).unwrap();
        run(&["-xf", archive, "-C", dir.to_str().unwrap()]);
        assert_eq!(run(&["-tzf", dir.join("rootfs-diff.tar").to_str().unwrap()]), "changed\n");
        nothing_is_left(&stack, &container).await;
        let beside = fs::read_dir(stack.root.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!beside.into_iter().any(|name| name.to_str().unwrap().starts_with('.')));
    }

    #[tokio::test]
    async fn a_dump_that_fails_lets_the_container_go_on() {
        let stack = Stack::new().await;
        let container = stack.running("a").await;
        stack.tasks.refuse_checkpoint.store(true, std::sync::atomic::Ordering::SeqCst);
        let location = stack.root.path().join("out.tar");
        let error = stack.cri.checkpoint(&container, location.to_str().unwrap(), None).await.unwrap_err();
        assert!(error.chain().contains("criu fails"), "{}", error.chain());
        assert!(stack.tasks.calls().last().unwrap().starts_with("resume "));
        assert!(!location.exists());
        nothing_is_left(&stack, &container).await;
    }

    #[tokio::test]
    async fn a_dump_that_hangs_lets_the_container_go_on() {
        let stack = Stack::new().await;
        let container = stack.running("a").await;
        stack.tasks.hung_checkpoint.store(true, std::sync::atomic::Ordering::SeqCst);
        let location = stack.root.path().join("out.tar");
        let limit = Some(Duration::from_millis(50));
        let error = stack.cri.checkpoint(&container, location.to_str().unwrap(), limit).await.unwrap_err();
        assert!(error.is(windlass_core::Class::DeadlineExceeded), "{error}");
        assert!(stack.tasks.calls().last().unwrap().starts_with("resume "));
        nothing_is_left(&stack, &container).await;
    }

    #[tokio::test]
    async fn a_checkpoint_that_was_cut_off_is_no_pause() {
        let mut stack = Stack::new().await;
        for (name, kind, resumed) in [("a", OF_RUNNING, true), ("b", OF_PAUSED, false)] {
            let container = stack.running(name).await;
            stack.tasks.pause(&stack.cri.cx, &container.id).await.unwrap();
            fs::create_dir_all(stack.cri.container_dir(&container.id).join(format!("{kind}lease"))).unwrap();
            stack.restarted().await;
            let calls = stack.tasks.calls();
            assert_eq!(calls.contains(&format!("resume {}", container.id)), resumed, "{calls:?}");
            nothing_is_left(&stack, &container).await;
        }
    }

    async fn nothing_is_left(stack: &Stack, container: &Container) {
        let mut left = fs::read_dir(stack.cri.container_dir(&container.id)).unwrap();
        assert!(left.next().is_none());
        let leases = stack.db.leases().list(&stack.cri.cx, &windlass_core::Filters::default()).await;
        assert_eq!(leases.unwrap(), []);
    }

    #[tokio::test]
    async fn who_cannot_be_dumped_is_told_why() {
        let stack = Stack::new().await;
        let container = stack.running("a").await;
        let request = cri::CheckpointContainerRequest {
            container_id: container.id.clone(),
            location: "/x.tar".into(),
            ..Default::default()
        };
        let error = stack.cri.checkpoint_container(request).await.unwrap_err();
        assert!(error.is(windlass_core::Class::Unimplemented));
        for word in ["embedded runtime", "BinaryName", "runc", "criu"] {
            assert!(error.message().contains(word), "{error}");
        }
        for bad in ["", "x.tar", "/", "/nowhere/x.tar", "/tmp", "/tmp/x/"] {
            let error = stack.cri.checkpoint(&container, bad, None).await.unwrap_err();
            assert!(error.is(windlass_core::Class::InvalidArgument), "{bad}: {error}");
        }
    }
}
