//! Values that both versions share, and v1 values in terms of v2.

use crate::error::{Error, Result};
use crate::spec::{BlockIo, RdmaLimit};

pub fn pids_max(limit: i64) -> String {
    match limit {
        // 0 cannot be meant: the container could not start. runc takes it for 1 as well.
        0 => "1".into(),
        n if n < 0 => "max".into(),
        n => n.to_string(),
    }
}

pub fn rdma_max(device: &str, limit: &RdmaLimit) -> String {
    let mut text = device.to_string();
    if let Some(n) = limit.hca_handles {
        text.push_str(&format!(" hca_handle={n}"));
    }
    if let Some(n) = limit.hca_objects {
        text.push_str(&format!(" hca_object={n}"));
    }
    text
}

/// For `checkBeforeUpdate`: a limit below what is used would call the OOM killer.
pub fn check_usage(usage: u64, limit: i64) -> Result<()> {
    if limit > 0 && usage > limit as u64 {
        return Err(Error::State(format!("memory limit {limit} is below the current usage {usage}")));
    }
    Ok(())
}

/// `cpu.shares` (2..=262144, default 1024) as `cpu.weight` (1..=10000, default 100): the curve through the three fixed
/// points that runtimes agreed upon.
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262144.. => 10000,
        _ => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// `blkio.weight` (10..=1000) as `io.weight` (1..=10000).
pub fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).max(10) - 10) * 9999 / 990
}

/// An error where weights are asked for and the kernel has no file for them.
pub fn check_weights(block: &BlockIo, files: [(&str, bool); 2]) -> Result<()> {
    let asked = block.weight.into_iter().chain(block.weight_device.iter().filter_map(|device| device.weight));
    if files.iter().any(|(_, there)| *there) || asked.into_iter().all(|weight| weight == 0) {
        return Ok(());
    }
    let [(first, _), (second, _)] = files;
    Err(Error::Unsupported(format!(
        "blockIO.weight: this kernel weighs no block I/O (there is neither {first} nor {second} in the group): give a disk \
         the scheduler bfq, or leave weights out"
    )))
}

/// The sum of memory and swap, which v1 limits, as the limit of swap alone. None: leave it.
pub fn swap_max(memory: Option<i64>, swap: Option<i64>) -> Result<Option<String>> {
    let (memory, swap) = (memory.unwrap_or(0), swap.unwrap_or(0));
    match (memory, swap) {
        (-1, 0) | (_, -1) => Ok(Some("max".into())),
        (_, 0) => Ok(None),
        (_, s) if s < 0 => Err(Error::Spec(format!("invalid swap value: {s}"))),
        (-1, s) => Ok(Some(s.to_string())),
        (0, _) => Err(Error::Spec("unable to set swap limit without memory limit".into())),
        (m, s) if m < 0 || s < m => {
            Err(Error::Spec(format!("memory+swap limit {s} should be >= memory limit {m}")))
        }
        (m, s) => Ok(Some((s - m).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_meet_their_fixed_points() {
        assert_eq!([2, 1024, 262144].map(cpu_weight), [1, 100, 10000]);
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10000]);
    }

    #[test]
    fn swap_is_what_is_above_memory() {
        assert_eq!(swap_max(Some(100), Some(150)).unwrap().unwrap(), "50");
        assert_eq!(swap_max(Some(100), Some(100)).unwrap().unwrap(), "0");
        assert_eq!(swap_max(Some(100), Some(-1)).unwrap().unwrap(), "max");
        assert_eq!(swap_max(Some(-1), None).unwrap().unwrap(), "max");
        assert_eq!(swap_max(Some(100), None).unwrap(), None);
        assert!(swap_max(None, Some(5)).is_err());
        assert!(swap_max(Some(10), Some(5)).is_err());
    }

    #[test]
    fn pids_limits() {
        assert_eq!([-1, 0, 7].map(pids_max), ["max", "1", "7"]);
    }
}
