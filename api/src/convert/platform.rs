//! `containerd.types.Platform`.

use windlass_core::platform::Platform;

#[cfg(feature = "grpc")]
pub fn to_wire(platform: Platform) -> crate::types::Platform {
    crate::types::Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: platform.variant,
        os_version: platform.os_version,
        os_features: platform.os_features,
    }
}

#[cfg(feature = "grpc")]
pub fn from_wire(platform: crate::types::Platform) -> Platform {
    Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: platform.variant,
        os_version: platform.os_version,
        os_features: platform.os_features,
    }
}

#[cfg(feature = "ttrpc")]
pub fn from_shim(platform: crate::shim::types::platform::Platform) -> Platform {
    Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: platform.variant,
        os_version: platform.os_version,
        os_features: platform.os_features,
    }
}
