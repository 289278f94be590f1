//! Requests that may be repeated, how long their outcomes are kept, and how the sweeper prunes.
#![allow(clippy::unwrap_used, reason = "unwrap is fine in tests")]

mod history_support;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Barrier, Mutex};
use std::thread;

use history_support::{DAY, START, alias, assert_clean, at, key_alias, request_id};
use keystead::{
    After, AliasScope, Commit, Committed, Description, Error, KeyId, Limit, NewKey, Options, PendingDays,
    Quotas, Request, Result, Retention, Scope, Store, Swept, Timestamp, Transaction,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

const HOUR: u64 = DAY / 24;

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn request() -> Request {
    request_at(START)
}

fn request_at(time: u64) -> Request {
    Request::new(&scope()).at(at(time))
}

fn options() -> Options {
    Options::new().run_closures_twice(true)
}

fn in_memory() -> Store {
    options().in_memory().unwrap()
}

fn keeping(retention: Retention) -> Store {
    options().retention(retention).in_memory().unwrap()
}

/// A repeatable request that makes a key, with another id each time; the id comes back.
fn create(store: &Store, number: u64, name: &str) -> Result<Committed<KeyId>> {
    let new = NewKey::new(name)?;
    let body = format!("create {name}");
    store.write_once(&request(), &request_id(number), body.as_bytes(), |txn| Ok(txn.create_key(&new)?.key_id))
}

/// A repeatable request that changes nothing, but leaves an outcome.
fn nothing(store: &Store, number: u64, time: u64) -> Committed<u64> {
    store.write_once(&request_at(time), &request_id(number), b"nothing", |_| Ok(number)).unwrap()
}

/// Sweeps to the end.
fn sweep(store: &Store, time: u64) -> Swept {
    let swept = store.sweep(at(time), 100_000, None).unwrap();
    assert!(swept.done);
    assert_clean(store);
    swept
}

fn newest(store: &Store) -> Commit {
    store.position().unwrap().commit()
}

fn never_runs<T>(_: &mut Transaction<'_>) -> Result<T> {
    panic!("the closure ran again")
}

#[test]
fn a_repeat_is_answered_and_runs_nothing() {
    let store = in_memory();
    let first = create(&store, 1, "orders").unwrap();
    assert!(first.changed && !first.replayed);
    let position = store.position().unwrap();
    for _ in 0..3 {
        let again =
            store.write_once(&request(), &request_id(1), b"create orders", never_runs::<KeyId>).unwrap();
        assert!(again.replayed && again.changed);
        assert_eq!((again.value, again.commit), (first.value, first.commit));
    }
    assert_eq!(store.position().unwrap(), position);
    // Also when the world has moved on since.
    store.write(&request(), |txn| txn.rename_key_alias(first.value, &key_alias("renamed"))).unwrap();
    let again = create(&store, 1, "orders").unwrap();
    assert_eq!((again.value, again.commit, again.replayed), (first.value, first.commit, true));
    assert_clean(&store);
}

#[test]
fn another_body_is_another_request() {
    let store = in_memory();
    create(&store, 1, "orders").unwrap();
    let position = store.position().unwrap();
    for body in [&b"create Orders"[..], b"", b"create orders "] {
        let refused = store.write_once(&request(), &request_id(1), body, never_runs::<KeyId>).unwrap_err();
        assert!(matches!(&refused, Error::RequestIdReused(id) if *id == request_id(1)), "{refused}");
        assert_eq!(refused.api().unwrap().code, "KMS.0206");
    }
    assert_eq!(store.position().unwrap(), position);
    // The same body with another id is another request too.
    assert!(matches!(create(&store, 2, "orders"), Err(Error::KeyAliasExists(_))));
    assert_clean(&store);
}

#[test]
fn each_scope_has_its_own_ids() {
    let store = in_memory();
    let first = create(&store, 1, "orders").unwrap();
    for (domain, project) in [("domain", "another"), ("another", "project")] {
        let elsewhere = Request::new(&Scope::new(domain, project).unwrap()).at(at(START));
        let there = store.write_once(&elsewhere, &request_id(1), b"other body", |_| Ok(7)).unwrap();
        assert!(!there.replayed);
        assert_eq!(
            store.write_once(&elsewhere, &request_id(1), b"other body", never_runs::<i32>).unwrap().value,
            7
        );
    }
    assert_eq!(create(&store, 1, "orders").unwrap().value, first.value);
    assert_clean(&store);
}

#[test]
fn a_refusal_is_not_kept() {
    let store = in_memory();
    let taken = NewKey::new("orders").unwrap();
    store.write(&request(), |txn| txn.create_key(&taken)).unwrap();
    let position = store.position().unwrap();
    for _ in 0..2 {
        assert!(matches!(create(&store, 1, "orders"), Err(Error::KeyAliasExists(_))));
    }
    assert_eq!(store.position().unwrap(), position);
    store.write(&request(), |txn| txn.rename_key_alias(taken.key_id, &key_alias("old"))).unwrap();
    let made = create(&store, 1, "orders").unwrap();
    assert!(!made.replayed);
    // A failure of the caller's own is none either, and frees the id for any body.
    let aborted = store.write_once(&request(), &request_id(2), b"one", |_| -> Result<()> {
        Err(Error::abort("the day is not over"))
    });
    assert!(matches!(aborted, Err(Error::Aborted(_))));
    assert!(!store.write_once(&request(), &request_id(2), b"other", |_| Ok(())).unwrap().replayed);
    assert_clean(&store);
}

#[test]
fn what_changed_nothing_is_kept_too() {
    let store = in_memory();
    let key = create(&store, 1, "orders").unwrap().value;
    let rename = |body| {
        store.write_once(&request(), &request_id(2), body, |txn| {
            Ok(txn.rename_key_alias(key, &key_alias("orders"))?.changed)
        })
    };
    let first = rename(b"rename to orders").unwrap();
    assert!(!first.changed && !first.replayed && !first.value);
    assert_eq!(first.commit, newest(&store));
    store.write(&request(), |txn| txn.rename_key_alias(key, &key_alias("other"))).unwrap();
    let again = rename(b"rename to orders").unwrap();
    assert!(again.replayed && !again.changed && !again.value);
    assert_eq!(again.commit, first.commit);
    assert_eq!(store.read(&scope(), |snap| snap.key(key)).unwrap().key_alias, key_alias("other"));
    assert!(matches!(rename(b"rename"), Err(Error::RequestIdReused(_))));
    // The feed tells nothing of the commit that changed nothing.
    let feed = store.changes(None, Limit::MAX).unwrap().commits;
    assert!(feed.iter().all(|commit| commit.info.commit != first.commit));
    assert_clean(&store);
}

#[test]
fn a_value_has_a_limit() {
    let store = in_memory();
    let key = NewKey::new("orders").unwrap();
    // As JSON the text has two quotation marks more.
    let text = |length: usize| "a".repeat(length - 2);
    let once = |number, length| {
        store.write_once(&request(), &request_id(number), b"body", |txn| {
            txn.create_key(&key)?;
            Ok(text(length))
        })
    };
    let position = store.position().unwrap();
    let refused = once(1, 32 * 1024 + 1).unwrap_err();
    assert!(matches!(refused, Error::TransactionTooLarge { max: 32_768, .. }), "{refused}");
    assert_eq!(store.position().unwrap(), position);
    assert!(store.read(&scope(), |snap| snap.key(key.key_id)).is_err());
    assert_clean(&store);
    assert!(!once(1, 32 * 1024).unwrap().replayed);
    assert_eq!(once(1, 32 * 1024).unwrap().value, text(32 * 1024));
    assert_clean(&store);
}

/// Goes into JSON, but does not come back out of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Ratio(f64);

/// Loses a part on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Forgetful {
    kept: u32,
    #[serde(skip)]
    lost: u32,
}

