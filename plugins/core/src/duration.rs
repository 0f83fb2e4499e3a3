//! Durations as Go writes them, which is how clients and configurations do: `1h30m`, `1.5s`, `250ms`, `0`.

use std::time::Duration;

/// Nanoseconds in a unit. Both Greek letters that are written for micro count.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
];
/// Digits after the point that can make a difference to an hour's nanoseconds.
const FRACTION: usize = 13;

/// A duration that is not negative. `None` for anything else, and for more than Go can hold (292 years).
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let digit = |c: char| c.is_ascii_digit() || c == '.';
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c| !digit(c))?);
        let (unit, tail) = tail.split_at(tail.find(digit).unwrap_or(tail.len()));
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(part(number, *unit)?)?;
        rest = tail;
    }
    (total <= i64::MAX as u64).then(|| Duration::from_nanos(total))
}

/// Nanoseconds of so many units.
fn part(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
    if fraction.contains('.') {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(FRACTION)];
    let tenths = u128::from(digits(fraction)?) * u128::from(unit) / 10u128.pow(fraction.len() as u32);
    digits(whole)?.checked_mul(unit)?.checked_add(u64::try_from(tenths).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, nanos) in [
            ("1m30s", 90_000_000_000),
            ("1.5s", 1_500_000_000),
            ("+.5s", 500_000_000),
            ("250ms", 250_000_000),
            ("2us", 2_000),
            ("2µs3ns", 2_003),
            ("1.h", 3_600_000_000_000),
            ("0.1234567891234567s", 123_456_789),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text).map(|d| d.as_nanos()), Some(nanos), "{text}");
        }
        for bad in [
            "",
            "+",
            "5",
            "s",
            "-1s",
            "1x",
            "1d",
            "1s2",
            "..s",
            ".s",
            "1.2.3s",
            "1e9s",
            "99999999999999999999h",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("3000000h"), None, "292 years are the most");
    }
}
