//! What the store tells of what it does, by the crates `tracing` and `metrics`, where it is built with the features of
//! these names; without them nothing of this is in the code. `docs/observability.md` lists all of it.
#![cfg_attr(
    not(all(feature = "tracing", feature = "metrics", feature = "etcd", feature = "tokio")),
    allow(
        unused_variables,
        dead_code,
        reason = "without a feature, what only that one tells is told to nobody"
    )
)]

#[cfg(feature = "metrics")]
pub(crate) mod numbers;
#[cfg(feature = "tracing")]
mod traces;

use std::cell::Cell;
use std::time::Duration;

use crate::change::{Change, Operation};
use crate::error::{Error, Result};
use crate::id::{Commit, RequestId, Scope};
use crate::request::Request;

#[cfg(feature = "metrics")]
pub use numbers::describe_metrics;

/// The calls of a store that are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
    DryRun,
    Import,
    Sweep,
    RemoveScope,
    TrimHistory,
    Verify,
    CheckPages,
    Backup,
    BackupChanges,
    VerifyBackup,
    Restore,
    Repair,
    Compact,
    CopyTo,
}

impl Call {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::DryRun => "dry_run",
            Self::Import => "import",
            Self::Sweep => "sweep",
            Self::RemoveScope => "remove_scope",
            Self::TrimHistory => "trim_history",
            Self::Verify => "verify",
            Self::CheckPages => "check_pages",
            Self::Backup => "backup",
            Self::BackupChanges => "backup_changes",
            Self::VerifyBackup => "verify_backup",
            Self::Restore => "restore",
            Self::Repair => "repair",
            Self::Compact => "compact",
            Self::CopyTo => "copy_to",
        }
    }
}

/// Where a call is made, if in one scope, and for which request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    pub(crate) scope: Option<&'a Scope>,
    pub(crate) request_id: Option<&'a RequestId>,
}

impl<'a> From<&'a Scope> for Place<'a> {
    fn from(scope: &'a Scope) -> Self {
        Self { scope: Some(scope), request_id: None }
    }
}

impl<'a> From<&'a Request> for Place<'a> {
    fn from(request: &'a Request) -> Self {
        Self { scope: Some(request.scope()), request_id: request.id() }
    }
}

/// What is told of a call that succeeded, as far as it has such a thing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Summary {
    /// Whether it changed anything.
    pub(crate) changed: Option<bool>,
    pub(crate) commit: Option<Commit>,
    pub(crate) keys: Option<u64>,
    pub(crate) materials: Option<u64>,
    pub(crate) outcomes: Option<u64>,
    pub(crate) rows: Option<u64>,
    pub(crate) entries: Option<u64>,
    pub(crate) bytes: Option<u64>,
    /// Violations, damage that was passed over, things lost or refused.
    pub(crate) troubles: Option<u64>,
}

/// How a call or an operation ended, in few words: for a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Unchanged,
    Refused,
    Failed,
    Unknown,
}

impl Outcome {
    fn of<T>(result: &Result<T>, changed: bool) -> Self {
        match result {
            Ok(_) if changed => Self::Done,
            Ok(_) => Self::Unchanged,
            Err(Error::CommitUnknown(_)) => Self::Unknown,
            Err(error) if error.is_of_engine() => Self::Failed,
            Err(_) => Self::Refused,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

thread_local! {
    /// Whether what is done on this thread was done before, and told of.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call of the store, and tells of it.
#[inline]
pub(crate) fn told<'a, T>(
    call: Call,
    place: impl Into<Place<'a>>,
    run: impl FnOnce() -> Result<T>,
    summary: impl FnOnce(&T) -> Summary,
) -> Result<T> {
    #[cfg(not(any(feature = "tracing", feature = "metrics")))]
    return run();
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    {
        #[cfg(feature = "tracing")]
        let _entered = traces::span(call, place.into()).entered();
        let began = crate::time::Stopwatch::start();
        let result = run();
        let took = began.elapsed();
        let summary = result.as_ref().map(summary).unwrap_or_default();
        let outcome = Outcome::of(&result, summary.changed.unwrap_or(true));
        #[cfg(feature = "tracing")]
        traces::ended(call, took, summary, result.as_ref().err());
        #[cfg(feature = "metrics")]
        numbers::ended(call, took, outcome);
        result
    }
}

/// Runs again what was told of when it ran first.
#[inline]
pub(crate) fn quietly<T>(run: impl FnOnce() -> T) -> T {
    /// Also where a closure panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            QUIET.set(self.0);
        }
    }
    if cfg!(not(any(feature = "tracing", feature = "metrics"))) {
        return run();
    }
    let _before = Before(QUIET.replace(true));
    run()
}

/// An operation of a transaction has ended.
#[inline]
pub(crate) fn operation<T>(operation: Operation, result: &Result<T>, changed: bool) {
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    if !QUIET.get() {
        let outcome = Outcome::of(result, changed);
        let code = result.as_ref().err().map(Error::code);
        #[cfg(feature = "tracing")]
        traces::operation(name_of(operation), outcome, code);
        #[cfg(feature = "metrics")]
        numbers::operation(name_of(operation), outcome, code);
    }
}

/// As in the JSON of the history.
#[cfg(any(feature = "tracing", feature = "metrics"))]
fn name_of(operation: Operation) -> &'static str {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    static NAMES: LazyLock<BTreeMap<Operation, String>> = LazyLock::new(|| {
        let name = |operation| Some(serde_json::to_value(operation).ok()?.as_str()?.to_owned());
        Operation::REGISTER.iter().filter_map(|(_, operation)| Some((*operation, name(operation)?))).collect()
    });
    NAMES.get(&operation).map_or("", String::as_str)
}

