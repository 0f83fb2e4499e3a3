//! `windlass import`

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use windlass_api::transfer::{ImageImportStream, ImageReference, ImageStore, UnpackConfiguration};
use windlass_core::platform::Platform;

use super::pull::wire;
use crate::client::{Client, Global};
use crate::stream::Stream;
use crate::transfer;

#[derive(clap::Args)]
pub struct Args {
    /// Archive (OCI layout or docker save, plain or compressed); "-" for standard input
    archive: std::path::PathBuf,
    /// Also give the images names that begin so
    #[arg(long)]
    base_name: Option<String>,
    /// Snapshotter to unpack into
    #[arg(long, default_value = "overlayfs")]
    snapshotter: String,
    /// Do not unpack
    #[arg(long)]
    no_unpack: bool,
    /// Take all platforms, not only this machine's
    #[arg(long)]
    all_platforms: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let input: Box<dyn std::io::Read + Send> = if args.archive.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(&args.archive).with_context(|| format!("open {}", args.archive.display()))?)
    };
    let stream = Stream::open(&client, "import").await?;
    let source = ImageImportStream { stream: stream.id.clone(), ..Default::default() };
    let host = wire(&Platform::host());
    let mut destination = ImageStore::default();
    if !args.all_platforms {
        destination.platforms.push(host.clone());
    }
    if !args.no_unpack {
        destination.unpacks.push(UnpackConfiguration { platform: Some(host), snapshotter: args.snapshotter });
    }
    // Names that the archive gives in full are taken as they are, also without a base name; a mere tag gets the prefix.
    let (name, allow_overwrite) = match args.base_name {
        Some(name) => (name, false),
        None => (format!("import-{}", time::OffsetDateTime::now_utc().date()), true),
    };
    destination.extra_references.push(ImageReference { name, is_prefix: true, allow_overwrite, ..Default::default() });
    let sending = tokio::spawn(stream.send_all(input));
    transfer::run(&client, &source, &destination, args.quiet).await?;
    sending.await??;
    Ok(ExitCode::SUCCESS)
}
