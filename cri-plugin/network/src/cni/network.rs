//! The networks of this machine's pods.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::Settings;
use super::cache::{Cache, Entry};
use super::chain::{Attachment, Caller, blocking};
use super::config::NetworkConfig;
use super::exec::Plugins;
use super::gate::Gate;
use super::load::{Loader, State};
use super::orphans;
use super::outcome::Outcome;
use super::pod::Pod;
use super::version::Version;
use crate::builtin::Builtin;
use crate::error::{Error, Result};

/// How interfaces are named, with a number.
const PREFIX: &str = "eth";

/// Connects pods with networks. A cheap handle; the directory is watched until the last one is dropped.
///
/// Operations on one pod follow one another, those on different pods run side by side. Each goes on to its end, or to
/// where it began, if its caller goes away.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    caller: Caller,
    state: Arc<watch::Sender<State>>,
    gate: Gate,
    follower: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Network {
    /// Ends plugins that an earlier process left running, loads what there is and begins to watch. No configuration, or a bad one, is no error: see [`Network::load_error`].
    pub async fn open(settings: Settings) -> Result<Self> {
        let loader = Loader { dir: settings.conf_dir.clone(), max: settings.max_conf_num };
        let cache = Cache::new(settings.cache_dir.clone());
        let (first, tidied, owner) = (loader.clone(), cache.clone(), settings.cache_dir.clone());
        let loaded = blocking(move || {
            orphans::end(&owner);
            tidied.tidy();
            Ok(first.load(&State::default()))
        });
        let state = Arc::new(watch::Sender::new(loaded.await?));
        let follower = tokio::spawn(loader.follow(state.clone())).abort_handle();
        let plugins = Plugins::new(settings.bin_dirs.clone(), &settings.cache_dir);
        let builtin = Builtin::new(settings.builtin_plugins, &settings.bin_dirs, settings.limits.exec);
        let caller = Caller { plugins, builtin, cache, limits: settings.limits };
        Ok(Self { inner: Arc::new(Inner { settings, caller, state, gate: Gate::default(), follower }) })
    }

    /// Connects a pod with every network, as `eth0`, `eth1` and so on. All or nothing: where one fails, what was done is
    /// undone, and what cannot be undone is left for [`Network::detach`].
    pub async fn attach(&self, pod: Pod) -> Result<Outcome> {
        pod.validate()?;
        let this = self.inner.clone();
        finish("network setup", async move { this.attach(&pod).await }).await
    }

    /// Takes a pod off all its networks, with the configuration they were made with as far as that is known. A pod that
    /// never was on one, or whose namespace is gone, is no error. Nothing is forgotten on an error: call again.
    pub async fn detach(&self, pod: Pod) -> Result<()> {
        pod.validate()?;
        let this = self.inner.clone();
        finish("network teardown", async move { this.detach(&pod).await }).await
    }

    /// Has the plugins look whether a pod's attachments are as they were made.
    pub async fn check(&self, pod: Pod) -> Result<()> {
        pod.validate()?;
        let this = self.inner.clone();
        finish("network check", async move {
            let _turn = this.gate.enter(&pod.id).await;
            for attachment in this.attached(&pod).await? {
                this.caller.check(&attachment).await?;
            }
            Ok(())
        })
        .await
    }

    /// What attaching a pod came to, as remembered; none if it is not attached.
    pub async fn outcome(&self, pod: &str) -> Result<Option<Outcome>> {
        let (cache, pod) = (self.inner.caller.cache.clone(), pod.to_owned());
        let entries = blocking(move || cache.list(Some(&pod))).await?;
        let Some(netns) = entries.first().map(|entry| entry.netns.clone()) else { return Ok(None) };
        let mut results = Vec::new();
        let mut network = String::new();
        for entry in entries {
            let config = entry.config().and_then(|bytes| NetworkConfig::any(&bytes).ok());
            let (Some(config), Some(result)) = (config, entry.result) else { return Ok(None) };
            results.push((entry.if_name, result, config.version));
            network = entry.network_name;
        }
        let outcome = Outcome::new(Path::new(&netns), results);
        outcome.map(Some).map_err(|why| Error::Answer { network, why })
    }

    /// Whether pods can be attached: there are networks, and their plugins (of 1.1) say so.
    pub async fn status(&self) -> Result<()> {
        for config in self.networks()? {
            self.inner.caller.status(&config).await?;
        }
        Ok(())
    }

    /// Gives back what pods that are no more have left: their attachments are undone, and plugins (of 1.1) are told which
    /// are still good. `valid` is asked for the ids of all pods that have or are about to have a network; while it is, and
    /// while plugins collect, no pod is attached or detached.
    pub async fn collect(&self, valid: impl Fn() -> BTreeSet<String> + Send + Sync + 'static) -> Result<()> {
        let this = self.inner.clone();
        finish("network collection", async move { this.collect(&valid).await }).await
    }

    /// The versions of CNI that a plugin speaks.
    pub async fn versions(&self, plugin: &str) -> Result<Vec<String>> {
        let named = json!({ "type": plugin });
        let checked = super::config::PluginConfig::new(named.as_object().cloned().unwrap_or_default());
        checked.map_err(|_| Error::invalid("plugin", plugin, "it is not a file name"))?;
        self.inner.caller.versions(plugin).await
    }

    /// Makes sure that every plugin of every network is there and speaks the network's version.
    pub async fn validate(&self) -> Result<()> {
        for config in self.networks()? {
            for plugin in &config.plugins {
                let versions = self.inner.caller.versions(&plugin.kind).await?;
                if !versions.iter().any(|version| version == config.version.as_str()) {
                    let (plugin, version) = (plugin.kind.clone(), config.version.to_string());
                    return Err(Error::Unsupported { plugin, version });
                }
            }
        }
        Ok(())
    }

    /// The networks that a pod is connected with now; an error if there is none.
    pub fn networks(&self) -> Result<Vec<Arc<NetworkConfig>>> {
        self.inner.networks()
    }

    /// What was wrong with the configurations when they last changed. The networks that were there before are still used.
    pub fn load_error(&self) -> Option<Arc<Error>> {
        self.inner.state.borrow().error.clone()
    }

    /// Wakes at every change of the networks or of [`Network::load_error`].
    pub fn changes(&self) -> Changes {
        Changes { state: self.inner.state.subscribe() }
    }

    /// The configuration in the form that tools show (`cniconfig`).
    pub fn describe(&self) -> Value {
        let settings = &self.inner.settings;
        let state = self.inner.state.borrow();
        let lo = NetworkConfig::list(LOOPBACK.as_bytes()).expect("a constant");
        let own =
            state.networks.iter().enumerate().map(|(i, config)| (format!("{PREFIX}{i}"), config.as_ref()));
        let all = std::iter::once(("lo".to_owned(), &lo)).chain(own);
        json!({
            "PluginDirs": settings.bin_dirs,
            "PluginConfDir": settings.conf_dir,
            "PluginMaxConfNum": settings.max_conf_num,
            "Prefix": PREFIX,
            "Networks": all.map(|(interface, config)| describe(&interface, config)).collect::<Vec<_>>(),
        })
    }
}

