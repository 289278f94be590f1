//! The feed of changes: complete, in order, resumable; waiting; and what a store without history does.
#![allow(clippy::unwrap_used, reason = "unwrap is fine in tests")]

mod history_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use history_support::{Records, START, World, alias, assert_clean, at, key_alias, limit, request_id, steps};
use keystead::{
    After, At, Change, ChangeRecord, Changes, Commit, CommitRecord, Error, HistoryOf, Images,
    InvalidPosition, Limit, NewKey, Operation, Options, Order, Position, Quotas, Request, Scope, Store,
    Waited,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

const LONG: Duration = Duration::from_secs(40);

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn options() -> Options {
    Options::new().run_closures_twice(true)
}

fn in_memory() -> Store {
    options().in_memory().unwrap()
}

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn request() -> Request {
    Request::new(&scope()).at(at(START))
}

fn create(store: &Store, name: &str) -> NewKey {
    let key = NewKey::new(name).unwrap();
    store.write(&request(), |txn| txn.create_key(&key)).unwrap();
    key
}

/// The maps of records, built from images alone.
type Replica = BTreeMap<Scope, Records>;

/// Carries a change over, and asserts that its before image is what the last one left.
fn carry_over(replica: &mut Replica, scope: &Scope, change: &Change) {
    let records = replica.entry(scope.clone()).or_default();
    match &change.images {
        Images::Key { before, after } => {
            let key_id = after.as_ref().or(before.as_ref()).unwrap().key_id;
            assert_eq!(records.keys.remove(&key_id), *before, "before {change:?}");
            records.keys.extend(after.clone().map(|after| (key_id, after)));
        }
        Images::Alias { before, after } => {
            let name = after.as_ref().or(before.as_ref()).unwrap().alias.clone();
            assert_eq!(records.aliases.remove(&name), *before, "before {change:?}");
            records.aliases.extend(after.clone().map(|after| (name, after)));
        }
    }
}

/// A consumer as an API node has one: it keeps its position as text beside what it built.
#[derive(Clone, Default)]
struct Consumer {
    position: Option<String>,
    replica: Replica,
    seen: Vec<CommitRecord>,
}

impl Consumer {
    /// Takes one portion. Returns how many commits it had.
    fn take(&mut self, store: &Store, limit: Limit) -> usize {
        let position = self.position.as_ref().map(|text| text.parse::<Position>().unwrap());
        let Changes { commits, position, .. } = store.changes(position.as_ref(), limit).unwrap();
        let taken = commits.len();
        assert!(taken <= limit.get());
        for commit in commits {
            assert!(!commit.changes.is_empty() && commit.info.commit <= position.commit());
            for change in &commit.changes {
                carry_over(&mut self.replica, &commit.info.scope, change);
            }
            self.seen.push(commit);
        }
        self.position = Some(position.to_string());
        taken
    }
}

/// What the replica must be after a commit.
fn assert_replica(world: &World, replica: &Replica, commit: Commit) {
    let moment = world.moments.iter().find(|moment| moment.commit == commit).unwrap();
    for (scope, records) in world.scopes.iter().zip(&moment.records) {
        let built = replica.get(scope).cloned().unwrap_or_default();
        assert_eq!(built, *records, "{scope} after commit {commit}");
    }
}

/// What a consumer does between two steps of the writer.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Nothing,
    Take(usize),
    Save,
    Crash,
    Reopen,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => Just(Deed::Nothing),
        4 => (1..5_usize).prop_map(Deed::Take),
        2 => Just(Deed::Save),
        2 => Just(Deed::Crash),
        1 => Just(Deed::Reopen),
    ]
}

fn reopen(world: &mut World, path: &Path) {
    world.store = Store::in_memory().unwrap();
    world.store = options().open(path).unwrap();
}

