//! A pod's own process, where it has one: the small init that is part of the shim, in a root of its own. It keeps a PID
//! namespace alive and reaps what is left to it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use windlass_api::cri;
use windlass_core::container::Container;
use windlass_core::mount::Mount;
use windlass_core::task::{CreateOptions, Io};
use windlass_core::{Any, Error, Result, blocking};

use super::record::labels;
use super::spec_pod;
use crate::config::Handler;
use crate::cri::Cri;
use crate::spec;
use crate::state::Sandbox;
use crate::state::record::{SandboxPhase, SandboxRecord};
use crate::step;

/// The shim's program, which is the init's too.
const PROGRAM: &str = "containerd-shim-runc-v2";
/// What it says of itself if it is ours.
const OURS: &str = "windlass";
/// The init inside its root, and the word that makes it one.
const ARGS: [&str; 2] = ["/pause", "pause"];
/// Type of an OCI specification in a record.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// How long a killed process may take to be seen ended.
const KILL: Duration = Duration::from_secs(10);
/// How long it may take to be asked of, and its task to be deleted.
const DELETION: Duration = Duration::from_secs(15);
/// How long a program may take to say what it is.
const ASK: Duration = Duration::from_secs(5);

impl Cri {
    /// Starts the process; answers its id.
    pub(super) async fn start_pause(
        &self,
        id: &str,
        handler: &Handler<'_>,
        record: &SandboxRecord,
        config: &cri::PodSandboxConfig,
    ) -> Result<u32> {
        let started = async {
            let root = self.pause_root().await?;
            let places = self.places(id);
            let pod = spec_pod(&self.namespaces_dir(id), id, config, &places, 0)?;
            let image = json!({ "config": { "Entrypoint": ARGS } });
            let image = spec::Image { name: "", config: &image };
            let value = spec::pause(&self.host, self.settings(handler), &pod, &image, &spec::Empty)?;
            let bytes = serde_json::to_vec(&value)
                .map_err(|e| Error::internal("specification of a pod's process").with_source(e))?;
            let spec = Any { type_url: SPEC.into(), value: bytes.into() };
            let runtime = self.runtime(handler);
            self.database
                .containers()
                .create(
                    &self.cx,
                    Container {
                        id: id.to_owned(),
                        labels: labels(record),
                        image: String::new(),
                        runtime: runtime.clone(),
                        spec: Some(spec.clone()),
                        snapshotter: String::new(),
                        snapshot_key: String::new(),
                        created_at: SystemTime::UNIX_EPOCH,
                        updated_at: SystemTime::UNIX_EPOCH,
                        extensions: BTreeMap::new(),
                        sandbox_id: id.to_owned(),
                    },
                )
                .await?;
            step!("pod.pause.recorded");
            let options = CreateOptions {
                spec: Some(spec),
                runtime,
                rootfs: vec![Mount {
                    kind: "bind".into(),
                    source: root.to_string_lossy().into_owned(),
                    target: String::new(),
                    options: vec!["rbind".into(), "ro".into()],
                }],
                io: Io::default(),
                ..CreateOptions::default()
            };
            let pid = self.tasks.create(&self.cx, id, options).await?;
            step!("pod.pause.created");
            self.tasks.start(&self.cx, id, "").await?;
            step!("pod.pause.started");
            Ok(pid)
        };
        let name = config.metadata.as_ref().map_or("", |metadata| &metadata.name);
        started.await.map_err(|error: Error| error.context(format!("start the process of pod {name}")))
    }

