//! Pages that were damaged, exchanged, or put back: each is found, and none is served.

mod forged;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use tempfile::TempDir;

use super::header::{HEADER_BYTES, Header, PageNumber};
use super::*;
use crate::engine::embedded::EmbeddedEngine;
use crate::engine::redb::{Pages, Salvage, Salvaged, TableFile, TableReader, existing};
use crate::engine::{Batch, Engine, Log, Reading};
use crate::id::Commit;

const PAGES: Pages = Pages::believed(1 << 20);
const ROWS: u32 = 3000;

fn check_closed_file(path: &Path) -> Result<PageRound> {
    pages_of(path).check_closed()
}

fn row(n: u32) -> Vec<u8> {
    // Rows of no space: any bytes that begin with this.
    [&[0x01][..], &n.to_be_bytes()].concat()
}

/// A closed store whose rows fill two levels of branches, and that has free pages.
fn store() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    let engine = EmbeddedEngine::create_table(file, PAGES).unwrap();
    for part in 0..3 {
        let rows = (0..ROWS).filter(|n| n % 3 == part).map(|n| (row(n), Some(vec![7; 90])));
        engine.begin_write().unwrap().commit(&rows.collect::<Batch>(), Log::default()).unwrap();
    }
    drop(engine);
    (folder, path)
}

/// All rows, as far as they can be read.
fn read(path: &Path) -> Result<usize> {
    read_rows(&TableReader::at(path, PAGES)?)
}

fn read_rows(engine: &impl Engine) -> Result<usize> {
    let rows = engine.begin_read()?.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX)?;
    rows.into_iter().map(|(_, stored)| stored.map(drop)).collect::<Result<Vec<_>>>().map(|rows| rows.len())
}

fn pages_of(path: &Path) -> Arc<PageFile> {
    PageFile::new(FileBackend::new(fs::File::open(path).unwrap()).unwrap()).unwrap()
}

/// Where the pages lie that the newest commit names.
fn named(path: &Path) -> Vec<u64> {
    named_pages(path).into_iter().map(|page| page.offset).collect()
}

/// The pages that the newest commit names.
fn named_pages(path: &Path) -> Vec<Reference> {
    let file = pages_of(path);
    let mut bytes = [0; HEADER_BYTES];
    file.file.read(0, &mut bytes).unwrap();
    let header = Header::read(&bytes, file.file.len().unwrap()).unwrap();
    let mut named = Vec::new();
    let mut ahead: Vec<_> = header.newest_first()[0].unwrap().roots.into_iter().flatten().collect();
    while let Some(next) = ahead.pop() {
        let mut page = vec![0; usize::try_from(next.bytes()).unwrap()];
        file.file.read(next.offset, &mut page).unwrap();
        let node = Node::read(&page, next.tree).unwrap();
        assert_eq!(node.checksum(), next.checksum);
        ahead.extend(node.children(header.layout));
        named.push(next);
    }
    named
}

#[test]
fn a_sound_file_is_found_sound_at_once_and_in_rounds() {
    let (_folder, path) = store();
    let all = check_closed_file(&path).unwrap();
    assert!(all.damaged.is_empty() && all.next.is_none(), "{all:?}");
    assert_eq!(all.pages, named(&path).len() as u64);
    let reader = TableReader::at(&path, PAGES).unwrap();
    let (mut after, mut rounds, mut bytes) = (None, 0, 0);
    loop {
        let round = reader.check_pages(after, 8 * PAGE).unwrap();
        assert!(round.damaged.is_empty(), "{round:?}");
        (rounds, bytes) = (rounds + 1, bytes + round.bytes);
        assert!(rounds < 10_000, "it does not come to its end");
        after = round.next;
        if after.is_none() {
            break;
        }
    }
    assert!(rounds > 10, "{rounds} rounds");
    assert!(bytes >= all.bytes, "each page is read");
    let PageState { stats, bytes: length, .. } = reader.page_state();
    assert_eq!((stats.damaged, stats.checks, stats.checked_bytes), (0, 1, bytes));
    assert_eq!(length, fs::metadata(&path).unwrap().len());
}

