//! Start and stop: directories, lock, sockets, plugins, serving, and all of it back again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use windlass_api::kinds::{GrpcKind, TtrpcKind};
use windlass_api::reflection::Reflection;
use windlass_core::registry::{Graph, Kind as _, Options, Registration};

use crate::config::{Endpoint, Settings};
use crate::metrics::Metrics;
use crate::server::{Admission, Door, grpc, http, tls, ttrpc};
use crate::{dirs, process, socket, systemd};

/// Export of a gRPC plugin that is not to be served over TCP.
const NOT_OVER_TCP: &str = "not-over-tcp";
/// Threads that run asynchronous code. More would only hold memory: blocking work has a pool of its own.
const WORKERS: (usize, usize) = (2, 4);
/// Threads of that pool at most, and how long one without work stays.
const MAX_BLOCKING: usize = 256;
const IDLE: Duration = Duration::from_secs(3);
/// How often memory that work has freed goes back to the kernel.
const TRIM: Duration = Duration::from_secs(20);

/// Runs the daemon to its end.
pub fn run(settings: Settings, registrations: Vec<&'static Registration>) -> Result<()> {
    let begun = Instant::now();
    dirs::prepare(&settings)?;
    let _lock = dirs::lock(&settings)?;
    process::settle(&settings);
    let workers =
        std::thread::available_parallelism().map_or(WORKERS.0, |n| n.get().clamp(WORKERS.0, WORKERS.1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(MAX_BLOCKING)
        .thread_keep_alive(IDLE)
        .thread_name("windlassd")
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?;
    let result = runtime.block_on(serve(settings, registrations, begun));
    // Whatever still blocks (a disk, a shim) must not hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    dump: Signal,
}

enum Asked {
    Stop(&'static str),
    Dump,
}

impl Signals {
    fn new() -> Result<Self> {
        let of = |kind| signal(kind).context("listen to signals");
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            dump: of(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.dump.recv() => Asked::Dump,
        }
    }
}

async fn serve(settings: Settings, registrations: Vec<&'static Registration>, begun: Instant) -> Result<()> {
    let mut signals = Signals::new()?;
    tracing::info!(version = crate::VERSION, root = %settings.root.display(), state = %settings.state.display(), "starting windlassd");
    // Bound before plugins start: who connects meanwhile waits, and a second daemon is refused at once.
    let (grpc_listener, ttrpc_listener) = (socket::bind(&settings.grpc)?, socket::bind(&settings.ttrpc)?);
    let tls = settings.tcp.as_ref().map(tls::Acceptor::new).transpose()?.flatten();
    let options = options(&settings);
    let starting = tokio::task::spawn_blocking(move || Graph::start(registrations, options));
    let graph = tokio::select! {
        started = starting => Arc::new(started.context("start the plugins")?.map_err(|e| anyhow::anyhow!(e.chain()))?),
        reason = stopped(&mut signals) => {
            tracing::info!(reason, "stopped while starting");
            remove_sockets(&settings);
            return Ok(());
        }
    };
    let metrics = (!settings.metrics.is_empty() || !settings.debug.is_empty())
        .then(|| Metrics::new(settings.histogram));
    let server = grpc::Server::new(routes(&graph, |_| true), metrics.clone());
    let admission = |endpoint: &Endpoint| match socket::shared(endpoint) {
        true => Admission::ByMode,
        false => Admission::Owner { uid: endpoint.uid.unwrap_or_default() },
    };
    let door = Door::new(ttrpc_listener, admission(&settings.ttrpc)).context("listen for ttrpc")?;
    let services = graph.all::<TtrpcKind>().into_iter().map(|(_, service)| service.services()).collect();
    let events = ttrpc::Server::start(door, services).await.context("start the ttrpc server")?;
    let door = Door::new(grpc_listener, admission(&settings.grpc)).context("listen for gRPC")?;
    tokio::spawn(server.clone().unix(door));
    if let Some(tcp) = &settings.tcp {
        let listener = tokio::net::TcpListener::bind(&tcp.address).await;
        let listener = listener.with_context(|| format!("listen on {}", tcp.address))?;
        let mut reachable = server.clone();
        reachable.routes = routes(&graph, over_tcp(&graph)).prepare();
        tokio::spawn(reachable.tcp(listener, tls));
    }
    let ended = CancellationToken::new();
    endpoints(&settings, &graph, metrics, begun, &ended).await?;
    tokio::spawn(systemd::watchdog());
    tokio::spawn(trim(server.clone(), ended.clone()));
    process::trim_memory();
    process::forget_code();
    systemd::ready();
    tracing::info!(address = %settings.grpc.path.display(), elapsed = ?begun.elapsed(), "serving");
    loop {
        match signals.next().await {
            Asked::Dump => tracing::info!("state: {}", state(&graph, begun)),
            Asked::Stop(reason) => {
                tracing::info!(reason, "stopping; containers live on");
                break;
            }
        }
    }
    systemd::stopping();
    tokio::select! {
        () = stop(&server, events, graph, ended) => {}
        reason = stopped(&mut signals) => tracing::warn!(reason, "told to stop a second time, stopping at once"),
    }
    remove_sockets(&settings);
    tracing::info!("stopped");
    Ok(())
}

/// Resolves when a signal asks for the end.
async fn stopped(signals: &mut Signals) -> &'static str {
    loop {
        if let Asked::Stop(reason) = signals.next().await {
            return reason;
        }
    }
}

fn options(settings: &Settings) -> Options {
    Options {
        root: settings.root.clone(),
        state: settings.state.clone(),
        address: settings.grpc.path.clone(),
        ttrpc_address: settings.ttrpc.path.clone(),
        disabled: settings.disabled.clone(),
        required: settings.required.clone(),
        configs: settings.plugins.clone(),
        timeouts: settings.timeouts.clone(),
        stream_processors: settings.stream_processors.clone(),
    }
}

/// Which gRPC plugins are served over TCP, by id: all but those that export that they are not.
fn over_tcp(graph: &Graph) -> impl Fn(&str) -> bool + use<> {
    let outcomes = graph.report().outcomes().into_iter();
    let kept: Vec<String> = outcomes
        .filter(|o| o.kind == GrpcKind::NAME && o.meta.exports.get(NOT_OVER_TCP).is_some_and(|v| v == "true"))
        .map(|o| o.id.to_owned())
        .collect();
    move |id| !kept.iter().any(|other| other == id)
}

/// The gRPC plugins that are `wanted` by their ids, and the descriptors of all of them.
fn routes(graph: &Graph, wanted: impl Fn(&str) -> bool) -> tonic::service::Routes {
    let mut routes = tonic::service::Routes::builder();
    let mut names = Vec::new();
    for (_, service) in graph.all::<GrpcKind>().into_iter().filter(|(id, _)| wanted(id)) {
        names.extend(service.names().into_iter().map(str::to_owned));
        service.add(&mut routes);
    }
    Reflection::new(names, &[tonic_health::pb::FILE_DESCRIPTOR_SET]).add(&mut routes);
    routes.routes()
}

async fn endpoints(
    settings: &Settings,
    graph: &Arc<Graph>,
    metrics: Option<Arc<Metrics>>,
    begun: Instant,
    ended: &CancellationToken,
) -> Result<()> {
    let Some(metrics) = metrics else { return Ok(()) };
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    if !settings.metrics.is_empty() {
        let metrics = metrics.clone();
        let pages: http::Pages = Arc::new(move |path| match path {
            "/metrics" | "/v1/metrics" => Some((TEXT, metrics.render())),
            _ => None,
        });
        let place = http::Place::new(&settings.metrics, (None, None));
        http::start(place, pages, ended.clone()).await.context("serve metrics")?;
    }
    if !settings.debug.is_empty() {
        let graph = graph.clone();
        let pages: http::Pages = Arc::new(move |path| match path {
            "/metrics" | "/v1/metrics" => Some((TEXT, metrics.render())),
            "/debug/vars" => Some(("application/json", state(&graph, begun).to_string())),
            _ => None,
        });
        let place = http::Place::new(&settings.debug, settings.debug_owner);
        http::start(place, pages, ended.clone()).await.context("serve the debug endpoint")?;
    }
    Ok(())
}

/// What a person wants to know of a daemon that behaves oddly.
fn state(graph: &Graph, begun: Instant) -> serde_json::Value {
    let usage = process::usage();
    let runtime = tokio::runtime::Handle::current().metrics();
    let plugins: Vec<_> = graph
        .report()
        .outcomes()
        .iter()
        .map(|o| json!({ "type": o.kind, "id": o.id, "error": o.error.as_ref().map(|e| e.chain()), "skipped": o.skipped }))
        .collect();
    json!({
        "version": crate::VERSION,
        "pid": std::process::id(),
        "uptime_seconds": begun.elapsed().as_secs(),
        "resident_bytes": usage.resident,
        "anonymous_bytes": usage.anonymous,
        "threads": usage.threads,
        "files": usage.files,
        "tasks": runtime.num_alive_tasks(),
        "queued": runtime.global_queue_depth(),
        "plugins": plugins,
    })
}

/// Gives memory back after work, and lets go of code when work has come to rest.
async fn trim(server: grpc::Server, ended: CancellationToken) {
    let mut ticks = tokio::time::interval(TRIM);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut before, mut at_rest) = (server.calls(), false);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = ended.cancelled() => return,
        }
        let calls = server.calls();
        let resting = calls == std::mem::replace(&mut before, calls);
        if resting && at_rest {
            continue;
        }
        at_rest = resting;
        let trimmed = tokio::task::spawn_blocking(move || {
            process::trim_memory();
            if resting {
                process::forget_code();
            }
        });
        drop(trimmed.await);
    }
}

/// Clients first, then plugins in reverse.
async fn stop(server: &grpc::Server, events: ttrpc::Server, graph: Arc<Graph>, ended: CancellationToken) {
    server.drain().await;
    events.stop().await;
    ended.cancel();
    if let Err(error) = tokio::task::spawn_blocking(move || graph.close()).await {
        tracing::error!(%error, "a plugin did not close");
    }
}

fn remove_sockets(settings: &Settings) {
    for endpoint in [&settings.grpc, &settings.ttrpc] {
        // The next daemon replaces what stays.
        drop(std::fs::remove_file(&endpoint.path));
    }
}
