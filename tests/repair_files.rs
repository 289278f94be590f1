//! Repairing stores whose pages are damaged, stale or exchanged, and whose write-ahead log is missing or damaged.
//!
//! The damage is made here, in files of stores that this test writes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use keystead::{
    After, Alias, Commit, Error, KeyFilter, KeyId, Limit, NewKey, Options, RepairReport, Request, Scope,
    Store, Timestamp, WalUse, repair,
};
use tempfile::TempDir;

const PAGE: usize = 4096;

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn request() -> Request {
    Request::new(&scope()).at(Timestamp::from_millis(1_700_000_000_000))
}

fn key_id(number: u32) -> KeyId {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    KeyId::from_bytes(bytes)
}

fn moving() -> Alias {
    "moving".parse().unwrap()
}

/// Makes the next key and moves an alias to it: commit `number + 2`, after the one that begins a store.
fn step(store: &Store, number: u32) {
    let new = NewKey::new(&format!("key-{number}")).unwrap().id(key_id(number));
    let committed = store.write(&request(), |txn| {
        txn.create_key(&new)?;
        match number {
            0 => txn.create_alias(&moving(), new.key_id).map(drop),
            _ => txn.associate_alias(&moving(), new.key_id).map(drop),
        }
    });
    committed.unwrap();
}

fn options() -> Options {
    Options::new().cache_bytes(1 << 20).wal_bytes(Options::WAL_BYTES_MIN)
}

/// Each step is the first commit of its process, so it goes to the table file, and there is no log. The last process
/// still has it open.
fn write_table(path: &Path, options: &Options, numbers: Range<u32>) -> Store {
    let mut last = None;
    for number in numbers {
        drop(last.take());
        step(last.insert(options.open(path).unwrap()), number);
    }
    last.unwrap()
}

/// What a store has: each key by its id, and the key of the alias.
#[derive(Debug, PartialEq, Clone)]
struct Content {
    keys: BTreeMap<KeyId, String>,
    target: Option<KeyId>,
}

fn content(path: &Path) -> Content {
    let store = options().open_read_only(path).unwrap();
    let report = store.verify().unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let read = store.read(&scope(), |snap| {
        let keys = snap.keys_by_id(&KeyFilter::all(), After::Start, Limit::new(1000)?)?.items;
        let keys = keys.into_iter().map(|key| (key.key_id, key.key_alias.to_string())).collect();
        Ok(Content { keys, target: snap.resolve(&moving()).ok().map(|resolved| resolved.key_id) })
    });
    read.unwrap()
}

struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn table(&self) -> PathBuf {
        self.path("kms.redb")
    }

    fn log(&self) -> PathBuf {
        self.path("kms.redb.redo")
    }

    /// What is left after a crash now.
    fn crashed(&self) -> Self {
        let copy = Self::new();
        fs::copy(self.table(), copy.table()).unwrap();
        fs::copy(self.log(), copy.log()).unwrap();
        copy
    }

    /// Repairs, and says whether what was read is as it was.
    fn repair(&self) -> Result<(RepairReport, Content), Error> {
        let repaired = self.path("repaired");
        drop(fs::remove_file(&repaired));
        let before = (fs::read(self.table()).unwrap(), fs::read(self.log()).ok());
        let report = repair(self.table(), &repaired);
        let after = (fs::read(self.table()).unwrap(), fs::read(self.log()).ok());
        assert!(before == after, "what is damaged was written");
        let report = report?;
        Ok((report, content(&repaired)))
    }

    fn set(&self, bytes: &[u8]) {
        fs::write(self.table(), bytes).unwrap();
    }
}

fn mentions(report: &RepairReport, words: &str) -> bool {
    report.may_be_missing.iter().any(|finding| finding.what.contains(words))
}

/// A closed store of so many steps; its log is still there, and not needed.
fn closed(steps: u32) -> (Files, Vec<u8>, Content) {
    let files = Files::new();
    let store = options().open(files.table()).unwrap();
    (0..steps).for_each(|number| step(&store, number));
    drop(store);
    assert!(files.log().exists());
    let (bytes, content) = (fs::read(files.table()).unwrap(), content(&files.table()));
    (files, bytes, content)
}

