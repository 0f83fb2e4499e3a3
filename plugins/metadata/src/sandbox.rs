//! Sandbox records.

use std::sync::Arc;

use async_trait::async_trait;
use windlass_core::sandbox::{Sandbox, Store as Contract};
use windlass_core::{Context, Error, FieldMask, Filters, Result, validate};

use crate::container::apply_extensions;
use crate::db::{Db, exists, not_found, now};
use crate::keys::{self, object};
use crate::record;

pub(crate) struct Store(pub(crate) Arc<Db>);

fn key(cx: &Context, id: &str) -> Vec<u8> {
    keys::one(&cx.namespace, object::SANDBOXES, id)
}

fn missing(id: &str) -> Error {
    not_found(format_args!("sandbox {id:?}"))
}

#[async_trait]
impl Contract for Store {
    async fn get(&self, cx: &Context, id: &str) -> Result<Sandbox> {
        let found: Option<record::Sandbox> = self.0.view(|tx| record::get(tx, &key(cx, id)))?;
        found.map(|record| record.into_sandbox(id.to_owned())).ok_or_else(|| missing(id))
    }

    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Sandbox>> {
        let mut list = Vec::new();
        self.0.view(|tx| {
            tx.scan(&keys::all(&cx.namespace, object::SANDBOXES), &mut |key, value| {
                let sandbox = record::decode::<record::Sandbox>(key, value)?.into_sandbox(keys::name(key));
                if filters.matches(&sandbox) {
                    list.push(sandbox);
                }
                Ok(true)
            })
        })?;
        Ok(list)
    }

    async fn create(&self, cx: &Context, mut sandbox: Sandbox) -> Result<Sandbox> {
        validate(&sandbox).map_err(|e| e.context("failed to validate sandbox"))?;
        sandbox.labels.retain(|_, value| !value.is_empty());
        let cx = cx.clone();
        self.0
            .update(move |tx| {
                tx.ensure_namespace(&cx.namespace)?;
                let key = key(&cx, &sandbox.id);
                if tx.has(&key)? {
                    return Err(exists(format_args!("sandbox {:?}", sandbox.id)));
                }
                sandbox.created_at = now();
                sandbox.updated_at = sandbox.created_at;
                tx.put(&key, &record::Sandbox::from(&sandbox))?;
                Ok(sandbox)
            })
            .await
    }

    async fn update(&self, cx: &Context, sandbox: Sandbox, fields: &FieldMask) -> Result<Sandbox> {
        let (cx, fields) = (cx.clone(), fields.clone());
        self.0
            .update(move |tx| {
                let key = key(&cx, &sandbox.id);
                let record = tx.find::<record::Sandbox>(&key)?.ok_or_else(|| missing(&sandbox.id))?;
                let mut updated = record.into_sandbox(sandbox.id.clone());
                apply(&mut updated, &sandbox, &fields)?;
                validate(&updated)?;
                updated.updated_at = now();
                tx.put(&key, &record::Sandbox::from(&updated))?;
                // Labels that are gone may have been references.
                tx.deleted();
                Ok(updated)
            })
            .await
    }

    async fn delete(&self, cx: &Context, id: &str) -> Result<()> {
        let (cx, id) = (cx.clone(), id.to_owned());
        self.0
            .update(move |tx| {
                let key = key(&cx, &id);
                if !tx.has(&key)? {
                    return Err(missing(&id).context("failed to delete"));
                }
                tx.delete(&key)?;
                tx.deleted();
                Ok(())
            })
            .await
    }
}

fn apply(to: &mut Sandbox, from: &Sandbox, fields: &FieldMask) -> Result<()> {
    let all = ["labels", "extensions", "spec", "runtime"].map(str::to_owned);
    if fields.is_all() && to.runtime.name != from.runtime.name {
        return Err(Error::invalid("sandbox.Runtime.Name field is immutable"));
    }
    for path in if fields.is_all() { &all[..] } else { &fields.0[..] } {
        let taken = FieldMask::apply_labels(path, &from.labels, &mut to.labels)
            || apply_extensions(path, &from.extensions, &mut to.extensions);
        match path.as_str() {
            _ if taken => {}
            "runtime" => to.runtime.clone_from(&from.runtime),
            "spec" => to.spec.clone_from(&from.spec),
            _ => return FieldMask::refused(path, &format!("sandbox {:?}", to.id)),
        }
    }
    Ok(())
}

fn validate(sandbox: &Sandbox) -> Result<()> {
    validate::identifier("identifier", &sandbox.id).map_err(|e| e.context("invalid sandbox ID"))?;
    validate::labels(&sandbox.labels).map_err(|e| e.context("sandbox.Labels"))
}

// === impl record::Sandbox ===

impl record::Sandbox {
    fn into_sandbox(self, id: String) -> Sandbox {
        Sandbox {
            id,
            labels: self.labels,
            runtime: self.runtime.into(),
            spec: self.spec,
            sandboxer: self.sandboxer,
            created_at: self.created.into(),
            updated_at: self.updated.into(),
            extensions: self.extensions,
        }
    }
}

impl From<&Sandbox> for record::Sandbox {
    fn from(sandbox: &Sandbox) -> Self {
        Self {
            labels: sandbox.labels.clone(),
            created: sandbox.created_at.into(),
            updated: sandbox.updated_at.into(),
            runtime: (&sandbox.runtime).into(),
            sandboxer: sandbox.sandboxer.clone(),
            extensions: sandbox.extensions.clone(),
            spec: sandbox.spec.clone(),
        }
    }
}
