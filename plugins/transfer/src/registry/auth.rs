//! Authorization at one host: what it asks for, what the client's authenticator answers, tokens by scope.
//!
//! Credentials go to the host that asked for them and to the token server that it names, nowhere else; a password is
//! never sent in clear text on behalf of a host that is reached by HTTPS.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use serde::Deserialize;
use tokio::sync::Mutex;
use windlass_core::transfer::{AuthRequest, Authenticator, Credentials};

use super::error::{Error, Result};
use super::http::{Origin, Response, Transport, shown};
use super::request::{full, user_agent};

/// Largest answer of a token server, in bytes.
const MAX_TOKEN: u64 = 1 << 20;
/// Tokens are not used in their last seconds.
const MARGIN: Duration = Duration::from_secs(5);
const CLIENT_ID: &str = "containerd-client";

/// Answers one host's challenges.
pub struct Authorizer {
    authenticator: Option<Arc<dyn Authenticator>>,
    reference: String,
    headers: HeaderMap,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    scheme: Option<Scheme>,
    tokens: HashMap<String, Token>,
}

enum Scheme {
    Fixed(HeaderValue),
    Bearer { realm: Uri, service: String, scopes: Vec<String>, credentials: Credentials },
}

struct Token {
    value: HeaderValue,
    until: Option<Instant>,
}

/// One `WWW-Authenticate` header taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

impl Authorizer {
    /// `headers` go to the token server as well.
    pub fn new(authenticator: Option<Arc<dyn Authenticator>>, reference: &str, headers: HeaderMap) -> Self {
        Self { authenticator, reference: reference.to_owned(), headers, state: Mutex::default() }
    }

    /// The Authorization header for a request that needs `scopes`; none before the host has asked.
    pub async fn header(&self, transport: &Arc<Transport>, scopes: &[String]) -> Result<Option<HeaderValue>> {
        let mut state = self.state.lock().await;
        let (realm, service, common, credentials) = match &state.scheme {
            None => return Ok(None),
            Some(Scheme::Fixed(value)) => return Ok(Some(value.clone())),
            Some(Scheme::Bearer { realm, service, scopes, credentials }) => {
                (realm.clone(), service.clone(), scopes.clone(), credentials.clone())
            }
        };
        let all: BTreeSet<&str> = scopes.iter().chain(&common).map(String::as_str).collect();
        let key = all.iter().copied().collect::<Vec<_>>().join(" ");
        if let Some(token) = state.tokens.get(&key).filter(|t| t.until.is_none_or(|u| u > Instant::now())) {
            return Ok(Some(token.value.clone()));
        }
        // One fetch at a time: the lock is held, the others find the token.
        let token = self.fetch(transport, &realm, &service, &all, &credentials).await?;
        let value = token.value.clone();
        state.tokens.insert(key, token);
        Ok(Some(value))
    }

