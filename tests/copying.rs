//! Copying a whole store into another: everything is there, and nothing half of it is taken for whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]

use keystead::{
    After, Alias, AliasScope, At, Error, HistoryOf, KeyAlias, Limit, NewKey, Options, Order, PendingDays,
    Request, RequestId, Result, Scope, Store, Timestamp,
};

fn scope(project: &str) -> Scope {
    Scope::new("domain", project).unwrap()
}

fn request(project: &str, time: u64) -> Request {
    Request::new(&scope(project)).at(Timestamp::from_millis(time)).actor("alice")
}

fn alias(name: &str) -> Alias {
    name.parse().unwrap()
}

const REQUEST_ID: &str = "919c82d4-8046-4722-9094-35c3c6524cff";

/// Keys and aliases that came, moved, were renamed and swapped, went and came again.
fn lived_in(store: &Store) -> Result<[NewKey; 3]> {
    let keys = ["orders", "invoices", "old"].map(|name| NewKey::new(name).unwrap());
    let tag = ("team".parse()?, "blue".parse()?);
    let orders = keys[0].clone().alias(alias("kms-1")).alias(alias("kms-2")).tag(tag.0, tag.1);
    store.write(&request("one", 1000), |txn| txn.create_key(&orders))?;
    store.write(&request("one", 2000), |txn| txn.create_key(&keys[1]))?;
    store.write(&request("two", 2500), |txn| txn.create_key(&keys[2]))?;
    store.write(&request("one", 3000), |txn| txn.associate_alias(&alias("kms-1"), keys[1].key_id))?;
    let name: KeyAlias = "orders-2026".parse()?;
    store.write(&request("one", 4000), |txn| {
        txn.rename_key_alias(keys[0].key_id, &name)?;
        // Two changes of one record in one commit.
        txn.rename_key_alias(keys[0].key_id, &"orders-2027".parse::<KeyAlias>()?)?;
        txn.swap_key_aliases(keys[0].key_id, keys[1].key_id)
    })?;
    store.write(&request("one", 5000), |txn| txn.delete_aliases(keys[0].key_id, &[alias("kms-2")]))?;
    store.write(&request("one", 6000), |txn| txn.create_alias(&alias("kms-2"), keys[1].key_id))?;
    store.write(&request("one", 6500), |txn| txn.delete_aliases(keys[1].key_id, &[alias("kms-2")]))?;
    store.write(&request("two", 7000), |txn| txn.schedule_deletion(keys[2].key_id, PendingDays::new(7)?))?;
    store.write_once(&request("one", 8000), &REQUEST_ID.parse::<RequestId>()?, b"describe", |txn| {
        Ok(txn.update_description(keys[0].key_id, &"all of them".parse()?)?.version)
    })?;
    Ok(keys)
}

fn all_aliases(store: &Store) -> Vec<(String, String)> {
    let page = store.read(&scope("one"), |snap| snap.aliases(After::Start, Limit::MAX)).unwrap();
    page.items.iter().map(|alias| (alias.alias.to_string(), alias.key_id.to_string())).collect()
}

/// The history of an alias without numbers of commits.
fn history(store: &Store, name: &str) -> Vec<String> {
    let (name, limit) = (alias(name), Limit::MAX);
    let page = store.read(&scope("one"), |snap| {
        snap.history(HistoryOf::Alias(&name), Order::OldestFirst, After::Start, limit)
    });
    let change = |change: &keystead::ChangeRecord| {
        format!(
            "{:?} {:?} {:?} {}",
            change.info.time, change.info.actor, change.change.operation, change.index
        )
    };
    page.unwrap().items.iter().map(change).collect()
}

#[test]
fn a_copy_has_everything_and_its_history() {
    let (source, target) = (Store::in_memory().unwrap(), Store::in_memory().unwrap());
    let keys = lived_in(&source).unwrap();
    // So that the numbers differ.
    target.write(&request("other", 1), |txn| txn.create_key(&NewKey::new("x")?)).unwrap();
    assert!(matches!(source.copy_to(&target), Err(Error::NotEmpty)));
    let target = Store::in_memory().unwrap();
    let copied = source.copy_to(&target).unwrap();
    assert_eq!(copied.entries, 10);
    assert_eq!(all_aliases(&target), all_aliases(&source));
    for name in ["kms-1", "kms-2"] {
        assert_eq!(history(&target, name), history(&source, name));
        assert!(history(&target, name).len() > 1);
    }
    for key in &keys[..2] {
        let read = |store: &Store| store.read(&scope("one"), |snap| snap.key(key.key_id)).unwrap();
        let (there, here) = (read(&source), read(&target));
        assert_eq!(there.key_alias, here.key_alias);
        assert_eq!((there.created_at, there.updated_at), (here.created_at, here.updated_at));
    }
    let then = At::Time(Timestamp::from_millis(2999));
    let before = target.read(&scope("one"), |snap| snap.resolve_at(&alias("kms-1"), then)).unwrap();
    assert_eq!(before.key_id, keys[0].key_id);
    // The request that comes again gets the answer that it got.
    let again = |store: &Store| {
        let request_id = REQUEST_ID.parse::<RequestId>()?;
        store.write_once(&request("one", 9000), &request_id, b"describe", |_| Ok(keystead::Commit::default()))
    };
    let (first, copy) = (again(&source).unwrap(), again(&target).unwrap());
    assert!(copy.replayed);
    assert_eq!(first.value, copy.value);
    assert!(matches!(
        target.changes(Some(&source.position().unwrap()), Limit::MAX),
        Err(Error::PositionOfAnotherStore)
    ));
    assert!(target.verify().unwrap().is_clean());
}

