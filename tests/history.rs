//! History by commit, by time and by page, against what plain reads had said after each commit.
#![allow(clippy::unwrap_used, reason = "unwrap is fine in tests")]

mod history_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use history_support::{
    DAY, START, Step, Tick, World, alias, all_aliases, all_key_ids, assert_clean, at, key_alias, limit, steps,
};
use keystead::{
    After, Alias, AliasRecord, AliasScope, At, ChangeRecord, Commit, CommitRecord, Cursor, Error, HistoryOf,
    Images, InvalidCursor, KeyId, KeyRecord, Limit, NewKey, Operation, Options, Order, Page, PendingDays,
    Request, Result, Scope, Snapshot, Store, Timestamp,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn in_memory() -> Store {
    Options::new().run_closures_twice(true).in_memory().unwrap()
}

fn world(domain: bool) -> World {
    let alias_scope = if domain { AliasScope::Domain } else { AliasScope::Project };
    World::new(Options::new().alias_scope(alias_scope).run_closures_twice(true).in_memory().unwrap())
}

fn newest(store: &Store) -> Commit {
    store.position().unwrap().commit()
}

/// The state of a record from a commit on; `None` where it was not there.
type Life<T> = Vec<(Commit, u64, Option<Arc<T>>)>;

/// Every change of a record that can be seen between commits, by the remembered records alone.
fn life<T: PartialEq>(
    world: &World,
    record: impl Fn(usize) -> Option<Arc<T>>,
    stamp: impl Fn(&T) -> (Commit, Timestamp),
) -> Life<T> {
    let mut life: Life<T> = Vec::new();
    for (index, moment) in world.moments.iter().enumerate() {
        let last = life.last().and_then(|(_, _, record)| record.clone());
        match (record(index), last) {
            (None, None) => {}
            (None, Some(_)) => {
                let previous = life.last().map_or(0, |(_, time, _)| *time);
                life.push((moment.commit, moment.time.max(previous), None));
            }
            (Some(now), last) => {
                if last.as_ref() != Some(&now) {
                    let (version, time) = stamp(&now);
                    assert_eq!(version, moment.commit);
                    life.push((version, time.as_millis(), Some(now)));
                }
            }
        }
    }
    life
}

/// An alias by its URN name: of the two spellings at most one is there.
fn alias_life(world: &World, scope: usize, alias: &Alias) -> Life<AliasRecord> {
    let find = |index: usize| {
        let aliases = &world.moments[index].records[scope].aliases;
        let found: Vec<_> =
            aliases.values().filter(|found| found.alias.urn_name() == alias.urn_name()).collect();
        assert!(found.len() <= 1, "two aliases share a URN");
        found.first().map(|found| Arc::clone(found))
    };
    life(world, find, |record| (record.version, record.updated_at))
}

fn key_life(world: &World, scope: usize, key_id: KeyId) -> Life<KeyRecord> {
    let find = |index: usize| world.moments[index].records[scope].keys.get(&key_id).cloned();
    life(world, find, |record| (record.version, record.updated_at))
}

/// The state after the last change at or before a time.
fn by_time<T>(life: &Life<T>, time: u64) -> Option<Arc<T>> {
    life.iter().rev().find(|(_, changed, _)| *changed <= time).and_then(|(_, _, record)| record.clone())
}

/// The times around every change.
fn times<T>(life: &Life<T>) -> Vec<u64> {
    let mut times: Vec<_> = life.iter().flat_map(|(_, time, _)| [time - 1, *time, time + 1]).collect();
    times.extend([0, START + 5 * DAY, u64::MAX]);
    times.sort_unstable();
    times.dedup();
    times
}

/// What a look at the past may say: exactly this, or that it was trimmed, where that may be.
fn assert_told<T: PartialEq + std::fmt::Debug>(
    told: Result<Arc<T>>,
    expected: Option<&Arc<T>>,
    trimmed: Option<Commit>,
    what: &dyn Fn() -> String,
) {
    match (told, expected) {
        (Ok(told), Some(expected)) => assert_eq!(&told, expected, "{}", what()),
        (Err(Error::AliasNotFound { .. } | Error::KeyNotFound { .. }), None) => {}
        (Err(Error::HistoryTrimmed { floor }), _) if trimmed == Some(floor) => {}
        (told, expected) => panic!("{}: {told:?} instead of {expected:?}", what()),
    }
}

fn is_trimmed(error: &Option<Error>, floor: Commit) -> bool {
    matches!(error, Some(Error::HistoryTrimmed { floor: told }) if *told == floor)
}

/// Every record at every commit.
fn check_by_commit(world: &World, floor: Commit) {
    for moment in &world.moments {
        let (commit, when) = (moment.commit, At::Commit(moment.commit));
        for (scope, remembered) in world.scopes.iter().zip(&moment.records) {
            let what = || format!("{scope} at commit {commit}");
            world
                .store
                .read(scope, |snap| {
                    for alias in all_aliases() {
                        let (told, resolved) = (snap.alias_at(&alias, when), snap.resolve_at(&alias, when));
                        if commit < floor {
                            assert!(is_trimmed(&told.err(), floor) && is_trimmed(&resolved.err(), floor));
                            continue;
                        }
                        let expected = remembered.aliases.get(&alias);
                        assert_told(told, expected, None, &what);
                        let key = expected.map(|record| &remembered.keys[&record.key_id]);
                        assert_told(resolved, key, None, &what);
                    }
                    for key_id in all_key_ids() {
                        let told = snap.key_at(key_id, when);
                        if commit < floor {
                            assert!(is_trimmed(&told.err(), floor));
                        } else {
                            assert_told(told, remembered.keys.get(&key_id), None, &what);
                        }
                    }
                    Ok(())
                })
                .unwrap();
        }
    }
}

/// Every record around the times of its changes. Where nothing was trimmed, exactly.
fn check_by_time(world: &World, floor: Commit) {
    let trimmed = (floor > Commit::default()).then_some(floor);
    for (index, scope) in world.scopes.iter().enumerate() {
        let keys: BTreeMap<_, _> =
            all_key_ids().into_iter().map(|key_id| (key_id, key_life(world, index, key_id))).collect();
        let check = |snap: &Snapshot<'_>| {
            for (key_id, life) in &keys {
                for time in times(life) {
                    let told = snap.key_at(*key_id, At::Time(at(time)));
                    assert_told(told, by_time(life, time).as_ref(), trimmed, &|| {
                        format!("{key_id} at {time}")
                    });
                }
            }
            for alias in all_aliases() {
                let life = alias_life(world, index, &alias);
                for time in times(&life) {
                    let what = || format!("{alias} at {time}");
                    let expected = by_time(&life, time).filter(|record| record.alias == alias);
                    let when = At::Time(at(time));
                    assert_told(snap.alias_at(&alias, when), expected.as_ref(), trimmed, &what);
                    // By the times of its own changes the key may not have been there, if clocks went back.
                    let key = expected.and_then(|record| by_time(&keys[&record.key_id], time));
                    assert_told(snap.resolve_at(&alias, when), key.as_ref(), trimmed, &what);
                }
            }
            Ok(())
        };
        world.store.read(scope, check).unwrap();
    }
}

