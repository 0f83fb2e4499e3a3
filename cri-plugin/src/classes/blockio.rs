//! The file of block I/O classes: its form is that of goresctrl's `blockio` package, which containerd reads as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Error, devices, quantity, text};
use crate::spec::json::Object;
use crate::yaml::{self, Entry, Kind, Node};

/// What the kernel takes.
const WEIGHTS: std::ops::RangeInclusive<u64> = 10..=1000;
const KEYS: &str = "Devices, ThrottleReadBps, ThrottleWriteBps, ThrottleReadIOPS, ThrottleWriteIOPS, Weight";

/// Classes by name, as the file has them.
#[derive(Debug)]
pub struct File {
    pub path: PathBuf,
    classes: BTreeMap<String, Vec<Parameters>>,
}

/// For some devices, or the weight of all others.
#[derive(Debug, Default)]
struct Parameters {
    /// Patterns of paths.
    devices: Option<Vec<String>>,
    weight: Option<u64>,
    /// In the order of [`THROTTLES`].
    throttles: [Option<u64>; 4],
}

/// The file's keys and the specification's.
const THROTTLES: [(&str, &str); 4] = [
    ("ThrottleReadBps", "throttleReadBpsDevice"),
    ("ThrottleWriteBps", "throttleWriteBpsDevice"),
    ("ThrottleReadIOPS", "throttleReadIOPSDevice"),
    ("ThrottleWriteIOPS", "throttleWriteIOPSDevice"),
];

impl File {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<File, Error> {
        let classes = parse(&text(path)?).map_err(|yaml::Error { line, what }| Error::Content {
            path: path.to_owned(),
            line,
            what,
        })?;
        Ok(File { path: path.to_owned(), classes })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.classes.keys().map(String::as_str)
    }

    /// A class as `linux.resources.blockIO`, for the devices that there are now; `None` where there is no such class.
    /// `unused` hears of patterns that lead to no device. Blocks.
    pub fn class(&self, name: &str, mut unused: impl FnMut(&str)) -> Option<Value> {
        let mut block_io = Object::new();
        let mut weights = BTreeMap::new();
        let mut throttles: [BTreeMap<(u32, u32), u64>; 4] = Default::default();
        // Later ones win, value by value.
        for parameters in self.classes.get(name)? {
            let Some(patterns) = &parameters.devices else {
                block_io.extend(parameters.weight.map(|weight| ("weight".to_owned(), weight.into())));
                continue;
            };
            for (numbers, _) in devices::find(patterns, &mut unused) {
                weights.extend(parameters.weight.map(|weight| (numbers, weight)));
                for (all, rate) in throttles.iter_mut().zip(parameters.throttles) {
                    all.extend(rate.map(|rate| (numbers, rate)));
                }
            }
        }
        let list = |all: BTreeMap<(u32, u32), u64>, key: &str| -> Value {
            all.into_iter()
                .map(|((major, minor), n)| json!({"major": major, "minor": minor, key: n}))
                .collect()
        };
        if !weights.is_empty() {
            block_io.insert("weightDevice".into(), list(weights, "weight"));
        }
        for ((_, key), all) in THROTTLES.into_iter().zip(throttles) {
            if !all.is_empty() {
                block_io.insert(key.into(), list(all, "rate"));
            }
        }
        Some(block_io.into())
    }
}