/// Checks all pages in rounds of this many bytes; returns how many rounds that took, and what they found.
fn check_in_rounds(pages: &PageFile, bytes: u64) -> (usize, BTreeSet<(u64, &'static str)>) {
    let (mut after, mut rounds, mut found) = (None, 0, BTreeSet::new());
    loop {
        let round = pages.check(after, bytes).unwrap();
        found.extend(round.damaged);
        (after, rounds) = (round.next, rounds + 1);
        if after.is_none() {
            return (rounds, found);
        }
    }
}

/// Each round begins behind the key with which the one before it ended.
#[test]
fn rounds_read_every_page() {
    let (_folder, path) = store();
    let named: BTreeSet<_> = named(&path).into_iter().collect();
    for bytes in [1, 3 * PAGE, 8 * PAGE, 50 * PAGE] {
        let (probed, seen) = Probed::new(&path, None);
        let (rounds, found) = check_in_rounds(&PageFile::new(probed).unwrap(), bytes);
        assert!(rounds > 2 && found.is_empty(), "{rounds} rounds of {bytes} bytes: {found:?}");
        let read = seen.lock().unwrap();
        assert!(named.is_subset(&read.offsets), "{:?}", named.difference(&read.offsets));
    }
}

#[test]
fn every_page_that_changed_by_a_bit_is_found_and_never_served() {
    let (_folder, path) = store();
    let sound = fs::read(&path).unwrap();
    let expected = read(&path).unwrap();
    let named = named_pages(&path);
    assert!(named.len() > 100, "{} pages", named.len());
    for (n, &Reference { offset, tree, .. }) in named.iter().enumerate() {
        let mut damaged = sound.clone();
        // Somewhere in the page: the first bytes, the ends of keys, the content.
        let at = usize::try_from(offset).unwrap() + [0, 3, 9, 40, 70][n % 5];
        damaged[at] ^= 1 << (n % 8);
        fs::write(&path, &damaged).unwrap();
        let found = check_closed_file(&path).unwrap();
        assert_eq!(found.damaged.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [offset]);
        match read(&path) {
            // redb's own tables are not read to read rows.
            Ok(rows) => assert!(rows == expected && tree != Tree::ROWS, "the page at {offset}"),
            Err(error) => assert!(matches!(error, Error::Corrupted(_)), "the page at {offset}: {error:?}"),
        }
        write_a_row(&path);
    }
}

/// To write ends with an error or in a store that is sound but for the damage; never in a panic of redb within one.
fn write_a_row(path: &Path) {
    if let Ok(engine) = EmbeddedEngine::open_table(path, PAGES) {
        write_rows(&engine);
    }
}

fn write_rows(engine: &EmbeddedEngine) {
    for n in [0, ROWS / 2, ROWS] {
        let Ok(transaction) = engine.begin_write() else { return };
        let batch = Batch::from([(row(n), Some(vec![8; 90]))]);
        if transaction.commit(&batch, Log::default()).is_err() {
            return;
        }
    }
}

#[test]
fn pages_that_were_exchanged_are_found() {
    let (_folder, path) = store();
    let sound = fs::read(&path).unwrap();
    let named = named(&path);
    let page = |offset: u64| usize::try_from(offset).unwrap()..usize::try_from(offset + PAGE).unwrap();
    for pair in named.windows(2).step_by(7) {
        let mut damaged = sound.clone();
        damaged[page(pair[0])].copy_from_slice(&sound[page(pair[1])]);
        damaged[page(pair[1])].copy_from_slice(&sound[page(pair[0])]);
        fs::write(&path, &damaged).unwrap();
        let found: BTreeSet<_> =
            check_closed_file(&path).unwrap().damaged.into_iter().map(|(at, _)| at).collect();
        assert!(found.contains(&pair[0]) || found.contains(&pair[1]), "{pair:?}: {found:?}");
        assert!(read(&path).is_err() || read(&path).is_ok_and(|rows| rows > 0));
    }
}

#[test]
fn a_page_of_before_is_found() {
    let (_folder, path) = store();
    let before = fs::read(&path).unwrap();
    let engine = EmbeddedEngine::open_table(&path, PAGES).unwrap();
    // The pages of the first commit are used again by the third.
    for n in 0..3 {
        let batch = Batch::from([(row(n), Some(vec![9; 90]))]);
        engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
    }
    drop(engine);
    let after = fs::read(&path).unwrap();
    let (mut stale, mut refused) = (0, 0);
    for offset in named(&path) {
        let page = usize::try_from(offset).unwrap()..usize::try_from(offset + PAGE).unwrap();
        let Some(old) = before.get(page.clone()).filter(|old| **old != after[page.clone()]) else { continue };
        let mut damaged = after.clone();
        damaged[page].copy_from_slice(old);
        fs::write(&path, &damaged).unwrap();
        // Read before it was put back, each time from the file, and opened after that.
        fs::write(&path, &after).unwrap();
        let before_it = TableReader::at(&path, Pages { cache_bytes: 0, ..PAGES }).unwrap();
        assert!(serves_no_former_row(&before_it), "nothing is damaged");
        fs::write(&path, &damaged).unwrap();
        assert_eq!(check_closed_file(&path).unwrap().damaged.len(), 1, "the page at {offset}");
        refused += usize::from(!serves_no_former_row(&before_it));
        if let Ok(after_it) = TableReader::at(&path, PAGES) {
            serves_no_former_row(&after_it);
        }
        stale += 1;
    }
    assert!(stale > 0 && refused > 0, "{stale} pages were written over, {refused} of them are read");
}

/// Whether the rows that were written last can be read; none may be as it was before.
fn serves_no_former_row(reader: &TableReader) -> bool {
    (0..3).all(|n| match reader.begin_read().and_then(|rows| rows.get(&[&row(n)])) {
        Ok(found) => {
            let found = found[0].as_ref().map(|stored| stored.bytes.clone());
            assert_eq!(found, Some(vec![9; 90]), "row {n}");
            true
        }
        Err(error) => {
            assert!(matches!(error, Error::Corrupted(_)), "{error:?}");
            false
        }
    })
}

/// The row that is written again and again, and how often: its value is the number of the write.
const REWRITTEN: u32 = ROWS / 2;
const REWRITES: u8 = 24;

/// Writes one row many times; returns the file as each of these commits left it.
fn rewrite(engine: &EmbeddedEngine, path: &Path) -> Vec<Vec<u8>> {
    let commit = |n| {
        let batch = Batch::from([(row(REWRITTEN), Some(vec![n; 90]))]);
        engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
        fs::read(path).unwrap()
    };
    (1..=REWRITES).map(commit).collect()
}

/// The file with the leaf of the row as earlier commits had it in the same place: sound in itself, all its rows with
/// right checksums, and the row with a former value. So it is where the disk lost the last write, or all since then.
fn with_former_leaves(path: &Path, moments: &[Vec<u8>]) -> Vec<(u64, Vec<u8>)> {
    let now = fs::read(path).unwrap();
    let mut former = BTreeMap::new();
    for page in named_pages(path).into_iter().filter(|page| page.tree == Tree::ROWS) {
        let place =
            usize::try_from(page.offset).unwrap()..usize::try_from(page.offset + page.bytes()).unwrap();
        let leaf = Node::read(&now[place.clone()], page.tree).unwrap();
        if !leaf.pairs().any(|(_, value)| value.ends_with(&[REWRITES; 90])) {
            continue;
        }
        let keys: Vec<_> = leaf.pairs().map(|(key, _)| key).collect();
        for before in moments.iter().filter_map(|moment| moment.get(place.clone())) {
            let Ok(node) = Node::read(before, page.tree) else { continue };
            if node.pairs().map(|(key, _)| key).eq(keys.iter().copied()) && node.checksum() != page.checksum {
                let mut damaged = now.clone();
                damaged[place.clone()].copy_from_slice(before);
                former.insert(node.checksum(), (page.offset, damaged));
            }
        }
    }
    assert!(former.len() >= 3, "{} former leaves in the same place", former.len());
    former.into_values().collect()
}

/// A closed store, and it with former leaves of a row.
fn store_and_former_leaves() -> (TempDir, std::path::PathBuf, Vec<(u64, Vec<u8>)>) {
    let (folder, path) = store();
    let engine = EmbeddedEngine::open_table(&path, PAGES).unwrap();
    let moments = rewrite(&engine, &path);
    drop(engine);
    let former = with_former_leaves(&path, &moments);
    (folder, path, former)
}

fn rewritten(engine: &impl Engine) -> Result<Vec<u8>> {
    rewritten_in(&engine.begin_read()?)
}

fn rewritten_in(snapshot: &Reading) -> Result<Vec<u8>> {
    let mut found = snapshot.get(&[&row(REWRITTEN)])?;
    Ok(found.remove(0).unwrap().bytes)
}

/// Whether it is damage that the row can't be read for; what is served is a failure of the test, also if it is right.
fn is_refused(served: &Result<Vec<u8>>) -> bool {
    matches!(served, Err(Error::Corrupted(_)))
}

/// The checksum of each row fits in it: that it is not what the page above names is all that shows.
#[test]
fn a_former_leaf_in_its_own_place_is_refused_when_it_is_read_first() {
    let (_folder, path, former) = store_and_former_leaves();
    for (offset, damaged) in former {
        fs::write(&path, &damaged).unwrap();
        assert_eq!(check_closed_file(&path).unwrap().damaged, [(offset, "it does not fit its checksum")]);
        let read = TableReader::at(&path, PAGES).and_then(|reader| rewritten(&reader));
        assert!(is_refused(&read), "{read:?}");
        let read = EmbeddedEngine::open_table(&path, PAGES).and_then(|engine| rewritten(&engine));
        assert!(is_refused(&read), "{read:?}");
    }
}

/// In one snapshot: another begins with the first page, from which on all are compared as if they were read first.
#[test]
fn a_former_leaf_that_is_put_back_after_it_was_read_is_refused() {
    let (_folder, path, former) = store_and_former_leaves();
    let sound = fs::read(&path).unwrap();
    let reader = TableReader::at(&path, Pages { cache_bytes: 0, ..PAGES }).unwrap();
    let snapshot = reader.begin_read().unwrap();
    for (_, damaged) in former {
        assert_eq!(rewritten_in(&snapshot).unwrap(), [REWRITES; 90]);
        // In place, so that it is the same file.
        fs::write(&path, &damaged).unwrap();
        for read in [rewritten_in(&snapshot), rewritten(&reader)] {
            assert!(is_refused(&read), "{read:?}");
        }
        fs::write(&path, &sound).unwrap();
    }
}

/// What this process wrote is compared with what it wrote, before any page above it was read.
#[test]
fn a_former_leaf_in_the_place_of_what_was_written_is_refused() {
    let (_folder, path) = store();
    let engine = EmbeddedEngine::open_table(&path, Pages { cache_bytes: 0, ..PAGES }).unwrap();
    let moments = rewrite(&engine, &path);
    let sound = fs::read(&path).unwrap();
    for (_, damaged) in with_former_leaves(&path, &moments) {
        assert_eq!(rewritten(&engine).unwrap(), [REWRITES; 90]);
        fs::write(&path, &damaged).unwrap();
        let read = rewritten(&engine);
        assert!(is_refused(&read), "{read:?}");
        fs::write(&path, &sound).unwrap();
    }
    assert!(matches!(engine.begin_write(), Err(Error::Corrupted(_))));
}

#[test]
fn what_was_damaged_refuses_writes_from_then_on() {
    let (_folder, path) = store();
    let engine = EmbeddedEngine::open_table(&path, PAGES).unwrap();
    let before = read(&path).unwrap();
    // Of a row, so that the engine has not read it yet.
    let leaf = *named(&path).iter().max().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(leaf).unwrap() + 5] ^= 4;
    // In place, so that it is the same file.
    fs::write(&path, &bytes).unwrap();
    engine.begin_write().unwrap().end().unwrap();
    let found = engine.check_pages(None, u64::MAX).unwrap().unwrap();
    assert_eq!(found.damaged.len(), 1, "{found:?}");
    assert_eq!(engine.check_pages(None, u64::MAX).unwrap().unwrap().damaged, found.damaged);
    assert_eq!(engine.page_state().unwrap().stats.damaged, 1);
    assert!(matches!(engine.begin_write(), Err(Error::Corrupted(_))));
    assert!(before > 0 && engine.begin_read().unwrap().commit() > Commit::default());
}

