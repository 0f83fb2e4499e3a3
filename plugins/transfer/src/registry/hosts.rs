//! `hosts.toml`: which hosts serve a registry's images, in which order, how they are reached and what they are asked.
//!
//! The format is containerd's (`docs/hosts.md`); a directory without `hosts.toml` may hold Docker's certificate files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Value;

use super::error::{Error, Result};
use super::tls::Tls;

/// Largest `hosts.toml` that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub pull: bool,
    pub resolve: bool,
    pub push: bool,
}

impl Capabilities {
    pub const ALL: Self = Self { pull: true, resolve: true, push: true };
}

/// A host as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// `http` or `https`.
    pub scheme: String,
    /// Host with port.
    pub host: String,
    /// Root of the API: `/v2` unless overridden.
    pub path: String,
    pub capabilities: Capabilities,
    /// `None` where nothing of it is configured.
    pub tls: Option<Tls>,
    pub headers: Vec<(String, String)>,
    pub dial_timeout: Option<Duration>,
}

/// The hosts that serve images of `host`, in order. `dirs` are the roots of `hosts.toml` trees, several joined by colons;
/// `scheme` overrides the rule for a host that no file says anything of.
pub fn load(dirs: &str, host: &str, scheme: &str) -> Result<Vec<HostConfig>> {
    let mut hosts = match directory(dirs, host)? {
        Some(dir) => read_dir(&dir)?,
        None => vec![HostConfig::default()],
    };
    if let Some(last) = hosts.last_mut()
        && last.host.is_empty()
    {
        fill_default(last, host, scheme);
    }
    Ok(hosts)
}

/// The rule for a registry itself: Docker Hub's real name; loopback by HTTP where the port does not say HTTPS, with
/// HTTPS tried first and any certificate accepted; else HTTPS.
fn fill_default(target: &mut HostConfig, host: &str, scheme: &str) {
    target.path = "/v2".into();
    target.capabilities = Capabilities::ALL;
    if host == "docker.io" {
        target.scheme = "https".into();
        target.host = "registry-1.docker.io".into();
        return;
    }
    target.host = host.into();
    if !scheme.is_empty() {
        target.scheme = scheme.into();
        return;
    }
    target.scheme = "https".into();
    if is_loopback(host) {
        let port = port_of(host);
        if !matches!(port, None | Some(443)) {
            target.scheme = "http".into();
        }
        if port != Some(80) {
            target.tls.get_or_insert_default().skip_verify.get_or_insert(true);
        }
    }
}

pub fn port_of(host: &str) -> Option<u16> {
    host.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((inside, _)) => inside,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The first directory that is there: `host_port_`, `host:port`, `_default`, in each root.
fn directory(dirs: &str, host: &str) -> Result<Option<PathBuf>> {
    if host.contains(['/', '\0']) || host.starts_with('.') {
        return Err(Error::Config(format!("registry host {host:?} cannot be looked up in a directory")));
    }
    let with_port =
        host.rsplit_once(':').filter(|(name, _)| !name.is_empty()).map(|(n, p)| format!("{n}_{p}_"));
    for root in dirs.split(':').filter(|d| !d.is_empty()) {
        for name in with_port.as_deref().into_iter().chain([host, "_default"]) {
            let dir = Path::new(root).join(name);
            match std::fs::metadata(&dir) {
                Ok(_) => return Ok(Some(dir)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::Config(format!("read {}: {e}", dir.display()))),
            }
        }
    }
    Ok(None)
}

fn read_dir(dir: &Path) -> Result<Vec<HostConfig>> {
    let file = dir.join("hosts.toml");
    let failed = |e: std::io::Error| Error::Config(format!("read {}: {e}", file.display()));
    match std::fs::metadata(&file) {
        Ok(meta) if meta.len() > MAX_FILE => {
            return Err(Error::Config(format!("{} is larger than {MAX_FILE} bytes", file.display())));
        }
        Ok(meta) if meta.len() > 0 => {}
        Ok(_) => return certificates(dir),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return certificates(dir),
        Err(e) => return Err(failed(e)),
    }
    let text = std::fs::read_to_string(&file).map_err(failed)?;
    match parse(dir, &text) {
        Ok(hosts) => Ok(hosts),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "hosts.toml cannot be used");
            certificates(dir)
        }
    }
}

fn parse(dir: &Path, text: &str) -> Result<Vec<HostConfig>> {
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| Error::Config(e.message().to_owned()))?;
    let empty = toml::Table::new();
    let of_hosts = match table.get("host") {
        None => &empty,
        Some(Value::Table(hosts)) => hosts,
        Some(_) => return Err(Error::Config("\"host\" must be a table".into())),
    };
    let mut hosts = Vec::new();
    for name in order(text, of_hosts) {
        let Some(Value::Table(config)) = of_hosts.get(&name) else {
            return Err(Error::Config(format!("host {name:?} must be a table")));
        };
        hosts.push(host(dir, &name, config)?);
    }
    let server = match table.get("server") {
        None => "",
        Some(Value::String(server)) => server,
        Some(_) => return Err(Error::Config("\"server\" must be a string".into())),
    };
    hosts.push(host(dir, server, &table)?);
    Ok(hosts)
}

