//! Undoing commits that only moved aliases and renamed keys: what it does, and when it refuses.
#![allow(clippy::unwrap_used, reason = "unwrap is fine in tests")]

mod history_support;

use history_support::{DAY, START, alias, assert_clean, at, key_alias, records, request_id};
use keystead::{
    Actual, Alias, Commit, Committed, Compatibility, Description, Error, KeyAlias, KeyId, KeySpec, Limit,
    NewKey, Operation, Options, PendingDays, Quota, Quotas, Request, Result, Scope, Store, Tags, Transaction,
};

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn request() -> Request {
    Request::new(&scope()).at(at(START))
}

/// A store with the keys `a`, `b`, `c`; `a` has the aliases `x` and `z`, `b` has `y`.
struct Rig {
    store: Store,
    a: KeyId,
    b: KeyId,
    c: KeyId,
}

impl Rig {
    fn new() -> Self {
        Self::with(&Options::new())
    }

    fn with(options: &Options) -> Self {
        Self::of(options.clone().run_closures_twice(true).in_memory().unwrap())
    }

    fn of(store: Store) -> Self {
        let new = |name: &str, aliases: &[&str]| {
            let new = NewKey::new(name).unwrap();
            aliases.iter().fold(new, |new, name| new.alias(alias(name)))
        };
        let keys = [new("a", &["x", "z"]), new("b", &["y"]), new("c", &[])];
        let created =
            |txn: &mut Transaction<'_>| keys.iter().try_for_each(|key| txn.create_key(key).map(drop));
        store.write(&request(), created).unwrap();
        let [a, b, c] = keys.map(|key| key.key_id);
        Self { store, a, b, c }
    }

