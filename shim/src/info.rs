//! `-info` and `-v`: what this shim is and can do.

use std::io::{Read, Write};

use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use windlass_api::shim::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::error::{Context, Error, Result};
use crate::options::Options;
use crate::runtime;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

pub fn print_version() {
    println!("containerd-shim-runc-v2:");
    println!("  Version:  {VERSION}");
    println!("  Revision: {}", revision());
    println!("  Go version: none (windlass)");
    println!();
}

fn revision() -> &'static str {
    option_env!("WINDLASS_REVISION").unwrap_or_default()
}

/// Reads runtime options (an `Any`) from stdin and prints a `RuntimeInfo`.
pub fn print() -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin().lock().take(1 << 20).read_to_end(&mut input).op("read stdin")?;
    let info = info(&input)?;
    let bytes =
        info.write_to_bytes().map_err(|error| Error::unknown(format!("write runtime info: {error}")))?;
    std::io::stdout().lock().write_all(&bytes).op("write stdout")
}

fn info(input: &[u8]) -> Result<RuntimeInfo> {
    let mut info = RuntimeInfo::new();
    info.name = crate::NAME.into();
    let mut version = RuntimeVersion::new();
    version.version = VERSION.into();
    version.revision = revision().into();
    info.version = MessageField::some(version);
    let mut options = Options::default();
    if !input.is_empty() {
        let any = Any::parse_from_bytes(input)
            .map_err(|error| Error::invalid(format!("failed to read runtime options: {error}")))?;
        options = Options::from_any(Some(&any))?;
        info.options = MessageField::some(any);
    }
    let features = match options.binary_name.as_str() {
        "" => Some(runtime::embedded_features()),
        binary => runtime::features(binary)?,
    };
    if let Some(json) = features {
        let mut any = Any::new();
        any.type_url = FEATURES.into();
        any.value = json;
        info.features = MessageField::some(any);
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_runtime_has_features() {
        let info = info(&[]).unwrap();
        assert_eq!(info.name, "io.containerd.runc.v2");
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert!(features["linux"]["namespaces"].as_array().unwrap().len() >= 7);
    }
}
