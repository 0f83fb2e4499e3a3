//! `windlass rmi`

use std::process::ExitCode;

use anyhow::Result;
use windlass_api::services::containers::ListContainersRequest;
use windlass_api::services::images::{DeleteImageRequest, ListImagesRequest};

use super::each;
use crate::client::{Client, Global};
use crate::names;
use crate::output::{self, Remedy};

#[derive(clap::Args)]
pub struct Args {
    /// Images
    #[arg(required_unless_present = "all", value_name = "IMAGE")]
    images: Vec<String>,
    /// All images of the namespace
    #[arg(long, conflicts_with = "images")]
    all: bool,
    /// Also those that containers were made from: they keep their files
    #[arg(long, short)]
    force: bool,
    /// Do not wait until their content is collected
    #[arg(long)]
    no_wait: bool,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let names: Vec<String> = if args.all {
        let images = client.images().list(ListImagesRequest::default()).await?.into_inner().images;
        images.into_iter().map(|i| i.name).collect()
    } else {
        args.images.clone()
    };
    let containers =
        client.containers().list(ListContainersRequest::default()).await?.into_inner().containers;
    let last = names.last().cloned();
    each(&names, async |typed| {
        let image = names::image(&client, typed).await?;
        if let Some(user) = containers.iter().find(|c| c.image == image.name).filter(|_| !args.force) {
            return Err(anyhow::anyhow!("image {} is used by container {}", image.name, user.id))
                .remedy(format!("remove it first: windlass rm {}; or use --force", user.id));
        }
        // One collection, behind the last of them.
        let sync = !args.no_wait && last.as_deref() == Some(typed);
        client.images().delete(DeleteImageRequest { name: image.name.clone(), sync, target: None }).await?;
        Ok(output::safe(&image.name))
    })
    .await
}
