//! Platforms: parsing, normal form and matching, as the OCI image specification and containerd's users write them
//! (`linux/arm64/v8`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { architecture: architecture.into(), os: "linux".into(), ..Self::default() }.normalized()
    }

    /// Parses `os[(version)]/architecture[/variant]`, or a lone os or architecture.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::invalid(format!("platform {text:?} is not os/architecture[/variant]"));
        let valid = |s: &str| {
            s.starts_with(|c: char| c.is_ascii_alphanumeric())
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, os_version) = match parts[0].strip_suffix(')').and_then(|p| p.split_once('(')) {
            Some((os, version)) => (os, version),
            None => (parts[0], ""),
        };
        if !valid(os) || !parts[1..].iter().all(|p| valid(p)) || parts.len() > 3 {
            return Err(bad());
        }
        let host = Self::host();
        let mut platform = Self { os_version: os_version.into(), ..Self::default() };
        if parts.len() == 1 {
            if matches!(
                os.to_ascii_lowercase().as_str(),
                "linux" | "windows" | "darwin" | "freebsd" | "macos"
            ) {
                (platform.os, platform.architecture, platform.variant) =
                    (os.into(), host.architecture, host.variant);
            } else {
                (platform.os, platform.architecture) = (host.os, os.into());
            }
        } else {
            platform.os = os.into();
            platform.architecture = parts[1].into();
            platform.variant = parts.get(2).copied().unwrap_or_default().into();
        }
        Ok(platform.normalized())
    }

    /// The form that is compared: lower case, aliases resolved, `arm64/v8` and `amd64/v1` without their variant.
    pub fn normalized(&self) -> Self {
        let mut p = self.clone();
        p.os = p.os.to_ascii_lowercase();
        if p.os == "macos" {
            p.os = "darwin".into();
        }
        p.variant = p.variant.to_ascii_lowercase();
        let architecture = p.architecture.to_ascii_lowercase();
        p.architecture = match architecture.as_str() {
            "x86_64" | "x86-64" | "amd64" => {
                if p.variant == "v1" {
                    p.variant.clear();
                }
                "amd64".into()
            }
            "aarch64" | "arm64" => {
                if p.variant == "8" || p.variant == "v8" {
                    p.variant.clear();
                }
                "arm64".into()
            }
            "i386" => {
                p.variant.clear();
                "386".into()
            }
            "armhf" => {
                p.variant = "v7".into();
                "arm".into()
            }
            "armel" => {
                p.variant = "v6".into();
                "arm".into()
            }
            "arm" => {
                match p.variant.as_str() {
                    "" | "7" => p.variant = "v7".into(),
                    "5" | "6" | "8" => p.variant = format!("v{}", p.variant),
                    _ => {}
                }
                "arm".into()
            }
            _ => architecture,
        };
        p
    }

    /// How well `candidate` serves this wanted platform: `None` not at all, else smaller is better (0 the same).
    pub fn rank(&self, candidate: &Platform) -> Option<u32> {
        let (want, have) = (self.normalized(), candidate.normalized());
        if want.os != have.os || (!want.os_version.is_empty() && want.os_version != have.os_version) {
            return None;
        }
        if want.architecture == have.architecture {
            let level = |p: &Platform| p.variant.strip_prefix('v').and_then(|v| v.parse::<u32>().ok());
            let base = match want.architecture.as_str() {
                "amd64" => 1,
                "arm64" => 8,
                _ => 0,
            };
            return match (level(&want).unwrap_or(base), level(&have).unwrap_or(base)) {
                (w, h) if w == h && (want.variant == have.variant || level(&want).is_some() || base > 0) => {
                    Some(0)
                }
                (w, h) if h < w && matches!(want.architecture.as_str(), "arm" | "amd64" | "arm64") => {
                    Some(w - h)
                }
                _ => None,
            };
        }
        match (want.architecture.as_str(), have.architecture.as_str()) {
            ("amd64", "386") => Some(100),
            ("arm64", "arm") => {
                let v: u32 = have.variant.strip_prefix('v').and_then(|v| v.parse().ok()).unwrap_or(7);
                (v <= 8).then(|| 100 + 8 - v)
            }
            _ => None,
        }
    }

    /// Whether `candidate` can serve this wanted platform.
    pub fn matches(&self, candidate: &Platform) -> bool {
        self.rank(candidate).is_some()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_parse_and_match() {
        let p = |s| Platform::parse(s).unwrap();
        assert_eq!(p("linux/arm64/v8").to_string(), "linux/arm64");
        assert_eq!(p("linux/x86_64").to_string(), "linux/amd64");
        assert_eq!(p("linux/arm").variant, "v7");
        assert!(p("linux/amd64").matches(&p("linux/386")));
        assert!(!p("linux/386").matches(&p("linux/amd64")));
        assert!(p("linux/arm/v7").rank(&p("linux/arm/v7")) < p("linux/arm/v7").rank(&p("linux/arm/v6")));
        assert!(!p("linux/arm/v6").matches(&p("linux/arm/v7")));
        for bad in ["", "linux/", "a/b/c/d", "linux/../x"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }
}
