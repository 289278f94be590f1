//! The key record and its value sets: [`KeyRecord`], [`KeyState`], [`KeySpec`], [`KeyUsage`],
//! [`Origin`], tags, and [`NewKey`], what a caller says of a key to be made.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use smol_str::SmolStr;

use crate::alias::{Alias, InvalidAlias, KeyAlias, RESERVED_SUFFIX};
use crate::id::{Commit, DomainId, EnterpriseProjectId, KeyId, KeystoreId, ProjectId, text_value};
use crate::time::{RotationInterval, Timestamp};

/// What is wrong with the specification of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeySpec {
    /// The text names no value of this set.
    #[error("\"{text}\" is no {1}", text = .0.escape_default())]
    Unknown(Box<str>, &'static str),
    /// This specification can't have this usage.
    #[error("a key of {0} can't be used for {1}")]
    UsageNotAllowed(KeySpec, KeyUsage),
}

macro_rules! value_set {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$value_doc])* #[serde(rename = $text)] $value,)+
        }

        impl $name {
            /// Every value of the set.
            pub const ALL: &[Self] = &[$(Self::$value,)+];

            /// The value as the API writes it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }

        impl FromStr for $name {
            type Err = InvalidKeySpec;

            fn from_str(text: &str) -> Result<Self, InvalidKeySpec> {
                let found = Self::ALL.iter().find(|value| value.as_str() == text).copied();
                found.ok_or_else(|| InvalidKeySpec::Unknown(text.chars().take(64).collect(), $what))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

value_set!(
    /// What kind of key it is (`key_spec` of create-key).
    KeySpec, "key spec", {
    /// AES, 256 bits.
    Aes256 = "AES_256",
    /// SM4, 128 bits.
    Sm4 = "SM4",
    /// RSA, 2048 bits.
    Rsa2048 = "RSA_2048",
    /// RSA, 3072 bits.
    Rsa3072 = "RSA_3072",
    /// RSA, 4096 bits.
    Rsa4096 = "RSA_4096",
    /// Elliptic curve P-256.
    EcP256 = "EC_P256",
    /// Elliptic curve P-384.
    EcP384 = "EC_P384",
    /// Elliptic curve secp256k1.
    Secp256k1 = "SECP256K1",
    /// SM2, an elliptic curve.
    Sm2 = "SM2",
    /// Ed25519.
    Ed25519 = "ED25519",
    /// HMAC with SHA-256.
    Hmac256 = "HMAC_256",
    /// HMAC with SHA-384.
    Hmac384 = "HMAC_384",
    /// HMAC with SHA-512.
    Hmac512 = "HMAC_512",
    /// HMAC with SM3.
    HmacSm3 = "HMAC_SM3",
});

value_set!(
    /// What a key is for (`key_usage` of create-key).
    KeyUsage, "key usage", {
    /// Encrypting and decrypting.
    EncryptDecrypt = "ENCRYPT_DECRYPT",
    /// Signing and verifying.
    SignVerify = "SIGN_VERIFY",
    /// Making and verifying message authentication codes.
    GenerateVerifyMac = "GENERATE_VERIFY_MAC",
});

value_set!(
    /// Where a key's material comes from (`origin` of create-key).
    Origin, "origin", {
    /// Made by the service.
    Kms = "kms",
    /// Imported by the user.
    External = "external",
});

value_set!(
    /// The state of a key; [`number`](Self::number) is the API's `key_state`. State 1, pending
    /// activation, is reserved by the service and never stored.
    KeyState, "key state", {
    /// 2: it can be used.
    Enabled = "enabled",
    /// 3: switched off, may be enabled again.
    Disabled = "disabled",
    /// 4: waiting for its deletion, which may be cancelled until it is due.
    PendingDeletion = "pending_deletion",
    /// 5: an external key without material.
    PendingImport = "pending_import",
    /// 7: stopped by the platform.
    Frozen = "frozen",
});

impl KeySpec {
    /// The usages that a key of this spec may have, the default first.
    pub const fn usages(self) -> &'static [KeyUsage] {
        match self.family() {
            SpecFamily::Aes | SpecFamily::Sm4 => &[KeyUsage::EncryptDecrypt],
            SpecFamily::Rsa | SpecFamily::Sm2 => &[KeyUsage::SignVerify, KeyUsage::EncryptDecrypt],
            SpecFamily::Ec | SpecFamily::Ed25519 => &[KeyUsage::SignVerify],
            SpecFamily::Hmac => &[KeyUsage::GenerateVerifyMac],
        }
    }

    /// The usage of a key whose creator names none.
    pub const fn default_usage(self) -> KeyUsage {
        self.usages()[0]
    }

    /// The algorithm, without its size.
    pub const fn family(self) -> SpecFamily {
        match self {
            Self::Aes256 => SpecFamily::Aes,
            Self::Sm4 => SpecFamily::Sm4,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => SpecFamily::Rsa,
            Self::EcP256 | Self::EcP384 | Self::Secp256k1 => SpecFamily::Ec,
            Self::Sm2 => SpecFamily::Sm2,
            Self::Ed25519 => SpecFamily::Ed25519,
            Self::Hmac256 | Self::Hmac384 | Self::Hmac512 | Self::HmacSm3 => SpecFamily::Hmac,
        }
    }

    /// Whether it is a symmetric cipher: AES or SM4. Only these rotate.
    pub const fn is_symmetric(self) -> bool {
        matches!(self.family(), SpecFamily::Aes | SpecFamily::Sm4)
    }
}

/// An algorithm without its size, compared by [`Compatibility::SameUsage`](crate::Compatibility).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpecFamily {
    /// AES.
    Aes,
    /// SM4.
    Sm4,
    /// RSA of any size.
    Rsa,
    /// P-256, P-384, secp256k1.
    Ec,
    /// SM2.
    Sm2,
    /// Ed25519.
    Ed25519,
    /// HMAC with any digest.
    Hmac,
}

impl KeyState {
    /// The API's number: 2 enabled, 3 disabled, 4 pending deletion, 5 pending import, 7 frozen.
    pub const fn number(self) -> u8 {
        match self {
            Self::Enabled => 2,
            Self::Disabled => 3,
            Self::PendingDeletion => 4,
            Self::PendingImport => 5,
            Self::Frozen => 7,
        }
    }

    /// The state with this number of the API.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.iter().find(|state| state.number() == number).copied()
    }
}

