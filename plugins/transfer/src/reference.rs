//! Names of images in registries: containerd's form `host/path:tag@digest`, and Docker's short forms.

use windlass_core::{Digest, Error, Result};

/// Longest name that is looked at, in bytes.
const MAX_NAME: usize = 4096;

/// A reference taken apart. `host` may have a port; `object` is `tag`, `tag@digest` or `@digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    host: String,
    repository: String,
    object: String,
}

impl Spec {
    /// Parses a full reference. The host must be there: `docker.io/library/busybox:latest`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("invalid reference {text:?}: {why}"));
        if text.len() > MAX_NAME {
            return Err(Error::invalid(format!("reference of {} bytes: at most {MAX_NAME}", text.len())));
        }
        if text.contains("://") {
            return Err(bad("it must have no scheme"));
        }
        if text.bytes().any(|b| b <= b' ' || b == 0x7f || b"%?#\\\"<>^`{|}".contains(&b)) {
            return Err(bad("unexpected character"));
        }
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        if host.is_empty() {
            return Err(bad("hostname required"));
        }
        check_host(host).map_err(bad)?;
        let at = path.find([':', '@']).unwrap_or(path.len());
        let (repository, object) = path.split_at(at);
        let object = object.strip_prefix(':').unwrap_or(object);
        let parts: Vec<&str> = repository.split('/').filter(|p| !p.is_empty()).collect();
        if parts.iter().any(|p| matches!(*p, "." | "..")) {
            return Err(bad("it must not have '.' or '..' as a path element"));
        }
        if object.contains('/') {
            return Err(bad("a slash behind the tag or digest"));
        }
        Ok(Self { host: host.to_owned(), repository: parts.join("/"), object: object.to_owned() })
    }

    /// Host with port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Host without port: the part of the source label.
    pub fn hostname(&self) -> &str {
        if let Some((inside, _)) = self.host.strip_prefix('[').and_then(|h| h.split_once(']')) {
            return inside;
        }
        self.host.split_once(':').map_or(self.host.as_str(), |(name, _)| name)
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn object(&self) -> &str {
        &self.object
    }

    pub fn tag(&self) -> Option<&str> {
        let tag = self.object.split('@').next().unwrap_or_default();
        (!tag.is_empty()).then_some(tag)
    }

    /// The digest behind `@`; a malformed one is an error.
    pub fn digest(&self) -> Result<Option<Digest>> {
        self.object.split_once('@').map(|(_, digest)| digest.parse()).transpose()
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("not an IPv6 address between the brackets");
            }
            (
                None,
                rest.strip_prefix(':')
                    .or(rest.is_empty().then_some("0"))
                    .ok_or("text behind the brackets")?,
            )
        }
        None => {
            let (name, port) = host.split_once(':').unwrap_or((host, "0"));
            (Some(name), port)
        }
    };
    if name
        .is_some_and(|n| n.is_empty() || !n.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)))
    {
        return Err("not a host name");
    }
    port.parse::<u16>().map(|_| ()).map_err(|_| "not a port number")
}

/// Docker's normal form: domain and `library/` filled in, `latest` where neither tag nor digest is given; of both the
/// digest alone stays.
pub fn normalize(text: &str) -> Result<String> {
    let (name, tag, digest) = docker(text)?;
    Ok(match (tag, digest) {
        (_, Some(digest)) => format!("{name}@{digest}"),
        (Some(tag), None) => format!("{name}:{tag}"),
        (None, None) => format!("{name}:latest"),
    })
}

/// Docker's familiar form of a full name, as `docker save` writes it: without `docker.io/library/`.
pub fn familiar(text: &str) -> Result<String> {
    let (name, tag, digest) = docker(text)?;
    let short = name.strip_prefix("docker.io/").unwrap_or(&name);
    let short = short.strip_prefix("library/").filter(|r| !r.contains('/') && name != short).unwrap_or(short);
    let mut out = short.to_owned();
    match (tag, &digest) {
        (Some(tag), _) => out.push_str(&format!(":{tag}")),
        (None, None) => out.push_str(":latest"),
        (None, Some(_)) => {}
    }
    if let Some(digest) = digest {
        out.push_str(&format!("@{digest}"));
    }
    Ok(out)
}

fn docker(text: &str) -> Result<(String, Option<&str>, Option<Digest>)> {
    let bad = |why: &str| Error::invalid(format!("normalize image ref {text:?}: {why}"));
    if text.len() > MAX_NAME {
        return Err(Error::invalid("image name is too long"));
    }
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(bad("a bare identifier is no name"));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
        None => (text, None),
    };
    let slash = rest.rfind('/').map_or(0, |s| s + 1);
    let (path, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|t| !is_tag(t)) {
        return Err(bad("malformed tag"));
    }
    let (domain, path) = match path.split_once('/') {
        Some((first, path))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, path)
        }
        _ => ("docker.io", path),
    };
    check_host(domain).map_err(bad)?;
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    if path.is_empty() || path.len() > 255 || !path.split('/').all(is_component) {
        return Err(bad("repository name must be lower case letters, digits and single separators"));
    }
    let library = if domain == "docker.io" && !path.contains('/') { "library/" } else { "" };
    Ok((format!("{domain}/{library}{path}"), tag, digest))
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    tag.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(|b| word(*b)) || !bytes.last().is_some_and(|b| word(*b)) {
        return false;
    }
    part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_come_apart() {
        let s = Spec::parse("docker.io/library/busybox:1.36").unwrap();
        assert_eq!((s.host(), s.repository(), s.tag()), ("docker.io", "library/busybox", Some("1.36")));
        let digest = Digest::of(b"x");
        let s = Spec::parse(&format!("127.0.0.1:5000/a/b:t@{digest}")).unwrap();
        assert_eq!(
            (s.host(), s.hostname(), s.repository(), s.tag()),
            ("127.0.0.1:5000", "127.0.0.1", "a/b", Some("t"))
        );
        assert_eq!(s.digest().unwrap(), Some(digest.clone()));
        let s = Spec::parse(&format!("[::1]:5000/a@{digest}")).unwrap();
        assert_eq!((s.hostname(), s.tag()), ("::1", None));
        for bad in [
            "",
            "/a",
            "http://a/b",
            "a b/c",
            "h/../x:1",
            "h/a:1/b",
            "h:x/a",
            "h/a?b",
            "[::g]/a",
            "h/%2e%2e/a",
        ] {
            assert!(Spec::parse(bad).is_err(), "{bad}");
        }
        assert!(Spec::parse("h/a@sha256:12").unwrap().digest().is_err());
    }

    #[test]
    fn docker_names_have_a_normal_and_a_familiar_form() {
        let d = Digest::of(b"");
        for (short, full, back) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3", "docker.io/library/alpine:3", "alpine:3"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("localhost/app:x", "localhost/app:x", "localhost/app:x"),
            ("ghcr.io/a/b__c-d.e:1", "ghcr.io/a/b__c-d.e:1", "ghcr.io/a/b__c-d.e:1"),
        ] {
            assert_eq!(normalize(short).unwrap(), full);
            assert_eq!(familiar(full).unwrap(), back);
        }
        assert_eq!(normalize(&format!("a:1@{d}")).unwrap(), format!("docker.io/library/a@{d}"));
        for bad in ["", "A", "a..b", "a/-b", "a:.x", "a___b", &"a".repeat(64), "a/../b"] {
            assert!(normalize(bad).is_err(), "{bad}");
        }
    }
}
