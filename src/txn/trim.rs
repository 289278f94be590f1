//! The log as a whole: reading it in its order, and removing its oldest part.

use std::ops::Bound;

use crate::change::{CommitRecord, Images};
use crate::engine::{Batch, ReadTransaction, WriteTransaction};
use crate::error::{Error, Result};
use crate::format::{
    Address, Floor, RecordId, Space, Table, corrupted, decode_floor, decode_log_entry, decode_restored,
    encode_floor, read_address,
};
use crate::id::Commit;
use crate::time::Timestamp;

/// How many entries of the log are read at once.
const ENTRIES_AT_ONCE: usize = 16;
/// After how many bytes of entries a page of changes ends, whatever its limit.
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;

/// How many entries of the log one step of trimming removes.
const TRIMMED_AT_ONCE: usize = 100;
/// How many deletions there may be among them: each has a tombstone, which goes too.
const BURIED_AT_ONCE: usize = 100;

/// Up to where the history was trimmed.
pub(crate) fn floor_of(rows: &dyn ReadTransaction) -> Result<Floor> {
    let row = Space::of_store().floor();
    let stored = rows.get(&[&row])?.pop().flatten();
    Ok(stored.map(|stored| decode_floor(&row, &stored.bytes)).transpose()?.unwrap_or_default())
}

/// The entries of the log after a commit, and the commit up to which they are all there is.
pub(crate) fn changes_after(
    rows: &dyn ReadTransaction,
    after: Commit,
    limit: usize,
) -> Result<(Vec<CommitRecord>, Commit)> {
    let floor = floor_of(rows)?;
    if after < floor.commit {
        return Err(Error::HistoryTrimmed { floor: floor.commit });
    }
    if after > rows.commit() {
        return Err(Error::CommitNotFound(after));
    }
    let (mut records, mut last, mut bytes_read) = (Vec::new(), after, 0);
    while records.len() < limit && bytes_read < BYTES_AT_ONCE {
        let wanted = ENTRIES_AT_ONCE.min(limit - records.len());
        let entries = rows.log(last, wanted)?;
        if entries.is_empty() {
            return Ok((records, rows.commit()));
        }
        for (commit, bytes) in entries {
            let bytes = bytes?;
            bytes_read += bytes.len();
            records.push(decode_log_entry(commit, &bytes)?);
            last = commit;
        }
    }
    Ok((records, last))
}

/// The newest commit up to `to` that has an entry in the log; the floor if none has.
pub(crate) fn newest_change(rows: &dyn ReadTransaction, to: Commit) -> Result<Commit> {
    // It is always from the first to the last of these.
    let mut first = floor_of(rows)?.commit.number();
    let mut last = to.number();
    while first < last {
        let middle = first + (last - first) / 2;
        match rows.log(Commit::new(middle), 1)?.first() {
            Some((found, _)) if *found <= to => first = found.number().clamp(middle + 1, last),
            _ => last = middle,
        }
    }
    Ok(Commit::new(first))
}

/// That a store was restored.
pub(crate) struct RestoreNoted {
    /// The last commit before, which is there.
    pub(crate) last: Commit,
    /// The first commit after: the numbers in between are of no commit that is there.
    pub(crate) first: Commit,
}

/// The first restore after a commit.
pub(crate) fn restore_behind(rows: &dyn ReadTransaction, commit: Commit) -> Result<Option<RestoreNoted>> {
    let space = Space::of_store();
    let (from, to) = (space.restored(commit), space.after_table(Table::Restored));
    let found = rows.scan((Bound::Excluded(&from), Bound::Excluded(&to)), 1)?.pop();
    let Some((row, stored)) = found else { return Ok(None) };
    let last = decode_restored(&row, &stored?.bytes)?;
    match read_address(&row) {
        Some(Address::Restored { first }) => Ok(Some(RestoreNoted { last, first })),
        _ => Err(corrupted(&row, "it is no address of a restore")),
    }
}

/// The commit after which there are so many up to and with the newest change, by their numbers; those that
/// were lost when the store was restored are not counted.
pub(crate) fn last_before(rows: &dyn ReadTransaction, newest: Commit, mut kept: u64) -> Result<Commit> {
    let mut restores = Vec::new();
    let mut from = Commit::default();
    while let Some(restore) = restore_behind(rows, from)?.filter(|restore| restore.first <= newest) {
        from = restore.first;
        restores.push(restore);
    }
    let mut newest = newest.number();
    for RestoreNoted { last, first } in restores.into_iter().rev() {
        // Up to the newest, since that restore; in a damaged store it may be none.
        let since = (newest + 1).saturating_sub(first.number());
        if kept <= since || last >= first {
            break;
        }
        (newest, kept) = (last.number(), kept - since);
    }
    Ok(Commit::new(newest.saturating_sub(kept)))
}

/// What one step of trimming is to write: rows, and the new floor. `None` if there is nothing to do.
///
/// Entries go from the oldest on, up to `to`, while `may_go` says so. The floor is the commit of the last that
/// went, never one without changes.
pub(crate) fn trim_step(
    rows: &dyn ReadTransaction,
    transaction: &dyn WriteTransaction,
    to: Commit,
    may_go: impl Fn(&CommitRecord) -> bool,
) -> Result<Option<(Batch, Commit)>> {
    let row = Space::of_store().floor();
    let stored = transaction.get(&[&row])?.pop().flatten();
    let former = stored.map(|stored| decode_floor(&row, &stored.bytes)).transpose()?.unwrap_or_default();
    let mut floor = former;
    let mut tombstones = Vec::new();
    for (commit, bytes) in rows.log(former.commit, TRIMMED_AT_ONCE)? {
        let entry = decode_log_entry(commit, &bytes?)?;
        if commit > to || !may_go(&entry) {
            break;
        }
        let deleted = entry.changes.iter().filter(|change| is_deletion(&change.images));
        let deleted = deleted
            .map(|change| (Space::tombstone(&entry.info.scope, &RecordId::of(&change.images)), commit));
        tombstones.extend(deleted);
        let times = entry.changes.iter().map(|change| change.time);
        floor = Floor { commit, time: times.fold(floor.time, Timestamp::max) };
        if tombstones.len() > BURIED_AT_ONCE {
            break;
        }
    }
    if floor == former {
        return Ok(None);
    }
    let mut batch = Batch::from([(row, Some(encode_floor(floor)))]);
    for (row, commit) in tombstones {
        // A record that was created and deleted again since has a later one.
        let stored = transaction.get(&[&row])?.pop().flatten();
        if stored.is_some_and(|stored| stored.commit == commit) {
            batch.insert(row, None);
        }
    }
    Ok(Some((batch, floor.commit)))
}

fn is_deletion(images: &Images) -> bool {
    matches!(images, Images::Key { after: None, .. } | Images::Alias { after: None, .. })
}