/// A description is longer than 255 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a description has at most 255 characters, not {0}")]
pub struct InvalidDescription(pub usize);

/// A tag key is not 1 to 128 characters long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tag key has 1 to 128 characters, not {0}")]
pub struct InvalidTagKey(pub usize);

/// A tag value is longer than 255 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tag value has at most 255 characters, not {0}")]
pub struct InvalidTagValue(pub usize);

macro_rules! bounded_text {
    ($(#[$doc:meta])* $name:ident, $error:ident, $least:literal ..= $most:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(SmolStr);

        impl $name {
            /// Checks and takes a text; its length is counted in Unicode scalar values.
            pub fn new(text: &str) -> Result<Self, $error> {
                let length = text.chars().count();
                if ($least..=$most).contains(&length) { Ok(Self(text.into())) } else { Err($error(length)) }
            }

            /// The text as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        text_value!($name, $error);
    };
}

bounded_text!(
    /// What a key's owner says of it: 0 to 255 characters.
    Description, InvalidDescription, 0..=255
);
bounded_text!(
    /// The name of a tag: 1 to 128 characters.
    TagKey, InvalidTagKey, 1..=128
);
bounded_text!(
    /// The value of a tag: 0 to 255 characters.
    TagValue, InvalidTagValue, 0..=255
);

impl Default for Description {
    fn default() -> Self {
        Self("".into())
    }
}

/// The tags of a key.
pub type Tags = BTreeMap<TagKey, TagValue>;

/// Whether a key has its material, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    /// Whether the material is there. A key of origin `kms` always has it.
    pub present: bool,
    /// When imported material expires; never, if there is none.
    pub expires_at: Option<Timestamp>,
}

/// The rotation settings of a key and what came of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rotation {
    /// Whether the key is to be rotated.
    pub enabled: bool,
    /// How often.
    pub interval_days: RotationInterval,
    /// When it was last rotated; never before an earlier time of the record.
    pub last_rotated_at: Option<Timestamp>,
    /// How often it was rotated.
    pub count: u32,
}

