//! The edges of the contract: what is asked for beyond what is there, times that go back, ends of pages.
#![allow(clippy::unwrap_used, reason = "unwrap is fine in tests")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{
    Checked, Dump, alias, create, day, id, key_alias, limit, new_key, options, request, scope, week,
};
use keystead::{
    After, At, Commit, Error, Expect, HistoryOf, KeyFilter, KeyState, Limit, Material, Operation, Order,
    Origin, Position, Request, RequestId, Restore, RotationInterval, Store, TagKey, Timestamp, Waited,
};

fn request_id(number: u32) -> RequestId {
    format!("00000000-0000-0000-0000-{number:012}").parse().unwrap()
}

/// A request that changes nothing; it makes a commit that has no entry in the changelog.
fn nothing(store: &Store, number: u32) -> Commit {
    let done = store.write_once(&request(&scope("p")), &request_id(number), b"nothing", |_| Ok(())).unwrap();
    assert!(!done.changed);
    done.commit
}

fn newest(store: &Store) -> Commit {
    store.position().unwrap().commit()
}

fn rename(store: &Store, name: &str) -> Commit {
    store.write(&request(&scope("p")), |txn| txn.rename_key_alias(id(1), &key_alias(name))).unwrap().commit
}

#[test]
fn trimming_lowers_to_the_newest_entry_at_or_below() {
    let (store, scope) = (Checked::in_memory(), scope("p"));
    let made = create(&store, &scope, &new_key("one", 1)).version;
    let (first, second) = (nothing(&store, 1), nothing(&store, 2));
    let renamed = rename(&store, "two");
    assert_eq!([made, first, second, renamed].map(Commit::number), [2, 3, 4, 5]);
    assert_eq!(store.trim_history(second).unwrap(), made);
    assert_eq!(store.history_floor().unwrap(), made);
    // One commit, and what is behind it is told.
    assert_eq!(newest(&store).number(), renamed.number() + 1);
    for commit in [made, first, second] {
        let then = store.read(&scope, |snap| snap.key_at(id(1), At::Commit(commit))).unwrap();
        assert_eq!(then.key_alias, key_alias("one"), "{commit}");
        let changes = store.changes(Some(&store.position_after(commit)), Limit::MAX).unwrap();
        assert_eq!(changes.commits[0].info.commit, renamed, "{commit}");
    }
}

#[test]
fn trimming_where_there_is_nothing_makes_no_commit() {
    let (store, scope) = (Checked::in_memory(), scope("p"));
    let nothing_changes = || {
        let (before, dump) = (newest(&store), Dump::of(&store, &scope));
        for to in [0, 1] {
            assert_eq!(store.trim_history(Commit::new(to)).unwrap(), Commit::default(), "to {to}");
        }
        assert_eq!((newest(&store), Dump::of(&store, &scope)), (before, dump));
    };
    // Of a store in which nothing was ever changed, and below the first change of all.
    nothing_changes();
    let made = create(&store, &scope, &new_key("one", 1)).version;
    nothing_changes();
    assert!(store.changes(None, Limit::MAX).is_ok());
    assert_eq!(store.trim_history(made).unwrap(), made);
    // All is gone; what comes up to now, the commit of the trimming included, has no entries.
    nothing(&store, 1);
    let before = newest(&store);
    for to in 0..=before.number() {
        assert_eq!(store.trim_history(Commit::new(to)).unwrap(), made, "to {to}");
    }
    assert_eq!(newest(&store), before);
    let ahead = Commit::new(before.number() + 1);
    assert!(matches!(store.trim_history(ahead), Err(Error::CommitNotFound(told)) if told == ahead));
}

/// Many steps, and the last entry is of an earlier commit than the one that is asked for.
#[test]
fn trimming_in_steps_ends_with_the_newest_entry() {
    let (store, scope) = (Checked::in_memory(), scope("p"));
    create(&store, &scope, &new_key("one", 1));
    let renamed: Vec<_> = (0..250).map(|n| rename(&store, &format!("name-{n}"))).collect();
    nothing(&store, 1);
    let before = newest(&store);
    assert_eq!(store.trim_history(before).unwrap(), renamed[249]);
    // 251 entries in steps of 100.
    assert_eq!(newest(&store).number(), before.number() + 3);
}

