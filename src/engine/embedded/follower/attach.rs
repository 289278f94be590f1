//! Attaching to a store: its table is opened, and what that has not is read from the log.

use std::sync::Arc;

use super::{FileId, Followed, FollowedFiles, InMotion, SEGMENTS, State, is_still};
use crate::engine::embedded::memtable::Memtable;
use crate::engine::embedded::recovery::{Recovery, must_fit, recover};
use crate::engine::embedded::snapshot::Frozen;
use crate::engine::embedded::snapshot::View;
use crate::engine::embedded::wal::{Chained, LogId, Mark, Position, RedoLog};
use crate::engine::embedded::{OF_ANOTHER_STORE, STRIPES};
use crate::engine::redb::{LogState, RedbRead, TableReader};
use crate::engine::{RowSource, Stripes};
use crate::error::{Error, Result};
use crate::id::Commit;

/// A table file, and the stripes that go with it. It stays open while it is looked at again: a busy writer would have made
/// another checkpoint by the time that it was opened again.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) table: Arc<TableReader>,
    pub(super) file: FileId,
    pub(super) stripes: Arc<Stripes>,
}

/// Opens the files again, if they were replaced, and reads what they have.
pub(super) fn attach(
    files: &dyn FollowedFiles,
    identity: &[u8],
    opened: &mut Option<Opened>,
    former: Option<&State>,
) -> Result<Result<State, InMotion>> {
    let opened = match opened {
        Some(opened) if is_still(opened.file, files)? => opened,
        other => {
            let (table, file) = files.table()?;
            other.insert(Opened { table: Arc::new(table), file, stripes: Arc::new(Stripes::new(STRIPES)) })
        }
    };
    let Opened { table, file, stripes } = opened.clone();
    let first_page = table.first_page()?;
    let base = Arc::new(table.newest()?);
    let same = former.filter(|former| Arc::ptr_eq(&former.table, &table));
    let (followed, rows, commit) = match base.log_state() {
        LogState::None | LogState::Closed { .. } => (None, Arc::default(), base.commit()),
        LogState::InUse { id, .. } => {
            let attached = attach_log(files, id, &table, &base, &stripes);
            let has_mark = matches!(&attached, Ok(Ok((Followed { mark: Some(_), .. }, ..))));
            // Else a writer may have come and gone since the table was read, and have taken the log with it.
            if !has_mark && (table.first_page()? != first_page || !is_still(file, files)?) {
                return Ok(Err(InMotion));
            }
            match attached? {
                Ok((followed, rows, commit)) => (Some(followed), rows, commit),
                Err(InMotion) => return Ok(Err(InMotion)),
            }
        }
    };
    let found = base.get(&[identity])?.pop().flatten().map(|stored| stored.bytes);
    if former.is_some_and(|former| former.identity != found || former.commit > commit) {
        return Err(Error::Replaced(files.name().into()));
    }
    match (same, former) {
        // All that the log has was marked just now; what the table has of it before, only if it was read then.
        (Some(former), _) if former.commit >= base.commit() => {}
        (Some(_), _) => stripes.raise_floor(base.commit()),
        // Of another file nothing counts that was read from the former, nor the other way round.
        (None, Some(former)) => {
            former.stripes.raise_floor(Commit::new(u64::MAX));
            stripes.raise_floor(next(commit));
        }
        (None, None) => {}
    }
    let view = Arc::new(View { active: rows, frozen: None, base });
    Ok(Ok(State { table, file, followed, view, commit, stripes, identity: found, first_page }))
}

type Attached = (Followed, Arc<Memtable>, Commit);

