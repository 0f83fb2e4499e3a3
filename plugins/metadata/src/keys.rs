//! Keys of records: `v1`, namespace, object, names.
//!
//! Each part ends with a zero byte; inside a part the bytes 0 and 1 are written 1 1 and 1 2. So keys sort by their
//! parts, a list of parts is a prefix of exactly those keys that begin with them, and no name, whatever it is made of,
//! can be read as two parts or as another's.

/// The objects of a namespace, as they stand in keys.
pub(crate) mod object {
    pub(crate) const IMAGES: &str = "images";
    pub(crate) const CONTAINERS: &str = "containers";
    /// Then snapshotter and key.
    pub(crate) const SNAPSHOTS: &str = "snapshots";
    /// Then snapshotter, parent and child: an index, with empty values.
    pub(crate) const CHILDREN: &str = "children";
    pub(crate) const BLOBS: &str = "blobs";
    /// What leases call blobs.
    pub(crate) const CONTENT: &str = "content";
    pub(crate) const INGESTS: &str = "ingests";
    pub(crate) const SANDBOXES: &str = "sandboxes";
    pub(crate) const LEASES: &str = "leases";
    /// Then lease, kind of resource and its id: what leases refer to, with empty values.
    pub(crate) const LEASED: &str = "leased";
}

const RECORDS: &str = "v1";
const NAMESPACES: &str = "namespaces";

/// The database's own version.
pub(crate) const SCHEMA: &[u8] = b"schema\0";
/// The next number of names in backends.
pub(crate) const SEQUENCE: &[u8] = b"sequence\0";

/// A key, or a prefix of keys.
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    for part in parts {
        for byte in part.bytes() {
            if byte <= 1 {
                key.push(1);
                key.push(byte + 1);
            } else {
                key.push(byte);
            }
        }
        key.push(0);
    }
    key
}

/// The parts of a key. One that is not of our making has none.
pub(crate) fn parts(key: &[u8]) -> Vec<String> {
    let mut parts = Vec::with_capacity(5);
    let mut part = Vec::new();
    let mut bytes = key.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            0 => match String::from_utf8(std::mem::take(&mut part)) {
                Ok(text) => parts.push(text),
                Err(_) => return Vec::new(),
            },
            1 => match bytes.next() {
                Some(escaped @ 1..=2) => part.push(escaped - 1),
                _ => return Vec::new(),
            },
            byte => part.push(byte),
        }
    }
    if part.is_empty() { parts } else { Vec::new() }
}

/// The last part of a key.
pub(crate) fn name(key: &[u8]) -> String {
    parts(key).pop().unwrap_or_default()
}

pub(crate) fn namespaces() -> Vec<u8> {
    key([NAMESPACES])
}

pub(crate) fn namespace(name: &str) -> Vec<u8> {
    key([NAMESPACES, name])
}

/// Everything in a namespace.
pub(crate) fn all_of(namespace: &str) -> Vec<u8> {
    key([RECORDS, namespace])
}

/// All objects of a kind.
pub(crate) fn all(namespace: &str, object: &str) -> Vec<u8> {
    key([RECORDS, namespace, object])
}

pub(crate) fn one(namespace: &str, object: &str, name: &str) -> Vec<u8> {
    key([RECORDS, namespace, object, name])
}

pub(crate) fn snapshots(namespace: &str, snapshotter: &str) -> Vec<u8> {
    key([RECORDS, namespace, object::SNAPSHOTS, snapshotter])
}

pub(crate) fn snapshot(namespace: &str, snapshotter: &str, name: &str) -> Vec<u8> {
    key([RECORDS, namespace, object::SNAPSHOTS, snapshotter, name])
}

pub(crate) fn children(namespace: &str, snapshotter: &str, parent: &str) -> Vec<u8> {
    key([RECORDS, namespace, object::CHILDREN, snapshotter, parent])
}

pub(crate) fn child(namespace: &str, snapshotter: &str, parent: &str, child: &str) -> Vec<u8> {
    key([RECORDS, namespace, object::CHILDREN, snapshotter, parent, child])
}

/// All resources of a lease.
pub(crate) fn resources(namespace: &str, lease: &str) -> Vec<u8> {
    key([RECORDS, namespace, object::LEASED, lease])
}

pub(crate) fn resource(namespace: &str, lease: &str, kind: &str, id: &str) -> Vec<u8> {
    key([RECORDS, namespace, object::LEASED, lease, kind, id])
}

/// What a record's key says: namespace, object, and the names after it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) object: String,
    pub(crate) names: Vec<String>,
}

impl Place {
    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        let mut parts = parts(key).into_iter();
        if parts.next()? != RECORDS {
            return None;
        }
        Some(Self { namespace: parts.next()?, object: parts.next()?, names: parts.collect() })
    }

    /// The `n`th name, empty where there is none.
    pub(crate) fn name(&self, n: usize) -> &str {
        self.names.get(n).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_there_and_back() {
        for names in
            [vec!["a", "b"], vec!["", ""], vec!["a\0b", "\0"], vec!["é/ü", "\u{1}a/b\0\0c\u{1}"], vec![]]
        {
            assert_eq!(parts(&key(names.iter().copied())), names);
        }
        assert!(parts(b"unfinished").is_empty());
        assert!(parts(b"\xfe\0").is_empty() && parts(b"\x01").is_empty() && parts(b"\x01\x07\0").is_empty());
    }

    #[test]
    fn no_name_reaches_into_another() {
        let all = all("n", object::IMAGES);
        assert!(one("n", object::IMAGES, "x\0y").starts_with(&all));
        assert!(!one("n\0images", "x", "y").starts_with(&all));
        assert!(!one("n", "images\0", "y").starts_with(&all));
        assert!(!children("n", "s", "p\0q").starts_with(&children("n", "s", "p")));
        assert!(
            key(["a"]) < key(["a\0"])
                && key(["a\0"]) < key(["a\u{1}"])
                && key(["a\u{1}"]) < key(["a!"])
                && key(["a!"]) < key(["b"])
        );
    }
}
