//! What changes keys and names: `create`, `rename`, `associate`, `swap` and the like.

use std::sync::Arc;

use clap::Args;
use keystead::{
    Alias, AliasRecord, Commit, Committed, Description, EnterpriseProjectId, Error, Expect, KeyId, KeyRecord,
    KeySpec, KeyUsage, KeystoreId, Moved, NewKey, Origin, Renamed, Request, RequestId, Store, TagKey,
    TagValue, Transaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Context;
use crate::failure::Failure;
use crate::history::describe;
use crate::location::WriteRules;
use crate::names::{AnyAliases, Both, HOW_TO_NAME, Named, NewKeyAlias, OneAlias, OneKey};
use crate::values::{KeyName, ScopeOptions, one_of, parse_commit, parse_name, parse_tag, show_aliases};

/// By whom something is done.
#[derive(Args)]
pub(crate) struct ActorOption {
    /// Who does it, for the history; the name of the user if nothing is said.
    #[arg(long, env = "KEYSTEAD_ACTOR", help_heading = "Request")]
    actor: Option<String>,
}

impl ActorOption {
    pub(crate) fn sign(&self, request: Request) -> Request {
        let user = || std::env::var("USER").ok().filter(|user| user.len() <= Request::ACTOR_BYTES_MAX);
        match self.actor.clone().or_else(user) {
            Some(actor) => request.actor(&actor),
            None => request,
        }
    }
}

/// How a change is made: where, by whom, and whether at all.
#[derive(Args)]
pub(crate) struct WriteOptions {
    #[command(flatten)]
    scope: ScopeOptions,
    #[command(flatten)]
    actor: ActorOption,
    /// Do it only once: given again with the same id, the command repeats its answer and does nothing.
    #[arg(long, value_name = "ID", help_heading = "Request")]
    request_id: Option<RequestId>,
    /// Tell what would change, and change nothing.
    #[arg(long, help_heading = "Request", conflicts_with = "request_id")]
    dry_run: bool,
    #[command(flatten)]
    rules: WriteRules,
}

impl WriteOptions {
    pub(crate) fn request(&self) -> Result<Request, Failure> {
        Ok(self.actor.sign(Request::new(&self.scope.scope()?)))
    }

    pub(crate) fn open(&self, context: &Context) -> Result<Store, Failure> {
        context.store.write(&self.rules)
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Carries out one command in one transaction and tells what came of it. `body` is what was asked for,
    /// by which a request that comes again is known.
    pub(crate) fn write<T: Serialize + DeserializeOwned>(
        &self,
        context: &mut Context,
        body: &Value,
        in_words: impl Fn(&T) -> String,
        closure: impl Fn(&mut Transaction<'_>) -> Result<T, Error>,
    ) -> Result<(), Failure> {
        let store = self.open(context)?;
        let request = self.request()?;
        if self.dry_run {
            let would = store.dry_run(&request, &closure)?;
            if context.output.is_json() {
                return context.output.json(&json!({ "dry_run": true, "changes": would.changes }));
            }
            context.output.line("nothing was changed; it would be:")?;
            return would
                .changes
                .iter()
                .try_for_each(|change| context.output.line(format!("  {}", describe(change))));
        }
        let done = match &self.request_id {
            Some(request_id) => {
                store.write_once(&request, request_id, body.to_string().as_bytes(), closure)?
            }
            None => store.write(&request, closure)?,
        };
        let Committed { value, commit, changed, replayed, .. } = done;
        if context.output.is_json() {
            let answer =
                json!({ "commit": commit, "changed": changed, "replayed": replayed, "value": value });
            return context.output.json(&answer);
        }
        let repeated = if replayed { "; this request was carried out before" } else { "" };
        let outcome = if changed { in_words(&value) } else { "nothing to change".to_owned() };
        context.output.line(format!("{outcome} (commit {commit}{repeated})"))
    }
}

/// Make a key, with aliases.
#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    key_alias: Named<NewKeyAlias>,
    /// Its id; random if nothing is said.
    #[arg(long)]
    id: Option<KeyId>,
    /// What kind of key.
    #[arg(long, default_value = "AES_256", value_parser = one_of(KeySpec::ALL, KeySpec::as_str))]
    spec: KeySpec,
    /// What it is for; what the spec is mostly for if nothing is said.
    #[arg(long, value_parser = one_of(KeyUsage::ALL, KeyUsage::as_str))]
    usage: Option<KeyUsage>,
    /// Where its material comes from.
    #[arg(long, default_value = "kms", value_parser = one_of(Origin::ALL, Origin::as_str))]
    origin: Origin,
    /// What it is, in words.
    #[arg(long, default_value = "")]
    description: Description,
    /// A tag, KEY=VALUE; may be said again.
    #[arg(long = "tag", value_parser = parse_tag)]
    tags: Vec<(TagKey, TagValue)>,
    /// An alias; may be said again.
    #[arg(long = "alias", allow_hyphen_values = true, value_parser = parse_name::<Alias>)]
    aliases: Vec<Alias>,
    /// The enterprise project.
    #[arg(long, default_value = "0")]
    enterprise_project: EnterpriseProjectId,
    /// The key store.
    #[arg(long, default_value = "0")]
    keystore: KeystoreId,
    #[command(flatten)]
    options: WriteOptions,
}

impl Create {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let new = self.new_key()?;
        // The id that was made up here would differ each time.
        let body = json!([
            "create",
            self.key_alias.get(),
            self.id,
            self.spec,
            new.usage,
            self.origin,
            self.description,
            new.tags,
            self.aliases,
            self.enterprise_project,
            self.keystore,
        ]);
        self.options.write(
            context,
            &body,
            |key: &Arc<KeyRecord>| format!("made key {}", key.key_id),
            |txn| txn.create_key(&new),
        )
    }

    fn new_key(&self) -> Result<NewKey, Failure> {
        let mut new = NewKey::new(self.key_alias.get().as_str()).map_err(Error::from)?.spec(self.spec);
        new.key_id = self.id.unwrap_or(new.key_id);
        new.usage = self.usage.unwrap_or(new.usage);
        new.origin = self.origin;
        new.description = self.description.clone();
        for (tag, value) in &self.tags {
            if new.tags.insert(tag.clone(), value.clone()).is_some() {
                return Err(Error::DuplicateTag { tag: tag.clone() }.into());
            }
        }
        new.aliases.clone_from(&self.aliases);
        new.enterprise_project_id = self.enterprise_project.clone();
        new.keystore_id = self.keystore.clone();
        Ok(new)
    }
}

/// Enable a disabled key.
#[derive(Args)]
pub(crate) struct Enable {
    #[command(flatten)]
    key: Named<OneKey>,
    #[command(flatten)]
    options: WriteOptions,
}

impl Enable {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let body = json!(["enable", self.key.get().text()]);
        self.options.write(context, &body, state_in_words, |txn| {
            let key_id = self.key.get().id(txn)?;
            txn.enable(key_id)
        })
    }
}

