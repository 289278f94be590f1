//! A transaction that may commit: it reads at one revision, and its commit compares that nothing of what it read
//! has changed since.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::client::{At, Found, Until, pause, revision_of};
use super::entries::{CHAPTER_REVISIONS, View, etcd_revision, no_chapter, revision};
use super::failure::Failure;
use super::layout::Key;
use super::rows::Known;
use super::seen::Chapter;
use super::slots::{Slot, Slots};
use super::{LeftOut, Shared};
use crate::engine::seal::seal;
use crate::engine::{Batch, Load, Log, RowSource, WriteTransaction};
use crate::error::{Error, Result};
use crate::format::{Row, Stored, Value};
use crate::id::{Commit, random_bytes};
use crate::telemetry;
use crate::time::Stopwatch;

/// How long a commit that is done waits until this process has seen it too, so that what comes next need not ask the
/// cluster.
const SEEN_WITHIN: Duration = Duration::from_millis(20);

/// How long a transaction waits at its begin for what this process was told of.
pub(super) const CAUGHT_UP_WITHIN: Duration = Duration::from_millis(3);

pub(super) struct EtcdWrite<'a> {
    shared: &'a Shared,
    slots: &'a Slots,
    /// What is read, and how long the operation goes on.
    view: View,
    /// Whether that is the newest of when it began, not one that may be older.
    is_newest: bool,
    /// Of each row that was read, the revision that changed it; 0 if it is not there.
    read: RefCell<BTreeMap<Row, u64>>,
    /// Names the attempt, and its entry in the log.
    id: [u8; 16],
    /// Where the time is noted that is spent waiting for servers, if somebody asks.
    waited: Option<&'a Cell<Duration>>,
}

impl<'a> EtcdWrite<'a> {
    /// On what this process has seen, if that is all that it was told of; otherwise on the newest revision.
    pub(super) fn begin(
        shared: &'a Shared,
        slots: &'a Slots,
        until: Until,
        waited: Option<&'a Cell<Duration>>,
    ) -> Result<Self> {
        let began = Stopwatch::start();
        let seen = shared.seen.caught_up(CAUGHT_UP_WITHIN);
        let (at, is_newest) = match seen {
            Some(seen) => (etcd_revision(seen), false),
            None => (shared.newest_revision(until)?, true),
        };
        let view = View { at, until };
        let begun =
            Self { shared, slots, view, is_newest, read: RefCell::default(), id: random_bytes(), waited };
        begun.note_waited(began);
        Ok(begun)
    }

    fn note_waited(&self, began: Stopwatch) {
        if let Some(waited) = self.waited {
            waited.set(waited.get() + began.elapsed());
        }
    }

    fn rows(&self, rows: &[&[u8]]) -> Result<Vec<Known>> {
        let began = Stopwatch::start();
        let known = self.shared.rows_at(rows, self.view);
        self.note_waited(began);
        let known = known.map_err(|error| self.met(error))?;
        let mut read = self.read.borrow_mut();
        for (row, known) in rows.iter().zip(&known) {
            read.insert(row.to_vec(), known.modified);
        }
        Ok(known)
    }

    /// Takes note of an error of a read.
    fn met(&self, error: Error) -> Error {
        // What was seen is older than what etcd still has, as nothing of this store has changed since: the next
        // transaction must begin with what is there now.
        if matches!(error, Error::Conflict)
            && let Ok(newest) = self.shared.newest_revision(self.view.until)
        {
            self.shared.seen.tell(revision(newest));
        }
        error
    }

    /// That nothing of what was read has changed.
    fn unchanged(&self) -> Vec<Compare> {
        if self.shared.leaves_out(LeftOut::Comparison) {
            return Vec::new();
        }
        let layout = &self.shared.layout;
        let compares = self.read.borrow();
        let compares = compares.iter().map(|(row, modified)| {
            Compare::mod_revision(layout.row(row), CompareOp::Equal, etcd_revision(*modified))
        });
        compares.collect()
    }

