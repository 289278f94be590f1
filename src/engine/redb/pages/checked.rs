//! [`Checked`]: the file as redb takes it. Pages are compared with their checksums, and locks waited for.

use std::io;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::header::Header;
use super::{CONSISTENT_BYTE, Expected, PAGE, PageFile, WRITTEN, hash};
use crate::engine::disk::{BackendError, StorageBackend};
use crate::engine::lock_wait::{self, Wanted};

/// The file as redb takes it.
#[derive(Debug, Clone)]
pub(in super::super) struct Checked(pub(in super::super) Arc<PageFile>);

impl StorageBackend for Checked {
    fn len(&self) -> io::Result<u64> {
        self.0.file.len().inspect_err(|error| self.0.note_failure(error))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_checked(offset, out).inspect_err(|error| self.0.note_failure(error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Self(pages) = self;
        if offset < PAGE {
            return pages.write_header(offset, data);
        }
        pages.file.write(offset, data)?;
        let (shard, number) = pages.shard(offset);
        let order = (data.len() as u64 / PAGE).checked_ilog2().and_then(|order| u8::try_from(order).ok());
        let expected =
            Expected { checksum: hash(data), order: order.unwrap_or(u8::MAX), tree: WRITTEN, seen: false };
        shard.write().unwrap_or_else(PoisonError::into_inner).insert(number, expected);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.file.set_len(length)?;
        self.0.length.store(length, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.file.sync_data()?;
        let mut own = self.0.own();
        own.synced = own.written;
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.0.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.noting_refused((start, end), true, self.0.file.try_lock_range(start, end))
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.noting_refused((start, end), false, self.0.file.try_lock_shared_range(start, end))
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.locks.acquire(&*self.0.file, (start, end), true)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.locks.acquire(&*self.0.file, (start, end), false)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        let byte = Bound::Included(CONSISTENT_BYTE);
        if (start, end) == (byte, byte) && self.0.is_consistent()? {
            return Ok(true);
        }
        let held = self.0.file.query_lock_range(start, end);
        if matches!(held, Ok(true)) {
            lock_wait::note_refused(Wanted::new((start, end), true));
        }
        held
    }
}

impl Checked {
    /// For the error of an opening, which says who holds the lock.
    fn noting_refused(
        &self,
        range: (Bound<u64>, Bound<u64>),
        exclusive: bool,
        acquired: Result<bool, BackendError>,
    ) -> Result<bool, BackendError> {
        if matches!(acquired, Ok(false)) {
            lock_wait::note_refused(Wanted::new(range, exclusive));
        }
        acquired
    }
}

impl PageFile {
    /// redb refuses to read a file that was not closed, unless a writer says that it has recovered it. There is nothing to
    /// recover for a reader in a file whose newest commit was synced in two phases: what it names is whole, and is left
    /// alone until a commit after it is synced too, also by a writer that recovers the file meanwhile.
    fn is_consistent(&self) -> io::Result<bool> {
        let length = self.length.load(Ordering::Acquire);
        Ok(self.is_followed
            && Header::read(&self.first_page()?, length).is_some_and(|header| header.two_phases))
    }
}
