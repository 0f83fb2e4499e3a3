//! `windlass resume`

use std::process::ExitCode;

use anyhow::Result;
use tonic::Code;
use windlass_api::services::tasks::ResumeTaskRequest;

use super::each;
use crate::client::{Client, Global};
use crate::output::Remedy;

#[derive(clap::Args)]
pub struct Args {
    /// Containers
    #[arg(required = true)]
    ids: Vec<String>,
}

pub async fn run(global: Global, args: Args) -> Result<ExitCode> {
    let client = Client::connect(&global).await?;
    each(&args.ids, async |id| {
        client
            .tasks()
            .resume(ResumeTaskRequest { container_id: id.to_owned() })
            .await
            .remedy_for(Code::NotFound, "it does not run: windlass ps lists what does")?;
        Ok(id.to_owned())
    })
    .await
}