fn wrong<T>(line: usize, what: impl Into<String>) -> Result<T, yaml::Error> {
    Err(yaml::Error { line, what: what.into() })
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<Parameters>>, yaml::Error> {
    let mut classes = BTreeMap::new();
    for Entry { key, line, value } in
        yaml::read(text)?.map_or(Ok(Vec::new()), |node| map(node, "the file"))?
    {
        if !key.eq_ignore_ascii_case("Classes") {
            return wrong(line, format!("unknown key {key:?}; there is only Classes"));
        }
        for Entry { key: name, value, .. } in map(value, "Classes")? {
            let all = list(value, &format!("class {name:?}"))?;
            let all = all.into_iter().map(|node| parameters(&name, node)).collect::<Result<_, _>>()?;
            classes.insert(name, all);
        }
    }
    Ok(classes)
}

fn map(node: Node, what: &str) -> Result<Vec<Entry>, yaml::Error> {
    match node.kind {
        _ if node.is_null() => Ok(Vec::new()),
        Kind::Map(entries) => Ok(entries),
        _ => wrong(node.line, format!("{what} must have keys and values")),
    }
}

fn list(node: Node, what: &str) -> Result<Vec<Node>, yaml::Error> {
    match node.kind {
        _ if node.is_null() => Ok(Vec::new()),
        Kind::List(list) => Ok(list),
        _ => wrong(node.line, format!("{what} must be a list")),
    }
}

fn scalar(node: Node, what: &str) -> Result<String, yaml::Error> {
    match node.kind {
        _ if node.is_null() => Ok(String::new()),
        Kind::Scalar { text, .. } => Ok(text),
        _ => wrong(node.line, format!("{what} must be a single value")),
    }
}

fn parameters(class: &str, node: Node) -> Result<Parameters, yaml::Error> {
    let (begin, what) = (node.line, format!("each item of class {class:?}"));
    let mut found = Parameters::default();
    for Entry { key, line, value } in map(node, &what)? {
        let is = |known: &str| key.eq_ignore_ascii_case(known);
        if is("Devices") {
            found.devices = (!value.is_null()).then(|| patterns(value)).transpose()?;
        } else if is("Weight") {
            found.weight = number("Weight", value)?;
            if let Some(weight) = found.weight.filter(|weight| !WEIGHTS.contains(weight)) {
                return wrong(line, format!("Weight {weight} is not between 10 and 1000"));
            }
        } else if let Some(at) = THROTTLES.iter().position(|(known, _)| is(known)) {
            found.throttles[at] = number(THROTTLES[at].0, value)?;
        } else {
            return wrong(line, format!("unknown key {key:?} in class {class:?}; there are {KEYS}"));
        }
    }
    if found.devices.is_none() && found.throttles.iter().any(Option::is_some) {
        return wrong(begin, format!("class {class:?} throttles without Devices: name the devices"));
    }
    Ok(found)
}

fn patterns(node: Node) -> Result<Vec<String>, yaml::Error> {
    let (begin, mut patterns) = (node.line, Vec::new());
    for node in list(node, "Devices")? {
        let line = node.line;
        let pattern = scalar(node, "a device")?;
        if !pattern.starts_with('/') {
            return wrong(line, format!("device {pattern:?} is not an absolute path"));
        }
        patterns.push(pattern);
    }
    if patterns.is_empty() {
        return wrong(begin, "Devices is empty: leave it out for the weight of all other devices");
    }
    Ok(patterns)
}

fn number(key: &str, node: Node) -> Result<Option<u64>, yaml::Error> {
    let line = node.line;
    match scalar(node, key)? {
        text if text.is_empty() => Ok(None),
        text => match quantity::parse(&text) {
            Some(number) => Ok(Some(number)),
            None => wrong(line, format!("{key}: {text:?} is not a number like 500, 10k, 50M or 1Gi")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
Classes:
  slow:
    - Weight: 80
    - Devices:
        - DIR/sd[a-z]
        - DIR/nosuch
      ThrottleReadBps: 50M # as the example has it
      throttleWriteBps: '1Mi'
      ThrottleReadIOPS: 10k
      ThrottleWriteIOPS: 0
      Weight: 50
    - Devices: [DIR/sdb]
      ThrottleReadBps: 100M
  fast:
    - Weight: 400
  free:
  none: []
";

    #[test]
    fn classes_become_parameters_of_the_devices_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        for (name, minor) in [("sda", 4), ("sdb", 5)] {
            let (kind, mode) = (rustix::fs::FileType::BlockDevice, rustix::fs::Mode::from_raw_mode(0o600));
            let (path, device) = (dir.path().join(name), rustix::fs::makedev(241, minor));
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, device).unwrap();
        }
        let path = dir.path().join("classes.yaml");
        std::fs::write(&path, FILE.replace("DIR", &dir.path().to_string_lossy())).unwrap();
        let file = File::read(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["fast", "free", "none", "slow"]);
        let mut unused = Vec::new();
        let slow = file.class("slow", |pattern| unused.push(pattern.to_owned())).unwrap();
        let both = |key: &str, a: u64, b: u64| json!([{"major": 241, "minor": 4, key: a}, {"major": 241, "minor": 5, key: b}]);
        let expected = json!({
            "weight": 80,
            "weightDevice": both("weight", 50, 50),
            "throttleReadBpsDevice": both("rate", 50_000_000, 100_000_000),
            "throttleWriteBpsDevice": both("rate", 1 << 20, 1 << 20),
            "throttleReadIOPSDevice": both("rate", 10_000, 10_000),
            "throttleWriteIOPSDevice": both("rate", 0, 0),
        });
        assert_eq!(slow, expected);
        assert_eq!(unused, [dir.path().join("nosuch").to_string_lossy()]);
        let of = |name: &str| file.class(name, |pattern| panic!("{pattern}"));
        assert_eq!(of("fast"), Some(json!({"weight": 400})));
        assert_eq!((of("free"), of("none"), of("nosuch")), (Some(json!({})), Some(json!({})), None));
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("classes.yaml");
        for (text, said) in [
            ("Classes:\n  a:\n  - Weight: 9\n", ":3: Weight 9 is not between 10 and 1000"),
            ("Classes:\n  a:\n  - Weight: 1001\n", ":3: Weight 1001 is not between 10 and 1000"),
            ("Classes:\n  a:\n  - Weight: heavy\n", ":3: Weight: \"heavy\" is not a number like"),
            (
                "Classes:\n  a:\n  - Devices: [/dev/sda]\n    ThrottleReadBps: 64 M\n",
                ":4: ThrottleReadBps: \"64 M\" is",
            ),
            (
                "Classes:\n  a:\n  - Devices: [/dev/sda]\n    ThrottleReadBps: -1\n",
                ":4: ThrottleReadBps: \"-1\" is",
            ),
            ("Classes:\n  a:\n  - ThrottleReadBps: 1\n", ":3: class \"a\" throttles without Devices"),
            ("Classes:\n  a:\n  - Devices: [sda]\n", ":3: device \"sda\" is not an absolute path"),
            ("Classes:\n  a:\n  - Devices: []\n", ":3: Devices is empty"),
            ("Classes:\n  a:\n  - Devices: /dev/sda\n", ":3: Devices must be a list"),
            ("Classes:\n  a:\n  - Wait: 5\n", ":3: unknown key \"Wait\" in class \"a\"; there are Devices, "),
            ("Classes:\n  a:\n    Weight: 50\n", ":3: class \"a\" must be a list"),
            ("Classes:\n  a:\n  - Weight: [1]\n", ":3: Weight must be a single value"),
            ("Classes:\n  a:\n  - b\n", ":3: each item of class \"a\" must have keys"),
            ("Classes:\n  a: []\n  a: []\n", ":3: key \"a\" is there twice"),
            ("Kinds:\n  a: []\n", ":1: unknown key \"Kinds\""),
            ("- a\n", ":1: the file must have keys"),
            ("Classes:\n  a: [\n", ":"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = File::read(&path).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}{said}", path.display())), "{text}: {error}");
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(File::read(&path).unwrap().names().count(), 0);
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(File::read(&path).unwrap_err().to_string().contains("read "));
        let error = File::read(&dir.path().join("nosuch")).unwrap_err();
        assert!(error.to_string().contains("nosuch"), "{error}");
    }
}
