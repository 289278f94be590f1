//! Restoring: a store that was restored to a commit has exactly the rows that the store had there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::rc::Rc;

use proptest::prelude::*;

use super::history_support::{Step, Tick, World, assert_clean, steps};
use crate::engine::redb::{Pages, RedbEngine, TableReader, seal};
use crate::engine::scripted::Scripted;
use crate::engine::{Batch, Draft, Engine, Log, ReadTransaction};
use crate::format::{
    Address, Row, ScopedTable, Space, Stored, decode_floor, decode_restored, encode_restored, read_address,
};
use crate::{
    AliasScope, At, Commit, Error, Limit, NewKey, Options, Request, Restore, Retention, Scope, Store,
};

/// Every row and every entry of the log, with their commits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) rows: BTreeMap<Row, Stored>,
    pub(super) log: BTreeMap<Commit, Vec<u8>>,
}

pub(super) fn rows_of(rows: &dyn ReadTransaction) -> Rows {
    let all = rows.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX).unwrap();
    let log = rows.log(Commit::default(), usize::MAX).unwrap();
    Rows {
        rows: all.into_iter().map(|(row, stored)| (row, stored.unwrap())).collect(),
        log: log.into_iter().map(|(commit, bytes)| (commit, bytes.unwrap())).collect(),
    }
}

fn is_of_outcome(row: &Row) -> bool {
    let table = read_address(row);
    matches!(
        table,
        Some(Address::Scoped { table: ScopedTable::Outcome(_) | ScopedTable::OutcomeTime(..), .. })
    )
}

impl Rows {
    fn outcomes(&self) -> BTreeMap<Row, Stored> {
        let outcomes = self.rows.iter().filter(|(row, _)| is_of_outcome(row));
        outcomes.map(|(row, stored)| (row.clone(), stored.clone())).collect()
    }

    /// Takes away what a restored store has of its own, and returns up to where its history was trimmed.
    fn without_what_differs(mut self) -> (Self, Commit) {
        let space = Space::of_store();
        let floor = self.rows.remove(&space.floor());
        let floor = floor.map(|stored| decode_floor(b"", &stored.bytes).unwrap().commit);
        self.rows.retain(|row, _| {
            !matches!(read_address(row), Some(Address::Fixed | Address::Restored { .. }))
                && !is_of_outcome(row)
        });
        (self, floor.unwrap_or_default())
    }

    /// As they are if the history was trimmed so far.
    pub(super) fn trimmed(mut self, floor: Commit) -> Self {
        self.log.retain(|commit, _| *commit > floor);
        self.rows.retain(|row, stored| {
            stored.commit > floor || !matches!(read_address(row), Some(Address::Tombstone { .. }))
        });
        self
    }
}

/// A run on a store of which every commit is remembered.
struct Run {
    world: World,
    remembered: Rc<RefCell<BTreeMap<Commit, Rows>>>,
    folder: tempfile::TempDir,
    /// The commits at which backups were made, the first of them of the whole store.
    backups: Vec<Commit>,
}

