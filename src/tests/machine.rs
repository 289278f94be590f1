//! A simulated disk with the locks on its files: so processes that have a store open at the same time can be simulated,
//! one that writes and others that follow it.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::{Decide, Disk, LOG, TABLE};
use crate::engine::disk::{BackendError, OnStorage, StorageBackend};
use crate::engine::embedded::wal::{RedoLog, log_bytes};
use crate::engine::embedded::{EmbeddedEngine, FileId, FollowedFiles, Follower, Limits, LogDisk, LogFiles};
use crate::engine::redb::{LogState, Pages, TableFile, TableReader};
use crate::error::Result;

pub(super) const PAGES: Pages = Pages::believed(1 << 20);
/// How long a follower waits for what is in motion.
pub(super) const LOCK_WAIT: Duration = Duration::from_millis(3);
pub(super) const IDENTITY: &[u8] = b"identity";
/// So short that a few commits fill one, and are overwritten by some more.
pub(super) const SEGMENT_BYTES: u64 = 2048;
/// How long the segments may grow.
pub(super) const SEGMENT_BYTES_MAX: u64 = 4 * SEGMENT_BYTES;
const ID: [u8; 16] = [7; 16];

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
struct Handle {
    file: OnStorage,
    locks: Locks,
    owner: u64,
}

type Locked = std::result::Result<bool, BackendError>;
type Unlocked = std::result::Result<(), BackendError>;

impl Handle {
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
        let (mut held, wanted) = (self.locks.0.lock().unwrap(), self.wanted(range, exclusive));
        if held.is_refused(wanted) {
            return Ok(false);
        }
        held.release(self.owner, wanted.first, wanted.last);
        held.locks.push(wanted);
        Ok(true)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.locks.0.lock().unwrap().release(self.owner, 0, u64::MAX);
    }
}

impl StorageBackend for Handle {
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
        self.locks.0.lock().unwrap().release(self.owner, 0, u64::MAX);
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
        self.locks.0.lock().unwrap().release(owner, first, last);
        Ok(())
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        Ok(self.locks.0.lock().unwrap().is_refused(self.wanted((start, end), true)))
    }
}

/// A disk, and the locks of the processes that use it.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    pub(super) disk: Disk,
    locks: [Locks; 2],
}

/// Through which handle a writer makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Through {
    Table,
    /// By which the log is made.
    Making,
    Frames,
    /// By which the log is also made longer.
    Marks,
}

/// What a writer asks before each call.
pub(super) type Asks = Arc<dyn Fn(Through) -> Decide + Send + Sync>;

/// That each call succeeds.
pub(super) fn succeeds() -> Decide {
    Arc::new(|_| true)
}

impl Machine {
    pub(super) fn on(disk: Disk) -> Self {
        Self { disk, locks: Default::default() }
    }

    fn open(&self, number: usize, decide: Decide) -> Handle {
        let locks = self.locks[number].clone();
        let mut held = locks.0.lock().unwrap();
        held.owners += 1;
        let owner = held.owners;
        drop(held);
        Handle { file: self.disk.decided(number, decide), locks, owner }
    }

    pub(super) fn follow(&self, decide: &Decide) -> Result<Follower> {
        let files = Files { machine: self.clone(), decide: decide.clone() };
        Follower::open(files, IDENTITY.to_vec(), LOCK_WAIT)
    }

    /// A writer, as one on files: its log is made when it is needed, and grows; it is used from the second commit on.
    pub(super) fn write(&self, asks: &Asks) -> Result<EmbeddedEngine> {
        let table = TableFile::on(self.open(TABLE, asks(Through::Table)), &PAGES.shared_builder())?;
        let limits = Limits { log_bytes: log_bytes(SEGMENT_BYTES_MAX), checkpoint_bytes: usize::MAX };
        EmbeddedEngine::open(table, LogOf { machine: self.clone(), asks: asks.clone() }, limits)
    }

    pub(super) fn write_at_ease(&self) -> Result<EmbeddedEngine> {
        self.write(&(Arc::new(|_| succeeds()) as Asks))
    }

    /// A writer that is killed when it is dropped while this says so: none of its calls comes to the disk from then on.
    pub(super) fn write_until(&self, is_killed: &Arc<AtomicBool>) -> Result<EmbeddedEngine> {
        let is_killed = is_killed.clone();
        let decide: Decide = Arc::new(move |_| !is_killed.load(SeqCst));
        self.write(&(Arc::new(move |_| decide.clone()) as Asks))
    }
}

struct Files {
    machine: Machine,
    decide: Decide,
}

impl FollowedFiles for Files {
    fn table(&self) -> Result<(TableReader, FileId)> {
        Ok((TableReader::on(self.machine.open(TABLE, self.decide.clone()), PAGES)?, None))
    }

    fn table_now(&self) -> Result<FileId> {
        Ok(None)
    }

    fn log(&self) -> Result<Option<Box<dyn StorageBackend>>> {
        Ok(Some(Box::new(self.machine.open(LOG, self.decide.clone()))))
    }

    fn name(&self) -> String {
        "a store on a machine".to_owned()
    }
}

struct LogOf {
    machine: Machine,
    asks: Asks,
}

impl LogFiles for LogOf {
    fn open(&self, table: &TableFile, mut state: LogState) -> Result<(LogDisk, LogState)> {
        let open = |through| self.machine.open(LOG, (self.asks)(through));
        if state == LogState::None {
            state = LogState::Closed { id: ID, next: 0 };
            table.mark(state)?;
        }
        let making = open(Through::Making);
        let mut first = [0];
        if making.len()? > 0 {
            making.read(0, &mut first)?;
        }
        if first == [0] && matches!(state, LogState::Closed { .. }) {
            RedoLog::create(&making, ID, SEGMENT_BYTES)?;
        }
        let (frames, marks) = (Box::new(open(Through::Frames)), Box::new(open(Through::Marks)));
        Ok((LogDisk { frames, marks: Some(marks) }, state))
    }
}
