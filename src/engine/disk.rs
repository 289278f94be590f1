//! How the files of a store are read and written: redb's own trait, for the redo log too, so that a test can
//! put both on one simulated disk.

pub(crate) use redb::{BackendError, StorageBackend};
