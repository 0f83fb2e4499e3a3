//! Numbers as Kubernetes writes them: `50M`, `1.5Gi`, `2e3`.

/// What is above it is refused; runtimes and the kernel count in signed numbers.
const MAX: u128 = i64::MAX as u128;

/// A quantity, rounded up to a whole number. `None` for what is none, is negative or is too large.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 30 || fraction.contains('.') {
        return None;
    }
    let digits: u128 = digits.parse().ok()?;
    let places = fraction.len() as i32;
    let value = match binary(suffix) {
        Some(power) => digits.checked_mul(1 << power)?.div_ceil(10u128.checked_pow(places as u32)?),
        None => decimal(digits, power_of_ten(suffix)? - places)?,
    };
    (value <= MAX).then_some(value as u64)
}

fn binary(suffix: &str) -> Option<u32> {
    let at = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|known| *known == suffix)?;
    Some(10 * (at as u32 + 1))
}

fn power_of_ten(suffix: &str) -> Option<i32> {
    let known = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        // Behind a number alone it is ten to the eighteenth, with digits of its own it is an exponent.
        exponent => exponent.strip_prefix(['e', 'E'])?.parse().ok().filter(|n: &i32| n.abs() <= 60)?,
    };
    Some(known)
}

fn decimal(digits: u128, power: i32) -> Option<u128> {
    match u32::try_from(power) {
        Ok(power) if digits == 0 || power == 0 => Some(digits),
        Ok(power) => digits.checked_mul(10u128.checked_pow(power)?),
        // Whatever is left of it is more than nothing.
        Err(_) => Some(match 10u128.checked_pow(power.unsigned_abs()) {
            Some(divisor) => digits.div_ceil(divisor),
            None => u128::from(digits > 0),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_kubernetes() {
        for (text, value) in [
            ("0", 0),
            ("80", 80),
            ("+5", 5),
            ("50M", 50_000_000),
            ("10k", 10_000),
            ("1Ki", 1024),
            ("1.5Gi", 1_610_612_736),
            ("1.5", 2),
            (".5k", 500),
            ("5.", 5),
            ("100m", 1),
            ("1n", 1),
            ("0n", 0),
            ("2e3", 2000),
            ("2E3", 2000),
            ("1E", 1_000_000_000_000_000_000),
            ("25e-1", 3),
            ("0e60", 0),
            ("1e-60", 1),
            ("9223372036854775807", i64::MAX as u64),
            ("0.0000000000000000000000000001Ei", 1),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            ".",
            "-1",
            "64 M",
            "10K",
            "10KB",
            "k",
            "1.2.3",
            "0x10",
            "1e",
            "1e+",
            "1e99",
            "1e61",
            "10E",
            "8Ei",
            "9223372036854775808",
            "ten",
            "1_000",
            "५",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&"9".repeat(40)), None);
    }
}
