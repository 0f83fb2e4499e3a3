//! What several plugins ask for, made one: the creation of a container.
//!
//! Each plugin sees the container as those before it want it. What is collected is applied to the spec once, by
//! [`crate::apply`]. An answer that conflicts fails the creation; nothing of it is applied then.

use std::collections::{HashMap, HashSet};

use windlass_api::nri::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerResponse, Hooks,
    KeyValue, LinuxContainerAdjustment, LinuxDevice, LinuxNamespace, LinuxRdt, Mount, PodSandbox,
};

use crate::error::Result;
use crate::owners::{Field, Owners, REMOVAL, removed};
use crate::resources;
use crate::update::Updates;

/// A container being created.
pub struct Creation {
    pub pod: PodSandbox,
    /// As the next plugin sees it.
    pub container: Container,
    pub adjust: ContainerAdjustment,
    pub updates: Updates,
    pub evictions: Vec<ContainerEviction>,
}

/// An entry of a list that has a key.
trait Keyed: Clone {
    const FIELD: Field;
    fn key(&self) -> &str;
}

macro_rules! keyed {
    ($($type:ident by $key:ident is $field:ident),* $(,)?) => { $(
        impl Keyed for $type {
            const FIELD: Field = Field::$field;
            fn key(&self) -> &str { &self.$key }
        }
    )* };
}

keyed! {
    Mount by destination is Mounts, LinuxDevice by path is Devices, KeyValue by key is Env,
    LinuxNamespace by type_ is Namespace,
}

impl Creation {
    pub fn new(pod: PodSandbox, container: Container) -> Self {
        let id = container.id.clone();
        Self {
            pod,
            container,
            adjust: ContainerAdjustment::new(),
            updates: Updates::while_creating(id),
            evictions: Vec::new(),
        }
    }

    /// Takes in a plugin's answer.
    pub fn apply(&mut self, answer: CreateContainerResponse, plugin: &str) -> Result<()> {
        if let Some(adjust) = answer.adjust.into_option() {
            self.adjust(adjust, plugin)?;
        }
        self.evictions.extend(answer.evict);
        self.updates.apply(answer.update, plugin)
    }

    pub fn owners(&self) -> &Owners {
        &self.updates.owners
    }

    /// What has been asked of other containers.
    pub fn into_updates(self) -> (Vec<ContainerUpdate>, Vec<ContainerEviction>) {
        (self.updates.into_vec(), self.evictions)
    }

    fn adjust(&mut self, asked: ContainerAdjustment, plugin: &str) -> Result<()> {
        let id = self.container.id.clone();
        let id = id.as_str();
        let owners = &mut self.updates.owners;
        let (adjust, seen) = (&mut self.adjust, &mut self.container);
        merge_map(
            owners,
            (id, Field::Annotations, plugin),
            &mut adjust.annotations,
            &mut seen.annotations,
            asked.annotations,
        )?;
        merge_list(owners, id, plugin, &mut adjust.mounts, &mut seen.mounts, asked.mounts)?;
        let (gone, new) = collect_list(owners, id, plugin, &mut adjust.env, asked.env)?;
        let name = |e: &str| e.split_once('=').map_or(e, |(name, _)| name).to_owned();
        seen.env.retain(|e| !gone.contains(&name(e)));
        seen.env.extend(new.iter().map(|e| format!("{}={}", e.key, e.value)));
        if !asked.args.is_empty() {
            merge_args(owners, plugin, adjust, seen, asked.args)?;
        }
        if let Some(hooks) = asked.hooks.into_option() {
            merge_hooks(owners, plugin, adjust, seen, hooks);
        }
        if let Some(linux) = asked.linux.into_option() {
            merge_linux(owners, plugin, adjust.linux.mut_or_insert_default(), seen, linux)?;
        }
        for limit in asked.rlimits {
            owners.claim_entry(id, Field::Rlimits, &limit.type_, plugin)?;
            seen.rlimits.push(limit.clone());
            adjust.rlimits.push(limit);
        }
        for device in asked.CDI_devices {
            owners.claim_entry(id, Field::CdiDevices, &device.name, plugin)?;
            adjust.CDI_devices.push(device);
        }
        Ok(())
    }
}

