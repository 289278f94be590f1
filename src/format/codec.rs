//! The values of rows. The only module that uses bincode: each value is one byte, the version of
//! its format, and a struct of plain numbers and texts in bincode's standard configuration.
//!
//! The stored structs are apart from the public records, so that neither binds the other.

use std::borrow::Cow;
use std::sync::Arc;

use bincode::config::{Config, Configuration, Limit, LittleEndian, NoLimit, Varint};
use bincode::de::Decoder;
use bincode::de::read::Reader;
use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use data_encoding::HEXLOWER;

use super::{RecordId, Space, Value, alias_of, corrupted, scope_of};
use crate::alias::{Alias, AliasRecord, KeyAlias};
use crate::change::{Change, CommitInfo, CommitRecord, Images, Operation, Previous};
use crate::error::{Error, Result};
use crate::id::{
    Commit, EnterpriseProjectId, InvalidRequestId, KeyId, KeystoreId, ProjectId, Region, RequestId, Scope,
    hex_digits,
};
use crate::key::{
    Description, KeyRecord, KeySpec, KeyState, KeyUsage, Material, Origin, Rotation, TagKey, TagValue,
};
use crate::policy::AliasScope;
use crate::time::{RotationInterval, Timestamp};

/// The version that every value begins with.
pub(crate) const FORMAT_VERSION: u8 = 1;

/// The most bytes that a value may have. Texts are borrowed from them. For a list, memory is reserved for as
/// many elements as its length claims, but not for more than eight times as many bytes.
pub(crate) const VALUE_MAX: usize = 64 * 1024;

/// The most bytes that an entry of the log may have; for the memory as of a value.
pub(crate) const ENTRY_MAX: usize = 1024 * 1024;

/// bincode counts each number as eight bytes, also one that takes a single byte, so its limit must be
/// above that of the bytes that are given to it.
const COUNTED_BYTES: usize = 8;

type Configured<Limit> = Configuration<LittleEndian, Varint, Limit>;

/// Encoding has no limit: what is too large is refused with a name when the row is staged.
const ENCODING: Configured<NoLimit> = bincode::config::standard();
const VALUES: Configured<Limit<{ COUNTED_BYTES * VALUE_MAX }>> = bincode::config::standard().with_limit();
const ENTRIES: Configured<Limit<{ COUNTED_BYTES * ENTRY_MAX }>> = bincode::config::standard().with_limit();

fn encode(value: impl Encode) -> Vec<u8> {
    encode_about(USUAL_LENGTH, value)
}

/// As [`encode`], of a value with about so many bytes.
fn encode_about(length: usize, value: impl Encode) -> Vec<u8> {
    let mut bytes = Bytes(Vec::with_capacity(length));
    let written = bincode::encode_into_writer((FORMAT_VERSION, value), &mut bytes, ENCODING);
    written.expect("plain numbers and texts can always be encoded");
    bytes.0
}

/// As most values have less, memory for one is allocated once.
const USUAL_LENGTH: usize = 128;

struct Bytes(Vec<u8>);

impl Writer for Bytes {
    fn write(&mut self, bytes: &[u8]) -> std::result::Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn decode<'a, T: BorrowDecode<'a, ()>>(row: &[u8], bytes: &'a [u8]) -> Result<T> {
    decode_at_most(VALUE_MAX, VALUES, row, bytes)
}

fn decode_at_most<'a, T: BorrowDecode<'a, ()>>(
    max: usize,
    configuration: impl Config,
    row: &[u8],
    bytes: &'a [u8],
) -> Result<T> {
    if bytes.len() > max {
        return Err(corrupted(row, format_args!("the value has more than {max} bytes")));
    }
    let Some((&version, body)) = bytes.split_first() else {
        return Err(corrupted(row, "the value is empty"));
    };
    if version > FORMAT_VERSION {
        return Err(Error::Unsupported { found: version.into(), supported: FORMAT_VERSION.into() });
    }
    if version == 0 {
        return Err(corrupted(row, "the value has no version"));
    }
    let (value, length) = bincode::borrow_decode_from_slice(body, configuration)
        .map_err(|error| corrupted(row, format_args!("the value can't be decoded: {error}")))?;
    if length == body.len() { Ok(value) } else { Err(corrupted(row, "the value has bytes left over")) }
}

/// What was fixed when the store was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub(crate) incarnation: [u8; 16],
    pub(crate) alias_scope: AliasScope,
    pub(crate) region: Region,
    pub(crate) history: bool,
}

