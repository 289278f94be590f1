//! The write-ahead log beside a damaged file: whether it belongs to the store, and what in it is newer.
//!
//! Commits in it continue those of the table file. What the table file says of its log is believed if it can be read.
//! If it can't, or if it says that there is none, rows that both have from the same commit tell: they must be equal.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use super::super::files::WalFile;
use super::{Looked, Repairing, WalUse};
use crate::engine::embedded::MEMORY_OF_LOG;
use crate::engine::embedded::wal::{LogEnd, LogId, SalvagedLog};
use crate::engine::{Draft, LogState, Salvage, Salvaged};
use crate::error::Result;
use crate::format::Row;
use crate::id::Commit;

/// What a row counts besides its bytes.
const ROW_BYTES: usize = 96;

/// A row of a commit that is in a log; a deleted one without a value.
pub(super) type NewerRow = (Commit, Option<Vec<u8>>);

/// What is taken from a log.
#[derive(Default)]
pub(super) struct Wal {
    /// The rows that it has, as the last commit left them.
    pub(super) rows: BTreeMap<Row, NewerRow>,
    pub(super) newest: Commit,
}

/// How many rows the log and the table file have from the same commit, and in how many of them they differ.
#[derive(Debug, Clone, Copy, Default)]
struct Evidence {
    common: u64,
    differing: u64,
}

/// A log that was read, if there is one; or why it can't be.
pub(super) type ReadWal = Result<Option<SalvagedLog>, String>;

/// Reads the log; `known` is the id that the table file says, and `in_table` the newest commit that it has.
pub(super) fn read_wal(log: WalFile, known: Option<LogId>, in_table: Commit) -> ReadWal {
    let log = log.map_err(|error| error.to_string())?;
    let read = |log| SalvagedLog::read(log, known, in_table);
    log.map(|log| read(log).map_err(|error| error.to_string())).transpose()
}

impl Looked {
    /// Which log the file says is its own.
    pub(super) fn wal_id(&self) -> Option<LogId> {
        match self.newest {
            Some((_, LogState::Closed { id, .. } | LogState::InUse { id, .. })) => Some(id),
            _ => None,
        }
    }

    /// The newest commit that it has.
    pub(super) fn newest_commit(&self) -> Commit {
        self.newest.map_or(self.newest_row, |(newest, _)| newest)
    }

    /// The newest commit of which there is a trace.
    pub(super) fn newest_known(&self) -> Commit {
        let newest = self.newest.map(|(newest, _)| newest).unwrap_or_default();
        newest.max(self.newest_row).max(self.newest_doubtful)
    }
}