proptest! {
    #![proptest_config(config(10))]

    #[test]
    fn a_replica_built_from_images_equals_the_store(steps in steps(10..40), size in 1..4_usize) {
        let mut world = World::new(in_memory());
        world.run(&steps);
        let mut consumer = Consumer::default();
        loop {
            let before = consumer.position.as_ref().map(|text| text.parse::<Position>().unwrap().commit());
            let taken = consumer.take(&world.store, limit(size));
            let position = consumer.position.as_ref().unwrap().parse::<Position>().unwrap();
            if position.commit() > Commit::default() {
                assert_replica(&world, &consumer.replica, position.commit());
            }
            if taken == 0 {
                prop_assert_eq!(position, world.store.position().unwrap());
                break;
            }
            prop_assert!(before.is_none_or(|before| before < position.commit()));
        }
        let numbers: Vec<_> = consumer.seen.iter().map(|commit| commit.info.commit).collect();
        prop_assert!(numbers.is_sorted_by(|one, other| one < other));
        // Each commit that changed a record is there.
        for pair in world.moments.windows(2) {
            if pair[0].records != pair[1].records {
                prop_assert!(numbers.contains(&pair[1].commit));
            }
        }
        assert_clean(&world.store);
    }

    #[test]
    fn a_consumer_that_crashes_sees_every_change_once(
        steps in prop::collection::vec((steps(1..3), deed()), 8..20),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let mut world = World::new(options().open(&path).unwrap());
        let (mut consumer, mut saved) = (Consumer::default(), Consumer::default());
        for (steps, deed) in &steps {
            world.run(steps);
            match deed {
                Deed::Nothing => {}
                Deed::Take(size) => drop(consumer.take(&world.store, limit(*size))),
                Deed::Save => saved = consumer.clone(),
                Deed::Crash => consumer = saved.clone(),
                Deed::Reopen => {
                    consumer = saved.clone();
                    reopen(&mut world, &path);
                }
            }
        }
        assert_clean(&world.store);
        while consumer.take(&world.store, limit(2)) > 0 {}
        assert_replica(&world, &consumer.replica, world.newest());
        let mut another = Consumer::default();
        while another.take(&world.store, Limit::MAX) > 0 {}
        prop_assert_eq!(consumer.seen, another.seen);
    }

    #[test]
    fn garbage_is_no_position(text in "[0-9a-fA-F+ -]{0,60}|\\PC{0,40}") {
        if let Ok(position) = text.parse::<Position>() {
            prop_assert_eq!(position.to_string(), text);
        }
    }
}

#[test]
fn a_position_is_one_text() {
    let store = in_memory();
    create(&store, "one");
    let position = store.position().unwrap();
    let text = position.to_string();
    assert_eq!(text.parse::<Position>().unwrap(), position);
    let json = serde_json::to_string(&position).unwrap();
    assert_eq!(json, format!("\"{text}\""));
    assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), position);
    let (incarnation, commit) = text.split_once('-').unwrap();
    assert_eq!((incarnation.len(), commit), (32, "2"));
    let garbage = [
        String::new(),
        "-".into(),
        incarnation.into(),
        format!("{incarnation}-"),
        format!("{incarnation}-+2"),
        format!("{incarnation}-02"),
        format!("{incarnation}--2"),
        format!("{incarnation}-2-3"),
        format!("{incarnation}-18446744073709551616"),
        format!("{incarnation}- 2"),
        format!(" {text}"),
        format!("{text} "),
        format!("{}-2", &incarnation[1..]),
        format!("{}-2", &incarnation[2..]),
        format!("{incarnation}00-2"),
        format!("{}A-2", &incarnation[..31]),
        format!("{}g-2", &incarnation[..31]),
        format!("-{incarnation}-2"),
    ];
    for text in garbage {
        assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text:?}");
        let json = serde_json::to_string(&text).unwrap();
        assert!(serde_json::from_str::<Position>(&json).is_err(), "{text:?}");
    }
    assert!(serde_json::from_str::<Position>("7").is_err());
    let error: Error = "x".parse::<Position>().unwrap_err().into();
    assert!(matches!(error, Error::InvalidPosition(_)) && error.api().is_some());
}

#[test]
fn a_position_of_another_store_is_refused() {
    let (store, another) = (in_memory(), in_memory());
    create(&store, "one");
    create(&another, "one");
    let position = another.position().unwrap();
    let refused = store.changes(Some(&position), Limit::MAX);
    assert!(matches!(refused, Err(Error::PositionOfAnotherStore)));
    assert!(matches!(store.wait(&position, LONG), Err(Error::PositionOfAnotherStore)));
    assert_clean(&store);
}

#[test]
fn a_position_ahead_is_not_reached_yet() {
    let store = in_memory();
    create(&store, "one");
    let newest = store.position().unwrap().commit();
    assert!(store.changes(Some(&store.position().unwrap()), Limit::MAX).unwrap().commits.is_empty());
    for ahead in [newest.number() + 1, u64::MAX].map(Commit::new) {
        let refused = store.changes(Some(&store.position_after(ahead)), Limit::MAX);
        assert!(matches!(refused, Err(Error::CommitNotFound(told)) if told == ahead));
    }
    assert_clean(&store);
}

