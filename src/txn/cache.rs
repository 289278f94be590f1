//! [`Cache`]: decoded records of names that are asked for often, in bounded memory.
//!
//! Nothing is ever removed because it changed. Each entry says at which commit it was read, and a snapshot
//! uses it only if the engine says that its rows hold in this snapshot what they held then. So it does not
//! matter who put it there, when, or from which snapshot.

use std::cell::Cell;
use std::hash::{BuildHasher, Hash};
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use foldhash::quality::RandomState;
use quick_cache::sync::{Cache as Weighted, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::alias::AliasRecord;
use crate::engine::{ReadTransaction, RowHash};
use crate::id::{Commit, KeyId, Scope};
use crate::key::KeyRecord;

/// The most lanes of a cache: a record that all threads ask for is there once in each.
const LANES_MAX: usize = 4;

/// So many locks has a lane; fewer if it is small.
const LOCKS: usize = 8;

/// What an entry takes, besides its records: twice its place and its index, because tables double, and its
/// part of the names that were dropped, which are remembered for a while.
const ENTRY_BYTES: usize = 3 * (size_of::<Entry>() + 32);

/// What an allocation takes besides what is asked for: its two counts, and the allocator's own part.
const ALLOCATION_BYTES: usize = 32;

/// How much an entry takes, about; only for the first size of the tables.
const ENTRY_BYTES_USUAL: usize = 1024;

/// How a cache of decoded records has done since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheStats {
    /// Records that were asked for and were there.
    pub hits: u64,
    /// Records that were asked for and had to be read.
    pub misses: u64,
    /// The memory that the records take, in bytes.
    pub bytes: u64,
    /// How many there are.
    pub entries: u64,
}

/// What an entry is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Name<'a> {
    Key(KeyId),
    /// By its URN name, as its row.
    Alias(&'a str),
}

/// A record, and the row that it was read from.
#[derive(Debug)]
pub(crate) struct Known<T> {
    pub(super) record: Arc<T>,
    pub(super) row: RowHash,
}

/// What a name stands for: a key, or an alias and the key that it names.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(super) alias: Option<Known<AliasRecord>>,
    pub(super) key: Known<KeyRecord>,
    /// All of it was read from this commit.
    pub(super) read_at: Commit,
}

/// Records of all scopes, shared by all snapshots of a store.
///
/// Each thread keeps to one of a few lanes, so that threads on different cores do not write the same
/// locks, counters, and counts of references.
pub(crate) struct Cache {
    lanes: Box<[Lane]>,
    hasher: RandomState,
    /// For a test of the tests: believes every entry.
    #[cfg(test)]
    pub(crate) credulous: bool,
}

/// Its own cache lines, two at a time, as processors fetch them.
#[repr(align(128))]
struct Lane {
    /// By the hash of scope and name. What is found is compared with what was asked for.
    entries: Weighted<u64, Entry, Weigh, RandomState>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Clone)]
struct Weigh;