/// What redb would ask for the memory of: a page that is larger than the file, with checksums that fit.
#[test]
fn a_page_that_can_not_be_is_refused_before_it_is_asked_for() {
    let (_folder, path) = store();
    let mut bytes = fs::read(&path).unwrap();
    let length = bytes.len() as u64;
    let layout = Header::read(&bytes[..HEADER_BYTES], length).unwrap().layout;
    for order in 0..32_u64 {
        let place = layout.place(PageNumber(order << 59));
        assert_eq!(place.is_some(), order <= 20 && PAGE + (PAGE << order) <= length, "order {order}");
    }
    assert!(layout.place(PageNumber(1 << 20)).is_none(), "a region that is not there");
    assert!(layout.place(PageNumber(0xF_FFFF)).is_none(), "a page behind the end");
    // In the slots of the first page, each with its checksum.
    for start in [64, 192] {
        bytes[start + 8 + 7] |= 20 << 3;
        let checksum = twox_hash::XxHash3_128::oneshot(&bytes[start..start + 112]).to_le_bytes();
        bytes[start + 112..start + 128].copy_from_slice(&checksum);
    }
    fs::write(&path, &bytes).unwrap();
    assert_eq!(longest_read(&path), HEADER_BYTES, "nothing but the first page");
    assert!(matches!(read(&path), Err(Error::Corrupted(_))));
    assert!(matches!(
        EmbeddedEngine::open_table(&path, PAGES).map(drop),
        Err(Error::Corrupted(_) | Error::NotAStore(_))
    ));
    assert!(!check_closed_file(&path).unwrap().damaged.is_empty());
}

