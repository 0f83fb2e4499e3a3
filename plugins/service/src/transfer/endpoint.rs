//! Sources and destinations: `containerd.types.transfer` into core's.

use std::sync::Arc;

use prost::{Message, Name};
use windlass_api::convert::{any, platform};
use windlass_api::transfer as wire;
use windlass_core::transfer::{
    Destination, ExportOptions, ImageReference, ImageStore, Registry, Source, Unpack,
};
use windlass_core::{Context, Error, Result, stream};

use super::streams::{Asker, Receiver, Sender};

type Streams = Arc<dyn stream::Manager>;

fn decode<M: Message + Name + Default>(message: &prost_types::Any) -> Result<M> {
    M::decode(message.value.as_slice()).map_err(|source| Error::invalid(M::full_name()).with_source(source))
}

fn is<M: Name>(message: &prost_types::Any) -> bool {
    any::name(&message.type_url) == M::full_name()
}

async fn receiver(cx: &Context, streams: &Streams, id: &str) -> Result<Box<Receiver>> {
    Ok(Box::new(Receiver::new(streams.get(cx, id).await?)))
}

pub async fn source(cx: &Context, streams: &Streams, message: prost_types::Any) -> Result<Source> {
    if is::<wire::OciRegistry>(&message) {
        return registry(cx, streams, decode(&message)?).await.map(Source::Registry);
    }
    if is::<wire::ImageStore>(&message) {
        return Ok(Source::ImageStore(store(decode(&message)?)));
    }
    if is::<wire::ImageImportStream>(&message) {
        let archive: wire::ImageImportStream = decode(&message)?;
        let bytes = receiver(cx, streams, &archive.stream).await?;
        return Ok(Source::Archive {
            media_type: archive.media_type,
            force_compress: archive.force_compress,
            bytes,
        });
    }
    if is::<wire::ReadStream>(&message) {
        let raw: wire::ReadStream = decode(&message)?;
        let bytes = receiver(cx, streams, &raw.stream).await?;
        return Ok(Source::Archive { media_type: raw.media_type, force_compress: false, bytes });
    }
    Err(Error::unimplemented(format!("transfer from {}", message.type_url)))
}

pub async fn destination(cx: &Context, streams: &Streams, message: prost_types::Any) -> Result<Destination> {
    if is::<wire::OciRegistry>(&message) {
        return registry(cx, streams, decode(&message)?).await.map(Destination::Registry);
    }
    if is::<wire::ImageStore>(&message) {
        return Ok(Destination::ImageStore(store(decode(&message)?)));
    }
    if is::<wire::ImageExportStream>(&message) {
        let archive: wire::ImageExportStream = decode(&message)?;
        let options = ExportOptions {
            media_type: archive.media_type,
            platforms: archive.platforms.into_iter().map(platform::from_wire).collect(),
            all_platforms: archive.all_platforms,
            skip_compatibility_manifest: archive.skip_compatibility_manifest,
            skip_non_distributable: archive.skip_non_distributable,
        };
        let bytes = Box::new(Sender::new(streams.get(cx, &archive.stream).await?));
        return Ok(Destination::Archive { options, bytes });
    }
    if is::<wire::WriteStream>(&message) {
        let raw: wire::WriteStream = decode(&message)?;
        let options = ExportOptions { media_type: raw.media_type, ..ExportOptions::default() };
        let bytes = Box::new(Sender::new(streams.get(cx, &raw.stream).await?));
        return Ok(Destination::Archive { options, bytes });
    }
    Err(Error::unimplemented(format!("transfer to {}", message.type_url)))
}

async fn registry(cx: &Context, streams: &Streams, registry: wire::OciRegistry) -> Result<Registry> {
    let resolver = registry.resolver.unwrap_or_default();
    if resolver.http_debug() != wire::HttpDebug::Disabled {
        return Err(Error::unimplemented("dumps of HTTP requests: leave the option out"));
    }
    let asker = if resolver.auth_stream.is_empty() {
        None
    } else {
        Some(Arc::new(Asker::new(streams.get(cx, &resolver.auth_stream).await?)))
    };
    Ok(Registry {
        reference: registry.reference,
        headers: resolver.headers.into_iter().collect(),
        host_dir: resolver.host_dir,
        default_scheme: resolver.default_scheme,
        authenticator: asker.map(|a| a as Arc<dyn windlass_core::transfer::Authenticator>),
    })
}

fn store(store: wire::ImageStore) -> ImageStore {
    let reference = |r: wire::ImageReference| ImageReference {
        name: r.name,
        is_prefix: r.is_prefix,
        allow_overwrite: r.allow_overwrite,
        add_digest: r.add_digest,
        skip_named_digest: r.skip_named_digest,
    };
    let unpack = |u: wire::UnpackConfiguration| Unpack {
        platform: u.platform.map(platform::from_wire),
        snapshotter: u.snapshotter,
    };
    ImageStore {
        name: store.name,
        labels: store.labels,
        platforms: store.platforms.into_iter().map(platform::from_wire).collect(),
        all_metadata: store.all_metadata,
        manifest_limit: store.manifest_limit,
        extra_references: store.extra_references.into_iter().map(reference).collect(),
        unpacks: store.unpacks.into_iter().map(unpack).collect(),
        fetching: Default::default(),
    }
}
