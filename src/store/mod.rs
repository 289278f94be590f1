//! [`Store`]: the handle that runs closures in transactions.

mod backend;
mod backup;
mod building;
mod compact;
mod copying;
mod feed;
mod files;
mod import;
mod incarnation;
mod options;
mod page_check;
mod repair;
mod restore;
#[cfg(feature = "metrics")]
mod stats;
mod storages;
mod sweep;
pub(crate) mod temporary;

pub use backup::Backup;
pub use compact::{Compacted, compact};
pub use copying::Copied;
pub use feed::Changes;
pub use import::{Import, Imported};
pub use options::Options;
pub use page_check::{BackgroundCheck, DamagedPage, PageCheck, check_pages};
pub use repair::{Finding, RepairReport, WalUse, repair};
pub use restore::{Restore, Restored};
pub use sweep::{Removed, Swept};

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::change::Change;
use crate::engine::{Batch, EngineStats, LockStats, Log, LogStats, PageStats, ReadTransaction, RowSource};
#[cfg(feature = "etcd")]
use crate::engine::{ClusterStats, Etcd};
use crate::error::{Error, Result};
use crate::format::{ENTRY_MAX, EncodedChange, encode_changes, is_stand_in};
use crate::id::{Commit, Region, RequestId, Scope};
use crate::page::{After, Limit, Page};
use crate::policy::{AliasScope, Policy, Quotas, Retention};
use crate::request::Request;
use crate::telemetry::{self, Call, Summary};
use crate::time::Stopwatch;
use crate::txn::{
    Cache, CacheStats, Place, Replay, Snapshot, Staged, Staging, Transaction, ran_differently, scopes,
    was_lost,
};
use crate::verify::{self, Report};
use backend::{Attempt, Backend};

/// A store of keys and their aliases. A handle: clones share the store, on any thread.
///
/// See the [crate's documentation](crate) for an example.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    // The first, so that it has ended when the engine is closed.
    _checker: Option<page_check::Checker>,
    engine: Backend,
    cache: Option<Cache>,
    policy: Policy,
    retention: Retention,
    incarnation: [u8; 16],
    transaction_time: Duration,
    run_closures_twice: bool,
    // The last, so that it is told when all is done.
    _open: telemetry::Open,
}

/// What a closure did.
struct Ran<T> {
    /// What it returned.
    value: Result<T>,
    staged: Staged,
}

/// What a write returned, and the commit in which it is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Committed<T> {
    /// What the closure returned.
    pub value: T,
    /// The commit that the write made; if it wrote nothing, the newest commit that it read. Of a
    /// [`write_once`](Store::write_once) always the commit that holds the answer.
    pub commit: Commit,
    /// Whether it changed any key or alias.
    pub changed: bool,
    /// Whether this is the answer to an earlier call of [`write_once`](Store::write_once), and nothing
    /// was done now.
    pub replayed: bool,
}

/// What a write would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DryRun<T> {
    /// What the closure returned.
    pub value: T,
    /// What it would change, with the commit that would be the next; empty in a store without history.
    pub changes: Vec<Change>,
}