#[derive(Encode, BorrowDecode)]
struct StoredFixed<'a> {
    incarnation: [u8; 16],
    alias_scope: u8,
    region: &'a str,
    history: bool,
}

pub(crate) fn encode_fixed(fixed: &Fixed) -> Vec<u8> {
    encode(StoredFixed {
        incarnation: fixed.incarnation,
        alias_scope: match fixed.alias_scope {
            AliasScope::Project => 1,
            AliasScope::Domain => 2,
        },
        region: fixed.region.as_str(),
        history: fixed.history,
    })
}

pub(crate) fn decode_fixed(row: &[u8], bytes: &[u8]) -> Result<Fixed> {
    let stored: StoredFixed<'_> = decode(row, bytes)?;
    Ok(Fixed {
        incarnation: stored.incarnation,
        alias_scope: match stored.alias_scope {
            1 => AliasScope::Project,
            2 => AliasScope::Domain,
            other => return Err(corrupted(row, format_args!("unknown alias scope {other}"))),
        },
        region: Region::new(stored.region).map_err(|error| corrupted(row, error))?,
        history: stored.history,
    })
}

/// Up to where the history was trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Floor {
    /// The newest commit that was trimmed.
    pub(crate) commit: Commit,
    /// The latest time of a change that was trimmed.
    pub(crate) time: Timestamp,
}

pub(crate) fn encode_floor(floor: Floor) -> Vec<u8> {
    encode((floor.commit.number(), floor.time.as_millis()))
}

pub(crate) fn decode_floor(row: &[u8], bytes: &[u8]) -> Result<Floor> {
    let (commit, time): (u64, u64) = decode(row, bytes)?;
    Ok(Floor { commit: Commit::new(commit), time: Timestamp::from_millis(time) })
}

/// The value of the row that tells of a restore: the last commit before.
pub(crate) fn encode_restored(last: Commit) -> Vec<u8> {
    encode(last.number())
}

/// Reads the value of the row that tells of a restore.
pub(crate) fn decode_restored(row: &[u8], bytes: &[u8]) -> Result<Commit> {
    decode(row, bytes).map(Commit::new)
}

/// The value of a tombstone's row: the time of the deletion. Its commit is that of the row.
pub(crate) fn encode_tombstone(time: Timestamp) -> Vec<u8> {
    encode(time.as_millis())
}

/// Reads the value of a tombstone's row.
pub(crate) fn decode_tombstone(row: &[u8], bytes: &[u8]) -> Result<Timestamp> {
    decode(row, bytes).map(Timestamp::from_millis)
}

/// The most bytes that the value of a repeatable request may have.
pub(crate) const OUTCOME_MAX: usize = 32 * 1024;

/// What came of a request that may be repeated. Its commit is that of the row.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub(crate) struct Outcome {
    /// The SHA-256 of the request's body.
    pub(crate) digest: [u8; 32],
    /// The value that the closure returned, as JSON.
    pub(crate) value: Vec<u8>,
    /// Whether keys or aliases changed.
    pub(crate) changed: bool,
    pub(crate) time: u64,
    /// The number that stands in the value for that of its own commit, where the engine could not know it.
    pub(crate) stand_in: Option<u64>,
}

