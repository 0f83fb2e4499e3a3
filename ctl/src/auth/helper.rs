//! Docker's credential helpers: `docker-credential-<name> get|store|erase`, one question on standard input, JSON back.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::Credentials;

/// Longest that a helper may take: it may ask a person or a cloud.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest answer.
const LIMIT: u64 = 1 << 20;
/// How helpers say that they know nothing.
const NOT_FOUND: [&str; 2] = ["credentials not found", "The specified item could not be found"];
/// User name that marks an identity token.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

struct Said {
    ok: bool,
    text: Vec<u8>,
}

async fn ask(name: &str, verb: &str, input: &str) -> Result<Said> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    ensure!(plain, "{name:?} is no name of a credential helper");
    let program = format!("docker-credential-{name}");
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("run {program} (config.json names it)"))?;
    let mut stdin = child.stdin.take().context("a helper has a standard input")?;
    let stdout = child.stdout.take().context("a helper has a standard output")?;
    let talk = async {
        // A helper may answer without reading.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let mut text = Vec::new();
        stdout.take(LIMIT).read_to_end(&mut text).await?;
        let status = child.wait().await?;
        Ok::<_, std::io::Error>(Said { ok: status.success(), text })
    };
    let said = tokio::time::timeout(PATIENCE, talk).await;
    said.with_context(|| format!("{program} does not answer within {} s", PATIENCE.as_secs()))?
        .with_context(|| format!("run {program}"))
}

fn failed(name: &str, verb: &str, said: &Said) -> anyhow::Error {
    // An error's text is a message for people; an answer's would be a secret.
    let text: String = String::from_utf8_lossy(&said.text).trim().chars().take(300).collect();
    anyhow::anyhow!("docker-credential-{name} {verb} failed: {text}")
}

/// Credentials that a helper keeps; `None` where it knows none.
pub async fn get(name: &str, server: &str) -> Result<Option<Credentials>> {
    let said = ask(name, "get", server).await?;
    if !said.ok {
        let text = String::from_utf8_lossy(&said.text);
        if NOT_FOUND.iter().any(|n| text.contains(n)) {
            return Ok(None);
        }
        return Err(failed(name, "get", &said));
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(&said.text) else {
        bail!("docker-credential-{name} get: the answer is not JSON with Username and Secret");
    };
    Ok(match answer {
        Answer { username, secret } if username.is_empty() && secret.is_empty() => None,
        Answer { username, secret } if username == TOKEN => Some(Credentials::Identity(secret)),
        Answer { username, secret } => Some(Credentials::Basic { username, secret }),
    })
}

pub async fn store(name: &str, server: &str, username: &str, secret: &str) -> Result<()> {
    let input = serde_json::json!({"ServerURL": server, "Username": username, "Secret": secret});
    let said = ask(name, "store", &input.to_string()).await?;
    if said.ok { Ok(()) } else { Err(failed(name, "store", &said)) }
}

pub async fn erase(name: &str, server: &str) -> Result<()> {
    let said = ask(name, "erase", server).await?;
    let unknown = NOT_FOUND.iter().any(|n| String::from_utf8_lossy(&said.text).contains(n));
    if said.ok || unknown { Ok(()) } else { Err(failed(name, "erase", &said)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_that_are_paths_are_refused() {
        for name in ["", "../x", "a/b", "a b", "$(x)"] {
            assert!(ask(name, "get", "x").await.is_err(), "{name}");
        }
        let error = format!("{:#}", get("windlass-no-such-helper", "x").await.unwrap_err());
        assert!(error.contains("docker-credential-windlass-no-such-helper"), "{error}");
    }
}
