//! What ends: `schedule-deletion`, `cancel-deletion`, `purge`, `trim-history`.

use clap::Args;
use keystead::{Commit, Error, KeyFilter, KeyId, KeyState, Limit, PendingDays, Request, Store, Timestamp};
use serde_json::json;

use crate::Context;
use crate::ask::Confirm;
use crate::failure::Failure;
use crate::location::WriteRules;
use crate::names::{Named, OneKey, PerhapsKey};
use crate::progress::{Bar, watched};
use crate::values::{KeyName, parse_commit, show_time};
use crate::write::{WriteOptions, state_in_words};

/// Have a key deleted after some days; until then it can be cancelled.
#[derive(Args)]
pub(crate) struct Schedule {
    #[command(flatten)]
    key: Named<OneKey>,
    /// After how many days: 7 to 1096.
    #[arg(long, value_parser = parse_days)]
    days: PendingDays,
    #[command(flatten)]
    options: WriteOptions,
}

fn parse_days(text: &str) -> Result<PendingDays, String> {
    let days = text.parse().map_err(|_| "days are a number".to_owned())?;
    PendingDays::new(days).map_err(|error| error.to_string())
}

impl Schedule {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let body = json!(["schedule-deletion", self.key.get().text(), self.days]);
        self.options.write(context, &body, state_in_words, |txn| {
            let key_id = self.key.get().id(txn)?;
            txn.schedule_deletion(key_id, self.days)
        })
    }
}

/// Cancel a deletion; the key is disabled then.
#[derive(Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    key: Named<OneKey>,
    #[command(flatten)]
    options: WriteOptions,
}

impl Cancel {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let body = json!(["cancel-deletion", self.key.get().text()]);
        self.options.write(context, &body, state_in_words, |txn| {
            let key_id = self.key.get().id(txn)?;
            txn.cancel_deletion(key_id)
        })
    }
}

/// Erase a key whose deletion is due, with its aliases, or all that are due in the scope.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["KEY", "key"]))]
pub(crate) struct Purge {
    #[command(flatten)]
    key: Named<PerhapsKey>,
    /// All keys of the scope that are due. A key may be named `--due`, and none `--due=all`.
    #[arg(long, group = "which", conflicts_with = "request_id", value_name = "all", value_parser = parse_due)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "--due")]
    due: Option<AllDue>,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    options: WriteOptions,
}

/// That all keys are meant which are due.
#[derive(Clone, Copy)]
struct AllDue;

/// A word alone may be the name of one key, which must not be taken for all.
fn parse_due(text: &str) -> Result<AllDue, String> {
    match text {
        "all" => Ok(AllDue),
        _ => Err(
            "a key may be named so; write --due=all for all keys that are due, and --key=--due or -- --due \
                  for the key of that name"
                .to_owned(),
        ),
    }
}

impl Purge {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        match (self.key.given(), self.due) {
            (Some(key), _) => self.purge_one(context, key),
            (None, Some(AllDue)) => self.purge_due(context),
            (None, None) => Err(Failure::usage("name a key, or give --due=all")),
        }
    }

    fn purge_one(&self, context: &mut Context, key: &KeyName) -> Result<(), Failure> {
        if !self.options.is_dry_run() {
            self.confirm.ask(&format!("the key {} and its aliases are erased, for ever", key.text()))?;
        }
        let body = json!(["purge", key.text()]);
        let in_words = |key_id: &KeyId| format!("erased key {key_id}");
        self.options.write(context, &body, in_words, |txn| {
            let key_id = key.id(txn)?;
            let due = txn.key(key_id)?.scheduled_deletion_at;
            match (txn.purge(key_id)?, due) {
                (false, Some(due)) => {
                    Err(Error::abort(format!("the key {key_id} is not due before {}", show_time(due))))
                }
                _ => Ok(key_id),
            }
        })
    }

    fn purge_due(&self, context: &mut Context) -> Result<(), Failure> {
        let request = self.options.request()?;
        // Closed again before the question: while that waits, others may open the store.
        let due = due_keys(&self.options.open(context)?, &request)?;
        if self.options.is_dry_run() {
            return tell_due(context, &due);
        }
        self.confirm.ask(&format!("{} keys and their aliases are erased, for ever", due.len()))?;
        let store = self.options.open(context)?;
        let bar = Bar::new("purging", due.len() as u64, "keys");
        let mut purged = 0;
        for (done, (key_id, _)) in (1..).zip(&due) {
            match store.write(&request, |txn| txn.purge(*key_id)) {
                Ok(outcome) => purged += u64::from(outcome.value),
                // Somebody else came first: there is nothing left to do.
                Err(error) if error.api().is_some() => {}
                Err(error) => return Err(error.into()),
            }
            bar.set(done);
        }
        drop(bar);
        match context.output.is_json() {
            true => context.output.json(&json!({ "purged": purged })),
            false => context.output.line(format!("erased {purged} keys")),
        }
    }
}

/// The keys of the scope whose deletion is due at the time of the request, and since when.
fn due_keys(store: &Store, request: &Request) -> Result<Vec<(KeyId, Timestamp)>, Failure> {
    let (filter, mut due) = (KeyFilter::all().state(KeyState::PendingDeletion), Vec::new());
    store.read(request.scope(), |snap| {
        let mut after = None;
        loop {
            let page = snap.keys_by_id(&filter, after.as_ref().into(), Limit::MAX)?;
            let with_time =
                page.items.iter().filter_map(|key| Some((key.key_id, key.scheduled_deletion_at?)));
            due.extend(with_time.filter(|(_, time)| *time <= request.time()));
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    })?;
    Ok(due)
}

fn tell_due(context: &mut Context, due: &[(KeyId, Timestamp)]) -> Result<(), Failure> {
    if context.output.is_json() {
        let keys: Vec<_> = due.iter().map(|(key_id, _)| key_id).collect();
        return context.output.json(&json!({ "dry_run": true, "due": keys }));
    }
    if due.is_empty() {
        return context.output.line("no key is due");
    }
    context.output.line("nothing was changed; these would be erased:")?;
    due.iter().try_for_each(|(key_id, since)| {
        context.output.line(format!("  key {key_id}, due since {}", show_time(*since)))
    })
}

/// Remove the history up to a commit, for ever; what is there now stays.
#[derive(Args)]
pub(crate) struct TrimHistory {
    /// The last commit whose changes go.
    #[arg(value_parser = parse_commit)]
    to: Commit,
    #[command(flatten)]
    confirm: Confirm,
    #[command(flatten)]
    rules: WriteRules,
}

impl TrimHistory {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        // Closed again before the question: while that waits, others may open the store.
        drop(context.store.write(&self.rules)?);
        let what = format!(
            "the history of the whole store up to commit {} is removed, for ever; what is there now stays",
            self.to
        );
        self.confirm.ask(&what)?;
        let store = context.store.write(&self.rules)?;
        let before = store.history_floor()?;
        let floor = watched(|| store.trim_history(self.to))?;
        match context.output.is_json() {
            true => context.output.json(&json!({ "history_floor": floor })),
            false if floor == before => context.output.line("nothing was trimmed"),
            false => context.output.line(format!("the history begins behind commit {floor}")),
        }
    }
}
