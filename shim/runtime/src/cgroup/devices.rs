//! Device rules: what the configuration says, made exact, and written as v1 takes it.
//!
//! The rules count in order, and everything that none names is denied. After those of the configuration come the
//! devices that every container has (runc adds the same): the standard ones, terminals, and `mknod` of anything.

use super::dir::Dir;
use crate::error::{Context, Error, Result};
use crate::spec::DeviceRule;
use crate::sys::file;

pub const MKNOD: u8 = 1;
pub const READ: u8 = 2;
pub const WRITE: u8 = 4;
pub const ALL: u8 = MKNOD | READ | WRITE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Any,
    Char,
    Block,
}

/// `None` of a number means every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u8,
}

const fn standard(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule { allow: true, kind, major, minor, access }
}

const STANDARD: [Rule; 10] = [
    standard(DeviceKind::Char, None, None, MKNOD),
    standard(DeviceKind::Block, None, None, MKNOD),
    standard(DeviceKind::Char, Some(1), Some(3), ALL),
    standard(DeviceKind::Char, Some(1), Some(5), ALL),
    standard(DeviceKind::Char, Some(1), Some(7), ALL),
    standard(DeviceKind::Char, Some(1), Some(8), ALL),
    standard(DeviceKind::Char, Some(1), Some(9), ALL),
    standard(DeviceKind::Char, Some(5), Some(0), ALL),
    standard(DeviceKind::Char, Some(5), Some(2), ALL),
    standard(DeviceKind::Char, Some(136), None, ALL),
];

fn number(value: Option<i64>) -> Result<Option<u32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(n) => {
            u32::try_from(n).map(Some).map_err(|_| Error::Spec(format!("device number {n} is out of range")))
        }
    }
}

fn rule(from: &DeviceRule) -> Result<Rule> {
    let kind = match from.kind.as_str() {
        "" | "a" => DeviceKind::Any,
        "c" | "u" => DeviceKind::Char,
        "b" => DeviceKind::Block,
        other => return Err(Error::Spec(format!("device rule: unknown type {other:?}"))),
    };
    let mut access = 0;
    for letter in from.access.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            other => return Err(Error::Spec(format!("device rule: unknown access {other:?}"))),
        };
    }
    // No letters at all are all of them, as an absent type is every type.
    let access = if access == 0 { ALL } else { access };
    Ok(Rule { allow: from.allow, kind, major: number(from.major)?, minor: number(from.minor)?, access })
}

/// All rules that count, in order.
pub fn rules(configured: &[DeviceRule]) -> Result<Vec<Rule>> {
    let mut rules = configured.iter().map(rule).collect::<Result<Vec<_>>>()?;
    rules.extend(STANDARD);
    Ok(rules)
}

/// Says what is wrong before anything is made.
pub fn check(configured: &[DeviceRule]) -> Result<()> {
    rules(configured).map(drop)
}

impl Rule {
    fn everything(&self) -> bool {
        *self == Rule { allow: self.allow, kind: DeviceKind::Any, major: None, minor: None, access: ALL }
    }

    fn overlaps(&self, other: &Rule) -> bool {
        fn meet(a: Option<u32>, b: Option<u32>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        self.kind == other.kind && meet(self.major, other.major) && meet(self.minor, other.minor)
    }

    fn covers(&self, other: &Rule) -> bool {
        self.kind == other.kind
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }

    fn line(&self) -> String {
        let show = |n: Option<u32>| n.map_or("*".to_string(), |n| n.to_string());
        let kind = if self.kind == DeviceKind::Block { 'b' } else { 'c' };
        format!("{kind} {}:{} {}", show(self.major), show(self.minor), self.access_letters())
    }

    fn access_letters(&self) -> String {
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].into_iter();
        letters.filter(|(bit, _)| self.access & bit != 0).map(|(_, letter)| letter).collect()
    }
}

/// v1 knows a default and a list of exceptions from it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Exceptions {
    default_allow: bool,
    list: Vec<Rule>,
}

impl Exceptions {
    fn of(rules: &[Rule]) -> Result<Exceptions> {
        let mut state = Exceptions::default();
        for rule in rules {
            if rule.everything() {
                state = Exceptions { default_allow: rule.allow, list: Vec::new() };
            } else if rule.kind == DeviceKind::Any {
                state.add(Rule { kind: DeviceKind::Char, ..*rule })?;
                state.add(Rule { kind: DeviceKind::Block, ..*rule })?;
            } else {
                state.add(*rule)?;
            }
        }
        Ok(state)
    }

