//! Telling systemd how things are, where it asked to be told.

use std::time::Duration;

use sd_notify::NotifyState;

/// systemd's variables stay in the environment: shims that are started do not answer to it.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "systemd could not be told of the daemon's state");
    }
}

pub fn ready() {
    tell(&[NotifyState::Ready]);
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How long the watchdog waits, where there is one and it is for this process.
fn patience() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros)
}

/// Feeds the watchdog at twice the rate it asks for, for as long as the runtime turns; returns at once without one.
pub async fn watchdog() {
    let Some(patience) = patience() else { return };
    let mut ticks = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}
