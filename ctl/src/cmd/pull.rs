//! `windlass pull`

use std::process::ExitCode;

use anyhow::Result;
use windlass_api::transfer::{ImageStore, OciRegistry, UnpackConfiguration};
use windlass_core::platform::Platform;

use crate::client::{Client, Global};
use crate::names::{self, full_name, wire};
use crate::transfer::RegistryOptions;
use crate::{output, transfer};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass pull busybox
  windlass pull --platform linux/arm64 ghcr.io/owner/name:1.2
  windlass pull --user me registry.example/team/app

Ctrl-C cancels; what has arrived is kept for the next time.")]
pub struct Args {
    /// Images; "busybox" means docker.io/library/busybox:latest
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Platform instead of this machine's: linux/arm64; may be given several times
    #[arg(long)]
    platform: Vec<String>,
    /// All platforms of the image; this machine's is unpacked
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Manifests and configurations of other platforms too
    #[arg(long)]
    all_metadata: bool,
    /// Snapshotter to unpack into
    #[arg(long, default_value = "overlayfs")]
    snapshotter: String,
    /// Only fetch
    #[arg(long)]
    no_unpack: bool,
    /// Label of the image: key=value
    #[arg(long, short, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Print only the images' names
    #[arg(long, short)]
    quiet: bool,
    /// User at the registry; without it what `windlass login` and Docker's config.json know
    #[arg(long, value_name = "NAME[:PASSWORD]", help_heading = "Registry")]
    user: Option<String>,
    #[command(flatten)]
    registry: RegistryOptions,
}

/// Fetches an image for one platform, and unpacks it where a snapshotter is named.
pub async fn into_store(
    client: &Client,
    source: &OciRegistry,
    name: &str,
    platform: &Platform,
    snapshotter: Option<&str>,
) -> Result<()> {
    let unpack = |s: &str| UnpackConfiguration { platform: Some(wire(platform)), snapshotter: s.to_owned() };
    let destination = ImageStore {
        name: name.to_owned(),
        platforms: vec![wire(platform)],
        unpacks: snapshotter.map(unpack).into_iter().collect(),
        ..Default::default()
    };
    transfer::run(client, source, &destination, false).await.map(|_| ())
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let mut platforms = args.platform.iter().map(|p| Platform::parse(p)).collect::<Result<Vec<_>, _>>()?;
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    let unpack =
        |p: &Platform| UnpackConfiguration { platform: Some(wire(p)), snapshotter: args.snapshotter.clone() };
    let unpacks: Vec<_> = if args.no_unpack { Vec::new() } else { platforms.iter().map(unpack).collect() };
    for image in &args.images {
        let name = full_name(image);
        let source = args.registry.registry(&client, &name, args.user.as_deref()).await?;
        let destination = ImageStore {
            name: name.clone(),
            labels: names::pairs("label", &args.label)?,
            platforms: if args.all_platforms { Vec::new() } else { platforms.iter().map(wire).collect() },
            all_metadata: args.all_metadata,
            unpacks: unpacks.clone(),
            ..Default::default()
        };
        transfer::run(&client, &source, &destination, args.quiet).await?;
        output::print(&format!("{name}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
