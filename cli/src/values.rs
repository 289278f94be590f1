//! What is typed in or shown as text: keys, scopes, moments, tags.

use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::Timestamp as Instant;
use keystead::{
    Alias, At, Commit, DomainId, Error, InvalidAlias, KeyAlias, KeyId, KeyRecord, ProjectId, Scope, Snapshot,
    TagKey, TagValue, Timestamp, Transaction,
};
use uuid::Uuid;

/// In which scope.
#[derive(Args)]
pub(crate) struct ScopeOptions {
    /// The domain.
    #[arg(long, env = "KEYSTEAD_DOMAIN", help_heading = "Scope")]
    domain: DomainId,
    /// The project.
    #[arg(long, env = "KEYSTEAD_PROJECT", help_heading = "Scope")]
    project: ProjectId,
}

impl ScopeOptions {
    pub(crate) fn scope(&self) -> Result<Scope, Error> {
        Ok(Scope::new(self.domain.as_str(), self.project.as_str())?)
    }
}

/// How a key is named: a text that looks like an id is one, everything else is a key alias.
#[derive(Debug, Clone)]
pub(crate) enum KeyName {
    Id(KeyId),
    KeyAlias(KeyAlias),
}

impl FromStr for KeyName {
    type Err = String;

    /// Whoever may name keys may also name one like the id of another, in a spelling that is no id. Such a text is
    /// never looked up among key aliases.
    fn from_str(text: &str) -> Result<Self, String> {
        let small = text.to_ascii_lowercase();
        if let Ok(id) = Uuid::try_parse(small.strip_prefix("urn:uuid:").unwrap_or(&small)) {
            return Ok(Self::Id(KeyId::from_bytes(id.into_bytes())));
        }
        // Of all that may come before an id.
        if small.rsplit(':').any(looks_like_id) {
            return Err(format!("{text} looks like a key id and is none; give the id of the key"));
        }
        parse_name(text).map(Self::KeyAlias)
    }
}

/// Whether a text has the groups of an id, or its digits.
fn looks_like_id(text: &str) -> bool {
    let groups = text.split('-').map(|group| {
        let length = group.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(group.len());
        length.unwrap_or(usize::MAX)
    });
    let digits = text.bytes().filter(|byte| *byte != b'-');
    groups.eq([8, 4, 4, 4, 12])
        || (digits.clone().count() == 32 && digits.clone().all(|byte| byte.is_ascii_hexdigit()))
}

impl KeyName {
    pub(crate) fn read(&self, snap: &Snapshot<'_>) -> Result<Arc<KeyRecord>, Error> {
        match self {
            Self::Id(key_id) => snap.key(*key_id),
            Self::KeyAlias(key_alias) => snap.find_by_key_alias(key_alias),
        }
    }

    /// The id, looked up in the transaction that goes on with it.
    pub(crate) fn id(&self, txn: &Transaction<'_>) -> Result<KeyId, Error> {
        match self {
            Self::Id(key_id) => Ok(*key_id),
            Self::KeyAlias(key_alias) => Ok(txn.find_by_key_alias(key_alias)?.key_id),
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Id(key_id) => key_id.to_string(),
            Self::KeyAlias(key_alias) => key_alias.to_string(),
        }
    }
}

/// A name of a key or an alias; one that is too long is reported as such.
pub(crate) fn parse_name<T: FromStr<Err = InvalidAlias>>(text: &str) -> Result<T, String> {
    const CHARACTERS_MAX: usize = 255;
    text.parse().map_err(|error: InvalidAlias| match text.chars().count() {
        length if length > CHARACTERS_MAX => {
            format!("the name is too long, it has {length} characters: {error}")
        }
        _ => error.to_string(),
    })
}

/// A moment as it is typed in: the number of a commit, or a time with its zone.
pub(crate) fn parse_at(text: &str) -> Result<At, String> {
    if let Ok(number) = text.parse::<u64>() {
        return Ok(At::Commit(Commit::new(number)));
    }
    let time: Instant = text.parse().map_err(|_| {
        "a moment is the number of a commit, or a time with its zone, such as 2026-11-21T21:44:26Z".to_owned()
    })?;
    let millis =
        u64::try_from(time.as_millisecond()).map_err(|_| "there was nothing before 1970".to_owned())?;
    Ok(At::Time(Timestamp::from_millis(millis)))
}

pub(crate) fn parse_commit(text: &str) -> Result<Commit, String> {
    text.parse().map(Commit::new).map_err(|_| "a commit is a number".to_owned())
}

/// A tag with its value, `KEY=VALUE`.
pub(crate) fn parse_tag(text: &str) -> Result<(TagKey, TagValue), String> {
    let (tag, value) = text.split_once('=').ok_or("a tag is KEY=VALUE")?;
    let tag = TagKey::new(tag).map_err(|error| error.to_string())?;
    Ok((tag, TagValue::new(value).map_err(|error| error.to_string())?))
}

/// A tag to look for, `KEY` or `KEY=VALUE`.
pub(crate) fn parse_tag_filter(text: &str) -> Result<(TagKey, Option<TagValue>), String> {
    if text.contains('=') {
        return parse_tag(text).map(|(tag, value)| (tag, Some(value)));
    }
    TagKey::new(text).map(|tag| (tag, None)).map_err(|error| error.to_string())
}

/// One of the values of a set, which the help names.
pub(crate) fn one_of<T>(
    all: &'static [T],
    name: impl Fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Copy + Send + Sync + 'static,
{
    let names = all.iter().map(|value| name(*value));
    PossibleValuesParser::new(names).map(|text| text.parse().ok().expect("it is one of the names"))
}

/// A time in UTC, to the millisecond.
pub(crate) fn show_time(time: Timestamp) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Instant::from_millisecond(millis).map_or_else(|_| format!("{time:?}"), |time| format!("{time:.3}"))
}

/// A day in UTC.
pub(crate) fn show_day(time: Timestamp) -> String {
    show_time_as("%Y-%m-%d", time)
}

/// A time in UTC, to the minute.
pub(crate) fn show_minute(time: Timestamp) -> String {
    show_time_as("%Y-%m-%d %H:%M", time)
}

fn show_time_as(form: &str, time: Timestamp) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let shown = Instant::from_millisecond(millis);
    shown.map_or_else(|_| format!("{time:?}"), |time| time.strftime(form).to_string())
}

pub(crate) fn show_optional_time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), show_time)
}

/// Names in one line.
pub(crate) fn show_aliases<'a>(aliases: impl IntoIterator<Item = &'a Alias>) -> String {
    let names: Vec<_> = aliases.into_iter().map(Alias::as_str).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}
