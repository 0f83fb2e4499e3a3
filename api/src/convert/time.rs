//! `google.protobuf.Timestamp`. Go's zero time (year 1) and an absent timestamp are the same: none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use windlass_core::{Error, Result};

/// Go's zero time, in seconds from 1970.
const ZERO: i64 = -62_135_596_800;
/// The last second of the year 9999, where the well-known type ends.
const LAST: i64 = 253_402_300_799;

/// Go's zero time, for a time that must be there and is not known.
pub fn zero() -> SystemTime {
    UNIX_EPOCH - Duration::from_secs(ZERO.unsigned_abs())
}

fn split(time: SystemTime) -> (i64, i32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(LAST).min(LAST), after.subsec_nanos() as i32),
        Err(error) => {
            let before = error.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(ZERO, |s| -s).max(ZERO);
            match before.subsec_nanos() as i32 {
                0 => (seconds, 0),
                nanos => (seconds - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

fn join(seconds: i64, nanos: i32) -> Result<Option<SystemTime>> {
    if (seconds, nanos) == (ZERO, 0) {
        return Ok(None);
    }
    let bad = || Error::invalid(format!("timestamp of {seconds} s and {nanos} ns is out of range"));
    if !(ZERO..=LAST).contains(&seconds) {
        return Err(bad());
    }
    let nanos = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000).ok_or_else(bad)?;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|t| t.checked_add(Duration::from_nanos(nanos.into()))).map(Some).ok_or_else(bad)
}

#[cfg(feature = "grpc")]
pub fn to_wire(time: SystemTime) -> prost_types::Timestamp {
    let (seconds, nanos) = split(time);
    prost_types::Timestamp { seconds, nanos }
}

#[cfg(feature = "grpc")]
pub fn from_wire(time: Option<prost_types::Timestamp>) -> Result<Option<SystemTime>> {
    time.map_or(Ok(None), |t| join(t.seconds, t.nanos))
}

#[cfg(feature = "ttrpc")]
pub fn to_shim(time: SystemTime) -> protobuf::MessageField<protobuf::well_known_types::timestamp::Timestamp> {
    let (seconds, nanos) = split(time);
    Some(protobuf::well_known_types::timestamp::Timestamp { seconds, nanos, ..Default::default() }).into()
}

#[cfg(feature = "ttrpc")]
pub fn from_shim(
    time: &protobuf::MessageField<protobuf::well_known_types::timestamp::Timestamp>,
) -> Result<Option<SystemTime>> {
    time.as_ref().map_or(Ok(None), |t| join(t.seconds, t.nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        for (seconds, nanos) in
            [(0, 0), (1, 5), (-1, 999_999_999), (-5, 0), (1_700_000_000, 123_456_789), (LAST, 0)]
        {
            let time = join(seconds, nanos).unwrap().unwrap();
            assert_eq!(split(time), (seconds, nanos));
        }
        assert_eq!(join(ZERO, 0).unwrap(), None);
        for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000), (LAST + 1, 0)] {
            assert!(join(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
    }
}
