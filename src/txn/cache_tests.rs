//! The cache: that it never changes an answer, and what it may take.

use std::sync::Arc;
use std::thread;

use super::cache::{Cache, CacheStats, Entry, Known, Name};
use super::{Place, Snapshot};
use crate::alias::{Alias, AliasRecord, AliasUrn, KeyAlias};
use crate::engine::embedded::EmbeddedEngine;
use crate::engine::scripted::{Random, Scripted};
use crate::engine::{Engine, Newest, Range, ReadTransaction, Reading, RowHash, RowSource, Stripes};
use crate::error::Result;
use crate::format::{Stored, Value};
use crate::id::{Commit, KeyId, Region, Scope};
use crate::key::{KeyRecord, NewKey};
use crate::policy::{AliasScope, Compatibility, Policy, Quotas};
use crate::request::Request;
use crate::store::{Options, Store};
use crate::time::{PendingDays, Timestamp};

const KEYS: u8 = 3;
const ALIASES: [&str; 5] = ["one", "alias/one", "two", "alias/alias/one", "alias/two"];

/// A store, and what can be read below it, with a cache of the test's own and without.
struct Rig {
    store: Store,
    engine: Scripted,
    policy: Policy,
    scopes: [Scope; 2],
    random: Random,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let engine = Scripted::new(EmbeddedEngine::in_memory());
        Options::new().begin(&engine).unwrap();
        let policy = Policy {
            alias_scope: AliasScope::Project,
            compatibility: Compatibility::default(),
            quotas: Quotas::default(),
            region: Region::new("local").unwrap(),
            history: true,
        };
        let store = Options::new().on(Box::new(engine.clone())).unwrap();
        let scopes = ["one", "two"].map(|project| Scope::new("domain", project).unwrap());
        Self { store, engine, policy, scopes, random: Random::new(seed) }
    }

    fn snapshot<'a>(&'a self, rows: Reading, scope: usize, cache: Option<&'a Cache>) -> Snapshot<'a> {
        Snapshot::new(rows, Place::new(&self.scopes[scope], &self.policy), cache)
    }

    fn key_id(&mut self) -> KeyId {
        KeyId::from_bytes([u8::try_from(self.random.below(KEYS.into())).unwrap(); 16])
    }

    fn alias(&mut self) -> Alias {
        ALIASES[self.random.index(ALIASES.len())].parse().unwrap()
    }

    /// One random change; whether it is refused does not matter.
    fn change(&mut self) {
        let scope = self.random.index(2);
        let request = Request::new(&self.scopes[scope]).at(Timestamp::from_millis(1_000_000));
        let later = request.clone().at(request.time().plus_days(7));
        let (key_id, alias, random) = (self.key_id(), self.alias(), self.random.next());
        let name = KeyAlias::new(&format!("key-{}", random % 7)).unwrap();
        let store = &self.store;
        let _ = match random >> 32 & 15 {
            0..6 => {
                let new = NewKey::new(name.as_str()).unwrap().id(key_id);
                store.write(&request, |txn| txn.create_key(&new).map(drop))
            }
            6 | 7 => store.write(&request, |txn| txn.create_alias(&alias, key_id).map(drop)),
            8..11 => store.write(&request, |txn| txn.associate_alias(&alias, key_id).map(drop)),
            11 | 12 => store.write(&request, |txn| txn.rename_key_alias(key_id, &name).map(drop)),
            13 | 14 => store.write(&request, |txn| txn.delete_aliases(key_id, std::slice::from_ref(&alias))),
            _ => store
                .write(&request, |txn| txn.schedule_deletion(key_id, PendingDays::new(7)?).map(drop))
                .and_then(|_| store.write(&later, |txn| txn.purge(key_id).map(drop))),
        };
    }

    /// The answers to one random question, with the cache and without.
    fn ask(&mut self, rows: &Arc<Reading>, scope: usize, cache: &Cache) -> [String; 2] {
        let (key_id, alias, random) = (self.key_id(), self.alias(), self.random.next());
        let name = KeyAlias::new(&format!("key-{}", random % 7)).unwrap();
        let urn: AliasUrn = format!("kms:local:domain:alias:{}", alias.urn_name()).parse().unwrap();
        let snapshot = |cache| self.snapshot(Reading::of(Again(Arc::clone(rows))), scope, cache);
        [snapshot(Some(cache)), snapshot(None)].map(|snap| match random >> 32 & 7 {
            0..3 => show(snap.resolve(&alias)),
            3 => show(snap.alias(&alias)),
            4 => show(snap.key(key_id)),
            5 => show(snap.find_by_key_alias(&name)),
            6 => show(snap.resolve_urn(&urn)),
            _ => show(snap.resolve_many(&ALIASES.map(|alias| alias.parse().unwrap()))),
        })
    }
}

fn show<T: std::fmt::Debug>(answer: Result<T>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("{error}"),
    }
}

