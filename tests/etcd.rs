//! A store on a real etcd cluster: what differs from a file, and what must not.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]

#[path = "etcd/cluster.rs"]
mod cluster;

use cluster::Cluster;
use keystead::{Alias, Error, Etcd, NewKey, Request, RequestId, Scope, Store};

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn open(cluster: &Cluster, prefix: &str) -> Store {
    Store::open_etcd(&Etcd::new(cluster.endpoints()).prefix(prefix)).unwrap()
}

/// All in one, because a cluster takes some seconds to start.
#[test]
fn a_store_on_a_cluster() {
    let cluster = Cluster::start();
    two_stores_are_one(&cluster);
    values_have_the_number_of_their_commit(&cluster);
}

fn two_stores_are_one(cluster: &Cluster) {
    let (one, other) = (open(cluster, "two"), open(cluster, "two"));
    let request = Request::new(&scope());
    let alias: Alias = "kms-1234".parse().unwrap();
    let (first, second) =
        (NewKey::new("first").unwrap().alias(alias.clone()), NewKey::new("second").unwrap());
    one.write(&request, |txn| txn.create_key(&first)).unwrap();
    other.write(&request, |txn| txn.create_key(&second)).unwrap();
    assert_eq!(other.read(&scope(), |snap| snap.resolve(&alias)).unwrap().key_id, first.key_id);
    let moved = other.write(&request, |txn| txn.associate_alias(&alias, second.key_id)).unwrap();
    assert_eq!(moved.value.former_key_id, first.key_id);
    assert_eq!(one.read(&scope(), |snap| snap.resolve(&alias)).unwrap().key_id, second.key_id);
    let again = one.write(&request, |txn| txn.create_key(&NewKey::new("first")?));
    assert!(matches!(again, Err(Error::KeyAliasExists(_))));
    let report = one.verify().unwrap();
    assert!(report.is_clean(), "{report:?}");
}

fn values_have_the_number_of_their_commit(cluster: &Cluster) {
    let store = open(cluster, "values");
    let request = Request::new(&scope());
    let new = NewKey::new("orders").unwrap();
    let created = store.write(&request, |txn| txn.create_key(&new)).unwrap();
    assert_eq!(created.value.version, created.commit);
    assert_eq!(store.read(&scope(), |snap| snap.key(new.key_id)).unwrap(), created.value);
    let request_id: RequestId = "919c82d4-8046-4722-9094-35c3c6524cff".parse().unwrap();
    let other = NewKey::new("other").unwrap();
    let once = || {
        store.write_once(&request, &request_id, b"create", |txn| {
            let key = txn.create_key(&other)?;
            Ok((key.version, format!("version {}", key.version)))
        })
    };
    let (first, again) = (once().unwrap(), once().unwrap());
    assert!(again.replayed && !first.replayed);
    assert_eq!(first.value, (first.commit, format!("version {}", first.commit)));
    assert_eq!(again.value, first.value);
    assert_eq!(again.commit, first.commit);
}
