//! Sizes and times, read and written.

use std::time::Duration;

use prost_types::Timestamp;

/// `12.3 MiB`.
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (1..UNITS.len()).take_while(|p| size >= 1 << (10 * p)).count();
    if power == 0 {
        return format!("{size} B");
    }
    format!("{:.1} {}", size as f64 / (1u64 << (10 * power)) as f64, UNITS[power])
}

/// `64m` in bytes.
pub fn size(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, shift) = match lower.strip_suffix(['k', 'm', 'g', 't']) {
        Some(number) => (number, 10 * (1 + "kmgt".find(&lower[number.len()..]).unwrap_or(0))),
        None => (lower, 0),
    };
    let number: i64 = number.parse().map_err(|_| format!("{text:?} is not a size: use 64m or 1g"))?;
    number.checked_mul(1 << shift).filter(|n| *n > 0).ok_or_else(|| format!("{text:?} is out of range"))
}

/// `500ms`, `10s`, `5m`, `1.5h`, `2d`; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let number: f64 = number.parse().map_err(|_| "a number with ms, s, m, h or d expected".to_owned())?;
    let factor = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err("the units are ms, s, m, h and d".to_owned()),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|e| e.to_string())
}

/// Seconds since 1970.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// `3 minutes ago`.
fn ago(seconds: i64) -> String {
    format!("{} ago", times(now().saturating_sub(seconds)))
}

/// `3 minutes ago` of a wire timestamp; empty where there is none.
pub fn age(time: Option<&Timestamp>) -> String {
    // Before 1970 is Go's zero time: not known.
    time.filter(|t| t.seconds > 0).map(|t| ago(t.seconds)).unwrap_or_default()
}

/// `3 minutes`.
fn times(seconds: i64) -> String {
    let past = seconds.max(0);
    let (count, unit) = match past {
        0..60 => (past, "second"),
        60..3600 => (past / 60, "minute"),
        3600..86400 => (past / 3600, "hour"),
        _ => (past / 86400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// A wire timestamp in RFC 3339; empty where there is none.
pub fn rfc3339(time: Option<&Timestamp>) -> String {
    let Some(time) = time.filter(|t| t.seconds > 0) else { return String::new() };
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    time::OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn sizes_parse() {
        for (text, want) in [("64m", 64 << 20), ("1GiB", 1 << 30), ("7", 7), ("7b", 7), ("2kb", 2048)] {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        assert!(
            size("x").is_err() && size("-1").is_err() && size("9999999999t").is_err() && size("0").is_err()
        );
    }

    #[test]
    fn durations_parse() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert!(duration("x").is_err() && duration("1y").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn times_are_written() {
        assert_eq!(times(1), "1 second");
        assert_eq!(times(7300), "2 hours");
        assert_eq!(rfc3339(Some(&Timestamp { seconds: 1, nanos: 0 })), "1970-01-01T00:00:01Z");
        assert_eq!(rfc3339(None), "");
        assert_eq!(rfc3339(Some(&Timestamp { seconds: i64::MAX, nanos: 0 })), "");
    }
}
