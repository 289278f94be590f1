//! A store on a real etcd cluster: what differs from a file, and what must not.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests, outside of the test functions; it waits, and measures"
)]

#[path = "../cluster.rs"]
mod cluster;
#[path = "../raw.rs"]
mod raw;

use std::time::{Duration, Instant};

use cluster::Cluster;
use keystead::{
    After, Alias, Error, Etcd, HistoryOf, KeyState, Limit, NewKey, Options, Order, Request, RequestId, Scope,
    Snapshot, Store, Waited,
};
use raw::Raw;

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn open(cluster: &Cluster, prefix: &str) -> Store {
    Store::open_etcd(&Etcd::new(cluster.endpoints()).prefix(prefix)).unwrap()
}

/// All in one, because a cluster takes some seconds to start.
#[test]
fn a_store_on_a_cluster() {
    let mut cluster = Cluster::start();
    two_stores_are_one(&cluster);
    values_have_the_number_of_their_commit(&cluster);
    a_snapshot_keeps_its_history(&cluster);
    what_one_did_another_can_undo_at_once(&cluster);
    a_store_moves_to_the_cluster_and_back(&cluster);
    a_copy_goes_on_while_the_members_elect_a_leader(&mut cluster);
    who_only_reads_writes_nothing(&cluster);
    what_is_shown_is_no_older_than_the_bound(&mut cluster);
}

/// From a file to the cluster, and from there to a file, by a copy and by a backup; each row and change is compared by
/// the copy itself, and here what the history says.
fn a_store_moves_to_the_cluster_and_back(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let file = Store::open(path("file.redb")).unwrap();
    let (alias, scope): (Alias, Scope) = ("kms-1234".parse().unwrap(), scope());
    let request = Request::new(&scope).actor("alice");
    let (first, second) =
        (NewKey::new("first").unwrap().alias(alias.clone()), NewKey::new("second").unwrap());
    file.write(&request, |txn| txn.create_key(&first)).unwrap();
    file.write(&request, |txn| txn.create_key(&second)).unwrap();
    for turn in 0..300 {
        let target = if turn % 2 == 0 { second.key_id } else { first.key_id };
        file.write(&request, |txn| txn.associate_alias(&alias, target)).unwrap();
    }
    let etcd = open(cluster, "moved");
    let there = file.copy_to(&etcd).unwrap();
    assert_eq!(there.entries, 302, "several chapters of the log");
    assert!(matches!(file.copy_to(&etcd), Err(Error::NotEmpty)));
    let back = Store::open(path("back.redb")).unwrap();
    let copied = etcd.copy_to(&back).unwrap();
    assert_eq!((copied.entries, copied.rows), (there.entries, there.rows));
    etcd.backup(path("backup")).unwrap();
    keystead::Restore::of(path("backup")).into_file(path("restored.redb")).unwrap();
    let restored = Store::open(path("restored.redb")).unwrap();
    let history = |store: &Store| {
        let page = store.read(&scope, |snap| {
            snap.history(HistoryOf::Alias(&alias), Order::NewestFirst, After::Start, Limit::MAX)
        });
        let items = page.unwrap().items.into_iter();
        items.map(|item| (item.info.time, item.info.actor, item.change.operation)).collect::<Vec<_>>()
    };
    for store in [&etcd, &back, &restored] {
        assert_eq!(history(store), history(&file));
        assert!(store.verify().unwrap().is_clean());
        let key = store.read(&scope, |snap| snap.resolve(&alias)).unwrap();
        assert_eq!(key.key_id, first.key_id);
        // It goes on there.
        store.write(&request, |txn| txn.associate_alias(&alias, second.key_id)).unwrap();
        assert!(store.verify().unwrap().is_clean());
    }
}

