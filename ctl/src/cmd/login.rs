//! `windlass login`

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::client::Global;
use crate::run::terminal;
use crate::{auth, output};

/// Longest password.
const LIMIT: u64 = 64 << 10;

#[derive(clap::Args)]
#[command(after_help = "\
Credentials are kept where Docker keeps them: at the credential helper that config.json names for the registry, else in
config.json itself. They are tried at the next pull or push, not now.

Example:
  echo \"$TOKEN\" | windlass login -u me --password-stdin ghcr.io")]
pub struct Args {
    /// Registry
    #[arg(default_value = "docker.io")]
    host: String,
    /// User
    #[arg(long, short)]
    username: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

pub async fn run(_: Global, args: Args) -> Result<ExitCode> {
    let host = auth::normalized(&args.host);
    ensure!(!host.is_empty() && !host.contains(char::is_whitespace), "{:?} is no registry", args.host);
    let secret = if args.password_stdin {
        let mut text = String::new();
        std::io::stdin().take(LIMIT).read_to_string(&mut text).context("read the password")?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        terminal::ask_secret(&format!("Password of {} at {host}: ", args.username))?
    };
    ensure!(!secret.is_empty(), "the password is empty");
    ensure!(!args.username.is_empty() && !args.username.contains(':'), "a user's name has no colon");
    let path = auth::config_path().context("no home directory: set DOCKER_CONFIG")?;
    let at = auth::store(&path, host, &args.username, &secret).await?;
    output::note(&format!("credentials for {host} are kept in {at}"));
    Ok(ExitCode::SUCCESS)
}
