//! Blobs and documents as a stream of bytes that outlives broken connections.

use std::collections::VecDeque;
use std::sync::Arc;

use ::http::{Method, StatusCode, Uri, header};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use windlass_core::Descriptor;

use super::Client;
use super::error::{Error, Result};
use super::http::{Response, shown};
use super::request::{Host, Request, no_web_page, unexpected};
use crate::media;

/// A descriptor's bytes from an offset on.
pub struct Fetch {
    client: Arc<Client>,
    descriptor: Descriptor,
    offset: u64,
    body: Option<Response>,
    /// Parts that are being fetched ahead, in order, where one blob is fetched by several requests.
    ahead: VecDeque<JoinHandle<Result<Bytes>>>,
    next_part: u64,
    failures: u32,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        for part in &self.ahead {
            part.abort();
        }
    }
}

impl Fetch {
    pub(super) async fn open(client: Arc<Client>, descriptor: &Descriptor, offset: u64) -> Result<Self> {
        let permit = client.fetches.clone().acquire_owned().await.expect("this semaphore is never closed");
        let mut fetch = Self {
            client,
            descriptor: descriptor.clone(),
            offset,
            body: None,
            ahead: VecDeque::new(),
            next_part: offset,
            failures: 0,
            permit: Some(permit),
        };
        // By ranges only where there is more than one, and as long as the host plays along.
        if fetch.client.range == 0 || descriptor.size.saturating_sub(offset) <= fetch.client.range {
            fetch.body = Some(fetch.request().await?);
        } else {
            fetch.look_ahead();
        }
        Ok(fetch)
    }