fn feed(store: &Store) -> Vec<CommitRecord> {
    let (mut commits, mut position) = (Vec::new(), None);
    loop {
        let changes = store.changes(position.as_ref(), Limit::MAX).unwrap();
        if changes.commits.is_empty() {
            return commits;
        }
        commits.extend(changes.commits);
        position = Some(changes.position);
    }
}

/// The changes of one record, the oldest first, by the feed.
fn of_record(feed: &[CommitRecord], scope: &Scope, of: HistoryOf<'_>) -> Vec<ChangeRecord> {
    let mut found = Vec::new();
    for commit in feed.iter().filter(|commit| commit.info.scope == *scope) {
        for (index, change) in commit.changes.iter().enumerate() {
            let its_own = match (&change.images, of) {
                (Images::Key { before, after }, HistoryOf::Key(key_id)) => {
                    after.as_ref().or(before.as_ref()).unwrap().key_id == key_id
                }
                (Images::Alias { before, after }, HistoryOf::Alias(alias)) => {
                    let record = after.as_ref().or(before.as_ref()).unwrap();
                    record.alias.urn_name() == alias.urn_name()
                }
                _ => false,
            };
            if its_own {
                // There is no public way to make one up, but by its serialised form.
                let record = serde_json::json!({ "info": commit.info, "index": index, "change": change });
                found.push(serde_json::from_value(record).unwrap());
            }
        }
    }
    found
}