#[test]
fn a_commit_is_never_cut() {
    let store = in_memory();
    let keys: Vec<_> = (0..5).map(|n| NewKey::new(&format!("key-{n}")).unwrap()).collect();
    for _ in 0..2 {
        store
            .write(&request(), |txn| {
                keys.iter().try_for_each(|key| match txn.key(key.key_id) {
                    Ok(_) => txn.disable(key.key_id).map(drop),
                    Err(_) => txn.create_key(key).map(drop),
                })
            })
            .unwrap();
    }
    let first = store.changes(None, limit(1)).unwrap();
    assert_eq!(first.commits.iter().map(|commit| commit.changes.len()).collect::<Vec<_>>(), [5]);
    let second = store.changes(Some(&first.position), limit(1)).unwrap();
    assert_eq!(second.commits.iter().map(|commit| commit.changes.len()).collect::<Vec<_>>(), [5]);
    assert!(store.changes(Some(&second.position), limit(1)).unwrap().commits.is_empty());
    assert_clean(&store);
}

#[test]
fn a_page_of_changes_is_as_long_as_its_limit() {
    let store = in_memory();
    let key = create(&store, "key");
    for n in 1..50 {
        let name = key_alias(&format!("key-{n}"));
        store.write(&request(), |txn| txn.rename_key_alias(key.key_id, &name)).unwrap();
    }
    for size in [1, 15, 16, 17, 20, 32, 40, 49] {
        let first = store.changes(None, limit(size)).unwrap();
        assert_eq!(first.commits.len(), size);
        let second = store.changes(Some(&first.position), limit(size)).unwrap();
        assert_eq!(second.commits.len(), size.min(50 - size));
        assert!(first.commits.last().unwrap().info.commit < second.commits[0].info.commit);
    }
    assert_clean(&store);
}

/// A key whose record has some 38,000 bytes.
fn wide_key() -> NewKey {
    let wide = |n: usize, length: usize| format!("{n:02}{}", "\u{10ffff}".repeat(length - 2));
    let mut key = NewKey::new("wide").unwrap();
    key.tags = (0..Quotas::TAGS_PER_KEY_MAX)
        .map(|n| (wide(n, 128).parse().unwrap(), wide(n, 255).parse().unwrap()))
        .collect();
    key
}

#[test]
fn a_page_of_changes_ends_after_so_many_bytes() {
    let quotas = Quotas { tags_per_key: Quotas::TAGS_PER_KEY_MAX, ..Quotas::default() };
    let store = Options::new().quotas(quotas).in_memory().unwrap();
    let key = wide_key();
    store.write(&request(), |txn| txn.create_key(&key)).unwrap();
    for n in 1..90 {
        store
            .write(&request(), |txn| match n % 2 {
                0 => txn.enable(key.key_id),
                _ => txn.disable(key.key_id),
            })
            .unwrap();
    }
    // A change has the record as it was and as it is, some 76,000 bytes: 4 MiB are 55 of them, and 16
    // are read at once.
    let first = store.changes(None, Limit::MAX).unwrap();
    assert!((55..72).contains(&first.commits.len()), "{} commits", first.commits.len());
    let rest = store.changes(Some(&first.position), Limit::MAX).unwrap();
    assert_eq!(first.commits.len() + rest.commits.len(), 90);
    assert_eq!(rest.position, store.position().unwrap());
    assert_clean(&store);
}

#[test]
fn what_was_trimmed_is_not_left_out_in_silence() {
    let store = in_memory();
    let key = create(&store, "one");
    let early = store.position().unwrap();
    store.write(&request(), |txn| txn.disable(key.key_id)).unwrap();
    let floor = store.position().unwrap();
    store.write(&request(), |txn| txn.enable(key.key_id)).unwrap();
    assert_eq!(store.history_floor().unwrap(), Commit::default());
    store.trim_history(floor.commit()).unwrap();
    assert_eq!(store.history_floor().unwrap(), floor.commit());
    for position in [None, Some(&early)] {
        let told = store.changes(position, Limit::MAX);
        assert!(matches!(told, Err(Error::HistoryTrimmed { floor: told }) if told == floor.commit()));
    }
    let rest = store.changes(Some(&floor), Limit::MAX).unwrap();
    assert_eq!(rest.commits.len(), 1);
    assert_eq!(rest.commits[0].changes[0].operation, Operation::Enable);
    assert_eq!(rest.position, store.position().unwrap());
    assert_clean(&store);
}

