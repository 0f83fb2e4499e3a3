//! Container records: snapshot and specification, made under a lease so that nothing is collected in between.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use tonic::Code;
use windlass_api::Any;
use windlass_api::convert::mount;
use windlass_api::services::containers::{
    Container, CreateContainerRequest, GetContainerRequest, UpdateContainerRequest, container,
};
use windlass_api::services::leases;
use windlass_api::services::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use windlass_api::types::Mount;
use windlass_core::platform::Platform;

use super::image::{self, Image};
use super::{log, spec, task, unpack, user};
use crate::client::Client;
use crate::cmd::pull;
use crate::names;
use crate::output::{self, Remedy};
use crate::stream::unique;
use crate::transfer::RegistryOptions;

pub const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
pub const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Label: the signal that asks the container to end, as containerd names it.
pub const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";
/// Label: exit status of the last task, kept when the task has gone.
pub const EXIT_STATUS: &str = "windlass/exit-status";
/// Label: standard input is wanted.
pub const INTERACTIVE: &str = "windlass/interactive";
/// How long what is being made is protected, should we die in between.
const LEASE_SECONDS: u64 = 3600;

/// When to ask the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    #[default]
    Missing,
    Always,
    Never,
}

/// What a container is made with, beside its specification.
#[derive(Args)]
pub struct Options {
    /// Name of the container; made up without it
    #[arg(long, help_heading = "Container")]
    pub name: Option<String>,
    /// Pass standard input on
    #[arg(long, short, help_heading = "Container")]
    pub interactive: bool,
    /// Allocate a terminal
    #[arg(long, short, help_heading = "Container")]
    pub tty: bool,
    /// Label: key=value
    #[arg(long, short, value_name = "KEY=VALUE", help_heading = "Container")]
    pub label: Vec<String>,
    /// File of labels, one a line
    #[arg(long, value_name = "FILE", help_heading = "Container")]
    pub label_file: Vec<PathBuf>,
    /// Write the container's name into a new file
    #[arg(long, value_name = "FILE", help_heading = "Container")]
    pub cidfile: Option<PathBuf>,
    /// Signal that asks the container to end, instead of the image's
    #[arg(long, value_name = "SIGNAL", help_heading = "Container")]
    pub stop_signal: Option<String>,
    /// Where a detached container's output goes: file:///path or binary:///program?key=value
    #[arg(long, value_name = "URI", help_heading = "Container")]
    pub log_uri: Option<String>,
    /// When to fetch the image: missing, always or never
    #[arg(long, value_enum, hide_possible_values = true, default_value = "missing", help_heading = "Image")]
    pub pull: Pull,
    /// Platform instead of this machine's: linux/arm64
    #[arg(long, help_heading = "Image")]
    pub platform: Option<String>,
    /// Snapshotter
    #[arg(long, default_value = "overlayfs", help_heading = "Image")]
    pub snapshotter: String,
    /// User at the registry, NAME or NAME:PASSWORD
    #[arg(long, value_name = "NAME[:PASSWORD]", help_heading = "Registry")]
    pub registry_user: Option<String>,
    /// Runtime: io.containerd.runc.v2, another shim's name, or the path of a shim
    #[arg(long, default_value = "io.containerd.runc.v2", help_heading = "Container")]
    pub runtime: String,
    /// OCI runtime instead of the embedded one: runc, crun, or a path
    #[arg(long, value_name = "PROGRAM", help_heading = "Container")]
    pub runtime_binary: Option<String>,
    #[command(flatten)]
    pub registry: RegistryOptions,
    #[command(flatten)]
    pub spec: spec::Options,
}

/// A short name nobody else is likely to have.
fn made_up() -> String {
    let digest = windlass_core::Digest::of(unique("c").as_bytes());
    digest.encoded().get(..12).unwrap_or("c").to_owned()
}

fn runtime_options(options: &Options) -> Option<Any> {
    let binary_name = options.runtime_binary.clone()?;
    Some(crate::stream::pack(&windlass_api::runc::Options { binary_name, ..Default::default() }))
}

fn labels(options: &Options) -> Result<BTreeMap<String, String>> {
    let mut texts = Vec::new();
    for file in &options.label_file {
        texts.extend(spec::file_lines(file)?);
    }
    texts.extend(options.label.iter().cloned());
    let labels = names::pairs("label", &texts)?;
    windlass_core::validate::labels(&labels)?;
    Ok(labels)
}

