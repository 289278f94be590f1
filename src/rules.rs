//! The whole policy: which state follows which, who may be renamed, who may carry an alias.
//!
//! Pure functions of records: no bytes, no engine, no clock. Each takes what is there and returns
//! what is to be there instead, or the refusal. The caller stamps time and version.

use std::collections::BTreeSet;

use crate::error::{Error, Quota, Result};
use crate::id::{Commit, Scope};
use crate::key::{InvalidKeySpec, KeyRecord, KeyState, Material, NewKey, Origin, Rotation, TagKey, Tags};
use crate::policy::{Compatibility, Quotas};
use crate::time::{PendingDays, RotationInterval, Timestamp};
use crate::{alias::InvalidAlias, key::Description};

/// Refuses a default key: it never changes.
pub(crate) fn not_default(key: &KeyRecord) -> Result<()> {
    if key.default { Err(Error::DefaultKeyImmutable(key.key_id)) } else { Ok(()) }
}

/// Refuses a key pending deletion.
pub(crate) fn not_pending_deletion(key: &KeyRecord) -> Result<()> {
    if key.state == KeyState::PendingDeletion { Err(Error::PendingDeletion(key.key_id)) } else { Ok(()) }
}

/// Refuses a frozen key.
pub(crate) fn not_frozen(key: &KeyRecord) -> Result<()> {
    if key.state == KeyState::Frozen { Err(Error::KeyFrozen(key.key_id)) } else { Ok(()) }
}

/// Whether a key may be changed, renamed, or be given an alias. For several keys each check is made
/// on all of them before the next.
pub(crate) fn changeable(keys: &[&KeyRecord]) -> Result<()> {
    keys.iter().try_for_each(|key| not_default(key))?;
    keys.iter().try_for_each(|key| not_pending_deletion(key))?;
    keys.iter().try_for_each(|key| not_frozen(key))
}

/// Whether an alias may move from one key to another.
pub(crate) fn compatible(policy: Compatibility, from: &KeyRecord, to: &KeyRecord) -> Result<()> {
    let alike = from.spec.family() == to.spec.family() && from.usage == to.usage;
    match policy {
        Compatibility::SameUsage if !alike => {
            Err(Error::IncompatibleKey { from: from.key_id, to: to.key_id })
        }
        _ => Ok(()),
    }
}

/// Whether a project that has so many keys may have one more.
pub(crate) fn key_quota(keys: u64, quotas: &Quotas) -> Result<()> {
    let max = quotas.keys_per_project;
    if keys < max { Ok(()) } else { Err(Error::QuotaExceeded { quota: Quota::KeysPerProject, max }) }
}

/// Whether a key that has so many aliases may have one more.
pub(crate) fn alias_quota(aliases: usize, quotas: &Quotas) -> Result<()> {
    let max = quotas.aliases_per_key;
    let exceeded = Error::QuotaExceeded { quota: Quota::AliasesPerKey, max: max as u64 };
    if aliases < max { Ok(()) } else { Err(exceeded) }
}

/// The record of a key to be made for a user.
pub(crate) fn create(new: &NewKey, scope: &Scope, quotas: &Quotas, now: Timestamp) -> Result<KeyRecord> {
    if new.key_alias.is_reserved() {
        return Err(InvalidAlias::Reserved.into());
    }
    record_of(new, scope, quotas, now)
}

/// The record of a default key to be made for the platform.
pub(crate) fn create_default(
    new: &NewKey,
    scope: &Scope,
    quotas: &Quotas,
    now: Timestamp,
) -> Result<KeyRecord> {
    if !new.key_alias.is_reserved() {
        return Err(InvalidAlias::NotReserved.into());
    }
    let record = record_of(new, scope, quotas, now)?;
    if new.origin == Origin::External || !new.aliases.is_empty() {
        return Err(Error::DefaultKeyImmutable(new.key_id));
    }
    Ok(record)
}

fn record_of(new: &NewKey, scope: &Scope, quotas: &Quotas, now: Timestamp) -> Result<KeyRecord> {
    tag_quota(&new.tags, quotas)?;
    if !new.spec.usages().contains(&new.usage) {
        return Err(InvalidKeySpec::UsageNotAllowed(new.spec, new.usage).into());
    }
    let present = new.origin == Origin::Kms;
    Ok(KeyRecord {
        key_id: new.key_id,
        domain_id: scope.domain().clone(),
        project_id: scope.project().clone(),
        key_alias: new.key_alias.clone(),
        description: new.description.clone(),
        spec: new.spec,
        usage: new.usage,
        origin: new.origin,
        state: if present { KeyState::Enabled } else { KeyState::PendingImport },
        frozen_from: None,
        default: new.key_alias.is_reserved(),
        created_at: now,
        updated_at: now,
        scheduled_deletion_at: None,
        material: Material { present, expires_at: None },
        rotation: Rotation::default(),
        enterprise_project_id: new.enterprise_project_id.clone(),
        keystore_id: new.keystore_id.clone(),
        tags: new.tags.clone(),
        version: Commit::default(),
    })
}

