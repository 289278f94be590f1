//! Copying a whole store into another one, on whatever engine either is: commit by commit, and compared row by row.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Store;
use super::backend::Backend;
use super::building::{ENTRIES_AT_ONCE, ROWS_AT_ONCE};
use crate::alias::AliasRecord;
use crate::change::{Change, CommitInfo, CommitRecord, Images, Operation, Position, Previous};
use crate::engine::{Batch, Log, ReadTransaction, Reading, RowSource};
use crate::error::{Error, Result};
use crate::format::{
    Address, Floor, Outcome, RecordId, Row, ScopedTable, Space, Stored, Value, corrupted, decode_alias,
    decode_key, decode_log_entry, decode_outcome, encode_floor, encode_log_entry, encode_nothing,
    encode_outcome, log_place, read_address,
};
use crate::id::{Commit, Scope};
use crate::key::KeyRecord;
use crate::policy::Policy;
use crate::progress;
use crate::telemetry::{self, Call, Summary};
use crate::time::Timestamp;
use crate::txn::{TransactionLimits, floor_of, replay};

#[cfg(test)]
mod tests;

/// A batch of rows is written when it has so many, which leaves room for those of one more record.
const ROWS_IN_BATCH: usize = TransactionLimits::ROWS_WRITTEN_MAX / 4;

/// What [`Store::copy_to`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Copied {
    /// The commit of the source that was copied, with all before it.
    pub commit: Commit,
    /// The rows that were compared, of all kinds, those of the history not counted.
    pub rows: u64,
    /// Commits in the history, compared with all their changes.
    pub entries: u64,
    /// Behind everything that was copied, in the target's own incarnation.
    pub position: Position,
}

/// Copying. For the platform.
impl Store {
    /// Copies everything, with the history, into a store that is empty: for moving from a file to a cluster, or
    /// back. What is copied is the source as it is at its newest commit when this is called, so stop its writers
    /// before. Then every row and every change of the history is compared.
    ///
    /// Times, actors, request ids and the order of commits stay what they are. **Numbers of commits do not**: they are
    /// the target's, in the same order; so versions are others too, and the target is another incarnation. An
    /// outcome of a request that may be repeated says what it said. A history that was trimmed is as short in the
    /// target. Records whose changes were trimmed are written in batches, so those that one commit of the source left
    /// may have different versions in the target.
    ///
    /// Nobody else may write to the target meanwhile; who had it open before can. Until it is whole it can't be opened,
    /// which is [`Unfinished`](Error::Unfinished), so a copy that was cut off is never taken for one: empty the target and begin
    /// again. It makes each commit of the history anew, one after
    /// the other; memory is taken for each record that changed behind what was trimmed, if anything was. The source
    /// is held at one commit for as long as it takes, for which a cluster must keep old revisions.
    ///
    /// ```
    /// use keystead::{NewKey, Request, Scope, Store};
    /// let (source, target) = (Store::in_memory()?, Store::in_memory()?);
    /// let request = Request::new(&Scope::new("domain", "project")?);
    /// let key = source.write(&request, |txn| txn.create_key(&NewKey::new("orders")?))?.value;
    /// let copied = source.copy_to(&target)?;
    /// assert_eq!(copied.entries, 1);
    /// let copy = target.read(request.scope(), |snap| snap.key(key.key_id))?;
    /// assert_eq!(copy.key_alias, key.key_alias);
    /// # Ok::<(), keystead::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotEmpty`](Error::NotEmpty) if the target holds anything, [`OptionsMismatch`](Error::OptionsMismatch) if it was
    /// created with another alias scope, region, or history. [`Unsound`](Error::Unsound) if the copy differs, because
    /// somebody else wrote to it. Those of [`write`](Self::write) and of reading.
    pub fn copy_to(&self, target: &Self) -> Result<Copied> {
        telemetry::told(
            Call::CopyTo,
            telemetry::Place::default(),
            || self.copy_all_to(target),
            |copied| Summary {
                commit: Some(copied.commit),
                rows: Some(copied.rows),
                entries: Some(copied.entries),
                ..Summary::default()
            },
        )
    }