/// What is not answered is not made, which the copy must see and make again.
fn a_copy_goes_on_while_the_members_elect_a_leader(cluster: &mut Cluster) {
    let source = Store::in_memory().unwrap();
    let (request, alias) = (Request::new(&scope()), "moved".parse::<Alias>().unwrap());
    let keys = [NewKey::new("first").unwrap().alias(alias.clone()), NewKey::new("second").unwrap()];
    source.write(&request, |txn| keys.iter().try_for_each(|new| txn.create_key(new).map(drop))).unwrap();
    for turn in 1..=600 {
        source.write(&request, |txn| txn.associate_alias(&alias, keys[turn % 2].key_id)).unwrap();
    }
    let settings = Etcd::new(cluster.endpoints())
        .prefix("elected")
        .attempt_time(Duration::from_millis(300))
        .deadline(Duration::from_secs(20));
    let target = Store::open_etcd(&settings).unwrap();
    std::thread::scope(|threads| {
        let copying = threads.spawn(|| source.copy_to(&target));
        while !copying.is_finished() {
            let leader = cluster.leader().unwrap();
            cluster.pause(leader);
            std::thread::sleep(Duration::from_millis(700));
            cluster.resume(leader);
            std::thread::sleep(Duration::from_millis(300));
        }
        assert_eq!(copying.join().unwrap().unwrap().entries, 601);
    });
    let stats = target.stats().cluster.unwrap();
    assert!(stats.unknown > 0, "an answer was missing: {stats:?}");
}

/// Neither by opening, nor while it is open; and it sees what others write.
fn who_only_reads_writes_nothing(cluster: &Cluster) {
    let raw = Raw::new(&cluster.endpoints());
    let settings = || Etcd::new(cluster.endpoints()).prefix("read").staleness(Duration::from_millis(50));
    let open = || Options::new().open_etcd_read_only(&settings());
    let before = raw.all(b"read");
    let refused = [open(), Options::new().create(false).open_etcd(&settings())];
    for refused in refused {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::NoStore(_)), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("the prefix read") && said.contains(&cluster.endpoint(0)), "{said}");
    }
    assert_eq!((raw.all(b"read"), before.len()), (before, 0));

    let writer = Store::open_etcd(&Etcd::new(cluster.endpoints()).prefix("read")).unwrap();
    let request = Request::new(&scope());
    let new = NewKey::new("first").unwrap();
    writer.write(&request, |txn| txn.create_key(&new)).unwrap();
    let (before, leases) = (raw.all(b"read"), raw.leases());
    let reader = open().unwrap();
    assert_eq!(reader.read(&scope(), |snap| snap.key(new.key_id)).unwrap().key_alias, new.key_alias);
    assert!(matches!(reader.write(&request, |txn| txn.disable(new.key_id)), Err(Error::ReadOnly)));
    assert!(matches!(reader.trim_history(reader.position().unwrap().commit()), Err(Error::ReadOnly)));
    assert!(matches!(Store::in_memory().unwrap().copy_to(&reader), Err(Error::ReadOnly)));
    assert!(reader.verify().unwrap().is_clean());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((raw.all(b"read"), raw.leases()), (before, leases));

    let position = reader.position().unwrap();
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| reader.wait(&position, Duration::from_secs(30)));
        writer.write(&request, |txn| txn.disable(new.key_id)).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), Waited::Committed);
    });
    let changes = reader.changes(Some(&position), Limit::MAX).unwrap().commits;
    assert_eq!(changes.len(), 1);
    let key = reader.read(&scope(), |snap| snap.key(new.key_id)).unwrap();
    assert_eq!((key.state, key.version), (KeyState::Disabled, changes[0].info.commit));
    // And a writer that makes nothing writes where there is a store.
    let existing = Options::new().create(false).open_etcd(&settings()).unwrap();
    existing.write(&request, |txn| txn.enable(new.key_id)).unwrap();
    assert_eq!(reader.read(&scope(), |snap| snap.key(new.key_id)).unwrap().state, KeyState::Enabled);
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

