//! What a store counts itself, handed to the recorder of the crate `metrics`.

use super::Store;
use crate::telemetry::numbers::{self, gauge, total};

impl Store {
    /// Hands [`stats`](Self::stats) to the recorder of the crate `metrics`, by the feature `metrics`: to be called
    /// from a timer, or when the metrics are asked for. They have no label: where a process has several stores,
    /// only one of them is to be recorded.
    pub fn record_stats(&self) {
        let stats = self.stats();
        total(numbers::CACHE_HITS, stats.cache.hits);
        total(numbers::CACHE_MISSES, stats.cache.misses);
        gauge(numbers::CACHE_BYTES, stats.cache.bytes as f64);
        gauge(numbers::CACHE_ENTRIES, stats.cache.entries as f64);
        if let Some(log) = stats.log {
            gauge(numbers::LOG_BEHIND, log.commits_behind as f64);
            gauge(numbers::LOG_MEMORY, log.memory_bytes as f64);
            total(numbers::LOG_FULL, log.waits_for_checkpoint);
        }
        if let Some(pages) = stats.pages {
            gauge(numbers::DAMAGED_PAGES, pages.damaged as f64);
            total(numbers::PAGE_CHECKS, pages.checks);
        }
        if let Some(locks) = stats.locks {
            total(numbers::LOCK_WAITS, locks.waits);
            gauge(numbers::LOCK_WAITING, locks.waiting.unwrap_or_default().as_secs_f64());
        }
        #[cfg(feature = "etcd")]
        if let Some(age) = stats.cluster.and_then(|cluster| cluster.age) {
            gauge(numbers::SEEN_AGE, age.as_secs_f64());
        }
    }
}
