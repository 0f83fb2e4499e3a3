//! The shim's binary and its three uses: `start`, `delete` and `-info`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use protobuf::Message;
use windlass_api::convert::{any, time};
use windlass_api::shim::task_v3::DeleteResponse;
use windlass_api::shim::types::introspection;
use windlass_core::container::Runtime;
use windlass_core::task::{Exit, RuntimeInfo};

use crate::bootstrap::{self, Endpoint};
use crate::bundle::Bundle;
use crate::config::Settings;
use crate::create::with_binary;
use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::process::{Output, Process, Settled};
use crate::resolve::Resolver;

/// How long a thread waits for a binary before it leaves that to the runtime.
const SETTLE: Duration = Duration::from_millis(20);
/// How often a binary is let clear up that does not end well.
const DELETE_TRIES: u32 = 3;

/// `start` after a moment.
pub(crate) enum Begun {
    Answered(Endpoint),
    Runs(Process),
}

/// Starts shims, and knows how.
pub struct Launcher {
    pub(crate) settings: Settings,
    pub(crate) pool: Pool,
    resolver: Resolver,
}

impl Launcher {
    pub fn new(settings: Settings) -> Self {
        let resolver = Resolver::new(settings.runtimes.clone(), &settings.executable);
        Self { settings, pool: Pool::new(), resolver }
    }

    /// The binary of a runtime.
    pub(crate) fn resolve(&self, runtime: &str) -> Result<PathBuf> {
        self.resolver.resolve(runtime).map_err(|e| e.context("failed to resolve runtime path"))
    }

    /// Begins `start`, and mostly ends it too; blocks shortly. The bundle is complete.
    pub(crate) fn begin(&self, bundle: &Bundle, binary: &Path, params: Vec<u8>) -> Result<Begun> {
        let mut command = self.command(bundle, binary);
        command.arg("start");
        let process = Process::spawn("start", command, params)?;
        // While the shim starts. On the disk, and slower than all the rest of the bundle.
        bundle.make_work()?;
        Ok(match process.settle(SETTLE) {
            Settled::Ended(output) => Begun::Answered(self.answered(bundle, output)?),
            Settled::Runs(process) => Begun::Runs(process),
        })
    }

    /// Waits for the answer to `start`.
    pub(crate) async fn answer(self: &Arc<Self>, bundle: &Bundle, begun: Begun) -> Result<Endpoint> {
        match begun {
            Begun::Answered(endpoint) => Ok(endpoint),
            Begun::Runs(process) => {
                let output = process.finish(self.settings.limits.launch).await;
                let (launcher, bundle) = (self.clone(), bundle.clone());
                self.pool.start(move || launcher.answered(&bundle, output)).await
            }
        }
    }

    /// Reads the answer and notes it in the bundle.
    fn answered(&self, bundle: &Bundle, output: Result<Output>) -> Result<Endpoint> {
        let output = output?;
        warn("start", &output);
        let endpoint = Endpoint::parse(&output.stdout)?;
        bundle.write_endpoint(&endpoint)?;
        Ok(endpoint)
    }

    /// Asks the binary to clear up after a shim that died; answers how the task ended.
    pub(crate) async fn delete(self: &Arc<Self>, bundle: &Bundle, binary: &Path) -> Result<Exit> {
        for _ in 1..DELETE_TRIES {
            match self.try_delete(bundle, binary).await {
                // It was killed, for want of memory perhaps: what it leaves nobody else would take away.
                Err(error @ Error::Exited { .. }) => {
                    tracing::warn!(id = %bundle.id, error = %error.chain(), "the shim's binary is let clear up once more");
                }
                outcome => return outcome,
            }
        }
        self.try_delete(bundle, binary).await
    }

    async fn try_delete(self: &Arc<Self>, bundle: &Bundle, binary: &Path) -> Result<Exit> {
        let mut command = self.command(bundle, binary);
        command.arg("-bundle").arg(&bundle.path).arg("delete");
        let process = self.pool.start(move || Process::spawn("delete", command, Vec::new())).await?;
        let output = process.finish(self.settings.limits.cleanup).await?;
        warn("delete", &output);
        let response = DeleteResponse::parse_from_bytes(&output.stdout).map_err(|_| Error::Answer {
            action: "delete",
            answer: String::from_utf8_lossy(&output.stdout).chars().take(256).collect(),
        })?;
        let at = time::from_shim(&response.exited_at).ok().flatten().unwrap_or_else(SystemTime::now);
        Ok(Exit { pid: response.pid, status: response.exit_status, at })
    }

    /// Asks a runtime what it can do; of the options, it tells those that are in effect.
    pub(crate) async fn info(&self, runtime: &Runtime) -> Result<RuntimeInfo> {
        let mut command = Command::new(self.resolve(&runtime.name)?);
        command.arg("-info").env_remove("NOTIFY_SOCKET");
        let mut options = runtime.options.clone();
        if let Some(binary) = &self.settings.oci_runtime {
            options = with_binary(options, &runtime.name, binary)?;
        }
        let input = options
            .map(any::to_shim)
            .map(|o| o.write_to_bytes().expect("a message in memory can be written"));
        let process =
            self.pool.start(move || Process::spawn("info", command, input.unwrap_or_default())).await?;
        let output = process.finish(self.settings.limits.info).await?;
        let info =
            introspection::RuntimeInfo::parse_from_bytes(&output.stdout).map_err(|_| Error::Answer {
                action: "info",
                answer: String::from_utf8_lossy(&output.stdout).chars().take(256).collect(),
            })?;
        let version = info.version.into_option().unwrap_or_default();
        Ok(RuntimeInfo {
            name: info.name,
            version: version.version,
            revision: version.revision,
            options: info.options.into_option().map(any::from_shim),
            features: info.features.into_option().map(any::from_shim),
            annotations: info.annotations.into_iter().collect(),
        })
    }

    /// Flags and environment as shims of every age read them.
    fn command(&self, bundle: &Bundle, binary: &Path) -> Command {
        let settings = &self.settings;
        let mut command = Command::new(binary);
        command.current_dir(&bundle.path);
        command.args(["-namespace", &bundle.namespace, "-address", &settings.grpc_address]);
        command.arg("-publish-binary").arg(&settings.executable).args(["-id", &bundle.id]);
        if bootstrap::debug() {
            command.arg("-debug");
        }
        command.env_remove("NOTIFY_SOCKET");
        command.env("GOMAXPROCS", "2").env("MAX_SHIM_VERSION", "2");
        command.env("TTRPC_ADDRESS", &settings.ttrpc_address).env("GRPC_ADDRESS", &settings.grpc_address);
        command.env("NAMESPACE", &bundle.namespace);
        command.envs(settings.env.iter().filter_map(|entry| entry.split_once('=')));
        command
    }
}

fn warn(action: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    if !said.is_empty() {
        tracing::warn!(action, said, "shim");
    }
}