    fn write<T>(&self, closure: impl Fn(&mut Transaction<'_>) -> Result<T>) -> Committed<T> {
        self.store.write(&request(), closure).unwrap()
    }

    fn rename(&self, key: KeyId, to: &str) -> Commit {
        self.write(|txn| txn.rename_key_alias(key, &key_alias(to))).commit
    }

    fn associate(&self, name: &str, target: KeyId) -> Commit {
        self.write(|txn| txn.associate_alias(&alias(name), target)).commit
    }

    fn revert(&self, commit: Commit) -> Result<Committed<()>> {
        self.store.write(&request(), |txn| txn.revert(commit))
    }

    fn reverted(&self, commit: Commit) -> Commit {
        let reverted = self.revert(commit).unwrap();
        assert!(reverted.changed);
        reverted.commit
    }

    /// Asserts that a revert is refused and changes nothing; returns why.
    fn refused(&self, commit: Commit) -> Error {
        let (records, position) = (records(&self.store, &scope()), self.store.position().unwrap());
        let error = self.revert(commit).unwrap_err();
        assert_eq!(self::records(&self.store, &scope()), records);
        assert_eq!(self.store.position().unwrap(), position);
        // Nor if the closure goes on without it: the rest is committed.
        let marked = Description::new(&format!("marked after {commit}")).unwrap();
        self.store
            .dry_run(&request(), |txn| {
                let before = txn.key(self.c);
                assert_eq!(txn.revert(commit).unwrap_err().to_string(), error.to_string());
                assert_eq!(txn.key(self.c).is_ok(), before.is_ok());
                match txn.update_description(self.c, &marked) {
                    Err(error) if error.api().is_none() => Err(error),
                    _ => Ok(()),
                }
            })
            .map(|dry| assert!(dry.changes.len() <= 1, "{dry:?}"))
            .unwrap();
        assert_clean(&self.store);
        error
    }

    /// Asserts that a revert is refused because a record is not what the commit made of it.
    fn precondition_failed(&self, commit: Commit) -> Option<Actual> {
        match self.refused(commit) {
            Error::PreconditionFailed { actual } => actual,
            other => panic!("{other}"),
        }
    }

    fn not_revertible(&self, commit: Commit) {
        assert!(matches!(self.refused(commit), Error::NotRevertible(told) if told == commit));
    }

    fn not_found(&self, commit: Commit) {
        assert!(matches!(self.refused(commit), Error::CommitNotFound(told) if told == commit));
    }

    fn name(&self, key: KeyId) -> KeyAlias {
        self.store.read(&scope(), |snap| snap.key(key)).unwrap().key_alias.clone()
    }

    fn target(&self, name: &str) -> KeyId {
        self.store.read(&scope(), |snap| snap.resolve(&alias(name))).unwrap().key_id
    }

    /// Asserts who is named how, by both directions.
    fn assert_names(&self, names: [&str; 3]) {
        for (key, name) in [self.a, self.b, self.c].into_iter().zip(names) {
            assert_eq!(self.name(key).as_str(), name);
            let found = self.store.read(&scope(), |snap| snap.find_by_key_alias(&key_alias(name)));
            assert_eq!(found.unwrap().key_id, key);
        }
    }

    fn assert_targets(&self, targets: [KeyId; 3]) {
        assert_eq!(["x", "y", "z"].map(|name| self.target(name)), targets);
    }
}

#[test]
fn a_move_is_undone() {
    let rig = Rig::new();
    let commit = rig.associate("x", rig.b);
    let reverted = rig.reverted(commit);
    rig.assert_targets([rig.a, rig.b, rig.a]);
    // It is a change of its own, that tells what it is.
    let changes = rig.store.changes(Some(&rig.store.position_after(commit)), Limit::MAX).unwrap();
    let [record] = &changes.commits[..] else { panic!("{changes:?}") };
    assert_eq!(record.info.commit, reverted);
    assert_eq!(record.changes.len(), 1);
    assert_eq!(record.changes[0].operation, Operation::Revert);
    assert_clean(&rig.store);
}

#[test]
fn a_rename_is_undone() {
    let rig = Rig::new();
    let commit = rig.rename(rig.a, "new");
    rig.reverted(commit);
    rig.assert_names(["a", "b", "c"]);
    let freed = rig.store.read(&scope(), |snap| snap.find_by_key_alias(&key_alias("new")));
    assert!(matches!(freed, Err(Error::KeyNotFound { .. })));
    assert_clean(&rig.store);
}

#[test]
fn swaps_are_undone() {
    let rig = Rig::new();
    let names = rig.write(|txn| txn.swap_key_aliases(rig.a, rig.b)).commit;
    rig.assert_names(["b", "a", "c"]);
    let aliases = rig.write(|txn| txn.swap_aliases(&alias("x"), &alias("y"))).commit;
    rig.assert_targets([rig.b, rig.a, rig.a]);
    rig.reverted(names);
    rig.assert_names(["a", "b", "c"]);
    rig.reverted(aliases);
    rig.assert_targets([rig.a, rig.b, rig.a]);
    assert_clean(&rig.store);
}

#[test]
fn a_chain_of_names_in_one_commit_is_undone_at_once() {
    let rig = Rig::new();
    // From the free end: c becomes d, b becomes c, a becomes b; and aliases move along.
    let commit = rig
        .write(|txn| {
            txn.rename_key_alias(rig.c, &key_alias("d"))?;
            txn.rename_key_alias(rig.b, &key_alias("c"))?;
            txn.associate_alias(&alias("x"), rig.b)?;
            txn.rename_key_alias(rig.a, &key_alias("b"))?;
            txn.swap_aliases(&alias("x"), &alias("z"))?;
            txn.associate_alias(&alias("y"), rig.c)
        })
        .commit;
    rig.assert_names(["b", "c", "d"]);
    rig.assert_targets([rig.a, rig.c, rig.b]);
    rig.reverted(commit);
    rig.assert_names(["a", "b", "c"]);
    rig.assert_targets([rig.a, rig.b, rig.a]);
    assert_clean(&rig.store);
}

#[test]
fn a_ring_of_names_is_undone() {
    let rig = Rig::new();
    let commit =
        rig.write(|txn| txn.swap_key_aliases(rig.a, rig.b).and(txn.swap_key_aliases(rig.b, rig.c))).commit;
    rig.assert_names(["b", "c", "a"]);
    let reverted = rig.reverted(commit);
    rig.assert_names(["a", "b", "c"]);
    rig.reverted(reverted);
    rig.assert_names(["b", "c", "a"]);
    assert_clean(&rig.store);
}

#[test]
fn what_one_commit_did_several_times_to_a_record_is_undone_as_a_whole() {
    let rig = Rig::new();
    let commit = rig
        .write(|txn| {
            txn.rename_key_alias(rig.a, &key_alias("one"))?;
            txn.rename_key_alias(rig.a, &key_alias("two"))?;
            txn.associate_alias(&alias("x"), rig.b)?;
            txn.associate_alias(&alias("x"), rig.c)
        })
        .commit;
    rig.reverted(commit);
    rig.assert_names(["a", "b", "c"]);
    rig.assert_targets([rig.a, rig.b, rig.a]);
    assert_clean(&rig.store);
}

#[test]
fn what_came_to_nothing_is_undone_by_doing_nothing() {
    let rig = Rig::new();
    let commit = rig
        .write(|txn| {
            txn.rename_key_alias(rig.a, &key_alias("one"))?;
            txn.rename_key_alias(rig.a, &key_alias("a"))?;
            txn.associate_alias(&alias("x"), rig.b)?;
            txn.associate_alias(&alias("x"), rig.a)
        })
        .commit;
    let position = rig.store.position().unwrap();
    assert!(!rig.revert(commit).unwrap().changed);
    assert_eq!(rig.store.position().unwrap(), position);
    assert_clean(&rig.store);
}

/// Moves and renames `x` alone; `z` and the name of `b` are as before.
fn move_x_and_others_there_and_back(rig: &Rig) -> Commit {
    let there_and_back = |txn: &mut Transaction<'_>| {
        txn.rename_key_alias(rig.b, &key_alias("other"))?;
        txn.rename_key_alias(rig.b, &key_alias("b"))?;
        txn.associate_alias(&alias("z"), rig.c)?;
        txn.associate_alias(&alias("x"), rig.c)?;
        txn.associate_alias(&alias("z"), rig.a)
    };
    rig.write(there_and_back).commit
}

