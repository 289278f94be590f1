//! Who and what is named: [`DomainId`], [`ProjectId`], [`Scope`], [`KeyId`], [`RequestId`] and [`Commit`].
//!
//! Each is parsed once and always valid after.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use uuid::Uuid;

static KEY_ID: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\A[0-9a-z]{8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}\z")
        .expect("the pattern is a constant")
});
static REQUEST_ID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\A[0-9A-Za-z-]{36}\z").expect("the pattern is a constant"));

/// An id of a domain, a project, a region, an enterprise project or a key store is malformed: it
/// is not 1 to 64 characters of `[A-Za-z0-9_-]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {what} is not 1 to 64 characters of [A-Za-z0-9_-] ({length} bytes given)")]
pub struct InvalidScope {
    /// Which id it is, in words: "domain id", "region", ...
    pub what: &'static str,
    /// The length of what was given, in bytes.
    pub length: usize,
}

/// What every checked text has in common: it is parsed, shown and goes through serde as its text.
macro_rules! text_value {
    ($name:ident, $error:ty) => {
        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.into()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.0)
            }
        }
    };
}
pub(crate) use text_value;

/// The most characters of an id of a domain, a project or the like.
const ID_MAX: usize = 64;

/// Whether a text is such an id. By hand, because each record that is read is checked: the expression is
/// many times slower. A test holds the two against each other.
fn is_id(text: &str) -> bool {
    let in_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=ID_MAX).contains(&text.len()) && text.bytes().all(in_id)
}

/// The 16 bytes that 32 lower-case hexadecimal digits stand for.
pub(crate) fn hex_digits(text: &str) -> Option<[u8; 16]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let pairs: &[[u8; 2]; 16] = pairs.try_into().ok().filter(|_| rest.is_empty())?;
    let mut bytes = [0; 16];
    // No digit is marked by the high bit; one look at the end will do.
    let mut all = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (HEX_DIGITS[usize::from(*high)], HEX_DIGITS[usize::from(*low)]);
        all |= high | low;
        *byte = high << 4 | low;
    }
    (all < NO_HEX_DIGIT).then_some(bytes)
}

const NO_HEX_DIGIT: u8 = 0x80;

/// For each byte the value of the digit that it is.
const HEX_DIGITS: [u8; 256] = {
    let mut digits = [NO_HEX_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        digits[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    digits
};

macro_rules! plain_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 64 characters of `[A-Za-z0-9_-]`; anything else is [`InvalidScope`].
        #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(SmolStr);

        impl $name {
            /// Checks and takes an id.
            pub fn new(text: &str) -> Result<Self, InvalidScope> {
                if is_id(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidScope { what: $what, length: text.len() })
                }
            }

            /// The id as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        text_value!($name, InvalidScope);

        /// Ids of 32 lower-case hexadecimal digits come first, then all others; each group in the
        /// order of its bytes. It is the order of [`Store::scopes`](crate::Store::scopes).
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                let other_group = other.hex_digits().is_none();
                self.hex_digits().is_none().cmp(&other_group).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The 16 bytes of an id that is 32 lower-case hexadecimal digits, the usual form.
            pub(crate) fn hex_digits(&self) -> Option<[u8; 16]> {
                hex_digits(&self.0)
            }
        }
    };
}

plain_id!(
    /// An account of the service.
    DomainId,
    "domain id"
);
plain_id!(
    /// A workspace inside a domain.
    ProjectId,
    "project id"
);
plain_id!(
    /// The region a store serves; part of the URN of each of its aliases.
    Region,
    "region"
);
plain_id!(
    /// The enterprise project that a key belongs to; `0` is the default one.
    EnterpriseProjectId,
    "enterprise project id"
);
plain_id!(
    /// The key store that holds a key's material; `0` is the default one.
    KeystoreId,
    "key store id"
);

/// A (domain, project) pair. Every call is made in exactly one scope; nothing in one scope can be
/// read or changed from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    domain: DomainId,
    project: ProjectId,
}

