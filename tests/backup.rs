//! Backups of a store that is being written, the drill of losing it, and what is refused.
#![allow(clippy::unwrap_used, reason = "unwrap is fine in tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use keystead::{
    Alias, Backup, Commit, Committed, Error, KeyId, Limit, NewKey, Options, Position, Quotas, Request,
    RequestId, Restore, Scope, Store, Timestamp,
};

const WRITERS: u64 = 4;
const KEYS: u8 = 5;

fn scope(writer: u64) -> Scope {
    Scope::new("3bab8e245e854f68af5967c00dd43127", &format!("project-{}", writer % 2)).unwrap()
}

fn request(writer: u64) -> Request {
    Request::new(&scope(writer)).at(Timestamp::from_millis(1_000_000)).actor("writer")
}

fn key_id(writer: u64, key: u64) -> KeyId {
    let mut bytes = [u8::try_from(writer).unwrap() + 1; 16];
    bytes[15] = u8::try_from(key).unwrap();
    KeyId::from_bytes(bytes)
}

fn alias(writer: u64) -> Alias {
    format!("alias-{writer}").parse().unwrap()
}

fn request_id(writer: u64, number: u64) -> RequestId {
    format!("{writer:04}{number:032}").parse().unwrap()
}

fn options() -> Options {
    let quotas = Quotas { keys_per_project: 1_000, ..Quotas::default() };
    let bytes = Options::WAL_BYTES_MIN;
    Options::new().quotas(quotas).wal_bytes(bytes).checkpoint_bytes(20_000)
}

/// What a writer was told: of each commit, the key that its alias names since, and the request.
type Told = Mutex<BTreeMap<Commit, (u64, u64, KeyId)>>;

/// Moves the writer's alias from key to key, each time in a request that may come again.
fn write(store: &Store, writer: u64, ended: &AtomicBool, told: &Told) {
    for number in 0.. {
        if ended.load(SeqCst) {
            return;
        }
        let moved = move_alias(store, writer, number).unwrap();
        assert!(!moved.replayed);
        told.lock().unwrap().insert(moved.commit, (writer, number, moved.value));
    }
}

fn move_alias(store: &Store, writer: u64, number: u64) -> keystead::Result<Committed<KeyId>> {
    let target = key_id(writer, number % u64::from(KEYS));
    store.write_once(&request(writer), &request_id(writer, number), b"move", |txn| {
        txn.associate_alias(&alias(writer), target)?;
        Ok(target)
    })
}

fn create_keys(store: &Store) {
    for writer in 0..WRITERS {
        let made = store.write(&request(writer), |txn| {
            for key in 0..u64::from(KEYS) {
                let new = NewKey::new(&format!("key-{writer}-{key}"))?.id(key_id(writer, key));
                txn.create_key(&new)?;
            }
            txn.create_alias(&alias(writer), key_id(writer, u64::from(KEYS) - 1))
        });
        made.unwrap();
    }
}