    fn add(&mut self, rule: Rule) -> Result<()> {
        if rule.allow != self.default_allow {
            match self.list.iter_mut().find(|e| e.overlaps(&rule) && e.covers(&rule) && rule.covers(e)) {
                Some(same) => same.access |= rule.access,
                None => self.list.push(rule),
            }
            return Ok(());
        }
        // Back to the default: exceptions that the rule covers lose these kinds of access. One that it only cuts into
        // cannot be written in v1's form.
        for exception in &mut self.list {
            if rule.covers(exception) {
                exception.access &= !rule.access;
            } else if rule.overlaps(exception) && exception.access & rule.access != 0 {
                return Err(Error::Unsupported(format!(
                    "cgroup v1 cannot except {} from {}",
                    rule.line(),
                    exception.line()
                )));
            }
        }
        self.list.retain(|e| e.access != 0);
        Ok(())
    }
}

/// True when the rules deny nothing.
pub fn allows_everything(rules: &[Rule]) -> bool {
    Exceptions::of(rules).is_ok_and(|e| e.default_allow && e.list.is_empty())
}

/// What is allowed, in systemd's words: a device's path, `char-MAJOR` or `char-*`, and the kinds of access. None: all is,
/// or all but some, which systemd cannot say.
pub fn allowed(configured: &[DeviceRule]) -> Result<Option<Vec<(String, String)>>> {
    let state = Exceptions::of(&rules(configured)?)?;
    let name = |rule: &Rule| {
        let kind = if rule.kind == DeviceKind::Block { "block" } else { "char" };
        match (rule.major, rule.minor) {
            (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
            (Some(major), None) => Some(format!("{kind}-{major}")),
            (None, None) => Some(format!("{kind}-*")),
            // A minor number of every major is nothing that systemd knows.
            (None, Some(_)) => None,
        }
    };
    let list = state.list.iter().filter_map(|rule| Some((name(rule)?, rule.access_letters())));
    Ok((!state.default_allow).then(|| list.collect()))
}

pub fn apply_v1(dir: &Dir, configured: &[DeviceRule]) -> Result<()> {
    let state = Exceptions::of(&rules(configured)?)?;
    if state.default_allow {
        // A new group has what its parent has; only a narrower one must be opened.
        if dir.read("devices.list")?.trim() != "a *:* rwm" {
            dir.write("devices.allow", "a")?;
        }
    } else {
        dir.write("devices.deny", "a")?;
    }
    if state.list.is_empty() {
        return Ok(());
    }
    let path = dir.path().join(if state.default_allow { "devices.deny" } else { "devices.allow" });
    let fd = file::open(&path, libc::O_WRONLY, 0).at("open", &path)?;
    for exception in &state.list {
        file::write(&fd, exception.line().as_bytes()).map_err(|source| Error::Control {
            path: path.clone(),
            value: exception.line(),
            source,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(json: &str) -> Vec<Rule> {
        let rules: Vec<DeviceRule> = serde_json::from_str(json).unwrap();
        rules.iter().map(rule).collect::<Result<_>>().unwrap()
    }

    #[test]
    fn usual_rules() {
        let rules: Vec<DeviceRule> = serde_json::from_str(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}]"#,
        )
        .unwrap();
        let state = Exceptions::of(&super::rules(&rules).unwrap()).unwrap();
        assert!(!state.default_allow);
        assert_eq!(state.list.len(), STANDARD.len());
        assert_eq!(state.list[0].line(), "c 1:3 rwm");
    }

    #[test]
    fn privileged_is_no_exception() {
        let mut rules = given(r#"[{"allow":false,"access":"rwm"},{"allow":true,"access":"rwm"}]"#);
        rules.extend(STANDARD);
        assert!(allows_everything(&rules));
        rules.extend(given(r#"[{"allow":false,"type":"b","major":8,"access":"w"}]"#));
        assert!(!allows_everything(&rules));
    }

    #[test]
    fn exceptions_shrink_or_cannot_be_written() {
        let state = Exceptions::of(&given(
            r#"[{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"},{"allow":false,"type":"c","major":1,"access":"w"}]"#,
        ))
        .unwrap();
        assert_eq!(state.list[0].line(), "c 1:3 r");
        assert!(
            Exceptions::of(&given(
                r#"[{"allow":true,"type":"c","major":1,"access":"rw"},{"allow":false,"type":"c","major":1,"minor":3,"access":"w"}]"#
            ))
            .is_err()
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [r#"{"type":"x"}"#, r#"{"access":"q"}"#, r#"{"major":-2}"#, r#"{"minor":4294967296}"#] {
            assert!(rule(&serde_json::from_str(json).unwrap()).is_err(), "{json}");
        }
    }
}