    /// Takes up a 401. `true`: the request may be tried again.
    pub async fn challenged(&self, origin: &Origin, response: &HeaderMap, again: bool) -> Result<bool> {
        let raw: Vec<String> = response
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok().map(str::to_owned))
            .collect();
        let mut challenges: Vec<Challenge> = raw.iter().filter_map(|h| parse(h)).collect();
        challenges.sort_by_key(|c| c.scheme != "bearer");
        let host = origin.authority();
        let refused = |why: String| Error::Unauthorized { host: host.clone(), why };
        let mut state = self.state.lock().await;
        for challenge in challenges {
            match challenge.scheme.as_str() {
                "bearer" => {
                    let said = challenge.parameters.get("error").cloned().unwrap_or_default();
                    if again {
                        state.scheme = None;
                        let why = if said.is_empty() { "the token was not accepted".into() } else { said };
                        return Err(refused(why));
                    }
                    if !said.is_empty() {
                        state.tokens.clear();
                        state.scheme = None;
                    }
                    if state.scheme.is_none() {
                        state.scheme = Some(self.bearer(origin, &challenge, &raw).await?);
                    }
                    return Ok(true);
                }
                "basic" => {
                    if again {
                        return Err(refused("user name or password was not accepted".into()));
                    }
                    state.scheme = Some(match self.ask(&host, &raw).await? {
                        Credentials::Basic { username, secret }
                            if !username.is_empty() && !secret.is_empty() =>
                        {
                            Scheme::Fixed(basic(&username, &secret))
                        }
                        Credentials::Header { value, .. } => Scheme::Fixed(fixed(&value)?),
                        _ => return Err(refused("no basic auth credentials".into())),
                    });
                    return Ok(true);
                }
                _ => {}
            }
        }
        Ok(false)
    }

    async fn ask(&self, host: &str, www_authenticate: &[String]) -> Result<Credentials> {
        let Some(authenticator) = &self.authenticator else { return Ok(Credentials::None) };
        let request = AuthRequest {
            host: host.to_owned(),
            reference: self.reference.clone(),
            www_authenticate: www_authenticate.to_vec(),
        };
        Ok(authenticator.credentials(request).await?)
    }

    async fn bearer(&self, origin: &Origin, challenge: &Challenge, raw: &[String]) -> Result<Scheme> {
        let refused = |why: &str| Error::Unauthorized { host: origin.authority(), why: why.to_owned() };
        let realm =
            challenge.parameters.get("realm").ok_or_else(|| refused("a token challenge without realm"))?;
        let realm: Uri = realm.parse().map_err(|_| refused("the token challenge's realm is no URL"))?;
        let to = Origin::of(&realm)?;
        let credentials = self.ask(&origin.authority(), raw).await?;
        if let Credentials::Header { value, .. } = &credentials {
            return Ok(Scheme::Fixed(fixed(value)?));
        }
        if origin.secure && !to.secure && credentials != Credentials::None {
            return Err(refused("the token server is reached by plain HTTP only: no password is sent there"));
        }
        let scopes = challenge
            .parameters
            .get("scope")
            .map_or_else(Vec::new, |s| s.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect());
        let service = challenge.parameters.get("service").cloned().unwrap_or_default();
        Ok(Scheme::Bearer { realm, service, scopes, credentials })
    }

    async fn fetch(
        &self,
        transport: &Arc<Transport>,
        realm: &Uri,
        service: &str,
        scopes: &BTreeSet<&str>,
        credentials: &Credentials,
    ) -> Result<Token> {
        let (username, secret) = match credentials {
            Credentials::Basic { username, secret } => (username.as_str(), secret.as_str()),
            Credentials::Refresh { secret } => ("", secret.as_str()),
            _ => ("", ""),
        };
        if !secret.is_empty() {
            let response = self.post(transport, realm, service, scopes, username, secret).await?;
            let status = response.status.as_u16();
            let unsupported = matches!(status, 400 | 401 | 404) || (status == 405 && !username.is_empty());
            if !unsupported {
                return token(response).await;
            }
            // Servers without the POST form answer so; the older GET form is tried.
            response.drain().await;
        }
        token(self.get(transport, realm, service, scopes, username, secret).await?).await
    }

    fn base(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.remove(header::AUTHORIZATION);
        headers.entry(header::USER_AGENT).or_insert_with(user_agent);
        headers
    }

    async fn post(
        &self,
        transport: &Arc<Transport>,
        realm: &Uri,
        service: &str,
        scopes: &BTreeSet<&str>,
        username: &str,
        secret: &str,
    ) -> Result<Response> {
        let scope = scopes.iter().copied().collect::<Vec<_>>().join(" ");
        let mut form = vec![("service", service), ("client_id", CLIENT_ID)];
        if !scope.is_empty() {
            form.push(("scope", &scope));
        }
        if username.is_empty() {
            form.extend([("grant_type", "refresh_token"), ("refresh_token", secret)]);
        } else {
            form.extend([("grant_type", "password"), ("username", username), ("password", secret)]);
        }
        let mut headers = self.base();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, kind);
        let body = encoded(&form).into_bytes();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        transport.send(&Method::POST, realm, &headers, full(body.into()), true).await
    }

    async fn get(
        &self,
        transport: &Arc<Transport>,
        realm: &Uri,
        service: &str,
        scopes: &BTreeSet<&str>,
        username: &str,
        secret: &str,
    ) -> Result<Response> {
        let mut query: Vec<(&str, &str)> = scopes.iter().map(|s| ("scope", *s)).collect();
        if !service.is_empty() {
            query.insert(0, ("service", service));
        }
        let mut headers = self.base();
        if !secret.is_empty() {
            headers.insert(header::AUTHORIZATION, basic(username, secret));
        }
        let text = realm.to_string();
        let sign = if realm.query().is_some() { '&' } else { '?' };
        let url: Uri = format!("{text}{sign}{}", encoded(&query))
            .parse()
            .map_err(|_| Error::Config(format!("{}: bad token request", shown(realm))))?;
        transport.send(&Method::GET, &url, &headers, full(bytes::Bytes::new()), true).await
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

async fn token(response: Response) -> Result<Token> {
    let url = shown(&response.url);
    let status = response.status;
    let body = response.collect(MAX_TOKEN).await?;
    if !status.is_success() {
        let why = format!("token server {url} says {status}{}", super::error::detail(&body));
        return Err(Error::Unauthorized { host: url, why });
    }
    let bad = |why: &str| Error::Unauthorized { host: url.clone(), why: why.to_owned() };
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| bad("unable to decode token response"))?;
    let token = answer
        .access_token
        .filter(|t| !t.is_empty())
        .or(answer.token)
        .filter(|t| !t.is_empty())
        .ok_or_else(|| bad("authorization server did not include a token in the response"))?;
    let until = answer
        .expires_in
        .filter(|s| *s > 0)
        .map(|s| Instant::now() + Duration::from_secs(s.min(24 * 3600)).saturating_sub(MARGIN));
    Ok(Token { value: fixed(&format!("Bearer {token}"))?, until })
}

