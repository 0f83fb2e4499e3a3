//! `containerd.services.mounts.v1.Mounts`: its calls answer *unimplemented* until a mount manager is there.

use windlass_api::services::mounts as wire;

use crate::edge::serve;

/// Every method has its default, which answers *unimplemented*.
struct Edge;

impl wire::mounts_server::Mounts for Edge {}

serve!(Mounts, "mounts", wire::mounts_server::MountsServer, [], |_| Ok(Edge));
