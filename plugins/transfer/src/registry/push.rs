//! Pushing: what is there already is found or mounted, the rest is uploaded and resumed where a connection breaks.

use std::sync::Arc;

use ::http::{HeaderValue, Method, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use windlass_core::content::Blob;
use windlass_core::{Descriptor, Digest};

use super::Client;
use super::auth::encoded;
use super::error::{Error, Result};
use super::http::{Origin, Response, shown};
use super::request::{Host, MakeBody, Request, full, resolve, unexpected};
use crate::media;

/// Bytes read from the content store at once.
const PART: usize = 256 << 10;
/// Most candidates for a mount that are tried; each costs a request.
const MAX_MOUNTS: usize = 1;

/// How a blob or document came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    Exists,
    /// From this repository.
    Mounted(String),
    Uploaded,
}

/// Told how many bytes have gone out.
pub type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// An upload under way.
struct Upload {
    host: Arc<Host>,
    location: Uri,
    offset: u64,
}

enum Started {
    Mounted(String),
    Upload(Upload),
}

impl Client {
    fn push_host(&self) -> Result<Arc<Host>> {
        self.able(|h| h.capabilities.push)
            .into_iter()
            .next()
            .ok_or_else(|| Error::NotFound(format!("{}: no push hosts", self.spec.repository())))
    }