/// All pages of a history, and the error that ended them, if one did.
fn pages(
    store: &Store,
    scope: &Scope,
    of: HistoryOf<'_>,
    order: Order,
    after: After<'_, Commit>,
    limit: Limit,
) -> (Vec<ChangeRecord>, Option<Error>) {
    let mut items = Vec::new();
    let mut page = store.read(scope, |snap| snap.history(of, order, after, limit));
    loop {
        match page {
            Err(error) => return (items, Some(error)),
            Ok(Page { items: more, next }) => {
                assert!(more.len() <= limit.get());
                assert!(!more.is_empty() || next.is_none(), "an empty page goes on");
                let full = more.len() == limit.get();
                items.extend(more);
                let Some(next) = next else { return (items, None) };
                // A cursor survives as text.
                let next: Cursor = next.to_string().parse().unwrap();
                page = store.read(scope, |snap| snap.history(of, order, After::Cursor(&next), limit));
                assert!(full || page.is_err(), "a short page goes on, though nothing was trimmed there");
            }
        }
    }
}

/// The histories of all records, in both orders, by all ways of paging.
fn check_pages(world: &World, feed: &[CommitRecord], floor: Commit) {
    let (aliases, keys) = (all_aliases(), all_key_ids());
    let records = aliases.iter().map(HistoryOf::Alias).chain(keys.iter().copied().map(HistoryOf::Key));
    for of in records {
        for scope in &world.scopes {
            let oldest_first = of_record(feed, scope, of);
            check_pages_of(world, scope, of, oldest_first, floor);
        }
    }
}

fn check_pages_of(world: &World, scope: &Scope, of: HistoryOf<'_>, all: Vec<ChangeRecord>, floor: Commit) {
    let kept: Vec<_> = all.into_iter().filter(|change| change.info.commit > floor).collect();
    let newest_first: Vec<_> = kept.iter().rev().cloned().collect();
    // The history of a record goes on below the floor, or it begins above it.
    let whole = kept.first().is_some_and(|change| change.change.previous.is_none());
    for size in 1..=4 {
        for order in [Order::NewestFirst, Order::OldestFirst] {
            let (items, error) = pages(&world.store, scope, of, order, After::Start, limit(size));
            if floor == Commit::default() && kept.is_empty() {
                assert!(matches!(error, Some(Error::AliasNotFound { .. } | Error::KeyNotFound { .. })));
            } else if whole {
                let expected = if order == Order::NewestFirst { &newest_first } else { &kept };
                assert!(error.is_none(), "{error:?}");
                assert_eq!(items, *expected);
            } else {
                assert!(is_trimmed(&error, floor), "{error:?} instead of the end of the history");
                let expected = if order == Order::NewestFirst { &newest_first[..] } else { &[] };
                assert_eq!(items, expected);
            }
        }
    }
    if kept.is_empty() {
        return;
    }
    for moment in world.moments.iter().filter(|moment| moment.commit >= floor) {
        let after = After::Item(&moment.commit);
        let later: Vec<_> = kept.iter().filter(|item| item.info.commit > moment.commit).cloned().collect();
        let told = pages(&world.store, scope, of, Order::OldestFirst, after, limit(2));
        assert!(told.1.is_none() && told.0 == later, "oldest first after {}: {told:?}", moment.commit);
        let earlier: Vec<_> =
            newest_first.iter().filter(|item| item.info.commit < moment.commit).cloned().collect();
        let told = pages(&world.store, scope, of, Order::NewestFirst, after, limit(2));
        assert!(told.0 == earlier && told.1.is_none() == whole, "newest first after {}", moment.commit);
        assert!(whole || is_trimmed(&told.1, floor));
    }
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn history_tells_what_was_after_each_commit(domain: bool, steps in steps(10..40)) {
        let mut world = world(domain);
        let (first, second) = steps.split_at(steps.len() / 2);
        world.run(first);
        assert_clean(&world.store);
        world.run(second);
        assert_clean(&world.store);
        check_by_commit(&world, Commit::default());
        check_by_time(&world, Commit::default());
        check_pages(&world, &feed(&world.store), Commit::default());
    }

    #[test]
    fn retention_never_lies(
        domain: bool,
        before in steps(8..30),
        after in steps(0..12),
        to: prop::sample::Index,
    ) {
        let mut world = world(domain);
        world.run(&before);
        let to = to.get(&world.moments).commit;
        let whole = feed(&world.store);
        // The newest commit up to there that changed a record.
        let floor = whole.iter().map(|commit| commit.info.commit).rfind(|commit| *commit <= to);
        let floor = floor.unwrap_or_default();
        prop_assert_eq!(world.store.trim_history(to).unwrap(), floor);
        let made = u64::from(floor != Commit::default());
        prop_assert_eq!(newest(&world.store).number(), world.newest().number() + made);
        // The commits of trimming change no record.
        let (last, store) = (world.moments.last().unwrap().clone(), world.store.clone());
        for number in last.commit.number() + 1..=newest(&store).number() {
            world.moments.push(history_support::Moment { commit: Commit::new(number), ..last.clone() });
        }
        assert_clean(&world.store);
        check_by_commit(&world, floor);
        check_by_time(&world, floor);
        check_pages(&world, &whole, floor);
        world.run(&after);
        assert_clean(&world.store);
        check_by_commit(&world, floor);
        check_by_time(&world, floor);
        let mut all: Vec<_> = whole.into_iter().filter(|commit| commit.info.commit <= floor).collect();
        all.extend(store.changes(Some(&store.position_after(floor)), Limit::MAX).unwrap().commits);
        check_pages(&world, &all, floor);
        // Again, and to an older commit: nothing is left to do.
        let before = newest(&store);
        prop_assert_eq!(store.trim_history(to).unwrap(), floor);
        prop_assert_eq!(store.trim_history(Commit::default()).unwrap(), floor);
        prop_assert_eq!(newest(&store), before);
        let ahead = Commit::new(before.number() + 1);
        prop_assert!(matches!(store.trim_history(ahead), Err(Error::CommitNotFound(told)) if told == ahead));
    }
}

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn request(time: u64) -> Request {
    Request::new(&scope()).at(at(time))
}

