//! The connection to a daemon, and the options that say which.

use std::path::PathBuf;

use clap::Args;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use windlass_api::connect::{MAX_MESSAGE, connect};
use windlass_api::scope::Scope;
use windlass_api::services as s;
use windlass_core::{Context, Result, validate};

/// Where the daemon listens when nothing else is said.
pub const DEFAULT_ADDRESS: &str = "/run/windlass/windlass.sock";

#[derive(Args, Clone)]
pub struct Global {
    /// Socket of the daemon
    #[arg(long, short = 'a', global = true, env = "WINDLASS_ADDRESS", default_value = DEFAULT_ADDRESS)]
    pub address: PathBuf,
    /// Namespace
    #[arg(long, short = 'n', global = true, env = "WINDLASS_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// How to print: "table", "json", or a template such as '{{.name}} {{.size}}'
    #[arg(long, global = true, default_value = "table")]
    pub format: crate::output::Format,
}

pub type Scoped = InterceptedService<Channel, Scope>;

/// Clients of one namespace, and of one lease where there is one.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    scope: Scope,
    pub namespace: String,
    pub address: PathBuf,
}

macro_rules! services {
    ($($name:ident: $module:ident :: $inner:ident :: $client:ident;)*) => { impl Client { $(
        pub fn $name(&self) -> s::$module::$inner::$client<Scoped> {
            s::$module::$inner::$client::with_interceptor(self.channel.clone(), self.scope.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE)
        }
    )* } };
}

services! {
    containers: containers::containers_client::ContainersClient;
    content: content::content_client::ContentClient;
    events: events::events_client::EventsClient;
    images: images::images_client::ImagesClient;
    introspection: introspection::introspection_client::IntrospectionClient;
    leases: leases::leases_client::LeasesClient;
    namespaces: namespaces::namespaces_client::NamespacesClient;
    snapshots: snapshots::snapshots_client::SnapshotsClient;
    streaming: streaming::streaming_client::StreamingClient;
    tasks: tasks::tasks_client::TasksClient;
    transfer: transfer::transfer_client::TransferClient;
    version: version::version_client::VersionClient;
}

impl Client {
    pub async fn connect(global: &Global) -> Result<Self> {
        validate::identifier("namespace", &global.namespace)?;
        let channel = connect(&global.address).await?;
        let scope = Scope::new(&Context::new(&global.namespace))?;
        Ok(Self { channel, scope, namespace: global.namespace.clone(), address: global.address.clone() })
    }

    /// The same connection in another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Result<Self> {
        let scope = Scope::new(&Context::new(namespace))?;
        Ok(Self { scope, namespace: namespace.to_owned(), ..self.clone() })
    }

    /// The same connection, whose new resources belong to a lease.
    pub fn with_lease(&self, lease: &str) -> Result<Self> {
        let scope = Scope::new(&Context::new(&self.namespace).with_lease(lease))?;
        Ok(Self { scope, ..self.clone() })
    }
}
