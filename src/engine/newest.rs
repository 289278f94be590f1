//! [`Newest`]: where an engine publishes its newest commit, and [`Reading`]: how it is read from.

use std::ops::Deref;
use std::sync::Arc;

use super::ReadTransaction;
use crate::sync::{ArcSwap, Guard};

/// A commit to read from, there for as long as this is kept.
///
/// To take the published one writes nothing that other threads write too, as the clone of an `Arc` would:
/// with that, two threads that read would be slower than one.
pub(crate) struct Reading(Guard<Arc<Box<dyn ReadTransaction>>>);

/// The newest commit of an engine, that all readers share and each commit replaces.
pub(crate) struct Newest(ArcSwap<Box<dyn ReadTransaction>>);

impl Reading {
    /// A commit that nobody else reads from.
    pub(crate) fn of(transaction: impl ReadTransaction + 'static) -> Self {
        Self(Guard::from_inner(Arc::new(Box::new(transaction))))
    }
}

impl Deref for Reading {
    type Target = dyn ReadTransaction;

    fn deref(&self) -> &Self::Target {
        &***self.0
    }
}

impl Newest {
    pub(crate) fn new(transaction: impl ReadTransaction + 'static) -> Self {
        Self(ArcSwap::from_pointee(Box::new(transaction) as Box<dyn ReadTransaction>))
    }

    /// What begins to read from now on, reads from this commit.
    pub(crate) fn publish(&self, transaction: impl ReadTransaction + 'static) {
        self.0.store(Arc::new(Box::new(transaction)));
    }

    pub(crate) fn read(&self) -> Reading {
        Reading(self.0.load())
    }
}