/// The image of a new container, fetched as the options say.
pub async fn image(client: &Client, options: &Options, typed: &str) -> Result<Image> {
    let platform = names::platform(options.platform.as_deref())?;
    let record = match options.pull {
        Pull::Always => None,
        _ => names::lookup(client, typed).await?,
    };
    match record {
        Some(record) => {
            let name = record.name.clone();
            let loaded = image::load(client, record, &platform).await;
            match &loaded {
                // There, but for other platforms.
                Err(error) if options.pull == Pull::Missing && is_missing(error) => {
                    fetch(client, options, &name, &platform).await
                }
                _ => loaded,
            }
        }
        None if options.pull == Pull::Never => image::find(client, typed, &platform).await,
        None => fetch(client, options, &names::full_name(typed), &platform).await,
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    output::status(error).is_some_and(|s| s.code() == Code::NotFound)
}

async fn fetch(client: &Client, options: &Options, name: &str, platform: &Platform) -> Result<Image> {
    let source = options.registry.registry(client, name, options.registry_user.as_deref()).await?;
    match pull::into_store(client, &source, name, platform, Some(&options.snapshotter)).await {
        // A daemon that does not unpack into this snapshotter by itself: we do when the container is made.
        Err(error) if output::status(&error).is_some_and(|s| s.code() == Code::InvalidArgument) => {
            pull::into_store(client, &source, name, platform, None).await?;
        }
        other => other?,
    }
    image::find(client, name, platform).await
}

/// A container that was made.
pub struct Created {
    pub record: Container,
    /// Its file system.
    pub rootfs: Vec<Mount>,
    /// Gives up the lease that protected it meanwhile: nobody needs to wait for that.
    release: tokio::task::JoinHandle<()>,
}

impl Created {
    /// Waits until nothing is left to do.
    pub async fn finish(self) {
        // One that cannot be given up ends by itself.
        let _ = self.release.await;
    }
}

/// Makes the record and its snapshot.
pub async fn create(client: &Client, image: &Image, options: &Options, args: &[String]) -> Result<Created> {
    let id = options.name.clone().unwrap_or_else(made_up);
    windlass_core::validate::identifier("container name", &id)?;
    if let Some(file) = &options.cidfile {
        ensure!(!file.exists(), "{} exists already: is its container still there?", file.display());
    }
    let mut labels = labels(options)?;
    if let Some(signal) = &options.stop_signal {
        crate::cmd::kill::number(signal)?;
    }
    // What an image says is taken where it makes sense.
    let of_image = image.defaults.stop_signal.as_ref().filter(|s| crate::cmd::kill::number(s).is_ok());
    if let Some(signal) = options.stop_signal.as_ref().or(of_image) {
        labels.insert(STOP_SIGNAL.to_owned(), signal.clone());
    }
    let uri = match &options.log_uri {
        Some(uri) => {
            ensure!(uri.contains("://"), "log URI {uri:?} is not file:///path or binary:///program");
            uri.clone()
        }
        None => format!("file://{}", log::new_file(&client.namespace, &id).display()),
    };
    labels.insert(log::LABEL.to_owned(), uri);
    if options.interactive {
        labels.insert(INTERACTIVE.to_owned(), "true".to_owned());
    }
    let mut pids = BTreeMap::new();
    for other in spec::joined(&options.spec) {
        pids.insert(other.to_owned(), task::running(client, other).await?.pid);
    }

    let expires = std::time::SystemTime::now() + std::time::Duration::from_secs(LEASE_SECONDS);
    let expires =
        time::OffsetDateTime::from(expires).format(&time::format_description::well_known::Rfc3339)?;
    let lease = leases::CreateRequest {
        id: unique("windlass"),
        labels: [(windlass_core::lease::LABEL_EXPIRE.to_owned(), expires)].into(),
    };
    let lease = client
        .leases()
        .create(lease)
        .await
        .context("create a lease")?
        .into_inner()
        .lease
        .unwrap_or_default()
        .id;
    let leased = client.with_lease(&lease)?;
    let new = New { client: &leased, image, options, id: &id, args, pids: &pids };
    let made = new.make(labels).await;
    let client = client.clone();
    let release = tokio::spawn(async move {
        // One that cannot be given up ends by itself.
        let _ = client.leases().delete(leases::DeleteRequest { id: lease, sync: false }).await;
    });
    let (record, rootfs) = made?;
    let created = Created { record, rootfs, release };
    if let Some(file) = &options.cidfile {
        std::fs::write(file, &id).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(created)
}

/// A container in the making.
struct New<'a> {
    client: &'a Client,
    image: &'a Image,
    options: &'a Options,
    id: &'a str,
    args: &'a [String],
    pids: &'a BTreeMap<String, u32>,
}

impl New<'_> {
    async fn make(&self, labels: BTreeMap<String, String>) -> Result<(Container, Vec<Mount>)> {
        let mounts = self.snapshot().await?;
        let made = self.record(labels, mounts.clone()).await;
        if made.is_err() {
            let snapshotter = self.options.snapshotter.clone();
            // The first error is the one to show.
            let _ = self
                .client
                .snapshots()
                .remove(RemoveSnapshotRequest { snapshotter, key: self.id.into() })
                .await;
        }
        Ok((made?, mounts))
    }

    /// The container's own file system over the image's; unpacks the image where that was not done yet.
    async fn snapshot(&self) -> Result<Vec<Mount>> {
        let snapshotter = &self.options.snapshotter;
        let request = || PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: self.id.into(),
            parent: self.image.chain.clone(),
            ..Default::default()
        };
        let mut prepared = self.client.snapshots().prepare(request()).await;
        if prepared.as_ref().is_err_and(|s| s.code() == Code::NotFound) && !self.image.layers.is_empty() {
            unpack::unpack(self.client, self.image, snapshotter).await?;
            prepared = self.client.snapshots().prepare(request()).await;
        }
        let id = self.id;
        Ok(prepared
            .with_context(|| format!("prepare the file system of {id}"))
            .remedy_for(
                Code::AlreadyExists,
                format!("choose another --name, or remove that one: windlass rm {id}"),
            )?
            .into_inner()
            .mounts)
    }

    async fn record(&self, labels: BTreeMap<String, String>, mounts: Vec<Mount>) -> Result<Container> {
        let Self { client, image, options, id, .. } = *self;
        let wanted =
            options.spec.process.user.as_ref().or(image.defaults.user.as_ref()).cloned().unwrap_or_default();
        let mounts: Vec<_> = mounts.into_iter().map(mount::from_wire).collect();
        let user = tokio::task::spawn_blocking(move || user::resolve(&wanted, &mounts)).await??;
        let subject = spec::Subject {
            namespace: &client.namespace,
            id,
            args: self.args,
            user,
            terminal: options.tty,
            pids: self.pids,
        };
        let spec = spec::container(image, &options.spec, &subject)?;
        let record = Container {
            id: id.to_owned(),
            labels,
            image: image.name.clone(),
            runtime: Some(container::Runtime {
                name: options.runtime.clone(),
                options: runtime_options(options),
            }),
            spec: Some(Any { type_url: SPEC_URL.into(), value: spec.to_string().into_bytes() }),
            snapshotter: options.snapshotter.clone(),
            snapshot_key: id.to_owned(),
            ..Default::default()
        };
        let request = CreateContainerRequest { container: Some(record.clone()) };
        client
            .containers()
            .create(request)
            .await
            .with_context(|| format!("create container {id}"))
            .remedy_for(
                Code::AlreadyExists,
                format!("choose another --name, or remove that one: windlass rm {id}"),
            )?;
        Ok(record)
    }
}

