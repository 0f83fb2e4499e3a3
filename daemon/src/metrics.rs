//! Counters of what the daemon serves, in Prometheus' text form, under the names that dashboards of gRPC servers use.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::process;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    grpc_service: String,
    grpc_method: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Handled {
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
}

pub struct Metrics {
    registry: Registry,
    started: Family<Method, Counter>,
    handled: Family<Handled, Counter>,
    /// Only where configuration asks for it: it is large.
    seconds: Option<Family<Method, Histogram>>,
    connections: Gauge,
    resident: Gauge<u64, AtomicU64>,
    files: Gauge<u64, AtomicU64>,
    threads: Gauge<u64, AtomicU64>,
    tasks: Gauge<u64, AtomicU64>,
}

impl Metrics {
    pub fn new(histogram: bool) -> Arc<Self> {
        let mut registry = Registry::default();
        let started = Family::<Method, Counter>::default();
        let handled = Family::<Handled, Counter>::default();
        registry.register("grpc_server_started", "RPCs begun", started.clone());
        registry.register("grpc_server_handled", "RPCs ended, by code", handled.clone());
        let seconds = histogram.then(|| {
            let buckets =
                || Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
            let family = Family::<Method, Histogram>::new_with_constructor(buckets);
            registry.register("grpc_server_handling_seconds", "Time that RPCs took", family.clone());
            family
        });
        let connections = Gauge::default();
        registry.register("windlass_connections", "Open client connections", connections.clone());
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::<u64, AtomicU64>::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let resident = gauge("process_resident_memory_bytes", "Resident memory in bytes");
        let files = gauge("process_open_fds", "Open file descriptors");
        let threads = gauge("process_threads", "Threads");
        let tasks = gauge("windlass_tasks_alive", "Asynchronous tasks alive");
        let begun = gauge("process_start_time_seconds", "Start of the daemon in seconds since 1970");
        begun.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()));
        Arc::new(Self { registry, started, handled, seconds, connections, resident, files, threads, tasks })
    }

    pub fn started(&self, service: &str, method: &str) {
        self.started.get_or_create(&Self::method(service, method)).inc();
    }

    pub fn handled(&self, service: &str, method: &str, code: tonic::Code, elapsed: Duration) {
        let labels =
            Handled { grpc_service: service.into(), grpc_method: method.into(), grpc_code: code_name(code) };
        self.handled.get_or_create(&labels).inc();
        if let Some(seconds) = &self.seconds {
            seconds.get_or_create(&Self::method(service, method)).observe(elapsed.as_secs_f64());
        }
    }

    fn method(service: &str, method: &str) -> Method {
        Method { grpc_service: service.into(), grpc_method: method.into() }
    }

    pub fn connected(&self) {
        self.connections.inc();
    }

    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// Everything as text.
    pub fn render(&self) -> String {
        let usage = process::usage();
        self.resident.set(usage.resident);
        self.files.set(usage.files);
        self.threads.set(usage.threads);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.tasks.set(runtime.metrics().num_alive_tasks() as u64);
        }
        let mut text = String::new();
        // A String takes whatever is written to it.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code as C;
    match code {
        C::Ok => "OK",
        C::Cancelled => "Canceled",
        C::Unknown => "Unknown",
        C::InvalidArgument => "InvalidArgument",
        C::DeadlineExceeded => "DeadlineExceeded",
        C::NotFound => "NotFound",
        C::AlreadyExists => "AlreadyExists",
        C::PermissionDenied => "PermissionDenied",
        C::ResourceExhausted => "ResourceExhausted",
        C::FailedPrecondition => "FailedPrecondition",
        C::Aborted => "Aborted",
        C::OutOfRange => "OutOfRange",
        C::Unimplemented => "Unimplemented",
        C::Internal => "Internal",
        C::Unavailable => "Unavailable",
        C::DataLoss => "DataLoss",
        C::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted() {
        let metrics = Metrics::new(true);
        metrics.started("a.B", "Get");
        metrics.handled("a.B", "Get", tonic::Code::NotFound, Duration::from_millis(3));
        let text = metrics.render();
        for want in [
            "grpc_server_started_total{grpc_service=\"a.B\",grpc_method=\"Get\"} 1",
            "grpc_server_handled_total{grpc_service=\"a.B\",grpc_method=\"Get\",grpc_code=\"NotFound\"} 1",
            "grpc_server_handling_seconds_count",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(want), "{want} is not in {text}");
        }
    }
}
