//! [`Error`]: one enum for the whole crate; every variant says what the caller should do.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::alias::{Alias, InvalidAlias, KeyAlias};
use crate::change::InvalidPosition;
use crate::id::{Commit, InvalidKeyId, InvalidRequestId, InvalidScope, KeyId, RequestId};
use crate::key::{InvalidDescription, InvalidKeySpec, InvalidTagKey, InvalidTagValue, KeyState, TagKey};
use crate::page::{InvalidCursor, InvalidLimit};
use crate::time::{InvalidPendingDays, InvalidRotationInterval, Timestamp};

/// The result of almost everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
///
/// The first group is what the service's API names too, and [`api`](Error::api) gives its code and
/// status. The second group has no code there. A refusal never leaves anything behind; an input or
/// output failure or a damaged value is never reported as "not found" or "exists".
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no key id. Correct it.
    #[error(transparent)]
    InvalidKeyId(InvalidKeyId),
    /// The text is no request id. Correct it.
    #[error(transparent)]
    InvalidRequestId(#[from] InvalidRequestId),
    /// The request id was used for another request. Take a new id for a new request.
    #[error("the request id {0} was used for another request")]
    RequestIdReused(RequestId),
    /// A domain, project, enterprise project or key store id, or a region, is malformed. Correct it.
    #[error(transparent)]
    InvalidScope(#[from] InvalidScope),
    /// The name is malformed or reserved. Choose another.
    #[error(transparent)]
    InvalidAlias(#[from] InvalidAlias),
    /// The description is too long. Shorten it.
    #[error(transparent)]
    InvalidDescription(#[from] InvalidDescription),
    /// The spec or usage is unknown, or they don't go together. Correct it.
    #[error(transparent)]
    InvalidKeySpec(#[from] InvalidKeySpec),
    /// The tag's key has a wrong length. Correct it.
    #[error(transparent)]
    InvalidTagKey(#[from] InvalidTagKey),
    /// The tag's value is too long. Shorten it.
    #[error(transparent)]
    InvalidTagValue(#[from] InvalidTagValue),
    /// The waiting time before the deletion is out of range. Correct it.
    #[error(transparent)]
    InvalidPendingDays(#[from] InvalidPendingDays),
    /// The rotation interval is out of range. Correct it.
    #[error(transparent)]
    InvalidRotationInterval(#[from] InvalidRotationInterval),
    /// The page limit is out of range. Correct it.
    #[error(transparent)]
    InvalidLimit(#[from] InvalidLimit),
    /// The cursor is damaged or belongs to another list. Begin the list again.
    #[error(transparent)]
    InvalidCursor(#[from] InvalidCursor),
    /// The list of aliases to delete is empty, too long, or has a name twice. Correct it.
    #[error("a list of aliases has 1 to 50 distinct names")]
    InvalidAliasList,
    /// There is no such key in the scope.
    #[error("there is no key {key}")]
    KeyNotFound {
        /// The id or key alias that was looked for.
        key: Box<str>,
    },
    /// There is no such alias in the scope.
    #[error("there is no alias {alias}")]
    AliasNotFound {
        /// The alias or URN that was looked for.
        alias: Box<str>,
    },
    /// The alias is not on this key.
    #[error("the alias {alias} is not on the key {key_id}")]
    AliasNotOnKey {
        /// The first name of the list that is not on the key.
        alias: Alias,
        /// The key.
        key_id: KeyId,
    },
    /// The key has no such tag.
    #[error("the key {key_id} has no tag {:?}", .tag.as_str())]
    TagNotFound {
        /// The tag's key.
        tag: TagKey,
        /// The key.
        key_id: KeyId,
    },
    /// A list of tags to remove names one of them twice. Name each once.
    #[error("the tag {:?} is named twice", .tag.as_str())]
    DuplicateTag {
        /// The first tag's key that comes again.
        tag: TagKey,
    },
    /// A key with this id exists in the scope.
    #[error("a key {0} exists")]
    KeyIdExists(KeyId),
    /// Another key of the project has this name. Choose another, or swap the two.
    #[error("another key is named {0}")]
    KeyAliasExists(KeyAlias),
    /// The alias, or one with the same URN, exists in the alias scope. Choose another, or move it.
    #[error("the alias {0}, or one with the same URN, exists")]
    AliasExists(Alias),
    /// One more would exceed a quota. Delete something, or raise the quota.
    #[error("the quota of {max} {quota} is used up")]
    QuotaExceeded {
        /// Which quota.
        quota: Quota,
        /// Its size.
        max: u64,
    },
    /// The key would have more tags than allowed.
    #[error("a key has at most {max} tags")]
    TooManyTags {
        /// The quota.
        max: usize,
    },
    /// The key belongs to the platform: it never changes and carries no alias.
    #[error("the default key {0} can't be changed and carries no alias")]
    DefaultKeyImmutable(KeyId),
    /// The key is disabled. Enable it first.
    #[error("the key {0} is disabled")]
    KeyDisabled(KeyId),
    /// The key is pending deletion. Cancel that first.
    #[error("the key {0} is pending deletion")]
    PendingDeletion(KeyId),
    /// The platform froze the key.
    #[error("the key {0} is frozen")]
    KeyFrozen(KeyId),
    /// Only a disabled key can be enabled.
    #[error("the key {0} is not disabled")]
    KeyNotDisabled(KeyId),
    /// Only an enabled key can be disabled.
    #[error("the key {0} is not enabled")]
    KeyNotEnabled(KeyId),
    /// The key's deletion is scheduled already.
    #[error("the key {0} is pending deletion already")]
    AlreadyPendingDeletion(KeyId),
    /// The key's deletion is not scheduled, so it can't be cancelled or carried out.
    #[error("the key {0} is not pending deletion")]
    NotPendingDeletion(KeyId),
    /// Only a key of origin external has material that is imported or deleted.
    #[error("the material of the key {0} is not external")]
    ExternalKeyRequired(KeyId),
    /// The key has its material already.
    #[error("the key {0} is not pending import")]
    NotPendingImport(KeyId),
    /// The material would have expired when it is imported. Choose a time to come, or none.
    #[error("imported material must expire after the time of the request, not at {} ms", .expires_at.as_millis())]
    InvalidExpiry {
        /// The time at which it was to expire.
        expires_at: Timestamp,
    },
    /// The key's material can't be deleted or expire in its state.
    #[error("the material of the key {0} can't be deleted while it is {1}")]
    MaterialNotDeletable(KeyId, KeyState),
    /// A key of origin external is not rotated.
    #[error("the key {0} has external material and can't be rotated")]
    ExternalKeyNotRotatable(KeyId),
    /// Only a symmetric key is rotated.
    #[error("the key {0} is not symmetric and can't be rotated")]
    AsymmetricNotRotatable(KeyId),
    /// Rotation is enabled already.
    #[error("the rotation of the key {0} is enabled already")]
    RotationNotDisabled(KeyId),
    /// Rotation is not enabled.
    #[error("the rotation of the key {0} is not enabled")]
    RotationNotEnabled(KeyId),
    /// The store lets an alias move only to a key of the same spec family and usage.
    #[error("the keys {from} and {to} differ in spec family or usage")]
    IncompatibleKey {
        /// The key that has the alias.
        from: KeyId,
        /// The key that was to have it.
        to: KeyId,
    },
    /// A precondition does not hold. Read again and decide anew.
    #[error("the precondition does not hold: {}", describe(.actual))]
    PreconditionFailed {
        /// What is there; `None` if nothing is.
        actual: Option<Actual>,
    },

    /// There is no such commit in the scope, or not yet. Check where the number is from; what is still
    /// to come can be waited for.
    #[error("there is no commit {0} here, or not yet")]
    CommitNotFound(Commit),
    /// The store was created without history, and it can't be switched on later. Do without.
    #[error("the store was created without history")]
    HistoryDisabled,
    /// That part of the history was trimmed. Ask for what is later, or read the present state.
    #[error("the history up to commit {floor} was trimmed")]
    HistoryTrimmed {
        /// The newest commit that was trimmed: the state after it, and later changes, are there.
        floor: Commit,
    },
    /// The commit did more than moving aliases and renaming keys. Undo it by hand.
    #[error("the commit {0} did more than moving aliases and renaming keys")]
    NotRevertible(Commit),
    /// The text is no position. Correct it.
    #[error(transparent)]
    InvalidPosition(#[from] InvalidPosition),
    /// The position is of another store, or of this one before it was restored. Begin anew: read a
    /// snapshot, and follow from there.
    #[error("the position is of another store")]
    PositionOfAnotherStore,
    /// The value that a closure returned can't be stored to be repeated, or the stored one is not of the
    /// type that is asked for now. Nothing was written; return a value that goes through JSON, and the
    /// same type for the same request. The text names the type and the place in the JSON, and never quotes
    /// the value.
    #[error("the value of a repeatable request can't be stored or repeated: {0}")]
    InvalidOutcome(Box<str>),

    /// Another transaction came between. Nothing was written; run it again.
    #[error("the transaction met another one; nothing was written, run it again")]
    Conflict,
    /// The engine can't be reached. Nothing was written; try again later.
    #[error("the storage engine can't be reached: {0}; nothing was written")]
    Unavailable(Box<str>),
    /// Too many calls wait for their turn already. Nothing was done; try again later, or tell the caller to, as by
    /// HTTP status 429 or 503. Only [`AsyncStore`](crate#async) has such a limit.
    #[error("{waiting} {what} wait already; nothing was done, try again later")]
    Busy {
        /// Of which kind: `reads`, `writes`, `other calls`.
        what: &'static str,
        /// The limit.
        waiting: u32,
    },
    /// The servers of the engine refuse this client: its user, password, role, or certificate. Nothing was
    /// written; correct them.
    #[error("the servers of the storage engine refuse this client: {0}; nothing was written")]
    AccessDenied(Box<str>),
    /// The commit failed so late that it may be durable nevertheless. Open the store again and read what
    /// is there before doing anything again; a [`write_once`](crate::Store::write_once) may just be made
    /// again.
    #[error("the commit failed, and may be durable nevertheless: {0}")]
    CommitUnknown(Box<str>),
    /// An earlier failure of input or output stopped the store. Open it again.
    #[error("an earlier input or output error stopped the store; open it again")]
    Poisoned,
    /// Stored bytes are damaged. Restore the store from a backup.
    #[error("the store is damaged: {0}")]
    Corrupted(Box<str>),
    /// The write-ahead log beside the file is not the one that belongs to it, or is missing. Put the right one
    /// back in its place, beside the file and named as it, with `.redo` added.
    #[error("the redo log does not belong to the store: {0}")]
    LogMismatch(Box<str>),
    /// The store was open for reading, and there is another one in its place now, or an older copy of it. Open it again.
    #[error("the store was replaced by another one while it was open for reading: {0}")]
    Replaced(Box<str>),
    /// There is a file at the path at which one was to be made. Choose another, or move it away; nothing is
    /// ever overwritten.
    #[error("there is a file already: {0}")]
    FileExists(Box<str>),
    /// The store that is to be copied into holds something, or somebody else copies into it. Take an empty one.
    #[error("the store that is to be copied into is not empty")]
    NotEmpty,
    /// The files of a backup do not belong together, or one is of another kind. Take those that do.
    #[error("the backup does not fit: {0}")]
    BackupMismatch(Box<str>),
    /// What was written does not hold what a store must hold; it was taken away again. Of a backup: the store
    /// is damaged, [`repair`](crate::repair) it. Of a repair: the damage leaves more than one way to go on.
    #[error("the copy is not sound: {}", findings(.0))]
    Unsound(Box<[String]>),
    /// The operating system reported an error.
    #[error("input or output failed: {0}")]
    Io(Arc<io::Error>),
    /// The transaction reads or writes more than allowed. Divide it.
    #[error("the transaction is too large: more than {max} {what}")]
    TransactionTooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A write was begun inside the closure of a write on the same thread. Use the transaction there.
    #[error("a write was begun inside the closure of another write")]
    NestedTransaction,
    /// The closure gave up by [`Error::abort`], or a test option caught it.
    #[error("the transaction was aborted: {0}")]
    Aborted(Arc<dyn std::error::Error + Send + Sync>),
    /// The store was opened read-only.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// Another process, or another handle of this one, has the file locked, and did not let go of it for as long as
    /// [`Options::lock_wait`](crate::Options::lock_wait). Have that process close the store, or wait; don't delete
    /// anything. Opening a store returns it. A read of a store that is open for reading only does too, if a process was
    /// stopped while it held a lock on the file's header.
    #[error("the store is {0}; close it there, or try again later")]
    AlreadyOpen(Locked),
    /// There is no store at this place, and none was made. Correct the path, the addresses or the prefix; or make one
    /// there, which [`Options::create`](crate::Options::create) allows unless something else is said.
    #[error("there is no store at {0}")]
    NoStore(Box<str>),
    /// A [copy](crate::Store::copy_to) into this store did not come to its end. Empty the place or take another one, and
    /// copy again.
    #[error("the store is not whole: a copy into it did not come to its end")]
    Unfinished,
    /// The file is no store.
    #[error("this is not a keystead store: {0}")]
    NotAStore(Box<str>),
    /// Another version of the library wrote this: a newer one, or one from before 0.1.0. Use that version.
    #[error("it is in format version {found}, and this version of the library reads {supported}")]
    Unsupported {
        /// The version found.
        found: u32,
        /// The version that this library reads.
        supported: u32,
    },
    /// An option differs from what was fixed when the store was created, or is out of range.
    #[error("the option {option} is {asked}, but must be {expected}")]
    OptionsMismatch {
        /// The option's name.
        option: &'static str,
        /// What was asked for.
        asked: String,
        /// What it must be.
        expected: String,
    },
}

/// The two quotas that [`Error::QuotaExceeded`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// [`Quotas::keys_per_project`](crate::Quotas::keys_per_project).
    KeysPerProject,
    /// [`Quotas::aliases_per_key`](crate::Quotas::aliases_per_key).
    AliasesPerKey,
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeysPerProject => "keys per project",
            Self::AliasesPerKey => "aliases per key",
        })
    }
}

/// What a precondition found instead of what it expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Actual {
    /// The key that is there, or that the name names.
    pub target: KeyId,
    /// The version of the record that was asked for.
    pub version: Commit,
}

fn describe(actual: &Option<Actual>) -> String {
    match actual {
        Some(Actual { target, version }) => format!("there is key {target}, version {version}"),
        None => "there is nothing".to_owned(),
    }
}

fn findings(all: &[String]) -> String {
    match all {
        [] => "nothing is known of it".to_owned(),
        [one] => one.clone(),
        [first, others @ ..] => format!("{first}, and {} more", others.len()),
    }
}

/// The service's code and HTTP status for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApiCode {
    /// The code, such as `KMS.0207`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
}

impl Error {
    /// The user's own failure: returned from a closure it drops the transaction and comes back as
    /// [`Error::Aborted`].
    ///
    /// ```
    /// let error = keystead::Error::abort("the day is not over");
    /// assert_eq!(error.to_string(), "the transaction was aborted: the day is not over");
    /// ```
    pub fn abort(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Aborted(reason.into().into())
    }

    /// Whether the same call may succeed if it is just made again, nothing having been written.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict | Self::Unavailable(_) | Self::Busy { .. })
    }

    /// Whether the engine failed, as against a refusal: such an error marks the transaction, and its
    /// commit returns it even if the closure swallowed it.
    pub(crate) fn is_of_engine(&self) -> bool {
        matches!(
            self,
            Self::Conflict
                | Self::Unavailable(_)
                | Self::AccessDenied(_)
                | Self::CommitUnknown(_)
                | Self::Poisoned
                | Self::Corrupted(_)
                | Self::Io(_)
                | Self::Unsupported { .. }
        )
    }

    /// The service's code and status for this error; `None` for what its API does not name.
    #[expect(clippy::too_many_lines, reason = "it is a table")]
    pub fn api(&self) -> Option<ApiCode> {
        let (code, status) = match self {
            Self::InvalidTagValue(_) => ("KMS.0405", 400),
            Self::InvalidTagKey(_) | Self::DuplicateTag { .. } => ("KMS.0406", 400),
            Self::TooManyTags { .. } => ("KMS.0409", 400),
            Self::TagNotFound { .. } => ("KMS.0416", 404),
            Self::InvalidKeyId(_) => ("KMS.0205", 400),
            Self::InvalidRequestId(_) | Self::RequestIdReused(_) => ("KMS.0206", 400),
            Self::KeyNotFound { .. } | Self::AliasNotFound { .. } | Self::AliasNotOnKey { .. } => {
                ("KMS.0207", 404)
            }
            Self::KeyDisabled(_) => ("KMS.0209", 400),
            Self::PendingDeletion(_) => ("KMS.0210", 400),
            Self::DefaultKeyImmutable(_) => ("KMS.0211", 400),
            Self::PreconditionFailed { .. }
            | Self::IncompatibleKey { .. }
            | Self::InvalidAliasList
            | Self::InvalidScope(_)
            | Self::KeyIdExists(_) => ("KMS.0308", 400),
            Self::ExternalKeyRequired(_) => ("KMS.0309", 400),
            Self::NotPendingImport(_) => ("KMS.0310", 400),
            Self::ExternalKeyNotRotatable(_) => ("KMS.0312", 400),
            Self::RotationNotEnabled(_) => ("KMS.0313", 400),
            Self::KeyFrozen(_) => ("KMS.0320", 400),
            Self::AsymmetricNotRotatable(_) => ("KMS.0325", 400),
            Self::InvalidAlias(_) => ("KMS.1101", 400),
            Self::InvalidDescription(_) => ("KMS.1103", 400),
            Self::KeyAliasExists(_) | Self::AliasExists(_) => ("KMS.1104", 400),
            Self::QuotaExceeded { .. } => ("KMS.1105", 400),
            Self::InvalidKeySpec(_) => ("KMS.1110", 400),
            Self::KeyNotDisabled(_) => ("KMS.1201", 400),
            Self::KeyNotEnabled(_) => ("KMS.1301", 400),
            Self::InvalidPendingDays(_) => ("KMS.1401", 400),
            Self::AlreadyPendingDeletion(_) => ("KMS.1402", 400),
            Self::NotPendingDeletion(_) => ("KMS.1501", 400),
            Self::InvalidLimit(_) => ("KMS.1601", 400),
            Self::InvalidCursor(_) | Self::InvalidPosition(_) => ("KMS.1602", 400),
            Self::InvalidExpiry { .. } => ("KMS.2602", 400),
            Self::MaterialNotDeletable(..) => ("KMS.2701", 400),
            Self::RotationNotDisabled(_) => ("KMS.2901", 400),
            Self::InvalidRotationInterval(_) => ("KMS.3001", 400),
            Self::Conflict
            | Self::Unavailable(_)
            | Self::Busy { .. }
            | Self::AccessDenied(_)
            | Self::CommitUnknown(_)
            | Self::CommitNotFound(_)
            | Self::HistoryDisabled
            | Self::HistoryTrimmed { .. }
            | Self::NotRevertible(_)
            | Self::PositionOfAnotherStore
            | Self::InvalidOutcome(_)
            | Self::Poisoned
            | Self::Corrupted(_)
            | Self::LogMismatch(_)
            | Self::Replaced(_)
            | Self::FileExists(_)
            | Self::NotEmpty
            | Self::BackupMismatch(_)
            | Self::Unsound(_)
            | Self::Io(_)
            | Self::TransactionTooLarge { .. }
            | Self::NestedTransaction
            | Self::Aborted(_)
            | Self::ReadOnly
            | Self::AlreadyOpen(_)
            | Self::NoStore(_)
            | Self::Unfinished
            | Self::NotAStore(_)
            | Self::Unsupported { .. }
            | Self::OptionsMismatch { .. } => return None,
        };
        Some(ApiCode { code, status })
    }

    /// A short name of the error that stays what it is, for logs and labels of metrics: the service's code, such as
    /// `KMS.1104`, or where its API has none, the name of the variant, such as `commit_unknown`.
    pub fn code(&self) -> &'static str {
        if let Some(api) = self.api() {
            return api.code;
        }
        match self {
            Self::Conflict => "conflict",
            Self::Unavailable(_) => "unavailable",
            Self::Busy { .. } => "busy",
            Self::AccessDenied(_) => "access_denied",
            Self::CommitUnknown(_) => "commit_unknown",
            Self::CommitNotFound(_) => "commit_not_found",
            Self::HistoryDisabled => "history_disabled",
            Self::HistoryTrimmed { .. } => "history_trimmed",
            Self::NotRevertible(_) => "not_revertible",
            Self::PositionOfAnotherStore => "position_of_another_store",
            Self::InvalidOutcome(_) => "invalid_outcome",
            Self::Poisoned => "poisoned",
            Self::Corrupted(_) => "corrupted",
            Self::LogMismatch(_) => "log_mismatch",
            Self::Replaced(_) => "replaced",
            Self::FileExists(_) => "file_exists",
            Self::NotEmpty => "not_empty",
            Self::BackupMismatch(_) => "backup_mismatch",
            Self::Unsound(_) => "unsound",
            Self::Io(_) => "io",
            Self::TransactionTooLarge { .. } => "transaction_too_large",
            Self::NestedTransaction => "nested_transaction",
            Self::Aborted(_) => "aborted",
            Self::ReadOnly => "read_only",
            Self::AlreadyOpen(_) => "already_open",
            Self::NoStore(_) => "no_store",
            Self::Unfinished => "unfinished",
            Self::NotAStore(_) => "not_a_store",
            Self::Unsupported { .. } => "unsupported",
            Self::OptionsMismatch { .. } => "options_mismatch",
            // All others have a code in the API.
            _ => "other",
        }
    }

    pub(crate) fn key_not_found(key: impl fmt::Display) -> Self {
        Self::KeyNotFound { key: key.to_string().into() }
    }

    pub(crate) fn alias_not_found(alias: impl fmt::Display) -> Self {
        Self::AliasNotFound { alias: alias.to_string().into() }
    }
}

/// A file that is locked, and by whom: what [`Error::AlreadyOpen`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Locked {
    /// The path of the file, as it was given.
    pub path: Box<str>,
    /// The id of a process that holds the lock, which may be this one. `None` where the operating system does not say:
    /// it says so on Linux, of processes that this one may look into.
    pub holder: Option<u32>,
}

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, holder } = self;
        match holder {
            Some(holder) if *holder == std::process::id() => {
                write!(f, "locked by another handle of this process: {path}")
            }
            Some(holder) => write!(f, "locked by process {holder}: {path}"),
            None => write!(f, "locked by another process, or by another handle of this one: {path}"),
        }
    }
}

impl From<InvalidKeyId> for Error {
    /// A text that fits the pattern but is no UUID names no key.
    fn from(invalid: InvalidKeyId) -> Self {
        match invalid {
            InvalidKeyId::Malformed => Self::InvalidKeyId(invalid),
            InvalidKeyId::NamesNoKey(key) => Self::KeyNotFound { key },
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}
