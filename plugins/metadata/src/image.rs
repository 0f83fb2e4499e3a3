//! Image records.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use windlass_core::event::Event;
use windlass_core::image::{Image, Store as Contract};
use windlass_core::{Context, Descriptor, Error, FieldMask, Filters, Result, lease, validate};

use crate::db::{Db, Tx, exists, not_found, now};
use crate::keys::{self, object};
use crate::record;

pub(crate) struct Store(pub(crate) Arc<Db>);

fn key(cx: &Context, name: &str) -> Vec<u8> {
    keys::one(&cx.namespace, object::IMAGES, name)
}

#[async_trait]
impl Contract for Store {
    async fn get(&self, cx: &Context, name: &str) -> Result<Image> {
        let key = key(cx, name);
        let found: Option<record::Image> = self.0.view(|tx| record::get(tx, &key))?;
        found.ok_or_else(|| not_found(format_args!("image {name:?}")))?.into_image(name.to_owned())
    }

    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Image>> {
        let mut list = Vec::new();
        self.0.view(|tx| {
            tx.scan(&keys::all(&cx.namespace, object::IMAGES), &mut |key, value| {
                let image = record::decode::<record::Image>(key, value)?.into_image(keys::name(key))?;
                if filters.matches(&image) {
                    list.push(image);
                }
                Ok(true)
            })
        })?;
        Ok(list)
    }

    async fn create(&self, cx: &Context, mut image: Image) -> Result<Image> {
        validate(&image)?;
        normalize(&mut image);
        let cx = cx.clone();
        self.0
            .update(move |tx| {
                tx.ensure_namespace(&cx.namespace)?;
                lease_expiring(tx, &cx, &image)?;
                let key = key(&cx, &image.name);
                if tx.has(&key)? {
                    return Err(exists(format_args!("image {:?}", image.name)));
                }
                image.created_at = time_of(image.updated_at);
                image.updated_at = image.created_at;
                tx.put(&key, &record::Image::from(&image))?;
                let event = Event::ImageCreate { name: image.name.clone(), labels: image.labels.clone() };
                tx.event(&cx.namespace, event);
                Ok(image)
            })
            .await
    }

    async fn update(&self, cx: &Context, image: Image, fields: &FieldMask) -> Result<Image> {
        if image.name.is_empty() {
            return Err(Error::invalid("image name is required for update"));
        }
        let (cx, fields) = (cx.clone(), fields.clone());
        self.0
            .update(move |tx| {
                let key = key(&cx, &image.name);
                let Some(record) = tx.find::<record::Image>(&key)? else {
                    return Err(not_found(format_args!("image {:?}", image.name)));
                };
                let mut updated = record.into_image(image.name.clone())?;
                apply(&mut updated, &image, &fields)?;
                validate(&updated)?;
                normalize(&mut updated);
                lease_expiring(tx, &cx, &updated)?;
                updated.updated_at = time_of(image.updated_at);
                tx.put(&key, &record::Image::from(&updated))?;
                // What it pointed to before may be garbage now.
                tx.deleted();
                let event = Event::ImageUpdate { name: updated.name.clone(), labels: updated.labels.clone() };
                tx.event(&cx.namespace, event);
                Ok(updated)
            })
            .await
    }

    async fn delete(&self, cx: &Context, name: &str, target: Option<&Descriptor>) -> Result<()> {
        let (cx, name) = (cx.clone(), name.to_owned());
        let target = target.map(|target| target.digest.clone());
        self.0
            .update(move |tx| {
                let key = key(&cx, &name);
                let Some(record) = tx.find::<record::Image>(&key)? else {
                    return Err(not_found(format_args!("image {name:?}")));
                };
                if let Some(target) = target
                    && record.digest != target.as_str()
                {
                    let has = record.digest;
                    return Err(not_found(format_args!("image {name:?} has target {has}, not {target}")));
                }
                tx.unlease(&cx, object::IMAGES, &name)?;
                tx.delete(&key)?;
                tx.deleted();
                tx.event(&cx.namespace, Event::ImageDelete { name });
                Ok(())
            })
            .await?;
        fail::fail_point!("image.deleted");
        Ok(())
    }
}

/// An image without expiry is a root of its own; one that expires is kept by the lease it was made under.
fn lease_expiring(tx: &mut Tx<'_>, cx: &Context, image: &Image) -> Result<()> {
    if image.labels.contains_key(lease::LABEL_EXPIRE) {
        tx.lease(cx, object::IMAGES, &image.name)?;
    }
    Ok(())
}

fn time_of(wanted: SystemTime) -> SystemTime {
    if wanted == SystemTime::UNIX_EPOCH { now() } else { wanted }
}

fn apply(to: &mut Image, from: &Image, fields: &FieldMask) -> Result<()> {
    if fields.is_all() {
        to.target.clone_from(&from.target);
        to.labels.clone_from(&from.labels);
        return Ok(());
    }
    for path in &fields.0 {
        let taken = FieldMask::apply_labels(path, &from.labels, &mut to.labels)
            || FieldMask::apply_map(
                "annotations",
                path,
                &from.target.annotations,
                &mut to.target.annotations,
            );
        if taken {
            continue;
        }
        match path.as_str() {
            "target" => to.target.clone_from(&from.target),
            _ => return FieldMask::refused(path, &format!("image {:?}", to.name)),
        }
    }
    Ok(())
}

/// Empty labels and annotations are not kept, nor what a descriptor says besides: see [`record::Image`].
fn normalize(image: &mut Image) {
    image.labels.retain(|_, value| !value.is_empty());
    image.target.annotations.retain(|_, value| !value.is_empty());
}

fn validate(image: &Image) -> Result<()> {
    if image.name.is_empty() {
        return Err(Error::invalid("image name must not be empty"));
    }
    validate::labels(&image.labels).map_err(|e| e.context("image.Labels"))?;
    if image.target.size == 0 {
        return Err(Error::invalid("target.Size must be greater than zero"));
    }
    if image.target.media_type.is_empty() {
        return Err(Error::invalid("target.MediaType must be set"));
    }
    Ok(())
}

// === impl record::Image ===

impl record::Image {
    fn into_image(self, name: String) -> Result<Image> {
        let mut target = Descriptor::new(self.media_type, self.digest.parse()?, self.size);
        target.annotations = self.annotations;
        Ok(Image {
            name,
            target,
            labels: self.labels,
            created_at: self.created.into(),
            updated_at: self.updated.into(),
        })
    }
}

impl From<&Image> for record::Image {
    fn from(image: &Image) -> Self {
        Self {
            labels: image.labels.clone(),
            created: image.created_at.into(),
            updated: image.updated_at.into(),
            media_type: image.target.media_type.clone(),
            digest: image.target.digest.to_string(),
            size: image.target.size,
            annotations: image.target.annotations.clone(),
        }
    }
}
