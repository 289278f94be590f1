//! [`Store`]: the handle that runs closures in transactions, and [`Options`], how to open one.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::redb::{RedbEngine, RedbReader};
use crate::engine::{Batch, Engine, WriteTransaction};
use crate::error::{Error, Result};
use crate::format::{Fixed, Space, Table, decode_fixed, encode_fixed, trailing_key_id};
use crate::id::{Commit, KeyId, Region, Scope, random_bytes};
use crate::page::{After, Limit, Page};
use crate::policy::{AliasScope, Compatibility, Policy, Quotas};
use crate::request::Request;
use crate::time::Timestamp;
use crate::txn::{Place, Snapshot, Staging, Transaction, scopes};
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
        match ranges.into_iter().find(|(_, asked, max)| asked > max) {
            Some((option, asked, max)) => Err(Error::OptionsMismatch {
                option,
                asked: asked.to_string(),
                expected: format!("at most {max}"),
            }),
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
        let fixed = Fixed { incarnation: random_bytes(), alias_scope, region };
        let batch = Batch::from([(Space::of_store().fixed(), Some(encode_fixed(&fixed)))]);
        engine.begin_write()?.commit(&batch)?;
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
        let policy = Policy {
            alias_scope: fixed.alias_scope,
            compatibility: self.compatibility,
            quotas: self.quotas,
            region: fixed.region.clone(),
        };
        let run_closures_twice = self.run_closures_twice;
        Ok(Store { inner: Arc::new(Inner { engine, policy, run_closures_twice }) })
    }
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
    /// Whether it changed anything, and so made a commit.
    pub changed: bool,
}

/// What a [sweep](Store::sweep) did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Swept {
    /// Keys purged.
    pub keys_purged: u64,
    /// Keys whose material expired.
    pub materials_expired: u64,
    /// The last scope that was swept to its end: where to go on.
    pub after: Option<Scope>,
    /// Whether every scope behind the first was swept.
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

    /// What [`write`](Self::write) would return now, without writing anything.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write), except those of the commit.
    pub fn dry_run<T>(
        &self,
        request: &Request,
        closure: impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let _only = OnlyWrite::on_this_thread()?;
        let transaction = self.inner.engine.begin_write()?;
        Ok(self.run(&*transaction, request, &closure)?.0)
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
                swept.done = true;
                break;
            };
            let request = Request::new(&scope).at(now).actor("sweeper");
            let before = steps;
            let purge = |txn: &mut Transaction<'_>, key_id| txn.purge(key_id);
            let expire =
                |txn: &mut Transaction<'_>, key_id| Ok(!txn.material_expired(key_id)?.material.present);
            let (purged, all_purged) = self.sweep_table(&request, Table::Due, &mut steps, purge)?;
            let (expired, all_expired) = self.sweep_table(&request, Table::Expiry, &mut steps, expire)?;
            swept.keys_purged += purged;
            swept.materials_expired += expired;
            if all_purged && all_expired {
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
        let (value, batch) = self.run(&*transaction, request, closure)?;
        if batch.is_empty() {
            return Ok(Committed { value, commit: transaction.commit_read(), changed: false });
        }
        Ok(Committed { value, commit: transaction.commit(&batch)?, changed: true })
    }

    fn run<T>(
        &self,
        transaction: &dyn WriteTransaction,
        request: &Request,
        closure: &impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<(T, Batch)> {
        let run = || -> Result<(T, Batch)> {
            let place = Place::new(request.scope(), &self.inner.policy);
            let mut txn = Transaction::new(Staging::new(transaction), place, request.time());
            let outcome = closure(&mut txn);
            // An error of the engine comes first: the closure may have swallowed it.
            let batch = txn.into_staging().into_batch()?;
            Ok((outcome?, batch))
        };
        let first = run();
        if self.inner.run_closures_twice {
            let same = match (&first, &run()) {
                (Ok((_, first)), Ok((_, second))) => first == second,
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
