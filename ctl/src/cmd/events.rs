//! `windlass events`

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use windlass_api::convert::any::name;
use windlass_api::services::events::SubscribeRequest;
use windlass_api::types::Envelope;

use crate::client::{Client, Global};
use crate::json;
use crate::output::{self, Format};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  windlass events
  windlass events --filter 'topic~=^/tasks/' --format json
  windlass events --filter 'topic==/tasks/exit,event.container_id==web'

Fields for --format: timestamp namespace topic type event")]
pub struct Args {
    /// Only those that match; several are alternatives
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,
    /// Filters, like --filter
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Of every namespace, not the one alone
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

fn value(envelope: Envelope) -> Value {
    let event = envelope.event.unwrap_or_default();
    json!({
        "timestamp": output::rfc3339(envelope.timestamp.as_ref()),
        "namespace": envelope.namespace,
        "topic": envelope.topic,
        "type": name(&event.type_url),
        "event": json::any(&event),
    })
}

/// Restricts filters to a namespace.
fn filters(args: &Args, namespace: &str) -> Vec<String> {
    let all: Vec<_> = args.filter.iter().chain(&args.filters).cloned().collect();
    if args.all_namespaces {
        return all;
    }
    let here = format!("namespace=={namespace}");
    if all.is_empty() { vec![here] } else { all.iter().map(|f| format!("{here},{f}")).collect() }
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    let filters = filters(&args, &global.namespace);
    let mut stream = client.events().subscribe(SubscribeRequest { filters }).await?.into_inner();
    while let Some(envelope) = stream.message().await? {
        let value = value(envelope);
        match &global.format {
            Format::Table => {
                let text = |key: &str| output::safe(value[key].as_str().unwrap_or_default());
                let event = output::compact(&value["event"])?;
                output::print(&format!(
                    "{} {} {} {event}",
                    text("timestamp"),
                    text("namespace"),
                    text("topic")
                ))?;
            }
            format => output::object(format, &value)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_stay_in_the_namespace() {
        let args =
            |all_namespaces| Args { filter: vec!["a==b".into()], filters: vec!["c".into()], all_namespaces };
        assert_eq!(filters(&args(false), "n"), ["namespace==n,a==b", "namespace==n,c"]);
        assert_eq!(filters(&args(true), "n"), ["a==b", "c"]);
    }
}
