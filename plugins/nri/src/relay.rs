//! Events, relayed to all who have subscribed: core's trait, implemented.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use protobuf::{Message, MessageField};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;
use windlass_api::nri::{
    self as api, ContainerAdjustment, CreateContainerRequest, CreateContainerResponse, Event, LinuxResources,
    PluginInstance, PostCreateContainerRequest, StateChangeEvent, StopContainerRequest,
    StopContainerResponse, UpdateContainerRequest, UpdateContainerResponse, UpdatePodSandboxRequest,
    UpdatePodSandboxResponse, ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};
use windlass_core::nri::{Adjusted, Changes, Container, Domain, Hold, Nri, Pod};

use crate::error::{Error, Result};
use crate::host::{Host, Shared, changes, survive};
use crate::merge::Creation;
use crate::peer::Peer;
use crate::states::Life;
use crate::update::Updates;
use crate::{apply, resources, validate, wire};

type Answer<T> = windlass_core::Result<T>;

impl Shared {
    /// Tells of an event that has no answer. The requests of all such events are alike: a pod, then a container.
    async fn tell(
        &self,
        event: Event,
        method: &'static str,
        pod: &Pod,
        container: Option<&Container>,
    ) -> Result<()> {
        let peers = self.subscribed(event);
        if peers.is_empty() {
            return Ok(());
        }
        let request = PostCreateContainerRequest {
            pod: Some(wire::pod(pod)).into(),
            container: MessageField::from_option(container.map(wire::container)),
            ..Default::default()
        };
        let payload = request.write_to_bytes().map_err(|e| Error::Protocol(e.to_string()))?;
        for peer in peers {
            let older = || StateChangeEvent {
                event: event.into(),
                pod: request.pod.clone(),
                container: request.container.clone(),
                ..Default::default()
            };
            survive(peer.tell(event, method, &payload, older).await)?;
        }
        Ok(())
    }

    async fn create(&self, pod: &Pod, container: &Container, spec: &mut Value) -> Result<Adjusted> {
        let pristine = wire::with_spec(container, spec);
        let mut creation = Creation::new(wire::pod(pod), pristine.clone());
        let mut asked = Vec::new();
        for peer in self.peers().iter() {
            if peer.subscribes(Event::CREATE_CONTAINER) && !ask_create(peer, &mut creation).await? {
                continue;
            }
            asked.push(peer.clone());
        }
        self.validate(pristine, &creation, &asked).await?;
        let adjust = std::mem::take(&mut creation.adjust);
        let (updates, evictions) = creation.into_updates();
        let mut adjusted = Adjusted { changes: changes(updates, evictions), ..remaining(&adjust) };
        if adjust != ContainerAdjustment::new() {
            let mut copy = spec.clone();
            let applied = spawn_blocking(move || apply::adjust(&mut copy, &adjust).map(|()| copy));
            *spec = applied.await.map_err(|e| Error::Spec(e.to_string()))??;
        }
        adjusted.cdi_devices.dedup();
        Ok(adjusted)
    }

    /// Lets the built-in validator and those plugins that validate judge what has been asked for.
    async fn validate(
        &self,
        pristine: api::Container,
        creation: &Creation,
        asked: &[Arc<Peer>],
    ) -> Result<()> {
        let validators = self.subscribed(Event::VALIDATE_CONTAINER_ADJUSTMENT);
        let rules = &self.config.default_validator;
        if validators.is_empty() && !rules.enable {
            return Ok(());
        }
        let plugin = |peer: &Arc<Peer>| PluginInstance {
            name: peer.identity().base.clone(),
            index: peer.identity().index.clone(),
            ..Default::default()
        };
        let request = ValidateContainerAdjustmentRequest {
            pod: Some(creation.pod.clone()).into(),
            container: Some(pristine).into(),
            adjust: Some(creation.adjust.clone()).into(),
            update: creation.updates.as_slice().to_vec(),
            owners: Some(creation.owners().0.clone()).into(),
            plugins: asked.iter().map(plugin).collect(),
            ..Default::default()
        };
        if rules.enable {
            validate::validate(rules, &request, creation.owners())?;
        }
        let judge = |peer: Arc<Peer>| {
            let request = &request;
            async move {
                // One that does not answer has not agreed, even if it is dropped for it.
                let answer: ValidateContainerAdjustmentResponse =
                    peer.ask("ValidateContainerAdjustment", request).await?;
                if !answer.reject {
                    return Ok(());
                }
                let reason = if answer.reason.is_empty() { "none given" } else { &answer.reason };
                Err(Error::Rejected { validator: peer.name().to_owned(), reason: reason.to_owned() })
            }
        };
        join_all(validators.into_iter().map(judge)).await.into_iter().collect()
    }

