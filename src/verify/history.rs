//! The part of the walk that checks the history: from each record and each tombstone back along the
//! chain of its changes; in the end every change of the log must have been met on exactly one chain.
//! And what is stored of requests that may be repeated.

use std::rc::Rc;
use std::sync::Arc;

use super::{Found, Walk};
use crate::alias::AliasRecord;
use crate::change::{Change, CommitRecord, Images, Previous};
use crate::error::{Error, Result};
use crate::format::{
    RecordId, Space, Stored, decode_floor, decode_log_entry, decode_outcome, decode_restored,
    decode_tombstone, encode_floor, encode_log_entry, encode_outcome, encode_restored, encode_tombstone,
    log_place,
};
use crate::id::{Commit, RequestId, Scope};
use crate::key::KeyRecord;
use crate::time::Timestamp;

/// How many entries of the log are read at once.
const CHUNK: usize = 100;

/// A record at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Image {
    Key(Arc<KeyRecord>),
    Alias(Arc<AliasRecord>),
}

fn images_of(change: &Change) -> (Option<Image>, Option<Image>) {
    match &change.images {
        Images::Key { before, after } => (before.clone().map(Image::Key), after.clone().map(Image::Key)),
        Images::Alias { before, after } => {
            (before.clone().map(Image::Alias), after.clone().map(Image::Alias))
        }
    }
}

