//! What several plugins ask of containers that exist, made one.

use std::collections::HashMap;

use windlass_api::nri::{
    ContainerUpdate, LinuxContainerUpdate, LinuxResources, UpdateContainerRequest, UpdateContainerResponse,
};

use crate::error::{Error, Result};
use crate::owners::Owners;
use crate::resources;

/// Updates of containers, in the order in which they were first asked for.
#[derive(Default)]
pub struct Updates {
    pub owners: Owners,
    /// A container that cannot be updated because it is only being made.
    creating: Option<String>,
    list: Vec<ContainerUpdate>,
    index: HashMap<String, usize>,
}

impl Updates {
    pub fn while_creating(id: String) -> Self {
        Self { creating: Some(id), ..Self::default() }
    }

    /// Takes in what a plugin asks for.
    pub fn apply(&mut self, asked: Vec<ContainerUpdate>, plugin: &str) -> Result<()> {
        asked.into_iter().try_for_each(|update| self.one(update, plugin, None))
    }

    /// The same, where `request` is a container's update that is being asked about.
    pub fn apply_to(
        &mut self,
        request: &mut UpdateContainerRequest,
        delta: &mut LinuxResources,
        answer: UpdateContainerResponse,
        plugin: &str,
    ) -> Result<()> {
        for update in answer.update {
            if update.container_id == request.container.id {
                self.one(update, plugin, Some((request, delta)))?;
            } else {
                self.one(update, plugin, None)?;
            }
        }
        Ok(())
    }

    pub fn into_vec(self) -> Vec<ContainerUpdate> {
        self.list
    }

    pub fn as_slice(&self) -> &[ContainerUpdate] {
        &self.list
    }

    fn one(
        &mut self,
        update: ContainerUpdate,
        plugin: &str,
        own: Option<(&mut UpdateContainerRequest, &mut LinuxResources)>,
    ) -> Result<()> {
        let id = update.container_id;
        if self.creating.as_ref() == Some(&id) {
            return Err(Error::OwnUpdate { plugin: plugin.to_owned(), container: id });
        }
        let Some(asked) = update.linux.into_option().and_then(|linux| linux.resources.into_option()) else {
            return Ok(());
        };
        // Copies, so that nothing is left of what is refused.
        let result = match own {
            Some((request, delta)) => {
                let (mut seen, mut changed) =
                    (request.linux_resources.get_or_default().clone(), delta.clone());
                let merged =
                    resources::merge(&mut self.owners, &id, plugin, &asked, &mut [&mut seen, &mut changed]);
                merged.map(|()| {
                    request.linux_resources = Some(seen).into();
                    *delta = changed;
                })
            }
            None => {
                let slot = self.index.get(&id).copied();
                let old = slot.and_then(|slot| self.list[slot].linux.resources.as_ref());
                let mut target = old.cloned().unwrap_or_default();
                let merged = resources::merge(&mut self.owners, &id, plugin, &asked, &mut [&mut target]);
                merged.map(|()| self.put(slot, &id, target, update.ignore_failure))
            }
        };
        match result {
            Err(error) if update.ignore_failure => {
                tracing::debug!(%error, plugin, container = id, "update left out");
                Ok(())
            }
            result => result,
        }
    }

    fn put(&mut self, slot: Option<usize>, id: &str, target: LinuxResources, ignore_failure: bool) {
        let linux = LinuxContainerUpdate { resources: Some(target).into(), ..Default::default() };
        match slot {
            Some(slot) => {
                self.list[slot].linux = Some(linux).into();
                self.list[slot].ignore_failure &= ignore_failure;
            }
            None => {
                self.index.insert(id.to_owned(), self.list.len());
                self.list.push(ContainerUpdate {
                    container_id: id.to_owned(),
                    linux: Some(linux).into(),
                    ignore_failure,
                    ..Default::default()
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::{from_oci, to_oci};

    fn update(id: &str, resources: serde_json::Value, ignore_failure: bool) -> ContainerUpdate {
        let linux = LinuxContainerUpdate { resources: from_oci(&resources).into(), ..Default::default() };
        ContainerUpdate {
            container_id: id.into(),
            linux: Some(linux).into(),
            ignore_failure,
            ..Default::default()
        }
    }

    #[test]
    fn updates_of_one_container_become_one() {
        let mut updates = Updates::while_creating("new".into());
        updates.apply(vec![update("a", json!({"cpu": {"shares": 5}}), true)], "10-a").unwrap();
        updates.apply(vec![update("b", json!({"cpu": {"shares": 6}}), false)], "10-a").unwrap();
        updates.apply(vec![update("a", json!({"pids": {"limit": 7}}), false)], "20-b").unwrap();
        let error = updates.apply(vec![update("a", json!({"cpu": {"shares": 1}}), false)], "20-b");
        assert!(matches!(error, Err(Error::Conflict { .. })));
        updates.apply(vec![update("a", json!({"cpu": {"shares": 1}}), true)], "20-b").unwrap();
        let error = updates.apply(vec![update("new", json!({}), true)], "20-b").unwrap_err();
        assert_eq!(error.to_string(), "plugin \"20-b\" asked update of \"new\" during creation");
        let all = updates.into_vec();
        assert_eq!(all.iter().map(|u| u.container_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(to_oci(&all[0].linux.resources), json!({"cpu": {"shares": 5}, "pids": {"limit": 7}}));
        assert!(!all[0].ignore_failure);
    }

    #[test]
    fn the_next_plugin_sees_what_the_first_made_of_the_request() {
        let mut request = UpdateContainerRequest::new();
        request.container.mut_or_insert_default().id = "c".into();
        request.linux_resources =
            from_oci(&json!({"memory": {"limit": 5, "swap": 5}, "cpu": {"shares": 2}})).into();
        let mut answer = UpdateContainerResponse::new();
        answer.update = vec![
            update("c", json!({"cpu": {"shares": 9}}), false),
            update("d", json!({"cpu": {"shares": 8}}), false),
        ];
        let (mut updates, mut delta) = (Updates::default(), LinuxResources::new());
        updates.apply_to(&mut request, &mut delta, answer, "10-a").unwrap();
        assert_eq!(
            to_oci(&request.linux_resources),
            json!({"memory": {"limit": 5, "swap": 5}, "cpu": {"shares": 9}})
        );
        assert_eq!(to_oci(&delta), json!({"cpu": {"shares": 9}}));
        assert_eq!(updates.as_slice().len(), 1);
    }
}
