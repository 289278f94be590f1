//! Marks that count until the system is started again, whether their writer is there or not.
#![cfg(target_os = "linux")]

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use redb::backends::FileBackend;

use super::follower_tests::{PAGES, Place, batch, commit, load, rows, to_write};
use super::{EmbeddedEngine, Limits, LogDisk};
use crate::engine::disk::{BackendError, StorageBackend};
use crate::engine::redb::{TableFile, TableReader, backend};
use crate::engine::scripted::Random;
use crate::engine::{Engine, boot};

/// A file whose locks nobody sees, as after a kill; and what is called after each sync.
struct Killed {
    file: FileBackend,
    has_synced: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Killed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(out)
    }
}

type Locked = Result<bool, BackendError>;

impl StorageBackend for Killed {
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
        self.file.sync_data()?;
        (self.has_synced)();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Locked {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Locked {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Locked {
        Ok(false)
    }
}

/// A writer that looks as if it was killed.
fn write(place: &Place, has_synced: Arc<dyn Fn() + Send + Sync>) -> EmbeddedEngine {
    let open = |number: usize| Killed {
        file: backend(to_write(&place.files().path(number))).unwrap(),
        has_synced: if number == 0 { has_synced.clone() } else { Arc::new(|| ()) },
    };
    let table = TableFile::on(open(0), &PAGES.shared_builder()).unwrap();
    let disk = LogDisk { frames: Box::new(open(1)), marks: Some(Box::new(open(1))) };
    let limits = Limits { log_bytes: 0, checkpoint_bytes: usize::MAX };
    EmbeddedEngine::in_boot(table, disk, limits, boot::of(&place.files().path(1))).unwrap()
}

/// A commit that was synced and never acknowledged is shown by no follower, or by all; after the system was started again
/// it is one that may have been.
#[test]
fn a_killed_writers_mark_counts_until_the_system_is_started_again() {
    let place = Place::new();
    let (writer, mut random) = (write(&place, Arc::new(|| ())), Random::new(1));
    commit(&writer, &batch(&mut random));
    let acknowledged = commit(&writer, &batch(&mut random));
    let mark = place.mark();
    let before = place.follow().unwrap();
    let newest = commit(&writer, &batch(&mut random));
    let last_mark = place.mark();
    // It was killed after the sync, before the mark.
    place.set_mark(&mark);
    let after = place.follow().unwrap();
    for follower in [&before, &after] {
        assert_eq!(follower.begin_read().unwrap().commit(), acknowledged);
    }
    // As if it was another boot: another file is one.
    let again = place.copy();
    assert_eq!(again.follow().unwrap().begin_read().unwrap().commit(), newest);
    place.set_mark(&last_mark);
    let expected = rows(&*writer.begin_read().unwrap());
    for follower in [&before, &after] {
        assert_eq!(rows(&*follower.begin_read().unwrap()), expected);
    }
}

/// While a bulk load is in the table and the mark does not say so, the mark alone does not count: else a follower that
/// begins then shows what those before do not.
#[test]
fn a_mark_does_not_count_alone_while_a_load_goes_past_it() {
    let place = Arc::new(Place::new());
    let ahead = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (place, ahead) = (place.clone(), ahead.clone());
        move || {
            let Ok(table) = TableReader::at(&place.files().path(0), PAGES) else { return };
            let (newest, mark) = (table.newest().unwrap().commit().number(), place.mark());
            let number = |at: usize| u64::from_le_bytes(mark[at..at + 8].try_into().unwrap());
            let (commit, boot) = (number(24), number(72));
            if newest > commit {
                ahead.lock().unwrap().push(boot);
            }
        }
    };
    let (writer, mut random) = (write(&place, Arc::new(hook)), Random::new(1));
    for _ in 0..3 {
        commit(&writer, &batch(&mut random));
        load(&writer, &mut random);
        let mark = place.mark();
        assert_ne!(mark[72..80], [0; 8], "behind the load it counts again");
    }
    let ahead = std::mem::take(&mut *ahead.lock().unwrap());
    assert!(ahead.len() >= 3 && ahead.iter().all(|boot| *boot == 0), "{ahead:?}");
}
