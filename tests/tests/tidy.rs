//! The rules of the house, held by a test: layers, file sizes, module docs, links.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crate → the crates of this workspace that it may depend on. A crate depends only to its right:
/// daemon → built-ins → implementations, service, runtime, cri → api → core.
const LAYERS: &[(&str, &[&str])] = &[
    ("windlass-core", &[]),
    ("windlass-api", &["windlass-core"]),
    ("windlass-metastore", &["windlass-core"]),
    ("windlass-metadata", &["windlass-core"]),
    ("windlass-gc", &["windlass-core"]),
    ("windlass-content", &["windlass-core"]),
    ("windlass-snapshotter", &["windlass-core"]),
    ("windlass-diff", &["windlass-core"]),
    ("windlass-event", &["windlass-core"]),
    ("windlass-transfer", &["windlass-core"]),
    ("windlass-runtime", &["windlass-core", "windlass-api"]),
    ("windlass-service", &["windlass-core", "windlass-api"]),
    ("windlass-network", &["windlass-core"]),
    ("windlass-streaming", &["windlass-core"]),
    ("windlass-nri", &["windlass-core", "windlass-api"]),
    ("windlass-cri", &["windlass-core", "windlass-api", "windlass-network", "windlass-streaming"]),
    ("windlassd", &["windlass-core", "windlass-api", "windlass-builtins"]),
    ("windlass", &["windlass-core", "windlass-api"]),
    ("windlass-oci-runtime", &[]),
    ("containerd-shim-runc-v2", &["windlass-core", "windlass-api", "windlass-oci-runtime"]),
    ("windlass-bench", &["windlass-core", "windlass-api"]),
    ("windlass-tests", &["windlass-core", "windlass-api"]),
];

/// Lines of a source file without its tests.
const MAX_LINES: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace").to_owned()
}

fn metadata() -> serde_json::Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    serde_json::from_slice(&out.stdout).expect("cargo metadata is JSON")
}

#[test]
fn crates_depend_only_to_their_right() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let allowed: BTreeMap<_, BTreeSet<_>> =
        LAYERS.iter().map(|(name, deps)| (*name, deps.iter().copied().collect())).collect();
    let names: BTreeSet<_> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name");
        if name == "windlass-builtins" {
            continue; // the list of everything
        }
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!("{name} is missing in the table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a dependency has a name");
            let for_tests = dependency["kind"] == "dev";
            if names.contains(on) && !for_tests && !allowed.contains(on) {
                wrong.push(format!("{name} must not depend on {on}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cri_can_be_left_out_of_the_build() {
    let tree = |extra: &[&str]| {
        let fixed = ["tree", "--offline", "--package", "windlassd", "--edges", "normal", "--prefix", "none"];
        let out = Command::new(env!("CARGO"))
            .args(fixed)
            .args(extra)
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("names are UTF-8")
    };
    assert!(tree(&[]).contains("windlass-cri "), "the tree names its crates");
    let without = tree(&["--no-default-features"]);
    let left: Vec<_> = ["windlass-cri ", "windlass-network ", "windlass-streaming ", "windlass-nri "]
        .into_iter()
        .filter(|n| without.contains(n))
        .collect();
    assert!(left.is_empty(), "windlassd --no-default-features is built with {left:?}");
}

fn sources() -> Vec<PathBuf> {
    let out = Command::new("git").args(["ls-files", "*.rs"]).current_dir(root()).output().expect("git runs");
    let text = String::from_utf8(out.stdout).expect("paths are UTF-8");
    let files: Vec<_> = text.lines().map(|l| root().join(l)).filter(|p| p.exists()).collect();
    assert!(files.len() > 20, "git lists the sources");
    files
}

#[test]
fn files_keep_their_size_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for file in sources() {
        let text = std::fs::read_to_string(&file).expect("a source is readable");
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(&text).lines().count();
        let shown = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        if code > MAX_LINES {
            wrong.push(format!("{shown}: {code} lines, at most {MAX_LINES}"));
        }
        if !text.starts_with("//!") && !text.starts_with("#!") {
            wrong.push(format!("{shown}: does not begin with a module comment (//!)"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_in_documents_are_alive() {
    let out = Command::new("git").args(["ls-files", "*.md"]).current_dir(root()).output().expect("git runs");
    let mut wrong = Vec::new();
    for file in String::from_utf8(out.stdout).expect("paths are UTF-8").lines() {
        let path = root().join(file);
        let text = std::fs::read_to_string(&path).expect("a document is readable");
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default().split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !path.parent().expect("a file has a directory").join(target).exists() {
                wrong.push(format!("{file}: {target} does not exist"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
