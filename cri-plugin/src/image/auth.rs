//! Credentials: what the kubelet sends along with a pull, or the configuration has for a host. They are answered to the
//! host that they are for, and to no other.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use windlass_api::cri;
use windlass_core::transfer::{AuthRequest, Authenticator, Credentials};
use windlass_core::{Error, Result};

use super::config::{HostAuth, RegistryConfig};

/// The names that Docker Hub goes by.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// Longest secret, in bytes: it goes into a header.
const MAX_SECRET: usize = 64 << 10;

/// Answers one pull's questions for credentials.
pub struct Authentication {
    /// Of the request, with the host that they are for; any host that serves the image where none is named.
    given: Option<(Option<String>, Credentials)>,
    configured: BTreeMap<String, Credentials>,
}

impl Authentication {
    /// *Invalid argument* where what was sent cannot be read.
    pub fn new(given: Option<&cri::AuthConfig>, config: &RegistryConfig) -> Result<Self> {
        let given = match given {
            None => None,
            Some(auth) => {
                let host = Some(auth.server_address.as_str()).filter(|a| !a.is_empty()).map(host_of);
                Some((host.map(str::to_owned), credentials(auth)?))
            }
        };
        let mut configured = BTreeMap::new();
        let hosts = config.configs.iter().filter_map(|(host, c)| Some((host, c.auth.as_ref()?)));
        for (host, auth) in hosts.chain(&config.auths) {
            configured.insert(host_of(host).to_owned(), credentials(&wire(auth))?);
        }
        Ok(Self { given, configured })
    }

    fn answer(&self, host: &str) -> Credentials {
        match &self.given {
            Some((Some(named), _)) if !same_host(named, host) => Credentials::None,
            Some((_, credentials)) => credentials.clone(),
            None => {
                let found = self.configured.iter().find(|(named, _)| same_host(named, host));
                found.map_or(Credentials::None, |(_, credentials)| credentials.clone())
            }
        }
    }
}

#[async_trait]
impl Authenticator for Authentication {
    async fn credentials(&self, request: AuthRequest) -> Result<Credentials> {
        Ok(self.answer(&request.host))
    }
}

fn wire(auth: &HostAuth) -> cri::AuthConfig {
    cri::AuthConfig {
        username: auth.username.clone(),
        password: auth.password.clone(),
        auth: auth.auth.clone(),
        identity_token: auth.identitytoken.clone(),
        ..Default::default()
    }
}

/// `https://user@host:port/path` → `host:port`; a bare host stays as it is.
pub fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

fn same_host(named: &str, host: &str) -> bool {
    let hub = |h: &str| HUB.iter().any(|name| h.eq_ignore_ascii_case(name));
    named.eq_ignore_ascii_case(host) || (hub(named) && hub(host))
}

fn credentials(auth: &cri::AuthConfig) -> Result<Credentials> {
    for secret in [&auth.username, &auth.password, &auth.auth, &auth.identity_token, &auth.registry_token] {
        if secret.len() > MAX_SECRET {
            return Err(Error::invalid(format!("credentials of more than {MAX_SECRET} bytes")));
        }
    }
    if !auth.username.is_empty() {
        return Ok(Credentials::Basic { username: auth.username.clone(), secret: auth.password.clone() });
    }
    if !auth.identity_token.is_empty() {
        return Ok(Credentials::Refresh { secret: auth.identity_token.clone() });
    }
    if !auth.auth.is_empty() {
        return decoded(&auth.auth);
    }
    if !auth.registry_token.is_empty() {
        let value = format!("Bearer {}", auth.registry_token);
        return Ok(Credentials::Header { value, expire_at: None });
    }
    // Nothing at all is fine: the registry may be open to everybody.
    Ok(Credentials::None)
}