impl Run {
    fn new(options: &Options) -> Self {
        let engine = Scripted::new(RedbEngine::in_memory(1 << 20).unwrap());
        options.begin(&engine).unwrap();
        let mut world = World::empty(options.on(Box::new(engine.clone())).unwrap());
        let remembered = Rc::new(RefCell::new(BTreeMap::new()));
        let of_witness = Rc::clone(&remembered);
        world.witness = Some(Box::new(move |commit| {
            let rows = engine.begin_read().unwrap();
            assert_eq!(rows.commit(), commit);
            of_witness.borrow_mut().insert(commit, rows_of(&*rows));
        }));
        world.remember();
        world.fill();
        Self { world, remembered, folder: tempfile::tempdir().unwrap(), backups: Vec::new() }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("backup {number}"))
    }

    /// Makes the next backup: of changes, unless the history behind the last was trimmed.
    fn back_up(&mut self) {
        let path = self.path(self.backups.len());
        let store = &self.world.store;
        if let Some(last) = self.backups.last() {
            match store.backup_changes(&store.position_after(*last), &path) {
                Ok(backup) => {
                    assert_eq!((backup.since, backup.bytes), (Some(*last), path.metadata().unwrap().len()));
                    assert_eq!(Store::verify_backup(&path).unwrap().position, backup.position);
                    self.backups.push(backup.position.commit());
                    return;
                }
                Err(Error::HistoryTrimmed { floor }) => {
                    assert!(floor > *last);
                    self.backups.clear();
                }
                Err(error) => panic!("{error}"),
            }
        }
        let path = self.path(0);
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
            (1..10).for_each(|number| drop(std::fs::remove_file(self.path(number))));
        }
        let backup = store.backup(&path).unwrap();
        assert_eq!(Store::verify_backup(&path).unwrap().rows, backup.rows);
        self.backups.push(backup.position.commit());
    }

    fn restore(&self, up_to: Commit) -> (PathBuf, Rows) {
        let path = self.folder.path().join("restored");
        drop(std::fs::remove_file(&path));
        let files = 1..self.backups.len();
        let restore =
            files.fold(Restore::of(self.path(0)), |restore, number| restore.changes(self.path(number)));
        let restored = restore.up_to(up_to).into_file(&path).unwrap();
        assert_eq!(restored.commit, up_to);
        let reader = TableReader::at(&path, Pages::believed(1 << 20)).unwrap();
        let rows = reader.newest().unwrap();
        assert_eq!(rows.commit(), restored.position.commit());
        let rows = rows_of(&rows);
        (path, rows)
    }

    /// The outcomes that a restored store must have: those of the backup before, and of the one behind
    /// what was made up to the commit.
    fn outcomes_at(&self, up_to: Commit) -> BTreeMap<Row, Stored> {
        let remembered = self.remembered.borrow();
        let behind = self.backups.iter().position(|backup| *backup >= up_to).unwrap();
        if self.backups[behind] == up_to {
            return remembered[&up_to].outcomes();
        }
        let mut outcomes = remembered[&self.backups[behind - 1]].outcomes();
        let made = remembered[&self.backups[behind]].outcomes();
        outcomes.extend(made.into_iter().filter(|(_, stored)| stored.commit <= up_to));
        outcomes
    }

    fn compare(&self, up_to: Commit) {
        let (_, restored) = self.restore(up_to);
        let was = self.remembered.borrow()[&up_to].clone();
        assert_eq!(restored.outcomes(), self.outcomes_at(up_to), "outcomes at {up_to}");
        let fixed = &restored.rows[&Space::of_store().fixed()];
        let noted = &restored.rows[&Space::of_store().restored(fixed.commit)];
        assert_eq!(decode_restored(b"", &noted.bytes).unwrap(), up_to);
        let whole = self.backups.contains(&up_to);
        let floor_row = Space::of_store().floor();
        if whole {
            assert_eq!(restored.rows.get(&floor_row), was.rows.get(&floor_row), "floor at {up_to}");
        }
        let ((restored, floor), (was, former)) =
            (restored.without_what_differs(), was.without_what_differs());
        assert!(if whole { floor == former } else { floor >= former });
        let was = was.trimmed(floor);
        let differing: Vec<_> =
            was.rows.iter().filter(|(row, stored)| restored.rows.get(*row) != Some(stored)).collect();
        assert_eq!(differing, [], "at {up_to}");
        assert_eq!(restored, was, "at {up_to}");
    }
}

fn options(alias_scope: AliasScope, kept: Option<u64>) -> Options {
    let retention = Retention { history_commits: kept, outcome_hours: 1, ..Retention::default() };
    Options::new().alias_scope(alias_scope).retention(retention)
}