#[test]
fn waiting_ends_at_once_when_there_is_something() {
    let store = in_memory();
    let before = store.position().unwrap();
    create(&store, "one");
    for timeout in [Duration::ZERO, LONG, Duration::MAX] {
        assert_eq!(store.wait(&before, timeout).unwrap(), Waited::Committed);
    }
    let now = store.position().unwrap();
    assert_eq!(store.wait(&now, Duration::ZERO).unwrap(), Waited::TimedOut);
    assert_eq!(store.wait(&now, Duration::from_millis(5)).unwrap(), Waited::TimedOut);
    // A write that changes nothing makes no commit, a refused one neither.
    let key = create(&store, "two");
    let now = store.position().unwrap();
    store.write(&request(), |txn| txn.rename_key_alias(key.key_id, &key_alias("two"))).unwrap();
    assert!(store.write(&request(), |txn| txn.enable(key.key_id)).is_err());
    assert_eq!(store.wait(&now, Duration::ZERO).unwrap(), Waited::TimedOut);
}

/// Waits on another thread; the channel tells that it is about to, and then what came.
fn waiter(store: &Store) -> (mpsc::Receiver<Option<Waited>>, thread::JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel();
    let (waiting, position) = (store.clone(), store.position().unwrap());
    let thread = thread::spawn(move || {
        sender.send(None).unwrap();
        sender.send(Some(waiting.wait(&position, LONG).unwrap())).unwrap();
    });
    assert_eq!(receiver.recv().unwrap(), None);
    // Meanwhile it comes to wait indeed; if not, the test is still right, only weaker.
    assert_eq!(store.wait(&position, Duration::from_millis(40)).unwrap(), Waited::TimedOut);
    (receiver, thread)
}

#[test]
fn a_commit_wakes_everyone_who_waits() {
    let store = in_memory();
    let waiters: Vec<_> = (0..3).map(|_| waiter(&store)).collect();
    create(&store, "one");
    for (told, thread) in waiters {
        assert_eq!(told.recv_timeout(LONG / 2).unwrap(), Some(Waited::Committed));
        thread.join().unwrap();
    }
    assert_clean(&store);
}

#[test]
fn closing_wakes_everyone_and_nobody_waits_any_more() {
    let store = in_memory();
    let before = store.position().unwrap();
    create(&store, "one");
    let (told, thread) = waiter(&store);
    store.clone().close();
    assert_eq!(told.recv_timeout(LONG / 2).unwrap(), Some(Waited::Closed));
    thread.join().unwrap();
    let now = store.position().unwrap();
    assert_eq!(store.wait(&now, Duration::MAX).unwrap(), Waited::Closed);
    // What there is is told nevertheless, and the other handles still work.
    assert_eq!(store.wait(&before, LONG).unwrap(), Waited::Committed);
    create(&store, "two");
    assert_eq!(store.wait(&now, LONG).unwrap(), Waited::Committed);
    assert_clean(&store);
}

#[test]
fn a_reader_beside_the_writer_follows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let writer = options().open(&path).unwrap();
    let reader = Options::new().open_read_only(&path).unwrap();
    let position = reader.position().unwrap();
    assert_eq!(position, writer.position().unwrap());
    assert_eq!(reader.wait(&position, Duration::from_millis(25)).unwrap(), Waited::TimedOut);
    let (told, thread) = waiter(&reader);
    create(&writer, "one");
    assert_eq!(told.recv_timeout(LONG / 2).unwrap(), Some(Waited::Committed));
    thread.join().unwrap();
    assert_eq!(
        reader.changes(Some(&position), Limit::MAX).unwrap(),
        writer.changes(Some(&position), Limit::MAX).unwrap()
    );
    let refused = reader.trim_history(position.commit());
    assert!(matches!(refused, Err(Error::ReadOnly)), "{refused:?}");
    let (told, thread) = waiter(&reader);
    reader.clone().close();
    assert_eq!(told.recv_timeout(LONG / 2).unwrap(), Some(Waited::Closed));
    thread.join().unwrap();
    assert_eq!(reader.wait(&reader.position().unwrap(), LONG).unwrap(), Waited::Closed);
    // The writer was not closed.
    assert_eq!(writer.wait(&writer.position().unwrap(), Duration::ZERO).unwrap(), Waited::TimedOut);
    assert_clean(&reader);
    assert_clean(&writer);
}

