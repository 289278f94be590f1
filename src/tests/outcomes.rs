//! What a write does when its engine fails, as a script has it.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::{new_key, request, scope, scripted, scripted_with};
use crate::engine::scripted::{Call, Outcome, Random};
use crate::engine::{Batch, Engine, Log};
use crate::error::{Error, Result};
use crate::format::Space;
use crate::{
    Alias, Committed, Expect, KeyFilter, KeyId, KeyRecord, Options, PendingDays, Request, Scope, Store,
    Timestamp,
};

const UNKNOWN: [Outcome; 2] = [Outcome::Unknown { applied: false }, Outcome::Unknown { applied: true }];

/// Creates a key and counts how often the closure ran.
fn create(store: &Store, number: u8) -> (Result<Committed<std::sync::Arc<KeyRecord>>>, u32) {
    let runs = Cell::new(0);
    let new = new_key(&format!("key-{number}"), number);
    let outcome = store.write(&request(), |txn| {
        runs.set(runs.get() + 1);
        txn.create_key(&new)
    });
    (outcome, runs.get())
}

fn count(store: &Store) -> u64 {
    assert_eq!(store.verify().unwrap().violations, []);
    store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap()
}

#[test]
fn a_conflict_is_run_again_and_counts_once() {
    for call in [Call::Read, Call::Commit] {
        let (store, engine) = scripted();
        let before = engine.begin_read().unwrap().commit();
        engine.queue(call, &[Outcome::Conflict; 5]);
        let (outcome, runs) = create(&store, 1);
        let committed = outcome.unwrap();
        assert_eq!((runs, count(&store)), (6, 1), "{call:?}");
        assert_eq!(committed.commit.number(), before.number() + 1, "one commit");
        assert_eq!(engine.begin_read().unwrap().commit(), committed.commit);
        assert_eq!(committed.value.version, committed.commit);
    }
}

#[test]
fn a_conflict_without_end_is_returned_and_nothing_is_written() {
    for call in [Call::Read, Call::Commit] {
        let (store, engine) = scripted();
        engine.follow(Box::new(move |made| if made == call { Outcome::Conflict } else { Outcome::Pass }));
        let (outcome, runs) = create(&store, 1);
        assert!(matches!(outcome, Err(Error::Conflict)), "{outcome:?}");
        assert!((2..100).contains(&runs), "{runs} runs");
        assert_eq!(count(&store), 0);
        // The same call succeeds as soon as nobody is in its way.
        engine.queue(call, &[]);
        assert!(create(&store, 1).0.is_ok());
        assert_eq!(count(&store), 1);
    }
}

#[test]
fn what_is_unavailable_is_not_run_again_and_nothing_is_written() {
    for (outcome, call) in [(Outcome::Unavailable, Call::Read), (Outcome::Unavailable, Call::Commit)] {
        let (store, engine) = scripted();
        engine.queue(call, &[outcome]);
        let (result, runs) = create(&store, 1);
        assert!(matches!(&result, Err(error @ Error::Unavailable(_)) if error.is_retryable()), "{result:?}");
        assert_eq!((runs, count(&store)), (1, 0));
        assert!(create(&store, 1).0.is_ok());
    }
}

#[test]
fn a_commit_of_unknown_outcome_is_never_run_again() {
    for outcome in UNKNOWN {
        let (store, engine) = scripted();
        // If it were run again, it would succeed.
        engine.queue(Call::Commit, &[outcome]);
        let (result, runs) = create(&store, 1);
        assert!(
            matches!(&result, Err(error @ Error::CommitUnknown(_)) if !error.is_retryable()),
            "{result:?}"
        );
        let applied = outcome == Outcome::Unknown { applied: true };
        assert_eq!((runs, count(&store)), (1, u64::from(applied)));
        // Whoever reads what is there can settle it.
        let settled =
            store.write(&request(), |txn| match txn.expect_key(KeyId::from_bytes([1; 16]), Expect::Absent) {
                Ok(()) => txn.create_key(&new_key("key-1", 1)).map(|_| true),
                Err(Error::PreconditionFailed { .. }) => Ok(false),
                Err(error) => Err(error),
            });
        assert_eq!(settled.unwrap().value, !applied);
        assert_eq!(count(&store), 1);
    }
}

