//! `--security-opt`: seccomp profiles, privileges, AppArmor.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// Largest seccomp profile.
const LIMIT: u64 = 4 << 20;

#[derive(Default, Debug)]
pub struct Security {
    pub seccomp: Option<Value>,
    pub no_new_privileges: Option<bool>,
    pub apparmor: Option<String>,
}

pub fn parse(options: &[String], capabilities: &[String]) -> Result<Security> {
    let mut security = Security::default();
    for option in options {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (key, value) {
            ("seccomp", "unconfined") => security.seccomp = None,
            ("seccomp", file) if !file.is_empty() => security.seccomp = Some(profile(file, capabilities)?),
            ("no-new-privileges", "" | "true") => security.no_new_privileges = Some(true),
            ("no-new-privileges", "false") => security.no_new_privileges = Some(false),
            ("apparmor", profile) if !profile.is_empty() => security.apparmor = Some(profile.to_owned()),
            _ => bail!(
                "security option {option:?}: use seccomp=FILE, seccomp=unconfined, no-new-privileges[=false] or \
                 apparmor=PROFILE"
            ),
        }
    }
    Ok(security)
}

fn profile(file: &str, capabilities: &[String]) -> Result<Value> {
    let about = || format!("seccomp profile {file}");
    let size = std::fs::metadata(file).with_context(about)?.len();
    ensure!(size <= LIMIT, "{} is larger than {LIMIT} bytes", about());
    let text = std::fs::read(file).with_context(about)?;
    let value: Value = serde_json::from_slice(&text).with_context(about)?;
    ensure!(value.get("defaultAction").is_some_and(Value::is_string), "{} has no defaultAction", about());
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Ok(plain(value, std::env::consts::ARCH, &kernel, capabilities))
}

/// The name of an architecture, ours, as profiles write it.
fn arch_names(arch: &str) -> (&'static str, &'static str) {
    match arch {
        "x86_64" => ("amd64", "SCMP_ARCH_X86_64"),
        "aarch64" => ("arm64", "SCMP_ARCH_AARCH64"),
        "riscv64" => ("riscv64", "SCMP_ARCH_RISCV64"),
        "s390x" => ("s390x", "SCMP_ARCH_S390X"),
        "powerpc64" => ("ppc64le", "SCMP_ARCH_PPC64LE"),
        _ => ("", ""),
    }
}

/// Docker's profiles say under which conditions a rule holds; the runtime's say only what holds. One of the runtime's
/// comes out as it went in.
fn plain(mut profile: Value, arch: &str, kernel: &str, capabilities: &[String]) -> Value {
    let (go, scmp) = arch_names(arch);
    let Some(map) = profile.as_object_mut() else { return profile };
    if let Some(Value::Array(list)) = map.remove("archMap") {
        let ours = list.iter().find(|e| e["architecture"] == scmp);
        let mut all = vec![json!(scmp)];
        if let Some(Value::Array(sub)) = ours.map(|e| e["subArchitectures"].clone()) {
            all.extend(sub);
        }
        map.insert("architectures".into(), Value::Array(all));
    }
    let holds = |conditions: &Value, all: bool| {
        let Value::Object(conditions) = conditions else { return all };
        let listed =
            |key: &str, test: &dyn Fn(&str) -> bool| match conditions.get(key).and_then(Value::as_array) {
                Some(list) if !list.is_empty() => {
                    let mut hits = list.iter().filter_map(Value::as_str).map(test);
                    // All capabilities that are named must be there; one of the architectures is enough.
                    if all && key == "caps" { hits.all(|h| h) } else { hits.any(|h| h) }
                }
                _ => all,
            };
        let caps = listed("caps", &|c| capabilities.iter().any(|have| have == c));
        let arches = listed("arches", &|a| a == go);
        let kernel = match conditions.get("minKernel").and_then(Value::as_str) {
            Some(least) => version(kernel) >= version(least),
            None => all,
        };
        if all { caps && arches && kernel } else { caps || arches || kernel }
    };
    if let Some(Value::Array(rules)) = map.get_mut("syscalls") {
        rules.retain(|rule| holds(&rule["includes"], true) && !holds(&rule["excludes"], false));
        for rule in rules.iter_mut().filter_map(Value::as_object_mut) {
            for key in ["includes", "excludes", "comment", "name"] {
                if let Some(Value::String(name)) = rule.remove(key).filter(|_| key == "name") {
                    rule.insert("names".into(), json!([name]));
                }
            }
            drop_nulls(rule);
        }
    }
    drop_nulls(map);
    profile
}

fn drop_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, v| !v.is_null());
}

/// The first two numbers of a kernel's version.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_parse() {
        let security = parse(&["no-new-privileges=false".into(), "apparmor=x".into()], &[]).unwrap();
        assert_eq!((security.no_new_privileges, security.apparmor.as_deref()), (Some(false), Some("x")));
        for bad in ["seccomp", "label=x", "nope", "seccomp=/no/such/file"] {
            assert!(parse(&[bad.into()], &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_of_a_profile_are_resolved() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["arm_x"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}, "args": null},
            ],
        });
        let names = |caps: &[&str], kernel: &str| {
            let caps: Vec<_> = caps.iter().map(|c| (*c).to_owned()).collect();
            let out = plain(profile.clone(), "x86_64", kernel, &caps);
            let rules = out["syscalls"].as_array().unwrap().clone();
            (out, rules.iter().map(|r| r["names"][0].as_str().unwrap().to_owned()).collect::<Vec<_>>())
        };
        let (out, rules) = names(&[], "6.1.0-5");
        assert_eq!(out["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
        assert_eq!(rules, ["read", "ptrace", "clone"]);
        assert!(!out.to_string().contains("excludes"));
        assert_eq!(names(&["CAP_SYS_ADMIN"], "4.4").1, ["read", "mount"]);
    }
}
