//! The operations: [`Snapshot`] reads, [`Transaction`] reads and writes.
//!
//! An operation is a short script: read the records, ask the rules, write record and indexes
//! together. A transaction is bound to one scope when it begins; no call can name another.

mod aliases;
mod cache;
#[cfg(test)]
mod cache_tests;
mod expect;
mod history;
mod import;
mod keys;
mod list;
mod read;
mod replay;
mod requests;
mod revert;
mod staging;
mod trim;

pub use aliases::{Moved, Renamed};
pub use cache::CacheStats;
pub use expect::Expect;
pub use history::{At, HistoryOf, Order};

pub(crate) use cache::Cache;
pub(crate) use history::was_lost;
pub(crate) use import::Importing;
pub(crate) use list::scopes;
pub(crate) use read::Rows;
pub(crate) use replay::replay;
pub(crate) use requests::Replay;
pub(crate) use staging::{Staged, Staging, ran_differently};
pub(crate) use trim::{changes_after, floor_of, last_before, newest_change, trim_step};

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::alias::{Alias, AliasRecord, AliasUrn, KeyAlias};
use crate::change::{Operation, Previous};
use crate::engine::Reading;
use crate::error::{Error, Result};
use crate::format::{Row, Space, Stored, Value};
use crate::id::{Commit, KeyId, Scope};
use crate::key::KeyRecord;
use crate::policy::Policy;
use crate::rules;
use crate::telemetry;
use crate::time::Timestamp;
use cache::{Entry, Name};

/// How much one transaction may read and write, on every engine alike; more is
/// [`Error::TransactionTooLarge`](crate::Error::TransactionTooLarge).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionLimits;

impl TransactionLimits {
    /// Distinct rows read; entries of the log are not counted.
    pub const ROWS_READ_MAX: usize = 200;
    /// Distinct rows written.
    pub const ROWS_WRITTEN_MAX: usize = 200;
    /// Bytes written: addresses and values, and for each change 320 bytes and the record before and after.
    pub const BYTES_WRITTEN_MAX: usize = 1024 * 1024;
    /// The time from its begin to its commit if [`Options::transaction_time`](crate::Options::transaction_time)
    /// says nothing else; waiting for other writers or for servers is no part of it.
    pub const TIME_DEFAULT: Duration = Duration::from_secs(2);
}

/// One scope at one commit: everything read from it is of the same moment.
///
/// Obtained by [`Store::read`](crate::Store::read). Records come shared.
pub struct Snapshot<'a> {
    rows: Reading,
    place: Place<'a>,
    cache: Option<&'a Cache>,
}

/// Operations of one scope that are committed together or not at all.
///
/// Obtained by [`Store::write`](crate::Store::write). Each operation sees the writes of those before
/// it. One that is refused leaves no trace, and the closure may go on without it.
pub struct Transaction<'a> {
    staging: Staging<'a>,
    place: Place<'a>,
    now: Timestamp,
    /// The operation that the caller asked for, while it runs.
    operation: Option<Operation>,
}

/// Where a snapshot or a transaction reads, and what it upholds.
pub(crate) struct Place<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) space: ScopeSpace<'a>,
    pub(crate) policy: &'a Policy,
}

/// The space of a scope, made when it is needed: what is found in the cache needs none.
pub(crate) struct ScopeSpace<'a> {
    scope: &'a Scope,
    space: OnceLock<Space>,
}

impl<'a> Place<'a> {
    pub(crate) fn new(scope: &'a Scope, policy: &'a Policy) -> Self {
        Self { scope, space: ScopeSpace { scope, space: OnceLock::new() }, policy }
    }

    /// The same place, for another transaction.
    fn again(&self) -> Self {
        let space = ScopeSpace { scope: self.scope, space: Space::clone(&self.space).into() };
        Self { space, ..*self }
    }
}

impl Deref for ScopeSpace<'_> {
    type Target = Space;

    fn deref(&self) -> &Space {
        self.space.get_or_init(|| Space::of_scope(self.scope))
    }
}

impl<'a> Snapshot<'a> {
    pub(crate) fn new(rows: Reading, place: Place<'a>, cache: Option<&'a Cache>) -> Self {
        Self { rows, place, cache }
    }

    /// The commit that this snapshot shows.
    pub fn commit(&self) -> Commit {
        self.rows.commit()
    }

    /// The scope that it reads.
    pub fn scope(&self) -> &Scope {
        self.place.scope
    }
}

