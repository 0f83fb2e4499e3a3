//! `windlass ns`

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use tonic::Code;
use windlass_api::services::namespaces::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest, Namespace,
    UpdateNamespaceRequest,
};

use super::each;
use crate::client::{Client, Global};
use crate::names;
use crate::output::{self, Remedy};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List namespaces
    #[command(visible_alias = "list")]
    Ls {
        /// Print only names
        #[arg(long, short)]
        quiet: bool,
    },
    /// Create a namespace
    Create {
        /// Name
        name: String,
        /// Labels: key=value
        labels: Vec<String>,
    },
    /// Remove namespaces, which must be empty
    #[command(visible_alias = "remove")]
    Rm {
        /// Namespaces
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Set labels of a namespace; "key=" removes one
    Label {
        /// Name
        name: String,
        /// Labels: key=value
        #[arg(required = true)]
        labels: Vec<String>,
    },
}

#[derive(Serialize)]
struct Row {
    name: String,
    labels: BTreeMap<String, String>,
    text: String,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    match args.command {
        Command::Ls { quiet } => list(&client, &global, quiet).await,
        Command::Create { name, labels } => {
            let namespace = Namespace { name: name.clone(), labels: names::pairs("label", &labels)? };
            client.namespaces().create(CreateNamespaceRequest { namespace: Some(namespace) }).await?;
            output::print(&format!("{name}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Rm { names } => {
            each(&names, async |name| {
                client
                    .namespaces()
                    .delete(DeleteNamespaceRequest { name: name.to_owned() })
                    .await
                    .remedy_for(
                        Code::FailedPrecondition,
                        format!("empty it first: windlass -n {name} rm --all, rmi --all"),
                    )?;
                Ok(name.to_owned())
            })
            .await
        }
        Command::Label { name, labels } => {
            let labels: BTreeMap<String, String> = names::pairs("label", &labels)?;
            client.namespaces().get(GetNamespaceRequest { name: name.clone() }).await?;
            let paths = labels.keys().map(|k| format!("labels.{k}")).collect();
            let namespace = Namespace { name, labels };
            let update_mask = Some(windlass_api::FieldMask { paths });
            client
                .namespaces()
                .update(UpdateNamespaceRequest { namespace: Some(namespace), update_mask })
                .await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(client: &Client, global: &Global, quiet: bool) -> Result<ExitCode> {
    let namespaces =
        client.namespaces().list(ListNamespacesRequest::default()).await?.into_inner().namespaces;
    let rows: Vec<_> = namespaces
        .into_iter()
        .map(|n| {
            let labels: BTreeMap<_, _> = n.labels.into_iter().collect();
            let text = labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
            Row { name: n.name, labels, text }
        })
        .collect();
    if quiet {
        output::print(&rows.iter().map(|r| format!("{}\n", r.name)).collect::<String>())?;
    } else {
        output::rows(&global.format, &[("NAMESPACE", "name"), ("LABELS", "text")], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
