//! `windlass import`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use windlass_api::transfer::{ImageImportStream, ImageReference, ImageStore, UnpackConfiguration};

use crate::client::{Client, Global};
use crate::names::{self, wire};
use crate::stream::Stream;
use crate::{output, transfer};

/// How long the sender may take to notice that the transfer has ended.
const LAST_PIECES: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass import image.tar
  docker save busybox | windlass import -")]
pub struct Args {
    /// Archive (OCI layout or docker save, plain or compressed); "-" for standard input
    archive: PathBuf,
    /// Prefix of names for images that the archive gives a mere tag
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,
    /// Also give each image a name with its digest, below the base name
    #[arg(long, requires = "base_name")]
    digests: bool,
    /// Snapshotter to unpack into
    #[arg(long, default_value = "overlayfs")]
    snapshotter: String,
    /// Only store
    #[arg(long)]
    no_unpack: bool,
    /// Platform instead of this machine's
    #[arg(long)]
    platform: Option<String>,
    /// Take all platforms; this machine's is unpacked
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Print only the images' names
    #[arg(long, short)]
    quiet: bool,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let input: Box<dyn std::io::Read + Send> = if args.archive.as_os_str() == "-" {
        ensure!(!std::io::stdin().is_terminal(), "standard input is a terminal: give an archive");
        Box::new(std::io::stdin())
    } else {
        Box::new(
            std::fs::File::open(&args.archive).with_context(|| format!("open {}", args.archive.display()))?,
        )
    };
    let client = Client::connect(&global).await?;
    let platform = wire(&names::platform(args.platform.as_deref())?);
    let stream = Stream::open(&client, "import").await?;
    let source = ImageImportStream { stream: stream.id.clone(), ..Default::default() };
    let mut destination = ImageStore::default();
    if !args.all_platforms {
        destination.platforms.push(platform.clone());
    }
    if !args.no_unpack {
        destination
            .unpacks
            .push(UnpackConfiguration { platform: Some(platform), snapshotter: args.snapshotter });
    }
    // Names that the archive gives in full are taken as they are, also without a base name; a mere tag gets the prefix.
    let (name, allow_overwrite) = match args.base_name {
        Some(name) => (name, false),
        None => (format!("import-{}", time::OffsetDateTime::now_utc().date()), true),
    };
    let reference =
        ImageReference { name: name.clone(), is_prefix: true, allow_overwrite, ..Default::default() };
    destination.extra_references.push(reference);
    if args.digests {
        let reference = ImageReference { name, is_prefix: true, add_digest: true, ..Default::default() };
        destination.extra_references.push(reference);
    }
    let sending = tokio::spawn(stream.send_all(input));
    let abort = sending.abort_handle();
    let saved = transfer::run(&client, &source, &destination, args.quiet).await;
    let sent = match &saved {
        Ok(_) => tokio::time::timeout(LAST_PIECES, sending).await,
        // What could not be read is the cause of what came of it.
        Err(_) if sending.is_finished() => Ok(sending.await),
        Err(_) => Ok(Ok(Ok(()))),
    };
    abort.abort();
    if let Ok(sent) = sent {
        sent??;
    }
    output::print(&saved?.iter().map(|n| output::safe(n) + "\n").collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}