impl Outcome {
    /// The value, with the number of its own commit, that of its row.
    pub(crate) fn value_at(&self, commit: Commit) -> Cow<'_, [u8]> {
        let Some(stand_in) = self.stand_in else { return Cow::Borrowed(&self.value) };
        let (stand_in, number) = (stand_in.to_string(), commit.number().to_string());
        let (mut value, mut rest) = (Vec::with_capacity(self.value.len()), &self.value[..]);
        while let Some((first, behind)) = rest.split_first() {
            match rest.strip_prefix(stand_in.as_bytes()) {
                Some(behind) => {
                    value.extend(number.as_bytes());
                    rest = behind;
                }
                None => {
                    value.push(*first);
                    rest = behind;
                }
            }
        }
        Cow::Owned(value)
    }

    /// What it is where the number of its own commit is known.
    pub(crate) fn with_number(&self, commit: Commit) -> Self {
        Self { value: self.value_at(commit).into_owned(), stand_in: None, ..self.clone() }
    }
}

pub(crate) fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    encode(outcome)
}

pub(crate) fn decode_outcome(row: &[u8], bytes: &[u8]) -> Result<Outcome> {
    decode(row, bytes)
}

/// A number of seven bits a byte, the lowest first, the highest bit set in all bytes but the last: a time
/// takes six bytes, and a short span of time one or two.
struct Short(u64);

impl Encode for Short {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> std::result::Result<(), EncodeError> {
        let mut bytes = [0; SHORT_LENGTH_MAX];
        let mut length = 0;
        let mut rest = self.0;
        loop {
            let more = if rest >= 0x80 { 0x80 } else { 0 };
            bytes[length] = (rest & 0x7f) as u8 | more;
            length += 1;
            rest >>= 7;
            if rest == 0 {
                return encoder.writer().write(&bytes[..length]);
            }
        }
    }
}

impl<Context> Decode<Context> for Short {
    fn decode<D: Decoder>(decoder: &mut D) -> std::result::Result<Self, DecodeError> {
        let mut number = 0_u64;
        for place in 0..SHORT_LENGTH_MAX {
            let mut byte = [0];
            decoder.reader().read(&mut byte)?;
            let [byte] = byte;
            // The last byte has room for one bit.
            if place + 1 == SHORT_LENGTH_MAX && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(Short(number));
            }
        }
        Err(DecodeError::Other("a number has more than 64 bits"))
    }
}

bincode::impl_borrow_decode!(Short);

const SHORT_LENGTH_MAX: usize = 10;

impl Short {
    fn time(time: Timestamp) -> Self {
        Self(time.as_millis())
    }

    /// How much later one time is; a record that says that it changed before it was made has its place too.
    fn span(from: Timestamp, to: Timestamp) -> Self {
        Self(to.as_millis().wrapping_sub(from.as_millis()))
    }

    fn to_time(&self) -> Timestamp {
        Timestamp::from_millis(self.0)
    }

    fn after(&self, from: &Self) -> Timestamp {
        Timestamp::from_millis(from.0.wrapping_add(self.0))
    }
}

/// An id of an enterprise project or a key store, in the shortest of these forms.
#[derive(Encode, BorrowDecode)]
enum StoredId<'a> {
    /// `0`, the default one.
    Zero,
    /// 32 lower-case hexadecimal digits.
    Digits([u8; 16]),
    /// A UUID in 36 lower-case characters.
    Uuid([u8; 16]),
    Text(&'a str),
}

impl<'a> StoredId<'a> {
    fn of(text: &'a str) -> Self {
        match text.len() {
            1 if text == "0" => Self::Zero,
            32 => hex_digits(text).map_or(Self::Text(text), Self::Digits),
            36 => text.parse::<KeyId>().map_or(Self::Text(text), |id| Self::Uuid(*id.as_bytes())),
            _ => Self::Text(text),
        }
    }

    fn text(&self) -> Cow<'a, str> {
        match self {
            Self::Zero => "0".into(),
            Self::Digits(digits) => HEXLOWER.encode(digits).into(),
            Self::Uuid(bytes) => KeyId::from_bytes(*bytes).to_string().into(),
            Self::Text(text) => (*text).into(),
        }
    }
}

