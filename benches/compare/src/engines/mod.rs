//! The engines, by name.

mod fjall;
mod keystead;
mod lmdb;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sqlite;

use crate::peer::Open;

/// An engine: its name in the CSV, the crate whose version matters, and how its store is opened.
#[derive(Clone, Copy)]
pub struct Engine {
    pub name: &'static str,
    pub open: Open,
}

/// All that are built in, keystead first.
pub fn all() -> Vec<Engine> {
    vec![
        Engine { name: "keystead", open: keystead::open },
        Engine { name: "redb", open: redb::open },
        Engine { name: "sqlite", open: sqlite::open },
        Engine { name: "lmdb", open: lmdb::open },
        Engine { name: "fjall", open: fjall::open },
        #[cfg(feature = "rocksdb")]
        Engine { name: "rocksdb", open: rocksdb::open },
    ]
}

/// The engine of this name.
pub fn named(name: &str) -> Option<Engine> {
    all().into_iter().find(|engine| engine.name == name)
}
