//! Files of the Container Device Interface: their form, and what makes one valid.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::spec::error::{Error, Result};
use crate::yaml;

const MAX_FILE: u64 = 4 << 20;
const MAX_FILES: usize = 1024;

/// A file: devices of one kind (`vendor/class`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    pub cdi_version: String,
    pub kind: String,
    pub devices: Vec<Device>,
    /// For every container that gets one of the devices.
    #[serde(default)]
    pub container_edits: Edits,
    #[serde(skip)]
    pub path: PathBuf,
    /// Higher ones win.
    #[serde(skip)]
    pub priority: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    pub name: Text,
    #[serde(default)]
    pub container_edits: Edits,
}

/// A name that YAML takes for a number when it is not quoted.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Text {
    Word(String),
    Number(i64),
}

/// What a device changes in a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    pub net_devices: Vec<NetDevice>,
    pub hooks: Vec<Hook>,
    pub mounts: Vec<Mount>,
    pub intel_rdt: Option<serde_json::Map<String, Value>>,
    pub additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNode {
    pub path: String,
    #[serde(default)]
    pub host_path: String,
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub major: u32,
    #[serde(default)]
    pub minor: u32,
    pub file_mode: Option<u32>,
    #[serde(default)]
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetDevice {
    pub host_interface_name: String,
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    pub hook_name: String,
    pub path: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    pub timeout: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    pub host_path: String,
    pub container_path: String,
    #[serde(default)]
    pub options: Vec<String>,
    #[serde(default, rename = "type")]
    pub kind: String,
}

impl Text {
    pub fn to_text(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// All valid files of the directories; what is wrong with the others is logged, for they may not be what is asked for.
pub fn all(dirs: &[impl AsRef<Path>]) -> Vec<File> {
    let mut files = Vec::new();
    for (priority, dir) in dirs.iter().enumerate() {
        let mut paths: Vec<_> =
            fs::read_dir(dir.as_ref()).into_iter().flatten().flatten().map(|e| e.path()).collect();
        paths.retain(|p| matches!(p.extension().and_then(|e| e.to_str()), Some("json" | "yaml")));
        paths.sort();
        for path in paths.into_iter().take(MAX_FILES) {
            match read(&path) {
                Ok(file) => files.push(File { path, priority, ..file }),
                Err(error) => {
                    let error = windlass_core::Error::from(error).chain();
                    tracing::warn!(path = %path.display(), error, "a CDI file is passed over");
                }
            }
        }
    }
    files
}

fn read(path: &Path) -> Result<File> {
    let failed = |e: std::io::Error| Error::io("read", path)(e);
    let mut options = fs::File::options();
    let file =
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err(failed(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "not a file of a sensible size",
        )));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    let json = path.extension().is_some_and(|e| e == "json");
    parse(&text, json).map_err(Error::parse("read", path))
}

/// Reads and checks one file.
pub fn parse(text: &str, json: bool) -> Result<File, String> {
    let value: Value = if json {
        serde_json::from_str(text).map_err(|e| e.to_string())?
    } else {
        yaml::parse(text).map_err(|e| e.to_string())?
    };
    let file = File::deserialize(without_null(value)).map_err(|e| e.to_string())?;
    file.validate()?;
    Ok(file)
}

/// Go writes an absent list as null.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_null(v))).collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_null).collect()),
        other => other,
    }
}

impl File {
    fn validate(&self) -> Result<(), String> {
        let version: Vec<_> = self.cdi_version.trim_start_matches('v').split('.').collect();
        if version.len() != 3 || !matches!(version[0], "0" | "1") {
            return Err(format!("version {:?} is not known", self.cdi_version));
        }
        if !super::valid_kind(&self.kind) {
            return Err(format!("kind {:?} is not vendor/class", self.kind));
        }
        self.container_edits.validate()?;
        for (at, device) in self.devices.iter().enumerate() {
            let name = device.name.to_text();
            if !super::valid_name(&name) {
                return Err(format!("{name:?} is not the name of a device"));
            }
            if self.devices[..at].iter().any(|d| d.name.to_text() == name) {
                return Err(format!("device {name:?} is there twice"));
            }
            device.container_edits.validate()?;
        }
        Ok(())
    }
}

impl Edits {
    fn validate(&self) -> Result<(), String> {
        let hooks = self.hooks.iter().flat_map(|h| &h.env);
        if let Some(variable) =
            self.env.iter().chain(hooks).find(|v| v.contains('\0') || v.find('=').unwrap_or(0) == 0)
        {
            return Err(format!("{variable:?} is not an environment variable"));
        }
        for node in &self.device_nodes {
            if !node.path.starts_with('/') || !matches!(node.kind.as_str(), "" | "b" | "c" | "u" | "p") {
                return Err(format!("device node {:?} has a wrong path or type", node.path));
            }
            if !node.permissions.chars().all(|c| "rwm".contains(c)) {
                return Err(format!("device node {}: permissions are not of r, w and m", node.path));
            }
        }
        for hook in &self.hooks {
            if !super::edits::HOOKS.contains(&hook.hook_name.as_str()) || !hook.path.starts_with('/') {
                return Err(format!("hook {:?} has a wrong name or path", hook.hook_name));
            }
        }
        if let Some(mount) =
            self.mounts.iter().find(|m| m.host_path.is_empty() || m.container_path.is_empty())
        {
            return Err(format!("mount {:?} lacks one of its paths", mount.container_path));
        }
        if self.net_devices.iter().any(|n| n.name.is_empty() || n.host_interface_name.is_empty()) {
            return Err("a network device lacks one of its names".into());
        }
        Ok(())
    }
}
