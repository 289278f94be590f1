//! An import does what creating the same keys one by one does.

use std::cell::Cell;
use std::ops::Bound;
use std::rc::Rc;

use super::{new_key, request, scope, scripted, scripted_with};
use crate::change::{Change, Images};
use crate::engine::Engine;
use crate::engine::scripted::{Call, Outcome, Random, Scripted};
use crate::error::{Error, Quota, Result};
use crate::format::Row;
use crate::{
    Alias, AliasScope, Commit, Imported, KeyId, KeyUsage, Limit, NewKey, Options, Origin, PendingDays,
    Quotas, Request, Scope, Store,
};

/// So small that a batch has a few keys.
const SMALL: usize = 4096;

fn alias(text: &str) -> Alias {
    text.parse().unwrap()
}

/// A key of few possible names, so that many are refused.
fn some_key(random: &mut Random) -> NewKey {
    let id = u8::try_from(random.below(200)).unwrap();
    let name = match random.below(30) {
        0 => "obs/default".to_owned(),
        _ => format!("key-{}", random.below(150)),
    };
    let mut new = new_key(&name, id);
    for _ in 0..random.below(4) {
        let prefix = if random.below(4) == 0 { "alias/" } else { "" };
        new = new.alias(alias(&format!("{prefix}alias-{}", random.below(300))));
    }
    for n in 0..random.below(4) {
        new = new.tag(format!("tag-{n}").parse().unwrap(), "value".parse().unwrap());
    }
    if random.below(5) == 0 {
        new = new.origin(Origin::External);
    }
    if random.below(20) == 0 {
        new = new.usage(KeyUsage::SignVerify);
    }
    new
}

/// What is there before: keys, one that was deleted, its names too, and names of another project.
fn prepare(store: &Store) -> Result<()> {
    store.write(&request(), |txn| {
        (0..5).try_for_each(|n| {
            let new = new_key(&format!("key-{n}"), n).alias(alias(&format!("alias-{n}")));
            txn.create_key(&new).map(drop)
        })
    })?;
    let gone = KeyId::from_bytes([1; 16]);
    let later = request().at(request().time().plus_days(7));
    store.write(&request(), |txn| txn.schedule_deletion(gone, PendingDays::new(7)?).map(drop))?;
    store.write(&later, |txn| txn.purge(gone).map(drop))?;
    let neighbour = Request::new(&Scope::new("domain", "neighbour")?).at(request().time());
    store.write(&neighbour, |txn| txn.create_key(&new_key("key-9", 9).alias(alias("alias-9"))).map(drop))?;
    Ok(())
}

fn rows(engine: &Scripted) -> Vec<(Row, Vec<u8>)> {
    let rows = engine.begin_read().unwrap().scan((Bound::Unbounded, Bound::Unbounded), usize::MAX).unwrap();
    // The first is what was fixed, which differs in its incarnation.
    rows.into_iter().skip(1).map(|(row, stored)| (row, stored.unwrap().bytes)).collect()
}

/// All changes in order; the versions of the records are not told.
fn changes(store: &Store) -> Vec<Change> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let page = store.changes(after.as_ref(), Limit::MAX).unwrap();
        if page.commits.is_empty() {
            return all;
        }
        after = Some(page.position);
        for mut change in page.commits.into_iter().flat_map(|commit| commit.changes) {
            match &mut change.images {
                Images::Key { before, after } => {
                    for key in [before, after].into_iter().flatten() {
                        std::sync::Arc::make_mut(key).version = Commit::default();
                    }
                }
                Images::Alias { before, after } => {
                    for alias in [before, after].into_iter().flatten() {
                        std::sync::Arc::make_mut(alias).version = Commit::default();
                    }
                }
            }
            all.push(change);
        }
    }
}

fn one_by_one(store: &Store, keys: &[NewKey]) -> Vec<(u64, String)> {
    let created = keys.iter().map(|new| store.write(&request(), |txn| txn.create_key(new)));
    let refused = (0..).zip(created).filter_map(|(position, created)| Some((position, created.err()?)));
    refused.map(|(position, error)| (position, error.to_string())).collect()
}