impl Cache {
    /// With at most so much memory. `None` if that is nothing.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        let lanes = thread::available_parallelism().map_or(1, usize::from).min(LANES_MAX);
        Self::with_lanes(bytes, lanes)
    }

    fn with_lanes(bytes: usize, lanes: usize) -> Option<Self> {
        let hasher = RandomState::default();
        let lane = || {
            let options = OptionsBuilder::new()
                .shards(LOCKS)
                .estimated_items_capacity(bytes / lanes / ENTRY_BYTES_USUAL)
                .weight_capacity((bytes / lanes) as u64)
                .build()
                .expect("both capacities are set");
            let lifecycle = DefaultLifecycle::default();
            let entries = Weighted::with_options(options, Weigh, hasher.clone(), lifecycle);
            Lane { entries, hits: AtomicU64::default(), misses: AtomicU64::default() }
        };
        (bytes > 0).then(|| Self {
            lanes: (0..lanes).map(|_| lane()).collect(),
            hasher: hasher.clone(),
            #[cfg(test)]
            credulous: false,
        })
    }

    /// What this name stands for in a snapshot, if it is known.
    pub(super) fn get(&self, rows: &dyn ReadTransaction, scope: &Scope, name: Name<'_>) -> Option<Entry> {
        let lane = self.lane();
        let found = lane.entries.get(&self.hash(scope, name));
        let found = found.filter(|entry| entry.is_of(scope, name) && self.holds(entry, rows));
        let counter = if found.is_some() { &lane.hits } else { &lane.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps what was read from a snapshot, unless it has changed already.
    pub(super) fn keep(&self, rows: &dyn ReadTransaction, scope: &Scope, name: Name<'_>, entry: Entry) {
        if self.holds(&entry, rows) {
            self.lane().entries.insert(self.hash(scope, name), entry);
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.lanes.iter().fold(CacheStats::default(), |sum, lane| CacheStats {
            hits: sum.hits + lane.hits.load(Ordering::Relaxed),
            misses: sum.misses + lane.misses.load(Ordering::Relaxed),
            bytes: sum.bytes + lane.entries.weight(),
            entries: sum.entries + lane.entries.len() as u64,
        })
    }

    fn hash(&self, scope: &Scope, name: Name<'_>) -> u64 {
        self.hasher.hash_one((scope.domain().as_str(), scope.project().as_str(), name))
    }

    /// Whether an entry holds in this snapshot.
    fn holds(&self, entry: &Entry, rows: &dyn ReadTransaction) -> bool {
        #[cfg(test)]
        if self.credulous {
            return true;
        }
        let unchanged = |row| rows.unchanged_since(row, entry.read_at);
        unchanged(entry.key.row) && entry.alias.as_ref().is_none_or(|alias| unchanged(alias.row))
    }

    /// That of this thread. Threads take turns when they come first.
    fn lane(&self) -> &Lane {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        &self.lanes[OWN.get() % self.lanes.len()]
    }
}

impl Entry {
    /// Whether it is about this name. Two names may have one hash.
    fn is_of(&self, scope: &Scope, name: Name<'_>) -> bool {
        let (domain_id, project_id, same) = match (name, &self.alias) {
            (Name::Key(key_id), None) => {
                let key = &self.key.record;
                (&key.domain_id, &key.project_id, key.key_id == key_id)
            }
            (Name::Alias(urn_name), Some(alias)) => {
                let alias = &alias.record;
                (&alias.domain_id, &alias.project_id, alias.alias.urn_name() == urn_name)
            }
            _ => return false,
        };
        same && domain_id == scope.domain() && project_id == scope.project()
    }
}

impl<T> Known<T> {
    pub(super) fn new(record: Arc<T>, row: &[u8]) -> Self {
        Self { record, row: RowHash::of(row) }
    }
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Self { record: Arc::clone(&self.record), row: self.row }
    }
}

impl Weighter<u64, Entry> for Weigh {
    fn weight(&self, _: &u64, entry: &Entry) -> u64 {
        let alias = entry.alias.as_ref().map(|alias| {
            let record = &alias.record;
            size_of::<AliasRecord>() + record.alias.as_str().len() + 2 * ALLOCATION_BYTES
        });
        (ENTRY_BYTES + alias.unwrap_or_default() + key_bytes(&entry.key.record)) as u64
    }
}

/// What a key record takes. Its domain and project are counted, though they are often shared.
fn key_bytes(key: &KeyRecord) -> usize {
    let texts = [
        key.key_alias.as_str(),
        key.domain_id.as_str(),
        key.project_id.as_str(),
        key.description.as_str(),
        key.enterprise_project_id.as_str(),
        key.keystore_id.as_str(),
    ];
    let tags = key.tags.iter().flat_map(|(tag, value)| [tag.as_str(), value.as_str()]);
    let text = |text: &str| text.len() + ALLOCATION_BYTES;
    // A tree of tags has nodes for 11, which may be half empty.
    let node = if key.tags.is_empty() { 0 } else { 512 + 64 * key.tags.len() };
    size_of::<KeyRecord>() + ALLOCATION_BYTES + node + texts.into_iter().chain(tags).map(text).sum::<usize>()
}
