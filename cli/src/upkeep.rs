//! Looking after a store: `init`, `verify`, `stats`, `checkpoint`, `compact`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use keystead::{AliasScope, Compacted, Error, KeyFilter, Limit, Options, Region, Report, Store};
use serde_json::json;

use crate::Context;
use crate::ask::Confirm;
use crate::failure::Failure;
use crate::location::{Checkpointed, PageCheck, must_be_file};
use crate::output::{Output, show_bytes, show_size};
use crate::progress::watched;

/// Make a new, empty store.
#[derive(Args)]
pub(crate) struct Init {
    /// Where an alias is unique.
    #[arg(long, value_enum, default_value_t = Unique::Project)]
    alias_scope: Unique,
    /// The region in the URNs of its aliases.
    #[arg(long, default_value = "local")]
    region: Region,
    /// Without history; it can't be switched on later.
    #[arg(long)]
    no_history: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Unique {
    /// In its project.
    Project,
    /// In its domain.
    Domain,
}

impl Init {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let alias_scope = match self.alias_scope {
            Unique::Project => AliasScope::Project,
            Unique::Domain => AliasScope::Domain,
        };
        let options = Options::new().alias_scope(alias_scope).region(self.region.clone());
        let store = context.store.location()?.create(&options.history(!self.no_history))?;
        let position = store.position()?;
        match context.output.is_json() {
            true => context.output.json(&json!({ "position": position })),
            false => context.output.line("made an empty store"),
        }
    }
}

/// Read everything, and check that every promise of the store holds.
#[derive(Args)]
pub(crate) struct Verify {
    /// Check this backup instead of the store: a copy, or one of changes.
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
}

impl Verify {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        match &self.backup {
            Some(path) => verify_backup(path, &mut context.output),
            None => {
                let pages = context.store.location()?.check_pages()?;
                let verify = |store: Store| Ok(watched(|| store.verify())?);
                match (context.store.read().and_then(verify), &pages) {
                    (Err(failure), Some(PageCheck::Damaged(why))) => {
                        report_unreadable(why, &failure, &mut context.output)
                    }
                    (report, pages) => tell_report(&report?, pages.as_ref(), &mut context.output),
                }
            }
        }
    }
}

fn verify_backup(path: &Path, output: &mut Output) -> Result<(), Failure> {
    must_be_file(path)?;
    let backup = match watched(|| Store::verify_backup(path)) {
        Err(Error::Unsound(found)) => {
            return Err(Failure::findings(format!("the backup is not sound: {found:?}")));
        }
        checked => checked.map_err(Failure::of_file(path))?,
    };
    if output.is_json() {
        return output.json(&json!({ "clean": true, "backup": backup }));
    }
    output.good("clean")?;
    output.fields(&[
        (
            "what it is",
            backup
                .since
                .map_or_else(|| "a whole copy".to_owned(), |since| format!("changes since commit {since}")),
        ),
        ("position", backup.position.to_string()),
        ("rows", backup.rows.to_string()),
        ("commits in the history", backup.entries.to_string()),
        ("size", show_size(backup.bytes, backup.disk_bytes)),
    ])
}

const PAGES_ARE_DAMAGED: &str = "pages of the file are damaged";

/// So many pages are damaged that the content can't be read.
fn report_unreadable(why: &str, failure: &Failure, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        let unreadable = failure.to_string();
        output.json(
            &json!({ "clean": false, "pages": "damaged", "pages_damage": why, "unreadable": unreadable }),
        )?;
    } else {
        output.bad(format!("the pages of the file: {why}"))?;
        output.bad(format!("the content could not be verified: {failure}"))?;
    }
    output.flush()?;
    Err(of_damage(PAGES_ARE_DAMAGED.to_owned()))
}

fn of_damage(found: String) -> Failure {
    Failure::findings(found)
        .advice("keep the file; restore a backup, or let `keystead repair` save what is left")
}

fn tell_report(report: &Report, pages: Option<&PageCheck>, output: &mut Output) -> Result<(), Failure> {
    let damage = match pages {
        Some(PageCheck::Damaged(why)) => Some(why),
        _ => None,
    };
    let violations = report.violations.len() as u64 + report.violations_not_kept;
    let clean = violations == 0 && damage.is_none();
    if output.is_json() {
        let pages = pages.map(PageCheck::as_str);
        output.json(&json!({ "clean": clean, "pages": pages, "pages_damage": damage, "report": report }))?;
    } else {
        if let Some(why) = damage {
            output.bad(format!("the pages of the file: {why}"))?;
        }
        for violation in &report.violations {
            output.bad(format!("invariant {}: {}", violation.invariant, violation.what))?;
            violation.rows.iter().try_for_each(|row| output.line(format!("  {row}")))?;
        }
        if clean {
            output.good("clean")?;
        }
        let pages = pages.map_or("none", PageCheck::as_str);
        output.fields(&[
            ("scopes", report.scopes.to_string()),
            ("keys", report.keys.to_string()),
            ("aliases", report.aliases.to_string()),
            ("rows", report.rows.to_string()),
            ("pages of the file", pages.to_owned()),
            ("changes in the history", report.changes.to_string()),
            ("size of the history", show_bytes(report.history_bytes)),
        ])?;
    }
    if clean {
        return Ok(());
    }
    output.flush()?;
    let broken = format!("{violations} promises of the store do not hold");
    let found = match (violations, damage) {
        (0, _) => PAGES_ARE_DAMAGED.to_owned(),
        (_, None) => broken,
        (_, Some(_)) => format!("pages of the file are damaged, and {broken}"),
    };
    Err(of_damage(found))
}

