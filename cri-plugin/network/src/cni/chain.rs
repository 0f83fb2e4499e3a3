//! The operations of CNI on one attachment: a network's plugins, one after the other.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::cache::{Cache, Entry};
use super::config::{NetworkConfig, PluginConfig};
use super::exec::{Parameters, Plugins, Verb, shorten};
use super::result::Answer;
use super::version::Version;
use crate::builtin::Builtin;
use crate::error::{Error, Result};
use crate::namespaces::is_namespace;

/// What every operation needs.
#[derive(Clone, Debug)]
pub struct Caller {
    pub plugins: Plugins,
    pub builtin: Builtin,
    pub cache: Cache,
    pub limits: super::Limits,
}

/// An attachment and the configuration that it is, or was, made with.
pub struct Attachment {
    pub config: Arc<NetworkConfig>,
    pub entry: Entry,
    /// How many of its plugins have been run, as far as is known: the others hold nothing.
    ran: Option<usize>,
}

/// Who does what a plugin is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Builtin,
    Program,
}

impl Attachment {
    /// Who has added the pod by the plugin of this place in the network, and takes it off again.
    fn by(&self, index: usize) -> By {
        if self.entry.builtin.contains(&index) { By::Builtin } else { By::Program }
    }

    pub fn new(config: Arc<NetworkConfig>, entry: Entry) -> Self {
        Self { config, entry, ran: None }
    }

    /// Whether the plugin of this place in the network may hold something.
    fn may_hold(&self, index: usize) -> bool {
        self.ran.is_none_or(|ran| index < ran)
    }

    fn parameters(&self) -> Parameters {
        Parameters {
            container_id: self.entry.container_id.clone(),
            netns: self.entry.netns.clone(),
            if_name: self.entry.if_name.clone(),
            args: super::pod::join(&self.entry.cni_args),
        }
    }

    /// The result in the words of the configuration's version, if there is one that can be said in it.
    pub fn result(&self) -> Option<Value> {
        let raw = self.entry.result.as_ref()?;
        in_version(raw.clone(), self.config.version).ok()
    }

    fn request(&self, plugin: &PluginConfig, result: Option<&Value>) -> Vec<u8> {
        let more: Vec<_> = result.map(|result| ("prevResult", result)).into_iter().collect();
        plugin.request(&self.config, &more, &self.entry.capability_args)
    }
}

impl Caller {
    /// Adds a pod to a network. On an error the attachment holds the last result that there was, for the way back; its
    /// file is there in any case.
    pub async fn add(&self, attachment: &mut Attachment) -> Result<()> {
        self.choose(attachment, Builtin::takes).await?;
        self.store(&attachment.entry).await?;
        let (config, parameters) = (attachment.config.clone(), attachment.parameters());
        for (i, plugin) in config.plugins.iter().enumerate() {
            let request = attachment.request(plugin, attachment.entry.result.as_ref());
            let ended = self.run(attachment.by(i), plugin, Verb::Add, &parameters, request).await;
            attachment.ran = Some(i + usize::from(!matches!(ended, Err(Error::NoPlugin { .. }))));
            let result = ended.and_then(|answer| {
                let result = read(&answer).and_then(|value| in_version(value, config.version));
                result.map_err(|why| garbage(&plugin.kind, Verb::Add, why, &answer))
            });
            attachment.entry.result = Some(result.map_err(|error| error.on(&config.name))?);
        }
        self.store(&attachment.entry).await
    }

