//! [`DirectFile`]: a file that is overwritten in place, each write on the disk when it returns.
//!
//! Where the system can, whole sectors go past the page cache straight to the disk, with the sync in the same
//! call: that is a fifth faster than to write and then sync. Where it can't, and for all else, a write goes
//! through the page cache, and is durable after the next sync.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::disk::StorageBackend;

/// What is written past the page cache begins and ends at multiples of this, on most disks.
const SECTOR: usize = 512;
/// Where it must begin in memory; no system asks for more.
const ALIGNMENT: usize = 4096;

/// The file of a write-ahead log.
#[derive(Debug)]
pub(crate) struct DirectFile {
    /// Through the page cache.
    cached: Box<dyn StorageBackend>,
    /// The same file past it, with memory that begins where it must. `None` where that can't be had.
    direct: Mutex<Option<Direct>>,
    /// Whether there was a write through the page cache that is not synced.
    unsynced: AtomicBool,
}

struct Direct {
    file: File,
    memory: Vec<u8>,
}

impl DirectFile {
    /// The file at this path, which is open already, to be read and written.
    pub(crate) fn new(cached: Box<dyn StorageBackend>, path: &Path) -> Self {
        let direct = open_direct(path).map(|file| Direct { file, memory: Vec::new() });
        // What was written before may not be synced.
        Self { cached, direct: Mutex::new(direct), unsynced: AtomicBool::new(true) }
    }

    /// Whether it was written past the page cache; `false` where that can't be done.
    fn write_past_cache(&self, offset: u64, data: &[u8]) -> io::Result<bool> {
        if !offset.is_multiple_of(SECTOR as u64) || !data.len().is_multiple_of(SECTOR) {
            return Ok(false);
        }
        let mut direct = self.direct.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Direct { file, memory }) = &mut *direct else { return Ok(false) };
        memory.resize(memory.len().max(data.len() + ALIGNMENT), 0);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let aligned = &mut memory[start..start + data.len()];
        aligned.copy_from_slice(data);
        match write_all_at(file, aligned, offset) {
            // The disk has larger sectors, or the file system can't do it: it is written the other way.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
            {
                *direct = None;
                Ok(false)
            }
            written => written.map(|()| true),
        }
    }
}

impl StorageBackend for DirectFile {
    fn len(&self) -> io::Result<u64> {
        self.cached.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.cached.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.unsynced.store(true, Ordering::Release);
        self.cached.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.unsynced.swap(false, Ordering::AcqRel) {
            // What could not be synced stays so.
            self.cached.sync_data().inspect_err(|_| self.unsynced.store(true, Ordering::Release))?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.write_past_cache(offset, data)? {
            return Ok(());
        }
        self.unsynced.store(true, Ordering::Release);
        self.cached.write(offset, data)
    }
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // Some file systems refuse it, those in memory for example.
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> Option<File> {
    None
}

#[cfg(target_os = "linux")]
fn write_all_at(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, data, offset)
}

#[cfg(not(target_os = "linux"))]
fn write_all_at(_: &File, _: &[u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::super::redb::backend;
    use super::*;

    const LENGTH: usize = 64 * SECTOR;

    fn make(path: &Path) -> DirectFile {
        let file = File::create_new(path).unwrap();
        file.set_len(LENGTH as u64).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        DirectFile::new(Box::new(backend(file).unwrap()), path)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        /// Past the page cache or through it, in any order: a file holds what was written last.
        #[test]
        fn what_is_written_can_be_read(
            writes in prop::collection::vec((0..LENGTH, 0..9 * SECTOR, any::<bool>(), any::<u8>()), 1..20),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let disk = make(&path);
            let mut expected = vec![0; LENGTH];
            for (offset, length, in_sectors, byte) in writes {
                let unit = if in_sectors { SECTOR } else { 1 };
                let offset = offset / unit * unit;
                let length = length.min(LENGTH - offset) / unit * unit;
                let bytes = (0..length).map(|at| byte.wrapping_add(u8::try_from(at % 251).unwrap()));
                let data: Vec<u8> = bytes.collect();
                disk.write(offset as u64, &data).unwrap();
                disk.sync_data().unwrap();
                expected[offset..offset + length].copy_from_slice(&data);
                let mut found = vec![0; LENGTH];
                disk.read(0, &mut found).unwrap();
                prop_assert_eq!(&found, &expected);
            }
            let mut found = Vec::new();
            File::open(&path).unwrap().read_to_end(&mut found).unwrap();
            prop_assert_eq!(&found, &expected);
        }
    }

    /// On a disk that can't be written past the page cache.
    #[test]
    fn where_the_system_refuses_it_goes_through_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let disk = make(&path);
        disk.sync_data().unwrap();
        *disk.direct.lock().unwrap() = None;
        disk.write(0, &[7; SECTOR]).unwrap();
        assert!(disk.unsynced.load(Ordering::Acquire), "the next sync must be a real one");
        disk.sync_data().unwrap();
        assert!(!disk.unsynced.load(Ordering::Acquire));
        let mut found = [0; SECTOR];
        disk.read(0, &mut found).unwrap();
        assert_eq!(found, [7; SECTOR]);
    }

    #[test]
    fn an_odd_write_waits_for_the_sync() {
        let folder = tempfile::tempdir().unwrap();
        let disk = make(&folder.path().join("file"));
        disk.sync_data().unwrap();
        disk.write(1, &[7; SECTOR]).unwrap();
        assert!(disk.unsynced.load(Ordering::Acquire));
        disk.sync_data().unwrap();
        disk.set_len(LENGTH as u64 + 1).unwrap();
        assert!(disk.unsynced.load(Ordering::Acquire));
        assert_eq!(disk.len().unwrap(), LENGTH as u64 + 1);
    }
}