#[test]
fn a_value_must_go_through_json() {
    let store = in_memory();
    let key = NewKey::new("orders").unwrap();
    let position = store.position().unwrap();
    let refused = store.write_once(&request(), &request_id(1), b"body", |txn| {
        txn.create_key(&key)?;
        Ok(BTreeMap::from([((1, 2), 3)]))
    });
    assert!(matches!(refused, Err(Error::InvalidOutcome(_))), "{refused:?}");
    let refused = store.write_once(&request(), &request_id(1), b"body", |txn| {
        txn.create_key(&key)?;
        Ok(Ratio(f64::NAN))
    });
    assert!(matches!(refused, Err(Error::InvalidOutcome(_))), "{refused:?}");
    assert_eq!(store.position().unwrap(), position);
    assert!(store.read(&scope(), |snap| snap.key(key.key_id)).is_err());
    // Nothing was written, so the id is free.
    let made = store.write_once(&request(), &request_id(1), b"body", |txn| {
        txn.create_key(&key)?;
        Ok(Ratio(0.1))
    });
    assert!(!made.unwrap().replayed);
    // Read as another type it is refused, and stays as it is.
    let refused = store.write_once(&request(), &request_id(1), b"body", never_runs::<String>);
    assert!(matches!(refused, Err(Error::InvalidOutcome(_))), "{refused:?}");
    let again = store.write_once(&request(), &request_id(1), b"body", never_runs::<Ratio>).unwrap();
    assert_eq!(again.value, Ratio(0.1));
    assert_clean(&store);
}

