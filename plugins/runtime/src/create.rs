//! Making a task: bundle, shim, connection, the shim's own creation. Whatever fails, nothing is left.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use protobuf::{Message, MessageField};
use windlass_api::convert::{any, mount};
use windlass_api::shim::runc;
use windlass_api::shim::task_v3 as v3;
use windlass_core::Any;
use windlass_core::task::CreateOptions;

use crate::bootstrap::{self, Endpoint};
use crate::bundle::Bundle;
use crate::end::is_dead;
use crate::error::{Error, Result};
use crate::shim::Shim;
use crate::task::Task;
use crate::tasks::Inner;
use crate::{connection, features, log, step};

/// The runtime whose options name an OCI runtime.
const RUNC_V2: &str = "io.containerd.runc.v2";

/// A shim that is there, and how it came to be.
struct Launched {
    endpoint: Endpoint,
    /// See [`Task::shared`].
    shared: bool,
    log: std::os::fd::OwnedFd,
}

impl Inner {
    /// Makes a task and answers its pid. Runs to its end whatever becomes of the caller.
    pub async fn create(
        self: Arc<Self>,
        namespace: String,
        id: String,
        mut options: CreateOptions,
    ) -> Result<u32> {
        windlass_core::validate::identifier("task id", &id)?;
        let place = self.tasks.reserve(&namespace, &id)?;
        if options.options.as_ref().is_none_or(|o| o.value.is_empty()) {
            options.options = options.runtime.options.clone();
        }
        if let Some(binary) = &self.launcher.settings.oci_runtime {
            options.options = with_binary(options.options.take(), &options.runtime.name, binary)?;
        }
        let bundle = Bundle::new(&self.state, &self.root, &namespace, &id);
        let group = if options.sandbox_id.is_empty() { id } else { options.sandbox_id.clone() };
        let held = self.tasks.group(&namespace, &group).await;
        let shared = self.sandbox_endpoint(&namespace, &options).await?;
        // A group's shim may end while it is answered with: then there is another to be started.
        let mut again = shared.is_none();
        let task = loop {
            let begun = async {
                // Of a bundle that is there but not ours nothing is removed.
                let (binary, launched) = self.prepare(&bundle, &options, shared.clone()).await?;
                self.attach(bundle.clone(), binary, group.clone(), launched).await
            };
            match begun.await {
                Ok(task) => break task,
                Err(error) if again && is_dead(&error) => again = false,
                Err(error) => return Err(error.context("failed to start shim")),
            }
        };
        drop(held);
        let created = async {
            features::check(&self.launcher, &options).await?;
            if options.take_checkpoint {
                options.checkpoint = task.bundle.take_checkpoint(&options.checkpoint)?;
            }
            self.create_in_shim(&task, options).await
        };
        match created.await {
            Ok(pid) => {
                task.set_pid(pid);
                place.fill(task.clone());
                task.live.store(true, Ordering::SeqCst);
                if task.closed.load(Ordering::SeqCst) {
                    tokio::spawn(self.clone().closed(task));
                }
                Ok(pid)
            }
            Err(error) => {
                let _held = self.tasks.group(&namespace, &task.group).await;
                self.abandon(&task).await;
                Err(error.context("failed to create shim task"))
            }
        }
    }

    /// Where the sandbox's shim listens, if it is to serve this task too.
    async fn sandbox_endpoint(&self, namespace: &str, options: &CreateOptions) -> Result<Option<Endpoint>> {
        if options.sandbox_id.is_empty() {
            return Ok(None);
        }
        if !options.address.is_empty() {
            return Endpoint::of_sandbox(&options.address).map(Some);
        }
        // An older shim must be asked through its binary, and so must one that nobody knows: the binary finds the
        // group's shim by itself.
        let sandbox = self.tasks.get(namespace, &options.sandbox_id).ok();
        Ok(sandbox.map(|task| task.shim.endpoint.clone()).filter(|endpoint| endpoint.version >= 3))
    }

    /// Makes the bundle and starts the shim, or takes the sandbox's.
    async fn prepare(
        self: &Arc<Self>,
        bundle: &Bundle,
        options: &CreateOptions,
        shared: Option<Endpoint>,
    ) -> Result<(PathBuf, Launched)> {
        let launcher = self.launcher.clone();
        let spec = options.spec.as_ref().map(|spec| spec.value.clone());
        let (runtime, sandbox) = (options.runtime.name.clone(), options.sandbox_id.clone());
        if let Some(endpoint) = shared {
            let lent = !options.address.is_empty();
            let (bundle, answered) = (bundle.clone(), endpoint.clone());
            let (binary, log) = self
                .launcher
                .pool
                .start(move || {
                    let binary = launcher.resolve(&runtime)?;
                    bundle.create(spec.as_deref())?;
                    let filled = bundle.write_binary(&binary).and_then(|()| {
                        if lent {
                            bundle.write_sandbox(&sandbox)?
                        } else {
                            bundle.write_group(&sandbox)?
                        }
                        bundle.write_endpoint(&endpoint)?;
                        bundle.make_work()?;
                        bundle.open_log()
                    });
                    undo(&bundle, filled.map(|log| (binary, log)))
                })
                .await?;
            return Ok((binary, Launched { endpoint: answered, shared: lent, log }));
        }
        let params =
            bootstrap::params(&launcher.settings, &bundle.namespace, &bundle.id, options.options.as_ref());
        let own = bundle.clone();
        let group = options.sandbox_id.clone();
        let (binary, log, begun) = self
            .launcher
            .pool
            .start(move || {
                let binary = launcher.resolve(&runtime)?;
                own.create(spec.as_deref())?;
                let log = undo(&own, ready(&own, &binary, &group))?;
                let begun = launcher.begin(&own, &binary, params);
                Ok((binary, log, begun))
            })
            .await?;
        let launched = async {
            let endpoint = self.launcher.answer(bundle, begun?).await?;
            step!("create.launched");
            Ok(endpoint)
        };
        match launched.await {
            Ok(endpoint) => Ok((binary, Launched { endpoint, shared: false, log })),
            Err(error) => {
                self.discard(bundle, &binary).await;
                Err(error)
            }
        }
    }

