//! Records of containers: read, and what their labels say.

use anyhow::{Context as _, Result, bail};
use tonic::Code;
use windlass_api::services::containers::{Container, GetContainerRequest, UpdateContainerRequest};

use super::task;
use crate::client::Client;
use crate::output::{self, Remedy};

pub const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
pub const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Label: the signal that asks the container to end, as containerd names it.
pub const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";
/// Label: exit status of the last task, kept when the task has gone.
pub const EXIT_STATUS: &str = "windlass/exit-status";
/// Label: standard input is wanted.
pub const INTERACTIVE: &str = "windlass/interactive";
/// A container's record.
pub async fn get(client: &Client, id: &str) -> Result<Container> {
    let answer = client
        .containers()
        .get(GetContainerRequest { id: id.to_owned() })
        .await
        .remedy_for(Code::NotFound, format!("windlass -n {} ps -a lists what is there", client.namespace))?;
    match answer.into_inner().container {
        Some(container) => Ok(container),
        None => bail!("container {id}: the daemon's answer is empty"),
    }
}

/// The specification of a record.
pub fn spec_of(record: &Container) -> Result<serde_json::Value> {
    let Some(spec) = &record.spec else { bail!("container {} has no specification", record.id) };
    serde_json::from_slice(&spec.value).with_context(|| format!("specification of {}", record.id))
}

/// Whether a record's process has a terminal.
pub fn has_terminal(record: &Container) -> bool {
    spec_of(record).is_ok_and(|s| s["process"]["terminal"] == true)
}

/// Keeps the exit status of a task that has gone.
pub async fn note_exit(client: &Client, id: &str, status: u32) {
    let labels = [(EXIT_STATUS.to_owned(), status.to_string())].into();
    let container = Container { id: id.to_owned(), labels, ..Default::default() };
    let mask = windlass_api::FieldMask { paths: vec![format!("labels.{EXIT_STATUS}")] };
    // A record that has gone needs no note.
    let _ = client
        .containers()
        .update(UpdateContainerRequest { container: Some(container), update_mask: Some(mask) })
        .await;
}

/// The exit code of an outcome; says what an attached process was left in.
pub fn left(outcome: &task::Outcome, id: &str) -> std::process::ExitCode {
    use task::Outcome;
    match outcome {
        Outcome::Exited(status) => task::exit_code(*status),
        Outcome::Detached => {
            output::note(&format!("detached; {id} runs on: windlass attach {id}"));
            std::process::ExitCode::SUCCESS
        }
        Outcome::Abandoned => {
            output::note(&format!("{id} has not ended and runs on: windlass kill {id}"));
            std::process::ExitCode::from(130)
        }
        Outcome::Unread => std::process::ExitCode::from(output::UNREAD),
    }
}
