//! The bytes: where a row lies and what is in it.
//!
//! A row is (space, table, key). A space is a scope, a domain, or the store itself:
//!
//! ```text
//! space    = domain project       a scope
//!          | domain 00            what the projects of a domain share
//!          | 00                   the store
//! domain, project
//!          = 01 (16 bytes)        an id of 32 lower-case hexadecimal digits
//!          | 02 (text) 00         any other
//!
//! space    table  key                              value
//! store    01     -                                what was fixed when the store was created
//! store    03     -                                up to where the history was trimmed
//! store    06     first commit after               the last commit before a restore
//! store    07     -                                a copy into this store is not finished
//! domain   02     URN name                         whose it is (alias scope Domain only)
//! domain   04     project, key id                  when the key was last deleted, if it is not there
//! domain   05     project, URN name                when the alias was last deleted, likewise
//! scope    10     key id                           the key record
//! scope    11     key alias                        key id
//! scope    12     URN name                         the alias record
//! scope    13     key id                           the key's aliases, sorted
//! scope    14     tag key 00 00, digest, key id    the tag's value
//! scope    15     due time, key id                 -
//! scope    16     expiry, key id                   -
//! scope    17     -                                how many keys there are
//! scope    18     request id                       what came of a request that may be repeated
//! scope    19     time, request id                 -
//! ```
//!
//! Key ids are 16 bytes, times 8 bytes with the highest first, names their bytes; a `00` inside a
//! tag key is `00 ff`; the digest is the first 16 bytes of the SHA-256 of the tag's value. So rows
//! are ordered as what they name, and no two things share a row. Each value begins with the version
//! of its format.

pub(crate) mod changes;
mod codec;
#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};

use crate::alias::{Alias, KeyAlias};
use crate::change::Images;
use crate::error::{Error, Result};
use crate::id::{Commit, DomainId, KeyId, ProjectId, RequestId, Scope};
use crate::key::{KeyRecord, TagKey, TagValue};
use crate::rules;
use crate::time::Timestamp;

pub(crate) use codec::{
    Counts, ENTRY_MAX, EncodedChange, Fixed, Floor, OUTCOME_MAX, Outcome, VALUE_MAX, decode_alias,
    decode_alias_names, decode_claim, decode_counts, decode_fixed, decode_floor, decode_key, decode_key_id,
    decode_key_unchecked, decode_log_entry, decode_nothing, decode_outcome, decode_restored,
    decode_tag_value, decode_tombstone, encode_alias, encode_alias_names, encode_changes, encode_claim,
    encode_counts, encode_fixed, encode_floor, encode_key, encode_key_id, encode_log_entry, encode_nothing,
    encode_outcome, encode_restored, encode_tag_value, encode_tombstone, log_place,
};

/// The address of a row. It is not empty, and its first byte is not ff: both are left to engines.
pub(crate) type Row = Vec<u8>;

/// The value of a row, with the commit that last changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) commit: Commit,
}

/// The value of a row where it lies, with the commit that last changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) commit: Commit,
}

impl Value<'_> {
    /// A copy.
    pub(crate) fn to_stored(self) -> Stored {
        Stored { bytes: self.bytes.to_vec(), commit: self.commit }
    }
}

impl<'a> From<&'a Stored> for Value<'a> {
    fn from(stored: &'a Stored) -> Self {
        Self { bytes: &stored.bytes, commit: stored.commit }
    }
}

/// The most bytes that an address may have.
pub(crate) const ROW_MAX: usize = 1024;

/// The tables. A number is never given a second meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Table {
    Fixed = 0x01,
    Claim = 0x02,
    Floor = 0x03,
    GoneKey = 0x04,
    GoneAlias = 0x05,
    Restored = 0x06,
    Unfinished = 0x07,
    Key = 0x10,
    KeyAlias = 0x11,
    Alias = 0x12,
    AliasesOfKey = 0x13,
    Tag = 0x14,
    Due = 0x15,
    Expiry = 0x16,
    Counts = 0x17,
    Outcome = 0x18,
    OutcomeTime = 0x19,
}

impl Table {
    pub(crate) const ALL: [Self; 17] = [
        Self::Fixed,
        Self::Claim,
        Self::Floor,
        Self::GoneKey,
        Self::GoneAlias,
        Self::Restored,
        Self::Unfinished,
        Self::Key,
        Self::KeyAlias,
        Self::Alias,
        Self::AliasesOfKey,
        Self::Tag,
        Self::Due,
        Self::Expiry,
        Self::Counts,
        Self::Outcome,
        Self::OutcomeTime,
    ];
}