#[test]
fn what_a_commit_brought_back_is_not_checked() {
    type Later = fn(&Rig, &mut Transaction<'_>) -> Result<()>;
    let later: [(&str, Later); 6] = [
        ("moved", |rig, txn| txn.associate_alias(&alias("z"), rig.b).map(drop)),
        ("renamed", |rig, txn| txn.rename_key_alias(rig.b, &key_alias("new")).map(drop)),
        ("its name is another's", |rig, txn| txn.swap_key_aliases(rig.b, rig.c).map(drop)),
        ("frozen", |rig, txn| txn.freeze(rig.b).map(drop)),
        ("deleted", |rig, txn| txn.delete_aliases(rig.a, &[alias("z")])),
        ("spelled otherwise", |rig, txn| {
            txn.delete_aliases(rig.a, &[alias("z")])?;
            txn.create_alias(&alias("alias/z"), rig.c).map(drop)
        }),
    ];
    for (what, change) in later {
        let rig = Rig::new();
        let commit = move_x_and_others_there_and_back(&rig);
        rig.write(|txn| change(&rig, txn));
        let before = records(&rig.store, &scope());
        let reverted = rig.reverted(commit);
        let mut after = records(&rig.store, &scope());
        let x = after.aliases.insert(alias("x"), before.aliases[&alias("x")].clone()).unwrap();
        assert_eq!((x.key_id, x.version), (rig.a, reverted), "{what}");
        assert_eq!(after, before, "{what}: the rest is left alone");
        assert_clean(&rig.store);
    }
}

/// Nor are its key's state and what its key is like: there is nothing to move.
#[test]
fn the_key_of_what_a_commit_brought_back_may_be_in_any_state() {
    let rig = Rig::new();
    let commit = rig
        .write(|txn| {
            txn.associate_alias(&alias("y"), rig.c)?;
            txn.associate_alias(&alias("x"), rig.c)?;
            txn.associate_alias(&alias("y"), rig.b)
        })
        .commit;
    rig.write(|txn| txn.schedule_deletion(rig.b, PendingDays::new(7)?));
    rig.reverted(commit);
    rig.assert_targets([rig.a, rig.b, rig.a]);
    assert_clean(&rig.store);
}

#[test]
fn keys_come_before_aliases_and_both_in_the_order_of_lists() {
    let rig = Rig::new();
    let mut keys = [rig.a, rig.b, rig.c];
    keys.sort();
    // By URN name `alias/m` is between `k` and `z`, by its bytes before both.
    rig.write(|txn| {
        txn.create_alias(&alias("alias/m"), rig.a)?;
        txn.create_alias(&alias("k"), rig.a)
    });
    let names = ["alias/m", "k", "z"].map(alias);
    let commit = rig
        .write(|txn| {
            names.iter().rev().try_for_each(|name| txn.associate_alias(name, rig.c).map(drop))?;
            for key in keys.into_iter().rev() {
                let other = format!("other-{}", txn.key(key)?.key_alias);
                txn.rename_key_alias(key, &key_alias(&other))?;
            }
            Ok(())
        })
        .commit;
    let told = |error: Error| match error {
        Error::PreconditionFailed { actual } => actual.map(|actual| actual.target),
        other => panic!("{other}"),
    };
    let refused = |spoil: &dyn Fn(&mut Transaction<'_>) -> Result<()>| {
        let dry = rig.store.dry_run(&request(), |txn| {
            spoil(txn)?;
            txn.revert(commit)
        });
        told(dry.unwrap_err())
    };
    // The first that is not as it was: keys by their ids, then aliases by their URN names.
    let describe = |txn: &mut Transaction<'_>, key| {
        txn.update_description(key, &Description::new("changed").unwrap()).map(drop)
    };
    let spoil_names = |txn: &mut Transaction<'_>| {
        txn.associate_alias(&names[2], rig.a)?;
        txn.associate_alias(&names[0], rig.b).map(drop)
    };
    for first in 0..3 {
        let spoil = |txn: &mut Transaction<'_>| {
            spoil_names(txn)?;
            keys[first..].iter().rev().try_for_each(|key| describe(txn, *key))
        };
        assert_eq!(refused(&spoil), Some(keys[first]));
    }
    assert_eq!(refused(&spoil_names), Some(rig.b), "`alias/m` is before `z`");
    // And in this order the changes are told.
    let reverted = rig.reverted(commit);
    let changes = rig.store.changes(Some(&rig.store.position_after(commit)), Limit::MAX).unwrap();
    assert_eq!(changes.commits[0].info.commit, reverted);
    let told = changes.commits[0].changes.iter().map(|change| match &change.images {
        keystead::Images::Key { after, .. } => after.as_ref().unwrap().key_id.to_string(),
        keystead::Images::Alias { after, .. } => after.as_ref().unwrap().alias.to_string(),
    });
    let expected = keys.map(|key| key.to_string()).into_iter();
    let expected = expected.chain(["k", "alias/m", "z"].map(str::to_owned));
    assert_eq!(told.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert_clean(&rig.store);
}

