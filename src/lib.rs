//! An embedded, transactional storage engine for KMS keys and their aliases.
//!
//! A key management service keeps key records and names for them. Applications call keys by name; operators rename
//! keys and move aliases while thousands of callers resolve them. keystead is what such a service embeds so that a
//! name is
//!
//! - **never on two keys:** it is the write itself that upholds uniqueness, in a project or in a domain;
//! - **never on none while it moves:** a commit is whole, durable when it returns, and a read sees one commit;
//! - **never on a key that may not carry it:** default keys never change, and a key to be deleted takes no name;
//! - **never taken by somebody else in between:** preconditions, versions that never repeat, repeats that run once.
//!
//! ```
//! use keystead::{After, Alias, Expect, HistoryOf, Limit, NewKey, Order, Request, Scope, Store};
//!
//! # fn main() -> keystead::Result<()> {
//! let store = Store::in_memory()?; // or Store::open("kms.redb")?
//! let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f")?;
//! let request = Request::new(&scope).actor("alice");
//! let alias: Alias = "kms-1234".parse()?;
//!
//! let (old, new) = (NewKey::new("orders-2025")?, NewKey::new("orders-2026")?);
//! store.write(&request, |txn| {
//!     txn.create_key(&old)?;
//!     txn.create_key(&new)?;
//!     txn.create_alias(&alias, old.key_id) // all three, or nothing
//! })?;
//!
//! let moved = store.write(&request, |txn| {
//!     txn.expect_alias(&alias, Expect::Target(old.key_id))?; // nobody moved it meanwhile
//!     txn.associate_alias(&alias, new.key_id)
//! })?;
//!
//! let key = store.read(&scope, |snap| snap.resolve(&alias))?;
//! assert_eq!((key.key_id, key.key_alias.as_str()), (new.key_id, "orders-2026"));
//!
//! let history = store.read(&scope, |snap| {
//!     snap.history(HistoryOf::Alias(&alias), Order::NewestFirst, After::Start, Limit::default())
//! })?;
//! assert_eq!(history.items[0].info.commit, moved.commit);
//! assert_eq!(history.items[0].info.actor.as_deref(), Some("alice"));
//! # Ok(())
//! # }
//! ```
//!
//! | feature | what it adds |
//! |---|---|
//! | (none) | everything but what is below: the store in a file or in memory |
//! | `tokio` | `AsyncStore`: calls that block no thread of a tokio runtime, with a bound on those that run and on those that wait |
//! | `etcd` | `Etcd`, `Store::open_etcd`: the same store on an etcd cluster; its build needs `protoc` |
//! | `tracing`, `metrics` | what the store does, told to a subscriber, and to a recorder |
//!
//! **The documents:** [semantics], the contract, with the source of each rule; [cookbook], whole recipes;
//! [how it works]; [history], [backup], [durability], [distributed] and [operations]; [cli], the operator's tool, [backend], an HTTP
//! server on top, and [observability]; [architecture]; [performance]; [comparison] with other ways to do it;
//! [questions].
//!
//! # Where to begin
//!
//! [`Store`] is the handle, and [`Options`] says how to open one. [`Store::write`] runs a closure on a [`Transaction`],
//! which has all operations that change something, and commits all of it or nothing; [`Store::read`] runs one on a
//! [`Snapshot`], which has the look-ups and the lists. A call is made in one [`Scope`]; a write takes a [`Request`],
//! which adds the time. [`Error`] says of each failure what to do. All calls block, and a [`Store`] can be cloned and
//! used from any thread.
//!
//! Whoever runs a store calls [`Store::sweep`] from a timer, [`Store::verify`] now and then, and [`Store::backup`];
//! what was lost comes back by [`Restore`].
//!
//! Every commit keeps who made it, when, and each record before and after: [`Snapshot::history`] and
//! [`Snapshot::resolve_at`] tell what was before, [`Transaction::revert`] undoes a wrong move, and
//! [`Store::changes`] with [`Store::wait`] follows the whole store. [`Store::write_once`] answers a request
//! that comes again as it did the first time, and does nothing.
//!
//! [architecture]: https://docs.rs/crate/keystead/latest/source/docs/architecture.md
//! [backend]: https://docs.rs/crate/keystead/latest/source/docs/backend.md
//! [backup]: https://docs.rs/crate/keystead/latest/source/docs/backup.md
//! [cli]: https://docs.rs/crate/keystead/latest/source/docs/cli.md
//! [comparison]: https://docs.rs/crate/keystead/latest/source/docs/comparison.md
//! [cookbook]: https://docs.rs/crate/keystead/latest/source/docs/cookbook.md
//! [distributed]: https://docs.rs/crate/keystead/latest/source/docs/distributed.md
//! [durability]: https://docs.rs/crate/keystead/latest/source/docs/durability.md
//! [how it works]: https://docs.rs/crate/keystead/latest/source/docs/how-it-works.md
//! [history]: https://docs.rs/crate/keystead/latest/source/docs/history.md
//! [observability]: https://docs.rs/crate/keystead/latest/source/docs/observability.md
//! [operations]: https://docs.rs/crate/keystead/latest/source/docs/operations.md
//! [performance]: https://docs.rs/crate/keystead/latest/source/docs/performance.md
//! [questions]: https://docs.rs/crate/keystead/latest/source/docs/questions.md
//! [semantics]: https://docs.rs/crate/keystead/latest/source/docs/semantics.md