    fn copy_all_to(&self, target: &Self) -> Result<Copied> {
        self.must_fit(target)?;
        let source = self.inner.engine.begin_read()?;
        source.audit()?;
        let copying = Copying { policy: &self.inner.policy, target };
        copying.begin()?;
        let floor = floor_of(&*source)?;
        if floor != Floor::default() || !self.inner.policy.history {
            let changed = first_changes(&*source, floor)?;
            let base = copying.copy_base(&*source, &changed)?;
            if floor != Floor::default() {
                copying.write_floor(Floor { commit: base, ..floor })?;
            }
        }
        let mut after = floor.commit;
        // As many as the numbers, unless a restore left some out.
        let numbers = source.commit().number().saturating_sub(floor.commit.number());
        progress::begin("carrying over changes", source.length()?.map(|length| length.min(numbers)));
        loop {
            let entries = source.log(after, ENTRIES_AT_ONCE)?;
            let Some((last, _)) = entries.last() else { break };
            after = *last;
            for (commit, bytes) in entries {
                copying.copy_commit(&decode_log_entry(commit, &bytes?)?)?;
                progress::add(1);
            }
        }
        copying.copy_outcomes(&*source)?;
        let reached = copying.engine().begin_read()?;
        let (rows, entries) = compare(&*source, &*reached)?;
        target.verify_at(&*reached)?.must_be_clean()?;
        let commit = copying.end(reached.commit())?;
        Ok(Copied { commit: source.commit(), rows, entries, position: target.position_after(commit) })
    }

    fn must_fit(&self, target: &Self) -> Result<()> {
        let (ours, theirs) = (&self.inner.policy, &target.inner.policy);
        let switch = |on: bool| if on { "on" } else { "off" };
        let pairs = [
            ("alias_scope", ours.alias_scope.as_str(), theirs.alias_scope.as_str()),
            ("region", ours.region.as_str(), theirs.region.as_str()),
            ("history", switch(ours.history), switch(theirs.history)),
        ];
        match pairs.into_iter().find(|(_, ours, theirs)| ours != theirs) {
            Some((option, expected, asked)) => {
                Err(Error::OptionsMismatch { option, asked: asked.to_owned(), expected: expected.to_owned() })
            }
            None => Ok(()),
        }
    }
}

struct Copying<'a> {
    policy: &'a Policy,
    target: &'a Store,
}

/// What is there in the target, with what is about to be written over it.
struct Upon {
    rows: Reading,
    batch: RefCell<Batch>,
    next: Commit,
}

