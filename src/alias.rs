//! The two kinds of names, [`Alias`] and [`KeyAlias`], the [`AliasRecord`] and the [`AliasUrn`].
//!
//! A key's own name and its aliases are two name spaces and two types, without conversion.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use smol_str::{SmolStr, format_smolstr};

use crate::id::{Commit, DomainId, KeyId, ProjectId, Region, text_value};
use crate::time::Timestamp;

/// The end of a name that only the platform may choose.
pub const RESERVED_SUFFIX: &str = "/default";

/// The prefix that is left out of an alias's URN.
const URN_PREFIX: &str = "alias/";

/// The most characters of a name.
const NAME_MAX: usize = 255;

/// Whether a text is 1 to 255 characters of `[a-zA-Z0-9:/_-]`. By hand, because names are checked again
/// whenever they are read from the store; a test holds it against the expression.
fn is_name(text: &str) -> bool {
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'/' | b'_' | b'-');
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(in_name)
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAlias {
    /// It is not 1 to 255 characters of `[a-zA-Z0-9:/_-]`.
    #[error("a name is 1 to 255 characters of [a-zA-Z0-9:/_-]")]
    Malformed,
    /// It ends in `/default`, which belongs to the keys of the platform.
    #[error("a name that ends in /default can't be chosen")]
    Reserved,
    /// The platform's own operation was given a name that does not end in `/default`.
    #[error("the name of a default key ends in /default")]
    NotReserved,
    /// It is not `kms:<region>:<domain id>:alias:<name>`.
    #[error("an alias's URN is kms:<region>:<domain id>:alias:<name>")]
    MalformedUrn,
}

/// A key's own name: exactly one for each key, given at its creation and changed by
/// [rename](crate::Transaction::rename_key_alias).
///
/// 1 to 255 characters of `[a-zA-Z0-9:/_-]`, case-sensitive, kept byte for byte. A name ending in
/// `/default` is a valid `KeyAlias`, because a default key has one; creating and renaming keys
/// refuse it.
///
/// ```
/// use keystead::KeyAlias;
/// let name: KeyAlias = "obs/default".parse()?;
/// assert!(name.is_reserved());
/// assert!(!"obs/Default".parse::<KeyAlias>()?.is_reserved());
/// assert!("two words".parse::<KeyAlias>().is_err());
/// # Ok::<(), keystead::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyAlias(SmolStr);