#[derive(Encode, BorrowDecode)]
struct StoredKey<'a> {
    key_alias: &'a str,
    description: &'a str,
    spec: u8,
    /// Usage (2 bits), origin less 1 (1 bit), state (3 bits), default (1 bit), from the lowest.
    traits: u8,
    created_at: Short,
    /// How much later than that.
    updated_at: Short,
    enterprise_project_id: StoredId<'a>,
    keystore_id: StoredId<'a>,
    /// Unless it is [`StoredLife::usual`].
    life: Option<StoredLife>,
    /// Unless it is the default.
    rotation: Option<StoredRotation>,
    tags: Vec<(&'a str, &'a str)>,
}

#[derive(Encode, BorrowDecode)]
struct StoredLife {
    frozen_from: Option<u8>,
    scheduled_deletion_at: Option<Short>,
    material_present: bool,
    material_expires_at: Option<Short>,
}

impl StoredLife {
    /// Whether the key is neither frozen nor pending deletion, and has the material of a new one.
    fn is_usual(key: &KeyRecord) -> bool {
        let material = Material { present: key.origin == Origin::Kms, expires_at: None };
        key.frozen_from.is_none() && key.scheduled_deletion_at.is_none() && key.material == material
    }

    fn usual(origin: Origin) -> Self {
        let material_present = origin == Origin::Kms;
        Self { frozen_from: None, scheduled_deletion_at: None, material_present, material_expires_at: None }
    }
}

#[derive(Encode, BorrowDecode)]
struct StoredRotation {
    enabled: bool,
    interval_days: u16,
    last_rotated_at: Option<Short>,
    count: u32,
}

/// The stored number of each spec, usage and origin. A number is never given a second meaning.
const SPECS: [(u8, KeySpec); 14] = [
    (1, KeySpec::Aes256),
    (2, KeySpec::Sm4),
    (3, KeySpec::Rsa2048),
    (4, KeySpec::Rsa3072),
    (5, KeySpec::Rsa4096),
    (6, KeySpec::EcP256),
    (7, KeySpec::EcP384),
    (8, KeySpec::Secp256k1),
    (9, KeySpec::Sm2),
    (10, KeySpec::Ed25519),
    (11, KeySpec::Hmac256),
    (12, KeySpec::Hmac384),
    (13, KeySpec::Hmac512),
    (14, KeySpec::HmacSm3),
];
const USAGES: [(u8, KeyUsage); 3] =
    [(1, KeyUsage::EncryptDecrypt), (2, KeyUsage::SignVerify), (3, KeyUsage::GenerateVerifyMac)];
const ORIGINS: [(u8, Origin); 2] = [(1, Origin::Kms), (2, Origin::External)];

fn number_of<T: PartialEq>(register: &[(u8, T)], value: &T) -> u8 {
    let entry = register.iter().find(|(_, known)| known == value);
    entry.expect("the registers hold every value, as a test shows").0
}

fn value_of<T: Copy>(row: &[u8], register: &[(u8, T)], number: u8) -> Result<T> {
    let entry = register.iter().find(|(known, _)| *known == number);
    entry.map(|(_, value)| *value).ok_or_else(|| corrupted(row, format_args!("unknown number {number}")))
}

fn state_of(row: &[u8], number: u8) -> Result<KeyState> {
    KeyState::from_number(number).ok_or_else(|| corrupted(row, format_args!("unknown state {number}")))
}