/// Loopback, as tools expect to see it among the networks.
const LOOPBACK: &str = r#"{"cniVersion":"1.0.0","name":"cni-loopback","plugins":[{"type":"loopback"}]}"#;

fn describe(interface: &str, config: &NetworkConfig) -> Value {
    let plugin = |plugin: &super::config::PluginConfig| {
        let mut network = Map::new();
        for key in ["cniVersion", "name", "type", "capabilities", "ipam", "dns"] {
            let value = plugin.conf.get(key).cloned();
            let value = value.or_else(|| matches!(key, "ipam" | "dns").then(|| json!({})));
            network.extend(value.map(|value| (key.to_owned(), value)));
        }
        json!({ "Network": network, "Source": Value::Object(plugin.conf.clone()).to_string() })
    };
    json!({
        "IFName": interface,
        "Config": {
            "Name": config.name,
            "CNIVersion": config.version.as_str(),
            "Plugins": config.plugins.iter().map(plugin).collect::<Vec<_>>(),
            "Source": String::from_utf8_lossy(&config.bytes),
        },
    })
}

/// Tells of changes of the configuration.
pub struct Changes {
    state: watch::Receiver<State>,
}

impl Changes {
    /// Waits for the next change since the last call, or since this was made. False when there will be none any more.
    pub async fn next(&mut self) -> bool {
        self.state.changed().await.is_ok()
    }
}

