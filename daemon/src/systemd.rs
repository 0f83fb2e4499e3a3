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

/// Feeds the watchdog at twice the rate it asks for, for as long as the runtime turns; returns at once without one.
pub async fn watchdog() {
    let mut limit = 0;
    if !sd_notify::watchdog_enabled(false, &mut limit) {
        return;
    }
    let mut ticks = tokio::time::interval(Duration::from_micros((limit / 2).max(1000)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}