/// Tell what kind of store it is, and how much is in it.
#[derive(Args)]
pub(crate) struct Stats;

impl Stats {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let location = context.store.location()?;
        let bytes = location.bytes()?;
        let floor = match store.history_floor() {
            Err(Error::HistoryDisabled) => None,
            floor => Some(floor?),
        };
        let position = store.position()?;
        let (scopes, keys) = count(&store)?;
        let alias_scope = store.alias_scope().as_str();
        if context.output.is_json() {
            return context.output.json(&json!({
                "position": position, "commit": position.commit(), "alias_scope": alias_scope,
                "region": store.region(), "history": floor.is_some(), "history_floor": floor,
                "scopes": scopes, "keys": keys, "bytes": bytes, "place": location.to_string(),
            }));
        }
        let history = match floor {
            None => "none".to_owned(),
            Some(floor) if floor.number() == 0 => "whole".to_owned(),
            Some(floor) => format!("behind commit {floor}"),
        };
        let mut fields = vec![
            ("place", location.to_string()),
            ("newest commit", position.commit().to_string()),
            ("position", position.to_string()),
            ("scopes", scopes.to_string()),
            ("keys", keys.to_string()),
        ];
        fields.extend(bytes.map(|bytes| ("size of the file", show_bytes(bytes))));
        fields.extend([
            ("history", history),
            ("aliases are unique in a", alias_scope.to_owned()),
            ("region", store.region().to_string()),
        ]);
        context.output.fields(&fields)
    }
}

/// How many scopes and keys there are.
pub(crate) fn count(store: &Store) -> Result<(u64, u64), Error> {
    let (mut scopes, mut keys, mut after) = (0, 0, None);
    loop {
        let page = store.scopes(after.as_ref().into(), Limit::MAX)?;
        for scope in &page.items {
            scopes += 1;
            keys += store.read(scope, |snap| snap.count_keys(&KeyFilter::all()))?;
        }
        after = page.next;
        if after.is_none() {
            return Ok((scopes, keys));
        }
    }
}

/// Bring the table file up to date, so that it alone is the store: before files are copied.
#[derive(Args)]
pub(crate) struct Checkpoint;

impl Checkpoint {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let location = context.store.location()?;
        let Checkpointed { position, bytes } = location.checkpoint()?;
        if context.output.is_json() {
            return context
                .output
                .json(&json!({ "position": position, "bytes": bytes, "wal": { "state": "not_needed" } }));
        }
        let (commit, size) = (position.commit(), show_bytes(bytes));
        context.output.line(format!(
            "{location} is the whole store up to commit {commit}: {size}; its log is not needed"
        ))
    }
}

/// Write the store anew without waste, and put it in its place. Needs as much free disk again.
#[derive(Args)]
pub(crate) struct Compact {
    #[command(flatten)]
    confirm: Confirm,
}

impl Compact {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let path = context.store.existing_file(
            "etcd compacts by itself (--auto-compaction-retention); `etcdctl defrag` gives back the space",
        )?;
        let what =
            format!("{} is replaced by a copy of it without waste, after that was verified", path.display());
        self.confirm.ask(&what)?;
        let compacted = watched(|| keystead::compact(&path)).map_err(Failure::of_file(&path))?;
        let Compacted { bytes_before, bytes, disk_bytes_before, disk_bytes, .. } = compacted;
        if context.output.is_json() {
            return context.output.json(&json!({
                "bytes_before": bytes_before, "bytes": bytes,
                "disk_bytes_before": disk_bytes_before, "disk_bytes": disk_bytes,
            }));
        }
        let (before, now) = (show_size(bytes_before, disk_bytes_before), show_size(bytes, disk_bytes));
        context.output.line(match (bytes, disk_bytes) == (bytes_before, disk_bytes_before) {
            true => format!("{before}; a copy would take more of the disk, or as much without being shorter"),
            false => format!("{before} before, {now} now"),
        })
    }
}
