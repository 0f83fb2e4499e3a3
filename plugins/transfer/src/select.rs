//! Which manifests of an index are taken.

use windlass_core::platform::Platform;
use windlass_core::{Descriptor, Error, Result};

/// The platforms that a client asked for, best first; none asks for all.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Vec<Platform>);

impl Wanted {
    pub fn new(platforms: &[Platform]) -> Self {
        Self(platforms.to_vec())
    }

    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// How far down the list `have` stands; `None` where it was not asked for.
    fn exact(&self, have: &Platform) -> Option<usize> {
        if self.is_all() {
            return Some(0);
        }
        self.0.iter().position(|want| same(want, have))
    }

    pub fn matches(&self, have: &Platform) -> bool {
        self.exact(have).is_some()
    }

    /// The manifests of an index to take, best first where a number limits them; entries without a platform always.
    /// Where nothing is exactly what was asked for, the one that the wanted platform runs best is taken. Nothing at
    /// all is *not found*.
    pub fn choose(&self, manifests: &[Descriptor], limit: u32) -> Result<Vec<Descriptor>> {
        let mut chosen: Vec<(usize, Descriptor)> = Vec::new();
        for manifest in manifests {
            match &manifest.platform {
                None => chosen.push((usize::MAX, manifest.clone())),
                Some(platform) => chosen.extend(self.exact(platform).map(|rank| (rank, manifest.clone()))),
            }
        }
        if chosen.is_empty() {
            chosen.extend(self.nearest(manifests).map(|m| (0, m.clone())));
        }
        if chosen.is_empty() && !manifests.is_empty() {
            let asked: Vec<String> = self.0.iter().map(Platform::to_string).collect();
            let there: Vec<String> =
                manifests.iter().flat_map(|m| &m.platform).map(Platform::to_string).take(16).collect();
            return Err(Error::not_found(format!(
                "no match for platform in manifest: asked for {}, the image has {}",
                asked.join(", "),
                there.join(", ")
            )));
        }
        if limit > 0 {
            chosen.sort_by_key(|(rank, _)| *rank);
            chosen.truncate(limit as usize);
        }
        Ok(chosen.into_iter().map(|(_, manifest)| manifest).collect())
    }

    fn nearest<'a>(&self, manifests: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let of_one = |want: &Platform| {
            let ranked = manifests.iter().filter_map(|m| Some((want.rank(m.platform.as_ref()?)?, m)));
            ranked.min_by_key(|(rank, _)| *rank).map(|(_, m)| m)
        };
        self.0.iter().find_map(of_one)
    }
}

/// Whether two platforms are the same one; os versions and features only where they are wanted.
pub fn same(want: &Platform, have: &Platform) -> bool {
    let (want, have) = (want.normalized(), have.normalized());
    want.os == have.os
        && want.architecture == have.architecture
        && want.variant == have.variant
        && (want.os_version.is_empty() || have.os_version.starts_with(&want.os_version))
        && have.os_features.iter().all(|f| want.os_features.contains(f))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media;
    use windlass_core::Digest;

    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |p: &&str| {
            let mut d = Descriptor::new(media::MANIFEST, Digest::of(p.as_bytes()), 1);
            d.platform = (!p.is_empty()).then(|| match *p {
                "unknown" => {
                    Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::default() }
                }
                p => Platform::parse(p).unwrap(),
            });
            d
        };
        platforms.iter().map(entry).collect()
    }

    fn chosen(want: &[&str], have: &[&str], limit: u32) -> Option<Vec<String>> {
        let want: Vec<_> = want.iter().map(|p| Platform::parse(p).unwrap()).collect();
        let chosen = Wanted::new(&want).choose(&index(have), limit).ok()?;
        Some(
            chosen.iter().map(|d| d.platform.as_ref().map(Platform::to_string).unwrap_or_default()).collect(),
        )
    }

    #[test]
    fn platforms_are_chosen() {
        let all = ["linux/386", "linux/amd64", "linux/arm64", "unknown"];
        assert_eq!(chosen(&["linux/amd64"], &all, 0).unwrap(), ["linux/amd64"]);
        assert_eq!(chosen(&[], &all, 0).unwrap().len(), 4);
        assert_eq!(chosen(&["linux/arm64", "linux/amd64"], &all, 1).unwrap(), ["linux/arm64"]);
        assert_eq!(chosen(&["linux/amd64"], &["linux/386", "linux/arm64"], 0).unwrap(), ["linux/386"]);
        assert_eq!(chosen(&["linux/arm64"], &["linux/arm/v6", "linux/arm/v7"], 0).unwrap(), ["linux/arm/v7"]);
        assert_eq!(chosen(&["linux/s390x"], &all, 0), None);
        assert_eq!(chosen(&["linux/s390x"], &[""], 0).unwrap(), [""]);
    }
}
