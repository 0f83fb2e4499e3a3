//! On whose behalf a call is made.

/// The namespace and, where the caller holds one, the lease that a call runs under. Stores that know no namespaces
/// (the raw content store and snapshotters) ignore it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// A valid identifier (see [`crate::validate::identifier`]); checked where a request enters.
    pub namespace: String,
    /// Objects made under a lease are referenced by it until it is deleted or expires.
    pub lease: Option<String>,
}

impl Context {
    pub fn new(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), lease: None }
    }

    pub fn with_lease(mut self, lease: impl Into<String>) -> Self {
        self.lease = Some(lease.into());
        self
    }
}
