//! Stores in files: who may open them, what is no store, what a damaged or killed one still says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use keystead::{
    After, Alias, AliasScope, Error, KeyFilter, KeyId, KeyRecord, Limit, NewKey, Options, Quotas, Request,
    Result, Scope, Store, Timestamp, Waited,
};

fn scope() -> Scope {
    Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap()
}

fn request() -> Request {
    Request::new(&scope()).at(Timestamp::from_millis(1_700_000_000_000))
}

fn key_id(number: u32) -> KeyId {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    KeyId::from_bytes(bytes)
}

fn new_key(number: u32) -> NewKey {
    NewKey::new(&format!("key-{number}")).unwrap().id(key_id(number))
}

fn moving() -> Alias {
    "moving".parse().unwrap()
}

/// Makes the next key and moves the alias `moving` to it, in one commit.
fn step(store: &Store, number: u32) -> Result<u64> {
    let new = new_key(number);
    let committed = store.write(&request(), |txn| {
        txn.create_key(&new)?;
        match number {
            0 => txn.create_alias(&moving(), new.key_id).map(drop),
            _ => txn.associate_alias(&moving(), new.key_id).map(drop),
        }
    });
    Ok(committed?.commit.number())
}

/// How many keys there are; checks that the last has the alias, and that all is well.
fn count(store: &Store) -> u32 {
    let report = store.verify().unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let read = store.read(&scope(), |snap| {
        let count = u32::try_from(snap.count_keys(&KeyFilter::all())?).unwrap();
        if let Some(last) = count.checked_sub(1) {
            assert_eq!(snap.resolve(&moving())?.key_id, key_id(last));
        }
        Ok(count)
    });
    read.unwrap()
}

fn options() -> Options {
    Options::new().quotas(Quotas { keys_per_project: u64::MAX, ..Quotas::default() }).cache_bytes(1 << 20)
}

fn in_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kms.redb");
    (folder, path)
}

fn files_in(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const ROLE: &str = "KEYSTEAD_TEST_ROLE";
const PATH: &str = "KEYSTEAD_TEST_PATH";

/// The other process: this program again, with a role. Without one it has nothing to do.
#[test]
fn other_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = std::env::var(PATH).unwrap();
    let mut lines = std::io::stdin().lines();
    match role.as_str() {
        "open" => match options().open(&path) {
            Ok(_) => println!("\nsays opened"),
            Err(error) => println!("\nsays {error:?}"),
        },
        // Writes one step for each line that it is given, until there are no more.
        "write on demand" => {
            let store = options().open(&path).unwrap();
            println!("\nsays opened");
            while let Some(Ok(_)) = lines.next() {
                let commit = step(&store, count(&store)).unwrap();
                println!("\nsays {commit}");
            }
        }
        "write until killed" => {
            let store = options().open(&path).unwrap();
            for number in count(&store).. {
                step(&store, number).unwrap();
                println!("\nsays {number}");
            }
        }
        other => panic!("no such role: {other}"),
    }
}

