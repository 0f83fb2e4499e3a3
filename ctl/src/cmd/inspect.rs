//! `windlass inspect`

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};
use tonic::Code;
use windlass_api::services::containers::GetContainerRequest;
use windlass_api::services::images::Image;

use crate::client::{Client, Global};
use crate::json;
use crate::names;
use crate::output::{self, Format, Remedy};
use crate::run::{image, task};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Container,
    Image,
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass inspect web
  windlass inspect --format '{{.task.pid}}' web
  windlass inspect --type image --format '{{json .config.config.Env}}' busybox")]
pub struct Args {
    /// Containers or images
    #[arg(required = true)]
    names: Vec<String>,
    /// What the names are; without it a container is looked for first
    #[arg(long = "type", value_enum)]
    kind: Option<Kind>,
    /// Platform of an image instead of this machine's
    #[arg(long)]
    platform: Option<String>,
}

async fn container(client: &Client, id: &str) -> Result<Option<Value>> {
    let record = match client.containers().get(GetContainerRequest { id: id.to_owned() }).await {
        Ok(answer) => answer.into_inner().container.unwrap_or_default(),
        // What is no name of a container may be one of an image.
        Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let task = task::get(client, id).await?;
    Ok(Some(json::container(&record, task.as_ref())))
}

async fn image(client: &Client, record: Image, platform: Option<&str>) -> Result<Value> {
    let target = record.target.unwrap_or_default();
    let mut value = json!({
        "name": record.name,
        "labels": record.labels,
        "created": output::rfc3339(record.created_at.as_ref()),
        "updated": output::rfc3339(record.updated_at.as_ref()),
        "target": {"media_type": target.media_type, "digest": target.digest, "size": target.size,
            "annotations": target.annotations},
    });
    // An image may hold other platforms only: what is known is shown all the same.
    match image::manifest(client, &target.digest, &names::platform(platform)?).await {
        Ok(manifest) => {
            value["size"] = json!(manifest.size());
            value["manifest"] = image::read_json(client, &manifest.digest).await?;
            value["manifest_digest"] = json!(manifest.digest);
            value["config"] =
                image::read_json(client, manifest.config.digest.as_str()).await.unwrap_or(Value::Null);
        }
        Err(error) if platform.is_some() => return Err(error),
        Err(_) => value["manifest"] = Value::Null,
    }
    Ok(value)
}

async fn find(client: &Client, name: &str, args: &Args) -> Result<Value> {
    if args.kind != Some(Kind::Image)
        && let Some(value) = container(client, name).await?
    {
        return Ok(value);
    }
    if args.kind != Some(Kind::Container)
        && let Some(record) = names::lookup(client, name).await?
    {
        return image(client, record, args.platform.as_deref()).await;
    }
    let what = match args.kind {
        Some(Kind::Container) => "container",
        Some(Kind::Image) => "image",
        None => "container or image",
    };
    Err(anyhow::anyhow!("no {what} is called {name}"))
        .remedy("windlass ps -a lists containers, windlass images lists images")
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let (mut found, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for name in &args.names {
        match find(&client, name, &args).await {
            Ok(value) => found.push(value),
            Err(error) => {
                output::warn(&output::error(&error));
                code = ExitCode::FAILURE;
            }
        }
    }
    if let Format::Template(_) = global.format {
        output::rows(&global.format, &[], &found)?;
    } else {
        output::print(&output::pretty(&found)?)?;
    }
    Ok(code)
}
