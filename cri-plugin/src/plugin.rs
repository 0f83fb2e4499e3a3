//! Registers `io.containerd.cri.v1.images`, `io.containerd.cri.v1.runtime`, and `io.containerd.grpc.v1.cri`, which serves
//! them; and `io.containerd.service.v1.tasks-service`, the classes that their containers name. Without any of them the
//! daemon is complete.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use toml::Table;
use tonic::service::RoutesBuilder;
use windlass_api::cri::image_service_server::ImageServiceServer;
use windlass_api::cri::runtime_service_server::RuntimeServiceServer;
use windlass_api::kinds::{GrpcKind, GrpcService};
use windlass_core::registry::{InitContext, Kind, Plugin, Registration, unknown_keys};
use windlass_core::{Context, Error, Result, kinds};

use crate::classes::{self, Classes};
use crate::config::{Config, Runtime, Server};
use crate::container::Streaming;
use crate::cri::{Cri, NAMESPACE};
use crate::image::{self, Images, ImagesConfig};
use crate::network::Networks;
use crate::sandbox::Owner;
use crate::service::{ImageEdge, RuntimeEdge};
use crate::spec;

/// Largest base specification of a runtime handler.
const MAX_SPEC: u64 = 4 << 20;

/// Export that keeps services off the daemon's TCP listener.
const NOT_OVER_TCP: &str = "not-over-tcp";

/// The differ that checkpoints are made with.
const DIFFER: &str = "walking";

/// Plugins of type `io.containerd.cri.v1`.
struct CriKind;

impl Kind for CriKind {
    const NAME: &'static str = "io.containerd.cri.v1";
    type Instance = Part;
}

/// A part of the interface.
enum Part {
    Images(Arc<Images>),
    Runtime(Arc<Cri>),
}

/// containerd's plugins of type `io.containerd.service.v1`, of which this one has keys that mean something here.
struct ServiceKind;

impl Kind for ServiceKind {
    const NAME: &'static str = "io.containerd.service.v1";
    type Instance = Classes;
}

struct ClassesPlugin;

impl Plugin for ClassesPlugin {
    type Kind = ServiceKind;
    const ID: &'static str = "tasks-service";

    fn init(ctx: &InitContext) -> Result<Arc<Classes>> {
        Ok(Arc::new(Classes::new(&ctx.config()?)?))
    }