/// Collects a list's new and removed entries; answers the keys of both, and the new entries.
fn collect_list<T: Keyed>(
    owners: &mut Owners,
    id: &str,
    plugin: &str,
    adjust: &mut Vec<T>,
    asked: Vec<T>,
) -> Result<(HashSet<String>, Vec<T>)> {
    let (gone, new): (Vec<T>, Vec<T>) = asked.into_iter().partition(|e| removed(e.key()).is_some());
    let mut keys: HashSet<String> = gone.iter().filter_map(|e| removed(e.key())).map(str::to_owned).collect();
    for entry in adjust.iter().filter(|e| keys.contains(e.key())) {
        owners.clear_entry(id, T::FIELD, entry.key(), plugin);
    }
    adjust.retain(|e| !keys.contains(e.key()) && !removed(e.key()).is_some_and(|key| keys.contains(key)));
    for entry in &new {
        owners.claim_entry(id, T::FIELD, entry.key(), plugin)?;
        keys.insert(entry.key().to_owned());
    }
    let set: HashSet<&str> = new.iter().map(Keyed::key).collect();
    // One that was removed before and is set now is not removed any more.
    adjust.retain(|e| !removed(e.key()).is_some_and(|key| set.contains(key)));
    adjust.extend(gone.into_iter().filter(|e| !removed(e.key()).is_some_and(|key| set.contains(key))));
    adjust.extend(new.iter().cloned());
    Ok((keys, new))
}

fn merge_list<T: Keyed>(
    owners: &mut Owners,
    id: &str,
    plugin: &str,
    adjust: &mut Vec<T>,
    seen: &mut Vec<T>,
    asked: Vec<T>,
) -> Result<()> {
    let (gone, new) = collect_list(owners, id, plugin, adjust, asked)?;
    seen.retain(|e| !gone.contains(e.key()));
    seen.extend(new);
    Ok(())
}

/// Likewise for a map. What is removed and not set again stands in `adjust` under its marked key.
fn merge_map<V: Clone + Default>(
    owners: &mut Owners,
    (id, field, plugin): (&str, Field, &str),
    adjust: &mut HashMap<String, V>,
    seen: &mut HashMap<String, V>,
    asked: HashMap<String, V>,
) -> Result<()> {
    let (gone, new): (HashMap<_, _>, HashMap<_, _>) =
        asked.into_iter().partition(|(k, _)| removed(k).is_some());
    for key in gone.keys().filter_map(|k| removed(k)) {
        if adjust.remove(key).is_some() || new.contains_key(key) {
            owners.clear_entry(id, field, key, plugin);
        }
        seen.remove(key);
        adjust.insert(format!("{REMOVAL}{key}"), V::default());
    }
    for (key, value) in new {
        owners.claim_entry(id, field, &key, plugin)?;
        adjust.remove(&format!("{REMOVAL}{key}"));
        seen.insert(key.clone(), value.clone());
        adjust.insert(key, value);
    }
    Ok(())
}

/// An empty first argument takes away what another plugin has set.
fn merge_args(
    owners: &mut Owners,
    plugin: &str,
    adjust: &mut ContainerAdjustment,
    seen: &mut Container,
    mut args: Vec<String>,
) -> Result<()> {
    if args[0].is_empty() {
        owners.clear(&seen.id, Field::Args, plugin);
        args.remove(0);
    }
    owners.claim(&seen.id, Field::Args, plugin)?;
    if !args.is_empty() {
        seen.args.clone_from(&args);
    }
    adjust.args = args;
    Ok(())
}

fn merge_hooks(
    owners: &mut Owners,
    plugin: &str,
    adjust: &mut ContainerAdjustment,
    seen: &mut Container,
    asked: Hooks,
) {
    let (adjust, seen, id) =
        (adjust.hooks.mut_or_insert_default(), seen.hooks.mut_or_insert_default(), &seen.id);
    let mut any = false;
    macro_rules! add {
        ($($when:ident),*) => { $(
            any |= !asked.$when.is_empty();
            seen.$when.extend(asked.$when.iter().cloned());
            adjust.$when.extend(asked.$when);
        )* };
    }
    add!(prestart, create_runtime, create_container, start_container, poststart, poststop);
    if any {
        owners.share(id, Field::OciHooks, plugin);
    }
}