#[test]
fn trimming_up_to_a_number_that_a_restore_left_out_lowers_too() {
    let (folder, scope) = (tempfile::tempdir().unwrap(), scope("p"));
    let path = |name: &str| folder.path().join(name);
    let store = options().open(path("store")).unwrap();
    create(&store, &scope, &new_key("one", 1));
    let last = rename(&store, "two");
    store.backup(path("backup")).unwrap();
    Restore::of(path("backup")).into_file(path("restored")).unwrap();
    let store = Checked::new(options().open(path("restored")).unwrap());
    let first = newest(&store);
    assert!(first.number() > 1_000_000, "{first}");
    let renamed = rename(&store, "three");
    for left_out in [first.number() - 1, last.number() + 1] {
        let looked = store.read(&scope, |snap| snap.key_at(id(1), At::Commit(Commit::new(left_out))));
        assert!(matches!(looked, Err(Error::CommitNotFound(_))));
        assert_eq!(store.trim_history(Commit::new(left_out)).unwrap(), last, "{left_out}");
    }
    assert_eq!(newest(&store).number(), renamed.number() + 1);
    let changes = store.changes(Some(&store.position_after(last)), Limit::MAX).unwrap();
    assert_eq!(changes.commits.iter().map(|commit| commit.info.commit).collect::<Vec<_>>(), [renamed]);
}

#[test]
fn commit_0_is_the_moment_before_the_store_was_made() {
    let (store, scope, zero) = (Checked::in_memory(), scope("p"), Commit::default());
    assert_eq!((zero.number(), newest(&store).number()), (0, 1));
    let made = create(&store, &scope, &new_key("one", 1).alias(alias("x"))).version;
    // Nothing was there, so nothing is found; it is the floor of a history that is whole.
    assert_eq!(store.history_floor().unwrap(), zero);
    let look = || {
        store
            .read(&scope, |snap| {
                Ok((snap.key_at(id(1), At::Commit(zero)), snap.alias_at(&alias("x"), At::Commit(zero))))
            })
            .unwrap()
    };
    assert!(matches!(look(), (Err(Error::KeyNotFound { .. }), Err(Error::AliasNotFound { .. }))));
    // A position behind it is the beginning.
    let beginning = store.position_after(zero);
    let same = |one: Option<&Position>| store.changes(one, Limit::MAX).map(|changes| changes.commits);
    assert_eq!(same(Some(&beginning)).unwrap(), same(None).unwrap());
    assert_eq!(store.wait(&beginning, Duration::ZERO).unwrap(), Waited::Committed);
    // No record has it as its version, everybody has seen it, and it can't be undone.
    let expected = store.write(&request(&scope), |txn| txn.expect_key(id(1), Expect::Version(zero)));
    assert!(matches!(expected, Err(Error::PreconditionFailed { .. })));
    assert!(store.read_at_least(&scope, zero, |snap| Ok(snap.commit())).unwrap() >= made);
    let revert = || store.write(&request(&scope), |txn| txn.revert(zero)).unwrap_err();
    assert!(matches!(revert(), Error::CommitNotFound(told) if told == zero));
    assert_eq!(store.trim_history(zero).unwrap(), zero);
    // Where anything was trimmed, it is below the floor.
    store.trim_history(made).unwrap();
    assert!(matches!(look(), (Err(Error::HistoryTrimmed { .. }), Err(Error::HistoryTrimmed { .. }))));
    assert!(matches!(same(Some(&beginning)), Err(Error::HistoryTrimmed { .. })));
    assert!(matches!(same(None), Err(Error::HistoryTrimmed { .. })));
    assert!(matches!(revert(), Error::CommitNotFound(told) if told == zero));
}

