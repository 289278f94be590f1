//! What a lock on a store's file does that somebody else holds: whoever may only read the file, a child process that
//! has the file from its parent, and a process that was stopped or killed while it holds one. docs/operations.md says what follows from it.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "how long waiting takes")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Lines, Write as _};
use std::ops::Bound;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use keystead::{Error, KeyFilter, NewKey, Options, Request, Scope, Store};
use redb::StorageBackend;
use redb::backends::FileBackend;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, getpid, kill_process, pidfd_getfd, pidfd_open,
};

fn request() -> Request {
    Request::new(&Scope::new("domain", "project").unwrap())
}

fn create_key(store: &Store, name: &str) {
    let key = NewKey::new(name).unwrap();
    store.write(&request(), |txn| txn.create_key(&key)).unwrap();
}

/// A store that was closed, and has a log.
fn closed(folder: &Path) -> PathBuf {
    let path = folder.join("store");
    let store = Store::open(&path).unwrap();
    create_key(&store, "first");
    create_key(&store, "second");
    drop(store);
    assert!(log_of(&path).exists());
    path
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("redo")
}

#[test]
fn who_may_read_the_file_can_hold_up_an_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = closed(folder.path());
    // To lock it, it is enough to have opened it to read.
    let stranger = File::open(&path).unwrap();
    stranger.lock().unwrap();
    assert!(matches!(Store::open(&path), Err(Error::AlreadyOpen(_))));
    assert!(matches!(Options::new().open_read_only(&path), Err(Error::AlreadyOpen(_))));
    drop(stranger);

    let stranger = FileBackend::new(File::open(&path).unwrap()).unwrap();
    assert!(stranger.try_lock_shared_range(Bound::Unbounded, Bound::Unbounded).unwrap());
    assert!(matches!(Store::open(&path), Err(Error::AlreadyOpen(_))));
    drop(stranger);
    create_key(&Store::open(&path).unwrap(), "third");
}

/// By this lock a follower knows that somebody writes the log.
const MARKED: Bound<u64> = Bound::Included(1 << 61);

#[test]
fn who_may_read_the_log_can_hold_up_an_opening_that_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, killed) = (folder.path().join("store"), folder.path().join("killed"));
    let store = Store::open(&path).unwrap();
    create_key(&store, "first");
    create_key(&store, "second");
    fs::copy(&path, &killed).unwrap();
    fs::copy(log_of(&path), log_of(&killed)).unwrap();
    let stranger = FileBackend::new(File::open(log_of(&killed)).unwrap()).unwrap();
    assert!(stranger.try_lock_shared_range(MARKED, MARKED).unwrap());
    assert!(matches!(Store::open(&killed), Err(Error::AlreadyOpen(_))));
    drop(stranger);
    let store = Store::open(&killed).unwrap();
    assert_eq!(read(&store).unwrap(), 2);
    let stranger = FileBackend::new(File::open(log_of(&killed)).unwrap()).unwrap();
    assert!(!stranger.try_lock_shared_range(MARKED, MARKED).unwrap(), "its writer has it");
    create_key(&store, "third");
}

/// The second commit of a process is the first that needs the log.
#[test]
fn who_may_read_the_log_can_have_a_commit_refused_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = closed(folder.path());
    let store = Store::open(&path).unwrap();
    create_key(&store, "third");
    let follower = Options::new().open_read_only(&path).unwrap();
    let stranger = FileBackend::new(File::open(log_of(&path)).unwrap()).unwrap();
    assert!(stranger.try_lock_shared_range(MARKED, MARKED).unwrap());
    for _ in 0..2 {
        let new = NewKey::new("fourth").unwrap();
        let refused = store.write(&request(), |txn| txn.create_key(&new));
        assert!(matches!(refused, Err(Error::AlreadyOpen(_))), "{refused:?}");
        assert_eq!((read(&store).unwrap(), read(&follower).unwrap()), (3, 3));
    }
    drop(stranger);
    for (number, name) in (4..).zip(["fourth", "fifth", "sixth"]) {
        create_key(&store, name);
        assert_eq!((read(&store).unwrap(), read(&follower).unwrap()), (number, number));
        let later = Options::new().open_read_only(&path).unwrap();
        assert_eq!(read(&later).unwrap(), number);
        let stranger = FileBackend::new(File::open(log_of(&path)).unwrap()).unwrap();
        assert!(!stranger.try_lock_shared_range(MARKED, MARKED).unwrap(), "its writer has it");
    }
}

