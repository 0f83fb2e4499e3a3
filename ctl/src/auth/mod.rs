//! Registry credentials: answered over a transfer's stream from the command line, Docker's config.json and its
//! credential helpers. A secret is never printed and goes only to the host that it is kept for.

mod config;
mod helper;

use anyhow::{Result, ensure};
use windlass_api::transfer::{AuthRequest, AuthResponse, AuthType};

pub use config::{Docker, erase, path as config_path, store};

use crate::output;
use crate::run::terminal;
use crate::stream::{Stream, pack, unpack};

/// What a registry takes.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        username: String,
        secret: String,
    },
    /// An identity token: exchanged for access tokens.
    Identity(String),
    /// Goes into requests as it is.
    Bearer(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, ***)"),
            Self::Identity(_) => f.write_str("Identity(***)"),
            Self::Bearer(_) => f.write_str("Bearer(***)"),
        }
    }
}

/// The name under which a host's credentials are kept: Docker Hub has several names, and people type schemes and paths.
pub fn normalized(host: &str) -> &str {
    let host = host.strip_prefix("https://").or_else(|| host.strip_prefix("http://")).unwrap_or(host);
    let host = host.split('/').next().unwrap_or(host);
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// Registries that credentials are kept for, and the helpers that keep them.
pub fn known() -> Result<Vec<String>> {
    Ok(Docker::load()?.known())
}

/// Knows credentials for the registries of one transfer.
pub struct Keeper {
    /// Host and credentials from the command line.
    given: Option<(String, Credentials)>,
    docker: Docker,
}

impl Keeper {
    /// `None` where nothing is known at all. Asks for a password where only a name was given.
    pub fn new(user: Option<&str>, reference: &str) -> Result<Option<Self>> {
        let host = normalized(reference.split('/').next().unwrap_or_default()).to_owned();
        let given = user.map(|user| credentials(user, &host)).transpose()?.map(|c| (host, c));
        let docker = Docker::load()?;
        Ok((given.is_some() || !docker.is_empty()).then_some(Self { given, docker }))
    }

    async fn get(&self, host: &str) -> Result<Option<Credentials>> {
        match &self.given {
            // Those that were typed are for the registry that was typed, and for no other.
            Some((of, credentials)) if of == normalized(host) => Ok(Some(credentials.clone())),
            _ => self.docker.get(host).await,
        }
    }
}

/// `NAME:PASSWORD`, or `NAME` and a question.
fn credentials(user: &str, host: &str) -> Result<Credentials> {
    let (username, secret) = match user.split_once(':') {
        Some((username, secret)) => (username.to_owned(), secret.to_owned()),
        None => (user.to_owned(), terminal::ask_secret(&format!("Password of {user} at {host}: "))?),
    };
    ensure!(!username.is_empty() && !secret.is_empty(), "a user's name and password must not be empty");
    Ok(Credentials::Basic { username, secret })
}

fn response(credentials: Option<Credentials>) -> AuthResponse {
    let mut response = AuthResponse::default();
    match credentials {
        None => response.set_auth_type(AuthType::None),
        Some(Credentials::Basic { username, secret }) => {
            response.set_auth_type(AuthType::Credentials);
            response.username = username;
            response.secret = secret;
        }
        Some(Credentials::Identity(token)) => {
            response.set_auth_type(AuthType::Refresh);
            response.secret = token;
        }
        Some(Credentials::Bearer(token)) => {
            response.set_auth_type(AuthType::Header);
            response.secret = format!("Bearer {token}");
        }
    }
    response
}

/// Answers a transfer's questions until it ends. A helper that fails is told to the person, and the registry asked
/// without credentials: its own error says the rest.
pub async fn answer(mut stream: Stream, keeper: Keeper) {
    while let Ok(Some(message)) = stream.receiver.message().await {
        let Some(request) = unpack::<AuthRequest>(&message) else { continue };
        let credentials = match keeper.get(&request.host).await {
            Ok(credentials) => credentials,
            Err(error) => {
                output::warn(&format!(
                    "credentials for {}: {}",
                    output::safe(&request.host),
                    output::error(&error)
                ));
                None
            }
        };
        if stream.sender.send(pack(&response(credentials))).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_name() {
        for name in ["docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
            assert_eq!(normalized(name), "docker.io");
        }
        assert_eq!(normalized("http://127.0.0.1:5000/v2/"), "127.0.0.1:5000");
        assert_eq!(normalized("ghcr.io"), "ghcr.io");
    }

    #[tokio::test]
    async fn typed_credentials_go_to_the_typed_registry_only() {
        let given = credentials("me:p:w", "a.example").unwrap();
        let keeper = Keeper { given: Some(("a.example".into(), given.clone())), docker: Docker::default() };
        assert_eq!(keeper.get("a.example").await.unwrap(), Some(given));
        assert_eq!(keeper.get("b.example").await.unwrap(), None);
        assert!(credentials(":x", "h").is_err() && credentials("x:", "h").is_err());
    }

    #[test]
    fn answers_carry_their_kind_and_hide_their_secret() {
        let basic = Credentials::Basic { username: "me".into(), secret: "hunter2".into() };
        assert!(!format!("{basic:?}").contains("hunter2"));
        let sent = response(Some(basic));
        assert_eq!((sent.auth_type(), sent.secret.as_str()), (AuthType::Credentials, "hunter2"));
        assert_eq!(response(Some(Credentials::Identity("t".into()))).auth_type(), AuthType::Refresh);
        assert_eq!(response(Some(Credentials::Bearer("t".into()))).secret, "Bearer t");
        assert_eq!(response(None).auth_type(), AuthType::None);
    }
}