/// The stored record of a key.
///
/// A record that comes from the store or through serde is consistent in itself:
/// [`check`](Self::check) holds for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[non_exhaustive]
pub struct KeyRecord {
    /// The id.
    pub key_id: KeyId,
    /// The account.
    pub domain_id: DomainId,
    /// The workspace.
    pub project_id: ProjectId,
    /// The key's own name.
    pub key_alias: KeyAlias,
    /// What its owner says of it.
    pub description: Description,
    /// What kind of key it is.
    pub spec: KeySpec,
    /// What it is for.
    pub usage: KeyUsage,
    /// Where its material comes from.
    pub origin: Origin,
    /// Its state.
    pub state: KeyState,
    /// The state to which [unfreeze](crate::Transaction::unfreeze) returns; only a frozen key has one.
    pub frozen_from: Option<KeyState>,
    /// Whether the platform made it for one of its services; then it never changes.
    pub default: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it may be purged; only a key pending deletion has one.
    pub scheduled_deletion_at: Option<Timestamp>,
    /// Whether its material is there.
    pub material: Material,
    /// Its rotation.
    pub rotation: Rotation,
    /// The enterprise project.
    pub enterprise_project_id: EnterpriseProjectId,
    /// The key store.
    pub keystore_id: KeystoreId,
    /// The tags.
    pub tags: Tags,
    /// The number of the commit that last changed this record.
    pub version: Commit,
}

impl KeyRecord {
    /// Whether the record's fields agree with each other; if not, in words, the first that doesn't.
    pub fn check(&self) -> Result<(), &'static str> {
        self.inconsistency().map_or(Ok(()), |(_, words)| Err(words))
    }

    /// The first way in which the fields don't agree: the number of the invariant, and words.
    pub(crate) fn inconsistency(&self) -> Option<(u8, &'static str)> {
        let state = self.frozen_from.unwrap_or(self.state);
        let resting = matches!(state, KeyState::Enabled | KeyState::Disabled | KeyState::PendingImport);
        let unchanged = self.state == KeyState::Enabled
            && self.origin == Origin::Kms
            && self.rotation == Rotation::default()
            && self.created_at == self.updated_at;
        let has_rotated = self.rotation.last_rotated_at.is_some();
        let rotates = self.rotation.enabled || has_rotated;
        let lasting = Material { present: true, expires_at: None };
        let is_due = self.scheduled_deletion_at.is_some();
        let agreements = [
            (4, self.default == self.key_alias.is_reserved(), "/default is the name of default keys only"),
            (4, !self.default || unchanged, "a default key is as it was made"),
            (7, (self.state == KeyState::PendingDeletion) == is_due, "a key is due if pending deletion"),
            (7, (self.state == KeyState::Frozen) == self.frozen_from.is_some(), "a key was, if it is frozen"),
            (7, self.frozen_from.is_none() || resting, "a key can't be frozen from that state"),
            (12, self.spec.usages().contains(&self.usage), "the spec can't have this usage"),
            (12, self.material.present || self.material.expires_at.is_none(), "absent material can't expire"),
            (
                12,
                self.origin == Origin::External || self.material == lasting,
                "a key of origin kms has its material for ever",
            ),
            (
                12,
                !resting || (state == KeyState::PendingImport) != self.material.present,
                "a key waits for import exactly while its material is absent",
            ),
            (
                12,
                !rotates || (self.origin == Origin::Kms && self.spec.is_symmetric()),
                "only a symmetric key of origin kms rotates",
            ),
            (
                12,
                has_rotated == (self.rotation.count > 0),
                "a key that rotated was last rotated at some time",
            ),
            (12, self.created_at <= self.updated_at, "a key changes after its creation"),
        ];
        agreements.into_iter().find(|(_, holds, _)| !holds).map(|(invariant, _, words)| (invariant, words))
    }
}

