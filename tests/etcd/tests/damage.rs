//! Damage in etcd: whoever changes the store's keys behind its back is found out. Nothing damaged is served, and
//! `verify` sees it.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]

#[path = "../cluster.rs"]
mod cluster;
#[path = "../raw.rs"]
mod raw;

use std::collections::BTreeMap;

use cluster::Cluster;
use keystead::{
    After, Alias, At, Error, Etcd, HistoryOf, KeyFilter, KeyId, Limit, NewKey, Options, Order, Request,
    Result, Scope, Store,
};
use raw::Raw;

const KEYS: [KeyId; 2] = [KeyId::from_bytes([1; 16]), KeyId::from_bytes([2; 16])];

type Keys = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store with two keys and an alias that was moved, at a prefix of its own.
struct Place<'a> {
    cluster: &'a Cluster,
    raw: &'a Raw,
    prefix: String,
    store: Store,
    /// What was there when it was whole.
    whole: Keys,
}

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn alias() -> Alias {
    "kms-1234".parse().unwrap()
}

impl<'a> Place<'a> {
    fn new(cluster: &'a Cluster, raw: &'a Raw, name: &str) -> Self {
        let prefix = format!("damage-{name}");
        let store = Self::open(cluster, &prefix, Options::new()).unwrap();
        let request = Request::new(&scope());
        let new = |name: &str, number: usize| NewKey::new(name).unwrap().id(KEYS[number]);
        store.write(&request, |txn| txn.create_key(&new("one", 0).alias(alias()))).unwrap();
        store.write(&request, |txn| txn.create_key(&new("two", 1))).unwrap();
        store.write(&request, |txn| txn.associate_alias(&alias(), KEYS[1])).unwrap();
        let mut place = Self { cluster, raw, prefix, store, whole: Keys::new() };
        place.whole = place.keys();
        place
    }

    fn open(cluster: &Cluster, prefix: &str, options: Options) -> Result<Store> {
        options.open_etcd(&Etcd::new(cluster.endpoints()).prefix(prefix))
    }

    /// Rows, entries, chapters: what is not of a process.
    fn keys(&self) -> Keys {
        let all = self.raw.all(self.prefix.as_bytes()).into_iter().map(|(key, (value, _))| (key, value));
        all.filter(|(key, _)| self.kind(key) < 6).collect()
    }

    fn kind(&self, key: &[u8]) -> u8 {
        key[self.prefix.len() + 1]
    }

    /// The keys of a kind, in their order.
    fn of_kind(&self, kind: u8) -> Vec<Vec<u8>> {
        self.whole.keys().filter(|key| self.kind(key) == kind).cloned().collect()
    }

    /// All that can be read, as far as it can.
    fn reads(&self, store: &Store) -> Vec<Result<String>> {
        let said = |value: &dyn std::fmt::Debug| format!("{value:?}");
        let read = |what: usize| {
            store.read(&scope(), |snap| match what {
                0 | 1 => snap.key(KEYS[what]).map(|key| said(&key)),
                2 => snap.resolve(&alias()).map(|key| said(&key)),
                3 => snap.alias(&alias()).map(|alias| said(&alias)),
                4 => snap.find_by_key_alias(&"one".parse()?).map(|key| said(&key)),
                5 => {
                    snap.keys_by_id(&KeyFilter::all(), After::Start, Limit::MAX).map(|page| said(&page.items))
                }
                6 => snap.aliases(After::Start, Limit::MAX).map(|page| said(&page.items)),
                7 => snap.aliases_of_key(KEYS[1], After::Start, Limit::MAX).map(|page| said(&page.items)),
                8 => snap.key_at(KEYS[0], At::Commit(snap.commit())).map(|key| said(&key)),
                9 | 10 => {
                    let of = HistoryOf::Key(KEYS[what - 9]);
                    snap.history(of, Order::NewestFirst, After::Start, Limit::MAX)
                        .map(|page| said(&page.items))
                }
                11 => {
                    let name = alias();
                    let of = HistoryOf::Alias(&name);
                    snap.history(of, Order::NewestFirst, After::Start, Limit::MAX)
                        .map(|page| said(&page.items))
                }
                _ => snap.count_keys_in_quota().map(|count| said(&count)),
            })
        };
        (0..13)
            .map(read)
            .chain([store.changes(None, Limit::MAX).map(|changes| said(&changes.commits))])
            .collect()
    }

    /// A store that had it all in memory before, and one that had not, if it can be opened at all.
    fn readers(&self) -> Vec<Store> {
        let cold = Options::new().cache_bytes(0).record_cache_bytes(0);
        let cold = Self::open(self.cluster, &self.prefix, cold);
        assert!(matches!(cold, Ok(_) | Err(Error::Corrupted(_))), "{cold:?}");
        [self.store.clone()].into_iter().chain(cold).collect()
    }

    /// What stores find: `verify` sees the damage.
    /// Returns what else they read.
    fn find(&self, what: &str, damage: impl Fn(&Self)) -> Vec<Vec<Result<String>>> {
        damage(self);
        let find = |store: Store| {
            let report = store.verify();
            let seen = report.as_ref().map_or(true, |report| !report.is_clean());
            assert!(seen, "{what} is not seen by verify");
            assert!(matches!(report, Ok(_) | Err(Error::Corrupted(_))), "{what}: {report:?}");
            self.reads(&store)
        };
        self.readers().into_iter().map(find).collect()
    }
}