/// What is stored may be a secret, and errors are logged.
#[test]
fn an_outcome_that_does_not_fit_is_not_quoted() {
    #[derive(Debug, Serialize, Deserialize)]
    enum Unknown {
        Other,
    }

    /// Says in its own words what it could not read, or write.
    #[derive(Debug)]
    struct Loud;

    impl Serialize for Loud {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("hunter2 can't be written"))
        }
    }

    impl<'de> Deserialize<'de> for Loud {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let text = String::deserialize(from)?;
            Err(serde::de::Error::custom(format!("{text} is no such thing")))
        }
    }

    let store = in_memory();
    let secret = || Ok("hunter2".to_owned());
    store.write_once(&request(), &request_id(1), b"body", |_| secret()).unwrap();
    let once = |number| (request(), request_id(number));
    let (request, id) = once(1);
    let refused = [
        store.write_once(&request, &id, b"body", never_runs::<u32>).unwrap_err(),
        store.write_once(&request, &id, b"body", never_runs::<Unknown>).unwrap_err(),
        store.write_once(&request, &id, b"body", never_runs::<Vec<u8>>).unwrap_err(),
        store.write_once(&request, &id, b"body", never_runs::<Loud>).unwrap_err(),
        store.write_once(&request, &request_id(2), b"body", |_| Ok(Loud)).unwrap_err(),
        // What was just written does not come back.
        store
            .write_once(&request, &request_id(2), b"body", |_| Ok(Crooked("hunter2".to_owned())))
            .unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, Error::InvalidOutcome(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        // It says where: which type, and at which character of the JSON.
        assert!(
            error.to_string().contains("repeats::")
                || error.to_string().contains("u32")
                || error.to_string().contains("Vec<u8>"),
            "{error}"
        );
    }
    assert_eq!(store.write_once(&request, &id, b"body", never_runs::<String>).unwrap().value, "hunter2");
}

/// Writes a text and reads a number.
#[derive(Debug)]
struct Crooked(String);

impl Serialize for Crooked {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Crooked {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u32::deserialize(from).map(|number| Self(number.to_string()))
    }
}

#[test]
fn the_first_answer_is_that_of_the_repeats() {
    let store = in_memory();
    let once = |_: &mut Transaction<'_>| Ok(Forgetful { kept: 1, lost: 2 });
    let first = store.write_once(&request(), &request_id(1), b"body", once).unwrap();
    let again = store.write_once(&request(), &request_id(1), b"body", once).unwrap();
    assert_eq!(first.value, again.value);
    assert_eq!(first.value, Forgetful { kept: 1, lost: 0 });
    assert_clean(&store);
}

