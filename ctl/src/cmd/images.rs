//! `windlass images`

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use futures::StreamExt;
use serde::Serialize;
use windlass_api::services::images::{Image, ListImagesRequest};
use windlass_core::platform::Platform;

use crate::client::{Client, Global};
use crate::output;
use crate::run::image;

/// Manifests that are read at a time.
const AT_ONCE: usize = 16;

#[derive(clap::Args)]
#[command(after_help = "\
Fields for --format: name digest media_type size created age labels

Filters are containerd's: name==docker.io/library/busybox:latest, name~=busybox, labels.x; several are alternatives.")]
pub struct Args {
    /// Only those that match, or whose name contains the word
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
    /// Whole digests
    #[arg(long)]
    digests: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    digest: String,
    short: String,
    media_type: String,
    /// Bytes of this machine's layers in the registry; none where they are not here.
    size: Option<u64>,
    bytes: String,
    created: String,
    age: String,
    labels: BTreeMap<String, String>,
}

/// A mere word is looked for in names.
fn filter(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c));
    if plain { format!("name~=\"{}\"", text.replace('.', "\\\\.")) } else { text.to_owned() }
}

async fn row(client: &Client, image: Image, host: &Platform) -> Row {
    let target = image.target.unwrap_or_default();
    // Without this machine's manifest the size is not known.
    let size = image::manifest(client, &target.digest, host).await.ok().map(|m| m.size());
    Row {
        name: image.name,
        short: target.digest.get(7..19).unwrap_or_default().to_owned(),
        digest: target.digest,
        media_type: target.media_type,
        size,
        bytes: size.map_or_else(|| "-".to_owned(), output::bytes),
        created: output::rfc3339(image.created_at.as_ref()),
        age: output::age(image.created_at.as_ref()),
        labels: image.labels.into_iter().collect(),
    }
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let filters = args.filters.iter().map(|f| filter(f)).collect();
    let mut images = client.images().list(ListImagesRequest { filters }).await?.into_inner().images;
    images.sort_by(|a, b| a.name.cmp(&b.name));
    if args.quiet {
        output::print(&images.iter().map(|i| output::safe(&i.name) + "\n").collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let host = Platform::host();
    let rows: Vec<_> = futures::stream::iter(images.into_iter().map(|i| row(&client, i, &host)))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let digest = if args.digests { "digest" } else { "short" };
    let columns = [("IMAGE", "name"), ("DIGEST", digest), ("SIZE", "bytes"), ("CREATED", "age")];
    output::rows(&global.format, &columns, &rows)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn words_become_filters() {
        assert_eq!(filter("busybox"), "name~=\"busybox\"");
        assert_eq!(filter("docker.io/a"), "name~=\"docker\\\\.io/a\"");
        assert_eq!(filter("name==x"), "name==x");
        assert!(windlass_core::Filters::parse(&[filter("docker.io/a:1")]).is_ok());
    }
}
