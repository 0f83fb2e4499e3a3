//! RDT classes: control groups of resctrl, which share out caches and the memory's bandwidth. A class is a group that is
//! there; nothing here makes groups or says what they get.
//!
//! Of goresctrl's file, which containerd makes groups by, only that counts which says who may name a class.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Error, text};
use crate::yaml::{self, Entry, Kind, Node};

const MOUNT: &str = "/sys/fs/resctrl";
/// goresctrl's name of the group that all belong to who are in no other, and the specification's.
const ROOT: (&str, &str) = ("system/default", "/");

/// Who names a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An annotation of the container's own.
    Container,
    /// An annotation of its pod.
    Pod,
}

#[derive(Debug)]
pub struct Rdt {
    /// Where the file system is mounted, if it is.
    mount: PathBuf,
    file: Option<File>,
    /// Why there are no classes: without the file nobody knows who may name one.
    failed: Option<String>,
}

impl Default for Rdt {
    fn default() -> Self {
        Self { mount: MOUNT.into(), file: None, failed: None }
    }
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    classes: BTreeMap<String, Denied>,
}

/// Whose annotations may not name a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Denied {
    pod: bool,
    container: bool,
}

impl Rdt {
    /// Reads the file, if there is one. Blocks.
    pub fn new(file: &str) -> Result<Self, Error> {
        let mut rdt = Self::default();
        if !file.is_empty() {
            let path = PathBuf::from(file);
            let classes = parse(&text(&path)?).map_err(|yaml::Error { line, what }| Error::Content {
                path: path.clone(),
                line,
                what,
            })?;
            rdt.file = Some(File { path, classes });
        }
        Ok(rdt)
    }

    /// No classes.
    pub fn failed(why: String) -> Self {
        Self { failed: Some(why), ..Self::default() }
    }

    /// What of the file has no effect; to be logged when it has been read.
    pub fn ineffective(&self) -> Option<String> {
        let File { path, classes } = self.file.as_ref()?;
        if let Err(Error::Disabled(why)) = self.enabled() {
            return Some(format!("rdt_config_file {} has no effect: {why}", path.display()));
        }
        let missing: Vec<_> =
            classes.keys().filter(|class| !self.is_group(class)).map(String::as_str).collect();
        let missing = match missing.as_slice() {
            [] => "all its classes have one".to_owned(),
            all => format!("make those of {}", all.join(", ")),
        };
        Some(format!(
            "rdt_config_file {}: partitions and allocations have no effect, groups in {} are taken as they are ({missing}); \
             only denyPodAnnotation and denyContainerAnnotation count",
            path.display(),
            self.mount.display()
        ))
    }

    /// *Disabled* where there is no resctrl, or where the file could not be read.
    pub fn enabled(&self) -> Result<(), Error> {
        if let Some(why) = &self.failed {
            return Err(Error::Disabled(why.clone()));
        }
        if is_group(&self.mount) {
            return Ok(());
        }
        let mount = self.mount.display();
        Err(Error::Disabled(format!(
            "there is no resctrl at {mount} (if the processor has RDT: mount -t resctrl resctrl {mount})"
        )))
    }

    /// The `closID` of a class, by either name of the root's. *Disabled* where there is no resctrl, *no group* where there
    /// is no such group.
    pub fn clos(&self, class: &str) -> Result<String, Error> {
        self.enabled()?;
        if class == ROOT.0 || class == ROOT.1 {
            return Ok(ROOT.1.to_owned());
        }
        if self.is_group(class) {
            return Ok(class.to_owned());
        }
        Err(Error::NoGroup { class: class.to_owned(), mount: self.mount.clone() })
    }

    /// An error where the file keeps those who ask from a class.
    pub fn allowed(&self, class: &str, origin: Origin) -> Result<(), Error> {
        let Some(file) = &self.file else { return Ok(()) };
        let class = if class == ROOT.1 { ROOT.0 } else { class };
        let denied = file.classes.get(class).copied().unwrap_or_default();
        let (denied, key) = match origin {
            Origin::Pod => (denied.pod, "denyPodAnnotation"),
            Origin::Container => (denied.container, "denyContainerAnnotation"),
        };
        if denied {
            return Err(Error::Denied { class: class.to_owned(), path: file.path.clone(), key });
        }
        Ok(())
    }

    fn is_group(&self, class: &str) -> bool {
        if class == ROOT.0 {
            return true;
        }
        let name = !class.is_empty() && !matches!(class, "." | "..") && !class.contains(['/', '\n', '\0']);
        name && is_group(&self.mount.join(class))
    }

    /// With a directory in the place of the mount.
    #[cfg(test)]
    pub fn at(mount: &Path, file: &str) -> Self {
        Self { mount: mount.to_owned(), ..Self::new(file).unwrap() }
    }
}

fn is_group(dir: &Path) -> bool {
    dir.join("tasks").is_file() && dir.join("schemata").is_file()
}