const NONE: u8 = 0x00;
const HEX: u8 = 0x01;
const TEXT: u8 = 0x02;
const ID_LENGTH: usize = 16;
const TIME_LENGTH: usize = 8;
const DIGEST_LENGTH: usize = 16;

/// Where the rows of a scope, of a domain, or of the store itself lie: the beginning of their
/// addresses. No space is the beginning of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Space(Vec<u8>);

impl Space {
    pub(crate) fn of_store() -> Self {
        Self(vec![NONE])
    }

    pub(crate) fn of_domain(domain: &DomainId) -> Self {
        let mut bytes = Vec::with_capacity(2 * (1 + ID_LENGTH));
        push_id(&mut bytes, domain.hex_digits(), domain.as_str());
        bytes.push(NONE);
        Self(bytes)
    }

    pub(crate) fn of_scope(scope: &Scope) -> Self {
        let mut bytes = Vec::with_capacity(2 * (1 + ID_LENGTH));
        push_id(&mut bytes, scope.domain().hex_digits(), scope.domain().as_str());
        push_id(&mut bytes, scope.project().hex_digits(), scope.project().as_str());
        Self(bytes)
    }

    /// The beginning that all rows of the space share.
    pub(crate) fn start(&self) -> Row {
        self.0.clone()
    }

    /// The rows of one table: each begins with this.
    pub(crate) fn table(&self, table: Table) -> Row {
        self.row(table, &[])
    }

    /// The first address behind those of one table.
    pub(crate) fn after_table(&self, table: Table) -> Row {
        after_all(self.table(table))
    }

    fn row(&self, table: Table, key: &[u8]) -> Row {
        let mut row = Vec::with_capacity(self.0.len() + 1 + key.len());
        row.extend(&self.0);
        row.push(table as u8);
        row.extend(key);
        row
    }

    pub(crate) fn fixed(&self) -> Row {
        self.row(Table::Fixed, &[])
    }

    pub(crate) fn floor(&self) -> Row {
        self.row(Table::Floor, &[])
    }

    /// That the commits before this one were restored, and those between the last of them and this never
    /// were in this store.
    pub(crate) fn restored(&self, first: Commit) -> Row {
        self.row(Table::Restored, &first.number().to_be_bytes())
    }

    /// That a copy into this store has not come to its end.
    pub(crate) fn unfinished(&self) -> Row {
        self.row(Table::Unfinished, &[])
    }

    /// The tombstone of a key or an alias of the scope. In the domain's space, so that an erased scope
    /// holds nothing.
    pub(crate) fn tombstone(scope: &Scope, record: &RecordId) -> Row {
        let (table, name) = match record {
            RecordId::Key(key_id) => (Table::GoneKey, &key_id.as_bytes()[..]),
            RecordId::Alias(urn_name) => (Table::GoneAlias, urn_name.as_bytes()),
        };
        let (domain, project) = (scope.domain(), scope.project());
        let mut row = Row::with_capacity(2 * (1 + ID_LENGTH) + 2 + name.len());
        push_id(&mut row, domain.hex_digits(), domain.as_str());
        row.extend([NONE, table as u8]);
        push_id(&mut row, project.hex_digits(), project.as_str());
        row.extend(name);
        row
    }

    pub(crate) fn outcome(&self, request_id: &RequestId) -> Row {
        self.row(Table::Outcome, request_id.as_str().as_bytes())
    }

    pub(crate) fn outcome_time(&self, time: Timestamp, request_id: &RequestId) -> Row {
        let mut key = time.as_millis().to_be_bytes().to_vec();
        key.extend(request_id.as_str().as_bytes());
        self.row(Table::OutcomeTime, &key)
    }

    /// Under the alias scope `Domain`: to which project an alias belongs. In the domain's space.
    pub(crate) fn claim(&self, urn_name: &str) -> Row {
        self.row(Table::Claim, urn_name.as_bytes())
    }

    pub(crate) fn key(&self, key_id: KeyId) -> Row {
        self.row(Table::Key, key_id.as_bytes())
    }

    pub(crate) fn key_alias(&self, key_alias: &KeyAlias) -> Row {
        self.row(Table::KeyAlias, key_alias.as_str().as_bytes())
    }

    pub(crate) fn alias(&self, urn_name: &str) -> Row {
        self.row(Table::Alias, urn_name.as_bytes())
    }

    pub(crate) fn aliases_of_key(&self, key_id: KeyId) -> Row {
        self.row(Table::AliasesOfKey, key_id.as_bytes())
    }

