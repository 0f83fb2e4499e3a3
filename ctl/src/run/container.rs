//! Container records: snapshot and specification, made under a lease so that nothing is collected in between.

use anyhow::{Context as _, Result};
use windlass_api::Any;
use windlass_api::services::containers::{Container, CreateContainerRequest, container};
use windlass_api::services::leases;
use windlass_api::services::snapshots::PrepareSnapshotRequest;
use windlass_api::services::tasks::CreateTaskRequest;

use super::image::Image;
use super::io::Fifos;
use super::spec;
use crate::client::Client;
use crate::stream::unique;

pub const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
pub const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Label: where the output of a detached container goes.
pub const LOG_LABEL: &str = "windlass/log-uri";

/// What a container is made with, beside its specification.
#[derive(clap::Args)]
pub struct Options {
    /// Name of the container; made up without it
    #[arg(long)]
    pub name: Option<String>,
    /// Label: key=value
    #[arg(long, short)]
    pub label: Vec<String>,
    /// Runtime: io.containerd.runc.v2, or the path of a shim
    #[arg(long, default_value = "io.containerd.runc.v2")]
    pub runtime: String,
    /// OCI runtime binary instead of the embedded one: runc, crun
    #[arg(long)]
    pub runtime_binary: Option<String>,
    /// Snapshotter
    #[arg(long, default_value = "overlayfs")]
    pub snapshotter: String,
    /// Allocate a terminal
    #[arg(long, short)]
    pub tty: bool,
    #[command(flatten)]
    pub spec: spec::Options,
}

/// A short name nobody else is likely to have.
fn made_up() -> String {
    let text = unique("c");
    let hash = windlass_core::Digest::of(text.as_bytes());
    hash.encoded().get(..12).unwrap_or("c").to_owned()
}

fn runtime_options(options: &Options) -> Option<Any> {
    use prost::{Message, Name};
    let binary_name = options.runtime_binary.clone()?;
    let value = windlass_api::runc::Options { binary_name, ..Default::default() };
    Some(Any { type_url: windlass_api::runc::Options::full_name(), value: value.encode_to_vec() })
}

fn labels(options: &Options) -> Result<std::collections::BTreeMap<String, String>> {
    let pair = |label: &String| {
        let (key, value) = label.split_once('=').with_context(|| format!("label {label:?} is not key=value"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    options.label.iter().map(pair).collect()
}

/// Makes the record and its snapshot; answers the id.
pub async fn create(client: &Client, image: &Image, options: &Options, args: &[String], log: bool) -> Result<String> {
    let id = options.name.clone().unwrap_or_else(made_up);
    windlass_core::validate::identifier("container name", &id)?;
    let user = super::user::resolve(client, image, options).await?;
    let subject = spec::Subject { namespace: &client.namespace, id: &id, args, user, terminal: options.tty };
    let spec = spec::container(image, &options.spec, &subject)?;
    let mut labels = labels(options)?;
    if log {
        let file = super::io::log_file(&client.namespace, &id)?;
        labels.insert(LOG_LABEL.to_owned(), format!("file://{}", file.display()));
    }

    let expires = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let expires = time::OffsetDateTime::from(expires).format(&time::format_description::well_known::Rfc3339)?;
    let lease = leases::CreateRequest {
        id: unique("windlass"),
        labels: [(windlass_core::lease::LABEL_EXPIRE.to_owned(), expires)].into(),
    };
    let lease = client.leases().create(lease).await?.into_inner().lease.unwrap_or_default().id;
    let leased = client.with_lease(&lease)?;
    let made = make(&leased, image, options, &id, labels, spec).await;
    client.leases().delete(leases::DeleteRequest { id: lease, sync: false }).await?;
    made?;
    Ok(id)
}

async fn make(
    client: &Client,
    image: &Image,
    options: &Options,
    id: &str,
    labels: std::collections::BTreeMap<String, String>,
    spec: serde_json::Value,
) -> Result<()> {
    let snapshotter = options.snapshotter.clone();
    let snapshot =
        PrepareSnapshotRequest { snapshotter: snapshotter.clone(), key: id.into(), parent: image.chain.clone(), ..Default::default() };
    client.snapshots().prepare(snapshot).await.with_context(|| format!("prepare the file system of {id}"))?;
    let record = Container {
        id: id.to_owned(),
        labels,
        image: image.name.clone(),
        runtime: Some(container::Runtime { name: options.runtime.clone(), options: runtime_options(options) }),
        spec: Some(Any { type_url: SPEC_URL.into(), value: spec.to_string().into_bytes() }),
        snapshotter,
        snapshot_key: id.to_owned(),
        ..Default::default()
    };
    let request = CreateContainerRequest { container: Some(record) };
    client.containers().create(request).await.with_context(|| format!("create container {id}"))?;
    Ok(())
}

/// Makes the task of a record. Its output goes into `fifos`, or without them where the record's label says.
pub async fn create_task(client: &Client, record: &Container, fifos: Option<&Fifos>, terminal: bool) -> Result<()> {
    use windlass_api::services::snapshots::MountsRequest;
    let request = MountsRequest { snapshotter: record.snapshotter.clone(), key: record.snapshot_key.clone() };
    let rootfs = client.snapshots().mounts(request).await?.into_inner().mounts;
    let mut request = CreateTaskRequest { container_id: record.id.clone(), rootfs, terminal, ..Default::default() };
    match (fifos, record.labels.get(LOG_LABEL)) {
        (Some(fifos), _) => {
            (request.stdin, request.stdout, request.stderr) =
                (fifos.stdin.clone(), fifos.stdout.clone(), fifos.stderr.clone());
        }
        (None, Some(uri)) => {
            request.stdout = uri.clone();
            request.stderr = if terminal { String::new() } else { uri.clone() };
        }
        (None, None) => {}
    }
    client.tasks().create(request).await.with_context(|| format!("create the task of {}", record.id))?;
    Ok(())
}