#[test]
fn an_error_of_the_engine_can_not_be_swallowed() {
    for outcome in [Outcome::Unavailable, Outcome::Denied, Outcome::Io] {
        for first in [true, false] {
            let (store, engine) = scripted();
            assert!(create(&store, 1).0.is_ok());
            let runs = Cell::new(0);
            let swallowed = store.write(&request(), |txn| {
                runs.set(runs.get() + 1);
                if !first {
                    txn.create_key(&new_key("key-2", 2))?;
                }
                engine.queue(Call::Read, &[outcome]);
                assert!(txn.disable(KeyId::from_bytes([1; 16])).is_err());
                // The engine is well again, but this transaction has not seen what it asked for.
                if first {
                    txn.create_key(&new_key("key-2", 2))?;
                }
                Ok(())
            });
            let as_met = match outcome {
                Outcome::Io => matches!(swallowed, Err(Error::Io(_))),
                Outcome::Denied => matches!(swallowed, Err(Error::AccessDenied(_))),
                _ => matches!(swallowed, Err(Error::Unavailable(_))),
            };
            assert!(as_met, "{swallowed:?}");
            assert_eq!((runs.get(), count(&store)), (1, 1));
        }
    }
}

#[test]
fn a_conflict_that_is_swallowed_is_run_again() {
    let (store, engine) = scripted();
    assert!(create(&store, 1).0.is_ok());
    let runs = Cell::new(0);
    let found = store.write(&request(), |txn| {
        runs.set(runs.get() + 1);
        if runs.get() == 1 {
            engine.queue(Call::Read, &[Outcome::Conflict]);
        }
        Ok(txn.key(KeyId::from_bytes([1; 16])).is_ok())
    });
    assert_eq!((found.unwrap().value, runs.get()), (true, 2));
}

#[test]
fn damage_can_not_be_swallowed() {
    // Without history: rows that are written here behind its back would contradict it.
    let (store, engine) = scripted_with(Options::new().history(false));
    assert!(create(&store, 1).0.is_ok());
    let alias: Alias = "alias".parse().unwrap();
    let key_id = KeyId::from_bytes([1; 16]);
    store.write(&request(), |txn| txn.create_alias(&alias, key_id)).unwrap();
    let space = Space::of_scope(&scope());
    let name = "key-1".parse().unwrap();
    let rows = [
        space.key(key_id),
        space.key_alias(&name),
        space.alias("alias"),
        space.aliases_of_key(key_id),
        space.counts(),
    ];
    for damaged in rows {
        let good = engine.begin_read().unwrap().get(&[&damaged]).unwrap().remove(0).unwrap().bytes;
        // Not decodable, and of a newer version: neither may pass for "not found" or "exists".
        for bytes in [vec![1, 0xff], vec![2]] {
            let newer = bytes[0] == 2;
            let put = |value| {
                engine
                    .begin_write()
                    .unwrap()
                    .commit(&Batch::from([(damaged.clone(), Some(value))]), Log::default())
            };
            put(bytes).unwrap();
            let before = engine.begin_read().unwrap().commit();
            let swallowed = store.write(&request(), |txn| {
                let _ = txn.key(key_id);
                let _ = txn.find_by_key_alias(&name);
                let _ = txn.alias(&alias);
                let _ = txn.delete_aliases(key_id, std::slice::from_ref(&alias));
                let _ = txn.create_key(&new_key("key-2", 2));
                Ok(())
            });
            let as_met = match newer {
                true => matches!(swallowed, Err(Error::Unsupported { .. })),
                false => matches!(swallowed, Err(Error::Corrupted(_))),
            };
            assert!(as_met, "{swallowed:?}");
            assert_eq!(engine.begin_read().unwrap().commit(), before, "nothing was written");
            put(good.clone()).unwrap();
        }
    }
    assert_eq!(count(&store), 1);
}