    pub(crate) fn counts(&self) -> Row {
        self.row(Table::Counts, &[])
    }

    /// The beginning of the rows of all keys that have this tag and value.
    pub(crate) fn tagged(&self, tag: &TagKey, value: &TagValue) -> Row {
        let mut key = Vec::new();
        for byte in tag.as_str().bytes() {
            key.push(byte);
            if byte == 0 {
                key.push(0xff);
            }
        }
        key.extend([0, 0]);
        key.extend(&Sha256::digest(value.as_str())[..DIGEST_LENGTH]);
        self.row(Table::Tag, &key)
    }

    /// The first row of the due table or the expiry table that is later than `time`.
    pub(crate) fn timed_after(&self, table: Table, time: Timestamp) -> Row {
        match time.as_millis().checked_add(1) {
            Some(next) => self.row(table, &next.to_be_bytes()),
            None => after_all(self.table(table)),
        }
    }

    /// Every index row that a key record has, with its value. The record's own row and those of its
    /// aliases are not among them.
    pub(crate) fn index_rows(&self, key: &KeyRecord) -> Vec<(Row, Vec<u8>)> {
        let timed = |table, time: Timestamp| {
            let mut row = self.row(table, &time.as_millis().to_be_bytes());
            row.extend(key.key_id.as_bytes());
            (row, encode_nothing())
        };
        let mut rows = vec![(self.key_alias(&key.key_alias), encode_key_id(key.key_id))];
        for (tag, value) in &key.tags {
            let mut row = self.tagged(tag, value);
            row.extend(key.key_id.as_bytes());
            rows.push((row, encode_tag_value(value)));
        }
        rows.extend(key.scheduled_deletion_at.map(|due| timed(Table::Due, due)));
        rows.extend(rules::expiry_to_watch(key).map(|expiry| timed(Table::Expiry, expiry)));
        rows
    }
}

fn push_id(bytes: &mut Vec<u8>, hex_digits: Option<[u8; ID_LENGTH]>, text: &str) {
    match hex_digits {
        Some(digits) => {
            bytes.push(HEX);
            bytes.extend(digits);
        }
        None => {
            bytes.push(TEXT);
            bytes.extend(text.as_bytes());
            bytes.push(NONE);
        }
    }
}

/// The first address behind all that begin with `prefix`.
pub(crate) fn after_all(mut prefix: Row) -> Row {
    while let Some(last) = prefix.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return prefix;
        }
        prefix.pop();
    }
    // No address begins with ff.
    vec![u8::MAX]
}

/// The largest number that a commit may have. A larger one was never given, so it is damage.
pub(crate) const COMMIT_MAX: Commit = Commit::new(u64::MAX >> 1);

/// Whether this is no number of a commit, but stands for one that is not known before it is made.
pub(crate) fn is_stand_in(commit: Commit) -> bool {
    commit > COMMIT_MAX
}

/// What stands for the number of a commit: drawn, so that no text that it stands in has it by chance.
pub(crate) fn stand_in(drawn: u64) -> Commit {
    Commit::new(drawn | (COMMIT_MAX.number() + 1))
}

/// How many numbers there are for each millisecond of the clock. No store commits as fast, so whatever was
/// restored at some time, and went on from its number, has only smaller ones than what is restored later.
const COMMITS_A_MILLISECOND: u64 = 1 << 11;

/// The numbers that the clock gives end here, in the year 2109: up to here numbers are exact in JSON too.
const BY_CLOCK_MAX: u64 = 1 << 53;

/// How far at least the numbers jump if the clock can't be right: eight years of 4,000 commits a second.
const JUMP_COMMITS: u64 = 1 << 40;

/// The commit with which a store begins that is restored at this time, where `seen` is the newest commit that
/// is known of the former one. What was lost had lower numbers, and those of another restore, of the same
/// backup too, are others. `lot` is a random number: it keeps apart what the clock can't, if it is behind.
///
/// # Errors
///
/// `Corrupted` if there are no such numbers any more.
pub(crate) fn first_after_restore(seen: Commit, at: Timestamp, lot: u8) -> Result<Commit> {
    let by_clock = at.as_millis().checked_mul(COMMITS_A_MILLISECOND);
    let by_clock = by_clock.filter(|first| *first > seen.number() && *first < BY_CLOCK_MAX);
    let jump = (seen.number() / JUMP_COMMITS + 1).saturating_add(lot.into()).checked_mul(JUMP_COMMITS);
    // It must be able to go on from there.
    let first = by_clock.or(jump).filter(|first| *first < COMMIT_MAX.number() - JUMP_COMMITS);
    let used_up = || Error::Corrupted(format!("no number can follow commit {seen} after a restore").into());
    first.map(Commit::new).ok_or_else(used_up)
}