/// Two keys, of which the first has the alias `x`.
fn two_keys(store: &Store) -> (NewKey, NewKey) {
    let (one, other) = (NewKey::new("one").unwrap().alias(alias("x")), NewKey::new("other").unwrap());
    store.write(&request(START), |txn| txn.create_key(&one).and(txn.create_key(&other))).unwrap();
    (one, other)
}

fn operations(store: &Store, of: HistoryOf<'_>) -> Vec<Operation> {
    let (items, error) = pages(store, &scope(), of, Order::OldestFirst, After::Start, Limit::MAX);
    assert!(error.is_none(), "{error:?}");
    items.iter().map(|item| item.change.operation).collect()
}

#[test]
fn a_record_that_was_deleted_and_made_again_keeps_one_history() {
    let store = in_memory();
    let (one, _) = two_keys(&store);
    store.write(&request(START), |txn| txn.schedule_deletion(one.key_id, PendingDays::new(7)?)).unwrap();
    assert!(store.write(&request(START + 7 * DAY), |txn| txn.purge(one.key_id)).unwrap().value);
    // The clock went back before it was made again: the change comes not before the deletion.
    let again = store.write(&request(START), |txn| txn.create_key(&one)).unwrap();
    assert_eq!(again.value.created_at, at(START + 7 * DAY));
    assert_eq!(again.value.updated_at, at(START + 7 * DAY));
    use Operation::{CreateKey, Purge, ScheduleDeletion};
    let of_key = [CreateKey, ScheduleDeletion, Purge, CreateKey];
    assert_eq!(operations(&store, HistoryOf::Key(one.key_id)), of_key);
    assert_eq!(operations(&store, HistoryOf::Alias(&alias("x"))), [CreateKey, Purge, CreateKey]);
    assert_clean(&store);
}

#[test]
fn an_alias_with_and_without_prefix_shares_a_history() {
    let store = in_memory();
    let (one, other) = two_keys(&store);
    let (bare, prefixed) = (alias("x"), alias("alias/x"));
    let deleted =
        store.write(&request(START + 1), |txn| txn.delete_aliases(one.key_id, std::slice::from_ref(&bare)));
    let deleted = deleted.unwrap().commit;
    let made = store.write(&request(START + 2), |txn| txn.create_alias(&prefixed, other.key_id)).unwrap();
    let both = [HistoryOf::Alias(&bare), HistoryOf::Alias(&prefixed)].map(|of| operations(&store, of));
    assert_eq!(both[0], [Operation::CreateKey, Operation::DeleteAliases, Operation::CreateAlias]);
    assert_eq!(both[0], both[1]);
    // But each is looked up by its own bytes, in the past too.
    let look =
        |alias: &Alias, commit| store.read(&scope(), |snap| snap.resolve_at(alias, At::Commit(commit)));
    let before = Commit::new(deleted.number() - 1);
    assert_eq!(look(&bare, before).unwrap().key_id, one.key_id);
    assert!(matches!(look(&prefixed, before), Err(Error::AliasNotFound { .. })));
    assert!(matches!(look(&bare, made.commit), Err(Error::AliasNotFound { .. })));
    assert_eq!(look(&prefixed, made.commit).unwrap().key_id, other.key_id);
    assert_clean(&store);
}