fn other(role: &str, path: &Path, shell: Option<&str>) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = match shell {
        Some(first) => {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(["other_process", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(PATH, path).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// What the other process says next; `None` if it has ended.
fn said(output: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        if line.ends_with('\n')
            && let Some(said) = line.trim_end().strip_prefix("says ")
        {
            return Some(said.to_owned());
        }
        line.clear();
    }
    None
}

#[test]
#[cfg(unix)]
fn a_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = in_folder();
    let mut child = other("open", &path, Some("umask 0"));
    let mut output = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(said(&mut output).as_deref(), Some("opened"));
    assert_eq!(said(&mut output), None);
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(files_in(folder.path()), ["kms.redb"], "no temporary file is left");
}

#[test]
fn a_file_is_open_once() {
    let (_folder, path) = in_folder();
    let store = options().open(&path).unwrap();
    // In this process, and in another.
    let named = path.display().to_string();
    let refused = options().open(&path).unwrap_err();
    assert!(matches!(&refused, Error::AlreadyOpen(locked) if *locked.path == *named), "{refused:?}");
    assert!(refused.to_string().contains(&named), "{refused}");
    let mut child = other("open", &path, None);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let refused = said(&mut output).unwrap();
    assert!(refused.starts_with("AlreadyOpen") && refused.contains(&named), "{refused}");
    assert_eq!(said(&mut output), None);
    assert!(child.wait().unwrap().success());
    // A clone keeps it open; its last handle closes it.
    let clone = store.clone();
    drop(store);
    assert!(matches!(options().open(&path), Err(Error::AlreadyOpen(_))));
    step(&clone, 0).unwrap();
    drop(clone);
    assert_eq!(count(&options().open(&path).unwrap()), 1);
}

#[test]
fn a_file_that_another_process_has_can_be_read() {
    let (_folder, path) = in_folder();
    let mut child = other("write on demand", &path, None);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut input = child.stdin.take().unwrap();
    assert_eq!(said(&mut output).as_deref(), Some("opened"));
    assert!(matches!(options().open(&path), Err(Error::AlreadyOpen(_))));
    let reader = options().open_read_only(&path).unwrap();
    for number in 0..5 {
        assert_eq!(count(&reader), number, "it sees every commit that was answered");
        writeln!(input, "go on").unwrap();
        let commit: u64 = said(&mut output).unwrap().parse().unwrap();
        assert_eq!(reader.read(&scope(), |snap| Ok(snap.commit().number())).unwrap(), commit);
    }
    assert!(matches!(step(&reader, 5), Err(Error::ReadOnly)));
    assert!(matches!(reader.dry_run(&request(), |txn| txn.key(key_id(0))), Err(Error::ReadOnly)));
    // Two readers at once, and a reader of a file that nobody writes.
    let second = options().open_read_only(&path).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
    assert_eq!((count(&reader), count(&second)), (5, 5));
}

#[test]
fn one_snapshot_does_not_change_under_a_reader_of_a_file() {
    let (_folder, path) = in_folder();
    let store = options().open(&path).unwrap();
    step(&store, 0).unwrap();
    let reader = options().open_read_only(&path).unwrap();
    let read = reader.read(&scope(), |snap| {
        let before = snap.resolve(&moving())?;
        for number in 1..20 {
            step(&store, number)?;
        }
        Ok((before, snap.resolve(&moving())?))
    });
    let (before, after) = read.unwrap();
    assert_eq!(before, after);
    assert_eq!(count(&reader), 20);
}

#[test]
fn what_is_missing_is_made_by_writers_only() {
    let (folder, path) = in_folder();
    let existing = || options().create(false);
    for refused in [
        options().open_read_only(&path),
        existing().open(&path),
        existing().open(folder.path().join("no folder").join("kms.redb")),
    ] {
        assert!(matches!(&refused, Err(Error::NoStore(place)) if place.ends_with("kms.redb")), "{refused:?}");
    }
    assert_eq!(files_in(folder.path()), [""; 0]);
    match options().open(folder.path().join("no folder").join("kms.redb")) {
        Err(Error::Io(error)) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
    assert!(matches!(options().open(folder.path()), Err(Error::Io(_))), "a folder");
    assert!(matches!(options().open_read_only(folder.path()), Err(Error::Io(_))), "a folder");
    assert_eq!(files_in(folder.path()), [""; 0]);
    drop(options().open(&path).unwrap());
    assert_eq!(files_in(folder.path()), ["kms.redb"]);
    drop(existing().open(&path).unwrap());
}

/// Opens it in both ways; it must be refused so, and left as it is.
fn must_be_no_store(path: &Path) {
    let before = fs::read(path).unwrap();
    for opened in [options().open(path), options().open_read_only(path)] {
        assert!(matches!(opened, Err(Error::NotAStore(_))), "{}: {opened:?}", path.display());
    }
    if before.len() < 4096 {
        assert!(fs::read(path).unwrap() == before, "{} was changed", path.display());
    }
}

#[test]
fn what_is_no_store_is_refused() {
    let (folder, path) = in_folder();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    must_be_no_store(&file("empty", b""));
    must_be_no_store(&file("text", b"this is a text\n"));
    must_be_no_store(&file("long text", "this is a long text\n".repeat(1000).as_bytes()));
    must_be_no_store(&file("zeros", &[0; 1 << 16]));
    let of_another: redb::TableDefinition<'_, u64, &str> = redb::TableDefinition::new("their table");
    let of_our_name: redb::TableDefinition<'_, u64, &str> = redb::TableDefinition::new("keystead");
    for table in [of_another, of_our_name] {
        let _ = fs::remove_file(&path);
        let database = redb::Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(table).unwrap().insert(1, "one").unwrap();
        transaction.commit().unwrap();
        drop(database);
        must_be_no_store(&path);
        let database = redb::Database::open(&path).unwrap();
        let read = redb::ReadableDatabase::begin_read(&database).unwrap();
        let theirs = read.open_table(table).unwrap().get(1).unwrap().map(|value| value.value().to_owned());
        assert_eq!(theirs.as_deref(), Some("one"), "theirs is left as it was");
    }
}

/// Our table, but never begun: what a program that died in the middle would leave, were a file made
/// under its own name.
#[test]
fn a_store_that_was_never_begun_is_refused() {
    let (_folder, path) = in_folder();
    let table: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("keystead");
    let database = redb::Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    drop(transaction.open_table(table).unwrap());
    transaction.commit().unwrap();
    drop(database);
    for opened in [options().open(&path), options().open_read_only(&path)] {
        assert!(matches!(opened, Err(Error::NotAStore(_) | Error::Corrupted(_))), "{opened:?}");
    }
}

#[test]
fn options_must_fit_the_store() {
    let (folder, path) = in_folder();
    let made = options().alias_scope(AliasScope::Domain).region("cn-north-7".parse().unwrap());
    let store = made.open(&path).unwrap();
    assert_eq!((store.alias_scope(), store.region().as_str()), (AliasScope::Domain, "cn-north-7"));
    drop(store);
    let mismatch = |options: Options| {
        let errors = [options.open(&path), options.open_read_only(&path)].map(|opened| opened.unwrap_err());
        match &errors {
            [Error::OptionsMismatch { option: one, .. }, Error::OptionsMismatch { option: other, .. }] => {
                assert_eq!(one, other);
                *one
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(mismatch(options().alias_scope(AliasScope::Project)), "alias_scope");
    assert_eq!(mismatch(options().region("local".parse().unwrap())), "region");
    let quotas =
        |aliases_per_key, tags_per_key| Quotas { aliases_per_key, tags_per_key, ..Quotas::default() };
    assert_eq!(mismatch(options().quotas(quotas(56, 20))), "quotas.aliases_per_key");
    assert_eq!(mismatch(options().quotas(quotas(50, 26))), "quotas.tags_per_key");
    // A mistake makes no file, and no store in memory.
    let bad = options().quotas(quotas(56, 20));
    assert!(matches!(bad.open(folder.path().join("new")), Err(Error::OptionsMismatch { .. })));
    assert!(matches!(bad.in_memory(), Err(Error::OptionsMismatch { .. })));
    assert_eq!(files_in(folder.path()), ["kms.redb"]);
    // What is not said is taken from the store; the largest quotas are allowed.
    let store = options().quotas(quotas(55, 25)).open(&path).unwrap();
    assert_eq!((store.alias_scope(), store.region().as_str()), (AliasScope::Domain, "cn-north-7"));
}

/// Every key and alias of a store.
type Content = (Vec<KeyRecord>, Vec<(String, KeyId)>);

fn content(store: &Store) -> Result<Content> {
    store.read(&scope(), |snap| {
        let keys = snap.keys_by_id(&KeyFilter::all(), After::Start, Limit::MAX)?.items;
        let aliases = snap.aliases(After::Start, Limit::MAX)?.items;
        let aliases = aliases.iter().map(|alias| (alias.alias.to_string(), alias.key_id));
        Ok((keys.iter().map(|key| (**key).clone()).collect(), aliases.collect()))
    })
}

#[test]
fn a_store_keeps_everything() {
    let (folder, path) = in_folder();
    let mut last = (Vec::new(), Vec::new());
    let mut commit = 0;
    for number in 0..10 {
        let store = options().open(&path).unwrap();
        assert_eq!(content(&store).unwrap(), last);
        assert_eq!(count(&store), number);
        let next = step(&store, number).unwrap();
        assert!(next > commit, "commits go on where they were");
        commit = next;
        last = content(&store).unwrap();
        // Dropped as it is; there is nothing to close.
    }
    assert_eq!(files_in(folder.path()), ["kms.redb"]);
}

#[test]
fn many_threads_make_one_store() {
    for _ in 0..8 {
        let (folder, path) = in_folder();
        let barrier = Barrier::new(4);
        let opened: Vec<_> = thread::scope(|threads| {
            let open = || {
                barrier.wait();
                options().open(&path)
            };
            let threads: Vec<_> = (0..4).map(|_| threads.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (stores, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
        assert!(refused.iter().all(|error| matches!(error, Err(Error::AlreadyOpen(_)))), "{refused:?}");
        let [Ok(store)] = &stores[..] else { panic!("{stores:?}") };
        step(store, 0).unwrap();
        assert_eq!(files_in(folder.path()), ["kms.redb"]);
        drop(stores);
        assert_eq!(count(&options().open(&path).unwrap()), 1);
    }
}

/// A small store, closed, and what is in it.
fn sample() -> (Vec<u8>, Content) {
    let (_folder, path) = in_folder();
    let store = options().open(&path).unwrap();
    for number in 0..8 {
        step(&store, number).unwrap();
    }
    let content = content(&store).unwrap();
    drop(store);
    (fs::read(path).unwrap(), content)
}

fn is_of_damage(error: &Error) -> bool {
    matches!(error, Error::NotAStore(_) | Error::Corrupted(_) | Error::Io(_))
}

/// Who only reads may have it if nothing but free pages at the end are gone.
#[test]
fn a_truncated_store_is_refused() {
    let (bytes, content_before) = sample();
    let (_folder, path) = in_folder();
    let lengths = [1, 9, 63, 320, 511, 512, 4095, 4096, 8192, bytes.len() / 2, bytes.len() - 4096];
    let mut refused_to_readers = 0;
    for length in lengths.into_iter().chain([bytes.len() - 1]) {
        fs::write(&path, &bytes[..length]).unwrap();
        match options().open_read_only(&path).and_then(|store| content(&store)) {
            Err(error) => {
                assert!(is_of_damage(&error), "{length} bytes: {error:?}");
                refused_to_readers += 1;
            }
            Ok(found) => assert!(found == content_before, "{length} bytes: something else is served"),
        }
        match options().open(&path) {
            Err(error) => assert!(is_of_damage(&error), "{length} bytes: {error:?}"),
            Ok(_) => panic!("{length} of {} bytes were opened", bytes.len()),
        }
    }
    assert!(refused_to_readers > 8, "{refused_to_readers}");
}

/// Flips one byte at a time. No panic comes out; whatever is answered is right, or refused as damage.
#[test]
fn a_damaged_store_is_refused_or_right() {
    let (bytes, content_before) = sample();
    let (_folder, path) = in_folder();
    let used: Vec<_> = (0..bytes.len()).filter(|place| bytes[*place] != 0).collect();
    assert!(used.len() > 1000);
    let places = (0..320).step_by(5).chain(used.iter().copied().skip(40).step_by(used.len() / 250));
    let mut outcomes = [0; 2];
    for (turn, place) in places.enumerate() {
        let mut damaged = bytes.clone();
        damaged[place] ^= [0xff, 0x01, 0x80, 0x10][turn % 4];
        fs::write(&path, &damaged).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let store = match options().open(&path) {
                Ok(store) => store,
                Err(error) => {
                    assert!(is_of_damage(&error), "byte {place}: {error:?}");
                    return 0;
                }
            };
            match content(&store) {
                Err(error) => {
                    assert!(is_of_damage(&error), "byte {place}: {error:?}");
                    0
                }
                Ok(found) => {
                    assert!(found == content_before, "byte {place}: something else is served");
                    1
                }
            }
        }));
        outcomes[outcome.unwrap_or_else(|_| panic!("byte {place}"))] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 0), "refused, right: {outcomes:?}");
}

/// Kills a process in the middle of its writes, again and again, and opens what it left.
#[test]
fn a_killed_process_loses_nothing_that_it_was_told() {
    let (folder, path) = in_folder();
    let mut last = None;
    for turn in 0..20 {
        let mut child = other("write until killed", &path, None);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        for _ in 0..=(turn * 7 % 11) {
            last = Some(said(&mut output).expect("it writes until it is killed").parse::<u32>().unwrap());
        }
        child.kill().unwrap();
        // What it said before it died counts too, but half a line doesn't.
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).unwrap();
        let mut rest = BufReader::new(&rest[..]);
        while let Some(said) = said(&mut rest) {
            last = Some(said.parse().unwrap());
        }
        child.wait().unwrap();
        let read = count(&options().open_read_only(&path).unwrap());
        let store = options().open(&path).unwrap();
        let found = count(&store);
        let acknowledged = last.map_or(0, |last| last + 1);
        assert!(read >= acknowledged, "turn {turn}: {acknowledged} acknowledged, {read} read");
        // What was synced when it was killed, and not acknowledged, comes when the store is opened to write.
        assert!(found >= read, "turn {turn}: {read} read, {found} found");
        assert!(found <= acknowledged + 1, "turn {turn}: {acknowledged} acknowledged, {found} found");
        drop(store);
        // Nothing else is left, whatever the killed process was about to make.
        assert!(files_in(folder.path()).iter().all(|name| ["kms.redb", "kms.redb.redo"].contains(&&**name)));
    }
    assert!(last.unwrap() > 50);
    assert_eq!(files_in(folder.path()), ["kms.redb", "kms.redb.redo"]);
}

/// Each opens the file, looks into it, and is gone: nobody finds the door closed.
#[test]
fn who_only_looks_into_a_file_keeps_nobody_out() {
    let (_folder, path) = in_folder();
    step(&Store::open(&path).unwrap(), 0).unwrap();
    let go = Barrier::new(10);
    // On a busy machine ten of them keep each other waiting for a while.
    let patient = || options().lock_wait(Duration::from_secs(60));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                go.wait();
                for _ in 0..25 {
                    let store = patient().open_read_only(&path).unwrap();
                    assert!(count(&store) > 0);
                }
            });
        }
        // Writers come and go beside them.
        for _ in 0..2 {
            scope.spawn(|| {
                go.wait();
                for _ in 0..10 {
                    let store = patient().open(&path).unwrap();
                    // The first commit goes to the table, the second to the log.
                    for _ in 0..2 {
                        step(&store, count(&store)).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(count(&options().open(&path).unwrap()), 41);
}

#[test]
fn who_waits_on_a_closed_reader_is_told_also_without_a_moment_to_wait() {
    let (_folder, path) = in_folder();
    step(&Store::open(&path).unwrap(), 0).unwrap();
    let reader = Options::new().open_read_only(&path).unwrap();
    let newest = reader.position().unwrap();
    assert_eq!(reader.wait(&newest, Duration::ZERO).unwrap(), Waited::TimedOut);
    reader.clone().close();
    for within in [Duration::ZERO, Duration::from_secs(60)] {
        assert_eq!(reader.wait(&newest, within).unwrap(), Waited::Closed);
    }
}
