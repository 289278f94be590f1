//! What a lock on a store's file does that somebody else holds: whoever may only read the file, and a child process
//! that has the file from its parent. docs/operations.md says what follows from it.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Bound;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use keystead::{Error, NewKey, Options, Request, Scope, Store};
use redb::StorageBackend;
use redb::backends::FileBackend;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

fn request() -> Request {
    Request::new(&Scope::new("domain", "project").unwrap())
}

fn create_key(store: &Store, name: &str) {
    let key = NewKey::new(name).unwrap();
    store.write(&request(), |txn| txn.create_key(&key)).unwrap();
}

/// A store that is closed, in each mode.
fn stores(folder: &Path) -> Vec<(bool, PathBuf)> {
    let modes = [false, true].map(|redo_log| {
        let path = folder.join(format!("{redo_log}.redb"));
        create_key(&Options::new().redo_log(redo_log).open(&path).unwrap(), "first");
        (redo_log, path)
    });
    modes.to_vec()
}

fn open(redo_log: bool, path: &Path) -> Result<Store, Error> {
    Options::new().redo_log(redo_log).open(path)
}

#[test]
fn who_may_read_the_file_can_hold_up_an_opening() {
    let folder = tempfile::tempdir().unwrap();
    for (redo_log, path) in stores(folder.path()) {
        // To lock it, it is enough to have opened it to read.
        let stranger = File::open(&path).unwrap();
        stranger.lock().unwrap();
        assert!(matches!(open(redo_log, &path), Err(Error::AlreadyOpen(_))), "redo log {redo_log}");
        assert!(matches!(Options::new().open_read_only(&path), Err(Error::AlreadyOpen(_))));
        drop(stranger);

        let stranger = FileBackend::new(File::open(&path).unwrap()).unwrap();
        assert!(stranger.try_lock_shared_range(Bound::Unbounded, Bound::Unbounded).unwrap());
        assert!(matches!(open(redo_log, &path), Err(Error::AlreadyOpen(_))), "redo log {redo_log}");
        drop(stranger);
        create_key(&open(redo_log, &path).unwrap(), "second");
    }
}

#[test]
fn who_may_read_the_log_can_hold_up_an_opening_with_it() {
    const MARKED: Bound<u64> = Bound::Included(1 << 61);
    let folder = tempfile::tempdir().unwrap();
    let (_, path) = stores(folder.path()).pop().unwrap();
    let log = folder.path().join("true.redb.redo");
    let stranger = FileBackend::new(File::open(&log).unwrap()).unwrap();
    assert!(stranger.try_lock_shared_range(MARKED, MARKED).unwrap());
    assert!(matches!(open(true, &path), Err(Error::AlreadyOpen(_))));
    create_key(&open(false, &path).unwrap(), "second");
    drop(stranger);

    let store = open(true, &path).unwrap();
    let stranger = FileBackend::new(File::open(&log).unwrap()).unwrap();
    assert!(!stranger.try_lock_shared_range(MARKED, MARKED).unwrap(), "its writer has it");
    create_key(&store, "third");
}

#[test]
fn who_may_read_the_file_can_hold_up_commits_of_a_store_without_a_redo_log() {
    let folder = tempfile::tempdir().unwrap();
    for (redo_log, path) in stores(folder.path()) {
        let store = open(redo_log, &path).unwrap();
        // The first after an opening makes an entry in the table, with a log too.
        create_key(&store, "before");
        let stranger = FileBackend::new(File::open(&path).unwrap()).unwrap();
        let held = stranger.try_lock_shared_range(Bound::Included(0), Bound::Included(0)).unwrap();
        assert!(held, "{redo_log}");
        thread::scope(|threads| {
            let (committed, commits) = mpsc::channel();
            let store = &store;
            threads.spawn(move || {
                create_key(store, "second");
                committed.send(()).unwrap();
            });
            if redo_log {
                commits.recv_timeout(Duration::from_secs(60)).expect("it goes to the log");
                return drop(stranger);
            }
            let waited = commits.recv_timeout(Duration::from_millis(500));
            assert_eq!(waited, Err(mpsc::RecvTimeoutError::Timeout), "the commit was not held up");
            drop(stranger);
            commits.recv_timeout(Duration::from_secs(60)).expect("the commit goes on");
        });
    }
}

const ROLE: &str = "KEYSTEAD_TEST_ROLE";
const PATH: &str = "KEYSTEAD_TEST_PATH";

/// The other process: this program again, with a role. Without one it has nothing to do. It opens the store and
/// starts a child, which lives until the test closes the pipe that both have as their standard input.
#[test]
fn parent() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var(PATH).unwrap());
    let _store = open(path.ends_with("true.redb"), &path).unwrap();
    let mut child = Command::new("cat");
    child.stdin(Stdio::inherit()).stdout(Stdio::null());
    if role == FORKS {
        child.stderr(open_file(&path));
    }
    let mut child = child.spawn().unwrap();
    println!("\nsays started");
    child.wait().unwrap();
}

const FORKS: &str = "its child has the file, as after fork";
const RUNS: &str = "its child runs a program";

/// The very file that the store in this process has open, with its locks.
fn open_file(path: &Path) -> OwnedFd {
    let numbers = fs::read_dir("/proc/self/fd").unwrap().map(|number| number.unwrap());
    let mut of_store = numbers.filter(|number| fs::read_link(number.path()).is_ok_and(|file| file == path));
    let number: RawFd = of_store.next().unwrap().file_name().to_str().unwrap().parse().unwrap();
    let process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(process, number, PidfdGetfdFlags::empty()).unwrap()
}

#[test]
fn a_lock_lives_as_long_as_a_child_that_has_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for (redo_log, path) in stores(folder.path()) {
        for role in [FORKS, RUNS] {
            let mut parent = Command::new(std::env::current_exe().unwrap())
                .args(["parent", "--exact", "--nocapture", "--test-threads=1"])
                .env(ROLE, role)
                .env(PATH, &path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let pipe = parent.stdin.take();
            let mut output = BufReader::new(parent.stdout.take().unwrap()).lines();
            assert!(output.any(|line| line.unwrap() == "says started"), "the parent opens the store");
            parent.kill().unwrap();
            parent.wait().unwrap();
            let opened = open(redo_log, &path);
            match role {
                FORKS => assert!(matches!(opened, Err(Error::AlreadyOpen(_))), "the child has no lock"),
                _ => create_key(&opened.expect("a program has none of its parent's files"), "second"),
            }
            // The child ends, and with it the last that has the file. On a busy machine that takes a while.
            drop(pipe);
            let opens = (0..60).any(|_| open(redo_log, &path).is_ok());
            assert!(opens, "nobody has the file any more");
        }
    }
}