#[test]
fn several_changes_of_a_record_in_one_commit_are_told_one_by_one() {
    let store = in_memory();
    let (one, other) = two_keys(&store);
    let x = alias("x");
    let commit = store.write(&request(START + 5), |txn| {
        txn.associate_alias(&x, other.key_id)?;
        txn.delete_aliases(other.key_id, std::slice::from_ref(&x))?;
        txn.create_alias(&x, one.key_id)?;
        txn.associate_alias(&x, other.key_id)
    });
    let commit = commit.unwrap().commit;
    let (items, _) =
        pages(&store, &scope(), HistoryOf::Alias(&x), Order::NewestFirst, After::Start, limit(1));
    let places: Vec<_> = items.iter().map(|item| (item.info.commit, item.index)).collect();
    let created = Commit::new(commit.number() - 1);
    assert_eq!(places[..4], [(commit, 3), (commit, 2), (commit, 1), (commit, 0)]);
    assert_eq!((places[4].0, places.len()), (created, 5));
    // Between them, inside of the commit, there is no state to be asked for.
    let look = |when| store.read(&scope(), |snap| snap.resolve_at(&x, when)).unwrap().key_id;
    assert_eq!(look(At::Commit(created)), one.key_id);
    assert_eq!(look(At::Time(at(START + 4))), one.key_id);
    assert_eq!(look(At::Commit(commit)), other.key_id);
    assert_eq!(look(At::Time(at(START + 5))), other.key_id);
    assert_clean(&store);
}

#[test]
fn a_key_made_by_a_clock_that_ran_ahead_is_not_found_before_its_time() {
    let store = in_memory();
    let key = NewKey::new("ahead").unwrap();
    store.write(&request(START + 100), |txn| txn.create_key(&key)).unwrap();
    let x = alias("x");
    store.write(&request(START), |txn| txn.create_alias(&x, key.key_id)).unwrap();
    let look = |time| store.read(&scope(), |snap| snap.resolve_at(&x, At::Time(at(time))));
    assert!(matches!(look(START + 50), Err(Error::KeyNotFound { .. })), "{:?}", look(START + 50));
    assert_eq!(look(START + 100).unwrap().key_id, key.key_id);
    assert_clean(&store);
}

#[test]
fn a_moment_to_come_or_before_everything_is_a_typed_error() {
    let store = in_memory();
    let (one, _) = two_keys(&store);
    let ahead = Commit::new(newest(&store).number() + 1);
    let x = alias("x");
    store
        .read(&scope(), |snap| {
            for when in [ahead, Commit::new(u64::MAX)] {
                let told = snap.alias_at(&x, At::Commit(when));
                assert!(matches!(told, Err(Error::CommitNotFound(told)) if told == when));
                let told = snap.key_at(one.key_id, At::Commit(when));
                assert!(matches!(told, Err(Error::CommitNotFound(told)) if told == when));
            }
            for when in [At::Commit(Commit::default()), At::Commit(Commit::new(1)), At::Time(at(START - 1))] {
                assert!(matches!(snap.resolve_at(&x, when), Err(Error::AliasNotFound { .. })));
                assert!(matches!(snap.key_at(one.key_id, when), Err(Error::KeyNotFound { .. })));
            }
            Ok(())
        })
        .unwrap();
    assert_clean(&store);
}

