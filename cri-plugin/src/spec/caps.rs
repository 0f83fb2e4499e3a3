//! Capabilities of a container's process.

use serde_json::{Value, json};
use windlass_api::cri;

use super::error::{Result, invalid};
use super::host::Host;
use super::json::{object, strings};

/// Writes `process.capabilities`, from what is there already and what is asked for. `ALL` goes first on each side, so
/// that single names can still be added to nothing or dropped from all.
pub fn apply(spec: &mut Value, host: &Host, asked: Option<&cri::Capability>, privileged: bool) -> Result<()> {
    let none = cri::Capability::default();
    let asked = asked.unwrap_or(&none);
    let mut held = if privileged || all(&asked.add_capabilities) {
        host.capabilities.clone()
    } else {
        strings(spec, "/process/capabilities/bounding")
    };
    if all(&asked.drop_capabilities) && !privileged {
        held.clear();
    }
    let ambient = names(&asked.add_ambient_capabilities)?;
    let added = names(&asked.add_capabilities)?;
    for name in added.iter().chain(&ambient) {
        if !held.contains(name) {
            held.push(name.clone());
        }
    }
    let dropped = names(&asked.drop_capabilities)?;
    if !privileged {
        held.retain(|name| !dropped.contains(name));
    }
    let ambient: Vec<_> = ambient.into_iter().filter(|name| held.contains(name)).collect();
    let sets = object(spec, &["process", "capabilities"]);
    for set in ["bounding", "effective", "permitted"] {
        sets.insert(set.into(), json!(held));
    }
    // What is inheritable comes back through an executable's own capabilities (CVE-2022-24769), so that nothing is,
    // but for what must be since the kernel takes ambient ones from nowhere else.
    for set in ["inheritable", "ambient"] {
        if ambient.is_empty() {
            sets.remove(set);
        } else {
            sets.insert(set.into(), json!(ambient));
        }
    }
    Ok(())
}

fn all(names: &[String]) -> bool {
    names.iter().any(|n| n.eq_ignore_ascii_case("ALL"))
}

/// Names as OCI writes them; CRI leaves the prefix out. A name that the kernel does not know is the runtime's to judge.
fn names(asked: &[String]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for name in asked.iter().filter(|n| !n.eq_ignore_ascii_case("ALL")) {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if short.is_empty() || !short.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return invalid(format!("{name:?} is not the name of a capability"));
        }
        names.push(format!("CAP_{short}"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(add: &[&str], drop: &[&str], ambient: &[&str], privileged: bool) -> Value {
        let host = Host { capabilities: vec!["CAP_CHOWN".into(), "CAP_SYS_ADMIN".into()], ..Host::default() };
        let mut spec = json!({"process": {"capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL"], "inheritable": ["CAP_KILL"]}}});
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let asked = cri::Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            add_ambient_capabilities: list(ambient),
        };
        apply(&mut spec, &host, Some(&asked), privileged).unwrap();
        spec["process"]["capabilities"].take()
    }

    #[test]
    fn sets_are_what_was_asked_for() {
        for (add, drop, privileged, expected) in [
            (&[][..], &[][..], false, json!(["CAP_CHOWN", "CAP_KILL"])),
            (&["net_admin", "KILL"], &["CHOWN"], false, json!(["CAP_KILL", "CAP_NET_ADMIN"])),
            (&["ALL"], &["CHOWN"], false, json!(["CAP_SYS_ADMIN"])),
            (&["NET_RAW"], &["all"], false, json!(["CAP_NET_RAW"])),
            (&["ALL"], &["ALL"], false, json!([])),
            (&["CAP_BPF"], &[], false, json!(["CAP_CHOWN", "CAP_KILL", "CAP_BPF"])),
            (&[], &["ALL"], true, json!(["CAP_CHOWN", "CAP_SYS_ADMIN"])),
        ] {
            let sets = run(add, drop, &[], privileged);
            for set in ["bounding", "effective", "permitted"] {
                assert_eq!(sets[set], expected, "{add:?} {drop:?} {set}");
            }
            assert!(sets.get("inheritable").is_none() && sets.get("ambient").is_none());
        }
    }

    #[test]
    fn ambient_ones_are_in_every_set() {
        let sets = run(&[], &["ALL"], &["NET_BIND_SERVICE"], false);
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            assert_eq!(sets[set], json!(["CAP_NET_BIND_SERVICE"]), "{set}");
        }
        let sets = run(&[], &["NET_BIND_SERVICE"], &["NET_BIND_SERVICE"], false);
        assert!(sets.get("ambient").is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        for name in ["", "CAP_", "A B", "SYS_ADMIN\n"] {
            let asked = cri::Capability { add_capabilities: vec![name.into()], ..Default::default() };
            assert!(apply(&mut json!({}), &Host::default(), Some(&asked), false).is_err(), "{name:?}");
        }
    }
}