#[test]
fn a_trimmed_history_is_as_short_in_the_copy() {
    let source = Store::in_memory().unwrap();
    let keys = lived_in(&source).unwrap();
    let whole = source.changes(None, Limit::MAX).unwrap().commits;
    for kept in 0..=whole.len() {
        let source = Store::in_memory().unwrap();
        lived_in(&source).unwrap();
        let commits = source.changes(None, Limit::MAX).unwrap().commits;
        if kept < commits.len() {
            source.trim_history(commits[commits.len() - 1 - kept].info.commit).unwrap();
        }
        let target = Store::in_memory().unwrap();
        let copied = source.copy_to(&target).unwrap();
        assert_eq!(copied.entries, kept as u64);
        assert_eq!(all_aliases(&target), all_aliases(&source));
        assert!(target.verify().unwrap().is_clean());
        if kept < commits.len() {
            let trimmed = target.changes(None, Limit::MAX);
            assert!(matches!(trimmed, Err(Error::HistoryTrimmed { .. })), "{trimmed:?}");
        }
        // It goes on from there.
        target.write(&request("one", 9000), |txn| txn.create_key(&NewKey::new("new")?)).unwrap();
        assert!(target.verify().unwrap().is_clean());
    }
    assert_eq!(keys.len(), 3);
}

#[test]
fn a_store_without_history_is_copied_too() {
    let options = Options::new().history(false).alias_scope(AliasScope::Domain);
    let (source, target) = (options.in_memory().unwrap(), options.in_memory().unwrap());
    for number in 0..300 {
        let new = NewKey::new(&format!("key-{number}")).unwrap().alias(alias(&format!("alias-{number}")));
        let options = request(if number % 2 == 0 { "one" } else { "two" }, number);
        // More than the quota of one project is refused, and is not copied.
        drop(source.write(&options, |txn| txn.create_key(&new)));
    }
    let copied = source.copy_to(&target).unwrap();
    assert_eq!(copied.entries, 0);
    assert!(copied.rows >= 200 * 5);
    assert_eq!(all_aliases(&target), all_aliases(&source));
    assert!(matches!(source.copy_to(&Store::in_memory().unwrap()), Err(Error::OptionsMismatch { .. })));
}

#[test]
fn a_copy_that_was_cut_off_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let source = Store::in_memory().unwrap();
    lived_in(&source).unwrap();
    // So many rows that they are not copied at once, in as many projects as the quota asks for.
    for number in 0..300 {
        let new = NewKey::new(&format!("filler-{number}")).unwrap().alias(alias(&format!("other-{number}")));
        let request = request(&format!("filled-{}", number / 100), number);
        source.write(&request, |txn| txn.create_key(&new)).unwrap();
    }
    let file = folder.path().join("source.redb");
    source.backup(&file).unwrap();
    let sound = std::fs::read(&file).unwrap();
    let places = (0..sound.len() - 7).filter(|at| sound[*at..].starts_with(b"filler-"));
    let mut cut_off = 0;
    for (number, place) in places.step_by(60).enumerate() {
        // A damaged source: the copy fails, in the middle if what comes first can be read.
        let mut bytes = sound.clone();
        bytes[place] = b'x';
        std::fs::write(&file, bytes).unwrap();
        let Ok(damaged) = Options::new().open_read_only(&file) else { continue };
        let path = folder.path().join(format!("target-{number}.redb"));
        let target = Store::open(&path).unwrap();
        assert!(matches!(damaged.copy_to(&target), Err(Error::Corrupted(_))));
        drop(target);
        match Store::open(&path) {
            Err(Error::Unfinished) => cut_off += 1,
            opened => assert!(all_aliases(&opened.unwrap()).is_empty(), "part of a copy is opened"),
        }
    }
    assert!(cut_off > 0);
}