#[test]
fn a_cursor_serves_only_the_history_it_is_of() {
    let store = in_memory();
    let (one, other) = two_keys(&store);
    let (x, y) = (alias("x"), alias("y"));
    store.write(&request(START), |txn| txn.create_alias(&y, other.key_id)).unwrap();
    store.write(&request(START), |txn| txn.swap_aliases(&x, &y)).unwrap();
    let page = |of, order, after| store.read(&scope(), |snap| snap.history(of, order, after, limit(1)));
    let next = page(HistoryOf::Alias(&x), Order::NewestFirst, After::Start).unwrap().next.unwrap();
    let cases = [
        (HistoryOf::Alias(&y), Order::NewestFirst),
        (HistoryOf::Alias(&x), Order::OldestFirst),
        (HistoryOf::Key(one.key_id), Order::NewestFirst),
    ];
    for (of, order) in cases {
        let refused = page(of, order, After::Cursor(&next));
        assert!(matches!(refused, Err(Error::InvalidCursor(InvalidCursor::OfAnotherList))), "{refused:?}");
    }
    assert_clean(&store);
}

#[test]
fn a_cursor_of_another_store_is_no_damage() {
    let (store, another) = (in_memory(), in_memory());
    let (_, other) = two_keys(&store);
    let x = alias("x");
    // There the alias has other commits than here.
    two_keys(&another);
    for name in ["a", "b", "c"] {
        store.write(&request(START), |txn| txn.rename_key_alias(other.key_id, &key_alias(name))).unwrap();
    }
    store.write(&request(START), |txn| txn.associate_alias(&x, other.key_id)).unwrap();
    let page = |store: &Store, after| {
        store.read(&scope(), |snap| snap.history(HistoryOf::Alias(&x), Order::NewestFirst, after, limit(1)))
    };
    let here = page(&store, After::Start).unwrap().next.unwrap();
    for name in ["a", "b", "c", "d"] {
        let key_id = another.read(&scope(), |snap| snap.resolve(&x)).unwrap().key_id;
        another.write(&request(START), |txn| txn.rename_key_alias(key_id, &key_alias(name))).unwrap();
    }
    let target = NewKey::new("target").unwrap();
    another.write(&request(START), |txn| txn.create_key(&target)).unwrap();
    another.write(&request(START), |txn| txn.associate_alias(&x, target.key_id)).unwrap();
    let there = page(&another, After::Cursor(&here));
    assert!(matches!(there, Err(Error::InvalidCursor(_))), "{there:?}");
    assert_clean(&store);
    assert_clean(&another);
}

/// So goes on who reads when an older copy of the store was put in its place.
#[test]
fn a_cursor_ahead_of_a_record_begins_with_its_newest_change() {
    let (store, older) = (in_memory(), in_memory());
    let (_, other) = two_keys(&store);
    two_keys(&older);
    let x = alias("x");
    store.write(&request(START), |txn| txn.associate_alias(&x, other.key_id)).unwrap();
    let page = |store: &Store, after| {
        store.read(&scope(), |snap| snap.history(HistoryOf::Alias(&x), Order::NewestFirst, after, limit(1)))
    };
    let next = page(&store, After::Start).unwrap().next.unwrap();
    let rest = page(&older, After::Cursor(&next)).unwrap();
    assert_eq!(
        rest.items.iter().map(|item| item.change.operation).collect::<Vec<_>>(),
        [Operation::CreateKey]
    );
    assert_eq!(rest.next, None);
    assert_clean(&store);
    assert_clean(&older);
}

#[test]
fn a_record_made_again_after_its_earlier_life_was_trimmed_begins_with_that() {
    let store = in_memory();
    let (one, _) = two_keys(&store);
    let x = alias("x");
    let delete = |time| {
        store.write(&request(time), |txn| txn.delete_aliases(one.key_id, std::slice::from_ref(&x))).unwrap()
    };
    let deleted = delete(START + 10).commit;
    assert_eq!(store.trim_history(deleted).unwrap(), deleted);
    let trimmed = store.read(&scope(), |snap| {
        snap.history(HistoryOf::Alias(&x), Order::OldestFirst, After::Start, Limit::MAX)
    });
    assert!(matches!(trimmed, Err(Error::HistoryTrimmed { floor }) if floor == deleted));
    store.write(&request(START + 20), |txn| txn.create_alias(&x, one.key_id)).unwrap();
    assert_eq!(operations(&store, HistoryOf::Alias(&x)), [Operation::CreateAlias]);
    let look = |time| store.read(&scope(), |snap| snap.alias_at(&x, At::Time(at(time))));
    assert!(matches!(look(START + 9), Err(Error::HistoryTrimmed { .. })));
    assert!(matches!(look(START + 10), Err(Error::AliasNotFound { .. })));
    assert!(look(START + 20).is_ok());
    delete(START + 30);
    assert_clean(&store);
}

