//! One RPC as the daemon sees it from outside: counted, and logged once at its end.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use tonic::Code;

use crate::metrics::Metrics;

/// Longest text of a client that a log line repeats.
const SHOWN: usize = 128;

/// What is counted where a client makes a method up.
const NOBODY: &str = "unknown";

pub struct Call {
    path: String,
    namespace: String,
    begun: Instant,
    metrics: Option<Arc<Metrics>>,
    ended: bool,
}

impl Call {
    pub fn begin(path: &str, headers: &HeaderMap, metrics: Option<Arc<Metrics>>) -> Self {
        let namespace =
            headers.get(windlass_api::scope::NAMESPACE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Self { path: cut(path), namespace: cut(namespace), begun: Instant::now(), metrics, ended: false }
    }

    /// Takes the outcome from headers or trailers, if it is in them.
    pub fn see(&mut self, headers: &HeaderMap) {
        let Some(code) = headers.get("grpc-status") else { return };
        let code = Code::from_bytes(code.as_bytes());
        let message =
            headers.get("grpc-message").and_then(|m| m.to_str().ok()).map(decode).unwrap_or_default();
        self.end(code, &message);
    }

    pub fn end(&mut self, code: Code, message: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let elapsed = self.begun.elapsed();
        if let Some(metrics) = &self.metrics {
            let (service, method) =
                self.path.trim_start_matches('/').split_once('/').unwrap_or((NOBODY, NOBODY));
            // Names that nobody serves would make labels without end.
            let (service, method) =
                if code == Code::Unimplemented { (NOBODY, NOBODY) } else { (service, method) };
            metrics.started(service, method);
            metrics.handled(service, method, code, elapsed);
        }
        let (method, namespace) = (&*self.path, &*self.namespace);
        match code {
            Code::Ok => tracing::trace!(method, namespace, ?elapsed, "call"),
            Code::Internal | Code::Unknown | Code::DataLoss => {
                tracing::warn!(method, namespace, ?code, error = message, ?elapsed, "call failed");
            }
            _ => tracing::debug!(method, namespace, ?code, error = message, ?elapsed, "call failed"),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled, "the client has gone");
    }
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// `grpc-message` is percent-encoded.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.filter(|_| bytes[at] == b'%').and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_decoded() {
        assert_eq!(decode("a%20b%25 %zz %2"), "a b% %zz %2");
        assert_eq!(decode("%C3%A4"), "ä");
    }

    #[test]
    fn a_call_is_counted_once() {
        let metrics = Metrics::new(false);
        let mut call = Call::begin("/a.B/Get", &HeaderMap::new(), Some(metrics.clone()));
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "5".parse().unwrap())]);
        call.see(&trailers);
        drop(call);
        drop(Call::begin("/made.Up/Name", &HeaderMap::new(), Some(metrics.clone())));
        let text = metrics.render();
        assert!(text.contains("grpc_code=\"NotFound\"} 1"), "{text}");
        assert!(text.contains("grpc_code=\"Canceled\"} 1"), "{text}");
    }
}