impl Rows for Snapshot<'_> {
    fn place(&self) -> &Place<'_> {
        &self.place
    }

    fn rows(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        self.rows.get(rows)
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        self.rows.with_row(row, see)
    }

    fn newest(&self) -> Commit {
        self.rows.commit()
    }

    fn log_bytes(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.rows.changelog_entry(commit)
    }

    fn met(&self, error: Error) -> Error {
        error
    }

    fn known(&self, name: Name<'_>) -> Option<Entry> {
        self.cache?.get(&*self.rows, self.place.scope, name)
    }

    fn keep(&self, name: Name<'_>, entry: impl FnOnce(Commit) -> Entry) {
        if let Some(cache) = self.cache {
            cache.keep(&*self.rows, self.place.scope, name, entry(self.rows.commit()));
        }
    }
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(staging: Staging<'a>, place: Place<'a>, now: Timestamp) -> Self {
        Self { staging, place, now, operation: None }
    }

    /// The scope that it reads and writes.
    pub fn scope(&self) -> &Scope {
        self.place.scope
    }

    /// The time of the request.
    pub fn time(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn into_staging(self) -> Staging<'a> {
        self.staging
    }

    /// Runs one operation: if it is refused, what it staged is dropped.
    fn operation<T>(&mut self, operation: Operation, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = self.operation;
        self.operation = outer.or(Some(operation));
        let mark = self.staging.mark();
        let result = run(self);
        self.operation = outer;
        if outer.is_none() {
            telemetry::operation(operation, &result, self.staging.changed_since(&mark));
        }
        match result {
            Ok(_) if outer.is_none() => self.staging.keep(),
            Ok(_) => {}
            Err(_) => self.staging.roll_back(mark),
        }
        result
    }

    fn put(&mut self, row: Row, value: Vec<u8>) -> Result<()> {
        self.staging.write(row, Some(value))
    }

    fn delete(&mut self, row: Row) -> Result<()> {
        self.staging.write(row, None)
    }

    /// When a record changes now: never before its previous change.
    fn change_time(&self, previous: Option<Previous>) -> Timestamp {
        previous.map_or(self.now, |previous| rules::change_time(previous.time, self.now))
    }
}

impl Rows for Transaction<'_> {
    fn place(&self) -> &Place<'_> {
        &self.place
    }

    fn rows(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        self.staging.rows(rows)
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        self.staging.with_row(row, see)
    }

    fn newest(&self) -> Commit {
        self.staging.commit_read()
    }

    fn log_bytes(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.staging.changelog_entry(commit)
    }

    fn met(&self, error: Error) -> Error {
        self.staging.fail(error)
    }
}

macro_rules! point_reads {
    ($reader:ident) => {
        /// Reading single records.
        impl $reader<'_> {
            /// The key with this id.
            ///
            /// # Errors
            ///
            /// [`KeyNotFound`](crate::Error::KeyNotFound) if the scope has none.
            pub fn key(&self, key_id: KeyId) -> Result<Arc<KeyRecord>> {
                read::key(self, key_id)
            }

            /// The key whose own name this is.
            ///
            /// # Errors
            ///
            /// [`KeyNotFound`](crate::Error::KeyNotFound) if the scope has none.
            pub fn find_by_key_alias(&self, key_alias: &KeyAlias) -> Result<Arc<KeyRecord>> {
                read::key_by_key_alias(self, key_alias)
            }

            /// The record of an alias. The bytes of the name must be exactly those it was created
            /// with.
            ///
            /// # Errors
            ///
            /// [`AliasNotFound`](crate::Error::AliasNotFound) if the scope has none.
            pub fn alias(&self, alias: &Alias) -> Result<Arc<AliasRecord>> {
                read::alias(self, alias)
            }

            /// The key that an alias names.
            ///
            /// # Errors
            ///
            /// [`AliasNotFound`](crate::Error::AliasNotFound) if the scope has no such alias.
            pub fn resolve(&self, alias: &Alias) -> Result<Arc<KeyRecord>> {
                read::resolve(self, alias)
            }

            /// The keys that these aliases name, in the same order; `None` for each alias that the
            /// scope has not.
            pub fn resolve_many(&self, aliases: &[Alias]) -> Result<Vec<Option<Arc<KeyRecord>>>> {
                read::resolve_many(self, aliases)
            }

            /// The key that the alias with this URN names.
            ///
            /// # Errors
            ///
            /// [`AliasNotFound`](crate::Error::AliasNotFound) if the scope has no such alias, or the
            /// URN is of another region or domain.
            pub fn resolve_urn(&self, urn: &AliasUrn) -> Result<Arc<KeyRecord>> {
                read::resolve_urn(self, urn)
            }
        }
    };
}

point_reads!(Snapshot);
point_reads!(Transaction);
