//! System call filters: none, the default profile, or a file of the node's.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Value, json};
use windlass_api::cri;
use windlass_api::cri::security_profile::ProfileType;

use super::error::{Error, Result, invalid, unsupported};
use super::host::Host;
use super::settings::Settings;

/// What the default profile allows, see the head of the file.
const TABLE: &str = include_str!("seccomp.txt");
const MAX_PROFILE: u64 = 4 << 20;
/// The flags of `clone` that make namespaces.
const CLONE_NEW: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u32 as u64;

/// A profile in CRI's older form: a word, or `localhost/<name>`. Empty: nothing was said.
pub fn by_name(name: &str) -> Result<Option<cri::SecurityProfile>> {
    let of = |kind: ProfileType, file: &str| {
        Some(cri::SecurityProfile { profile_type: kind as i32, localhost_ref: file.to_owned() })
    };
    Ok(match name {
        "" => None,
        "runtime/default" | "docker/default" => of(ProfileType::RuntimeDefault, ""),
        "unconfined" => of(ProfileType::Unconfined, ""),
        other => match other.strip_prefix("localhost/") {
            Some(file) => of(ProfileType::Localhost, file),
            None => return invalid(format!("invalid security profile {name:?}")),
        },
    })
}

/// `linux.seccomp` for a process with these capabilities in its bounding set.
pub fn profile(
    host: &Host,
    settings: &Settings,
    asked: Option<&cri::SecurityProfile>,
    older: &str,
    privileged: bool,
    bounding: &[String],
) -> Result<Option<Value>> {
    if privileged {
        return Ok(None);
    }
    let older = match asked {
        Some(_) => None,
        None => match by_name(older)? {
            None => by_name(&settings.config.unset_seccomp_profile)?,
            some => some,
        },
    };
    let Some(asked) = asked.or(older.as_ref()) else { return Ok(None) };
    let kind = kind(asked, "seccomp")?;
    if kind == ProfileType::Unconfined {
        return Ok(None);
    }
    if !host.seccomp {
        return unsupported("seccomp is not supported by this kernel");
    }
    match kind {
        ProfileType::RuntimeDefault => Ok(Some(default(bounding))),
        _ => {
            let file = asked.localhost_ref.strip_prefix("localhost/").unwrap_or(&asked.localhost_ref);
            read(Path::new(file)).map(Some)
        }
    }
}

/// The type of a profile; only one of the node's own has a name.
pub fn kind(profile: &cri::SecurityProfile, what: &str) -> Result<ProfileType> {
    let Ok(kind) = ProfileType::try_from(profile.profile_type) else {
        return invalid(format!("{what} profile type {} is not known", profile.profile_type));
    };
    if kind != ProfileType::Localhost && !profile.localhost_ref.is_empty() {
        return invalid(format!("{what}: localhost_ref is only for profiles of type Localhost"));
    }
    Ok(kind)
}

/// A profile in OCI's form. What runtimes do not know they pass over.
fn read(path: &Path) -> Result<Value> {
    if !path.is_absolute() {
        return invalid(format!("seccomp profile {:?} is not an absolute path", path.display()));
    }
    let failed = |e: std::io::Error| Error::io("read seccomp profile", path)(e);
    // A FIFO does not hold this up; it is found out and refused.
    let mut options = File::options();
    let file =
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > MAX_PROFILE {
        return invalid(format!("seccomp profile {} is not a file of a sensible size", path.display()));
    }
    let mut text = Vec::new();
    file.take(MAX_PROFILE).read_to_end(&mut text).map_err(failed)?;
    let profile: Value = serde_json::from_slice(&text).map_err(Error::parse("read seccomp profile", path))?;
    if !profile["defaultAction"].is_string() {
        return invalid(format!("seccomp profile {} has no defaultAction", path.display()));
    }
    Ok(profile)
}

/// The default profile.
pub fn default(bounding: &[String]) -> Value {
    let has = |cap: &str| bounding.iter().any(|b| b == cap);
    let mut names = Vec::new();
    let mut rules = Vec::new();
    let mut wanted = false;
    for line in TABLE.lines().filter(|l| !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(' ') {
            if wanted {
                names.extend(words);
            }
            continue;
        }
        match words[..] {
            ["allow"] => wanted = true,
            ["allow", "cap", cap] => wanted = has(cap),
            ["allow", "arch", ..] => wanted = words[2..].contains(&std::env::consts::ARCH),
            ["if", call, index, operator, value] => {
                rules.push(rule(call, number(index), operator, number(value)))
            }
            _ => {}
        }
    }
    if !has("CAP_SYS_ADMIN") {
        let flags = if cfg!(target_arch = "s390x") { 1 } else { 0 };
        rules.push(rule("clone", flags, "&", CLONE_NEW));
        // Its flags lie in memory, where no filter looks. Libraries take ENOSYS as a reason to use clone.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    }
    names.sort_unstable();
    names.dedup();
    rules.insert(0, json!({"names": names, "action": "SCMP_ACT_ALLOW"}));
    json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures(), "syscalls": rules})
}

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .expect("the table has numbers there, a test reads it")
}

/// A call allowed where an argument compares so; `&`: where none of these bits is set.
fn rule(call: &str, index: u64, operator: &str, value: u64) -> Value {
    let op = match operator {
        "<" => "SCMP_CMP_LT",
        ">" => "SCMP_CMP_GT",
        "==" => "SCMP_CMP_EQ",
        _ => "SCMP_CMP_MASKED_EQ",
    };
    json!({"names": [call], "action": "SCMP_ACT_ALLOW", "args": [{"index": index, "value": value, "op": op}]})
}

fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"],
        "s390x" => &["SCMP_ARCH_S390", "SCMP_ARCH_S390X"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        _ => &[],
    }
}

#[cfg(test)]
#[path = "tests/seccomp.rs"]
mod tests;
