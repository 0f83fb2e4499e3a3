//! `windlass push`

use std::process::ExitCode;

use anyhow::Result;
use windlass_api::transfer::ImageStore;
use windlass_core::platform::Platform;

use crate::client::{Client, Global};
use crate::names::{self, full_name, wire};
use crate::transfer::RegistryOptions;
use crate::{output, transfer};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass push registry.example/team/app:1.2
  windlass push app:1.2 registry.example/team/app:1.2")]
pub struct Args {
    /// Image
    image: String,
    /// Name at the registry; without it the image's own
    destination: Option<String>,
    /// Only these platforms: linux/arm64; may be given several times
    #[arg(long)]
    platform: Vec<String>,
    /// Print only the name
    #[arg(long, short)]
    quiet: bool,
    /// User at the registry; without it what `windlass login` and Docker's config.json know
    #[arg(long, value_name = "NAME[:PASSWORD]", help_heading = "Registry")]
    user: Option<String>,
    #[command(flatten)]
    registry: RegistryOptions,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let image = names::image(&client, &args.image).await?;
    let name = full_name(args.destination.as_deref().unwrap_or(&image.name));
    let platforms = args.platform.iter().map(|p| Platform::parse(p)).collect::<Result<Vec<_>, _>>()?;
    let source = ImageStore {
        name: image.name,
        platforms: platforms.iter().map(wire).collect(),
        ..Default::default()
    };
    let destination = args.registry.registry(&client, &name, args.user.as_deref()).await?;
    transfer::run(&client, &source, &destination, args.quiet).await?;
    output::print(&format!("{name}\n"))?;
    Ok(ExitCode::SUCCESS)
}
