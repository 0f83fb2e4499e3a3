//! What a plugin is that serves RPCs: the daemon serves whatever was registered, and knows none of it.

use windlass_core::registry::Kind;

/// A gRPC service.
#[cfg(feature = "grpc")]
pub trait GrpcService: Send + Sync {
    /// Full names of the services, for reflection: `vec![images_server::SERVICE_NAME]`.
    fn names(&self) -> Vec<&'static str>;
    /// Adds the services to what is served. Message limits ([`crate::connect::MAX_MESSAGE`]) are set here.
    fn add(&self, routes: &mut tonic::service::RoutesBuilder);
}

/// Plugins of type `io.containerd.grpc.v1`.
#[cfg(feature = "grpc")]
pub struct GrpcKind;

#[cfg(feature = "grpc")]
impl Kind for GrpcKind {
    const NAME: &'static str = "io.containerd.grpc.v1";
    type Instance = dyn GrpcService;
}

/// ttrpc services by full name.
#[cfg(feature = "ttrpc")]
pub type TtrpcServices = std::collections::HashMap<String, ttrpc::r#async::Service>;

/// A ttrpc service.
#[cfg(feature = "ttrpc")]
pub trait TtrpcService: Send + Sync {
    /// What the generated `create_…` functions answer. Every method is implemented: the runtime's own answer to an
    /// unknown one is not what Go's clients expect.
    fn services(&self) -> TtrpcServices;
}

/// Plugins of type `io.containerd.ttrpc.v1`.
#[cfg(feature = "ttrpc")]
pub struct TtrpcKind;

#[cfg(feature = "ttrpc")]
impl Kind for TtrpcKind {
    const NAME: &'static str = "io.containerd.ttrpc.v1";
    type Instance = dyn TtrpcService;
}
