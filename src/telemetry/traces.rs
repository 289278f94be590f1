//! Spans and events, for the crate `tracing`.
//!
//! Info tells nothing of whose keys; debug names scopes and requests; only trace names keys and aliases. Texts of errors
//! may name them too.

use std::time::Duration;

use tracing::{Level, Span};

use super::{Call, Outcome, Place, Summary};
use crate::change::{Change, Images};
use crate::error::Error;
use crate::id::Commit;

/// An event, whose message is its name.
macro_rules! tell {
    ($level:ident, $name:literal $(, $($field:tt)+)?) => {
        tracing::event!(name: $name, target: "keystead", Level::$level, $($($field)+,)? $name)
    };
}

macro_rules! span {
    ($level:ident, $name:literal $(, $($field:tt)+)?) => {
        tracing::span!(target: "keystead", Level::$level, $name $(, $($field)+)?)
    };
}

pub(super) fn span(call: Call, place: Place<'_>) -> Span {
    let domain = place.scope.map(|scope| scope.domain().as_str());
    let project = place.scope.map(|scope| scope.project().as_str());
    let request_id = place.request_id.map(tracing::field::display);
    match call {
        Call::Read => span!(DEBUG, "read", domain, project),
        Call::Write => span!(DEBUG, "write", domain, project, request_id),
        Call::DryRun => span!(DEBUG, "dry_run", domain, project, request_id),
        Call::Import => span!(DEBUG, "import", domain, project, request_id),
        Call::RemoveScope => span!(DEBUG, "remove_scope", domain, project, request_id),
        Call::Sweep => span!(INFO, "sweep"),
        Call::TrimHistory => span!(INFO, "trim_history"),
        Call::Verify => span!(INFO, "verify"),
        Call::CheckPages => span!(INFO, "check_pages"),
        Call::Backup => span!(INFO, "backup"),
        Call::BackupChanges => span!(INFO, "backup_changes"),
        Call::VerifyBackup => span!(INFO, "verify_backup"),
        Call::Restore => span!(INFO, "restore"),
        Call::Repair => span!(INFO, "repair"),
        Call::Compact => span!(INFO, "compact"),
        Call::CopyTo => span!(INFO, "copy_to"),
    }
}

pub(super) fn ended(call: Call, took: Duration, summary: Summary, error: Option<&Error>) {
    let (name, seconds) = (call.name(), took.as_secs_f64());
    let Some(error) = error else { return done(call, seconds, summary) };
    let code = error.code();
    // What an operator has to see to.
    let is_trouble = error.is_of_engine() && !matches!(error, Error::Conflict);
    if is_trouble || matches!(error, Error::Unsound(_)) {
        tell!(WARN, "failed", call = name, code, seconds);
    } else {
        tell!(DEBUG, "refused", call = name, code, seconds);
    }
    tell!(TRACE, "error", call = name, error = %error);
}

fn done(call: Call, seconds: f64, summary: Summary) {
    let Summary { changed, keys, materials, outcomes, rows, entries, bytes, troubles, .. } = summary;
    let (call_name, commit) = (call.name(), summary.commit.map(Commit::number));
    match call {
        Call::Read => tell!(DEBUG, "done", call = call_name, seconds),
        Call::Write | Call::DryRun => tell!(DEBUG, "done", call = call_name, seconds, changed, commit),
        Call::Import => tell!(DEBUG, "done", call = call_name, seconds, commit, keys, troubles),
        _ => tell!(
            INFO,
            "done",
            call = call_name,
            seconds,
            commit,
            keys,
            materials,
            outcomes,
            rows,
            entries,
            bytes,
            troubles
        ),
    }
}

pub(super) fn operation(operation: &'static str, outcome: Outcome, code: Option<&'static str>) {
    tell!(DEBUG, "operation", operation, outcome = outcome.name(), code);
}

pub(super) fn committed<'a>(commit: Commit, changes: impl Iterator<Item = &'a Change>) {
    if !tracing::enabled!(target: "keystead", Level::TRACE) {
        return;
    }
    for Change { operation, images, .. } in changes {
        let operation = super::name_of(*operation);
        let commit = commit.number();
        match images {
            Images::Key { before, after } => {
                let Some(key) = after.as_ref().or(before.as_ref()) else { continue };
                let key_alias = key.key_alias.as_str();
                tell!(TRACE, "key_changed", commit, operation, key_id = %key.key_id, key_alias);
            }
            Images::Alias { before, after } => {
                let Some(record) = after.as_ref().or(before.as_ref()) else { continue };
                let alias = record.alias.as_str();
                tell!(TRACE, "alias_changed", commit, operation, key_id = %record.key_id, alias);
            }
        }
    }
}

pub(super) fn replayed(commit: Commit) {
    tell!(DEBUG, "replayed", commit = commit.number());
}

pub(super) fn conflict(conflicts: u32) {
    tell!(DEBUG, "conflict", conflicts);
}

pub(super) fn log_synced(commits: u64, bytes: usize, took: Duration) {
    tell!(DEBUG, "log_synced", commits, bytes, seconds = took.as_secs_f64());
}

pub(super) fn checkpointed(commit: Commit, took: Duration) {
    tell!(DEBUG, "checkpointed", commit = commit.number(), seconds = took.as_secs_f64());
}

pub(super) fn log_not_grown(error: &std::io::Error) {
    tell!(WARN, "log_not_grown", error = error.to_string());
}

pub(super) fn recovered(commit: Commit) {
    tell!(INFO, "recovered", commit = commit.number());
}

pub(super) fn page_damaged(offset: u64) {
    tell!(ERROR, "page_damaged", offset);
}

pub(super) fn lock_waited_for(process: Option<u32>) {
    tell!(WARN, "lock_waited_for", process);
}

pub(super) fn lock_wait_ended(waited: Duration) {
    tell!(INFO, "lock_wait_ended", seconds = waited.as_secs_f64());
}

pub(super) fn stopped(error: &Error) {
    tell!(WARN, "stopped", code = error.code());
}

pub(super) fn opened(commit: Commit, history: bool, wal: bool) {
    tell!(INFO, "opened", commit = commit.number(), history, wal);
}

pub(super) fn closed() {
    tell!(INFO, "closed");
}

pub(super) fn watch_began() {
    tell!(INFO, "watch_began");
}

pub(super) fn outcome_unknown() {
    tell!(INFO, "outcome_unknown");
}

pub(super) fn busy(queue: &'static str) {
    tell!(DEBUG, "busy", queue);
}

pub(super) fn in_this_span<T>(call: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(call)
}
