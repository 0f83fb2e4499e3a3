//! How a daemon asks for a shim, and how it is told where the shim is; in every form that containerd has used.
//!
//! | containerd | asks by | is told by |
//! |---|---|---|
//! | up to 1.6 | flags, environment, runtime options (`Any`) on stdin | the bare address |
//! | 1.7 to 2.2 | the same, and `MAX_SHIM_VERSION` | JSON, at most of that version |
//! | since 2.3 | `BootstrapParams` (protobuf) on stdin | `BootstrapResult` (protobuf) |

use std::env;
use std::path::{Path, PathBuf};

use protobuf::Message;
use protobuf::well_known_types::any::Any;
use windlass_api::shim::bootstrap::{BootstrapParams, BootstrapResult};

use crate::args::Args;
use crate::error::{Error, Result};
use crate::options::{self, Options};
use crate::socket;

/// The newest task API that the shim serves; it serves version 2 besides.
const VERSION: i32 = 3;

/// What a daemon says when it starts a shim.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub id: String,
    pub namespace: String,
    pub debug: bool,
    /// The daemon's gRPC address; part of the socket's name.
    pub address: String,
    /// Where events go; empty if the daemon has no such socket.
    pub ttrpc: String,
    /// Publishes events where there is no such socket.
    pub binary: String,
    pub socket_dir: PathBuf,
    pub options: Options,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Protobuf,
    Json(i32),
    Bare,
}

impl Request {
    /// Reads the request out of flags, standard input and environment.
    pub fn read(args: &Args, input: &[u8]) -> Result<Request> {
        Self::parse(args, input, |name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn parse(args: &Args, input: &[u8], env: impl Fn(&str) -> Option<String>) -> Result<Request> {
        // Older daemons' options can be read as parameters by chance, so the identity must be the command line's.
        if let Ok(params) = BootstrapParams::parse_from_bytes(input)
            && params.instance_id == args.id
            && params.namespace == args.namespace
            && !args.id.is_empty()
        {
            return Self::from_params(args, params);
        }
        let options = if input.is_empty() {
            Options::default()
        } else {
            let any = Any::parse_from_bytes(input)
                .map_err(|error| Error::invalid(format!("read runtime options from stdin: {error}")))?;
            runc_options(&[any])?
        };
        Ok(Request {
            id: args.id.clone(),
            namespace: args.namespace.clone(),
            debug: args.debug,
            address: if args.address.is_empty() {
                env("GRPC_ADDRESS").unwrap_or_default()
            } else {
                args.address.clone()
            },
            ttrpc: env("TTRPC_ADDRESS").unwrap_or_default(),
            binary: args.publish_binary.clone(),
            socket_dir: socket::DEFAULT_DIR.into(),
            options,
            form: match env("MAX_SHIM_VERSION").and_then(|version| version.parse().ok()) {
                Some(version) => Form::Json(VERSION.min(version)),
                None => Form::Bare,
            },
        })
    }

    fn from_params(args: &Args, params: BootstrapParams) -> Result<Request> {
        let extensions: Vec<Any> =
            params.extensions.iter().filter_map(|e| e.value.as_ref().cloned()).collect();
        let dir = params.socket_dir.unwrap_or_default();
        Ok(Request {
            debug: args.debug || params.log_level.value() < 0,
            id: params.instance_id,
            namespace: params.namespace,
            address: params.containerd_grpc_address,
            ttrpc: params.containerd_ttrpc_address,
            binary: params.containerd_binary,
            socket_dir: if dir.is_empty() { socket::DEFAULT_DIR.into() } else { dir.into() },
            options: runc_options(&extensions)?,
            form: Form::Protobuf,
        })
    }

    /// The answer that this daemon understands.
    pub fn answer(&self, socket: &Path) -> Result<Vec<u8>> {
        let address = format!("unix://{}", socket.display());
        Ok(match self.form {
            Form::Bare => address.into_bytes(),
            Form::Json(version) => {
                let address = serde_json::to_string(&address)
                    .map_err(|error| Error::unknown(format!("write bootstrap result: {error}")))?;
                format!(r#"{{"version":{version},"address":{address},"protocol":"ttrpc"}}"#).into_bytes()
            }
            Form::Protobuf => {
                let mut result = BootstrapResult::new();
                result.version = VERSION;
                result.address = address;
                result.protocol = "ttrpc".into();
                result
                    .write_to_bytes()
                    .map_err(|error| Error::unknown(format!("write bootstrap result: {error}")))?
            }
        })
    }
}

/// The shim's options among extensions that may be for others.
fn runc_options(extensions: &[Any]) -> Result<Options> {
    match extensions.iter().find(|any| options::type_name(any) == "containerd.runc.v1.Options") {
        Some(any) => Options::from_any(Some(any)),
        None => Ok(Options::default()),
    }
}

#[cfg(test)]
mod tests {
    use protobuf::MessageField;
    use windlass_api::shim::{bootstrap, runc};

    use super::*;

    fn args() -> Args {
        Args { id: "a".into(), namespace: "ns".into(), address: "/c.sock".into(), ..Args::default() }
    }

    fn options() -> Any {
        let mut options = runc::Options::new();
        options.shim_cgroup = "/shims".into();
        crate::events::any("containerd.runc.v1.Options", &options)
    }

    #[test]
    fn parameters_of_2_3() {
        let mut params = BootstrapParams::new();
        params.instance_id = "a".into();
        params.namespace = "ns".into();
        params.containerd_ttrpc_address = "/c.sock.ttrpc".into();
        params.socket_dir = Some("/s".into());
        let mut extension = bootstrap::Extension::new();
        extension.value = MessageField::some(options());
        params.extensions.push(extension);
        let request = Request::parse(&args(), &params.write_to_bytes().unwrap(), |_| None).unwrap();
        assert_eq!(request.ttrpc, "/c.sock.ttrpc");
        assert_eq!(request.options.shim_cgroup, "/shims");
        let answer = BootstrapResult::parse_from_bytes(&request.answer(Path::new("/s/x")).unwrap()).unwrap();
        assert_eq!(
            (answer.version, answer.address.as_str(), answer.protocol.as_str()),
            (3, "unix:///s/x", "ttrpc")
        );
    }

    #[test]
    fn options_on_stdin_and_json_of_1_7() {
        let input = options().write_to_bytes().unwrap();
        let env = |name: &str| match name {
            "MAX_SHIM_VERSION" => Some("2".to_owned()),
            "TTRPC_ADDRESS" => Some("/t".to_owned()),
            _ => None,
        };
        let request = Request::parse(&args(), &input, env).unwrap();
        assert_eq!((request.options.shim_cgroup.as_str(), request.ttrpc.as_str()), ("/shims", "/t"));
        let answer: serde_json::Value =
            serde_json::from_slice(&request.answer(Path::new("/s/x")).unwrap()).unwrap();
        assert_eq!(answer["version"], 2);
        assert_eq!(answer["address"], "unix:///s/x");
    }

    #[test]
    fn bare_address_of_1_6() {
        let request = Request::parse(&args(), &[], |_| None).unwrap();
        assert_eq!(request.answer(Path::new("/s/x")).unwrap(), b"unix:///s/x");
        assert!(Request::parse(&args(), &[0xff], |_| None).is_err());
    }
}
