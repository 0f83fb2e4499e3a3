//! Whether a runtime can do what a specification asks, where it would ignore it silently: mounts with mapped ids.

use serde::Deserialize;
use windlass_core::container::Runtime;
use windlass_core::task::CreateOptions;

use crate::Launcher;
use crate::error::Result;

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    mounts: Vec<Mount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    uid_mappings: Option<serde::de::IgnoredAny>,
    gid_mappings: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    options: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Features {
    linux: Option<Linux>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Linux {
    mount_extensions: Option<Extensions>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Extensions {
    idmap: Option<Switch>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Switch {
    enabled: Option<bool>,
}

/// Refuses mapped mounts that the runtime says it cannot do. A runtime that says nothing is believed.
pub async fn check(launcher: &Launcher, options: &CreateOptions) -> Result<()> {
    let Some(spec) = &options.spec else { return Ok(()) };
    if !maps_mounts(&spec.value) {
        return Ok(());
    }
    let runtime = Runtime { name: options.runtime.name.clone(), options: options.options.clone() };
    let info =
        launcher.info(&runtime).await.map_err(|e| e.context("failed to validate OCI runtime features"))?;
    let Some(features) = info.features else { return Ok(()) };
    // Features of another form are another runtime's, which may not need them.
    let Ok(features) = serde_json::from_slice::<Features>(&features.value) else { return Ok(()) };
    let enabled =
        features.linux.and_then(|l| l.mount_extensions).and_then(|m| m.idmap).and_then(|i| i.enabled);
    if enabled == Some(true) {
        return Ok(());
    }
    let said = "failed to validate OCI runtime features: idmap mounts not supported by the runtime";
    Err(windlass_core::Error::unknown(said).into())
}

fn maps_mounts(spec: &[u8]) -> bool {
    // Nearly no specification does, and parsing each would cost.
    let has = |word: &[u8]| spec.windows(word.len()).any(|window| window == word);
    if !(has(b"idmap") || has(b"idMappings")) {
        return false;
    }
    let Ok(spec) = serde_json::from_slice::<Spec>(spec) else { return false };
    spec.mounts.iter().any(|mount| {
        let option = |o: &String| o == "idmap" || o == "ridmap";
        mount.uid_mappings.is_some()
            || mount.gid_mappings.is_some()
            || mount.options.as_ref().is_some_and(|options| options.iter().any(option))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_mounts_are_seen() {
        for yes in [
            r#"{"mounts":[{"destination":"/a","options":["rbind","ridmap"]}]}"#,
            r#"{"mounts":[{"destination":"/a","uidMappings":[{"containerID":0,"hostID":5,"size":1}]}]}"#,
        ] {
            assert!(maps_mounts(yes.as_bytes()), "{yes}");
        }
        for no in [
            "{}",
            r#"{"mounts":[{"destination":"/a","options":["rbind"]}],"linux":{"uidMappings":[]}}"#,
            r#"{"process":{"args":["idmap"]}}"#,
        ] {
            assert!(!maps_mounts(no.as_bytes()), "{no}");
        }
    }
}
