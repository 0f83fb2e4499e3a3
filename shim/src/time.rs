//! Points in time as the wire and the log write them.

use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;

/// A protobuf timestamp; times before 1970 do not occur.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut stamp = Timestamp::new();
    stamp.seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    stamp.nanos = since.subsec_nanos() as i32;
    stamp
}

/// What Go makes of its zero time: 0001-01-01T00:00:00Z.
pub fn zero() -> Timestamp {
    let mut stamp = Timestamp::new();
    stamp.seconds = -62_135_596_800;
    stamp
}

pub fn field(at: Option<SystemTime>) -> MessageField<Timestamp> {
    MessageField::some(at.map_or_else(zero, timestamp))
}

/// UTC with nanoseconds, as RFC 3339 writes it.
pub fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

/// Year, month and day of the Gregorian calendar, from days since 1970 (the usual 400-year cycle arithmetic).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rfc3339_matches_known_dates() {
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(951_782_400)), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::new(1_795_460_317, 5)), "2026-11-23T18:58:37.000000005Z");
    }
}
