//! Ordering, starting and closing.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::context::Skip;
use super::{Boxed, InitContext, Kind, Meta, Registration, downcast};
use crate::error::{Error, Result};

/// Where the daemon lives and what its configuration says of plugins.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub root: PathBuf,
    pub state: PathBuf,
    /// Socket of the gRPC server.
    pub address: PathBuf,
    /// Socket of the ttrpc server.
    pub ttrpc_address: PathBuf,
    /// `disabled_plugins`: URIs.
    pub disabled: Vec<String>,
    /// `required_plugins`: URIs whose failure ends the start.
    pub required: Vec<String>,
    /// `plugins."<uri>"` tables.
    pub configs: BTreeMap<String, toml::Table>,
    /// `timeouts`: limits by containerd's names, `io.containerd.timeout.shim.cleanup` and others.
    pub timeouts: BTreeMap<String, std::time::Duration>,
    /// `stream_processors` by name: programs that turn one media type into another.
    pub stream_processors: BTreeMap<String, toml::Table>,
}

/// What came of one plugin.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub kind: &'static str,
    pub id: &'static str,
    pub requires: &'static [&'static str],
    pub meta: Meta,
    /// Why it did not start.
    pub error: Option<Arc<Error>>,
    /// Whether that was only a skip.
    pub skipped: bool,
}

struct Started {
    registration: &'static Registration,
    instance: Boxed,
}

pub(super) struct Shared {
    pub(super) options: Options,
    started: Mutex<Vec<Started>>,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Shared {
    fn started(&self) -> MutexGuard<'_, Vec<Started>> {
        self.started.lock().expect("the list of plugins is changed without panics")
    }

    fn outcomes(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.outcomes.lock().expect("the list of outcomes is changed without panics")
    }

    pub(super) fn get<K: Kind>(&self, id: &str) -> Result<Arc<K::Instance>> {
        let started = self.started();
        let found = started.iter().find(|s| s.registration.kind == K::NAME && s.registration.id == id);
        found.map(|s| downcast::<K>(&s.instance)).ok_or_else(|| {
            let why = self
                .outcomes()
                .iter()
                .find(|o| o.kind == K::NAME && o.id == id)
                .and_then(|o| o.error.clone());
            let error = Error::not_found(format!("plugin {}.{id} is not there", K::NAME));
            match why {
                Some(why) => Error::not_found(format!("{}: {}", error.message(), why.chain())),
                None => error,
            }
        })
    }

    pub(super) fn all<K: Kind>(&self) -> Vec<(String, Arc<K::Instance>)> {
        let started = self.started();
        let of_kind = started.iter().filter(|s| s.registration.kind == K::NAME);
        of_kind.map(|s| (s.registration.id.to_owned(), downcast::<K>(&s.instance))).collect()
    }
}

/// A handle on the outcomes.
#[derive(Clone)]
pub struct Report(Arc<Shared>);

impl Report {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(shared.clone())
    }

    /// All plugins in the order in which they were started.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.0.outcomes().clone()
    }
}

/// The plugins of one daemon.
pub struct Graph {
    shared: Arc<Shared>,
}

