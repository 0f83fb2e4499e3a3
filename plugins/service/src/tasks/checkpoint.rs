//! Checkpoints as content: a dump's directory becomes a tar in the content store, and the other way round.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message;
use windlass_api::convert::{any, descriptor};
use windlass_api::services::tasks::CheckpointTaskResponse;
use windlass_api::{runc, types};
use windlass_core::content::{Store, WriterOptions};
use windlass_core::diff::{ApplyOptions, CompareOptions, Differ};
use windlass_core::mount::Mount;
use windlass_core::task::Tasks;
use windlass_core::{Context, Descriptor, Digest, Error, Result, container};

const MEDIA_TYPE: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
const MEDIA_TYPE_CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

pub struct Checkpoints {
    pub content: Arc<dyn Store>,
    pub differ: Arc<dyn Differ>,
    pub state: PathBuf,
}

/// A directory of one checkpoint; removed when dropped, unless a task has taken it.
pub struct Directory(PathBuf);

impl Directory {
    fn new(below: &Path) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = below.join(format!("checkpoint-{}-{number}", std::process::id()));
        rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU)
            .map_err(|errno| Error::io(format!("make {}", path.display()), errno.into()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    fn mounts(&self) -> [Mount; 1] {
        [Mount {
            kind: "bind".into(),
            source: self.path(),
            target: String::new(),
            options: vec!["rbind".into(), "rw".into()],
        }]
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A task that is restored from it may have taken it.
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.0.display(), %error, "a checkpoint's directory stays");
        }
    }
}

impl Checkpoints {
    /// Unpacks a checkpoint out of the content store.
    pub async fn unpack(&self, cx: &Context, checkpoint: &types::Descriptor) -> Result<Directory> {
        if checkpoint.media_type != MEDIA_TYPE {
            return Err(Error::invalid(format!("unsupported checkpoint type {:?}", checkpoint.media_type)));
        }
        let directory = Directory::new(&self.state)?;
        let layer = Descriptor { media_type: TAR.into(), ..descriptor::from_wire(checkpoint.clone())? };
        self.differ.apply(cx, &layer, &directory.mounts(), ApplyOptions::default()).await?;
        Ok(directory)
    }

    /// Dumps a task. Where the options name a directory the dump stays there; else it becomes content.
    pub async fn make(
        &self,
        cx: &Context,
        tasks: &dyn Tasks,
        record: container::Container,
        options: Option<prost_types::Any>,
    ) -> Result<CheckpointTaskResponse> {
        let named = match &options {
            Some(options) if options.type_url.ends_with("containerd.runc.v1.CheckpointOptions") => {
                runc::CheckpointOptions::decode(options.value.as_slice())
                    .map_err(|source| Error::invalid("checkpoint options").with_source(source))?
                    .image_path
            }
            _ => String::new(),
        };
        let options = options.map(any::from_wire);
        if !named.is_empty() {
            tasks.checkpoint(cx, &record.id, &named, options).await?;
            return Ok(CheckpointTaskResponse::default());
        }
        let directory = Directory::new(&self.state)?;
        tasks.checkpoint(cx, &record.id, &directory.path(), options).await?;
        let reference = format!("checkpoint-{}-{}", record.id, directory.path());
        let compare = CompareOptions { media_type: TAR.into(), reference, ..CompareOptions::default() };
        let dump = self.differ.compare(cx, &[], &directory.mounts(), compare).await?;
        let dump = Descriptor { media_type: MEDIA_TYPE.into(), ..dump };
        let spec = record.spec.map(any::to_wire).unwrap_or_default().encode_to_vec();
        let config = self.write(cx, &format!("checkpoint-config-{}", record.id), spec).await?;
        Ok(CheckpointTaskResponse {
            descriptors: vec![descriptor::to_wire(&dump), descriptor::to_wire(&config)],
        })
    }

    async fn write(&self, cx: &Context, reference: &str, data: Vec<u8>) -> Result<Descriptor> {
        let (digest, size) = (Digest::of(&data), data.len() as u64);
        let options = WriterOptions {
            reference: reference.into(),
            total: size,
            expected: Some(digest.clone()),
            ..WriterOptions::default()
        };
        let written = async {
            let mut writer = self.content.writer(cx, options).await?;
            writer.write(data.into()).await?;
            writer.commit(size, Some(&digest), Default::default()).await
        };
        match written.await {
            Err(error) if !error.is(windlass_core::Class::AlreadyExists) => Err(error),
            _ => Ok(Descriptor::new(MEDIA_TYPE_CONFIG, digest, size)),
        }
    }
}