/// A closed store of so many steps, each of which went to the table file. There is no log.
fn closed_table(steps: u32) -> (Files, Vec<u8>, Content) {
    let files = Files::new();
    drop(write_table(&files.table(), &options(), 0..steps));
    assert!(!files.log().exists());
    let (bytes, content) = (fs::read(files.table()).unwrap(), content(&files.table()));
    (files, bytes, content)
}

/// A store of so many steps with a log, as a crash leaves it; part of it is in the table file.
fn with_log(steps: u32) -> (Files, Content) {
    with_log_of(&(0..steps).collect::<Vec<_>>())
}

fn with_log_of(numbers: &[u32]) -> (Files, Content) {
    let files = Files::new();
    let (before, after) = numbers.split_at(numbers.len() / 2);
    let store = options().open(files.table()).unwrap();
    before.iter().for_each(|number| step(&store, *number));
    drop(store);
    let store = options().open(files.table()).unwrap();
    after.iter().for_each(|number| step(&store, *number));
    let crashed = files.crashed();
    drop(store);
    let content = content(&files.table());
    (crashed, content)
}

/// No key but those of before, no name that leads elsewhere, and no silence.
fn must_be_honest(report: &RepairReport, found: &Content, whole: &Content, what: &str) {
    for (key_id, name) in &found.keys {
        assert_eq!(whole.keys.get(key_id), Some(name), "{what}");
    }
    assert!(found.target.is_none() || found.target == whole.target, "{what}: a stale name: {report:#?}");
    if found != whole {
        assert!(!report.complete(), "{what}: {report:#?}");
        assert!(!(report.lost.is_empty() && report.may_be_missing.is_empty()), "{what}: {report:#?}");
    }
}

#[test]
fn each_page_that_is_of_an_earlier_moment_or_exchanged_is_left_out_or_found() {
    let (files, bytes, whole) = closed(60);
    let (_, earlier, _) = {
        let copy = Files::new();
        let store = options().open(copy.table()).unwrap();
        (0..59).for_each(|number| step(&store, number));
        drop(store);
        let bytes = fs::read(copy.table()).unwrap();
        (copy, bytes, ())
    };
    let checks = |bytes: &[u8]| {
        fs::write(files.path("checked"), bytes).unwrap();
        options().check_integrity(true).open_read_only(files.path("checked")).is_ok()
    };
    let pages = bytes.len() / PAGE;
    let (mut seen, mut all) = (0, 0);
    for page in 1..pages {
        let other = 1 + page % (pages - 1);
        let mut exchanged = bytes.clone();
        exchanged[page * PAGE..][..PAGE].copy_from_slice(&bytes[other * PAGE..][..PAGE]);
        exchanged[other * PAGE..][..PAGE].copy_from_slice(&bytes[page * PAGE..][..PAGE]);
        let mut lost_write = bytes.clone();
        if let Some(before) = earlier.get(page * PAGE..(page + 1) * PAGE) {
            lost_write[page * PAGE..][..PAGE].copy_from_slice(before);
        }
        let mut flipped = bytes.clone();
        // Two bits: one would be healed.
        flipped[page * PAGE + 700] ^= 3;
        for (what, damaged) in [("exchanged", exchanged), ("lost write", lost_write), ("flipped", flipped)] {
            let what = format!("{what}, page {page}");
            files.set(&damaged);
            let (report, found) = match files.repair() {
                Ok(repaired) => repaired,
                Err(Error::Corrupted(_)) => continue,
                Err(error) => panic!("{what}: {error}"),
            };
            must_be_honest(&report, &found, &whole, &what);
            let fits = checks(&damaged);
            assert_eq!(report.damaged_pages > 0, !fits, "{what}: {report:#?}");
            assert_eq!(report.complete(), fits, "{what}: {report:#?}");
            seen += u32::from(!fits);
            all += u32::from(!fits && found == whole);
        }
    }
    assert!(seen > 5 && all > 1, "{seen} were damaged, of {all} all was saved");
}

/// Whether all pages fit, as the library says when it opens the file.
fn fits(files: &Files, bytes: &[u8]) -> bool {
    fs::write(files.path("checked"), bytes).unwrap();
    options().check_integrity(true).open_read_only(files.path("checked")).is_ok()
}

