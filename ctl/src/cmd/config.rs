//! `windlass config`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::client::Global;
use crate::run::log;
use crate::{auth, output};

#[derive(clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Row {
    setting: &'static str,
    value: String,
    from: &'static str,
}

pub async fn run(global: Global, _: Args) -> Result<ExitCode> {
    let (address, namespace) = global.sources();
    let set = |name: &str| {
        if std::env::var_os(name).is_some_and(|v| !v.is_empty()) { "environment" } else { "default" }
    };
    let path = auth::config_path();
    let shown = path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let rows = [
        Row { setting: "address", value: global.address().display().to_string(), from: address },
        Row { setting: "namespace", value: global.namespace.clone(), from: namespace },
        Row { setting: "snapshotter", value: "overlayfs".into(), from: "default" },
        Row { setting: "runtime", value: "io.containerd.runc.v2".into(), from: "default" },
        Row { setting: "logs", value: log::base().display().to_string(), from: set("WINDLASS_LOG_DIR") },
        Row { setting: "credentials", value: shown, from: set("DOCKER_CONFIG") },
        // Their names only: what is kept for them is nobody's business here.
        Row { setting: "registries", value: auth::known()?.join(" "), from: "credentials" },
    ];
    output::rows(&global.format, &[("SETTING", "setting"), ("VALUE", "value"), ("FROM", "from")], &rows)?;
    Ok(ExitCode::SUCCESS)
}
