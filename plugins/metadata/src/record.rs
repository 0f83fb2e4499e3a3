//! The binary form of records: one byte of version, then the fields in order (postcard).
//!
//! A field is never added, removed or changed in place: a new form gets the next version, the old type stays as
//! `…V1`, and [`Record::migrate`] turns it into the new. Old values are read as they are met and rewritten when they
//! change. What concerns more than one record is a step of [`MIGRATIONS`] instead.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use windlass_core::metastore::{Read, Write};
use windlass_core::{Any, Error, Labels, Result};

use crate::keys;

/// A type of record.
pub(crate) trait Record: Serialize + DeserializeOwned {
    const VERSION: u8 = 1;

    /// Reads an older version. Never called with [`Record::VERSION`].
    fn migrate(version: u8, _data: &[u8]) -> Result<Self, Malformed> {
        Err(Malformed::Version { found: version, known: Self::VERSION })
    }
}

/// Why a stored value cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the value is empty")]
    Empty,
    #[error("written in version {found}, this build reads up to {known}: start the newer one again")]
    Version { found: u8, known: u8 },
    #[error("the value does not have the form of its version")]
    Form(#[source] postcard::Error),
}

pub(crate) fn encode<T: Record>(record: &T) -> Result<Vec<u8>> {
    let start = vec![T::VERSION];
    postcard::to_extend(record, start)
        .map_err(|source| Error::internal("encode a record").with_source(source))
}

pub(crate) fn decode<T: Record>(key: &[u8], value: &[u8]) -> Result<T> {
    parse(value).map_err(|why| {
        Error::data_loss(format!("metadata record {} cannot be read", keys::parts(key).join("/")))
            .with_source(why)
    })
}

fn parse<T: Record>(value: &[u8]) -> Result<T, Malformed> {
    match value.split_first() {
        None => Err(Malformed::Empty),
        Some((version, data)) if *version == T::VERSION => {
            postcard::from_bytes(data).map_err(Malformed::Form)
        }
        Some((version, data)) => T::migrate(*version, data),
    }
}

/// A point in time, nanoseconds kept; also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Time {
    seconds: i64,
    nanos: u32,
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self { seconds: after.as_secs() as i64, nanos: after.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let nanos = before.subsec_nanos();
                let seconds = -(before.as_secs() as i64);
                if nanos == 0 {
                    Self { seconds, nanos }
                } else {
                    Self { seconds: seconds - 1, nanos: 1_000_000_000 - nanos }
                }
            }
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        let nanos = Duration::from_nanos(time.nanos.into());
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let base = if time.seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(whole)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(whole)
        };
        base.and_then(|base| base.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Namespace {
    pub(crate) labels: Labels,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    pub(crate) options: Option<Any>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    pub(crate) labels: Labels,
    pub(crate) created: Time,
    pub(crate) updated: Time,
    pub(crate) image: String,
    pub(crate) runtime: Runtime,
    pub(crate) snapshotter: String,
    pub(crate) snapshot_key: String,
    pub(crate) sandbox_id: String,
    pub(crate) extensions: BTreeMap<String, Any>,
    pub(crate) spec: Option<Any>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sandbox {
    pub(crate) labels: Labels,
    pub(crate) created: Time,
    pub(crate) updated: Time,
    pub(crate) runtime: Runtime,
    pub(crate) sandboxer: String,
    pub(crate) extensions: BTreeMap<String, Any>,
    pub(crate) spec: Option<Any>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) labels: Labels,
    pub(crate) created: Time,
    pub(crate) updated: Time,
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) annotations: Labels,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) labels: Labels,
    pub(crate) created: Time,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) labels: Labels,
    pub(crate) created: Time,
    pub(crate) updated: Time,
    pub(crate) size: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ingest {
    /// Its reference in the raw store.
    pub(crate) backend: String,
    /// When it is collected, where no lease refers to it.
    pub(crate) expires: Option<Time>,
    /// Digest of the content that is shared from another namespace instead of being written.
    pub(crate) expected: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) labels: Labels,
    pub(crate) created: Time,
    pub(crate) updated: Time,
    /// Its key in the raw snapshotter.
    pub(crate) backend: String,
    /// Empty at the base.
    pub(crate) parent: String,
}

/// The schema's version, and the next number of a sequence.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Number(pub(crate) u64);

macro_rules! records {
    ($($name:ident),*) => { $(impl Record for $name {})* };
}
records!(Namespace, Container, Sandbox, Image, Lease, Blob, Ingest, Snapshot, Number);

/// A step that changes the database as a whole, from its index to the next version.
type Migration = fn(&mut dyn Write) -> Result<()>;

/// All steps so far: the schema's version is their number plus one.
const MIGRATIONS: &[Migration] = &[];

/// Brings the database to the present schema, within one transaction.
pub(crate) fn migrate(tx: &mut dyn Write) -> Result<()> {
    run_migrations(tx, MIGRATIONS)
}