impl Scope {
    /// The scope of these two ids, each 1 to 64 characters of `[A-Za-z0-9_-]`.
    ///
    /// ```
    /// use keystead::Scope;
    /// let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f")?;
    /// assert_eq!(scope.project().as_str(), "0d0466b0e7274d9cb35df84bb474a37f");
    /// assert!(Scope::new("", "p").is_err());
    /// # Ok::<(), keystead::Error>(())
    /// ```
    pub fn new(domain: &str, project: &str) -> Result<Self, InvalidScope> {
        Ok(Self { domain: DomainId::new(domain)?, project: ProjectId::new(project)? })
    }

    /// The scope of two ids that were parsed before.
    pub fn from_ids(domain: DomainId, project: ProjectId) -> Self {
        Self { domain, project }
    }

    /// The account.
    pub fn domain(&self) -> &DomainId {
        &self.domain
    }

    /// The workspace inside the account.
    pub fn project(&self) -> &ProjectId {
        &self.project
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.project)
    }
}

/// What is wrong with the text of a key id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeyId {
    /// It breaks the pattern
    /// `^[0-9a-z]{8}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{12}$` of the service's API.
    #[error("a key id is 36 characters: lower-case letters and digits in groups of 8-4-4-4-12")]
    Malformed,
    /// It fits the pattern, which is wider than hexadecimal, but it is no UUID: it names no key.
    /// As an [`Error`](crate::Error) this becomes [`KeyNotFound`](crate::Error::KeyNotFound).
    #[error("the key id {0} is well-formed but no UUID: it names no key")]
    NamesNoKey(Box<str>),
}

/// The id of a key: a UUID, printed as 36 lower-case characters.
///
/// ```
/// use keystead::{Error, KeyId};
/// let id: KeyId = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e".parse()?;
/// assert_eq!(id.to_string(), "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e");
/// let upper = "BB6A3D22-DC93-47AC-B5BD-88DF7AD35F1E".parse::<KeyId>();
/// assert!(matches!(upper.map_err(Error::from), Err(Error::InvalidKeyId(_))));
/// let not_hexadecimal = "zz6a3d22-dc93-47ac-b5bd-88df7ad35f1e".parse::<KeyId>();
/// assert!(matches!(not_hexadecimal.map_err(Error::from), Err(Error::KeyNotFound { .. })));
/// # Ok::<(), keystead::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(Uuid);

impl KeyId {
    /// A new random id (UUID version 4). To be called outside of transactions, which may run again.
    pub fn random() -> Self {
        Self::from_bytes(random_bytes())
    }

    /// The id with these 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        if !KEY_ID.is_match(text) {
            return Err(InvalidKeyId::Malformed);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidKeyId::NamesNoKey(text.into()))
    }
}

impl TryFrom<String> for KeyId {
    type Error = InvalidKeyId;

    fn try_from(text: String) -> Result<Self, InvalidKeyId> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.to_string()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The bytes of a new random UUID.
#[expect(clippy::disallowed_methods, reason = "this is the edge at which ids are made")]
pub(crate) fn random_bytes() -> [u8; 16] {
    Uuid::new_v4().into_bytes()
}

/// A request id is not exactly 36 characters of `[0-9A-Za-z-]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a request id is exactly 36 characters of [0-9A-Za-z-]")]
pub struct InvalidRequestId;

/// The caller's own id of a request: the service's optional `sequence`, 36 characters of
/// `[0-9A-Za-z-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(SmolStr);

impl RequestId {
    /// Checks and takes an id.
    pub fn new(text: &str) -> Result<Self, InvalidRequestId> {
        if REQUEST_ID.is_match(text) { Ok(Self(text.into())) } else { Err(InvalidRequestId) }
    }

    /// The id as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

text_value!(RequestId, InvalidRequestId);

/// The number of a commit: one durable transaction of the store. Numbers only grow. The creation of a store is
/// a commit; 0 is none, but the moment before that, in which nothing was there.
///
/// The **version** of a record is the number of the commit that last changed it, so a version
/// never repeats, not even after a record was deleted and created again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Commit(u64);

impl Commit {
    /// The commit with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commit({})", self.0)
    }
}
