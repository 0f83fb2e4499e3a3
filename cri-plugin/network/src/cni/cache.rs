//! What is remembered of each attachment, so that it can be checked and undone by a later process and after the
//! configuration has changed. The files are those of libcni (`cniCacheV1`): its tools understand them.
//!
//! A file without a result is written before the first plugin runs: an ADD that was cut off is undone like any other.
//! These functions block.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

const KIND: &str = "cniCacheV1";
/// How the names of files begin that are being written.
const TEMPORARY: &str = ".new-";
/// Larger files are none of ours.
const MAX_FILE: u64 = 8 << 20;

/// An attachment: a network, a pod and the interface that connects them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    kind: String,
    pub container_id: String,
    /// The network's configuration, in base64.
    #[serde(default, deserialize_with = "nullable")]
    config: String,
    pub if_name: String,
    pub network_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub netns: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub cni_args: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Map::is_empty", deserialize_with = "nullable")]
    pub capability_args: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Of the configuration's plugins, by their places, those that were done by what is built in. A key of ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builtin: Vec<usize>,
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(de: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(de)?.unwrap_or_default())
}

impl Entry {
    pub fn new(network: &str, config: &[u8], pod: &str, interface: &str) -> Self {
        Self {
            kind: KIND.into(),
            container_id: pod.into(),
            config: STANDARD.encode(config),
            if_name: interface.into(),
            network_name: network.into(),
            ..Self::default()
        }
    }

    /// The configuration that the attachment was made with.
    pub fn config(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.config).ok()
    }

    fn file_name(&self) -> String {
        format!("{}-{}-{}", self.network_name, self.container_id, self.if_name)
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Deletes what a process that was killed left half written. Only before any other use.
    pub fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn results(&self) -> PathBuf {
        self.dir.join("results")
    }

    /// Writes a file whole or not at all.
    pub fn store(&self, entry: &Entry) -> Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let bytes = serde_json::to_vec(entry).expect("JSON that was read can be written");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not among the results: tools read everything that is there.
        let temporary = self.dir.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        let path = self.results().join(entry.file_name());
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&bytes)?;
            fs::rename(&temporary, &path)
        };
        let outcome = match write() {
            // The first of all.
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(self.results())
                .and_then(|()| write()),
            outcome => outcome,
        };
        outcome.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            Error::io("write", path)(source)
        })
    }

    pub fn remove(&self, entry: &Entry) -> Result<()> {
        let path = self.results().join(entry.file_name());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", path)(e)),
            _ => Ok(()),
        }
    }

    /// The attachments of a pod by their interfaces, or of all pods. A file that cannot be read is passed over.
    pub fn list(&self, pod: Option<&str>) -> Result<Vec<Entry>> {
        let dir = self.results();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", dir)(e)),
        };
        let part = pod.map(|pod| format!("-{pod}-"));
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &dir))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if part.as_ref().is_some_and(|part| !name.contains(part)) {
                continue;
            }
            match read(&entry.path()) {
                Ok(read) if read.file_name() == name && pod.is_none_or(|pod| pod == read.container_id) => {
                    found.push(read);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(name, %error, "not a cached attachment"),
            }
        }
        found.sort_by(|a, b| (a.if_name.len(), &a.if_name).cmp(&(b.if_name.len(), &b.if_name)));
        Ok(found)
    }
}

fn read(path: &Path) -> io::Result<Entry> {
    let file =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    let entry: Entry = serde_json::from_slice(&bytes)?;
    if entry.kind == KIND { Ok(entry) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(pod: &str, interface: &str) -> Entry {
        Entry::new("net-a", br#"{"name":"net-a"}"#, pod, interface)
    }

    #[test]
    fn the_file_is_what_libcni_writes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("deep/cache"));
        let mut one = entry("pod1", "eth0");
        one.netns = "/run/netns/x".into();
        one.cni_args = vec![("IgnoreUnknown".into(), "1".into())];
        one.capability_args.insert("mac".into(), "aa".into());
        one.result = Some(json!({"cniVersion": "1.0.0"}));
        cache.store(&one).unwrap();
        let text = fs::read_to_string(dir.path().join("deep/cache/results/net-a-pod1-eth0")).unwrap();
        let expected = json!({
            "kind": "cniCacheV1", "containerId": "pod1", "config": "eyJuYW1lIjoibmV0LWEifQ==", "ifName": "eth0",
            "networkName": "net-a", "netns": "/run/netns/x", "cniArgs": [["IgnoreUnknown", "1"]],
            "capabilityArgs": {"mac": "aa"}, "result": {"cniVersion": "1.0.0"},
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        assert_eq!(cache.list(Some("pod1")).unwrap(), [one.clone()]);
        assert_eq!(one.config().unwrap(), br#"{"name":"net-a"}"#);
        cache.remove(&one).unwrap();
        cache.remove(&one).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("deep/cache")).unwrap().count(), 1);
    }

    #[test]
    fn a_pod_finds_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().into());
        assert!(cache.list(None).unwrap().is_empty());
        for (pod, interface) in [("pod1", "eth10"), ("pod1", "eth2"), ("pod1-x", "eth0"), ("x-pod1", "eth0")]
        {
            cache.store(&entry(pod, interface)).unwrap();
        }
        fs::write(dir.path().join("results/net-pod1-eth9"), "garbage").unwrap();
        fs::write(
            dir.path().join("results/other-pod1-eth9"),
            serde_json::to_vec(&entry("pod1", "eth9")).unwrap(),
        )
        .unwrap();
        let of = |pod| cache.list(Some(pod)).unwrap().into_iter().map(|e| e.if_name).collect::<Vec<_>>();
        assert_eq!(of("pod1"), ["eth2", "eth10"]);
        assert_eq!(of("pod1-x"), ["eth0"]);
        assert_eq!(cache.list(None).unwrap().len(), 4);
    }
}
