//! One request to a registry host: authorization, retries, redirects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};

use super::auth::{Authorizer, encoded};
use super::error::{Error, Result, detail, retried};
use super::hosts::Capabilities;
use super::http::{Body, Origin, Response, Transport, shown};

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Most of an error's body that is read, in bytes.
const MAX_ERROR: u64 = 64 << 10;
const MAX_HEADERS: usize = 64;

/// A host that serves a registry's images.
pub struct Host {
    pub scheme: String,
    pub authority: String,
    /// Root of the API.
    pub path: String,
    pub capabilities: Capabilities,
    pub headers: HeaderMap,
    pub transport: Arc<Transport>,
    /// None: requests go without credentials and a 401 is final.
    pub authorizer: Option<Arc<Authorizer>>,
}

/// Makes the body anew for each try.
pub type MakeBody = Arc<dyn Fn() -> Body + Send + Sync>;

/// What is sent.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    pub url: Uri,
    pub headers: HeaderMap,
    pub body: Option<MakeBody>,
    pub scopes: Vec<String>,
    /// 5xx and broken connections are tried again; else the next host is quicker.
    pub last: bool,
}

pub fn full(data: Bytes) -> Body {
    Full::new(data).map_err(|never| match never {}).boxed_unsync()
}

pub fn user_agent() -> HeaderValue {
    HeaderValue::from_static(concat!("windlass/", env!("CARGO_PKG_VERSION")))
}

/// Headers of configuration; names or values that HTTP does not allow are an error.
pub fn headers(pairs: &[(String, String)]) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    if pairs.len() > MAX_HEADERS {
        return Err(Error::Config(format!("{} headers, at most {MAX_HEADERS}", pairs.len())));
    }
    for (name, value) in pairs {
        let bad = || Error::Config(format!("header {name:?} cannot be sent"));
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        map.append(key, HeaderValue::from_str(value).map_err(|_| bad())?);
    }
    Ok(map)
}

impl Request {
    pub fn new(method: Method, url: Uri, scopes: &[String]) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None, scopes: scopes.to_vec(), last: false }
    }

    pub fn header(mut self, name: HeaderName, value: &str) -> Result<Self> {
        let value =
            HeaderValue::from_str(value).map_err(|_| Error::Config(format!("{name}: bad header value")))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// The last host that is asked.
    pub fn last(mut self, last: bool) -> Self {
        self.last = last;
        self
    }
}

impl Host {
    /// The address of an object: `/v2/<repository>/<rest>`. Mirrors are told whose image it is.
    pub fn url(&self, registry: &str, repository: &str, rest: &str, query: &[(&str, &str)]) -> Result<Uri> {
        let mut pairs = query.to_vec();
        if self.is_mirror(registry) {
            pairs.push(("ns", registry));
        }
        let query = if pairs.is_empty() { String::new() } else { format!("?{}", encoded(&pairs)) };
        let slash = if repository.is_empty() { "" } else { "/" };
        let text =
            format!("{}://{}{}{slash}{repository}/{rest}{query}", self.scheme, self.authority, self.path);
        text.parse().map_err(|_| Error::Config(format!("{text:?} is no URL")))
    }

    fn is_mirror(&self, registry: &str) -> bool {
        registry != self.authority && !(registry == "docker.io" && self.authority == "registry-1.docker.io")
    }

    /// Sends until there is an answer that trying again does not improve. Answers of any status come back, but for a
    /// 401 that credentials could not help.
    pub async fn send(&self, request: &Request) -> Result<Response> {
        let limits = self.transport.limits;
        let mut wait = limits.back_off;
        let mut challenged = false;
        let mut method = request.method.clone();
        let mut tries = 0;
        loop {
            tries += 1;
            let over = tries >= limits.attempts;
            let outcome = self.follow(&method, request, tries > 1 || request.body.is_some()).await;
            let asked = match outcome {
                Ok(response) => match response.status {
                    StatusCode::UNAUTHORIZED => {
                        let Some(authorizer) = &self.authorizer else { return Ok(response) };
                        let origin = Origin::of(&response.url)?;
                        if origin != Origin::of(&request.url)? {
                            // Some other host that a redirect led to: it is told nothing.
                            return Ok(response);
                        }
                        if !authorizer.challenged(&origin, &response.headers, challenged).await? || over {
                            return Ok(response);
                        }
                        challenged = true;
                        response.drain().await;
                        continue;
                    }
                    StatusCode::METHOD_NOT_ALLOWED
                        if method == Method::HEAD && request.url.path().contains("/manifests/") =>
                    {
                        method = Method::GET;
                        continue;
                    }
                    status
                        if retried(status)
                            && !over
                            && (request.last || matches!(status.as_u16(), 408 | 429)) =>
                    {
                        let asked = retry_after(&response);
                        tracing::debug!(url = %shown(&request.url), %status, "registry asks to try again");
                        response.drain().await;
                        asked
                    }
                    _ => return Ok(response),
                },
                Err(error) if error.is_transient() && request.last && !over => {
                    tracing::debug!(url = %shown(&request.url), %error, "request failed, trying again");
                    None
                }
                Err(error) => return Err(error),
            };
            let jittered = wait.mul_f64(0.75 + 0.5 * fraction());
            tokio::time::sleep(asked.unwrap_or(jittered).min(limits.max_back_off)).await;
            wait = (wait * 2).min(limits.max_back_off);
        }
    }