/// Reads what the log has that this snapshot of the table has not.
fn attach_log(
    files: &dyn FollowedFiles,
    id: LogId,
    table: &TableReader,
    base: &RedbRead,
    stripes: &Stripes,
) -> Result<Result<Attached, InMotion>> {
    let mismatch = |what: &str| Error::LogMismatch(format!("{what}: {}", files.name()).into());
    let open = || files.log()?.ok_or_else(|| mismatch("it is missing"));
    let log = Arc::new(RedoLog::follow(open()?)?.of_boot(files.boot()));
    if log.id() != id {
        return Err(mismatch(OF_ANOTHER_STORE));
    }
    let attached = match log.read_mark_that_counts()? {
        Some(mark) => attach_to_mark(&log, mark, base, stripes)?,
        None => Err(InMotion),
    };
    // While nobody writes, nothing is in motion: either no mark counts, or it is older than the table, as after the disk
    // was away. Whoever writes and has no mark yet opens the store.
    if attached.is_ok() || log.is_marked()? || table.has_writer()? {
        return Ok(attached);
    }
    let checksum = log.mark_checksum()?;
    let disk = open()?;
    disk.sync_data()?;
    let recovered = recover(base, disk, stripes, true);
    if table.has_writer()? || log.mark_checksum()? != checksum {
        return Ok(Err(InMotion));
    }
    let Recovery { frozen, end, .. } = recovered?;
    let (rows, commit) = match frozen {
        Some(Frozen { rows, last, .. }) => (rows, last),
        None => (Arc::default(), base.commit()),
    };
    Ok(Ok((Followed { log, at: end, mark: None, checksum }, rows, commit)))
}

/// The same, up to the mark of a writer that is there.
fn attach_to_mark(
    log: &Arc<RedoLog>,
    mark: Mark,
    base: &RedbRead,
    stripes: &Stripes,
) -> Result<Result<Attached, InMotion>> {
    // A bulk load is in the table before the mark says so; and there may have been a checkpoint since.
    if mark.closed || mark.commit < needs(base) || mark.base > base.commit() {
        return Ok(Err(InMotion));
    }
    let rows = Arc::new(Memtable::default());
    let mut commit = base.commit();
    // The oldest segment that has something which the table has not.
    let oldest = mark.end.segment.sequence.saturating_sub(SEGMENTS);
    let mut at = log.begin(oldest, mark.end.segment)?;
    read_frames(log, &mut at, mark.end, &mut |frame| {
        if frame.last <= commit {
            return Ok(true);
        }
        if frame.first != next(commit) {
            return Ok(false);
        }
        rows.insert(&frame.commits, stripes)?;
        must_fit(&rows, log)?;
        commit = frame.last;
        Ok(true)
    })?;
    if (at, commit) != (mark.end, mark.commit) {
        // It was overwritten meanwhile; or if not, what the mark says is not there.
        let is_still_so = log.read_mark()? == Some(mark);
        return if is_still_so && log.counts(&mark)? {
            Err(Error::Corrupted("the write-ahead log: its frames don't reach to its mark".into()))
        } else {
            Ok(Err(InMotion))
        };
    }
    let checksum = mark.checksum(&log.id());
    Ok(Ok((Followed { log: log.clone(), at, mark: Some(mark), checksum }, rows, commit)))
}

/// From which commit on a snapshot of the table can be read from: one that was taken while a checkpoint was written has
/// some rows as that leaves them.
pub(super) fn needs(base: &RedbRead) -> Commit {
    match base.log_state() {
        LogState::InUse { floor, .. } => base.commit().max(floor),
        LogState::None | LogState::Closed { .. } => base.commit(),
    }
}

pub(super) fn next(commit: Commit) -> Commit {
    Commit::new(commit.number().saturating_add(1))
}

/// Reads frames up to there, segment by segment, as long as they are taken.
pub(super) fn read_frames(
    log: &RedoLog,
    at: &mut Position,
    to: Position,
    take: &mut dyn FnMut(Chained) -> Result<bool>,
) -> Result<()> {
    while *at != to {
        let mut is_taken = true;
        *at = log.read_chain(*at, Some(to), |frame| {
            is_taken = is_taken && take(frame)?;
            Ok(())
        })?;
        if !is_taken || at.segment.sequence >= to.segment.sequence {
            return Ok(());
        }
        *at = log.begin(at.segment.sequence + 1, to.segment)?;
    }
    Ok(())
}