#[test]
fn one_flipped_bit_of_any_page_is_healed() {
    let (files, bytes, whole) = closed(60);
    let mut healed = 0;
    for page in 1..bytes.len() / PAGE {
        // What a page is, how many entries it has, where they lie, and what they are; or checksums of other pages.
        for bit in [1, 8 * 2 + 1, 8 * 5 + 3, 8 * 20, 8 * 300 + 7].map(|bit| 8 * page * PAGE + bit) {
            let what = format!("page {page}, bit {bit}");
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            files.set(&damaged);
            let (report, found) = files.repair().unwrap();
            assert_eq!(found, whole, "{what}");
            assert!(report.complete() && report.lost.is_empty(), "{what}: {report:#?}");
            let is_used = !fits(&files, &damaged);
            assert_eq!(report.healed_pages, u64::from(is_used), "{what}: {report:#?}");
            if is_used {
                let said = format!("bit {} of byte {} of the file was flipped", bit % 8, bit / 8);
                assert!(report.repaired.iter().any(|found| found.what.starts_with(&said)), "{report:#?}");
            }
            healed += u32::from(is_used);
        }
    }
    assert!(healed > 20, "{healed} were healed");
}

#[test]
fn two_flipped_bits_of_a_page_are_reported() {
    let (files, bytes, whole) = closed(60);
    let mut damaged_pages = 0;
    for page in 1..bytes.len() / PAGE {
        let mut damaged = bytes.clone();
        // Where also a page that is nearly empty has something.
        damaged[page * PAGE + 20] ^= 1;
        damaged[page * PAGE + 30] ^= 4;
        files.set(&damaged);
        if fits(&files, &damaged) {
            continue;
        }
        damaged_pages += 1;
        let Ok((report, found)) = files.repair() else { continue };
        must_be_honest(&report, &found, &whole, &format!("page {page}"));
        assert_eq!((report.healed_pages, report.complete()), (0, false), "page {page}: {report:#?}");
        assert!(report.damaged_pages > 0, "page {page}: {report:#?}");
    }
    assert!(damaged_pages > 5, "{damaged_pages} pages");
}

/// Of each page of a small store one bit: all of them are healed together, below and above each other.
#[test]
fn a_flipped_bit_of_each_page_is_healed() {
    let (files, bytes, whole) = closed(60);
    let mut damaged = bytes.clone();
    for page in 1..bytes.len() / PAGE {
        damaged[page * PAGE + 30] ^= 0x10;
    }
    damaged[64 + 20] ^= 2;
    damaged[192 + 20] ^= 2;
    files.set(&damaged);
    let (report, found) = files.repair().unwrap();
    assert!(report.complete() && report.healed_pages > 5, "{report:#?}");
    assert_eq!(found, whole);
}

#[test]
fn a_flipped_bit_in_each_commit_slot_is_healed() {
    let (files, bytes, whole) = closed(10);
    // Whether it has a root, which page that is, its checksum, the transaction, the checksum of the slot.
    for at in [1, 8, 17, 60, 104, 112, 127] {
        let mut damaged = bytes.clone();
        damaged[64 + at] ^= 1;
        damaged[192 + at] ^= 0x80;
        files.set(&damaged);
        let (report, found) = files.repair().unwrap();
        assert!(report.complete(), "byte {at}: {report:#?}");
        assert_eq!((report.healed_pages, report.damaged_pages), (1, 0), "byte {at}: {report:#?}");
        assert_eq!(found, whole, "byte {at}");
    }
}