/// `user:password` in base64. What it holds is in no message.
fn decoded(auth: &str) -> Result<Credentials> {
    let bad = |why: &str| Error::invalid(format!("auth of the image pull's credentials {why}"));
    let bytes = STANDARD.decode(auth.trim()).map_err(|_| bad("is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("is not text"))?;
    let (user, secret) = text.split_once(':').ok_or_else(|| bad("is not of the form user:password"))?;
    let secret = secret.trim_matches('\0').to_owned();
    Ok(match user {
        "" if secret.is_empty() => Credentials::None,
        "" => Credentials::Refresh { secret },
        user => Credentials::Basic { username: user.to_owned(), secret },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, secret: &str) -> Credentials {
        Credentials::Basic { username: user.into(), secret: secret.into() }
    }

    fn given(auth: cri::AuthConfig) -> Authentication {
        Authentication::new(Some(&auth), &RegistryConfig::default()).unwrap()
    }

    #[test]
    fn every_form_of_credentials_is_read() {
        let auth = |f: fn(&mut cri::AuthConfig)| {
            let mut auth = cri::AuthConfig::default();
            f(&mut auth);
            given(auth).answer("reg:5000")
        };
        assert_eq!(auth(|a| (a.username, a.password) = ("u".into(), "p".into())), basic("u", "p"));
        assert_eq!(auth(|a| a.auth = STANDARD.encode("u:p:q\0")), basic("u", "p:q"));
        assert_eq!(auth(|a| a.identity_token = "t".into()), Credentials::Refresh { secret: "t".into() });
        assert_eq!(auth(|a| a.auth = STANDARD.encode(":t")), Credentials::Refresh { secret: "t".into() });
        let header = Credentials::Header { value: "Bearer t".into(), expire_at: None };
        assert_eq!(auth(|a| a.registry_token = "t".into()), header);
        assert_eq!(auth(|_| ()), Credentials::None);
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_being_told() {
        for bad in ["%%%", "dXNlcg==", "//79"] {
            let auth = cri::AuthConfig { auth: bad.into(), ..Default::default() };
            let error = Authentication::new(Some(&auth), &RegistryConfig::default()).err().unwrap();
            assert!(!error.chain().contains("user\""), "{}", error.chain());
        }
        let auth = cri::AuthConfig { password: "x".repeat(MAX_SECRET + 1), ..Default::default() };
        assert!(Authentication::new(Some(&auth), &RegistryConfig::default()).is_err());
    }

    #[test]
    fn credentials_are_for_the_host_they_name() {
        for (address, host, goes) in [
            ("https://reg:5000/v2/", "reg:5000", true),
            ("reg:5000", "reg:5000", true),
            ("https://reg:5000", "reg:5001", false),
            ("https://reg", "reg.evil.io", false),
            ("https://evil.io/reg:5000", "reg:5000", false),
            ("https://reg:5000@evil.io", "reg:5000", false),
            ("https://index.docker.io/v1/", "registry-1.docker.io", true),
            ("", "any", true),
        ] {
            let auth = cri::AuthConfig {
                username: "u".into(),
                password: "p".into(),
                server_address: address.into(),
                ..Default::default()
            };
            let want = if goes { basic("u", "p") } else { Credentials::None };
            assert_eq!(given(auth).answer(host), want, "{address} {host}");
        }
    }

    #[test]
    fn the_configuration_fills_in_where_nothing_was_sent() {
        let config: RegistryConfig = toml::from_str(
            "[configs.\"reg:1\".auth]\nusername = 'c'\n[auths.\"https://reg:2/v2\"]\nidentitytoken = 'a'",
        )
        .unwrap();
        let auth = Authentication::new(None, &config).unwrap();
        assert_eq!(auth.answer("reg:1"), basic("c", ""));
        assert_eq!(auth.answer("reg:2"), Credentials::Refresh { secret: "a".into() });
        assert_eq!(auth.answer("reg:3"), Credentials::None);
        let sent = cri::AuthConfig { username: "s".into(), ..Default::default() };
        assert_eq!(Authentication::new(Some(&sent), &config).unwrap().answer("reg:1"), basic("s", ""));
    }
}
