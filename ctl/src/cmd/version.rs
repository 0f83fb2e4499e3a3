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
    #[arg(long, value_parser = duration)]
    wait: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let number: f64 = number.parse().map_err(|_| "a number with ms, s or m expected".to_owned())?;
    let factor = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err("the units are ms, s and m".to_owned()),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|e| e.to_string())
}

#[derive(Serialize)]
struct Version {
    client: String,
    server: String,
    revision: String,
    uuid: String,
}

async fn ask(global: &Global) -> Result<Version> {
    let client = Client::connect(global).await?;
    let version = client.version().version(()).await?.into_inner();
    let server = client.introspection().server(()).await?.into_inner();
    Ok(Version {
        client: env!("CARGO_PKG_VERSION").to_owned(),
        server: version.version,
        revision: version.revision,
        uuid: server.uuid,
    })
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let begun = Instant::now();
    let version = loop {
        match ask(&global).await {
            Ok(version) => break version,
            Err(error) => {
                let wait = args.wait.unwrap_or_default();
                if begun.elapsed() >= wait {
                    return Err(if wait.is_zero() { error } else { anyhow!(error).context(format!("no answer within {wait:?}")) });
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
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