/// 3 -> 2.
pub(crate) fn enable(key: &KeyRecord) -> Result<KeyRecord> {
    changeable(&[key])?;
    match key.state {
        KeyState::Disabled => Ok(KeyRecord { state: KeyState::Enabled, ..key.clone() }),
        _ => Err(Error::KeyNotDisabled(key.key_id)),
    }
}

/// 2 -> 3.
pub(crate) fn disable(key: &KeyRecord) -> Result<KeyRecord> {
    changeable(&[key])?;
    match key.state {
        KeyState::Enabled => Ok(KeyRecord { state: KeyState::Disabled, ..key.clone() }),
        _ => Err(Error::KeyNotEnabled(key.key_id)),
    }
}

/// The time of a change that is made now: never before the record's previous one.
pub(crate) fn change_time(previous: Timestamp, now: Timestamp) -> Timestamp {
    now.max(previous)
}

/// 2, 3, 5 -> 4.
pub(crate) fn schedule_deletion(key: &KeyRecord, now: Timestamp, days: PendingDays) -> Result<KeyRecord> {
    not_default(key)?;
    not_frozen(key)?;
    if key.state == KeyState::PendingDeletion {
        return Err(Error::AlreadyPendingDeletion(key.key_id));
    }
    let scheduled_deletion_at = Some(change_time(key.updated_at, now).plus_days(days.days()));
    Ok(KeyRecord { state: KeyState::PendingDeletion, scheduled_deletion_at, ..key.clone() })
}

/// 4 -> 3, or 5 if the material is not there or has expired.
pub(crate) fn cancel_deletion(key: &KeyRecord, now: Timestamp) -> Result<KeyRecord> {
    not_default(key)?;
    not_frozen(key)?;
    if key.state != KeyState::PendingDeletion {
        return Err(Error::NotPendingDeletion(key.key_id));
    }
    let alive = KeyRecord { state: KeyState::Disabled, scheduled_deletion_at: None, ..key.clone() };
    if key.material.present && !has_expired(key, now) { Ok(alive) } else { Ok(without_material(&alive)) }
}

/// Whether a key pending deletion is due.
pub(crate) fn is_due(key: &KeyRecord, now: Timestamp) -> Result<bool> {
    not_default(key)?;
    not_frozen(key)?;
    match key.scheduled_deletion_at {
        Some(due) => Ok(due <= now),
        None => Err(Error::NotPendingDeletion(key.key_id)),
    }
}

/// 2, 3, 5 -> 7.
pub(crate) fn freeze(key: &KeyRecord) -> Result<KeyRecord> {
    changeable(&[key])?;
    Ok(KeyRecord { state: KeyState::Frozen, frozen_from: Some(key.state), ..key.clone() })
}

/// 7 -> what it was; a key that is not frozen stays as it is.
pub(crate) fn unfreeze(key: &KeyRecord) -> Result<KeyRecord> {
    not_default(key)?;
    not_pending_deletion(key)?;
    let state = key.frozen_from.unwrap_or(key.state);
    Ok(KeyRecord { state, frozen_from: None, ..key.clone() })
}

fn external(key: &KeyRecord) -> Result<()> {
    changeable(&[key])?;
    if key.origin == Origin::External { Ok(()) } else { Err(Error::ExternalKeyRequired(key.key_id)) }
}