/// Names of the host tables as they follow each other in the file; a table of values has lost that order.
fn order(text: &str, hosts: &toml::Table) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim_start().strip_prefix('[') else { continue };
        // The header itself is a key: as a document of its own it parses to nested tables.
        let header =
            format!("[{}", rest.split_once('#').filter(|(k, _)| quotes_even(k)).map_or(rest, |(k, _)| k));
        let Ok(parsed) = header.trim_end().parse::<toml::Table>() else { continue };
        let Some(Value::Table(inner)) = parsed.get("host") else { continue };
        if let Some(name) = inner.keys().next()
            && hosts.contains_key(name)
            && !names.contains(name)
        {
            names.push(name.clone());
        }
    }
    // Hosts that no header names (inline tables) come last.
    names.extend(hosts.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
    names
}

fn quotes_even(text: &str) -> bool {
    text.matches(['"', '\'']).count().is_multiple_of(2)
}

fn host(dir: &Path, server: &str, config: &toml::Table) -> Result<HostConfig> {
    let mut result = HostConfig::default();
    let flag = |key: &str| match config.get(key) {
        None => Ok(None),
        Some(Value::Boolean(b)) => Ok(Some(*b)),
        Some(_) => Err(Error::Config(format!("{key:?} must be true or false"))),
    };
    if !server.is_empty() {
        let override_path = flag("override_path")?.unwrap_or_default();
        (result.scheme, result.host, result.path) = address(server, override_path)?;
    }
    result.capabilities = match config.get("capabilities") {
        None => Capabilities::ALL,
        Some(value) => capabilities(&strings(value, "capabilities")?)?,
    };
    let ca = match config.get("ca") {
        None => Vec::new(),
        Some(value) => strings(value, "ca")?.iter().map(|p| dir.join(p)).collect(),
    };
    let client = match config.get("client") {
        None => Vec::new(),
        Some(value) => pairs(dir, value)?,
    };
    let tls = Tls { ca, client, skip_verify: flag("skip_verify")? };
    result.tls = (tls != Tls::default()).then_some(tls);
    if let Some(value) = config.get("header") {
        let Value::Table(headers) = value else {
            return Err(Error::Config("\"header\" must be a table".into()));
        };
        for (name, value) in headers {
            let values = strings(value, "header")?;
            result.headers.extend(values.into_iter().map(|v| (name.clone(), v)));
        }
    }
    result.dial_timeout = match config.get("dial_timeout") {
        None => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(
            windlass_core::duration::parse(text)
                .ok_or_else(|| Error::Config(format!("dial_timeout {text:?} is no duration")))?,
        ),
        Some(_) => return Err(Error::Config("\"dial_timeout\" must be a string".into())),
    };
    Ok(result)
}

fn address(server: &str, override_path: bool) -> Result<(String, String, String)> {
    let full = if server.starts_with("http") { server.to_owned() } else { format!("https://{server}") };
    let bad = |why: &str| Error::Config(format!("unable to parse server {server}: {why}"));
    let (scheme, rest) = full.split_once("://").ok_or_else(|| bad("no scheme"))?;
    if !matches!(scheme, "http" | "https") {
        return Err(bad("neither http nor https"));
    }
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = host.rsplit_once('@').map_or(host, |(_, h)| h);
    if host.is_empty() || path.contains(['?', '#']) {
        return Err(bad("no host, or a query"));
    }
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.contains(&"..") {
        return Err(bad("'..' in the path"));
    }
    let mut clean: String = parts.iter().flat_map(|p| ["/", p]).collect();
    if !override_path && parts.last() != Some(&"v2") {
        clean.push_str("/v2");
    }
    Ok((scheme.to_owned(), host.to_owned(), clean))
}

fn capabilities(names: &[String]) -> Result<Capabilities> {
    if names.is_empty() {
        return Ok(Capabilities::ALL);
    }
    let mut result = Capabilities::default();
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "pull" => result.pull = true,
            "resolve" => result.resolve = true,
            "push" => result.push = true,
            "referrers" => {}
            _ => return Err(Error::Config(format!("unknown capability {name}"))),
        }
    }
    Ok(result)
}