fn import(store: &Store, keys: &[NewKey], batch_bytes: usize) -> (Vec<(u64, String)>, Vec<Imported>) {
    let import = store.import(&request(), keys.iter().cloned()).batch_bytes(batch_bytes);
    let batches: Vec<_> = import.map(Result::unwrap).collect();
    let refused = batches.iter().flat_map(|batch| &batch.refused);
    let refused = refused.map(|(position, error)| (*position, error.to_string())).collect();
    (refused, batches)
}

fn must_be_alike(options: &Options, history: bool, seed: u64) {
    let mut random = Random::new(seed);
    let keys: Vec<_> = (0..random.below(300)).map(|_| some_key(&mut random)).collect();
    let (one, one_engine) = scripted_with(options.clone().history(history));
    let (other, other_engine) = scripted_with(options.clone().history(history));
    prepare(&one).unwrap();
    prepare(&other).unwrap();
    let expected = one_by_one(&one, &keys);
    let batch_bytes = [1, SMALL, usize::MAX][random.index(3)];
    let (refused, batches) = import(&other, &keys, batch_bytes);
    assert_eq!(refused, expected, "seed {seed}");
    assert_eq!(rows(&other_engine), rows(&one_engine), "seed {seed}");
    assert_eq!(batches.iter().map(|batch| batch.asked).sum::<u64>(), keys.len() as u64);
    let created = batches.iter().map(|batch| batch.created).sum::<u64>();
    assert_eq!(created, (keys.len() - refused.len()) as u64, "seed {seed}");
    if history {
        assert_eq!(changes(&other), changes(&one), "seed {seed}");
    }
    let report = other.verify().unwrap();
    assert_eq!(report.violations, [], "seed {seed}");
    let newest = other_engine.begin_read().unwrap().commit();
    assert!(batches.last().is_none_or(|last| last.commit == newest));
}

#[test]
fn an_import_is_as_creating_one_by_one() {
    for seed in 0..60 {
        let quotas =
            Quotas { keys_per_project: [20, 100][(seed % 2) as usize], aliases_per_key: 2, tags_per_key: 2 };
        let alias_scope = if seed % 3 == 0 { AliasScope::Domain } else { AliasScope::Project };
        let options = Options::new().quotas(quotas).alias_scope(alias_scope);
        must_be_alike(&options, seed % 4 < 2, seed);
    }
}

#[test]
fn a_commit_of_an_import_has_as_many_keys_as_fit() {
    let (store, _) =
        scripted_with(Options::new().quotas(Quotas { keys_per_project: 1000, ..Quotas::default() }));
    let keys = (0..500_u128).map(|n| {
        let new = NewKey::new(&format!("key-{n}")).unwrap().id(KeyId::from_bytes(n.to_be_bytes()));
        new.alias(alias(&format!("alias-{n}")))
    });
    let batches: Vec<_> = store.import(&request(), keys).map(Result::unwrap).collect();
    // Four rows for each key and the counts: 40 keys in 161 rows and so on.
    let (first, last) = (Commit::new(3), batches[0].commit);
    assert_eq!((batches.len(), batches[0].created), (1, 500));
    assert!((10..=20).contains(&(last.number() - first.number())), "{last}");
    assert!(store.verify().unwrap().is_clean());
}

#[test]
fn what_is_written_meanwhile_is_seen() {
    let (store, _) = scripted();
    let writing = store.clone();
    let keys = (0..40_u8).map(move |n| {
        // When the second batch is taken, somebody else makes a key of it first.
        let new = new_key(&format!("key-{n}"), n).alias(alias(&format!("alias-{n}")));
        if n % 13 == 12 {
            let rival = new_key(&format!("key-{n}"), 100 + n);
            writing.write(&request(), |txn| txn.create_key(&rival)).unwrap();
        }
        new
    });
    let batches: Vec<_> = store.import(&request(), keys).batch_bytes(SMALL).map(Result::unwrap).collect();
    assert!(batches.len() > 2, "{batches:?}");
    let refused: Vec<_> = batches.iter().flat_map(|batch| &batch.refused).collect();
    assert_eq!(refused.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [12, 25, 38]);
    assert!(refused.iter().all(|(_, error)| matches!(error, Error::KeyAliasExists(_))), "{refused:?}");
    assert_eq!(batches.iter().map(|batch| batch.created).sum::<u64>(), 37);
    let report = store.verify().unwrap();
    assert!(report.is_clean() && report.keys == 40, "{report:?}");
}