#[test]
fn a_revert_can_be_reverted() {
    let rig = Rig::new();
    let mut commit = rig
        .write(|txn| {
            txn.rename_key_alias(rig.a, &key_alias("new"))?;
            txn.associate_alias(&alias("x"), rig.c)
        })
        .commit;
    for round in 0..4 {
        commit = rig.reverted(commit);
        let (name, target) = if round % 2 == 0 { ("a", rig.a) } else { ("new", rig.c) };
        assert_eq!((rig.name(rig.a).as_str(), rig.target("x")), (name, target));
    }
    assert_clean(&rig.store);
}

#[test]
fn swaps_between_full_keys_are_undone() {
    let options = Options::new().quotas(Quotas { aliases_per_key: 2, ..Quotas::default() });
    let rig = Rig::with(&options);
    rig.write(|txn| txn.create_alias(&alias("w"), rig.b));
    let one = rig.write(|txn| txn.swap_aliases(&alias("x"), &alias("y"))).commit;
    rig.reverted(one);
    rig.assert_targets([rig.a, rig.b, rig.a]);
    // Two pairs at once.
    let both = rig
        .write(|txn| {
            txn.swap_aliases(&alias("x"), &alias("y")).and(txn.swap_aliases(&alias("z"), &alias("w")))
        })
        .commit;
    rig.assert_targets([rig.b, rig.a, rig.b]);
    rig.reverted(both);
    rig.assert_targets([rig.a, rig.b, rig.a]);
    assert_eq!(rig.target("w"), rig.b);
    assert_clean(&rig.store);
}

