//! After a restart: finds the shims that run, clears up after those that do not, and after what was never finished.
//!
//! A shim is taken on as soon as its socket takes a connection. What it says, and burying the dead, comes after: a start
//! must not wait for a shim that hangs.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt, stream};
use windlass_api::shim::task_v3 as v3;
use windlass_core::{Class, Context, validate};

use crate::bundle::{Bundle, remove_tree};
use crate::end::is_dead;
use crate::error::{Error, Result};
use crate::shim::Shim;
use crate::task::Task;
use crate::tasks::Inner;
use crate::{log, step};

/// Bundles that are looked at, and shims that are asked, at the same time.
const PARALLEL: usize = 16;

/// What a bundle turned out to be.
enum Found {
    Alive(Arc<Task>),
    /// Its shim is not there; how the task ended is still to be told.
    Dead(Bundle),
}

impl Inner {
    /// Takes on every shim that takes a connection; answers when all tasks are known. The rest goes on by itself.
    pub async fn restore(self: &Arc<Self>) -> Result<()> {
        step!("restore.begin");
        let bundles = {
            let (state, root) = (self.state.clone(), self.root.clone());
            self.launcher.pool.start(move || scan(&state, &root)).await?
        };
        let found: Vec<Found> =
            stream::iter(bundles).map(|bundle| self.find(bundle)).buffer_unordered(PARALLEL).collect().await;
        let mut alive = Vec::new();
        let mut dead = Vec::new();
        for found in found {
            match found {
                Found::Alive(task) => alive.push(task),
                Found::Dead(bundle) => dead.push(bundle),
            }
        }
        if !alive.is_empty() || !dead.is_empty() {
            tracing::info!(alive = alive.len(), dead = dead.len(), "tasks found after a restart");
        }
        step!("restore.connected");
        let manager = self.clone();
        tokio::spawn(async move {
            let asked = stream::iter(alive).for_each_concurrent(PARALLEL, |task| {
                let manager = manager.clone();
                async move { manager.ask(task).await }
            });
            let buried = stream::iter(dead).for_each_concurrent(PARALLEL, |bundle| {
                let manager = manager.clone();
                async move { manager.bury_found(bundle).await }
            });
            tokio::join!(asked, buried);
            let (state, root) = (manager.state.clone(), manager.root.clone());
            let swept = manager.launcher.pool.end(move || {
                sweep_work(&state, &root);
                Ok(())
            });
            let _ = swept.await;
        });
        Ok(())
    }