impl Copying<'_> {
    fn engine(&self) -> &Backend {
        &self.target.inner.engine
    }

    /// Marks the target as one that is not whole.
    fn begin(&self) -> Result<()> {
        let (fixed, mark) = (Space::of_store().fixed(), Space::of_store().unfinished());
        let marked = Batch::from([(mark.clone(), Some(encode_nothing()))]);
        self.engine().retry_on_conflict(|attempt| {
            let (transaction, rows) = (self.engine().begin_attempt(attempt)?, self.engine().begin_read()?);
            let found = rows.scan((Bound::Unbounded, Bound::Unbounded), 2)?;
            let is_empty =
                found.iter().all(|(row, _)| *row == fixed) && rows.log(Commit::default(), 1)?.is_empty();
            if !is_empty || transaction.get(&[&mark])?.iter().any(Option::is_some) {
                return Err(Error::NotEmpty);
            }
            transaction.commit(&marked, Log::default())?;
            Ok(())
        })
    }

    /// The target is whole, as it was compared at this commit.
    fn end(&self, reached: Commit) -> Result<Commit> {
        let whole = Batch::from([(Space::of_store().unfinished(), None)]);
        self.write_if(&whole, None, || {
            if self.engine().begin_read()?.log(reached, 1)?.is_empty() {
                return Ok(());
            }
            let what = "somebody else has changed the copy after it was compared";
            Err(Error::Unsound([what.to_owned()].into()))
        })
    }

    /// Writes, again if that is a conflict: on a cluster it is one also if a commit was not made for want of an answer.
    fn write(&self, batch: &Batch, entry: Option<&[u8]>) -> Result<Commit> {
        self.write_if(batch, entry, || Ok(()))
    }

    fn write_if(&self, batch: &Batch, entry: Option<&[u8]>, may: impl Fn() -> Result<()>) -> Result<Commit> {
        let mark = Space::of_store().unfinished();
        self.engine().retry_on_conflict(|attempt| {
            let transaction = self.engine().begin_attempt(attempt)?;
            // If two copy into the same target, one of them fails.
            if transaction.get(&[&mark])?.iter().any(Option::is_none) {
                return Err(Error::NotEmpty);
            }
            may()?;
            transaction.commit(batch, Log { append: entry, trim: None })
        })
    }

    fn upon(&self) -> Result<Upon> {
        let transaction = self.engine().begin_write()?;
        let next = self.engine().next_commit(&*transaction);
        drop(transaction);
        Ok(Upon { rows: self.engine().begin_read()?, batch: RefCell::default(), next })
    }

    fn write_floor(&self, floor: Floor) -> Result<Commit> {
        self.write(&Batch::from([(Space::of_store().floor(), Some(encode_floor(floor)))]), None)
    }

    /// Writes every record as it was before the changes that will be made anew. Returns the last commit of those.
    fn copy_base(&self, source: &dyn ReadTransaction, changed: &FirstChanges) -> Result<Commit> {
        let mut upon = self.upon()?;
        let mut last = upon.rows.commit();
        // Keys first, because aliases are linked to them.
        for of_keys in [true, false] {
            let gone = changed.iter().filter_map(|((scope, _), image)| Some((scope.clone(), image.clone()?)));
            let gone = gone.filter(|(_, image)| matches!(image, Image::Key(_)) == of_keys).map(Ok);
            for record in unchanged_records(source, of_keys, changed).chain(gone) {
                let (scope, image) = record?;
                let images = match image {
                    Image::Key(key) => Images::Key { before: None, after: Some(key) },
                    Image::Alias(alias) => Images::Alias { before: None, after: Some(alias) },
                };
                let change = Change {
                    operation: Operation::CreateKey,
                    time: Timestamp::default(),
                    previous: None,
                    images,
                };
                let info = CommitInfo {
                    commit: upon.next,
                    time: Timestamp::default(),
                    scope,
                    actor: None,
                    request_id: None,
                };
                upon.apply(self.policy, &info, &change)?;
                if upon.batch.borrow().len() >= ROWS_IN_BATCH {
                    last = self.write(&upon.batch.into_inner(), None)?;
                    upon = self.upon()?;
                }
            }
        }
        if upon.batch.borrow().is_empty() { Ok(last) } else { self.write(&upon.batch.into_inner(), None) }
    }

    /// Makes a commit anew.
    fn copy_commit(&self, record: &CommitRecord) -> Result<()> {
        let upon = self.upon()?;
        let info = CommitInfo { commit: upon.next, ..record.info.clone() };
        let mut changes = Vec::with_capacity(record.changes.len());
        for change in &record.changes {
            let change = upon.renumbered(&info.scope, change)?;
            upon.apply(self.policy, &info, &change)?;
            changes.push(change);
        }
        let entry = encode_log_entry(&CommitRecord { info, changes });
        self.write(&upon.batch.into_inner(), Some(&entry))?;
        Ok(())
    }

    /// Copies what came of requests that may be repeated.
    fn copy_outcomes(&self, source: &dyn ReadTransaction) -> Result<()> {
        let mut batch = Batch::new();
        for row in Rows::of(source) {
            let (row, stored) = row?;
            let Some(Address::Scoped { scope, table: ScopedTable::Outcome(request_id) }) = read_address(&row)
            else {
                continue;
            };
            let outcome = plain_outcome(&row, &stored)?;
            let time =
                Space::of_scope(&scope).outcome_time(Timestamp::from_millis(outcome.time), &request_id);
            batch.insert(time, Some(encode_nothing()));
            batch.insert(row, Some(encode_outcome(&outcome)));
            // An outcome may have 32 KiB.
            if batch.len() >= 24 {
                self.write(&std::mem::take(&mut batch), None)?;
            }
        }
        if !batch.is_empty() {
            self.write(&batch, None)?;
        }
        Ok(())
    }
}

/// An outcome with the number of its own commit as it was told, which is another one in the target.
fn plain_outcome(row: &[u8], stored: &Stored) -> Result<Outcome> {
    let outcome = decode_outcome(row, &stored.bytes)?;
    let value = outcome.value_at(stored.commit).into_owned();
    Ok(Outcome { value, stand_in: None, ..outcome })
}

impl Upon {
    fn row(&self, row: &[u8]) -> Result<Option<Stored>> {
        match self.batch.borrow().get(row) {
            Some(value) => Ok(value.clone().map(|bytes| Stored { bytes, commit: self.next })),
            None => Ok(self.rows.get(&[row])?.pop().flatten()),
        }
    }

    /// Adds the rows that a change wrote.
    fn apply(&self, policy: &Policy, info: &CommitInfo, change: &Change) -> Result<()> {
        let batch = replay(self, policy, info, change)?;
        self.batch.borrow_mut().extend(batch);
        Ok(())
    }