    /// What is asked for where a comparison fails: which of the rows it was.
    fn look_again(&self) -> Vec<TxnOp> {
        let rows = self.read.borrow();
        rows.keys().map(|row| when_changed(self.shared.layout.row(row))).collect()
    }

    /// Takes note of what was found where a comparison failed: when the rows changed.
    fn met_another(&self, answer: &TxnResponse) -> Error {
        let newest = answer.op_responses().iter().take(self.read.borrow().len()).map(last_change).max();
        // One that is gone tells nothing, but the answer is of later than that.
        let newest = newest.filter(|newest| *newest > self.view.at);
        self.shared.seen.tell(revision(newest.unwrap_or_else(|| revision_of(answer))));
        self.shared.counts.conflicts.add();
        Error::Conflict
    }

    /// What the commit does, besides the slot.
    fn operations(
        &self,
        batch: &Batch,
        log: Log<'_>,
        chapter: Chapter,
        lease_of_slot: &Slot,
    ) -> Result<Vec<TxnOp>> {
        let layout = &self.shared.layout;
        let mut operations: Vec<_> = batch
            .iter()
            .map(|(row, value)| match value {
                // Its commit is the revision, which is not known yet.
                Some(value) => TxnOp::put(layout.row(row), seal(row, Commit::default(), value), None),
                None => TxnOp::delete(layout.row(row), None),
            })
            .collect();
        if let Some(entry) = log.append {
            let key = layout.entry(chapter.number, &self.id);
            let sealed = seal(&key, Commit::default(), entry);
            operations.push(TxnOp::put(key, sealed, None));
        }
        if let Some(trim) = log.trim {
            let key = layout.trimmed();
            let sealed = seal(&key, Commit::default(), &trim.number().to_be_bytes());
            operations.push(TxnOp::put(key, sealed, None));
            // Those that lie in a chapter with others that stay are hidden, until that can go too.
            let kept = self.shared.first_kept(trim.number(), self.view)?;
            let delete = |from, to| TxnOp::delete(from, Some(DeleteOptions::new().with_range(to)));
            operations.push(delete(layout.entries_of(0), layout.entries_of(kept)));
            operations.push(delete(layout.chapter(0), layout.chapter(kept)));
        }
        let tied = PutOptions::new().with_lease(lease_of_slot.lease);
        let slot = layout.slot(&self.slots.engine, lease_of_slot.number);
        operations.push(TxnOp::put(slot, self.id, Some(tied)));
        Ok(operations)
    }

    fn attempt(&self, batch: &Batch, log: Log<'_>) -> Result<Commit> {
        let (Shared { layout, seen, client, counts, .. }, slots) = (self.shared, self.slots);
        let (chapter, slot) = (seen.chapter(), slots.take());
        let key_of_slot = layout.slot(&slots.engine, slot.number);
        let mut compares = self.unchanged();
        let without_slot = self.shared.leaves_out(LeftOut::Slot);
        if !without_slot {
            compares.push(Compare::mod_revision(key_of_slot.clone(), CompareOp::Equal, slot.modified));
        }
        compares.extend([
            // The chapter is there, and is the newest or the one before.
            Compare::create_revision(
                layout.chapter(chapter.number),
                CompareOp::Equal,
                etcd_revision(chapter.start),
            ),
            Compare::create_revision(layout.chapter(chapter.number + 2), CompareOp::Equal, 0),
        ]);
        let operations = self.operations(batch, log, chapter, &slot)?;
        let mut look_again = self.look_again();
        look_again.push(when_changed(key_of_slot));
        look_again.push(TxnOp::get(layout.chapter(0), Some(self.shared.newest_in_chapters())));
        let txn = Txn::new().when(compares).and_then(operations).or_else(look_again);
        // If there is no answer, as much time is left to find out what came of it.
        match client.try_txn(txn, self.view.until.left() / 2) {
            Ok(answer) if answer.succeeded() => {
                let modified = revision_of(&answer);
                slots.give_back(Slot { modified, ..slot });
                Ok(self.committed(batch, chapter, modified))
            }
            Ok(answer) => Err(self.refused(slot, &answer)?),
            Err(Failure::NoLease) => {
                slots.renew(client, slot.lease, self.view.until)?;
                Err(Error::Conflict)
            }
            Err(failure) if failure.is_final() => {
                slots.give_back(slot);
                Err(failure.into())
            }
            Err(failure) => {
                counts.unknown.add();
                telemetry::outcome_unknown();
                if without_slot {
                    return Err(Error::Conflict);
                }
                self.settle(batch, chapter, slot, &failure)
            }
        }
    }

