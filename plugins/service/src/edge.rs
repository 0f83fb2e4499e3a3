//! What every edge shares: the caller's context, work that outlives its caller, a service as a plugin.

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use tonic::{Request, Response, Status};
use windlass_api::kinds::GrpcService;
use windlass_api::{scope, status};
use windlass_core::registry::InitContext;
use windlass_core::{Context, Error, Result, kinds, metadata};

/// What an RPC answers.
pub type Answer<T> = Result<Response<T>, Status>;
/// A stream of answers.
pub type Stream<T> = tonic::codegen::BoxStream<T>;

/// On whose behalf a request is made.
pub fn context<T>(request: &Request<T>) -> Result<Context, Status> {
    scope::from_grpc(request.metadata()).map_err(status::grpc)
}

/// Answers a result.
pub fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map(Response::new).map_err(status::grpc)
}

/// Longest wait for mutations that are under way when the daemon stops.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mutations under way.
static WORK: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// Runs something to its end whatever becomes of the client; the daemon waits for it when it stops.
pub fn detach(work: impl Future<Output = ()> + Send + 'static) {
    WORK.spawn(work);
}

/// Waits for what is detached. Blocks; called when no more calls come in.
pub fn settle() {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    WORK.close();
    if runtime.block_on(tokio::time::timeout(PATIENCE, WORK.wait())).is_err() {
        tracing::warn!(
            calls = WORK.len(),
            "calls that change something are still under way; they are given up"
        );
    }
}

/// Runs a mutation in a task of its own: it is finished or rolled back even where the client has gone.
pub async fn finish<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Answer<T> {
    match WORK.spawn(work).await {
        Ok(result) => answer(result),
        Err(error) => answer(Err(Error::internal("the request's task ended early").with_source(error))),
    }
}

/// A stream of results as gRPC sends it.
pub fn stream<T: Send + 'static>(
    items: impl futures::Stream<Item = Result<T>> + Send + 'static,
) -> Answer<Stream<T>> {
    use futures::StreamExt;
    Ok(Response::new(Box::pin(items.map(|item| item.map_err(status::grpc)))))
}

/// A required part of a request.
pub fn required<T>(what: &str, part: Option<T>) -> Result<T> {
    part.ok_or_else(|| Error::invalid(format!("{what} is required")))
}

/// Filters of a request.
pub fn filters(texts: &[String]) -> Result<windlass_core::Filters> {
    windlass_core::Filters::parse(texts)
}

/// A field mask of a request; none means all.
pub fn mask(mask: Option<prost_types::FieldMask>) -> windlass_core::FieldMask {
    windlass_core::FieldMask(mask.map(|m| m.paths).unwrap_or_default())
}

/// The metadata database.
pub fn database(ctx: &InitContext) -> Result<Arc<dyn metadata::Database>> {
    ctx.single::<kinds::Metadata>()
}

/// One gRPC service as a plugin's instance.
pub struct Served<S> {
    pub server: S,
}

impl<S> GrpcService for Served<S>
where
    S: tonic::codegen::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    fn names(&self) -> Vec<&'static str> {
        vec![S::NAME]
    }

    fn add(&self, routes: &mut tonic::service::RoutesBuilder) {
        routes.add_service(self.server.clone());
    }
}

/// Checks a plugin's table against its type; answers keys that mean nothing.
pub fn check<C: serde::de::DeserializeOwned + serde::Serialize + Default>(
    config: &toml::Table,
) -> Result<Vec<String>> {
    C::deserialize(toml::Value::Table(config.clone()))
        .map_err(|source| Error::invalid("wrong value").with_source(source))?;
    Ok(windlass_core::registry::unknown_keys(config, &defaults::<C>()))
}

/// A configuration's defaults as a table.
pub fn defaults<C: serde::Serialize + Default>() -> toml::Table {
    toml::Table::try_from(C::default()).expect("a configuration is a table")
}

/// Declares the plugin of one gRPC service: `serve!(Plugin, "id", Server, requires, |ctx| edge)`, with its configuration's
/// type at the end where it has one. Message limits are containerd's, both ways.
macro_rules! serve {
    ($plugin:ident, $id:literal, $server:path, [$($requires:ty),*], $make:expr $(, $config:ty)?) => {
        struct $plugin;
        impl windlass_core::registry::Plugin for $plugin {
            type Kind = windlass_api::kinds::GrpcKind;
            const ID: &'static str = $id;
            const REQUIRES: &'static [&'static str] = &[$(<$requires as windlass_core::registry::Kind>::NAME),*];
            fn init(
                ctx: &windlass_core::registry::InitContext,
            ) -> windlass_core::Result<std::sync::Arc<dyn windlass_api::kinds::GrpcService>> {
                use $server as Server;
                let make: fn(&windlass_core::registry::InitContext) -> windlass_core::Result<_> = $make;
                let server = Server::new(make(ctx)?)
                    .max_decoding_message_size(windlass_api::connect::MAX_MESSAGE)
                    .max_encoding_message_size(windlass_api::connect::MAX_MESSAGE);
                Ok(std::sync::Arc::new($crate::edge::Served { server }))
            }
            fn close(_: &(dyn windlass_api::kinds::GrpcService + 'static)) {
                $crate::edge::settle();
            }
            $(
                fn check(config: &toml::Table) -> windlass_core::Result<Vec<String>> {
                    $crate::edge::check::<$config>(config)
                }
                fn defaults() -> toml::Table {
                    $crate::edge::defaults::<$config>()
                }
            )?
        }
        inventory::submit! { windlass_core::registry::Registration::of::<$plugin>() }
    };
}
pub(crate) use serve;
