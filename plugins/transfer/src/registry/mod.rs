//! The registry client: OCI distribution 1.1 and Docker schema 2 over HTTP/1.1.
//!
//! A [`Client`] is made for one image reference of one transfer and dropped with it: connections, tokens and
//! credentials live no longer. It moves verified bytes and knows neither content store nor image.

mod auth;
mod error;
mod fetch;
mod hosts;
mod http;
mod proxy;
mod push;
mod request;
mod tls;

use std::sync::Arc;

use ::http::{HeaderMap, Method, header};
use tokio::sync::Semaphore;
use windlass_core::{Descriptor, Digest, transfer};

pub use self::error::{Error, Result};
pub use self::fetch::Fetch;
pub use self::http::Limits;
pub use self::push::{Pushed, Sent, mount_candidates, source_key, source_label};

use self::auth::Authorizer;
use self::hosts::HostConfig;
use self::http::{Response, Transport};
use self::request::{Host, Request, no_web_page, unexpected};
use crate::document::MAX_DOCUMENT;
use crate::{Spec, media};

/// A client for one reference.
pub struct Client {
    spec: Spec,
    reference: String,
    hosts: Vec<Arc<Host>>,
    /// For addresses that are no registry's: no headers, no credentials.
    foreign: Arc<Host>,
    limits: Limits,
    /// Fetches at once.
    fetches: Arc<Semaphore>,
    /// Bytes per range request where one blob is fetched by several; 0 for one request.
    range: u64,
    ranges: usize,
}

/// Settings of a client that no reference names.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directories of `hosts.toml` trees, joined by colons.
    pub host_dirs: String,
    pub limits: Limits,
    pub fetches: usize,
    /// Bytes per range request, off below 512.
    pub range: u64,
}