    /// Takes note of why a commit was refused: rows have changed, or the slot has ended with its lease, or the chapter
    /// has ended and this process has not seen that yet.
    fn refused(&self, slot: Slot, answer: &TxnResponse) -> Result<Error> {
        let (Shared { seen, client, .. }, slots) = (self.shared, self.slots);
        let conflict = self.met_another(answer);
        let mut found = answer.op_responses();
        let chapter = found.pop().and_then(first_found).and_then(|found| self.shared.chapter_of(&found));
        seen.note_chapter(chapter.ok_or_else(no_chapter)?);
        if found.pop().as_ref().map(last_change) == Some(slot.modified) {
            slots.give_back(slot);
        } else {
            slots.renew(client, slot.lease, self.view.until)?;
        }
        Ok(conflict)
    }

    /// Finds out what became of an attempt without an answer: sees to it that it can't be applied any more, or learns
    /// that it was.
    fn settle(&self, batch: &Batch, chapter: Chapter, slot: Slot, failure: &Failure) -> Result<Commit> {
        let (Shared { layout, client, .. }, slots) = (self.shared, self.slots);
        let key = layout.slot(&slots.engine, slot.number);
        let tied = PutOptions::new().with_lease(slot.lease);
        let txn = Txn::new()
            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, slot.modified)])
            .and_then([TxnOp::put(key.clone(), [], Some(tied))])
            .or_else([TxnOp::get(key, None)]);
        let mut made = 0;
        loop {
            let unknown = match client.try_txn(txn.clone(), self.view.until.left()) {
                Ok(answer) if answer.succeeded() => {
                    slots.give_back(Slot { modified: revision_of(&answer), ..slot });
                    return Err(Error::Conflict);
                }
                Ok(answer) => match answer.op_responses().pop().and_then(first_found) {
                    Some(Found { value, modified, .. }) if value == self.id => {
                        slots.give_back(Slot { modified, ..slot });
                        return Ok(self.committed(batch, chapter, modified));
                    }
                    // An earlier attempt to settle it was applied, though its answer did not come.
                    Some(Found { value, modified, .. }) if value.is_empty() => {
                        slots.give_back(Slot { modified, ..slot });
                        return Err(Error::Conflict);
                    }
                    _ => "what would tell has ended with its lease".to_owned(),
                },
                Err(again) if again.may_pass() && pause(made, self.view.until) => {
                    made += 1;
                    continue;
                }
                Err(Failure::OutOfSpace) => return self.settle_without_space(batch, chapter, slot, failure),
                Err(_) => failure.to_string(),
            };
            return Err(Error::CommitUnknown(unknown.into()));
        }
    }

    /// Where nothing can be written any more, only an attempt that was made shows.
    fn settle_without_space(
        &self,
        batch: &Batch,
        chapter: Chapter,
        slot: Slot,
        failure: &Failure,
    ) -> Result<Commit> {
        let (Shared { layout, client, .. }, slots) = (self.shared, self.slots);
        let key = layout.slot(&slots.engine, slot.number);
        let unknown = |error: Error| Error::CommitUnknown(error.to_string().into());
        let (_, mut found) = client.get(&[key], At::Newest, self.view.until).map_err(unknown)?;
        match found.pop().flatten() {
            Some(Found { value, modified, .. }) if value == self.id => {
                slots.give_back(Slot { modified, ..slot });
                Ok(self.committed(batch, chapter, modified))
            }
            // etcd has answered, so it is decided.
            _ if *failure == Failure::OutOfSpace => {
                slots.give_back(slot);
                Err(failure.clone().into())
            }
            _ => Err(unknown(failure.clone().into())),
        }
    }

    /// Takes note of a commit that was made.
    fn committed(&self, batch: &Batch, chapter: Chapter, modified: i64) -> Commit {
        let Shared { rows, seen, .. } = self.shared;
        let commit = revision(modified);
        for (row, value) in batch {
            let value = value.as_deref().map(Into::into);
            let modified = if value.is_some() { commit } else { 0 };
            rows.keep(row, Known { value, modified, known_at: commit });
        }
        seen.tell(commit);
        if commit > chapter.start + CHAPTER_REVISIONS {
            self.shared.begin_chapter(chapter);
        }
        seen.wait_for(commit, SEEN_WITHIN);
        Commit::new(commit)
    }
}

