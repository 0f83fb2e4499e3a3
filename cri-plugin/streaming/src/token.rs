//! One-time tokens and the requests they stand for. Bounded in number and in time; a token is worth one connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::Error;
use crate::{Attach, Exec};

/// How long a URL is good for.
const LIFE: Duration = Duration::from_secs(60);
/// URLs handed out and not yet used.
const MAX: usize = 1000;
/// Random bytes of a token: 16 characters of base64url.
const BYTES: usize = 12;

/// What a URL was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Exec(Exec),
    Attach(Attach),
    PortForward { sandbox: String, ports: Vec<u16> },
}

impl Request {
    /// The first part of the URL's path.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

#[derive(Default)]
pub(crate) struct Tokens(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    requests: HashMap<String, (Request, Instant)>,
    /// Tokens in the order of their making, used ones included until they would have expired.
    order: VecDeque<(String, Instant)>,
}

impl Tokens {
    /// Keeps a request and returns its path, `exec/TOKEN`.
    pub fn insert(&self, request: Request) -> Result<String, Error> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(Error::Random)?;
        self.insert_at(request, URL_SAFE_NO_PAD.encode(bytes), Instant::now())
    }

    fn insert_at(&self, request: Request, token: String, now: Instant) -> Result<String, Error> {
        let mut inner = self.lock();
        inner.expire(now);
        if inner.requests.len() >= MAX {
            return Err(Error::TooMany);
        }
        let path = format!("{}/{token}", request.verb());
        inner.order.push_back((token.clone(), now + LIFE));
        inner.requests.insert(token, (request, now + LIFE));
        Ok(path)
    }

    /// Whether a token is good, without using it up.
    pub fn peek(&self, verb: &str, token: &str) -> bool {
        let now = Instant::now();
        self.lock().requests.get(token).is_some_and(|(request, end)| request.verb() == verb && now < *end)
    }

    /// Uses a token up.
    pub fn take(&self, verb: &str, token: &str) -> Option<Request> {
        self.take_at(verb, token, Instant::now())
    }

    fn take_at(&self, verb: &str, token: &str, now: Instant) -> Option<Request> {
        let mut inner = self.lock();
        let (request, end) = inner.requests.get(token)?;
        if request.verb() != verb || now >= *end {
            return None;
        }
        inner.requests.remove(token).map(|(request, _)| request)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn expire(&mut self, now: Instant) {
        // A used token stays in the order for its minute; the bound keeps a fast caller from growing it.
        while let Some((token, end)) = self.order.front() {
            let used = !self.requests.contains_key(token);
            if !used && now < *end {
                break;
            }
            self.requests.remove(token);
            self.order.pop_front();
        }
        if self.order.len() > 4 * MAX {
            let requests = &self.requests;
            self.order.retain(|(token, _)| requests.contains_key(token));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward() -> Request {
        Request::PortForward { sandbox: "s".into(), ports: vec![80] }
    }

    fn token(path: &str) -> &str {
        path.split('/').next_back().unwrap()
    }

    fn later(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_is_good_once_for_its_verb_and_for_a_minute() {
        let tokens = Tokens::default();
        let path = tokens.insert(forward()).unwrap();
        assert!(path.starts_with("portforward/"), "{path}");
        assert_eq!(token(&path).len(), 16);
        assert_eq!(tokens.take("exec", token(&path)), None, "made for another verb");
        assert_eq!(tokens.take("portforward", token(&path)), Some(forward()));
        assert_eq!(tokens.take("portforward", token(&path)), None, "used up");

        let path = tokens.insert(forward()).unwrap();
        assert_eq!(tokens.take_at("portforward", token(&path), later(61)), None, "expired");
        assert_eq!(tokens.take_at("portforward", token(&path), later(50)), Some(forward()));
    }

    #[test]
    fn the_number_is_bounded_and_recovers() {
        let tokens = Tokens::default();
        let paths: Vec<_> = (0..MAX).map(|_| tokens.insert(forward()).unwrap()).collect();
        let error = windlass_core::Error::from(tokens.insert(forward()).unwrap_err());
        assert_eq!(error.class(), windlass_core::Class::ResourceExhausted);
        assert!(tokens.take("portforward", token(&paths[500])).is_some());
        tokens.insert(forward()).unwrap();
        for number in 0..MAX {
            tokens.insert_at(forward(), number.to_string(), later(61)).unwrap();
        }
    }

    #[test]
    fn used_tokens_leave_the_order() {
        let tokens = Tokens::default();
        let kept = tokens.insert(forward()).unwrap();
        for _ in 0..10 * MAX {
            let path = tokens.insert(forward()).unwrap();
            tokens.take("portforward", token(&path)).unwrap();
        }
        assert!(tokens.lock().order.len() <= 4 * MAX + 1);
        assert!(tokens.peek("portforward", token(&kept)));
    }
}