/// The most that is asked for at once where a file is opened, read, and written. redb asks for the memory before.
fn longest_read(path: &Path) -> usize {
    let (probed, seen) = Probed::new(path, None);
    if let Ok(engine) = EmbeddedEngine::on_table(probed, &PAGES.builder()) {
        let _ = read_rows(&engine);
        write_rows(&engine);
    }
    seen.lock().unwrap().longest
}

#[test]
fn a_page_that_names_a_larger_one_than_the_file_is_refused() {
    let (_folder, path) = store();
    let bytes = fs::read(&path).unwrap();
    let layout = Header::read(&bytes[..HEADER_BYTES], bytes.len() as u64).unwrap().layout;
    let is_branch = |page: &&[u8]| page[0] == 2 && Node::read(page, Tree::ROWS).is_ok();
    let branch = bytes.chunks_exact(4096).skip(1).find(is_branch).unwrap();
    assert!(Node::read(branch, Tree::ROWS).unwrap().names_only_pages(layout));
    let children = usize::from(branch[2]) + 256 * usize::from(branch[3]) + 1;
    for child in 0..children {
        let mut page = branch.to_vec();
        page[8 + 16 * children + 8 * child + 7] |= 20 << 3;
        assert!(!Node::read(&page, Tree::ROWS).unwrap().names_only_pages(layout), "child {child}");
    }
}

