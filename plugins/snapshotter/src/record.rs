//! One snapshot's record, as it is stored.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use windlass_core::snapshot::{Info, Kind, Usage};
use windlass_core::{Error, Labels, Result};

/// Of the form below. A newer one is refused, not guessed at.
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(rename = "v")]
    version: u32,
    /// Of its directory.
    pub number: u64,
    pub kind: Kind,
    /// Name of the parent, empty at the base.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Nanoseconds since 1970.
    created: u64,
    updated: u64,
    /// Of a committed one.
    #[serde(default)]
    pub usage: Usage,
}

impl Record {
    pub fn new(number: u64, kind: Kind, parent: &str, labels: Labels) -> Self {
        let now = now();
        Self {
            version: VERSION,
            number,
            kind,
            parent: parent.to_owned(),
            labels,
            created: now,
            updated: now,
            usage: Usage::default(),
        }
    }

    /// As of now, and for the first time where it has just become something new.
    pub fn touch(&mut self, new: bool) {
        self.updated = now();
        if new {
            self.created = self.updated;
        }
    }

    pub fn decode(key: &str, bytes: &[u8]) -> Result<Self> {
        let bad = |why: String| Error::data_loss(format!("record of snapshot {key:?}: {why}"));
        let record: Self = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if record.version != VERSION {
            return Err(bad(format!(
                "version {} is not known to this windlass, a newer one wrote it",
                record.version
            )));
        }
        Ok(record)
    }

    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal("encode a snapshot's record").with_source(e))
    }

    pub fn info(self, name: &str) -> Info {
        Info {
            kind: self.kind,
            name: name.to_owned(),
            parent: self.parent,
            labels: self.labels,
            created_at: UNIX_EPOCH + Duration::from_nanos(self.created),
            updated_at: UNIX_EPOCH + Duration::from_nanos(self.updated),
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_and_newer_ones_refused() {
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        let record = Record::new(7, Kind::Active, "base", labels);
        assert_eq!(Record::decode("k", &record.encode().unwrap()).unwrap(), record);
        let newer = String::from_utf8(record.encode().unwrap()).unwrap().replace("\"v\":1", "\"v\":2");
        assert!(Record::decode("k", newer.as_bytes()).unwrap_err().message().contains("newer"));
        assert!(Record::decode("k", b"{").is_err());
    }
}
