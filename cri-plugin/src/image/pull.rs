//! Pulls. Callers who ask for the same image in the same way share one pull; when the last of them goes away, it stops at
//! its next step and keeps what can be resumed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use windlass_api::cri;
use windlass_core::platform::Platform;
use windlass_core::transfer::{Destination, Fetching, ImageStore, Registry, Source, Unpack};
use windlass_core::{Class, Descriptor, Digest, Error, FieldMask, Labels, Result, content};

use super::Images;
use super::auth::Authentication;
use super::progress::Watch;
use super::reference::Name;

/// How CRI marks a failure of the registry rather than of the image.
const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
/// Annotation of pods by which old clients name the runtime handler.
const RUNTIME_HANDLER: &str = "io.containerd.cri.runtime-handler";
/// Labels by which a manifest holds its layers.
const REF_LAYERS: &str = "containerd.io/gc.ref.content.l.";

/// What makes two pulls one. Other credentials are another pull: nobody gets an image by what somebody else may see.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    name: String,
    snapshotter: String,
    credentials: Digest,
}

/// A pull under way. It goes on as long as somebody holds this.
struct Flight {
    number: u64,
    outcome: watch::Receiver<Option<Outcome>>,
    _cancel: DropGuard,
}

/// An error that several callers get.
type Outcome = Result<String, (Class, String)>;

#[derive(Default)]
pub struct Flights {
    under_way: Mutex<HashMap<Key, Weak<Flight>>>,
    count: AtomicU64,
}

impl Flights {
    fn under_way(&self) -> MutexGuard<'_, HashMap<Key, Weak<Flight>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.under_way().values().all(|flight| flight.upgrade().is_none())
    }
}

/// One pull, checked.
struct Request {
    name: Name,
    snapshotter: String,
    authentication: Arc<Authentication>,
}

impl Images {
    /// Pulls and unpacks an image; answers its id. The registry is always asked what the name stands for now, and what is
    /// there already is not fetched again.
    ///
    /// *Invalid argument* for a bad name or credentials; *not found* and *unauthenticated* as the registry says;
    /// *unavailable*, with a message that begins with CRI's `RegistryUnavailable`, where it does not answer or sends nothing
    /// for longer than `image_pull_progress_timeout`.
    pub async fn pull(
        self: &Arc<Self>,
        image: &cri::ImageSpec,
        auth: Option<cri::AuthConfig>,
        sandbox: Option<&cri::PodSandboxConfig>,
    ) -> Result<String> {
        let name = Name::parse(&image.image)?.normal();
        let handler = match image.runtime_handler.as_str() {
            "" => sandbox.and_then(|s| s.annotations.get(RUNTIME_HANDLER)).map_or("", String::as_str),
            handler => handler,
        };
        let snapshotter = self.config.snapshotter_of(handler).to_owned();
        self.snapshotter(&snapshotter)?;
        let authentication = Arc::new(Authentication::new(auth.as_ref(), &self.config.registry)?);
        let credentials = Digest::of(&auth.unwrap_or_default().encode_to_vec());
        let key = Key { name: name.to_string(), snapshotter: snapshotter.clone(), credentials };
        let flight = self.board(key, Request { name, snapshotter, authentication });
        let mut outcome = flight.outcome.clone();
        let outcome = outcome
            .wait_for(Option::is_some)
            .await
            .map_err(|e| Error::internal("a pull ended unexpectedly").with_source(e))?
            .clone();
        match outcome {
            Some(Ok(id)) => Ok(id),
            Some(Err((class, message))) => Err(Error::new(class, message)),
            None => Err(Error::internal("a pull ended without an outcome")),
        }
    }

    /// The pull that is under way, or a new one.
    fn board(self: &Arc<Self>, key: Key, request: Request) -> Arc<Flight> {
        let mut under_way = self.flights.under_way();
        if let Some(flight) = under_way.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let cancel = CancellationToken::new();
        let (sender, outcome) = watch::channel(None);
        let number = self.flights.count.fetch_add(1, Ordering::Relaxed);
        let flight = Arc::new(Flight { number, outcome, _cancel: cancel.clone().drop_guard() });
        under_way.insert(key.clone(), Arc::downgrade(&flight));
        drop(under_way);
        let this = self.clone();
        // In a task of its own: what is begun is finished or taken back, whoever goes away.
        tokio::spawn(async move {
            let outcome = this.fly(&request, cancel).await.map_err(|e| (e.class(), e.chain()));
            this.flights.land(&key, number);
            sender.send_replace(Some(outcome));
        });
        flight
    }

