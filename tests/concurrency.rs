//! Threads that move, take and exchange names at the same time, and readers that look at every
//! snapshot: no name is ever on two keys, on none while it moves, or given to two that asked for it.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use keystead::{
    After, Alias, AliasScope, Commit, Error, Expect, KeyAlias, KeyFilter, KeyId, Limit, NewKey, Options,
    Request, Result, Scope, Snapshot, Store, Timestamp,
};

const WRITERS: usize = 8;
const READERS: usize = 2;
/// How many writes each writer makes.
const ROUNDS: usize = 60;
/// The least number of snapshots that each reader looks at, however fast the writers are.
const SNAPSHOTS_MIN: usize = 40;

fn scope() -> Scope {
    Scope::new("f0ab8e245e854f68af5967c00dd43127", "d466b0e7274d9cb35df84bb474a37f00").unwrap()
}

fn request(scope: &Scope) -> Request {
    Request::new(scope).at(Timestamp::from_millis(1_700_000_000_000))
}

fn key_id(number: usize) -> KeyId {
    KeyId::from_bytes([u8::try_from(number + 1).unwrap(); 16])
}

fn key_name(number: usize) -> KeyAlias {
    KeyAlias::new(&format!("ring-{number}")).unwrap()
}

/// Makes so many keys, the first with an alias.
fn create_keys(store: &Store, scope: &Scope, count: usize, alias: Option<&Alias>) {
    for number in 0..count {
        let mut new = NewKey::new(key_name(number).as_str()).unwrap().id(key_id(number));
        new.aliases = alias.filter(|_| number == 0).cloned().into_iter().collect();
        store.write(&request(scope), |txn| txn.create_key(&new)).unwrap();
    }
}

fn verify(store: &Store) {
    let report = store.verify().unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

/// Runs `write` for each writer while the readers run `check` in one snapshot after the other;
/// commits only grow from one snapshot of a reader to the next.
fn race(
    store: &Store,
    scope: &Scope,
    write: impl Fn(usize) + Sync,
    check: impl Fn(&Snapshot<'_>) -> Result<()> + Sync,
) {
    let start = Barrier::new(WRITERS + READERS);
    let done = AtomicBool::new(false);
    let read = || {
        start.wait();
        let mut seen = Commit::default();
        let mut snapshots = 0;
        while snapshots < SNAPSHOTS_MIN || !done.load(Ordering::Acquire) {
            seen = store
                .read(scope, |snap| {
                    assert!(snap.commit() >= seen, "{} after {seen}", snap.commit());
                    check(snap)?;
                    Ok(snap.commit())
                })
                .unwrap();
            snapshots += 1;
        }
    };
    thread::scope(|threads| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (start, write) = (&start, &write);
                threads.spawn(move || {
                    start.wait();
                    write(writer);
                })
            })
            .collect();
        let readers: Vec<_> = (0..READERS).map(|_| threads.spawn(read)).collect();
        let wrote: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        // Before a writer's panic is passed on: the readers wait for this.
        done.store(true, Ordering::Release);
        for outcome in wrote.into_iter().chain(readers.into_iter().map(thread::ScopedJoinHandle::join)) {
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn an_alias_that_moves_is_on_exactly_one_key_in_every_snapshot() {
    const KEYS: usize = 4;
    let store = Options::new().run_closures_twice(true).in_memory().unwrap();
    let scope = scope();
    let alias: Alias = "alias/kms-1234".parse().unwrap();
    create_keys(&store, &scope, KEYS, Some(&alias));
    let (before, moves) = (store.read(&scope, |snap| Ok(snap.commit())).unwrap(), AtomicU64::new(0));

    let write = |writer: usize| {
        for round in 0..ROUNDS {
            let target = key_id((writer + round) % KEYS);
            let moved = store.write(&request(&scope), |txn| txn.associate_alias(&alias, target)).unwrap();
            assert_eq!(moved.value.alias.key_id, target);
            assert_eq!(moved.changed, moved.value.former_key_id != target);
            assert_eq!(moved.changed, moved.value.changed);
            moves.fetch_add(u64::from(moved.changed), Ordering::Relaxed);
        }
    };
    race(&store, &scope, write, |snap| {
        let key = snap.resolve(&alias)?.key_id;
        assert_eq!(snap.alias(&alias)?.key_id, key);
        let mut holders = Vec::new();
        for id in (0..KEYS).map(key_id) {
            let names = snap.aliases_of_key(id, After::Start, Limit::MAX)?;
            holders.extend(names.items.iter().map(|name| (id, name.alias.clone())));
        }
        assert_eq!(holders, [(key, alias.clone())]);
        Ok(())
    });
    // No move was lost and none was made twice: each is one commit.
    let commits = store.read(&scope, |snap| Ok(snap.commit())).unwrap().number() - before.number();
    assert_eq!(commits, moves.into_inner());
    verify(&store);
}

#[test]
fn a_precondition_lets_one_of_the_threads_that_saw_the_same_version_win() {
    const KEYS: usize = WRITERS;
    let store = Options::new().run_closures_twice(true).in_memory().unwrap();
    let scope = scope();
    let alias: Alias = "kms-1234".parse().unwrap();
    create_keys(&store, &scope, KEYS, Some(&alias));
    for _ in 0..ROUNDS {
        let seen = store.read(&scope, |snap| snap.alias(&alias)).unwrap();
        let won = contest(|writer| {
            // Not the key that has it: that would be no change.
            let target = (0..KEYS).map(key_id).cycle().skip(writer).find(|key| *key != seen.key_id).unwrap();
            let moved = store.write(&request(&scope), |txn| {
                txn.expect_alias(&alias, Expect::Version(seen.version))?;
                txn.associate_alias(&alias, target)
            });
            lost_only_by(moved, |error| matches!(error, Error::PreconditionFailed { actual: Some(_) }))
        });
        assert_eq!(won, 1);
    }
    verify(&store);
}

/// How many of the writers, let go at the same time, come back with `true`.
fn contest(write: impl Fn(usize) -> bool + Sync) -> usize {
    let start = Barrier::new(WRITERS);
    thread::scope(|threads| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (start, write) = (&start, &write);
                threads.spawn(move || {
                    start.wait();
                    write(writer)
                })
            })
            .collect();
        writers.into_iter().map(|writer| usize::from(writer.join().unwrap())).sum()
    })
}

