//! Runtime options: what a client may ask of the shim in `CreateTaskRequest.options`, and `options.json`, which keeps
//! them in the bundle for the `delete` subcommand.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde::{Deserialize, Serialize};
use windlass_api::shim::runc;

use crate::error::{Context, Error, Result};

/// Where runtimes keep their state unless options say otherwise.
pub const DEFAULT_ROOT: &str = "/run/containerd/runc";
const FILE: &str = "options.json";
const URL: &str = "containerd.runc.v1.Options";

/// `containerd.runc.v1.Options`; the names in JSON are those that containerd's shim writes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    #[serde(skip_serializing_if = "is_default")]
    pub no_pivot_root: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub no_new_keyring: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub shim_cgroup: String,
    #[serde(skip_serializing_if = "is_default")]
    pub io_uid: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub io_gid: u32,
    /// Empty: the embedded runtime.
    #[serde(skip_serializing_if = "is_default")]
    pub binary_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub root: String,
    #[serde(skip_serializing_if = "is_default")]
    pub systemd_cgroup: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub criu_image_path: String,
    #[serde(skip_serializing_if = "is_default")]
    pub criu_work_path: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The last part of a type url, without the host that some languages put before it.
pub fn type_name(any: &Any) -> &str {
    any.type_url.rsplit_once('/').map_or(any.type_url.as_str(), |(_, name)| name)
}

impl Options {
    /// Reads the options of a request. No options, or an empty value, are the defaults; another type, or an option
    /// that this shim cannot honour, is an error.
    pub fn from_any(any: Option<&Any>) -> Result<Options> {
        let Some(any) = any.filter(|any| !any.value.is_empty()) else { return Ok(Options::default()) };
        if type_name(any) != URL {
            return Err(Error::invalid(format!("unsupported option type {:?}, want {URL}", any.type_url)));
        }
        let wire = runc::Options::parse_from_bytes(&any.value)
            .map_err(|error| Error::invalid(format!("read runtime options: {error}")))?;
        if !wire.task_api_address.is_empty() || wire.task_api_version != 0 {
            // A task API elsewhere means a sandboxer, not this shim.
            return Err(Error::unimplemented("option task_api_address: tasks are served by the shim itself"));
        }
        Ok(Options {
            no_pivot_root: wire.no_pivot_root,
            no_new_keyring: wire.no_new_keyring,
            shim_cgroup: wire.shim_cgroup,
            io_uid: wire.io_uid,
            io_gid: wire.io_gid,
            binary_name: wire.binary_name,
            root: wire.root,
            systemd_cgroup: wire.systemd_cgroup,
            criu_image_path: wire.criu_image_path,
            criu_work_path: wire.criu_work_path,
        })
    }

    /// The directory in which the runtime keeps the containers of a namespace.
    pub fn state_root(&self, namespace: &str) -> PathBuf {
        let root = if self.root.is_empty() { DEFAULT_ROOT } else { &self.root };
        Path::new(root).join(namespace)
    }

    /// Where the embedded runtime keeps its state: in the bundle unless the options name a place, so that daemons with
    /// private directories never meet.
    pub fn embedded_root(&self, namespace: &str, bundle: &Path) -> PathBuf {
        if self.root.is_empty() { bundle.join("oci") } else { self.state_root(namespace) }
    }

    /// Keeps the options in the bundle. `runtime` holds the binary's name alone, for older tools.
    pub fn write(&self, bundle: &Path) -> Result<()> {
        let json =
            serde_json::to_vec(self).map_err(|error| Error::unknown(format!("write options: {error}")))?;
        write_private(&bundle.join(FILE), &json)?;
        write_private(&bundle.join("runtime"), self.binary_name.as_bytes())
    }

    /// Reads what [`Options::write`] or containerd's own shim left; nothing there means defaults.
    pub fn read(bundle: &Path) -> Result<Options> {
        let path = bundle.join(FILE);
        let mut options: Options = match fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .map_err(|error| Error::unknown(format!("read {}: {error}", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Options::default(),
            Err(error) => return Err(error).at("read", path),
        };
        if options.binary_name.is_empty() {
            options.binary_name = fs::read_to_string(bundle.join("runtime")).unwrap_or_default();
        }
        Ok(options)
    }
}

fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .at("create", path)?;
    file.write_all(content).at("write", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(edit: impl FnOnce(&mut runc::Options)) -> Any {
        let mut options = runc::Options::new();
        edit(&mut options);
        crate::events::any(URL, &options)
    }

    #[test]
    fn options_survive_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::from_any(Some(&wire(|o| {
            o.binary_name = "crun".into();
            o.root = "/r".into();
            o.io_uid = 7;
        })))
        .unwrap();
        options.write(dir.path()).unwrap();
        assert_eq!(Options::read(dir.path()).unwrap(), options);
        assert_eq!(options.state_root("ns"), Path::new("/r/ns"));
    }

    #[test]
    fn absent_options_are_the_defaults_and_foreign_ones_an_error() {
        assert_eq!(Options::from_any(None).unwrap(), Options::default());
        let mut any = wire(|o| o.no_pivot_root = true);
        any.type_url = "types.googleapis.com/containerd.runc.v1.Options".into();
        assert!(Options::from_any(Some(&any)).unwrap().no_pivot_root);
        any.type_url = "runtimeoptions.v1.Options".into();
        assert!(Options::from_any(Some(&any)).unwrap_err().to_string().contains("runtimeoptions"));
        assert!(Options::from_any(Some(&wire(|o| o.task_api_address = "x".into()))).is_err());
    }
}
