//! Docker's config.json: `auths`, `credHelpers` and `credsStore`, as Docker's command line keeps them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Credentials, helper, normalized};

/// Largest config.json that is read.
const LIMIT: u64 = 1 << 20;
/// The key under which Docker keeps the credentials of its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// `$DOCKER_CONFIG/config.json`, or the one in the home directory.
pub fn path() -> Option<PathBuf> {
    let dir = match std::env::var_os("DOCKER_CONFIG") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(dir.join("config.json"))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What is in the file, as far as it concerns credentials.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct Docker {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

impl Docker {
    /// Reads the file; one that is not there knows nothing.
    pub fn load() -> Result<Self> {
        match path() {
            Some(path) => Self::read(&path),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        match read(path)? {
            // Docker's own error would show what stands in the file: ours says where.
            Some(text) => serde_json::from_slice(&text).map_err(|e| {
                anyhow::anyhow!("{}: line {}: not Docker's config.json", path.display(), e.line())
            }),
            None => Ok(Self::default()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.auths.is_empty() && self.cred_helpers.is_empty() && self.creds_store.is_empty()
    }

    /// Names of registries, and of the helper that keeps all others.
    pub fn known(&self) -> Vec<String> {
        let mut all: Vec<_> =
            self.auths.keys().chain(self.cred_helpers.keys()).map(|k| normalized(k).to_owned()).collect();
        if !self.creds_store.is_empty() {
            all.push(format!("docker-credential-{}", self.creds_store));
        }
        all.sort();
        all.dedup();
        all
    }

    /// The helper that keeps a host's credentials.
    pub fn helper(&self, host: &str) -> Option<&str> {
        let named = self.cred_helpers.iter().find(|(key, _)| normalized(key) == normalized(host));
        named
            .map(|(_, name)| name.as_str())
            .or((!self.creds_store.is_empty()).then_some(self.creds_store.as_str()))
    }

    /// Credentials of a host: the helper's, else those in the file.
    pub async fn get(&self, host: &str) -> Result<Option<Credentials>> {
        if let Some(name) = self.helper(host)
            && let Some(found) = helper::get(name, &key(host)).await?
        {
            return Ok(Some(found));
        }
        let entry = self.auths.iter().find(|(key, _)| normalized(key) == normalized(host));
        match entry {
            Some((key, entry)) => {
                entry.credentials().with_context(|| format!("{key} in Docker's config.json"))
            }
            None => Ok(None),
        }
    }
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::Bearer(self.registrytoken.clone())));
        }
        if !self.auth.is_empty() {
            let bytes = STANDARD.decode(self.auth.trim()).ok();
            let text = bytes
                .and_then(|b| String::from_utf8(b).ok())
                .context("auth is not base64 of name:password")?;
            let (username, secret) = text.split_once(':').context("auth is not base64 of name:password")?;
            let secret = secret.trim_end_matches('\0').to_owned();
            return Ok(Some(Credentials::Basic { username: username.to_owned(), secret }));
        }
        Ok((!self.username.is_empty())
            .then(|| Credentials::Basic { username: self.username.clone(), secret: self.password.clone() }))
    }
}

/// The key of a host in the file and at helpers.
fn key(host: &str) -> String {
    match normalized(host) {
        "docker.io" => DOCKER_HUB.to_owned(),
        other => other.to_owned(),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let at = || format!("read {}", path.display());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(at),
    };
    let mut text = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut text).with_context(at)?;
    ensure!(text.len() as u64 <= LIMIT, "{} is larger than {LIMIT} bytes", path.display());
    Ok(Some(text))
}

