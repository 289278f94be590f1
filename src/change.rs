//! What commits did: [`CommitRecord`], [`ChangeRecord`], [`Change`], [`Operation`], and where in the
//! sequence of commits one is, [`Position`].

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::alias::AliasRecord;
use crate::id::{Commit, RequestId, Scope};
use crate::key::KeyRecord;
use crate::time::Timestamp;

/// Who made a commit, when, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommitInfo {
    /// The number of the commit.
    pub commit: Commit,
    /// The time of the request. By callers' clocks: a later commit may have an earlier time.
    pub time: Timestamp,
    /// The scope in which it was made.
    pub scope: Scope,
    /// Who made it, if the request said so by [`Request::actor`](crate::Request::actor).
    pub actor: Option<Arc<str>>,
    /// The caller's own id of the request, if it had one; that of
    /// [`write_once`](crate::Store::write_once) too.
    pub request_id: Option<RequestId>,
}

/// Everything that one commit did to keys and aliases, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommitRecord {
    /// Who made the commit, when, and where.
    pub info: CommitInfo,
    /// What it did; at least one change.
    pub changes: Vec<Change>,
}

/// One change, with the commit that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChangeRecord {
    /// Who made the commit, when, and where.
    pub info: CommitInfo,
    /// Which of the commit's changes it is, from 0.
    pub index: u32,
    /// What changed.
    pub change: Change,
}

/// What one operation did to one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The operation that the caller asked for, also where it took other records along: an alias made
    /// with its key is of [`CreateKey`](Operation::CreateKey).
    pub operation: Operation,
    /// The time of the change: that of the request, or of the record's previous change if that is
    /// later. So the changes of one record never go back in time.
    pub time: Timestamp,
    /// The record's previous change, also if that was its deletion; `None` for its first.
    pub previous: Option<Previous>,
    /// The record before and after.
    pub images: Images,
}

/// The change of a record before the one in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The commit that made it.
    pub commit: Commit,
    /// When.
    pub time: Timestamp,
}

impl From<&KeyRecord> for Previous {
    /// The change that made the record what it is.
    fn from(key: &KeyRecord) -> Self {
        Self { commit: key.version, time: key.updated_at }
    }
}

impl From<&AliasRecord> for Previous {
    /// The change that made the record what it is.
    fn from(alias: &AliasRecord) -> Self {
        Self { commit: alias.version, time: alias.updated_at }
    }
}

/// A record before and after a change: `None` where it was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Images {
    /// A key.
    Key {
        /// As it was.
        before: Option<Arc<KeyRecord>>,
        /// As the change left it.
        after: Option<Arc<KeyRecord>>,
    },
    /// An alias.
    Alias {
        /// As it was.
        before: Option<Arc<AliasRecord>>,
        /// As the change left it.
        after: Option<Arc<AliasRecord>>,
    },
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)+) => {
        /// The operation that made a change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Operation {
            $($(#[$doc])* $name,)+
        }

        impl Operation {
            /// The stored numbers. A number is never given a second meaning.
            pub(crate) const REGISTER: &[(u8, Self)] = &[$(($number, Self::$name),)+];
        }
    };
}

