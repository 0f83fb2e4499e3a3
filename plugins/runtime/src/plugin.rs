//! Registers `io.containerd.shim.v1.manager`, which knows how shims are started, and `io.containerd.runtime.v2.task`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Table;
use windlass_core::kinds::{Event, Metadata, Runtime};
use windlass_core::platform::Platform;
use windlass_core::registry::{InitContext, Kind, Plugin, Registration, unknown_keys};
use windlass_core::task::Tasks;
use windlass_core::{Error, Result};

use crate::config::{Limits, Settings};
use crate::launch::Launcher;
use crate::tasks::{Manager, Place};

/// Longest directory of sockets: a socket's name in it has 64 characters and a slash, and the kernel takes 107.
const MAX_SOCKET_DIR: usize = 106 - 65;
/// Where older shims put their sockets whatever they are told.
pub const SOCKET_DIR: &str = "/run/containerd/s";

/// The kind of the shim manager.
pub struct Shims;

impl Kind for Shims {
    const NAME: &'static str = "io.containerd.shim.v1";
    type Instance = Launcher;
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ShimConfig {
    env: Vec<String>,
    socket_dir: String,
    runtimes: BTreeMap<String, PathBuf>,
    oci_runtime: String,
    timeouts: Table,
}

struct ShimPlugin;

impl Plugin for ShimPlugin {
    type Kind = Shims;
    const ID: &'static str = "manager";

    fn init(ctx: &InitContext) -> Result<Arc<Launcher>> {
        let config: ShimConfig = ctx.config()?;
        let options = ctx.options();
        let socket_dir = match config.socket_dir.as_str() {
            "" => socket_dir(&options.state),
            dir => checked_dir(dir)?,
        };
        let executable =
            std::env::current_exe().map_err(|e| Error::io("find the daemon's own executable", e))?;
        Ok(Arc::new(Launcher::new(Settings {
            grpc_address: options.address.to_string_lossy().into_owned(),
            ttrpc_address: options.ttrpc_address.to_string_lossy().into_owned(),
            executable,
            socket_dir,
            env: config.env,
            runtimes: config.runtimes,
            oci_runtime: Some(config.oci_runtime).filter(|binary| !binary.is_empty()),
            limits: Limits::new(&config.timeouts, &options.timeouts)?,
        })))
    }

    fn check(config: &Table) -> Result<Vec<String>> {
        let parsed: ShimConfig = config
            .clone()
            .try_into()
            .map_err(|e| Error::invalid("configuration of the shim manager").with_source(e))?;
        Limits::new(&parsed.timeouts, &BTreeMap::new())?;
        if !parsed.socket_dir.is_empty() {
            checked_dir(&parsed.socket_dir)?;
        }
        if let Some(entry) = parsed.env.iter().find(|entry| !entry.contains('=')) {
            return Err(Error::invalid(format!("env: {entry:?} must be NAME=value")));
        }
        Ok(unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> Table {
        Table::from_iter([
            ("env".to_owned(), toml::Value::Array(Vec::new())),
            ("socket_dir".to_owned(), "".into()),
            ("runtimes".to_owned(), Table::new().into()),
            ("oci_runtime".to_owned(), "".into()),
            ("timeouts".to_owned(), Limits::table().into()),
        ])
    }
}

fn checked_dir(dir: &str) -> Result<PathBuf> {
    if !dir.starts_with('/') {
        return Err(Error::invalid(format!("socket_dir must be an absolute path: {dir:?}")));
    }
    if dir.len() > MAX_SOCKET_DIR {
        return Err(Error::invalid(format!(
            "socket_dir length must be no longer than {MAX_SOCKET_DIR} characters"
        )));
    }
    Ok(dir.into())
}

/// Below the daemon's own state, so that it goes with it, unless the path is too long for a socket.
fn socket_dir(state: &Path) -> PathBuf {
    let own = state.join("s");
    if own.as_os_str().len() <= MAX_SOCKET_DIR { own } else { SOCKET_DIR.into() }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TaskConfig {
    platforms: Vec<String>,
    sched_core: bool,
}

struct TaskPlugin;

impl Plugin for TaskPlugin {
    type Kind = Runtime;
    const ID: &'static str = "task";
    const REQUIRES: &'static [&'static str] = &[Event::NAME, Metadata::NAME, Shims::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn Tasks>> {
        let config: TaskConfig = ctx.config()?;
        if config.platforms.is_empty() {
            ctx.platform(Platform::host());
        }
        for platform in &config.platforms {
            ctx.platform(Platform::parse(platform)?);
        }
        ctx.export("log-uri-schemes", "fifo,binary,file");
        if config.sched_core {
            tracing::warn!(
                "sched_core: say env = [\"SCHED_CORE=1\"] under io.containerd.shim.v1.manager instead"
            );
        }
        let (root, state) = (ctx.root()?, ctx.state()?);
        // Roots of user namespaces must be able to pass through to their bundles.
        for dir in [&root, &state] {
            rustix::fs::chmod(dir, rustix::fs::Mode::from_raw_mode(0o711))
                .map_err(|e| Error::io(format!("change mode of {}", dir.display()), e.into()))?;
        }
        let place = Place {
            launcher: ctx.get::<Shims>("manager")?,
            exchange: ctx.single::<Event>()?,
            sandboxes: ctx.single::<Metadata>().ok().map(|database| database.sandboxes()),
            state,
            root,
        };
        let manager = tokio::runtime::Handle::current().block_on(Manager::start(place))?;
        Ok(Arc::new(manager))
    }

    fn check(config: &Table) -> Result<Vec<String>> {
        let parsed: TaskConfig = config
            .clone()
            .try_into()
            .map_err(|e| Error::invalid("configuration of the task manager").with_source(e))?;
        for platform in &parsed.platforms {
            Platform::parse(platform)?;
        }
        Ok(unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> Table {
        let host = Platform::host();
        let platform = format!("{}/{}", host.os, host.architecture);
        Table::from_iter([
            ("platforms".to_owned(), toml::Value::Array(vec![platform.into()])),
            ("sched_core".to_owned(), false.into()),
        ])
    }
}

inventory::submit! { Registration::of::<ShimPlugin>() }
inventory::submit! { Registration::of::<TaskPlugin>() }
