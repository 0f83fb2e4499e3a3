//! `containerd.v1.types`: states of tasks. The numbers are the same in both worlds.

use windlass_core::task::Status;

#[cfg(feature = "grpc")]
pub fn to_wire(status: Status) -> crate::types::task::Status {
    use crate::types::task::Status as S;
    match status {
        Status::Unknown => S::Unknown,
        Status::Created => S::Created,
        Status::Running => S::Running,
        Status::Stopped => S::Stopped,
        Status::Paused => S::Paused,
        Status::Pausing => S::Pausing,
    }
}

#[cfg(feature = "grpc")]
pub fn from_wire(status: crate::types::task::Status) -> Status {
    use crate::types::task::Status as S;
    match status {
        S::Unknown => Status::Unknown,
        S::Created => Status::Created,
        S::Running => Status::Running,
        S::Stopped => Status::Stopped,
        S::Paused => Status::Paused,
        S::Pausing => Status::Pausing,
    }
}

/// A state that the shim has and we do not know is unknown.
#[cfg(feature = "ttrpc")]
pub fn from_shim(status: protobuf::EnumOrUnknown<crate::shim::types::task::Status>) -> Status {
    use crate::shim::types::task::Status as S;
    match status.enum_value() {
        Ok(S::CREATED) => Status::Created,
        Ok(S::RUNNING) => Status::Running,
        Ok(S::STOPPED) => Status::Stopped,
        Ok(S::PAUSED) => Status::Paused,
        Ok(S::PAUSING) => Status::Pausing,
        Ok(S::UNKNOWN) | Err(_) => Status::Unknown,
    }
}