/// Changes the file, keeping all that we do not know. Written beside it and renamed, readable by its owner alone.
fn change(path: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Result<()> {
    let text = read(path)?.unwrap_or_else(|| b"{}".to_vec());
    let mut value: Value = serde_json::from_slice(&text)
        .map_err(|e| anyhow::anyhow!("{}: line {}: not JSON", path.display(), e.line()))?;
    let map = value.as_object_mut().with_context(|| format!("{} is not a JSON object", path.display()))?;
    change(map);
    let dir = path.parent().context("config.json has a directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let fresh = dir.join(format!(".config.json.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(serde_json::to_string_pretty(&value)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().with_context(|| format!("write {}", path.display())).inspect_err(|_| {
        // Best effort: the error is the one above.
        let _ = std::fs::remove_file(&fresh);
    })
}

/// Keeps credentials: at the host's helper, or in the file. Says where.
pub async fn store(path: &Path, host: &str, username: &str, secret: &str) -> Result<String> {
    let docker = Docker::read(path)?;
    if let Some(name) = docker.helper(host) {
        helper::store(name, &key(host), username, secret).await?;
        return Ok(format!("docker-credential-{name}"));
    }
    let auth = STANDARD.encode(format!("{username}:{secret}"));
    change(path, |map| {
        let auths = map.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths[key(host)] = json!({"auth": auth});
    })?;
    Ok(path.display().to_string())
}

/// Forgets a host's credentials everywhere; whether there were any in the file.
pub async fn erase(path: &Path, host: &str) -> Result<bool> {
    let docker = Docker::read(path)?;
    if let Some(name) = docker.helper(host) {
        helper::erase(name, &key(host)).await?;
    }
    let known = docker.auths.keys().any(|k| normalized(k) == normalized(host));
    if known {
        change(path, |map| {
            if let Some(auths) = map.get_mut("auths").and_then(Value::as_object_mut) {
                auths.retain(|k, _| normalized(k) != normalized(host));
            }
        })?;
    }
    Ok(known || docker.helper(host).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credentials_are_found_under_every_name_of_a_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let auth = STANDARD.encode("me:hunter2:x");
        let text = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": auth},
            "https://b.example/v2/": {"identitytoken": "id"},
            "c.example": {"registrytoken": "reg"},
            "d.example": {"auth": "%%%"},
            "e.example": {},
        }, "HttpHeaders": {"x": "y"}});
        std::fs::write(&path, text.to_string()).unwrap();
        let docker = Docker::read(&path).unwrap();
        let basic = Credentials::Basic { username: "me".into(), secret: "hunter2:x".into() };
        assert_eq!(docker.get("registry-1.docker.io").await.unwrap(), Some(basic));
        assert_eq!(docker.get("b.example").await.unwrap(), Some(Credentials::Identity("id".into())));
        assert_eq!(docker.get("c.example").await.unwrap(), Some(Credentials::Bearer("reg".into())));
        let error = format!("{:#}", docker.get("d.example").await.unwrap_err());
        assert!(error.contains("base64") && !error.contains("%%%"), "{error}");
        assert_eq!(docker.get("e.example").await.unwrap(), None);
        assert_eq!(docker.get("f.example").await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_stored_is_found_and_nothing_else_is_lost() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        store(&path, "a.example", "me", "pw").await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        change(&path, |map| drop(map.insert("detachKeys".into(), json!("ctrl-x")))).unwrap();
        store(&path, "docker.io", "you", "pw2").await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("ctrl-x") && text.contains(DOCKER_HUB), "{text}");
        let found = Docker::read(&path).unwrap().get("a.example").await.unwrap();
        assert_eq!(found, Some(Credentials::Basic { username: "me".into(), secret: "pw".into() }));
        assert!(erase(&path, "https://a.example").await.unwrap());
        assert!(!erase(&path, "a.example").await.unwrap());
        assert_eq!(Docker::read(&path).unwrap().get("a.example").await.unwrap(), None);
    }

    #[test]
    fn a_broken_file_is_said_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, "{\"auths\": {\"x\": {\"auth\": c2VjcmV0").unwrap();
        let error = Docker::read(&path).err().unwrap().to_string();
        assert!(error.contains("line 1") && !error.contains("c2VjcmV0"), "{error}");
        assert!(Docker::read(&dir.path().join("none")).unwrap().is_empty());
    }
}
