//! Files that were damaged after they were closed: what `Options::check_integrity` sees, and that neither reading nor
//! writing ends the process.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use keystead::{
    After, BackgroundCheck, Error, KeyFilter, KeyId, Limit, NewKey, Options, Request, Scope, Store,
    Timestamp, compact, repair,
};

const KEYS: u8 = 60;
const PAGE: usize = 4096;
/// Tells the process that is started which file to write.
const PATH: &str = "KEYSTEAD_TEST_DAMAGED_FILE";

/// How often redb panicked, caught or not.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

/// One that is in no store of these tests yet.
fn new_key() -> NewKey {
    NewKey::new("another").unwrap().id(KeyId::from_bytes([0xff; 16]))
}

fn request() -> Request {
    Request::new(&scope()).at(Timestamp::from_millis(1_000_000))
}

/// Makes a store that was closed, whatever it is that it had.
fn make(path: &Path) {
    let store = Options::new().open(path).unwrap();
    for number in 0..KEYS {
        let new = NewKey::new(&format!("key-{number}")).unwrap().id(KeyId::from_bytes([number; 16]));
        let new = new.alias(format!("alias-{number}").parse().unwrap());
        store.write(&request(), |txn| txn.create_key(&new)).unwrap();
    }
}

/// All that is told of keys; what is not served is an error.
fn keys(store: &Store) -> Result<Vec<String>, Error> {
    let page = store.read(&scope(), |snap| snap.keys_by_id(&KeyFilter::all(), After::Start, Limit::MAX))?;
    Ok(page.items.iter().map(|key| format!("{key:?}")).collect())
}

/// Where something lies that looks like a list of pages, as redb keeps them: how many there are, and the number of each.
fn lists_of_pages(bytes: &[u8]) -> Vec<usize> {
    let pages = (bytes.len() / PAGE) as u64;
    let number = |place: usize| u64::from_le_bytes(bytes[place..place + 8].try_into().unwrap());
    let is_list = |place: &usize| {
        let count = usize::from(u16::from_le_bytes([bytes[*place], bytes[place + 1]]));
        let numbers: BTreeSet<_> = (0..count.min(200)).map(|item| number(place + 2 + 8 * item)).collect();
        // Of the first region; the highest bits say how many pages there are in one.
        let is_number = |number: &u64| (number & (u64::MAX >> 5)) < pages && number >> 59 < 10;
        (2..=200).contains(&count) && numbers.len() == count && numbers.iter().all(is_number)
    };
    (PAGE..bytes.len() - PAGE).filter(is_list).collect()
}

/// Stores of which a list of pages names a page in a region that is not there.
fn with_damaged_lists(bytes: &[u8]) -> Vec<Vec<u8>> {
    let damaged = |place: usize| {
        let mut bytes = bytes.to_vec();
        bytes[place + 2..place + 10].copy_from_slice(&[0xeb; 8]);
        bytes
    };
    lists_of_pages(bytes).into_iter().map(damaged).collect()
}

/// Writes the file that it is told, in a process of its own, because that may be aborted.
#[test]
fn in_a_process_of_its_own() {
    let Ok(path) = env::var(PATH) else { return };
    let written = Options::new().open(path).and_then(|store| {
        store.write(&request(), |txn| txn.create_key(&new_key())).map(drop)?;
        // Closing commits, too.
        Ok(())
    });
    assert!(matches!(written, Ok(()) | Err(Error::Corrupted(_) | Error::CommitUnknown(_))), "{written:?}");
}

/// Whether a process that writes it comes to its end, with success or an error of damage.
fn ends_well(path: &Path) -> bool {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["in_a_process_of_its_own", "--exact"]).env(PATH, path).env("RUST_BACKTRACE", "0");
    child.output().unwrap().status.success()
}

#[test]
fn a_damaged_list_of_pages_is_seen_by_a_check_and_never_ends_a_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    make(&path);
    let (whole, expected) = (fs::read(&path).unwrap(), keys(&Store::open(&path).unwrap()).unwrap());
    assert_eq!(expected.len(), usize::from(KEYS));
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        PANICS.fetch_add(1, Ordering::Relaxed);
    }));
    let mut refused = 0;
    for (number, damaged) in with_damaged_lists(&whole).into_iter().enumerate() {
        fs::write(&path, &damaged).unwrap();
        let panics = PANICS.load(Ordering::Relaxed);
        let read = Options::new().open_read_only(&path).and_then(|store| keys(&store));
        assert!(read.is_err() || read.is_ok_and(|keys| keys == expected));
        assert_eq!(PANICS.load(Ordering::Relaxed), panics, "caught here, but it would end another build");
        if let Ok(store) = Options::new().check_integrity(true).open_read_only(&path) {
            // What looks like a list is none, or lies in a page that is free.
            assert_eq!(keys(&store).unwrap(), expected);
            continue;
        }
        for checked in [
            Options::new().check_integrity(true).open_read_only(&path).map(drop),
            Options::new().check_integrity(true).open(&path).map(drop),
            Store::verify_backup(&path).map(drop),
            compact(&path).map(drop),
        ] {
            assert!(matches!(checked, Err(Error::Corrupted(_))), "{checked:?}");
            refused += 1;
        }
        assert_eq!(fs::read(&path).unwrap(), damaged, "what is refused stays as it is");
        let repaired = folder.path().join(format!("repaired-{number}"));
        let lost = repair(&path, &repaired).map(|report| report.lost.len());
        assert!(lost.is_err() || keys(&Store::open(&repaired).unwrap()).unwrap() == expected, "{lost:?}");
        assert!(ends_well(&path), "writing the list number {number} ended the process");
    }
    // Otherwise nothing was damaged that matters, and this test shows nothing.
    assert!(refused > 0);
}

