//! A daemon under measurement, driven through containerd's API.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use windlass_api::connect::{MAX_MESSAGE, connect};
use windlass_api::scope::Scope;
use windlass_api::services::{
    containers, images, introspection, leases, snapshots, tasks, transfer as transfers, version,
};
use windlass_api::{Any, transfer, types};

use crate::spec;

const NAMESPACE: &str = "bench";
const SNAPSHOTTER: &str = "overlayfs";
const RUNTIME: &str = "io.containerd.runc.v2";
const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

type Scoped = InterceptedService<Channel, Scope>;

pub struct Peer {
    pub title: String,
    pub pid: u32,
    group: String,
    address: String,
    channel: Scoped,
    image: String,
    chain: String,
    counter: u64,
}

fn json_any(url: &str, value: &serde_json::Value) -> Any {
    Any { type_url: url.into(), value: value.to_string().into_bytes() }
}

fn pack<M: prost::Message + prost::Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

impl Peer {
    pub async fn connect(name: &str, address: &Path) -> Result<Self> {
        let channel = connect(address).await?;
        let scope = Scope::new(&windlass_core::Context::new(NAMESPACE))?;
        let channel = InterceptedService::new(channel, scope);
        let server = introspection::introspection_client::IntrospectionClient::new(channel.clone())
            .server(())
            .await
            .with_context(|| format!("ask {name} who it is"))?
            .into_inner();
        let version =
            version::version_client::VersionClient::new(channel.clone()).version(()).await?.into_inner();
        let title = format!("{name} {}", version.version);
        let pid = u32::try_from(server.pid)?;
        let address = address.to_string_lossy().into_owned();
        let group = format!("{NAMESPACE}-{name}");
        Ok(Self {
            title,
            pid,
            group,
            address,
            channel,
            image: String::new(),
            chain: String::new(),
            counter: 0,
        })
    }

    fn tasks(&self) -> tasks::tasks_client::TasksClient<Scoped> {
        tasks::tasks_client::TasksClient::new(self.channel.clone())
    }

