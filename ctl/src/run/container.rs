//! Container records: snapshot and specification, made under a lease so that nothing is collected in between.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use tonic::Code;
use windlass_api::Any;
use windlass_api::convert::mount;
use windlass_api::services::containers::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, container,
};
use windlass_api::services::leases;
use windlass_api::services::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest};
use windlass_api::types::Mount;
use windlass_core::platform::Platform;

use super::image::{self, Image};
use super::record::{INTERACTIVE, SPEC_URL, STOP_SIGNAL};
use super::{log, spec, task, unpack, user};
use crate::client::Client;
use crate::cmd::{pull, rm};
use crate::interrupt::unless_interrupted;
use crate::names;
use crate::output::{self, Remedy};
use crate::stream::unique;
use crate::transfer::RegistryOptions;

/// How long what is being made is protected, should we die in between.
const LEASE_SECONDS: u64 = 3600;
/// Age from which a snapshot without its container is not one that somebody is just making.
const LEFT_OVER_SECONDS: i64 = 60;

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
    let new = New { client: &leased, image, options, id: &id, args, pids: &pids, made: Cell::default() };
    let made = unless_interrupted(new.make(labels)).await;
    if made.is_err() {
        // The first error is the one to show.
        let _ = unless_interrupted(new.clear()).await;
    }
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
    made: Cell<Made>,
}

/// What is there, or may be, of a container in the making.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Made {
    #[default]
    Nothing,
    Snapshot,
    Record,
}

impl New<'_> {
    async fn make(&self, labels: BTreeMap<String, String>) -> Result<(Container, Vec<Mount>)> {
        let mounts = self.snapshot().await?;
        Ok((self.record(labels, mounts.clone()).await?, mounts))
    }

    /// Removes what was made of a container that was given up; never what was there before.
    async fn clear(&self) -> Result<()> {
        if self.made.get() == Made::Record {
            let request = DeleteContainerRequest { id: self.id.into() };
            rm::gone_is_fine(self.client.containers().delete(request).await)?;
        }
        if self.made.get() == Made::Nothing { Ok(()) } else { self.remove_snapshot().await }
    }

    async fn remove_snapshot(&self) -> Result<()> {
        let request =
            RemoveSnapshotRequest { snapshotter: self.options.snapshotter.clone(), key: self.id.into() };
        Ok(rm::gone_is_fine(self.client.snapshots().remove(request).await)?)
    }

    /// Whether a snapshot of the container's name is what is left of one whose making was cut off.
    async fn is_left_over(&self) -> bool {
        let id = self.id.to_owned();
        let record = self.client.containers().get(GetContainerRequest { id: id.clone() }).await;
        let request = StatSnapshotRequest { snapshotter: self.options.snapshotter.clone(), key: id };
        let stat = self.client.snapshots().stat(request).await;
        let made = stat.ok().and_then(|s| s.into_inner().info).and_then(|i| i.created_at);
        let age = made.map_or(0, |at| output::now().saturating_sub(at.seconds));
        record.is_err_and(|s| s.code() == Code::NotFound) && age > LEFT_OVER_SECONDS
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
        self.made.set(Made::Snapshot);
        let mut prepared = self.client.snapshots().prepare(request()).await;
        if prepared.as_ref().is_err_and(|s| s.code() == Code::NotFound) && !self.image.layers.is_empty() {
            unpack::unpack(self.client, self.image, snapshotter).await?;
            prepared = self.client.snapshots().prepare(request()).await;
        }
        if prepared.as_ref().is_err_and(|s| s.code() == Code::AlreadyExists) && self.is_left_over().await {
            self.remove_snapshot().await?;
            prepared = self.client.snapshots().prepare(request()).await;
        }
        if prepared.is_err() {
            self.made.set(Made::Nothing);
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
        self.made.set(Made::Record);
        let created = client.containers().create(request).await;
        if created.as_ref().is_err_and(|s| s.code() == Code::AlreadyExists) {
            self.made.set(Made::Snapshot);
        }
        created.with_context(|| format!("create container {id}")).remedy_for(
            Code::AlreadyExists,
            format!("choose another --name, or remove that one: windlass rm {id}"),
        )?;
        Ok(record)
    }
}
