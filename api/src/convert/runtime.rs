//! A container's runtime, `containerd.services.containers.v1.Container.Runtime`.

use windlass_core::container::Runtime;

use super::any;
use crate::services::containers::container;

pub fn to_wire(runtime: Runtime) -> container::Runtime {
    container::Runtime { name: runtime.name, options: runtime.options.map(any::to_wire) }
}

pub fn from_wire(runtime: container::Runtime) -> Runtime {
    Runtime { name: runtime.name, options: runtime.options.map(any::from_wire) }
}
