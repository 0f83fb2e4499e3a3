//! What the plugin says of itself and of the machine: version, status, cgroup driver; and what the kubelet says of the
//! machine's pod addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use windlass_api::cri;
use windlass_core::{Error, Result};

use crate::config::Handler;
use crate::cri::Cri;
use crate::network::template;

/// Version of the kubelet's side that is spoken.
const KUBELET_VERSION: &str = "0.1.0";
/// Version of the interface.
const API_VERSION: &str = "v1";
/// What this daemon calls itself.
const NAME: &str = "windlass";
/// Largest network configuration template.
const MAX_TEMPLATE: u64 = 1 << 20;

impl Cri {
    pub async fn version(self: &Arc<Self>, _request: cri::VersionRequest) -> Result<cri::VersionResponse> {
        Ok(cri::VersionResponse {
            version: KUBELET_VERSION.into(),
            runtime_name: NAME.into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: API_VERSION.into(),
        })
    }

    pub async fn status(self: &Arc<Self>, request: cri::StatusRequest) -> Result<cri::StatusResponse> {
        let mut network =
            cri::RuntimeCondition { r#type: "NetworkReady".into(), status: true, ..Default::default() };
        if let Err(error) = self.networks.status().await {
            network.status = false;
            network.reason = "NetworkPluginNotReady".into();
            network.message = format!("Network plugin returns error: {}", error.chain());
        }
        let runtime =
            cri::RuntimeCondition { r#type: "RuntimeReady".into(), status: true, ..Default::default() };
        let deprecations = cri::RuntimeCondition {
            r#type: "ContainerdHasNoDeprecationWarnings".into(),
            status: true,
            ..Default::default()
        };
        Ok(cri::StatusResponse {
            status: Some(cri::RuntimeStatus { conditions: vec![runtime, network, deprecations] }),
            info: if request.verbose { self.node_info() } else { BTreeMap::new() },
            runtime_handlers: self.runtime_handlers().await,
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        })
    }

    /// What `crictl info` prints.
    fn node_info(&self) -> BTreeMap<String, String> {
        let config = self.config.shown(&self.root, &self.state_dir, &self.address.to_string_lossy());
        let load = self.networks.load_status();
        let mut info = BTreeMap::from([
            ("config".to_owned(), config.to_string()),
            ("cniconfig".to_owned(), self.networks.shown().to_string()),
            ("golang".to_owned(), Value::from("none (Rust)").to_string()),
            ("lastCNILoadStatus".to_owned(), load.clone()),
        ]);
        info.insert("lastCNILoadStatus.default".to_owned(), load);
        info
    }

    /// The handlers and what their runtimes can do; asked once.
    async fn runtime_handlers(&self) -> Vec<cri::RuntimeHandler> {
        let asked = self.handlers.get_or_init(|| async {
            let names = self.config.containerd.runtimes.keys();
            let each = names.filter_map(|name| self.handler(name).ok()).map(|handler| async move {
                let features = self.features(&handler).await;
                cri::RuntimeHandler { name: handler.name.to_owned(), features: Some(features) }
            });
            let mut all = futures::future::join_all(each).await;
            let default =
                all.iter().find(|handler| handler.name == self.config.containerd.default_runtime_name);
            if let Some(features) = default.map(|handler| handler.features) {
                all.insert(0, cri::RuntimeHandler { name: String::new(), features });
            }
            all
        });
        asked.await.clone()
    }

    async fn features(&self, handler: &Handler<'_>) -> cri::RuntimeHandlerFeatures {
        let info = match self.tasks.runtime_info(&self.runtime(handler)).await {
            Ok(info) => info,
            Err(error) => {
                tracing::info!(handler = handler.name, error = %error.chain(), "runtime does not say what it can do");
                return cri::RuntimeHandlerFeatures::default();
            }
        };
        let told: Value =
            info.features.and_then(|any| serde_json::from_slice(&any.value).ok()).unwrap_or(Value::Null);
        let lists = |list: &Value, word: &str| {
            list.as_array().is_some_and(|words| words.iter().any(|w| w.as_str() == Some(word)))
        };
        let mapped = &told["linux"]["mountExtensions"]["idmap"]["enabled"];
        cri::RuntimeHandlerFeatures {
            recursive_read_only_mounts: self.host.rro_mounts && lists(&told["mountOptions"], "rro"),
            user_namespaces: self.host.userns
                && self.host.idmap_mounts
                && lists(&told["linux"]["namespaces"], "user")
                && mapped.as_bool() == Some(true),
        }
    }

    pub async fn runtime_config(
        self: &Arc<Self>,
        _request: cri::RuntimeConfigRequest,
    ) -> Result<cri::RuntimeConfigResponse> {
        let driver = match self.handler("") {
            Ok(handler) if handler.is_ours() && !handler.systemd_cgroup() => cri::CgroupDriver::Cgroupfs,
            Ok(handler) if handler.is_ours() => cri::CgroupDriver::Systemd,
            _ if std::path::Path::new("/run/systemd/system").is_dir() => cri::CgroupDriver::Systemd,
            _ => cri::CgroupDriver::Cgroupfs,
        };
        Ok(cri::RuntimeConfigResponse {
            linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver: driver.into() }),
        })
    }

    /// The kubelet tells the machine's pod addresses: a network configuration is written from the template, where one is
    /// configured and there is no network yet.
    pub async fn update_runtime_config(
        self: &Arc<Self>,
        request: cri::UpdateRuntimeConfigRequest,
    ) -> Result<cri::UpdateRuntimeConfigResponse> {
        let answer = cri::UpdateRuntimeConfigResponse {};
        let network = request.runtime_config.and_then(|config| config.network_config);
        let Some(ranges) = network.map(|network| network.pod_cidr).filter(|cidr| !cidr.is_empty()) else {
            return Ok(answer);
        };
        let values = template::Values::new(&ranges)?;
        let file = self.config.cni.conf_template.clone();
        if file.is_empty() || self.networks.status().await.is_ok() {
            return Ok(answer);
        }
        let dir = self.config.cni.conf_dir.clone();
        self.finish(async move {
            let work = tokio::task::spawn_blocking(move || {
                template::write(
                    std::path::Path::new(&file),
                    std::path::Path::new(&dir),
                    &values,
                    MAX_TEMPLATE,
                )
            });
            work.await.map_err(|e| Error::internal("write a network configuration").with_source(e))?
        })
        .await?;
        Ok(answer)
    }
}