#[test]
fn no_revert_exceeds_the_quota() {
    let options = Options::new().quotas(Quotas { aliases_per_key: 2, ..Quotas::default() });
    let rig = Rig::with(&options);
    let one = rig.associate("x", rig.c);
    rig.write(|txn| txn.create_alias(&alias("w"), rig.a));
    let error = rig.refused(one);
    assert!(matches!(error, Error::QuotaExceeded { quota: Quota::AliasesPerKey, max: 2 }), "{error}");
    rig.write(|txn| txn.delete_aliases(rig.a, &[alias("w")]));
    rig.reverted(one);
    // Two come back where there is room for one.
    let two = rig
        .write(|txn| txn.associate_alias(&alias("x"), rig.c).and(txn.associate_alias(&alias("z"), rig.c)))
        .commit;
    rig.write(|txn| txn.create_alias(&alias("w"), rig.a));
    assert!(matches!(rig.refused(two), Error::QuotaExceeded { .. }));
    rig.associate("w", rig.b);
    rig.reverted(two);
    rig.assert_targets([rig.a, rig.b, rig.a]);
    assert_clean(&rig.store);
}

/// It has as many aliases afterwards as before.
#[test]
fn a_swap_is_undone_on_a_key_that_is_above_a_lower_quota() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut rig = Rig::of(Options::new().run_closures_twice(true).open(&path).unwrap());
    let swapped = rig.write(|txn| txn.swap_aliases(&alias("x"), &alias("y"))).commit;
    // A file is opened once at a time.
    rig.store = Store::in_memory().unwrap();
    let lower = Options::new().quotas(Quotas { aliases_per_key: 1, ..Quotas::default() });
    rig.store = lower.run_closures_twice(true).open(&path).unwrap();
    rig.reverted(swapped);
    rig.assert_targets([rig.a, rig.b, rig.a]);
    assert_clean(&rig.store);
}

#[test]
fn anything_else_is_not_revertible() {
    let rig = Rig::new();
    let created = rig.store.position().unwrap().commit();
    rig.not_revertible(created);
    let other = NewKey::new("other").unwrap();
    let days = PendingDays::new(7).unwrap();
    let commits = [
        rig.write(|txn| txn.create_alias(&alias("w"), rig.a)).commit,
        rig.write(|txn| txn.delete_aliases(rig.a, &[alias("w")])).commit,
        rig.write(|txn| txn.disable(rig.b)).commit,
        rig.write(|txn| txn.enable(rig.b)).commit,
        rig.write(|txn| txn.freeze(rig.b)).commit,
        rig.write(|txn| txn.unfreeze(rig.b)).commit,
        rig.write(|txn| txn.update_description(rig.b, &Description::new("text").unwrap())).commit,
        rig.write(|txn| txn.set_tags(rig.b, &Tags::from([("t".parse()?, "v".parse()?)]))).commit,
        rig.write(|txn| txn.remove_tags(rig.b, &["t".parse()?])).commit,
        rig.write(|txn| txn.schedule_deletion(rig.b, days)).commit,
        rig.write(|txn| txn.cancel_deletion(rig.b)).commit,
        rig.write(|txn| txn.create_key(&other)).commit,
        rig.write(|txn| txn.ensure_default_key(&NewKey::default_of("obs")?.id(KeyId::from_bytes([9; 16]))))
            .commit,
        rig.write(|txn| txn.schedule_deletion(rig.b, days)).commit,
    ];
    for commit in commits {
        rig.not_revertible(commit);
    }
    let later = request().at(at(START + 8 * DAY));
    let purged = rig.store.write(&later, |txn| txn.purge(rig.b)).unwrap();
    assert!(purged.value);
    rig.not_revertible(purged.commit);
    assert_clean(&rig.store);
}

#[test]
fn a_mixed_commit_is_not_revertible() {
    let rig = Rig::new();
    let disabled = rig.write(|txn| txn.associate_alias(&alias("x"), rig.b).and(txn.disable(rig.c))).commit;
    rig.not_revertible(disabled);
    let created =
        rig.write(|txn| txn.create_alias(&alias("w"), rig.a).and(txn.associate_alias(&alias("w"), rig.b)));
    rig.not_revertible(created.commit);
    let deleted = rig.write(|txn| {
        txn.associate_alias(&alias("x"), rig.a)?;
        txn.delete_aliases(rig.a, &[alias("x")])
    });
    rig.not_revertible(deleted.commit);
    // A refused operation in a commit does not count.
    let renamed = rig.write(|txn| {
        assert!(txn.enable(rig.a).is_err());
        txn.rename_key_alias(rig.a, &key_alias("new"))
    });
    rig.reverted(renamed.commit);
    assert_clean(&rig.store);
}

