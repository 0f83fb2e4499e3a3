//! The labels by which objects refer to each other. They are containerd's; its documentation of garbage collection
//! describes them.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use windlass_core::{Labels, duration};

use crate::keys::{self, object};

const ROOT: &str = "containerd.io/gc.root";
pub(super) const EXPIRE: &str = "containerd.io/gc.expire";
pub(super) const FLAT: &str = "containerd.io/gc.flat";
const CONTENT: &str = "containerd.io/gc.ref.content";
const IMAGE: &str = "containerd.io/gc.ref.image";
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
const BACK_CONTAINER: &str = "containerd.io/gc.bref.container";
const BACK_CONTENT: &str = "containerd.io/gc.bref.content";
const BACK_IMAGE: &str = "containerd.io/gc.bref.image";
const BACK_SNAPSHOT: &str = "containerd.io/gc.bref.snapshot.";
const CONDITION_SNAPSHOT: &str = "containerd.io/gc.cond.snapshot";
const USED_AT: &str = "containerd.io/gc.cond.value-usedat";

/// All labels whose key begins with `prefix`, with the rest of the key.
fn with_prefix<'a>(labels: &'a Labels, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    labels
        .range(prefix.to_owned()..)
        .map_while(move |(key, value)| key.strip_prefix(prefix).map(|rest| (rest, value.as_str())))
}

/// The values of a label that may be there several times: `<key>`, `<key>.<x>`, `<key>/<x>`.
fn values<'a>(labels: &'a Labels, key: &'a str) -> impl Iterator<Item = &'a str> {
    with_prefix(labels, key)
        .filter(|(rest, _)| rest.is_empty() || rest.starts_with(['.', '/']))
        .map(|(_, value)| value)
}

/// The snapshots of `<prefix><snapshotter>[/<x>] = <name>`.
fn snapshots<'a>(ns: &'a str, labels: &'a Labels, prefix: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
    with_prefix(labels, prefix)
        .map(move |(rest, name)| keys::snapshot(ns, rest.split('/').next().unwrap_or_default(), name))
}

/// The objects that one with these labels refers to.
pub(super) fn references(ns: &str, labels: &Labels) -> Vec<Vec<u8>> {
    let content = values(labels, CONTENT).map(|digest| keys::one(ns, object::BLOBS, digest));
    let images = values(labels, IMAGE).map(|name| keys::one(ns, object::IMAGES, name));
    content.chain(images).chain(snapshots(ns, labels, SNAPSHOT)).collect()
}

/// The objects by which one with these labels wants to be referred to.
pub(super) fn back_references(ns: &str, labels: &Labels) -> Vec<Vec<u8>> {
    let containers = values(labels, BACK_CONTAINER).map(|id| keys::one(ns, object::CONTAINERS, id));
    let content = values(labels, BACK_CONTENT).map(|digest| keys::one(ns, object::BLOBS, digest));
    let images = values(labels, BACK_IMAGE).map(|name| keys::one(ns, object::IMAGES, name));
    containers.chain(content).chain(images).chain(snapshots(ns, labels, BACK_SNAPSHOT)).collect()
}

pub(super) fn is_root(labels: &Labels) -> bool {
    with_prefix(labels, ROOT).next().is_some()
}

/// Whether the object has expired. A value that is no time is as good as none.
pub(super) fn has_expired(labels: &Labels, now: SystemTime) -> bool {
    match labels.get(EXPIRE).map(|value| parse_time(value)) {
        Some(Some(expires)) => now > expires,
        Some(None) => {
            tracing::info!(value = ?labels.get(EXPIRE), "expiry ignored: RFC 3339 expected");
            false
        }
        None => false,
    }
}

fn parse_time(value: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(value, &Rfc3339).ok().map(SystemTime::from)
}

/// "While the snapshot was used less, or more, than so long ago, it refers to me."
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Condition {
    less: bool,
    /// Seconds.
    than: f64,
}

impl Condition {
    /// Whether a snapshot with these labels meets it.
    pub(super) fn met(self, labels: &Labels, now: SystemTime) -> bool {
        with_prefix(labels, USED_AT).filter_map(|(_, value)| parse_time(value)).any(|used| {
            let ago = match now.duration_since(used) {
                Ok(ago) => ago.as_secs_f64(),
                Err(ahead) => -ahead.duration().as_secs_f64(),
            };
            if self.less { ago < self.than } else { ago > self.than }
        })
    }
}

