//! What an operation or a read answers, in plain values: the specification makes them from its
//! collections, the store's records are turned into them, and the two are compared.

use std::collections::BTreeMap;

use keystead::{AliasRecord, KeyId, KeyRecord, KeySpec, KeyState, KeyUsage, Moved, Origin, Renamed};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) id: KeyId,
    pub(crate) domain: String,
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) spec: KeySpec,
    pub(crate) usage: KeyUsage,
    pub(crate) origin: Origin,
    pub(crate) state: KeyState,
    pub(crate) frozen_from: Option<KeyState>,
    pub(crate) default: bool,
    pub(crate) created: u64,
    pub(crate) updated: u64,
    pub(crate) due: Option<u64>,
    pub(crate) present: bool,
    pub(crate) expires: Option<u64>,
    pub(crate) rotates: bool,
    pub(crate) interval: u16,
    pub(crate) last_rotated: Option<u64>,
    pub(crate) rotations: u32,
    pub(crate) enterprise: String,
    pub(crate) keystore: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) version: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Alias {
    pub(crate) name: String,
    pub(crate) key_id: KeyId,
    pub(crate) domain: String,
    pub(crate) project: String,
    pub(crate) created: u64,
    pub(crate) updated: u64,
    pub(crate) version: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Renaming {
    pub(crate) key: Key,
    pub(crate) former_name: String,
    pub(crate) former_version: u64,
    pub(crate) changed: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Move {
    pub(crate) alias: Alias,
    pub(crate) former_key_id: KeyId,
    pub(crate) former_version: u64,
    pub(crate) changed: bool,
}

/// The answer of any operation or point read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Unit,
    Purged(bool),
    Key(Key),
    Keys(Vec<Option<Key>>),
    Alias(Alias),
    Renamed(Vec<Renaming>),
    Moved(Vec<Move>),
}

impl From<&KeyRecord> for Key {
    fn from(key: &KeyRecord) -> Self {
        let tags = key.tags.iter().map(|(tag, value)| (tag.to_string(), value.to_string()));
        Self {
            id: key.key_id,
            domain: key.domain_id.to_string(),
            project: key.project_id.to_string(),
            name: key.key_alias.to_string(),
            description: key.description.to_string(),
            spec: key.spec,
            usage: key.usage,
            origin: key.origin,
            state: key.state,
            frozen_from: key.frozen_from,
            default: key.default,
            created: key.created_at.as_millis(),
            updated: key.updated_at.as_millis(),
            due: key.scheduled_deletion_at.map(|at| at.as_millis()),
            present: key.material.present,
            expires: key.material.expires_at.map(|at| at.as_millis()),
            rotates: key.rotation.enabled,
            interval: key.rotation.interval_days.days(),
            last_rotated: key.rotation.last_rotated_at.map(|at| at.as_millis()),
            rotations: key.rotation.count,
            enterprise: key.enterprise_project_id.to_string(),
            keystore: key.keystore_id.to_string(),
            tags: tags.collect(),
            version: key.version.number(),
        }
    }
}

impl From<&AliasRecord> for Alias {
    fn from(alias: &AliasRecord) -> Self {
        Self {
            name: alias.alias.to_string(),
            key_id: alias.key_id,
            domain: alias.domain_id.to_string(),
            project: alias.project_id.to_string(),
            created: alias.created_at.as_millis(),
            updated: alias.updated_at.as_millis(),
            version: alias.version.number(),
        }
    }
}

impl From<&Renamed> for Renaming {
    fn from(renamed: &Renamed) -> Self {
        Self {
            key: Key::from(&*renamed.key),
            former_name: renamed.former_key_alias.to_string(),
            former_version: renamed.former_version.number(),
            changed: renamed.changed,
        }
    }
}

impl From<&Moved> for Move {
    fn from(moved: &Moved) -> Self {
        Self {
            alias: Alias::from(&*moved.alias),
            former_key_id: moved.former_key_id,
            former_version: moved.former_version.number(),
            changed: moved.changed,
        }
    }
}
