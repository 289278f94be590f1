//! Reading single records, the same for a snapshot and a transaction.

use std::sync::Arc;

use super::Place;
use super::cache::{Entry, Known, Name};
use crate::alias::{Alias, AliasRecord, AliasUrn, KeyAlias};
use crate::error::{Error, Result};
use crate::format::{
    Counts, Row, Stored, Value, corrupted, decode_alias, decode_alias_names, decode_counts, decode_key,
    decode_key_id,
};
use crate::id::{Commit, KeyId};
use crate::key::KeyRecord;

/// Whatever gives rows of one scope.
pub(crate) trait Rows {
    fn place(&self) -> &Place<'_>;

    /// The rows at these addresses.
    fn rows(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>>;

    /// Shows the row at this address where it lies, if there is one.
    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()>;

    /// The newest commit that is seen.
    fn newest(&self) -> Commit;

    /// The entry of a commit in the log, if there is one.
    fn log_bytes(&self, commit: Commit) -> Result<Option<Vec<u8>>>;

    /// Notes an error that was met: a transaction that met damage does not commit.
    fn met(&self, error: Error) -> Error;

    /// What the cache knows of a name, if this reader has one.
    fn known(&self, _name: Name<'_>) -> Option<Entry> {
        None
    }

    /// Gives the cache what was read of a name, at the commit that is seen.
    fn keep(&self, _name: Name<'_>, _entry: impl FnOnce(Commit) -> Entry) {}

    /// What the row at this address says.
    fn read<T>(&self, row: &[u8], mut decode: impl FnMut(Value<'_>) -> Result<T>) -> Result<Option<T>> {
        let mut found = None;
        self.with_row(row, &mut |value| found = Some(decode(value)))?;
        found.transpose().map_err(|error| self.met(error))
    }
}

/// The key with this id, if there is one.
pub(super) fn find_key(rows: &impl Rows, key_id: KeyId) -> Result<Option<KeyRecord>> {
    let place = rows.place();
    let row = place.space.key(key_id);
    rows.read(&row, |stored| decode_key(&row, place.scope, key_id, stored))
}

pub(super) fn key(rows: &impl Rows, key_id: KeyId) -> Result<Arc<KeyRecord>> {
    shared_key(rows, key_id)?.ok_or_else(|| Error::key_not_found(key_id))
}

/// As [`find_key`], through the cache.
fn shared_key(rows: &impl Rows, key_id: KeyId) -> Result<Option<Arc<KeyRecord>>> {
    if let Some(known) = rows.known(Name::Key(key_id)) {
        return Ok(Some(known.key.record));
    }
    let key = find_key(rows, key_id)?.map(Arc::new);
    if let Some(key) = &key {
        rows.keep(Name::Key(key_id), |read_at| {
            let key = Known::new(Arc::clone(key), &rows.place().space.key(key_id));
            Entry { alias: None, key, read_at }
        });
    }
    Ok(key)
}

/// The id of the key whose own name this is, if there is one.
pub(super) fn key_id_of(rows: &impl Rows, key_alias: &KeyAlias) -> Result<Option<KeyId>> {
    let row = rows.place().space.key_alias(key_alias);
    rows.read(&row, |stored| decode_key_id(&row, stored.bytes))
}

pub(super) fn key_by_key_alias(rows: &impl Rows, key_alias: &KeyAlias) -> Result<Arc<KeyRecord>> {
    match key_id_of(rows, key_alias)? {
        Some(key_id) => {
            there(rows, shared_key(rows, key_id)?, key_id, || rows.place().space.key_alias(key_alias))
        }
        None => Err(Error::key_not_found(key_alias)),
    }
}

/// The key that a row names; that it is there is an invariant.
pub(super) fn named_key(rows: &impl Rows, key_id: KeyId, row: &[u8]) -> Result<Arc<KeyRecord>> {
    there(rows, find_key(rows, key_id)?.map(Arc::new), key_id, || row.to_vec())
}

fn there<K>(rows: &impl Rows, key: Option<K>, key_id: KeyId, row: impl FnOnce() -> Row) -> Result<K> {
    let missing = || corrupted(&row(), format_args!("it names the key {key_id}, which is not there"));
    key.ok_or_else(|| rows.met(missing()))
}

/// The record of the alias with this URN name, if there is one.
pub(super) fn alias_by_urn_name(rows: &impl Rows, urn_name: &str) -> Result<Option<AliasRecord>> {
    let place = rows.place();
    let row = place.space.alias(urn_name);
    rows.read(&row, |stored| decode_alias(&row, place.scope, urn_name, stored))
}

/// The record of exactly this alias, if there is one.
pub(super) fn find_alias(rows: &impl Rows, alias: &Alias) -> Result<Option<AliasRecord>> {
    let record = alias_by_urn_name(rows, alias.urn_name())?;
    Ok(record.filter(|record| record.alias == *alias))
}

pub(super) fn alias(rows: &impl Rows, alias: &Alias) -> Result<Arc<AliasRecord>> {
    if let Some(known) = known_alias(rows, alias.urn_name())
        && known.0.alias == *alias
    {
        return Ok(known.0);
    }
    find_alias(rows, alias)?.map(Arc::new).ok_or_else(|| Error::alias_not_found(alias))
}

pub(super) fn resolve(rows: &impl Rows, alias: &Alias) -> Result<Arc<KeyRecord>> {
    let found = alias_and_key(rows, alias.urn_name(), |record| record.alias == *alias)?;
    found.map(|(_, key)| key).ok_or_else(|| Error::alias_not_found(alias))
}

fn known_alias(rows: &impl Rows, urn_name: &str) -> Option<(Arc<AliasRecord>, Arc<KeyRecord>)> {
    let known = rows.known(Name::Alias(urn_name))?;
    Some((known.alias?.record, known.key.record))
}

/// The alias with this URN name and the key that it names, through the cache, if there is such an alias and
/// it is the one that is meant.
fn alias_and_key(
    rows: &impl Rows,
    urn_name: &str,
    is_meant: impl Fn(&AliasRecord) -> bool,
) -> Result<Option<(Arc<AliasRecord>, Arc<KeyRecord>)>> {
    if let Some(known) = known_alias(rows, urn_name) {
        return Ok(Some(known).filter(|(alias, _)| is_meant(alias)));
    }
    let Some(alias) = alias_by_urn_name(rows, urn_name)?.filter(is_meant).map(Arc::new) else {
        return Ok(None);
    };
    let row = rows.place().space.alias(urn_name);
    let key = named_key(rows, alias.key_id, &row)?;
    rows.keep(Name::Alias(urn_name), |read_at| {
        let key = Known::new(Arc::clone(&key), &rows.place().space.key(key.key_id));
        Entry { alias: Some(Known::new(Arc::clone(&alias), &row)), key, read_at }
    });
    Ok(Some((alias, key)))
}

/// In two round trips, whatever their number.
pub(super) fn resolve_many(rows: &impl Rows, aliases: &[Alias]) -> Result<Vec<Option<Arc<KeyRecord>>>> {
    let place = rows.place();
    let of_aliases: Vec<_> = aliases.iter().map(|alias| place.space.alias(alias.urn_name())).collect();
    let found = rows.rows(&of_aliases.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    let mut named = Vec::new();
    for ((alias, row), stored) in aliases.iter().zip(&of_aliases).zip(found) {
        let decode = |stored| decode_alias(row, place.scope, alias.urn_name(), &stored);
        let record = stored.map(decode).transpose().map_err(|error| rows.met(error))?;
        let key_id = record.filter(|record| record.alias == *alias).map(|record| record.key_id);
        named.push(key_id.map(|key_id| (key_id, place.space.key(key_id), row)));
    }
    let of_keys: Vec<_> = named.iter().flatten().map(|(_, key_row, _)| key_row.as_slice()).collect();
    let mut keys = rows.rows(&of_keys)?.into_iter();
    let mut resolve = |(key_id, key_row, row): (KeyId, Row, &Row)| {
        let missing = || corrupted(row, format_args!("it names the key {key_id}, which is not there"));
        let key = keys.next().flatten().ok_or_else(missing);
        let key = key.and_then(|stored| decode_key(&key_row, place.scope, key_id, &stored));
        key.map(Arc::new).map_err(|error| rows.met(error))
    };
    named.into_iter().map(|named| named.map(&mut resolve).transpose()).collect()
}

pub(super) fn resolve_urn(rows: &impl Rows, urn: &AliasUrn) -> Result<Arc<KeyRecord>> {
    let place = rows.place();
    let from_here = *urn.region() == place.policy.region && urn.domain_id() == place.scope.domain();
    let found = if from_here { alias_and_key(rows, urn.urn_name(), |_| true)? } else { None };
    found.map(|(_, key)| key).ok_or_else(|| Error::alias_not_found(urn))
}

/// The names of a key's aliases, in their order.
pub(super) fn alias_names(rows: &impl Rows, key_id: KeyId) -> Result<Vec<Alias>> {
    let row = rows.place().space.aliases_of_key(key_id);
    Ok(rows.read(&row, |stored| decode_alias_names(&row, stored.bytes))?.unwrap_or_default())
}

/// How many keys the project has.
pub(super) fn counts(rows: &impl Rows) -> Result<Counts> {
    let row = rows.place().space.counts();
    Ok(rows.read(&row, |stored| decode_counts(&row, stored.bytes))?.unwrap_or_default())
}
