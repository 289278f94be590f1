//! What the integration tests share: stores that are verified when a test ends, short ways to make
//! names, requests and keys, and a whole scope as a value that can be compared.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use keystead::{
    After, Alias, AliasRecord, Commit, Committed, Error, KeyAlias, KeyFilter, KeyId, KeyRecord, Limit,
    NewKey, Options, PendingDays, Quotas, Request, Result, Scope, Store, TagKey, TagValue, Timestamp,
    Transaction,
};

/// The options of every test: a closure that is not the same when it is run again is caught.
pub(crate) fn options() -> Options {
    Options::new().run_closures_twice(true)
}

/// A store that is verified when the test is done with it.
pub(crate) struct Checked(Store);

impl Checked {
    pub(crate) fn new(store: Store) -> Self {
        Self(store)
    }

    pub(crate) fn in_memory() -> Self {
        Self(options().in_memory().unwrap())
    }

    pub(crate) fn with(options: Options) -> Self {
        Self(options.run_closures_twice(true).in_memory().unwrap())
    }

    pub(crate) fn with_quotas(quotas: Quotas) -> Self {
        Self::with(Options::new().quotas(quotas))
    }

    pub(crate) fn assert_clean(&self) {
        let report = self.0.verify().unwrap();
        assert!(report.is_clean(), "{report:#?}");
        assert_eq!(report.violations_not_kept, 0);
    }
}

impl Deref for Checked {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.0
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_clean();
        }
    }
}

/// So many days after the day on which all tests begin.
pub(crate) fn day(number: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + number * 86_400_000)
}

pub(crate) fn scope(project: &str) -> Scope {
    Scope::new("3bab8e245e854f68af5967c00dd43127", project).unwrap()
}

/// A request on day 1.
pub(crate) fn request(scope: &Scope) -> Request {
    Request::new(scope).actor("tester").at(day(1))
}

pub(crate) fn alias(text: &str) -> Alias {
    Alias::new(text).unwrap()
}

pub(crate) fn aliases(texts: &[&str]) -> Vec<Alias> {
    texts.iter().map(|text| alias(text)).collect()
}

pub(crate) fn key_alias(text: &str) -> KeyAlias {
    KeyAlias::new(text).unwrap()
}

pub(crate) fn tag(key: &str, value: &str) -> (TagKey, TagValue) {
    (TagKey::new(key).unwrap(), TagValue::new(value).unwrap())
}

pub(crate) fn limit(limit: usize) -> Limit {
    Limit::new(limit).unwrap()
}

/// A key of this name whose id is this number.
pub(crate) fn new_key(name: &str, number: u128) -> NewKey {
    NewKey::new(name).unwrap().id(id(number))
}

pub(crate) fn id(number: u128) -> KeyId {
    let hex = format!("{number:032x}");
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-").parse().unwrap()
}

/// A write on day 1 that must succeed.
pub(crate) fn write<T>(
    store: &Store,
    scope: &Scope,
    closure: impl Fn(&mut Transaction<'_>) -> Result<T>,
) -> Committed<T> {
    store.write(&request(scope), closure).unwrap()
}

/// A write on day 1 that must be refused, and leave everything as it was.
pub(crate) fn refused<T: std::fmt::Debug>(
    store: &Store,
    scope: &Scope,
    closure: impl Fn(&mut Transaction<'_>) -> Result<T>,
) -> Error {
    let before = Dump::of(store, scope);
    let error = store.write(&request(scope), closure).unwrap_err();
    assert_eq!(before, Dump::of(store, scope), "{error} left something behind");
    error
}

pub(crate) fn create(store: &Store, scope: &Scope, new: &NewKey) -> Arc<KeyRecord> {
    write(store, scope, |txn| txn.create_key(new)).value
}

pub(crate) fn week() -> PendingDays {
    PendingDays::new(7).unwrap()
}

/// An error in a word: its variant, and what it is about where variants are shared.
pub(crate) fn word(error: &Error) -> String {
    let text = format!("{error:?}");
    let variant = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    match error {
        Error::InvalidAlias(what) => format!("{variant}({what:?})"),
        Error::QuotaExceeded { quota, .. } => format!("{variant}({quota:?})"),
        _ => variant.to_owned(),
    }
}

/// Everything in a scope, as the lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dump {
    pub(crate) commit: Commit,
    pub(crate) keys: BTreeMap<KeyId, Arc<KeyRecord>>,
    pub(crate) aliases: BTreeMap<Alias, Arc<AliasRecord>>,
}

impl Dump {
    /// Reads the scope, each thing in all the ways there are to read it.
    pub(crate) fn of(store: &Store, scope: &Scope) -> Self {
        store
            .read(scope, |snap| {
                let all = KeyFilter::all();
                let by_id = snap.keys_by_id(&all, After::Start, Limit::MAX)?;
                let by_name = snap.keys_by_key_alias(&all, After::Start, Limit::MAX)?;
                let listed = snap.aliases(After::Start, Limit::MAX)?;
                assert_eq!(
                    (by_id.next, by_name.next, listed.next),
                    (None, None, None),
                    "a scope for a dump is small"
                );
                let keys: BTreeMap<_, _> = by_id.items.into_iter().map(|key| (key.key_id, key)).collect();
                let aliases: BTreeMap<_, _> =
                    listed.items.into_iter().map(|record| (record.alias.clone(), record)).collect();
                let same: BTreeMap<_, _> = by_name.items.into_iter().map(|key| (key.key_id, key)).collect();
                assert_eq!(keys, same, "both lists have the same keys");
                assert_eq!(snap.count_keys(&all)?, keys.len() as u64);
                let of_users = keys.values().filter(|key| !key.default).count();
                assert_eq!(snap.count_keys_in_quota()?, of_users as u64);
                let mut on_keys = BTreeSet::new();
                for key in keys.values() {
                    assert_eq!(snap.key(key.key_id)?, *key);
                    assert_eq!(snap.find_by_key_alias(&key.key_alias)?, *key);
                    for record in snap.aliases_of_key(key.key_id, After::Start, Limit::MAX)?.items {
                        assert_eq!(record.key_id, key.key_id);
                        assert_eq!(snap.resolve(&record.alias)?, *key);
                        assert_eq!(snap.alias(&record.alias)?, record);
                        assert!(on_keys.insert(record.alias.clone()), "an alias is on one key");
                    }
                }
                assert!(aliases.keys().eq(on_keys.iter()), "the aliases of the scope are those of its keys");
                Ok(Self { commit: snap.commit(), keys, aliases })
            })
            .unwrap()
    }
}