/// 5 -> 2.
pub(crate) fn material_imported(
    key: &KeyRecord,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<KeyRecord> {
    external(key)?;
    if key.state != KeyState::PendingImport {
        return Err(Error::NotPendingImport(key.key_id));
    }
    if let Some(expires_at) = expires_at.filter(|expiry| *expiry <= now) {
        return Err(Error::InvalidExpiry { expires_at });
    }
    let material = Material { present: true, expires_at };
    Ok(KeyRecord { state: KeyState::Enabled, material, ..key.clone() })
}

/// 2, 3 -> 5.
pub(crate) fn material_deleted(key: &KeyRecord) -> Result<KeyRecord> {
    external(key)?;
    if !matches!(key.state, KeyState::Enabled | KeyState::Disabled) {
        return Err(Error::MaterialNotDeletable(key.key_id, key.state));
    }
    Ok(without_material(key))
}

fn without_material(key: &KeyRecord) -> KeyRecord {
    let material = Material { present: false, expires_at: None };
    KeyRecord { state: KeyState::PendingImport, material, ..key.clone() }
}

fn has_expired(key: &KeyRecord, now: Timestamp) -> bool {
    key.material.expires_at.is_some_and(|expiry| expiry <= now)
}

/// As [`material_deleted`], if the material has expired; otherwise the key stays as it is.
pub(crate) fn material_expired(key: &KeyRecord, now: Timestamp) -> Result<KeyRecord> {
    let without = material_deleted(key)?;
    Ok(if has_expired(key, now) { without } else { key.clone() })
}

/// The time at which the sweeper has to look at a key's material: only while it can expire.
pub(crate) fn expiry_to_watch(key: &KeyRecord) -> Option<Timestamp> {
    let can_expire = matches!(key.state, KeyState::Enabled | KeyState::Disabled);
    key.material.expires_at.filter(|_| can_expire)
}

/// Another description.
pub(crate) fn describe(key: &KeyRecord, description: &Description) -> Result<KeyRecord> {
    changeable(&[key])?;
    Ok(KeyRecord { description: description.clone(), ..key.clone() })
}

fn tag_quota(tags: &Tags, quotas: &Quotas) -> Result<()> {
    let max = quotas.tags_per_key;
    if tags.len() <= max { Ok(()) } else { Err(Error::TooManyTags { max }) }
}

/// More tags, or other values of those there are.
pub(crate) fn set_tags(key: &KeyRecord, tags: &Tags, quotas: &Quotas) -> Result<KeyRecord> {
    changeable(&[key])?;
    let mut all = key.tags.clone();
    all.extend(tags.iter().map(|(tag, value)| (tag.clone(), value.clone())));
    // A quota that was lowered since does not keep anyone from changing values.
    if all.len() > key.tags.len() {
        tag_quota(&all, quotas)?;
    }
    Ok(KeyRecord { tags: all, ..key.clone() })
}

/// Fewer tags. The first that is named again is reported, or else the first that is not there.
pub(crate) fn remove_tags(key: &KeyRecord, tags: &[TagKey]) -> Result<KeyRecord> {
    changeable(&[key])?;
    let mut named = BTreeSet::new();
    if let Some(tag) = tags.iter().find(|tag| !named.insert(*tag)) {
        return Err(Error::DuplicateTag { tag: tag.clone() });
    }
    let mut rest = key.tags.clone();
    for tag in tags {
        if rest.remove(tag).is_none() {
            return Err(Error::TagNotFound { tag: tag.clone(), key_id: key.key_id });
        }
    }
    Ok(KeyRecord { tags: rest, ..key.clone() })
}

fn rotatable(key: &KeyRecord) -> Result<()> {
    changeable(&[key])?;
    if key.state == KeyState::Disabled {
        Err(Error::KeyDisabled(key.key_id))
    } else if key.origin == Origin::External {
        Err(Error::ExternalKeyNotRotatable(key.key_id))
    } else if !key.spec.is_symmetric() {
        Err(Error::AsymmetricNotRotatable(key.key_id))
    } else {
        Ok(())
    }
}

fn rotating(key: &KeyRecord) -> Result<()> {
    rotatable(key)?;
    if key.rotation.enabled { Ok(()) } else { Err(Error::RotationNotEnabled(key.key_id)) }
}

/// Rotation on.
pub(crate) fn enable_rotation(key: &KeyRecord, interval_days: RotationInterval) -> Result<KeyRecord> {
    rotatable(key)?;
    if key.rotation.enabled {
        return Err(Error::RotationNotDisabled(key.key_id));
    }
    Ok(KeyRecord { rotation: Rotation { enabled: true, interval_days, ..key.rotation }, ..key.clone() })
}

/// Rotation off.
pub(crate) fn disable_rotation(key: &KeyRecord) -> Result<KeyRecord> {
    rotating(key)?;
    Ok(KeyRecord { rotation: Rotation { enabled: false, ..key.rotation }, ..key.clone() })
}

/// Another interval.
pub(crate) fn set_rotation_interval(key: &KeyRecord, interval_days: RotationInterval) -> Result<KeyRecord> {
    rotating(key)?;
    Ok(KeyRecord { rotation: Rotation { interval_days, ..key.rotation }, ..key.clone() })
}

/// One more rotation.
pub(crate) fn record_rotation(key: &KeyRecord, now: Timestamp) -> Result<KeyRecord> {
    rotating(key)?;
    let count = key.rotation.count.saturating_add(1);
    let last_rotated_at = Some(change_time(key.updated_at, now));
    let rotation = Rotation { last_rotated_at, count, ..key.rotation };
    Ok(KeyRecord { rotation, ..key.clone() })
}