    async fn fly(&self, request: &Request, cancel: CancellationToken) -> Result<String> {
        let begun = Instant::now();
        let name = request.name.to_string();
        let target = self.fetch(&name, request, cancel).await?;
        let facts = self.facts(&target).await.map_err(|e| e.context(format!("read image {name:?}")))?;
        if self.config.discard_unpacked_layers {
            self.discard_layers(&facts.manifest.digest).await?;
        }
        let labels = self.labels(&name);
        let id = facts.id.to_string();
        let digest = request.name.with_digest(&target.digest);
        for record in [id.as_str(), digest.as_str(), name.as_str()] {
            let done = async {
                self.put(record, &target, &labels).await?;
                self.refresh(record).await
            };
            done.await.map_err(|e| e.context(format!("record image {record:?}")))?;
        }
        tracing::info!(image = %name, %id, size = facts.size, elapsed = ?begun.elapsed(), "image pulled");
        Ok(id)
    }

    /// Fetches and unpacks; answers what the name points to.
    async fn fetch(&self, name: &str, request: &Request, cancel: CancellationToken) -> Result<Descriptor> {
        let from = Registry {
            reference: name.to_owned(),
            headers: self.config.headers(),
            host_dir: self.host_dirs.clone(),
            default_scheme: String::new(),
            authenticator: Some(request.authentication.clone()),
        };
        let platform = Platform::host();
        let to = ImageStore {
            name: name.to_owned(),
            labels: self.labels(name),
            platforms: vec![platform.clone()],
            unpacks: vec![Unpack { platform: Some(platform), snapshotter: request.snapshotter.clone() }],
            fetching: Fetching {
                at_once: self.config.downloads(),
                range: self.config.concurrent_layer_fetch_buffer.unsigned_abs(),
                annotate_snapshots: !self.config.disable_snapshot_annotations,
            },
            ..ImageStore::default()
        };
        let limit = self.config.progress_timeout()?;
        let watch = Arc::new(Watch::new());
        let transfer = self.transfer.transfer(
            &self.cx,
            Source::Registry(from),
            Destination::ImageStore(to),
            watch.clone(),
        );
        let records = tokio::select! {
            done = transfer => done.map_err(|e| failed(name, e))?,
            () = cancel.cancelled() => return Err(Error::canceled(format!("pull of image {name:?} was canceled: nobody waits for it"))),
            () = watch.stalled(limit) => {
                return Err(Error::unavailable(format!(
                    "{REGISTRY_UNAVAILABLE}: pull of image {name:?} was given up: nothing came from the registry for {:?} \
                     (image_pull_progress_timeout)",
                    limit.unwrap_or_default()
                )));
            }
        };
        let made = records.into_iter().find(|record| record.name == name);
        Ok(made.ok_or_else(|| Error::internal(format!("image {name:?} was pulled without a record")))?.target)
    }

    /// Takes the manifest's hold on its layers away, so that the collector has them.
    async fn discard_layers(&self, manifest: &Digest) -> Result<()> {
        let info = self.content.info(&self.cx, manifest).await?;
        let held = info.labels.keys().filter(|key| key.starts_with(REF_LAYERS));
        let mask: Vec<String> = held.map(|key| format!("labels.{key}")).collect();
        if mask.is_empty() {
            return Ok(());
        }
        let now = SystemTime::now();
        let none = content::Info {
            digest: manifest.clone(),
            size: 0,
            created_at: now,
            updated_at: now,
            labels: Labels::new(),
        };
        self.content.update(&self.cx, none, &FieldMask(mask)).await.map(|_| ())
    }
}

impl Flights {
    /// The pull has ended: who asks now starts another.
    fn land(&self, key: &Key, number: u64) {
        let mut under_way = self.under_way();
        // Another one may have started since, where nobody waited for this one.
        if under_way.get(key).is_some_and(|f| f.upgrade().is_none_or(|f| f.number == number)) {
            under_way.remove(key);
        }
    }
}

/// A transfer's failure as CRI tells it.
fn failed(name: &str, error: Error) -> Error {
    let what = format!("failed to pull and unpack image {name:?}");
    match error.class() {
        Class::Unavailable => error.context(format!("{REGISTRY_UNAVAILABLE}: {what}")),
        // A deadline of the registry's, not of the caller's.
        Class::DeadlineExceeded => {
            Error::unavailable(format!("{REGISTRY_UNAVAILABLE}: {what}: {}", error.chain()))
        }
        _ => error.context(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_their_class_and_name_the_registry_where_it_is_to_blame() {
        let error = failed("r.io/a:1", Error::unavailable("connect to r.io"));
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.message().starts_with("RegistryUnavailable: "), "{}", error.message());
        let error = failed("r.io/a:1", Error::deadline("head of r.io took longer than 30s"));
        assert!(error.is(Class::Unavailable) && error.message().starts_with("RegistryUnavailable: "));
        let error = failed("r.io/a:1", Error::not_found("r.io/a:1"));
        assert!(error.is_not_found() && error.message().starts_with("failed to pull"), "{}", error.message());
    }
}