/// Disable an enabled key.
#[derive(Args)]
pub(crate) struct Disable {
    #[command(flatten)]
    key: Named<OneKey>,
    #[command(flatten)]
    options: WriteOptions,
}

impl Disable {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let body = json!(["disable", self.key.get().text()]);
        self.options.write(context, &body, state_in_words, |txn| {
            let key_id = self.key.get().id(txn)?;
            txn.disable(key_id)
        })
    }
}

/// A key and its state.
pub(crate) fn state_in_words(key: &Arc<KeyRecord>) -> String {
    format!("key {} is {}", key.key_id, key.state)
}

/// Give a key another name of its own.
#[derive(Args)]
pub(crate) struct Rename {
    #[command(flatten)]
    key: Named<OneKey>,
    #[command(flatten)]
    key_alias: Named<NewKeyAlias>,
    #[command(flatten)]
    options: WriteOptions,
}

impl Rename {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let body = json!(["rename", self.key.get().text(), self.key_alias.get()]);
        let in_words = |renamed: &Renamed| {
            let key = &renamed.key;
            format!("key {} is named {}, was {}", key.key_id, key.key_alias, renamed.former_key_alias)
        };
        self.options.write(context, &body, in_words, |txn| {
            let key_id = self.key.get().id(txn)?;
            txn.rename_key_alias(key_id, self.key_alias.get())
        })
    }
}

/// Make an alias for a key.
#[derive(Args)]
pub(crate) struct CreateAlias {
    #[command(flatten)]
    alias: Named<OneAlias>,
    #[command(flatten)]
    key: Named<OneKey>,
    #[command(flatten)]
    options: WriteOptions,
}

impl CreateAlias {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let body = json!(["create-alias", self.alias.get(), self.key.get().text()]);
        let in_words = |alias: &Arc<AliasRecord>| format!("alias {} is on key {}", alias.alias, alias.key_id);
        self.options.write(context, &body, in_words, |txn| {
            let key_id = self.key.get().id(txn)?;
            txn.create_alias(self.alias.get(), key_id)
        })
    }
}

/// Move an alias to another key.
#[derive(Args)]
pub(crate) struct Associate {
    #[command(flatten)]
    alias: Named<OneAlias>,
    #[command(flatten)]
    key: Named<OneKey>,
    /// Only if it names this key now.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    from: Option<KeyName>,
    #[command(flatten)]
    options: WriteOptions,
}