type Change = fn(&[u8]) -> Vec<u8>;

/// Changes to a value.
const CHANGES: [(&str, Change); 6] = [
    ("a flipped bit at the begin", |value| flipped(value, 0)),
    ("a flipped bit", |value| flipped(value, value.len() / 2)),
    ("a flipped bit at the end", |value| flipped(value, value.len() - 1)),
    ("nothing", |_| Vec::new()),
    ("half", |value| value[..value.len() / 2].to_vec()),
    ("something else", |_| b"something else".to_vec()),
];

fn flipped(value: &[u8], at: usize) -> Vec<u8> {
    let mut value = value.to_vec();
    value[at] ^= 1;
    value
}

fn one_member() -> (Cluster, Raw) {
    let cluster = Cluster::of(1, &["--max-txn-ops=512"], None);
    let raw = Raw::new(&cluster.endpoints());
    (cluster, raw)
}

/// Whatever is read after a value was changed is as it was, or `Corrupted`.
#[test]
fn a_value_that_was_changed_is_never_served() {
    let (cluster, raw) = one_member();
    let first = Place::new(&cluster, &raw, "first");
    let (rows, entries) = (first.of_kind(2).len(), first.of_kind(3).len());
    assert!(rows == 8 && entries == 3, "{rows} rows, {entries} entries");
    let mut found = 0;
    for number in 0..rows + entries {
        let (change, how) = CHANGES[number % CHANGES.len()];
        let place = Place::new(&cluster, &raw, &format!("changed-{number}"));
        let key = [place.of_kind(2), place.of_kind(3)].concat()[number].clone();
        let what = format!("{change} in {key:?}");
        let whole = place.reads(&place.store);
        let found_here = place.find(&what, |place| place.raw.put(&key, &how(&place.whole[&key])));
        for reads in found_here {
            for (read, (observed, whole)) in reads.iter().zip(&whole).enumerate() {
                match (observed, whole) {
                    (Ok(observed), Ok(whole)) => assert_eq!(observed, whole, "{what}, read {read}"),
                    (Err(Error::Corrupted(_)), _) => found += 1,
                    (other, _) => panic!("{what}, read {read}: {other:?}"),
                }
            }
        }
    }
    assert!(found > 2 * (rows + entries), "{found} reads found damage");
}

/// A value has its place: another row's, though whole, is damage.
#[test]
fn values_that_changed_places_are_never_served() {
    let (cluster, raw) = one_member();
    let place = Place::new(&cluster, &raw, "swapped");
    for kind in [2, 3] {
        let keys = place.of_kind(kind);
        let pairs: Vec<_> = keys.iter().zip(keys.iter().cycle().skip(1)).collect();
        let values: Vec<_> = pairs.iter().map(|(to, from)| (&to[..], &place.whole[*from][..])).collect();
        raw.put_all(&values);
        let found = place.find("a value of another place", |_| {});
        assert!(found.iter().flatten().filter(|read| matches!(read, Err(Error::Corrupted(_)))).count() > 10);
    }
}

/// What is gone can't be told from what was never there, where it is read alone; `verify` sees it.
#[test]
fn what_was_deleted_is_seen_by_verify() {
    let (cluster, raw) = one_member();
    let whole = Place::new(&cluster, &raw, "whole");
    let kinds = [1, 2, 3, 4];
    let count = kinds.iter().map(|kind| whole.of_kind(*kind).len()).sum();
    assert_eq!(count, 13, "the format, 8 rows, 3 entries, a chapter");
    for number in 0..count {
        let place = Place::new(&cluster, &raw, &format!("deleted-{number}"));
        let key = kinds.iter().flat_map(|kind| place.of_kind(*kind)).nth(number).unwrap();
        let what = format!("the missing {key:?}");
        raw.delete(&key);
        let report = place.store.verify();
        assert!(report.as_ref().map_or(true, |report| !report.is_clean()), "{what} is not seen: {report:?}");
        assert!(matches!(report, Ok(_) | Err(Error::Corrupted(_))), "{what}: {report:?}");
        for (number, read) in place.reads(&place.store).iter().enumerate() {
            let is_right = match read {
                Ok(_) | Err(Error::Corrupted(_)) => true,
                Err(error) => matches!(error, Error::KeyNotFound { .. } | Error::AliasNotFound { .. }),
            };
            assert!(is_right, "{what}, read {number}: {read:?}");
        }
        let new = NewKey::new("three").unwrap();
        let written = place.store.write(&Request::new(&scope()), |txn| txn.create_key(&new));
        assert!(matches!(written, Ok(_) | Err(Error::Corrupted(_))), "{what}: {written:?}");
        // It is not begun anew where something is left.
        match Place::open(&cluster, &place.prefix, Options::new()) {
            Ok(store) => assert!(!store.verify().unwrap().is_clean(), "{what} is forgotten"),
            Err(error) => {
                assert!(matches!(error, Error::Corrupted(_) | Error::NotAStore(_)), "{what}: {error:?}")
            }
        }
    }
}

/// Even the same value, put again, is seen: it is of no commit of the store.
#[test]
fn what_was_written_by_no_commit_is_seen_by_verify() {
    let (cluster, raw) = one_member();
    for number in [1, 5] {
        let place = Place::new(&cluster, &raw, &format!("again-{number}"));
        let key = place.of_kind(2)[number].clone();
        place.find(&format!("{key:?} put again"), |place| place.raw.put(&key, &place.whole[&key]));
    }
}
