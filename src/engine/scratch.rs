//! A file that is only read: what redb writes while it recovers is kept in memory.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::{BackendError, StorageBackend};

const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;

#[derive(Debug)]
pub(super) struct Scratch<B> {
    file: B,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// How much of the file itself is still to be seen: less, once it was cut.
    of_file: u64,
    /// The blocks that were written, by their number.
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl<B: StorageBackend> Scratch<B> {
    pub(super) fn new(file: B) -> io::Result<Self> {
        let length = file.len()?;
        let written = Written { length, of_file: length, blocks: BTreeMap::new() };
        Ok(Self { file, written: Mutex::new(written) })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block as it is in the file, with zeros behind its end.
    fn block_of_file(&self, written: &Written, number: u64) -> io::Result<Vec<u8>> {
        let start = number * BLOCK_BYTES;
        let mut block = vec![0; BLOCK];
        let there = written.of_file.saturating_sub(start).min(BLOCK_BYTES);
        if there > 0 {
            let there = usize::try_from(there).unwrap_or(BLOCK);
            self.file.read(start, &mut block[..there])?;
        }
        Ok(block)
    }
}

/// The blocks that some bytes at an offset lie in: of each its number, where in it, and how many bytes.
fn blocks(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let first = usize::try_from(offset % BLOCK_BYTES).unwrap_or_default();
    let mut left = length;
    (offset / BLOCK_BYTES..).zip(std::iter::once(first).chain(std::iter::repeat(0))).map_while(
        move |(number, place)| {
            let bytes = left.min(BLOCK - place);
            left -= bytes;
            (bytes > 0).then_some((number, place, bytes))
        },
    )
}

impl<B: StorageBackend> StorageBackend for Scratch<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > written.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = out;
        for (number, place, bytes) in blocks(offset, rest.len()) {
            let (part, others) = rest.split_at_mut(bytes);
            match written.blocks.get(&number) {
                Some(block) => part.copy_from_slice(&block[place..place + bytes]),
                None => part.copy_from_slice(&self.block_of_file(&written, number)?[place..place + bytes]),
            }
            rest = others;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written();
        if length < written.length {
            written.of_file = written.of_file.min(length);
            written.blocks.split_off(&length.div_ceil(BLOCK_BYTES));
            let place = usize::try_from(length % BLOCK_BYTES).unwrap_or_default();
            if let Some(last) = written.blocks.get_mut(&(length / BLOCK_BYTES)) {
                last[place..].fill(0);
            }
        }
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        let mut rest = data;
        for (number, place, bytes) in blocks(offset, data.len()) {
            let (part, others) = rest.split_at(bytes);
            if !written.blocks.contains_key(&number) {
                let block = self.block_of_file(&written, number)?;
                written.blocks.insert(number, block);
            }
            if let Some(block) = written.blocks.get_mut(&number) {
                block[place..place + bytes].copy_from_slice(part);
            }
            rest = others;
        }
        written.length = written.length.max(offset + data.len() as u64);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    // Others may read the file at the same time, but not write it.

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