fn parse(text: &str) -> Result<BTreeMap<String, Denied>, yaml::Error> {
    let mut classes = BTreeMap::new();
    let Some(root) = yaml::read(text)? else { return Ok(classes) };
    for partition in below(root, "partitions")? {
        for class in below(partition.value, "classes")? {
            let mut denied = Denied::default();
            for option in below(class.value, "kubernetes")? {
                let key = option.key.as_str();
                if key.eq_ignore_ascii_case("denyPodAnnotation") {
                    denied.pod = flag(&option)?;
                } else if key.eq_ignore_ascii_case("denyContainerAnnotation") {
                    denied.container = flag(&option)?;
                }
            }
            let name = if class.key.is_empty() { ROOT.0.to_owned() } else { class.key };
            classes.insert(name, denied);
        }
    }
    Ok(classes)
}

/// The entries of the mapping at a key.
fn below(node: Node, key: &str) -> Result<Vec<Entry>, yaml::Error> {
    let entries = entries(node)?.into_iter();
    let mut found = entries.filter(|entry| entry.key.eq_ignore_ascii_case(key));
    found.next().map_or(Ok(Vec::new()), |entry| self::entries(entry.value))
}

fn entries(node: Node) -> Result<Vec<Entry>, yaml::Error> {
    match node.kind {
        _ if node.is_null() => Ok(Vec::new()),
        Kind::Map(entries) => Ok(entries),
        _ => Err(yaml::Error { line: node.line, what: "keys and values are expected here".into() }),
    }
}

fn flag(entry: &Entry) -> Result<bool, yaml::Error> {
    match &entry.value.kind {
        Kind::Scalar { text, plain: true } if text == "true" => Ok(true),
        Kind::Scalar { text, plain: true } if text == "false" => Ok(false),
        _ => Err(yaml::Error { line: entry.line, what: format!("{} is neither true nor false", entry.key) }),
    }
}

/// A directory that looks like resctrl with these groups.
#[cfg(test)]
pub fn fake(groups: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for group in groups.iter().chain([&""]) {
        std::fs::create_dir_all(dir.path().join(group)).unwrap();
        for name in ["schemata", "tasks"] {
            std::fs::write(dir.path().join(group).join(name), "").unwrap();
        }
    }
    dir
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
options:
  l3: {optional: true}
partitions:
  one:
    l3Allocation: 100%
    classes:
      gold:
        l3Allocation: 60%
        kubernetes:
          denyPodAnnotation: true
      silver: {kubernetes: {denyContainerAnnotation: true}}
      system/default: {kubernetes: {denyPodAnnotation: true}}
  two:
    classes: {bronze: {mbAllocation: [50%]}}
";

    #[test]
    fn a_class_is_a_group_that_is_there() {
        let mount = fake(&["gold"]);
        std::fs::create_dir(mount.path().join("info")).unwrap();
        let rdt = Rdt::at(mount.path(), "");
        assert_eq!(rdt.clos("gold").unwrap(), "gold");
        assert_eq!((rdt.clos("/").unwrap(), rdt.clos("system/default").unwrap()), ("/".into(), "/".into()));
        for class in ["silver", "info", "", ".", "..", "gold/..", "gold/tasks"] {
            let error = rdt.clos(class).unwrap_err();
            assert!(matches!(error, Error::NoGroup { .. }), "{class}: {error}");
        }
        assert_eq!(rdt.ineffective(), None);
        let none = Rdt::at(&mount.path().join("nosuch"), "");
        let error = none.clos("gold").unwrap_err();
        assert!(matches!(&error, Error::Disabled(why) if why.contains("mount -t resctrl")), "{error}");
    }

    #[test]
    fn of_the_file_counts_who_may_name_a_class() {
        let mount = fake(&["gold", "bronze"]);
        let path = mount.path().join("rdt.yaml");
        std::fs::write(&path, FILE).unwrap();
        let path = path.to_str().unwrap();
        let rdt = Rdt::at(mount.path(), path);
        let denied = |class, origin| rdt.allowed(class, origin).is_err();
        for (class, pod, container) in [
            ("gold", true, false),
            ("silver", false, true),
            ("bronze", false, false),
            ("other", false, false),
            ("/", true, false),
            ("system/default", true, false),
        ] {
            assert_eq!(
                (denied(class, Origin::Pod), denied(class, Origin::Container)),
                (pod, container),
                "{class}"
            );
        }
        let error = rdt.allowed("gold", Origin::Pod).unwrap_err().to_string();
        assert!(error.contains("denyPodAnnotation") && error.contains(path), "{error}");
        let said = rdt.ineffective().unwrap();
        assert!(said.contains(path) && said.contains("make those of silver)"), "{said}");
        let said = Rdt::at(&mount.path().join("nosuch"), path).ineffective().unwrap();
        assert!(said.contains("has no effect: there is no resctrl"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rdt.yaml");
        let path = path.to_str().unwrap();
        for (text, said) in [
            ("partitions: [a]", ":1: keys and values"),
            ("partitions:\n  a:\n    classes: gold\n", ":3: keys and values"),
            (
                "partitions:\n  a:\n    classes:\n      b:\n        kubernetes:\n          denyPodAnnotation: 'true'\n",
                ":6: denyPodAnnotation is neither",
            ),
            ("partitions: {", ":"),
        ] {
            std::fs::write(path, text).unwrap();
            let error = Rdt::new(path).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{path}{said}")), "{text}: {error}");
        }
        std::fs::write(path, "").unwrap();
        Rdt::new(path).unwrap();
        assert!(Rdt::new("/nosuch/rdt.yaml").is_err());
    }
}
