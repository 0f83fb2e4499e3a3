//! Transfers: one call, with its progress shown and its questions answered meanwhile.

mod progress;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use prost::{Message, Name};
use tokio::signal::unix::{SignalKind, signal};
use windlass_api::services::transfer::{TransferOptions, TransferRequest};
use windlass_api::transfer::{OciRegistry, Progress, RegistryResolver};

use crate::auth;
use crate::client::Client;
use crate::output::Interrupted;
use crate::stream::{Stream, pack, unpack};
use progress::Board;

/// How long the last lines of progress may take to arrive after the answer: the daemon closes the stream behind them.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How to speak to a registry; shared by what pulls and pushes.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Registry")]
pub struct RegistryOptions {
    /// Speak HTTP without TLS
    #[arg(long)]
    pub plain_http: bool,
    /// Directory with a hosts.toml per registry, instead of the daemon's
    #[arg(long, default_value = "", hide_default_value = true)]
    pub hosts_dir: String,
}

impl RegistryOptions {
    /// The registry as one side of a transfer; `user` is NAME or NAME:PASSWORD from the command line. Questions for credentials are answered as long as this process lives.
    pub async fn registry(
        &self,
        client: &Client,
        reference: &str,
        user: Option<&str>,
    ) -> Result<OciRegistry> {
        let mut resolver = RegistryResolver {
            host_dir: self.hosts_dir.clone(),
            default_scheme: if self.plain_http { "http".into() } else { String::new() },
            ..Default::default()
        };
        if let Some(keeper) = auth::Keeper::new(user, reference)? {
            let stream = Stream::open(client, "creds").await?;
            resolver.auth_stream = stream.id.clone();
            tokio::spawn(auth::answer(stream, keeper));
        }
        Ok(OciRegistry { reference: reference.to_owned(), resolver: Some(resolver) })
    }
}

/// Names that a transfer has told: images that were saved.
pub type Saved = Vec<String>;

/// Runs a transfer; shows its progress on standard error unless `quiet`. Ctrl-C cancels it.
pub async fn run<S, D>(client: &Client, source: &S, destination: &D, quiet: bool) -> Result<Saved>
where
    S: Message + Name,
    D: Message + Name,
{
    // Once for the whole transfer: a listener made anew for each line misses the interrupt that comes along with one.
    let mut interrupts = signal(SignalKind::interrupt()).context("handle signals")?;
    let mut progress = Stream::open(client, "progress").await?;
    let options = TransferOptions { progress_stream: progress.id.clone() };
    let request = TransferRequest {
        source: Some(pack(source)),
        destination: Some(pack(destination)),
        options: Some(options),
    };
    let mut service = client.transfer();
    let mut board = Board::new(quiet);
    let transfer = service.transfer(request);
    tokio::pin!(transfer);
    let mut told = true;
    let result = loop {
        tokio::select! {
            result = &mut transfer => break result,
            _ = interrupts.recv() => {
                board.finish();
                return Err(Interrupted.into());
            }
            message = progress.receiver.message(), if told => match message {
                Ok(Some(message)) => if let Some(line) = unpack::<Progress>(&message) { board.show(line) },
                _ => told = false,
            },
            () = board.due() => board.draw(),
        }
    };
    let rest = async {
        while let Ok(Some(message)) = progress.receiver.message().await {
            if let Some(line) = unpack::<Progress>(&message) {
                board.show(line);
            }
        }
    };
    let _ = tokio::time::timeout(LAST_LINES, rest).await;
    board.finish();
    result.context("transfer")?;
    Ok(board.saved)
}