    async fn update(&self, pod: &Pod, container: &Container, resources: &mut Value) -> Result<Changes> {
        let peers = self.subscribed(Event::UPDATE_CONTAINER);
        if peers.is_empty() {
            return Ok(Changes::default());
        }
        let mut request = UpdateContainerRequest {
            pod: Some(wire::pod(pod)).into(),
            container: Some(wire::container(container)).into(),
            linux_resources: Some(resources::from_oci(resources).unwrap_or_default()).into(),
            ..Default::default()
        };
        let (mut updates, mut evictions, mut delta) = (Updates::default(), Vec::new(), LinuxResources::new());
        for peer in peers {
            let answer = peer.ask::<UpdateContainerResponse>("UpdateContainer", &request).await;
            if let Some(mut answer) = survive(answer)? {
                evictions.append(&mut answer.evict);
                updates.apply_to(&mut request, &mut delta, answer, peer.name())?;
            }
        }
        if delta != LinuxResources::new() {
            if !resources.is_object() {
                *resources = Value::Object(Map::new());
            }
            if let Some(oci) = resources.as_object_mut() {
                resources::write(oci, &delta);
            }
        }
        Ok(changes(updates.into_vec(), evictions))
    }

    async fn stop(&self, pod: &Pod, container: &Container) -> Result<Changes> {
        let peers = self.subscribed(Event::STOP_CONTAINER);
        if !self.states.stop(&container.id) || peers.is_empty() {
            return Ok(Changes::default());
        }
        let request = StopContainerRequest {
            pod: Some(wire::pod(pod)).into(),
            container: Some(wire::container(container)).into(),
            ..Default::default()
        };
        let mut updates = Updates::default();
        for peer in peers {
            let answer = peer.ask::<StopContainerResponse>("StopContainer", &request).await;
            if let Some(answer) = survive(answer)? {
                updates.apply(answer.update, peer.name())?;
            }
        }
        Ok(changes(updates.into_vec(), Vec::new()))
    }
}

/// Whether the plugin has answered.
async fn ask_create(peer: &Peer, creation: &mut Creation) -> Result<bool> {
    let request = CreateContainerRequest {
        pod: Some(std::mem::take(&mut creation.pod)).into(),
        container: Some(std::mem::take(&mut creation.container)).into(),
        ..Default::default()
    };
    let answer = peer.ask::<CreateContainerResponse>("CreateContainer", &request).await;
    creation.pod = request.pod.unwrap_or_default();
    creation.container = request.container.unwrap_or_default();
    match survive(answer)? {
        Some(answer) => creation.apply(answer, peer.name()).map(|()| true),
        None => Ok(false),
    }
}

/// What an adjustment leaves to the caller.
fn remaining(adjust: &ContainerAdjustment) -> Adjusted {
    let resources = adjust.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    Adjusted {
        cdi_devices: adjust.CDI_devices.iter().map(|device| device.name.clone()).collect(),
        blockio_class: resources.and_then(|r| r.blockio_class.as_ref()).map(|class| class.value.clone()),
        ..Adjusted::default()
    }
}

#[async_trait]
impl Nri for Host {
    fn enabled(&self) -> bool {
        self.shared.config.default_validator.enable && !self.shared.config.disable
            || !self.shared.peers().is_empty()
    }

    fn plugins(&self) -> Vec<String> {
        self.shared.peers().iter().map(|peer| peer.name().to_owned()).collect()
    }

    async fn attach(&self, domain: Arc<dyn Domain>) -> Answer<()> {
        Ok(self.start(domain).await?)
    }

    async fn hold(&self) -> Hold {
        if self.shared.config.disable {
            return Hold::none();
        }
        Hold::new(self.shared.gate.clone().read_owned().await)
    }

