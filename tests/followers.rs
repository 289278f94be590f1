//! Stores that several processes have open: one writes, the others read along. Real processes, killed and stopped.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "it is measured how long others are held up")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keystead::{Error, KeyId, NewKey, Options, Quotas, Request, Restore, Result, Scope, Store, compact};
use rustix::process::{Pid, Signal, kill_process};

const ROLE: &str = "KEYSTEAD_FOLLOWERS_ROLE";
const PATH: &str = "KEYSTEAD_FOLLOWERS_PATH";
const SAYS: &str = "says ";
/// Steps after which the checkpoint begins, about: each switches to the other segment of the log.
const STEPS_OF_A_SEGMENT: u64 = 20;
/// How many moves make a file grow, if it does.
const MOVES: u32 = 4000;
/// What the pages take that it holds while it has not moved on yet, at most: on a busy machine those of several checkpoints.
const HELD_BYTES: u64 = 3 << 20;
const SECONDS: Duration = Duration::from_secs(60);

fn scope() -> Scope {
    Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap()
}

fn key_id(number: u64) -> KeyId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    KeyId::from_bytes(bytes)
}

fn options() -> Options {
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    let options = Options::new().quotas(quotas).cache_bytes(1 << 20);
    options.wal_bytes(Options::WAL_BYTES_MIN).checkpoint_bytes(20_000)
}

fn in_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kms.redb");
    (folder, path)
}

/// Makes a key with the number of the commit and moves an alias to it: so whatever is read shows of which commit it is.
fn step(store: &Store) -> u64 {
    let alias = "moving".parse().unwrap();
    let number = store.position().unwrap().commit().number() + 1;
    let new = NewKey::new(&format!("key-{number}")).unwrap().id(key_id(number));
    let committed = store.write(&Request::new(&scope()), |txn| {
        txn.create_key(&new)?;
        match txn.resolve(&alias) {
            Err(Error::AliasNotFound { .. }) => txn.create_alias(&alias, new.key_id).map(drop),
            _ => txn.associate_alias(&alias, new.key_id).map(drop),
        }
    });
    assert_eq!(committed.unwrap().commit.number(), number);
    number
}

/// The newest commit; it must show what it left.
fn newest(store: &Store) -> Result<u64> {
    let alias = "moving".parse().unwrap();
    let (commit, key) = store.read(&scope(), |snap| match snap.resolve(&alias) {
        Err(Error::AliasNotFound { .. }) => Ok((snap.commit().number(), None)),
        key => Ok((snap.commit().number(), Some(key?.key_id))),
    })?;
    if let Some(key) = key {
        assert_eq!(key, key_id(commit), "commit {commit}");
    }
    Ok(commit)
}

/// The other processes: this program again, with a role. Without one it has nothing to do.
#[test]
fn other_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let path = PathBuf::from(env::var(PATH).unwrap());
    let says = |what: u64| {
        let mut output = std::io::stdout().lock();
        output.write_all(format!("\n{SAYS}{what}\n").as_bytes()).unwrap();
        output.flush().unwrap();
    };
    let store = match role.as_str() {
        FOLLOWS => options().open_read_only(&path).unwrap(),
        _ => options().open(&path).unwrap(),
    };
    if role == WRITES_ON {
        loop {
            says(step(&store));
        }
    }
    says(newest(&store).unwrap());
    for line in std::io::stdin().lines() {
        let _ = line.unwrap();
        says(if role == FOLLOWS { newest(&store).unwrap() } else { step(&store) });
    }
}

const FOLLOWS: &str = "says the newest commit whenever it is asked";
const WRITES: &str = "commits whenever it is asked, and says which";
const WRITES_ON: &str = "commits, and says which";

struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(role: &str, path: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["other_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PATH, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output).lines() }
    }

    /// What it says next; `None` when it has ended.
    fn hear(&mut self) -> Option<u64> {
        let said = self.output.find_map(|line| line.unwrap().strip_prefix(SAYS).map(str::to_owned));
        said.map(|said| said.parse().unwrap())
    }

    fn ask(&mut self) -> u64 {
        self.input.write_all(b"\n").unwrap();
        self.hear().expect("it goes on")
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends what a test lets run beside it, also when it fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn until(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < SECONDS, "it takes too long");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Each follower reads what was acknowledged, and never less than before; also while a writer recovers the store.
#[test]
fn followers_go_on_when_their_writer_is_killed() {
    let (_folder, path) = in_folder();
    drop(options().open(&path).unwrap());
    let mut followers = [0; 2].map(|_| Process::start(FOLLOWS, &path));
    followers.iter_mut().for_each(|follower| assert!(follower.hear().is_some()));
    let here = options().open_read_only(&path).unwrap();
    let mut seen = [0; 3];
    let mut acknowledged = 0;
    for turn in 0..6 {
        let mut writer = Process::start(WRITES_ON, &path);
        let is_open = AtomicBool::new(false);
        thread::scope(|threads| {
            // While it opens the store, others attach.
            let attaching = threads.spawn(|| {
                let mut attached = 0;
                while !is_open.load(Ordering::SeqCst) {
                    let follower = options().open_read_only(&path).unwrap();
                    assert!(newest(&follower).unwrap() >= acknowledged);
                    attached += 1;
                }
                attached
            });
            let first = writer.hear();
            is_open.store(true, Ordering::SeqCst);
            assert!(first.unwrap() > acknowledged, "turn {turn}: a commit was lost");
            assert!(attaching.join().unwrap() > 0);
        });
        for _ in 0..STEPS_OF_A_SEGMENT * (1 + turn) {
            acknowledged = writer.hear().unwrap();
            if acknowledged % 7 == turn {
                seen[2] = must_grow(seen[2], newest(&here).unwrap(), acknowledged);
            }
        }
        seen[0] = must_grow(seen[0], followers[0].ask(), acknowledged);
        writer.kill();
        // What it said before it died, counts too.
        while let Some(said) = writer.hear() {
            acknowledged = said;
        }
        for (seen, follower) in seen.iter_mut().zip(&mut followers) {
            *seen = must_grow(*seen, follower.ask(), acknowledged);
        }
        seen[2] = must_grow(seen[2], newest(&here).unwrap(), acknowledged);
        assert_eq!(seen, [seen[0]; 3], "nobody writes");
        acknowledged = seen[0];
    }
    // The last commit may have been synced when its writer was killed, and not acknowledged: then nobody was shown it.
    let store = options().open(&path).unwrap();
    assert!((acknowledged..=acknowledged + 1).contains(&newest(&store).unwrap()));
    assert!(store.verify().unwrap().is_clean());
}

#[track_caller]
fn must_grow(before: u64, now: u64, acknowledged: u64) -> u64 {
    assert!(now >= before, "{now} after {before}");
    assert!(now >= acknowledged, "{now}, and {acknowledged} was acknowledged");
    now
}

#[test]
fn a_stopped_follower_reads_the_newest_when_it_goes_on() {
    let (_folder, path) = in_folder();
    let store = options().open(&path).unwrap();
    step(&store);
    let mut follower = Process::start(FOLLOWS, &path);
    follower.hear().unwrap();
    for round in 0..4 {
        assert_eq!(follower.ask(), newest(&store).unwrap());
        let before = store.stats().log.unwrap().checkpoints;
        let shown = newest(&store).unwrap();
        // In some rounds it was asked before, and is in the middle of whatever that is.
        if round % 2 == 1 {
            follower.input.write_all(b"\n").unwrap();
        }
        follower.send(Signal::STOP);
        let wanted = before + [1, 3, 6, 12][round];
        while store.stats().log.unwrap().checkpoints < wanted {
            step(&store);
        }
        follower.send(Signal::CONT);
        if round % 2 == 1 {
            let answer = follower.hear().unwrap();
            assert!((shown..=newest(&store).unwrap()).contains(&answer), "{answer}");
        }
        assert_eq!(follower.ask(), newest(&store).unwrap());
        step(&store);
        assert_eq!(follower.ask(), newest(&store).unwrap());
    }
}

#[test]
fn followers_that_are_killed_change_nothing() {
    let (_folder, path) = in_folder();
    let store = options().open(&path).unwrap();
    let acknowledged = AtomicU64::new(step(&store));
    let is_done = AtomicBool::new(false);
    thread::scope(|threads| {
        let _ends = Ends(&is_done);
        threads.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                let began = Instant::now();
                acknowledged.store(step(&store), Ordering::SeqCst);
                assert!(began.elapsed() < Duration::from_secs(10), "a commit was held up");
            }
        });
        for number in 0..12 {
            let mut follower = Process::start(FOLLOWS, &path);
            follower.hear().unwrap();
            for _ in 0..number {
                let before = acknowledged.load(Ordering::SeqCst);
                assert!(follower.ask() >= before);
            }
            // In the middle of a read, mostly.
            follower.input.write_all(b"\n\n\n\n\n\n\n\n").unwrap();
            follower.kill();
        }
    });
    let last = acknowledged.load(Ordering::SeqCst);
    assert_eq!(newest(&store).unwrap(), last);
    drop(store);
    let store = options().open(&path).unwrap();
    assert_eq!(newest(&store).unwrap(), last);
    assert!(store.verify().unwrap().is_clean());
}

/// The writer says over a pipe which commit it was told of: then it is there.
#[test]
fn an_acknowledged_commit_is_seen_by_the_next_read() {
    let (_folder, path) = in_folder();
    let mut writer = Process::start(WRITES, &path);
    writer.hear().unwrap();
    let follower = options().open_read_only(&path).unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|threads| {
        let ends = Ends(&is_done);
        let reads = threads.spawn(|| {
            let (mut before, mut changes) = (0, 0);
            while !is_done.load(Ordering::SeqCst) {
                let now = newest(&follower).unwrap();
                assert!(now >= before, "{now} after {before}");
                changes += u64::from(now > before);
                before = now;
            }
            changes
        });
        for round in 0..2000 {
            let acknowledged = writer.ask();
            let now = newest(&follower).unwrap();
            assert_eq!(now, acknowledged, "round {round}");
        }
        drop(ends);
        assert!(reads.join().unwrap() > 100);
    });
    let stats = follower.stats().cache;
    assert!(stats.hits > 0, "{stats:?}");
}

