//! [`Slots`]: rows by which an attempt to commit whose outcome is not known can be settled.
//!
//! Each attempt writes a slot that nobody else uses meanwhile, and compares that it has not changed since the
//! attempt before. So an attempt without an answer can be settled by writing the slot once more under the same
//! comparison: either that succeeds, and then the attempt has not been applied and never can be, not even if it
//! arrives late; or the attempt is what changed the slot, and the slot's revision is that of its commit. All slots
//! of a process are tied to its lease: they are gone when it has ended, and attempts with that lease are refused.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::client::{Client, Until};
use crate::error::Result;

/// How long the slots of a process that ended without a word stay, in seconds.
pub(super) const LEASE_SECONDS: i64 = 60;

/// One that is used by nobody else until it is given back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) number: u32,
    /// The lease that it is tied to.
    pub(super) lease: i64,
    /// The revision that changed it last; 0 if it is new.
    pub(super) modified: i64,
}

pub(super) struct Slots {
    /// What the keys of this process's slots have in common.
    pub(super) engine: [u8; 16],
    lease: AtomicI64,
    next: AtomicU32,
    free: Mutex<Vec<Slot>>,
}

impl Slots {
    pub(super) fn new(engine: [u8; 16], client: &Client) -> Result<Self> {
        let lease = client.grant(LEASE_SECONDS, client.until())?.into();
        Ok(Self { engine, lease, next: AtomicU32::new(0), free: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        // Nothing can panic while it is held.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lease(&self) -> i64 {
        self.lease.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> Slot {
        let lease = self.lease();
        let mut free = self.lock();
        free.retain(|slot| slot.lease == lease);
        // Numbers are not used again under another lease, whose rows may still be there.
        free.pop().unwrap_or_else(|| Slot {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            lease,
            modified: 0,
        })
    }

    /// For the next attempt. One whose state is not known is not given back.
    pub(super) fn give_back(&self, slot: Slot) {
        self.lock().push(slot);
    }

    /// Takes a new lease in place of one that has ended, unless somebody else did.
    pub(super) fn renew(&self, client: &Client, ended: i64, until: Until) -> Result<()> {
        if self.lease() == ended {
            let granted = client.grant(LEASE_SECONDS, until)?;
            if self.lease.compare_exchange(ended, granted, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // Somebody did. Nothing is tied to this one, and it ends by itself if it can't be ended now.
                let _ = client.revoke(granted);
            }
        }
        Ok(())
    }
}