impl KeyAlias {
    /// Checks and takes a name.
    pub fn new(text: &str) -> Result<Self, InvalidAlias> {
        if is_name(text) { Ok(Self(text.into())) } else { Err(InvalidAlias::Malformed) }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name ends in `/default`, and so belongs to the platform.
    pub fn is_reserved(&self) -> bool {
        self.0.ends_with(RESERVED_SUFFIX)
    }
}

/// A movable name of a key: up to 50 for each key, created on a key and moved to another by
/// [associate](crate::Transaction::associate_alias), never renamed.
///
/// 1 to 255 characters of `[a-zA-Z0-9:/_-]`, case-sensitive, kept byte for byte, never ending in
/// `/default`. Aliases are ordered by their [URN name](Self::urn_name), then by their bytes; lists
/// of aliases come in this order.
///
/// ```
/// use keystead::Alias;
/// let alias: Alias = "alias/kms-1234".parse()?;
/// assert_eq!(alias.urn_name(), "kms-1234");
/// assert!("a/default".parse::<Alias>().is_err());
/// # Ok::<(), keystead::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Alias(SmolStr);

impl Alias {
    /// Checks and takes a name.
    pub fn new(text: &str) -> Result<Self, InvalidAlias> {
        if !is_name(text) {
            Err(InvalidAlias::Malformed)
        } else if text.ends_with(RESERVED_SUFFIX) {
            Err(InvalidAlias::Reserved)
        } else {
            Ok(Self(text.into()))
        }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name inside the alias's URN: without one leading `alias/`. Aliases are unique by it, so
    /// that a URN names one alias.
    pub fn urn_name(&self) -> &str {
        self.0.strip_prefix(URN_PREFIX).unwrap_or(&self.0)
    }

    /// Whether the name begins with `alias/`, which its URN leaves out.
    pub(crate) fn has_urn_prefix(&self) -> bool {
        self.0.starts_with(URN_PREFIX)
    }

    /// The alias with this URN name, with the prefix or without; the reverse of the two above.
    pub(crate) fn from_urn_name(name: &str, with_prefix: bool) -> Result<Self, InvalidAlias> {
        let alias =
            if with_prefix { Self::new(&format_smolstr!("{URN_PREFIX}{name}"))? } else { Self::new(name)? };
        if alias.urn_name() == name { Ok(alias) } else { Err(InvalidAlias::Malformed) }
    }
}

impl Ord for Alias {
    fn cmp(&self, other: &Self) -> Ordering {
        self.urn_name().cmp(other.urn_name()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Alias {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

text_value!(KeyAlias, InvalidAlias);
text_value!(Alias, InvalidAlias);

/// The stored record of an alias.
///
/// A record that comes from the store or through serde is consistent in itself:
/// [`check`](Self::check) holds for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[non_exhaustive]
pub struct AliasRecord {
    /// The name.
    pub alias: Alias,
    /// The key that it names.
    pub key_id: KeyId,
    /// The account.
    pub domain_id: DomainId,
    /// The workspace of the key.
    pub project_id: ProjectId,
    /// When the alias was created.
    pub created_at: Timestamp,
    /// When it was created or last moved.
    pub updated_at: Timestamp,
    /// The number of the commit that last changed this record.
    pub version: Commit,
}

impl AliasRecord {
    /// Whether the record's fields agree with each other; if not, in words, what doesn't.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.created_at <= self.updated_at { Ok(()) } else { Err("an alias changes after its creation") }
    }

    /// The alias's URN in a region: `kms:<region>:<domain id>:alias:<name>`.
    pub fn urn(&self, region: &Region) -> AliasUrn {
        AliasUrn {
            region: region.clone(),
            domain_id: self.domain_id.clone(),
            urn_name: self.alias.urn_name().into(),
        }
    }
}

impl Serialize for AliasRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for AliasRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = Self::deserialize(deserializer)?;
        record.check().map_err(de::Error::custom)?;
        Ok(record)
    }
}

/// The uniform resource name of an alias: `kms:<region>:<domain id>:alias:<name>`, with one
/// leading `alias/` left out of the name.
///
/// ```
/// use keystead::AliasUrn;
/// let urn: AliasUrn = "kms:cn-north-7:3bab8e245e854f68af5967c00dd43127:alias:kms-1234".parse()?;
/// assert_eq!(urn.urn_name(), "kms-1234");
/// # Ok::<(), keystead::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AliasUrn {
    region: Region,
    domain_id: DomainId,
    urn_name: SmolStr,
}

impl AliasUrn {
    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The account.
    pub fn domain_id(&self) -> &DomainId {
        &self.domain_id
    }

    /// The name: that of [`Alias::urn_name`].
    pub fn urn_name(&self) -> &str {
        &self.urn_name
    }
}

impl FromStr for AliasUrn {
    type Err = InvalidAlias;

    fn from_str(text: &str) -> Result<Self, InvalidAlias> {
        let malformed = InvalidAlias::MalformedUrn;
        let mut parts = text.splitn(5, ':');
        let mut part = || parts.next().ok_or(InvalidAlias::MalformedUrn);
        let (service, region, domain_id, kind, name) = (part()?, part()?, part()?, part()?, part()?);
        if service != "kms" || kind != "alias" {
            return Err(malformed);
        }
        // The alias itself was this name or this name with the prefix; the name alone may be empty.
        Alias::new(name).or_else(|_| Alias::from_urn_name(name, true))?;
        Ok(Self {
            region: Region::new(region).map_err(|_| malformed.clone())?,
            domain_id: DomainId::new(domain_id).map_err(|_| malformed)?,
            urn_name: name.into(),
        })
    }
}

impl TryFrom<String> for AliasUrn {
    type Error = InvalidAlias;

    fn try_from(text: String) -> Result<Self, InvalidAlias> {
        text.parse()
    }
}

impl From<AliasUrn> for String {
    fn from(urn: AliasUrn) -> String {
        urn.to_string()
    }
}

impl fmt::Display for AliasUrn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kms:{}:{}:alias:{}", self.region, self.domain_id, self.urn_name)
    }
}
