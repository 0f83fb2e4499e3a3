//! Proxies as the environment names them: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, upper or lower case. Loopback is
//! never reached through one.

use std::net::IpAddr;

use base64::Engine;
use http::{HeaderValue, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::error::{Error, Result};
use super::http::Origin;

/// Longest answer of a proxy to CONNECT, in bytes.
const MAX_ANSWER: usize = 8 << 10;

/// A proxy to go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    pub authorization: Option<HeaderValue>,
}

fn variable(name: &str) -> String {
    let of = |n: &str| std::env::var(n).ok().filter(|v| !v.is_empty());
    of(name).or_else(|| of(&name.to_ascii_lowercase())).unwrap_or_default()
}

/// The proxy for a host, if any.
pub fn of(secure: bool, host: &str, port: u16) -> Result<Option<Proxy>> {
    let proxy = variable(if secure { "HTTPS_PROXY" } else { "HTTP_PROXY" });
    if proxy.is_empty() || excluded(&variable("NO_PROXY"), host, port) {
        return Ok(None);
    }
    parse(&proxy).map(Some)
}

fn parse(text: &str) -> Result<Proxy> {
    let bad = |why: &str| Error::Config(format!("proxy in the environment: {why}"));
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url: Uri = full.parse().map_err(|_| bad("not a URL"))?;
    if url.scheme_str() != Some("http") {
        return Err(bad("only http:// proxies are supported"));
    }
    let authority = url.authority().ok_or_else(|| bad("no host"))?;
    let authorization = authority.as_str().rsplit_once('@').map(|(user, _)| {
        let value =
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(percent_decoded(user)));
        HeaderValue::from_str(&value).expect("base64 is ASCII")
    });
    Ok(Proxy { host: authority.host().to_owned(), port: authority.port_u16().unwrap_or(80), authorization })
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match code.and_then(|c| u8::from_str_radix(c, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// `NO_PROXY`: `*`, host names with their subdomains, addresses, networks; each may name a port.
fn excluded(list: &str, host: &str, port: u16) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> = bare.parse().ok();
    if bare == "localhost" || address.is_some_and(|a| a.is_loopback()) {
        return true;
    }
    list.split(',').map(str::trim).filter(|e| !e.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return address.is_some_and(|a| in_network(a, network, bits));
        }
        let (name, wanted) = match entry.rsplit_once(':') {
            Some((name, p)) if !name.contains(':') || name.ends_with(']') => (name, p.parse::<u16>().ok()),
            _ => (entry, None),
        };
        if wanted.is_some_and(|w| w != port) {
            return false;
        }
        let name = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .trim_start_matches("*.")
            .trim_start_matches('.');
        match name.parse::<IpAddr>() {
            Ok(ip) => address == Some(ip),
            Err(_) => bare == name || bare.strip_suffix(name).is_some_and(|sub| sub.ends_with('.')),
        }
    })
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else { return false };
    match (address, network.parse()) {
        (IpAddr::V4(a), Ok(IpAddr::V4(n))) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(a) & mask == u32::from(n) & mask
        }
        (IpAddr::V6(a), Ok(IpAddr::V6(n))) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(a) & mask == u128::from(n) & mask
        }
        _ => false,
    }
}

impl Proxy {
    /// Asks the proxy for a tunnel to `origin`.
    pub async fn tunnel(&self, mut tcp: TcpStream, origin: &Origin) -> Result<TcpStream> {
        let target = format!("{}:{}", origin.host, origin.port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(value) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let failed =
            |source| Error::Connect { host: format!("{} through proxy {}", origin.host, self.host), source };
        tcp.write_all(&request).await.map_err(failed)?;
        // Byte by byte: what follows the answer belongs to the tunnel.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_ANSWER {
                return Err(failed(std::io::Error::other("the proxy's answer is too long")));
            }
            answer.push(tcp.read_u8().await.map_err(failed)?);
        }
        let line = String::from_utf8_lossy(&answer);
        let line = line.lines().next().unwrap_or_default();
        if line.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
            return Ok(tcp);
        }
        Err(failed(std::io::Error::other(format!("the proxy says {line:?}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusions_hold() {
        let list = "internal.example, .corp:8080,10.0.0.0/8,[fd00::1],192.168.1.5:5000";
        for (host, port) in [
            ("localhost", 5000),
            ("127.0.0.1", 80),
            ("[::1]", 80),
            ("internal.example", 443),
            ("a.internal.example", 443),
            ("x.corp", 8080),
            ("10.1.2.3", 443),
            ("[fd00::1]", 443),
            ("192.168.1.5", 5000),
        ] {
            assert!(excluded(list, host, port), "{host}:{port}");
        }
        for (host, port) in
            [("notinternal.example", 443), ("x.corp", 443), ("11.0.0.1", 443), ("192.168.1.5", 443)]
        {
            assert!(!excluded(list, host, port), "{host}:{port}");
        }
        assert!(excluded("*", "a", 1) && !excluded("", "a", 1));
    }

    #[test]
    fn proxies_are_parsed() {
        let p = parse("http://me:p%40ss@proxy.example:3128").unwrap();
        assert_eq!((p.host.as_str(), p.port), ("proxy.example", 3128));
        assert_eq!(p.authorization.unwrap(), "Basic bWU6cEBzcw==");
        assert_eq!(parse("proxy.example").unwrap().port, 80);
        assert!(parse("socks5://x").is_err());
    }
}