fn fixed(value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::Config("credentials hold characters that cannot stand in a header".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(username: &str, secret: &str) -> HeaderValue {
    fixed(&format!("Basic {}", STANDARD.encode(format!("{username}:{secret}")))).expect("base64 is ASCII")
}

/// `application/x-www-form-urlencoded`.
pub fn encoded(pairs: &[(&str, &str)]) -> String {
    let part = |out: &mut String, text: &str| {
        for b in text.bytes() {
            match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(b))
                }
                _ => out.push_str(&format!("%{b:02X}")),
            }
        }
    };
    let mut out = String::new();
    for (key, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        part(&mut out, key);
        out.push('=');
        part(&mut out, value);
    }
    out
}

/// RFC 9110: scheme and parameters, values as tokens or quoted.
fn parse(header: &str) -> Option<Challenge> {
    let (scheme, mut rest) = token_of(header.trim_start());
    if scheme.is_empty() {
        return None;
    }
    let mut parameters = HashMap::new();
    loop {
        let (key, after) = token_of(rest.trim_start());
        let Some(after) = after.strip_prefix('=').filter(|_| !key.is_empty()) else { break };
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, after) = token_of(after);
                (value.to_owned(), after)
            }
        };
        parameters.insert(key.to_ascii_lowercase(), value);
        let Some(after) = after.trim_start().strip_prefix(',') else { break };
        rest = after;
    }
    Some(Challenge { scheme: scheme.to_ascii_lowercase(), parameters })
}

fn token_of(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_graphic() && !"\"(),/:;<=>?@[]\\{}".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[at + 1..])),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed() {
        let c = parse(r#"Bearer realm="https://a/t?x=1",service="r\"s", scope="repository:a:pull,push""#)
            .unwrap();
        assert_eq!(c.scheme, "bearer");
        assert_eq!(c.parameters["realm"], "https://a/t?x=1");
        assert_eq!(c.parameters["service"], "r\"s");
        assert_eq!(c.parameters["scope"], "repository:a:pull,push");
        assert_eq!(parse("Basic realm=x").unwrap().parameters["realm"], "x");
        assert_eq!(parse(""), None);
        assert_eq!(parse("Bearer realm=\"open"), None);
        assert!(parse("Negotiate").unwrap().parameters.is_empty());
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(encoded(&[("a b", "c/d:e"), ("x", "&=ü")]), "a%20b=c%2Fd%3Ae&x=%26%3D%C3%BC");
    }
}