    /// The change with the numbers that commits have here.
    fn renumbered(&self, scope: &Scope, change: &Change) -> Result<Change> {
        let record = RecordId::of(&change.images);
        let previous = match change.previous {
            Some(previous) => Some(Previous { commit: self.changed_last(scope, &record)?, ..previous }),
            None => None,
        };
        let former = previous.map_or(self.next, |previous| previous.commit);
        let images = match &change.images {
            Images::Key { before, after } => {
                let of =
                    |version| move |key: &Arc<KeyRecord>| Arc::new(KeyRecord { version, ..(**key).clone() });
                Images::Key {
                    before: before.as_ref().map(of(former)),
                    after: after.as_ref().map(of(self.next)),
                }
            }
            Images::Alias { before, after } => {
                let of = |version| {
                    move |alias: &Arc<AliasRecord>| Arc::new(AliasRecord { version, ..(**alias).clone() })
                };
                Images::Alias {
                    before: before.as_ref().map(of(former)),
                    after: after.as_ref().map(of(self.next)),
                }
            }
        };
        Ok(Change { previous, images, ..change.clone() })
    }

    /// The commit that changed a record last: that of its row or of its tombstone. If it has neither, that was trimmed.
    fn changed_last(&self, scope: &Scope, record: &RecordId) -> Result<Commit> {
        let space = Space::of_scope(scope);
        let row = match record {
            RecordId::Key(key_id) => space.key(*key_id),
            RecordId::Alias(urn_name) => space.alias(urn_name),
        };
        let rows = [row, Space::tombstone(scope, record)];
        let found = self.get(&[&rows[0], &rows[1]])?;
        match found.into_iter().flatten().next() {
            Some(stored) => Ok(stored.commit),
            None => Ok(floor_of(&*self.rows)?.commit),
        }
    }
}

impl RowSource for Upon {
    fn commit_read(&self) -> Commit {
        self.rows.commit()
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        rows.iter().map(|row| self.row(row)).collect()
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        self.row(row)?.iter().for_each(|stored| see(stored.into()));
        Ok(())
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.rows.changelog_entry(commit)
    }
}

#[derive(Debug, Clone)]
enum Image {
    Key(Arc<KeyRecord>),
    Alias(Arc<AliasRecord>),
}

/// Of each record that the history changed, what was there before; `None` if it was not.
type FirstChanges = BTreeMap<(Scope, RecordId), Option<Image>>;

fn first_changes(source: &dyn ReadTransaction, floor: Floor) -> Result<FirstChanges> {
    let (mut changed, mut after) = (FirstChanges::new(), floor.commit);
    loop {
        let entries = source.log(after, ENTRIES_AT_ONCE)?;
        let Some((last, _)) = entries.last() else { return Ok(changed) };
        after = *last;
        for (commit, bytes) in entries {
            let entry = decode_log_entry(commit, &bytes?)?;
            for change in entry.changes {
                let record = (entry.info.scope.clone(), RecordId::of(&change.images));
                changed.entry(record).or_insert_with(|| match change.images {
                    Images::Key { before, .. } => before.map(Image::Key),
                    Images::Alias { before, .. } => before.map(Image::Alias),
                });
            }
        }
    }
}

/// The keys or the aliases that no history changed.
fn unchanged_records<'a>(
    source: &'a dyn ReadTransaction,
    of_keys: bool,
    changed: &'a FirstChanges,
) -> impl Iterator<Item = Result<(Scope, Image)>> + 'a {
    let record = move |row: Row, stored: Stored| -> Result<Option<(Scope, Image)>> {
        let Some(Address::Scoped { scope, table }) = read_address(&row) else { return Ok(None) };
        let (record, image) = match table {
            ScopedTable::Key(key_id) if of_keys => {
                let key = decode_key(&row, &scope, key_id, &stored)?;
                (RecordId::Key(key_id), Image::Key(Arc::new(key)))
            }
            ScopedTable::Alias { urn_name } if !of_keys => {
                let alias = decode_alias(&row, &scope, &urn_name, &stored)?;
                (RecordId::Alias(urn_name), Image::Alias(Arc::new(alias)))
            }
            _ => return Ok(None),
        };
        let record = (scope, record);
        Ok((!changed.contains_key(&record)).then_some((record.0, image)))
    };
    Rows::of(source).filter_map(move |row| row.and_then(|(row, stored)| record(row, stored)).transpose())
}

/// All rows, in their order.
struct Rows<'a> {
    source: &'a dyn ReadTransaction,
    found: std::vec::IntoIter<(Row, Result<Stored>)>,
    last: Option<Row>,
    ended: bool,
}

