//! Names of images as people write them, and their normal form: Docker's grammar, read with bounds.

use windlass_core::{Digest, Error, Result};

/// Longest name that is looked at, in bytes.
const MAX_NAME: usize = 4096;
/// Longest repository with its domain, in bytes (Docker's bound).
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;
const HUB: &str = "docker.io";

/// A name taken apart, its domain and `library/` filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `docker.io/library/busybox`.
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Name {
    /// Parses any name that is not an image id.
    pub fn parse(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(128).collect();
        let bad = |why: &str| Error::invalid(format!("invalid image reference {shown:?}: {why}"));
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if text.len() > MAX_NAME {
            return Err(bad("it is too long"));
        }
        if text.len() == 64 && text.bytes().all(is_hex) {
            return Err(bad("64 hexadecimal digits are an image id"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match rest[last..].split_once(':') {
            Some((name, tag)) => (&rest[..last + name.len()], Some(tag)),
            None => (rest, None),
        };
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(bad("malformed tag"));
        }
        let (domain, path) = split_domain(path);
        if !is_domain(domain) {
            return Err(bad("malformed registry name"));
        }
        let domain = if domain == "index.docker.io" { HUB } else { domain };
        if !path.split('/').all(is_component) {
            return Err(bad(
                "the repository must be lower case letters and digits, joined by single separators",
            ));
        }
        let library = if domain == HUB && !path.contains('/') { "library/" } else { "" };
        let repository = format!("{domain}/{library}{path}");
        if repository.len() > MAX_REPOSITORY {
            return Err(bad("the repository is too long"));
        }
        Ok(Self { repository, tag: tag.map(str::to_owned), digest })
    }

    /// As images are pulled and looked up: `latest` where neither tag nor digest is given; of both the digest alone.
    pub fn normal(mut self) -> Self {
        match (&self.tag, &self.digest) {
            (_, Some(_)) => self.tag = None,
            (None, None) => self.tag = Some("latest".into()),
            _ => {}
        }
        self
    }

    /// `repository@digest`: this name's own digest, or the given one.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{}", self.repository, self.digest.as_ref().unwrap_or(digest))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// What a record's name is in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Tag,
    Digest,
    /// An image id, or no name at all.
    Other,
}

pub fn sort_of(record: &str) -> Sort {
    match Name::parse(record) {
        Ok(Name { digest: Some(_), .. }) if !record.starts_with("sha256:") => Sort::Digest,
        Ok(Name { tag: Some(_), digest: None, .. }) if record.parse::<Digest>().is_err() => Sort::Tag,
        _ => Sort::Other,
    }
}

fn split_domain(path: &str) -> (&str, &str) {
    match path.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (HUB, path),
    }
}

pub fn is_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    tag.len() <= MAX_TAG
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// A host name or an address in brackets, with or without port.
fn is_domain(domain: &str) -> bool {
    let (name, port) = match domain.strip_prefix('[').and_then(|d| d.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (None, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("-")) })
        }
        None => match domain.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(domain), None),
        },
    };
    let label = |l: &str| {
        l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && l.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && l.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
    };
    name.is_none_or(|n| n.split('.').all(label)) && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    bytes.first().is_some_and(|b| word(*b))
        && bytes.last().is_some_and(|b| word(*b))
        && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        Name::parse(text).unwrap().normal().to_string()
    }

    #[test]
    fn short_names_have_a_normal_form() {
        let d = Digest::of(b"");
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("me/app", "docker.io/me/app:latest"),
            ("index.docker.io/me/app:2", "docker.io/me/app:2"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b:x_Y.z-1", "localhost:5000/a/b:x_Y.z-1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            (
                "gcr.io/k8s-staging-cri-tools/test-image-tags:1",
                "gcr.io/k8s-staging-cri-tools/test-image-tags:1",
            ),
            ("Reg/a__b--c", "Reg/a__b--c:latest"),
        ] {
            assert_eq!(normal(short), full);
            assert_eq!(normal(full), full);
        }
        assert_eq!(normal(&format!("busybox:1@{d}")), format!("docker.io/library/busybox@{d}"));
        assert_eq!(Name::parse("a:1").unwrap().with_digest(&d), format!("docker.io/library/a@{d}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let d = Digest::of(b"");
        for bad in [
            "",
            " ",
            "A",
            "a..b",
            "a/-b",
            "a:.x",
            "a:",
            "a___b",
            "a/../b",
            "/a",
            "a/",
            "a//b",
            "-x.io/a",
            "x.io:/a",
            "x.io:99999/a",
            "[::g]/a",
            "[::1]5/a",
            "a@sha256:12",
            "a@",
            "http://a/b",
            "a b",
            "é",
            "a\0b",
            &"a".repeat(64),
            &"a".repeat(300),
            &format!("a:{}", "t".repeat(129)),
            &"a/".repeat(3000),
            &format!("@{d}"),
            &format!("a@{d}@{d}"),
        ] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn records_are_sorted_into_tags_and_digests() {
        let d = Digest::of(b"");
        assert_eq!(sort_of("docker.io/library/a:1"), Sort::Tag);
        assert_eq!(sort_of(&format!("docker.io/library/a@{d}")), Sort::Digest);
        assert_eq!(sort_of(&format!("docker.io/library/a:1@{d}")), Sort::Digest);
        for other in [d.as_str(), "docker.io/library/a", "import-2026 x", ""] {
            assert_eq!(sort_of(other), Sort::Other, "{other}");
        }
    }
}
