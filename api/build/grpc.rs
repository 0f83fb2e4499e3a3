//! Everything that gRPC speaks, and the descriptor set that reflection serves.

use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;
use tonic_prost_build::FileDescriptorSet;

use crate::Result;

const NRI: &str = "github.com/containerd/nri/pkg/api/api.proto";
const CRI: &str = "staging/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto";

/// Packages whose `bytes` are big enough for a copy to matter.
const BIG: &[&str] =
    &[".containerd.services.content.v1", ".containerd.types.transfer", ".runtime.v1.ExecSyncResponse"];

/// Messages that carry secrets: src/redact.rs prints them.
const SECRET: &[&str] = &[
    ".containerd.types.transfer.AuthResponse",
    ".containerd.types.transfer.RegistryResolver",
    ".runtime.v1.AuthConfig",
];

/// Messages of CRI that verbose statuses show as JSON, the way Go's encoding/json writes them.
const SHOWN: &[&str] = &[
    "CDIDevice",
    "Capability",
    "ContainerConfig",
    "ContainerMetadata",
    "DNSConfig",
    "Device",
    "HugepageLimit",
    "IDMapping",
    "ImageSpec",
    "Int64Value",
    "KeyValue",
    "LinuxContainerConfig",
    "LinuxContainerResources",
    "LinuxContainerSecurityContext",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
    "Mount",
    "NamespaceOption",
    "PodSandboxConfig",
    "PodSandboxMetadata",
    "PortMapping",
    "SELinuxOption",
    "SecurityProfile",
    "UserNamespace",
];

pub fn generate() -> Result {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = protos(Path::new("proto"))?;
    // No gRPC server speaks it.
    files.retain(|f| !f.ends_with(NRI));
    files.sort();
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(false).open_files(&files)?;
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &descriptors)?;

    // All of it is described; code is generated for what is used.
    let mut set = FileDescriptorSet::decode(&descriptors[..])?;
    if env::var_os("CARGO_FEATURE_CRI").is_none() {
        set.file.retain(|f| f.name() != CRI);
    }
    let mut config = tonic_prost_build::Config::new();
    // Ordered maps, as core has them: equal messages are equal bytes.
    config.bytes(BIG).btree_map(["."]).skip_debug(SECRET).enable_type_names();
    let skip = "#[serde(skip_serializing_if = \"crate::is_default\")]";
    for message in SHOWN {
        let message = format!(".runtime.v1.{message}");
        config.type_attribute(&message, "#[derive(serde::Serialize)]");
        if message.ends_with(".SecurityProfile") {
            // The variants of the enum inside are no fields.
            config.field_attribute(format!("{message}.profile_type"), skip);
            config.field_attribute(format!("{message}.localhost_ref"), skip);
        } else {
            config.field_attribute(&message, skip);
        }
    }
    // Of no use here.
    for windows in ["ContainerConfig", "PodSandboxConfig"] {
        config.field_attribute(format!(".runtime.v1.{windows}.windows"), "#[serde(skip)]");
    }
    let dir = out.join("grpc");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    tonic_prost_build::configure()
        .out_dir(&dir)
        .include_file("mod.rs")
        .generate_default_stubs(true)
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(set, config)?;
    Ok(())
}

fn protos(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(protos(&path)?);
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    Ok(found)
}