    /// Connects to a shim. The caller holds the group.
    async fn attach(
        self: &Arc<Self>,
        bundle: Bundle,
        binary: PathBuf,
        group: String,
        launched: Launched,
    ) -> Result<Arc<Task>> {
        let Launched { endpoint, shared, log } = launched;
        let log = log::follow(log, bundle.namespace.clone(), bundle.id.clone()).ok();
        let shim = Shim::new(endpoint, &bundle.namespace);
        let task = Arc::new(Task::new(bundle, binary, shared, group, shim, log));
        self.tasks.serve(&task);
        let attached = async {
            self.connect(&task).await?;
            step!("create.connected");
            Ok(())
        };
        match attached.await {
            Ok(()) => Ok(task),
            Err(error) => {
                self.abandon(&task).await;
                Err(error)
            }
        }
    }

    /// Connects a task to its shim; the end of the connection is looked into.
    pub async fn connect(self: &Arc<Self>, task: &Arc<Task>) -> Result<()> {
        let (manager, weak, runtime) =
            (Arc::downgrade(self), Arc::downgrade(task), tokio::runtime::Handle::current());
        let on_close = move || {
            let (Some(manager), Some(task)) = (manager.upgrade(), weak.upgrade()) else { return };
            task.close();
            if task.live.load(Ordering::SeqCst) && !task.finished.load(Ordering::Acquire) {
                runtime.spawn(manager.closed(task));
            }
        };
        task.closed.store(false, Ordering::SeqCst);
        let limit = self.limits().connect;
        task.shim.attach(connection::connect(&task.shim.endpoint.address, limit, on_close).await?);
        Ok(())
    }

    async fn create_in_shim(&self, task: &Task, options: CreateOptions) -> Result<u32> {
        let limits = self.limits();
        let mut request = v3::CreateTaskRequest::new();
        request.id = task.id().to_owned();
        request.bundle = task.bundle.path.to_string_lossy().into_owned();
        request.rootfs = options.rootfs.into_iter().map(mount::to_shim).collect();
        request.terminal = options.io.terminal;
        request.stdin = options.io.stdin;
        request.stdout = options.io.stdout;
        request.stderr = options.io.stderr;
        request.checkpoint = options.checkpoint;
        request.options = any_field(options.options);
        let response: v3::CreateTaskResponse =
            task.shim.call("Create", &request, Some(limits.create)).await?;
        step!("create.created");
        if response.pid != 0 {
            return Ok(response.pid);
        }
        let mut request = v3::ConnectRequest::new();
        request.id = task.id().to_owned();
        let response: v3::ConnectResponse = task.shim.call("Connect", &request, Some(limits.call)).await?;
        Ok(response.task_pid)
    }
}

/// Options of the runtime `io.containerd.runc.v2` with the OCI runtime that configuration prefers, where they name none.
pub(crate) fn with_binary(options: Option<Any>, runtime: &str, binary: &str) -> Result<Option<Any>> {
    let known = options.as_ref().is_none_or(|o| o.type_url.ends_with("containerd.runc.v1.Options"));
    if runtime != RUNC_V2 || !known {
        return Ok(options);
    }
    let mut parsed = match &options {
        Some(any) => runc::Options::parse_from_bytes(&any.value).map_err(|e| {
            Error::Shim(windlass_core::Error::invalid("read the runtime's options").with_source(e))
        })?,
        None => runc::Options::new(),
    };
    if !parsed.binary_name.is_empty() {
        return Ok(options);
    }
    parsed.binary_name = binary.to_owned();
    let value = parsed.write_to_bytes().expect("a message in memory can be written");
    Ok(Some(Any { type_url: "containerd.runc.v1.Options".into(), value: value.into() }))
}

pub fn any_field(any: Option<Any>) -> MessageField<protobuf::well_known_types::any::Any> {
    any.map(any::to_shim).into()
}

/// The last steps before the shim runs. Blocks.
fn ready(bundle: &Bundle, binary: &std::path::Path, group: &str) -> Result<std::os::fd::OwnedFd> {
    step!("create.bundle");
    bundle.write_binary(binary)?;
    if !group.is_empty() {
        bundle.write_group(group)?;
    }
    // Open before the shim opens it to write, which would wait.
    bundle.open_log()
}

/// Removes the bundle where what was done in it failed.
fn undo<T>(bundle: &Bundle, done: Result<T>) -> Result<T> {
    if done.is_err()
        && let Err(left) = bundle.remove()
    {
        tracing::warn!(id = %bundle.id, error = %left.chain(), "a bundle is left over");
    }
    done
}