    /// Takes a pod off a network and forgets the attachment. What is gone already is no error. All plugins are asked, as
    /// one that fails must not keep what the others hold; the first error is returned, and nothing is forgotten.
    pub async fn del(&self, attachment: &Attachment) -> Result<()> {
        let result = match attachment.config.version {
            // Older plugins do not expect one.
            version if version < Version::V040 => None,
            _ => attachment.result(),
        };
        let mut parameters = attachment.parameters();
        let gone = !is_namespace(&PathBuf::from(&parameters.netns));
        if gone {
            // The specification's way to say it.
            parameters.netns.clear();
        }
        let mut outcome = Ok(());
        for (i, plugin) in attachment.config.plugins.iter().enumerate().rev() {
            let request = attachment.request(plugin, result.as_ref());
            match self.run(attachment.by(i), plugin, Verb::Del, &parameters, request).await {
                Ok(_) => {}
                Err(Error::NoPlugin { .. }) if !attachment.may_hold(i) => {}
                Err(error) if is_absence(&error, gone) => {
                    tracing::debug!(
                        pod = parameters.container_id,
                        error = error.chain(),
                        "nothing to take away"
                    );
                }
                Err(error) => outcome = outcome.and(Err(error.on(&attachment.config.name))),
            }
        }
        outcome?;
        self.forget(&attachment.entry).await
    }

    /// Has the plugins look whether the attachment is still as it was made.
    pub async fn check(&self, attachment: &Attachment) -> Result<()> {
        let (config, parameters) = (&attachment.config, attachment.parameters());
        if config.disable_check || config.version < Version::V040 {
            return Ok(());
        }
        let Some(result) = attachment.result() else {
            let why = format!("pod {} was not completely added to it", parameters.container_id);
            return Err(Error::Answer { network: config.name.clone(), why });
        };
        for (i, plugin) in config.plugins.iter().enumerate() {
            let request = attachment.request(plugin, Some(&result));
            let run = self.run(attachment.by(i), plugin, Verb::Check, &parameters, request);
            run.await.map_err(|error| error.on(&config.name))?;
        }
        Ok(())
    }

    /// Asks the plugins whether they can add pods; those of old versions are not asked.
    pub async fn status(&self, config: &NetworkConfig) -> Result<()> {
        if config.version < Version::V110 {
            return Ok(());
        }
        let none = Parameters::default();
        for plugin in &config.plugins {
            let request = plugin.request(config, &[], &serde_json::Map::new());
            let by = self.network_by(plugin, &request).await?;
            let run = self.run(by, plugin, Verb::Status, &none, request);
            run.await.map_err(|error| error.on(&config.name))?;
        }
        Ok(())
    }

    /// Has the plugins give back everything that is not one of `valid`. All are asked; the first error is returned.
    pub async fn gc(&self, config: &NetworkConfig, valid: &[(String, String)]) -> Result<()> {
        let valid: Value =
            valid.iter().map(|(pod, interface)| json!({ "containerID": pod, "ifname": interface })).collect();
        // The second name is one that a release of libcni used, and plugins with it.
        let more = [("cni.dev/valid-attachments", &valid), ("cni.dev/attachments", &valid)];
        let (none, mut outcome) = (Parameters::default(), Ok(()));
        for plugin in &config.plugins {
            let request = plugin.request(config, &more, &serde_json::Map::new());
            let by = self.network_by(plugin, &request).await?;
            let run = self.run(by, plugin, Verb::Gc, &none, request);
            outcome = outcome.and(run.await.map(drop).map_err(|error| error.on(&config.name)));
        }
        outcome
    }

    /// The versions that a plugin speaks.
    pub async fn versions(&self, plugin: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Said {
            #[serde(default)]
            supported_versions: Vec<String>,
        }
        let request = json!({ "cniVersion": Version::V110.as_str() }).to_string().into_bytes();
        // Plugins of old want these to be there.
        let parameters =
            Parameters { netns: "dummy".into(), if_name: "dummy".into(), ..Parameters::default() };
        let run = self.plugins.run(plugin, Verb::Version, &parameters, request, self.limits.status);
        let answer = match run.await {
            Err(Error::NoPlugin { .. }) if self.builtin.knows(plugin) => self.builtin.versions(),
            outcome => outcome?,
        };
        let said: Said = serde_json::from_slice(&answer)
            .map_err(|e| garbage(plugin, Verb::Version, e.to_string(), &answer))?;
        // One that names none knows the two that were there before the question.
        let old = || vec!["0.1.0".to_owned(), "0.2.0".to_owned()];
        Ok(if said.supported_versions.is_empty() { old() } else { said.supported_versions })
    }

