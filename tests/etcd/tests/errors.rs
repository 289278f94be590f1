//! What a store on etcd says when something is wrong with the cluster, or with what lies there: the kind of error, what
//! to do, within the deadline, and nothing half-written.

#![allow(clippy::type_complexity, reason = "tables of cases")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]
#![allow(clippy::disallowed_methods, reason = "how long calls take")]

#[path = "../cluster.rs"]
mod cluster;
#[path = "../raw.rs"]
mod raw;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use cluster::{Cluster, free_port};
use keystead::{
    After, At, Commit, Error, Etcd, HistoryOf, KeyFilter, KeyId, Limit, NewKey, Order, Request, RequestId,
    Result, Scope, Store, Waited,
};
use raw::Raw;

const PREFIX: &str = "kms";
const DEADLINE: Duration = Duration::from_secs(1);
/// What a call may take beyond the deadline, on a machine that does much else.
const SLACK: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn request() -> Request {
    Request::new(&scope())
}

fn one_member(arguments: &[&str]) -> Cluster {
    Cluster::of(1, &[&["--max-txn-ops=512"], arguments].concat(), None)
}

fn settings(endpoints: Vec<String>) -> Etcd {
    Etcd::new(endpoints).prefix(PREFIX).deadline(DEADLINE).attempt_time(Duration::from_millis(250))
}

fn open(cluster: &Cluster) -> Result<Store> {
    Store::open_etcd(&settings(cluster.endpoints()))
}

fn create(store: &Store, name: &str) -> Result<KeyId> {
    let new = NewKey::new(name)?;
    store.write(&request(), |txn| txn.create_key(&new)).map(|done| done.value.key_id)
}

fn count(store: &Store) -> u64 {
    let report = store.verify().unwrap();
    assert!(report.is_clean(), "{report:?}");
    store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap()
}

/// The rows and the log of the store, without what only lives as long as a process.
fn kept(raw: &Raw) -> BTreeMap<Vec<u8>, (Vec<u8>, i64)> {
    let mut kept = raw.all(PREFIX.as_bytes());
    kept.retain(|key, _| key.get(PREFIX.len() + 1).is_none_or(|kind| *kind < 6));
    kept
}

/// Runs a call that must fail, in time.
fn refused<T: std::fmt::Debug>(call: impl FnOnce() -> Result<T>) -> Error {
    let since = Instant::now();
    let outcome = call();
    let took = since.elapsed();
    assert!(took < DEADLINE + SLACK, "it took {took:?}: {outcome:?}");
    outcome.unwrap_err()
}

fn says(error: &Error, words: &[&str]) {
    let said = error.to_string();
    assert!(words.iter().all(|word| said.contains(word)), "{said:?} does not say {words:?}");
}

/// Makes a call until it succeeds.
fn in_the_end<T>(call: impl Fn() -> Result<T>) -> T {
    let since = Instant::now();
    loop {
        match call() {
            Ok(done) => return done,
            Err(error) => assert!(since.elapsed() < PATIENCE, "{error}"),
        }
    }
}

#[test]
fn where_nobody_answers_the_store_is_unavailable() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [free_port(), silent.local_addr().unwrap().port()] {
        let address = format!("http://127.0.0.1:{port}");
        let error = refused(|| Store::open_etcd(&settings(vec![address.clone()])));
        assert!(matches!(error, Error::Unavailable(_)) && error.is_retryable(), "{error:?}");
        says(&error, &["can't be reached", &address, "nothing was written"]);
    }
}

#[test]
fn members_that_stop_are_unavailable_and_what_was_sent_is_settled_later() {
    let mut cluster = one_member(&[]);
    let (store, raw) = (open(&cluster).unwrap(), Raw::new(&cluster.endpoints()));
    create(&store, "before").unwrap();
    let before = kept(&raw);
    cluster.kill(0);
    let unavailable = |error: Error| {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        says(&error, &["can't be reached", "nothing was written"]);
    };
    unavailable(refused(|| store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all()))));
    unavailable(refused(|| store.verify()));
    unavailable(refused(|| open(&cluster)));
    let request_id: RequestId = "919c82d4-8046-4722-9094-35c3c6524cff".parse().unwrap();
    let new = NewKey::new("meanwhile").unwrap();
    let once = || store.write_once(&request(), &request_id, b"", |txn| Ok(txn.create_key(&new)?.key_id));
    let sent = refused(once);
    assert!(matches!(sent, Error::Unavailable(_) | Error::CommitUnknown(_)), "{sent:?}");
    let position = store.position_after(Commit::new(store.stats().cluster.unwrap().seen));
    let since = Instant::now();
    assert_eq!(store.wait(&position, Duration::from_millis(100)).unwrap(), Waited::TimedOut);
    assert!(since.elapsed() < DEADLINE + SLACK);

    cluster.restart(0);
    cluster.wait_until_healthy();
    let there = in_the_end(|| store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())));
    assert!(there == 2 || kept(&raw) == before, "half of it is there");
    assert_eq!(in_the_end(once).value, new.key_id);
    assert_eq!(count(&store), 2);
}

