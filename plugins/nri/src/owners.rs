//! Who has set what: two plugins cannot set the same thing, unless the second says that it takes the first one's away.

use protobuf::Enum;
use windlass_api::nri::{FieldOwners, OwningPlugins};

use crate::error::{Error, Result};

pub use windlass_api::nri::Field;

/// Marks a key, or the plugin that has cleared it.
pub const REMOVAL: char = '-';

/// The key, if it is marked for removal.
pub fn removed(key: &str) -> Option<&str> {
    key.strip_prefix(REMOVAL)
}

/// By container, then by field, then by key where a field has several entries.
#[derive(Clone, Debug, Default)]
pub struct Owners(pub OwningPlugins);

impl Owners {
    /// `plugin` sets a field of one value.
    pub fn claim(&mut self, container: &str, field: Field, plugin: &str) -> Result<()> {
        let owners = self.of(container);
        let owner = owners.simple.get(&field.value()).map(String::as_str);
        free(owner, plugin, field, "")?;
        owners.simple.insert(field.value(), plugin.to_owned());
        Ok(())
    }

    /// `plugin` sets an entry.
    pub fn claim_entry(&mut self, container: &str, field: Field, key: &str, plugin: &str) -> Result<()> {
        let entries = self.of(container).compound.entry(field.value()).or_default();
        free(entries.owners.get(key).map(String::as_str), plugin, field, key)?;
        entries.owners.insert(key.to_owned(), plugin.to_owned());
        Ok(())
    }

    /// `plugin` takes a value away, and alone may set it again.
    pub fn clear(&mut self, container: &str, field: Field, plugin: &str) {
        self.of(container).simple.insert(field.value(), format!("{REMOVAL}{plugin}"));
    }

    /// `plugin` takes an entry away, and alone may set it again.
    pub fn clear_entry(&mut self, container: &str, field: Field, key: &str, plugin: &str) {
        let entries = self.of(container).compound.entry(field.value()).or_default();
        entries.owners.insert(key.to_owned(), format!("{REMOVAL}{plugin}"));
    }

    /// `plugin` adds to a field that everybody may add to.
    pub fn share(&mut self, container: &str, field: Field, plugin: &str) {
        let owner = self.of(container).simple.entry(field.value()).or_default();
        if !owner.is_empty() {
            owner.push(',');
        }
        owner.push_str(plugin);
    }

    /// Who has set a field of one value.
    pub fn owner(&self, container: &str, field: Field) -> Option<&str> {
        self.0.owners.get(container)?.simple.get(&field.value()).map(String::as_str)
    }

    /// Who has set the entries of a field, by key.
    pub fn entries(&self, container: &str, field: Field) -> Vec<(&str, &str)> {
        let entries = self.0.owners.get(container).and_then(|owners| owners.compound.get(&field.value()));
        let mut all: Vec<_> = entries
            .into_iter()
            .flat_map(|entries| &entries.owners)
            .map(|(key, owner)| (key.as_str(), owner.as_str()))
            .collect();
        all.sort_unstable();
        all
    }

    fn of(&mut self, container: &str) -> &mut FieldOwners {
        self.0.owners.entry(container.to_owned()).or_default()
    }
}

fn free(owner: Option<&str>, plugin: &str, field: Field, key: &str) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    let other = match removed(owner) {
        Some(clearer) if clearer == plugin => return Ok(()),
        Some(clearer) => clearer,
        None => owner,
    };
    let what = format!("{field:?} {key}").trim_end().to_owned();
    Err(Error::Conflict { plugin: plugin.to_owned(), other: other.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_a_conflict_that_names_both() {
        let mut owners = Owners::default();
        owners.claim("c", Field::MemLimit, "10-a").unwrap();
        let error = owners.claim("c", Field::MemLimit, "20-b").unwrap_err();
        assert_eq!(error.to_string(), "plugins \"20-b\" and \"10-a\" both tried to set MemLimit");
        owners.claim("d", Field::MemLimit, "20-b").unwrap();
        owners.claim_entry("c", Field::Env, "X", "10-a").unwrap();
        owners.claim_entry("c", Field::Env, "Y", "20-b").unwrap();
        let error = owners.claim_entry("c", Field::Env, "X", "20-b").unwrap_err();
        assert_eq!(error.to_string(), "plugins \"20-b\" and \"10-a\" both tried to set Env X");
        // Not even the owner sets it twice.
        assert!(owners.claim_entry("c", Field::Env, "X", "10-a").is_err());
    }

    #[test]
    fn who_clears_may_set() {
        let mut owners = Owners::default();
        owners.claim("c", Field::Args, "10-a").unwrap();
        owners.clear("c", Field::Args, "20-b");
        assert!(owners.claim("c", Field::Args, "30-c").is_err());
        owners.claim("c", Field::Args, "20-b").unwrap();
        assert_eq!(owners.owner("c", Field::Args), Some("20-b"));
        owners.claim_entry("c", Field::Mounts, "/a", "10-a").unwrap();
        owners.clear_entry("c", Field::Mounts, "/a", "20-b");
        assert!(owners.claim_entry("c", Field::Mounts, "/a", "10-a").is_err());
        owners.claim_entry("c", Field::Mounts, "/a", "20-b").unwrap();
        owners.share("c", Field::OciHooks, "10-a");
        owners.share("c", Field::OciHooks, "20-b");
        assert_eq!(owners.owner("c", Field::OciHooks), Some("10-a,20-b"));
        assert_eq!(owners.entries("c", Field::Mounts), [("/a", "20-b")]);
    }
}
