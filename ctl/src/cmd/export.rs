//! `windlass export`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use windlass_api::transfer::{ImageExportStream, ImageReference, ImageStore};
use windlass_core::platform::Platform;

use crate::client::{Client, Global};
use crate::names::{self, wire};
use crate::stream::Stream;
use crate::{output, transfer};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass export -o image.tar busybox
  windlass export busybox | ssh host windlass import -")]
pub struct Args {
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// File to write; standard output without it
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Platform instead of this machine's: linux/arm64; may be given several times
    #[arg(long)]
    platform: Vec<String>,
    /// All platforms
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Leave out what only `docker load` reads
    #[arg(long)]
    skip_manifest_json: bool,
    /// Leave out layers that must not be passed on
    #[arg(long)]
    skip_non_distributable: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    ensure!(
        args.output.is_some() || !std::io::stdout().is_terminal(),
        "standard output is a terminal: use -o FILE, or a pipe"
    );
    let client = Client::connect(&global).await?;
    let mut images = Vec::new();
    for typed in &args.images {
        images.push(names::image(&client, typed).await?.name);
    }
    let mut platforms = args.platform.iter().map(|p| Platform::parse(p)).collect::<Result<Vec<_>, _>>()?;
    if platforms.is_empty() && !args.all_platforms {
        platforms.push(Platform::host());
    }
    let stream = Stream::open(&client, "export").await?;
    let destination = ImageExportStream {
        stream: stream.id.clone(),
        platforms: platforms.iter().map(wire).collect(),
        all_platforms: args.all_platforms,
        skip_compatibility_manifest: args.skip_manifest_json,
        skip_non_distributable: args.skip_non_distributable,
        ..Default::default()
    };
    let reference = |name: &String| ImageReference { name: name.clone(), ..Default::default() };
    let source = ImageStore {
        name: if images.len() == 1 { images[0].clone() } else { String::new() },
        extra_references: if images.len() == 1 { Vec::new() } else { images.iter().map(reference).collect() },
        ..Default::default()
    };
    // Written beside its place: half an archive must not look like one.
    let part = args.output.as_ref().map(|path| {
        let mut part = path.clone().into_os_string();
        part.push(format!(".{}.part", std::process::id()));
        PathBuf::from(part)
    });
    let out: Box<dyn std::io::Write + Send> = match &part {
        Some(part) => {
            Box::new(std::fs::File::create_new(part).with_context(|| format!("write {}", part.display()))?)
        }
        None => Box::new(std::io::stdout()),
    };
    let (end, ended) = tokio::sync::watch::channel(false);
    let receiving = tokio::spawn(stream.receive_archive(out, ended));
    let quiet = args.quiet || args.output.is_none();
    let done = async {
        transfer::run(&client, &source, &destination, quiet).await?;
        end.send_replace(true);
        receiving.await?.map_err(broken_pipe)
    };
    let result = done.await;
    if let (Some(part), Some(path)) = (&part, &args.output) {
        if result.is_err() {
            // The first error is the one to show.
            let _ = std::fs::remove_file(part);
        } else {
            std::fs::rename(part, path).with_context(|| format!("write {}", path.display()))?;
        }
    }
    result?;
    Ok(ExitCode::SUCCESS)
}

fn broken_pipe(error: anyhow::Error) -> anyhow::Error {
    let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    if error.chain().any(|e| e.downcast_ref().is_some_and(gone)) { output::Gone.into() } else { error }
}
