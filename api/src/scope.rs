//! The headers that every call carries: on whose behalf it is made.
//!
//! A client attaches a [`Scope`]; a server reads a core [`Context`] out of the request. Both transports.

use windlass_core::{Context, Error, Result, validate};

/// gRPC header: the namespace.
pub const NAMESPACE: &str = "containerd-namespace";
/// ttrpc header: the namespace.
pub const NAMESPACE_TTRPC: &str = "containerd-namespace-ttrpc";
/// gRPC and ttrpc header: the lease that new resources belong to.
pub const LEASE: &str = "containerd-lease";

/// The context of a call from its headers. Without a namespace *failed precondition*, with a bad one *invalid
/// argument*.
pub fn context(namespace: Option<&str>, lease: Option<&str>) -> Result<Context> {
    let namespace = match namespace {
        Some(namespace) if !namespace.is_empty() => namespace,
        _ => return Err(Error::precondition("namespace is required: failed precondition")),
    };
    validate::identifier("namespace", namespace).map_err(|e| e.context("namespace validation"))?;
    let cx = Context::new(namespace);
    Ok(match lease {
        Some(lease) if !lease.is_empty() => cx.with_lease(lease),
        _ => cx,
    })
}

/// The context of a gRPC request.
#[cfg(feature = "grpc")]
pub fn from_grpc(headers: &tonic::metadata::MetadataMap) -> Result<Context> {
    let text = |name| headers.get(name).map(|value| value.to_str()).transpose();
    let bad = |_| Error::invalid("namespace and lease headers must be ASCII");
    context(text(NAMESPACE).map_err(bad)?, text(LEASE).map_err(bad)?)
}

/// The context of a ttrpc request.
#[cfg(feature = "ttrpc")]
pub fn from_ttrpc(cx: &ttrpc::r#async::TtrpcContext) -> Result<Context> {
    let text = |name: &str| cx.metadata.get(name).and_then(|values| values.first()).map(String::as_str);
    context(text(NAMESPACE_TTRPC), text(LEASE))
}

/// A ttrpc request context for a call on behalf of `cx`, that ends with *deadline exceeded* after `timeout`.
#[cfg(feature = "ttrpc")]
pub fn ttrpc(cx: &Context, timeout: std::time::Duration) -> ::ttrpc::context::Context {
    let mut request = ::ttrpc::context::with_duration(timeout);
    // Both names, as Go's client does when a gRPC call leads to a ttrpc call.
    request.add(NAMESPACE_TTRPC.to_owned(), cx.namespace.clone());
    request.add(NAMESPACE.to_owned(), cx.namespace.clone());
    if let Some(lease) = &cx.lease {
        request.add(LEASE.to_owned(), lease.clone());
    }
    request
}

/// Puts namespace and lease on every call of a gRPC client: `ImagesClient::with_interceptor(channel, scope)`.
#[cfg(feature = "grpc")]
#[derive(Clone, Debug)]
pub struct Scope {
    namespace: tonic::metadata::AsciiMetadataValue,
    lease: Option<tonic::metadata::AsciiMetadataValue>,
}

#[cfg(feature = "grpc")]
impl Scope {
    pub fn new(cx: &Context) -> Result<Self> {
        let ascii = |what: &str, text: &str| {
            text.parse().map_err(|_| Error::invalid(format!("{what} {text:?} cannot stand in a header")))
        };
        Ok(Self {
            namespace: ascii("namespace", &cx.namespace)?,
            lease: cx.lease.as_deref().map(|lease| ascii("lease", lease)).transpose()?,
        })
    }
}

#[cfg(feature = "grpc")]
impl tonic::service::Interceptor for Scope {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        let headers = request.metadata_mut();
        headers.insert(NAMESPACE, self.namespace.clone());
        if let Some(lease) = &self.lease {
            headers.insert(LEASE, lease.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use windlass_core::Class;

    use super::*;

    #[test]
    fn a_namespace_is_required_and_checked() {
        assert_eq!(context(None, None).unwrap_err().class(), Class::FailedPrecondition);
        assert_eq!(context(Some(""), None).unwrap_err().class(), Class::FailedPrecondition);
        assert_eq!(context(Some("../x"), None).unwrap_err().class(), Class::InvalidArgument);
        assert_eq!(context(Some("k8s.io"), Some("")).unwrap(), Context::new("k8s.io"));
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn what_a_client_attaches_a_server_reads() {
        use tonic::service::Interceptor;
        let cx = Context::new("moby").with_lease("l1");
        let request = Scope::new(&cx).unwrap().call(tonic::Request::new(())).unwrap();
        assert_eq!(from_grpc(request.metadata()).unwrap(), cx);
        assert!(Scope::new(&Context::new("a\nb")).is_err());
    }
}