impl Walk<'_> {
    /// Walks the chain of a record that a row holds or, as a tombstone, held.
    pub(super) fn chain(
        &mut self,
        row: &[u8],
        scope: &Scope,
        record: &RecordId,
        head: Previous,
        image: Option<Image>,
    ) -> Result<()> {
        if !self.policy.history {
            return Ok(());
        }
        let (mut link, mut image) = (Some(head), image);
        while let Some(change) = link.filter(|change| change.commit > self.floor) {
            let place = log_place(change.commit);
            let entry = match self.entry(change.commit)? {
                Found::There(entry) => entry,
                Found::Missing => {
                    self.violation(9, &[row, &place], "a change of the record is not in the log");
                    return Ok(());
                }
                Found::Damaged => return Ok(()),
            };
            let changes: Vec<_> =
                entry.changes.iter().filter(|change| RecordId::of(&change.images) == *record).collect();
            if changes.is_empty() || entry.info.scope != *scope {
                self.violation(9, &[row, &place], "the entry has no change of the record");
                return Ok(());
            }
            self.chained += changes.len() as u64;
            self.tell_progress();
            let mut later = change.time;
            for changed in changes.into_iter().rev() {
                let (before, after) = images_of(changed);
                if after != image {
                    self.violation(9, &[row, &place], "a change did not leave what was there after it");
                }
                if changed.time != later {
                    self.violation(
                        9,
                        &[row, &place],
                        "a change is not of the time that the one after it says",
                    );
                }
                let earlier = changed
                    .previous
                    .is_none_or(|previous| previous.time <= changed.time && previous.commit <= change.commit);
                if !earlier {
                    self.violation(9, &[row, &place], "the changes of the record go back in time");
                }
                (image, link) = (before, changed.previous);
                later = changed.previous.map_or(changed.time, |previous| previous.time);
            }
            if link.is_some_and(|previous| previous.commit >= change.commit) {
                self.violation(9, &[row, &place], "a change comes before itself");
                return Ok(());
            }
        }
        // That nothing was there before the first change is seen to when its entry is read.
        Ok(())
    }

    /// A tombstone is that of a record that is not there.
    pub(super) fn tombstone(
        &mut self,
        row: &[u8],
        stored: &Stored,
        scope: &Scope,
        record: &RecordId,
    ) -> Result<()> {
        let time = decode_tombstone(row, &stored.bytes).map(|time| (encode_tombstone(time), time));
        let Some(time) = self.decoded(row, stored, time)? else { return Ok(()) };
        let space = Space::of_scope(scope);
        let record_row = match record {
            RecordId::Key(key_id) => space.key(*key_id),
            RecordId::Alias(urn_name) => space.alias(urn_name),
        };
        if !self.look_up(&record_row)?.is_missing() {
            self.violation(9, &[row, &record_row], "a tombstone of a record that is there");
        }
        if !self.policy.history {
            self.violation(9, &[row], "a store without history has no tombstones");
        } else if stored.commit <= self.floor {
            self.violation(9, &[row], "a tombstone of a deletion that was trimmed");
        }
        self.chain(row, scope, record, Previous { commit: stored.commit, time }, None)
    }

    /// Up to where the history was trimmed: not beyond the commit that did it.
    pub(super) fn floor(&mut self, row: &[u8], stored: &Stored) -> Result<()> {
        let floor = decode_floor(row, &stored.bytes).map(|floor| (encode_floor(floor), floor));
        let floor = self.decoded(row, stored, floor)?;
        if floor.is_some_and(|floor| floor.commit >= stored.commit) || !self.policy.history {
            self.violation(9, &[row], "more was trimmed than there was");
        }
        Ok(())
    }

    /// A restore left a gap in the numbers of commits, and nothing is in there.
    pub(super) fn restored(&mut self, row: &[u8], stored: &Stored, first: Commit) -> Result<()> {
        let last = decode_restored(row, &stored.bytes).map(|last| (encode_restored(last), last));
        let Some(last) = self.decoded(row, stored, last)? else { return Ok(()) };
        if stored.commit != first || first <= last {
            self.violation(9, &[row], "a restore is noted that can't have been");
        }
        let next = self.rows.log(last, 1);
        let next = self.readable(row, next)?.and_then(|entries| entries.into_iter().next());
        if let Some((commit, _)) = next.filter(|(commit, _)| *commit < first) {
            self.violation(9, &[row, &log_place(commit)], "an entry is of a commit that was lost");
        }
        Ok(())
    }

    /// What came of a request and the time by which it is pruned belong together.
    pub(super) fn outcome(
        &mut self,
        row: &[u8],
        stored: &Stored,
        space: &Space,
        request_id: &RequestId,
    ) -> Result<()> {
        let outcome = decode_outcome(row, &stored.bytes).map(|outcome| (encode_outcome(&outcome), outcome));
        let Some(outcome) = self.decoded(row, stored, outcome)? else { return Ok(()) };
        let time_row = space.outcome_time(Timestamp::from_millis(outcome.time), request_id);
        if self.look_up(&time_row)?.is_missing() {
            self.violation(10, &[row, &time_row], "nothing says when the outcome is to be forgotten");
        }
        Ok(())
    }

    pub(super) fn outcome_time(
        &mut self,
        row: &[u8],
        space: &Space,
        time: Timestamp,
        request_id: &RequestId,
    ) -> Result<()> {
        let outcome_row = space.outcome(request_id);
        let outcome = self.look_up_as(&outcome_row, |stored| decode_outcome(&outcome_row, &stored.bytes))?;
        let its_own = match outcome {
            Found::There(outcome) => outcome.time == time.as_millis(),
            Found::Missing => false,
            Found::Damaged => true,
        };
        if !its_own {
            self.violation(10, &[row, &outcome_row], "no outcome is of this time");
        }
        Ok(())
    }

    /// Walks the log, after all chains.
    pub(super) fn log(&mut self) -> Result<()> {
        let mut logged = 0_u64;
        let mut after = Commit::default();
        loop {
            let chunk = match self.rows.log(after, CHUNK) {
                Err(Error::Corrupted(what)) => {
                    self.violation(12, &[], format!("the log from here on can't be read: {what}"));
                    break;
                }
                chunk => chunk?,
            };
            let Some((last, _)) = chunk.last() else { break };
            after = *last;
            for (commit, bytes) in chunk {
                let place = log_place(commit);
                if commit <= self.floor || commit > self.rows.commit() || !self.policy.history {
                    self.violation(9, &[&place], "no entry can be there");
                }
                let entry = bytes.and_then(|bytes| Ok((decode_log_entry(commit, &bytes)?, bytes)));
                let Some((entry, bytes)) = self.readable(&place, entry)? else { continue };
                if encode_log_entry(&entry) != bytes {
                    self.violation(12, &[&place], "the entry does not encode to itself");
                }
                logged += entry.changes.len() as u64;
                self.report.history_bytes += bytes.len() as u64;
            }
        }
        if logged != self.chained {
            let what = format!("the log has {logged} changes, the records and tombstones {}", self.chained);
            self.violation(9, &[], what);
        }
        self.report.changes = logged;
        Ok(())
    }

    fn entry(&mut self, commit: Commit) -> Result<Found<Rc<CommitRecord>>> {
        if let Some(entry) = self.entries.get(&commit) {
            return Ok(Found::There(entry));
        }
        let found = self.rows.changelog_entry(commit).and_then(|bytes| {
            let decoded = bytes.map(|bytes| Ok((decode_log_entry(commit, &bytes)?, bytes.len())));
            decoded.transpose()
        });
        match found {
            Ok(Some((entry, bytes))) => Ok(Found::There(self.entries.keep(commit, entry, bytes))),
            Ok(None) => Ok(Found::Missing),
            Err(Error::Corrupted(_) | Error::Unsupported { .. }) => Ok(Found::Damaged),
            Err(error) => Err(error),
        }
    }
}
