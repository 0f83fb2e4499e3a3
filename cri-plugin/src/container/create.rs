//! A container is made: name reserved → specification → record → snapshot → volumes → visible.
//!
//! The record comes before the snapshot that it names, so that no collection takes the snapshot away; a start that finds
//! a record without one clears it away. Where the users of an image are not known yet, its files are needed for the
//! specification: then a record that says so holds the place of the whole one. So it does where a checkpoint's changes
//! have to go into the snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};
use windlass_api::cri;
use windlass_core::mount::Mount;
use windlass_core::{Any, Error, Labels, Result, blocking, container};

use super::plan::{Plan, adopt, image_name, mapping};
use super::volumes::{self, Volume};
use super::{now, nri, update, users};
use crate::cri::{Cri, new_id};
use crate::image::Volume as ImageVolume;
use crate::spec;
use crate::state::record::{self, ContainerRecord, ContainerStatus};
use crate::state::{Container, Reserved};
use crate::step;

/// Type of the specification.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// A specification, and what else came out of making it.
struct Made {
    spec: Value,
    stop_signal: u32,
    user: Option<cri::ContainerUser>,
}

impl Cri {
    pub async fn create_container(
        self: &Arc<Self>,
        request: cri::CreateContainerRequest,
    ) -> Result<cri::CreateContainerResponse> {
        let cri = self.clone();
        let container_id = self.finish(async move { cri.create(request).await }).await?;
        Ok(cri::CreateContainerResponse { container_id })
    }

    async fn create(self: Arc<Self>, request: cri::CreateContainerRequest) -> Result<String> {
        let begun = Instant::now();
        let mut asked = self.check_asked(request)?;
        let reservation = match self.state.containers.reserve(&asked.name).await {
            Reserved::Taken(container) => return adopt(&container, &asked),
            Reserved::New(reservation) => reservation,
        };
        let id = new_id()?;
        let name = asked.name.clone();
        let failed = |error: Error| error.context(format!("create container {name}"));
        let restored = self.unpack_checkpoint(&id, &mut asked).await.map_err(failed)?;
        let _hold = self.hold_plugins().await;
        let plan = match self.plan_container(&id, &asked, restored.as_ref()) {
            Ok(plan) => plan,
            Err(error) => {
                self.discard_checkpoint(&id).await;
                return Err(failed(error));
            }
        };
        let made = async {
            step!("container.create.reserved");
            let made = self.make(&plan).await?;
            step!("container.create.made");
            // Who stops a pod ends the containers that can be seen, so that one made meanwhile is never seen.
            self.ready_sandbox(&asked.sandbox.id)?;
            Ok(made)
        };
        let container = match made.await {
            Ok(container) => Arc::new(container),
            Err(error) => {
                self.unmake(&plan).await;
                return Err(failed(error));
            }
        };
        reservation.fill(container.clone());
        if self.ready_sandbox(&asked.sandbox.id).is_err() {
            self.remove(&container).await?;
            return Err(failed(Error::precondition("its pod was stopped meanwhile")));
        }
        self.tell(&container, cri::ContainerEventType::ContainerCreatedEvent).await;
        self.created_in_plugins(&container, &asked.sandbox).await;
        tracing::debug!(%id, name = %asked.name, elapsed = ?begun.elapsed(), "container made");
        Ok(id)
    }

    /// All steps. On an error, some of it may be there.
    async fn make(self: &Arc<Self>, plan: &Plan<'_>) -> Result<Container> {
        let mut volumes = self.image_volumes(plan).await?;
        volumes.extend(plan.volumes.iter().map(spec_volume));
        let chain = plan.image.chain_id.as_str();
        let known = self.users.of(chain);
        let (made, record, status) = match known {
            Some(users) if plan.restored.is_none() => {
                let made = self.specify(plan, volumes, users).await?;
                let (record, status) = self.describe(plan, &made);
                self.write_container(plan, &record, &status, &made.spec).await?;
                step!("container.create.recorded");
                self.prepare(plan).await?;
                (made, record, status)
            }
            known => {
                let creating = ContainerStatus { creating: true, ..Default::default() };
                let (record, _) = self.describe(plan, &Made { spec: json!({}), stop_signal: 0, user: None });
                self.write_container(plan, &record, &creating, &json!({})).await?;
                step!("container.create.begun");
                let rootfs = self.prepare(plan).await?;
                let users = match known {
                    Some(users) => users,
                    None => self.read_users(chain, &rootfs).await?,
                };
                if let Some(restored) = plan.restored {
                    self.apply_changes(restored, rootfs).await?;
                }
                let made = self.specify(plan, volumes, users).await?;
                let (record, status) = self.describe(plan, &made);
                self.finish_record(plan, &record, &status, &made.spec).await?;
                (made, record, status)
            }
        };
        drop(made);
        step!("container.create.snapshot");
        self.fill_volumes(plan).await?;
        Ok(Container::new(plan.id.to_owned(), record, status))
    }

