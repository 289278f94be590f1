//! What a timer calls: purging, expiring, pruning, key by key; and the removal of a whole scope.

use std::ops::Bound;

use super::Store;
use crate::change::CommitRecord;
use crate::error::{Error, Result};
use crate::format::{Address, ScopedTable, Space, Table, read_address, trailing_key_id};
use crate::id::{Commit, KeyId, Scope};
use crate::page::{After, Limit};
use crate::policy::Retention;
use crate::request::Request;
use crate::telemetry::{self, Call, Place, Summary};
use crate::time::Timestamp;
use crate::txn::{Transaction, last_before, newest_change};

/// How many rows are looked for at once.
const SWEPT_AT_ONCE: usize = 100;

/// What a [sweep](Store::sweep) did.
#[derive(Debug, Clone, Default)]
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
    /// Damage that was met, at most [`FAILURES_MAX`](Self::FAILURES_MAX): the sweep passes over it, and
    /// [`verify`](Store::verify) tells more.
    pub failures: Vec<(Scope, Error)>,
    /// The last scope that was swept to its end: where to go on.
    pub after: Option<Scope>,
    /// Whether every scope behind the first was swept, and the history was trimmed.
    pub done: bool,
}

impl Swept {
    /// How many failures are kept.
    pub const FAILURES_MAX: usize = 100;

