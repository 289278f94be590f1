//! The peers' records: the fields that keystead's have, in a compact encoding (postcard). What the address
//! says, scope and id or name, is not in the value.

use std::time::{SystemTime, UNIX_EPOCH};

use keystead::{KeySpec, KeyUsage, NewKey, Origin};
use serde::{Deserialize, Serialize};

use crate::place::{Answer, Place};

/// State 2, as the API numbers them.
pub const ENABLED: u8 = 2;
/// State 4.
pub const PENDING_DELETION: u8 = 4;
/// How many keys one entry of the history tells of at an import: what keystead's transactions can hold.
pub const IMPORTED_AT_ONCE: usize = 25;
/// Who does everything here.
pub const ACTOR: &str = "alice";

const DAY: u64 = 24 * 60 * 60 * 1000;
const CREATE_KEY: u8 = 1;
const SCHEDULE_DELETION: u8 = 12;
const ASSOCIATE: u8 = 23;

/// A key record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(skip)]
    pub key_id: [u8; 16],
    #[serde(skip)]
    pub scope: u32,
    pub key_alias: String,
    pub description: String,
    pub spec: u8,
    pub usage: u8,
    pub origin: u8,
    pub state: u8,
    pub frozen_from: Option<u8>,
    pub default: bool,
    pub created_at: u64,
    pub updated_at: u64,
    pub scheduled_deletion_at: Option<u64>,
    pub material_present: bool,
    pub material_expires_at: Option<u64>,
    pub rotation_enabled: bool,
    pub rotation_interval_days: u16,
    pub last_rotated_at: Option<u64>,
    pub rotation_count: u32,
    pub enterprise_project_id: String,
    pub keystore_id: String,
    pub tags: Vec<(String, String)>,
    pub version: u64,
}

impl Record {
    /// The record of a new key.
    pub fn new(new: &NewKey, place: Place, now: u64, version: u64) -> Self {
        Self {
            key_id: *new.key_id.as_bytes(),
            scope: place.number(),
            key_alias: new.key_alias.as_str().into(),
            description: new.description.as_str().into(),
            spec: if new.spec == KeySpec::Aes256 { 1 } else { 2 },
            usage: if new.usage == KeyUsage::EncryptDecrypt { 1 } else { 2 },
            origin: if new.origin == Origin::Kms { 1 } else { 2 },
            state: ENABLED,
            frozen_from: None,
            default: false,
            created_at: now,
            updated_at: now,
            scheduled_deletion_at: None,
            material_present: true,
            material_expires_at: None,
            rotation_enabled: false,
            rotation_interval_days: 365,
            last_rotated_at: None,
            rotation_count: 0,
            enterprise_project_id: new.enterprise_project_id.as_str().into(),
            keystore_id: new.keystore_id.as_str().into(),
            tags: new.tags.iter().map(|(tag, value)| (tag.as_str().into(), value.as_str().into())).collect(),
            version,
        }
    }

    /// What is stored.
    pub fn encode(&self) -> Answer<Vec<u8>> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Reads what is stored.
    pub fn decode(place: Place, key_id: [u8; 16], bytes: &[u8]) -> Answer<Self> {
        let record: Self = postcard::from_bytes(bytes)?;
        Ok(Self { key_id, scope: place.number(), ..record })
    }

    /// The record of the key when it waits for its deletion.
    pub fn pending_deletion(&self, now: u64, version: u64) -> Self {
        let due = Some(now + 7 * DAY);
        Self { state: PENDING_DELETION, scheduled_deletion_at: due, updated_at: now, version, ..self.clone() }
    }
}

/// What an alias's row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasValue {
    pub key_id: [u8; 16],
    pub created_at: u64,
    pub updated_at: u64,
    pub version: u64,
}

impl AliasValue {
    /// What is stored.
    pub fn encode(&self) -> Answer<Vec<u8>> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Reads what is stored.
    pub fn decode(bytes: &[u8]) -> Answer<Self> {
        Ok(postcard::from_bytes(bytes)?)
    }
}

/// An alias in a list.
pub struct Listed {
    pub name: String,
    pub value: AliasValue,
}

/// The aliases of a key, sorted.
pub fn encode_names(names: &[&str]) -> Answer<Vec<u8>> {
    Ok(postcard::to_stdvec(names)?)
}

/// Reads the aliases of a key.
pub fn decode_names(bytes: &[u8]) -> Answer<Vec<&str>> {
    Ok(postcard::from_bytes(bytes)?)
}

/// What a commit leaves in the history.
#[derive(Serialize)]
struct Entry<'a> {
    domain: &'a [u8; 16],
    project: &'a [u8; 16],
    time: u64,
    actor: Option<&'a str>,
    request_id: Option<&'a str>,
    changes: &'a [Change<'a>],
}

/// One change in an entry: which record, and what it was and is.
#[derive(Serialize)]
struct Change<'a> {
    operation: u8,
    key_id: Option<&'a [u8; 16]>,
    name: Option<&'a str>,
    later: u64,
    previous: Option<(u64, u64)>,
    before: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
}

fn encode_entry(place: Place, time: u64, changes: &[Change<'_>]) -> Answer<Vec<u8>> {
    let binary = |digits: &str| u128::from_str_radix(digits, 16).map(u128::to_be_bytes);
    let (domain, project) = (&binary(Place::DOMAIN)?, &binary(place.project())?);
    let entry = Entry { domain, project, time, actor: Some(ACTOR), request_id: None, changes };
    Ok(postcard::to_stdvec(&entry)?)
}

/// The entry of a move.
pub fn entry_of_move(place: Place, name: &str, before: &AliasValue, after: &AliasValue) -> Answer<Vec<u8>> {
    let change = Change {
        operation: ASSOCIATE,
        key_id: None,
        name: Some(name),
        later: 0,
        previous: Some((before.version, before.updated_at)),
        before: Some(&before.encode()?),
        after: Some(&after.encode()?),
    };
    encode_entry(place, after.updated_at, &[change])
}

/// The entry of a deletion that was scheduled.
pub fn entry_of_deletion(place: Place, before: &Record, after: &Record) -> Answer<Vec<u8>> {
    let change = Change {
        operation: SCHEDULE_DELETION,
        key_id: Some(&before.key_id),
        name: None,
        later: 0,
        previous: Some((before.version, before.updated_at)),
        before: Some(&before.encode()?),
        after: Some(&after.encode()?),
    };
    encode_entry(place, after.updated_at, &[change])
}

/// The entry of keys that were created, each with its aliases.
pub fn entry_of_import(place: Place, keys: &[NewKey], now: u64, version: u64) -> Answer<Vec<u8>> {
    let created = keys.iter().map(|new| {
        let alias = AliasValue { key_id: *new.key_id.as_bytes(), created_at: now, updated_at: now, version };
        Ok((new, Record::new(new, place, now, version).encode()?, alias.encode()?))
    });
    let created = created.collect::<Answer<Vec<_>>>()?;
    let mut changes = Vec::new();
    for (new, record, alias) in &created {
        let (key_id, operation) = (Some(new.key_id.as_bytes()), CREATE_KEY);
        let change = Change {
            operation,
            key_id,
            name: None,
            later: 0,
            previous: None,
            before: None,
            after: Some(record),
        };
        changes.push(change);
        for name in &new.aliases {
            let name = Some(name.as_str());
            let after = Some(alias.as_slice());
            changes.push(Change {
                operation,
                key_id: None,
                name,
                later: 0,
                previous: None,
                before: None,
                after,
            });
        }
    }
    encode_entry(place, now, &changes)
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