#[test]
fn without_its_first_page_the_newest_complete_state_of_a_file_is_used() {
    let zeros = |bytes: &mut [u8]| bytes[..PAGE].fill(0);
    let slots = |bytes: &mut [u8]| [64, 192].iter().for_each(|slot| bytes[slot + 8..slot + 10].fill(0xaa));
    let damages: [fn(&mut [u8]); 2] = [zeros, slots];
    for damage in damages {
        let (files, bytes, whole) = closed(60);
        let mut damaged = bytes.clone();
        damage(&mut damaged);
        files.set(&damaged);
        let (report, found) = files.repair().unwrap();
        assert!(!report.complete() && mentions(&report, "the newest complete one"), "{report:#?}");
        assert_eq!((found, report.damaged_pages), (whole, 1));
        // With what the log has.
        let (files, whole) = with_log(40);
        let mut damaged = fs::read(files.table()).unwrap();
        damage(&mut damaged);
        files.set(&damaged);
        let (report, found) = files.repair().unwrap();
        assert_eq!(report.wal, WalUse::Used { up_to: Commit::new(41) }, "{report:#?}");
        assert!(found == whole && !report.complete(), "{report:#?}");
    }
    // Where also a page of rows is damaged, an older state may be complete; the report says up to where.
    let (files, bytes, whole) = closed_table(60);
    let (mut older, mut none) = (0, 0);
    for page in 1..bytes.len() / PAGE {
        let mut damaged = bytes.clone();
        zeros(&mut damaged);
        damaged[(page * PAGE)..][..PAGE].fill(0);
        files.set(&damaged);
        match files.repair() {
            Ok((report, found)) => {
                assert!(!report.complete(), "page {page}: {report:#?}");
                assert!(
                    mentions(&report, "What was committed later may be missing"),
                    "page {page}: {report:#?}"
                );
                // Unless the page that says which commit is the newest is the damaged one.
                older +=
                    u32::from(found != whole && mentions(&report, "as of commit 61, is in the file too"));
            }
            Err(Error::NotAStore(what) | Error::Corrupted(what)) => {
                assert!(what.to_string().contains("no complete state"), "{what}");
                none += 1;
            }
            Err(error) => panic!("page {page}: {error}"),
        }
    }
    assert!(older + none > 0, "{older} {none}");
    files.set(&vec![0x5a; 10 * PAGE]);
    assert!(matches!(files.repair(), Err(Error::NotAStore(_))));
}

/// The first page is of an earlier moment, by few commits or many: the newest one is in pages to which it does not
/// lead. What it leads to may be complete.
#[test]
fn a_stale_first_page_hides_nothing() {
    for (later, closed) in [(1, true), (2, true), (3, true), (10, true), (1, false), (2, false), (3, false)] {
        let files = Files::new();
        let copy = |path: &Path| fs::read(path).unwrap();
        let store = write_table(&files.table(), &options(), 0..30);
        let before = if closed {
            drop(store);
            copy(&files.table())
        } else {
            let before = copy(&files.table());
            drop(store);
            before
        };
        let store = write_table(&files.table(), &options(), 30..30 + later);
        // As it is while it is open, and as a killed process leaves it.
        let open = copy(&files.table());
        drop(store);
        let whole = content(&files.table());
        let mut bytes = if closed { copy(&files.table()) } else { open };
        bytes[..PAGE].copy_from_slice(&before[..PAGE]);
        files.set(&bytes);
        let (report, found) = files.repair().unwrap();
        assert!(!report.complete(), "{later} commits, closed: {closed}: {report:#?}");
        assert!(found == whole || !report.may_be_missing.is_empty(), "{later} commits: {report:#?}");
        // The newest state is whole in the file.
        assert!(mentions(&report, "was found in the file without it"), "{later}, {closed}: {report:#?}");
        assert!(found == whole, "{later} commits, closed: {closed}");
    }
}

/// The disk lost the last write of the first page, and damaged a page of the newest state. What the first page leads to is
/// complete; what is left of the newest state tells that there was one.
#[test]
fn pages_of_a_later_state_tell_that_the_first_page_is_stale() {
    let files = Files::new();
    drop(write_table(&files.table(), &options(), 0..30));
    let before = fs::read(files.table()).unwrap();
    let store = write_table(&files.table(), &options(), 30..31);
    let mut bytes = fs::read(files.table()).unwrap();
    drop(store);
    let whole = content(&files.table());
    bytes[..PAGE].copy_from_slice(&before[..PAGE]);
    let mut told = 0;
    for page in (1..bytes.len() / PAGE).filter(|page| !has_newest(&bytes[page * PAGE..])) {
        let mut damaged = bytes.clone();
        damaged[page * PAGE..][..PAGE].fill(0);
        files.set(&damaged);
        // Where the page is one of both states, what was fixed at creation may be lost.
        let Ok((report, found)) = files.repair() else { continue };
        assert!(!report.complete() || found == whole, "page {page}: {report:#?}");
        let is_told = report.damaged_pages == 0 && mentions(&report, "a later state, as of commit 32, is");
        told += u32::from(is_told && found != whole);
    }
    assert!(told > 0);
}

/// Whether a page begins with the row that says which commit is the newest: its key is empty.
fn has_newest(page: &[u8]) -> bool {
    let pairs = u32::from(u16::from_le_bytes([page[2], page[3]]));
    page[0] == 1 && page[4..8] == (4 + 8 * pairs).to_le_bytes()
}

