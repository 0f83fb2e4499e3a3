//! containerd's deprecated `registry.mirrors`, as the `hosts.toml` tree that says the same.

use std::path::Path;

use toml::Value;
use windlass_core::{Error, Result};

use super::auth::host_of;
use super::config::ImagesConfig;

/// Of all other registries.
const ANY: &str = "*";

/// The directories of `hosts.toml` trees that pulls use; a tree made of mirrors lies below `state`. Blocks, a little.
pub fn directories(config: &ImagesConfig, state: &Path) -> Result<String> {
    if config.registry.mirrors.is_empty() {
        return Ok(config.host_dirs().to_owned());
    }
    let root = state.join("mirrors");
    let failed = |e| Error::io(format!("write mirrors below {}", root.display()), e);
    // Those of an earlier configuration go.
    windlass_core::tree::remove_path(&root).map_err(failed)?;
    for (host, mirror) in &config.registry.mirrors {
        if host.is_empty() || host.contains('/') || host.starts_with('.') {
            return Err(Error::invalid(format!("registry.mirrors: {host:?} is no registry's host")));
        }
        let dir = root.join(if host == ANY { "_default" } else { host });
        std::fs::create_dir_all(&dir).map_err(failed)?;
        std::fs::write(dir.join("hosts.toml"), file(host, &mirror.endpoint)?).map_err(failed)?;
    }
    root.to_str().map(str::to_owned).ok_or_else(|| Error::invalid("the state directory's name is not UTF-8"))
}

/// Endpoints in their order, then the registry itself. Written by hand: a table would sort them.
fn file(host: &str, endpoints: &[String]) -> Result<String> {
    let mut text = String::new();
    if host != ANY {
        let server = if host == "docker.io" { "registry-1.docker.io" } else { host };
        text = format!("server = {}\n", Value::from(with_scheme(server)));
    }
    for endpoint in endpoints {
        if host_of(endpoint).is_empty() || endpoint.contains(char::is_control) {
            return Err(Error::invalid(format!(
                "registry.mirrors: endpoint {endpoint:?} is no registry's address"
            )));
        }
        let url = Value::from(with_scheme(endpoint));
        text.push_str(&format!("[host.{url}]\ncapabilities = [\"pull\", \"resolve\"]\n"));
    }
    Ok(text)
}

fn with_scheme(address: &str) -> String {
    match address.contains("://") {
        true => address.to_owned(),
        false if is_local(host_of(address)) => format!("http://{address}"),
        false => format!("https://{address}"),
    }
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_become_files() {
        let dir = tempfile::tempdir().unwrap();
        let config: ImagesConfig = toml::from_str(
            "[registry.mirrors.'docker.io']\nendpoint = ['https://m.io/v2', 'localhost:5000']\n[registry.mirrors.'*']\nendpoint = ['http://all:1']",
        )
        .unwrap();
        let made = directories(&config, dir.path()).unwrap();
        let read =
            |host: &str| std::fs::read_to_string(Path::new(&made).join(host).join("hosts.toml")).unwrap();
        let hub = read("docker.io");
        let table: toml::Table = hub.parse().unwrap();
        assert_eq!(table["server"].as_str(), Some("https://registry-1.docker.io"));
        assert!(hub.find("https://m.io/v2").unwrap() < hub.find("http://localhost:5000").unwrap(), "{hub}");
        assert_eq!(read("_default").lines().next(), Some("[host.\"http://all:1\"]"));
        for bad in ["'../x' = { endpoint = [] }", "a = { endpoint = ['https://'] }"] {
            let config: ImagesConfig = toml::from_str(&format!("[registry.mirrors]\n{bad}")).unwrap();
            assert!(directories(&config, dir.path()).is_err(), "{bad}");
        }
    }
}
