//! `containerd.runtime.sandbox.v1.Sandbox`, as far as it makes sense for runc-like containers, whose pods are made by
//! the daemon out of a pause container: the daemon may ask for the platform and whether the shim lives. The rest is
//! answered UNIMPLEMENTED, which tells the daemon to use its own pod sandboxes.

use protobuf::MessageField;
use windlass_api::shim::sandbox_v1 as api;
use windlass_api::shim::types::platform::Platform;

use crate::error::{Error, Result};
use crate::task::reply;

pub const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

pub fn call(method: &str, _payload: &[u8]) -> Option<Result<Vec<u8>>> {
    Some(match method {
        "PingSandbox" => Ok(Vec::new()),
        "Platform" => {
            let mut platform = Platform::new();
            platform.os = "linux".into();
            platform.architecture = architecture().into();
            let mut response = api::PlatformResponse::new();
            response.platform = MessageField::some(platform);
            reply(Ok(response))
        }
        "CreateSandbox" | "StartSandbox" | "StopSandbox" | "WaitSandbox" | "SandboxStatus"
        | "ShutdownSandbox" | "SandboxMetrics" => Err(Error::unimplemented(format!(
            "{method}: this shim runs containers, the daemon makes the sandbox"
        ))),
        _ => return None,
    })
}

/// The architecture in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