/// Whoever chooses texts that are long enough can put pages into the file. A state of them is another store's.
#[test]
fn a_newer_state_of_another_store_is_not_used() {
    let (files, mut bytes, whole) = closed(3);
    let other = Files::new();
    let store = options().history(false).open(other.table()).unwrap();
    (0..2).for_each(|number| step(&store, number));
    for number in 0..20 {
        store.write(&request(), |txn| txn.associate_alias(&moving(), key_id(number % 2))).unwrap();
    }
    drop(store);
    let others = fs::read(other.table()).unwrap();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let page = |number: u64| &others[PAGE * (1 + usize::try_from(number).unwrap())..][..PAGE];
    let slot = if others[9] & 1 == 0 { 64 } else { 192 };
    let mut tables = page(number(&others[slot + 8..])).to_vec();
    // The only table: 12 bytes, its name, and at the tenth of its definition the page of its root.
    assert_eq!(&tables[12..20], b"keystead");
    let rows = page(number(&tables[30..])).to_vec();
    assert!(has_newest(&rows));
    let place = bytes.len() as u64 / PAGE as u64 - 1;
    tables[30..38].copy_from_slice(&place.to_le_bytes());
    bytes.extend(rows);
    bytes.extend(tables);
    files.set(&bytes);
    let (report, found) = files.repair().unwrap();
    assert_eq!(found, whole, "{report:#?}");
    assert!(!report.complete());
}

/// The newest commit of a killed process leads to no rows any more. It is known that it was committed, so what the commit
/// before it has of the records that it changed is stale; pages to which nothing leads still tell which these are.
#[test]
fn a_record_that_the_lost_last_commit_changed_is_left_out() {
    for history in [true, false] {
        let files = Files::new();
        let store = write_table(&files.table(), &options().history(history), 0..30);
        let mut bytes = fs::read(files.table()).unwrap();
        drop(store);
        let slot = if bytes[9] & 1 == 0 { 64 } else { 192 };
        let root = u32::from_le_bytes(bytes[slot + 8..slot + 12].try_into().unwrap()) & 0xf_ffff;
        let root = PAGE * (1 + usize::try_from(root).unwrap());
        bytes[root..root + PAGE].fill(0);
        files.set(&bytes);
        let (report, found) = files.repair().unwrap();
        assert!(mentions(&report, "lead to no rows: the commit before it is used"), "{report:#?}");
        // It was on key 28 before the last commit.
        assert_eq!(found.target, None, "history: {history}: {report:#?}");
        let stale = "it was read as of an earlier change, and commit 31";
        let alias = report.lost.iter().find(|found| found.what.contains(stale)).unwrap();
        assert!(alias.row.ends_with("moving"), "{report:#?}");
        assert_eq!(found.keys.len(), 29, "all keys but the last: {report:#?}");
        assert!(mentions(&report, "it is in the file as of commit 31 too"), "{report:#?}");
        assert!(!report.complete());
    }
}

#[test]
fn a_log_beside_the_file_is_used_whatever_the_file_says() {
    let (files, whole) = with_log(40);
    let (report, found) = files.repair().unwrap();
    assert!(report.complete(), "{report:#?}");
    assert_eq!((&report.wal, &found), (&WalUse::Used { up_to: Commit::new(41) }, &whole));
    // The row that tells of the log lies in one of these pages.
    let bytes = fs::read(files.table()).unwrap();
    let (mut used, mut saved) = (0, 0);
    for page in 1..bytes.len() / PAGE {
        let mut damaged = bytes.clone();
        damaged[page * PAGE..][4..8].copy_from_slice(&[0xff; 4]);
        files.set(&damaged);
        let Ok((report, found)) = files.repair() else { continue };
        must_be_honest(&report, &found, &whole, &format!("page {page}"));
        assert_eq!(report.complete(), report.damaged_pages == 0, "{report:#?}");
        used += u32::from(report.wal == WalUse::Used { up_to: Commit::new(41) });
        saved += u32::from(report.damaged_pages > 0 && found == whole);
    }
    assert!(used > 3 && saved > 0, "{used} used it, {saved} had all in spite of damage");
    // No state of the file tells it any more.
    let mut damaged = bytes;
    for page in damaged.chunks_exact_mut(PAGE).skip(1).filter(|page| page[0] == 1) {
        let number =
            |at: usize| usize::try_from(u32::from_le_bytes(page[at..at + 4].try_into().unwrap())).unwrap();
        let pairs = usize::from(u16::from_le_bytes([page[2], page[3]]));
        if number(4) == 4 + 8 * pairs {
            let end = number(4 * 2 * pairs);
            page[end - 1] ^= 3;
        }
    }
    files.set(&damaged);
    let (report, found) = files.repair().unwrap();
    assert_eq!(report.wal, WalUse::Used { up_to: Commit::new(41) }, "{report:#?}");
    assert!(mentions(&report, "does not tell any more") && !report.complete(), "{report:#?}");
    must_be_honest(&report, &found, &whole, "no page tells of the log");
    assert!(found.keys.len() >= 20, "those of the log are there: {}", found.keys.len());
}