/// A commit is durable, with these changes.
#[inline]
pub(crate) fn committed<'a>(commit: Commit, changes: impl Iterator<Item = &'a Change>) {
    #[cfg(feature = "tracing")]
    traces::committed(commit, changes);
}

/// A repeated request got its answer of before.
#[inline]
pub(crate) fn replayed(commit: Commit) {
    #[cfg(feature = "tracing")]
    traces::replayed(commit);
    #[cfg(feature = "metrics")]
    numbers::replayed();
}

/// A transaction met another one, so often by now.
#[inline]
pub(crate) fn conflict(conflicts: u32) {
    #[cfg(feature = "tracing")]
    traces::conflict(conflicts);
    #[cfg(feature = "metrics")]
    numbers::conflict();
}

/// A group of commits was written to the write-ahead log and synced. To be told while no lock is held, as all that an engine
/// tells: who hears it may ask the store.
#[inline]
pub(crate) fn log_synced(commits: u64, bytes: usize, took: Duration) {
    of_engine(|| {
        #[cfg(feature = "tracing")]
        traces::log_synced(commits, bytes, took);
        #[cfg(feature = "metrics")]
        numbers::log_synced(commits, took);
    });
}

/// Tells what an engine did for many callers. If who hears it panics, that is no reason for any of them to fail; the
/// panic's message went to standard error.
#[inline]
#[cfg_attr(
    not(any(feature = "tracing", feature = "metrics")),
    expect(unused_variables, reason = "nothing is told")
)]
fn of_engine(tell: impl FnOnce()) {
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(tell));
}

/// The table file was brought up to date with the write-ahead log, up to this commit.
#[inline]
pub(crate) fn checkpointed(commit: Commit, took: Duration) {
    of_engine(|| {
        #[cfg(feature = "tracing")]
        traces::checkpointed(commit, took);
        #[cfg(feature = "metrics")]
        numbers::checkpointed(took);
    });
}

/// There was no space to make the write-ahead log longer: writes wait for checkpoints more often.
#[inline]
pub(crate) fn log_not_grown(error: &std::io::Error) {
    of_engine(|| {
        #[cfg(feature = "tracing")]
        traces::log_not_grown(error);
    });
}

/// What a crash left in the write-ahead log was read, up to this commit.
#[inline]
pub(crate) fn recovered(commit: Commit) {
    #[cfg(feature = "tracing")]
    traces::recovered(commit);
}

/// A page of the table was found damaged, at this byte of the file; writes are refused from then on.
#[inline]
pub(crate) fn page_damaged(offset: u64) {
    of_engine(|| {
        #[cfg(feature = "tracing")]
        traces::page_damaged(offset);
    });
}

/// A call waits for a lock that another process holds, for long by now.
#[inline]
pub(crate) fn lock_waited_for(process: Option<u32>) {
    of_engine(|| {
        #[cfg(feature = "tracing")]
        traces::lock_waited_for(process);
    });
}

/// And waits no more.
#[inline]
pub(crate) fn lock_wait_ended(waited: Duration) {
    of_engine(|| {
        #[cfg(feature = "tracing")]
        traces::lock_wait_ended(waited);
    });
}

/// The engine failed, and takes no more writes.
#[inline]
pub(crate) fn stopped(error: &Error) {
    of_engine(|| {
        #[cfg(feature = "tracing")]
        traces::stopped(error);
    });
}

/// Tells that a store was opened, and when this is dropped that it was closed.
pub(crate) struct Open(());

impl Open {
    pub(crate) fn new(commit: Commit, has_history: bool, has_log: bool) -> Self {
        #[cfg(feature = "tracing")]
        traces::opened(commit, has_history, has_log);
        Self(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        #[cfg(feature = "tracing")]
        traces::closed();
    }
}

/// A watch on a cluster is begun, the first or another.
#[inline]
pub(crate) fn watch_began() {
    #[cfg(feature = "tracing")]
    traces::watch_began();
    #[cfg(feature = "metrics")]
    numbers::watch_began();
}

/// There was no answer whether a commit was made, and it is being found out.
#[inline]
pub(crate) fn outcome_unknown() {
    #[cfg(feature = "tracing")]
    traces::outcome_unknown();
    #[cfg(feature = "metrics")]
    numbers::outcome_unknown();
}

/// A call got its turn, after waiting so long.
#[inline]
pub(crate) fn turn(queue: &'static str, waited: Duration) {
    #[cfg(feature = "metrics")]
    numbers::turn(queue, waited);
}

/// Too many calls wait already.
#[inline]
pub(crate) fn busy(queue: &'static str) {
    #[cfg(feature = "tracing")]
    traces::busy(queue);
    #[cfg(feature = "metrics")]
    numbers::busy(queue);
}

/// A call for another thread, which belongs there to the span that is entered here.
#[inline]
pub(crate) fn in_this_span<T>(call: impl FnOnce() -> T) -> impl FnOnce() -> T {
    #[cfg(feature = "tracing")]
    return traces::in_this_span(call);
    #[cfg(not(feature = "tracing"))]
    return call;
}
