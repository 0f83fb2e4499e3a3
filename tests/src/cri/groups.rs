//! Control groups of a test's pods, in all hierarchies: below a group of the test's own, made by the runtime as it needs
//! them, and taken away like the kubelet does.

use std::path::{Path, PathBuf};

pub struct Groups(String);

impl Groups {
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The group of a pod.
    pub fn of(&self, pod: &str) -> String {
        format!("/{}/{pod}", self.0)
    }

    /// The test's own group in every hierarchy.
    fn tops(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let mut hierarchies = super::entries(root);
        hierarchies.push(root.to_owned());
        hierarchies.iter().map(|dir| dir.join(&self.0)).filter(|dir| dir.is_dir()).collect()
    }

    /// Groups of pods' processes: what is below the groups of pods.
    pub fn left(&self) -> Vec<PathBuf> {
        let pods = self.tops().into_iter().flat_map(|top| groups(&top));
        pods.flat_map(|pod| groups(&pod)).collect()
    }
}

fn groups(dir: &Path) -> Vec<PathBuf> {
    super::entries(dir).into_iter().filter(|path| path.is_dir()).collect()
}

/// Removes a tree of groups. What has processes stays.
fn remove(dir: &Path) {
    for group in groups(dir) {
        remove(&group);
    }
    if let Err(error) = std::fs::remove_dir(dir) {
        eprintln!("{} stays: {error}", dir.display());
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for top in self.tops() {
            remove(&top);
        }
    }
}