    async fn run_pod(&self, pod: &Pod) -> Answer<()> {
        self.shared.states.set(&pod.id, Life::Running);
        let told = self.shared.tell(Event::RUN_POD_SANDBOX, "RunPodSandbox", pod, None).await;
        if told.is_err() {
            for undone in [self.stop_pod(pod).await, self.remove_pod(pod).await] {
                if let Err(error) = undone {
                    tracing::warn!(pod = pod.id, error = %error.chain(), "tell that a pod did not come to be");
                }
            }
        }
        Ok(told?)
    }

    async fn update_pod(&self, pod: &Pod, overhead: &Value, resources: &Value) -> Answer<()> {
        let request = UpdatePodSandboxRequest {
            pod: Some(wire::pod(pod)).into(),
            overhead_linux_resources: MessageField::from_option(resources::from_oci(overhead)),
            linux_resources: MessageField::from_option(resources::from_oci(resources)),
            ..Default::default()
        };
        for peer in self.shared.subscribed(Event::UPDATE_POD_SANDBOX) {
            survive(peer.ask::<UpdatePodSandboxResponse>("UpdatePodSandbox", &request).await)?;
        }
        Ok(())
    }

    async fn post_update_pod(&self, pod: &Pod) -> Answer<()> {
        Ok(self.shared.tell(Event::POST_UPDATE_POD_SANDBOX, "PostUpdatePodSandbox", pod, None).await?)
    }

    async fn stop_pod(&self, pod: &Pod) -> Answer<()> {
        if !self.shared.states.stop(&pod.id) {
            return Ok(());
        }
        Ok(self.shared.tell(Event::STOP_POD_SANDBOX, "StopPodSandbox", pod, None).await?)
    }

    async fn remove_pod(&self, pod: &Pod) -> Answer<()> {
        if !self.shared.states.remove(&pod.id) {
            return Ok(());
        }
        Ok(self.shared.tell(Event::REMOVE_POD_SANDBOX, "RemovePodSandbox", pod, None).await?)
    }

    async fn create_container(&self, pod: &Pod, container: &Container, spec: &mut Value) -> Answer<Adjusted> {
        // Also if it fails: it is undone like any other.
        self.shared.states.set(&container.id, Life::Created);
        Ok(self.shared.create(pod, container, spec).await?)
    }

    async fn post_create_container(&self, pod: &Pod, container: &Container) -> Answer<()> {
        let (event, method) = (Event::POST_CREATE_CONTAINER, "PostCreateContainer");
        Ok(self.shared.tell(event, method, pod, Some(container)).await?)
    }

    async fn start_container(&self, pod: &Pod, container: &Container) -> Answer<()> {
        self.shared.states.set(&container.id, Life::Running);
        Ok(self.shared.tell(Event::START_CONTAINER, "StartContainer", pod, Some(container)).await?)
    }

    async fn post_start_container(&self, pod: &Pod, container: &Container) -> Answer<()> {
        let (event, method) = (Event::POST_START_CONTAINER, "PostStartContainer");
        Ok(self.shared.tell(event, method, pod, Some(container)).await?)
    }

    async fn update_container(
        &self,
        pod: &Pod,
        container: &Container,
        resources: &mut Value,
    ) -> Answer<Changes> {
        Ok(self.shared.update(pod, container, resources).await?)
    }

    async fn post_update_container(&self, pod: &Pod, container: &Container) -> Answer<()> {
        let (event, method) = (Event::POST_UPDATE_CONTAINER, "PostUpdateContainer");
        Ok(self.shared.tell(event, method, pod, Some(container)).await?)
    }

    async fn stop_container(&self, pod: &Pod, container: &Container) -> Answer<Changes> {
        Ok(self.shared.stop(pod, container).await?)
    }

    async fn remove_container(&self, pod: &Pod, container: &Container) -> Answer<Changes> {
        let changes = match self.shared.stop(pod, container).await {
            Ok(changes) => changes,
            Err(error) => {
                crate::host::warn(error, "tell that a container has stopped");
                Changes::default()
            }
        };
        if self.shared.states.remove(&container.id) {
            let (event, method) = (Event::REMOVE_CONTAINER, "RemoveContainer");
            self.shared.tell(event, method, pod, Some(container)).await?;
        }
        Ok(changes)
    }

    async fn shutdown(&self) {
        self.stop().await;
    }
}
