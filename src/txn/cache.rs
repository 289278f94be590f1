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
use crate::sync::SIMULATED;

/// The most lanes of a cache: a record that all threads ask for often is there once in each.
const LANES_MAX: usize = 4;

/// All lanes together have one part in so many of the memory.
const PART_OF_LANES: usize = 8;

/// Of so many records that a thread finds outside of its lane, one is copied to it: those that are asked for
/// often will be among them.
const COPIED: u64 = 16;

/// So many locks has each part of a cache; fewer if it is small.
const LOCKS: usize = 16;

/// Texts of so few bytes lie inside of their record.
const TEXT_INSIDE: usize = 23;

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
/// To use a record, a thread counts itself in and out, and if others do so at the same time they wait for
/// each other. So each thread keeps to one of a few lanes, and those have copies of the records that are
/// asked for most.
pub(crate) struct Cache {
    records: Part,
    lanes: Box<[Lane]>,
    hasher: RandomState,
    /// For a test of the tests: believes every entry.
    #[cfg(test)]
    pub(crate) credulous: bool,
}

/// By the hash of scope and name. What is found is compared with what was asked for.
type Part = Weighted<u64, Entry, Weigh, RandomState>;

/// Its own cache lines, two at a time, as processors fetch them.
#[repr(align(128))]
struct Lane {
    copies: Part,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Clone)]
struct Weigh;

impl Cache {
    /// With at most so much memory. `None` if that is nothing.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let lanes = if SIMULATED { 1 } else { cores.min(LANES_MAX) };
        (bytes > 0).then(|| Self::with_lanes(bytes, lanes))
    }

    fn with_lanes(bytes: usize, lanes: usize) -> Self {
        let hasher = RandomState::default();
        // A thread alone needs no copies.
        let of_lanes = if lanes > 1 { bytes / PART_OF_LANES } else { 0 };
        let lane = || Lane {
            copies: part(of_lanes / lanes, &hasher),
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
        };
        Self {
            records: part(bytes - of_lanes, &hasher),
            lanes: (0..lanes).map(|_| lane()).collect(),
            hasher: hasher.clone(),
            #[cfg(test)]
            credulous: false,
        }
    }

    /// What this name stands for in a snapshot, if it is known.
    pub(super) fn get(&self, rows: &dyn ReadTransaction, scope: &Scope, name: Name<'_>) -> Option<Entry> {
        let (lane, hash) = (self.lane(), self.hash(scope, name));
        let is_meant = |entry: &Entry| entry.is_of(scope, name) && self.holds(entry, rows);
        let copy = lane.copies.get(&hash).filter(is_meant);
        if copy.is_some() {
            lane.hits.fetch_add(1, Ordering::Relaxed);
            return copy;
        }
        let found = self.records.get(&hash).filter(is_meant);
        let Some(entry) = &found else {
            lane.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let before = lane.hits.fetch_add(1, Ordering::Relaxed);
        if before % COPIED == COPIED - 1 {
            lane.copies.insert(hash, entry.copied());
        }
        found
    }

    /// Keeps what was read from a snapshot, unless it has changed already.
    pub(super) fn keep(&self, rows: &dyn ReadTransaction, scope: &Scope, name: Name<'_>, entry: Entry) {
        if self.holds(&entry, rows) {
            self.records.insert(self.hash(scope, name), entry);
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let parts = || self.lanes.iter().map(|lane| &lane.copies).chain([&self.records]);
        CacheStats {
            hits: self.lanes.iter().map(|lane| lane.hits.load(Ordering::Relaxed)).sum(),
            misses: self.lanes.iter().map(|lane| lane.misses.load(Ordering::Relaxed)).sum(),
            bytes: parts().map(Part::weight).sum(),
            entries: parts().map(|part| part.len() as u64).sum(),
        }
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

/// A part of a cache with at most so much memory.
fn part(bytes: usize, hasher: &RandomState) -> Part {
    let options = OptionsBuilder::new()
        .shards(LOCKS)
        .estimated_items_capacity(bytes / ENTRY_BYTES_USUAL)
        .weight_capacity(bytes as u64)
        .build()
        .expect("both capacities are set");
    Weighted::with_options(options, Weigh, hasher.clone(), DefaultLifecycle::default())
}

impl Entry {
    /// With records of its own.
    fn copied(&self) -> Self {
        Self { alias: self.alias.as_ref().map(Known::copied), key: self.key.copied(), read_at: self.read_at }
    }

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

impl<T: Clone> Known<T> {
    fn copied(&self) -> Self {
        Self { record: Arc::new(T::clone(&self.record)), row: self.row }
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
            size_of::<AliasRecord>() + ALLOCATION_BYTES + text_bytes(record.alias.as_str())
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
    // A tree of tags has nodes for 11, which may be half empty.
    let node = if key.tags.is_empty() { 0 } else { 512 + 64 * key.tags.len() };
    size_of::<KeyRecord>()
        + ALLOCATION_BYTES
        + node
        + texts.into_iter().chain(tags).map(text_bytes).sum::<usize>()
}

/// What a text takes outside of its record.
fn text_bytes(text: &str) -> usize {
    if text.len() <= TEXT_INSIDE { 0 } else { text.len() + ALLOCATION_BYTES }
}