    /// One try, and what redirects make of it. Credentials and configured headers stay with the first origin.
    async fn follow(&self, method: &Method, request: &Request, fresh: bool) -> Result<Response> {
        let mut url = request.url.clone();
        let first = Origin::of(&url)?;
        let mut method = method.clone();
        for _ in 0..=MAX_REDIRECTS {
            let same = Origin::of(&url)? == first;
            let headers = self.headers_for(request, same).await?;
            let body = request.body.as_ref().filter(|_| method == request.method);
            let body = body.map_or_else(|| full(Bytes::new()), |make| make());
            tracing::debug!(%method, url = %shown(&url), "registry request");
            let response = self.transport.send(&method, &url, &headers, body, fresh).await?;
            let to = match response.status.as_u16() {
                301 | 302 | 303 | 307 | 308 => response.header(header::LOCATION).map(str::to_owned),
                _ => None,
            };
            let Some(to) = to else { return Ok(response) };
            if !matches!(response.status.as_u16(), 307 | 308) && !matches!(method, Method::GET | Method::HEAD)
            {
                // As browsers and Go do: what was posted is fetched.
                method = Method::GET;
            }
            let next = self.transport.canonical(resolve(&url, &to)?, &request.url);
            response.drain().await;
            url = next;
        }
        Err(Error::Answer {
            url: shown(&request.url),
            why: format!("stopped after {MAX_REDIRECTS} redirects"),
        })
    }

    async fn headers_for(&self, request: &Request, same: bool) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        if same {
            headers = self.headers.clone();
            if let Some(authorizer) = &self.authorizer
                && let Some(value) = authorizer.header(&self.transport, &request.scopes).await?
            {
                headers.insert(header::AUTHORIZATION, value);
            }
        }
        for (name, value) in &request.headers {
            headers.insert(name.clone(), value.clone());
        }
        headers.entry(header::USER_AGENT).or_insert_with(user_agent);
        Ok(headers)
    }
}

/// The address that a Location header means.
pub fn resolve(base: &Uri, location: &str) -> Result<Uri> {
    let bad =
        || Error::Answer { url: shown(base), why: format!("a Location that is no URL: {location:.256}") };
    let scheme = base.scheme_str().unwrap_or("http");
    let authority = base.authority().map_or("", |a| a.as_str());
    let full = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{location}")
    };
    let url: Uri = full.split('#').next().unwrap_or_default().parse().map_err(|_| bad())?;
    Origin::of(&url).map_err(|_| bad())?;
    Ok(url)
}

/// What a registry asks to wait: seconds, or a date.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.header(header::RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let format = time::format_description::well_known::Rfc2822;
    let at = time::OffsetDateTime::parse(&value.replace("GMT", "+0000"), &format).ok()?;
    (at - time::OffsetDateTime::now_utc()).try_into().ok()
}

/// A number in [0, 1) that differs between tries; for waits, not for secrets.
fn fraction() -> f64 {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    f64::from(nanos % 1000) / 1000.0
}

/// The error of an answer that is none that was hoped for.
pub async fn unexpected(method: &Method, response: Response) -> Error {
    let (url, status) = (shown(&response.url), response.status);
    let detail = match response.collect(MAX_ERROR).await {
        Ok(body) => detail(&body),
        Err(_) => String::new(),
    };
    Error::Status { method: method.clone(), url, status, detail }
}

/// Refuses what is a page for people.
pub fn no_web_page(response: &Response) -> Result<()> {
    let content_type = response.content_type();
    if content_type.eq_ignore_ascii_case("text/html") {
        return Err(Error::WebPage { url: shown(&response.url), content_type: content_type.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/uploads/?x=1".parse().unwrap();
        for (location, want) in [
            ("/v2/u?s=1", "https://r.example:5000/v2/u?s=1"),
            ("http://other/x", "http://other/x"),
            ("//other/x#f", "https://other/x"),
            ("abc", "https://r.example:5000/v2/a/blobs/uploads/abc"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), want);
        }
        for bad in ["ftp://x/y", "http:///x", "unix:///run/x", "http://a b/"] {
            assert!(resolve(&base, bad).is_err(), "{bad}");
        }
    }
}