/// Which record of a scope a change is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RecordId {
    Key(KeyId),
    /// By its URN name, as its row.
    Alias(String),
}

impl RecordId {
    /// The record whose images these are, if there is one.
    pub(crate) fn try_of(images: &Images) -> Option<Self> {
        match images {
            Images::Key { before, after } => {
                after.as_ref().or(before.as_ref()).map(|key| Self::Key(key.key_id))
            }
            Images::Alias { before, after } => {
                let alias = after.as_ref().or(before.as_ref())?;
                Some(Self::Alias(alias.alias.urn_name().to_owned()))
            }
        }
    }

    /// The record whose images these are.
    pub(crate) fn of(images: &Images) -> Self {
        Self::try_of(images).expect("a change has an image, before or after")
    }
}

/// What an address names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Fixed,
    Floor,
    Restored { first: Commit },
    Unfinished,
    Claim { domain: DomainId, urn_name: String },
    Tombstone { scope: Scope, record: RecordId },
    Scoped { scope: Scope, table: ScopedTable },
}

/// What an address inside a scope names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScopedTable {
    Key(KeyId),
    KeyAlias(KeyAlias),
    Alias { urn_name: String },
    AliasesOfKey(KeyId),
    Tag(KeyId),
    Due(KeyId),
    Expiry(KeyId),
    Counts,
    Outcome(RequestId),
    OutcomeTime(Timestamp, RequestId),
}

/// Reads an address. `None` if nothing has this address.
pub(crate) fn read_address(row: &[u8]) -> Option<Address> {
    let (&first, mut rest) = row.split_first()?;
    if first == NONE {
        return match rest {
            [table] if *table == Table::Fixed as u8 => Some(Address::Fixed),
            [table] if *table == Table::Floor as u8 => Some(Address::Floor),
            [table] if *table == Table::Unfinished as u8 => Some(Address::Unfinished),
            [table, first @ ..] if *table == Table::Restored as u8 => {
                let first = Commit::new(u64::from_be_bytes(first.try_into().ok()?));
                Some(Address::Restored { first })
            }
            _ => None,
        };
    }
    rest = row;
    let domain = DomainId::new(&take_id(&mut rest)?).ok()?;
    if let Some((&NONE, shared)) = rest.split_first() {
        return shared_address(domain, shared);
    }
    let project = ProjectId::new(&take_id(&mut rest)?).ok()?;
    let scope = Scope::from_ids(domain, project);
    let (&table, key) = rest.split_first()?;
    let table = match Table::ALL.into_iter().find(|known| *known as u8 == table)? {
        Table::Key => ScopedTable::Key(key_id(key)?),
        Table::KeyAlias => ScopedTable::KeyAlias(KeyAlias::new(&text(key)?).ok()?),
        Table::Alias => ScopedTable::Alias { urn_name: text(key)? },
        Table::AliasesOfKey => ScopedTable::AliasesOfKey(key_id(key)?),
        Table::Tag => ScopedTable::Tag(trailing_key_id(key)?),
        Table::Due => ScopedTable::Due(key_id(key.get(TIME_LENGTH..)?)?),
        Table::Expiry => ScopedTable::Expiry(key_id(key.get(TIME_LENGTH..)?)?),
        Table::Counts => key.is_empty().then_some(ScopedTable::Counts)?,
        Table::Outcome => ScopedTable::Outcome(text(key)?.parse().ok()?),
        Table::OutcomeTime => {
            let (time, request_id) = key.split_first_chunk::<TIME_LENGTH>()?;
            let time = Timestamp::from_millis(u64::from_be_bytes(*time));
            ScopedTable::OutcomeTime(time, text(request_id)?.parse().ok()?)
        }
        Table::Fixed
        | Table::Floor
        | Table::Claim
        | Table::GoneKey
        | Table::GoneAlias
        | Table::Restored
        | Table::Unfinished => return None,
    };
    Some(Address::Scoped { scope, table })
}

