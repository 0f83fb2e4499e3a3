//! What the daemon itself takes out of a configuration, with defaults filled in and flags on top.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::Document;
use super::{Config, Error, schema};
use crate::args::Flags;

/// A unix socket and who owns it; the daemon's own user where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub path: PathBuf,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// gRPC over TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    pub address: String,
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub root: PathBuf,
    pub state: PathBuf,
    /// Where temporary files go, empty for the system's choice.
    pub temp: PathBuf,
    pub grpc: Endpoint,
    pub ttrpc: Endpoint,
    pub tcp: Option<Tcp>,
    /// Address of the debug endpoint (a path, or host and port), empty for none.
    pub debug: String,
    pub debug_owner: (Option<u32>, Option<u32>),
    /// Address of the metrics endpoint, empty for none.
    pub metrics: String,
    pub histogram: bool,
    pub level: String,
    pub format: Format,
    pub oom_score: i32,
    pub cgroup: String,
    pub disabled: Vec<String>,
    pub required: Vec<String>,
    pub timeouts: BTreeMap<String, Duration>,
    pub stream_processors: BTreeMap<String, toml::Table>,
    pub plugins: BTreeMap<String, toml::Table>,
}

impl Settings {
    pub fn new(config: &Config, flags: &Flags) -> Result<Self, Error> {
        let read = Reader(&config.document);
        let root = flags.root.as_deref().map(absolute).transpose()?;
        let state = flags.state.as_deref().map(absolute).transpose()?;
        let grpc = read.endpoint(super::SERVER_GRPC);
        let address = flags.address.clone().map(|a| strip(&a)).unwrap_or(grpc.path);
        let address =
            if address.as_os_str().is_empty() { PathBuf::from(super::DEFAULT_ADDRESS) } else { address };
        let grpc = Endpoint { path: address, ..grpc };
        let mut ttrpc = read.endpoint(super::SERVER_TTRPC);
        // Beside the gRPC socket, also where a flag has moved that one: shims and clients look for it there.
        if ttrpc.path.as_os_str().is_empty() || flags.address.is_some() {
            let mut beside = grpc.path.clone().into_os_string();
            beside.push(".ttrpc");
            ttrpc.path = beside.into();
            (ttrpc.uid, ttrpc.gid) = (ttrpc.uid.or(grpc.uid), ttrpc.gid.or(grpc.gid));
        }
        let settings = Self {
            root: root.unwrap_or_else(|| read.path(&["root"], super::DEFAULT_ROOT)),
            state: state.unwrap_or_else(|| read.path(&["state"], super::DEFAULT_STATE)),
            temp: read.path(&["temp"], ""),
            grpc,
            ttrpc,
            tcp: read.tcp(),
            debug: read.text(&["plugins", super::SERVER_DEBUG, "address"]),
            debug_owner: read.owner(super::SERVER_DEBUG),
            metrics: read.text(&["plugins", super::SERVER_METRICS, "address"]),
            histogram: read.flag(&["plugins", super::GRPC_METRICS, "grpc_histogram"]),
            level: flags.log_level.clone().unwrap_or_else(|| read.text(&["debug", "level"])),
            format: if read.text(&["debug", "format"]) == "json" { Format::Json } else { Format::Text },
            oom_score: read.whole(&["oom_score"]).unwrap_or(0) as i32,
            cgroup: read.text(&["cgroup", "path"]),
            disabled: read.texts(&["disabled_plugins"]),
            required: read.texts(&["required_plugins"]),
            timeouts: read.timeouts(),
            stream_processors: read.tables("stream_processors"),
            plugins: read.tables("plugins"),
        };
        settings.sound(&config.document)
    }

    fn sound(self, document: &Document) -> Result<Self, Error> {
        let bad = |key: &str, why: String| {
            let place = document.place(&[key.to_owned()]).cloned();
            Err(Error::Value { place, key: key.to_owned(), why })
        };
        if self.root == self.state {
            return bad(
                "state",
                format!("root and state must be different, both are {}", self.root.display()),
            );
        }
        if !schema::LEVELS.contains(&self.level.as_str()) {
            return bad(
                "log-level",
                format!("{:?} is none of {}", self.level, schema::LEVELS[1..].join(", ")),
            );
        }
        if self.grpc.path == self.ttrpc.path {
            return bad("ttrpc.address", format!("gRPC and ttrpc cannot share {}", self.grpc.path.display()));
        }
        for path in [&self.grpc.path, &self.ttrpc.path] {
            // sockaddr_un has 108 bytes with the final zero.
            if path.as_os_str().len() > 107 {
                return bad(
                    "grpc.address",
                    format!("{} is too long for a socket: 107 bytes at most", path.display()),
                );
            }
        }
        if let Some(tcp) = &self.tcp {
            let tls = !tcp.certificate.as_os_str().is_empty();
            let loopback = tcp.address.starts_with("127.")
                || tcp.address.starts_with("[::1]")
                || tcp.address.starts_with("localhost:");
            if !tls && !loopback {
                let why = "without tls_cert and tls_key everybody on the network would be root here; use a loopback address or TLS";
                return bad(super::SERVER_TCP, why.to_owned());
            }
            if tls && tcp.key.as_os_str().is_empty() {
                return bad(super::SERVER_TCP, "tls_cert needs tls_key".to_owned());
            }
        }
        Ok(self)
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Read { file: path.to_owned(), source })
}