    fn check(config: &Table) -> Result<Vec<String>> {
        let parsed: classes::Config = config
            .clone()
            .try_into()
            .map_err(|e| Error::invalid("configuration of classes").with_source(e))?;
        parsed.validate()?;
        Ok(unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> Table {
        Table::try_from(classes::Config::default()).expect("a configuration is a table")
    }
}

struct ImagesPlugin;

impl Plugin for ImagesPlugin {
    type Kind = CriKind;
    const ID: &'static str = "images";
    const REQUIRES: &'static [&'static str] =
        &[kinds::Metadata::NAME, kinds::Transfer::NAME, kinds::Event::NAME, kinds::Snapshot::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<Part>> {
        let parts = image::Parts {
            cx: Context::new(NAMESPACE),
            config: ctx.config()?,
            database: ctx.single::<kinds::Metadata>()?,
            transfer: ctx.single::<kinds::Transfer>()?,
            exchange: ctx.single::<kinds::Event>()?,
            state: ctx.state()?,
            roots: image::snapshotter_roots(ctx),
        };
        wait(Images::new(parts)).map(|images| Arc::new(Part::Images(images)))
    }

    fn check(config: &Table) -> Result<Vec<String>> {
        ImagesConfig::check(config)
    }

    fn defaults() -> Table {
        ImagesConfig::defaults()
    }
}

struct RuntimePlugin;

impl Plugin for RuntimePlugin {
    type Kind = CriKind;
    const ID: &'static str = "runtime";
    const REQUIRES: &'static [&'static str] = &[
        kinds::Metadata::NAME,
        kinds::Transfer::NAME,
        kinds::Event::NAME,
        kinds::Snapshot::NAME,
        kinds::Runtime::NAME,
        kinds::Differ::NAME,
        kinds::Nri::NAME,
        ServiceKind::NAME,
    ];

    fn close(instance: &Part) {
        if let Part::Runtime(cri) = instance {
            cri.close();
        }
    }

    fn init(ctx: &InitContext) -> Result<Arc<Part>> {
        let config: Arc<Config> = Arc::new(ctx.config()?);
        config.validate()?;
        config.warn();
        let Part::Images(images) = &*part(ctx, ImagesPlugin::ID)? else {
            return Err(Error::internal("the plugin of images is of another kind"));
        };
        let (root, state_dir) = (ctx.root()?, ctx.state()?);
        for dir in ["ns", "sandboxes", "io"] {
            make(&state_dir.join(dir))?;
        }
        make(&root.join("containers"))?;
        let cri = Arc::new(Cri {
            cx: Context::new(NAMESPACE),
            database: ctx.single::<kinds::Metadata>()?,
            tasks: ctx.single::<kinds::Runtime>()?,
            exchange: ctx.single::<kinds::Event>()?,
            images: images.clone(),
            state: Default::default(),
            host: spec::Host::detect(),
            settings: settings(&config, classes(ctx))?,
            users: Default::default(),
            networks: wait(Networks::new(&config, &root.join("cni")))?,
            differ: ctx.get::<kinds::Differ>(DIFFER).ok(),
            nri: ctx.single::<kinds::Nri>().ok(),
            events: Default::default(),
            figures: Default::default(),
            streaming: OnceLock::new(),
            work: Default::default(),
            address: ctx.options().address.clone(),
            handlers: Default::default(),
            pause_program: Default::default(),
            root,
            state_dir,
            config,
        });
        wait(cri.restore())?;
        Ok(Arc::new(Part::Runtime(cri)))
    }

    fn check(config: &Table) -> Result<Vec<String>> {
        let parsed: Config =
            config.clone().try_into().map_err(|e| Error::invalid("configuration of pods").with_source(e))?;
        parsed.validate()?;
        Ok(unknown(config))
    }

    fn defaults() -> Table {
        Table::try_from(Config::default()).expect("a configuration is a table")
    }
}

/// Keys that mean nothing, also those of tables inside.
fn unknown(config: &Table) -> Vec<String> {
    let known = RuntimePlugin::defaults();
    let mut unknown = unknown_keys(config, &known);
    let inner = |table: &Table, key: &str| {
        table.get(key).and_then(toml::Value::as_table).cloned().unwrap_or_default()
    };
    for key in ["containerd", "cni"] {
        let mut inside = inner(&known, key);
        if key == "cni" {
            inside.insert("bin_dir".into(), "".into());
        }
        unknown.extend(unknown_keys(&inner(config, key), &inside).iter().map(|k| format!("{key}.{k}")));
    }
    let mut runtime = Table::try_from(Runtime::default()).expect("a configuration is a table");
    runtime.insert("pause".into(), "".into());
    for (name, table) in inner(&inner(config, "containerd"), "runtimes") {
        let Some(table) = table.as_table() else { continue };
        let odd = unknown_keys(table, &runtime);
        unknown.extend(odd.iter().map(|k| format!("containerd.runtimes.{name}.{k}")));
    }
    unknown
}

struct CriPlugin;

impl Plugin for CriPlugin {
    type Kind = GrpcKind;
    const ID: &'static str = "cri";
    const REQUIRES: &'static [&'static str] = &[CriKind::NAME];

    fn init(ctx: &InitContext) -> Result<Arc<dyn GrpcService>> {
        let config: Server = ctx.config()?;
        config.validate()?;
        if config.disable_tcp_service {
            ctx.export(NOT_OVER_TCP, "true");
        }
        let Part::Images(images) = &*part(ctx, ImagesPlugin::ID)? else {
            return Err(Error::internal("the plugin of images is of another kind"));
        };
        let Part::Runtime(cri) = &*part(ctx, RuntimePlugin::ID)? else {
            return Err(Error::internal("the plugin of pods is of another kind"));
        };
        // Before the first pod: plugins that are installed have joined by then.
        if let Some(nri) = &cri.nri {
            wait(nri.attach(Arc::new(Owner(Arc::downgrade(cri)))))?;
        }
        let handler = Arc::new(Streaming(Arc::downgrade(cri)));
        let server = wait(windlass_streaming::Server::start(config.settings()?, handler))
            .map_err(|error| error.context("start the streaming server"))?;
        if cri.streaming.set(server).is_err() {
            return Err(Error::internal("the streaming server is started twice"));
        }
        Ok(Arc::new(Services { images: images.clone(), cri: cri.clone() }))
    }

