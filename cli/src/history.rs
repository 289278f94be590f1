//! What happened: `history` of one key or alias, `changes` of the whole store.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use keystead::{
    Alias, Change, ChangeRecord, CommitInfo, CommitRecord, DomainId, Error, HistoryOf, Images, KeyRecord,
    Limit, Operation, Order, Position, ProjectId, Store, Waited,
};
use serde_json::json;

use crate::Context;
use crate::failure::Failure;
use crate::look::{list, write_page};
use crate::names::{Named, PerhapsKey};
use crate::output::{Column, Output};
use crate::values::{KeyName, ScopeOptions, parse_name, show_time};

/// Tell what was done to a key or an alias, also if it is gone.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("of").required(true).args(["KEY", "key"]))]
pub(crate) struct History {
    #[command(flatten)]
    key: Named<PerhapsKey>,
    /// Of this alias instead.
    #[arg(long, value_name = "NAME", group = "of", allow_hyphen_values = true, value_parser = parse_name::<Alias>)]
    alias: Option<Alias>,
    #[command(flatten)]
    scope: ScopeOptions,
    /// Begin with the first change instead of the last.
    #[arg(long)]
    oldest_first: bool,
    /// At most so many changes.
    #[arg(long, value_name = "NUMBER", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
}

/// Follow what happens in the whole store, commit by commit.
#[derive(Args)]
pub(crate) struct Changes {
    /// Begin behind this position.
    #[arg(long, value_name = "POSITION", conflicts_with = "from_now")]
    after: Option<Position>,
    /// Begin with what comes next.
    #[arg(long)]
    from_now: bool,
    /// Go on with what happens, until interrupted.
    #[arg(long)]
    follow: bool,
    /// Only commits of this domain.
    #[arg(long)]
    domain: Option<DomainId>,
    /// Only commits of this project.
    #[arg(long)]
    project: Option<ProjectId>,
    /// End after so many commits.
    #[arg(long, value_name = "NUMBER", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    limit: Option<u64>,
}

/// How long one waiting lasts; then the next begins.
const WAIT: Duration = Duration::from_secs(60);
/// How many commits are taken at once: each may be 1 MiB long.
const COMMITS_AT_ONCE: usize = 100;

const CHANGE_COLUMNS: &[Column] = &[
    Column::Whole("COMMIT"),
    Column::Whole("TIME"),
    Column::Wrapped("ACTOR"),
    Column::Whole("OPERATION"),
    Column::Wrapped("CHANGE"),
];

impl History {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let output = &mut context.output;
        let order = if self.oldest_first { Order::OldestFirst } else { Order::NewestFirst };
        store.read(&self.scope.scope()?, |snap| {
            let of = match (self.key.given(), &self.alias) {
                (Some(KeyName::Id(key_id)), _) => HistoryOf::Key(*key_id),
                (Some(key), _) => HistoryOf::Key(key.read(snap)?.key_id),
                (None, Some(alias)) => HistoryOf::Alias(alias),
                (None, None) => return Ok(Err(Failure::usage("name a key or an alias"))),
            };
            Ok(list(output, self.limit, |output, after, limit| {
                let page = snap.history(of, order, after.into(), limit)?;
                write_page(output, CHANGE_COLUMNS, &page.items, Clone::clone, |record: &ChangeRecord| {
                    let ChangeRecord { info, change, .. } = record;
                    let commit = info.commit.to_string();
                    vec![
                        commit,
                        show_time(info.time),
                        actor(info),
                        operation(change.operation),
                        describe(change),
                    ]
                })?;
                Ok((page.items.len(), page.next))
            }))
        })?
    }
}

