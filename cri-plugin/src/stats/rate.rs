//! How much CPU is used now: what two samples differ by.

use std::time::{Duration, Instant};

/// How far samples are to be apart.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// At least: below, noise is measured.
    pub least: Duration,
    /// At most: beyond, it is no longer "now".
    pub most: Duration,
}

/// The last sample, and the rate that it gave. Taken when somebody asks: nothing is measured for nobody.
#[derive(Debug, Default)]
pub struct Rate {
    last: Option<(Instant, u64)>,
    told: Option<u64>,
}

impl Rate {
    /// A sample of something that began then, with nothing used. No effect where there is one.
    pub fn begin(&mut self, at: Instant) {
        self.last.get_or_insert((at, 0));
    }

    /// Takes a sample, nanoseconds of CPU, and tells the rate in nanoseconds per second. Those who ask more often than the
    /// window allows are told the last one. `None` as long as there are no two samples.
    pub fn take(&mut self, at: Instant, usage: u64, window: Window) -> Option<u64> {
        let Some((before, used)) = self.last else {
            self.last = Some((at, usage));
            return None;
        };
        let passed = at.saturating_duration_since(before);
        // Less than before: it is another group of the same name.
        if usage < used || passed > window.most {
            *self = Self { last: Some((at, usage)), told: None };
        } else if passed >= window.least && !passed.is_zero() {
            let rate = u128::from(usage - used) * 1_000_000_000 / passed.as_nanos();
            *self = Self { last: Some((at, usage)), told: Some(u64::try_from(rate).unwrap_or(u64::MAX)) };
        }
        self.told
    }
}