#[test]
fn a_read_can_ask_for_a_commit() {
    let store = in_memory();
    let key = create(&store, "one");
    let newest = store.position().unwrap().commit();
    let found = store.read_at_least(&scope(), newest, |snap| snap.key(key.key_id)).unwrap();
    assert_eq!(found.version, newest);
    store.read_at_least(&scope(), Commit::default(), |snap| snap.key(key.key_id)).unwrap();
    let ahead = Commit::new(newest.number() + 1);
    let early = store.read_at_least(&scope(), ahead, |_| -> keystead::Result<()> { panic!("it ran") });
    assert!(matches!(early, Err(Error::CommitNotFound(told)) if told == ahead));
}

#[test]
fn a_store_without_history_works_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = options().history(false).open(&path).unwrap();
    let before = store.position().unwrap();
    let (one, other) = (NewKey::new("one").unwrap().alias(alias("x")), NewKey::new("other").unwrap());
    let x = alias("x");
    store.write(&request(), |txn| txn.create_key(&one).and(txn.create_key(&other))).unwrap();
    assert_eq!(store.wait(&before, LONG).unwrap(), Waited::Committed);
    let moved = store.write(&request(), |txn| txn.associate_alias(&x, other.key_id)).unwrap();
    store.write(&request(), |txn| txn.delete_aliases(other.key_id, std::slice::from_ref(&x))).unwrap();
    let dry = store.dry_run(&request(), |txn| txn.disable(one.key_id)).unwrap();
    assert!(dry.changes.is_empty());
    let (position, newest) = (store.position().unwrap(), store.position().unwrap().commit());
    let refusals = [
        store.changes(None, Limit::MAX).map(drop),
        store.changes(Some(&position), Limit::MAX).map(drop),
        store.changes(Some(&store.position_after(Commit::new(u64::MAX))), Limit::MAX).map(drop),
        store.history_floor().map(drop),
        store.trim_history(newest).map(drop),
        store.write(&request(), |txn| txn.revert(moved.commit)).map(drop),
        store.read(&scope(), |snap| snap.alias_at(&x, At::Commit(newest))).map(drop),
        store.read(&scope(), |snap| snap.key_at(one.key_id, At::Time(at(START)))).map(drop),
        store.read(&scope(), |snap| snap.resolve_at(&x, At::Commit(newest))).map(drop),
        store
            .read(&scope(), |snap| {
                snap.history(HistoryOf::Alias(&x), Order::NewestFirst, After::Start, Limit::MAX)
            })
            .map(drop),
    ];
    for (index, refused) in refusals.into_iter().enumerate() {
        assert!(matches!(refused, Err(Error::HistoryDisabled)), "call {index}: {refused:?}");
    }
    let swept = store.sweep(at(START), 100, None).unwrap();
    assert!(swept.done && swept.history_floor.is_none());
    assert_clean(&store);
    drop(store);
    let refused = Options::new().history(true).open(&path);
    assert!(matches!(refused, Err(Error::OptionsMismatch { option: "history", .. })), "{refused:?}");
    assert_clean(&Options::new().open(&path).unwrap());
    let with = folder.path().join("with");
    drop(Options::new().open(&with).unwrap());
    let refused = Options::new().history(false).open(&with);
    assert!(matches!(refused, Err(Error::OptionsMismatch { option: "history", .. })), "{refused:?}");
}

#[test]
fn a_random_run_goes_without_history() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = steps(60..61).new_tree(&mut runner).unwrap().current();
    let mut world = World::new(options().history(false).in_memory().unwrap());
    world.run(&steps);
    assert!(world.moments.len() > 20);
    assert_clean(&world.store);
    assert_eq!(world.store.verify().unwrap().changes, 0);
}

/// The newest change, by the feed and by the history of the alias `x`.
fn newest_of_x(store: &Store) -> (CommitRecord, ChangeRecord) {
    let commit = store.changes(None, Limit::MAX).unwrap().commits.pop().unwrap();
    let x = alias("x");
    let page = store.read(&scope(), |snap| {
        snap.history(HistoryOf::Alias(&x), Order::NewestFirst, After::Start, limit(1))
    });
    (commit, page.unwrap().items.remove(0))
}

