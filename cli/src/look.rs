//! What is there: `scopes`, `keys`, `aliases`, `show`, `resolve`.

use std::sync::Arc;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use keystead::{
    After, Alias, AliasRecord, AliasUrn, At, Cursor, Error, KeyFilter, KeyRecord, KeySpec, KeyState, Limit,
    Page, Scope, Snapshot, Store, TagKey, TagValue,
};
use serde::Serialize;
use serde_json::json;

use crate::Context;
use crate::failure::Failure;
use crate::names::{AliasOrUrn, Named, OneKey};
use crate::output::{Column, Output};
use crate::values::{
    KeyName, ScopeOptions, one_of, parse_at, parse_name, parse_tag_filter, show_aliases, show_optional_time,
    show_time,
};

/// List the scopes that hold anything.
#[derive(Args)]
pub(crate) struct Scopes;

/// List keys.
#[derive(Args)]
pub(crate) struct Keys {
    #[command(flatten)]
    scope: ScopeOptions,
    /// Only keys in this state.
    #[arg(long, value_parser = one_of(KeyState::ALL, KeyState::as_str))]
    state: Option<KeyState>,
    /// Only keys of this spec.
    #[arg(long, value_parser = one_of(KeySpec::ALL, KeySpec::as_str))]
    spec: Option<KeySpec>,
    /// Only keys with this tag, KEY or KEY=VALUE.
    #[arg(long, value_parser = parse_tag_filter)]
    tag: Option<(TagKey, Option<TagValue>)>,
    /// In which order.
    #[arg(long, value_enum, default_value_t = KeyOrder::Name)]
    order: KeyOrder,
    /// At most so many.
    #[arg(long, value_name = "NUMBER", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum KeyOrder {
    /// By key alias.
    Name,
    /// By id. A tag with a value is found through an index.
    Id,
}

/// List aliases.
#[derive(Args)]
pub(crate) struct Aliases {
    #[command(flatten)]
    scope: ScopeOptions,
    /// Only those of this key.
    #[arg(long, allow_hyphen_values = true)]
    key: Option<KeyName>,
    /// At most so many.
    #[arg(long, value_name = "NUMBER", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
}

/// Show everything about a key.
#[derive(Args)]
pub(crate) struct Show {
    #[command(flatten)]
    key: Named<OneKey>,
    #[command(flatten)]
    scope: ScopeOptions,
}

/// Tell which key an alias names, now or then.
#[derive(Args)]
pub(crate) struct Resolve {
    #[command(flatten)]
    alias: Named<AliasOrUrn>,
    #[command(flatten)]
    scope: ScopeOptions,
    /// As it was after this commit, or at this time.
    #[arg(long, value_name = "COMMIT|TIME", value_parser = parse_at)]
    at: Option<At>,
}

const KEY_COLUMNS: &[Column] =
    &[Column::Whole("KEY ID"), Column::Wrapped("KEY ALIAS"), Column::Whole("STATE"), Column::Whole("SPEC")];
const ALIAS_COLUMNS: &[Column] = &[Column::Wrapped("ALIAS"), Column::Whole("KEY ID"), Column::Whole("SINCE")];

impl Scopes {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let output = &mut context.output;
        list(output, None, |output, after, limit| {
            let page = store.scopes(after.into(), limit)?;
            let counts =
                page.items.iter().map(|scope| store.read(scope, |snap| snap.count_keys(&KeyFilter::all())));
            let counts = counts.collect::<Result<Vec<_>, _>>()?;
            let items: Vec<_> = page.items.into_iter().zip(counts).collect();
            let columns = [Column::Whole("DOMAIN"), Column::Whole("PROJECT"), Column::Whole("KEYS")];
            write_page(output, &columns, &items, scope_to_json, |(scope, keys)| {
                vec![scope.domain().to_string(), scope.project().to_string(), keys.to_string()]
            })?;
            Ok((items.len(), page.next))
        })
    }
}