fn lost_only_by<T>(outcome: Result<T>, expected: fn(&Error) -> bool) -> bool {
    match outcome {
        Ok(_) => true,
        Err(error) if expected(&error) => false,
        Err(error) => panic!("lost by {error:?}"),
    }
}

#[test]
fn of_threads_that_create_one_key_alias_exactly_one_wins() {
    let store = Store::in_memory().unwrap();
    let scope = scope();
    for round in 0..ROUNDS {
        let won = contest(|_| {
            let new = NewKey::new(key_name(round).as_str()).unwrap();
            let created = store.write(&request(&scope), |txn| txn.create_key(&new));
            lost_only_by(created, |error| matches!(error, Error::KeyAliasExists(_)))
        });
        assert_eq!(won, 1);
    }
    let counted =
        store.read(&scope, |snap| Ok([snap.count_keys(&KeyFilter::all())?, snap.count_keys_in_quota()?]));
    assert_eq!(counted.unwrap(), [ROUNDS as u64; 2]);
    verify(&store);
}

#[test]
fn of_threads_that_create_one_alias_exactly_one_wins() {
    for alias_scope in [AliasScope::Project, AliasScope::Domain] {
        let store = Options::new().alias_scope(alias_scope).in_memory().unwrap();
        let scopes = [scope(), Scope::new(scope().domain().as_str(), "another").unwrap()];
        scopes.iter().for_each(|scope| create_keys(&store, scope, WRITERS, None));
        for round in 0..ROUNDS / 2 {
            let won = contest(|writer| {
                // Half of them in each spelling and, where that is the same contest, in each project.
                let spelling = if writer % 2 == 0 { "" } else { "alias/" };
                let alias: Alias = format!("{spelling}round-{round}").parse().unwrap();
                let project = if alias_scope == AliasScope::Domain { writer / 2 % 2 } else { 0 };
                let request = request(&scopes[project]);
                let created = store.write(&request, |txn| txn.create_alias(&alias, key_id(writer)));
                lost_only_by(created, |error| matches!(error, Error::AliasExists(_)))
            });
            assert_eq!(won, 1, "{alias_scope:?}");
        }
        assert_eq!(store.verify().unwrap().aliases, ROUNDS as u64 / 2);
        verify(&store);
    }
}

#[test]
fn keys_renamed_around_a_ring_have_one_name_each_in_every_snapshot() {
    const KEYS: usize = 5;
    const NAMES: usize = 7;
    let store = Options::new().run_closures_twice(true).in_memory().unwrap();
    let scope = scope();
    create_keys(&store, &scope, KEYS, None);
    let renamed = AtomicU64::new(0);

    let write = |writer: usize| {
        for round in 0..ROUNDS {
            let id = key_id((writer + round) % KEYS);
            let outcome = store.write(&request(&scope), |txn| {
                let now = txn.key(id)?.key_alias.clone();
                let next = (0..NAMES).find(|name| key_name(*name) == now).unwrap() + 1;
                if round % 5 == 0 {
                    return txn.swap_key_aliases(id, key_id(writer % KEYS)).map(|[one, _]| one);
                }
                txn.rename_key_alias(id, &key_name(next % NAMES))
            });
            let changed = outcome.as_ref().is_ok_and(|done| done.changed);
            renamed.fetch_add(u64::from(changed), Ordering::Relaxed);
            lost_only_by(outcome, |error| matches!(error, Error::KeyAliasExists(_)));
        }
    };
    race(&store, &scope, write, |snap| {
        let by_name: BTreeMap<KeyAlias, KeyId> = (0..NAMES)
            .filter_map(|number| {
                Some((key_name(number), snap.find_by_key_alias(&key_name(number)).ok()?.key_id))
            })
            .collect();
        let of_records: BTreeMap<KeyAlias, KeyId> = (0..KEYS)
            .map(|number| Ok((snap.key(key_id(number))?.key_alias.clone(), key_id(number))))
            .collect::<Result<_>>()?;
        assert_eq!(by_name, of_records);
        assert_eq!(by_name.values().collect::<BTreeSet<_>>().len(), KEYS);
        let listed = snap.keys_by_key_alias(&KeyFilter::all(), After::Start, Limit::MAX)?;
        let listed: BTreeMap<KeyAlias, KeyId> =
            listed.items.iter().map(|key| (key.key_alias.clone(), key.key_id)).collect();
        assert_eq!(listed, of_records);
        Ok(())
    });
    assert!(renamed.into_inner() > 0, "two of the names are free at any time");
    verify(&store);
}
