//! The write-ahead log of stores in real files: what a crash, a damaged log or the wrong log leads to.
//!
//! A crash is the two files copied while the store is open: what a killed process leaves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use keystead::{
    Alias, Error, KeyFilter, KeyId, NewKey, Options, Quotas, Request, Result, Scope, Store, TagKey, TagValue,
    Tags, Timestamp,
};
use tempfile::TempDir;

fn scope() -> Scope {
    Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap()
}

fn key_id(number: u32) -> KeyId {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    KeyId::from_bytes(bytes)
}

fn moving() -> Alias {
    "moving".parse().unwrap()
}

/// Makes the next key and moves the alias `moving` to it, in one commit.
fn step(store: &Store, number: u32) {
    let request = Request::new(&scope()).at(Timestamp::from_millis(1_700_000_000_000));
    let new = NewKey::new(&format!("key-{number}")).unwrap().id(key_id(number));
    let committed = store.write(&request, |txn| {
        txn.create_key(&new)?;
        match number {
            0 => txn.create_alias(&moving(), new.key_id).map(drop),
            _ => txn.associate_alias(&moving(), new.key_id).map(drop),
        }
    });
    committed.unwrap();
}

/// How many steps were taken; checks that the last key has the alias, and that all is well.
fn steps_in(store: &Store) -> u32 {
    let report = store.verify().unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let count = store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap();
    let count = u32::try_from(count).unwrap();
    if let Some(last) = count.checked_sub(1) {
        let resolved = store.read(&scope(), |snap| snap.resolve(&moving())).unwrap();
        assert_eq!(resolved.key_id, key_id(last));
    }
    count
}

fn options() -> Options {
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    Options::new().quotas(quotas).cache_bytes(1 << 20).wal_bytes(Options::WAL_BYTES_MIN)
}

/// The two files of a store in a folder of their own.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn table(&self) -> PathBuf {
        self.folder.path().join("kms.redb")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("kms.redb.redo")
    }

    /// What a crash would leave now.
    fn copy(&self) -> Self {
        let copy = Self::new();
        fs::copy(self.table(), copy.table()).unwrap();
        if self.log().exists() {
            fs::copy(self.log(), copy.log()).unwrap();
        }
        copy
    }

    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A store of so many steps, as a crash left it.
fn crashed(steps: u32) -> Files {
    let files = Files::new();
    let store = options().open(files.table()).unwrap();
    (0..steps).for_each(|number| step(&store, number));
    files.copy()
}

/// What is there after a crash, opened in each way.
fn found_in(files: &Files) -> Result<u32> {
    let read_only = options().open_read_only(files.table()).map(|store| steps_in(&store));
    let writing = options().open(files.copy().table()).map(|store| steps_in(&store));
    assert_eq!(read_only.as_ref().ok(), writing.as_ref().ok(), "{read_only:?} {writing:?}");
    writing
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    for checkpoint_bytes in [1, 4000, usize::MAX] {
        let files = Files::new();
        let options = options().checkpoint_bytes(checkpoint_bytes);
        let store = options.open(files.table()).unwrap();
        for number in 0..12 {
            assert_eq!(found_in(&files.copy()).unwrap(), number);
            step(&store, number);
        }
        // Crashes one after the other, each with something new.
        let mut files = files.copy();
        for number in 12..20 {
            let store = options.open(files.table()).unwrap();
            step(&store, number);
            files = files.copy();
        }
        assert_eq!(found_in(&files).unwrap(), 20);
    }
}