#[test]
fn a_full_page_of_changes_may_end_before_commits_without_changes() {
    let (store, scope) = (Checked::in_memory(), scope("p"));
    let made = create(&store, &scope, &new_key("one", 1)).version;
    let last = nothing(&store, 1);
    let full = store.changes(None, limit(1)).unwrap();
    assert_eq!((full.commits.len(), full.position), (1, store.position_after(made)));
    // There is a commit behind it, so nobody has to wait; and the next page has nothing but its position.
    assert_eq!(store.wait(&full.position, Duration::ZERO).unwrap(), Waited::Committed);
    let rest = store.changes(Some(&full.position), limit(1)).unwrap();
    assert_eq!((rest.commits.len(), rest.position), (0, store.position_after(last)));
    // One that is not full ends with the newest commit.
    let all = store.changes(None, limit(2)).unwrap();
    assert_eq!((all.commits.len(), all.position), (1, store.position().unwrap()));
}

#[test]
fn a_full_page_of_a_filtered_list_may_lead_to_nothing() {
    let (store, scope) = (Checked::in_memory(), scope("p"));
    create(&store, &scope, &new_key("one", 1));
    create(&store, &scope, &new_key("two", 2));
    store.write(&request(&scope), |txn| txn.disable(id(2))).unwrap();
    let enabled = KeyFilter::all().state(KeyState::Enabled);
    let page = |filter: &KeyFilter, after: After<'_, _>| {
        store.read(&scope, |snap| snap.keys_by_id(filter, after, limit(1))).unwrap()
    };
    let full = page(&enabled, After::Start);
    assert_eq!(full.items.iter().map(|key| key.key_id).collect::<Vec<_>>(), [id(1)]);
    let next = full.next.unwrap();
    let end = page(&enabled, After::Cursor(&next));
    assert_eq!((end.items.len(), end.next), (0, None));
    // Without a filter the end is known.
    let all = KeyFilter::all();
    let first = page(&all, After::Start).next.unwrap();
    let last = page(&all, After::Cursor(&first));
    assert_eq!((last.items.len(), last.next), (1, None));
}

#[test]
fn copying_may_split_the_records_of_one_trimmed_commit() {
    let (source, target) = (Checked::in_memory(), Checked::in_memory());
    let scope = scope("p");
    let made = source
        .write(&request(&scope), |txn| {
            (1..=30).try_for_each(|n| txn.create_key(&new_key(&format!("key-{n}"), n)).map(drop))
        })
        .unwrap()
        .commit;
    source.trim_history(made).unwrap();
    source.copy_to(&target).unwrap();
    let versions = |store: &Store| {
        let keys = Dump::of(store, &scope).keys;
        assert_eq!(keys.len(), 30);
        keys.values().map(|key| key.version).collect::<BTreeSet<_>>()
    };
    assert_eq!(versions(&source), BTreeSet::from([made]));
    let copied = versions(&target);
    assert!(copied.len() > 1, "{copied:?}");
    // None is of a later commit than the floor, so nothing tells of it.
    assert_eq!(copied.last().copied(), Some(target.history_floor().unwrap()));
}

#[test]
fn write_once_replaces_the_id_of_the_request() {
    let (store, scope) = (Checked::in_memory(), scope("p"));
    let labelled = request(&scope).request_id(request_id(7));
    let new = new_key("one", 1);
    store.write_once(&labelled, &request_id(1), b"body", |txn| Ok(txn.create_key(&new)?.key_id)).unwrap();
    let told = store.changes(None, Limit::MAX).unwrap().commits;
    assert_eq!(told[0].info.request_id, Some(request_id(1)));
    // The other id was used for nothing.
    let other = store.write_once(&labelled, &request_id(7), b"another", |_| Ok(())).unwrap();
    assert!(!other.replayed);
}

