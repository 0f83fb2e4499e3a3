//! `windlass version`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::client::{Client, Global};
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Wait so long for a daemon that is just starting: 500ms, 10s
    #[arg(long, value_parser = output::duration, value_name = "TIME")]
    wait: Option<Duration>,
}

/// Between two attempts to reach a daemon that is starting.
const AGAIN: Duration = Duration::from_millis(5);

#[derive(Serialize)]
struct Version {
    client: String,
    server: String,
    revision: String,
    uuid: String,
}

async fn ask(global: &Global) -> Result<Version> {
    let client = Client::connect(global).await?;
    let (mut version, mut introspection) = (client.version(), client.introspection());
    let (version, server) = tokio::try_join!(version.version(()), introspection.server(()))?;
    let (version, server) = (version.into_inner(), server.into_inner());
    Ok(Version {
        client: env!("CARGO_PKG_VERSION").to_owned(),
        server: version.version,
        revision: version.revision,
        uuid: server.uuid,
    })
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let begun = Instant::now();
    let wait = args.wait.unwrap_or_default();
    let version = loop {
        match ask(&global).await {
            Ok(version) => break version,
            Err(error) if begun.elapsed() >= wait => {
                return Err(if wait.is_zero() {
                    error
                } else {
                    anyhow!("no answer within {wait:?}: {}", output::error(&error))
                });
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    };
    match &global.format {
        output::Format::Table => output::print(&format!(
            "Client: windlass {}\nServer: {} {}\nUUID:   {}\n",
            version.client,
            output::safe(&version.server),
            output::safe(&version.revision),
            output::safe(&version.uuid)
        ))?,
        format => output::object(format, &version)?,
    }
    Ok(ExitCode::SUCCESS)
}