    /// Ends the process and forgets it. It may be missing, and its shim may hang: this comes to an end.
    pub(super) async fn end_pause(&self, id: &str, record: &SandboxRecord) -> Result<()> {
        if !record.pause {
            return Ok(());
        }
        let (tasks, cx, task) = (self.tasks.clone(), self.cx.clone(), id.to_owned());
        // By itself: a shim that hangs may go on doing so.
        let ended = self.work.spawn(async move {
            match tasks.kill(&cx, &task, "", libc::SIGKILL.unsigned_abs(), true).await {
                Ok(()) => {
                    let _ = tokio::time::timeout(KILL, tasks.wait(&cx, &task, "")).await;
                }
                // There may be a shim all the same, which a start was cut off after.
                Err(error) => {
                    tracing::debug!(pod = %task, error = %error.chain(), "pod's process is not killed")
                }
            }
            match tasks.delete(&cx, &task, "").await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(()),
            }
        });
        match tokio::time::timeout(KILL + DELETION, ended).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(pod = %id, error = %error.chain(), "the task of a pod's process is not deleted");
            }
            Ok(Err(_)) => return Err(Error::internal("the end of a pod's process was cut off")),
            Err(_) => {
                tracing::error!(pod = %id, "the shim of a pod does not answer; the pod is stopped without it")
            }
        }
        match self.database.containers().delete(&self.cx, id).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for the end of a pod's process, in a task of its own: a pod without it is not ready.
    pub(crate) fn watch_pause(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        if !sandbox.record.pause {
            return;
        }
        let (weak, sandbox) = (Arc::downgrade(self), Arc::downgrade(sandbox));
        let (tasks, cx) = (self.tasks.clone(), self.cx.clone());
        let Some(id) = sandbox.upgrade().map(|sandbox| sandbox.id.clone()) else { return };
        tokio::spawn(async move {
            while let Err(error) = tasks.wait(&cx, &id, "").await {
                if error.is_not_found() {
                    break;
                }
                tracing::warn!(pod = %id, error = %error.chain(), "cannot wait for the end of a pod's process");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let (Some(cri), Some(sandbox)) = (weak.upgrade(), sandbox.upgrade()) else { return };
            let ended = cri.clone();
            let work = cri.work.track_future(async move {
                let _lock = sandbox.lock.lock().await;
                if sandbox.status().phase() == SandboxPhase::Ready {
                    tracing::warn!(pod = %sandbox.id, "the pod's own process has ended");
                }
                if let Err(error) = ended.mark_stopped(&sandbox).await
                    && !error.is_not_found()
                {
                    tracing::error!(pod = %sandbox.id, error = %error.chain(), "the end of a pod is not written down");
                }
            });
            drop(cri);
            work.await;
        });
    }

    /// The directory that is the root of such processes; made once for each build of the program.
    async fn pause_root(&self) -> Result<PathBuf> {
        let program = self.pause_program.get_or_try_init(|| async { find().await }).await?.clone();
        let base = self.root.join("pause");
        blocking(move || make(&base, &program)).await
    }
}

/// The shim beside the daemon, or one of ours on the path.
async fn find() -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join(PROGRAM)));
    if let Some(program) = beside.filter(|path| path.is_file()) {
        return Ok(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).filter(|path| path.is_file()) {
        let asked = tokio::process::Command::new(&program).arg("-v").kill_on_drop(true).output();
        if let Ok(Ok(said)) = tokio::time::timeout(ASK, asked).await
            && String::from_utf8_lossy(&said.stdout).contains(OURS)
        {
            return Ok(program);
        }
    }
    Err(Error::precondition(format!(
        "a pod with a process of its own needs windlass' {PROGRAM}, which is neither beside the daemon nor on its PATH"
    )))
}

/// Copies the program to where it is a root of its own, if it is not there yet. Blocks.
fn make(base: &Path, program: &Path) -> Result<PathBuf> {
    let fail = |what: &str, path: &Path| {
        let what = format!("{what} {}", path.display());
        move |e| Error::io(what, e)
    };
    let found = fs::metadata(program).map_err(fail("look at", program))?;
    let root = base.join(format!("{:x}-{:x}-{:x}", found.len(), found.mtime(), found.mtime_nsec()));
    if root.join("pause").exists() {
        return Ok(root);
    }
    let part = base.join(format!(".{}", crate::cri::new_id()?));
    let made = (|| {
        for dir in ["", "dev", "etc", "proc", "sys"] {
            let path = part.join(dir);
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).map_err(fail("make", &path))?;
        }
        // What is mounted there needs a place, and nothing can be made in a root that is read-only.
        let place = part.join("etc/resolv.conf");
        fs::write(&place, "").map_err(fail("make", &place))?;
        let target = part.join("pause");
        let mut from = fs::File::open(program).map_err(fail("open", program))?;
        let to = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&target);
        let mut to = to.map_err(fail("make", &target))?;
        std::io::copy(&mut from, &mut to).and_then(|_| to.sync_all()).map_err(fail("write", &target))?;
        match fs::rename(&part, &root) {
            // Somebody else was quicker.
            Err(_) if root.join("pause").exists() => Ok(()),
            renamed => renamed.map_err(fail("make", &root)),
        }
    })();
    let _ = fs::remove_dir_all(&part);
    made.map(|()| root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_made_once() {
        let temp = tempfile::tempdir().expect("a directory");
        let program = temp.path().join("shim");
        fs::write(&program, "one").expect("it can be written");
        let base = temp.path().join("pause");
        let root = make(&base, &program).expect("it can be made");
        assert_eq!(fs::read_to_string(root.join("pause")).expect("it is there"), "one");
        assert!(root.join("proc").is_dir());
        assert_eq!(make(&base, &program).expect("it is there"), root);
        fs::write(&program, "another").expect("it can be written");
        assert_ne!(make(&base, &program).expect("it can be made"), root);
        let names = fs::read_dir(&base).expect("it is there").count();
        assert_eq!(names, 2, "nothing half made is left");
    }
}
