//! The connection to a daemon, and the options that say which.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::parser::ValueSource;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use windlass_api::connect::{MAX_MESSAGE, connect};
use windlass_api::scope::Scope;
use windlass_api::services as s;
use windlass_core::{Class, Context, validate};

use crate::output::{Format, Remedy};

/// Where the daemon listens when nothing else is said.
pub const DEFAULT_ADDRESS: &str = "/run/windlass/windlass.sock";

#[derive(Args, Clone)]
#[command(next_help_heading = "Daemon and output")]
pub struct Global {
    /// Socket of the daemon; short -a before the command
    #[arg(long, global = true, env = "WINDLASS_ADDRESS", default_value = DEFAULT_ADDRESS, hide_env_values = true)]
    pub address: PathBuf,
    /// Short for --address, before the command
    #[arg(short = 'a', hide = true, conflicts_with = "address", value_name = "ADDRESS")]
    short_address: Option<PathBuf>,
    /// Namespace
    #[arg(
        long,
        short = 'n',
        global = true,
        env = "WINDLASS_NAMESPACE",
        default_value = "default",
        hide_env_values = true
    )]
    pub namespace: String,
    /// How to print: table, json, or a template such as '{{.name}} {{json .labels}}'
    #[arg(long, global = true, default_value = "table")]
    pub format: Format,
    #[arg(skip)]
    sources: Sources,
}

/// Where the values of [`Global`] come from, as a person reads it.
#[derive(Clone, Default)]
struct Sources {
    address: &'static str,
    namespace: &'static str,
}

impl Global {
    /// Remembers where the values come from.
    pub fn note_sources(&mut self, matches: &clap::ArgMatches) {
        let source = |id| match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "command line",
            Some(ValueSource::EnvVariable) => "environment",
            _ => "default",
        };
        self.sources = Sources { address: source("address"), namespace: source("namespace") };
        if self.short_address.is_some() {
            self.sources.address = "command line";
        }
    }

    /// The socket to connect to.
    pub fn address(&self) -> &Path {
        self.short_address.as_deref().unwrap_or(&self.address)
    }

    /// Where address and namespace come from.
    pub fn sources(&self) -> (&'static str, &'static str) {
        (self.sources.address, self.sources.namespace)
    }
}

pub type Scoped = InterceptedService<Channel, Scope>;

/// Clients of one namespace, and of one lease where there is one.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    scope: Scope,
    pub namespace: String,
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
    diff: diff::diff_client::DiffClient;
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
    pub async fn connect(global: &Global) -> anyhow::Result<Self> {
        validate::identifier("namespace", &global.namespace)?;
        let scope = Scope::new(&Context::new(&global.namespace))?;
        let channel = match connect(global.address()).await {
            Ok(channel) => channel,
            Err(error) if error.is(Class::Unavailable) => {
                return Err(error).remedy(
                    "start it with: windlassd; or name another socket with --address or WINDLASS_ADDRESS",
                );
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { channel, scope, namespace: global.namespace.clone() })
    }

    /// The same connection in another namespace.
    pub fn in_namespace(&self, namespace: &str) -> anyhow::Result<Self> {
        let scope = Scope::new(&Context::new(namespace))?;
        Ok(Self { scope, namespace: namespace.to_owned(), ..self.clone() })
    }

    /// The same connection, whose new resources belong to a lease.
    pub fn with_lease(&self, lease: &str) -> anyhow::Result<Self> {
        let scope = Scope::new(&Context::new(&self.namespace).with_lease(lease))?;
        Ok(Self { scope, ..self.clone() })
    }
}
