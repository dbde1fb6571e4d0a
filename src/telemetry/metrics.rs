//! Every metric of the gateway, in one struct. The help texts are the reference of the metrics.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use prometheus::{
    Counter, CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::{Observer, Record};
use crate::types::{NanoUsd, Usage};

/// Bucket bounds in seconds from 100 µs to 10 min, each a third above the one before, so that a percentile read from them
/// is off by at most a third of its value.
fn duration_buckets() -> Vec<f64> {
    let mut bounds = Vec::new();
    let mut bound: f64 = 0.000_1;
    while bound < 600.0 {
        bounds.push(bound);
        bound *= 4.0 / 3.0;
    }
    bounds.push(600.0);
    bounds
}

/// The gateway's metrics. Label values come from closed sets: endpoints, configured routes and providers, statuses.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    first_byte: HistogramVec,
    attempts: IntCounterVec,
    attempt_seconds: HistogramVec,
    in_flight: IntGauge,
    open: AtomicI64,
    tokens: IntCounterVec,
    cost: CounterVec,
    unpriced: IntCounterVec,
    errors: IntCounterVec,
    interrupted: IntCounterVec,
    doubted: IntCounterVec,
    reloads: IntCounterVec,
    certificates: IntGaugeVec,
    limited: IntCounterVec,
    budget_refused: IntCounter,
    budget_held: IntCounter,
    stopped: IntCounter,
    beyond: Counter,
    budgets: GaugeVec,
    ledger_up: IntGaugeVec,
    ledger_waiting: IntGauge,
    ledger_entries: IntCounter,
    objects: IntGaugeVec,
    objects_forgotten: IntCounter,
    unrecorded: IntCounter,
    access_dropped: IntCounter,
    database_lost: IntCounter,
    alerts: IntCounter,
    cache_requests: IntCounterVec,
    cache_bypassed: IntCounterVec,
    translations: IntCounterVec,
    cache_saved: Counter,
    cache_bytes: IntGaugeVec,
    cache_entries: IntGauge,
    cache_flights: IntGauge,
    cache_disk_errors: IntCounter,
    connections: IntGaugeVec,
    connections_closed: IntCounterVec,
    connections_refused: IntCounterVec,
    memory_bytes: IntGaugeVec,
    stored_responses: IntGauge,
    memory_waiting: IntGauge,
    memory_waits: IntCounter,
    memory_refused: IntCounter,
}

/// Counts one open request until it is dropped.
pub struct InFlight(std::sync::Arc<Metrics>);