impl Serialize for KeyRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for KeyRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = Self::deserialize(deserializer)?;
        record.check().map_err(de::Error::custom)?;
        Ok(record)
    }
}

/// What a caller says of a key to be made. The id is made here, outside of the transaction.
///
/// ```
/// use keystead::{KeySpec, KeyUsage, NewKey};
/// let new = NewKey::new("orders")?.spec(KeySpec::Rsa3072).description("signs orders".parse()?);
/// assert_eq!(new.usage, KeyUsage::SignVerify);
/// # Ok::<(), keystead::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewKey {
    /// The id: random, unless [`id`](Self::id) gave one.
    pub key_id: KeyId,
    /// The key's own name.
    pub key_alias: KeyAlias,
    /// Empty by default.
    pub description: Description,
    /// [`KeySpec::Aes256`] by default.
    pub spec: KeySpec,
    /// [`KeySpec::default_usage`] by default.
    pub usage: KeyUsage,
    /// [`Origin::Kms`] by default.
    pub origin: Origin,
    /// `0` by default.
    pub enterprise_project_id: EnterpriseProjectId,
    /// `0` by default.
    pub keystore_id: KeystoreId,
    /// None by default.
    pub tags: Tags,
    /// Aliases to be created with the key; none by default.
    pub aliases: Vec<Alias>,
}

impl NewKey {
    /// A key of this name, with a random id and everything else as it is by default.
    pub fn new(key_alias: &str) -> Result<Self, InvalidAlias> {
        let zero = "one digit is a valid id";
        Ok(Self {
            key_id: KeyId::random(),
            key_alias: KeyAlias::new(key_alias)?,
            description: Description::default(),
            spec: KeySpec::Aes256,
            usage: KeyUsage::EncryptDecrypt,
            origin: Origin::Kms,
            enterprise_project_id: EnterpriseProjectId::new("0").expect(zero),
            keystore_id: KeystoreId::new("0").expect(zero),
            tags: Tags::new(),
            aliases: Vec::new(),
        })
    }

    /// The default key of a service of the platform: its name is `<service>/default`. For
    /// [`ensure_default_key`](crate::Transaction::ensure_default_key).
    pub fn default_of(service: &str) -> Result<Self, InvalidAlias> {
        Self::new(&format!("{service}{RESERVED_SUFFIX}"))
    }

    /// With this id instead of a random one.
    pub fn id(mut self, key_id: KeyId) -> Self {
        self.key_id = key_id;
        self
    }

    /// With this description.
    pub fn description(mut self, description: Description) -> Self {
        self.description = description;
        self
    }

    /// Of this spec, with its default usage.
    pub fn spec(mut self, spec: KeySpec) -> Self {
        self.spec = spec;
        self.usage = spec.default_usage();
        self
    }

    /// For this usage; to be called after [`spec`](Self::spec). Whether the two fit is checked when
    /// the key is created.
    pub fn usage(mut self, usage: KeyUsage) -> Self {
        self.usage = usage;
        self
    }

    /// With material from there.
    pub fn origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// In this enterprise project.
    pub fn enterprise_project(mut self, id: EnterpriseProjectId) -> Self {
        self.enterprise_project_id = id;
        self
    }

    /// In this key store.
    pub fn keystore(mut self, id: KeystoreId) -> Self {
        self.keystore_id = id;
        self
    }

    /// With one more tag; an earlier one of the same key is replaced.
    pub fn tag(mut self, key: TagKey, value: TagValue) -> Self {
        self.tags.insert(key, value);
        self
    }

    /// With one more alias.
    pub fn alias(mut self, alias: Alias) -> Self {
        self.aliases.push(alias);
        self
    }
}
