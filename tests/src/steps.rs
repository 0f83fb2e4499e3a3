//! Names of the steps at which a test may kill: found in the sources, so that a new one cannot be forgotten.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The steps that the sources below `root` name which fit the patterns of `git ls-files`.
pub fn named(root: &Path, patterns: &[&str]) -> BTreeSet<String> {
    let out = Command::new("git").arg("ls-files").args(patterns).current_dir(root).output();
    let files = String::from_utf8(out.expect("git runs").stdout).expect("paths are UTF-8");
    let mut found = BTreeSet::new();
    for file in files.lines().filter(|f| !f.contains("/tests/")) {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for call in ["fail_point!(\"", "failpoint!(\"", "step!(\""] {
                if let Some(name) = line.split(call).nth(1).and_then(|rest| rest.split('"').next()) {
                    found.insert(name.to_owned());
                }
            }
        }
    }
    found
}
