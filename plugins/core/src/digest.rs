//! Content digests and descriptors as the OCI image specification 1.1 has them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::error::Error;
use crate::platform::Platform;
use crate::types::Labels;

/// A verified-in-form digest `algorithm:hex`; sha256, sha384 and sha512 are known.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The sha256 digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self::from_sha256(&sha2::Sha256::digest(data))
    }

    /// From a finished sha256 hash of 32 bytes.
    pub fn from_sha256(hash: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(a, _)| a)
    }

    pub fn encoded(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, e)| e)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::invalid(format!("digest {s:?} {why}"));
        let (algorithm, encoded) = s.split_once(':').ok_or_else(|| bad("has no algorithm"))?;
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return Err(bad("has an unsupported algorithm: use sha256")),
        };
        if encoded.len() != length || !encoded.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("is not well formed: lower-case hexadecimal of the full length expected"));
        }
        Ok(Self(s.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hash in the making, of the algorithm that a wanted digest names (sha256 where none is wanted).
pub enum Hasher {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    pub fn new(expected: Option<&Digest>) -> Self {
        match expected.map(Digest::algorithm) {
            Some("sha384") => Self::Sha384(sha2::Sha384::new()),
            Some("sha512") => Self::Sha512(sha2::Sha512::new()),
            _ => Self::Sha256(sha2::Sha256::new()),
        }
    }

    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(data),
            Self::Sha384(h) => h.update(data),
            Self::Sha512(h) => h.update(data),
        }
    }

    /// The digest of what has been written so far; the hash goes on.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Sha256(h) => Digest(format!("sha256:{}", hex::encode(h.clone().finalize()))),
            Self::Sha384(h) => Digest(format!("sha384:{}", hex::encode(h.clone().finalize()))),
            Self::Sha512(h) => Digest(format!("sha512:{}", hex::encode(h.clone().finalize()))),
        }
    }
}

/// What points to content: OCI image specification 1.1, `descriptor.md`; JSON field names are the specification's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: Labels::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_checked() {
        assert!(Digest::of(b"x").as_str().parse::<Digest>().is_ok());
        for bad in ["", "sha256", "sha256:", "sha256:ABC", "md5:00", "sha256:../../etc/passwd"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hashers_follow_the_algorithm() {
        let mut h = Hasher::new(None);
        h.update(b"x");
        assert_eq!(h.digest(), Digest::of(b"x"));
        let wanted: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        assert_eq!(Hasher::new(Some(&wanted)).digest().algorithm(), "sha512");
    }
}