impl Graph {
    /// Puts registrations in order: by kind and id, then each behind all plugins of the kinds it requires. A cycle is
    /// an error that names its members.
    pub fn order(registrations: Vec<&'static Registration>) -> Result<Vec<&'static Registration>> {
        let mut waiting = registrations;
        waiting.sort_by_key(|r| (r.kind, r.id));
        if let Some(twice) = waiting.windows(2).find(|w| (w[0].kind, w[0].id) == (w[1].kind, w[1].id)) {
            return Err(Error::internal(format!("plugin {} is registered twice", twice[0].uri())));
        }
        let mut ordered = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let open: HashSet<&str> = waiting.iter().map(|r| r.kind).collect();
            let blocked = |r: &&Registration| r.requires.iter().any(|k| open.contains(k) && *k != r.kind);
            let (later, now): (Vec<&'static Registration>, Vec<_>) = waiting.into_iter().partition(blocked);
            if now.is_empty() {
                let names: Vec<_> = later.iter().map(|r| r.uri()).collect();
                return Err(Error::internal(format!(
                    "plugins require each other in a circle: {}",
                    names.join(", ")
                )));
            }
            ordered.extend(now);
            waiting = later;
        }
        Ok(ordered)
    }

    /// Starts `registrations` in order. A failure is kept for the report and does not stop the others, unless the
    /// plugin is required or vital. Blocks; call it inside a tokio runtime on a blocking thread.
    pub fn start(registrations: Vec<&'static Registration>, options: Options) -> Result<Self> {
        let ordered = Self::order(registrations)?;
        let known = |uri: &String| ordered.iter().any(|r| r.uri() == *uri);
        if let Some(missing) = options.required.iter().find(|uri| !known(uri)) {
            return Err(Error::not_found(format!("required plugin {missing} is not in this build")));
        }
        for uri in options.disabled.iter().filter(|uri| !known(uri)) {
            tracing::info!(plugin = %uri, "configuration disables a plugin that this build does not have");
        }
        let shared = Shared { options, started: Mutex::default(), outcomes: Mutex::default() };
        let graph = Self { shared: Arc::new(shared) };
        for registration in ordered {
            let required = graph.shared.options.required.contains(&registration.uri());
            if graph.shared.options.disabled.contains(&registration.uri()) {
                if required {
                    graph.close();
                    return Err(Error::invalid(format!(
                        "plugin {} is both required and disabled",
                        registration.uri()
                    )));
                }
                continue;
            }
            if let Err(error) = graph.start_one(registration)
                && (required || registration.vital)
            {
                graph.close();
                return Err(Error::precondition(format!(
                    "required plugin {} did not start: {}",
                    registration.uri(),
                    error.chain()
                )));
            }
        }
        Ok(graph)
    }

    fn start_one(&self, registration: &'static Registration) -> Result<(), Arc<Error>> {
        let config = self.shared.options.configs.get(&registration.uri()).cloned().unwrap_or_default();
        let ctx = InitContext {
            shared: self.shared.clone(),
            kind: registration.kind,
            id: registration.id,
            config,
            meta: Mutex::default(),
        };
        let begun = std::time::Instant::now();
        // A plugin that panics is one that failed; what it leaves behind is its own.
        let init = std::panic::AssertUnwindSafe(|| (registration.init)(&ctx));
        let result = std::panic::catch_unwind(init)
            .unwrap_or_else(|_| {
                Err(Error::internal(format!("plugin {} panicked while it started", registration.uri())))
            })
            .map_err(Arc::new);
        let skipped = result
            .as_ref()
            .err()
            .is_some_and(|e| std::error::Error::source(&**e).is_some_and(|s| s.is::<Skip>()));
        let uri = registration.uri();
        match &result {
            Ok(_) => tracing::debug!(plugin = %uri, elapsed = ?begun.elapsed(), "plugin started"),
            Err(error) if skipped => tracing::info!(plugin = %uri, reason = %error, "plugin skipped"),
            Err(error) => tracing::warn!(plugin = %uri, error = %error.chain(), "plugin did not start"),
        }
        self.shared.outcomes().push(Outcome {
            kind: registration.kind,
            id: registration.id,
            requires: registration.requires,
            meta: ctx.meta.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
            error: result.as_ref().err().cloned(),
            skipped,
        });
        self.shared.started().push(Started { registration, instance: result? });
        Ok(())
    }

    pub fn get<K: Kind>(&self, id: &str) -> Result<Arc<K::Instance>> {
        self.shared.get::<K>(id)
    }

    pub fn all<K: Kind>(&self) -> Vec<(String, Arc<K::Instance>)> {
        self.shared.all::<K>()
    }

    pub fn report(&self) -> Report {
        Report::new(&self.shared)
    }

    /// Closes all started plugins in reverse order. Running it twice is harmless.
    pub fn close(&self) {
        loop {
            // The list stays unlocked while a plugin closes: it may still ask for others.
            let Some(last) = self.shared.started().pop() else { return };
            (last.registration.close)(&last.instance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Plugin;
    use super::*;

    trait Noun: Send + Sync {
        fn name(&self) -> String;
    }
    macro_rules! kind {
        ($name:ident, $string:literal) => {
            struct $name;
            impl Kind for $name {
                const NAME: &'static str = $string;
                type Instance = dyn Noun;
            }
        };
    }
    kind!(A, "a");
    kind!(B, "b");

    struct Thing(String);
    impl Noun for Thing {
        fn name(&self) -> String {
            self.0.clone()
        }
    }

    static CLOSED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Late;
    impl Plugin for Late {
        type Kind = A;
        const ID: &'static str = "late";
        const REQUIRES: &'static [&'static str] = &["b"];
        fn init(ctx: &InitContext) -> Result<Arc<dyn Noun>> {
            Ok(Arc::new(Thing(format!("late after {}", ctx.get::<B>("early")?.name()))))
        }
        fn close(instance: &(dyn Noun + 'static)) {
            CLOSED.lock().unwrap().push(instance.name());
        }
    }
    struct Early;
    impl Plugin for Early {
        type Kind = B;
        const ID: &'static str = "early";
        fn init(_: &InitContext) -> Result<Arc<dyn Noun>> {
            Ok(Arc::new(Thing("early".into())))
        }
        fn close(instance: &(dyn Noun + 'static)) {
            CLOSED.lock().unwrap().push(instance.name());
        }
    }
    struct Broken;
    impl Plugin for Broken {
        type Kind = B;
        const ID: &'static str = "broken";
        fn init(_: &InitContext) -> Result<Arc<dyn Noun>> {
            Err(Error::unavailable("no luck"))
        }
    }
    struct Panicking;
    impl Plugin for Panicking {
        type Kind = B;
        const ID: &'static str = "panicking";
        fn init(_: &InitContext) -> Result<Arc<dyn Noun>> {
            panic!("a bug")
        }
    }
    struct Skipped;
    impl Plugin for Skipped {
        type Kind = B;
        const ID: &'static str = "skipped";
        fn init(_: &InitContext) -> Result<Arc<dyn Noun>> {
            Err(InitContext::skip("not on this machine"))
        }
    }
    struct Circle;
    impl Plugin for Circle {
        type Kind = B;
        const ID: &'static str = "circle";
        const REQUIRES: &'static [&'static str] = &["a"];
        fn init(_: &InitContext) -> Result<Arc<dyn Noun>> {
            Err(Error::internal("never reached"))
        }
    }

    static ALL: [Registration; 4] = [
        Registration::of::<Late>(),
        Registration::of::<Broken>(),
        Registration::of::<Skipped>(),
        Registration::of::<Early>(),
    ];
    static PANICKING: Registration = Registration::of::<Panicking>();
    static CIRCLE: Registration = Registration::of::<Circle>();

    #[test]
    fn plugins_start_in_order_and_close_in_reverse() {
        let graph = Graph::start(ALL.iter().collect(), Options::default()).unwrap();
        assert_eq!(graph.get::<A>("late").unwrap().name(), "late after early");
        let outcomes = graph.report().outcomes();
        let of = |id| outcomes.iter().find(|o| o.id == id).unwrap();
        assert!(of("broken").error.is_some() && !of("broken").skipped);
        assert!(of("skipped").skipped);
        assert!(graph.get::<B>("broken").err().unwrap().chain().contains("no luck"));
        graph.close();
        assert_eq!(*CLOSED.lock().unwrap(), ["late after early", "early"]);
    }

    #[test]
    fn a_panic_is_a_failure_of_its_plugin_alone() {
        let graph = Graph::start(vec![&PANICKING, &ALL[3]], Options::default()).unwrap();
        assert!(graph.get::<B>("panicking").err().unwrap().chain().contains("panicked"));
        assert!(graph.get::<B>("early").is_ok());
    }

    #[test]
    fn a_circle_is_an_error() {
        let all = vec![&ALL[0], &CIRCLE];
        let error = Graph::order(all).err().unwrap();
        assert!(error.message().contains("a.late, b.circle"), "{error}");
    }

    struct Heart;
    impl Plugin for Heart {
        type Kind = A;
        const ID: &'static str = "heart";
        const VITAL: bool = true;
        fn init(_: &InitContext) -> Result<Arc<dyn Noun>> {
            Err(Error::unavailable("the disk is full"))
        }
    }
    static HEART: Registration = Registration::of::<Heart>();

    #[test]
    fn without_a_vital_plugin_nothing_starts() {
        let error = Graph::start(vec![&HEART, &ALL[3]], Options::default()).err().unwrap();
        assert!(
            error.message().contains("a.heart") && error.message().contains("the disk is full"),
            "{error}"
        );
        let disabled = Options { disabled: vec!["a.heart".into()], ..Options::default() };
        assert!(Graph::start(vec![&HEART, &ALL[3]], disabled).unwrap().get::<B>("early").is_ok());
    }

    #[test]
    fn required_and_disabled_are_kept() {
        let options = |required: &str, disabled: &str| Options {
            required: vec![required.into()],
            disabled: vec![disabled.into()],
            ..Options::default()
        };
        let broken = || vec![&ALL[1], &ALL[3]];
        assert!(Graph::start(broken(), options("b.broken", "")).is_err());
        assert!(Graph::start(broken(), options("b.nowhere", "")).is_err());
        let disabled = Options { disabled: vec!["b.early".into()], ..Options::default() };
        let graph = Graph::start(broken(), disabled).unwrap();
        assert!(graph.get::<B>("early").is_err());
    }
}