#[test]
fn what_stands_for_a_damaged_page_is_refused_by_every_kind_of_tree() {
    for tree in [Tree::Definitions, Tree::ROWS, Tree::Table { key: Some(16), value: None, freed: true }] {
        let mut page = vec![0xAB; 4096];
        write_impossible(&mut page, tree);
        let node = Node::read(&page, tree).unwrap();
        assert!(!node.is_leaf());
        let layout = Layout { length: u64::MAX / 2, ..Header::read(&first_page(), 1 << 40).unwrap().layout };
        assert!(!node.names_only_pages(layout), "no file has its children");
    }
}

fn first_page() -> Vec<u8> {
    let (_folder, path) = store();
    fs::read(path).unwrap()[..HEADER_BYTES].to_vec()
}

#[test]
fn a_first_page_of_regions_that_fill_no_file_is_read() {
    let mut bytes = first_page();
    for (at, number) in [(16, 1 << 20), (20, 1 << 20), (24, u32::MAX), (28, u32::MAX)] {
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    assert_eq!(Header::read(&bytes, 1 << 40).unwrap().length_closed, u64::MAX);
}

/// What was read once is compared again each time that it comes from the file.
#[test]
fn a_page_that_is_damaged_after_it_was_read_is_not_served() {
    let (_folder, path) = store();
    let reader = TableReader::at(&path, Pages { cache_bytes: 0, ..PAGES }).unwrap();
    let read_all = || {
        let rows = reader.begin_read()?.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX)?;
        rows.into_iter().map(|(_, stored)| stored.map(drop)).collect::<Result<Vec<_>>>()
    };
    let rows = read_all().unwrap().len();
    assert_eq!(read_all().unwrap().len(), rows);
    let sound = fs::read(&path).unwrap();
    let mut refused = 0;
    for offset in named(&path) {
        let mut damaged = sound.clone();
        damaged[usize::try_from(offset).unwrap() + 60] ^= 2;
        fs::write(&path, &damaged).unwrap();
        match read_all() {
            Ok(read) => assert_eq!(read.len(), rows, "a page of redb's own tables at {offset}"),
            Err(error) => {
                assert!(matches!(error, Error::Corrupted(_)), "{error:?}");
                refused += 1;
            }
        }
        fs::write(&path, &sound).unwrap();
    }
    assert!(refused > 100, "{refused} pages");
    assert_eq!(read_all().unwrap().len(), rows, "what was put right is served again");
}

