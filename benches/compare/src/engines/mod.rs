//! The engines, by name.

mod fjall;
mod keystead;
mod lmdb;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sqlite;

use crate::peer::Open;

/// An engine: its name in the CSV, how its store is opened, and how by who only reads, where that is measured.
#[derive(Clone, Copy)]
pub struct Engine {
    pub name: &'static str,
    pub open: Open,
    pub follow: Option<Open>,
}

/// All that are built in, keystead first.
pub fn all() -> Vec<Engine> {
    vec![
        Engine { name: "keystead", open: keystead::open, follow: Some(keystead::follow) },
        Engine { name: "redb", open: redb::open, follow: None },
        Engine { name: "sqlite", open: sqlite::open, follow: None },
        Engine { name: "lmdb", open: lmdb::open, follow: None },
        Engine { name: "fjall", open: fjall::open, follow: None },
        #[cfg(feature = "rocksdb")]
        Engine { name: "rocksdb", open: rocksdb::open, follow: None },
    ]
}

/// The engine of this name.
pub fn named(name: &str) -> Option<Engine> {
    all().into_iter().find(|engine| engine.name == name)
}