#[test]
fn a_follower_says_that_another_store_is_in_the_place_of_its_own() {
    let (folder, path) = in_folder();
    let store = options().open(&path).unwrap();
    let backup = folder.path().join("backup");
    step(&store);
    store.backup(&backup).unwrap();
    let last = step(&store);
    let follower = options().open_read_only(&path).unwrap();
    drop(store);
    // The same store, compacted elsewhere: it goes on with that.
    let other = folder.path().join("other.redb");
    fs::copy(&path, &other).unwrap();
    compact(&other).unwrap();
    fs::rename(&other, &path).unwrap();
    fs::remove_file(folder.path().join("kms.redb.redo")).unwrap();
    assert_eq!(newest(&follower).unwrap(), last);
    let store = options().open(&path).unwrap();
    // The first goes to the table, the second to a log that is made for it.
    for _ in 0..2 {
        let last = step(&store);
        assert_eq!(newest(&follower).unwrap(), last);
    }
    let last = store.position().unwrap().commit().number();
    drop(store);
    assert_eq!(newest(&follower).unwrap(), last);
    // Another one: it was restored, so what was read from the former may never have been.
    Restore::of(&backup).into_file(&other).unwrap();
    fs::rename(&other, &path).unwrap();
    fs::remove_file(folder.path().join("kms.redb.redo")).unwrap();
    for _ in 0..2 {
        let replaced = newest(&follower);
        assert!(matches!(replaced, Err(Error::Replaced(_))), "{replaced:?}");
    }
    let again = options().open_read_only(&path).unwrap();
    again.position().unwrap();
}

/// A writer that was killed has not said that its store is closed: so nothing tells a read that the file was replaced since.
#[test]
fn a_follower_of_a_killed_writer_soon_says_that_its_store_was_replaced() {
    let (folder, path) = in_folder();
    let backup = folder.path().join("backup");
    options().open(&path).unwrap().backup(&backup).unwrap();
    let mut writer = Process::start(WRITES_ON, &path);
    (0..5).for_each(|_| assert!(writer.hear().is_some()));
    let follower = options().open_read_only(&path).unwrap();
    assert!(newest(&follower).unwrap() >= 5);
    writer.kill();
    let other = folder.path().join("other.redb");
    Restore::of(&backup).into_file(&other).unwrap();
    fs::rename(&other, &path).unwrap();
    fs::remove_file(folder.path().join("kms.redb.redo")).unwrap();
    until(|| matches!(newest(&follower), Err(Error::Replaced(_))));
}

/// An idle one moves on by itself, and holds no old pages.
#[test]
fn a_file_does_not_grow_beside_an_idle_follower() {
    let lengths = [false, true].map(|is_followed| {
        let (_folder, path) = in_folder();
        let store = options().open(&path).unwrap();
        step(&store);
        let mut follower = is_followed.then(|| Process::start(FOLLOWS, &path));
        follower.iter_mut().for_each(|follower| assert!(follower.hear().is_some()));
        let began = Instant::now();
        let mut moves = 0_u32;
        let (alias, keys) = ("moving".parse().unwrap(), [key_id(1 << 40), key_id(1 << 41)]);
        for (name, key) in ["one", "other"].into_iter().zip(keys) {
            let new = NewKey::new(name).unwrap().id(key);
            store.write(&Request::new(&scope()), |txn| txn.create_key(&new)).unwrap();
        }
        // For long enough that it has to move on.
        while moves < MOVES || began.elapsed() < Duration::from_secs(2) {
            let key = keys[moves as usize % 2];
            store.write(&Request::new(&scope()), |txn| txn.associate_alias(&alias, key)).unwrap();
            moves += 1;
            if moves >= MOVES {
                thread::sleep(Duration::from_millis(2));
            }
        }
        drop(follower);
        (moves, fs::metadata(&path).unwrap().len())
    });
    let bytes = lengths.map(|(moves, length)| length / u64::from(moves));
    println!("{lengths:?}: {bytes:?} bytes for each move");
    assert!(lengths[1].1 <= lengths[0].1 * 2 + HELD_BYTES, "{lengths:?}");
}

#[test]
fn a_store_that_is_followed_is_not_compacted() {
    let (folder, path) = in_folder();
    let store = options().open(&path).unwrap();
    for _ in 0..200 {
        step(&store);
    }
    let last = newest(&store).unwrap();
    drop(store);
    let mut follower = Process::start(FOLLOWS, &path);
    assert_eq!(follower.hear().unwrap(), last);
    let files = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = names.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    };
    let before = files();
    let Err(Error::AlreadyOpen(named)) = compact(&path) else { panic!("it was compacted") };
    assert_eq!(*named.path, *path.display().to_string());
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&files()), names(&before));
    assert!(files() == before, "it was refused, and changed a file");
    assert_eq!(follower.ask(), last);
    follower.kill();
    compact(&path).unwrap();
    until(|| options().open_read_only(&path).is_ok_and(|store| newest(&store).unwrap() == last));
}