/// Under random failures each write happens once, or not, or its outcome is unknown; and the answer
/// says which.
#[test]
fn every_answer_is_true_under_random_failures() {
    for seed in 0..20 {
        let (store, engine) = scripted();
        let mut random = Random::new(seed);
        let mut expected: BTreeMap<u8, bool> = BTreeMap::new();
        let mut failures = 0;
        engine.at_random(seed, 6);
        for _ in 0..60 {
            let number = u8::try_from(random.below(30)).unwrap();
            let key_id = KeyId::from_bytes([number; 16]);
            let there = expected.get(&number).copied();
            let result = store.write(&request(), |txn| match there {
                None => txn.create_key(&new_key(&format!("key-{number}"), number)).map(drop),
                Some(true) => txn.disable(key_id).map(drop),
                Some(false) => txn.enable(key_id).map(drop),
            });
            let changed = there.is_none_or(|enabled| !enabled);
            let now = store.read(&scope(), |snap| snap.key(key_id));
            let now = now.ok().map(|key| key.state == crate::KeyState::Enabled);
            match &result {
                Ok(_) => assert_eq!(now, Some(changed), "seed {seed}"),
                Err(Error::CommitUnknown(_)) => {
                    assert!(now == Some(changed) || now == there, "seed {seed}");
                }
                Err(Error::Conflict | Error::Unavailable(_) | Error::Io(_)) => {
                    assert_eq!(now, there, "seed {seed}");
                }
                Err(other) => panic!("seed {seed}: {other}"),
            }
            failures += u32::from(result.is_err());
            if let Some(now) = now {
                expected.insert(number, now);
            }
        }
        assert!(failures > 0, "seed {seed}");
        engine.queue(Call::Read, &[]);
        assert_eq!(count(&store), expected.len() as u64, "seed {seed}");
    }
}

/// What is damaged in one scope does not keep the keys of the next from being purged.
#[test]
fn a_sweep_passes_over_damage() {
    let (store, engine) = scripted_with(Options::new().history(false));
    let scopes = [scope(), Scope::new("domain", "project-2").unwrap()];
    let due = Timestamp::from_millis(1_000_000).plus_days(7);
    for scope in &scopes {
        for number in [1, 2] {
            let request = Request::new(scope).at(Timestamp::from_millis(1_000_000));
            let new = new_key(&format!("key-{number}"), number);
            store.write(&request, |txn| txn.create_key(&new)).unwrap();
            let days = PendingDays::new(7).unwrap();
            store.write(&request, |txn| txn.schedule_deletion(new.key_id, days)).unwrap();
        }
    }
    let damaged = Space::of_scope(&scopes[0]).key(KeyId::from_bytes([1; 16]));
    let batch = Batch::from([(damaged, Some(vec![1, 0xff]))]);
    engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
    // Also with the smallest budget, it comes to the end.
    let (mut purged, mut after) = (0, None);
    for call in 0.. {
        assert!(call < 20, "it does not end");
        let swept = store.sweep(due, 1, after.as_ref()).unwrap();
        assert!(
            swept
                .failures
                .iter()
                .all(|(scope, error)| { *scope == scopes[0] && matches!(error, Error::Corrupted(_)) })
        );
        assert!(call > 0 || swept.failures.len() == 1, "{:?}", swept.failures);
        purged += swept.keys_purged;
        after = swept.after;
        if swept.done {
            break;
        }
    }
    assert_eq!(purged, 3);
    // What is no damage ends the sweep.
    let scope = &scopes[0];
    let days = PendingDays::new(7).unwrap();
    let new = new_key("key-3", 3);
    let request = Request::new(scope).at(Timestamp::from_millis(1_000_000));
    store.write(&request, |txn| txn.create_key(&new)).unwrap();
    store.write(&request, |txn| txn.schedule_deletion(new.key_id, days)).unwrap();
    engine.queue(Call::Commit, &[Outcome::Io]);
    assert!(matches!(store.sweep(due, 10, None), Err(Error::Io(_))));
}