/// How a store has done since it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The cache of decoded records.
    pub cache: CacheStats,
    /// The write-ahead log; `None` in a process that only reads, and in a store that has none: in memory, on etcd, and by
    /// [`Options::open_on`] without a storage for it.
    pub log: Option<LogStats>,
    /// The pages of the table, and checks of them; `None` in a store in memory or on etcd.
    pub pages: Option<PageStats>,
    /// The locks on its file that other processes held; `None` in a store in memory or on etcd.
    pub locks: Option<LockStats>,
    /// The transactions on a cluster, by the feature `etcd`; `None` in a store that is on none.
    #[cfg(feature = "etcd")]
    pub cluster: Option<ClusterStats>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("policy", &self.inner.policy).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in this file, or makes it, with the default [`Options`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Opens the store on an etcd cluster, or begins it, with the default [`Options`]; by the feature `etcd`.
    #[cfg(feature = "etcd")]
    pub fn open_etcd(cluster: &Etcd) -> Result<Self> {
        Options::new().open_etcd(cluster)
    }

    /// A store that lives in memory, with the default [`Options`]; for tests.
    pub fn in_memory() -> Result<Self> {
        Options::new().in_memory()
    }

    /// Where aliases are unique in this store.
    pub fn alias_scope(&self) -> AliasScope {
        self.inner.policy.alias_scope
    }

    /// The region in the URNs of this store's aliases.
    pub fn region(&self) -> &Region {
        &self.inner.policy.region
    }

    /// The quotas with which this store was opened.
    pub fn quotas(&self) -> Quotas {
        self.inner.policy.quotas
    }

    /// Reads in one scope: everything that the closure reads is of one moment. It sees every write
    /// that returned before it began. A read never waits for a write, nor a write for a read.
    pub fn read<T>(&self, scope: &Scope, closure: impl FnOnce(&Snapshot<'_>) -> Result<T>) -> Result<T> {
        let read = || {
            let rows = self.inner.engine.begin_read()?;
            closure(&Snapshot::new(rows, Place::new(scope, &self.inner.policy), self.inner.cache.as_ref()))
        };
        telemetry::told(Call::Read, scope, read, |_| Summary::default())
    }

    /// Runs a closure in a transaction of the request's scope and commits what it did, all or
    /// nothing. When it returns, the commit is durable and every later read sees it.
    ///
    /// The closure may be run again, so it must have no effect but on the transaction. A refused
    /// operation leaves no trace, and the closure may go on; if the closure itself fails, nothing is
    /// written.
    ///
    /// # Errors
    ///
    /// What the closure returned. An error of the engine that an operation met in the closure, even
    /// if the closure went on. [`NestedTransaction`](Error::NestedTransaction) inside another write's
    /// closure. [`TransactionTooLarge`](Error::TransactionTooLarge) if the commit's entry in the history, the
    /// actor included, would have more than 1 MiB. [`ReadOnly`](Error::ReadOnly). [`Io`](Error::Io):
    /// nothing was written. [`CommitUnknown`](Error::CommitUnknown): it failed so late that it may have
    /// been. After either, [`Poisoned`](Error::Poisoned) until the store is opened again.
    pub fn write<T>(
        &self,
        request: &Request,
        closure: impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<Committed<T>> {
        let write = || {
            request.check()?;
            let _only = OnlyWrite::on_this_thread()?;
            self.inner.engine.retry_on_conflict(|attempt| self.attempt(request, &closure, attempt))
        };
        telemetry::told(Call::Write, request, write, |done: &Committed<T>| Summary {
            changed: Some(done.changed),
            commit: Some(done.commit),
            ..Summary::default()
        })
    }

    /// As [`write`](Self::write), for a request that may come again: what comes of it is stored with
    /// its commit, in the request's scope, and if the same request comes again, that is the answer and
    /// the closure does not run. `body` is what the caller asked for, the name of the operation
    /// included; nothing made up here (an id, a time) may be in it. The history notes `request_id`, in the place of
    /// one that [`Request::request_id`] may have given.
    ///
    /// The value must go through JSON and have at most 32 KiB there; also the first answer is the value as
    /// it came back from there. A transaction that changes nothing is stored too, by a commit of its own.
    /// A refusal is not: it may be repeated when its cause is gone. Outcomes are kept as long as
    /// [`Retention`] says, and until the next [`sweep`](Self::sweep).
    ///
    /// ```
    /// use keystead::{NewKey, Request, RequestId, Scope, Store};
    /// let store = Store::in_memory()?;
    /// let request = Request::new(&Scope::new("domain", "project")?);
    /// let request_id: RequestId = "919c82d4-8046-4722-9094-35c3c6524cff".parse()?;
    /// let create = || {
    ///     let new = NewKey::new("orders")?; // another id each time
    ///     store.write_once(&request, &request_id, b"create-key orders", |txn| {
    ///         Ok(txn.create_key(&new)?.key_id)
    ///     })
    /// };
    /// let (first, again) = (create()?, create()?);
    /// assert_eq!((first.value, first.commit), (again.value, again.commit));
    /// assert!(again.replayed && !first.replayed);
    /// # Ok::<(), keystead::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RequestIdReused`](Error::RequestIdReused) if the id came with another body,
    /// [`InvalidOutcome`](Error::InvalidOutcome) if the value does not go through JSON,
    /// [`TransactionTooLarge`](Error::TransactionTooLarge) if it has more than 32 KiB there, and those of
    /// [`write`](Self::write). After [`CommitUnknown`](Error::CommitUnknown), open the store again: the
    /// same call then settles what happened.
    pub fn write_once<T: Serialize + DeserializeOwned>(
        &self,
        request: &Request,
        request_id: &RequestId,
        body: &[u8],
        closure: impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<Committed<T>> {
        let digest: [u8; 32] = Sha256::digest(body).into();
        let request = request.clone().request_id(request_id.clone());
        let outcome = self.write(&request, |txn| {
            if let Some(replay) = txn.replay(request_id, &digest)? {
                return Ok(Once::Replayed(replay));
            }
            let value = closure(txn)?;
            let (value, changed) = txn.keep_outcome(request_id, digest, &value)?;
            Ok(Once::Ran { value, changed })
        })?;
        Ok(match outcome.value {
            Once::Ran { value, changed } => {
                Committed { value, commit: outcome.commit, changed, replayed: false }
            }
            Once::Replayed(Replay { value, commit, changed }) => {
                telemetry::replayed(commit);
                Committed { value, commit, changed, replayed: true }
            }
        })
    }

    /// What [`write`](Self::write) would return and change now, without writing anything.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write), except those of the commit.
    pub fn dry_run<T>(
        &self,
        request: &Request,
        closure: impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<DryRun<T>> {
        // Of operations that are not made nothing is told.
        let dry_run = || telemetry::quietly(|| self.run_dry(request, closure));
        telemetry::told(Call::DryRun, request, dry_run, |_| Summary::default())
    }

    fn run_dry<T>(
        &self,
        request: &Request,
        closure: impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<DryRun<T>> {
        request.check()?;
        let _only = OnlyWrite::on_this_thread()?;
        let (ran, next) = self.inner.engine.retry_on_conflict(|attempt| {
            let transaction = self.inner.engine.begin_attempt(attempt)?;
            let next = self.inner.engine.next_commit(&*transaction);
            let ran = self.run(&*transaction, next, request, &closure);
            transaction.end()?;
            Ok((ran?, next))
        })?;
        let Ran { value, staged } = self.with_next_number(ran, next, request, &closure)?;
        let value = value?;
        Ok(DryRun { value, changes: staged.changes.into_iter().map(|encoded| encoded.change).collect() })
    }

    /// As [`read`](Self::read), if this commit can be seen here already; for a reader in another
    /// process than the writer, who got the commit's number from there.
    ///
    /// # Errors
    ///
    /// [`CommitNotFound`](Error::CommitNotFound) if not: [`wait`](Self::wait) for it.
    pub fn read_at_least<T>(
        &self,
        scope: &Scope,
        commit: Commit,
        closure: impl FnOnce(&Snapshot<'_>) -> Result<T>,
    ) -> Result<T> {
        self.read(scope, |snap| {
            let missing = snap.commit() < commit || was_lost(snap, commit)?;
            if missing { Err(Error::CommitNotFound(commit)) } else { closure(snap) }
        })
    }

    /// The scopes that hold anything, in their order. For the platform.
    ///
    /// # Errors
    ///
    /// [`InvalidCursor`](Error::InvalidCursor) for a cursor of another list.
    pub fn scopes(&self, after: After<'_, Scope>, limit: Limit) -> Result<Page<Scope>> {
        scopes(&*self.inner.engine.begin_read()?, after, limit)
    }

    /// Walks the whole store at one moment, reads every row and every change, and checks every invariant.
    /// Memory is bounded; the time is that of a few reads for each row and one for each change. Nothing is
    /// changed.
    ///
    /// # Errors
    ///
    /// [`Io`](Error::Io). What is wrong with the store is in the report, not an error.
    pub fn verify(&self) -> Result<Report> {
        let verify = || self.verify_at(&*self.inner.engine.begin_read()?);
        telemetry::told(Call::Verify, telemetry::Place::default(), verify, |report: &Report| Summary {
            rows: Some(report.rows),
            entries: Some(report.changes),
            troubles: Some(report.violations.len() as u64 + report.violations_not_kept),
            ..Summary::default()
        })
    }

    fn verify_at(&self, rows: &dyn ReadTransaction) -> Result<Report> {
        verify::verify(rows, &self.inner.policy)
    }

    /// Returns when every commit that was made before is in the table file, durably, and not in the write-ahead log alone.
    /// Commits that are made meanwhile do not wait, and go on in the log.
    ///
    /// The store does this in the background too, and when it is closed: call it to know when it is done. The store still
    /// needs its log until it is closed. To copy a store that is in use, take [`backup`](Self::backup): a copy of the files
    /// is a copy of the store only if nobody writes it meanwhile. In memory and on etcd there is nothing to do.
    ///
    /// # Errors
    ///
    /// [`ReadOnly`](Error::ReadOnly) if the store is open for reading only; [`Poisoned`](Error::Poisoned) if the table can't
    /// be written, now or since an earlier failure.
    pub fn checkpoint(&self) -> Result<()> {
        let _only = OnlyWrite::on_this_thread()?;
        self.inner.engine.checkpoint()
    }

    /// How the store has done since it was opened.
    pub fn stats(&self) -> Stats {
        let cache = self.inner.cache.as_ref().map(Cache::stats).unwrap_or_default();
        let EngineStats { wal, pages } = self.inner.engine.stats();
        Stats {
            cache,
            log: wal,
            pages: pages.map(|state| state.stats),
            locks: pages.map(|state| state.locks),
            #[cfg(feature = "etcd")]
            cluster: self.inner.engine.cluster_stats(),
        }
    }

    fn attempt<T>(
        &self,
        request: &Request,
        closure: &impl Fn(&mut Transaction<'_>) -> Result<T>,
        attempt: &Attempt,
    ) -> Result<Committed<T>> {
        let transaction = self.inner.engine.begin_attempt(attempt)?;
        let began = Stopwatch::start();
        let next = self.inner.engine.next_commit(&*transaction);
        let ran = self.run(&*transaction, next, request, closure);
        let took = began.elapsed().saturating_sub(attempt.waited());
        let Ran { value, staged } = match ran {
            Ok(ran) if ran.value.is_ok() && !ran.staged.batch.is_empty() => ran,
            ran => {
                let commit = transaction.commit_read();
                // It may be a refusal because of what is not durable yet.
                transaction.end()?;
                let value = self.with_next_number(ran?, next, request, closure)?.value?;
                return Ok(Committed { value, commit, changed: false, replayed: false });
            }
        };
        if took > self.inner.transaction_time {
            transaction.end()?;
            let max = usize::try_from(self.inner.transaction_time.as_millis()).unwrap_or(usize::MAX);
            return Err(Error::TransactionTooLarge { what: "milliseconds", max });
        }
        let entry = entry_of(request, next, &staged);
        if entry.as_ref().is_some_and(|entry| entry.len() > ENTRY_MAX) {
            transaction.end()?;
            return Err(Error::TransactionTooLarge { what: "bytes in the log", max: ENTRY_MAX });
        }
        if is_stand_in(next) && request.has_id() {
            // What is kept for a repeat has what stands for the number: it must come to the same with any number.
            let number = Commit::new(transaction.commit_read().number() + 1);
            if let Err(error) = self.run_with_number(&staged, next, number, request, closure) {
                transaction.end()?;
                return Err(error);
            }
        }
        let commit = transaction.commit(&staged.batch, Log { append: entry.as_deref(), trim: None })?;
        telemetry::committed(commit, staged.changes.iter().map(|encoded| &encoded.change));
        let value = if commit == next {
            value
        } else {
            // The value may hold the number of the commit, which is known only now.
            let ran = self.run_with_number(&staged, next, commit, request, closure);
            ran.and_then(|ran| ran.value).map_err(|error| {
                Error::CommitUnknown(format!("commit {commit} is durable, but: {error}").into())
            })
        };
        Ok(Committed { value: value?, commit, changed: true, replayed: false })
    }

    /// What a closure did whose commit is not made: it may tell of the number that its commit would have had.
    fn with_next_number<T>(
        &self,
        ran: Ran<T>,
        next: Commit,
        request: &Request,
        closure: &impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<Ran<T>> {
        if !is_stand_in(next) || ran.staged.batch.is_empty() {
            return Ok(ran);
        }
        let number = Commit::new(ran.staged.reads.commit_read().number() + 1);
        let again = self.run_with_number(&ran.staged, next, number, request, closure)?;
        if again.value.is_ok() == ran.value.is_ok() { Ok(again) } else { Err(ran_differently()) }
    }

    /// Runs the closure once more on what it read, with the number of its commit instead of what stood for it. It must
    /// do the same.
    fn run_with_number<T>(
        &self,
        first: &Staged,
        stand_in: Commit,
        number: Commit,
        request: &Request,
        closure: &impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<Ran<T>> {
        let again = telemetry::quietly(|| self.run_once(&first.reads.again(), number, request, closure))?;
        let entries = (entry_of(request, stand_in, first), entry_of(request, number, &again.staged));
        first.must_be_same(number, &again.staged)?;
        if entries.0 == entries.1 { Ok(again) } else { Err(ran_differently()) }
    }

    fn run<T>(
        &self,
        rows: &dyn RowSource,
        next: Commit,
        request: &Request,
        closure: &impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<Ran<T>> {
        let first = self.run_once(rows, next, request, closure);
        if self.inner.run_closures_twice {
            let second = telemetry::quietly(|| self.run_once(rows, next, request, closure));
            if what_was_done(&first) != what_was_done(&second) {
                return Err(ran_differently());
            }
        }
        first
    }

    fn run_once<T>(
        &self,
        rows: &dyn RowSource,
        next: Commit,
        request: &Request,
        closure: &impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<Ran<T>> {
        let place = Place::new(request.scope(), &self.inner.policy);
        let mut txn = Transaction::new(Staging::new(rows, next), place, request.time());
        let value = closure(&mut txn);
        // An error of the engine comes first: the closure may have swallowed it.
        let staged = txn.into_staging().finish()?;
        Ok(Ran { value, staged })
    }
}

/// The entry in the log of the commit with this number, if it has one.
fn entry_of(request: &Request, commit: Commit, staged: &Staged) -> Option<Vec<u8>> {
    let Staged { changes, .. } = staged;
    (!changes.is_empty()).then(|| encode_changes(&request.info(commit), changes))
}

/// What two runs of a closure must have in common.
fn what_was_done<T>(ran: &Result<Ran<T>>) -> Result<(&Batch, &[EncodedChange]), String> {
    let ran = ran.as_ref().and_then(|ran| ran.value.as_ref().map(|_| &ran.staged));
    ran.map(|staged| (&staged.batch, &staged.changes[..])).map_err(ToString::to_string)
}

#[cfg(test)]
impl Store {
    /// For a test of the tests: its cache believes whatever it holds.
    pub(crate) fn credulous(mut self) -> Self {
        let cache = Arc::get_mut(&mut self.inner).and_then(|inner| inner.cache.as_mut());
        cache.expect("nobody has the store yet, and it has a cache").credulous = true;
        self
    }
}

#[cfg(any(test, fuzzing))]
impl Store {
    pub(crate) fn engine(&self) -> &dyn crate::engine::Engine {
        &*self.inner.engine
    }
}

/// How a repeatable request went.
enum Once<T> {
    Ran { value: T, changed: bool },
    Replayed(Replay<T>),
}

/// The one write that a thread may be in.
struct OnlyWrite;

crate::sync::thread_local! {
    static IN_WRITE: Cell<bool> = const { Cell::new(false) };
}

impl OnlyWrite {
    fn on_this_thread() -> Result<Self> {
        if IN_WRITE.with(|it| it.replace(true)) { Err(Error::NestedTransaction) } else { Ok(Self) }
    }
}

impl Drop for OnlyWrite {
    fn drop(&mut self) {
        IN_WRITE.with(|it| it.set(false));
    }
}