/// Runs an operation to its end even if nobody waits for it any more.
async fn finish<T: Send + 'static>(
    what: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.map_err(|_| Error::Cut(what))?
}

impl Inner {
    fn networks(&self) -> Result<Vec<Arc<NetworkConfig>>> {
        let state = self.state.borrow();
        if !state.networks.is_empty() {
            return Ok(state.networks.clone());
        }
        Err(match state.error.as_deref() {
            None | Some(Error::NoNetwork(_)) => Error::NoNetwork(self.settings.conf_dir.clone()),
            Some(Error::Config { path, why }) => Error::Config { path: path.clone(), why: why.clone() },
            Some(other) => Error::Config { path: self.settings.conf_dir.clone(), why: other.chain() },
        })
    }

    /// The attachments that a pod would have now.
    fn planned(&self, pod: &Pod, networks: Vec<Arc<NetworkConfig>>) -> Vec<Attachment> {
        let each = networks.into_iter().enumerate().map(|(i, config)| {
            let mut entry = Entry::new(&config.name, &config.bytes, &pod.id, &format!("{PREFIX}{i}"));
            entry.netns = pod.netns.display().to_string();
            entry.cni_args = pod.args();
            entry.capability_args = pod.capability_args();
            Attachment::new(config, entry)
        });
        each.collect()
    }

    /// The attachments that a pod has, as remembered.
    async fn attached(&self, pod: &Pod) -> Result<Vec<Attachment>> {
        let (cache, id) = (self.caller.cache.clone(), pod.id.clone());
        let entries = blocking(move || cache.list(Some(&id))).await?;
        Ok(entries.into_iter().filter_map(|entry| self.known(entry)).collect())
    }

    /// Finds the configuration of an attachment: its own, or what goes by the same name now.
    fn known(&self, entry: Entry) -> Option<Attachment> {
        let own = entry.config().and_then(|bytes| NetworkConfig::any(&bytes).ok()).map(Arc::new);
        let config = own.or_else(|| {
            let state = self.state.borrow();
            state.networks.iter().find(|network| network.name == entry.network_name).cloned()
        });
        if config.is_none() {
            tracing::warn!(pod = entry.container_id, network = entry.network_name, "the network is unknown");
        }
        Some(Attachment::new(config?, entry))
    }

    async fn attach(self: &Arc<Self>, pod: &Pod) -> Result<Outcome> {
        let networks = self.networks()?;
        let _turn = self.gate.enter(&pod.id).await;
        let (attachments, failed) = self.add_all(self.planned(pod, networks)).await;
        let outcome = match failed {
            Some(error) => Err(error),
            None => {
                let results = attachments.iter().map(|attachment| {
                    let result = attachment.entry.result.clone().unwrap_or_default();
                    (attachment.entry.if_name.clone(), result, attachment.config.version)
                });
                Outcome::new(&pod.netns, results)
                    .map_err(|why| Error::Answer { network: attachments[0].config.name.clone(), why })
            }
        };
        if outcome.is_err() {
            for attachment in attachments.iter().rev() {
                if let Err(error) = self.caller.del(attachment).await {
                    let network = &attachment.config.name;
                    tracing::warn!(
                        pod = pod.id,
                        network,
                        error = error.chain(),
                        "network setup is not undone"
                    );
                }
            }
        }
        outcome
    }