#[test]
fn a_check_sees_every_page_that_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    make(&path);
    let (whole, expected) = (fs::read(&path).unwrap(), keys(&Store::open(&path).unwrap()).unwrap());
    let (mut corrupted, mut sound) = (0, 0);
    // Behind the header, of which redb keeps what was before, too.
    for place in (PAGE..whole.len()).step_by(PAGE / 2 + 7) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        match Options::new().check_integrity(true).open_read_only(&path) {
            Err(Error::Corrupted(_)) => corrupted += 1,
            Err(error) => panic!("at {place}: {error:?}"),
            // A page that is free.
            Ok(store) => {
                assert_eq!(keys(&store).unwrap(), expected, "at {place}");
                sound += 1;
            }
        }
    }
    assert!(corrupted > 10 && sound > 0, "{corrupted} corrupted, {sound} sound");
}

/// The first bytes of the two places where redb keeps what its newest commits are say in which format they are.
#[test]
fn a_file_in_an_older_format_of_redb_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    make(&path);
    let mut older = fs::read(&path).unwrap();
    (older[64], older[192]) = (2, 2);
    fs::write(&path, &older).unwrap();
    for opened in [
        Options::new().open(&path),
        Options::new().open_read_only(&path),
        Options::new().check_integrity(true).open(&path),
    ] {
        let refused = opened.err().unwrap();
        assert!(matches!(&refused, Error::NotAStore(why) if why.contains("old format 2")), "{refused:?}");
    }
    assert_eq!(fs::read(&path).unwrap(), older);
}

#[test]
fn pages_are_checked_beside_readers_and_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    make(&path);
    let writing = Options::new().open(&path).unwrap();
    let read = Options::new().check_integrity(true).open_read_only(&path).unwrap();
    assert_eq!(keys(&read).unwrap(), keys(&writing).unwrap());
    for store in [&writing, &read] {
        let check = store.check_pages(u64::MAX).unwrap();
        assert!(check.is_clean() && check.pages > 10, "{check:?}");
        assert_eq!(store.stats().pages.unwrap().damaged, 0);
    }
    // Damaged beneath them, in every page that holds something.
    let mut bytes = fs::read(&path).unwrap();
    for page in bytes.chunks_mut(PAGE).skip(1).filter(|page| page[0] == 1) {
        page[2] ^= 0x40;
    }
    fs::write(&path, &bytes).unwrap();
    for store in [&writing, &read] {
        let check = store.check_pages(u64::MAX).unwrap();
        assert!(!check.is_clean(), "{check:?}");
        assert!(store.stats().pages.unwrap().damaged > 0);
    }
    let refused = writing.write(&request(), |txn| txn.create_key(&new_key())).map(drop);
    assert!(matches!(refused, Err(Error::Corrupted(_))), "{refused:?}");
}

/// How many checks came to their end in the background, after a while if there is to be one.
fn checks_in_the_background(options: &Options, path: &Path, expected: u64) -> u64 {
    let store = options.open(path).unwrap();
    let rounds = if expected > 0 { 3000 } else { 30 };
    for _ in 0..rounds {
        if store.stats().pages.unwrap().checks == expected && expected > 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let stats = store.stats().pages.unwrap();
    assert_eq!((stats.damaged, stats.checked_bytes > 0), (0, expected > 0));
    stats.checks
}

#[test]
fn after_an_unclean_end_all_pages_are_checked_in_the_background() {
    // The first commit of a process goes to the table file, and needs no log.
    for commits in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("store"), folder.path().join("copy"));
        make(&path);
        let options = Options::new();
        let store = options.open(&path).unwrap();
        for name in ["one", "another"].into_iter().take(commits) {
            let new = NewKey::new(name).unwrap();
            store.write(&request(), |txn| txn.create_key(&new)).unwrap();
        }
        // As a crash leaves it.
        fs::copy(&path, &copy).unwrap();
        if commits > 1 {
            fs::copy(folder.path().join("store.redo"), folder.path().join("copy.redo")).unwrap();
        }
        drop(store);
        let never = options.clone().page_check(BackgroundCheck::Never);
        assert_eq!(checks_in_the_background(&options, &copy, 1), 1);
        assert_eq!(checks_in_the_background(&options, &copy, 0), 0, "it was closed");
        assert_eq!(checks_in_the_background(&options, &path, 0), 0, "it was closed");
        assert_eq!(checks_in_the_background(&never, &path, 0), 0);
        let always = options.page_check(BackgroundCheck::AfterOpening);
        assert_eq!(checks_in_the_background(&always, &path, 1), 1);
    }
}

#[test]
fn what_was_not_closed_is_read_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("store"), folder.path().join("copy"));
    make(&path);
    let store = Options::new().open(&path).unwrap();
    store.write(&request(), |txn| txn.create_key(&new_key())).unwrap();
    // As a crash leaves it.
    fs::copy(&path, &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    assert_eq!(keys(&Options::new().open_read_only(&copy).unwrap()).unwrap(), keys(&store).unwrap());
    let recovered = Options::new().check_integrity(true).open_read_only(&copy).unwrap();
    assert_eq!(keys(&recovered).unwrap(), keys(&store).unwrap());
    drop(recovered);
    assert_eq!(fs::read(&copy).unwrap(), before, "nothing was written");
    assert!(Options::new().check_integrity(true).open(&copy).is_ok());
}
