//! What the service counts, for Prometheus.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// The counters of one service.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    store_seconds: Histogram,
    pub(crate) requests_in_work: IntGauge,
    pub(crate) unauthenticated: IntCounter,
    pub(crate) first_keys_absent: IntGauge,
    pub(crate) keys_purged: IntCounter,
    pub(crate) materials_expired: IntCounter,
    pub(crate) outcomes_pruned: IntCounter,
    pub(crate) sweeps_failed: IntCounter,
    pub(crate) sweep_damages: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let unauthenticated = counter("kms_unauthenticated_total", "Requests without a right signature")?;
        let keys_purged = counter("kms_keys_purged_total", "Keys that the sweeper purged")?;
        let materials_expired = counter("kms_materials_expired_total", "Key materials that expired")?;
        let outcomes_pruned = counter("kms_outcomes_pruned_total", "Outcomes of requests forgotten")?;
        let sweeps_failed = counter("kms_sweeps_failed_total", "Sweeps that failed")?;
        let sweep_damages = counter("kms_sweep_damages_total", "Damage that sweeps passed over")?;
        let labels = ["method", "path", "status"];
        let requests = IntCounterVec::new(Opts::new("kms_requests_total", "Requests answered"), &labels)?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("kms_request_seconds", "The time of a request, with its waiting"),
            &labels[..2],
        )?;
        let store_seconds = Histogram::with_opts(HistogramOpts::new(
            "kms_store_call_seconds",
            "The time of a call of the store, without waiting for a thread",
        ))?;
        let requests_in_work = IntGauge::new("kms_requests_in_work", "Requests in work or waiting")?;
        let first_keys_absent = IntGauge::new(
            "kms_first_keys_absent",
            "Keys of the configuration that are absent from projects in use, at the start or since",
        )?;
        registry.register(Box::new(first_keys_absent.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(store_seconds.clone()))?;
        registry.register(Box::new(requests_in_work.clone()))?;
        Ok(Self {
            registry,
            requests,
            seconds,
            store_seconds,
            requests_in_work,
            unauthenticated,
            first_keys_absent,
            keys_purged,
            materials_expired,
            outcomes_pruned,
            sweeps_failed,
            sweep_damages,
        })
    }

    /// A request was answered. The path is that of its route, so that there are few of them.
    pub(crate) fn answered(&self, method: &str, path: &str, status: u16, time: Duration) {
        self.requests.with_label_values(&[method, path, &status.to_string()]).inc();
        self.seconds.with_label_values(&[method, path]).observe(time.as_secs_f64());
    }

    pub(crate) fn store_called(&self, time: Duration) {
        self.store_seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
