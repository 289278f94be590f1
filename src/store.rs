//! [`Store`]: the handle that runs closures in transactions, and [`Options`], how to open one.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::change::{Change, CommitRecord, Position};
use crate::engine::redb::{RedbEngine, RedbReader};
use crate::engine::{Batch, Engine, Log, Waited, WriteTransaction};
use crate::error::{Error, Result};
use crate::format::{
    Address, ENTRY_MAX, Fixed, ScopedTable, Space, Table, decode_fixed, encode_fixed, encode_log_entry,
    read_address, trailing_key_id,
};
use crate::id::{Commit, KeyId, Region, RequestId, Scope, random_bytes};
use crate::page::{After, Limit, Page};
use crate::policy::{AliasScope, Compatibility, Policy, Quotas, Retention};
use crate::request::Request;
use crate::time::Timestamp;
use crate::txn::{Place, Replay, Snapshot, Staging, Transaction, changes_after, floor_of, scopes, trim_step};
use crate::verify::{self, Report};

/// How often a transaction that met another one is run before [`Error::Conflict`] is returned.
const ATTEMPTS_MAX: u32 = 16;

/// How many rows the sweeper looks for at once.
const SWEPT_AT_ONCE: usize = 100;

/// The region of a store whose creator named none.
const DEFAULT_REGION: &str = "local";