/// A string, or a list of strings.
fn strings(value: &Value, key: &str) -> Result<Vec<String>> {
    let one = |v: &Value| match v {
        Value::String(s) => Ok(s.clone()),
        other => Err(Error::Config(format!("invalid type {} for {key:?}", other.type_str()))),
    };
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

/// A file, files, or pairs of certificate and key.
fn pairs(dir: &Path, value: &Value) -> Result<Vec<(PathBuf, Option<PathBuf>)>> {
    let Value::Array(list) = value else {
        return Ok(strings(value, "client")?.iter().map(|p| (dir.join(p), None)).collect());
    };
    let mut result = Vec::new();
    for item in list {
        let files = strings(item, "client")?;
        match (item, files.as_slice()) {
            (Value::Array(_), [cert, key]) => {
                let key = (!key.is_empty()).then(|| dir.join(key));
                result.push((dir.join(cert), key));
            }
            (Value::String(_), [cert]) => result.push((dir.join(cert), None)),
            _ => return Err(Error::Config("\"client\" must be pairs of certificate and key".into())),
        }
    }
    Ok(result)
}

/// Docker's `certs.d`: `.crt` are authorities, `.cert` with `.key` are client certificates.
fn certificates(dir: &Path) -> Result<Vec<HostConfig>> {
    let mut tls = Tls::default();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![HostConfig::default()]),
        Err(e) => return Err(Error::Config(format!("read {}: {e}", dir.display()))),
    };
    let mut files: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| !p.is_dir()).collect();
    files.sort();
    for file in files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.ca.push(file),
            Some("cert") => {
                let key = file.with_extension("key");
                tls.client.push((file, key.exists().then_some(key)));
            }
            _ => {}
        }
    }
    Ok(vec![HostConfig { tls: (tls != Tls::default()).then_some(tls), ..HostConfig::default() }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, host: &str, name: &str, text: &str) {
        std::fs::create_dir_all(dir.join(host)).unwrap();
        std::fs::write(dir.join(host).join(name), text).unwrap();
    }

    #[test]
    fn hosts_come_in_the_files_order() {
        let root = tempfile::tempdir().unwrap();
        let text = r#"
            server = "https://upstream.example"
            [host."https://z.example"] # first
              capabilities = ["pull", "resolve"]
              skip_verify = true
            [host."https://z.example".header]
              x-one = ["1", "2"]
            [host."http://a.example:5000/base"]
              ca = "a.crt"
              client = [["c.cert", "c.key"], "both.pem"]
              dial_timeout = "1m0.5s"
              override_path = true
            [host."m.example"]
        "#;
        write(root.path(), "reg.example_5000_", "hosts.toml", text);
        let hosts = load(root.path().to_str().unwrap(), "reg.example:5000", "").unwrap();
        let at: Vec<_> = hosts.iter().map(|h| format!("{}://{}{}", h.scheme, h.host, h.path)).collect();
        assert_eq!(
            at,
            [
                "https://z.example/v2",
                "http://a.example:5000/base",
                "https://m.example/v2",
                "https://upstream.example/v2"
            ]
        );
        assert!(!hosts[0].capabilities.push && hosts[0].capabilities.resolve);
        assert_eq!(hosts[0].tls.as_ref().unwrap().skip_verify, Some(true));
        assert_eq!(hosts[0].headers.len(), 2);
        let tls = hosts[1].tls.as_ref().unwrap();
        assert_eq!((tls.ca.len(), tls.client.len()), (1, 2));
        assert!(tls.ca[0].starts_with(root.path()));
        assert_eq!(hosts[1].dial_timeout, Some(Duration::from_millis(60_500)));
    }

    #[test]
    fn without_a_file_the_rule_holds() {
        let of = |host: &str, scheme: &str| load("", host, scheme).unwrap().remove(0);
        assert_eq!(of("docker.io", "").host, "registry-1.docker.io");
        assert_eq!(
            (of("127.0.0.1:5000", "").scheme.as_str(), of("ghcr.io", "").scheme.as_str()),
            ("http", "https")
        );
        assert!(of("localhost:5000", "").tls.unwrap().skip_verify.unwrap());
        assert!(of("localhost:80", "").tls.is_none());
        assert_eq!(of("localhost", "").scheme, "https");
        assert_eq!(of("reg.example", "http").scheme, "http");
        assert!(of("127.0.0.1:5000", "http").tls.is_none());
        assert!(load("/nowhere", "../x", "").is_err());
    }

    #[test]
    fn certificates_and_defaults_are_found() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "_default", "ca.crt", "");
        write(root.path(), "_default", "me.cert", "");
        write(root.path(), "_default", "me.key", "");
        let host = load(&format!("/nowhere:{}", root.path().display()), "reg.example", "").unwrap().remove(0);
        assert_eq!(host.host, "reg.example");
        let tls = host.tls.unwrap();
        assert_eq!((tls.ca.len(), tls.client[0].1.is_some()), (1, true));
        write(root.path(), "broken.example", "hosts.toml", "server = 3");
        assert_eq!(
            load(root.path().to_str().unwrap(), "broken.example", "").unwrap()[0].host,
            "broken.example"
        );
    }
}