/// Changes, snapshots that are kept, and questions to old and new ones, in any order. How the cache did, or
/// the first answer that it changed.
fn answers_are_the_same(seed: u64, credulous: bool) -> std::result::Result<CacheStats, String> {
    let mut rig = Rig::new(seed);
    let mut cache = Cache::new(1 << 20).unwrap();
    cache.credulous = credulous;
    let mut kept: Vec<(Arc<Reading>, usize)> = Vec::new();
    for step in 0..400 {
        match rig.random.below(8) {
            0 => rig.change(),
            1 => {
                let scope = rig.random.index(2);
                kept.push((Arc::new(rig.engine.begin_read().unwrap()), scope));
                if kept.len() > 6 {
                    kept.remove(rig.random.index(6));
                }
            }
            _ => {
                let newest = (Arc::new(rig.engine.begin_read().unwrap()), rig.random.index(2));
                let old = rig.random.below(2) == 0 && !kept.is_empty();
                let (rows, scope) = if old { &kept[rig.random.index(kept.len())] } else { &newest };
                let [with, without] = rig.ask(rows, *scope, &cache);
                if with != without {
                    return Err(format!("seed {seed}, step {step}: {with}, but there is {without}"));
                }
            }
        }
    }
    Ok(cache.stats())
}

/// A snapshot that is read from more than once.
struct Again(Arc<Reading>);

impl RowSource for Again {
    fn commit_read(&self) -> Commit {
        self.0.commit()
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        self.0.get(rows)
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        self.0.with_row(row, see)
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.0.changelog_entry(commit)
    }
}

impl ReadTransaction for Again {
    fn unchanged_since(&self, row: RowHash, commit: Commit) -> bool {
        self.0.unchanged_since(row, commit)
    }

    fn with_rows(
        &self,
        range: Range<'_>,
        limit: usize,
        see: &mut dyn FnMut(&[u8], Result<Value<'_>>),
    ) -> Result<()> {
        self.0.with_rows(range, limit, see)
    }

    fn log(&self, after: Commit, limit: usize) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        self.0.log(after, limit)
    }

    fn length(&self) -> Result<Option<u64>> {
        self.0.length()
    }

    fn audit(&self) -> Result<()> {
        self.0.audit()
    }
}

#[test]
fn the_cache_changes_no_answer() {
    let hits: u64 = (0..60).map(|seed| answers_are_the_same(seed, false).unwrap().hits).sum();
    assert!(hits > 60 * 20, "only {hits} of 60 * 250 questions met a record in the cache");
}

#[test]
fn a_cache_that_believes_its_entries_would_be_found_out() {
    let found_out = (0..10).filter(|seed| answers_are_the_same(*seed, true).is_err()).count();
    assert!(found_out >= 9, "only {found_out} of 10");
}

/// What a snapshot of an old commit fills in at the last moment is of no use to a newer one, and the other
/// way round.
#[test]
fn an_entry_is_used_only_where_its_rows_are_the_same() {
    let rig = Rig::new(1);
    let (cache, alias): (_, Alias) = (Cache::new(1 << 20).unwrap(), "one".parse().unwrap());
    let request = Request::new(&rig.scopes[0]).at(Timestamp::from_millis(1_000_000));
    let [old, new] = ["old", "new"].map(|name| NewKey::new(name).unwrap());
    let create = rig.store.write(&request, |txn| {
        txn.create_key(&old)?;
        txn.create_key(&new)?;
        txn.create_alias(&alias, old.key_id)
    });
    create.unwrap();
    let before = rig.engine.begin_read().unwrap();
    rig.store.write(&request, |txn| txn.associate_alias(&alias, new.key_id)).unwrap();
    let after = rig.engine.begin_read().unwrap();
    let (before, after) = (rig.snapshot(before, 0, Some(&cache)), rig.snapshot(after, 0, Some(&cache)));
    for (snapshot, key_id, entries) in
        [(&before, old.key_id, 0), (&after, new.key_id, 1), (&before, old.key_id, 1), (&after, new.key_id, 1)]
    {
        assert_eq!(snapshot.resolve(&alias).unwrap().key_id, key_id);
        assert_eq!(cache.stats().entries, entries, "the old snapshot keeps nothing that has changed");
    }
    assert_eq!((cache.stats().hits, cache.stats().misses), (1, 3));
    drop((before, after));

    // A change of something else leaves it, here and in what was before.
    let other = NewKey::new("other").unwrap();
    let before = rig.engine.begin_read().unwrap();
    rig.store.write(&request, |txn| txn.create_key(&other)).unwrap();
    for rows in [rig.engine.begin_read().unwrap(), before] {
        let hits = cache.stats().hits;
        assert_eq!(rig.snapshot(rows, 0, Some(&cache)).resolve(&alias).unwrap().key_id, new.key_id);
        assert_eq!(cache.stats().hits, hits + 1);
    }
}

