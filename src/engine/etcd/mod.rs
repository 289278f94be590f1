//! The engine on an etcd cluster: the same store on several machines, for several processes at once.
//!
//! A row is a key of etcd, the number of a commit is the revision that it made. A transaction reads at one revision
//! and commits by one transaction of etcd, which compares of every row that was read whether it has changed since:
//! so transactions are strictly serializable, and none waits for another. Each process watches all changes. What it
//! has seen tells which of the rows that it keeps in memory are as they were, and so most transactions take one round
//! trip, that of their commit.
//!
//! ```text
//! rows in memory, and of the revision that was seen -> closure -> compare and write -> seen by the watch
//!                      something changed: run again <-
//! ```

mod client;
mod entries;
mod failure;
mod layout;
mod members;
mod read;
mod rows;
mod seen;
mod settings;
mod slots;
mod watch;
mod write;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};

pub use settings::Etcd;
pub(crate) use settings::LeftOut;

use super::{Engine, EngineStats, PageRound, Reading, Waited, WriteTransaction};
use crate::error::{Error, Result};
use crate::id::{Commit, random_bytes};
use crate::time::Stopwatch;
use client::{At, Client, Found, Until, pause};
use entries::{Chapters, View, etcd_revision, revision};
use layout::{Layout, MAGIC, VERSION};
use read::{EtcdRead, NewestRevision};
use rows::RowCache;
use seen::{Chapter, Seen};
use slots::Slots;
use write::{CAUGHT_UP_WITHIN, EtcdWrite};

/// So many comparisons and operations a transaction of etcd must be able to have: 200 rows, and what the engine adds.
const OPERATIONS: usize = 256;

/// How a store's transactions did on a cluster, since it was opened; see [`Stats`](crate::Stats). By the feature
/// `etcd`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClusterStats {
    /// How often a transaction met another one and was run again, or given up.
    pub conflicts: u64,
    /// How often it was not known at first whether a commit was made.
    pub unknown: u64,
    /// The newest revision up to which every change was seen; 0 while the watch begins anew.
    pub seen: u64,
    /// How old what was seen may be; `None` if that is not known, as without
    /// [`staleness`](crate::Etcd::staleness).
    pub age: Option<Duration>,
}

/// What an opening may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only read: nothing is written, and there are no slots and no lease.
    Read,
    /// Write where there is a store.
    Write,
    /// As that, and begin a store where there is none.
    Begin,
}

/// A store on a cluster.
pub(crate) struct EtcdEngine {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    layout: Layout,
    seen: Seen,
    rows: RowCache,
    chapters: Chapters,
    /// None where it is only read.
    slots: Option<Slots>,
    newest: NewestRevision,
    staleness: Option<Duration>,
    counts: Counts,
    ended: AtomicBool,
    #[cfg(test)]
    left_out: Option<LeftOut>,
}

#[derive(Default)]
struct Counts {
    conflicts: Count,
    unknown: Count,
}

#[derive(Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn newest_revision(&self, until: Until) -> Result<i64> {
        let ask = || self.client.try_revision(&self.layout.format());
        self.client.until_answered(until, || self.newest.get(ask, || until.left()))
    }

    /// Whether a test of the tests wants a commit to be wrong.
    #[cfg(test)]
    fn leaves_out(&self, what: LeftOut) -> bool {
        self.left_out == Some(what)
    }

    #[cfg(not(test))]
    const fn leaves_out(&self, _: LeftOut) -> bool {
        false
    }
}

impl EtcdEngine {
    /// The store at the cluster's prefix, or a new one if that may be; with at most so many bytes of rows in memory.
    ///
    /// # Errors
    ///
    /// `NoStore` if there is none, `NotAStore` if something else is there, `Unsupported` if a newer library wrote it, `OptionsMismatch` if the
    /// settings are wrong or the cluster's limits too low; `Unavailable`, `AccessDenied`.
    pub(crate) fn open(settings: &Etcd, cache_bytes: usize, access: Access) -> Result<Self> {
        settings.check()?;
        let layout = Layout::new(&settings.prefix);
        let client = Client::new(settings, &layout.format())?;
        if access != Access::Read {
            check_limits(&client, &layout)?;
        }
        while !is_begun(&client, &layout)? {
            if access != Access::Begin {
                return Err(Error::NoStore(settings.to_string().into()));
            }
            begin(&client, &layout)?;
        }
        let slots = match access {
            Access::Read => None,
            Access::Write | Access::Begin => Some(Slots::new(random_bytes(), &client)?),
        };
        let shared = Arc::new(Shared {
            client,
            layout,
            seen: Seen::new(Chapter { number: 0, start: 0 }),
            rows: RowCache::new(cache_bytes),
            chapters: Chapters::default(),
            slots,
            newest: NewestRevision::default(),
            staleness: settings.staleness,
            counts: Counts::default(),
            ended: AtomicBool::new(false),
            #[cfg(test)]
            left_out: settings.left_out,
        });
        let (at, chapter) = shared.begin_of_watch()?;
        shared.seen.note_chapter(chapter);
        shared.seen.begin_at(revision(at));
        watch::start(&shared, at);
        Ok(Self { shared })
    }
}

impl Shared {
    /// The newest revision, and the chapter of it: what a watch begins with.
    fn begin_of_watch(&self) -> Result<(i64, Chapter)> {
        let until = self.client.until();
        let at = self.newest_revision(until)?;
        Ok((at, self.newest_chapter(View { at, until })?))
    }
}

