//! One file per subcommand: its arguments and what it does.

pub mod attach;
pub mod completion;
pub mod config;
pub mod content;
pub mod cp;
pub mod create;
pub mod events;
pub mod exec;
pub mod export;
pub mod images;
pub mod import;
pub mod info;
pub mod inspect;
pub mod kill;
pub mod leases;
pub mod login;
pub mod logout;
pub mod logs;
pub mod man;
pub mod ns;
pub mod pause;
pub mod plugins;
pub mod ps;
pub mod pull;
pub mod push;
pub mod restart;
pub mod resume;
pub mod rm;
pub mod rmi;
pub mod run;
pub mod snapshots;
pub mod start;
pub mod stats;
pub mod stop;
pub mod tag;
pub mod top;
pub mod version;
pub mod wait;

use std::process::ExitCode;

use anyhow::Result;

use crate::output;

/// Acts on each name in turn and prints what it answers; one that fails does not keep the others from it.
pub async fn each(names: &[String], act: impl AsyncFn(&str) -> Result<String>) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match act(name).await {
            Ok(text) => output::print(&format!("{text}\n"))?,
            Err(error) if error.is::<output::Gone>() || error.is::<output::Interrupted>() => {
                return Err(error);
            }
            Err(error) => {
                let text = output::error(&error);
                // Most errors name what they are about.
                let named =
                    if text.contains(name) { text } else { format!("{}: {text}", output::safe(name)) };
                output::warn(&named);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
