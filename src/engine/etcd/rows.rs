//! [`RowCache`]: rows as they were read, so that a transaction need not ask the cluster for those that did not
//! change since.

use std::sync::Arc;

use foldhash::quality::RandomState;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::seen::Seen;
use crate::engine::RowHash;
use crate::format::Row;

/// What an entry takes besides its bytes, about.
const ENTRY_BYTES: usize = 160;

/// What an entry takes usually; only for the first size of the tables.
const ENTRY_BYTES_USUAL: usize = 320;

/// A row as it was at some revision; it has no value if it was not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) value: Option<Arc<[u8]>>,
    /// The revision that made it so; 0 if it was not there.
    pub(super) modified: u64,
    /// It was so at this revision.
    pub(super) known_at: u64,
}

/// Nothing is removed because it changed: a row is used if it is sure that it did not.
pub(super) struct RowCache(Option<Cache<Row, Known, Weigh, RandomState>>);

#[derive(Clone)]
struct Weigh;

impl Weighter<Row, Known> for Weigh {
    fn weight(&self, row: &Row, known: &Known) -> u64 {
        (ENTRY_BYTES + 2 * row.len() + known.value.as_ref().map_or(0, |value| value.len())) as u64
    }
}

impl RowCache {
    /// With at most so many bytes; none if that is 0.
    pub(super) fn new(bytes: usize) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(bytes / ENTRY_BYTES_USUAL)
            .weight_capacity(bytes as u64)
            .build();
        Self(options.ok().filter(|_| bytes > 0).map(|options| {
            Cache::with_options(options, Weigh, RandomState::default(), DefaultLifecycle::default())
        }))
    }

    /// The row as it was at this revision, if that is known.
    pub(super) fn get(&self, row: &[u8], at: u64, seen: &Seen) -> Option<Known> {
        let known = self.0.as_ref()?.get(row)?;
        let is_it = (known.value.is_some() && known.modified <= at && at <= known.known_at)
            || seen.unchanged(RowHash::of(row), known.known_at, at);
        is_it.then_some(known)
    }

    /// Keeps what is known of a row, unless more is.
    pub(super) fn keep(&self, row: &[u8], known: Known) {
        let Some(cache) = &self.0 else { return };
        if cache.peek(row).is_none_or(|former| former.known_at < known.known_at) {
            cache.insert(row.to_vec(), known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::etcd::seen::Chapter;

    #[test]
    fn a_row_is_used_where_it_is_sure_to_be_the_same() {
        let (cache, seen) = (RowCache::new(1 << 20), Seen::new(Chapter { number: 0, start: 1 }));
        let there = Known { value: Some(b"value"[..].into()), modified: 4, known_at: 8 };
        let absent = Known { value: None, modified: 0, known_at: 8 };
        cache.keep(b"there", there.clone());
        cache.keep(b"absent", absent.clone());
        for (at, known) in [(3, false), (4, true), (8, true), (9, false)] {
            assert_eq!(cache.get(b"there", at, &seen).is_some(), known, "{at}");
        }
        assert_eq!(cache.get(b"absent", 7, &seen), None, "it may have been deleted since");
        seen.begin_at(8);
        assert_eq!(cache.get(b"absent", 8, &seen), Some(absent));
        assert_eq!(cache.get(b"other", 8, &seen), None);
        cache.keep(b"there", Known { known_at: 7, ..there.clone() });
        assert_eq!(cache.get(b"there", 8, &seen), Some(there), "what is known longer stays");
    }

    #[test]
    fn without_memory_nothing_is_kept() {
        let (cache, seen) = (RowCache::new(0), Seen::new(Chapter { number: 0, start: 1 }));
        cache.keep(b"row", Known { value: None, modified: 0, known_at: 8 });
        seen.begin_at(8);
        assert_eq!(cache.get(b"row", 8, &seen), None);
    }
}
