//! `windlass tag`

use std::process::ExitCode;

use anyhow::Result;
use tonic::Code;
use windlass_api::services::images::{CreateImageRequest, Image, UpdateImageRequest};

use super::each;
use crate::client::{Client, Global};
use crate::names;

#[derive(clap::Args)]
pub struct Args {
    /// Image
    image: String,
    /// New names; one that is another image's moves to this one
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let image = names::image(&client, &args.image).await?;
    each(&args.names, async |typed| {
        let name = names::full_name(typed);
        let copy = || {
            Some(Image {
                name: name.clone(),
                target: image.target.clone(),
                labels: image.labels.clone(),
                ..Default::default()
            })
        };
        let request = CreateImageRequest { image: copy(), source_date_epoch: None };
        match client.images().create(request).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let mask = windlass_api::FieldMask { paths: vec!["target".into(), "labels".into()] };
                let request =
                    UpdateImageRequest { image: copy(), update_mask: Some(mask), source_date_epoch: None };
                client.images().update(request).await?;
            }
            other => {
                other?;
            }
        }
        Ok(name)
    })
    .await
}