/// How to open a store.
///
/// ```
/// use keystead::{AliasScope, Options, Quotas};
/// let store = Options::new()
///     .alias_scope(AliasScope::Domain)
///     .region("cn-north-7".parse()?)
///     .quotas(Quotas { keys_per_project: 1000, ..Quotas::default() })
///     .in_memory()?;
/// assert_eq!(store.region().as_str(), "cn-north-7");
/// # Ok::<(), keystead::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    alias_scope: Option<AliasScope>,
    region: Option<Region>,
    compatibility: Compatibility,
    quotas: Quotas,
    retention: Retention,
    history: Option<bool>,
    cache_bytes: usize,
    run_closures_twice: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The memory for cached pages if nothing else is said: 64 MiB.
    pub const CACHE_BYTES_DEFAULT: usize = 64 * 1024 * 1024;

    /// Everything as it is by default.
    pub fn new() -> Self {
        Self {
            alias_scope: None,
            region: None,
            compatibility: Compatibility::default(),
            quotas: Quotas::default(),
            retention: Retention::default(),
            history: None,
            cache_bytes: Self::CACHE_BYTES_DEFAULT,
            run_closures_twice: false,
        }
    }

    /// Where aliases are unique. Fixed at creation, [`AliasScope::Project`] if nothing is said;
    /// opening a store that has another is [`Error::OptionsMismatch`].
    pub fn alias_scope(mut self, alias_scope: AliasScope) -> Self {
        self.alias_scope = Some(alias_scope);
        self
    }

    /// The region in the URNs of aliases. Fixed at creation, `local` if nothing is said; opening a
    /// store that has another is [`Error::OptionsMismatch`].
    pub fn region(mut self, region: Region) -> Self {
        self.region = Some(region);
        self
    }

    /// To which keys an alias may move; [`Compatibility::Any`] if nothing is said.
    pub fn compatibility(mut self, compatibility: Compatibility) -> Self {
        self.compatibility = compatibility;
        self
    }

    /// How much there may be. A quota below what is there already only keeps more from being added.
    pub fn quotas(mut self, quotas: Quotas) -> Self {
        self.quotas = quotas;
        self
    }

    /// Whether each commit leaves in the store what it changed. Fixed at creation, true if nothing is
    /// said; opening a store that differs is [`Error::OptionsMismatch`].
    pub fn history(mut self, history: bool) -> Self {
        self.history = Some(history);
        self
    }

    /// How long the history and the outcomes of repeatable requests are kept. Applied by
    /// [`sweep`](Store::sweep).
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// The most memory for cached pages of the file, in bytes;
    /// [`CACHE_BYTES_DEFAULT`](Self::CACHE_BYTES_DEFAULT) if nothing is said.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// For tests: runs the closure of every write twice from the same state, and fails with
    /// [`Error::Aborted`] if the two runs differ in what they would write. A closure must have no
    /// effect but on its transaction, because it may be run again.
    pub fn run_closures_twice(mut self, twice: bool) -> Self {
        self.run_closures_twice = twice;
        self
    }

    /// Opens the store in this file, or makes it if there is no such file. The file is for its owner
    /// only, and appears under its name when it is complete.
    ///
    /// # Errors
    ///
    /// [`AlreadyOpen`](Error::AlreadyOpen), [`NotAStore`](Error::NotAStore),
    /// [`Unsupported`](Error::Unsupported), [`OptionsMismatch`](Error::OptionsMismatch),
    /// [`Corrupted`](Error::Corrupted), [`Io`](Error::Io).
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        self.check()?;
        let engine = match RedbEngine::open(path, self.cache_bytes) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.create(path)?;
                RedbEngine::open(path, self.cache_bytes)?
            }
            opened => opened?,
        };
        self.on(Box::new(engine))
    }

    /// Opens the store in this file for reading only, also while another process writes it; each read
    /// sees what was committed before it. Nothing is written to the file.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open). A file that was not closed cleanly must be opened for writing
    /// once before: [`Corrupted`](Error::Corrupted).
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<Store> {
        self.check()?;
        self.on(Box::new(RedbReader::open(path.as_ref(), self.cache_bytes)?))
    }

    /// A store that lives in memory and ends with its last handle; for tests.
    pub fn in_memory(&self) -> Result<Store> {
        self.check()?;
        let engine = RedbEngine::in_memory(self.cache_bytes)?;
        self.begin(&engine)?;
        self.on(Box::new(engine))
    }

    fn check(&self) -> Result<()> {
        let ranges = [
            ("quotas.aliases_per_key", self.quotas.aliases_per_key, Quotas::ALIASES_PER_KEY_MAX),
            ("quotas.tags_per_key", self.quotas.tags_per_key, Quotas::TAGS_PER_KEY_MAX),
        ];
        if let Some((option, asked, max)) = ranges.into_iter().find(|(_, asked, max)| asked > max) {
            return Err(Error::OptionsMismatch {
                option,
                asked: asked.to_string(),
                expected: format!("at most {max}"),
            });
        }
        let retention = self.retention;
        let least = [
            ("retention.history_days", retention.history_days.map(u64::from)),
            ("retention.history_commits", retention.history_commits),
            ("retention.outcome_hours", Some(retention.outcome_hours.into())),
            ("retention.outcomes_per_scope", Some(retention.outcomes_per_scope)),
        ];
        match least.into_iter().find(|(_, asked)| *asked == Some(0)) {
            Some((option, _)) => {
                let (asked, expected) = ("0".to_owned(), "at least 1".to_owned());
                Err(Error::OptionsMismatch { option, asked, expected })
            }
            None => Ok(()),
        }
    }

    /// Makes a store beside the path and moves it there, unless something is there by then.
    fn create(&self, path: &Path) -> Result<()> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        let file = tempfile::Builder::new().prefix(".keystead-").tempfile_in(&folder)?;
        let engine = RedbEngine::create(file.reopen()?, self.cache_bytes)?;
        self.begin(&engine)?;
        drop(engine);
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            // Somebody else was faster: theirs is as good.
            Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            persisted => persisted.map_err(|refused| refused.error)?,
        };
        // The name is durable only with its folder; there is nothing to sync where that can't be done.
        if cfg!(unix) {
            File::open(&folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Writes what is fixed at creation, the first commit of a store.
    pub(crate) fn begin(&self, engine: &dyn Engine) -> Result<()> {
        let region = self.region.clone().map_or_else(|| Region::new(DEFAULT_REGION), Ok)?;
        let alias_scope = self.alias_scope.unwrap_or_default();
        let history = self.history.unwrap_or(true);
        let fixed = Fixed { incarnation: random_bytes(), alias_scope, region, history };
        let batch = Batch::from([(Space::of_store().fixed(), Some(encode_fixed(&fixed)))]);
        engine.begin_write()?.commit(&batch, Log::default())?;
        Ok(())
    }

    /// The store on an engine on which one was begun.
    pub(crate) fn on(&self, engine: Box<dyn Engine>) -> Result<Store> {
        let row = Space::of_store().fixed();
        let stored = engine.begin_read()?.get(&[&row])?.pop().flatten();
        let not_a_store = || Error::NotAStore("it was never begun".into());
        let fixed = decode_fixed(&row, &stored.ok_or_else(not_a_store)?.bytes)?;
        must_be("alias_scope", self.alias_scope.map(AliasScope::as_str), fixed.alias_scope.as_str())?;
        must_be("region", self.region.as_ref().map(Region::as_str), fixed.region.as_str())?;
        must_be("history", self.history.map(show), show(fixed.history))?;
        let policy = Policy {
            alias_scope: fixed.alias_scope,
            compatibility: self.compatibility,
            quotas: self.quotas,
            region: fixed.region,
            history: fixed.history,
        };
        let (retention, incarnation) = (self.retention, fixed.incarnation);
        let run_closures_twice = self.run_closures_twice;
        Ok(Store { inner: Arc::new(Inner { engine, policy, retention, incarnation, run_closures_twice }) })
    }
}

fn show(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn must_be(option: &'static str, asked: Option<&str>, stored: &str) -> Result<()> {
    match asked {
        Some(asked) if asked != stored => {
            Err(Error::OptionsMismatch { option, asked: asked.to_owned(), expected: stored.to_owned() })
        }
        _ => Ok(()),
    }
}

/// A store of keys and their aliases. A handle: clones share the store, on any thread.
///
/// See the [crate's documentation](crate) for an example.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Box<dyn Engine>,
    policy: Policy,
    retention: Retention,
    incarnation: [u8; 16],
    run_closures_twice: bool,
}

/// What a write returned, and the commit in which it is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Committed<T> {
    /// What the closure returned.
    pub value: T,
    /// The commit that the write made; if it changed nothing, the newest commit that it read.
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
    /// What it would change; empty in a store without history.
    pub changes: Vec<Change>,
}