#[test]
fn a_store_that_was_closed_is_one_file() {
    let files = Files::new();
    let store = options().open(files.table()).unwrap();
    (0..3).for_each(|number| step(&store, number));
    drop(store);
    assert_eq!(files.names(), ["kms.redb", "kms.redb.redo"]);
    for remove in [false, true] {
        if remove {
            fs::remove_file(files.log()).unwrap();
        }
        assert_eq!(steps_in(&options().open_read_only(files.table()).unwrap()), 3);
        assert_eq!(steps_in(&options().open(files.table()).unwrap()), 3);
    }
    // Another process goes on without it, and makes it when it is worth it.
    for number in 3..9 {
        let store = options().open(files.table()).unwrap();
        step(&store, number);
        assert_eq!(files.names(), ["kms.redb"], "one commit needs no log");
    }
    let store = options().open(files.table()).unwrap();
    (9..12).for_each(|number| step(&store, number));
    assert_eq!(files.names(), ["kms.redb", "kms.redb.redo"]);
    drop(store);
    fs::remove_file(files.log()).unwrap();
    assert_eq!(steps_in(&options().open_read_only(files.table()).unwrap()), 12);
}

/// What was read before is cached. The first commit of a process changes it, past the log.
#[test]
fn a_checkpoint_brings_into_the_table_what_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = options().checkpoint_bytes(usize::MAX).open(&path).unwrap();
    let stats = || store.stats().log.unwrap();
    store.checkpoint().unwrap();
    assert_eq!(stats().checkpoints, 0, "there is nothing to do");
    (0..20).for_each(|number| step(&store, number));
    assert!(stats().commits_behind >= 19, "{:?}", stats());
    store.checkpoint().unwrap();
    assert_eq!((stats().commits_behind, stats().checkpoints), (0, 1));
    // Others commit meanwhile, and what was acknowledged before is in the table each time.
    std::thread::scope(|threads| {
        threads.spawn(|| (20..220).for_each(|number| step(&store, number)));
        loop {
            let acknowledged = store.position().unwrap().commit().number();
            store.checkpoint().unwrap();
            let (behind, newest) = (stats().commits_behind, store.position().unwrap().commit().number());
            assert!(newest.saturating_sub(behind) >= acknowledged, "{acknowledged} {newest} {behind}");
            if newest >= 200 {
                break;
            }
        }
    });
    assert_eq!(steps_in(&store), 220);
    let reader = options().open_read_only(&path).unwrap();
    assert!(matches!(reader.checkpoint(), Err(Error::ReadOnly)));
    let nested = store.write(&Request::new(&scope()), |_| store.checkpoint());
    assert!(matches!(nested, Err(Error::NestedTransaction)), "{nested:?}");
    Store::in_memory().unwrap().checkpoint().unwrap();
}

#[test]
fn the_first_commit_of_a_process_is_read_at_once() {
    let files = Files::new();
    step(&options().open(files.table()).unwrap(), 0);
    for number in 1..4 {
        let store = options().open(files.table()).unwrap();
        assert_eq!(steps_in(&store), number);
        step(&store, number);
        assert_eq!(steps_in(&store), number + 1);
    }
}

#[test]
fn the_log_can_be_longer_or_shorter_the_next_time() {
    let files = Files::new();
    let length = || fs::metadata(files.log()).unwrap().len();
    let (min, max) = (Options::WAL_BYTES_MIN, 9 << 20);
    let (mut steps, mut lengths) = (0, Vec::new());
    for bytes in [max, min, max, max] {
        // Checkpoints come only when a segment is full.
        let growing = options().wal_bytes(bytes).checkpoint_bytes(usize::MAX);
        let store = growing.open(files.table()).unwrap();
        let heavy = |number: u32| {
            step(&store, number);
            let tag = |number| {
                (TagKey::new(&format!("tag-{number}")).unwrap(), TagValue::new(&"v".repeat(255)).unwrap())
            };
            let tags: Tags = (0..20).map(tag).collect();
            for _ in 0..4 {
                store.write(&Request::new(&scope()), |txn| txn.set_tags(key_id(number), &tags)).unwrap();
                store
                    .write(&Request::new(&scope()), |txn| txn.set_tags(key_id(number), &Tags::default()))
                    .unwrap();
            }
        };
        (steps..steps + 2).for_each(&heavy);
        let first = length();
        (steps + 2..steps + 150).for_each(heavy);
        steps += 150;
        lengths.push((first, length()));
        drop(store);
        assert_eq!(steps_in(&options().open_read_only(files.table()).unwrap()), steps);
    }
    let begins = |bytes: u64| bytes > 200_000 && bytes <= min;
    let [(first, grown), (short, still_short), (anew, grown_again), (kept, still)] = lengths[..] else {
        panic!()
    };
    assert!(begins(first) && grown > 2 * first && grown <= max, "{lengths:?}");
    assert!(begins(short) && still_short <= min, "a longer one than allowed is made anew: {lengths:?}");
    assert!(anew >= short && grown_again > 2 * anew && grown_again <= max, "{lengths:?}");
    assert!(kept == grown_again && still >= kept, "it is used as it is: {lengths:?}");
    for bytes in [0, Options::WAL_BYTES_MIN - 1, Options::WAL_BYTES_MAX + 1] {
        let refused = options().wal_bytes(bytes).open(files.table());
        assert!(matches!(refused, Err(Error::OptionsMismatch { option: "wal_bytes", .. })), "{bytes}");
    }
}