#[test]
fn any_value_that_operations_return_can_be_kept() {
    let store = in_memory();
    let keys = ["one", "other"].map(|name| NewKey::new(name).unwrap());
    let text = Description::new("\u{0}\u{1f600}\"\\").unwrap();
    for _ in 0..2 {
        let once = store.write_once(&request(), &request_id(1), b"all", |txn| {
            let one = txn.create_key(&keys[0])?;
            txn.create_key(&keys[1])?;
            let record = txn.create_alias(&alias("x"), one.key_id)?;
            let moved = txn.associate_alias(&alias("x"), keys[1].key_id)?;
            let renamed = txn.rename_key_alias(one.key_id, &key_alias("renamed"))?;
            let described = txn.update_description(one.key_id, &text)?;
            Ok((one, record, moved, renamed, described, Some(()), [1_u64, u64::MAX]))
        });
        let (one, record, moved, renamed, described, ..) = once.unwrap().value;
        assert_eq!((one.key_id, record.key_id), (keys[0].key_id, keys[0].key_id));
        assert_eq!((moved.alias.key_id, moved.former_key_id), (keys[1].key_id, keys[0].key_id));
        assert_eq!(
            (renamed.key.key_alias.as_str(), described.description.as_str()),
            ("renamed", text.as_str())
        );
    }
    assert_clean(&store);
}

#[test]
fn an_outcome_survives_the_closing_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = options().open(&path).unwrap();
    let first = create(&store, 1, "orders").unwrap();
    drop(store);
    let store = options().open(&path).unwrap();
    let again = create(&store, 1, "orders").unwrap();
    assert_eq!((again.value, again.commit, again.replayed), (first.value, first.commit, true));
    assert!(matches!(create(&store, 1, "other"), Err(Error::RequestIdReused(_))));
    assert_clean(&store);
}

#[test]
fn a_store_without_history_repeats_too() {
    let store = options().history(false).in_memory().unwrap();
    let first = create(&store, 1, "orders").unwrap();
    let again = create(&store, 1, "orders").unwrap();
    assert_eq!((again.value, again.commit, again.replayed), (first.value, first.commit, true));
    assert_eq!(sweep(&store, START + DAY).outcomes_pruned, 1);
}

#[test]
fn thirty_two_repeats_at_once_have_one_effect_and_one_answer() {
    const THREADS: usize = 32;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    for round in 0..4 {
        let (barrier, answers) = (Barrier::new(THREADS), Mutex::new(Vec::new()));
        let before = newest(&store);
        thread::scope(|threads| {
            for _ in 0..THREADS {
                threads.spawn(|| {
                    barrier.wait();
                    let made = create(&store, round, &format!("key-{round}")).unwrap();
                    answers.lock().unwrap().push(made);
                });
            }
        });
        let answers = answers.into_inner().unwrap();
        let distinct: BTreeSet<_> = answers.iter().map(|made| (made.value, made.commit)).collect();
        assert_eq!((answers.len(), distinct.len()), (THREADS, 1));
        assert_eq!(answers.iter().filter(|made| !made.replayed).count(), 1);
        assert!(answers.iter().all(|made| made.changed));
        assert_eq!(newest(&store), Commit::new(before.number() + 1));
        let keys = store.read(&scope(), |snap| snap.count_keys(&keystead::KeyFilter::all())).unwrap();
        assert_eq!(keys, round + 1);
    }
    assert_clean(&store);
}

#[test]
fn threads_that_ask_for_different_things_with_one_id_are_told_apart() {
    let store = Store::in_memory().unwrap();
    let (barrier, outcomes) = (Barrier::new(8), Mutex::new(Vec::new()));
    thread::scope(|threads| {
        for n in 0..8 {
            let (store, barrier, outcomes) = (&store, &barrier, &outcomes);
            threads.spawn(move || {
                barrier.wait();
                outcomes.lock().unwrap().push(create(store, 1, &format!("key-{}", n % 2)));
            });
        }
    });
    let (made, refused): (Vec<_>, Vec<_>) =
        outcomes.into_inner().unwrap().into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (4, 4));
    assert!(refused.iter().all(|refused| matches!(refused, Err(Error::RequestIdReused(_)))));
    assert_clean(&store);
}

#[test]
fn it_runs_the_closure_only_if_there_is_something_to_do() {
    // Without the option that runs everything twice, so that runs can be counted.
    let store = Store::in_memory().unwrap();
    let runs = Cell::new(0);
    for _ in 0..3 {
        let counted = |_: &mut Transaction<'_>| {
            runs.set(runs.get() + 1);
            Ok(())
        };
        store.write_once(&request(), &request_id(1), b"count", counted).unwrap();
    }
    assert_eq!(runs.get(), 1);
    assert_clean(&store);
}