    /// Pushes a manifest or index; the one that is `root` gets the reference's tag.
    pub async fn push_document(&self, descriptor: &Descriptor, data: Bytes, root: &Digest) -> Result<Pushed> {
        let host = self.push_host()?;
        let pinned = self.spec.digest()?;
        let target = pinned.as_ref().unwrap_or(root);
        let name = match self.spec.tag().filter(|_| *target == descriptor.digest) {
            Some(tag) => tag.to_owned(),
            None => descriptor.digest.to_string(),
        };
        let path = format!("manifests/{name}");
        if self.exists(&host, &path, descriptor).await? {
            return Ok(Pushed::Exists);
        }
        let url = host.url(self.spec.host(), self.spec.repository(), &path, &[])?;
        let body = data.clone();
        let mut request = Request::new(Method::PUT, url, &self.scopes(true))
            .header(header::CONTENT_TYPE, &descriptor.media_type)?
            .last(true);
        request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(data.len()));
        request.body = Some(Arc::new(move || full(body.clone())));
        let response = host.send(&request).await?;
        if !matches!(response.status.as_u16(), 200..=202 | 204) {
            return Err(unexpected(&Method::PUT, response).await);
        }
        confirm(&response, &descriptor.digest)?;
        response.drain().await;
        Ok(Pushed::Uploaded)
    }

    /// Pushes a blob. `sources`: repositories of the same registry that have it, the nearest first.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        blob: Arc<dyn Blob>,
        sources: &[String],
        sent: Sent,
    ) -> Result<Pushed> {
        let host = self.push_host()?;
        if self.exists(&host, &format!("blobs/{}", descriptor.digest), descriptor).await? {
            return Ok(Pushed::Exists);
        }
        let mut upload = match self.start(&host, descriptor, sources).await? {
            Started::Mounted(from) => return Ok(Pushed::Mounted(from)),
            Started::Upload(upload) => upload,
        };
        let mut failures = 0;
        loop {
            let error = match self.send_blob(&upload, descriptor, &blob, &sent).await {
                Ok(()) => return Ok(Pushed::Uploaded),
                Err(error) => error,
            };
            failures += 1;
            if !error.is_transient() || failures >= self.limits.attempts {
                return Err(error);
            }
            tracing::debug!(digest = %descriptor.digest, %error, "upload resumes");
            tokio::time::sleep((self.limits.back_off * (1 << failures.min(8))).min(self.limits.max_back_off))
                .await;
            let before = upload.offset;
            upload = match self.progress_of(upload, descriptor).await {
                Some(upload) => upload,
                None => match self.start(&host, descriptor, &[]).await? {
                    Started::Mounted(from) => return Ok(Pushed::Mounted(from)),
                    Started::Upload(upload) => upload,
                },
            };
            if upload.offset > before {
                failures = 1;
            }
        }
    }

    async fn exists(&self, host: &Host, path: &str, descriptor: &Descriptor) -> Result<bool> {
        let url = host.url(self.spec.host(), self.spec.repository(), path, &[])?;
        let accept = format!("{}, */*", descriptor.media_type);
        let request =
            Request::new(Method::HEAD, url, &self.scopes(true)).header(header::ACCEPT, &accept)?.last(true);
        let response = match host.send(&request).await {
            // Who may not read may still write.
            Err(Error::Unauthorized { .. }) => return Ok(false),
            other => other?,
        };
        match response.status {
            StatusCode::OK => {
                let tagged = path.starts_with("manifests/") && !path.ends_with(descriptor.digest.as_str());
                let said = response.header("docker-content-digest") == Some(descriptor.digest.as_str());
                response.drain().await;
                Ok(!tagged || said)
            }
            StatusCode::NOT_FOUND => {
                response.drain().await;
                Ok(false)
            }
            StatusCode::UNAUTHORIZED => {
                let why =
                    "push access denied, repository does not exist or may require authorization".to_owned();
                Err(Error::Unauthorized { host: host.authority.clone(), why })
            }
            _ => Err(self.explain(host, request, response).await),
        }
    }

    async fn start(&self, host: &Arc<Host>, descriptor: &Descriptor, sources: &[String]) -> Result<Started> {
        let repository = self.spec.repository();
        let digest = descriptor.digest.as_str();
        for from in sources.iter().take(MAX_MOUNTS) {
            let query = [("mount", digest), ("from", from.as_str())];
            let url = host.url(self.spec.host(), repository, "blobs/uploads/", &query)?;
            let mut scopes = self.scopes(true);
            scopes.push(format!("repository:{from}:pull"));
            match host.send(&post(url, &scopes)).await {
                Ok(response) if response.status == StatusCode::CREATED => {
                    response.drain().await;
                    return Ok(Started::Mounted(from.clone()));
                }
                // The registry opened an upload instead.
                Ok(response) if response.status == StatusCode::ACCEPTED => {
                    return Ok(Started::Upload(self.upload(host, response).await?));
                }
                Ok(response) => response.drain().await,
                Err(Error::Unauthorized { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let url = host.url(self.spec.host(), repository, "blobs/uploads/", &[])?;
        let response = host.send(&post(url, &self.scopes(true))).await?;
        match response.status.as_u16() {
            200 | 202 | 204 => Ok(Started::Upload(self.upload(host, response).await?)),
            201 => Ok(Started::Mounted(repository.to_owned())),
            _ => Err(unexpected(&Method::POST, response).await),
        }
    }

    /// Takes the address that an answer names for going on. At another host no credentials are used.
    async fn upload(&self, host: &Arc<Host>, response: Response) -> Result<Upload> {
        let url = response.url.clone();
        let location = response.header(header::LOCATION).map(str::to_owned);
        response.drain().await;
        let location = location
            .ok_or_else(|| Error::Answer { url: shown(&url), why: "an upload without a Location".into() })?;
        let location = host.transport.canonical(resolve(&url, &location)?, &url);
        let same = Origin::of(&location)? == Origin::of(&url)?;
        let host = if same { host.clone() } else { self.foreign.clone() };
        Ok(Upload { host, location, offset: 0 })
    }

    async fn send_blob(
        &self,
        upload: &Upload,
        descriptor: &Descriptor,
        blob: &Arc<dyn Blob>,
        sent: &Sent,
    ) -> Result<()> {
        let mut location = upload.location.clone();
        let mut host = upload.host.clone();
        let (mut from, size) = (upload.offset, descriptor.size);
        if from > 0 && from < size {
            let range = format!("{from}-{}", size - 1);
            let mut request = self.body_request(Method::PATCH, location, blob, from, size, sent)?;
            request = request.header(header::CONTENT_RANGE, &range)?;
            let response = host.send(&request).await?;
            if !matches!(response.status.as_u16(), 200..=204) {
                return Err(unexpected(&Method::PATCH, response).await);
            }
            let next = self.upload(&host, response).await?;
            (location, host, from) = (next.location, next.host, size);
        }
        let sign = if location.query().is_some() { '&' } else { '?' };
        let digest = encoded(&[("digest", descriptor.digest.as_str())]);
        let url: Uri = format!("{location}{sign}{digest}")
            .parse()
            .map_err(|_| Error::Answer { url: shown(&location), why: "a Location that is no URL".into() })?;
        let request = self.body_request(Method::PUT, url, blob, from, size, sent)?;
        let response = host.send(&request).await?;
        if !matches!(response.status.as_u16(), 200..=202 | 204) {
            return Err(unexpected(&Method::PUT, response).await);
        }
        confirm(&response, &descriptor.digest)?;
        response.drain().await;
        Ok(())
    }

    /// A request that is not tried again by itself: half a body may have arrived.
    fn body_request(
        &self,
        method: Method,
        url: Uri,
        blob: &Arc<dyn Blob>,
        from: u64,
        size: u64,
        sent: &Sent,
    ) -> Result<Request> {
        let mut request = Request::new(method, url, &self.scopes(true))
            .header(header::CONTENT_TYPE, "application/octet-stream")?
            .last(false);
        request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size - from));
        request.body = Some(stream(blob.clone(), from, size, sent.clone()));
        Ok(request)
    }

    /// How far an upload that broke has come; `None` where it has to begin again.
    async fn progress_of(&self, upload: Upload, descriptor: &Descriptor) -> Option<Upload> {
        let request = Request::new(Method::GET, upload.location.clone(), &self.scopes(true)).last(true);
        let response = upload.host.send(&request).await.ok()?;
        if response.status != StatusCode::NO_CONTENT {
            return None;
        }
        let range = response.header(header::RANGE)?.trim_start_matches("bytes=").to_owned();
        let (start, end) = range.split_once('-')?;
        let (start, end) = (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?);
        // Registries say 0-0 of nothing.
        let offset = if end == 0 { 0 } else { end + 1 };
        if start != 0 || offset > descriptor.size {
            return None;
        }
        let location = response.header(header::LOCATION).is_some();
        let next = if location {
            self.upload(&upload.host, response).await.ok()?
        } else {
            response.drain().await;
            upload
        };
        Some(Upload { offset, ..next })
    }
}

fn post(url: Uri, scopes: &[String]) -> Request {
    let mut request = Request::new(Method::POST, url, scopes).last(true);
    request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    request
}

fn stream(blob: Arc<dyn Blob>, from: u64, size: u64, sent: Sent) -> MakeBody {
    Arc::new(move || {
        let start = (blob.clone(), from, sent.clone());
        let parts = futures::stream::try_unfold(start, move |(blob, at, sent)| async move {
            if at >= size {
                return Ok(None);
            }
            let want = PART.min(usize::try_from(size - at).unwrap_or(PART));
            let data = blob.read_at(at, want).await.map_err(std::io::Error::other)?;
            if data.is_empty() {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
            let at = at + data.len() as u64;
            sent(at);
            Ok(Some((Frame::data(data), (blob, at, sent))))
        });
        StreamBody::new(parts).boxed_unsync()
    })
}

/// A registry that says another digest got other bytes.
fn confirm(response: &Response, want: &Digest) -> Result<()> {
    match response.header("docker-content-digest") {
        Some(got) if got != want.as_str() => Err(Error::Answer {
            url: shown(&response.url),
            why: format!("got digest {got:.128}, expected {want}"),
        }),
        _ => Ok(()),
    }
}

/// Repositories out of a source label, the one with most path elements in common first.
pub fn mount_candidates(label: &str, target: &str) -> Vec<String> {
    let common =
        |repository: &str| repository.split('/').zip(target.split('/')).take_while(|(a, b)| a == b).count();
    let mut all: Vec<&str> = label.split(',').filter(|r| !r.is_empty() && *r != target).collect();
    all.sort_by_key(|r| std::cmp::Reverse(common(r)));
    all.into_iter().map(str::to_owned).collect()
}

/// Label of content: `containerd.io/distribution.source.<host>`, repositories joined by commas. `None`: it has this one
/// already, or would become too long.
pub fn source_label(present: Option<&str>, repository: &str, key: &str) -> Option<String> {
    let mut all: Vec<&str> = present.unwrap_or_default().split(',').filter(|r| !r.is_empty()).collect();
    if all.contains(&repository) {
        return None;
    }
    all.push(repository);
    all.sort_unstable();
    all.dedup();
    let value = all.join(",");
    (key.len() + value.len() <= windlass_core::validate::MAX_LABEL).then_some(value)
}

/// The label's key for a host without port.
pub fn source_key(hostname: &str) -> String {
    format!("{}.{hostname}", media::LABEL_SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_labels_grow_and_stay_bounded() {
        assert_eq!(source_label(None, "a/b", "k").unwrap(), "a/b");
        assert_eq!(source_label(Some("c,a"), "b", "k").unwrap(), "a,b,c");
        assert_eq!(source_label(Some("a,b"), "b", "k"), None);
        assert_eq!(source_label(Some(&"x".repeat(4090)), "yyyyyyy", "k"), None);
        assert_eq!(mount_candidates("x/y,me/app,me/base", "me/app"), ["me/base", "x/y"]);
    }
}
