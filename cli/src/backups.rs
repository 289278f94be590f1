//! Copies, and what is made of them: `backup`, `restore`, `repair`.

use std::path::PathBuf;

use clap::Args;
use keystead::{Commit, Position, RepairReport, Store, WalUse};

use crate::Context;
use crate::ask::Confirm;
use crate::failure::Failure;
use crate::location::{must_be_file, store_must_be_new};
use crate::output::{Output, show_bytes, show_size};
use crate::progress::watched;
use crate::values::parse_commit;

/// Copy the store, also one on etcd, into a new file while others write it; or what changed since a backup.
#[derive(Args)]
pub(crate) struct Backup {
    /// The file to be made.
    file: PathBuf,
    /// Only what changed behind this position, which an earlier backup told.
    #[arg(long, value_name = "POSITION")]
    since: Option<Position>,
    /// Only what changed since the backup in this file was made.
    #[arg(long, value_name = "FILE", conflicts_with = "since")]
    since_backup: Option<PathBuf>,
}

impl Backup {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let since = match (&self.since, &self.since_backup) {
            (Some(position), _) => Some(*position),
            (None, Some(path)) => {
                must_be_file(path)?;
                Some(watched(|| Store::verify_backup(path)).map_err(Failure::of_file(path))?.position)
            }
            (None, None) => None,
        };
        let backup = watched(|| match since {
            Some(since) => store.backup_changes(&since, &self.file),
            None => store.backup(&self.file),
        })
        .map_err(Failure::of_file(&self.file))?;
        if context.output.is_json() {
            return context.output.json(&backup);
        }
        context.output.fields(&[
            ("position", backup.position.to_string()),
            ("rows", backup.rows.to_string()),
            ("commits in the history", backup.entries.to_string()),
            ("size", show_size(backup.bytes, backup.disk_bytes)),
        ])
    }
}

/// Make a store, where --store says, of a backup and of the changes since.
#[derive(Args)]
pub(crate) struct Restore {
    /// A whole copy.
    copy: PathBuf,
    /// Backups of changes since, in their order.
    changes: Vec<PathBuf>,
    /// As the store was after this commit.
    #[arg(long, value_name = "COMMIT", value_parser = parse_commit)]
    up_to: Option<Commit>,
    #[command(flatten)]
    confirm: Confirm,
}

impl Restore {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let path = context.store.file("restore into a file by --store, and `keystead copy` that to etcd")?;
        store_must_be_new(&path)?;
        must_be_file(&self.copy)?;
        self.changes.iter().try_for_each(|changes| must_be_file(changes))?;
        self.confirm.ask(&format!(
            "a store is made at {}; positions of the former store are refused by it, so who follows it begins anew",
            path.display()
        ))?;
        let restore = keystead::Restore::of(&self.copy);
        let restore = self.changes.iter().fold(restore, keystead::Restore::changes);
        let restore = match self.up_to {
            Some(commit) => restore.up_to(commit),
            None => restore,
        };
        let restored = watched(|| restore.into_file(&path)).map_err(Failure::of_file(&path))?;
        if context.output.is_json() {
            return context.output.json(&restored);
        }
        context.output.fields(&[
            ("as it was after commit", restored.commit.to_string()),
            ("position", restored.position.to_string()),
            ("rows", restored.rows.to_string()),
            ("size", show_bytes(restored.bytes)),
        ])
    }
}

/// Save what is left of a damaged store into a new file. If there is a backup, restore that first.
#[derive(Args)]
pub(crate) struct Repair {
    /// The file to be made; the damaged one is only read.
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
    #[command(flatten)]
    confirm: Confirm,
}

impl Repair {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let damaged = context.store.existing_file(
            "save what can be read by `keystead export`; restore a backup into a file, and `keystead copy` that to \
             another prefix",
        )?;
        store_must_be_new(&self.into)?;
        let (from, into) = (damaged.display(), self.into.display());
        self.confirm.ask(&format!("what is sound in {from} is written to {into}; {from} stays as it is"))?;
        let report =
            watched(|| keystead::repair(&damaged, &self.into)).map_err(Failure::of_file(&self.into))?;
        tell_repair(&report, &mut context.output)
    }
}

