//! The validator that is built in: rejects what configuration says plugins may not adjust, and containers that a
//! required plugin has not been asked about.

use std::collections::{BTreeSet, HashSet};

use windlass_api::nri::security_profile::ProfileType;
use windlass_api::nri::{PodSandbox, ValidateContainerAdjustmentRequest};

use crate::config::Validator;
use crate::error::{Error, Result};
use crate::owners::{Field, Owners};

/// What the rejection names.
const NAME: &str = "default-validator";
/// Annotation with further plugins that are required, a list in YAML.
const REQUIRED: &str = "required-plugins.noderesource.dev";

/// Judges `request`, whose owners are `owners`.
pub fn validate(
    rules: &Validator,
    request: &ValidateContainerAdjustmentRequest,
    owners: &Owners,
) -> Result<()> {
    let reject = |reason: String| Error::Rejected { validator: NAME.into(), reason };
    let id = request.container.id.as_str();
    if rules.reject_oci_hook_adjustment
        && let Some(plugins) = owners.owner(id, Field::OciHooks)
    {
        return Err(reject(format!("plugins {plugins:?} attempted restricted OCI hook injection")));
    }
    if let Some(plugin) = owners.owner(id, Field::SeccompPolicy)
        && let Some(kind) = restricted_seccomp(rules, request)
    {
        return Err(reject(format!(
            "plugin {plugin:?} attempted restricted {kind} seccomp policy adjustment"
        )));
    }
    for (rule, field, what) in [
        (rules.reject_namespace_adjustment, Field::Namespace, "namespace"),
        (rules.reject_sysctl_adjustment, Field::Sysctl, "sysctl"),
    ] {
        let entries = if rule { owners.entries(id, field) } else { Vec::new() };
        if !entries.is_empty() {
            let all: Vec<_> =
                entries.iter().map(|(key, plugin)| format!("{plugin:?} ({what} {key:?})")).collect();
            return Err(reject(format!("attempted restricted {what} adjustment by {}", all.join(", "))));
        }
    }
    match missing(rules, request).map_err(reject)? {
        missing if missing.is_empty() => Ok(()),
        missing => Err(reject(format!("required plugins not present: {}", missing.join(", ")))),
    }
}

/// The kind of policy that the container was to have, where that kind may not be adjusted.
fn restricted_seccomp(
    rules: &Validator,
    request: &ValidateContainerAdjustmentRequest,
) -> Option<&'static str> {
    let profile = request.container.linux.as_ref().and_then(|linux| linux.seccomp_profile.as_ref());
    let kind =
        profile.map_or(ProfileType::UNCONFINED, |profile| profile.profile_type.enum_value_or_default());
    let (rule, name) = match kind {
        ProfileType::UNCONFINED => (rules.reject_unconfined_seccomp_adjustment, "unconfined"),
        ProfileType::RUNTIME_DEFAULT => (rules.reject_runtime_default_seccomp_adjustment, "runtime default"),
        ProfileType::LOCALHOST => (rules.reject_custom_seccomp_adjustment, "custom"),
    };
    rule.then_some(name)
}

fn missing(rules: &Validator, request: &ValidateContainerAdjustmentRequest) -> Result<Vec<String>, String> {
    let (pod, container) = (&request.pod, request.container.name.as_str());
    let tolerate = rules.tolerate_missing_plugins_annotation.as_str();
    if !tolerate.is_empty()
        && let Some(value) = annotation(pod, tolerate, container)
    {
        match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => return Ok(Vec::new()),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => {}
            _ => return Err(format!("annotation {tolerate} must be true or false: {value:?}")),
        }
    }
    let mut required: BTreeSet<String> = rules.required_plugins.iter().cloned().collect();
    if let Some(value) = annotation(pod, REQUIRED, container) {
        let names = list(value).ok_or_else(|| format!("annotation {REQUIRED} must be a list: {value:?}"))?;
        required.extend(names);
    }
    let there: HashSet<String> =
        request.plugins.iter().flat_map(|p| [p.name.clone(), format!("{}-{}", p.index, p.name)]).collect();
    Ok(required.into_iter().filter(|name| !there.contains(name)).collect())
}

/// An annotation for one container, else for its pod.
fn annotation<'a>(pod: &'a PodSandbox, key: &str, container: &str) -> Option<&'a str> {
    [format!("{key}/container.{container}"), format!("{key}/pod"), key.to_owned()]
        .iter()
        .find_map(|key| pod.annotations.get(key))
        .map(String::as_str)
}

/// A YAML list of plain or quoted words, in brackets or a line each.
fn list(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Vec::new());
    }
    match text.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']')?.trim();
            let inner = inner.strip_suffix(',').unwrap_or(inner);
            if inner.is_empty() {
                return Some(Vec::new());
            }
            inner.split(',').map(word).collect()
        }
        None => text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| word(line.trim().strip_prefix("- ")?))
            .collect(),
    }
}