/// The first commit of a process goes to the table file, and the second writes there that the log is in use.
#[test]
fn who_may_read_the_file_can_hold_up_the_first_two_commits_of_a_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = closed(folder.path());
    let store = Store::open(&path).unwrap();
    for (name, is_held_up) in [("third", true), ("fourth", true), ("fifth", false), ("sixth", false)] {
        let stranger = FileBackend::new(File::open(&path).unwrap()).unwrap();
        let held = stranger.try_lock_shared_range(Bound::Included(0), Bound::Included(0)).unwrap();
        assert!(held, "{name}");
        thread::scope(|threads| {
            let (committed, commits) = mpsc::channel();
            let store = &store;
            threads.spawn(move || {
                create_key(store, name);
                committed.send(()).unwrap();
            });
            if !is_held_up {
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
    let _store = Store::open(&path).unwrap();
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
    let path = closed(folder.path());
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
        let opened = Store::open(&path);
        match role {
            FORKS => assert!(matches!(opened, Err(Error::AlreadyOpen(_))), "the child has no lock"),
            _ => create_key(&opened.expect("a program has none of its parent's files"), "third"),
        }
        // The child ends, and with it the last that has the file. On a busy machine that takes a while.
        drop(pipe);
        let opens = (0..60).any(|_| Store::open(&path).is_ok());
        assert!(opens, "nobody has the file any more");
    }
}

/// How long what is tried here waits for a lock.
const LOCK_WAIT: Duration = Duration::from_millis(300);
/// How much longer it may take on a busy machine.
const SLACK: Duration = Duration::from_millis(1500);
/// Where redb's locks lie that stand for no bytes of the file.
const LOCK_BASE: u64 = 1 << 62;

fn patient() -> Options {
    Options::new().lock_wait(LOCK_WAIT)
}

/// Another process, which ends with this.
struct Other {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Other {
    /// This program again, as the test of this name, with a role.
    fn start(test: &str, role: &str, path: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PATH, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    fn says(&mut self) -> String {
        let said = self.output.find_map(|line| line.unwrap().strip_prefix("says ").map(str::to_owned));
        said.expect("the other process says something")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Whether it holds a lock that covers the first byte of the file.
    fn holds_the_header(&self, path: &Path) -> bool {
        let folder = PathBuf::from(format!("/proc/{}", self.process.id()));
        let numbers = fs::read_dir(folder.join("fd")).unwrap().map(|number| number.unwrap());
        let mut of_store =
            numbers.filter(|number| fs::read_link(number.path()).is_ok_and(|file| file == path));
        of_store.any(|number| {
            let locks = fs::read_to_string(folder.join("fdinfo").join(number.file_name())).unwrap();
            locks.lines().any(|line| line.contains("OFDLCK") && line.ends_with(" 0 319"))
        })
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process that was stopped while it holds locks on a store's file.
struct Stopped {
    other: Other,
    what: String,
}

impl Stopped {
    /// One that holds this lock, and nothing else.
    fn holding(path: &Path, first: u64, last: u64, exclusive: bool) -> Self {
        let what = format!("{first} {last} {exclusive}");
        let mut other = Other::start("holder", &what, path);
        assert_eq!(other.says(), "locked");
        other.signal(Signal::STOP);
        Self { other, what: format!("a lock on {what}") }
    }

    /// A reader of the library that was stopped in the midst of the beginning of a read.
    fn reader(path: &Path) -> Self {
        let mut other = Other::start("reader", "reads", path);
        assert_eq!(other.says(), "reading");
        for _ in 0..10_000 {
            other.signal(Signal::STOP);
            // It takes a moment until it has stopped.
            let status = format!("/proc/{}/stat", other.process.id());
            while !fs::read_to_string(&status).unwrap().contains(") T ") {
                thread::yield_now();
            }
            if other.holds_the_header(path) {
                return Self { other, what: "a reader".to_owned() };
            }
            other.signal(Signal::CONT);
            thread::sleep(Duration::from_micros(200));
        }
        panic!("it was never stopped while it holds a lock on the header");
    }

    /// Runs what must give up in time, naming this process.
    fn refuses<T>(&self, what: &str, run: impl FnOnce() -> Result<T, Error>) {
        let (refused, took) = self.timed(run);
        let Err(Error::AlreadyOpen(locked)) = refused.map(drop) else {
            panic!("{what} beside {} after {took:?} is no refusal", self.what);
        };
        assert_eq!(locked.holder, Some(self.other.process.id()), "{what} beside {}: {locked}", self.what);
        assert!(took < LOCK_WAIT + SLACK, "{what} beside {} took {took:?}", self.what);
    }

    /// How long something takes. If that is very long, the process is ended, and with it the waiting.
    fn timed<T>(&self, run: impl FnOnce() -> T) -> (T, Duration) {
        let (done, ended) = mpsc::channel::<()>();
        thread::scope(|threads| {
            threads.spawn(move || {
                if ended.recv_timeout(Duration::from_secs(10)) == Err(mpsc::RecvTimeoutError::Timeout) {
                    self.other.signal(Signal::KILL);
                }
            });
            let since = Instant::now();
            let value = run();
            let took = since.elapsed();
            drop(done);
            (value, took)
        })
    }
}

/// The other process: it takes a lock on the file and waits for its end.
#[test]
fn holder() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let [first, last, exclusive] = role.split(' ').collect::<Vec<_>>()[..] else { panic!("{role}") };
    let file = OpenOptions::new().read(true).write(true).open(std::env::var(PATH).unwrap()).unwrap();
    let file = FileBackend::new(file).unwrap();
    let (first, last) = (first.parse().unwrap(), last.parse().unwrap());
    let (first, last) = (Bound::Included(first), Bound::Included(last));
    let locked = match exclusive {
        "true" => file.try_lock_range(first, last),
        _ => file.try_lock_shared_range(first, last),
    };
    assert!(locked.unwrap());
    println!("\nsays locked");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// The other process: it opens the store and reads, without an end. A read of what did not change needs no lock.
#[test]
fn reader() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let path = std::env::var(PATH).unwrap();
    let look = || read(&Options::new().open_read_only(&path).unwrap()).unwrap();
    look();
    println!("\nsays reading");
    loop {
        look();
    }
}

/// The other process: it opens the store as its role says.
#[test]
fn opener() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var(PATH).unwrap());
    if role == OPENS_AGAIN_AND_AGAIN {
        println!("\nsays opening");
        for number in 0.. {
            let store = patient().open(&path).unwrap();
            create_key(&store, &format!("{}-{number}", std::process::id()));
        }
    }
    println!("\nsays ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let opened = patient().open(&path);
    match &opened {
        Ok(_) => println!("\nsays opened"),
        Err(Error::AlreadyOpen(locked)) => println!("\nsays {:?}", locked.holder),
        Err(error) => panic!("{error:?}"),
    }
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

const OPENS_AGAIN_AND_AGAIN: &str = "opens again and again";

/// How many keys there are.
fn read(store: &Store) -> Result<u64, Error> {
    store.read(&Scope::new("domain", "project").unwrap(), |snap| snap.count_keys(&KeyFilter::all()))
}

#[test]
fn of_two_that_open_at_once_one_is_told_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    for _ in 0..5 {
        let mut others = [0, 1].map(|_| Other::start("opener", "opens", &path));
        others.iter_mut().for_each(|other| assert_eq!(other.says(), "ready"));
        for other in &mut others {
            writeln!(other.process.stdin.as_mut().unwrap()).unwrap();
        }
        let since = Instant::now();
        let said = others.each_mut().map(Other::says);
        assert!(since.elapsed() < LOCK_WAIT + SLACK, "{said:?} after {:?}", since.elapsed());
        let first = said.iter().position(|said| said == "opened").expect("one opens it");
        let expected = format!("{:?}", Some(others[first].process.id()));
        assert_eq!(said[1 - first], expected, "the other one names it");
        // One that is stopped, too.
        others[first].signal(Signal::STOP);
        let [one, other] = others;
        let first = if first == 0 { one } else { other };
        Stopped { other: first, what: "the writer".to_owned() }
            .refuses("an opening", || patient().open(&path));
    }
    let _held = patient().open(&path).unwrap();
    let Err(Error::AlreadyOpen(locked)) = patient().open(&path) else { panic!("it is open") };
    assert_eq!(locked.holder, Some(std::process::id()));
    let said = Error::AlreadyOpen(locked).to_string();
    assert!(said.starts_with("the store is locked by another handle of this process: /"), "{said}");
}

#[test]
fn an_opening_waits_as_long_as_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let path = closed(folder.path());
    let held = Store::open(&path).unwrap();
    let options = Options::new().lock_wait(Duration::from_secs(30));
    thread::scope(|threads| {
        let opening = threads.spawn(|| options.open(&path));
        thread::sleep(Options::LOCK_WAIT_DEFAULT + LOCK_WAIT);
        assert!(!opening.is_finished());
        drop(held);
        create_key(&opening.join().unwrap().unwrap(), "third");
    });
    for wait in [Duration::from_millis(9), Duration::from_secs(3601), Duration::MAX] {
        let refused = Options::new().lock_wait(wait).open(folder.path().join("none"));
        assert!(matches!(refused, Err(Error::OptionsMismatch { option: "lock_wait", .. })), "{wait:?}");
    }
}

#[test]
fn nothing_waits_longer_than_it_may_for_who_was_stopped_inside_a_lock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    create_key(&Store::open(&path).unwrap(), "first");
    // Of redb 4.6.0: `HEADER_LOCK`, `CONSISTENT_BYTE`, and from `TXN_BASE` on the transactions that are read.
    let header = |exclusive| (0, 319, exclusive);
    let (consistent, transactions) =
        ((LOCK_BASE + 4, LOCK_BASE + 4, true), (LOCK_BASE + 1024, LOCK_BASE + 2000, true));
    for ((first, last, exclusive), writers, readers) in [
        (header(true), true, true),
        (header(false), true, false),
        (consistent, true, false),
        (transactions, true, true),
    ] {
        // One that reads has a lock on its transaction already.
        let store = (first != transactions.0).then(|| patient().open_read_only(&path).unwrap());
        let stopped = Stopped::holding(&path, first, last, exclusive);
        if readers {
            stopped.refuses("opening to read", || patient().open_read_only(&path));
        }
        if let Some(store) = store.as_ref().filter(|_| readers) {
            stopped.refuses("a check of pages", || store.check_pages(u64::MAX));
            // All at once, though redb lets one ask at a time.
            let check = || stopped.refuses("one of many", || store.check_pages(u64::MAX));
            thread::scope(|threads| {
                let checks = [(); 8].map(|()| threads.spawn(check));
                checks.into_iter().for_each(|check| check.join().unwrap());
            });
        }
        if !readers {
            read(&patient().open_read_only(&path).unwrap()).unwrap();
        }
        // Nothing was committed since, so a read needs no lock.
        if let Some(store) = &store {
            read(store).unwrap();
        }
        if writers {
            stopped.refuses("opening to write", || patient().open(&path));
        }
        drop(stopped);
        drop(store);
        create_key(&patient().open(&path).unwrap(), &format!("{first}-{exclusive}"));
    }
}

/// Nobody knows what was acknowledged until the log of a killed writer was read by the next one.
#[test]
fn a_reader_waits_no_longer_than_it_may_for_who_opens_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (path, killed) = (folder.path().join("store"), folder.path().join("killed"));
    let store = Store::open(&path).unwrap();
    create_key(&store, "first");
    create_key(&store, "second");
    fs::copy(&path, &killed).unwrap();
    fs::copy(log_of(&path), log_of(&killed)).unwrap();
    // It has the table, and does nothing more: `SHARED_WRITER_BYTE` of redb 4.6.0.
    let stopped = Stopped::holding(&killed, LOCK_BASE + 1, LOCK_BASE + 1, true);
    stopped.refuses("opening to read", || patient().open_read_only(&killed));
    drop(stopped);
    assert_eq!(read(&patient().open_read_only(&killed).unwrap()).unwrap(), 2);
}

#[test]
fn a_commit_waits_visibly_for_a_reader_that_was_stopped_and_the_end_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    create_key(&Store::open(&path).unwrap(), "first");
    // The first commit of a process goes to the table file, which is what a reader locks.
    let store = patient().open(&path).unwrap();
    let mut stopped = Stopped::reader(&path);
    thread::scope(|threads| {
        let commit = threads.spawn(|| create_key(&store, "second"));
        let waits = || store.stats().locks.unwrap().waiting.is_some_and(|waiting| waiting > LOCK_WAIT);
        let sees = || {
            thread::sleep(SLACK / 100);
            waits()
        };
        let (seen, _) = stopped.timed(|| (0..200).any(|_| sees()));
        assert!(seen, "it is not to be seen that the commit waits");
        assert!(!commit.is_finished());
        // What needs a lock besides is refused, what needs none goes on.
        stopped.refuses("a check of pages", || store.check_pages(u64::MAX));
        read(&store).unwrap();
        stopped.other.kill();
        commit.join().unwrap();
    });
    let locks = store.stats().locks.unwrap();
    assert!(locks.waiting.is_none() && locks.waits > 0 && locks.longest > LOCK_WAIT, "{locks:?}");

    let stopped = Stopped::reader(&path);
    let ((), took) = stopped.timed(|| drop(store));
    assert!(took < LOCK_WAIT + SLACK, "closing took {took:?}");
    drop(stopped);
    let store = patient().open(&path).unwrap();
    create_key(&store, "third");
    assert!(store.verify().unwrap().is_clean());
    assert_eq!(read(&store).unwrap(), 3);
}

#[test]
fn who_is_killed_while_it_opens_the_store_keeps_nobody_out() {
    let mut random = 20_261_130_u64;
    let folder = tempfile::tempdir().unwrap();
    for kill in 0..100 {
        // Every other time it makes the store first.
        let path = folder.path().join(format!("store {}", kill / 2));
        let mut other = Other::start("opener", OPENS_AGAIN_AND_AGAIN, &path);
        assert_eq!(other.says(), "opening");
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_micros((random >> 33) % if kill % 2 == 0 { 4000 } else { 20_000 }));
        other.kill();
        // However long the disk takes, no lock is waited for: it may do so for 10 ms.
        let store = patient().lock_wait(Duration::from_millis(10)).open(&path);
        let store = store.unwrap_or_else(|error| panic!("kill {kill}: {error:?}"));
        create_key(&store, &format!("own-{kill}"));
        assert!(store.verify().unwrap().is_clean());
    }
}