operations! {
    /// [`create_key`](crate::Transaction::create_key), also the aliases made with the key.
    CreateKey = 1,
    /// [`ensure_default_key`](crate::Transaction::ensure_default_key).
    EnsureDefaultKey = 2,
    /// [`update_description`](crate::Transaction::update_description).
    UpdateDescription = 3,
    /// [`set_tags`](crate::Transaction::set_tags).
    SetTags = 4,
    /// [`remove_tags`](crate::Transaction::remove_tags).
    RemoveTags = 5,
    /// [`enable_rotation`](crate::Transaction::enable_rotation).
    EnableRotation = 6,
    /// [`disable_rotation`](crate::Transaction::disable_rotation).
    DisableRotation = 7,
    /// [`set_rotation_interval`](crate::Transaction::set_rotation_interval).
    SetRotationInterval = 8,
    /// [`record_rotation`](crate::Transaction::record_rotation).
    RecordRotation = 9,
    /// [`enable`](crate::Transaction::enable).
    Enable = 10,
    /// [`disable`](crate::Transaction::disable).
    Disable = 11,
    /// [`schedule_deletion`](crate::Transaction::schedule_deletion).
    ScheduleDeletion = 12,
    /// [`cancel_deletion`](crate::Transaction::cancel_deletion).
    CancelDeletion = 13,
    /// [`purge`](crate::Transaction::purge), also the aliases that went with the key.
    Purge = 14,
    /// [`freeze`](crate::Transaction::freeze).
    Freeze = 15,
    /// [`unfreeze`](crate::Transaction::unfreeze).
    Unfreeze = 16,
    /// [`material_imported`](crate::Transaction::material_imported).
    MaterialImported = 17,
    /// [`material_deleted`](crate::Transaction::material_deleted).
    MaterialDeleted = 18,
    /// [`material_expired`](crate::Transaction::material_expired).
    MaterialExpired = 19,
    /// [`rename_key_alias`](crate::Transaction::rename_key_alias).
    RenameKeyAlias = 20,
    /// [`swap_key_aliases`](crate::Transaction::swap_key_aliases).
    SwapKeyAliases = 21,
    /// [`create_alias`](crate::Transaction::create_alias).
    CreateAlias = 22,
    /// [`associate_alias`](crate::Transaction::associate_alias).
    AssociateAlias = 23,
    /// [`swap_aliases`](crate::Transaction::swap_aliases).
    SwapAliases = 24,
    /// [`delete_aliases`](crate::Transaction::delete_aliases).
    DeleteAliases = 25,
    /// [`revert`](crate::Transaction::revert).
    Revert = 26,
    /// [`remove_scope`](crate::Store::remove_scope).
    RemoveScope = 27,
}

impl Operation {
    /// Whether it only moves aliases or renames keys, so that [`revert`](crate::Transaction::revert)
    /// can undo it.
    pub const fn is_revertible(self) -> bool {
        matches!(
            self,
            Self::RenameKeyAlias
                | Self::SwapKeyAliases
                | Self::AssociateAlias
                | Self::SwapAliases
                | Self::Revert
        )
    }
}

/// The text is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a position is 32 hexadecimal digits, a hyphen, and the number of a commit")]
pub struct InvalidPosition;

/// A place in the sequence of a store's commits: behind this commit of this incarnation.
///
/// Commits are never cut, so there are no places inside of one. The incarnation is made at random with
/// the store, so a position of one store can't be mistaken for one of another: it is
/// [`PositionOfAnotherStore`](crate::Error::PositionOfAnotherStore). A copy of the file has the same
/// incarnation until it is opened with [`Options::restored`](crate::Options::restored).
///
/// As text, in which it is to be kept, it is the incarnation in hexadecimal, a hyphen, and the commit's
/// number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    pub(crate) incarnation: [u8; 16],
    pub(crate) commit: Commit,
}

impl Position {
    /// The commit behind which it is.
    pub fn commit(&self) -> Commit {
        self.commit
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", HEXLOWER.encode(&self.incarnation), self.commit)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (incarnation, commit) = text.split_once('-').ok_or(InvalidPosition)?;
        let incarnation = HEXLOWER.decode(incarnation.as_bytes()).map_err(|_| InvalidPosition)?;
        let number = commit.parse::<u64>().map_err(|_| InvalidPosition)?;
        let position = Self {
            incarnation: incarnation.try_into().map_err(|_| InvalidPosition)?,
            commit: Commit::new(number),
        };
        // Only one text for each position: no sign, no leading zero.
        if position.to_string() == text { Ok(position) } else { Err(InvalidPosition) }
    }
}

impl TryFrom<String> for Position {
    type Error = InvalidPosition;

    fn try_from(text: String) -> Result<Self, InvalidPosition> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> String {
        position.to_string()
    }
}
