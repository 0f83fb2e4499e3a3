//! Image records out of what was fetched: names and labels as containerd's image store makes them.

use std::time::SystemTime;

use windlass_core::image::Image;
use windlass_core::transfer::{ImageReference, ImageStore};
use windlass_core::{Class, Descriptor, Error, FieldMask, Labels, Result};

use super::Job;
use super::lease::rfc3339;
use crate::media::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME};

/// Annotation: an import took this descriptor out of an archive's index, its names are in the other annotations.
pub const ANNOTATION_SOURCE: &str = "io.containerd.import.ref-source";
/// Times that a record is made again while others create and delete it.
const MAX_TRIES: u32 = 16;

/// Creates or updates the records of `target`. *Not found* where no name applies to it.
pub async fn store(job: &Job, to: &ImageStore, target: Descriptor) -> Result<Vec<Image>> {
    let records = names(to, target)?;
    if records.is_empty() {
        return Err(Error::not_found("no image name found"));
    }
    let mut stored = Vec::with_capacity(records.len());
    for record in records {
        stored.push(put(job, record).await?);
    }
    Ok(stored)
}

async fn put(job: &Job, image: Image) -> Result<Image> {
    let images = &job.local.parts.images;
    for _ in 0..MAX_TRIES {
        match images.create(&job.cx, image.clone()).await {
            Err(error) if error.is(Class::AlreadyExists) => {}
            other => return other,
        }
        match images.update(&job.cx, image.clone(), &FieldMask::all()).await {
            // Deleted in between.
            Err(error) if error.is_not_found() => {}
            other => return other,
        }
    }
    Err(Error::aborted(format!("image {:?} is created and deleted all the time", image.name)))
}

fn names(to: &ImageStore, mut target: Descriptor) -> Result<Vec<Image>> {
    let source = target.annotations.remove(ANNOTATION_SOURCE);
    let mut names = Vec::new();
    match source.as_deref() {
        Some("annotation") => {
            for reference in to.extra_references.iter().filter(|r| r.is_prefix) {
                let digested = format!("{}@{}", reference.name, target.digest);
                match annotated(&target.annotations, reference) {
                    None if reference.add_digest => names.push(digested),
                    None => {}
                    Some(name) => {
                        names.push(name);
                        if reference.add_digest && !reference.skip_named_digest {
                            names.push(digested);
                        }
                    }
                }
            }
            let labels = extra_labels(to)?;
            return Ok(names.into_iter().map(|name| record(name, &target, labels.clone())).collect());
        }
        Some(_) => return Err(Error::invalid("ref source not supported")),
        None => {}
    }
    let mut images = Vec::new();
    if !to.name.is_empty() {
        images.push(record(to.name.clone(), &target, to.labels.clone()));
    }
    let labels = extra_labels(to)?;
    for reference in to.extra_references.iter().filter(|r| !r.is_prefix || r.add_digest) {
        let name = match reference.add_digest {
            true => format!("{}@{}", reference.name, target.digest),
            false => reference.name.clone(),
        };
        images.push(record(name, &target, labels.clone()));
    }
    Ok(images)
}

fn record(name: String, target: &Descriptor, labels: Labels) -> Image {
    let now = SystemTime::UNIX_EPOCH;
    Image { name, target: target.clone(), labels, created_at: now, updated_at: now }
}

/// Further names of an image that has one of its own go with it.
fn extra_labels(to: &ImageStore) -> Result<Labels> {
    let mut labels = to.labels.clone();
    if !to.name.is_empty() {
        labels.insert("containerd.io/gc.bref.image".into(), to.name.clone());
        labels.insert("containerd.io/gc.expire".into(), rfc3339(SystemTime::now())?);
    }
    Ok(labels)
}

/// The name that annotations give under a prefix.
fn annotated(annotations: &Labels, reference: &ImageReference) -> Option<String> {
    let translate = |name: &str| -> Option<String> {
        if reference.name.is_empty() {
            return None;
        }
        if !name.contains(['/', ':', '@']) {
            return Some(format!("{}:{name}", reference.name));
        }
        (reference.allow_overwrite || has_prefix(name, &reference.name)).then(|| name.to_owned())
    };
    let of = |key: &str| annotations.get(key).map(String::as_str).filter(|n| !n.is_empty());
    match of(ANNOTATION_IMAGE_NAME) {
        // A full name is taken as it is or not at all.
        Some(name) => translate(name).filter(|clean| clean == name),
        None => of(ANNOTATION_REF_NAME).and_then(translate),
    }
}

/// Whole path elements only.
fn has_prefix(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::Digest;

    fn target(annotations: &[(&str, &str)]) -> Descriptor {
        let mut d = Descriptor::new("x", Digest::of(b""), 1);
        d.annotations = annotations.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        d
    }

    fn prefix(
        name: &str,
        allow_overwrite: bool,
        add_digest: bool,
        skip_named_digest: bool,
    ) -> ImageReference {
        ImageReference { name: name.into(), is_prefix: true, allow_overwrite, add_digest, skip_named_digest }
    }

    fn named(to: &ImageStore, d: Descriptor) -> Vec<String> {
        names(to, d).unwrap().into_iter().map(|i| i.name).collect()
    }

    #[test]
    fn names_follow_containerds_rules() {
        let digest = Digest::of(b"");
        let plain = ImageStore {
            name: "reg/a:1".into(),
            extra_references: vec![
                ImageReference { name: "reg/a:2".into(), ..ImageReference::default() },
                prefix("reg/p", false, false, false),
                prefix("reg/d", false, true, true),
            ],
            ..ImageStore::default()
        };
        assert_eq!(named(&plain, target(&[])), ["reg/a:1", "reg/a:2", &format!("reg/d@{digest}")]);
        let records = names(&plain, target(&[])).unwrap();
        assert!(records[0].labels.is_empty());
        assert_eq!(records[1].labels["containerd.io/gc.bref.image"], "reg/a:1");
        assert!(records[1].labels.contains_key("containerd.io/gc.expire"));

        let to = |r: ImageReference| ImageStore { extra_references: vec![r], ..ImageStore::default() };
        let from = |pairs: &[(&str, &str)]| {
            let mut d = target(pairs);
            d.annotations.insert(ANNOTATION_SOURCE.into(), "annotation".into());
            d
        };
        let tag = [(ANNOTATION_REF_NAME, "v1")];
        let full = [(ANNOTATION_IMAGE_NAME, "other/x:1"), (ANNOTATION_REF_NAME, "1")];
        let inside = [(ANNOTATION_IMAGE_NAME, "p/x:1")];
        assert_eq!(named(&to(prefix("p", false, false, false)), from(&tag)), ["p:v1"]);
        assert!(named(&to(prefix("p", false, false, false)), from(&full)).is_empty());
        assert_eq!(named(&to(prefix("p", true, false, false)), from(&full)), ["other/x:1"]);
        assert_eq!(named(&to(prefix("p", false, false, false)), from(&inside)), ["p/x:1"]);
        assert_eq!(named(&to(prefix("p", false, true, true)), from(&tag)), ["p:v1"]);
        assert_eq!(named(&to(prefix("p", false, true, false)), from(&tag)), ["p:v1", &format!("p@{digest}")]);
        assert_eq!(named(&to(prefix("p", false, true, true)), from(&[])), [format!("p@{digest}")]);
        let images = names(&to(prefix("p", false, false, false)), from(&tag)).unwrap();
        assert!(!images[0].target.annotations.contains_key(ANNOTATION_SOURCE));
    }
}