#[test]
fn a_sweep_without_a_budget_does_nothing_and_is_never_done() {
    let (store, scope) = (Checked::in_memory(), scope("p"));
    // Also where there is nothing to do.
    let swept = store.sweep(day(100), 0, None).unwrap();
    assert_eq!((swept.done, swept.after), (false, None));
    create(&store, &scope, &new_key("one", 1));
    store.write(&request(&scope), |txn| txn.schedule_deletion(id(1), week())).unwrap();
    let before = Dump::of(&store, &scope);
    let swept = store.sweep(day(100), 0, Some(&scope)).unwrap();
    assert_eq!((swept.done, swept.after.as_ref(), swept.keys_purged), (false, Some(&scope), 0));
    // Nor does the removal of a scope, unless nothing is there.
    let removed = store.remove_scope(&request(&scope), 0).unwrap();
    assert_eq!((removed.keys, removed.done), (0, false));
    assert_eq!(Dump::of(&store, &scope), before);
    assert!(store.remove_scope(&request(&common::scope("empty")), 0).unwrap().done);
    assert!(store.sweep(day(100), 2, None).unwrap().keys_purged == 1);
}

#[test]
fn times_of_a_record_never_go_back_behind_its_own() {
    for history in [true, false] {
        let (store, scope) = (Checked::with(options().history(history)), scope("p"));
        let on = |at: Timestamp| Request::new(&scope).at(at);
        store.write(&on(day(10)), |txn| txn.create_key(&new_key("one", 1))).unwrap();
        store.write(&on(day(10)), |txn| txn.enable_rotation(id(1), RotationInterval::default())).unwrap();
        // The clock of this request is five days behind.
        let key = store.write(&on(day(5)), |txn| txn.record_rotation(id(1))).unwrap().value;
        assert_eq!((key.updated_at, key.rotation.last_rotated_at), (day(10), Some(day(10))));
        let key = store.write(&on(day(12)), |txn| txn.record_rotation(id(1))).unwrap().value;
        assert_eq!(key.rotation.last_rotated_at, Some(day(12)));
        let key = store.write(&on(day(11)), |txn| txn.record_rotation(id(1))).unwrap().value;
        assert_eq!((key.rotation.last_rotated_at, key.rotation.count), (Some(day(12)), 3));
        // So has that of the deletion: else the key were gone seven days after a wrong clock's time.
        let key = store.write(&on(day(1)), |txn| txn.schedule_deletion(id(1), week())).unwrap().value;
        assert_eq!((key.updated_at, key.scheduled_deletion_at), (day(12), Some(day(19))));
        assert_eq!(store.sweep(day(18), 10, None).unwrap().keys_purged, 0);
        assert_eq!(store.sweep(day(19), 10, None).unwrap().keys_purged, 1);
    }
}

#[test]
fn a_rotation_is_recorded_when_its_change_was_made() {
    // The same in the history: of one transaction, and of a key that was there before.
    let (store, scope) = (Checked::in_memory(), scope("p"));
    let new = new_key("one", 1);
    store.write(&Request::new(&scope).at(day(9)), |txn| txn.create_key(&new)).unwrap();
    let written = store.write(&Request::new(&scope).at(day(2)), |txn| {
        txn.enable_rotation(id(1), RotationInterval::default())?;
        txn.record_rotation(id(1))
    });
    let key = written.unwrap().value;
    let page = store
        .read(&scope, |snap| snap.history(HistoryOf::Key(id(1)), Order::NewestFirst, After::Start, limit(1)));
    let newest = &page.unwrap().items[0];
    assert_eq!((newest.change.operation, newest.change.time), (Operation::RecordRotation, day(9)));
    assert_eq!((newest.info.time, key.rotation.last_rotated_at), (day(2), Some(day(9))));
}

fn external(store: &Store, expires_at: Timestamp) {
    let scope = scope("p");
    create(store, &scope, &new_key("one", 1).origin(Origin::External));
    store.write(&request(&scope), |txn| txn.material_imported(id(1), Some(expires_at))).unwrap();
}