fn cases(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(cases), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn a_restored_store_has_the_rows_that_were_there(
        parts in prop::collection::vec(steps(2..16), 4),
        in_domain: bool,
        kept in prop_oneof![Just(None), (5..40_u64).prop_map(Some)],
        picked in prop::collection::vec(any::<prop::sample::Index>(), 5),
    ) {
        let alias_scope = if in_domain { AliasScope::Domain } else { AliasScope::Project };
        let mut run = Run::new(&options(alias_scope, kept));
        for part in &parts {
            run.world.run(part);
            run.back_up();
        }
        let all: Vec<Commit> = run.remembered.borrow().keys().copied().collect();
        let (first, last) = (run.backups[0], *run.backups.last().unwrap());
        let between: Vec<_> = all.into_iter().filter(|commit| (first..=last).contains(commit)).collect();
        run.backups.iter().for_each(|commit| run.compare(*commit));
        picked.iter().for_each(|index| run.compare(*index.get(&between)));
    }
}

/// What random runs may not come to.
#[test]
fn what_was_trimmed_and_forgotten_stays_so() {
    let mut run = Run::new(&options(AliasScope::Project, Some(2)));
    let tick = Tick::Forward(2 * 3_600_000);
    let op = |key, name| super::history_support::Op::Rename { key, name };
    let once = |key, name| (Step::Once { scope: 0, op: op(key, name) }, tick);
    let erase = (Step::Erase { scope: 0, key: 2 }, tick);
    run.world.run(&[once(0, 3), erase, once(1, 4)]);
    run.back_up();
    run.world.run(&[once(0, 0), (Step::Sweep, tick), once(0, 3)]);
    let middle = run.world.newest();
    run.world.run(&[once(0, 0)]);
    run.back_up();
    run.compare(middle);
    assert_eq!(run.backups.len(), 2, "the second is of changes");
    let (_, restored) = run.restore(run.backups[1]);
    assert!(restored.rows.contains_key(&Space::of_store().floor()), "something was trimmed");
    let all: Vec<_> = run.remembered.borrow().keys().copied().collect();
    all.iter().filter(|commit| **commit >= run.backups[0]).for_each(|commit| run.compare(*commit));
}

fn request(scope: &Scope) -> Request {
    Request::new(scope).at(crate::Timestamp::from_millis(1_000_000))
}

fn rename(store: &Store, scope: &Scope, new: &NewKey, name: &str) -> Commit {
    let name = name.parse().unwrap();
    store.write(&request(scope), |txn| txn.rename_key_alias(new.key_id, &name)).unwrap().commit
}

/// Numbers of commits, versions and positions after a restore, also of a store that was restored twice.
#[test]
fn what_was_lost_is_never_taken_for_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let scope = super::scope();
    let store = Store::open(path("store")).unwrap();
    let new = NewKey::new("one").unwrap();
    let created = store.write(&request(&scope), |txn| txn.create_key(&new)).unwrap().commit;
    let backup = store.backup(path("backup")).unwrap();
    let lost = rename(&store, &scope, &new, "two");
    let old = store.position().unwrap();

    let restored = Restore::of(path("backup")).into_file(path("restored")).unwrap();
    assert_eq!(restored.commit, backup.position.commit());
    let (first, now) = (restored.position.commit().number(), crate::Timestamp::now().as_millis());
    assert!((now - 60_000..=now).contains(&(first / 2048)), "{first} is not of {now} ms");
    let store = Store::open(path("restored")).unwrap();
    assert_eq!(store.position().unwrap(), restored.position);
    assert!(matches!(store.changes(Some(&old), Limit::MAX), Err(Error::PositionOfAnotherStore)));
    let at = |commit| store.read(&scope, |snap| snap.key_at(new.key_id, At::Commit(commit)));
    assert_eq!(at(created).unwrap().key_alias.as_str(), "one");
    assert!(matches!(at(lost), Err(Error::CommitNotFound(commit)) if commit == lost));
    let seen = store.read_at_least(&scope, lost, |_| Ok(()));
    assert!(matches!(seen, Err(Error::CommitNotFound(commit)) if commit == lost));
    store.read_at_least(&scope, created, |_| Ok(())).unwrap();

    let three = rename(&store, &scope, &new, "three");
    assert_eq!(three.number(), restored.position.commit().number() + 1);
    assert!(three > lost);
    let feed = store.changes(None, Limit::MAX).unwrap().commits;
    assert_eq!(feed.iter().map(|commit| commit.info.commit).collect::<Vec<_>>(), [created, three]);
    // A backup before it was restored is one of another store.
    let refused = store.backup_changes(&backup.position, path("changes"));
    assert!(matches!(refused, Err(Error::PositionOfAnotherStore)));
    let refused = store.backup_changes(&store.position_after(created), path("changes"));
    assert!(matches!(refused, Err(Error::PositionOfAnotherStore)));
    let second = store.backup(path("second backup")).unwrap();
    assert_clean(&store);
    drop(store);
    let at = crate::Timestamp::now().plus_hours(1);
    Restore::of(path("second backup")).restore_at(&path("restored twice"), at).unwrap();
    let store = Options::new().open(path("restored twice")).unwrap();
    let twice = store.position().unwrap().commit();
    assert_eq!(twice.number(), at.as_millis() * 2048);
    let four = rename(&store, &scope, &new, "four");
    let at =
        |commit: u64| store.read(&scope, |snap| snap.key_at(new.key_id, At::Commit(Commit::new(commit))));
    assert!(matches!(at(lost.number()), Err(Error::CommitNotFound(_))));
    assert!(matches!(at(second.position.commit().number() + 1), Err(Error::CommitNotFound(_))));
    assert_eq!(at(three.number()).unwrap().key_alias.as_str(), "three");
    assert_eq!(at(four.number()).unwrap().key_alias.as_str(), "four");
    assert_clean(&store);
}

