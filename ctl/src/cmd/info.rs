//! `windlass info`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use windlass_api::services::containers::ListContainersRequest;
use windlass_api::services::images::ListImagesRequest;
use windlass_api::services::introspection::PluginsRequest;
use windlass_api::services::namespaces::ListNamespacesRequest;
use windlass_api::services::tasks::ListTasksRequest;
use windlass_api::types::task::Status;

use super::plugins;
use crate::client::{Client, Global};
use crate::output::{self, Format};

#[derive(clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Info {
    client: String,
    server: String,
    revision: String,
    uuid: String,
    pid: u64,
    address: String,
    root: String,
    namespace: String,
    namespaces: usize,
    containers: usize,
    running: usize,
    paused: usize,
    images: usize,
    snapshotters: Vec<String>,
    runtimes: Vec<String>,
    plugins: usize,
    plugins_failed: Vec<String>,
    deprecations: Vec<String>,
    kernel: String,
    cgroups: u8,
    processors: usize,
}

/// The daemon's root, from the directory that one of its plugins says it has below it.
fn root(plugins: &[windlass_api::services::introspection::Plugin]) -> String {
    plugins
        .iter()
        .find_map(|p| {
            let path = std::path::Path::new(p.exports.get("root")?);
            let own = format!("{}.{}", p.r#type, p.id);
            (path.file_name()?.to_str()? == own).then(|| path.parent().map(|p| p.display().to_string()))?
        })
        .unwrap_or_default()
}

async fn ask(global: &Global) -> Result<Info> {
    let client = Client::connect(global).await?;
    let (mut version, mut introspection, mut more) =
        (client.version(), client.introspection(), client.introspection());
    let (mut namespaces, mut containers, mut tasks, mut images) =
        (client.namespaces(), client.containers(), client.tasks(), client.images());
    let (version, server, plugins, namespaces, containers, tasks, images) = tokio::try_join!(
        version.version(()),
        introspection.server(()),
        more.plugins(PluginsRequest::default()),
        namespaces.list(ListNamespacesRequest::default()),
        containers.list(ListContainersRequest::default()),
        tasks.list(ListTasksRequest::default()),
        images.list(ListImagesRequest::default()),
    )?;
    let (version, server) = (version.into_inner(), server.into_inner());
    let (plugins, tasks) = (plugins.into_inner().plugins, tasks.into_inner().tasks);
    let count = |status: Status| tasks.iter().filter(|t| t.status() == status).count();
    let of_type = |kind: &str| {
        let mine = plugins.iter().filter(|p| p.r#type == kind && p.init_err.is_none());
        mine.map(|p| p.id.clone()).collect::<Vec<_>>()
    };
    let failed = plugins.iter().filter(|p| plugins::row((*p).clone()).status == "error");
    Ok(Info {
        client: env!("CARGO_PKG_VERSION").to_owned(),
        server: version.version,
        revision: version.revision,
        uuid: server.uuid,
        pid: server.pid,
        address: global.address().display().to_string(),
        root: root(&plugins),
        namespace: global.namespace.clone(),
        namespaces: namespaces.into_inner().namespaces.len(),
        containers: containers.into_inner().containers.len(),
        running: count(Status::Running),
        paused: count(Status::Paused),
        images: images.into_inner().images.len(),
        snapshotters: of_type("io.containerd.snapshotter.v1"),
        runtimes: of_type("io.containerd.runtime.v2"),
        plugins: plugins.len(),
        plugins_failed: failed.map(|p| format!("{}.{}", p.r#type, p.id)).collect(),
        deprecations: server.deprecations.into_iter().map(|d| d.message).collect(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cgroups: if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 },
        processors: std::thread::available_parallelism().map_or(1, usize::from),
    })
}

pub async fn run(global: Global, _: Args) -> Result<ExitCode> {
    let info = ask(&global).await?;
    if global.format != Format::Table {
        output::object(&global.format, &info)?;
        return Ok(ExitCode::SUCCESS);
    }
    let failed = if info.plugins_failed.is_empty() {
        String::new()
    } else {
        format!(", failed: {}", info.plugins_failed.join(" "))
    };
    let lines = [
        ("Client", format!("windlass {}", info.client)),
        ("Server", format!("{} {}", info.server, info.revision)),
        ("UUID", info.uuid),
        ("Process", info.pid.to_string()),
        ("Address", info.address),
        ("Root", info.root),
        ("Namespace", format!("{} (of {})", info.namespace, info.namespaces)),
        ("Containers", format!("{} ({} running, {} paused)", info.containers, info.running, info.paused)),
        ("Images", info.images.to_string()),
        ("Snapshotters", info.snapshotters.join(" ")),
        ("Plugins", format!("{}{failed}", info.plugins)),
        ("Kernel", info.kernel),
        ("Cgroups", format!("v{}", info.cgroups)),
        ("Processors", info.processors.to_string()),
    ];
    let mut text: String = lines
        .iter()
        .map(|(k, v)| format!("{:14}{}\n", format!("{k}:"), output::safe(v).trim_end()))
        .collect();
    for warning in &info.deprecations {
        text.push_str(&format!("Deprecated:   {}\n", output::safe(warning)));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