/// A container's record.
pub async fn get(client: &Client, id: &str) -> Result<Container> {
    let answer = client
        .containers()
        .get(GetContainerRequest { id: id.to_owned() })
        .await
        .remedy_for(Code::NotFound, format!("windlass -n {} ps -a lists what is there", client.namespace))?;
    match answer.into_inner().container {
        Some(container) => Ok(container),
        None => bail!("container {id}: the daemon's answer is empty"),
    }
}

/// The specification of a record.
pub fn spec_of(record: &Container) -> Result<serde_json::Value> {
    let Some(spec) = &record.spec else { bail!("container {} has no specification", record.id) };
    serde_json::from_slice(&spec.value).with_context(|| format!("specification of {}", record.id))
}

/// Whether a record's process has a terminal.
pub fn has_terminal(record: &Container) -> bool {
    spec_of(record).is_ok_and(|s| s["process"]["terminal"] == true)
}

/// Keeps the exit status of a task that has gone.
pub async fn note_exit(client: &Client, id: &str, status: u32) {
    let labels = [(EXIT_STATUS.to_owned(), status.to_string())].into();
    let container = Container { id: id.to_owned(), labels, ..Default::default() };
    let mask = windlass_api::FieldMask { paths: vec![format!("labels.{EXIT_STATUS}")] };
    // A record that has gone needs no note.
    let _ = client
        .containers()
        .update(UpdateContainerRequest { container: Some(container), update_mask: Some(mask) })
        .await;
}

/// The exit code of an outcome; says what an attached process was left in.
pub fn left(outcome: &task::Outcome, id: &str) -> std::process::ExitCode {
    use task::Outcome;
    match outcome {
        Outcome::Exited(status) => task::exit_code(*status),
        Outcome::Detached => {
            output::note(&format!("detached; {id} runs on: windlass attach {id}"));
            std::process::ExitCode::SUCCESS
        }
        Outcome::Abandoned => {
            output::note(&format!("{id} has not ended and runs on: windlass kill {id}"));
            std::process::ExitCode::from(130)
        }
        Outcome::Unread => std::process::ExitCode::from(output::UNREAD),
    }
}