#[test]
fn a_full_cluster_takes_nothing_and_is_healed() {
    let cluster = one_member(&["--quota-backend-bytes=3000000"]);
    let (store, raw) = (open(&cluster).unwrap(), Raw::new(&cluster.endpoints()));
    create(&store, "before").unwrap();
    for number in 0.. {
        assert!(number < 100, "it is never full");
        if raw.try_put(format!("other/{number}").as_bytes(), &[7; 500_000]).is_err() {
            break;
        }
    }
    let before = kept(&raw);
    let full = |error: Error| {
        assert!(matches!(&error, Error::Io(io) if io.kind() == ErrorKind::StorageFull), "{error:?}");
        says(&error, &["--quota-backend-bytes", "compact", "defragment", "alarm"]);
    };
    full(refused(|| create(&store, "meanwhile")));
    full(refused(|| create(&store, "again")));
    full(refused(|| open(&cluster)));
    assert_eq!((kept(&raw), count(&store)), (before, 1), "reads go on, and nothing was written");
    // What is about nothing to be written is answered.
    assert!(matches!(create(&store, "before"), Err(Error::KeyAliasExists(_))));

    raw.delete_all(b"other/");
    raw.compact();
    assert!(cluster.control(0, &["defrag"]).is_some());
    assert!(cluster.control(0, &["alarm", "disarm"]).is_some());
    create(&store, "after").unwrap();
    assert_eq!(count(&open(&cluster).unwrap()), 2);
}

#[test]
fn what_is_too_low_or_out_of_range_is_said() {
    let cluster = Cluster::of(1, &[], None);
    let raw = Raw::new(&cluster.endpoints());
    let error = refused(|| open(&cluster));
    assert!(matches!(error, Error::OptionsMismatch { option: "--max-txn-ops of etcd", .. }), "{error:?}");
    says(&error, &["--max-txn-ops", "256", "each member"]);
    assert_eq!(raw.all(b""), BTreeMap::new(), "nothing was begun");

    let right = settings(cluster.endpoints());
    let millis = Duration::from_millis;
    let wrong = [
        ("endpoints", Etcd::new([""; 0])),
        ("endpoints", Etcd::new(["10.0.0.1:2379"])),
        ("endpoints", Etcd::new(["http://not a host:1"])),
        ("endpoints", Etcd::new(["http://"])),
        ("endpoints", right.clone().ca_certificate("a certificate")),
        ("endpoints", right.clone().client_certificate("a certificate", "a key")),
        ("endpoints", right.clone().server_name("kms")),
        ("endpoints", Etcd::new([cluster.endpoint(0), cluster.endpoint(0).replace("http", "https")])),
        ("prefix", right.clone().prefix("")),
        ("prefix", right.clone().prefix("two words")),
        ("prefix", right.clone().prefix("a".repeat(Etcd::PREFIX_BYTES_MAX + 1))),
        ("deadline", right.clone().deadline(millis(9))),
        ("deadline", right.clone().deadline(millis(60_001))),
        ("attempt_time", right.clone().attempt_time(Duration::ZERO)),
        ("staleness", right.clone().staleness(millis(9))),
    ];
    for (option, settings) in wrong {
        let error = refused(|| Store::open_etcd(&settings));
        assert!(
            matches!(&error, Error::OptionsMismatch { option: named, .. } if *named == option),
            "{error:?}"
        );
        says(&error, &[option, "must be"]);
    }
    assert_eq!(raw.all(b""), BTreeMap::new());
}

#[test]
fn what_lies_there_and_is_no_store_of_this_version_stays_as_it_is() {
    let cluster = one_member(&[]);
    let raw = Raw::new(&cluster.endpoints());
    let format = [PREFIX.as_bytes(), &[0, 1]].concat();
    let not_a_store = |error: &Error| matches!(error, Error::NotAStore(_));
    type Is = fn(&Error) -> bool;
    let newer: Is = |error| matches!(error, Error::Unsupported { found: 2, supported: 1 });
    let cases: [(&[u8], &[u8], Is, &[&str]); 6] = [
        (&[0, 9], b"something", not_a_store, &["other keys at the prefix", "choose another"]),
        (&[0, 2, 1], b"something", not_a_store, &["other keys at the prefix", "choose another"]),
        (&[0, 1], b"", not_a_store, &["the key of the format holds something else", "choose another"]),
        (&[0, 1], b"keystead etcd", not_a_store, &["something else", "choose another"]),
        (&[0, 1], b"keystead etcd\x01\x01", not_a_store, &["something else", "choose another"]),
        (&[0, 1], b"keystead etcd\x02", newer, &["it is in format version 2"]),
    ];
    for (key, value, is, words) in cases {
        raw.put(&[PREFIX.as_bytes(), key].concat(), value);
        let before = raw.all(b"");
        let error = refused(|| open(&cluster));
        assert!(is(&error), "{error:?}");
        says(&error, words);
        assert_eq!(raw.all(b""), before);
        raw.delete_all(PREFIX.as_bytes());
    }
    // Keys beside it are no concern of the store.
    for beside in [&b"kms"[..], b"kms\x01", b"kms2\0\x01", b"kmr"] {
        raw.put(beside, b"something");
    }
    let store = open(&cluster).unwrap();
    create(&store, "one").unwrap();
    assert_eq!((count(&store), raw.all(&format)[&format].0.clone()), (1, b"keystead etcd\x01".to_vec()));
}