impl RowSource for EtcdWrite<'_> {
    fn commit_read(&self) -> Commit {
        Commit::new(revision(self.view.at))
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        Ok(self.rows(rows)?.iter().map(|known| known.value().map(Value::to_stored)).collect())
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        self.rows(&[row])?.iter().filter_map(Known::value).for_each(see);
        Ok(())
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        if commit > self.commit_read() && !self.is_newest {
            // What this process has seen may be older than a commit that the caller was told of.
            let newest = revision(self.shared.newest_revision(self.view.until)?);
            if commit.number() <= newest {
                self.shared.seen.tell(commit.number());
                return Err(Error::Conflict);
            }
        }
        self.shared.entry_at(commit, self.view).map_err(|error| self.met(error))
    }
}

impl WriteTransaction for EtcdWrite<'_> {
    fn end(self: Box<Self>) -> Result<()> {
        if self.is_newest || self.read.borrow().is_empty() {
            return Ok(());
        }
        // What was seen may be older than what others were told.
        let txn = Txn::new().when(self.unchanged()).or_else(self.look_again());
        let answer = self.shared.client.txn(&txn, self.view.until)?;
        if answer.succeeded() { Ok(()) } else { Err(self.met_another(&answer)) }
    }

    fn commit(self: Box<Self>, batch: &Batch, log: Log<'_>) -> Result<Commit> {
        if batch.is_empty() && log.append.is_none() && log.trim.is_none() {
            let read = self.commit_read();
            return self.end().map(|()| read);
        }
        self.attempt(batch, log)
    }

    fn load(self: Box<Self>, _load: &Load) -> Result<Commit> {
        Err(Error::ReadOnly)
    }
}

/// Asks for the revision that changed a key.
fn when_changed(key: Key) -> TxnOp {
    TxnOp::get(key, Some(GetOptions::new().with_keys_only()))
}

/// The revision that changed what an operation found; 0 if that is not there.
fn last_change(response: &TxnOpResponse) -> i64 {
    match response {
        TxnOpResponse::Get(found) => found.kvs().first().map_or(0, |found| found.mod_revision()),
        _ => 0,
    }
}

fn first_found(response: TxnOpResponse) -> Option<Found> {
    match response {
        TxnOpResponse::Get(mut found) => found.take_kvs().into_iter().next().map(Found::from),
        _ => None,
    }
}

impl Shared {
    /// Begins the next chapter, in the background. If that fails, the next commit does it again.
    fn begin_chapter(&self, chapter: Chapter) {
        let next = self.layout.chapter(chapter.number + 1);
        let txn = Txn::new()
            .when([
                Compare::create_revision(
                    self.layout.chapter(chapter.number),
                    CompareOp::Equal,
                    etcd_revision(chapter.start),
                ),
                Compare::create_revision(next.clone(), CompareOp::Equal, 0),
            ])
            .and_then([TxnOp::put(next, [], None)]);
        self.client.send(txn);
    }
}