impl Associate {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let (alias, key) = (self.alias.get(), self.key.get());
        let body = json!(["associate", alias, key.text(), self.from.as_ref().map(KeyName::text)]);
        self.options.write(context, &body, moved_in_words, |txn| {
            if let Some(from) = &self.from {
                let from = from.id(txn)?;
                txn.expect_alias(alias, Expect::Target(from))?;
            }
            txn.associate_alias(alias, key.id(txn)?)
        })
    }
}

fn moved_in_words(moved: &Moved) -> String {
    format!("alias {} is on key {}, was on {}", moved.alias.alias, moved.alias.key_id, moved.former_key_id)
}

/// Exchange the keys of two aliases, or the names of two keys, at once.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("both").required(true).multiple(true).args(["ONE", "OTHER", "alias", "key"]))]
pub(crate) struct Swap {
    #[command(flatten)]
    names: Named<Both>,
    /// Exchange the own names of two keys.
    #[arg(long, conflicts_with = "alias")]
    key_aliases: bool,
    /// With --key-aliases in the place of ONE and OTHER; give it for each.
    #[arg(
        long = "key",
        id = "key",
        value_name = "NAME",
        allow_hyphen_values = true,
        requires = "key_aliases"
    )]
    #[arg(conflicts_with_all = ["ONE", "alias"])]
    keys: Vec<String>,
    #[command(flatten)]
    options: WriteOptions,
}

impl Swap {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let given = if self.keys.is_empty() { self.names.all() } else { &self.keys };
        let [one, other] = given else {
            let message = format!("2 names are needed here, not {}", given.len());
            return Err(Failure::usage(message).advice(HOW_TO_NAME));
        };
        if self.key_aliases {
            return self.swap_key_aliases(context, one, other);
        }
        let body = json!(["swap", one, other]);
        let alias = |text: &str| parse_name::<Alias>(text).map_err(Failure::usage);
        let (one, other) = (alias(one)?, alias(other)?);
        let in_words =
            |[one, other]: &[Moved; 2]| format!("{}; {}", moved_in_words(one), moved_in_words(other));
        self.options.write(context, &body, in_words, |txn| txn.swap_aliases(&one, &other))
    }

    fn swap_key_aliases(&self, context: &mut Context, one: &str, other: &str) -> Result<(), Failure> {
        let body = json!(["swap --key-aliases", one, other]);
        let key = |text: &str| text.parse::<KeyName>().map_err(Failure::usage);
        let (one, other) = (key(one)?, key(other)?);
        let in_words = |renamed: &[Renamed; 2]| {
            let [one, other] =
                renamed.each_ref().map(|one| format!("key {} is {}", one.key.key_id, one.key.key_alias));
            format!("{one}; {other}")
        };
        self.options.write(context, &body, in_words, |txn| {
            let (one, other) = (one.id(txn)?, other.id(txn)?);
            txn.swap_key_aliases(one, other)
        })
    }
}

/// Delete aliases of one key, all or none.
#[derive(Args)]
pub(crate) struct DeleteAlias {
    #[command(flatten)]
    aliases: Named<AnyAliases>,
    /// The key that has them; the one that the first is on if nothing is said.
    #[arg(long, allow_hyphen_values = true)]
    key: Option<KeyName>,
    #[command(flatten)]
    options: WriteOptions,
}

impl DeleteAlias {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let aliases = self.aliases.all();
        let body = json!(["delete-alias", aliases, self.key.as_ref().map(KeyName::text)]);
        let in_words = |key_id: &KeyId| format!("deleted {} of key {key_id}", show_aliases(aliases));
        self.options.write(context, &body, in_words, |txn| {
            let key_id = match (&self.key, aliases.first()) {
                (Some(key), _) => key.id(txn)?,
                (None, Some(first)) => txn.alias(first)?.key_id,
                (None, None) => return Err(Error::InvalidAliasList),
            };
            txn.delete_aliases(key_id, aliases)?;
            Ok(key_id)
        })
    }
}

/// Undo a commit that only moved aliases and renamed keys.
#[derive(Args)]
pub(crate) struct Revert {
    /// The number of the commit.
    #[arg(value_parser = parse_commit)]
    commit: Commit,
    #[command(flatten)]
    options: WriteOptions,
}

impl Revert {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let body = json!(["revert", self.commit]);
        let in_words = |(): &()| format!("undid commit {}", self.commit);
        self.options.write(context, &body, in_words, |txn| txn.revert(self.commit))
    }
}