#[test]
fn compaction_while_a_snapshot_is_read_is_a_conflict() {
    let cluster = one_member(&[]);
    let (store, raw) = (open(&cluster).unwrap(), Raw::new(&cluster.endpoints()));
    let keys: Vec<_> = (0..3).map(|number| create(&store, &format!("key-{number}")).unwrap()).collect();
    let list = |store: &Store, meanwhile: &dyn Fn()| {
        store.read(&scope(), |snap| {
            meanwhile();
            snap.keys_by_id(&KeyFilter::all(), After::Start, Limit::MAX).map(|page| page.items.len())
        })
    };
    let name = std::cell::Cell::new(0);
    let compacted = || {
        name.set(name.get() + 1);
        create(&store, &format!("meanwhile-{}", name.get())).unwrap();
        raw.compact();
    };
    let error = refused(|| list(&store, &compacted));
    assert!(matches!(error, Error::Conflict) && error.is_retryable(), "{error:?}");
    says(&error, &["nothing was written", "run it again"]);
    assert_eq!(list(&store, &|| {}).unwrap(), 4);
    let error = refused(|| {
        store.read(&scope(), |snap| {
            compacted();
            let page = snap.history(HistoryOf::Key(keys[0]), Order::NewestFirst, After::Start, Limit::MAX);
            page.map(|page| page.items.len())
        })
    });
    assert!(matches!(error, Error::Conflict), "{error:?}");
    // A write reads anew: its closure runs again.
    let cold = Store::open_etcd(&settings(cluster.endpoints())).unwrap();
    let runs = std::cell::Cell::new(0);
    let disabled = cold.write(&request(), |txn| {
        runs.set(runs.get() + 1);
        if runs.get() == 1 {
            thread::scope(|threads| {
                threads.spawn(|| {
                    create(&store, "by-another").unwrap();
                    raw.compact();
                });
            });
        }
        txn.disable(keys[1])
    });
    assert_eq!(disabled.unwrap().value.key_id, keys[1]);
    assert!(runs.get() > 2, "once more on what is there, and once with the number of its commit");
    // Nothing of this store changed, but others wrote and etcd forgot what was.
    for number in 0..3 {
        raw.put(b"beside", &[number]);
    }
    raw.compact();
    create(&cold, "after").unwrap();
    // The past is in the log, which is present.
    let first = store.read(&scope(), |snap| snap.key(keys[0])).unwrap().version;
    assert!(store.read(&scope(), |snap| snap.key_at(keys[1], At::Commit(first))).is_err());
    assert_eq!(count(&store), 7);
}

#[test]
fn a_lease_that_ended_is_replaced() {
    let cluster = one_member(&[]);
    let (store, raw) = (open(&cluster).unwrap(), Raw::new(&cluster.endpoints()));
    create(&store, "before").unwrap();
    let ended = raw.leases();
    assert_eq!(ended.len(), 1);
    raw.revoke_all();
    create(&store, "after").unwrap();
    let request_id: RequestId = "919c82d4-8046-4722-9094-35c3c6524cff".parse().unwrap();
    let new = NewKey::new("once").unwrap();
    let once = || store.write_once(&request(), &request_id, b"", |txn| Ok(txn.create_key(&new)?.version));
    raw.revoke_all();
    let (first, again) = (once().unwrap(), once().unwrap());
    assert!(!first.replayed && again.replayed);
    assert_eq!((first.value, again.value), (first.commit, first.commit));
    let now = raw.leases();
    assert!(now.len() == 1 && now != ended, "{now:?}");
    assert_eq!(count(&store), 3);
    // With its last handle, what lives as long as it goes.
    drop(store);
    let since = Instant::now();
    while !raw.leases().is_empty() {
        assert!(since.elapsed() < PATIENCE, "the lease stays");
    }
    assert!(raw.all(b"kms\0\x06").is_empty() && raw.all(b"kms\0\x07").is_empty());
}