fn word(text: &str) -> Option<String> {
    let text = text.trim();
    let quoted = ['"', '\''].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q));
    let word = quoted.unwrap_or(text);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    (!word.is_empty() && word.chars().all(plain)).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use windlass_api::nri::{PluginInstance, SecurityProfile};

    use super::*;

    fn request() -> ValidateContainerAdjustmentRequest {
        let mut request = ValidateContainerAdjustmentRequest::new();
        let container = request.container.mut_or_insert_default();
        (container.id, container.name) = ("c".into(), "main".into());
        let plugin = PluginInstance { name: "there".into(), index: "10".into(), ..Default::default() };
        request.plugins = vec![plugin];
        request.pod = Some(PodSandbox::new()).into();
        request
    }

    fn text(rules: &Validator, request: &ValidateContainerAdjustmentRequest, owners: &Owners) -> String {
        validate(rules, request, owners).unwrap_err().to_string()
    }

    #[test]
    fn each_rule_rejects_its_own() {
        let mut owners = Owners::default();
        owners.share("c", Field::OciHooks, "10-a");
        owners.claim("c", Field::SeccompPolicy, "10-a").unwrap();
        owners.claim_entry("c", Field::Namespace, "pid", "10-a").unwrap();
        owners.claim_entry("c", Field::Sysctl, "kernel.x", "10-a").unwrap();
        let none = Validator { enable: true, ..Validator::default() };
        validate(&none, &request(), &owners).unwrap();
        let rules = Validator { reject_oci_hook_adjustment: true, ..none.clone() };
        assert!(text(&rules, &request(), &owners).contains("OCI hook"));
        validate(&rules, &request(), &Owners::default()).unwrap();
        let rules = Validator { reject_namespace_adjustment: true, ..none.clone() };
        assert!(text(&rules, &request(), &owners).contains("namespace \"pid\""));
        let rules = Validator { reject_sysctl_adjustment: true, ..none.clone() };
        assert!(text(&rules, &request(), &owners).contains("kernel.x"));
        let kinds = [
            (
                ProfileType::UNCONFINED,
                Validator { reject_unconfined_seccomp_adjustment: true, ..none.clone() },
            ),
            (
                ProfileType::RUNTIME_DEFAULT,
                Validator { reject_runtime_default_seccomp_adjustment: true, ..none.clone() },
            ),
            (ProfileType::LOCALHOST, Validator { reject_custom_seccomp_adjustment: true, ..none.clone() }),
        ];
        for (of, rules) in &kinds {
            for (other, _) in &kinds {
                let mut request = request();
                let linux = request.container.mut_or_insert_default().linux.mut_or_insert_default();
                let profile = SecurityProfile { profile_type: (*other).into(), ..Default::default() };
                linux.seccomp_profile = Some(profile).into();
                assert_eq!(validate(rules, &request, &owners).is_err(), of == other, "{of:?} {other:?}");
            }
        }
        assert!(validate(&kinds[0].1, &request(), &owners).is_err(), "no profile is unconfined");
    }

    #[test]
    fn required_plugins_must_be_there_unless_the_pod_does_without() {
        let rules = |names: &[&str]| Validator {
            required_plugins: names.iter().map(|n| (*n).to_owned()).collect(),
            tolerate_missing_plugins_annotation: "tolerate".into(),
            ..Validator::default()
        };
        let owners = Owners::default();
        validate(&rules(&["there", "10-there"]), &request(), &owners).unwrap();
        assert!(text(&rules(&["there", "gone"]), &request(), &owners).ends_with("not present: gone"));
        for (key, value, passes) in [
            ("tolerate", "true", true),
            ("tolerate", "false", false),
            ("tolerate", "maybe", false),
            ("tolerate/pod", "T", true),
            ("tolerate/container.main", "1", true),
            ("tolerate/container.other", "1", false),
        ] {
            let mut request = request();
            let pod = request.pod.mut_or_insert_default();
            pod.annotations.insert(key.into(), value.into());
            assert_eq!(validate(&rules(&["gone"]), &request, &owners).is_ok(), passes, "{key}={value}");
        }
        for (value, passes) in [
            ("[ there ]", true),
            ("- there\n- \"10-there\"", true),
            ("[gone]", false),
            ("{a: b}", false),
            ("[]", true),
        ] {
            let mut request = request();
            let pod = request.pod.mut_or_insert_default();
            pod.annotations.insert(format!("{REQUIRED}/container.main"), value.into());
            assert_eq!(validate(&rules(&[]), &request, &owners).is_ok(), passes, "{value}");
        }
    }
}
