//! Names and platforms of images, as people type them and as the API wants them.

use anyhow::Result;
use windlass_api::services::images::{GetImageRequest, Image};
use windlass_core::platform::Platform;

use crate::client::Client;
use crate::output::Remedy;

/// The full name behind what people type: registry, `library/` and tag filled in.
pub fn full_name(name: &str) -> String {
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    let path = if host == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
    let tagged = path.contains('@') || path.rsplit('/').next().is_some_and(|last| last.contains(':'));
    format!("{host}/{path}{}", if tagged { "" } else { ":latest" })
}

/// The image by the name that was typed, or by the full one behind it; `None` where neither is there.
pub async fn lookup(client: &Client, typed: &str) -> Result<Option<Image>> {
    let full = full_name(typed);
    let mut names = vec![typed.to_owned()];
    if full != typed {
        // People mean the full name: ask for it first.
        names.insert(0, full);
    }
    for name in names {
        match client.images().get(GetImageRequest { name }).await {
            Ok(answer) => return Ok(answer.into_inner().image),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status.into()),
        }
    }
    Ok(None)
}

/// Like [`lookup`], an error with a remedy where the image is missing.
pub async fn image(client: &Client, typed: &str) -> Result<Image> {
    match lookup(client, typed).await? {
        Some(image) => Ok(image),
        None => Err(anyhow::anyhow!("image {typed}: not found"))
            .remedy(format!("windlass images lists what is there; fetch it with: windlass pull {typed}")),
    }
}

/// The platform that an option names, or this machine's.
pub fn platform(text: Option<&str>) -> Result<Platform> {
    Ok(text.map_or_else(|| Ok(Platform::host()), Platform::parse)?)
}

pub fn wire(platform: &Platform) -> windlass_api::types::Platform {
    windlass_api::types::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// `key=value` pairs; `key=` and `key` have an empty value.
pub fn pairs<M: FromIterator<(String, String)>>(what: &str, texts: &[String]) -> Result<M> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        anyhow::ensure!(!key.is_empty(), "{what} {text:?} is not key=value");
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("a/b", "docker.io/a/b:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
            ("ghcr.io/a/b@sha256:0", "ghcr.io/a/b@sha256:0"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }

    #[test]
    fn pairs_have_a_key() {
        let got: Vec<_> = pairs("label", &["a=b=c".into(), "d".into(), "e=".into()]).unwrap();
        let want = [("a", "b=c"), ("d", ""), ("e", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(got, want);
        assert!(pairs::<Vec<_>>("label", &["=x".into()]).is_err());
    }
}