fn assert_clean(store: &Store) {
    let report = store.verify().unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// What was told up to a commit holds in a store that was restored to it, and nothing later.
fn assert_is_at(store: &Store, up_to: Commit, told: &BTreeMap<Commit, (u64, u64, KeyId)>) {
    assert_clean(store);
    for writer in 0..WRITERS {
        let of_writer = || told.iter().filter(|(_, (by, ..))| *by == writer);
        let last = of_writer().rfind(|(commit, _)| **commit <= up_to);
        let expected = last.map_or(key_id(writer, u64::from(KEYS) - 1), |(_, (.., key))| *key);
        let named = store.read(&scope(writer), |snap| snap.resolve(&alias(writer))).unwrap();
        assert_eq!(named.key_id, expected, "writer {writer} at {up_to}");
        // A request that was answered is answered so again; one that was lost is carried out.
        if let Some((commit, (_, number, key))) = last {
            let again = move_alias(store, writer, *number).unwrap();
            assert_eq!((again.value, again.commit, again.replayed), (*key, *commit, true));
        }
        let lost = of_writer().find(|(commit, _)| **commit > up_to);
        if let Some((_, (_, number, key))) = lost {
            let anew = move_alias(store, writer, *number).unwrap();
            assert_eq!((anew.value, anew.replayed), (*key, false));
            assert!(anew.commit > *told.last_key_value().unwrap().0, "no number is given again");
        }
    }
    assert_clean(store);
}

/// A store is backed up while threads write it, and lost; what comes back is what was told.
fn drill(options: &Options) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let store = options.open(path("store")).unwrap();
    create_keys(&store);
    let (told, ended) = (Told::default(), AtomicBool::new(false));
    let mut backups: Vec<Backup> = Vec::new();
    let mut written_meanwhile = 0;
    let wait_for = |store: &Store, commits: u64| {
        let from = store.position().unwrap().commit().number();
        while store.position().unwrap().commit().number() < from + commits {
            thread::yield_now();
        }
    };
    thread::scope(|threads| {
        for writer in 0..WRITERS {
            let (store, told, ended) = (&store, &told, &ended);
            threads.spawn(move || write(store, writer, ended, told));
        }
        for number in 0..4 {
            wait_for(&store, 40);
            let path = path(&format!("backup {number}"));
            let backup = match backups.last() {
                None => store.backup(&path).unwrap(),
                Some(last) => store.backup_changes(&last.position, &path).unwrap(),
            };
            written_meanwhile +=
                store.position().unwrap().commit().number() - backup.position.commit().number();
            assert_eq!(backup.bytes, path.metadata().unwrap().len());
            backups.push(backup);
        }
        wait_for(&store, 40);
        ended.store(true, SeqCst);
    });
    assert!(written_meanwhile > 0, "nobody wrote while a backup was made");
    let old = store.position().unwrap();
    drop(store);
    for name in names_in(folder.path()).iter().filter(|name| name.starts_with("store")) {
        fs::remove_file(path(name)).unwrap();
    }

    let told = told.into_inner().unwrap();
    for backup in &backups {
        Store::verify_backup(path(&format!(
            "backup {}",
            backups.iter().position(|one| one == backup).unwrap()
        )))
        .unwrap();
    }
    let restore = || {
        let changes = (1..4).map(|number| path(&format!("backup {number}")));
        changes.fold(Restore::of(path("backup 0")), Restore::changes)
    };
    let (first, last) = (backups[0].position.commit(), backups[3].position.commit());
    let middle = Commit::new(first.number() + (last.number() - first.number()) * 2 / 3);
    for (number, up_to) in [first, middle, last].into_iter().enumerate() {
        let path = path(&format!("restored {number}"));
        let restored = restore().up_to(up_to).into_file(&path).unwrap();
        assert_eq!(restored.commit, up_to);
        let store = options.open(&path).unwrap();
        assert_eq!(store.position().unwrap(), restored.position);
        assert!(matches!(store.changes(Some(&old), Limit::MAX), Err(Error::PositionOfAnotherStore)));
        assert_is_at(&store, up_to, &told);
    }
    assert!(told.range(..=first).count() > 0 && told.range(middle..).count() > 0);
}

#[test]
fn a_store_that_was_lost_comes_back() {
    drill(&options());
}

/// Checkpoints go on all the time, and each is soon behind what the backup reads.
#[test]
fn a_store_whose_table_changes_all_the_time_comes_back() {
    drill(&options().checkpoint_bytes(1));
}

/// A small store in a file, and two backups of it.
struct Rig {
    folder: tempfile::TempDir,
    store: Store,
    base: Position,
    changes: Position,
}