/// The value of a key's row. Id, scope and version are not in it: address and engine have them.
pub(crate) fn encode_key(key: &KeyRecord) -> Vec<u8> {
    let life = (!StoredLife::is_usual(key)).then(|| StoredLife {
        frozen_from: key.frozen_from.map(KeyState::number),
        scheduled_deletion_at: key.scheduled_deletion_at.map(Short::time),
        material_present: key.material.present,
        material_expires_at: key.material.expires_at.map(Short::time),
    });
    let rotation = (key.rotation != Rotation::default()).then(|| StoredRotation {
        enabled: key.rotation.enabled,
        interval_days: key.rotation.interval_days.days(),
        last_rotated_at: key.rotation.last_rotated_at.map(Short::time),
        count: key.rotation.count,
    });
    let origin = number_of(&ORIGINS, &key.origin) - 1;
    let traits = number_of(&USAGES, &key.usage) | origin << 2 | key.state.number() << 3;
    encode(StoredKey {
        key_alias: key.key_alias.as_str(),
        description: key.description.as_str(),
        spec: number_of(&SPECS, &key.spec),
        traits: traits | u8::from(key.default) << 6,
        created_at: Short::time(key.created_at),
        updated_at: Short::span(key.created_at, key.updated_at),
        enterprise_project_id: StoredId::of(key.enterprise_project_id.as_str()),
        keystore_id: StoredId::of(key.keystore_id.as_str()),
        life,
        rotation,
        tags: key.tags.iter().map(|(tag, value)| (tag.as_str(), value.as_str())).collect(),
    })
}

/// Reads the value of a key's row. The record is consistent in itself.
pub(crate) fn decode_key<'a>(
    row: &[u8],
    scope: &Scope,
    key_id: KeyId,
    stored: impl Into<Value<'a>>,
) -> Result<KeyRecord> {
    let record = decode_key_unchecked(row, scope, key_id, stored)?;
    record.check().map_err(|words| corrupted(row, words))?;
    Ok(record)
}

/// Reads the value of a key's row. The record's fields may contradict each other.
pub(crate) fn decode_key_unchecked<'a>(
    row: &[u8],
    scope: &Scope,
    key_id: KeyId,
    stored: impl Into<Value<'a>>,
) -> Result<KeyRecord> {
    let Value { bytes, commit } = stored.into();
    let value: StoredKey<'_> = decode(row, bytes)?;
    let damaged = |error: &dyn std::error::Error| corrupted(row, error);
    let tags = value.tags.iter().map(|(tag, value)| {
        let tag = TagKey::new(tag).map_err(|error| damaged(&error))?;
        Ok((tag, TagValue::new(value).map_err(|error| damaged(&error))?))
    });
    if value.traits >> 7 != 0 {
        return Err(corrupted(row, format_args!("unknown traits {}", value.traits)));
    }
    let origin = value_of(row, &ORIGINS, (value.traits >> 2 & 1) + 1)?;
    let life = value.life.unwrap_or_else(|| StoredLife::usual(origin));
    let rotation = value.rotation.map(|rotation| -> Result<Rotation> {
        Ok(Rotation {
            enabled: rotation.enabled,
            interval_days: RotationInterval::new(rotation.interval_days).map_err(|error| damaged(&error))?,
            last_rotated_at: rotation.last_rotated_at.as_ref().map(Short::to_time),
            count: rotation.count,
        })
    });
    Ok(KeyRecord {
        key_id,
        domain_id: scope.domain().clone(),
        project_id: scope.project().clone(),
        key_alias: KeyAlias::new(value.key_alias).map_err(|error| damaged(&error))?,
        description: Description::new(value.description).map_err(|error| damaged(&error))?,
        spec: value_of(row, &SPECS, value.spec)?,
        usage: value_of(row, &USAGES, value.traits & 3)?,
        origin,
        state: state_of(row, value.traits >> 3 & 7)?,
        frozen_from: life.frozen_from.map(|number| state_of(row, number)).transpose()?,
        default: value.traits >> 6 == 1,
        created_at: value.created_at.to_time(),
        updated_at: value.updated_at.after(&value.created_at),
        scheduled_deletion_at: life.scheduled_deletion_at.as_ref().map(Short::to_time),
        material: Material {
            present: life.material_present,
            expires_at: life.material_expires_at.as_ref().map(Short::to_time),
        },
        rotation: rotation.transpose()?.unwrap_or_default(),
        enterprise_project_id: EnterpriseProjectId::new(&value.enterprise_project_id.text())
            .map_err(|error| damaged(&error))?,
        keystore_id: KeystoreId::new(&value.keystore_id.text()).map_err(|error| damaged(&error))?,
        tags: tags.collect::<Result<_>>()?,
        version: commit,
    })
}