    /// Passes over what is damaged; any other error ends the sweep.
    fn pass_over<T>(&mut self, scope: &Scope, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(
                error @ (Error::Corrupted(_) | Error::Unsupported { .. } | Error::TransactionTooLarge { .. }),
            ) => {
                if self.failures.len() < Self::FAILURES_MAX {
                    self.failures.push((scope.clone(), error));
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
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

/// Operations of the platform on whole scopes.
impl Store {
    /// Purges keys whose deletion is due at `now`, expires material whose time is over and forgets
    /// outcomes of requests, each in its own transaction, in all scopes behind `after`; then trims the
    /// history. How much of outcomes and history is kept, [`Retention`] says. A backend calls it from a
    /// timer; nothing goes on a read. In the history it is the actor `sweeper`.
    ///
    /// It ends after `budget` steps, each a key, an outcome, a scope in which nothing was due, or a
    /// transaction that trims up to 100 entries; go on with [`Swept::after`] until [`Swept::done`]. With a budget
    /// of 0 it does nothing and is never done, also where nothing is due.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write) that no API names: a key that somebody else changed in between is
    /// passed over. Damage is passed over too, and told in [`Swept::failures`], so that it keeps no other
    /// key from being swept.
    pub fn sweep(&self, now: Timestamp, budget: usize, after: Option<&Scope>) -> Result<Swept> {
        let sweep = || self.sweep_from(now, budget, after);
        telemetry::told(Call::Sweep, Place::default(), sweep, |swept| Summary {
            commit: swept.history_floor,
            keys: Some(swept.keys_purged),
            materials: Some(swept.materials_expired),
            outcomes: Some(swept.outcomes_pruned),
            troubles: Some(swept.failures.len() as u64),
            ..Summary::default()
        })
    }

    fn sweep_from(&self, now: Timestamp, budget: usize, after: Option<&Scope>) -> Result<Swept> {
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
            let (purged, all_purged) =
                self.sweep_table(&request, Table::Due, &mut steps, &mut swept, purge)?;
            let (expired, all_expired) =
                self.sweep_table(&request, Table::Expiry, &mut steps, &mut swept, expire)?;
            let Retention { outcome_hours, outcomes_per_scope, .. } = self.inner.retention;
            let pruned = self.prune_outcomes(&request, outcome_hours, outcomes_per_scope, &mut steps);
            let (pruned, all_pruned) = swept.pass_over(&scope, pruned)?.unwrap_or((0, true));
            swept.outcomes_pruned += pruned;
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
        swept: &mut Swept,
        operation: impl Fn(&mut Transaction<'_>, KeyId) -> Result<bool>,
    ) -> Result<(u64, bool)> {
        let space = Space::of_scope(request.scope());
        let (mut from, to) = (space.table(table), space.timed_after(table, request.time()));
        let mut changed = 0;
        loop {
            let rows = self.inner.engine.begin_read()?;
            let range = (Bound::Excluded(&from[..]), Bound::Excluded(&to[..]));
            let due = swept.pass_over(request.scope(), rows.scan(range, SWEPT_AT_ONCE))?;
            let Some((last, _)) = due.iter().flatten().last() else { return Ok((changed, true)) };
            let last = last.clone();
            for (row, stored) in due.into_iter().flatten() {
                if swept.pass_over(request.scope(), stored)?.is_none() {
                    continue;
                }
                if *steps == 0 {
                    return Ok((changed, false));
                }
                let Some(key_id) = trailing_key_id(&row) else { continue };
                *steps -= 1;
                match self.write(request, |txn| operation(txn, key_id)) {
                    Ok(outcome) => changed += u64::from(outcome.value),
                    // Somebody else came first: there is nothing left to do.
                    Err(error) if error.api().is_some() => {}
                    // What can't be done costs no step, or the next sweep would come no further.
                    Err(error) => {
                        swept.pass_over::<()>(request.scope(), Err(error))?;
                        *steps += 1;
                    }
                }
            }
            from = last;
        }
    }

    /// Forgets the outcomes of requests that are so many hours old, or more than there may be, while
    /// there are steps left. Returns how many, and whether all were looked at.
    fn prune_outcomes(
        &self,
        request: &Request,
        outcome_hours: u32,
        outcomes_per_scope: u64,
        steps: &mut usize,
    ) -> Result<(u64, bool)> {
        let mut pruned = 0;
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
            let Some((last, _)) = chunk.last() else { return Ok((pruned, true)) };
            let last = last.clone();
            for (row, stored) in chunk {
                stored?;
                let Some(Address::Scoped { table: ScopedTable::OutcomeTime(time, request_id), .. }) =
                    read_address(&row)
                else {
                    continue;
                };
                if excess == 0 && time.plus_hours(outcome_hours) > request.time() {
                    return Ok((pruned, true));
                }
                if *steps == 0 {
                    return Ok((pruned, false));
                }
                *steps -= 1;
                excess = excess.saturating_sub(1);
                let forgotten = self.write(request, |txn| txn.forget_outcome(&request_id, time))?;
                pruned += u64::from(forgotten.value);
            }
            from = last;
        }
    }

    /// Erases a tenant: every key of the request's scope with its aliases, default keys included, then
    /// what came of its repeatable requests, each in its own transaction. It ends after `budget` of
    /// these; call it again until [`Removed::done`]. With a budget of 0 it removes nothing, and is done only if
    /// nothing is there. The history keeps what it was told. For the platform.
    pub fn remove_scope(&self, request: &Request, budget: usize) -> Result<Removed> {
        let remove = || self.remove_from_scope(request, budget);
        telemetry::told(Call::RemoveScope, request, remove, |removed| Summary {
            keys: Some(removed.keys),
            ..Summary::default()
        })
    }

    fn remove_from_scope(&self, request: &Request, budget: usize) -> Result<Removed> {
        let mut removed = Removed::default();
        let space = Space::of_scope(request.scope());
        let (from, to) = (space.table(Table::Key), space.table(Table::KeyAlias));
        let mut steps = budget;
        loop {
            let rows = self.inner.engine.begin_read()?;
            let range = (Bound::Excluded(&from[..]), Bound::Excluded(&to[..]));
            let keys = rows.scan(range, SWEPT_AT_ONCE.min(steps).max(1))?;
            if keys.is_empty() {
                break;
            }
            if steps == 0 {
                return Ok(removed);
            }
            for (row, stored) in keys {
                stored?;
                let Some(key_id) = trailing_key_id(&row) else { continue };
                let outcome = self.write(request, |txn| txn.remove(key_id))?;
                removed.keys += u64::from(outcome.changed);
                steps -= 1;
            }
        }
        (_, removed.done) = self.prune_outcomes(request, 0, 0, &mut steps)?;
        Ok(removed)
    }

    /// Trims the history as the retention says, while there are steps left. Returns whether nothing
    /// is left to do.
    fn trim_by_retention(&self, now: Timestamp, steps: &mut usize, swept: &mut Swept) -> Result<bool> {
        let Retention { history_days, history_commits, .. } = self.inner.retention;
        if !self.inner.policy.history || (history_days.is_none() && history_commits.is_none()) {
            return Ok(true);
        }
        // Counted from the newest change, as the commits of sweeping would push out the rest.
        let rows = self.inner.engine.begin_read()?;
        let newest = newest_change(&*rows, rows.commit())?;
        let last_to_go = history_commits.map(|kept| last_before(&*rows, newest, kept)).transpose()?;
        let last_to_go = last_to_go.unwrap_or_default();
        drop(rows);
        let may_go = |entry: &CommitRecord| {
            let old = history_days.is_some_and(|days| entry.info.time.plus_days(days) <= now);
            old || entry.info.commit <= last_to_go
        };
        while *steps > 0 {
            let Some(floor) = self.trim(newest, may_go)? else { return Ok(true) };
            swept.history_floor = Some(floor);
            *steps -= 1;
        }
        Ok(false)
    }
}