fn scope_to_json((scope, keys): &(Scope, u64)) -> serde_json::Value {
    json!({ "domain_id": scope.domain(), "project_id": scope.project(), "keys": keys })
}

impl Keys {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let output = &mut context.output;
        let mut filter = KeyFilter::all();
        (filter.state, filter.spec, filter.tag) = (self.state, self.spec, self.tag.clone());
        // All pages show one moment.
        store.read(&self.scope.scope()?, |snap| {
            Ok(list(output, self.limit, |output, after, limit| {
                let page: Page<Arc<KeyRecord>> = match self.order {
                    KeyOrder::Name => snap.keys_by_key_alias(&filter, after.into(), limit)?,
                    KeyOrder::Id => snap.keys_by_id(&filter, after.into(), limit)?,
                };
                write_page(output, KEY_COLUMNS, &page.items, Clone::clone, |key| {
                    let id = key.key_id.to_string();
                    vec![id, key.key_alias.to_string(), key.state.to_string(), key.spec.to_string()]
                })?;
                Ok((page.items.len(), page.next))
            }))
        })?
    }
}

impl Aliases {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let output = &mut context.output;
        store.read(&self.scope.scope()?, |snap| {
            let key_id = self.key.as_ref().map(|key| key.read(snap)).transpose()?.map(|key| key.key_id);
            Ok(list(output, self.limit, |output, after, limit| {
                let page = match key_id {
                    Some(key_id) => snap.aliases_of_key(key_id, after.into(), limit)?,
                    None => snap.aliases(after.into(), limit)?,
                };
                write_page(output, ALIAS_COLUMNS, &page.items, Clone::clone, |alias| {
                    let since = show_time(alias.updated_at);
                    vec![alias.alias.to_string(), alias.key_id.to_string(), since]
                })?;
                Ok((page.items.len(), page.next))
            }))
        })?
    }
}

impl Show {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let (key, aliases) = store.read(&self.scope.scope()?, |snap| {
            let key = self.key.get().read(snap)?;
            let aliases = all_aliases(snap, &key)?;
            Ok((key, aliases))
        })?;
        if context.output.is_json() {
            return context.output.json(&json!({ "key": key, "aliases": aliases }));
        }
        let names = show_aliases(aliases.iter().map(|record| &record.alias));
        let mut fields = key_fields(&key);
        fields.insert(2, ("aliases", names));
        context.output.fields(&fields)
    }
}

impl Resolve {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let scope = self.scope.scope()?;
        let names = self.names(&store, &scope)?;
        let (record, key) = store.read(&scope, |snap| {
            let found = names.iter().map(|alias| self.find(snap, alias));
            let found = found.filter(|found| !matches!(found, Err(Error::AliasNotFound { .. })));
            let found = found.collect::<Result<Vec<_>, _>>()?;
            if let [(exact, _), (other, _), ..] = &found[..]
                && exact.alias.as_str() == self.alias.get()
            {
                return Err(Error::abort(format!(
                    "{} is the name of an alias, on key {}, and the URN of the alias {}, on key {}; name the one \
                     that is meant otherwise",
                    self.alias.get(), exact.key_id, other.alias, other.key_id
                )));
            }
            let not_found = || Error::AliasNotFound { alias: self.alias.get().as_str().into() };
            found.into_iter().next().ok_or_else(not_found)
        })?;
        if context.output.is_json() {
            return context.output.json(&json!({ "alias": record, "key": key }));
        }
        let mut fields = vec![
            ("alias", record.alias.to_string()),
            ("urn", record.urn(store.region()).to_string()),
            ("since", show_time(record.updated_at)),
        ];
        fields.extend(key_fields(&key));
        context.output.fields(&fields)
    }

    /// The names that the alias may have. Names may look like URNs, so the text itself comes first; a URN leaves one
    /// prefix out.
    fn names(&self, store: &Store, scope: &Scope) -> Result<Vec<Alias>, Failure> {
        let alias = self.alias.get();
        let Ok(urn) = alias.parse::<AliasUrn>() else {
            return Ok(vec![parse_name(alias).map_err(Failure::usage)?]);
        };
        if urn.region() != store.region() || urn.domain_id() != scope.domain() {
            return Ok(alias.parse().into_iter().collect());
        }
        let names = [alias.clone(), urn.urn_name().to_owned(), format!("alias/{}", urn.urn_name())];
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn find(&self, snap: &Snapshot<'_>, alias: &Alias) -> Result<(Arc<AliasRecord>, Arc<KeyRecord>), Error> {
        match self.at {
            Some(at) => Ok((snap.alias_at(alias, at)?, snap.resolve_at(alias, at)?)),
            None => Ok((snap.alias(alias)?, snap.resolve(alias)?)),
        }
    }
}