#[test]
fn trimming_more_than_one_step_removes_goes_to_the_end() {
    let store = in_memory();
    let (one, other) = two_keys(&store);
    let x = alias("x");
    for n in 0..230_u64 {
        let target = if n % 2 == 0 { other.key_id } else { one.key_id };
        store.write(&request(START + n), |txn| txn.associate_alias(&x, target)).unwrap();
    }
    // The last step has tombstones to remove.
    let y = alias("y");
    store.write(&request(START), |txn| txn.create_alias(&y, one.key_id)).unwrap();
    store.write(&request(START), |txn| txn.delete_aliases(one.key_id, std::slice::from_ref(&y))).unwrap();
    let to = newest(&store);
    assert_eq!(store.trim_history(to).unwrap(), to);
    assert!(store.changes(Some(&store.position_after(to)), Limit::MAX).unwrap().commits.is_empty());
    assert!(store.read(&scope(), |snap| snap.resolve_at(&x, At::Commit(to))).is_ok());
    assert_clean(&store);
}

#[test]
fn the_run_has_what_it_is_to_have() {
    // A fixed run, so that the properties are known to be about something.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = BTreeMap::new();
    let (mut again, mut twice, mut gaps) = (0, 0, 0);
    for _ in 0..8 {
        let steps: Vec<(Step, Tick)> = steps(60..61).new_tree(&mut runner).unwrap().current();
        let mut world = world(false);
        world.run(&steps);
        let feed = feed(&world.store);
        gaps += world.moments.len() - 1 - feed.len();
        for commit in &feed {
            twice +=
                usize::from(commit.changes.iter().any(|change| {
                    change.previous.is_some_and(|previous| previous.commit == commit.info.commit)
                }));
            for change in &commit.changes {
                *seen.entry(change.operation).or_insert(0) += 1;
                let created = matches!(
                    change.images,
                    Images::Key { before: None, .. } | Images::Alias { before: None, .. }
                );
                again += usize::from(created && change.previous.is_some());
            }
        }
        assert_clean(&world.store);
    }
    assert!(seen.len() >= 19 && seen[&Operation::Revert] > 2, "{seen:?}");
    assert!(again > 10 && twice > 4 && gaps > 5, "{again} made again, {twice} changed twice, {gaps} gaps");
}

/// The clock of the second life goes back into the first, which was trimmed.
#[test]
fn a_record_made_again_with_an_earlier_clock_does_not_cover_what_was_trimmed() {
    let store = in_memory();
    let (one, other) = two_keys(&store);
    let x = alias("x");
    let gone = store
        .write(&request(START + 100), |txn| txn.delete_aliases(one.key_id, std::slice::from_ref(&x)))
        .unwrap();
    store.trim_history(gone.commit).unwrap();
    let made = store.write(&request(START + 20), |txn| txn.create_alias(&x, other.key_id)).unwrap();
    assert_eq!(made.value.created_at, at(START + 100), "not before what was trimmed");
    let look = |time| store.read(&scope(), |snap| snap.alias_at(&x, At::Time(at(time))));
    for time in [0, START + 19, START + 20, START + 50, START + 99] {
        assert!(matches!(look(time), Err(Error::HistoryTrimmed { .. })), "{time}: {:?}", look(time));
    }
    assert_eq!(look(START + 100).unwrap().key_id, other.key_id);
    assert_clean(&store);
}

#[test]
fn a_key_made_again_with_an_earlier_clock_does_not_cover_what_was_trimmed() {
    let store = in_memory();
    let (one, _) = two_keys(&store);
    store.write(&request(START), |txn| txn.schedule_deletion(one.key_id, PendingDays::new(7)?)).unwrap();
    let gone = store.write(&request(START + 7 * DAY), |txn| txn.purge(one.key_id)).unwrap();
    assert!(gone.value);
    store.trim_history(gone.commit).unwrap();
    let made = store.write(&request(START + 20), |txn| txn.create_key(&one)).unwrap();
    assert_eq!(made.value.created_at, at(START + 7 * DAY), "not before what was trimmed");
    let told = store.changes(Some(&store.position_after(gone.commit)), Limit::MAX).unwrap().commits;
    let times: Vec<_> = told[0].changes.iter().map(|change| change.time).collect();
    assert_eq!(times, [made.value.updated_at; 2], "the key and its alias");
    assert_clean(&store);
}