/// While a snapshot is read, the log goes on by several chapters.
fn a_snapshot_keeps_its_history(cluster: &Cluster) {
    let store = open(cluster, "snapshot");
    let (request, alias) = (Request::new(&scope()), "moved".parse::<Alias>().unwrap());
    let keys = [NewKey::new("first").unwrap().alias(alias.clone()), NewKey::new("second").unwrap()];
    store.write(&request, |txn| keys.iter().try_for_each(|new| txn.create_key(new).map(drop))).unwrap();
    let move_it = |times: usize| {
        for turn in 1..=times {
            let to = keys[turn % 2].key_id;
            store.write(&request, |txn| txn.associate_alias(&alias, to)).unwrap();
        }
    };
    move_it(200);
    let history = |snap: &Snapshot<'_>| {
        snap.history(HistoryOf::Alias(&alias), Order::OldestFirst, After::Start, Limit::MAX)
    };
    store
        .read(&scope(), |snap| {
            let before = history(snap)?.items;
            assert_eq!(before.len(), 201);
            move_it(400);
            assert_eq!(history(snap)?.items, before);
            Ok(())
        })
        .unwrap();
    assert!(store.verify().unwrap().is_clean());
}

/// A commit that a process was told of is there for it, however little it has seen of it.
fn what_one_did_another_can_undo_at_once(cluster: &Cluster) {
    let nodes = [open(cluster, "undo"), open(cluster, "undo")];
    let (request, alias) = (Request::new(&scope()), "moved".parse::<Alias>().unwrap());
    let keys = [NewKey::new("first").unwrap().alias(alias.clone()), NewKey::new("second").unwrap()];
    nodes[0].write(&request, |txn| keys.iter().try_for_each(|new| txn.create_key(new).map(drop))).unwrap();
    for turn in 0..40 {
        let (one, other) = (&nodes[turn % 2], &nodes[(turn + 1) % 2]);
        let moved = one.write(&request, |txn| txn.associate_alias(&alias, keys[1].key_id)).unwrap();
        other.write(&request, |txn| txn.revert(moved.commit)).unwrap();
        assert_eq!(one.read(&scope(), |snap| snap.resolve(&alias)).unwrap().key_id, keys[0].key_id);
    }
}

/// With a bound, a read asks nobody, and yet shows every change that was acknowledged so long before.
fn what_is_shown_is_no_older_than_the_bound(cluster: &mut Cluster) {
    let bound = Duration::from_millis(400);
    let writer = open(cluster, "bound");
    let settings = Etcd::new(cluster.endpoints()).prefix("bound").staleness(bound);
    let reader = Store::open_etcd(&settings.deadline(Duration::from_secs(2))).unwrap();
    let (request, alias) = (Request::new(&scope()), "moved".parse::<Alias>().unwrap());
    let keys = [NewKey::new("first").unwrap().alias(alias.clone()), NewKey::new("second").unwrap()];
    writer.write(&request, |txn| keys.iter().try_for_each(|new| txn.create_key(new).map(drop))).unwrap();
    let shown = || reader.read(&scope(), |snap| snap.resolve(&alias)).map(|key| key.key_id);
    let mut latest = Duration::ZERO;
    for turn in 1..=60 {
        match turn {
            20 => cluster.pause(1),
            40 => cluster.resume(1),
            _ => {}
        }
        let to = keys[turn % 2].key_id;
        writer.write(&request, |txn| txn.associate_alias(&alias, to)).unwrap();
        let done = Instant::now();
        loop {
            let asked = done.elapsed();
            if shown().unwrap() == to {
                break;
            }
            assert!(asked <= bound, "{asked:?} after the change of turn {turn} it was not shown");
            latest = latest.max(asked);
        }
    }
    println!("bound {bound:?}: the last read that showed what was before began {latest:?} after the change");

    wait_until(|| age(&reader).is_some_and(|age| age < bound / 2));
    (0..3).for_each(|member| cluster.pause(member));
    assert_eq!(shown().unwrap(), keys[0].key_id, "nobody answers, and nobody is asked");
    wait_until(|| age(&reader).is_none_or(|age| age > bound));
    assert!(matches!(shown(), Err(Error::Unavailable(_))), "what is older is not shown");
    (0..3).for_each(|member| cluster.resume(member));
    wait_until(|| shown().is_ok());
}

fn age(store: &Store) -> Option<Duration> {
    store.stats().cluster.and_then(|stats| stats.age)
}

fn wait_until(condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(60), "it does not come");
        std::thread::yield_now();
    }
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
