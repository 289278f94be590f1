//! A simulated disk with the locks on its files: so processes that have a store open at the same time can be simulated,
//! one that writes and others that follow it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use super::disk::{Decide, Disk, LOG, TABLE};
use crate::engine::disk::{OnStorage, StorageBackend};
use crate::engine::embedded::wal::{RedoLog, log_bytes};
use crate::engine::embedded::{EmbeddedEngine, Follower, Limits, LogDisk, LogFiles};
use crate::engine::redb::{LogState, Pages, TableFile};
use crate::engine::simulated::{self, Handle, SimulatedFiles};
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

/// A disk, and the locks of the processes that use it.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    pub(super) disk: Disk,
    locks: simulated::Machine,
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
        Self { disk, locks: simulated::Machine::default() }
    }

    pub(super) fn locks(&self) -> simulated::Machine {
        self.locks.clone()
    }

    fn open(&self, number: usize, decide: Decide) -> Handle<OnStorage> {
        self.locks.handle(number, self.disk.decided(number, decide))
    }

    pub(super) fn follow(&self, decide: &Decide) -> Result<Follower> {
        let (disk, decide) = (self.disk.clone(), decide.clone());
        let file = move |number| disk.decided(number, decide.clone());
        let files = SimulatedFiles { machine: self.locks.clone(), file, pages: PAGES };
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