/// The conditions of `gc.cond.snapshot.<snapshotter>[/<x>] = usedat<24h[,…]|<name>`, each with its snapshot. What is
/// not understood is left out.
pub(super) fn conditions(ns: &str, labels: &Labels) -> Vec<(Vec<u8>, Condition)> {
    let mut found = Vec::new();
    for (rest, value) in with_prefix(labels, CONDITION_SNAPSHOT) {
        let Some((conditions, name)) = value.split_once('|') else { continue };
        let snapshotter = rest.trim_start_matches(['.', '/']).split('/').next().unwrap_or_default();
        for condition in conditions.split(',') {
            let Some((subject, test)) = condition.find(['!', '<', '>', '=']).map(|at| condition.split_at(at))
            else {
                continue;
            };
            let condition = match (subject, test.split_at(1)) {
                ("usedat", (sign @ ("<" | ">"), than)) if !than.starts_with('=') => {
                    parse_duration(than).map(|than| Condition { less: sign == "<", than })
                }
                _ => None,
            };
            found.extend(condition.map(|condition| (keys::snapshot(ns, snapshotter, name), condition)));
        }
    }
    found
}

/// Seconds of a duration as Go writes it: `1h30m`, `-1.5s`, `100ms`.
fn parse_duration(text: &str) -> Option<f64> {
    match text.strip_prefix('-') {
        Some(rest) if rest.starts_with('+') => None,
        Some(rest) => duration::parse(rest).map(|before| -before.as_secs_f64()),
        None => duration::parse(text).map(|after| after.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn references_are_found_in_all_spellings() {
        let labels = labels(&[
            ("containerd.io/gc.ref.content", "a"),
            ("containerd.io/gc.ref.content.l.0", "b"),
            ("containerd.io/gc.ref.content/x", "c"),
            ("containerd.io/gc.ref.contention", "never"),
            ("containerd.io/gc.ref.image.i", "d"),
            ("containerd.io/gc.ref.snapshot.overlayfs", "e"),
            ("containerd.io/gc.ref.snapshot.overlayfs/1", "f"),
            ("containerd.io/gc.bref.content", "g"),
            ("other", "never"),
        ]);
        let blob = |d| keys::one("n", object::BLOBS, d);
        let snapshot = |k| keys::snapshot("n", "overlayfs", k);
        let want = [
            blob("a"),
            blob("b"),
            blob("c"),
            keys::one("n", object::IMAGES, "d"),
            snapshot("e"),
            snapshot("f"),
        ];
        assert_eq!(references("n", &labels), want);
        assert_eq!(back_references("n", &labels), [blob("g")]);
        assert!(!is_root(&labels));
    }

    #[test]
    fn expiry_needs_a_time() {
        let now = SystemTime::now();
        for (value, expired) in [
            ("2001-01-01T00:00:00Z", true),
            ("2001-01-01T00:00:00.123456789+02:00", true),
            ("2101-01-01T00:00:00Z", false),
            ("yesterday", false),
        ] {
            assert_eq!(has_expired(&labels(&[(EXPIRE, value)]), now), expired, "{value}");
        }
        assert!(!has_expired(&Labels::new(), now));
    }

    #[test]
    fn conditions_compare_times() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let used = labels(&[(USED_AT, "2001-09-09T00:46:40Z")]);
        for (condition, met) in [
            ("usedat<2h|k", Some(true)),
            ("usedat<30m|k", Some(false)),
            ("usedat>30m|k", Some(true)),
            ("usedat>1h30m|k", Some(false)),
            ("usedat=1h|k", None),
            ("usedat<=1h|k", None),
            ("usedat<soon|k", None),
            ("other<1h|k", None),
            ("usedat<1h", None),
        ] {
            let found = conditions("n", &labels(&[("containerd.io/gc.cond.snapshot.s/1", condition)]));
            assert_eq!(found.first().map(|(_, c)| c.met(&used, now)), met, "{condition}");
            assert!(found.iter().all(|(key, _)| *key == keys::snapshot("n", "s", "k")));
        }
        assert_eq!(conditions("n", &labels(&[(CONDITION_SNAPSHOT, "usedat<1h,usedat>2h|k")])).len(), 2);
    }

    #[test]
    fn durations_are_gos() {
        for (text, seconds) in
            [("1h30m", 5400.0), ("-1.5s", -1.5), ("100ms", 0.1), ("0", 0.0), ("+2us", 2e-6)]
        {
            assert_eq!(parse_duration(text), Some(seconds), "{text}");
        }
        for bad in ["", "1", "h", "1d", "1h2", "-"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