impl<'a> Rows<'a> {
    fn of(source: &'a dyn ReadTransaction) -> Self {
        Self { source, found: Vec::new().into_iter(), last: None, ended: false }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<(Row, Stored)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.found.len() == 0 && !self.ended {
            let from = self.last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            match self.source.scan((from, Bound::Unbounded), ROWS_AT_ONCE) {
                Ok(found) => self.found = found.into_iter(),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
            self.ended = self.found.len() == 0;
        }
        let (row, stored) = self.found.next()?;
        self.last = Some(row.clone());
        Some(stored.map(|stored| (row, stored)))
    }
}

/// Compares all rows and the whole history of two stores, numbers of commits and what is the store's own left out.
/// Returns how many rows and entries there are.
fn compare(source: &dyn ReadTransaction, target: &dyn ReadTransaction) -> Result<(u64, u64)> {
    let differ = |place: &[u8], what: &str| Err(Error::Unsound([corrupted(place, what).to_string()].into()));
    let (mut ours, mut theirs) = (Comparable::of(source), Comparable::of(target));
    let mut rows = 0;
    progress::begin("comparing", source.length()?);
    loop {
        progress::add(1);
        match (ours.next().transpose()?, theirs.next().transpose()?) {
            (None, None) => break,
            (Some(one), Some(other)) if one == other => rows += 1,
            (Some((row, _)), _) | (None, Some((row, _))) => {
                return differ(&row, "it is not the same in the copy");
            }
        }
    }
    let floors = (floor_of(source)?, floor_of(target)?);
    let trimmed = |floor: Floor| (floor.commit > Commit::default(), floor.time);
    if trimmed(floors.0) != trimmed(floors.1) {
        return differ(&Space::of_store().floor(), "the histories are not trimmed alike");
    }
    let (mut after, mut entries) = ((floors.0.commit, floors.1.commit), 0);
    loop {
        let chunks = (source.log(after.0, ENTRIES_AT_ONCE)?, target.log(after.1, ENTRIES_AT_ONCE)?);
        let (Some((last, _)), Some((copied_last, _))) = (chunks.0.last(), chunks.1.last()) else {
            let left = chunks.0.first().or(chunks.1.first());
            return match left {
                Some((commit, _)) => differ(&log_place(*commit), "the other store has no such entry"),
                None => Ok((rows, entries)),
            };
        };
        after = (*last, *copied_last);
        if chunks.0.len() != chunks.1.len() {
            return differ(&log_place(*last), "the stores have not as many entries");
        }
        for ((commit, bytes), (copied, copied_bytes)) in chunks.0.into_iter().zip(chunks.1) {
            let one = without_numbers(decode_log_entry(commit, &bytes?)?);
            if one != without_numbers(decode_log_entry(copied, &copied_bytes?)?) {
                return differ(&log_place(commit), "it is not the same in the copy");
            }
            entries += 1;
        }
    }
}

/// The rows that two stores with the same contents have alike, with what must be the same of them.
struct Comparable<'a>(Rows<'a>);

impl<'a> Comparable<'a> {
    fn of(rows: &'a dyn ReadTransaction) -> Self {
        Self(Rows::of(rows))
    }
}

impl Iterator for Comparable<'_> {
    type Item = Result<(Row, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (row, stored) = match self.0.next()? {
                Ok(found) => found,
                Err(error) => return Some(Err(error)),
            };
            return Some(match read_address(&row) {
                Some(Address::Fixed | Address::Floor | Address::Restored { .. } | Address::Unfinished) => {
                    continue;
                }
                Some(Address::Scoped { table: ScopedTable::Outcome(_), .. }) => {
                    plain_outcome(&row, &stored).map(|outcome| (row, encode_outcome(&outcome)))
                }
                _ => Ok((row, stored.bytes)),
            });
        }
    }
}

/// An entry with 0 in place of each number of a commit.
fn without_numbers(mut record: CommitRecord) -> CommitRecord {
    let nothing = Commit::default();
    record.info.commit = nothing;
    for change in &mut record.changes {
        change.previous.iter_mut().for_each(|previous| previous.commit = nothing);
        match &mut change.images {
            Images::Key { before, after } => {
                [before, after].into_iter().flatten().for_each(|key| Arc::make_mut(key).version = nothing);
            }
            Images::Alias { before, after } => {
                [before, after]
                    .into_iter()
                    .flatten()
                    .for_each(|alias| Arc::make_mut(alias).version = nothing);
            }
        }
    }
    record
}