#[test]
fn outcomes_are_kept_for_a_day() {
    let store = in_memory();
    nothing(&store, 1, START);
    nothing(&store, 2, START + 1);
    assert_eq!(sweep(&store, START + DAY - 1).outcomes_pruned, 0);
    assert!(nothing(&store, 1, START + DAY - 1).replayed);
    // At the end of the day the first goes; the second has a millisecond left.
    assert_eq!(sweep(&store, START + DAY).outcomes_pruned, 1);
    assert!(nothing(&store, 2, START + DAY).replayed);
    // Only now may the id be used anew.
    let anew =
        store.write_once(&request_at(START + DAY), &request_id(1), b"another body", |_| Ok(9)).unwrap();
    assert!(!anew.replayed);
    assert_eq!(sweep(&store, START + DAY + 1).outcomes_pruned, 1);
    assert_eq!(sweep(&store, START + 2 * DAY).outcomes_pruned, 1);
    assert_eq!(sweep(&store, START + 9 * DAY).outcomes_pruned, 0);
}

#[test]
fn an_outcome_that_was_not_swept_is_kept_however_old() {
    let store = in_memory();
    nothing(&store, 1, START);
    assert!(nothing(&store, 1, START + 100 * DAY).replayed);
    let refused = store.write_once(&request_at(START + 100 * DAY), &request_id(1), b"other", |_| Ok(1));
    assert!(matches!(refused, Err(Error::RequestIdReused(_))));
    // One of a clock that ran ahead is not pruned before its own day is over.
    nothing(&store, 2, START + 200 * DAY);
    nothing(&store, 3, u64::MAX);
    assert_eq!(sweep(&store, START + 200 * DAY).outcomes_pruned, 1);
    assert!(nothing(&store, 2, START).replayed && nothing(&store, 3, START).replayed);
}

#[test]
fn outcomes_are_kept_for_as_many_hours_as_the_options_say() {
    let store = keeping(Retention { outcome_hours: 1, ..Retention::default() });
    nothing(&store, 1, START);
    assert_eq!(sweep(&store, START + HOUR - 1).outcomes_pruned, 0);
    assert_eq!(sweep(&store, START + HOUR).outcomes_pruned, 1);
}

#[test]
fn as_many_outcomes_are_kept_as_the_options_say_the_newest() {
    let store = keeping(Retention { outcomes_per_scope: 3, ..Retention::default() });
    // The order is that of their times, not that of their ids.
    for number in [5, 1, 4, 2, 3] {
        nothing(&store, number, START + 10 - number);
    }
    let elsewhere = Request::new(&Scope::new("domain", "another").unwrap()).at(at(START));
    for number in 1..=3 {
        store.write_once(&elsewhere, &request_id(number), b"nothing", |_| Ok(())).unwrap();
    }
    assert_eq!(sweep(&store, START).outcomes_pruned, 2);
    assert_eq!(sweep(&store, START).outcomes_pruned, 0);
    for number in 1..=3 {
        assert!(nothing(&store, number, START).replayed);
    }
    for number in 4..=5 {
        assert!(!nothing(&store, number, START).replayed);
    }
    assert_eq!(sweep(&store, START).outcomes_pruned, 2);
}

#[test]
fn a_scope_that_was_removed_has_no_outcomes_either() {
    let store = in_memory();
    for number in 0..3 {
        create(&store, number, &format!("key-{number}")).unwrap();
        nothing(&store, 10 + number, START);
    }
    let elsewhere = Request::new(&Scope::new("domain", "another").unwrap()).at(at(START));
    store.write_once(&elsewhere, &request_id(1), b"nothing", |_| Ok(())).unwrap();
    let (mut calls, mut keys) = (0, 0);
    loop {
        let before = newest(&store);
        let removed = store.remove_scope(&request(), 1).unwrap();
        assert!(newest(&store).number() <= before.number() + 1, "a step is at most one commit");
        (calls, keys) = (calls + 1, keys + removed.keys);
        assert_clean(&store);
        if removed.done {
            break;
        }
        assert!(calls < 20, "it does not end");
    }
    assert_eq!(keys, 3);
    let scopes = store.scopes(After::Start, Limit::MAX).unwrap().items;
    assert_eq!(scopes, [elsewhere.scope().clone()]);
    assert!(!create(&store, 1, "key-1").unwrap().replayed);
    assert!(store.write_once(&elsewhere, &request_id(1), b"nothing", never_runs::<()>).unwrap().replayed);
    assert_clean(&store);
}

