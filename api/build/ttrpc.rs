//! What shims and NRI plugins speak: one Rust module per group of files, because file stems repeat (`shim`, `metrics`, `task`).
//! Imports across groups are resolved by `use` in src/shim.rs.

use std::path::{Path, PathBuf};
use std::{env, fs};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

use crate::Result;

const GROUPS: &[(&str, &[&str])] = &[
    (
        "types",
        &[
            "types/mount.proto",
            "types/task/task.proto",
            "types/platform.proto",
            "types/metrics.proto",
            "types/introspection.proto",
        ],
    ),
    ("task_v2", &["runtime/task/v2/shim.proto"]),
    ("task_v3", &["runtime/task/v3/shim.proto"]),
    ("sandbox_v1", &["runtime/sandbox/v1/sandbox.proto"]),
    ("forward", &["services/ttrpc/events/v1/events.proto", "types/event.proto"]),
    ("events", &["events/task.proto"]),
    ("runc", &["types/runc/options/oci.proto"]),
    ("runtimeoptions", &["types/runtimeoptions/v1/api.proto"]),
    ("bootstrap", &["runtime/bootstrap/v1/bootstrap.proto"]),
    ("cgroups_v1", &["github.com/containerd/cgroups/cgroup1/stats/metrics.proto"]),
    ("cgroups_v2", &["github.com/containerd/cgroups/cgroup2/stats/metrics.proto"]),
];

/// What NRI plugins speak; a shim does without.
const NRI: (&str, &[&str]) = ("nri", &["github.com/containerd/nri/pkg/api/api.proto"]);

pub fn generate() -> Result {
    let out = PathBuf::from(env::var("OUT_DIR")?).join("shim");
    let nri = env::var_os("CARGO_FEATURE_NRI").map(|_| &NRI);
    for (group, files) in GROUPS.iter().chain(nri) {
        let dir = out.join(group);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        Codegen::new()
            .out_dir(&dir)
            .include("proto")
            .inputs(files.iter().map(|f| Path::new("proto").join(f)))
            .rust_protobuf()
            // The lite runtime leaves out reflection, and with it descriptors and their start-up cost.
            .rust_protobuf_customize(ProtobufCustomize::default().lite_runtime(true).gen_mod_rs(false))
            .customize(Customize { async_all: true, ..Default::default() })
            .run()?;
        finish(&dir)?;
    }
    Ok(())
}

/// Writes `mod.rs`, and makes a method that a service does not implement answer what Go's servers answer.
fn finish(dir: &Path) -> Result {
    let mut modules = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name =
            path.file_stem().and_then(|s| s.to_str()).ok_or("generated file without a name")?.to_owned();
        if name.ends_with("_ttrpc") {
            let code = fs::read_to_string(&path)?;
            fs::write(&path, code.replace("::ttrpc::Code::NOT_FOUND", "::ttrpc::Code::UNIMPLEMENTED"))?;
        }
        modules.push(name);
    }
    modules.sort();
    fs::write(dir.join("mod.rs"), modules.iter().map(|m| format!("pub mod {m};\n")).collect::<String>())?;
    Ok(())
}