impl InFlight {
    /// Counts a request as open.
    pub fn enter(metrics: &std::sync::Arc<Metrics>) -> Self {
        metrics.in_flight.inc();
        metrics.open.fetch_add(1, Ordering::SeqCst);
        Self(metrics.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Metrics {
    /// Creates all metrics in a new registry.
    ///
    /// # Errors
    /// Two metrics share a name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let histogram = |name: &str, help: &str, labels: &[&str]| -> Result<HistogramVec, prometheus::Error> {
            let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(duration_buckets()), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let in_flight = IntGauge::new("can_requests_in_flight", "Requests that are open now.")?;
        registry.register(Box::new(in_flight.clone()))?;
        let cost = CounterVec::new(
            Opts::new("can_cost_usd_total", "Cost of finished requests in US dollars, by the price catalogue."),
            &["provider", "model"],
        )?;
        registry.register(Box::new(cost.clone()))?;
        let budgets = GaugeVec::new(
            Opts::new(
                "can_budget_usd",
                "Budgets of the configured tenants in US dollars, as of the scrape. `part`: limit, spent, reserved.",
            ),
            &["tenant", "period", "part"],
        )?;
        registry.register(Box::new(budgets.clone()))?;
        let ledger_up = IntGaugeVec::new(
            Opts::new("can_ledger_up", "1 while it can be written. `part`: database, journal, tokens."),
            &["part"],
        )?;
        registry.register(Box::new(ledger_up.clone()))?;
        let certificates = IntGaugeVec::new(
            Opts::new(
                "can_tls_certificate_expires_timestamp_seconds",
                "When the certificate in force ends, in seconds since 1970, by the address of its listener.",
            ),
            &["listener"],
        )?;
        registry.register(Box::new(certificates.clone()))?;
        let objects = IntGaugeVec::new(
            Opts::new(
                "can_objects",
                "Objects of the providers whose owner is known. `part`: known, waiting (not in the database yet).",
            ),
            &["part"],
        )?;
        registry.register(Box::new(objects.clone()))?;
        let connections = IntGaugeVec::new(
            Opts::new(
                "can_connections",
                "Connections of clients, as of the scrape. `part`: busy (a request is served), waiting (for one), limit.",
            ),
            &["part"],
        )?;
        registry.register(Box::new(connections.clone()))?;
        let ledger_waiting = IntGauge::new("can_ledger_waiting_entries", "Entries that are not in the database yet.")?;
        registry.register(Box::new(ledger_waiting.clone()))?;
        let beyond = Counter::new(
            "can_beyond_reservation_usd_total",
            "What providers charged above the reserved worst case, in US dollars.",
        )?;
        registry.register(Box::new(beyond.clone()))?;
        let cache_saved =
            Counter::new("can_cache_saved_usd_total", "What replies from the cache would have cost, in US dollars.")?;
        registry.register(Box::new(cache_saved.clone()))?;
        let cache_bytes = IntGaugeVec::new(
            Opts::new(
                "can_cache_bytes",
                "Bytes of the completion cache, as of the scrape. `tier`: memory, disk. `part`: used, limit.",
            ),
            &["tier", "part"],
        )?;
        registry.register(Box::new(cache_bytes.clone()))?;
        let memory_bytes = IntGaugeVec::new(
            Opts::new(
                "can_memory_budget_bytes",
                "Bytes of the memory budget, as of the scrape. `part`: bodies of requests, work (what is built from them), replies that are held, stored_responses (kept for later requests), limit.",
            ),
            &["part"],
        )?;
        registry.register(Box::new(memory_bytes.clone()))?;
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let single = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        Ok(Self {
            cache_requests: counter(
                "can_cache_requests_total",
                "Requests by what the cache did: HIT and STALE were served from it, MISS was not there, BYPASS is not cached.",
                &["result", "model"],
            )?,
            cache_bypassed: counter(
                "can_cache_bypassed_total",
                "Requests that may not be cached, by reason.",
                &["reason"],
            )?,
            translations: counter(
                "can_translations_total",
                "Requests translated into a provider's dialect: whole, lossy (something was dropped) or refused.",
                &["endpoint", "provider", "outcome"],
            )?,
            cache_saved,
            cache_bytes,
            cache_entries: gauge("can_cache_memory_entries", "Replies in memory, as of the scrape.")?,
            cache_flights: gauge(
                "can_cache_flights",
                "Flights: replies being generated that identical requests share, as of the scrape.",
            )?,
            memory_bytes,
            stored_responses: gauge(
                "can_stored_responses",
                "Responses kept for providers without the Responses API, as of the scrape.",
            )?,
            memory_waiting: gauge(
                "can_memory_budget_waiting",
                "Requests that wait for room in the memory budget, as of the scrape.",
            )?,
            memory_waits: single(
                "can_memory_budget_waits_total",
                "Requests that had to wait for room in the memory budget.",
            )?,
            memory_refused: single(
                "can_memory_budget_refused_total",
                "Times that the memory budget had no room for something.",
            )?,
            cache_disk_errors: single(
                "can_cache_disk_errors_total",
                "Reads and writes of the cache's disk that failed or took too long; each is a miss.",
            )?,
            connections,
            connections_closed: counter(
                "can_connections_closed_total",
                "Connections of clients that the gateway closed. `cause`: header_timeout, idle_timeout, made_room (another one \
                 needed its place), drained (the gateway ends).",
                &["cause"],
            )?,
            connections_refused: counter(
                "can_connections_refused_total",
                "Connections that were refused because all others were serving a request. `bound`: all, address.",
                &["bound"],
            )?,
            limited: counter(
                "can_rate_limited_total",
                "Requests refused by a limit of their tenant or token. `limit`: requests_per_second, requests_per_minute, tokens_per_minute, usd_per_minute, concurrent_requests.",
                &["limit"],
            )?,
            budget_refused: single(
                "can_budget_refused_total",
                "Requests refused because a budget did not have enough left.",
            )?,
            budget_held: single(
                "can_budget_held_total",
                "Requests refused for the moment because what is left in a budget was held for requests under way.",
            )?,
            stopped: single(
                "can_streams_stopped_total",
                "Streams ended by the gateway because their budget was used up.",
            )?,
            ledger_entries: single(
                "can_ledger_entries_total",
                "Requests written to the database: as an entry, or counted if they cost nothing and reached no provider.",
            )?,
            objects,
            objects_forgotten: single(
                "can_objects_forgotten_total",
                "Objects whose owner was forgotten because there were too many; they belong to nobody from then on.",
            )?,
            database_lost: single(
                "can_database_lost_total",
                "How often the database file was deleted or replaced under the process; it went on in a fresh one.",
            )?,
            access_dropped: single(
                "can_access_log_dropped_total",
                "Lines of the access log that were dropped because standard error did not take them in time.",
            )?,
            unrecorded: single(
                "can_ledger_unrecorded_requests_total",
                "Requests without a cost that got no entry, because memory had no room for more waiting entries.",
            )?,
            alerts: single("can_budget_alerts_total", "Alert thresholds that budgets have crossed.")?,
            beyond,
            budgets,
            ledger_up,
            ledger_waiting,
            requests: counter(
                "can_requests_total",
                "Finished requests. `model` is the configured route, `status` 499 a client that left.",
                &["endpoint", "model", "provider", "status"],
            )?,
            duration: histogram(
                "can_request_duration_seconds",
                "Time from the request's header to the reply's last byte.",
                &["endpoint", "provider"],
            )?,
            first_byte: histogram(
                "can_time_to_first_byte_seconds",
                "Time from the request's header to the reply's first byte.",
                &["endpoint", "provider"],
            )?,
            attempts: counter(
                "can_upstream_attempts_total",
                "Attempts at a provider. `outcome` is its status, or connect_error, timeout, interrupted.",
                &["provider", "outcome"],
            )?,
            attempt_seconds: histogram(
                "can_upstream_response_seconds",
                "Time from the start of an attempt to the provider's response header.",
                &["provider"],
            )?,
            tokens: counter(
                "can_tokens_total",
                "LLM tokens as providers counted them. `kind`: prompt, cached, completion, reasoning; cached is part of prompt, reasoning of completion.",
                &["provider", "model", "kind"],
            )?,
            unpriced: counter(
                "can_unpriced_requests_total",
                "Finished requests whose model has no price: they carry no cost.",
                &["provider", "model"],
            )?,
            errors: counter(
                "can_errors_total",
                "Errors the gateway answered itself. `blame`: client, provider, gateway.",
                &["code", "blame"],
            )?,
            interrupted: counter(
                "can_streams_interrupted_total",
                "Streams that broke off before their end.",
                &["provider"],
            )?,
            doubted: counter(
                "can_usage_doubted_total",
                "Replies whose count of tokens was not possible, and was settled at the request's bound.",
                &["provider"],
            )?,
            reloads: counter(
                "can_config_reloads_total",
                "Reloads of the configuration. `outcome`: applied, refused.",
                &["outcome"],
            )?,
            certificates,
            in_flight,
            open: AtomicI64::new(0),
            cost,
            registry,
        })
    }

    /// All metrics in the text exposition format of Prometheus.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to a Vec cannot fail; an encoding fault would leave the text cut, never a panic.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    /// The exact number of open requests (the gauge `in_flight` is for scraping).
    pub fn open_requests(&self) -> i64 {
        self.open.load(Ordering::SeqCst)
    }

    /// Counts an attempt that got a status, with its duration.
    pub fn attempt_answered(&self, provider: &str, status: u16, after: Duration) {
        let code = status_code(status);
        self.attempts.with_label_values(&[provider, code.as_str()]).inc();
        self.attempt_seconds.with_label_values(&[provider]).observe(after.as_secs_f64());
    }

    /// Counts an attempt that ended without a status: `connect_error`, `timeout` or `interrupted`.
    pub fn attempt_failed(&self, provider: &str, outcome: &'static str) {
        self.attempts.with_label_values(&[provider, outcome]).inc();
    }

    /// Counts an error that the gateway answered itself.
    pub fn error(&self, code: &str, blame: &str) {
        self.errors.with_label_values(&[code, blame]).inc();
    }

    /// Counts a stream that broke off before its proper end.
    pub fn stream_interrupted(&self, provider: &str) {
        self.interrupted.with_label_values(&[provider]).inc();
    }

    /// Counts a request that a limit refused.
    pub fn limited(&self, limit: &'static str) {
        self.limited.with_label_values(&[limit]).inc();
    }

    /// Counts a request that a budget refused.
    pub fn budget_refused(&self) {
        self.budget_refused.inc();
    }

    /// Counts a request that was refused because requests under way hold what is left in a budget.
    pub fn budget_held(&self) {
        self.budget_held.inc();
    }

    /// Counts a stream that was ended because its budget was used up.
    pub fn stream_stopped(&self) {
        self.stopped.inc();
    }

    /// Sets the state of one budget: limit, spent, reserved.
    pub fn budget(&self, tenant: &str, period: &str, parts: [NanoUsd; 3]) {
        for (part, amount) in ["limit", "spent", "reserved"].into_iter().zip(parts) {
            self.budgets.with_label_values(&[tenant, period, part]).set(amount.0 as f64 / 1e9);
        }
    }

    /// A line of the access log was dropped.
    pub fn access_line_dropped(&self) {
        self.access_dropped.inc();
    }

    /// How the ledger is: what can be written, what waits, and its totals: entries, alerts, requests without an entry, files lost. The budgets follow, each anew.
    pub fn ledger(&self, up: [(&'static str, bool); 3], waiting: usize, totals: [u64; 4]) {
        for (part, up) in up {
            self.ledger_up.with_label_values(&[part]).set(i64::from(up));
        }
        // Budgets that are no longer configured must not stay.
        self.budgets.reset();
        self.ledger_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        // The totals are counted elsewhere, so the counters get the difference. Only two scrapes that read a counter at the
        // same moment could add the same difference twice.
        let counters = [&self.ledger_entries, &self.alerts, &self.unrecorded, &self.database_lost];
        for (counter, total) in counters.into_iter().zip(totals) {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// Sets the number of objects of providers whose owner is known, and of those not yet written, and the total of forgotten
    /// ones.
    pub fn objects(&self, known: usize, waiting: usize, forgotten: u64) {
        for (part, count) in [("known", known), ("waiting", waiting)] {
            self.objects.with_label_values(&[part]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.objects_forgotten.inc_by(forgotten.saturating_sub(self.objects_forgotten.get()));
    }

    /// Counts a request that may not be cached, by reason; an empty reason stands for a request that may.
    pub fn cache_asked(&self, reason: &'static str) {
        if !reason.is_empty() {
            self.cache_bypassed.with_label_values(&[reason]).inc();
        }
    }

    /// Counts a translation of a request into a provider's dialect: `whole`, `lossy` or `refused`.
    pub fn translated(&self, endpoint: &'static str, provider: &str, outcome: &'static str) {
        self.translations.with_label_values(&[endpoint, provider, outcome]).inc();
    }

    /// Sets the state of the cache: bytes in memory and their limit, bytes on disk and their limit; entries, flights, errors so
    /// far.
    pub fn cache(&self, bytes: [u64; 4], entries: u64, flights: u64, disk_errors: u64) {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let parts = [("memory", "used"), ("memory", "limit"), ("disk", "used"), ("disk", "limit")];
        for ((tier, part), count) in parts.into_iter().zip(bytes) {
            self.cache_bytes.with_label_values(&[tier, part]).set(signed(count));
        }
        self.cache_entries.set(signed(entries));
        self.cache_flights.set(signed(flights));
        self.cache_disk_errors.inc_by(disk_errors.saturating_sub(self.cache_disk_errors.get()));
    }

    /// Sets the connections of clients (busy, waiting, limit), and the totals of closed and refused ones by label.
    pub fn connections(&self, parts: [usize; 3], closed: &[(&str, u64)], refused: &[(&str, u64)]) {
        for (part, count) in ["busy", "waiting", "limit"].into_iter().zip(parts) {
            self.connections.with_label_values(&[part]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (counters, counts) in [(&self.connections_closed, closed), (&self.connections_refused, refused)] {
            for (label, count) in counts {
                let counter = counters.with_label_values(&[label]);
                counter.inc_by(count.saturating_sub(counter.get()));
            }
        }
    }

    /// Sets when the certificate of a listener ends, in seconds since 1970.
    pub fn certificate_expires(&self, listener: &str, at: i64) {
        self.certificates.with_label_values(&[listener]).set(at);
    }

    /// Sets the number of stored responses.
    pub fn stored_responses(&self, count: usize) {
        self.stored_responses.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the state of the memory budget: bytes by part, requests that wait, and the totals of requests that waited and of
    /// refused ones.
    pub fn memory(
        &self,
        parts: impl Iterator<Item = (&'static str, u64)>,
        waiting: usize,
        [waits, refusals]: [u64; 2],
    ) {
        for (part, bytes) in parts {
            self.memory_bytes.with_label_values(&[part]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        self.memory_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.memory_waits.inc_by(waits.saturating_sub(self.memory_waits.get()));
        self.memory_refused.inc_by(refusals.saturating_sub(self.memory_refused.get()));
    }

    /// Counts a reload by its outcome: `applied` or `refused`.
    pub fn reload(&self, outcome: &'static str) {
        self.reloads.with_label_values(&[outcome]).inc();
    }
}

/// A status code whose text needs no allocation.
fn status_code(status: u16) -> http::StatusCode {
    http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR)
}

impl Observer for Metrics {
    fn finished(&self, record: &Record) {
        let Record { endpoint, route, asked, provider, .. } = record;
        let code = status_code(record.status);
        self.requests.with_label_values(&[endpoint, &**route, asked, code.as_str()]).inc();
        self.duration.with_label_values(&[endpoint, &**asked]).observe(record.duration.as_secs_f64());
        if let Some(after) = record.first_byte {
            self.first_byte.with_label_values(&[endpoint, &**asked]).observe(after.as_secs_f64());
        }
        if record.is_understood {
            self.cache_requests.with_label_values(&[record.cache, route]).inc();
        }
        if let Some(usage) = &record.usage {
            self.used(provider, route, usage, record.cost);
        }
        if record.saved > NanoUsd::ZERO {
            self.cache_saved.inc_by(record.saved.0 as f64 / 1e9);
        }
        if record.beyond > NanoUsd::ZERO {
            self.beyond.inc_by(record.beyond.0 as f64 / 1e9);
        }
        if record.doubted {
            self.doubted.with_label_values(&[&**provider]).inc();
        }
    }
}

impl Metrics {
    /// Counts the LLM tokens of a request, and their cost.
    fn used(&self, provider: &str, model: &str, usage: &Usage, cost: Option<NanoUsd>) {
        let kinds = [
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
            ("reasoning", usage.reasoning_tokens),
        ];
        for (kind, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
            self.tokens.with_label_values(&[provider, model, kind]).inc_by(count);
        }
        match cost {
            Some(cost) => self.cost.with_label_values(&[provider, model]).inc_by(cost.0 as f64 / 1e9),
            None => self.unpriced.with_label_values(&[provider, model]).inc(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::record;

    #[test]
    fn the_readme_lists_every_metric() {
        let (product, _) = include_str!("metrics.rs").split_once("#[cfg(test)]").unwrap();
        let names: std::collections::BTreeSet<&str> =
            product.split('"').filter(|text| text.starts_with("can_") && !text.contains(' ')).collect();
        assert!(names.len() > 40, "{names:?}");
        let readme = include_str!("../../README.md");
        let listed = |name: &str| ["`", "{"].iter().any(|end| readme.contains(&format!("`{name}{end}")));
        let missing: Vec<_> = names.iter().filter(|name| !listed(name)).collect();
        assert!(missing.is_empty(), "the README does not list {missing:?}");
    }

    #[test]
    fn every_metric_has_a_distinct_name_and_shows_up() {
        let metrics = Metrics::new().unwrap();
        metrics.finished(&Record {
            route: "gpt-4o".into(),
            usage: Some(Usage { prompt_tokens: 7, ..Usage::default() }),
            cost: Some(NanoUsd(1_500)),
            ..record("openai")
        });
        let text = String::from_utf8(metrics.encode()).unwrap();
        assert!(text.contains(
            "can_requests_total{endpoint=\"chat_completions\",model=\"gpt-4o\",provider=\"openai\",status=\"200\"} 1"
        ));
        assert!(text.contains("can_tokens_total{kind=\"prompt\",model=\"gpt-4o\",provider=\"openai\"} 7"));
        assert!(text.contains("can_cost_usd_total{model=\"gpt-4o\",provider=\"openai\"} 0.0000015"));
    }

    #[test]
    fn buckets_reach_from_100_microseconds_to_10_minutes_in_steps_of_a_third() {
        let bounds = duration_buckets();
        assert_eq!((bounds[0], bounds[bounds.len() - 1]), (0.000_1, 600.0));
        assert!(bounds.windows(2).all(|w| w[1] / w[0] <= 1.334));
    }
}
