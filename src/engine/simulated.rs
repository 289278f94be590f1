//! [`Machine`]: the locks on simulated files, so that one program has a store open as several processes have it, one that
//! writes and others that follow it. For tests, the fuzzer, and the torture (`examples/torture`).

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{BackendError, StorageBackend};
use super::embedded::{FileId, FollowedFiles};
use super::redb::{Pages, TableReader};
use crate::error::Result;

/// The number of the table.
pub(crate) const TABLE: usize = 0;
/// The number of the write-ahead log.
pub(crate) const WAL: usize = 1;

/// A machine, from one start to the next, with one store: clones are the same one. Locks end with the handles that hold
/// them.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    locks: [Locks; 2],
    boot: u64,
}

impl Machine {
    /// A machine after a start of this number: the mark of a writer counts without the writer until the next start. With 0
    /// it counts only while the writer is there, as where a system does not identify its starts.
    #[must_use]
    pub fn new(boot: u64) -> Self {
        Self { boot, ..Self::default() }
    }

    pub(crate) fn boot(&self) -> u64 {
        self.boot
    }

    /// Another handle of a file, with locks of its own.
    pub(crate) fn handle<B: StorageBackend>(&self, number: usize, file: B) -> Handle<B> {
        let locks = self.locks[number].clone();
        let mut held = locks.held();
        held.owners += 1;
        let owner = held.owners;
        drop(held);
        Handle { file, locks, owner }
    }
}

#[derive(Debug, Clone, Copy)]
struct Lock {
    owner: u64,
    first: u64,
    last: u64,
    exclusive: bool,
}

#[derive(Debug, Default)]
struct Held {
    owners: u64,
    locks: Vec<Lock>,
}

/// The locks on one file: each belongs to the handle that took it, as those of open file descriptions do.
#[derive(Debug, Clone, Default)]
struct Locks(Arc<Mutex<Held>>);

impl Locks {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Whether another handle has one that this one can't be beside.
    fn is_refused(&self, wanted: Lock) -> bool {
        self.locks.iter().any(|lock| {
            let overlaps = lock.first <= wanted.last && wanted.first <= lock.last;
            lock.owner != wanted.owner && overlaps && (lock.exclusive || wanted.exclusive)
        })
    }

    /// Takes these bytes out of what the handle has.
    fn release(&mut self, owner: u64, first: u64, last: u64) {
        let own = |lock: &Lock| lock.owner == owner && lock.first <= last && first <= lock.last;
        let cut: Vec<_> = self.locks.iter().copied().filter(own).collect();
        self.locks.retain(|lock| !own(lock));
        for lock in cut {
            if lock.first < first {
                self.locks.push(Lock { last: first - 1, ..lock });
            }
            if lock.last > last {
                self.locks.push(Lock { first: last + 1, ..lock });
            }
        }
    }
}

/// A handle of a file.
#[derive(Debug)]
pub(crate) struct Handle<B> {
    file: B,
    locks: Locks,
    owner: u64,
}

type Locked = std::result::Result<bool, BackendError>;
type Unlocked = std::result::Result<(), BackendError>;

impl<B> Handle<B> {
    fn wanted(&self, (start, end): (Bound<u64>, Bound<u64>), exclusive: bool) -> Lock {
        let first = match start {
            Bound::Unbounded => 0,
            Bound::Included(first) => first,
            Bound::Excluded(before) => before + 1,
        };
        let last = match end {
            Bound::Unbounded => u64::MAX,
            Bound::Included(last) => last,
            Bound::Excluded(behind) => behind - 1,
        };
        Lock { owner: self.owner, first, last, exclusive }
    }

    fn try_lock(&self, range: (Bound<u64>, Bound<u64>), exclusive: bool) -> Locked {
        let (mut held, wanted) = (self.locks.held(), self.wanted(range, exclusive));
        if held.is_refused(wanted) {
            return Ok(false);
        }
        held.release(self.owner, wanted.first, wanted.last);
        held.locks.push(wanted);
        Ok(true)
    }
}

impl<B> Drop for Handle<B> {
    fn drop(&mut self) {
        self.locks.held().release(self.owner, 0, u64::MAX);
    }
}

impl<B: StorageBackend> StorageBackend for Handle<B> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.locks.held().release(self.owner, 0, u64::MAX);
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        self.try_lock((start, end), true)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        self.try_lock((start, end), false)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Unlocked {
        Err(BackendError::Io(io::Error::other("nothing waits for a lock without a limit")))
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Unlocked {
        self.lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Unlocked {
        let Lock { owner, first, last, .. } = self.wanted((start, end), true);
        self.locks.held().release(owner, first, last);
        Ok(())
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        Ok(self.locks.held().is_refused(self.wanted((start, end), true)))
    }
}

/// The files of a store that is followed, by their numbers.
pub(crate) struct SimulatedFiles<F> {
    pub(crate) machine: Machine,
    pub(crate) file: F,
    pub(crate) pages: Pages,
}

impl<F: Fn(usize) -> B + Send + Sync + 'static, B: StorageBackend> FollowedFiles for SimulatedFiles<F> {
    fn table(&self) -> Result<(TableReader, FileId)> {
        let file = self.machine.handle(TABLE, (self.file)(TABLE));
        Ok((TableReader::on(file, self.pages)?, None))
    }

    fn table_now(&self) -> Result<FileId> {
        Ok(None)
    }

    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        Ok(Some(Box::new(self.machine.handle(WAL, (self.file)(WAL)))))
    }

    fn boot(&self) -> u64 {
        self.machine.boot
    }

    fn name(&self) -> String {
        "a store on simulated files".to_owned()
    }
}
