//! The first page beside a writer: one that the disk lost is found.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::header::HEADER_BYTES;
use super::*;
use crate::engine::redb::{Pages, RedbEngine, existing};
use crate::engine::{Batch, Engine, Log};

const PAGES: Pages = Pages { cache_bytes: 1 << 20, check_integrity: false };

/// A closed store with a few rows.
fn store() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    commit(&RedbEngine::create(file, PAGES).unwrap(), 0);
    (folder, path)
}

fn commit(engine: &RedbEngine, n: u8) {
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
        let engine = RedbEngine::on(existing(&path).unwrap(), &builder).unwrap();
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
