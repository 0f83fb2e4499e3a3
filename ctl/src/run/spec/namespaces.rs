//! Which kernel namespaces a container has of its own, and which it shares.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Options;

/// A namespace: its own, the host's, or another container's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    #[default]
    Private,
    Host,
    Container(String),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "private" | "none" | "" => Ok(Self::Private),
            "host" => Ok(Self::Host),
            _ => match text.strip_prefix("container:") {
                Some(id) if !id.is_empty() => Ok(Self::Container(id.to_owned())),
                _ => Err("use private (none for a network), host, or container:ID".to_owned()),
            },
        }
    }
}

/// Containers whose namespaces are joined.
pub fn joined(options: &Options) -> BTreeSet<&str> {
    let all = [&options.network, &options.pid, &options.ipc, &options.uts];
    all.into_iter()
        .filter_map(|c| if let Choice::Container(id) = c { Some(id.as_str()) } else { None })
        .collect()
}

/// The namespaces of the specification. `pids` has the processes of the joined containers.
pub fn all(options: &Options, host_net: bool, pids: &BTreeMap<String, u32>) -> Result<Vec<Value>> {
    let mut all = vec![json!({"type": "mount"})];
    let host = Choice::Host;
    let network = if host_net { &host } else { &options.network };
    // The name in the specification, and the one in /proc.
    let kinds = [
        ("pid", "pid", &options.pid),
        ("ipc", "ipc", &options.ipc),
        ("uts", "uts", &options.uts),
        ("network", "net", network),
    ];
    for (kind, file, choice) in kinds {
        match choice {
            Choice::Private => all.push(json!({"type": kind})),
            Choice::Host => {}
            Choice::Container(id) => {
                let pid = pids.get(id).with_context(|| format!("container {id} does not run"))?;
                all.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_parse() {
        assert_eq!("none".parse(), Ok(Choice::Private));
        assert_eq!("container:a".parse(), Ok(Choice::Container("a".into())));
        assert!("bridge".parse::<Choice>().is_err() && "container:".parse::<Choice>().is_err());
        let options = Options { pid: Choice::Container("a".into()), ipc: Choice::Host, ..Options::default() };
        assert_eq!(joined(&options).into_iter().collect::<Vec<_>>(), ["a"]);
        assert!(all(&options, false, &BTreeMap::new()).is_err());
    }
}
