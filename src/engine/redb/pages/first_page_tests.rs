//! The first page beside a writer: one that the disk lost is found, and one that is being changed is no damage.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use tempfile::TempDir;

use super::header::HEADER_BYTES;
use super::*;
use crate::engine::embedded::EmbeddedEngine;
use crate::engine::redb::{Pages, existing};
use crate::engine::{Batch, Engine, Log};

const PAGES: Pages = Pages::believed(1 << 20);

/// A closed store with a few rows.
fn store() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    commit(&EmbeddedEngine::create_table(file, PAGES).unwrap(), 0);
    (folder, path)
}

fn commit(engine: &EmbeddedEngine, n: u8) {
    let batch = Batch::from([(vec![1, n], Some(vec![n; 90]))]);
    engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
}

/// Puts these bytes at the beginning of a file that is open.
fn put(path: &Path, bytes: &[u8]) {
    std::os::unix::fs::FileExt::write_all_at(
        &fs::OpenOptions::new().write(true).open(path).unwrap(),
        bytes,
        0,
    )
    .unwrap();
}

/// After a crash it would be the newest commit.
#[test]
fn a_first_page_that_the_disk_lost_is_found_beside_the_writer() {
    for shared in [true, false] {
        let (_folder, path) = store();
        let builder = if shared { PAGES.shared_builder() } else { PAGES.builder() };
        let engine = EmbeddedEngine::on_table(existing(&path).unwrap(), &builder).unwrap();
        let check = || engine.check_pages(None, u64::MAX).unwrap().unwrap();
        assert_eq!(check().damaged, [], "nothing was written but that the file is open");
        commit(&engine, 1);
        let before = fs::read(&path).unwrap()[..HEADER_BYTES].to_vec();
        commit(&engine, 2);
        assert_eq!(check().damaged, []);
        let now = fs::read(&path).unwrap()[..HEADER_BYTES].to_vec();
        for lost in [before, vec![0; HEADER_BYTES]] {
            put(&path, &lost);
            let found = check();
            assert_eq!(found.damaged.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0]);
            assert!(found.pages > 1, "the others are checked all the same");
        }
        assert!(matches!(engine.begin_write().map(drop), Err(Error::Corrupted(_))));
        put(&path, &now);
        assert_eq!(check().damaged, []);
    }
}

/// A closed file that somebody opens to write, and makes longer, when its length is asked for once more.
#[derive(Debug)]
struct OpenedMeanwhile {
    file: FileBackend,
    asked: AtomicU64,
    before: u64,
}

impl OpenedMeanwhile {
    fn is_open(&self) -> bool {
        self.asked.load(Ordering::Acquire) > self.before
    }
}

impl StorageBackend for OpenedMeanwhile {
    fn len(&self) -> io::Result<u64> {
        self.asked.fetch_add(1, Ordering::AcqRel);
        Ok(self.file.len()? + if self.is_open() { 64 * PAGE } else { 0 })
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)?;
        if offset == 0 && self.is_open() {
            // The flag that the file is not closed.
            out[9] |= 2;
        }
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("nothing is written")
    }

    fn sync_data(&self) -> io::Result<()> {
        unreachable!("nothing is written")
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        unreachable!("nothing is written")
    }
}

#[test]
fn a_file_that_somebody_opens_and_makes_longer_meanwhile_has_no_wrong_length() {
    let (_folder, path) = store();
    let mut opened = 0;
    for before in 0..20 {
        let file = FileBackend::new(fs::File::open(&path).unwrap()).unwrap();
        let file = OpenedMeanwhile { file, asked: AtomicU64::new(0), before };
        let pages = PageFile::new(file).unwrap();
        let found = pages.check(None, u64::MAX).unwrap();
        assert_eq!(found.damaged, [], "after {before} times");
        assert!(found.pages > 1);
        opened += u32::from(pages.file.len().unwrap() > fs::metadata(&path).unwrap().len());
    }
    assert!(opened > 5, "{opened} times it was opened while it was checked");
}