fn tell_repair(report: &RepairReport, output: &mut Output) -> Result<(), Failure> {
    let complete = report.complete();
    if output.is_json() {
        let mut json = serde_json::to_value(report).map_err(|error| Failure::failed(error.to_string()))?;
        json["complete"] = complete.into();
        output.json(&json)?;
    } else {
        report
            .repaired
            .iter()
            .try_for_each(|found| output.line(format!("repaired: {} {}", found.row, found.what)))?;
        report.lost.iter().try_for_each(|found| output.bad(format!("lost: {} {}", found.row, found.what)))?;
        report
            .may_be_missing
            .iter()
            .try_for_each(|found| output.bad(format!("may be missing: {} {}", found.row, found.what)))?;
        if complete {
            output.good("complete: nothing is lost, and nothing may be missing")?;
        }
        let lost = match report.lost.len() {
            0 if !complete => "nothing that is known".to_owned(),
            lost => lost.to_string(),
        };
        output.fields(&[
            ("repaired", report.repaired.len().to_string()),
            ("lost", lost),
            ("may be missing", report.may_be_missing.len().to_string()),
            ("found besides", report.not_kept.to_string()),
            ("damaged pages of the file", report.damaged_pages.to_string()),
            ("healed pages of the file", report.healed_pages.to_string()),
            ("write-ahead log", show_wal(&report.wal)),
            ("position", report.position.to_string()),
            ("rows", report.rows.to_string()),
            ("size", show_bytes(report.bytes)),
        ])?;
    }
    if complete {
        return Ok(());
    }
    output.flush()?;
    let found = [losses(report.lost.len(), report.not_kept), doubts(report)];
    let found: Vec<_> = found.into_iter().flatten().collect();
    Err(Failure::findings(found.join("; ")).advice(
        "compare the new store with the newest backup; keep the damaged files until nothing is missed",
    ))
}

fn show_wal(wal: &WalUse) -> String {
    match wal {
        WalUse::None => "none".to_owned(),
        WalUse::NotNeeded => "not needed: the file has all that is in it".to_owned(),
        WalUse::Used { up_to } => format!("used, up to commit {up_to}"),
        WalUse::Missing => "missing".to_owned(),
        WalUse::NotUsed { why } => format!("not used: {why}"),
        other => format!("{other:?}"),
    }
}

/// What is said of things that may be missing, and of pages that are damaged, if there are any.
fn doubts(report: &RepairReport) -> Option<String> {
    match (report.may_be_missing.len(), report.damaged_pages) {
        (0, 0) => None,
        (0, pages) => Some(format!("damaged pages of the file: {pages}; nothing is missing for that")),
        (_, 0) => Some("something may be missing".to_owned()),
        (_, pages) => {
            Some(format!("damaged or stale pages of the file: {pages}; something may be missing or stale"))
        }
    }
}

/// What is said of things that are lost, if any are. Of those besides, which may be lost only if the list of them is
/// full, the number is known, and not how many were repaired.
fn losses(lost: usize, besides: u64) -> Option<String> {
    match (lost, besides) {
        (0, _) => None,
        (RepairReport::FINDINGS_MAX.., 1..) => {
            Some(format!("{lost} things are lost, and up to {besides} more"))
        }
        _ => Some(format!("{lost} things are lost")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_list_of_losses_is_told() {
        let most = RepairReport::FINDINGS_MAX;
        for (lost, besides, words) in [
            (0, 7, None),
            (3, 7, Some("3 things are lost")),
            (most, 0, Some("10000 things are lost")),
            (most, 7, Some("10000 things are lost, and up to 7 more")),
        ] {
            assert_eq!(losses(lost, besides).as_deref(), words);
        }
    }
}