#[test]
fn it_is_refused_when_a_record_changed_since() {
    let rig = Rig::new();
    let (moved, renamed) = (rig.associate("x", rig.b), rig.rename(rig.a, "new"));
    let again = rig.associate("x", rig.c);
    assert_eq!(rig.precondition_failed(moved), Some(Actual { target: rig.c, version: again }));
    // Also if it is again where that commit had put it.
    let back = rig.associate("x", rig.b);
    assert_eq!(rig.precondition_failed(moved), Some(Actual { target: rig.b, version: back }));
    // A key's record changes by anything, not only by a rename.
    let disabled = rig.write(|txn| txn.disable(rig.a)).commit;
    assert_eq!(rig.precondition_failed(renamed), Some(Actual { target: rig.a, version: disabled }));
    // But an alias's is apart from those of its keys.
    rig.write(|txn| txn.disable(rig.b));
    rig.reverted(back);
    assert_eq!(rig.target("x"), rig.c);
    assert_clean(&rig.store);
}

#[test]
fn it_is_refused_when_a_record_was_deleted_since() {
    let rig = Rig::new();
    let moved = rig.associate("x", rig.b);
    rig.write(|txn| txn.delete_aliases(rig.b, &[alias("x")]));
    assert_eq!(rig.precondition_failed(moved), None);
    // Under the other spelling it is another alias in the same place, which is told.
    let other = rig.write(|txn| txn.create_alias(&alias("alias/x"), rig.c)).commit;
    assert_eq!(rig.precondition_failed(moved), Some(Actual { target: rig.c, version: other }));
    rig.write(|txn| txn.associate_alias(&alias("alias/x"), rig.b));
    rig.write(|txn| txn.delete_aliases(rig.b, &[alias("alias/x")]));
    let made = rig.write(|txn| txn.create_alias(&alias("x"), rig.b)).commit;
    assert_eq!(rig.precondition_failed(moved), Some(Actual { target: rig.b, version: made }));
    let renamed = rig.rename(rig.c, "new");
    rig.write(|txn| txn.schedule_deletion(rig.c, PendingDays::new(7)?));
    rig.store.write(&request().at(at(START + 7 * DAY)), |txn| txn.purge(rig.c)).unwrap();
    assert_eq!(rig.precondition_failed(renamed), None);
    assert_clean(&rig.store);
}

#[test]
fn one_record_that_changed_keeps_all_from_being_undone() {
    let rig = Rig::new();
    let both = rig
        .write(|txn| {
            txn.associate_alias(&alias("x"), rig.b)?;
            txn.associate_alias(&alias("z"), rig.b)?;
            txn.rename_key_alias(rig.c, &key_alias("new"))
        })
        .commit;
    let version = rig.associate("z", rig.c);
    assert_eq!(rig.precondition_failed(both), Some(Actual { target: rig.c, version }));
    rig.assert_names(["a", "b", "new"]);
    rig.assert_targets([rig.b, rig.b, rig.c]);
}

#[test]
fn it_is_refused_when_the_name_was_taken_since() {
    let rig = Rig::new();
    let renamed = rig.rename(rig.a, "new");
    let taken = rig.rename(rig.b, "a");
    assert!(matches!(rig.refused(renamed), Error::KeyAliasExists(name) if name == key_alias("a")));
    rig.reverted(taken);
    rig.reverted(renamed);
    rig.assert_names(["a", "b", "c"]);
    assert_clean(&rig.store);
}

#[test]
fn the_states_of_the_keys_are_heeded() {
    let rig = Rig::new();
    let moved = rig.associate("x", rig.b);
    // The key to which it would return is pending deletion, frozen, gone; the one it leaves may be.
    rig.write(|txn| txn.schedule_deletion(rig.b, PendingDays::new(7)?));
    rig.write(|txn| txn.schedule_deletion(rig.a, PendingDays::new(7)?));
    assert!(matches!(rig.refused(moved), Error::PendingDeletion(key) if key == rig.a));
    rig.write(|txn| txn.cancel_deletion(rig.a).and(txn.freeze(rig.a)));
    assert!(matches!(rig.refused(moved), Error::KeyFrozen(key) if key == rig.a));
    rig.write(|txn| txn.unfreeze(rig.a));
    rig.reverted(moved);
    let moved = rig.associate("x", rig.c);
    rig.write(|txn| txn.schedule_deletion(rig.a, PendingDays::new(7)?));
    rig.store.write(&request().at(at(START + 7 * DAY)), |txn| txn.purge(rig.a)).unwrap();
    assert!(matches!(rig.refused(moved), Error::KeyNotFound { .. }));
    assert_clean(&rig.store);
}