    /// Settles which of an attachment's plugins are done by what is built in.
    pub async fn choose(
        &self,
        attachment: &mut Attachment,
        which: fn(&Builtin, &PluginConfig, &Value) -> bool,
    ) -> Result<()> {
        let (builtin, config) = (self.builtin.clone(), attachment.config.clone());
        let requests: Vec<_> = config.plugins.iter().map(|plugin| attachment.request(plugin, None)).collect();
        let chosen = move || {
            let each = config.plugins.iter().zip(&requests).enumerate();
            let own = each.filter(|(_, (plugin, request))| which(&builtin, plugin, &value(request)));
            Ok(own.map(|(i, _)| i).collect())
        };
        attachment.entry.builtin = blocking(chosen).await?;
        Ok(())
    }

    /// Who answers for a network's plugin where it is not about a pod.
    async fn network_by(&self, plugin: &PluginConfig, request: &[u8]) -> Result<By> {
        if !self.builtin.knows(&plugin.kind) {
            return Ok(By::Program);
        }
        let (builtin, plugin, request) = (self.builtin.clone(), plugin.clone(), value(request));
        let takes = blocking(move || Ok(builtin.takes(&plugin, &request))).await?;
        Ok(if takes { By::Builtin } else { By::Program })
    }

    async fn run(
        &self,
        by: By,
        plugin: &PluginConfig,
        verb: Verb,
        parameters: &Parameters,
        request: Vec<u8>,
    ) -> Result<Vec<u8>> {
        let limit = if verb == Verb::Status { self.limits.status } else { self.limits.exec };
        match by {
            By::Builtin => {
                let run = self.builtin.run(&plugin.kind, verb, parameters, value(&request));
                tokio::time::timeout(limit, run).await.unwrap_or_else(|_| {
                    Err(Error::TimedOut { plugin: plugin.kind.clone(), operation: verb.word(), limit })
                })
            }
            By::Program => self.plugins.run(&plugin.kind, verb, parameters, request, limit).await,
        }
    }

    async fn store(&self, entry: &Entry) -> Result<()> {
        let (cache, entry) = (self.cache.clone(), entry.clone());
        blocking(move || cache.store(&entry)).await
    }

    async fn forget(&self, entry: &Entry) -> Result<()> {
        let (cache, entry) = (self.cache.clone(), entry.clone());
        blocking(move || cache.remove(&entry)).await
    }
}

/// A request as it was made here.
fn value(request: &[u8]) -> Value {
    serde_json::from_slice(request).expect("a request is JSON")
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cut("work on files"))?
}

/// Reads an answer; none at all is an empty result.
fn read(answer: &[u8]) -> Result<Value, String> {
    match serde_json::from_slice(answer) {
        Ok(Value::Null) => Ok(json!({})),
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("it is not an object".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes sure of a result and puts it in the words of `version`. One that is in them already is passed on as it is, with
/// whatever the plugin added.
fn in_version(mut raw: Value, version: Version) -> Result<Value, String> {
    let (answer, found) = Answer::parse(&raw, version)?;
    if found != version {
        return answer.to_json(version);
    }
    raw["cniVersion"] = version.as_str().into();
    Ok(raw)
}

fn garbage(plugin: &str, verb: Verb, why: String, answer: &[u8]) -> Error {
    let answer = String::from_utf8_lossy(&answer[..answer.len().min(1024)]).into_owned();
    Error::Garbage { plugin: plugin.into(), operation: verb.word(), why: shorten(why), answer }
}

/// Whether a DEL failed only because what it was to take away is not there.
fn is_absence(error: &Error, gone: bool) -> bool {
    let Error::Failed { code, msg, details, .. } = error else { return false };
    // 3: the container is unknown; nothing need be done. 8: its namespace is not one.
    let says = |words: &str| msg.contains(words) || details.contains(words);
    let missing = gone && (*code == 8 || says("no such file or directory") || says("unknown FS magic"));
    *code == 3 || missing || says("not found")
}