    /// Adds to all networks. Gives back those that were begun, in order, and the first error.
    async fn add_all(self: &Arc<Self>, attachments: Vec<Attachment>) -> (Vec<Attachment>, Option<Error>) {
        let mut begun = Vec::new();
        let mut failed: Option<Error> = None;
        if self.settings.setup_serially || attachments.len() == 1 {
            for mut attachment in attachments {
                let outcome = self.caller.add(&mut attachment).await;
                begun.push(attachment);
                failed = outcome.err();
                if failed.is_some() {
                    break;
                }
            }
            return (begun, failed);
        }
        let mut tasks = JoinSet::new();
        for (i, mut attachment) in attachments.into_iter().enumerate() {
            let this = self.clone();
            tasks.spawn(async move {
                let outcome = this.caller.add(&mut attachment).await;
                (i, attachment, outcome)
            });
        }
        let mut done = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok((i, attachment, outcome)) => {
                    done.push((i, attachment));
                    failed = failed.or(outcome.err());
                }
                Err(_) => failed = failed.or(Some(Error::Cut("network setup"))),
            }
        }
        done.sort_by_key(|(i, _)| *i);
        begun.extend(done.into_iter().map(|(_, attachment)| attachment));
        (begun, failed)
    }

    async fn detach(&self, pod: &Pod) -> Result<()> {
        let _turn = self.gate.enter(&pod.id).await;
        let mut attachments = self.attached(pod).await?;
        if attachments.is_empty() {
            // Added by another program, or before the cache was lost: with what there is now, as far as there is any.
            let networks = self.state.borrow().networks.clone();
            attachments = self.planned(pod, networks);
            for attachment in &mut attachments {
                self.caller.choose(attachment, Builtin::takes_alone).await?;
            }
        }
        let mut outcome = Ok(());
        for attachment in attachments.iter().rev() {
            // The others must not stay because of one.
            outcome = outcome.and(self.caller.del(attachment).await);
        }
        outcome
    }

    async fn collect(&self, valid: &(impl Fn() -> BTreeSet<String> + Send + Sync)) -> Result<()> {
        let list = || {
            let cache = self.caller.cache.clone();
            blocking(move || cache.list(None))
        };
        // While nobody is in between: an attachment that is there belongs to a pod that is known, or to none.
        let (entries, known) = {
            let _turn = self.gate.sweep().await;
            (list().await?, valid())
        };
        let mut outcome = Ok(());
        for entry in entries.into_iter().filter(|entry| !known.contains(&entry.container_id)) {
            // An id is not used again: what is stale stays so.
            let id = entry.container_id.clone();
            let _turn = self.gate.enter(&id).await;
            if let Some(attachment) = self.known(entry).filter(|attachment| !attachment.config.disable_gc) {
                outcome = outcome.and(self.caller.del(&attachment).await);
            }
        }
        let networks = self.state.borrow().networks.clone();
        for (i, config) in networks.iter().enumerate() {
            if config.version < Version::V110 || config.disable_gc {
                continue;
            }
            let _turn = self.gate.sweep().await;
            let entries = list().await?;
            let mut good = BTreeSet::new();
            for pod in valid() {
                let own = entries.iter().filter(|e| e.container_id == pod && e.network_name == config.name);
                let mut interfaces: Vec<_> = own.map(|entry| entry.if_name.clone()).collect();
                if interfaces.is_empty() {
                    // Not remembered, yet possibly there.
                    interfaces.push(format!("{PREFIX}{i}"));
                }
                good.extend(interfaces.into_iter().map(|interface| (pod.clone(), interface)));
            }
            let good: Vec<_> = good.into_iter().collect();
            outcome = outcome.and(self.caller.gc(config, &good).await);
        }
        outcome
    }
}