#[derive(Encode, BorrowDecode)]
struct StoredAlias {
    key_id: [u8; 16],
    with_prefix: bool,
    created_at: Short,
    /// How much later than that.
    updated_at: Short,
}

/// The value of an alias's row. Name, scope and version are not in it: address and engine have them.
pub(crate) fn encode_alias(alias: &AliasRecord) -> Vec<u8> {
    encode(StoredAlias {
        key_id: *alias.key_id.as_bytes(),
        with_prefix: alias.alias.has_urn_prefix(),
        created_at: Short::time(alias.created_at),
        updated_at: Short::span(alias.created_at, alias.updated_at),
    })
}

/// Reads the value of an alias's row. The record is consistent in itself.
pub(crate) fn decode_alias<'a>(
    row: &[u8],
    scope: &Scope,
    urn_name: &str,
    stored: impl Into<Value<'a>>,
) -> Result<AliasRecord> {
    let Value { bytes, commit } = stored.into();
    let value: StoredAlias = decode(row, bytes)?;
    let record = AliasRecord {
        alias: alias_of(urn_name, value.with_prefix, row)?,
        key_id: KeyId::from_bytes(value.key_id),
        domain_id: scope.domain().clone(),
        project_id: scope.project().clone(),
        created_at: value.created_at.to_time(),
        updated_at: value.updated_at.after(&value.created_at),
        version: commit,
    };
    record.check().map_err(|words| corrupted(row, words))?;
    Ok(record)
}

/// The value of the row that holds a key's aliases, in their order.
pub(crate) fn encode_alias_names(aliases: &[Alias]) -> Vec<u8> {
    encode(aliases.iter().map(Alias::as_str).collect::<Vec<_>>())
}

/// Reads the value of the row that holds a key's aliases: at least one, in their order.
pub(crate) fn decode_alias_names(row: &[u8], bytes: &[u8]) -> Result<Vec<Alias>> {
    let names: Vec<&str> = decode(row, bytes)?;
    let aliases = names.into_iter().map(Alias::new).collect::<std::result::Result<Vec<_>, _>>();
    let aliases = aliases.map_err(|error| corrupted(row, error))?;
    if aliases.is_empty() || !aliases.is_sorted_by(|a, b| a < b) {
        return Err(corrupted(row, "the names are not in order"));
    }
    Ok(aliases)
}

/// The value of a claim's row: the project that has the alias.
pub(crate) fn encode_claim(project: &ProjectId) -> Vec<u8> {
    encode(project.as_str())
}

/// Reads the value of a claim's row.
pub(crate) fn decode_claim(row: &[u8], bytes: &[u8]) -> Result<ProjectId> {
    ProjectId::new(decode(row, bytes)?).map_err(|error| corrupted(row, error))
}

/// The value of a row that points to a key.
pub(crate) fn encode_key_id(key_id: KeyId) -> Vec<u8> {
    encode(key_id.as_bytes())
}

/// Reads the value of a row that points to a key.
pub(crate) fn decode_key_id(row: &[u8], bytes: &[u8]) -> Result<KeyId> {
    decode(row, bytes).map(KeyId::from_bytes)
}

/// The value of a tag's row.
pub(crate) fn encode_tag_value(value: &TagValue) -> Vec<u8> {
    encode(value.as_str())
}

/// Reads the value of a tag's row.
pub(crate) fn decode_tag_value(row: &[u8], bytes: &[u8]) -> Result<TagValue> {
    TagValue::new(decode(row, bytes)?).map_err(|error| corrupted(row, error))
}