fn strip(address: &Path) -> PathBuf {
    let text = address.to_string_lossy();
    let bare = PathBuf::from(text.strip_prefix("unix://").unwrap_or(&text));
    std::path::absolute(&bare).unwrap_or(bare)
}

/// Values that the schema has checked, so a wrong type is an absent value.
struct Reader<'a>(&'a Document);

impl Reader<'_> {
    fn text(&self, path: &[&str]) -> String {
        self.0.get(path).and_then(toml::Value::as_str).unwrap_or_default().to_owned()
    }

    fn path(&self, path: &[&str], default: &str) -> PathBuf {
        let text = self.text(path);
        PathBuf::from(if text.is_empty() { default } else { &text })
    }

    fn whole(&self, path: &[&str]) -> Option<i64> {
        self.0.get(path).and_then(toml::Value::as_integer)
    }

    fn flag(&self, path: &[&str]) -> bool {
        self.0.get(path).and_then(toml::Value::as_bool).unwrap_or_default()
    }

    fn texts(&self, path: &[&str]) -> Vec<String> {
        let items = self.0.get(path).and_then(toml::Value::as_array);
        items.into_iter().flatten().filter_map(|i| i.as_str().map(str::to_owned)).collect()
    }

    fn owner(&self, uri: &str) -> (Option<u32>, Option<u32>) {
        let id = |key| self.whole(&["plugins", uri, key]).and_then(|id| u32::try_from(id).ok());
        (id("uid"), id("gid"))
    }

    fn endpoint(&self, uri: &str) -> Endpoint {
        let (uid, gid) = self.owner(uri);
        Endpoint { path: self.path(&["plugins", uri, "address"], ""), uid, gid }
    }

    fn tcp(&self) -> Option<Tcp> {
        let text = |key| self.text(&["plugins", super::SERVER_TCP, key]);
        let tcp = Tcp {
            address: text("address"),
            ca: text("tls_ca").into(),
            certificate: text("tls_cert").into(),
            key: text("tls_key").into(),
        };
        (!tcp.address.is_empty()).then_some(tcp)
    }

    fn timeouts(&self) -> BTreeMap<String, Duration> {
        let table = self.0.get(&["timeouts"]).and_then(toml::Value::as_table);
        let entries = table.into_iter().flatten();
        entries.filter_map(|(k, v)| Some((k.clone(), windlass_core::duration::parse(v.as_str()?)?))).collect()
    }

    fn tables(&self, key: &str) -> BTreeMap<String, toml::Table> {
        let table = self.0.get(&[key]).and_then(toml::Value::as_table);
        table.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_table()?.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str, flags: &Flags) -> Result<Settings, Error> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        Settings::new(&super::super::load(Some(&file), &[])?, flags)
    }

    #[test]
    fn defaults_need_no_file() {
        let settings = Settings::new(&super::super::load(None, &[]).unwrap(), &Flags::default()).unwrap();
        assert_eq!(settings.root, Path::new("/var/lib/windlass"));
        assert_eq!(settings.state, Path::new("/run/windlass"));
        assert_eq!(settings.grpc.path, Path::new("/run/windlass/windlass.sock"));
        assert_eq!(settings.ttrpc.path, Path::new("/run/windlass/windlass.sock.ttrpc"));
        assert_eq!(settings.tcp, None);
    }

    #[test]
    fn flags_win() {
        let flags = Flags {
            address: Some("/f.sock".into()),
            root: Some("/f".into()),
            log_level: Some("debug".into()),
            ..Flags::default()
        };
        let text = "version = 3\nroot = \"/c\"\nstate = \"/s\"\n[grpc]\naddress = \"/c.sock\"\ngid = 5\n[debug]\nlevel = \"warn\"\nformat = \"json\"\n";
        let settings = settings(text, &flags).unwrap();
        assert_eq!((settings.root.as_path(), settings.state.as_path()), (Path::new("/f"), Path::new("/s")));
        assert_eq!(settings.grpc, Endpoint { path: "/f.sock".into(), uid: None, gid: Some(5) });
        assert_eq!(settings.ttrpc.path, Path::new("/f.sock.ttrpc"));
        assert_eq!((settings.level.as_str(), settings.format), ("debug", Format::Json));
    }

    #[test]
    fn unsound_settings_are_refused() {
        let same = settings("version = 3\nroot = \"/a\"\nstate = \"/a\"\n", &Flags::default());
        assert!(same.unwrap_err().to_string().contains("must be different"));
        let open = settings("version = 3\n[grpc]\ntcp_address = \"0.0.0.0:1\"\n", &Flags::default());
        assert!(open.unwrap_err().to_string().contains("TLS"));
        let level = Flags { log_level: Some("loud".into()), ..Flags::default() };
        assert!(settings("version = 3\n", &level).is_err());
        let long = format!("version = 3\n[grpc]\naddress = \"/{}\"\n", "x".repeat(200));
        assert!(settings(&long, &Flags::default()).is_err());
    }
}