    fn containers(&self) -> containers::containers_client::ContainersClient<Scoped> {
        containers::containers_client::ContainersClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    fn snapshots(&self) -> snapshots::snapshots_client::SnapshotsClient<Scoped> {
        snapshots::snapshots_client::SnapshotsClient::new(self.channel.clone())
    }

    fn next(&mut self, what: &str) -> String {
        self.counter += 1;
        format!("bench-{what}-{}-{}", std::process::id(), self.counter)
    }

    /// Resident memory of the daemon in MB.
    pub fn resident(&self) -> f64 {
        field(&format!("/proc/{}/status", self.pid), "VmRSS:")
    }

    /// Proportional memory of the sleeper's shim in MB.
    pub fn shim_memory(&self) -> f64 {
        let id = format!("sleeper-{}", std::process::id());
        let sleeper = |pid: &&u32| command_line(**pid).contains(&id);
        helpers(&self.address)
            .iter()
            .find(sleeper)
            .map_or(f64::NAN, |pid| field(&format!("/proc/{pid}/smaps_rollup"), "Pss:"))
    }

    /// Pulls and unpacks; the transfer service of both daemons.
    pub async fn pull(&mut self, reference: &str) -> Result<()> {
        let host = types::Platform { os: "linux".into(), architecture: "amd64".into(), ..Default::default() };
        let source = transfer::OciRegistry { reference: reference.into(), resolver: None };
        let destination = transfer::ImageStore {
            name: reference.into(),
            platforms: vec![host.clone()],
            unpacks: vec![transfer::UnpackConfiguration {
                platform: Some(host),
                snapshotter: SNAPSHOTTER.into(),
            }],
            ..Default::default()
        };
        let request = transfers::TransferRequest {
            source: Some(pack(&source)),
            destination: Some(pack(&destination)),
            options: None,
        };
        transfers::transfer_client::TransferClient::new(self.channel.clone())
            .transfer(request)
            .await
            .with_context(|| format!("{}: pull {reference}", self.title))?;
        Ok(())
    }

    /// Removes an image and waits until the collector has been.
    pub async fn remove_image(&mut self, name: &str) -> Result<()> {
        let request = images::DeleteImageRequest { name: name.into(), sync: true, ..Default::default() };
        images::images_client::ImagesClient::new(self.channel.clone()).delete(request).await?;
        Ok(())
    }

    /// Pulls the small image and finds its topmost snapshot.
    pub async fn prepare(&mut self, image: &str) -> Result<()> {
        self.image = image.to_owned();
        self.pull(image).await?;
        let request = snapshots::ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), filters: vec![] };
        let mut stream = self.snapshots().list(request).await?.into_inner();
        let (mut names, mut parents) = (Vec::new(), Vec::new());
        while let Some(part) = stream.message().await? {
            for info in part.info {
                if info.kind == snapshots::Kind::Committed as i32 {
                    names.push(info.name);
                    parents.push(info.parent);
                }
            }
        }
        names.retain(|n| !parents.contains(n));
        let Some(chain) = names.pop() else { bail!("{}: {image} left no snapshot", self.title) };
        self.chain = chain;
        self.new_container("cycle", &["/bin/true"]).await
    }

    fn fixed(&self, name: &str) -> String {
        format!("{name}-{}", std::process::id())
    }

    async fn new_container(&mut self, name: &str, args: &[&str]) -> Result<()> {
        let id = self.fixed(name);
        self.record(&id, args).await
    }

    async fn record(&mut self, id: &str, args: &[&str]) -> Result<()> {
        self.snapshots()
            .prepare(snapshots::PrepareSnapshotRequest {
                snapshotter: SNAPSHOTTER.into(),
                key: id.into(),
                parent: self.chain.clone(),
                labels: [("containerd.io/gc.root".to_owned(), "bench".to_owned())].into(),
            })
            .await?;
        self.containers()
            .create(containers::CreateContainerRequest {
                container: Some(containers::Container {
                    id: id.into(),
                    image: self.image.clone(),
                    runtime: Some(containers::container::Runtime { name: RUNTIME.into(), options: None }),
                    spec: Some(json_any(SPEC_URL, &spec::container(&self.group, id, args))),
                    snapshotter: SNAPSHOTTER.into(),
                    snapshot_key: id.into(),
                    ..Default::default()
                }),
            })
            .await?;
        Ok(())
    }

    async fn forget(&mut self, id: &str) -> Result<()> {
        self.containers().delete(containers::DeleteContainerRequest { id: id.into() }).await?;
        let request = snapshots::RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: id.into() };
        self.snapshots().remove(request).await?;
        Ok(())
    }

    async fn create_task(&mut self, id: &str) -> Result<()> {
        let request = snapshots::MountsRequest { snapshotter: SNAPSHOTTER.into(), key: id.into() };
        let rootfs = self.snapshots().mounts(request).await?.into_inner().mounts;
        let request = tasks::CreateTaskRequest { container_id: id.into(), rootfs, ..Default::default() };
        self.tasks().create(request).await?;
        Ok(())
    }

    /// Starts a process, waits for its end.
    async fn start_and_wait(&mut self, id: &str, exec: &str) -> Result<()> {
        let mut waiter = self.tasks();
        let request = tasks::WaitRequest { container_id: id.into(), exec_id: exec.into() };
        let wait = tokio::spawn(async move { waiter.wait(request).await });
        self.tasks().start(tasks::StartRequest { container_id: id.into(), exec_id: exec.into() }).await?;
        let status = wait.await??.into_inner().exit_status;
        if status != 0 {
            bail!("{}: {id} {exec} ended with {status}", self.title);
        }
        Ok(())
    }

    pub async fn task_cycle(&mut self) -> Result<()> {
        let id = self.fixed("cycle");
        self.create_task(&id).await?;
        self.start_and_wait(&id, "").await?;
        self.tasks().delete(tasks::DeleteTaskRequest { container_id: id }).await?;
        Ok(())
    }

    pub async fn container_cycle(&mut self) -> Result<()> {
        let id = self.next("new");
        self.record(&id, &["/bin/true"]).await?;
        self.create_task(&id).await?;
        self.start_and_wait(&id, "").await?;
        self.tasks().delete(tasks::DeleteTaskRequest { container_id: id.clone() }).await?;
        self.forget(&id).await
    }

    pub async fn start_sleeper(&mut self) -> Result<()> {
        self.new_container("sleeper", &["/bin/sleep", "100000"]).await?;
        let id = self.fixed("sleeper");
        self.create_task(&id).await?;
        self.tasks().start(tasks::StartRequest { container_id: id, exec_id: String::new() }).await?;
        Ok(())
    }

    pub async fn exec_cycle(&mut self) -> Result<()> {
        let (id, exec) = (self.fixed("sleeper"), self.next("exec"));
        let request = tasks::ExecProcessRequest {
            container_id: id.clone(),
            exec_id: exec.clone(),
            spec: Some(json_any(PROCESS_URL, &spec::process(&["/bin/true"]))),
            ..Default::default()
        };
        self.tasks().exec(request).await?;
        self.start_and_wait(&id, &exec).await?;
        self.tasks().delete_process(tasks::DeleteProcessRequest { container_id: id, exec_id: exec }).await?;
        Ok(())
    }

    pub async fn stop_sleeper(&mut self) -> Result<()> {
        let id = self.fixed("sleeper");
        let mut waiter = self.tasks();
        let request = tasks::WaitRequest { container_id: id.clone(), exec_id: String::new() };
        let wait = tokio::spawn(async move { waiter.wait(request).await });
        let request = tasks::KillRequest { container_id: id.clone(), signal: 9, ..Default::default() };
        self.tasks().kill(request).await?;
        wait.await??;
        self.tasks().delete(tasks::DeleteTaskRequest { container_id: id.clone() }).await?;
        self.forget(&id).await
    }

    pub async fn make_records(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            let id = format!("record-{number}-{}", std::process::id());
            let spec = spec::container(&self.group, &id, &["/bin/true"]);
            let container = containers::Container {
                id,
                runtime: Some(containers::container::Runtime { name: RUNTIME.into(), options: None }),
                spec: Some(json_any(SPEC_URL, &spec)),
                ..Default::default()
            };
            self.containers()
                .create(containers::CreateContainerRequest { container: Some(container) })
                .await?;
        }
        Ok(())
    }

    pub async fn list(&mut self) -> Result<()> {
        let all = self.containers().list(containers::ListContainersRequest::default()).await?.into_inner();
        if all.containers.len() < 1000 {
            bail!("{}: only {} containers are listed", self.title, all.containers.len());
        }
        Ok(())
    }

    pub async fn remove_records(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            let id = format!("record-{number}-{}", std::process::id());
            self.containers().delete(containers::DeleteContainerRequest { id }).await?;
        }
        Ok(())
    }

    pub async fn clean(&mut self) -> Result<()> {
        let id = self.fixed("cycle");
        self.forget(&id).await?;
        let image = self.image.clone();
        self.remove_image(&image).await?;
        let mut leases = leases::leases_client::LeasesClient::new(self.channel.clone());
        let left = leases.list(leases::ListRequest::default()).await?.into_inner().leases;
        for lease in left {
            leases.delete(leases::DeleteRequest { id: lease.id, sync: true }).await?;
        }
        Ok(())
    }
}

/// Shims of a daemon: they carry its address.
pub fn helpers(address: &str) -> Vec<u32> {
    let found = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = found.filter_map(|e| e.file_name().to_str().and_then(|name| name.parse().ok()));
    pids.filter(|pid| {
        let line = command_line(*pid);
        line.contains("containerd-shim") && line.contains(address)
    })
    .collect()
}

fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

/// A field of a `/proc` file in MB.
pub fn field(file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|v| v.parse::<f64>().ok()).map_or(f64::NAN, |kb| kb / 1024.0)
}