fn merge_linux(
    owners: &mut Owners,
    plugin: &str,
    adjust: &mut LinuxContainerAdjustment,
    container: &mut Container,
    asked: LinuxContainerAdjustment,
) -> Result<()> {
    let id = container.id.as_str();
    let seen = container.linux.mut_or_insert_default();
    merge_list(owners, id, plugin, &mut adjust.devices, &mut seen.devices, asked.devices)?;
    if let Some(wanted) = asked.resources.as_ref() {
        let into = adjust.resources.mut_or_insert_default();
        let view = seen.resources.mut_or_insert_default();
        resources::merge(owners, id, plugin, wanted, &mut [&mut *into, &mut *view])?;
        into.devices.extend(wanted.devices.iter().cloned());
        view.devices.extend(wanted.devices.iter().cloned());
    }
    if !asked.cgroups_path.is_empty() {
        owners.claim(id, Field::CgroupsPath, plugin)?;
        seen.cgroups_path.clone_from(&asked.cgroups_path);
        adjust.cgroups_path = asked.cgroups_path;
    }
    macro_rules! take {
        ($($name:ident: $field:ident),* $(,)?) => { $(
            if asked.$name.is_some() {
                owners.claim(id, Field::$field, plugin)?;
                seen.$name = asked.$name.clone();
                adjust.$name = asked.$name;
            }
        )* };
    }
    take!(
        oom_score_adj: OomScoreAdj, io_priority: IoPriority, seccomp_policy: SeccompPolicy,
        scheduler: LinuxSched,
    );
    if asked.memory_policy.is_some() {
        owners.claim(id, Field::MemoryPolicy, plugin)?;
        adjust.memory_policy = asked.memory_policy;
    }
    merge_namespaces(owners, id, plugin, adjust, &mut seen.namespaces, asked.namespaces)?;
    let key = |field| (id, field, plugin);
    merge_map(owners, key(Field::Sysctl), &mut adjust.sysctl, &mut seen.sysctl, asked.sysctl)?;
    merge_map(
        owners,
        key(Field::LinuxNetDevices),
        &mut adjust.net_devices,
        &mut seen.net_devices,
        asked.net_devices,
    )?;
    match asked.rdt.into_option() {
        Some(rdt) => merge_rdt(owners, id, plugin, adjust, rdt),
        None => Ok(()),
    }
}

/// Removing a namespace is setting it, too: it cannot be done twice.
fn merge_namespaces(
    owners: &mut Owners,
    id: &str,
    plugin: &str,
    adjust: &mut LinuxContainerAdjustment,
    seen: &mut Vec<LinuxNamespace>,
    asked: Vec<LinuxNamespace>,
) -> Result<()> {
    for namespace in asked {
        let kind = removed(&namespace.type_).unwrap_or(&namespace.type_).to_owned();
        // There are eight kinds; a list of them is short.
        owners.claim_entry(id, Field::Namespace, &kind, plugin)?;
        seen.retain(|n| n.type_ != kind);
        if removed(&namespace.type_).is_none() {
            seen.push(namespace.clone());
        }
        adjust.namespaces.push(namespace);
    }
    Ok(())
}

fn merge_rdt(
    owners: &mut Owners,
    id: &str,
    plugin: &str,
    adjust: &mut LinuxContainerAdjustment,
    asked: LinuxRdt,
) -> Result<()> {
    if asked.remove {
        for field in [Field::RdtClosID, Field::RdtSchemata, Field::RdtEnableMonitoring] {
            owners.clear(id, field, plugin);
        }
        adjust.rdt = Some(LinuxRdt { remove: true, ..LinuxRdt::default() }).into();
    }
    let rdt = adjust.rdt.mut_or_insert_default();
    macro_rules! take {
        ($($name:ident: $field:ident),* $(,)?) => { $(
            if asked.$name.is_some() {
                owners.claim(id, Field::$field, plugin)?;
                rdt.$name = asked.$name;
            }
        )* };
    }
    take!(clos_id: RdtClosID, schemata: RdtSchemata, enable_monitoring: RdtEnableMonitoring);
    Ok(())
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