#[test]
fn a_key_with_all_that_quotas_allow_can_be_purged() {
    let quotas = Quotas {
        aliases_per_key: Quotas::ALIASES_PER_KEY_MAX,
        tags_per_key: Quotas::TAGS_PER_KEY_MAX,
        ..Quotas::default()
    };
    let store = options().alias_scope(AliasScope::Domain).quotas(quotas).in_memory().unwrap();
    let mut key = NewKey::new("orders").unwrap();
    for n in 0..quotas.tags_per_key {
        key = key.tag(format!("tag-{n}").parse().unwrap(), "value".parse().unwrap());
    }
    let names: Vec<_> = (0..quotas.aliases_per_key).map(|n| alias(&format!("alias-{n}"))).collect();
    store.write(&request(), |txn| txn.create_key(&key)).unwrap();
    for some in names.chunks(20) {
        let link = |txn: &mut Transaction<'_>| {
            some.iter().try_for_each(|name| txn.create_alias(name, key.key_id).map(drop))
        };
        store.write(&request(), link).unwrap();
    }
    store.write(&request(), |txn| txn.schedule_deletion(key.key_id, PendingDays::new(7)?)).unwrap();
    let purge = request_at(START + 7 * DAY);
    // With a tombstone for each, and an outcome.
    let purged = store.write_once(&purge, &request_id(1), b"purge", |txn| txn.purge(key.key_id)).unwrap();
    assert!(purged.value);
    let told =
        store.changes(Some(&store.position_after(Commit::new(purged.commit.number() - 1))), Limit::MAX);
    assert_eq!(told.unwrap().commits[0].changes.len(), names.len() + 1);
    assert_clean(&store);
    // All at once they are trimmed.
    store.trim_history(purged.commit).unwrap();
    assert_clean(&store);
}