#[test]
fn who_when_and_which_request_are_told() {
    let store = in_memory();
    let (one, other) = (NewKey::new("one").unwrap().alias(alias("x")), create(&store, "other"));
    let x = alias("x");
    let created = request().actor("alice").request_id(request_id(1)).at(at(START + 5));
    let commit = store.write(&created, |txn| txn.create_key(&one)).unwrap().commit;
    let (record, change) = newest_of_x(&store);
    assert_eq!(record.info, change.info);
    assert_eq!(record.info.commit, commit);
    assert_eq!((record.info.time, &record.info.scope), (at(START + 5), &scope()));
    assert_eq!(record.info.actor.as_deref(), Some("alice"));
    assert_eq!(record.info.request_id, Some(request_id(1)));
    // The key first, then its alias.
    assert_eq!(change.index, 1);
    // By write_once, the id is that of the call; and the clock went back.
    let moved = request().actor("bob").request_id(request_id(1)).at(at(START + 1));
    let once = store.write_once(&moved, &request_id(2), b"move", |txn| txn.associate_alias(&x, other.key_id));
    let (record, change) = newest_of_x(&store);
    assert_eq!(record.info.commit, once.unwrap().commit);
    assert_eq!(record.info.actor.as_deref(), Some("bob"));
    assert_eq!(record.info.request_id, Some(request_id(2)));
    assert_eq!((record.info.time, change.change.time), (at(START + 1), at(START + 5)));
    store.write(&request(), |txn| txn.associate_alias(&x, one.key_id)).unwrap();
    let (record, _) = newest_of_x(&store);
    assert_eq!((record.info.actor, record.info.request_id), (None, None));
    assert_clean(&store);
}

#[test]
fn a_dry_run_tells_what_the_write_then_does() {
    let store = in_memory();
    let (one, other) = (create(&store, "one"), create(&store, "other"));
    let before = store.position().unwrap();
    let write = |txn: &mut keystead::Transaction<'_>| {
        txn.swap_key_aliases(one.key_id, other.key_id)?;
        txn.create_alias(&alias("x"), one.key_id)?;
        // A refused operation leaves no trace here either.
        assert!(txn.create_alias(&alias("alias/x"), one.key_id).is_err());
        txn.associate_alias(&alias("x"), other.key_id)
    };
    let dry = store.dry_run(&request(), write).unwrap();
    assert_eq!(store.position().unwrap(), before);
    assert!(store.read(&scope(), |snap| snap.alias(&alias("x"))).is_err());
    let written = store.write(&request(), write).unwrap();
    assert_eq!(dry.value, written.value);
    let changes = store.changes(Some(&before), Limit::MAX).unwrap();
    assert_eq!(changes.commits.len(), 1);
    assert_eq!(changes.commits[0].changes, dry.changes);
    assert_eq!(dry.changes.len(), 4);
    let refused = store.dry_run(&request(), |txn| txn.enable(one.key_id));
    assert!(matches!(refused, Err(Error::KeyNotDisabled(_))));
    let nested = store.dry_run(&request(), |_| store.write(&request(), |_| Ok(())).map(drop));
    assert!(matches!(nested, Err(Error::NestedTransaction)));
    assert_clean(&store);
}

/// A copy of the file that takes the place of the store has lost what came after it.
#[test]
fn a_restored_copy_is_another_incarnation() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("store"), folder.path().join("copy"));
    let store = options().open(&path).unwrap();
    create(&store, "one");
    drop(store);
    std::fs::copy(&path, &copy).unwrap();
    let store = options().open(&path).unwrap();
    create(&store, "lost");
    let (old, commit) = (store.position().unwrap(), store.position().unwrap().commit());
    drop(store);
    std::fs::rename(&copy, &path).unwrap();

    let refused = options().restored(true).open_read_only(&path);
    assert!(matches!(refused, Err(Error::ReadOnly)));
    let store = options().restored(true).open(&path).unwrap();
    for name in ["two", "three"] {
        create(&store, name);
    }
    assert!(store.position().unwrap().commit() > commit, "it has come as far as the old one was");
    assert!(matches!(store.changes(Some(&old), Limit::MAX), Err(Error::PositionOfAnotherStore)));
    let new = store.position().unwrap();
    assert_clean(&store);
    drop(store);
    // It stays the same incarnation from then on.
    let store = options().open(&path).unwrap();
    create(&store, "four");
    assert_eq!(store.changes(Some(&new), Limit::MAX).unwrap().commits.len(), 1);
}