/// Reads an address in the space that the projects of a domain share.
fn shared_address(domain: DomainId, shared: &[u8]) -> Option<Address> {
    let (&table, mut key) = shared.split_first()?;
    if table == Table::Claim as u8 {
        return Some(Address::Claim { domain, urn_name: text(key)? });
    }
    let scope = Scope::from_ids(domain, ProjectId::new(&take_id(&mut key)?).ok()?);
    let record = match table {
        table if table == Table::GoneKey as u8 => RecordId::Key(key_id(key)?),
        table if table == Table::GoneAlias as u8 => RecordId::Alias(text(key)?),
        _ => return None,
    };
    Some(Address::Tombstone { scope, record })
}

/// The scope in whose space an address lies, if it lies in one.
pub(crate) fn scope_of(row: &[u8]) -> Option<Scope> {
    let mut rest = row;
    let domain = DomainId::new(&take_id(&mut rest)?).ok()?;
    let project = ProjectId::new(&take_id(&mut rest)?).ok()?;
    Some(Scope::from_ids(domain, project))
}

/// The first address behind the space in which `row` lies.
pub(crate) fn after_space_of(row: &[u8]) -> Option<Row> {
    let mut rest = row;
    if rest.first() != Some(&NONE) {
        take_id(&mut rest)?;
    }
    if rest.first() == Some(&NONE) {
        rest = &rest[1..];
    } else {
        take_id(&mut rest)?;
    }
    Some(after_all(row[..row.len() - rest.len()].to_vec()))
}

/// The space of a scope or a domain that an address begins with, and what is behind it. No such space is
/// the beginning of another, so there is at most one.
pub(crate) fn split_space(row: &[u8]) -> Option<(&[u8], &[u8])> {
    let after_id = |row: &[u8], start: usize| match *row.get(start)? {
        HEX => (row.len() > start + ID_LENGTH).then_some(start + 1 + ID_LENGTH),
        TEXT => row[start..].iter().position(|byte| *byte == NONE).map(|length| start + length + 1),
        _ => None,
    };
    let domain = after_id(row, 0)?;
    let end = if row.get(domain) == Some(&NONE) { domain + 1 } else { after_id(row, domain)? };
    Some(row.split_at(end))
}

/// The beginning that an address shares with all others of its table.
pub(crate) fn table_of(row: &[u8]) -> &[u8] {
    let after_id = |start: usize| match row.get(start) {
        Some(&HEX) => start + 1 + ID_LENGTH,
        Some(&TEXT) => {
            let rest = row[start..].iter();
            rest.take_while(|byte| **byte != NONE).count() + start + 1
        }
        _ => start + 1,
    };
    let domain = after_id(0);
    let space = if row.first() == Some(&NONE) { domain } else { after_id(domain) };
    &row[..row.len().min(space + 1)]
}

fn take_id(rest: &mut &[u8]) -> Option<String> {
    let (&kind, bytes) = rest.split_first()?;
    match kind {
        HEX => {
            let (digits, behind) = bytes.split_at_checked(ID_LENGTH)?;
            *rest = behind;
            Some(data_encoding::HEXLOWER.encode(digits))
        }
        TEXT => {
            let end = bytes.iter().position(|byte| *byte == NONE)?;
            *rest = &bytes[end + 1..];
            let id = text(&bytes[..end])?;
            // The other form is the only one for such an id.
            DomainId::new(&id).ok()?.hex_digits().is_none().then_some(id)
        }
        _ => None,
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn key_id(bytes: &[u8]) -> Option<KeyId> {
    bytes.try_into().ok().map(KeyId::from_bytes)
}

/// The key id at the end of an address of an index.
pub(crate) fn trailing_key_id(row: &[u8]) -> Option<KeyId> {
    row.last_chunk::<ID_LENGTH>().copied().map(KeyId::from_bytes)
}

/// The name at the end of an address, behind the beginning that all rows of its table share.
pub(crate) fn name_in<'a>(row: &'a [u8], table_prefix: &[u8]) -> Result<&'a str> {
    let name = row.strip_prefix(table_prefix).and_then(|name| std::str::from_utf8(name).ok());
    name.ok_or_else(|| corrupted(row, "the row's address is no name"))
}

/// The error for a row that is not what it must be.
pub(crate) fn corrupted(row: &[u8], what: impl std::fmt::Display) -> Error {
    Error::Corrupted(format!("row {}: {what}", show(row)).into())
}

/// An address for people to read.
pub(crate) fn show(row: &[u8]) -> String {
    row.escape_ascii().to_string()
}

/// The alias with this URN name, for addresses that hold only that.
pub(crate) fn alias_of(urn_name: &str, with_prefix: bool, row: &[u8]) -> Result<Alias> {
    Alias::from_urn_name(urn_name, with_prefix).map_err(|error| corrupted(row, error))
}