/// The value of a row whose address says everything.
pub(crate) fn encode_nothing() -> Vec<u8> {
    encode(())
}

/// Reads the value of a row whose address says everything.
pub(crate) fn decode_nothing(row: &[u8], bytes: &[u8]) -> Result<()> {
    decode(row, bytes)
}

/// How many keys a project has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, BorrowDecode)]
pub(crate) struct Counts {
    /// Those that count against the quota.
    pub(crate) keys: u64,
    /// The platform's.
    pub(crate) default_keys: u64,
}

pub(crate) fn encode_counts(counts: Counts) -> Vec<u8> {
    encode(counts)
}

pub(crate) fn decode_counts(row: &[u8], bytes: &[u8]) -> Result<Counts> {
    let counts: Counts = decode(row, bytes)?;
    if counts.keys.max(counts.default_keys) > COUNT_MAX {
        return Err(corrupted(row, "there can't be so many keys"));
    }
    Ok(counts)
}

/// More than any project has, and so few that they can be added up.
const COUNT_MAX: u64 = 1 << 48;

#[derive(Encode, BorrowDecode)]
struct StoredEntry<'a> {
    space: &'a [u8],
    time: u64,
    actor: Option<&'a str>,
    request_id: Option<&'a str>,
    changes: Vec<StoredChange<'a>>,
}

/// How an entry names its own commit, whose number it does not know: no change is of commit 0.
const OWN_COMMIT: u64 = 0;

/// The images are the values of the record's row, before and after.
#[derive(Encode, BorrowDecode)]
struct StoredChange<'a> {
    operation: u8,
    key_id: Option<[u8; 16]>,
    urn_name: Option<&'a str>,
    /// Milliseconds after the time of the entry.
    later: u64,
    previous: Option<(u64, u64)>,
    before: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
}

/// A change with its two images as the log has them.
#[derive(Debug, PartialEq)]
pub(crate) struct EncodedChange {
    pub(crate) change: Change,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
}

impl EncodedChange {
    pub(crate) fn new(change: Change) -> Self {
        let (before, after) = match &change.images {
            Images::Key { before, after } => {
                (before.as_deref().map(encode_key), after.as_deref().map(encode_key))
            }
            Images::Alias { before, after } => {
                (before.as_deref().map(encode_alias), after.as_deref().map(encode_alias))
            }
        };
        Self { change, before, after }
    }

    /// What the record's row holds after it.
    pub(crate) fn into_after(self) -> Option<Vec<u8>> {
        self.after
    }

    /// The bytes of the images.
    pub(crate) fn bytes(&self) -> usize {
        [&self.before, &self.after].into_iter().flatten().map(Vec::len).sum()
    }
}

/// The entry of a commit in the log. The commit's number is not in it: its place says that.
pub(crate) fn encode_log_entry(record: &CommitRecord) -> Vec<u8> {
    let changes: Vec<_> = record.changes.iter().cloned().map(EncodedChange::new).collect();
    encode_changes(&record.info, &changes)
}

/// As [`encode_log_entry`], of changes that were encoded before.
pub(crate) fn encode_changes(info: &CommitInfo, changes: &[EncodedChange]) -> Vec<u8> {
    let ids: Vec<_> = changes.iter().map(|encoded| RecordId::of(&encoded.change.images)).collect();
    let length = changes.iter().map(|change| USUAL_LENGTH + change.bytes()).sum();
    let changes = changes.iter().zip(&ids).map(|(EncodedChange { change, before, after }, id)| {
        let (key_id, urn_name) = match id {
            RecordId::Key(key_id) => (Some(*key_id.as_bytes()), None),
            RecordId::Alias(urn_name) => (None, Some(urn_name.as_str())),
        };
        StoredChange {
            operation: number_of(Operation::REGISTER, &change.operation),
            key_id,
            urn_name,
            later: change.time.as_millis().saturating_sub(info.time.as_millis()),
            previous: change.previous.map(|previous| {
                let own = previous.commit == info.commit;
                let commit = if own { OWN_COMMIT } else { previous.commit.number() };
                (commit, previous.time.as_millis())
            }),
            before: before.as_deref(),
            after: after.as_deref(),
        }
    });
    let entry = StoredEntry {
        space: &Space::of_scope(&info.scope).start(),
        time: info.time.as_millis(),
        actor: info.actor.as_deref(),
        request_id: info.request_id.as_ref().map(RequestId::as_str),
        changes: changes.collect(),
    };
    encode_about(length, entry)
}

