//! Tests of the whole crate that need more than its public items.

mod backup;
#[cfg(feature = "etcd")]
#[path = "../tests/etcd/chaos/mod.rs"]
mod chaos;
#[cfg(feature = "etcd")]
mod chaos_controls;
mod circles;
#[cfg(feature = "etcd")]
#[path = "../tests/etcd/cluster.rs"]
pub(crate) mod cluster;
mod corpus;
pub(crate) mod disk;
mod errors;
mod faults;
mod followed_faults;
mod follower_faults;
mod history;
#[path = "../tests/history_support/mod.rs"]
mod history_support;
mod import;
mod layers;
#[cfg(any(shuttle, feature = "etcd"))]
#[path = "../tests/linearizability/mod.rs"]
mod linearizability;
mod machine;
mod outcomes;
mod promises;
mod repair;
mod seal;
#[cfg(shuttle)]
mod shuttle;
mod sources;
mod spaces;
mod stand_ins;
#[cfg(all(feature = "tracing", feature = "metrics"))]
mod telemetry;

use crate::engine::embedded::EmbeddedEngine;
use crate::engine::scripted::Scripted;
use crate::{KeyId, NewKey, Options, Request, Scope, Store, Timestamp};

/// A store in memory, and the engine of scripts that it is on.
fn scripted() -> (Store, Scripted) {
    scripted_with(Options::new())
}

fn scripted_with(options: Options) -> (Store, Scripted) {
    let engine = Scripted::new(EmbeddedEngine::in_memory());
    options.begin(&engine).unwrap();
    (options.on(Box::new(engine.clone())).unwrap(), engine)
}

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn request() -> Request {
    Request::new(&scope()).at(Timestamp::from_millis(1_000_000))
}

/// A key with an id of its own.
fn new_key(name: &str, number: u8) -> NewKey {
    NewKey::new(name).unwrap().id(KeyId::from_bytes([number; 16]))
}
