//! `containerd.services.introspection.v1.Introspection`

use std::borrow::Cow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use prost::{Message, Name};
use tonic::Request;
use windlass_api::convert::{any, platform, runtime};
use windlass_api::services::introspection as wire;
use windlass_api::{status, types};
use windlass_core::filter::Fields;
use windlass_core::registry::{Kind, Outcome, Report};
use windlass_core::{Error, Result, kinds, task};

use crate::edge::{Answer, answer, filters, serve};

struct Edge {
    report: Report,
    root: PathBuf,
    tasks: Option<Arc<dyn task::Tasks>>,
    uuid: OnceLock<String>,
}

struct Filtered<'a>(&'a Outcome);

impl Fields for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["type"] => Some(self.0.kind.into()),
            ["id"] => Some(self.0.id.into()),
            _ => None,
        }
    }
}

fn to_wire(outcome: Outcome) -> wire::Plugin {
    let init_err = outcome.error.map(|error| windlass_api::rpc::Status {
        code: status::code(error.class()),
        message: status::text(&error),
        details: Vec::new(),
    });
    wire::Plugin {
        r#type: outcome.kind.to_owned(),
        id: outcome.id.to_owned(),
        requires: outcome.requires.iter().map(|r| r.to_string()).collect(),
        platforms: outcome.meta.platforms.into_iter().map(platform::to_wire).collect(),
        exports: outcome.meta.exports,
        capabilities: outcome.meta.capabilities,
        init_err,
    }
}

/// The daemon's identity: made once per root, kept in `<root>/uuid`.
fn uuid(root: &Path) -> Result<String> {
    let file = root.join("uuid");
    if let Ok(text) = std::fs::read_to_string(&file)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .map_err(|source| Error::io("make an identity from /proc/sys/kernel/random/uuid", source))?;
    std::fs::write(&file, text.trim())
        .map_err(|source| Error::io(format!("write {}", file.display()), source))?;
    Ok(text.trim().to_owned())
}

impl Edge {
    fn server(&self) -> Result<wire::ServerResponse> {
        let uuid = match self.uuid.get() {
            Some(uuid) => uuid.clone(),
            None => {
                let made = uuid(&self.root)?;
                self.uuid.get_or_init(|| made).clone()
            }
        };
        let namespace =
            std::fs::metadata("/proc/self/ns/pid").map_err(|e| Error::io("stat /proc/self/ns/pid", e))?;
        Ok(wire::ServerResponse {
            uuid,
            pid: std::process::id().into(),
            pidns: namespace.ino(),
            deprecations: Vec::new(),
        })
    }

    async fn info(&self, request: wire::PluginInfoRequest) -> Result<wire::PluginInfoResponse> {
        let found =
            self.report.outcomes().into_iter().find(|o| o.kind == request.r#type && o.id == request.id);
        let outcome = found
            .ok_or_else(|| Error::not_found(format!("plugin {}.{} not found", request.r#type, request.id)))?;
        let failed = outcome.error.is_some();
        let is_runtime = outcome.kind == <kinds::Runtime as Kind>::NAME;
        let mut response = wire::PluginInfoResponse { plugin: Some(to_wire(outcome)), extra: None };
        if let Some(options) = request.options {
            if failed {
                return Err(Error::precondition("cannot get extra info, plugin not successfully loaded"));
            }
            let tasks = self.tasks.as_ref().filter(|_| is_runtime);
            let tasks =
                tasks.ok_or_else(|| Error::unimplemented("plugin does not provide extra information"))?;
            response.extra = Some(runtime_info(tasks.as_ref(), options).await?);
        }
        Ok(response)
    }
}

/// `containerd.types.RuntimeRequest` in, `containerd.types.RuntimeInfo` out.
async fn runtime_info(tasks: &dyn task::Tasks, options: prost_types::Any) -> Result<prost_types::Any> {
    let request = types::RuntimeRequest::decode(options.value.as_slice())
        .map_err(|source| Error::invalid("plugin info options").with_source(source))?;
    let asked = windlass_api::services::containers::container::Runtime {
        name: request.runtime_path,
        options: request.options,
    };
    let info = tasks.runtime_info(&runtime::from_wire(asked)).await?;
    let info = types::RuntimeInfo {
        name: info.name,
        version: Some(types::RuntimeVersion { version: info.version, revision: info.revision }),
        options: info.options.map(any::to_wire),
        features: info.features.map(any::to_wire),
        annotations: info.annotations,
    };
    Ok(prost_types::Any { type_url: types::RuntimeInfo::full_name(), value: info.encode_to_vec() })
}

#[tonic::async_trait]
impl wire::introspection_server::Introspection for Edge {
    async fn plugins(&self, request: Request<wire::PluginsRequest>) -> Answer<wire::PluginsResponse> {
        let filters = filters(&request.into_inner().filters);
        answer(filters.map(|filters| {
            let all = self.report.outcomes().into_iter().filter(|o| filters.matches(&Filtered(o)));
            wire::PluginsResponse { plugins: all.map(to_wire).collect() }
        }))
    }

    async fn server(&self, _: Request<()>) -> Answer<wire::ServerResponse> {
        answer(self.server())
    }

    async fn plugin_info(
        &self,
        request: Request<wire::PluginInfoRequest>,
    ) -> Answer<wire::PluginInfoResponse> {
        answer(self.info(request.into_inner()).await)
    }
}

serve!(
    Introspection,
    "introspection",
    wire::introspection_server::IntrospectionServer,
    [kinds::Runtime],
    |ctx| {
        Ok(Edge {
            report: ctx.report(),
            root: ctx.options().root.clone(),
            tasks: ctx.single::<kinds::Runtime>().ok(),
            uuid: OnceLock::new(),
        })
    }
);