#[test]
fn material_is_not_imported_with_an_expiry_that_is_over() {
    let (store, scope) = (Checked::in_memory(), scope("p"));
    create(&store, &scope, &new_key("one", 1).origin(Origin::External));
    let import = |expires_at: Timestamp| {
        let before = Dump::of(&store, &scope);
        // Requests are made on day 1.
        let done = store.write(&request(&scope), |txn| txn.material_imported(id(1), Some(expires_at)));
        if done.is_err() {
            assert_eq!(Dump::of(&store, &scope), before);
        }
        done.map(|done| done.value)
    };
    let millis = |time: Timestamp| time.as_millis();
    for over in [0, millis(day(0)), millis(day(1)) - 1, millis(day(1))].map(Timestamp::from_millis) {
        let refused = import(over).unwrap_err();
        assert!(matches!(refused, Error::InvalidExpiry { expires_at } if expires_at == over), "{refused}");
        assert!(refused.to_string().contains(&over.as_millis().to_string()), "{refused}");
    }
    let to_come = Timestamp::from_millis(millis(day(1)) + 1);
    let key = import(to_come).unwrap();
    assert_eq!(key.material, Material { present: true, expires_at: Some(to_come) });
}

#[test]
fn cancelling_a_deletion_after_the_expiry_leaves_the_key_without_material() {
    let (scope, gone) = (scope("p"), Material { present: false, expires_at: None });
    let before = Timestamp::from_millis(day(5).as_millis() - 1);
    let kept = Material { present: true, expires_at: Some(day(5)) };
    let cases = [
        (before, KeyState::Disabled, kept),
        (day(5), KeyState::PendingImport, gone),
        (day(30), KeyState::PendingImport, gone),
    ];
    for (now, state, material) in cases {
        let store = Checked::in_memory();
        external(&store, day(5));
        store.write(&request(&scope), |txn| txn.schedule_deletion(id(1), week())).unwrap();
        let cancelled = store.write(&Request::new(&scope).at(now), |txn| txn.cancel_deletion(id(1)));
        let key = cancelled.unwrap().value;
        assert_eq!((key.state, key.material), (state, material), "{now:?}");
        assert_eq!(key.scheduled_deletion_at, None);
        // One change, made by that operation; nothing is left to expire.
        let swept = store.sweep(day(40), 10, None).unwrap();
        assert_eq!((swept.materials_expired, swept.keys_purged), (u64::from(state == KeyState::Disabled), 0));
        let imported =
            store.write(&Request::new(&scope).at(day(40)), |txn| txn.material_imported(id(1), None));
        assert_eq!(imported.unwrap().value.state, KeyState::Enabled);
    }
}

#[test]
fn tags_that_are_named_twice_are_refused_by_name() {
    let (store, scope) = (Checked::in_memory(), scope("p"));
    let tag = |name: &str| TagKey::new(name).unwrap();
    create(
        &store,
        &scope,
        &new_key("one", 1).tag(tag("a"), "1".parse().unwrap()).tag(tag("b"), "2".parse().unwrap()),
    );
    let remove = |tags: &[&str]| {
        let tags: Vec<_> = tags.iter().map(|name| tag(name)).collect();
        common::refused(&store, &scope, |txn| txn.remove_tags(id(1), &tags))
    };
    // Whether it is there or not, and whatever else is not there.
    for (tags, twice) in [(&["a", "a"][..], "a"), (&["c", "c"], "c"), (&["c", "b", "a", "b", "a"], "b")] {
        let refused = remove(tags);
        assert!(
            matches!(&refused, Error::DuplicateTag { tag } if tag.as_str() == twice),
            "{tags:?}: {refused}"
        );
        assert!(refused.to_string().contains(&format!("{twice:?}")), "{refused}");
        assert_eq!(refused.api().map(|api| (api.code, api.status)), Some(("KMS.0406", 400)));
    }
    assert!(matches!(remove(&["a", "c"]), Error::TagNotFound { .. }));
    // Names differ by case.
    assert!(matches!(remove(&["a", "A"]), Error::TagNotFound { .. }));
}