impl Client {
    pub fn new(registry: &transfer::Registry, options: &Options) -> Result<Self> {
        let spec = Spec::parse(&registry.reference)?;
        let dirs = if registry.host_dir.is_empty() { &options.host_dirs } else { &registry.host_dir };
        if !matches!(registry.default_scheme.as_str(), "" | "http" | "https") {
            return Err(Error::Config(format!(
                "scheme {:?} is neither http nor https",
                registry.default_scheme
            )));
        }
        let configs = hosts::load(dirs, spec.host(), &registry.default_scheme)?;
        let common = request::headers(&registry.headers)?;
        let hosts = configs
            .iter()
            .map(|config| host(config, &common, registry, options.limits))
            .collect::<Result<Vec<_>>>()?;
        let foreign = Host {
            scheme: String::new(),
            authority: String::new(),
            path: String::new(),
            capabilities: hosts::Capabilities::ALL,
            headers: HeaderMap::new(),
            transport: Arc::new(Transport::new(tls::Tls::default(), options.limits, false)),
            authorizer: None,
        };
        Ok(Self {
            spec,
            reference: registry.reference.clone(),
            hosts,
            foreign: Arc::new(foreign),
            limits: options.limits,
            fetches: Arc::new(Semaphore::new(options.fetches.max(1))),
            range: if options.range < 512 { 0 } else { options.range },
            ranges: options.fetches.max(1),
        })
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    fn able(&self, can: impl Fn(&Host) -> bool) -> Vec<Arc<Host>> {
        self.hosts.iter().filter(|h| can(h)).cloned().collect()
    }

    fn scopes(&self, push: bool) -> Vec<String> {
        let actions = if push { "pull,push" } else { "pull" };
        vec![format!("repository:{}:{actions}", self.spec.repository())]
    }

    /// What the reference points to. A tag is looked up at hosts that may resolve; the answer's headers are all that
    /// is trusted, and only of a tag.
    pub async fn resolve(&self) -> Result<Descriptor> {
        let digest = self.spec.digest()?;
        let paths = match &digest {
            Some(digest) => vec![format!("manifests/{digest}"), format!("blobs/{digest}")],
            None => {
                let tag = self.spec.tag().ok_or_else(|| {
                    Error::Config(format!("{}: object required: a tag or a digest", self.reference))
                })?;
                vec![format!("manifests/{tag}")]
            }
        };
        let hosts = self.able(|h| h.capabilities.pull && (digest.is_some() || h.capabilities.resolve));
        if hosts.is_empty() {
            return Err(Error::NotFound(format!("{}: no resolve hosts", self.reference)));
        }
        // The error that came furthest is the one that says most.
        let mut worst: Option<Error> = None;
        for path in &paths {
            if worst.as_ref().is_some_and(|e| !e.is_not_found() && matches!(e, Error::Status { .. })) {
                break;
            }
            for (n, host) in hosts.iter().enumerate() {
                match self.resolve_at(host, path, digest.as_ref(), n + 1 == hosts.len()).await {
                    Ok(found) => return Ok(found),
                    Err(error) => {
                        tracing::info!(host = %host.authority, %error, "cannot resolve here");
                        if worst.as_ref().is_none_or(|w| weight(&error) > weight(w)) {
                            worst = Some(error);
                        }
                    }
                }
            }
        }
        Err(match worst {
            Some(Error::Status { status, .. }) if status == 404 => Error::NotFound(self.reference.clone()),
            Some(Error::Unauthorized { host, why }) => Error::Unauthorized {
                host,
                why: format!(
                    "pull access denied, repository does not exist or may require authorization: {why}"
                ),
            },
            Some(error) => error,
            None => Error::NotFound(self.reference.clone()),
        })
    }

    async fn resolve_at(
        &self,
        host: &Host,
        path: &str,
        digest: Option<&Digest>,
        last: bool,
    ) -> Result<Descriptor> {
        let url = host.url(self.spec.host(), self.spec.repository(), path, &[])?;
        let request = Request::new(Method::HEAD, url, &self.scopes(false))
            .header(header::ACCEPT, &accept_any())?
            .last(last);
        let response = host.send(&request).await?;
        if !response.status.is_success() {
            return Err(self.explain(host, request, response).await);
        }
        no_web_page(&response)?;
        let media_type = media_type(&response);
        let said = response.header("docker-content-digest").map(str::parse::<Digest>).transpose()?;
        let known = match (digest, said) {
            (Some(asked), _) => Some(asked.clone()),
            (None, said) => said,
        };
        if let (Some(digest), Some(size)) = (known, response.content_length().filter(|size| *size > 0)) {
            response.drain().await;
            return bounded(Descriptor::new(media_type, digest, size));
        }
        response.drain().await;
        let get = Request { method: Method::GET, last: true, ..request };
        let response = host.send(&get).await?;
        if !response.status.is_success() {
            return Err(unexpected(&Method::GET, response).await);
        }
        no_web_page(&response)?;
        let media_type = self::media_type(&response);
        let body = response.collect(MAX_DOCUMENT).await?;
        let digest = digest.cloned().unwrap_or_else(|| Digest::of(&body));
        Ok(Descriptor::new(media_type, digest, body.len() as u64))
    }

    /// A HEAD's answer has no body: where a registry forbids, a GET says why.
    async fn explain(&self, host: &Host, request: Request, response: Response) -> Error {
        if response.status != 403 || request.method != Method::HEAD {
            return unexpected(&request.method, response).await;
        }
        let head = unexpected(&Method::HEAD, response).await;
        let get = Request { method: Method::GET, last: false, ..request };
        match host.send(&get).await {
            Ok(answer) if answer.status == 403 => unexpected(&Method::GET, answer).await,
            _ => head,
        }
    }

    /// Opens a blob or a document at `offset`. The bytes come in order; breaks and stalls are resumed behind the
    /// scenes. Whoever takes them checks the digest.
    pub async fn fetch(self: &Arc<Self>, descriptor: &Descriptor, offset: u64) -> Result<Fetch> {
        Fetch::open(self.clone(), descriptor, offset).await
    }
}

/// How much an error of one host says about the image.
fn weight(error: &Error) -> u8 {
    match error {
        Error::Status { status, .. } if *status == 404 => 2,
        Error::NotFound(_) => 2,
        Error::Status { .. } | Error::WebPage { .. } => 3,
        Error::Answer { .. } => 4,
        _ => 1,
    }
}

fn bounded(descriptor: Descriptor) -> Result<Descriptor> {
    if descriptor.size > MAX_DOCUMENT {
        let what =
            format!("manifest {} of {} bytes (at most {MAX_DOCUMENT})", descriptor.digest, descriptor.size);
        return Err(Error::Answer { url: what, why: "rejected".into() });
    }
    Ok(descriptor)
}

fn accept_any() -> String {
    [media::DOCKER_MANIFEST, media::DOCKER_INDEX, media::MANIFEST, media::INDEX, "*/*"].join(", ")
}

/// Some registries say `text/plain` of schema 1.
fn media_type(response: &Response) -> String {
    match response.content_type() {
        "text/plain" => media::DOCKER_SCHEMA1.to_owned(),
        other => other.to_owned(),
    }
}

fn host(
    config: &HostConfig,
    common: &HeaderMap,
    registry: &transfer::Registry,
    mut limits: Limits,
) -> Result<Arc<Host>> {
    let mut headers = common.clone();
    headers.remove(header::ACCEPT);
    for (name, value) in &request::headers(&config.headers)? {
        headers.append(name.clone(), value.clone());
    }
    if let Some(dial) = config.dial_timeout {
        limits.dial = dial;
    }
    // Plain HTTP with a TLS configuration and no port that says which: HTTPS is tried first.
    let ambiguous =
        config.scheme == "http" && config.tls.is_some() && hosts::port_of(&config.host) != Some(80);
    let scheme = if ambiguous { "https".to_owned() } else { config.scheme.clone() };
    let tls = config.tls.clone().unwrap_or_default();
    let authorizer = Authorizer::new(registry.authenticator.clone(), &registry.reference, headers.clone());
    Ok(Arc::new(Host {
        scheme,
        authority: config.host.clone(),
        path: config.path.clone(),
        capabilities: config.capabilities,
        headers,
        transport: Arc::new(Transport::new(tls, limits, ambiguous)),
        authorizer: Some(Arc::new(authorizer)),
    }))
}