/// A backup of Monday is restored, the store serves a day, and is lost too: the same backup again.
#[test]
fn restored_twice_from_one_backup_gives_no_number_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: String| folder.path().join(name);
    let scope = super::scope();
    let store = Store::open(path("store".into())).unwrap();
    let new = NewKey::new("one").unwrap();
    store.write(&request(&scope), |txn| txn.create_key(&new)).unwrap();
    let backup = store.backup(path("backup".into())).unwrap();
    let mut given = BTreeSet::from([backup.position.commit(), rename(&store, &scope, &new, "two")]);
    drop(store);
    let day = 24 * 60 * 60 * 1000;
    // The clock is right, is right a millisecond and a day later, went back a day, and was never set.
    let times = [60 * 365 * day, 60 * 365 * day + 1, 60 * 365 * day + day, 60 * 365 * day - day, 0];
    let mut firsts = Vec::new();
    for (number, time) in times.into_iter().enumerate() {
        let file = path(format!("restored {number}"));
        let restore = Restore::of(path("backup".into()));
        let restored = restore.restore_at(&file, crate::Timestamp::from_millis(time)).unwrap();
        assert_eq!(restored.commit, backup.position.commit());
        let store = Store::open(&file).unwrap();
        let commits = (0..50).map(|name| rename(&store, &scope, &new, &format!("name-{name}")));
        for commit in commits.chain([restored.position.commit()]) {
            assert!(given.insert(commit), "{commit} was given twice");
        }
        firsts.push(restored.position.commit());
        assert_clean(&store);
        // Those of the restores before were lost here, whether this one's numbers are larger or smaller.
        for first in &firsts[..number] {
            let commit = Commit::new(first.number() + 1);
            let seen = store.read_at_least(&scope, commit, |_| Ok(()));
            assert!(matches!(seen, Err(Error::CommitNotFound(_))), "{commit}");
            let seen = store.read(&scope, |snap| snap.key_at(new.key_id, At::Commit(commit)));
            assert!(matches!(seen, Err(Error::CommitNotFound(_))), "{commit}");
        }
    }
    assert_eq!(firsts[4].number() % (1 << 40), 0, "without a clock it is a jump at random");
}

