//! `windlass images`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use windlass_api::services::images::ListImagesRequest;

use crate::client::{Client, Global};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Filters in containerd's syntax: name==docker.io/library/busybox:latest
    filters: Vec<String>,
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    digest: String,
    short: String,
    media_type: String,
    created: String,
    labels: std::collections::BTreeMap<String, String>,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let images = client.images().list(ListImagesRequest { filters: args.filters }).await?.into_inner().images;
    let rows: Vec<_> = images
        .into_iter()
        .map(|image| {
            let target = image.target.unwrap_or_default();
            Row {
                name: image.name,
                short: target.digest.get(7..19).unwrap_or_default().to_owned(),
                digest: target.digest,
                media_type: target.media_type,
                created: image.created_at.map(|t| output::ago(t.seconds)).unwrap_or_default(),
                labels: image.labels.into_iter().collect(),
            }
        })
        .collect();
    if args.quiet {
        output::print(&rows.iter().map(|r| format!("{}\n", r.name)).collect::<String>())?;
    } else {
        let columns = [("IMAGE", "name"), ("DIGEST", "short"), ("TYPE", "media_type"), ("CREATED", "created")];
        output::rows(&global.format, &columns, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
