//! What a container is going to be: what was asked for, checked, and everything that can be known before anything is made.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use windlass_api::cri;
use windlass_core::validate::MAX_LABEL;
use windlass_core::{Error, Labels, Result, snapshot};

use super::checkpoint::Restored;
use super::volumes::{self, Volume};
use super::{logs, name};
use crate::config::Handler;
use crate::cri::Cri;
use crate::image::Image;
use crate::state::{Container, Phase, Sandbox};

/// Label: what a record is of.
pub const KIND: &str = crate::sandbox::KIND;
/// The value of [`KIND`] for containers.
pub const KIND_CONTAINER: &str = "container";

/// What was asked for, checked.
pub(super) struct Asked {
    pub(super) config: cri::ContainerConfig,
    pub(super) name: String,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) log: Option<PathBuf>,
}

/// What it is made of.
pub(super) struct Plan<'a> {
    pub(super) id: &'a str,
    pub(super) asked: &'a Asked,
    pub(super) handler: Handler<'a>,
    pub(super) snapshotter: String,
    pub(super) image: Arc<Image>,
    /// What the image says of its processes.
    pub(super) image_config: Value,
    pub(super) labels: Labels,
    pub(super) volumes: Vec<Volume>,
    /// The checkpoint that it is made of.
    pub(super) restored: Option<&'a Restored>,
}

impl Cri {
    pub(super) fn check_asked(&self, request: cri::CreateContainerRequest) -> Result<Asked> {
        let config = request.config.ok_or_else(|| Error::invalid("a container needs a configuration"))?;
        let metadata = config.metadata.as_ref().filter(|metadata| !metadata.name.is_empty());
        let metadata = metadata.ok_or_else(|| Error::invalid("a container's metadata must have a name"))?;
        let sandbox = self.ready_sandbox(&request.pod_sandbox_id)?;
        let told = request.sandbox_config.as_ref().unwrap_or(sandbox.config());
        let pod = told.metadata.as_ref().or(sandbox.config().metadata.as_ref());
        let pod = pod.ok_or_else(|| Error::invalid("a pod's metadata must be given"))?;
        let name = name(metadata, pod);
        let log = logs::path(&told.log_directory, &config.log_path)?;
        Ok(Asked { name, log, config, sandbox })
    }

    /// Everything that can be known before anything is made.
    pub(super) fn plan_container<'a>(
        &'a self,
        id: &'a str,
        asked: &'a Asked,
        restored: Option<&'a Restored>,
    ) -> Result<Plan<'a>> {
        let reference = asked.config.image.as_ref().map_or("", |image| image.image.as_str());
        let image = match restored {
            Some(restored) => restored.image.clone(),
            None => self.images.resolve(reference).ok_or_else(|| {
                Error::not_found(format!("image {reference:?} is not there; it has to be pulled first"))
            })?,
        };
        let handler = self.handler(&asked.sandbox.record.handler)?;
        let snapshotter =
            handler.snapshotter().unwrap_or_else(|| self.images.snapshotter_of(handler.name)).to_owned();
        let image_config = image.document();
        let said = image.config();
        let declared = if self.config.ignore_image_defined_volumes { &[][..] } else { &said.volumes[..] };
        let volumes = volumes::declared(&self.container_dir(id), declared, &asked.config.mounts)?;
        let labels = labels(&asked.config, &said.labels);
        Ok(Plan { id, asked, handler, snapshotter, image, image_config, labels, volumes, restored })
    }
}

/// A container of that name is there: the caller has asked before, and has not heard the answer.
pub(super) fn adopt(container: &Container, asked: &Asked) -> Result<String> {
    let config = container.record.asked.as_ref().unwrap_or(container.config());
    let same = container.record.sandbox_id == asked.sandbox.id && *config == asked.config;
    if same && container.phase() == Phase::Created && !container.removing() {
        return Ok(container.id.clone());
    }
    Err(Error::exists(format!(
        "container {} has the name {:?} already and is not what was asked for now; remove it, or ask for another attempt",
        container.id, asked.name
    )))
}

/// What an image may not say of the containers made of it: daemons and their clients act upon such labels.
const RESERVED: [&str; 4] = ["containerd.io/", "io.containerd.", "io.cri-containerd.", "io.kubernetes."];

/// Labels as containerd writes them: the container's, then the image's. What no record can hold is left out.
fn labels(config: &cri::ContainerConfig, image: &Labels) -> Labels {
    let mut labels = Labels::new();
    let harmless = |(key, _): &(&String, &String)| !RESERVED.iter().any(|prefix| key.starts_with(prefix));
    for (key, value) in config.labels.iter().chain(image.iter().filter(harmless)) {
        if !key.is_empty() && key.len() + value.len() <= MAX_LABEL && !labels.contains_key(key) {
            labels.insert(key.clone(), value.clone());
        }
    }
    labels.insert(KIND.into(), KIND_CONTAINER.into());
    labels
}

/// The image's name as plugins and runtimes are told: what a person wrote, where the kubelet knows it.
pub(super) fn image_name(plan: &Plan<'_>) -> String {
    let written = plan.asked.config.image.as_ref().map(|image| image.user_specified_image.as_str());
    written.filter(|name| !name.is_empty()).unwrap_or(plan.image.name()).to_owned()
}

/// Labels of the snapshot of a pod with ids of its own.
pub(super) fn mapping(sandbox: &Sandbox) -> Result<Labels> {
    let Some(mapping) = crate::sandbox::user_namespace(sandbox.config())? else { return Ok(Labels::new()) };
    let list = |ids: &[windlass_network::namespaces::IdMap]| {
        ids.iter().map(|m| format!("{}:{}:{}", m.container, m.host, m.size)).collect::<Vec<_>>().join(",")
    };
    Ok(Labels::from([
        (snapshot::LABEL_UIDMAP.to_owned(), list(&mapping.uids)),
        (snapshot::LABEL_GIDMAP.to_owned(), list(&mapping.gids)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_labels_win_over_its_images() {
        let config = cri::ContainerConfig {
            labels: Labels::from([("a".into(), "mine".into()), ("long".into(), "x".repeat(MAX_LABEL))]),
            ..Default::default()
        };
        let mut image = Labels::from([("a".into(), "image".into()), ("b".into(), "image".into())]);
        for reserved in ["containerd.io/restart.loguri", "io.kubernetes.pod.uid", KIND] {
            image.insert(reserved.into(), "binary:///bin/sh".into());
        }
        let labels = labels(&config, &image);
        let found: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, [("a", "mine"), ("b", "image"), (KIND, KIND_CONTAINER)]);
    }
}