/// A file of which the disk may not be able to read one page, and which notes how much was asked for at once, and the
/// pages that were read.
#[derive(Debug)]
struct Probed {
    file: FileBackend,
    bad: Option<u64>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    longest: usize,
    offsets: BTreeSet<u64>,
}

impl Probed {
    fn new(path: &Path, bad: Option<u64>) -> (Self, Arc<Mutex<Seen>>) {
        let seen = Arc::default();
        (Self { file: existing(path).unwrap(), bad, seen: Arc::clone(&seen) }, seen)
    }
}

impl StorageBackend for Probed {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        seen.longest = seen.longest.max(out.len());
        seen.offsets.insert(offset);
        if self.bad.is_some_and(|bad| (offset..offset + out.len() as u64).contains(&bad)) {
            return Err(io::Error::other("a bad sector"));
        }
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
}

#[test]
fn a_page_that_the_disk_can_not_read_is_found_and_the_others_are_checked() {
    let (_folder, path) = store();
    let named = named(&path);
    let leaf = *named.iter().max().unwrap();
    let pages = PageFile::new(Probed::new(&path, Some(leaf + 100)).0).unwrap();
    let found = pages.check(None, u64::MAX).unwrap();
    assert_eq!(found.damaged, [(leaf, "the disk can't read it")]);
    assert_eq!(found.pages, named.len() as u64);
    assert!(pages.must_be_sound().is_err());
}

/// Files with a commit that was cut off, from which a recovery may have gone back that was cut off too: it had taken back
/// that the file was not closed, or named the slot of the commit before it, or both. With the commit before it.
fn cut_off(folder: &Path, path: &Path) -> (Vec<PathBuf>, Commit) {
    let engine = without_locks(path);
    let commit = |n| {
        let batch = Batch::from([(row(n), Some(vec![9; 90]))]);
        engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap()
    };
    let last = commit(0);
    let before = fs::read(path).unwrap();
    commit(1);
    let mut bytes = fs::read(path).unwrap();
    let header = Header::read(&bytes, bytes.len() as u64).unwrap();
    assert!(header.unclean && !header.two_phases, "{header:?}");
    for (page, before) in bytes.chunks_exact_mut(4096).zip(before.chunks_exact(4096)).skip(1) {
        if page != before {
            page.fill(0);
        }
    }
    let files = [bytes[9], bytes[9] & !2, bytes[9] ^ 1, (bytes[9] & !2) ^ 1].map(|flags| {
        bytes[9] = flags;
        let cut_off = folder.join(format!("flags-{flags}.redb"));
        fs::write(&cut_off, &bytes).unwrap();
        cut_off
    });
    (files.to_vec(), last)
}