/// Reads the entry of a commit in the log.
pub(crate) fn decode_log_entry(commit: Commit, bytes: &[u8]) -> Result<CommitRecord> {
    let row = log_place(commit);
    let entry: StoredEntry<'_> = decode_at_most(ENTRY_MAX, ENTRIES, &row, bytes)?;
    let scope = scope_of(entry.space).filter(|scope| Space::of_scope(scope).start() == entry.space);
    let scope = scope.ok_or_else(|| corrupted(&row, "it is of no scope"))?;
    let request_id = entry.request_id.map(str::parse).transpose();
    let info = CommitInfo {
        commit,
        time: Timestamp::from_millis(entry.time),
        scope,
        actor: entry.actor.map(Arc::from),
        request_id: request_id.map_err(|error: InvalidRequestId| corrupted(&row, error))?,
    };
    let changes = entry.changes.into_iter().map(|change| change_of(&row, &info, change));
    Ok(CommitRecord { changes: changes.collect::<Result<_>>()?, info })
}

fn change_of(row: &[u8], info: &CommitInfo, stored: StoredChange<'_>) -> Result<Change> {
    let previous = stored.previous.map(|(commit, time)| {
        let commit = if commit == OWN_COMMIT { info.commit } else { Commit::new(commit) };
        Previous { commit, time: Timestamp::from_millis(time) }
    });
    // The version of what was there before is the commit that made it.
    let former = previous.map(|previous| previous.commit);
    let (before, after) = (image(row, stored.before, former)?, image(row, stored.after, Some(info.commit))?);
    let images = match (stored.key_id, stored.urn_name) {
        (Some(key_id), None) => {
            let key = |stored| decode_key(row, &info.scope, KeyId::from_bytes(key_id), stored).map(Arc::new);
            Images::Key { before: before.map(key).transpose()?, after: after.map(key).transpose()? }
        }
        (None, Some(name)) => {
            let alias = |stored| decode_alias(row, &info.scope, name, stored).map(Arc::new);
            Images::Alias { before: before.map(alias).transpose()?, after: after.map(alias).transpose()? }
        }
        _ => return Err(corrupted(row, "a change is of a key or of an alias")),
    };
    if RecordId::try_of(&images).is_none() {
        return Err(corrupted(row, "a change has no image"));
    }
    let time = info.time.as_millis().checked_add(stored.later);
    Ok(Change {
        operation: value_of(row, Operation::REGISTER, stored.operation)?,
        time: Timestamp::from_millis(time.ok_or_else(|| corrupted(row, "a change is after all time"))?),
        previous,
        images,
    })
}

/// The value that a record's row had at a commit.
fn image<'a>(row: &[u8], bytes: Option<&'a [u8]>, commit: Option<Commit>) -> Result<Option<Value<'a>>> {
    match (bytes, commit) {
        (Some(bytes), Some(commit)) => Ok(Some(Value { bytes, commit })),
        (Some(_), None) => Err(corrupted(row, "what was there before came from nowhere")),
        (None, _) => Ok(None),
    }
}

/// How errors name a place in the log.
pub(crate) fn log_place(commit: Commit) -> Vec<u8> {
    format!("log entry {commit}").into_bytes()
}

#[cfg(test)]
pub(super) fn registers_are_complete() -> bool {
    SPECS.len() == KeySpec::ALL.len()
        && USAGES.len() == KeyUsage::ALL.len()
        && ORIGINS.len() == Origin::ALL.len()
}