/// Whether etcd takes transactions as large as those of a store.
fn check_limits(client: &Client, layout: &Layout) -> Result<()> {
    let compare = |number| Compare::create_revision(layout.chapter(u64::MAX - number), CompareOp::Equal, 0);
    let txn = Txn::new().when((0..OPERATIONS as u64).map(compare).collect::<Vec<_>>());
    match client.txn(&txn, client.until()) {
        Err(Error::Corrupted(_)) => Err(Error::OptionsMismatch {
            option: "--max-txn-ops of etcd",
            asked: format!("less than {OPERATIONS}"),
            expected: format!("{OPERATIONS} at least, on each member"),
        }),
        answer => answer.map(drop),
    }
}

/// Whether there is a store, which must be of a known format; if not, there must be nothing.
fn is_begun(client: &Client, layout: &Layout) -> Result<bool> {
    let (from, to) = layout.all();
    let any = GetOptions::new().with_range(to).with_limit(1).with_keys_only();
    let ranges = [(layout.format(), GetOptions::new()), (from, any)];
    let (_, mut found) = client.ranges(&ranges, At::Newest, client.until())?;
    let (any, format) = (found.pop().unwrap_or_default(), found.pop().unwrap_or_default().pop());
    let Some(Found { value, .. }) = format else {
        return match any[..] {
            [] => Ok(false),
            _ => Err(Error::NotAStore("there are other keys at the prefix; choose another prefix".into())),
        };
    };
    match value.strip_prefix(MAGIC) {
        Some([VERSION]) => Ok(true),
        Some([newer]) => Err(Error::Unsupported { found: (*newer).into(), supported: VERSION.into() }),
        _ => {
            Err(Error::NotAStore("the key of the format holds something else; choose another prefix".into()))
        }
    }
}

/// Begins a store where nothing is. Whatever comes of it, what is there then says it.
fn begin(client: &Client, layout: &Layout) -> Result<()> {
    let (format, first) = (layout.format(), layout.chapter(0));
    let txn = Txn::new()
        .when([Compare::create_revision(format.clone(), CompareOp::Equal, 0)])
        .and_then([TxnOp::put(format, [MAGIC, &[VERSION]].concat(), None), TxnOp::put(first, [], None)]);
    client.txn(&txn, client.until()).map(drop)
}

impl Engine for EtcdEngine {
    fn begin_read(&self) -> Result<Reading> {
        let shared = &self.shared;
        let fresh = shared.staleness.filter(|bound| shared.seen.age().is_some_and(|age| age <= *bound));
        let at = match fresh.and_then(|_| shared.seen.caught_up(CAUGHT_UP_WITHIN)) {
            Some(seen) => etcd_revision(seen),
            None => shared.newest_revision(shared.client.until())?,
        };
        Ok(Reading::of(EtcdRead { shared: Arc::clone(shared), at }))
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        self.begin(self.shared.client.until(), None)
    }

    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        let waited = self.shared.seen.bell.wait(after, timeout);
        if waited == Waited::Committed {
            // So that it is found at once, by reads too that show what was seen.
            self.shared.seen.wait_for(after.number().saturating_add(1), CAUGHT_UP_WITHIN);
        }
        Ok(waited)
    }

    fn stop_waiting(&self) {
        self.shared.seen.bell.end();
    }

    fn knows_next_commit(&self) -> bool {
        false
    }

    /// Every commit is where it stays.
    fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    /// Its pages are the cluster's.
    fn check_pages(&self, _after: Option<Vec<u8>>, _bytes: u64) -> Result<Option<PageRound>> {
        Ok(None)
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

/// What only an engine on a cluster has.
impl EtcdEngine {
    /// As [`begin_write`](Engine::begin_write), for an operation that began then: it may have met others since, and its
    /// time continues to run. The time that is spent waiting for servers is added to `waited`.
    pub(crate) fn begin_attempt<'a>(
        &'a self,
        since: Stopwatch,
        waited: &'a Cell<Duration>,
    ) -> Result<Box<dyn WriteTransaction + 'a>> {
        self.begin(self.shared.client.until_since(since), Some(waited))
    }

    fn begin<'a>(
        &'a self,
        until: Until,
        waited: Option<&'a Cell<Duration>>,
    ) -> Result<Box<dyn WriteTransaction + 'a>> {
        let slots = self.shared.slots.as_ref().ok_or(Error::ReadOnly)?;
        Ok(Box::new(EtcdWrite::begin(&self.shared, slots, until, waited)?))
    }

    /// Whether there is time left to run an operation again that began then and met others so often; pauses before.
    pub(crate) fn should_retry(&self, conflicts: u32, since: Stopwatch) -> bool {
        pause(conflicts, self.shared.client.until_since(since))
    }

    /// How transactions did.
    pub(crate) fn stats(&self) -> ClusterStats {
        let Shared { seen, counts, .. } = &*self.shared;
        ClusterStats {
            conflicts: counts.conflicts.get(),
            unknown: counts.unknown.get(),
            seen: seen.revision().unwrap_or_default(),
            age: seen.age(),
        }
    }
}

impl Drop for EtcdEngine {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(slots) = &self.shared.slots {
            // If it can't be ended now it ends by itself, and what is tied to it.
            let _ = self.shared.client.revoke(slots.lease());
        }
    }
}