#[test]
fn names_that_meet_in_one_place_are_told_apart() {
    let rows = Newest::new(Still(Stripes::new(1)));
    let (scope, other) = (scope("one"), scope("two"));
    let cache = Cache::new(1 << 20).unwrap();
    let key_id = KeyId::from_bytes([1; 16]);
    // Put where other names are looked for, as if they had the same hash.
    for name in [Name::Key(key_id), Name::Key(KeyId::from_bytes([2; 16])), Name::Alias("name")] {
        cache.keep(&*rows.read(), &scope, name, entry(&scope, 1, None));
        cache.keep(&*rows.read(), &other, name, entry(&scope, 1, None));
        for place in [&scope, &other] {
            let found = cache.get(&*rows.read(), place, name);
            assert_eq!(found.is_some(), place == &scope && name == Name::Key(key_id), "{name:?}");
        }
    }
    for (urn_name, found) in [("name", true), ("eman", false)] {
        cache.keep(&*rows.read(), &scope, Name::Alias(urn_name), entry(&scope, 1, Some("alias/name")));
        let entry = cache.get(&*rows.read(), &scope, Name::Alias(urn_name));
        assert_eq!(entry.is_some(), found);
    }
    assert_eq!((cache.stats().hits, cache.stats().entries), (2, 7));
}

#[test]
fn it_takes_no_more_than_it_may() {
    let rows = Newest::new(Still(Stripes::new(1)));
    let scope = scope("project");
    for bytes in [1, 1000, 10_000, 100_000, 1 << 20] {
        let cache = Cache::new(bytes).unwrap();
        for number in 0..5_000_u32 {
            let name = format!("name-{number}");
            let entry = entry(&scope, number, Some(&name));
            cache.keep(&*rows.read(), &scope, Name::Alias(&name), entry);
        }
        let stats = cache.stats();
        assert!(stats.bytes <= bytes as u64, "{stats:?}");
        assert!(bytes < 100_000 || stats.entries > 20, "{stats:?}");
        assert!(stats.entries == 0 || (500..1500).contains(&(stats.bytes / stats.entries)), "{stats:?}");
    }
    assert!(Cache::new(0).is_none());
}

#[test]
fn all_threads_are_counted() {
    let rows = Newest::new(Still(Stripes::new(1)));
    let (scope, cache) = (scope("project"), Cache::new(1 << 20).unwrap());
    let name = Name::Key(KeyId::from_bytes([0; 16]));
    cache.keep(&*rows.read(), &scope, name, entry(&scope, 0, None));
    thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                let rows = rows.read();
                for _ in 0..10 {
                    assert!(cache.get(&*rows, &scope, name).is_some());
                    assert!(cache.get(&*rows, &scope, Name::Alias("name")).is_none());
                }
            });
        }
    });
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (80, 80));
    assert!((1..=5).contains(&stats.entries), "one, and one for each lane: {stats:?}");
}

#[test]
fn a_store_tells_of_its_cache() {
    let scope = scope("project");
    let new = NewKey::new("orders").unwrap();
    for bytes in [1 << 20, 0] {
        let store = Options::new().record_cache_bytes(bytes).in_memory().unwrap();
        store.write(&Request::new(&scope), |txn| txn.create_key(&new)).unwrap();
        for _ in 0..3 {
            store.read(&scope, |snap| snap.key(new.key_id)).unwrap();
        }
        let stats = store.stats().cache;
        let counted = (stats.hits, stats.misses, stats.entries, stats.bytes > 0);
        assert_eq!(counted, if bytes > 0 { (2, 1, 1, true) } else { (0, 0, 0, false) });
    }
}

fn scope(project: &str) -> Scope {
    Scope::new("domain", project).unwrap()
}

/// A commit in which nothing ever changes.
struct Still(Stripes);

impl RowSource for Still {
    fn commit_read(&self) -> Commit {
        Commit::default()
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        Ok(vec![None; rows.len()])
    }

    fn with_row(&self, _: &[u8], _: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        Ok(())
    }

    fn changelog_entry(&self, _: Commit) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

impl ReadTransaction for Still {
    fn unchanged_since(&self, row: RowHash, commit: Commit) -> bool {
        self.0.last(row) <= commit
    }

    fn with_rows(&self, _: Range<'_>, _: usize, _: &mut dyn FnMut(&[u8], Result<Value<'_>>)) -> Result<()> {
        Ok(())
    }

    fn log(&self, _: Commit, _: usize) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        Ok(Vec::new())
    }

    fn length(&self) -> Result<Option<u64>> {
        Ok(Some(0))
    }

    fn audit(&self) -> Result<()> {
        Ok(())
    }
}

/// A key of this number, maybe named by an alias, as if it had been read.
fn entry(scope: &Scope, number: u32, alias: Option<&str>) -> Entry {
    let now = Timestamp::from_millis(1_000_000);
    let new = NewKey::new(&format!("key-{number}")).unwrap();
    let new = new.id(KeyId::from_bytes([u8::try_from(number & 0xff).unwrap(); 16]));
    let key: KeyRecord = crate::rules::create(&new, scope, &Quotas::default(), now).unwrap();
    let alias = alias.map(|alias| AliasRecord {
        alias: alias.parse().unwrap(),
        key_id: key.key_id,
        domain_id: scope.domain().clone(),
        project_id: scope.project().clone(),
        created_at: now,
        updated_at: now,
        version: Commit::default(),
    });
    Entry {
        alias: alias.map(|alias| Known::new(Arc::new(alias), b"alias")),
        key: Known::new(Arc::new(key), b"key"),
        read_at: Commit::default(),
    }
}