#[test]
fn without_its_log_the_table_is_salvaged_and_what_may_be_missing_is_told() {
    let (files, whole) = with_log(40);
    let log = fs::read(files.log()).unwrap();
    fs::remove_file(files.log()).unwrap();
    let (report, found) = files.repair().unwrap();
    assert_eq!(report.wal, WalUse::Missing);
    assert!(!report.complete() && mentions(&report, "after commit 22 may be missing"), "{report:#?}");
    assert_eq!(found.keys.len(), 21);
    assert_eq!(found.target, Some(key_id(20)));
    // That of another store, and what is none.
    let (others, _) = with_log(44);
    let cases = [
        (fs::read(others.log()).unwrap(), "another store"),
        (b"no log".to_vec(), "nothing"),
        (vec![0; log.len()], "nothing"),
    ];
    for (bytes, why) in cases {
        fs::write(files.log(), bytes).unwrap();
        let (report, found) = files.repair().unwrap();
        assert!(!report.complete(), "{report:#?}");
        match &report.wal {
            WalUse::NotUsed { why: said } => assert!(said.contains(why), "{said}"),
            // The file tells the id, by which frames would be known.
            WalUse::Used { up_to } => assert_eq!((up_to.number(), why), (22, "nothing")),
            other => panic!("{other:?}"),
        }
        assert_eq!(found.keys.len(), 21);
    }
    fs::write(files.log(), log).unwrap();
    assert_eq!(files.repair().unwrap().1, whole);
}

#[test]
fn a_log_of_another_store_beside_a_closed_file_changes_nothing() {
    let (files, _, whole) = closed(5);
    let (others, _) = with_log_of(&[0, 101, 102, 103, 104, 105, 106, 107]);
    fs::copy(others.log(), files.log()).unwrap();
    let (report, found) = files.repair().unwrap();
    assert!(matches!(report.wal, WalUse::NotUsed { .. }) && report.complete(), "{report:#?}");
    assert_eq!(found, whole);
}

/// Flips bytes of a log: its frames up to there are used, and what comes behind may be missing.
#[test]
fn of_a_damaged_log_the_frames_before_the_damage_are_used() {
    let (files, whole) = with_log(24);
    let log = fs::read(files.log()).unwrap();
    let used = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // The newest frames are in the second half; those in the first are in the table file too.
    let half = log.len() / 2 + PAGE / 2;
    let (mut fewer, mut torn, mut kept) = (0, 0, 0);
    let places = [20, PAGE + 100].into_iter().chain((half..used).step_by(1201)).chain([used - 10]);
    // The last once more without the mark, as a power cut may leave it.
    for (place, is_marked) in places.map(|place| (place, true)).chain([(used - 10, false)]) {
        let mut damaged = log.clone();
        damaged[place] ^= 0x10;
        if !is_marked {
            damaged[PAGE..2 * PAGE].fill(0);
        }
        fs::write(files.log(), damaged).unwrap();
        let (report, found) = files.repair().unwrap();
        must_be_honest_of_log(&report, &found, &whole, place);
        assert!(found.keys.len() >= 12, "what is in the table file is there: {}", found.keys.len());
        if found == whole {
            kept += 1;
            continue;
        }
        let WalUse::Used { up_to } = &report.wal else { panic!("byte {place}: {report:#?}") };
        assert_eq!(found.keys.len() as u64, up_to.number() - 1, "byte {place}");
        fewer += u32::from(mentions(&report, "is damaged behind commit"));
        torn += u32::from(mentions(&report, "is not whole"));
        assert_eq!(mentions(&report, "is not whole"), !is_marked, "{report:#?}");
    }
    assert!(fewer > 2 && torn > 0 && kept > 0, "{fewer} {torn} {kept}");
    // Cut off.
    for length in [PAGE + 700, half + 700, used - 1, log.len() - 1] {
        fs::write(files.log(), &log[..length]).unwrap();
        let (report, found) = files.repair().unwrap();
        assert!(!report.complete(), "{length}: {report:#?}");
        must_be_honest_of_log(&report, &found, &whole, length);
    }
}