impl Changes {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let output = &mut context.output;
        let mut position = self.begin(&store, output)?;
        let mut left = self.limit.unwrap_or(u64::MAX);
        loop {
            let changes =
                store.changes(position.as_ref(), Limit::new(COMMITS_AT_ONCE).map_err(Error::from)?)?;
            let at_end = changes.commits.is_empty();
            for record in changes.commits.iter().filter(|record| self.is_meant(&record.info)) {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                write_commit(output, record, store.position_after(record.info.commit))?;
            }
            output.flush()?;
            position = Some(changes.position);
            if left == 0 || (at_end && !self.follow) {
                return Ok(());
            }
            if at_end && store.wait(&changes.position, WAIT)? == Waited::Closed {
                return Ok(());
            }
        }
    }

    /// Behind what it begins; nothing means with the first commit.
    fn begin(&self, store: &Store, output: &Output) -> Result<Option<Position>, Failure> {
        if self.from_now {
            return Ok(Some(store.position()?));
        }
        if self.after.is_some() {
            return Ok(self.after);
        }
        match store.changes(None, Limit::new(1).map_err(Error::from)?) {
            Err(Error::HistoryTrimmed { floor }) => {
                let position = store.position_after(floor);
                output.note(&format!("the history begins behind commit {floor}, at the position {position}"));
                Ok(Some(position))
            }
            begun => Ok(begun.map(|_| None)?),
        }
    }

    fn is_meant(&self, info: &CommitInfo) -> bool {
        self.domain.as_ref().is_none_or(|domain| domain == info.scope.domain())
            && self.project.as_ref().is_none_or(|project| project == info.scope.project())
    }
}

fn write_commit(output: &mut Output, record: &CommitRecord, position: Position) -> Result<(), Failure> {
    let CommitRecord { info, changes, .. } = record;
    if output.is_json() {
        return output.json(&json!({ "position": position, "info": info, "changes": changes }));
    }
    let (time, scope) = (show_time(info.time), &info.scope);
    let head = format!("{position}  {time}  {}/{}  {}", scope.domain(), scope.project(), actor(info));
    output.line(head)?;
    changes.iter().try_for_each(|change| {
        output.line(format!("  {}: {}", operation(change.operation), describe(change)))
    })
}

fn actor(info: &CommitInfo) -> String {
    info.actor.as_deref().unwrap_or("-").to_owned()
}

/// The operation's name, as it is in JSON.
pub(crate) fn operation(operation: Operation) -> String {
    match serde_json::to_value(operation) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{operation:?}"),
    }
}

/// What a change did, in a line.
pub(crate) fn describe(change: &Change) -> String {
    match &change.images {
        Images::Key { before: None, after: Some(key) } => {
            format!("key {} {} made", key.key_id, key.key_alias)
        }
        Images::Key { before: Some(key), after: None } => {
            format!("key {} {} gone", key.key_id, key.key_alias)
        }
        Images::Key { before: Some(before), after: Some(after) } => {
            format!("key {} {}: {}", after.key_id, before.key_alias, differences(before, after))
        }
        Images::Alias { before: None, after: Some(alias) } => {
            format!("alias {} made, on {}", alias.alias, alias.key_id)
        }
        Images::Alias { before: Some(alias), after: None } => {
            format!("alias {} gone, was on {}", alias.alias, alias.key_id)
        }
        Images::Alias { before: Some(before), after: Some(after) } => {
            format!("alias {}: {} -> {}", after.alias, before.key_id, after.key_id)
        }
        Images::Key { before: None, after: None } | Images::Alias { before: None, after: None } => {
            "nothing".to_owned()
        }
    }
}

/// How two images of a key differ.
fn differences(before: &KeyRecord, after: &KeyRecord) -> String {
    let mut found = Vec::new();
    if before.key_alias != after.key_alias {
        found.push(format!("named {}", after.key_alias));
    }
    if before.state != after.state {
        found.push(format!("{} -> {}", before.state, after.state));
    }
    let others = [
        ("description", before.description != after.description),
        ("tags", before.tags != after.tags),
        ("rotation", before.rotation != after.rotation),
        ("material", before.material != after.material),
    ];
    found.extend(others.iter().filter(|(_, differs)| *differs).map(|(what, _)| (*what).to_owned()));
    if found.is_empty() { "as it was".to_owned() } else { found.join(", ") }
}