/// Opened and closed again, the table file alone has all.
#[test]
fn a_crashed_store_that_was_opened_once_needs_its_log_no_more() {
    let files = crashed(5);
    assert_eq!(steps_in(&options().open(files.table()).unwrap()), 5);
    fs::remove_file(files.log()).unwrap();
    assert_eq!(steps_in(&options().open_read_only(files.table()).unwrap()), 5);
    assert_eq!(steps_in(&options().open(files.table()).unwrap()), 5);
}

#[test]
fn reading_a_crashed_store_writes_nothing() {
    let files = crashed(5);
    let content = || (fs::read(files.table()).unwrap(), fs::read(files.log()).unwrap(), files.names());
    let before = content();
    for path in [files.table(), files.log()] {
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
    }
    let one = options().open_read_only(files.table()).unwrap();
    let other = options().open_read_only(files.table()).unwrap();
    assert_eq!((steps_in(&one), steps_in(&other)), (5, 5));
    let request = Request::new(&scope());
    let new = NewKey::new("another").unwrap();
    assert!(matches!(one.write(&request, |txn| txn.create_key(&new)), Err(Error::ReadOnly)));
    drop((one, other));
    assert!(content() == before);
}

#[test]
fn a_store_has_one_writer_and_any_readers() {
    let files = Files::new();
    let before = options().open(files.table()).unwrap();
    drop(before);
    let reader = options().open_read_only(files.table()).unwrap();
    let store = options().open(files.table()).unwrap();
    step(&store, 0);
    let refused = options().open(files.table());
    let Err(Error::AlreadyOpen(locked)) = refused else { panic!("{refused:?}") };
    assert_eq!(*locked.path, *files.table().display().to_string());
    let later = options().open_read_only(files.table()).unwrap();
    for number in 1..20 {
        for reader in [&reader, &later] {
            assert_eq!(steps_in(reader), number);
        }
        step(&store, number);
    }
    drop(store);
    for reader in [&reader, &later] {
        assert_eq!(steps_in(reader), 20);
    }
    assert_eq!(steps_in(&options().open(files.table()).unwrap()), 20);
}

#[cfg(unix)]
#[test]
fn the_log_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    let store = options().open(files.table()).unwrap();
    (0..2).for_each(|number| step(&store, number));
    assert_eq!(fs::metadata(files.log()).unwrap().permissions().mode() & 0o777, 0o600);
}

fn is_mismatch(opened: &Result<u32>) -> bool {
    matches!(opened, Err(Error::LogMismatch(_)))
}