impl Rig {
    fn new(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = options.open(folder.path().join("store")).unwrap();
        create_keys(&store);
        let base = store.backup(folder.path().join("base")).unwrap().position;
        move_alias(&store, 0, 0).unwrap();
        let changes = store.backup_changes(&base, folder.path().join("changes")).unwrap().position;
        Self { folder, store, base, changes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn refused(&self, restore: &Restore) -> Error {
        let before = names_in(self.folder.path());
        let refused = restore.into_file(self.path("refused")).unwrap_err();
        assert_eq!(names_in(self.folder.path()), before, "something was left behind");
        refused
    }
}

#[test]
fn a_backup_is_an_ordinary_store_for_its_owner_only() {
    let rig = Rig::new(options());
    let before = names_in(rig.folder.path());
    let copy = Options::new().open_read_only(rig.path("base")).unwrap();
    assert_eq!(copy.position().unwrap(), rig.base);
    assert_clean(&copy);
    let keys = |store: &Store| {
        store.read(&scope(0), |snap| {
            Ok(snap.keys_by_id(&keystead::KeyFilter::all(), keystead::After::Start, Limit::MAX)?.items)
        })
    };
    assert_eq!(keys(&copy).unwrap().len(), 2 * usize::from(KEYS));
    assert_eq!(keys(&copy).unwrap(), keys(&rig.store).unwrap());
    drop(copy);
    assert_eq!(names_in(rig.folder.path()), before, "reading left something behind");
    #[cfg(unix)]
    for name in ["base", "changes"] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(rig.path(name).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    // A copy of a copy, by a handle that can't write.
    let reader = Options::new().open_read_only(rig.path("base")).unwrap();
    assert_eq!(reader.backup(rig.path("again")).unwrap().position, rig.base);
}

#[test]
fn a_copy_has_no_waste() {
    let rig = Rig::new(options());
    for round in 0..20 {
        for number in 0..20 {
            move_alias(&rig.store, 1, 100 * round + number).unwrap();
        }
    }
    let backup = rig.store.backup(rig.path("later")).unwrap();
    let content: u64 = 150 * backup.rows + 700 * backup.entries;
    assert!(backup.bytes < 2 * content, "{} bytes for {content}", backup.bytes);
    assert!(backup.bytes <= rig.path("store").metadata().unwrap().len());
}

#[test]
fn nothing_is_overwritten() {
    let rig = Rig::new(options());
    fs::write(rig.path("mine"), "mine").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(rig.path("nowhere"), rig.path("link")).unwrap();
    fs::write(rig.path("log.redo"), "of another").unwrap();
    let names = if cfg!(unix) { vec!["mine", "log", "link"] } else { vec!["mine", "log"] };
    let before = names_in(rig.folder.path());
    for name in names {
        let path = rig.path(name);
        let refusals = [
            rig.store.backup(&path).unwrap_err(),
            rig.store.backup_changes(&rig.base, &path).unwrap_err(),
            Restore::of(rig.path("base")).into_file(&path).unwrap_err(),
            keystead::repair(rig.path("base"), &path).unwrap_err(),
        ];
        for refused in refusals {
            assert!(matches!(refused, Error::FileExists(_)), "{refused}");
        }
    }
    assert_eq!(fs::read(rig.path("mine")).unwrap(), b"mine");
    let nowhere = rig.path("no folder").join("backup");
    assert!(matches!(rig.store.backup(nowhere), Err(Error::Io(_))));
    assert_eq!(names_in(rig.folder.path()), before);
}

#[test]
fn changes_are_refused_that_are_not_all_there() {
    let rig = Rig::new(options());
    let ahead = rig.store.position_after(Commit::new(rig.changes.commit().number() + 1));
    let refused = |since: &Position| rig.store.backup_changes(since, rig.path("refused")).unwrap_err();
    assert!(matches!(refused(&ahead), Error::CommitNotFound(commit) if commit == ahead.commit()));
    assert!(matches!(refused(&Rig::new(options()).base), Error::PositionOfAnotherStore));
    rig.store.trim_history(rig.base.commit()).unwrap();
    rig.store.backup_changes(&rig.base, rig.path("just there")).unwrap();
    rig.store.trim_history(rig.changes.commit()).unwrap();
    let refused = refused(&rig.base);
    assert!(matches!(refused, Error::HistoryTrimmed { floor } if floor == rig.changes.commit()), "{refused}");
    assert!(!rig.path("refused").exists());

    let folder = tempfile::tempdir().unwrap();
    let store = options().history(false).open(folder.path().join("store")).unwrap();
    create_keys(&store);
    let base = store.backup(folder.path().join("base")).unwrap();
    let refused = store.backup_changes(&base.position, folder.path().join("changes"));
    assert!(matches!(refused, Err(Error::HistoryDisabled)));
    Restore::of(folder.path().join("base")).into_file(folder.path().join("restored")).unwrap();
    assert_clean(&options().history(false).open(folder.path().join("restored")).unwrap());
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let (rig, other) = (Rig::new(options()), Rig::new(options()));
    move_alias(&rig.store, 0, 1).unwrap();
    let later = rig.store.backup_changes(&rig.changes, rig.path("later")).unwrap().position;
    let base = || Restore::of(rig.path("base"));
    let mismatches = [
        ("another store's", base().changes(other.path("changes"))),
        ("one is missing", base().changes(rig.path("later"))),
        ("another order", base().changes(rig.path("later")).changes(rig.path("changes"))),
        (
            "one too early",
            base().changes(rig.path("changes")).changes(rig.path("later")).changes(rig.path("changes")),
        ),
        ("a copy as changes", base().changes(rig.path("base"))),
    ];
    for (what, restore) in mismatches {
        let refused = rig.refused(&restore);
        assert!(matches!(refused, Error::BackupMismatch(_)), "{what}: {refused}");
    }
    assert!(matches!(rig.refused(&Restore::of(rig.path("changes"))), Error::NotAStore(_)));
    let all = || base().changes(rig.path("changes")).changes(rig.path("later"));
    for out_of_reach in [rig.base.commit().number() - 1, later.commit().number() + 1].map(Commit::new) {
        let refused = rig.refused(&all().up_to(out_of_reach));
        assert!(matches!(refused, Error::CommitNotFound(commit) if commit == out_of_reach));
    }
    // Changes may begin earlier than the file before them ends.
    rig.store.backup_changes(&rig.base, rig.path("both")).unwrap();
    let overlapping = base().changes(rig.path("changes")).changes(rig.path("both"));
    let restored = overlapping.into_file(rig.path("restored")).unwrap();
    assert_eq!(restored.commit, later.commit());
}

#[test]
fn a_damaged_backup_is_not_restored() {
    let rig = Rig::new(options());
    for name in ["base", "changes"] {
        let whole = fs::read(rig.path(name)).unwrap();
        let mut refused = 0;
        // Everywhere in a file of changes; in a copy, where the rows are.
        let step = (whole.len() / 40).max(1);
        for place in (0..whole.len()).step_by(step) {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x20;
            fs::write(rig.path(name), &damaged).unwrap();
            let restore = Restore::of(rig.path("base")).changes(rig.path("changes"));
            let verified = Store::verify_backup(rig.path(name));
            let restored = restore.into_file(rig.path("restored"));
            assert_eq!(restored.is_ok(), rig.path("restored").exists(), "{name}, byte {place}");
            if restored.is_ok() {
                // Only in a page that nothing is in.
                assert_eq!(name, "base");
                assert_clean(&Store::open(rig.path("restored")).unwrap());
                fs::remove_file(rig.path("restored")).unwrap();
            }
            refused += u32::from(verified.is_err());
        }
        assert!(refused > 0, "{name}");
        for length in [0, whole.len() / 2, whole.len() - 1] {
            fs::write(rig.path(name), &whole[..length]).unwrap();
            assert!(Store::verify_backup(rig.path(name)).is_err(), "{name}, {length} bytes");
        }
        fs::write(rig.path(name), &whole).unwrap();
    }
    Restore::of(rig.path("base")).changes(rig.path("changes")).into_file(rig.path("restored")).unwrap();
}

/// Two files overlap, and before the later one was made, history was trimmed. Who wants only what the first
/// has gets all of its history.
#[test]
fn a_file_behind_what_is_wanted_is_not_taken() {
    let rig = Rig::new(options());
    move_alias(&rig.store, 0, 1).unwrap();
    rig.store.trim_history(rig.base.commit()).unwrap();
    rig.store.backup_changes(&rig.base, rig.path("both")).unwrap();
    let restore = || Restore::of(rig.path("base")).changes(rig.path("changes")).changes(rig.path("both"));
    for up_to in [rig.base.commit(), rig.changes.commit()] {
        let path = rig.path(&format!("restored to {up_to}"));
        restore().up_to(up_to).into_file(&path).unwrap();
        assert_eq!(Store::open(&path).unwrap().history_floor().unwrap(), Commit::default(), "{up_to}");
    }
    restore().into_file(rig.path("restored")).unwrap();
    let store = Store::open(rig.path("restored")).unwrap();
    assert_eq!(store.history_floor().unwrap(), rig.base.commit());
}

/// A copy was opened for writing, against the advice: two stores of one incarnation.
#[test]
fn changes_of_a_fork_are_refused() {
    let rig = Rig::new(options());
    fs::copy(rig.path("base"), rig.path("fork")).unwrap();
    let fork = options().open(rig.path("fork")).unwrap();
    move_alias(&fork, 0, 7).unwrap();
    let forked = fork.position().unwrap();
    assert_eq!(forked, rig.changes);
    move_alias(&fork, 0, 8).unwrap();
    fork.backup_changes(&forked, rig.path("behind")).unwrap();
    fork.backup_changes(&rig.base, rig.path("over")).unwrap();
    for name in ["behind", "over"] {
        let restore = Restore::of(rig.path("base")).changes(rig.path("changes")).changes(rig.path(name));
        let refused = rig.refused(&restore);
        assert!(
            matches!(&refused, Error::BackupMismatch(what) if what.contains("not the same")),
            "{name}: {refused}"
        );
    }
    // By itself each is whole.
    Restore::of(rig.path("base")).changes(rig.path("over")).into_file(rig.path("restored")).unwrap();
}

/// It is to take the place of a store, so there must be one.
#[test]
fn a_copy_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let refused = options().restored(true).open(folder.path().join("nothing")).unwrap_err();
    assert!(matches!(refused, Error::NoStore(_)), "{refused}");
    assert!(names_in(folder.path()).is_empty());
}

/// A copy that was made by other means.
#[test]
fn a_copied_file_that_takes_the_place_of_the_store_begins_anew() {
    let rig = Rig::new(options());
    let lost = move_alias(&rig.store, 0, 1).unwrap().commit;
    drop(rig.store);
    let copy = rig.folder.path().join("copy");
    fs::copy(rig.folder.path().join("store"), &copy).unwrap();
    let store = options().restored(true).open(&copy).unwrap();
    let first = store.position().unwrap();
    assert!(first.commit().number() > lost.number() + (1 << 40));
    assert!(matches!(store.changes(Some(&rig.changes), Limit::MAX), Err(Error::PositionOfAnotherStore)));
    let next = move_alias(&store, 0, 2).unwrap();
    assert_eq!(next.commit.number(), first.commit().number() + 1);
    store.read_at_least(&scope(0), lost, |_| Ok(())).unwrap();
    let never = store.read_at_least(&scope(0), Commit::new(lost.number() + 1), |_| Ok(()));
    assert!(matches!(never, Err(Error::CommitNotFound(_))));
    assert_clean(&store);
    drop(store);
    // Opened again it is the same, and a base of its own.
    let store = options().open(&copy).unwrap();
    assert_eq!(store.position().unwrap(), store.position_after(next.commit));
    let base = store.backup(rig.folder.path().join("new base")).unwrap();
    move_alias(&store, 0, 3).unwrap();
    store.backup_changes(&base.position, rig.folder.path().join("new changes")).unwrap();
    let restore = Restore::of(rig.folder.path().join("new base"));
    let restore = restore.changes(rig.folder.path().join("new changes"));
    let restored = restore.into_file(rig.folder.path().join("restored")).unwrap();
    assert!(restored.position.commit() > restored.commit);
}

/// Whoever comes second finds that the name is taken; nothing of theirs is left.
#[test]
fn one_of_two_that_make_the_same_file_succeeds() {
    let rig = Rig::new(options());
    let before = names_in(rig.folder.path()).len();
    for round in 0..5 {
        let path = rig.path(&format!("race {round}"));
        let made: Vec<_> = thread::scope(|threads| {
            let one = || threads.spawn(|| rig.store.backup(&path));
            [one(), one(), one()].map(|thread| thread.join().unwrap()).into()
        });
        let refused = made.iter().filter(|made| matches!(made, Err(Error::FileExists(_)))).count();
        assert_eq!((made.iter().filter(|made| made.is_ok()).count(), refused), (1, 2));
        Store::verify_backup(&path).unwrap();
        assert_eq!(names_in(rig.folder.path()).len(), before + round + 1);
    }
}