    async fn read_users(self: &Arc<Self>, chain: &str, rootfs: &[Mount]) -> Result<users::Image> {
        let (cri, chain, rootfs) = (self.clone(), chain.to_owned(), rootfs.to_vec());
        blocking(move || Ok(cri.users.read(&chain, &rootfs))).await
    }

    async fn prepare(&self, plan: &Plan<'_>) -> Result<Vec<Mount>> {
        let mapping = mapping(&plan.asked.sandbox)?;
        self.images.prepare_rootfs(&self.cx, plan.id, &plan.image, Some(&plan.snapshotter), mapping).await
    }

    /// Images that are to be volumes are mounted; they stay as long as the pod.
    async fn image_volumes(&self, plan: &Plan<'_>) -> Result<Vec<spec::Volume>> {
        let mut volumes = Vec::new();
        for mount in &plan.asked.config.mounts {
            let Some(image) = mount.image.as_ref().filter(|image| !image.image.is_empty()) else { continue };
            let host_path = self
                .images
                .volume(ImageVolume {
                    pod: plan.asked.sandbox.id.clone(),
                    image: image.image.clone(),
                    sub_path: mount.image_sub_path.clone(),
                    snapshotter: plan.snapshotter.clone(),
                    labels: Labels::new(),
                })
                .await?;
            volumes.push(spec::Volume { host_path, container_path: mount.container_path.clone() });
        }
        Ok(volumes)
    }

    /// Makes the specification, and lets plugins adjust it.
    async fn specify(
        self: &Arc<Self>,
        plan: &Plan<'_>,
        volumes: Vec<spec::Volume>,
        users: users::Image,
    ) -> Result<Made> {
        let target = self.target_pid(plan)?;
        let (cri, id, sandbox) = (self.clone(), plan.id.to_owned(), plan.asked.sandbox.clone());
        let (image, image_name, config) =
            (plan.image_config.clone(), image_name(plan), plan.asked.config.clone());
        let mut made = blocking(move || {
            let handler = cri.handler(&sandbox.record.handler)?;
            let pod = cri.spec_pod(&sandbox, &handler)?;
            let image = spec::Image { name: &image_name, config: &image };
            let settings = cri.settings(&handler);
            let built =
                spec::container(&cri.host, settings, &pod, &id, &config, &image, &volumes, &users, target)?;
            Ok(Made { spec: built.spec, stop_signal: built.stop_signal, user: Some(built.user) })
        })
        .await?;
        let seen = nri::planned(plan.id, &plan.asked.sandbox, &plan.asked.config);
        if let Some(adjusted) = self.create_in_plugins(&plan.asked.sandbox, &seen, &mut made.spec).await? {
            let settings = self.settings(&plan.handler);
            spec::cdi::inject(&mut made.spec, &settings.config.cdi_spec_dirs, &adjusted.cdi_devices)?;
            made.spec = self.classify(plan, made.spec, adjusted.blockio_class).await?;
            self.carry_out_later(adjusted.changes);
        }
        Ok(made)
    }

    /// Gives a container the block I/O class that a plugin asks for, and checks its RDT class, which is there already.
    async fn classify(&self, plan: &Plan<'_>, mut spec: Value, block_io: Option<String>) -> Result<Value> {
        let settings = self.settings(&plan.handler).clone();
        let name = plan.asked.config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        blocking(move || {
            let block_io = block_io.filter(|class| !class.is_empty());
            block_io
                .map_or(Ok(()), |class| spec::block_io(&mut spec, &settings, &name, &class))
                .and_then(|()| spec::rdt(&mut spec, &settings, &name))
                .map_err(|error| Error::from(error).context("plugins of NRI have adjusted it"))?;
            Ok(spec)
        })
        .await
    }