/// Retention counts commits that were there, not numbers that were skipped.
#[test]
fn a_restore_does_not_trim_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let scope = super::scope();
    let store = Store::in_memory().unwrap();
    let new = NewKey::new("name").unwrap();
    store.write(&request(&scope), |txn| txn.create_key(&new)).unwrap();
    let renamed = (0..10).map(|number| rename(&store, &scope, &new, &format!("a-{number}")));
    let last = renamed.collect::<Vec<_>>()[9];
    store.backup(path("backup")).unwrap();
    let first = Restore::of(path("backup")).into_file(path("restored")).unwrap().position.commit();
    let kept = |commits| Retention { history_commits: Some(commits), ..Retention::default() };
    let store = Options::new().retention(kept(8)).open(path("restored")).unwrap();
    let sweep = |store: &Store| store.sweep(request(&scope).time(), 1000, None).unwrap().history_floor;
    // The newest change is still one of those before.
    assert_eq!(sweep(&store), Some(Commit::new(last.number() - 8)));
    rename(&store, &scope, &new, "b-0");
    rename(&store, &scope, &new, "b-1");
    // The sweep wrote a commit too, and so did the restore.
    assert_eq!(store.position().unwrap().commit().number(), first.number() + 3);
    assert_eq!(sweep(&store), Some(Commit::new(last.number() - 8 + 4)));
    drop(store);
    let store = Options::new().retention(kept(2)).open(path("restored")).unwrap();
    assert_eq!(sweep(&store), Some(last));
    assert_eq!(store.changes(Some(&store.position_after(last)), Limit::MAX).unwrap().commits.len(), 2);
    assert_clean(&store);
}

/// What a restore notes, and a store in which it is not true.
#[test]
fn the_note_of_a_restore_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = super::scripted();
    store.write(&super::request(), |txn| txn.create_key(&super::new_key("one", 1))).unwrap();
    let last = store.backup(folder.path().join("backup")).unwrap().position.commit();
    let restored = Restore::of(folder.path().join("backup")).into_file(folder.path().join("restored"));
    let first = restored.unwrap().position.commit();
    let row = Space::of_store().restored(first);
    let noted = |commit: Commit, last: Commit| seal(&row, commit, &encode_restored(last));
    let in_between = Draft::log_row(Commit::new(last.number() + 1));
    let entry = {
        let rows = rows_of(
            &*TableReader::at(&folder.path().join("backup"), Pages::believed(1 << 20))
                .unwrap()
                .begin_read()
                .unwrap(),
        );
        rows.log[&last].clone()
    };
    let cases = [
        ("a restore is noted that can't have been", row.clone(), noted(last, last)),
        (
            "a restore is noted that can't have been",
            row.clone(),
            noted(first, Commit::new(first.number() + 1)),
        ),
        ("a restore is noted that can't have been", row.clone(), noted(first, first)),
        ("does not encode", row.clone(), seal(&row, first, &[1, 0xfb, 2, 0])),
        ("a commit that was lost", in_between.clone(), seal(&in_between, last, &entry)),
    ];
    for (what, row, value) in cases {
        let damaged = folder.path().join("damaged");
        std::fs::copy(folder.path().join("restored"), &damaged).unwrap();
        assert_clean(&Options::new().open_read_only(&damaged).unwrap());
        let draft = Draft::open(&damaged).unwrap();
        draft.damage(&row, Some(&value));
        drop(draft);
        let report = Options::new().open_read_only(&damaged).unwrap().verify().unwrap();
        let seen = report.violations.iter().any(|violation| violation.what.contains(what));
        assert!(seen, "{what}: {:?}", report.violations);
    }
}

