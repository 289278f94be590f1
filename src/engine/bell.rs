//! Waking those who wait for a commit.

use std::sync::PoisonError;
use std::time::Duration;

use super::Waited;
use crate::id::Commit;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Wakes those who wait for a commit.
#[derive(Default)]
pub(super) struct Bell {
    /// The newest commit that was rung for, and whether waiting has ended for good.
    state: Mutex<(Commit, bool)>,
    rung: Condvar,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, (Commit, bool)> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ring(&self, commit: Commit) {
        self.lock().0 = commit;
        self.rung.notify_all();
    }

    pub(super) fn end(&self) {
        self.lock().1 = true;
        self.rung.notify_all();
    }

    pub(super) fn wait(&self, after: Commit, timeout: Duration) -> Waited {
        let waiting = |(newest, ended): &mut (Commit, bool)| !*ended && *newest <= after;
        let outcome = self.rung.wait_timeout_while(self.lock(), timeout, waiting);
        let (state, _) = outcome.unwrap_or_else(PoisonError::into_inner);
        match *state {
            (newest, _) if newest > after => Waited::Committed,
            (_, true) => Waited::Closed,
            _ => Waited::TimedOut,
        }
    }
}