#![warn(clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod alias;
#[cfg(feature = "tokio")]
mod asynchronous;
mod change;
mod engine;
mod error;
mod format;
mod id;
mod key;
mod page;
mod policy;
mod progress;
mod request;
mod rules;
mod store;
mod sync;
mod telemetry;
mod time;
mod txn;
mod verify;

#[cfg(test)]
mod tests;
/// So that tests in here can use what those in `tests` share.
#[cfg(test)]
extern crate self as keystead;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

/// What the operator's tool shares with the library: it makes files as the library does, so that either removes what the
/// other left. Not part of the API: it may change with each version, and the tool asks for exactly its own.
#[doc(hidden)]
pub mod cli_support {
    pub use crate::store::temporary::{Temporary, TemporaryFile, folder_of, remove_unused};
}

/// Not part of the API, and may change at any time: stores that several simulated processes have open, for `torture/`.
#[doc(hidden)]
pub mod simulation {
    pub use crate::engine::simulated::Machine;
}

/// The examples in the documents are tests too.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/architecture.md")]
    mod architecture {}
    #[doc = include_str!("../docs/backup.md")]
    mod backup {}
    #[doc = include_str!("../docs/cookbook.md")]
    mod cookbook {}
    #[doc = include_str!("../docs/distributed.md")]
    mod distributed {}
    #[doc = include_str!("../docs/format.md")]
    mod format {}
    #[doc = include_str!("../docs/history.md")]
    mod history {}
    #[doc = include_str!("../docs/operations.md")]
    mod operations {}
    #[doc = include_str!("../docs/performance.md")]
    mod performance {}
    #[doc = include_str!("../docs/questions.md")]
    mod questions {}
    #[doc = include_str!("../docs/semantics.md")]
    mod semantics {}
}

// The handle, and what a call is made with.
#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncLimits, AsyncQueue, AsyncStore};
pub use engine::Storage;
#[cfg(feature = "etcd")]
pub use engine::{ClusterStats, Etcd};
pub use policy::{AliasScope, Compatibility, Quotas, Retention};
pub use progress::{Progress, Step};
pub use request::Request;
pub use store::{
    BackgroundCheck, Backup, Committed, Compacted, Copied, DryRun, Import, Imported, Options, Removed,
    Restore, Restored, Stats, Store, Swept, compact,
};
#[cfg(feature = "metrics")]
pub use telemetry::describe_metrics;
pub use txn::{CacheStats, Expect, Moved, Renamed, Snapshot, Transaction, TransactionLimits};

// Names and ids.
pub use alias::{Alias, AliasRecord, AliasUrn, InvalidAlias, KeyAlias, RESERVED_SUFFIX};
pub use id::{
    Commit, DomainId, EnterpriseProjectId, InvalidKeyId, InvalidRequestId, InvalidScope, KeyId, KeystoreId,
    ProjectId, Region, RequestId, Scope,
};

// Keys.
pub use key::{
    Description, InvalidDescription, InvalidKeySpec, InvalidTagKey, InvalidTagValue, KeyRecord, KeySpec,
    KeyState, KeyUsage, Material, NewKey, Origin, Rotation, SpecFamily, TagKey, TagValue, Tags,
};
pub use time::{InvalidPendingDays, InvalidRotationInterval, PendingDays, RotationInterval, Timestamp};

// Lists.
pub use page::{After, Cursor, InvalidCursor, InvalidLimit, KeyFilter, Limit, Page};

// What was before, and what happens.
pub use change::{
    Change, ChangeRecord, CommitInfo, CommitRecord, Images, InvalidPosition, Operation, Position, Previous,
};
pub use engine::{LockStats, LogStats, PageStats, Waited};
pub use store::Changes;
pub use txn::{At, HistoryOf, Order};

// What may go wrong, and what is wrong.
pub use error::{Actual, ApiCode, Error, Locked, Quota, Result};
pub use store::{DamagedPage, Finding, PageCheck, RepairReport, WalUse, check_pages, repair};
pub use verify::{Report, Violation};