/// Whatever fails, nothing is left.
#[test]
fn a_failed_backup_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Scripted::new(RedbEngine::in_memory(1 << 20).unwrap());
    let options = Options::new();
    options.begin(&engine).unwrap();
    let store = options.on(Box::new(engine.clone())).unwrap();
    store.write(&super::request(), |txn| txn.create_key(&super::new_key("one", 1))).unwrap();
    let base = store.position().unwrap();
    let write = |row: Row, value: Vec<u8>, entry: Option<&[u8]>| {
        let batch = Batch::from([(row, Some(value))]);
        engine.begin_write().unwrap().commit(&batch, Log { append: entry, trim: None }).unwrap();
    };
    let space = Space::of_scope(&super::scope());
    // Of an entry that can't be read, and of a row.
    write(space.key_alias(&"one".parse().unwrap()), vec![1], Some(&[1, 0xff]));
    let refused = store.backup_changes(&base, folder.path().join("changes"));
    assert!(matches!(refused, Err(Error::Corrupted(_))), "{refused:?}");
    let refused = store.backup(folder.path().join("copy"));
    assert!(matches!(refused, Err(Error::Unsound(_))), "{refused:?}");
    let outcome = space.outcome(&"0".repeat(36).parse().unwrap());
    write(outcome, vec![1], None);
    let since = store.position_after(Commit::new(store.position().unwrap().commit().number() - 1));
    let refused = store.backup_changes(&since, folder.path().join("changes"));
    assert!(matches!(refused, Err(Error::Corrupted(_))), "{refused:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Commits of an import have more changes than any other, and are written at once.
#[test]
fn what_was_imported_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for alias_scope in [AliasScope::Project, AliasScope::Domain] {
        let engine = Scripted::new(RedbEngine::in_memory(1 << 20).unwrap());
        let quotas = crate::Quotas { keys_per_project: 10_000, ..Default::default() };
        let options = Options::new().alias_scope(alias_scope).quotas(quotas);
        options.begin(&engine).unwrap();
        let store = options.on(Box::new(engine.clone())).unwrap();
        let names = ["base", "changes", "restored"].map(|name| path(&format!("{name} {alias_scope:?}")));
        let base = store.backup(&names[0]).unwrap();
        let keys = (0..300_u64).map(|number| {
            let new = NewKey::new(&format!("key-{number}"))
                .unwrap()
                .tag("env".parse().unwrap(), "x".parse().unwrap());
            (0..number % 5)
                .fold(new, |new, alias| new.alias(format!("alias-{number}-{alias}").parse().unwrap()))
        });
        let batches = store.import(&super::request(), keys).batch_bytes(40_000);
        assert_eq!(batches.map(|batch| batch.unwrap().created).sum::<u64>(), 300);
        let changes = store.backup_changes(&base.position, &names[1]).unwrap();
        assert!(changes.entries < 50, "each commit has many changes");
        Restore::of(&names[0]).changes(&names[1]).into_file(&names[2]).unwrap();
        let (mut restored, _) =
            rows_of(&*TableReader::at(&names[2], Pages::believed(1 << 20)).unwrap().begin_read().unwrap())
                .without_what_differs();
        let (was, _) = rows_of(&*engine.begin_read().unwrap()).without_what_differs();
        assert!(restored == was, "{alias_scope:?}");
        // The comparison can fail.
        restored.rows.pop_last();
        assert!(restored != was);
    }
}

/// An id of a request may be used anew when its outcome was forgotten.
#[test]
fn an_outcome_of_an_id_that_was_used_anew_is_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let engine = Scripted::new(RedbEngine::in_memory(1 << 20).unwrap());
    let options = options(AliasScope::Project, None);
    options.begin(&engine).unwrap();
    let store = options.on(Box::new(engine.clone())).unwrap();
    let id = "0".repeat(36).parse().unwrap();
    let once = |store: &Store, request: &Request, body: &[u8]| {
        store.write_once(request, &id, body, |txn| Ok(txn.time().as_millis())).unwrap()
    };
    let (first, second) = (super::request(), super::request().at(super::request().time().plus_hours(2)));
    once(&store, &first, b"first");
    store.write(&first, |txn| txn.create_key(&super::new_key("one", 1))).unwrap();
    let base = store.backup(path("base")).unwrap();
    assert_eq!(store.sweep(second.time(), 100, None).unwrap().outcomes_pruned, 1);
    let answer = once(&store, &second, b"second");
    store.backup_changes(&base.position, path("changes")).unwrap();

    Restore::of(path("base")).changes(path("changes")).into_file(path("restored")).unwrap();
    let restored = rows_of(
        &*TableReader::at(&path("restored"), Pages::believed(1 << 20)).unwrap().begin_read().unwrap(),
    );
    assert_eq!(restored.outcomes(), rows_of(&*engine.begin_read().unwrap()).outcomes());
    let store = Store::open(path("restored")).unwrap();
    let again = once(&store, &second, b"second");
    assert!(again.replayed && (again.value, again.commit) == (answer.value, answer.commit));
}
