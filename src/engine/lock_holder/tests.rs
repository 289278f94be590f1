//! What is read of locks in `/proc`, and of a file that another handle has locked.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::ops::Bound;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::linux::Lock;
use super::*;

const BASE: u64 = 1 << 62;

fn wanted(first: u64, last: u64, exclusive: bool) -> Wanted {
    Wanted { first, last, exclusive }
}

fn excludes(line: &str, wanted: Wanted) -> bool {
    Lock::read(line).is_some_and(|lock| lock.excludes(7, wanted))
}

#[test]
fn only_a_lock_on_the_same_bytes_of_the_same_file_excludes() {
    let exclusive = "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:7 0 319";
    assert!(excludes(exclusive, wanted(319, 400, false)));
    assert!(!excludes(exclusive, wanted(320, 400, true)), "it ends before");
    assert!(!excludes(&exclusive.replace(":7 ", ":8 "), wanted(0, 319, true)), "that is another file");
    let shared = exclusive.replace("WRITE", "READ");
    assert!(!excludes(&shared, wanted(0, 319, false)));
    assert!(excludes(&shared, wanted(0, 319, true)));
    assert!(excludes("lock:\t2: POSIX  ADVISORY  WRITE 12 fe:00:7 100 EOF", wanted(BASE, BASE, false)));
    assert!(!excludes("lock:\t2: LEASE  ACTIVE    WRITE 12 fe:00:7 0 EOF", wanted(0, 0, true)));
    assert!(!excludes("ino:\t7", wanted(0, 0, true)));
    assert!(!excludes("lock:\t1: OFDLCK ADVISORY", wanted(0, 0, true)));
}

#[test]
fn a_lock_on_the_whole_file_excludes_where_redb_takes_one_too() {
    let exclusive = "lock:\t1: FLOCK  ADVISORY  WRITE 12 fe:00:7 0 EOF";
    assert!(excludes(exclusive, wanted(BASE + 1, BASE + 1, true)));
    assert!(excludes(exclusive, Wanted::whole_file(false)));
    assert!(!excludes(exclusive, wanted(0, 319, true)), "that of the header is on its bytes");
    let shared = exclusive.replace("WRITE", "READ");
    assert!(!excludes(&shared, wanted(BASE + 1, BASE + 1, true)), "a writer with readers shares it");
    assert!(excludes(&shared, wanted(BASE + 1024, u64::MAX, true)));
}

#[test]
fn who_only_has_the_file_open_holds_no_lock() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let id = FileId::at(file.path());
    let open = || FileBackend::new(File::open(file.path()).unwrap()).unwrap();
    let byte = |byte| (Bound::Included(byte), Bound::Included(byte));
    let other = open();
    let (start, end) = byte(5);
    assert!(other.try_lock_shared_range(start, end).unwrap());
    let holder = |wanted| locked(id.as_ref(), wanted).holder;
    assert_eq!(holder(Wanted::new(byte(5), true)), Some(std::process::id()));
    assert_eq!(holder(Wanted::new(byte(5), false)), None, "it is shared");
    assert_eq!(holder(Wanted::new(byte(6), true)), None, "nobody has a lock there");
    other.unlock_range(start, end).unwrap();
    assert_eq!(holder(Wanted::whole_file(true)), None, "it is only open");
}