    /// Connects to the shim of a bundle. The place in the table is taken either way.
    async fn find(self: &Arc<Self>, bundle: Bundle) -> Found {
        let Ok(place) = self.tasks.reserve(&bundle.namespace, &bundle.id) else { return Found::Dead(bundle) };
        let own = bundle.clone();
        let read = self
            .launcher
            .pool
            .start(move || {
                Ok((own.endpoint()?, own.binary()?, own.is_shared(), own.group(), own.open_log()?))
            })
            .await;
        let (endpoint, binary, shared, group, fifo) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::info!(id = %bundle.id, error = %error.chain(), "bundle was never finished");
                place.hold();
                return Found::Dead(bundle);
            }
        };
        let shim = Shim::new(endpoint, &bundle.namespace);
        let follower = log::follow(fifo, bundle.namespace.clone(), bundle.id.clone()).ok();
        let task = Arc::new(Task::new(bundle.clone(), binary, shared, group, shim, follower));
        match self.connect(&task).await {
            Err(error) => {
                if !is_dead(&error) {
                    tracing::warn!(id = %bundle.id, error = %error.chain(), "shim cannot be reached");
                }
                task.stop_log();
                place.hold();
                Found::Dead(bundle)
            }
            Ok(()) => {
                self.tasks.serve(&task);
                place.fill(task.clone());
                task.live.store(true, Ordering::SeqCst);
                if task.closed.load(Ordering::SeqCst) {
                    tokio::spawn(self.clone().closed(task.clone()));
                }
                Found::Alive(task)
            }
        }
    }

    /// Asks a shim what it serves. One that was started for a task that was never created is taken back.
    async fn ask(self: &Arc<Self>, task: Arc<Task>) {
        let mut request = v3::ConnectRequest::new();
        request.id = task.id().to_owned();
        let limit = Some(self.limits().load);
        match task.shim.call::<v3::ConnectResponse>("Connect", &request, limit).await {
            Ok(answer) if answer.task_pid != 0 => task.set_pid(answer.task_pid),
            // Shims that have no such task may say so by a process of number 0.
            Ok(_) => {
                let mut request = v3::StateRequest::new();
                request.id = task.id().to_owned();
                let state = task.shim.call::<v3::StateResponse>("State", &request, limit).await;
                if state.is_err_and(|error| error.is(Class::NotFound)) {
                    self.take_back(&task).await;
                }
            }
            Err(error) if error.is(Class::NotFound) => self.take_back(&task).await,
            // Gone meanwhile: that is looked into elsewhere. Hung: it may come back.
            Err(error) => {
                tracing::warn!(id = task.id(), error = %error.chain(), "shim does not say what it serves")
            }
        }
    }

    async fn take_back(self: &Arc<Self>, task: &Arc<Task>) {
        let cx = Context::new(&task.bundle.namespace);
        if let Some(sandboxes) = &self.sandboxes
            && !sandboxes.get(&cx, task.id()).await.is_err_and(|e| e.is_not_found())
        {
            return;
        }
        let mut ended = task.end.lock().await;
        if *ended {
            return;
        }
        tracing::info!(id = task.id(), "taking back a shim whose task was never created");
        let _held = self.tasks.group(&task.bundle.namespace, &task.group).await;
        self.abandon(task).await;
        *ended = true;
        self.tasks.remove(task);
    }

    /// Clears up after a shim that died while the daemon was away.
    async fn bury_found(self: &Arc<Self>, bundle: Bundle) {
        let own = bundle.clone();
        let read = self
            .launcher
            .pool
            .start(move || own.binary().map(|binary| (binary, own.endpoint().is_ok(), own.group())))
            .await;
        let Ok((binary, launched, group)) = read else {
            // Not even the binary is known: nothing was started.
            return self.drop_bundle(&bundle).await;
        };
        let _held = self.tasks.group(&bundle.namespace, &group).await;
        if launched {
            #[cfg(feature = "failpoints")]
            fail::fail_point!("restore.bury");
            let exit = self.launcher.delete(&bundle, &binary).await;
            self.drop_bundle(&bundle).await;
            match exit {
                Ok(exit) => self.tell(&bundle.namespace, &bundle.id, exit, false, false),
                Err(error) => {
                    tracing::warn!(id = %bundle.id, error = %error.chain(), "the shim's binary could not clear up");
                    let exit = crate::end::lost();
                    self.tell(&bundle.namespace, &bundle.id, exit, false, false);
                }
            }
        } else {
            // Cut off while the shim was started: it may be there, and nobody has seen a task.
            self.discard(&bundle, &binary).await;
            self.tasks.release(&bundle.namespace, &bundle.id);
        }
    }

    async fn drop_bundle(&self, bundle: &Bundle) {
        self.remove(bundle).await;
        self.tasks.release(&bundle.namespace, &bundle.id);
    }
}

/// All bundles; hidden names are what was being removed, and are.
fn scan(state: &Path, root: &Path) -> Result<Vec<Bundle>> {
    let mut bundles = Vec::new();
    for namespace in names(state)? {
        for id in names(&state.join(&namespace))? {
            bundles.push(Bundle::new(state, root, &namespace, &id));
        }
    }
    Ok(bundles)
}

/// The directories in `dir` whose names are identifiers. Hidden ones are removed.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("read directory", dir))?,
    };
    let mut names = Vec::new();
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            if let Err(error) = remove_tree(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), error = %error.chain(), "left over");
            }
        } else if validate::identifier("name", &name).is_ok() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes work directories without a bundle, as a reboot leaves them, and empty directories of namespaces.
fn sweep_work(state: &Path, root: &Path) {
    for namespace in names(root).unwrap_or_default() {
        let bundles: HashSet<String> =
            names(&state.join(&namespace)).unwrap_or_default().into_iter().collect();
        for id in names(&root.join(&namespace)).unwrap_or_default() {
            // A bundle is there before its work directory is.
            if !bundles.contains(&id) && !state.join(&namespace).join(&id).exists() {
                let path = root.join(&namespace).join(&id);
                if let Err(error) = remove_tree(&path) {
                    tracing::warn!(path = %path.display(), error = %error.chain(), "left over");
                }
            }
        }
    }
}
