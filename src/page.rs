//! Lists page by page: [`Limit`], [`After`], [`Cursor`], [`Page`], and what to list, [`KeyFilter`].

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::key::{KeyRecord, KeySpec, KeyState, TagKey, TagValue};

/// A page's limit is not 1 to 1000.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a page has 1 to 1000 entries, not {0}")]
pub struct InvalidLimit(pub usize);

/// The most entries that a page may have: 1 to 1000; 100 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub struct Limit(usize);

impl Limit {
    /// The limits there are.
    pub const RANGE: RangeInclusive<usize> = 1..=1000;
    /// The largest limit.
    pub const MAX: Self = Self(1000);

    /// Checks and takes a limit.
    pub fn new(limit: usize) -> Result<Self, InvalidLimit> {
        if Self::RANGE.contains(&limit) { Ok(Self(limit)) } else { Err(InvalidLimit(limit)) }
    }

    /// The number of entries.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<usize> for Limit {
    type Error = InvalidLimit;

    fn try_from(limit: usize) -> Result<Self, InvalidLimit> {
        Self::new(limit)
    }
}

impl From<Limit> for usize {
    fn from(limit: Limit) -> usize {
        limit.0
    }
}

/// Which keys a list or a count is about; by default all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct KeyFilter {
    /// Only keys in this state.
    pub state: Option<KeyState>,
    /// Only keys of this spec.
    pub spec: Option<KeySpec>,
    /// Only keys with this tag; with any value, if none is given.
    pub tag: Option<(TagKey, Option<TagValue>)>,
}

impl KeyFilter {
    /// All keys.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only keys in this state.
    pub fn state(mut self, state: KeyState) -> Self {
        self.state = Some(state);
        self
    }

    /// Only keys of this spec.
    pub fn spec(mut self, spec: KeySpec) -> Self {
        self.spec = Some(spec);
        self
    }

    /// Only keys with this tag and value. A list by id finds them through an index.
    pub fn tag(mut self, key: TagKey, value: TagValue) -> Self {
        self.tag = Some((key, Some(value)));
        self
    }

    /// Only keys with this tag, whatever its value. Each key of the scope is examined.
    pub fn tag_key(mut self, key: TagKey) -> Self {
        self.tag = Some((key, None));
        self
    }

    /// Whether a key is one of those meant.
    pub fn matches(&self, key: &KeyRecord) -> bool {
        let tag_fits = |(tag, wanted): &(TagKey, Option<TagValue>)| {
            key.tags.get(tag).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
        };
        self.state.is_none_or(|state| state == key.state)
            && self.spec.is_none_or(|spec| spec == key.spec)
            && self.tag.as_ref().is_none_or(tag_fits)
    }

    /// The filter as bytes, different for different filters: a cursor is bound to them.
    pub(crate) fn fingerprint(&self) -> Vec<u8> {
        let mut bytes = vec![self.state.map_or(0, KeyState::number)];
        let mut part = |text: Option<&str>| {
            bytes.push(u8::from(text.is_some()));
            let text = text.unwrap_or_default().as_bytes();
            bytes.extend((text.len() as u64).to_be_bytes());
            bytes.extend(text);
        };
        part(self.spec.map(KeySpec::as_str));
        part(self.tag.as_ref().map(|(key, _)| key.as_str()));
        part(self.tag.as_ref().and_then(|(_, value)| value.as_ref()).map(TagValue::as_str));
        bytes
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// The entries, in the order of the list.
    pub items: Vec<T>,
    /// Where the next page begins. Only a missing `next` ends a list: a page may be short, even
    /// empty, because a filtered page examines at most 10,000 rows.
    pub next: Option<Cursor>,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After<'a, T> {
    /// At the beginning of the list.
    Start,
    /// After this name or id, whether it is in the list or not. For an alias that is behind its URN name,
    /// so `x` and `alias/x` are the same place. For a history it is behind all changes of this commit.
    Item(&'a T),
    /// Where an earlier page of the same list ended.
    Cursor(&'a Cursor),
}

impl<'a, T> From<Option<&'a Cursor>> for After<'a, T> {
    fn from(cursor: Option<&'a Cursor>) -> Self {
        cursor.map_or(Self::Start, Self::Cursor)
    }
}

/// What is wrong with a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCursor {
    /// It was not made by this library, or was damaged.
    #[error("this is not a cursor, or it was damaged")]
    Malformed,
    /// It belongs to another list, scope or filter, or was damaged.
    #[error("the cursor belongs to another list, scope or filter, or was damaged")]
    OfAnotherList,
}

const CURSOR_VERSION: u8 = 1;
const DIGEST_LENGTH: usize = 16;
/// A cursor holds at most a name of 255 bytes.
const CURSOR_BYTES_MAX: usize = 1 + DIGEST_LENGTH + 255;

/// Where a page ended, to be handed back for the next one: opaque text of the URL-safe base64
/// alphabet, bound to its list, scope and filter. It holds the last name or id of the page, or the place
/// of its last change, and stays valid when the row of that name is deleted.
///
/// It is no secret and no proof: whoever makes one up sees what the list shows anyway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    digest: [u8; DIGEST_LENGTH],
    last: Box<[u8]>,
}

impl Cursor {
    /// The cursor behind `last` in the list that `binding` names.
    pub(crate) fn new(binding: &[u8], last: &[u8]) -> Self {
        Self { digest: digest(binding, last), last: last.into() }
    }

    /// What it holds, if it belongs to the list that `binding` names.
    pub(crate) fn last(&self, binding: &[u8]) -> Result<&[u8], InvalidCursor> {
        if self.digest == digest(binding, &self.last) {
            Ok(&self.last)
        } else {
            Err(InvalidCursor::OfAnotherList)
        }
    }
}

fn digest(binding: &[u8], last: &[u8]) -> [u8; DIGEST_LENGTH] {
    let mut hash = Sha256::new();
    hash.update((binding.len() as u64).to_be_bytes());
    hash.update(binding);
    hash.update(last);
    let mut digest = [0; DIGEST_LENGTH];
    digest.copy_from_slice(&hash.finalize()[..DIGEST_LENGTH]);
    digest
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        if text.len() > BASE64URL_NOPAD.encode_len(CURSOR_BYTES_MAX) {
            return Err(InvalidCursor::Malformed);
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| InvalidCursor::Malformed)?;
        match bytes.split_first_chunk::<{ 1 + DIGEST_LENGTH }>() {
            Some((&[CURSOR_VERSION, ref digest @ ..], last)) => {
                Ok(Self { digest: *digest, last: last.into() })
            }
            _ => Err(InvalidCursor::Malformed),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&[CURSOR_VERSION][..], &self.digest, &self.last].concat();
        f.write_str(&BASE64URL_NOPAD.encode(&bytes))
    }
}

impl TryFrom<String> for Cursor {
    type Error = InvalidCursor;

    fn try_from(text: String) -> Result<Self, InvalidCursor> {
        text.parse()
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> String {
        cursor.to_string()
    }
}