impl Repairing<'_> {
    /// Decides whether the log is used, and reports what may be missing without it.
    pub(super) fn choose_wal(&mut self, salvage: &Salvage<'_>, log: ReadWal, path: &Path) -> Result<Wal> {
        let path = path.display();
        let used = match log {
            Ok(None) => {
                let needed = matches!(self.looked.newest, Some((_, LogState::InUse { .. })));
                self.wal = if needed { WalUse::Missing } else { WalUse::None };
                self.report_without_wal(&format!("there is no write-ahead log {path}"));
                return Ok(Wal::default());
            }
            Ok(Some(log)) => self.use_wal(salvage, &log)?,
            Err(why) => Err(why),
        };
        used.or_else(|why| {
            self.report_without_wal(&format!("the write-ahead log {path} is not used: {why}"));
            self.wal = WalUse::NotUsed { why };
            Ok(Wal::default())
        })
    }

    /// Reports which commits may be missing, if there may be any that only a log has.
    fn report_without_wal(&mut self, what: &str) {
        match self.looked.newest {
            Some((newest, LogState::InUse { floor, .. })) => {
                let mut what = format!(
                    "{what}. The file says that it needs it: what was committed after commit {newest} may be missing"
                );
                if floor > newest {
                    what += &format!(", and of the commits up to {floor} there may be a part");
                }
                self.may_be_missing(&[], what);
            }
            Some((_, LogState::None | LogState::Closed { .. })) => {}
            None => {
                let newest = self.looked.newest_known();
                self.may_be_missing(
                    &[],
                    format!(
                        "{what}. Whether the file needs one can't be read: what was committed after commit {newest} \
                         may be missing"
                    ),
                );
            }
        }
    }

    /// Takes what is newer in a log than in the file; or tells why not.
    fn use_wal(&mut self, salvage: &Salvage<'_>, log: &SalvagedLog) -> Result<Result<Wal, String>> {
        let newest = self.looked.newest;
        let (first, last) = log.commits().unwrap_or_default();
        if self.looked.wal_id().is_some_and(|id| id != log.id) {
            return Ok(Err("it is that of another store".to_owned()));
        }
        if let Some((newest, LogState::Closed { .. })) = newest
            && last <= newest
        {
            self.wal = WalUse::NotNeeded;
            return Ok(Ok(Wal::default()));
        }
        let Evidence { common, differing } = evidence(salvage, log)?;
        if differing > 0 {
            let why = format!(
                "{differing} of {common} rows that it has in common with the file are others there: it is of another \
                 store, or of another copy of this one"
            );
            if newest.is_some_and(|(newest, state)| last > newest && matches!(state, LogState::Closed { .. }))
            {
                self.may_be_missing(&[], format!("the write-ahead log has commits up to {last}: {why}"));
            }
            return Ok(Err(why));
        }
        let after = match newest {
            Some((_, LogState::None)) if common == 0 => {
                let why = "the file says that it has none, and no row in it is the file's".to_owned();
                return Ok(Err(why));
            }
            Some((newest, _)) => newest,
            None => Commit::default(),
        };
        // Of a file that does not tell its newest commit, the newest row is the best that is known.
        let known = self.looked.newest_commit();
        let begins = if newest.is_some() { log.first_after(after) } else { log.commits().map(|_| first) };
        if let Some(begins) = begins.filter(|begins| begins.number() > known.number() + 1) {
            return Ok(Err(format!("the commits behind {known} and before {begins} are missing in it")));
        }
        let rows = match newer_rows(log, after)? {
            Ok(rows) => rows,
            Err(why) => return Ok(Err(why)),
        };
        self.doubt_wal(newest, (common, last));
        self.doubt_end(log, last.max(known));
        self.wal = WalUse::Used { up_to: last.max(known) };
        Ok(Ok(Wal { rows, newest: last }))
    }

    /// Reports what the file and a log that is used don't tell alike.
    fn doubt_wal(&mut self, newest: Option<(Commit, LogState)>, (common, last): (u64, Commit)) {
        let newest_row = self.looked.newest_row;
        let what = match newest {
            Some((newest, LogState::InUse { floor, .. })) if last < floor => format!(
                "the write-ahead log ends with commit {last}, and had those up to {floor} when the file was written: \
                 what was committed after commit {} may be missing, or there in part",
                last.max(newest)
            ),
            Some((_, LogState::InUse { .. })) => return,
            Some((newest, LogState::Closed { .. })) => format!(
                "the file says that it was closed with commit {newest}, and its write-ahead log goes on to {last}: the \
                 file, or its first page, is of an earlier moment. The log is used"
            ),
            Some((newest, LogState::None)) => format!(
                "the file says that it has no write-ahead log, but {common} rows of one are in it: the file, or its \
                 first page, is of an earlier moment, after commit {newest}. The log is used"
            ),
            None if last < newest_row => format!(
                "which write-ahead log is its own the file does not tell any more, and the one beside it ends with \
                 commit {last}, before {newest_row}, of which there are rows: what was committed after commit {last} \
                 may be missing, or there in part"
            ),
            None if common == 0 => format!(
                "which write-ahead log is its own the file does not tell any more, and it has no row in common with \
                 the one beside it. That one goes on from its commits, to {last}, and is used"
            ),
            None => format!(
                "which write-ahead log is its own the file does not tell any more. The one beside it has {common} rows \
                 in common with it, goes on to commit {last}, and is used"
            ),
        };
        self.may_be_missing(&[], what);
    }

    fn doubt_end(&mut self, log: &SalvagedLog, last: Commit) {
        let what = match &log.end {
            LogEnd::Whole => return,
            LogEnd::Torn => format!(
                "the last write to the write-ahead log, behind commit {last}, is not whole. If the process or the \
                 machine died while it was written, nobody was told that it was done, and nothing is missing; if it was \
                 damaged since, its commits are missing. Nothing tells which"
            ),
            LogEnd::Damaged { why, newest } => {
                let up_to = newest.map_or(String::new(), |newest| format!(", up to {newest} at least"));
                format!(
                    "the write-ahead log is damaged behind commit {last}: {why}. What was committed after that\
                     {up_to} may be missing"
                )
            }
        };
        self.may_be_missing(&[], what);
    }
}

/// The rows that commits of a log left behind a commit; or why there are too many.
fn newer_rows(log: &SalvagedLog, after: Commit) -> Result<Result<BTreeMap<Row, NewerRow>, String>> {
    let (mut rows, mut bytes) = (BTreeMap::new(), 0);
    let max = log.segment_bytes().saturating_mul(MEMORY_OF_LOG);
    log.each_row(|commit, row, value| {
        if commit > after && bytes <= max {
            bytes += (ROW_BYTES + row.len() + value.map_or(0, <[u8]>::len)) as u64;
            rows.insert(row.to_vec(), (commit, value.map(<[u8]>::to_vec)));
        }
    })?;
    Ok(if bytes <= max { Ok(rows) } else { Err("it has more rows than fit into memory".to_owned()) })
}

/// Compares the rows that a log and a table file have from the same commits.
fn evidence(salvage: &Salvage<'_>, log: &SalvagedLog) -> Result<Evidence> {
    let hashes = RandomState::new();
    let mut of_log = HashMap::new();
    log.each_row(|commit, row, value| {
        if let Some(value) = value {
            of_log.insert(hashes.hash_one((commit.number(), row)), hashes.hash_one(value));
        }
    })?;
    let mut evidence = Evidence::default();
    let mut compare = |commit: Commit, row: &[u8], value: &[u8]| {
        if let Some(other) = of_log.get(&hashes.hash_one((commit.number(), row))) {
            evidence.common += 1;
            evidence.differing += u64::from(*other != hashes.hash_one(value));
        }
    };
    salvage.each(&mut |salvaged| {
        match salvaged {
            Salvaged::Row(row, Ok(stored)) => compare(stored.commit, &row, &stored.bytes),
            Salvaged::Entry(commit, Ok(bytes)) => compare(commit, &Draft::log_row(commit), &bytes),
            _ => {}
        }
        Ok(())
    })?;
    Ok(evidence)
}
