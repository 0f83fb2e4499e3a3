//! Images as CRI has them: everything of its image service below the gRPC edge, over core's traits.
//!
//! - [`config`]: containerd's keys of `io.containerd.cri.v1.images`. `hosts`: its deprecated mirrors.
//! - `reference`: names. `inspect`: what is read of an image. `index`: what there is, in memory.
//! - `records`: the image records, and the index that follows them, whoever makes them.
//! - `pull`, with `auth` and `progress`; `remove`; `unpack`: file systems for containers; `volume`: images as volumes;
//!   `usage`: what it all takes up.
//!
//! It knows no pods and no containers, only the keys that they give.

mod auth;
pub mod config;
mod hosts;
mod index;
mod inspect;
mod locks;
mod progress;
mod pull;
mod records;
mod reference;
mod remove;
#[cfg(test)]
mod tests;
mod unpack;
mod usage;
mod volume;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use windlass_api::cri;
use windlass_core::registry::{InitContext, Kind};
use windlass_core::{Context, Error, Result, content, event, image, kinds, metadata, snapshot, transfer};

pub use config::ImagesConfig;
pub use index::Image;
pub use volume::Volume;

/// Largest config that is told in a status, in bytes.
const MAX_CONFIG: u64 = 8 << 20;

/// What the images work with.
pub struct Parts {
    /// The namespace: `k8s.io`.
    pub cx: Context,
    pub config: ImagesConfig,
    pub database: Arc<dyn metadata::Database>,
    pub transfer: Arc<dyn transfer::Transferrer>,
    pub exchange: Arc<dyn event::Exchange>,
    /// A directory for mounts of image volumes, gone after a reboot; made where it is missing.
    pub state: PathBuf,
    /// Where each snapshotter keeps its files: see [`snapshotter_roots`].
    pub roots: BTreeMap<String, PathBuf>,
}

/// The images of one namespace.
pub struct Images {
    cx: Context,
    config: ImagesConfig,
    database: Arc<dyn metadata::Database>,
    records: Arc<dyn image::Store>,
    content: Arc<dyn content::Store>,
    transfer: Arc<dyn transfer::Transferrer>,
    exchange: Arc<dyn event::Exchange>,
    state: PathBuf,
    roots: BTreeMap<String, PathBuf>,
    /// Directories of `hosts.toml` trees.
    host_dirs: String,
    index: index::Index,
    /// One writer of the index per record.
    names: locks::Locks,
    flights: pull::Flights,
    collection: remove::Collection,
    usage: usage::Figures,
    /// One maker of a volume's mount at a time.
    volumes: locks::Locks,
}

/// The directories of all snapshotters that have started, as they tell them: for [`Parts::roots`].
pub fn snapshotter_roots(ctx: &InitContext) -> BTreeMap<String, PathBuf> {
    let outcomes = ctx.report().outcomes();
    let snapshotters = outcomes.into_iter().filter(|o| o.kind == kinds::Snapshot::NAME && o.error.is_none());
    snapshotters
        .map(|o| {
            let told = o.meta.exports.get("root").map(PathBuf::from);
            let root = told.unwrap_or_else(|| ctx.options().root.join(format!("{}.{}", o.kind, o.id)));
            (o.id.to_owned(), root)
        })
        .collect()
}

impl Images {
    /// Reads all images there are, and follows those that others make from then on.
    pub async fn new(parts: Parts) -> Result<Arc<Self>> {
        parts.config.validate()?;
        parts.config.warn();
        let host_dirs = hosts::directories(&parts.config, &parts.state)?;
        let images = Arc::new(Self {
            records: parts.database.images(),
            content: parts.database.content(),
            cx: parts.cx,
            config: parts.config,
            database: parts.database,
            transfer: parts.transfer,
            exchange: parts.exchange,
            state: parts.state,
            roots: parts.roots,
            host_dirs,
            index: index::Index::default(),
            names: locks::Locks::default(),
            flights: pull::Flights::default(),
            collection: remove::Collection::default(),
            usage: usage::Figures::default(),
            volumes: locks::Locks::default(),
        });
        images.snapshotter(&images.config.snapshotter)?;
        // Before the records are read, so that nothing is missed in between.
        let events = images.subscribe()?;
        images.load().await?;
        tokio::spawn(records::follow(Arc::downgrade(&images), events));
        Ok(images)
    }

    pub fn config(&self) -> &ImagesConfig {
        &self.config
    }

    /// The snapshotter for a runtime handler.
    pub fn snapshotter_of(&self, handler: &str) -> &str {
        self.config.snapshotter_of(handler)
    }

    /// By id (whole, bare or an unambiguous beginning), by tag, by digest, by short name.
    pub fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        self.index.resolve(reference)
    }

    /// One entry per image, with all its names.
    pub fn list(&self, filter: Option<&cri::ImageFilter>) -> Vec<cri::Image> {
        let wanted =
            filter.and_then(|f| f.image.as_ref()).map(|i| i.image.as_str()).filter(|i| !i.is_empty());
        match wanted {
            Some(name) => self.resolve(name).iter().map(|i| i.to_cri()).collect(),
            None => self.index.list().iter().map(|i| i.to_cri()).collect(),
        }
    }

    /// `None` for an image that is not there. The map holds what `verbose` asks for: `info`, JSON with `chainID` and
    /// `imageSpec`.
    pub async fn status(
        &self,
        image: &cri::ImageSpec,
        verbose: bool,
    ) -> Result<Option<(cri::Image, HashMap<String, String>)>> {
        let Some(found) = self.resolve(&image.image) else { return Ok(None) };
        let mut info = HashMap::new();
        if verbose {
            info.insert("info".to_owned(), self.info(&found).await?);
        }
        Ok(Some((found.to_cri(), info)))
    }

    async fn info(&self, image: &Image) -> Result<String> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Info<'a> {
            #[serde(rename = "chainID")]
            chain_id: &'a str,
            image_spec: &'a RawValue,
        }
        let data = content::read_all(&*self.content, &self.cx, &image.id, MAX_CONFIG).await?;
        let bad = |e| Error::data_loss(format!("config of image {}", image.id)).with_source(e);
        let image_spec: &RawValue = serde_json::from_slice(&data).map_err(bad)?;
        serde_json::to_string(&Info { chain_id: &image.chain_id, image_spec }).map_err(bad)
    }

    fn snapshotter(&self, id: &str) -> Result<snapshot::Shared> {
        self.database.snapshotter(id).ok_or_else(|| Error::not_found(format!("snapshotter {id:?} not found")))
    }
}