/// With commits of one phase, as redb makes them by default.
fn without_locks(path: &Path) -> EmbeddedEngine {
    let table = TableFile::on(existing(path).unwrap(), &PAGES.builder()).unwrap();
    EmbeddedEngine::without_log(table.without_quick_repair()).unwrap()
}

#[test]
fn a_commit_from_which_a_cut_off_recovery_went_back_is_no_damage() {
    let (folder, path) = store();
    let (files, last) = cut_off(folder.path(), &path);
    for file in files {
        assert_eq!(check_closed_file(&file).unwrap().damaged, [], "{}", file.display());
        let opened = without_locks(&file);
        assert_eq!(opened.begin_read().unwrap().commit(), last, "{}", file.display());
        let state = opened.page_state().unwrap();
        assert_eq!((state.stats.damaged, state.unclean), (0, true), "{}", file.display());
        opened.begin_write().unwrap().end().unwrap();
        assert_eq!(opened.check_pages(None, u64::MAX).unwrap().unwrap().damaged, []);
    }
}

/// A repair reads the commit before it too, and says so.
#[test]
fn a_salvage_goes_back_from_a_commit_that_was_cut_off_as_a_recovery_does() {
    let (folder, path) = store();
    let (files, last) = cut_off(folder.path(), &path);
    for path in files {
        let file = existing(&path).unwrap();
        let salvage = Salvage::of(&file).unwrap();
        let mut newest = None;
        let read = salvage.each(&mut |salvaged| {
            match salvaged {
                Salvaged::Newest(found) => newest = Some(found?.0),
                Salvaged::Damaged(page, _) => panic!("{}: {page:?}", path.display()),
                _ => {}
            }
            Ok(())
        });
        read.unwrap();
        assert_eq!(newest, Some(last), "{}", path.display());
        let [doubt] = salvage.doubts() else { panic!("{}: {:?}", path.display(), salvage.doubts()) };
        assert!(doubt.contains("a crash while it was written leaves them so"), "{doubt}");
        assert!(salvage.given_up() > 0);
    }
}

/// A storage on which the first page is there at once and all other pages when they are synced, as a disk may have it;
/// each sync begins with a check of the pages that are there.
#[derive(Debug, Clone)]
struct FirstPageFirst {
    file: Arc<FileBackend>,
    held_back: Arc<Mutex<BTreeMap<u64, Vec<u8>>>>,
    pages: Arc<OnceLock<Arc<PageFile>>>,
    found: Arc<Mutex<Vec<PageRound>>>,
}

impl StorageBackend for FirstPageFirst {
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
        if let Some(pages) = self.pages.get() {
            self.found.lock().unwrap().push(pages.check(None, u64::MAX).unwrap());
        }
        for (offset, data) in std::mem::take(&mut *self.held_back.lock().unwrap()) {
            self.file.write(offset, &data)?;
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset < PAGE {
            return self.file.write(offset, data);
        }
        self.held_back.lock().unwrap().insert(offset, data.to_vec());
        Ok(())
    }
}

#[test]
fn a_check_beside_a_commit_sees_no_page_that_is_not_written_yet() {
    let (_folder, path) = store();
    let storage = FirstPageFirst {
        file: Arc::new(existing(&path).unwrap()),
        held_back: Arc::default(),
        pages: Arc::default(),
        found: Arc::default(),
    };
    let table = TableFile::on(storage.clone(), &PAGES.builder()).unwrap();
    storage.pages.set(Arc::clone(table.pages.as_ref().unwrap())).unwrap();
    let engine = EmbeddedEngine::without_log(table).unwrap();
    for n in 0..20 {
        let batch = Batch::from([(row(n), Some(vec![9; 90]))]);
        engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
    }
    let found = storage.found.lock().unwrap();
    assert!(found.len() >= 20, "{} checks", found.len());
    for round in &*found {
        assert!(round.damaged.is_empty() && round.pages > 100, "{round:?}");
    }
}
