//! How the files of a store are read and written: [`Storage`] for what is not a file, and redb's own trait,
//! for the write-ahead log too, so that both can be put on either.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use redb::{BackendError, StorageBackend};

/// Bytes that a store is kept in, in the place of a file: for encryption at rest, for another kind of
/// device, or for a test that fails on purpose. See [`Options::open_on`](crate::Options::open_on).
///
/// Calls come from several threads, reads also while something is written. What the store promises rests
/// on what this promises:
///
/// - When [`sync`](Self::sync) has returned, everything that was written before it began outlives a crash.
/// - Of a write that no sync followed, a crash may leave all, nothing, or a part. It touches nothing but
///   its own bytes: whoever encrypts in blocks must see to it that a write which is cut off leaves the
///   rest of its first and last block as it was. Sectors of 512 bytes are enough for the write-ahead log,
///   which never shares one between two writes; the table also overwrites a few bytes in its first page.
/// - A call that fails may have been carried out, in part or as a whole. The store does not try it again;
///   if it was one of a commit, nothing more is written until the store is opened anew.
pub trait Storage: Send + Sync + 'static {
    /// How many bytes there are.
    ///
    /// # Errors
    ///
    /// What came in between.
    fn len(&self) -> io::Result<u64>;

    /// Whether there are none.
    ///
    /// # Errors
    ///
    /// Those of [`len`](Self::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` with the bytes from `offset` on: what was written there last, also if it was not synced.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if there are fewer; what came in between.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes bytes at any offset, all of them, inside of what there is.
    ///
    /// # Errors
    ///
    /// [`StorageFull`](io::ErrorKind::StorageFull) or whatever else came in between.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes it longer, by zeros, or shorter.
    ///
    /// # Errors
    ///
    /// As of [`write`](Self::write).
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Returns when all that was done before outlives a crash.
    ///
    /// # Errors
    ///
    /// What came in between. What was not synced may be lost then, also if a later call succeeds.
    fn sync(&self) -> io::Result<()>;
}

impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }

    fn is_empty(&self) -> io::Result<bool> {
        (**self).is_empty()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        (**self).read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        (**self).write(offset, data)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        (**self).set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}

/// A storage as the engines take it.
pub(crate) struct OnStorage(pub(crate) Box<dyn Storage>);

impl fmt::Debug for OnStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnStorage")
    }
}

impl StorageBackend for OnStorage {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// A storage in memory, in which a store is made before it is put where it belongs.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Vec<u8>>);

impl Memory {
    pub(crate) fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(offset: u64, length: usize, of: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok();
    let place = start.and_then(|start| Some(start..start.checked_add(length)?));
    place.filter(|place| place.end <= of).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl Storage for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        out.copy_from_slice(&bytes[place(offset, out.len(), bytes.len())?]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let place = place(offset, data.len(), bytes.len())?;
        bytes[place].copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.bytes().resize(length, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