    fn check(config: &Table) -> Result<Vec<String>> {
        let parsed: Server = config
            .clone()
            .try_into()
            .map_err(|e| Error::invalid("streaming configuration").with_source(e))?;
        parsed.validate()?;
        Ok(unknown_keys(config, &Self::defaults()))
    }

    fn defaults() -> Table {
        Table::try_from(Server::default()).expect("a configuration is a table")
    }
}

/// Both services.
struct Services {
    images: Arc<Images>,
    cri: Arc<Cri>,
}

impl GrpcService for Services {
    fn names(&self) -> Vec<&'static str> {
        use windlass_api::cri::{image_service_server, runtime_service_server};
        vec![runtime_service_server::SERVICE_NAME, image_service_server::SERVICE_NAME]
    }

    fn add(&self, routes: &mut RoutesBuilder) {
        let limit = windlass_api::connect::MAX_MESSAGE;
        routes.add_service(
            RuntimeServiceServer::new(RuntimeEdge(self.cri.clone()))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        );
        routes.add_service(
            ImageServiceServer::new(ImageEdge(self.images.clone()))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        );
    }
}

/// Another part. Where it has been disabled, the plugin does not apply; where it has failed, so does the plugin.
fn part(ctx: &InitContext, id: &str) -> Result<Arc<Part>> {
    ctx.get::<CriKind>(id).map_err(|error| {
        let failed = ctx.report().outcomes().iter().any(|o| o.kind == CriKind::NAME && o.id == id);
        if failed { error } else { InitContext::skip(format!("{}.{id} is disabled", CriKind::NAME)) }
    })
}

/// Waits for what is asynchronous: plugins start on a thread that may block, inside a runtime.
fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Handle::try_current()
        .map_err(|e| Error::internal("a plugin is started outside of the runtime").with_source(e))?;
    runtime.block_on(work)
}

fn make(dir: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(dir);
    made.map_err(|e| Error::io(format!("make {}", dir.display()), e))
}

/// The classes. Where their plugin has failed, pods run all the same: only who names a class is told why there is none.
fn classes(ctx: &InitContext) -> Arc<Classes> {
    ctx.get::<ServiceKind>(ClassesPlugin::ID).unwrap_or_else(|error| Arc::new(Classes::failed(error.chain())))
}

/// What specifications are made with, by handler.
fn settings(config: &Arc<Config>, classes: Arc<Classes>) -> Result<BTreeMap<String, spec::Settings>> {
    let each = config.containerd.runtimes.iter().map(|(name, runtime)| {
        let made = spec::Settings {
            config: config.clone(),
            classes: classes.clone(),
            runtime: runtime.clone(),
            base_runtime_spec: base_spec(&runtime.base_runtime_spec)
                .map_err(|error| error.context(format!("containerd.runtimes.{name}.base_runtime_spec")))?,
        };
        Ok((name.clone(), made))
    });
    each.collect()
}

/// A specification in a file, `None` where no file is named.
fn base_spec(path: &str) -> Result<Option<Value>> {
    if path.is_empty() {
        return Ok(None);
    }
    let size = std::fs::metadata(path).map_err(|e| Error::io(format!("read {path}"), e))?.len();
    if size > MAX_SPEC {
        return Err(Error::invalid(format!("{path} has {size} bytes, more than a specification can have")));
    }
    let text = std::fs::read(path).map_err(|e| Error::io(format!("read {path}"), e))?;
    let value: Value = serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(format!("{path} is no JSON")).with_source(e))?;
    if value.is_object() {
        Ok(Some(value))
    } else {
        Err(Error::invalid(format!("{path} is no specification")))
    }
}

inventory::submit! { Registration::of::<ClassesPlugin>() }
inventory::submit! { Registration::of::<ImagesPlugin>() }
inventory::submit! { Registration::of::<RuntimePlugin>() }
inventory::submit! { Registration::of::<CriPlugin>() }