#[test]
fn a_log_that_is_missing_or_of_another_store_is_refused() {
    let (files, others) = (crashed(5), crashed(7));
    let log = fs::read(files.log()).unwrap();
    fs::remove_file(files.log()).unwrap();
    assert!(is_mismatch(&options().open(files.table()).map(|store| steps_in(&store))));
    assert!(is_mismatch(&options().open_read_only(files.table()).map(|store| steps_in(&store))));
    fs::copy(others.log(), files.log()).unwrap();
    assert!(is_mismatch(&found_in(&files)));
    // A new store beside the log of another.
    let table = fs::read(files.table()).unwrap();
    fs::remove_file(files.table()).unwrap();
    assert!(is_mismatch(&options().open(files.table()).map(|store| steps_in(&store))));
    // Put back as it was, all is there.
    fs::write(files.table(), table).unwrap();
    fs::write(files.log(), log).unwrap();
    assert_eq!(found_in(&files).unwrap(), 5);
}

/// The table file is from before what is in the log, and the log does not know that it was closed since.
#[test]
fn a_log_that_goes_on_where_the_store_was_closed_is_refused() {
    // The first of a process is not in the log: of one the table file does not know any log, of three it does.
    for before in [1, 3] {
        let files = Files::new();
        let write = |numbers: Range<u32>| {
            let store = options().open(files.table()).unwrap();
            numbers.for_each(|number| step(&store, number));
            store
        };
        drop(write(0..before));
        let closed = fs::read(files.table()).unwrap();
        let _store = write(before..before + 3);
        let crashed = files.copy();
        assert_eq!(found_in(&crashed).unwrap(), before + 3);
        fs::write(crashed.table(), closed).unwrap();
        let log = fs::read(crashed.log()).unwrap();
        for options in [options(), options().check_integrity(true)] {
            assert!(is_mismatch(&options.open(crashed.table()).map(|store| steps_in(&store))));
        }
        assert!(fs::read(crashed.log()).unwrap() == log, "its mark says up to where it reaches");
        // As the one file that a closed store is, it has what it had.
        fs::remove_file(crashed.log()).unwrap();
        assert_eq!(options().open(crashed.table()).map(|store| steps_in(&store)).unwrap(), before);
    }
}

fn is_of_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupted(_) | Error::LogMismatch(_) | Error::Unsupported { .. })
}

#[test]
fn a_truncated_log_is_refused() {
    let files = crashed(5);
    let log = fs::read(files.log()).unwrap();
    for length in [0, 1, 47, 48, 4095, 4096, 4097, 8192, log.len() / 2, log.len() - 1] {
        fs::write(files.log(), &log[..length]).unwrap();
        let refused = found_in(&files).unwrap_err();
        assert!(is_of_damage(&refused), "{length} bytes: {refused:?}");
    }
}

/// Flips one byte at a time. A frame that is damaged is never applied, and acknowledged commits are not missed in
/// silence. Without its mark, as a power cut may leave a log, the last frame may be one that nobody was told of.
#[test]
fn a_damaged_log_is_refused() {
    let files = crashed(5);
    let mut log = fs::read(files.log()).unwrap();
    let used = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // The first four bytes of the first frame are those of all.
    let last = (8192..used).step_by(512).filter(|place| log[*place..].starts_with(&log[8192..8196])).max();
    let last = last.unwrap();
    assert!(last > 8192 + 3 * 512, "there are several frames");
    let [refused, unused, torn] = damage_everywhere(&files, &log, used, last);
    assert!(refused > 0 && unused > 0 && torn == 0, "refused, unused, torn: {refused}, {unused}, {torn}");
    log[4096..8192].fill(0);
    let [refused, unused, torn] = damage_everywhere(&files, &log, used, last);
    assert!(refused > 0 && unused > 0 && torn > 0, "refused, unused, torn: {refused}, {unused}, {torn}");
}

/// Flips one byte after the other, and returns how often the log was refused, was as before, and lacked its last frame.
fn damage_everywhere(files: &Files, log: &[u8], used: usize, last: usize) -> [u32; 3] {
    let mut outcomes = [0; 3];
    for place in (0..48).chain((8192..used).step_by(23)) {
        let mut damaged = log.to_vec();
        damaged[place] ^= 1 << (place % 8);
        fs::write(files.log(), damaged).unwrap();
        match found_in(files) {
            Err(error) => {
                assert!(is_of_damage(&error), "byte {place}: {error:?}");
                outcomes[0] += 1;
            }
            Ok(5) => {
                assert_eq!(log[place], 0, "byte {place} of a frame does not matter");
                outcomes[1] += 1;
            }
            Ok(4) => {
                assert!(place >= last, "byte {place}: an acknowledged commit is gone, and nobody told");
                outcomes[2] += 1;
            }
            Ok(other) => panic!("byte {place}: {other} steps"),
        }
    }
    outcomes
}

