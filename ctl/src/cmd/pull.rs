//! `windlass pull`

use std::process::ExitCode;

use anyhow::Result;
use windlass_api::transfer::{ImageStore, OciRegistry, RegistryResolver, UnpackConfiguration};
use windlass_core::platform::Platform;

use crate::client::{Client, Global};
use crate::{output, transfer};

#[derive(clap::Args)]
pub struct Args {
    /// Image: "busybox" means docker.io/library/busybox:latest
    image: String,
    /// Platform instead of this machine's: linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// Snapshotter to unpack into
    #[arg(long, default_value = "overlayfs")]
    snapshotter: String,
    /// Speak HTTP without TLS
    #[arg(long)]
    plain_http: bool,
    /// Directory with a hosts.toml per registry
    #[arg(long, default_value = "")]
    hosts_dir: String,
    /// Print only the image's name
    #[arg(long, short)]
    quiet: bool,
}

/// The full name behind what people type: registry, `library/` and tag filled in.
pub fn full_name(name: &str) -> String {
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let tagged = path.contains('@') || path.rsplit('/').next().is_some_and(|last| last.contains(':'));
    format!("{host}/{path}{}", if tagged { "" } else { ":latest" })
}

pub fn wire(platform: &Platform) -> windlass_api::types::Platform {
    windlass_api::types::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        ..Default::default()
    }
}

/// Fetches and unpacks an image with defaults.
pub async fn fetch(client: &Client, name: &str) -> Result<()> {
    let host = wire(&Platform::host());
    let source = OciRegistry { reference: name.to_owned(), resolver: None };
    let destination = ImageStore {
        name: name.to_owned(),
        platforms: vec![host.clone()],
        unpacks: vec![UnpackConfiguration { platform: Some(host), snapshotter: "overlayfs".into() }],
        ..Default::default()
    };
    transfer::run(client, &source, &destination, false).await
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let name = full_name(&args.image);
    let platform = args.platform.as_deref().map_or_else(|| Ok(Platform::host()), Platform::parse)?;
    let source = OciRegistry {
        reference: name.clone(),
        resolver: Some(RegistryResolver {
            host_dir: args.hosts_dir,
            default_scheme: if args.plain_http { "http".into() } else { String::new() },
            ..Default::default()
        }),
    };
    let destination = ImageStore {
        name: name.clone(),
        platforms: vec![wire(&platform)],
        unpacks: vec![UnpackConfiguration { platform: Some(wire(&platform)), snapshotter: args.snapshotter }],
        ..Default::default()
    };
    transfer::run(&client, &source, &destination, args.quiet).await?;
    output::print(&format!("{name}\n"))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::full_name;

    #[test]
    fn names_are_filled_in() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
            ("ghcr.io/a/b@sha256:0", "ghcr.io/a/b@sha256:0"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }
}
