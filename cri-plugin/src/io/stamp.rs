//! The time of a log line: RFC 3339 in UTC with all nine digits, as the kubelet writes and parses it.

use std::time::{SystemTime, UNIX_EPOCH};

const LENGTH: usize = "2006-01-02T15:04:05.000000000Z".len();

/// Formats times; what has not changed since the last one is not formatted again.
pub struct Stamp {
    /// Seconds since 1970 that `text` shows.
    second: u64,
    text: [u8; LENGTH],
}

impl Default for Stamp {
    fn default() -> Stamp {
        Stamp { second: 0, text: *b"1970-01-01T00:00:00.000000000Z" }
    }
}

impl Stamp {
    pub fn now(&mut self) -> &[u8] {
        // A clock before 1970 is not worth an error in a log.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.format(now.as_secs(), now.subsec_nanos())
    }

    fn format(&mut self, second: u64, nanos: u32) -> &[u8] {
        if second != self.second {
            self.second = second;
            let (year, month, day) = civil(second / 86_400);
            let of_day = second % 86_400;
            digits(&mut self.text[0..4], year.min(9999));
            digits(&mut self.text[5..7], month);
            digits(&mut self.text[8..10], day);
            digits(&mut self.text[11..13], of_day / 3600);
            digits(&mut self.text[14..16], of_day / 60 % 60);
            digits(&mut self.text[17..19], of_day % 60);
        }
        digits(&mut self.text[20..29], nanos.into());
        &self.text
    }
}

fn digits(text: &mut [u8], mut value: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day since 1970, counted in eras of 400 years that begin on 1 March.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    #[test]
    fn formats_like_a_calendar() {
        let mut stamp = Stamp::default();
        // Every 37 hours and some for 400 years, and the edges of leap days.
        for step in 0..95_000u64 {
            let second = step * 133_337;
            let expected =
                OffsetDateTime::from_unix_timestamp(second as i64).unwrap().format(&Rfc3339).unwrap();
            let expected = expected.replace('Z', ".000000042Z");
            assert_eq!(std::str::from_utf8(stamp.format(second, 42)).unwrap(), expected);
        }
        assert_eq!(stamp.format(951_782_399, 999_999_999), b"2000-02-28T23:59:59.999999999Z");
        assert_eq!(stamp.format(951_782_400, 0), b"2000-02-29T00:00:00.000000000Z");
        assert_eq!(stamp.format(951_868_800, 1), b"2000-03-01T00:00:00.000000001Z");
    }
}