/// Writes a list page by page, so that memory is bounded, up to so many entries. `page` writes one and tells
/// how many entries it had, and where the next begins.
pub(crate) fn list(
    output: &mut Output,
    limit: Option<usize>,
    mut page: impl FnMut(&mut Output, Option<&Cursor>, Limit) -> Result<(usize, Option<Cursor>), Failure>,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut after = None;
    while left > 0 {
        let (written, next) =
            page(output, after.as_ref(), Limit::new(left.min(Limit::MAX.get())).map_err(Error::from)?)?;
        left -= written;
        if next.is_none() {
            break;
        }
        after = next;
    }
    Ok(())
}

/// One page as JSON, or as a table with a head of its own.
pub(crate) fn write_page<T, J: Serialize>(
    output: &mut Output,
    columns: &[Column],
    items: &[T],
    json: impl Fn(&T) -> J,
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    if output.is_json() {
        return items.iter().try_for_each(|item| output.json(&json(item)));
    }
    match items {
        [] => Ok(()),
        items => output.table(columns, items.iter().map(row).collect()),
    }
}

/// All that is known of a key, for people.
pub(crate) fn key_fields(key: &KeyRecord) -> Vec<(&'static str, String)> {
    let tags: Vec<_> = key.tags.iter().map(|(tag, value)| format!("{tag}={value}")).collect();
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let state = match key.frozen_from {
        Some(before) => format!("{}, was {before}", key.state),
        None => key.state.to_string(),
    };
    let rotation = match key.rotation.enabled {
        true => format!("every {} days", key.rotation.interval_days.days()),
        false => "off".to_owned(),
    };
    let rotated = key
        .rotation
        .last_rotated_at
        .map(|last| format!("{} times, last {}", key.rotation.count, show_time(last)));
    vec![
        ("key id", key.key_id.to_string()),
        ("key alias", key.key_alias.to_string()),
        ("state", state),
        ("deletion due", show_optional_time(key.scheduled_deletion_at)),
        ("spec", key.spec.to_string()),
        ("usage", key.usage.to_string()),
        ("origin", key.origin.to_string()),
        ("material", if key.material.present { "present" } else { "absent" }.to_owned()),
        ("material expires", show_optional_time(key.material.expires_at)),
        ("rotation", rotation),
        ("rotated", rotated.unwrap_or_else(|| "never".to_owned())),
        ("description", or_none(key.description.to_string())),
        ("tags", or_none(tags.join(", "))),
        ("enterprise project", key.enterprise_project_id.to_string()),
        ("key store", key.keystore_id.to_string()),
        ("default key", if key.default { "yes" } else { "no" }.to_owned()),
        ("created", show_time(key.created_at)),
        ("changed", show_time(key.updated_at)),
        ("version", key.version.to_string()),
    ]
}

/// The aliases of a key; a page holds more than a key may have.
pub(crate) fn all_aliases(snap: &Snapshot<'_>, key: &KeyRecord) -> Result<Vec<Arc<AliasRecord>>, Error> {
    Ok(snap.aliases_of_key(key.key_id, After::Start, Limit::MAX)?.items)
}