    /// The next bytes; `None` after the last. Broken, stalled and short answers are resumed at the byte, with a
    /// pause that grows; progress starts the count anew. More bytes than the descriptor says are an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.offset == self.descriptor.size && self.body.is_none() {
                self.permit = None;
                return Ok(None);
            }
            match self.step().await {
                Ok(Some(data)) => {
                    self.offset += data.len() as u64;
                    self.failures = 0;
                    return Ok(Some(data));
                }
                Ok(None) => {}
                Err(error) => {
                    self.body = None;
                    self.failures += 1;
                    if !error.is_transient() || self.failures >= self.client.limits.attempts {
                        return Err(error);
                    }
                    tracing::debug!(digest = %self.descriptor.digest, offset = self.offset, %error, "fetch resumes");
                    let wait = self.client.limits.back_off * (1 << (self.failures - 1).min(8));
                    tokio::time::sleep(wait.min(self.client.limits.max_back_off)).await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Bytes>> {
        if let Some(part) = self.ahead.pop_front() {
            return match part.await {
                Ok(Ok(data)) => {
                    self.look_ahead();
                    Ok(Some(data))
                }
                outcome => {
                    self.stop_ahead();
                    match outcome {
                        Ok(Err(error)) if !error.is_transient() => {
                            tracing::debug!(%error, "the host does not serve parts, one request is used");
                            Ok(None)
                        }
                        Ok(Err(error)) => Err(error),
                        _ => Ok(None),
                    }
                }
            };
        }
        if self.body.is_none() {
            self.body = Some(self.request().await?);
        }
        let body = self.body.as_mut().expect("opened above");
        let got = body.next().await?;
        let url = shown(&body.url);
        let left = self.descriptor.size - self.offset;
        match got {
            Some(data) if data.len() as u64 > left => Err(Error::Answer {
                url,
                why: format!("more than the {} bytes that its descriptor says", self.descriptor.size),
            }),
            Some(data) => Ok(Some(data)),
            None => {
                self.body = None;
                if left > 0 {
                    return Err(Error::Truncated { url, got: self.offset, want: self.descriptor.size });
                }
                Ok(None)
            }
        }
    }

    fn stop_ahead(&mut self) {
        for part in self.ahead.drain(..) {
            part.abort();
        }
        self.next_part = u64::MAX;
    }

    /// Keeps a bounded number of parts under way.
    fn look_ahead(&mut self) {
        while self.ahead.len() < self.client.ranges && self.next_part < self.descriptor.size {
            let start = self.next_part;
            let end = (start + self.client.range).min(self.descriptor.size);
            self.next_part = end;
            let (client, descriptor) = (self.client.clone(), self.descriptor.clone());
            self.ahead.push_back(tokio::spawn(async move {
                let response = client.open(&descriptor, start, Some(end)).await?;
                if response.status != StatusCode::PARTIAL_CONTENT {
                    return Err(Error::Answer { url: shown(&response.url), why: "no parts".into() });
                }
                let url = shown(&response.url);
                let data = response.collect(end - start).await?;
                if (data.len() as u64) < end - start {
                    let got = start + data.len() as u64;
                    return Err(Error::Truncated { url, got, want: end });
                }
                Ok(data)
            }));
        }
    }

    async fn request(&self) -> Result<Response> {
        self.client.open(&self.descriptor, self.offset, None).await
    }
}

impl Client {
    /// Asks hosts in order for the bytes from `offset` on.
    async fn open(&self, descriptor: &Descriptor, offset: u64, end: Option<u64>) -> Result<Response> {
        let mut first = None;
        for url in descriptor.urls.iter().take(16) {
            let Ok(url) = url.parse::<Uri>() else { continue };
            if !matches!(url.scheme_str(), Some("http" | "https")) {
                continue;
            }
            match self.open_at(&self.foreign, url, descriptor, offset, end, false).await {
                Ok(response) => return Ok(response),
                Err(error) => _ = first.get_or_insert(error),
            }
        }
        let hosts = self.able(|h| h.capabilities.pull);
        let document = media::is_manifest(&descriptor.media_type) || media::is_index(&descriptor.media_type);
        let kind = if document { "manifests" } else { "blobs" };
        let path = format!("{kind}/{}", descriptor.digest);
        for (n, host) in hosts.iter().enumerate() {
            let url = host.url(self.spec.host(), self.spec.repository(), &path, &[])?;
            match self.open_at(host, url, descriptor, offset, end, n + 1 == hosts.len()).await {
                Ok(response) => return Ok(response),
                Err(error) => {
                    tracing::debug!(host = %host.authority, %error, "cannot fetch here");
                    if first.as_ref().is_none_or(|f: &Error| f.is_not_found()) {
                        first = Some(error);
                    }
                }
            }
        }
        Err(match first {
            Some(error) if error.is_not_found() => Error::NotFound(format!(
                "could not fetch content descriptor {} ({}) from remote: content",
                descriptor.digest, descriptor.media_type
            )),
            Some(error) => error,
            None => Error::NotFound(format!("{}: no pull hosts", self.reference)),
        })
    }

    async fn open_at(
        &self,
        host: &Host,
        url: Uri,
        descriptor: &Descriptor,
        offset: u64,
        end: Option<u64>,
        last: bool,
    ) -> Result<Response> {
        let accept = match descriptor.media_type.as_str() {
            "" => "*/*".to_owned(),
            media_type => format!("{media_type}, */*"),
        };
        let mut request =
            Request::new(Method::GET, url, &self.scopes(false)).header(header::ACCEPT, &accept)?.last(last);
        if let Some(end) = end {
            request = request.header(header::RANGE, &format!("bytes={offset}-{}", end - 1))?;
        } else if offset > 0 {
            request = request.header(header::RANGE, &format!("bytes={offset}-"))?;
        }
        let mut response = host.send(&request).await?;
        if !response.status.is_success() {
            return Err(unexpected(&Method::GET, response).await);
        }
        let wrong = |response: &Response, why: String| Error::Answer { url: shown(&response.url), why };
        if descriptor.media_type != "text/html" {
            no_web_page(&response)?;
        }
        if let Some(encoding) = response.header(header::CONTENT_ENCODING).filter(|e| *e != "identity") {
            return Err(wrong(&response, format!("content encoding {encoding:?} that was not asked for")));
        }
        let want = end.unwrap_or(descriptor.size);
        if response.status == StatusCode::PARTIAL_CONTENT {
            let range = response.header(header::CONTENT_RANGE).unwrap_or_default();
            if !range.starts_with(&format!("bytes {offset}-")) {
                return Err(wrong(&response, format!("unhandled content range in response: {range:.64}")));
            }
            if response.content_length().is_some_and(|l| offset.saturating_add(l) != want) {
                return Err(wrong(&response, length(want - offset, &response)));
            }
            return Ok(response);
        }
        if response.content_length().is_some_and(|l| l != descriptor.size) {
            return Err(wrong(&response, length(descriptor.size, &response)));
        }
        if end.is_none() {
            skip(&mut response, offset).await?;
        }
        Ok(response)
    }
}

fn length(want: u64, response: &Response) -> String {
    format!(
        "content length {} where {want} bytes are expected",
        response.content_length().unwrap_or_default()
    )
}

/// For hosts that know no ranges: reads up to `offset`. The part that goes beyond is given back first.
async fn skip(response: &mut Response, offset: u64) -> Result<()> {
    let mut left = offset;
    while left > 0 {
        let Some(data) = response.next().await? else {
            return Err(Error::Truncated { url: shown(&response.url), got: offset - left, want: offset });
        };
        if data.len() as u64 > left {
            response.unread(data.slice(left as usize..));
            return Ok(());
        }
        left -= data.len() as u64;
    }
    Ok(())
}