/// A log that an administrator's command makes can be opened by the service whose store it is.
#[cfg(unix)]
/// The log is made by the second commit; where, was decided when the store was opened.
#[cfg(unix)]
#[test]
fn a_link_that_leads_elsewhere_after_the_opening_moves_no_log() {
    let [first, second] = [(); 2].map(|()| Files::new());
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("current");
    for (files, steps) in [(&second, 1), (&first, 0)] {
        let store = options().open(files.table()).unwrap();
        (0..steps).for_each(|number| step(&store, number));
    }
    std::os::unix::fs::symlink(first.table(), &link).unwrap();
    let store = options().open(&link).unwrap();
    step(&store, 0);
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(second.table(), &link).unwrap();
    (1..4).for_each(|number| step(&store, number));
    assert_eq!([first.names(), second.names()], [vec!["kms.redb", "kms.redb.redo"], vec!["kms.redb"]]);
    let crashed = first.copy();
    drop(store);
    for (files, steps) in [(&crashed, 4), (&first, 4), (&second, 1)] {
        assert_eq!(steps_in(&options().open(files.table()).unwrap()), steps);
    }
}

#[test]
fn a_log_has_the_owner_and_the_permissions_of_its_store() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kms");
    drop(Store::open(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // Only an administrator may give a file away; anybody else has it already.
    if path.metadata().unwrap().uid() == 0 {
        chown(&path, Some(12_345), Some(23_456)).unwrap();
    }
    let of = |path: &Path| {
        let file = path.metadata().unwrap();
        (file.uid(), file.gid(), file.mode() & 0o7777)
    };
    let log = folder.path().join("kms.redo");
    for turn in 0..2 {
        let store = Options::new().open(&path).unwrap();
        (2 * turn..2 * turn + 2).for_each(|number| step(&store, number));
        assert_eq!(of(&log), of(&path));
        assert_eq!(of(&path).2, 0o640);
        drop(store);
        fs::remove_file(&log).unwrap();
    }
}

/// By whatever path a store is opened, there is one log, beside its file.
#[cfg(unix)]
#[test]
fn the_log_of_a_store_behind_a_link_is_beside_its_file() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let (data, links) = (folder.path().join("data"), folder.path().join("links"));
    fs::create_dir(&data).unwrap();
    fs::create_dir(&links).unwrap();
    let (path, link) = (data.join("kms"), links.join("store"));
    drop(Store::open(&path).unwrap());
    symlink("../data/kms", &link).unwrap();
    symlink("store", links.join("again")).unwrap();
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let options = options();
    let crashed = folder.path().join("crashed");
    fs::create_dir(&crashed).unwrap();
    for (number, opened) in (0..).zip([&link, &links.join("again"), &path]) {
        let store = options.open(opened).unwrap();
        (2 * number..2 * number + 2).for_each(|number| step(&store, number));
        assert_eq!(names(&data), ["kms", "kms.redo"], "{}", opened.display());
        assert_eq!(names(&links), ["again", "store"], "{}", opened.display());
        // As after a crash: what was committed is in the log only.
        for name in ["kms", "kms.redo"] {
            fs::copy(data.join(name), crashed.join(name)).unwrap();
        }
        drop(store);
    }
    let _ = fs::remove_file(&link);
    symlink("../crashed/kms", &link).unwrap();
    assert_eq!(steps_in(&options.open_read_only(&link).unwrap()), 6);
    assert_eq!(steps_in(&options.open(&link).unwrap()), 6);
}