#[test]
fn retention_has_a_range() {
    let default = Retention::default();
    let most = Retention {
        history_days: Some(36_500),
        history_commits: Some(1_000_000_000_000),
        outcome_hours: 8_784,
        outcomes_per_scope: 10_000_000,
    };
    let outside = [
        ("retention.history_days", Retention { history_days: Some(0), ..default }),
        ("retention.history_days", Retention { history_days: Some(36_501), ..default }),
        ("retention.history_commits", Retention { history_commits: Some(0), ..default }),
        ("retention.history_commits", Retention { history_commits: Some(u64::MAX), ..default }),
        ("retention.history_commits", Retention { history_commits: Some(1_000_000_000_001), ..default }),
        ("retention.outcome_hours", Retention { outcome_hours: 0, ..default }),
        ("retention.outcome_hours", Retention { outcome_hours: 8_785, ..default }),
        ("retention.outcomes_per_scope", Retention { outcomes_per_scope: 0, ..default }),
        ("retention.outcomes_per_scope", Retention { outcomes_per_scope: 10_000_001, ..default }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    for (name, retention) in outside {
        let refused = options().retention(retention).in_memory().unwrap_err();
        assert!(matches!(refused, Error::OptionsMismatch { option, .. } if option == name), "{refused}");
        let refused = options().retention(retention).open(&path).unwrap_err();
        assert!(matches!(refused, Error::OptionsMismatch { option, .. } if option == name), "{refused}");
        assert!(!path.exists());
    }
    let longest = keeping(most);
    create(&longest, 1, "orders").unwrap();
    let swept = sweep(&longest, START + 100 * DAY);
    assert_eq!((swept.outcomes_pruned, swept.history_floor), (0, None));
    assert_eq!(longest.changes(None, Limit::MAX).unwrap().commits.len(), 1);
}

/// Sweeps with a budget of one step a call, and returns how many calls it took.
fn sweep_step_by_step(store: &Store, time: u64) -> (usize, Swept) {
    let (mut calls, mut total) = (0, Swept::default());
    loop {
        let before = newest(store);
        let swept = store.sweep(at(time), 1, total.after.as_ref()).unwrap();
        calls += 1;
        assert!(newest(store).number() <= before.number() + 1, "a step is at most one commit");
        total.outcomes_pruned += swept.outcomes_pruned;
        total.history_floor = swept.history_floor.or(total.history_floor);
        total.after = swept.after;
        if swept.done {
            assert_clean(store);
            return (calls, total);
        }
        assert!(calls < 1000, "it does not end");
    }
}

#[test]
fn a_budget_of_one_makes_progress_and_ends() {
    let retention = Retention { history_days: Some(1), outcomes_per_scope: 5, ..Retention::default() };
    let store = keeping(retention);
    for number in 0..8 {
        create(&store, number, &format!("key-{number}")).unwrap();
        let elsewhere = Request::new(&Scope::new("domain", "another").unwrap()).at(at(START));
        store.write_once(&elsewhere, &request_id(number), b"nothing", |_| Ok(())).unwrap();
    }
    let nothing = store.sweep(at(START), 0, None).unwrap();
    assert_eq!(format!("{nothing:?}"), format!("{:?}", Swept::default()));
    let (calls, swept) = sweep_step_by_step(&store, START);
    assert_eq!((swept.outcomes_pruned, swept.history_floor), (6, None));
    assert!(calls <= 6 + 2 + 1, "{calls} calls");
    let (_, swept) = sweep_step_by_step(&store, START + DAY);
    assert_eq!(swept.outcomes_pruned, 10);
    assert_eq!(swept.history_floor, Some(store.history_floor().unwrap()));
    assert!(
        store
            .changes(Some(&store.position_after(store.history_floor().unwrap())), Limit::MAX)
            .unwrap()
            .commits
            .is_empty()
    );
}

fn rename_many(store: &Store, times: u64) -> KeyId {
    let key = NewKey::new("name").unwrap();
    store.write(&request(), |txn| txn.create_key(&key)).unwrap();
    for n in 0..times {
        let name = key_alias(&format!("name-{n}"));
        store.write(&request_at(START + n * HOUR), |txn| txn.rename_key_alias(key.key_id, &name)).unwrap();
    }
    key.key_id
}

fn kept(store: &Store) -> Vec<Timestamp> {
    let floor = store.position_after(store.history_floor().unwrap());
    let commits = store.changes(Some(&floor), Limit::MAX).unwrap().commits;
    commits.iter().map(|commit| commit.info.time).collect()
}

#[test]
fn history_is_kept_for_so_many_days() {
    let store = keeping(Retention { history_days: Some(2), ..Retention::default() });
    rename_many(&store, 50);
    assert_eq!(sweep(&store, START + 2 * DAY - 1).history_floor, None);
    assert_eq!(kept(&store).len(), 51);
    // The creation and the first rename were both at the start.
    assert_eq!(sweep(&store, START + 2 * DAY).history_floor, Some(Commit::new(3)));
    assert_eq!(kept(&store).len(), 49);
    sweep(&store, START + 2 * DAY + 10 * HOUR);
    assert_eq!(kept(&store).first(), Some(&at(START + 11 * HOUR)));
    sweep(&store, START + 100 * DAY);
    assert!(kept(&store).is_empty());
    assert!(matches!(store.changes(None, Limit::MAX), Err(Error::HistoryTrimmed { .. })));
}

#[test]
fn so_many_commits_of_history_are_kept() {
    let store = keeping(Retention { history_commits: Some(10), ..Retention::default() });
    rename_many(&store, 250);
    let all = newest(&store);
    let swept = sweep(&store, START);
    assert_eq!(swept.history_floor, Some(Commit::new(all.number() - 10)));
    assert_eq!(kept(&store).len(), 10);
    // The commits of sweeping change no record: a store that rests loses no more.
    for _ in 0..5 {
        assert_eq!(sweep(&store, START).history_floor, None);
        assert_eq!(sweep_step_by_step(&store, START).1.history_floor, None);
    }
    assert_eq!(kept(&store).len(), 10);
    let key = NewKey::new("another").unwrap();
    store.write(&request(), |txn| txn.create_key(&key)).unwrap();
    sweep_step_by_step(&store, START);
    assert!((1..=10).contains(&kept(&store).len()));
}

#[test]
fn trimming_by_count_ends_with_a_budget_of_one() {
    let store = keeping(Retention { history_commits: Some(10), ..Retention::default() });
    rename_many(&store, 350);
    let all = newest(&store);
    let (calls, swept) = sweep_step_by_step(&store, START);
    // A hundred entries a step.
    assert!((4..10).contains(&calls), "{calls} calls");
    assert_eq!(swept.history_floor, Some(Commit::new(all.number() - 10)));
    assert_eq!(kept(&store).len(), 10);
}

#[test]
fn a_step_of_trimming_ends_after_so_many_deletions() {
    let store = keeping(Retention { history_days: Some(1), ..Retention::default() });
    let key = NewKey::new("orders").unwrap();
    store.write(&request(), |txn| txn.create_key(&key)).unwrap();
    let names: Vec<_> = (0..40).map(|n| alias(&format!("alias-{n}"))).collect();
    let mut deletions = Vec::new();
    for _ in 0..6 {
        let link = |txn: &mut Transaction<'_>| {
            names.iter().try_for_each(|name| txn.create_alias(name, key.key_id).map(drop))
        };
        store.write(&request(), link).unwrap();
        let deleted = store.write(&request(), |txn| txn.delete_aliases(key.key_id, &names)).unwrap();
        deletions.push(deleted.commit);
    }
    // Each deletes 40: with the third there are more than 100.
    let mut floors = Vec::new();
    loop {
        let swept = store.sweep(at(START + DAY), 1, Some(&scope())).unwrap();
        assert_clean(&store);
        floors.extend(swept.history_floor);
        if swept.done {
            break;
        }
        assert!(floors.len() < 10, "it does not end");
    }
    assert_eq!(floors, [deletions[2], deletions[5]]);
}

#[test]
fn a_store_that_is_never_swept_keeps_everything() {
    let store = keeping(Retention {
        history_days: Some(1),
        history_commits: Some(1),
        outcome_hours: 1,
        outcomes_per_scope: 1,
    });
    rename_many(&store, 5);
    nothing(&store, 1, START);
    nothing(&store, 2, START + 300 * DAY);
    assert!(nothing(&store, 1, START + 300 * DAY).replayed);
    assert_eq!(kept(&store).len(), 6);
    assert_clean(&store);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn outcomes_are_what_a_map_would_keep(
        calls in prop::collection::vec((0..6_u64, 0..3_u8, 0..30_u64, prop::bool::weighted(0.2)), 1..40),
        per_scope in 1..5_u64,
    ) {
        let store = keeping(Retention { outcomes_per_scope: per_scope, ..Retention::default() });
        let mut now = START;
        // By request id: its body, its time, its value, its commit.
        let mut model: BTreeMap<u64, (u8, u64, usize, Commit)> = BTreeMap::new();
        for (call, (number, body, hours, swept)) in calls.into_iter().enumerate() {
            now += hours * HOUR;
            let told = store.write_once(&request_at(now), &request_id(number), &[body], |_| Ok(call));
            match (told, model.get(&number)) {
                (Ok(told), Some((its_body, _, value, commit))) if told.replayed => {
                    prop_assert_eq!((body, told.value, told.commit), (*its_body, *value, *commit));
                }
                (Err(Error::RequestIdReused(_)), Some((its_body, ..))) => prop_assert_ne!(body, *its_body),
                (Ok(told), None) if !told.replayed => {
                    model.insert(number, (body, now, told.value, told.commit));
                }
                other => prop_assert!(false, "{:?}", other),
            }
            if swept {
                let pruned = sweep(&store, now).outcomes_pruned;
                let before = model.len();
                let by_time = model.iter().map(|(number, (_, time, ..))| (*time, *number));
                let mut by_time: Vec<_> = by_time.collect();
                by_time.sort();
                let excess = before.saturating_sub(usize::try_from(per_scope).unwrap());
                for (index, (time, number)) in by_time.into_iter().enumerate() {
                    if index < excess || time + DAY <= now {
                        model.remove(&number);
                    }
                }
                prop_assert_eq!(pruned, (before - model.len()) as u64);
            }
        }
    }
}