#[test]
fn no_more_than_two_batches_are_taken_ahead() {
    let (store, _) = scripted();
    let taken = Rc::new(Cell::new(0_u64));
    let counted = Rc::clone(&taken);
    let keys = (0..100_u8).map(move |n| {
        counted.set(counted.get() + 1);
        new_key(&format!("key-{n}"), n)
    });
    let mut import = store.import(&request(), keys).batch_bytes(SMALL);
    assert_eq!(taken.get(), 0, "nothing happens until it is iterated");
    let (mut asked, mut batches) = (0, 0);
    for batch in import.by_ref() {
        asked += batch.unwrap().asked;
        batches += 1;
        assert!(taken.get() - asked <= 16, "{} are taken, {asked} are done", taken.get());
    }
    assert_eq!((asked, batches > 5), (100, true));
    assert!(import.next().is_none());
}

#[test]
fn a_batch_that_fails_is_the_last() {
    let keys = || (0..40_u8).map(|n| new_key(&format!("key-{n}"), n));
    for outcome in [Outcome::Io, Outcome::Unavailable, Outcome::Unknown { applied: true }] {
        let (store, engine) = scripted();
        let mut import = store.import(&request(), keys()).batch_bytes(SMALL);
        let first = import.next().unwrap().unwrap();
        engine.queue(Call::Commit, &[outcome]);
        import.next().unwrap().unwrap_err();
        assert!(import.next().is_none());
        let applied = if outcome == (Outcome::Unknown { applied: true }) { 2 } else { 1 };
        let report = store.verify().unwrap();
        assert!(report.is_clean());
        assert_eq!(report.keys, applied * first.created);
    }
}

#[test]
fn a_conflict_is_made_out_again() {
    let (store, engine) = scripted();
    engine.queue(Call::Commit, &[Outcome::Conflict; 3]);
    let keys: Vec<_> = (0..40_u8).map(|n| new_key(&format!("key-{n}"), n)).collect();
    let (refused, batches) = import(&store, &keys, SMALL);
    assert_eq!((refused.len(), batches.iter().map(|batch| batch.created).sum::<u64>()), (0, 40));
    assert!(store.verify().unwrap().is_clean());
    // Without end, it is returned.
    engine.follow(Box::new(|call| if call == Call::Commit { Outcome::Conflict } else { Outcome::Pass }));
    let other = new_key("other", 77);
    let ended: Vec<_> = store.import(&request(), [other]).collect();
    assert!(matches!(ended[..], [Err(Error::Conflict)]), "{ended:?}");
}

#[test]
fn an_import_is_refused_inside_of_a_write() {
    let (store, _) = scripted();
    let inner = store.clone();
    let outcome = store.write(&request(), |_| inner.import(&request(), [new_key("a", 1)]).next().unwrap());
    assert!(matches!(outcome, Err(Error::NestedTransaction)), "{outcome:?}");
    assert!(store.import(&request(), []).next().is_none());
}

#[test]
fn a_quota_ends_in_the_middle_of_a_batch() {
    let options = Options::new().quotas(Quotas { keys_per_project: 7, ..Quotas::default() });
    let (store, _) = scripted_with(options);
    let keys: Vec<_> = (0..10_u8).map(|n| new_key(&format!("key-{n}"), n)).collect();
    let batches: Vec<_> = store.import(&request(), keys).map(Result::unwrap).collect();
    let [Imported { asked: 10, created: 7, refused, .. }] = &batches[..] else { panic!("{batches:?}") };
    let exceeded =
        |error: &Error| matches!(error, Error::QuotaExceeded { quota: Quota::KeysPerProject, max: 7 });
    assert!(refused.iter().all(|(_, error)| exceeded(error)), "{refused:?}");
    assert_eq!(store.read(&scope(), |snap| snap.count_keys(&crate::KeyFilter::all())).unwrap(), 7);
}
