//! Counters, histograms and gauges, for the crate `metrics`.

use std::time::Duration;

use metrics::Unit;

use super::{Call, Outcome};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! numbers {
    ($($id:ident: $kind:ident $name:literal $unit:ident $what:literal,)+) => {
        $(pub(crate) const $id: &str = $name;)+

        /// All there are: name, kind, unit and what it tells.
        const ALL: &[(&str, Kind, Unit, &str)] = &[$(($name, Kind::$kind, Unit::$unit, $what),)+];
    };
}

numbers! {
    READS: Counter "keystead_reads_total" Count "Reads that ended, by outcome",
    READ_SECONDS: Histogram "keystead_read_seconds" Seconds "The time of a read, its closure included",
    WRITES: Counter "keystead_writes_total" Count "Writes that ended, by outcome",
    WRITE_SECONDS: Histogram "keystead_write_seconds" Seconds "The time of a write, until it was durable",
    CALLS: Counter "keystead_calls_total" Count "Other calls that ended, by call and outcome",
    CALL_SECONDS: Histogram "keystead_call_seconds" Seconds "The time of such a call",
    OPERATIONS: Counter "keystead_operations_total" Count "Operations of transactions, by operation and outcome",
    REFUSALS: Counter "keystead_refusals_total" Count "Operations that were refused or failed, by code",
    REPLAYS: Counter "keystead_replays_total" Count "Repeated requests that got their answer of before",
    CONFLICTS: Counter "keystead_conflicts_total" Count "Transactions that met another one",
    LOG_COMMITS: Counter "keystead_log_commits_total" Count "Commits that became durable in the redo log",
    LOG_SYNC_SECONDS: Histogram "keystead_log_sync_seconds" Seconds "The time of a write to the redo log and its sync",
    CHECKPOINT_SECONDS: Histogram "keystead_checkpoint_seconds" Seconds "The time of a checkpoint",
    BUSY: Counter "keystead_busy_total" Count "Async calls refused because too many waited, by queue",
    QUEUE_SECONDS: Histogram "keystead_queue_seconds" Seconds "How long an async call waited for its turn, by queue",
    WATCHES: Counter "keystead_etcd_watches_total" Count "Watches on the cluster that were begun, the first and others",
    UNKNOWN: Counter "keystead_etcd_unknown_total" Count "Commits without an answer whether they were made",
    CACHE_HITS: Counter "keystead_cache_hits_total" Count "Records that were in the cache",
    CACHE_MISSES: Counter "keystead_cache_misses_total" Count "Records that had to be read",
    CACHE_BYTES: Gauge "keystead_cache_bytes" Bytes "The memory of cached records",
    CACHE_ENTRIES: Gauge "keystead_cache_entries" Count "Cached records",
    LOG_BEHIND: Gauge "keystead_log_behind_commits" Count "Commits in the redo log that the file has not yet",
    LOG_MEMORY: Gauge "keystead_log_memory_bytes" Bytes "The memory of their rows",
    LOG_FULL: Counter "keystead_log_full_waits_total" Count "Writes that waited for a checkpoint",
    PAGE_CHECKS: Counter "keystead_page_checks_total" Count "Checks of all pages of the table that came to their end",
    DAMAGED_PAGES: Gauge "keystead_damaged_pages" Count "Pages of the table that do not fit their checksums: more than 0 calls for an operator",
    LOCK_WAITS: Counter "keystead_lock_waits_total" Count "Locks of the file that another process held just then",
    LOCK_WAITING: Gauge "keystead_lock_waiting_seconds" Seconds "How long a call waits by now for a lock that another process holds: more than a second or two calls for an operator",
    SEEN_AGE: Gauge "keystead_etcd_seen_age_seconds" Seconds "How old what was seen of the cluster may be",
}

/// Tells the recorder of the crate `metrics` what each metric is, and its unit; by the feature `metrics`. To be
/// called once, when the recorder is installed.
pub fn describe_metrics() {
    for &(name, kind, unit, what) in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, unit, what),
            Kind::Gauge => metrics::describe_gauge!(name, unit, what),
            Kind::Histogram => metrics::describe_histogram!(name, unit, what),
        }
    }
}

pub(super) fn ended(call: Call, took: Duration, outcome: Outcome) {
    let (outcome, call_name) = (outcome.name(), call.name());
    match call {
        Call::Read => {
            metrics::counter!(READS, "outcome" => outcome).increment(1);
            metrics::histogram!(READ_SECONDS).record(took);
        }
        Call::Write => {
            metrics::counter!(WRITES, "outcome" => outcome).increment(1);
            metrics::histogram!(WRITE_SECONDS).record(took);
        }
        _ => {
            metrics::counter!(CALLS, "call" => call_name, "outcome" => outcome).increment(1);
            metrics::histogram!(CALL_SECONDS, "call" => call_name).record(took);
        }
    }
}

pub(super) fn operation(operation: &'static str, outcome: Outcome, code: Option<&'static str>) {
    metrics::counter!(OPERATIONS, "operation" => operation, "outcome" => outcome.name()).increment(1);
    if let Some(code) = code {
        metrics::counter!(REFUSALS, "code" => code).increment(1);
    }
}

pub(super) fn replayed() {
    metrics::counter!(REPLAYS).increment(1);
}

pub(super) fn conflict() {
    metrics::counter!(CONFLICTS).increment(1);
}

pub(super) fn log_synced(commits: u64, took: Duration) {
    metrics::counter!(LOG_COMMITS).increment(commits);
    metrics::histogram!(LOG_SYNC_SECONDS).record(took);
}

pub(super) fn checkpointed(took: Duration) {
    metrics::histogram!(CHECKPOINT_SECONDS).record(took);
}

pub(super) fn busy(queue: &'static str) {
    metrics::counter!(BUSY, "queue" => queue).increment(1);
}

pub(super) fn turn(queue: &'static str, waited: Duration) {
    metrics::histogram!(QUEUE_SECONDS, "queue" => queue).record(waited);
}

pub(super) fn watch_began() {
    metrics::counter!(WATCHES).increment(1);
}

pub(super) fn outcome_unknown() {
    metrics::counter!(UNKNOWN).increment(1);
}

/// What was counted elsewhere, all of it so far.
pub(crate) fn total(name: &'static str, so_far: u64) {
    metrics::counter!(name).absolute(so_far);
}

/// How much there is now.
pub(crate) fn gauge(name: &'static str, now: f64) {
    metrics::gauge!(name).set(now);
}