/// Commits in their order, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Changes {
    /// Commits that changed keys or aliases. Numbers may be missing, changes are not.
    pub commits: Vec<CommitRecord>,
    /// Behind everything that was returned here or before.
    pub position: Position,
}

/// What a [sweep](Store::sweep) did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Swept {
    /// Keys purged.
    pub keys_purged: u64,
    /// Keys whose material expired.
    pub materials_expired: u64,
    /// Outcomes of repeatable requests forgotten.
    pub outcomes_pruned: u64,
    /// Up to where the history was trimmed, if it was.
    pub history_floor: Option<Commit>,
    /// The last scope that was swept to its end: where to go on.
    pub after: Option<Scope>,
    /// Whether every scope behind the first was swept, and the history was trimmed.
    pub done: bool,
}

/// What [removing a scope](Store::remove_scope) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Removed {
    /// Keys erased, each with its aliases.
    pub keys: u64,
    /// Whether nothing is left of the scope.
    pub done: bool,
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
        let rows = self.inner.engine.begin_read()?;
        closure(&Snapshot::new(rows, Place::new(scope, &self.inner.policy)))
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
    /// closure. [`ReadOnly`](Error::ReadOnly). [`Io`](Error::Io): nothing was written.
    /// [`CommitUnknown`](Error::CommitUnknown): it failed so late that it may have been. After either,
    /// [`Poisoned`](Error::Poisoned) until the store is opened again.
    pub fn write<T>(
        &self,
        request: &Request,
        closure: impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<Committed<T>> {
        let _only = OnlyWrite::on_this_thread()?;
        let mut attempt = 1;
        loop {
            match self.attempt(request, &closure) {
                Err(Error::Conflict) if attempt < ATTEMPTS_MAX => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// As [`write`](Self::write), for a request that may come again: what comes of it is stored with
    /// its commit, in the request's scope, and if the same request comes again, that is the answer and
    /// the closure does not run. `body` is what the caller asked for, the name of the operation
    /// included; nothing made up here (an id, a time) may be in it.
    ///
    /// The value must go through JSON and have at most 32 KiB there. A transaction that changes
    /// nothing is stored too. A refusal is not: it may be repeated when its cause is gone. Outcomes are
    /// kept as long as [`Retention`] says.
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
    /// [`InvalidOutcome`](Error::InvalidOutcome) if the value does not go through JSON, and those of
    /// [`write`](Self::write). After [`CommitUnknown`](Error::CommitUnknown) the same call settles what
    /// happened.
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
            let changed = txn.keep_outcome(request_id, digest, &value)?;
            Ok(Once::Ran { value, changed })
        })?;
        Ok(match outcome.value {
            Once::Ran { value, changed } => {
                Committed { value, commit: outcome.commit, changed, replayed: false }
            }
            Once::Replayed(Replay { value, commit, changed }) => {
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
        let _only = OnlyWrite::on_this_thread()?;
        let transaction = self.inner.engine.begin_write()?;
        let (value, _, changes) = self.run(&*transaction, request, &closure)?;
        Ok(DryRun { value, changes })
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
            if snap.commit() < commit { Err(Error::CommitNotFound(commit)) } else { closure(snap) }
        })
    }

    /// The newest position: behind the newest commit.
    pub fn position(&self) -> Result<Position> {
        Ok(self.position_after(self.inner.engine.begin_read()?.commit()))
    }

    /// The position behind a commit of this store, such as that of a [`Snapshot`]: whoever read
    /// something there learns by [`changes`](Self::changes) after it what happened since.
    pub fn position_after(&self, commit: Commit) -> Position {
        Position { incarnation: self.inner.incarnation, commit }
    }

    /// The changes of the whole store behind a position, or from the beginning: commit by commit,
    /// whole ones, at most `limit`, in their order, without gaps. For the platform.
    ///
    /// # Errors
    ///
    /// [`HistoryDisabled`](Error::HistoryDisabled),
    /// [`PositionOfAnotherStore`](Error::PositionOfAnotherStore),
    /// [`HistoryTrimmed`](Error::HistoryTrimmed) if something behind the position was trimmed: read the
    /// present state anew and go on from there. [`CommitNotFound`](Error::CommitNotFound) for a
    /// position that is not reached yet.
    pub fn changes(&self, after: Option<&Position>, limit: Limit) -> Result<Changes> {
        self.must_have_history()?;
        let after = after.map_or(Ok(Commit::default()), |position| self.commit_of(position))?;
        let rows = self.inner.engine.begin_read()?;
        let (commits, last) = changes_after(&*rows, after, limit.get())?;
        Ok(Changes { commits, position: self.position_after(last) })
    }

    /// Waits until there is a durable commit behind a position, so that
    /// [`changes`](Self::changes) has something to tell, or the time is over, or the store is
    /// [closed](Self::close). A commit of pruning wakes too, though it changed nothing. Where the
    /// writer is another process, it may come 10 ms late.
    ///
    /// # Errors
    ///
    /// [`PositionOfAnotherStore`](Error::PositionOfAnotherStore), [`Io`](Error::Io).
    pub fn wait(&self, after: &Position, timeout: Duration) -> Result<Waited> {
        self.inner.engine.wait(self.commit_of(after)?, timeout)
    }

    /// Says that the store is to be closed: everyone who [waits](Self::wait), on any handle, is woken,
    /// and nobody waits any more. The store is closed when its last handle is dropped.
    pub fn close(self) {
        self.inner.engine.stop_waiting();
    }

    /// Up to which commit the history was trimmed; 0 if it is whole.
    pub fn history_floor(&self) -> Result<Commit> {
        self.must_have_history()?;
        Ok(floor_of(&*self.inner.engine.begin_read()?)?.commit)
    }

    /// Removes the history up to and with a commit, in small transactions. Present records stay as
    /// they are. Returns the floor: asking for what lies below is
    /// [`HistoryTrimmed`](Error::HistoryTrimmed) from then on. For the platform.
    ///
    /// # Errors
    ///
    /// [`HistoryDisabled`](Error::HistoryDisabled), [`CommitNotFound`](Error::CommitNotFound) for a
    /// commit to come, and those of [`write`](Self::write).
    pub fn trim_history(&self, to: Commit) -> Result<Commit> {
        self.must_have_history()?;
        if to > self.inner.engine.begin_read()?.commit() {
            return Err(Error::CommitNotFound(to));
        }
        while self.trim(to, true, |_| true)?.is_some() {}
        self.history_floor()
    }

    /// Carries out one step of trimming; returns the new floor, or `None` if nothing was left to do.
    fn trim(
        &self,
        to: Commit,
        whole: bool,
        may_go: impl Fn(&CommitRecord) -> bool,
    ) -> Result<Option<Commit>> {
        let _only = OnlyWrite::on_this_thread()?;
        let transaction = self.inner.engine.begin_write()?;
        let rows = self.inner.engine.begin_read()?;
        let Some((batch, floor)) = trim_step(&*rows, &*transaction, to, whole, may_go)? else {
            return Ok(None);
        };
        transaction.commit(&batch, Log { append: None, trim: Some(floor) })?;
        Ok(Some(floor))
    }

    /// Trims the history as the retention says, while there are steps left. Returns whether nothing
    /// is left to do.
    fn trim_by_retention(&self, now: Timestamp, steps: &mut usize, swept: &mut Swept) -> Result<bool> {
        let Retention { history_days, history_commits, .. } = self.inner.retention;
        if !self.inner.policy.history || (history_days.is_none() && history_commits.is_none()) {
            return Ok(true);
        }
        let newest = self.inner.engine.begin_read()?.commit().number();
        let oldest_kept = history_commits.map_or(0, |kept| newest.saturating_sub(kept));
        let may_go = |entry: &CommitRecord| {
            let old = history_days.is_some_and(|days| entry.info.time.plus_days(days) <= now);
            old || entry.info.commit.number() <= oldest_kept
        };
        while *steps > 0 {
            let Some(floor) = self.trim(Commit::new(newest), false, may_go)? else { return Ok(true) };
            swept.history_floor = Some(floor);
            *steps -= 1;
        }
        Ok(false)
    }

    fn must_have_history(&self) -> Result<()> {
        if self.inner.policy.history { Ok(()) } else { Err(Error::HistoryDisabled) }
    }

    fn commit_of(&self, position: &Position) -> Result<Commit> {
        if position.incarnation == self.inner.incarnation {
            Ok(position.commit)
        } else {
            Err(Error::PositionOfAnotherStore)
        }
    }

    /// Purges keys whose deletion is due at `now` and expires material whose time is over, each in
    /// its own transaction, in all scopes behind `after`. A backend calls it from a timer; nothing is
    /// purged on a read.
    ///
    /// It ends after `budget` steps, each a key that changed or a scope that was looked at; go on
    /// with [`Swept::after`] until [`Swept::done`].
    pub fn sweep(&self, now: Timestamp, budget: usize, after: Option<&Scope>) -> Result<Swept> {
        let mut swept = Swept { after: after.cloned(), ..Swept::default() };
        let mut steps = budget;
        while steps > 0 {
            let place = swept.after.as_ref().map_or(After::Start, After::Item);
            let next = self.scopes(place, Limit::new(1)?)?;
            let Some(scope) = next.items.into_iter().next() else {
                swept.done = self.trim_by_retention(now, &mut steps, &mut swept)?;
                break;
            };
            let request = Request::new(&scope).at(now).actor("sweeper");
            let before = steps;
            let purge = |txn: &mut Transaction<'_>, key_id| txn.purge(key_id);
            let expire =
                |txn: &mut Transaction<'_>, key_id| Ok(!txn.material_expired(key_id)?.material.present);
            let (purged, all_purged) = self.sweep_table(&request, Table::Due, &mut steps, purge)?;
            let (expired, all_expired) = self.sweep_table(&request, Table::Expiry, &mut steps, expire)?;
            let all_pruned = self.prune_outcomes(&request, &mut steps, &mut swept)?;
            swept.keys_purged += purged;
            swept.materials_expired += expired;
            if all_purged && all_expired && all_pruned {
                swept.after = Some(scope);
                // A scope in which nothing was due costs a step too.
                steps -= usize::from(steps == before);
            }
        }
        Ok(swept)
    }

    /// Carries out an operation on each key that an index says is due, while there are steps left.
    /// Returns how many keys changed, and whether all were looked at.
    fn sweep_table(
        &self,
        request: &Request,
        table: Table,
        steps: &mut usize,
        operation: impl Fn(&mut Transaction<'_>, KeyId) -> Result<bool>,
    ) -> Result<(u64, bool)> {
        let space = Space::of_scope(request.scope());
        let (mut from, to) = (space.table(table), space.timed_after(table, request.time()));
        let mut changed = 0;
        loop {
            let rows = self.inner.engine.begin_read()?;
            let range = (Bound::Excluded(&from[..]), Bound::Excluded(&to[..]));
            let due = rows.scan(range, SWEPT_AT_ONCE)?;
            let Some((last, _)) = due.last() else { return Ok((changed, true)) };
            let last = last.clone();
            for (row, stored) in due {
                stored?;
                if *steps == 0 {
                    return Ok((changed, false));
                }
                let Some(key_id) = trailing_key_id(&row) else { continue };
                *steps -= 1;
                match self.write(request, |txn| operation(txn, key_id)) {
                    Ok(outcome) => changed += u64::from(outcome.value),
                    // Somebody else came first: there is nothing left to do.
                    Err(error) if error.api().is_some() => {}
                    Err(error) => return Err(error),
                }
            }
            from = last;
        }
    }

    /// Forgets the outcomes of requests that are older than the retention says, or more than it says.
    /// Returns whether all were looked at.
    fn prune_outcomes(&self, request: &Request, steps: &mut usize, swept: &mut Swept) -> Result<bool> {
        let Retention { outcome_hours, outcomes_per_scope, .. } = self.inner.retention;
        let space = Space::of_scope(request.scope());
        let (mut from, to) = (space.table(Table::OutcomeTime), space.after_table(Table::OutcomeTime));
        let rows = self.inner.engine.begin_read()?;
        let scan = |from: &[u8]| rows.scan((Bound::Excluded(from), Bound::Excluded(&to[..])), SWEPT_AT_ONCE);
        let mut count = 0_u64;
        let mut counted = from.clone();
        while let Some((last, _)) = {
            let chunk = scan(&counted)?;
            count += chunk.len() as u64;
            chunk.into_iter().next_back()
        } {
            counted = last;
        }
        let mut excess = count.saturating_sub(outcomes_per_scope);
        loop {
            let chunk = scan(&from)?;
            let Some((last, _)) = chunk.last() else { return Ok(true) };
            let last = last.clone();
            for (row, stored) in chunk {
                stored?;
                let Some(Address::Scoped { table: ScopedTable::OutcomeTime(time, request_id), .. }) =
                    read_address(&row)
                else {
                    continue;
                };
                if excess == 0 && time.plus_hours(outcome_hours) > request.time() {
                    return Ok(true);
                }
                if *steps == 0 {
                    return Ok(false);
                }
                *steps -= 1;
                excess = excess.saturating_sub(1);
                let forgotten = self.write(request, |txn| txn.forget_outcome(&request_id))?;
                swept.outcomes_pruned += u64::from(forgotten.value);
            }
            from = last;
        }
    }

    /// Erases a tenant: every key of the request's scope with its aliases, default keys included,
    /// each in its own transaction. It ends after `budget` keys; call it again until
    /// [`Removed::done`]. For the platform.
    pub fn remove_scope(&self, request: &Request, budget: usize) -> Result<Removed> {
        let mut removed = Removed::default();
        let space = Space::of_scope(request.scope());
        let (from, to) = (space.table(Table::Key), space.table(Table::KeyAlias));
        while !removed.done {
            let left = budget.saturating_sub(usize::try_from(removed.keys).unwrap_or(usize::MAX));
            let rows = self.inner.engine.begin_read()?;
            let range = (Bound::Excluded(&from[..]), Bound::Excluded(&to[..]));
            let keys = rows.scan(range, SWEPT_AT_ONCE.min(left).max(1))?;
            removed.done = keys.is_empty();
            if left == 0 {
                break;
            }
            for (row, stored) in keys {
                stored?;
                let Some(key_id) = trailing_key_id(&row) else { continue };
                let outcome = self.write(request, |txn| txn.remove(key_id))?;
                removed.keys += u64::from(outcome.changed);
            }
        }
        Ok(removed)
    }

    /// The scopes that hold anything, in their order. For the platform.
    ///
    /// # Errors
    ///
    /// [`InvalidCursor`](Error::InvalidCursor) for a cursor of another list.
    pub fn scopes(&self, after: After<'_, Scope>, limit: Limit) -> Result<Page<Scope>> {
        scopes(&*self.inner.engine.begin_read()?, after, limit)
    }

    /// Walks the whole store at one moment, reads every row, and checks every invariant. Memory is
    /// bounded; the time is that of a few reads for each row. Nothing is changed.
    ///
    /// # Errors
    ///
    /// [`Io`](Error::Io). What is wrong with the store is in the report, not an error.
    pub fn verify(&self) -> Result<Report> {
        verify::verify(&*self.inner.engine.begin_read()?, &self.inner.policy)
    }

    fn attempt<T>(
        &self,
        request: &Request,
        closure: &impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<Committed<T>> {
        let transaction = self.inner.engine.begin_write()?;
        let (value, batch, changes) = self.run(&*transaction, request, closure)?;
        if batch.is_empty() {
            return Ok(Committed {
                value,
                commit: transaction.commit_read(),
                changed: false,
                replayed: false,
            });
        }
        let entry = (!changes.is_empty()).then(|| {
            encode_log_entry(&CommitRecord { info: request.info(transaction.next_commit()), changes })
        });
        if entry.as_ref().is_some_and(|entry| entry.len() > ENTRY_MAX) {
            return Err(Error::TransactionTooLarge { what: "bytes in the log", max: ENTRY_MAX });
        }
        let commit = transaction.commit(&batch, Log { append: entry.as_deref(), trim: None })?;
        Ok(Committed { value, commit, changed: true, replayed: false })
    }

    fn run<T>(
        &self,
        transaction: &dyn WriteTransaction,
        request: &Request,
        closure: &impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<(T, Batch, Vec<Change>)> {
        let run = || -> Result<(T, Batch, Vec<Change>)> {
            let place = Place::new(request.scope(), &self.inner.policy);
            let mut txn = Transaction::new(Staging::new(transaction), place, request.time());
            let outcome = closure(&mut txn);
            // An error of the engine comes first: the closure may have swallowed it.
            let (batch, changes) = txn.into_staging().finish()?;
            Ok((outcome?, batch, changes))
        };
        let first = run();
        if self.inner.run_closures_twice {
            let same = match (&first, &run()) {
                (Ok((_, first, changed)), Ok((_, second, also))) => first == second && changed == also,
                (Err(first), Err(second)) => first.to_string() == second.to_string(),
                _ => false,
            };
            if !same {
                return Err(Error::abort("the closure did something else when it was run again"));
            }
        }
        first
    }
}

/// How a repeatable request went.
enum Once<T> {
    Ran { value: T, changed: bool },
    Replayed(Replay<T>),
}

/// The one write that a thread may be in.
struct OnlyWrite;

thread_local! {
    static IN_WRITE: Cell<bool> = const { Cell::new(false) };
}

impl OnlyWrite {
    fn on_this_thread() -> Result<Self> {
        if IN_WRITE.replace(true) { Err(Error::NestedTransaction) } else { Ok(Self) }
    }
}

impl Drop for OnlyWrite {
    fn drop(&mut self) {
        IN_WRITE.set(false);
    }
}