#[test]
fn the_states_of_renamed_keys_are_part_of_their_records() {
    let rig = Rig::new();
    let renamed = rig.rename(rig.a, "new");
    let version = rig.write(|txn| txn.freeze(rig.a)).commit;
    // A frozen key's record is no longer what the commit made, which is told first.
    assert_eq!(rig.precondition_failed(renamed), Some(Actual { target: rig.a, version }));
    assert_clean(&rig.store);
}

#[test]
fn compatibility_is_upheld() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Options::new().open(&path).unwrap();
    let (aes, rsa) = (NewKey::new("aes").unwrap().alias(alias("x")), NewKey::new("rsa").unwrap());
    let rsa = rsa.spec(KeySpec::Rsa2048);
    store.write(&request(), |txn| txn.create_key(&aes).and(txn.create_key(&rsa))).unwrap();
    let moved = store.write(&request(), |txn| txn.associate_alias(&alias("x"), rsa.key_id)).unwrap();
    drop(store);
    let store = Options::new().compatibility(Compatibility::SameUsage).open(&path).unwrap();
    let refused = store.write(&request(), |txn| txn.revert(moved.commit)).unwrap_err();
    assert!(
        matches!(refused, Error::IncompatibleKey { from, to } if (from, to) == (rsa.key_id, aes.key_id)),
        "{refused}"
    );
    assert_clean(&store);
}

#[test]
fn commits_that_are_not_there_are_not_found() {
    let rig = Rig::new();
    // Before everything; the creation of the store; to come; never.
    let newest = rig.store.position().unwrap().commit();
    for number in [0, 1, newest.number() + 1, u64::MAX] {
        rig.not_found(Commit::new(number));
    }
    // One of another scope, though all is alike there.
    let elsewhere = Scope::new("domain", "elsewhere").unwrap();
    let there = Request::new(&elsewhere).at(at(START));
    let keys = ["a", "b"].map(|name| NewKey::new(name).unwrap());
    rig.store.write(&there, |txn| keys.iter().try_for_each(|key| txn.create_key(key).map(drop))).unwrap();
    let swapped = rig.store.write(&there, |txn| txn.swap_key_aliases(keys[0].key_id, keys[1].key_id));
    let swapped = swapped.unwrap().commit;
    rig.not_found(swapped);
    assert!(rig.store.write(&there, |txn| txn.revert(swapped)).unwrap().changed);
    // One that changed no record: the outcome of a request, and its pruning.
    let once = rig.store.write_once(&request(), &request_id(1), b"nothing", |_| Ok(())).unwrap();
    assert!(!once.changed);
    rig.not_found(once.commit);
    let swept = rig.store.sweep(at(START + 2 * DAY), 100, None).unwrap();
    assert_eq!(swept.outcomes_pruned, 1);
    rig.not_found(rig.store.position().unwrap().commit());
}

#[test]
fn what_was_trimmed_can_not_be_undone() {
    let rig = Rig::new();
    let (moved, renamed) = (rig.associate("x", rig.b), rig.rename(rig.a, "new"));
    rig.store.trim_history(moved).unwrap();
    for number in 1..=moved.number() {
        let error = rig.refused(Commit::new(number));
        assert!(matches!(error, Error::HistoryTrimmed { floor } if floor == moved), "{error}");
    }
    rig.not_found(Commit::new(0));
    rig.reverted(renamed);
    // The commit of the trimming itself is none of the scope.
    rig.not_found(Commit::new(renamed.number() + 1));
}

