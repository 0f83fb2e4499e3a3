//! Limits: from CRI to OCI's `linux.resources`, and back for a status.

use serde_json::{Value, json};
use windlass_api::cri;

use super::error::{Result, invalid, unsupported};
use super::host::Host;
use super::json::{list, object};
use super::settings::Settings;

/// Sets in OCI's `LinuxResources` what CRI names; zero and empty mean: leave it as it is. For an update, `current` are
/// the container's own.
pub fn resources(
    host: &Host,
    settings: &Settings,
    asked: &cri::LinuxContainerResources,
    current: &Value,
) -> Result<Value> {
    let mut resources = if current.is_object() { current.clone() } else { json!({}) };
    for (what, value) in [("CPU period", asked.cpu_period), ("CPU shares", asked.cpu_shares)] {
        if value < 0 {
            return invalid(format!("{what} {value} is below zero"));
        }
    }
    let cpu = object(&mut resources, &["cpu"]);
    for (key, value) in
        [("period", asked.cpu_period), ("quota", asked.cpu_quota), ("shares", asked.cpu_shares)]
    {
        if value != 0 {
            cpu.insert(key.into(), value.into());
        }
    }
    for (key, value) in [("cpus", &asked.cpuset_cpus), ("mems", &asked.cpuset_mems)] {
        if value.bytes().any(|b| !(b.is_ascii_digit() || b",-".contains(&b))) {
            return invalid(format!("{value:?} is not a list of {key}"));
        }
        if !value.is_empty() {
            cpu.insert(key.into(), value.as_str().into());
        }
    }
    memory(host, asked, &mut resources);
    hugepages(host, settings, asked, &mut resources)?;
    if !asked.unified.is_empty() {
        for key in asked.unified.keys() {
            // They are names of files in the group's directory.
            if key.is_empty() || key.contains('/') || key.contains('\0') || !key.contains('.') {
                return invalid(format!("{key:?} is not a file of a control group"));
            }
        }
        let unified = object(&mut resources, &["unified"]);
        unified.extend(asked.unified.iter().map(|(k, v)| (k.clone(), v.as_str().into())));
    }
    Ok(resources)
}

/// Without a word about swap there is none: the limit of both together is that of memory.
fn memory(host: &Host, asked: &cri::LinuxContainerResources, resources: &mut Value) {
    let (limit, swap) = (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes);
    let memory = object(resources, &["memory"]);
    if limit != 0 {
        memory.insert("limit".into(), limit.into());
    }
    let swap = if swap != 0 { swap } else { limit };
    if swap != 0 && host.swap {
        memory.insert("swap".into(), swap.into());
    }
}

fn hugepages(
    host: &Host,
    settings: &Settings,
    asked: &cri::LinuxContainerResources,
    resources: &mut Value,
) -> Result<()> {
    if settings.config.disable_hugetlb_controller || asked.hugepage_limits.is_empty() {
        return Ok(());
    }
    if !host.hugetlb {
        if settings.config.tolerate_missing_hugetlb_controller {
            tracing::debug!("no hugetlb control group; limits of huge pages are passed over");
            return Ok(());
        }
        return unsupported(
            "limits of huge pages are asked for, but there is no hugetlb control group; \
             tolerate_missing_hugetlb_controller = true passes them over",
        );
    }
    let limits = list(object(resources, &[]), "hugepageLimits");
    for limit in &asked.hugepage_limits {
        if limit.page_size.is_empty() || !limit.page_size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return invalid(format!("{:?} is not the size of a huge page", limit.page_size));
        }
        limits.retain(|l| l["pageSize"] != limit.page_size.as_str());
        limits.push(json!({"pageSize": limit.page_size, "limit": limit.limit}));
    }
    Ok(())
}

/// What a status tells of a specification.
pub fn resources_status(spec: &Value) -> cri::ContainerResources {
    let resources = &spec["linux"]["resources"];
    let number = |path: &str| resources.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let text = |path: &str| resources.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
    let hugepages = resources["hugepageLimits"].as_array().into_iter().flatten();
    let unified = resources["unified"].as_object().into_iter().flatten();
    cri::ContainerResources {
        linux: Some(cri::LinuxContainerResources {
            cpu_period: number("/cpu/period"),
            cpu_quota: number("/cpu/quota"),
            cpu_shares: number("/cpu/shares"),
            memory_limit_in_bytes: number("/memory/limit"),
            memory_swap_limit_in_bytes: number("/memory/swap"),
            oom_score_adj: spec["process"]["oomScoreAdj"].as_i64().unwrap_or(0),
            cpuset_cpus: text("/cpu/cpus"),
            cpuset_mems: text("/cpu/mems"),
            hugepage_limits: hugepages
                .map(|l| cri::HugepageLimit {
                    page_size: l["pageSize"].as_str().unwrap_or("").to_owned(),
                    limit: l["limit"].as_u64().unwrap_or(0),
                })
                .collect(),
            unified: unified.map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned())).collect(),
        }),
        windows: None,
    }
}

/// Where the control group of a container, or of a pod's own process, goes. An empty parent: where a container without
/// a pod would go.
pub fn cgroups_path(systemd: bool, parent: &str, id: &str) -> Result<String> {
    if parent.contains('\0') || parent.split('/').any(|part| part == "..") {
        return invalid(format!("control group parent {parent:?} has parts that are no names"));
    }
    if !systemd {
        return Ok(match parent.trim_end_matches('/') {
            "" => format!("/k8s.io/{id}"),
            parent => format!("{parent}/{id}"),
        });
    }
    // systemd knows slices by their last name alone.
    match parent.rsplit('/').find(|part| !part.is_empty()) {
        None => Ok(format!("system.slice:cri-containerd:{id}")),
        Some(slice) if slice.ends_with(".slice") && !slice.contains(':') => {
            Ok(format!("{slice}:cri-containerd:{id}"))
        }
        Some(_) => invalid(format!(
            "control group parent {parent:?} is no slice, but control groups are systemd's: \
             kubelet and SystemdCgroup must agree"
        )),
    }
}

#[cfg(test)]
#[path = "tests/resources.rs"]
mod tests;
