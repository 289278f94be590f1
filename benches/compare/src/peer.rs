//! What every engine does here: the same operations, the same refusals, the same answers.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use keystead::{Alias, KeyId, KeyRecord, NewKey};

pub use crate::place::{Answer, Place};
use crate::record::Record;

/// The most aliases that a key has.
pub const ALIASES_PER_KEY: usize = 50;

/// An alias to be moved.
#[derive(Debug, Clone)]
pub struct Move {
    /// Where.
    pub place: Place,
    /// Which alias.
    pub alias: Alias,
    /// To which key.
    pub target: KeyId,
    /// The key that it must name before, if that is said.
    pub expected: Option<KeyId>,
}

/// What a move did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The key that the alias named before.
    pub former: KeyId,
    /// Whether it moved: not if it named the target already.
    pub changed: bool,
}

/// Why an alias was not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It does not name the key that was expected.
    Unexpected,
    /// There is no such alias.
    AliasNotFound,
    /// There is no such key.
    KeyNotFound,
    /// The target is pending deletion.
    PendingDeletion,
    /// The target has all the aliases that it may have.
    Quota,
}

/// What came of a move.
pub type Outcome = Result<Moved, Refusal>;

/// A key record, as the engine gives it.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation that the peers need not make")]
pub enum Resolved {
    /// Shared, from keystead.
    Shared(Arc<KeyRecord>),
    /// Decoded, from a peer.
    Decoded(Record),
}

impl Resolved {
    /// The key's id.
    pub fn key_id(&self) -> KeyId {
        match self {
            Self::Shared(key) => key.key_id,
            Self::Decoded(key) => KeyId::from_bytes(key.key_id),
        }
    }

    /// The number of the key's state.
    pub fn state(&self) -> u8 {
        match self {
            Self::Shared(key) => key.state.number(),
            Self::Decoded(key) => key.state,
        }
    }

    /// The key's own name.
    #[cfg(test)]
    pub fn key_alias(&self) -> &str {
        match self {
            Self::Shared(key) => key.key_alias.as_str(),
            Self::Decoded(key) => &key.key_alias,
        }
    }

    /// Makes the compiler believe that every field is used.
    pub fn used(self) -> Self {
        black_box(self)
    }
}

/// How a store is made.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Memory for cached pages or blocks, the same for all engines.
    pub cache_bytes: usize,
    /// Whether each commit leaves an entry of what it changed.
    pub history: bool,
}

impl Settings {
    /// The cache for a store of so many keys: 64 MiB and 1 KiB a key, about 1 GiB for a million. The whole
    /// store fits, in every engine.
    pub fn of(keys: usize, history: bool) -> Self {
        Self { cache_bytes: 64 * 1024 * 1024 + 1024 * keys, history }
    }
}

/// An engine's store, open. Dropping it closes it.
pub trait Peer: Send + Sync {
    /// Loads keys, each with its aliases, into a scope that is empty; refuses names that are there twice.
    /// Durable when it returns.
    fn import(&self, place: Place, keys: &[NewKey]) -> Answer<()>;

    /// Gives one thread what it needs to work on the store: a connection and prepared statements for instance.
    fn session(&self, work: &mut dyn FnMut(&mut dyn Session) -> Answer<()>) -> Answer<()>;

    /// Whether callers are worth being grouped from outside: not if the engine's own calls are all there is.
    fn can_group(&self) -> bool {
        true
    }

    /// The most moves in one commit.
    fn group_max(&self) -> usize {
        1000
    }
}

/// One thread's work on a store.
pub trait Session {
    /// From an alias to the whole key record, at one moment.
    fn resolve(&mut self, place: Place, alias: &Alias) -> Answer<Option<Resolved>>;

    /// A page of alias records, in order, behind an alias.
    fn list(
        &mut self,
        place: Place,
        after: &Alias,
        limit: usize,
        each: &mut dyn FnMut(&str, KeyId),
    ) -> Answer<()>;

    /// Moves one alias. Durable when it returns.
    fn associate(&mut self, wanted: &Move) -> Answer<Outcome>;

    /// Moves several, in one commit. A refusal of one does not touch the others.
    fn associate_group(&mut self, wanted: &[Move]) -> Answer<Vec<Outcome>>;

    /// Schedules a key for deletion, so that no alias may move to it.
    fn schedule_deletion(&mut self, place: Place, key_id: KeyId) -> Answer<()>;
}

/// Opens or makes a store in a folder that is there.
pub type Open = fn(&Path, Settings) -> Answer<Box<dyn Peer>>;
