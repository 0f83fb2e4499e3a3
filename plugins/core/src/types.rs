//! Plain types that several nouns share.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Labels of an object: ordered, so that equal sets are equal bytes.
pub type Labels = BTreeMap<String, String>;

/// A typed value that core carries and does not read: containerd's `Any`. `type_url` is containerd's type URL,
/// `value` is protobuf or, for types that are not protobuf (the OCI spec), JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Any {
    pub type_url: String,
    pub value: Bytes,
}
