//! The rates that a pod's annotations ask for, as quantities of Kubernetes.

use super::pod::Bandwidth;
use crate::error::{Error, Result};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What is taken for a rate that somebody meant, in bits a second.
const REASONABLE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// What every runtime gives as a burst where nobody has said anything.
const BURST: u64 = u32::MAX as u64;

impl Bandwidth {
    /// Reads the annotations of a pod; none if they ask for nothing.
    pub fn from_annotations<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Self>> {
        let rate = |name: &'static str| {
            let Some(text) = get(name) else { return Ok(None) };
            let unfit = || Error::invalid(name, text, "a quantity from 1k to 1P is possible");
            quantity(text).filter(|rate| REASONABLE.contains(rate)).map(Some).ok_or_else(unfit)
        };
        let (ingress, egress) = (rate(INGRESS)?, rate(EGRESS)?);
        let burst = |rate: Option<u64>| rate.map_or(0, |_| BURST);
        Ok(ingress.or(egress).map(|_| Self {
            ingress_rate: ingress.unwrap_or(0),
            ingress_burst: burst(ingress),
            egress_rate: egress.unwrap_or(0),
            egress_burst: burst(egress),
        }))
    }
}

/// A quantity as a whole number, rounded up: digits, perhaps a fraction, and one of Kubernetes' suffixes.
fn quantity(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    // In thousandths, so that `m` has a place too.
    let scale: u128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        _ => return None,
    };
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = 1_000 * 10_u128.pow(fraction.len() as u32);
    u64::try_from(digits.checked_mul(scale)?.div_ceil(divisor)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, value) in [
            ("10M", 10_000_000),
            ("1Gi", 1 << 30),
            ("1.5k", 1_500),
            (".5k", 500),
            ("1500m", 2),
            ("0", 0),
            ("12345", 12_345),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in
            ["", ".", "-1", "+1", "1.2.3", "M", "1MB", "1e3x", "9999999999999999999", "999999999999999999P"]
        {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn annotations() {
        let read = |ingress, egress| {
            Bandwidth::from_annotations(move |name| if name == INGRESS { ingress } else { egress })
        };
        assert_eq!(read(None, None).unwrap(), None);
        let one = read(None, Some("1M")).unwrap().unwrap();
        let burst = u64::from(u32::MAX);
        assert_eq!(one, Bandwidth { egress_rate: 1_000_000, egress_burst: burst, ..Bandwidth::default() });
        assert!(
            read(Some("999"), None).is_err()
                && read(Some("2P"), None).is_err()
                && read(Some("x"), None).is_err()
        );
    }
}
