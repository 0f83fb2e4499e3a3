//! The reference plugins `bridge` (with `host-local`) and `portmap`, done in this process: what they do takes the kernel a
//! few milliseconds, and ten processes of plugins and iptables a hundred.
//!
//! A built-in stands for the reference plugin and for nothing else. It is taken when the configuration has only keys that
//! it knows, and when the plugin directories have the reference plugin under that name, or nothing: a program of somebody
//! else is run, as is one for every other configuration. It keeps to the plugins' own forms on disk and in the kernel
//! where others see them: addresses are reserved in host-local's files under host-local's lock, interfaces and results are
//! alike. Masquerading differs: one rule of nftables for a network's subnet instead of chains of iptables for each pod; and
//! a check looks at the pod's interface, not at the bridge.
//!
//! What a built-in has done a built-in undoes: the attachment remembers. Where it is lost, a program that is there takes
//! away what it knows of.

mod bridge;
mod error;
mod genuine;
mod host_local;
mod ranges;
mod settings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};

use crate::cni::{Parameters, PluginConfig, Verb, Version};
use crate::error::Result;
use crate::netlink::nft::Masquerade;
use error::Problem;
use genuine::Genuine;
use settings::Bridge;

/// The built-in plugins of one set of plugin directories.
#[derive(Clone)]
pub struct Builtin {
    enabled: bool,
    dirs: Arc<[PathBuf]>,
    genuine: Arc<Genuine>,
    masquerade: Arc<Rules>,
    /// How long somebody else may hold a network's addresses locked.
    limit: Duration,
    /// By network: one call of this daemon at a time waits for the lock of its addresses, so that one that is held for
    /// long takes one thread.
    turns: Arc<Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

/// The kernel's rules, spoken to through one socket from the first use on.
#[derive(Default)]
struct Rules(Mutex<Option<Masquerade>>);

impl Rules {
    fn with<T>(&self, work: impl FnOnce(&mut Masquerade) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rules = match held.take() {
            Some(rules) => rules,
            None => Masquerade::open()?,
        };
        let outcome = work(&mut rules);
        *held = Some(rules);
        outcome
    }
}

impl Builtin {
    /// One that is not `enabled` takes nothing, but still undoes what was done.
    pub fn new(enabled: bool, dirs: &[PathBuf], limit: Duration) -> Self {
        Self {
            enabled,
            dirs: dirs.into(),
            genuine: Arc::default(),
            masquerade: Arc::default(),
            limit,
            turns: Arc::default(),
        }
    }

    /// Whether there is a built-in of that name.
    pub fn knows(&self, kind: &str) -> bool {
        self.enabled && matches!(kind, "bridge" | "portmap")
    }

    /// Whether a built-in adds a pod to a network in the plugin's stead; `request` is what the plugin would read. Blocks.
    pub fn takes(&self, plugin: &PluginConfig, request: &Value) -> bool {
        match plugin.kind.as_str() {
            _ if !self.enabled => false,
            "bridge" => {
                let Ok(bridge) = Bridge::parse(request) else { return false };
                let able = !bridge.ip_masq || self.masquerade.with(|_| Ok(())).is_ok();
                able && self.stands_for("bridge") && self.stands_for("host-local")
            }
            // Without a port to map it has nothing to do, and nothing to undo.
            "portmap" => {
                let mappings = request.pointer("/runtimeConfig/portMappings").and_then(Value::as_array);
                mappings.is_none_or(Vec::is_empty) && self.stands_for("portmap")
            }
            _ => false,
        }
    }

    /// Whether nothing but a built-in can do it. Of a pod of which nothing is remembered a program takes away more: what
    /// it may have added itself, too. Blocks.
    pub fn takes_alone(&self, plugin: &PluginConfig, request: &Value) -> bool {
        self.program(&plugin.kind).is_none() && self.takes(plugin, request)
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        self.dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
    }

    fn stands_for(&self, name: &str) -> bool {
        self.program(name).is_none_or(|path| self.genuine.is(&path))
    }

    /// What a plugin answers that is asked for its versions.
    pub fn versions(&self) -> Vec<u8> {
        let all: Vec<_> = Version::ALL.iter().map(|version| version.as_str()).collect();
        json!({ "cniVersion": Version::V110.as_str(), "supportedVersions": all }).to_string().into_bytes()
    }

    /// Does what the plugin would do with this request, and answers as it would.
    pub async fn run(
        &self,
        kind: &str,
        verb: Verb,
        parameters: &Parameters,
        request: Value,
    ) -> Result<Vec<u8>> {
        let outcome = match (kind, verb) {
            (_, Verb::Version) => return Ok(self.versions()),
            ("bridge", _) => self.bridge(verb, parameters.clone(), request).await,
            // The result is passed on as it came.
            (_, Verb::Add) => Ok(request.get("prevResult").cloned().unwrap_or_else(|| json!({}))),
            _ => Ok(Value::Null),
        };
        match outcome {
            Ok(Value::Null) => Ok(Vec::new()),
            Ok(answer) => Ok(answer.to_string().into_bytes()),
            Err(problem) => Err(problem.of(kind, verb)),
        }
    }

    fn turn(&self, network: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(network.to_owned()).or_default().clone()
    }

    async fn bridge(&self, verb: Verb, call: Parameters, request: Value) -> Result<Value, Problem> {
        let network = Bridge::parse(&request)?;
        let turn = self.turn(&network.network);
        let call = bridge::Call { network, parameters: call, limit: self.limit, turn };
        match verb {
            Verb::Add => call.add(self.masquerade.clone()).await,
            Verb::Del => call.del(self.masquerade.clone(), &request).await.map(|()| Value::Null),
            Verb::Check => call.check(&request).await.map(|()| Value::Null),
            // As with the reference plugin; what is left of pods is known by their attachments.
            Verb::Gc | Verb::Status | Verb::Version => Ok(Value::Null),
        }
    }
}

impl std::fmt::Debug for Builtin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builtin").field("dirs", &self.dirs).finish_non_exhaustive()
    }
}

/// Runs blocking work where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::Cut)?
}

fn file(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Problem {
    let path = path.to_owned();
    move |source| Problem::File { operation, path, source }
}