/// After damage to the log the alias may be what it was at the commit up to which the log is used.
fn must_be_honest_of_log(report: &RepairReport, found: &Content, whole: &Content, place: usize) {
    let last = found.keys.keys().max().copied();
    assert_eq!(found.target, last, "byte {place}");
    assert!(found.keys.iter().all(|(key_id, name)| whole.keys.get(key_id) == Some(name)), "byte {place}");
    assert!(found == whole || !report.complete(), "byte {place}: {report:#?}");
}

/// The table file is of before the log went on: it has all that is between them.
#[test]
fn a_table_file_of_an_earlier_moment_is_brought_up_to_date_by_its_log() {
    let files = Files::new();
    let store = options().open(files.table()).unwrap();
    (0..2).for_each(|number| step(&store, number));
    drop(store);
    let store = options().open(files.table()).unwrap();
    // In the table; the next write to it says that the log is in use.
    step(&store, 2);
    let closed = fs::read(files.table()).unwrap();
    (3..9).for_each(|number| step(&store, number));
    let crashed = files.crashed();
    drop(store);
    crashed.set(&closed);
    let (report, found) = crashed.repair().unwrap();
    assert_eq!(report.wal, WalUse::Used { up_to: Commit::new(10) });
    assert!(mentions(&report, "of an earlier moment"), "{report:#?}");
    assert_eq!(found, content(&files.table()));
    // Another copy of the store went on otherwise: its commits are not those of the log.
    fs::remove_file(crashed.log()).unwrap();
    let store = options().open(crashed.table()).unwrap();
    (21..24).for_each(|number| step(&store, number));
    drop(store);
    fs::copy(files.log(), crashed.log()).unwrap();
    let whole = content(&crashed.table());
    let (report, found) = crashed.repair().unwrap();
    assert!(matches!(report.wal, WalUse::NotUsed { .. }), "{report:#?}");
    assert_eq!(found, whole);
}

#[test]
fn what_somebody_writes_is_not_repaired() {
    let (files, ..) = closed(3);
    let store = options().open(files.table()).unwrap();
    // In the table, and in the log.
    for number in 3..5 {
        let refused = repair(files.table(), files.path("repaired"));
        let Err(Error::AlreadyOpen(locked)) = refused else { panic!("{refused:?}") };
        assert_eq!(*locked.path, *files.table().display().to_string(), "and not the new file");
        step(&store, number);
    }
    drop(store);
    let reader = options().open_read_only(files.table()).unwrap();
    assert!(files.repair().unwrap().0.complete());
    drop(reader);
}

/// What is before the commit slots has no checksum: flags, and how the pages lie in the file.
#[test]
fn a_flipped_bit_before_the_commit_slots_loses_nothing() {
    for is_closed in [true, false] {
        let files = Files::new();
        drop(write_table(&files.table(), &options(), 0..3));
        let store = options().open(files.table()).unwrap();
        // Its row needs a page larger than the smallest.
        let mut large = NewKey::new("large").unwrap().id(key_id(1000));
        for number in 0..20 {
            large = large.tag(format!("tag-{number}").parse().unwrap(), "x".repeat(255).parse().unwrap());
        }
        store.write(&request(), |txn| txn.create_key(&large)).unwrap();
        let open = fs::read(files.table()).unwrap();
        drop(store);
        let whole = content(&files.table());
        let bytes = if is_closed { fs::read(files.table()).unwrap() } else { open };
        // The flags; the size of a page, pages before and in a region, regions.
        for bit in [9, 12, 16, 18, 20, 22, 24, 28].into_iter().flat_map(|byte| 8 * byte..8 * byte + 8) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            files.set(&damaged);
            let (report, found) = files.repair().unwrap_or_else(|error| panic!("bit {bit}: {error}"));
            assert_eq!(found, whole, "bit {bit}, closed: {is_closed}: {report:#?}");
            // Of the pages before a region there are none in any store.
            assert!(!(128..144).contains(&bit) || !report.complete(), "bit {bit}: {report:#?}");
        }
    }
}