fn run_migrations(tx: &mut dyn Write, steps: &[Migration]) -> Result<()> {
    let present = steps.len() as u64 + 1;
    let found = tx.get(keys::SCHEMA)?.map(|value| decode::<Number>(keys::SCHEMA, &value)).transpose()?;
    let Some(Number(found)) = found else {
        // A new database, which has the present form.
        return tx.put(keys::SCHEMA, &encode(&Number(present))?);
    };
    if found > present {
        return Err(Error::precondition(format!(
            "the metadata database has schema {found}, this build knows up to {present}: start the newer one again"
        )));
    }
    for (index, step) in steps.iter().enumerate().skip(found as usize - 1) {
        step(tx).map_err(|e| e.context(format!("migrate metadata from schema {}", index + 1)))?;
        tracing::info!(schema = index + 2, "metadata migrated");
    }
    if found < present {
        tx.put(keys::SCHEMA, &encode(&Number(present))?)?;
    }
    Ok(())
}

/// Reads one record.
pub(crate) fn get<T: Record>(tx: &(impl Read + ?Sized), key: &[u8]) -> Result<Option<T>> {
    tx.get(key)?.map(|value| decode(key, &value)).transpose()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use windlass_core::Class;
    use windlass_core::metastore::Each;

    use super::*;

    #[derive(Default)]
    struct Map(BTreeMap<Vec<u8>, Vec<u8>>);
    impl Read for Map {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
            Ok(self.0.get(key).map(|v| Bytes::copy_from_slice(v)))
        }
        fn scan_from(&self, _: &[u8], _: &[u8], _: Each<'_>) -> Result<()> {
            Ok(())
        }
    }
    impl Write for Map {
        fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
            self.0.insert(key.to_vec(), value.to_vec());
            Ok(())
        }
        fn delete(&mut self, key: &[u8]) -> Result<()> {
            self.0.remove(key);
            Ok(())
        }
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        let epoch = SystemTime::UNIX_EPOCH;
        let odd = Duration::new(1_700_000_000, 123_456_789);
        for time in
            [epoch, epoch + odd, epoch - odd, epoch - Duration::from_nanos(1), epoch - Duration::from_secs(1)]
        {
            assert_eq!(SystemTime::from(Time::from(time)), time);
        }
        let far = Time { seconds: i64::MIN, nanos: 0 };
        let _ = SystemTime::from(far);
    }

    #[test]
    fn records_of_another_version_are_migrated_or_refused() {
        #[derive(Serialize, Deserialize)]
        struct NewerV1 {
            labels: Labels,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Newer {
            count: u64,
            labels: Labels,
        }
        impl Record for Newer {
            const VERSION: u8 = 2;
            fn migrate(version: u8, data: &[u8]) -> Result<Self, Malformed> {
                if version != 1 {
                    return Err(Malformed::Version { found: version, known: Self::VERSION });
                }
                let old: NewerV1 = postcard::from_bytes(data).map_err(Malformed::Form)?;
                Ok(Self { count: old.labels.len() as u64, labels: old.labels })
            }
        }
        let labels = Labels::from([("a".into(), "b".into())]);
        let old = encode(&Namespace { labels: labels.clone() }).unwrap();
        assert_eq!(decode::<Newer>(b"k\0", &old).unwrap(), Newer { count: 1, labels });
        let newest = encode(&Newer { count: 0, labels: Labels::new() }).unwrap();
        let error = decode::<Namespace>(b"k\0", &newest).unwrap_err();
        assert!(error.is(Class::DataLoss) && error.chain().contains("version 2"), "{}", error.chain());
        for bad in [&b""[..], b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x01\x05ab"] {
            assert!(decode::<Namespace>(b"k\0", bad).is_err());
        }
    }

    #[test]
    fn migrations_run_once_and_in_order() {
        fn append(tx: &mut dyn Write, step: &[u8]) -> Result<()> {
            let mut log = tx.get(b"log")?.unwrap_or_default().to_vec();
            log.extend_from_slice(step);
            tx.put(b"log", &log)
        }
        let steps: &[Migration] = &[|tx| append(tx, b"1"), |tx| append(tx, b"2")];
        let mut fresh = Map::default();
        run_migrations(&mut fresh, steps).unwrap();
        assert!(!fresh.0.contains_key(&b"log"[..]), "a new database needs no step");
        let mut old = Map::default();
        run_migrations(&mut old, &[]).unwrap();
        run_migrations(&mut old, steps).unwrap();
        run_migrations(&mut old, steps).unwrap();
        assert_eq!(old.0[&b"log"[..]], b"12");
        let error = run_migrations(&mut old, &steps[..1]).unwrap_err();
        assert!(error.is(Class::FailedPrecondition), "a newer database is refused: {error}");
    }
}