    /// The process whose PID namespace the container is to share.
    fn target_pid(&self, plan: &Plan<'_>) -> Result<Option<u32>> {
        let security = plan.asked.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let Some(options) = security.and_then(|security| security.namespace_options.as_ref()) else {
            return Ok(None);
        };
        if options.pid() != cri::NamespaceMode::Target {
            return Ok(None);
        }
        let target = self.target(&plan.asked.sandbox.id, &options.target_id)?;
        let pid = target.status().pid;
        Ok(Some(pid))
    }

    fn describe(&self, plan: &Plan<'_>, made: &Made) -> (ContainerRecord, ContainerStatus) {
        let record = ContainerRecord {
            config: Some(plan.asked.config.clone()),
            sandbox_id: plan.asked.sandbox.id.clone(),
            name: plan.asked.name.clone(),
            created_at: now(),
            image_id: plan.image.id.to_string(),
            image_ref: plan.image.digests.first().cloned().unwrap_or_default(),
            log_path: plan
                .asked
                .log
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            stop_signal: made.stop_signal,
            user: made.user.clone(),
            snapshotter: plan.snapshotter.clone(),
            asked: plan.restored.map(|restored| restored.asked.clone()),
        };
        let status = ContainerStatus {
            resources: Some(spec::resources_status(&made.spec)),
            ..ContainerStatus::default()
        };
        (record, status)
    }

    fn as_written(
        &self,
        plan: &Plan<'_>,
        record: &ContainerRecord,
        status: &ContainerStatus,
        spec: &Value,
    ) -> Result<container::Container> {
        Ok(container::Container {
            id: plan.id.to_owned(),
            labels: plan.labels.clone(),
            image: plan.image.name().to_owned(),
            runtime: self.runtime(&plan.handler),
            spec: Some(Any { type_url: SPEC.to_owned(), value: update::bytes(spec)?.into() }),
            snapshotter: plan.snapshotter.clone(),
            snapshot_key: plan.id.to_owned(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
            extensions: BTreeMap::from([
                (record::RECORD.to_owned(), record::encode(record, "Container")),
                (record::STATUS.to_owned(), record::encode(status, "ContainerStatus")),
            ]),
            sandbox_id: plan.asked.sandbox.id.clone(),
        })
    }

    async fn write_container(
        &self,
        plan: &Plan<'_>,
        record: &ContainerRecord,
        status: &ContainerStatus,
        spec: &Value,
    ) -> Result<()> {
        let written = self.as_written(plan, record, status, spec)?;
        self.database.containers().create(&self.cx, written).await.map(drop)
    }

    /// The whole record takes the place of the one that held it.
    async fn finish_record(
        &self,
        plan: &Plan<'_>,
        record: &ContainerRecord,
        status: &ContainerStatus,
        spec: &Value,
    ) -> Result<()> {
        let written = self.as_written(plan, record, status, spec)?;
        let fields = windlass_core::FieldMask::of(&["spec", "extensions"]);
        self.database.containers().update(&self.cx, written, &fields).await.map(drop)
    }

    async fn fill_volumes(&self, plan: &Plan<'_>) -> Result<()> {
        if plan.volumes.is_empty() {
            return Ok(());
        }
        let snapshotter = self.database.snapshotter(&plan.snapshotter);
        let snapshotter =
            snapshotter.ok_or_else(|| Error::not_found(format!("snapshotter {:?}", plan.snapshotter)))?;
        let rootfs = snapshotter.mounts(&self.cx, plan.id).await?;
        let volumes = plan.volumes.clone();
        blocking(move || volumes::make(&volumes, &rootfs)).await?;
        step!("container.create.volumes");
        Ok(())
    }

    /// Takes back what there is of a container that nobody has seen.
    async fn unmake(&self, plan: &Plan<'_>) {
        let seen = nri::planned(plan.id, &plan.asked.sandbox, &plan.asked.config);
        self.dismiss_in_plugins(&plan.asked.sandbox, &seen).await;
        if let Err(error) = self.clear(plan.id, &plan.snapshotter).await {
            tracing::warn!(
                id = %plan.id, error = %error.chain(),
                "what there is of a container that could not be made is left to the next start"
            );
        }
    }
}

fn spec_volume(volume: &Volume) -> spec::Volume {
    spec::Volume { host_path: volume.host.clone(), container_path: volume.container.clone() }
}