#[test]
fn it_is_an_operation_among_others() {
    let rig = Rig::new();
    let (moved, renamed) = (rig.associate("x", rig.b), rig.rename(rig.c, "new"));
    let commit = rig
        .write(|txn| {
            txn.create_alias(&alias("w"), rig.c)?;
            txn.revert(moved)?;
            assert_eq!(txn.resolve(&alias("x"))?.key_id, rig.a);
            // What it wrote is a change since.
            let again = txn.revert(moved);
            assert!(matches!(again, Err(Error::PreconditionFailed { actual: Some(_) })), "{again:?}");
            txn.revert(renamed)?;
            txn.rename_key_alias(rig.b, &key_alias("new"))?;
            txn.associate_alias(&alias("x"), rig.c)
        })
        .commit;
    rig.assert_names(["a", "new", "c"]);
    rig.assert_targets([rig.c, rig.b, rig.a]);
    // The transaction made an alias, so it can't be undone as a whole.
    rig.not_revertible(commit);
    // A staged change of the record counts as one since.
    let moved = rig.associate("y", rig.a);
    let refused = rig.store.write(&request(), |txn| {
        txn.associate_alias(&alias("y"), rig.b)?;
        txn.revert(moved)
    });
    assert!(matches!(refused, Err(Error::PreconditionFailed { .. })));
    assert_eq!(rig.target("y"), rig.a);
    assert_clean(&rig.store);
}

#[test]
fn the_checks_come_in_their_order() {
    let options = Options::new().quotas(Quotas { aliases_per_key: 2, ..Quotas::default() });
    let rig = Rig::with(&options);
    // NotRevertible before PreconditionFailed.
    let mixed = rig.write(|txn| txn.associate_alias(&alias("y"), rig.c).and(txn.disable(rig.c))).commit;
    rig.write(|txn| txn.enable(rig.c));
    rig.associate("y", rig.b);
    rig.not_revertible(mixed);
    // PreconditionFailed, of whichever record, before any refusal by name or state.
    let both = rig
        .write(|txn| {
            txn.rename_key_alias(rig.c, &key_alias("new"))?;
            txn.associate_alias(&alias("x"), rig.b)
        })
        .commit;
    rig.write(|txn| txn.freeze(rig.a).and(txn.create_alias(&alias("w"), rig.c)));
    let other = NewKey::new("c").unwrap();
    rig.write(|txn| txn.create_key(&other));
    let version = rig.write(|txn| txn.associate_alias(&alias("x"), rig.c)).commit;
    assert_eq!(rig.precondition_failed(both), Some(Actual { target: rig.c, version }));
    rig.reverted(version);
    // Reverted, the alias has yet another version; so begin anew.
    let back = rig.rename(rig.c, "newer");
    let both = rig
        .write(|txn| {
            txn.rename_key_alias(rig.c, &key_alias("newest"))?;
            txn.associate_alias(&alias("x"), rig.c)
        })
        .commit;
    assert!(back < both);
    let taker = NewKey::new("newer").unwrap();
    rig.write(|txn| txn.create_key(&taker));
    rig.write(|txn| txn.freeze(rig.b));
    // Those of the rename before those of the move.
    assert!(matches!(rig.refused(both), Error::KeyAliasExists(_)));
    rig.write(|txn| txn.rename_key_alias(taker.key_id, &key_alias("free")));
    rig.write(|txn| txn.create_alias(&alias("v"), taker.key_id));
    // The state of the target before its quota.
    assert!(matches!(rig.refused(both), Error::KeyFrozen(key) if key == rig.b));
    rig.write(|txn| txn.unfreeze(rig.b));
    rig.write(|txn| txn.create_alias(&alias("u"), rig.b));
    assert!(matches!(rig.refused(both), Error::QuotaExceeded { .. }));
    rig.write(|txn| txn.delete_aliases(rig.b, &[alias("u")]));
    rig.reverted(both);
    assert_eq!((rig.name(rig.c).as_str(), rig.target("x")), ("newer", rig.b));
    assert_clean(&rig.store);
}

#[test]
fn many_aliases_return_at_once() {
    let rig = Rig::new();
    let names: Vec<Alias> = (0..30).map(|n| alias(&format!("many-{n}"))).collect();
    rig.write(|txn| names.iter().try_for_each(|name| txn.create_alias(name, rig.c).map(drop)));
    let commit =
        rig.write(|txn| names.iter().try_for_each(|name| txn.associate_alias(name, rig.a).map(drop))).commit;
    rig.reverted(commit);
    for name in &names {
        assert_eq!(rig.target(name.as_str()), rig.c);
    }
    assert_clean(&rig.store);
}
