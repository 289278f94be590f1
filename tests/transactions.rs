//! Transactions: all or nothing, refusals that leave no trace, preconditions, dry runs, limits, and
//! the operations of the platform on whole scopes.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod common;

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use common::{
    Checked, Dump, alias, aliases, create, day, id, key_alias, limit, new_key, options, refused, request,
    scope, tag, week, word, write,
};
use keystead::{
    Actual, After, AliasScope, Commit, Error, Expect, KeyFilter, KeySpec, KeyState, Limit, NewKey, Options,
    Origin, PendingDays, Quota, Quotas, Request, Scope, Store, Timestamp, TransactionLimits,
};

/// A store with the keys `a`, `b`, `c` (1, 2, 3), each with an alias of its name in capitals.
fn abc() -> (Checked, Scope) {
    let (store, scope) = (Checked::in_memory(), scope("abc"));
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        create(&store, &scope, &new_key(name, number).alias(alias(&name.to_uppercase())));
    }
    (store, scope)
}

/// The names of the scope in one line: each key's with its aliases.
fn names(store: &Store, scope: &Scope) -> String {
    let dump = Dump::of(store, scope);
    let words = dump.keys.values().map(|key| {
        let held = dump.aliases.values().filter(|record| record.key_id == key.key_id);
        let held: Vec<_> = held.map(|record| record.alias.as_str()).collect();
        format!("{}({})", key.key_alias, held.join(" "))
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn several_operations_are_one_commit() {
    let (store, scope) = abc();
    let before = Dump::of(&store, &scope);
    let committed = write(&store, &scope, |txn| {
        txn.create_key(&new_key("d", 4).alias(alias("D")))?;
        txn.rename_key_alias(id(1), &key_alias("e"))?;
        txn.associate_alias(&alias("B"), id(4))?;
        txn.disable(id(3))?;
        txn.set_tags(id(3), &[tag("color", "red")].into())
    });
    assert!(committed.changed);
    assert_eq!(committed.commit.number(), before.commit.number() + 1);
    assert_eq!(names(&store, &scope), "e(A) b() c(C) d(B D)");
    let after = Dump::of(&store, &scope);
    assert_eq!(after.commit, committed.commit);
    assert_eq!(*committed.value, *after.keys[&id(3)]);
    let versions = |numbers: [u128; 4]| numbers.map(|number| after.keys[&id(number)].version);
    let new = committed.commit;
    assert_eq!(
        versions([1, 2, 3, 4]),
        [new, before.keys[&id(2)].version, new, new],
        "a link is no change of a key"
    );
    assert_eq!(after.aliases[&alias("B")].version, new);
    assert_eq!(after.aliases[&alias("A")], before.aliases[&alias("A")]);
}

#[test]
fn a_transaction_tells_its_scope_and_the_time_of_the_request() {
    let (store, scope) = abc();
    let request = Request::new(&scope).at(day(5));
    let told = store.write(&request, |txn| Ok((txn.scope().clone(), txn.time()))).unwrap();
    assert_eq!(told.value, (scope.clone(), day(5)));
    let told = store.dry_run(&request, |txn| Ok((txn.scope().clone(), txn.time()))).unwrap();
    assert_eq!(told.value, (scope, day(5)));
}

#[test]
fn a_closure_that_fails_writes_nothing() {
    let (store, scope) = abc();
    let error = refused(&store, &scope, |txn| {
        txn.create_key(&new_key("d", 4))?;
        txn.rename_key_alias(id(1), &key_alias("e"))?;
        txn.delete_aliases(id(3), &aliases(&["C"]))?;
        txn.rename_key_alias(id(2), &key_alias("c"))
    });
    assert!(matches!(&error, Error::KeyAliasExists(name) if *name == key_alias("c")), "{error:?}");
}

#[test]
fn after_a_refusal_the_rest_may_be_committed() {
    let (store, scope) = abc();
    let words = write(&store, &scope, |txn| {
        let mut words = Vec::new();
        txn.rename_key_alias(id(1), &key_alias("z"))?;
        let with_taken =
            new_key("d", 4).alias(alias("D")).alias(alias("A")).tag(tag("t", "1").0, tag("t", "1").1);
        words.push(txn.create_key(&with_taken).map(drop));
        words.push(txn.key(id(4)).map(drop));
        words.push(txn.alias(&alias("D")).map(drop));
        words.push(txn.find_by_key_alias(&key_alias("d")).map(drop));
        words.push(txn.delete_aliases(id(2), &aliases(&["B", "C"])));
        words.push(txn.rename_key_alias(id(2), &key_alias("z")).map(drop));
        words.push(txn.swap_key_aliases(id(2), id(9)).map(drop));
        words.push(txn.rename_key_alias(id(3), &key_alias("a")).map(drop));
        Ok(words
            .iter()
            .map(|outcome| outcome.as_ref().map_or_else(word, |()| "done".into()))
            .collect::<Vec<_>>())
    });
    let expected =
        "AliasExists KeyNotFound AliasNotFound KeyNotFound AliasNotOnKey KeyAliasExists KeyNotFound done";
    assert_eq!(words.value.join(" "), expected);
    assert_eq!(names(&store, &scope), "z(A) b(B) a(C)");
    let tagged = KeyFilter::all().tag(tag("t", "1").0, tag("t", "1").1);
    assert_eq!(store.read(&scope, |snap| snap.count_keys(&tagged)).unwrap(), 0);
    assert_eq!(store.read(&scope, |snap| snap.count_keys_in_quota()).unwrap(), 3);
}

#[test]
fn refusals_alone_make_no_commit() {
    let (store, scope) = abc();
    let before = Dump::of(&store, &scope);
    let committed = write(&store, &scope, |txn| {
        let with_taken = new_key("d", 4).alias(alias("D")).alias(alias("A"));
        Ok(word(&txn.create_key(&with_taken).unwrap_err()))
    });
    assert_eq!((committed.value.as_str(), committed.changed), ("AliasExists", false));
    assert_eq!(committed.commit, before.commit);
    assert_eq!(before, Dump::of(&store, &scope));
}

#[test]
fn a_closure_that_changes_nothing_makes_no_commit() {
    let (store, scope) = abc();
    let before = Dump::of(&store, &scope);
    let committed = write(&store, &scope, |txn| {
        assert!(!txn.rename_key_alias(id(1), &key_alias("a"))?.changed);
        assert!(!txn.associate_alias(&alias("A"), id(1))?.changed);
        let [one, other] = txn.swap_aliases(&alias("B"), &alias("B"))?;
        assert!(!one.changed && !other.changed);
        txn.set_tags(id(1), &[].into())?;
        txn.unfreeze(id(1)).map(|key| key.version)
    });
    assert!(!committed.changed);
    assert_eq!(committed.commit, before.commit);
    assert_eq!(committed.value, before.keys[&id(1)].version);
    assert_eq!(before, Dump::of(&store, &scope));
}

#[test]
fn operations_see_those_before_them() {
    let (store, scope) = abc();
    write(&store, &scope, |txn| {
        // A chain of renames runs from the free end.
        assert_eq!(word(&txn.rename_key_alias(id(1), &key_alias("b")).unwrap_err()), "KeyAliasExists");
        txn.rename_key_alias(id(2), &key_alias("d"))?;
        let renamed = txn.rename_key_alias(id(1), &key_alias("b"))?;
        assert_eq!((renamed.former_key_alias.as_str(), renamed.changed), ("a", true));
        assert_eq!(txn.find_by_key_alias(&key_alias("b"))?.key_id, id(1));
        assert_eq!(word(&txn.find_by_key_alias(&key_alias("a")).unwrap_err()), "KeyNotFound");
        // A key, its alias, and the alias on its way.
        txn.create_key(&new_key("a", 4))?;
        txn.create_alias(&alias("fresh"), id(4))?;
        let moved = txn.associate_alias(&alias("fresh"), id(3))?;
        assert_eq!((moved.former_key_id, moved.alias.key_id), (id(4), id(3)));
        assert_eq!(txn.resolve(&alias("fresh"))?.key_id, id(3));
        txn.disable(id(4))?;
        assert_eq!(txn.key(id(4))?.state, KeyState::Disabled);
        txn.delete_aliases(id(3), &aliases(&["C", "fresh"]))?;
        txn.create_alias(&alias("C"), id(4))
    });
    assert_eq!(names(&store, &scope), "b(A) d(B) c() a(C)");
}

#[test]
fn names_swap_and_come_back_in_one_transaction() {
    let (store, scope) = abc();
    write(&store, &scope, |txn| {
        txn.swap_key_aliases(id(1), id(2))?;
        txn.swap_aliases(&alias("B"), &alias("C"))?;
        txn.swap_key_aliases(id(2), id(3))
    });
    assert_eq!(names(&store, &scope), "b(A) c(C) a(B)");
    write(&store, &scope, |txn| {
        txn.rename_key_alias(id(1), &key_alias("x"))?;
        txn.rename_key_alias(id(1), &key_alias("b"))
    });
    assert_eq!(names(&store, &scope), "b(A) c(C) a(B)");
}

/// Judges one precondition in a transaction of its own, in words.
fn judge(store: &Store, scope: &Scope, subject: &str, expect: Expect) -> String {
    let outcome = store.write(&request(scope), |txn| {
        match subject {
            "key 1" => txn.expect_key(id(1), expect),
            "key 9" => txn.expect_key(id(9), expect),
            name if name.chars().all(char::is_uppercase) => txn.expect_alias(&alias(name), expect),
            name => txn.expect_key_alias(&key_alias(name), expect),
        }?;
        txn.update_description(id(1), &"passed".parse()?)
    });
    match outcome {
        Ok(_) => "holds".to_owned(),
        Err(Error::PreconditionFailed { actual: None }) => "nothing".to_owned(),
        Err(Error::PreconditionFailed { actual: Some(Actual { target, version }) }) => {
            format!(
                "{} in {version}",
                u128::from_str_radix(&target.to_string().replace('-', ""), 16).unwrap()
            )
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn preconditions_right_and_wrong() {
    let (store, scope) = abc();
    write(&store, &scope, |txn| txn.update_description(id(1), &"passed".parse()?));
    // The store's own first commit is 1; the keys came in 2, 3, 4 and the description in 5.
    let version = |number| Expect::Version(Commit::new(number));
    let target = |number| Expect::Target(id(number));
    let table = [
        ("key 1", version(5), "holds"),
        ("key 1", version(2), "1 in 5"),
        ("key 1", target(1), "holds"),
        ("key 1", target(2), "1 in 5"),
        ("key 1", Expect::Absent, "1 in 5"),
        ("key 9", version(5), "nothing"),
        ("key 9", target(9), "nothing"),
        ("key 9", Expect::Absent, "holds"),
        ("A", version(2), "holds"),
        ("A", version(5), "1 in 2"),
        ("A", target(1), "holds"),
        ("A", target(3), "1 in 2"),
        ("A", Expect::Absent, "1 in 2"),
        ("Z", version(2), "nothing"),
        ("Z", target(1), "nothing"),
        ("Z", Expect::Absent, "holds"),
        ("a", version(5), "holds"),
        ("a", version(2), "1 in 5"),
        ("a", target(1), "holds"),
        ("a", target(2), "1 in 5"),
        ("a", Expect::Absent, "1 in 5"),
        ("z", version(1), "nothing"),
        ("z", target(1), "nothing"),
        ("z", Expect::Absent, "holds"),
    ];
    let before = Dump::of(&store, &scope);
    for (subject, expect, answer) in table {
        assert_eq!(judge(&store, &scope, subject, expect), answer, "{subject} {expect:?}");
    }
    assert_eq!(before, Dump::of(&store, &scope));
}

#[test]
fn preconditions_are_judged_where_they_stand() {
    let (store, scope) = abc();
    let committed = write(&store, &scope, |txn| {
        txn.expect_alias(&alias("A"), Expect::Target(id(1)))?;
        txn.associate_alias(&alias("A"), id(2))?;
        txn.expect_alias(&alias("A"), Expect::Target(id(2)))?;
        let stale = txn.expect_alias(&alias("A"), Expect::Target(id(1))).unwrap_err();
        txn.expect_key_alias(&key_alias("fresh"), Expect::Absent)?;
        txn.rename_key_alias(id(1), &key_alias("fresh"))?;
        txn.expect_key_alias(&key_alias("fresh"), Expect::Target(id(1)))?;
        txn.expect_key_alias(&key_alias("a"), Expect::Absent)?;
        Ok(stale)
    });
    let actual = Some(Actual { target: id(2), version: committed.commit });
    assert!(matches!(committed.value, Error::PreconditionFailed { actual: found } if found == actual));
}

#[test]
fn a_stale_version_never_passes_again() {
    let (store, scope) = abc();
    let old = Dump::of(&store, &scope);
    let (key, name) = (old.keys[&id(1)].version, old.aliases[&alias("A")].version);
    write(&store, &scope, |txn| txn.delete_aliases(id(1), &aliases(&["A"])));
    write(&store, &scope, |txn| txn.create_alias(&alias("A"), id(1)));
    write(&store, &scope, |txn| txn.schedule_deletion(id(1), week()));
    assert!(store.write(&Request::new(&scope).at(day(8)), |txn| txn.purge(id(1))).unwrap().value);
    create(&store, &scope, &new_key("a", 1).alias(alias("A")));
    for (subject, version) in [("key 1", key), ("a", key), ("A", name)] {
        let now = Dump::of(&store, &scope).commit;
        assert_eq!(judge(&store, &scope, subject, Expect::Version(version)), format!("1 in {now}"));
        assert_eq!(store.read(&scope, |snap| Ok(snap.commit())).unwrap(), now);
    }
}

#[test]
fn versions_are_commit_numbers_and_times_never_go_back() {
    let (store, scope) = abc();
    let created = create(&store, &scope, &new_key("d", 4));
    assert_eq!((created.created_at, created.updated_at), (day(1), day(1)));
    let late = store.write(&Request::new(&scope).at(day(5)), |txn| txn.disable(id(4))).unwrap();
    assert_eq!((late.value.version, late.value.updated_at), (late.commit, day(5)));
    // A clock that went back does not take the record with it.
    let early = store.write(&Request::new(&scope).at(day(3)), |txn| txn.enable(id(4))).unwrap();
    assert_eq!((early.value.version, early.value.updated_at), (early.commit, day(5)));
    assert_eq!(early.commit.number(), late.commit.number() + 1);
    assert_eq!(early.value.created_at, day(1));
    let moved =
        store.write(&Request::new(&scope).at(day(0)), |txn| txn.associate_alias(&alias("A"), id(4))).unwrap();
    assert_eq!((moved.value.alias.version, moved.value.alias.updated_at), (moved.commit, day(1)));
}

/// A caller's own error.
#[derive(Debug, PartialEq)]
struct TooEarly {
    hours: u8,
}

impl fmt::Display for TooEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hours too early", self.hours)
    }
}

impl std::error::Error for TooEarly {}

#[test]
fn an_abort_brings_back_the_callers_error() {
    let (store, scope) = abc();
    let error = refused(&store, &scope, |txn| {
        txn.rename_key_alias(id(1), &key_alias("z"))?;
        Err::<(), _>(Error::abort(TooEarly { hours: 3 }))
    });
    assert_eq!(error.to_string(), "the transaction was aborted: 3 hours too early");
    assert_eq!((error.api(), error.is_retryable()), (None, false));
    let Error::Aborted(reason) = error else { panic!("{error:?}") };
    assert_eq!(reason.downcast_ref::<TooEarly>(), Some(&TooEarly { hours: 3 }));
    let rehearsed = store.dry_run(&request(&scope), |_| Err::<(), _>(Error::abort("no")));
    assert_eq!(word(&rehearsed.unwrap_err()), "Aborted");
}

#[test]
fn a_write_in_a_write_is_refused() {
    let (store, scope) = abc();
    let (elsewhere, there) = (Checked::in_memory(), common::scope("elsewhere"));
    let words = write(&store, &scope, |txn| {
        txn.rename_key_alias(id(1), &key_alias("z"))?;
        let refusals = [
            store.write(&request(&scope), |txn| txn.disable(id(1))).map(drop),
            store.dry_run(&request(&scope), |txn| txn.disable(id(1))).map(drop),
            elsewhere.write(&request(&there), |txn| txn.create_key(&new_key("x", 1))).map(drop),
            store.remove_scope(&request(&scope), 1).map(drop),
        ];
        // A read shows what was committed before, and the transaction goes on.
        assert_eq!(store.read(&scope, |snap| snap.key(id(1)))?.key_alias, key_alias("a"));
        assert_eq!(txn.key(id(1))?.key_alias, key_alias("z"));
        Ok(refusals.map(|refusal| word(&refusal.unwrap_err())))
    });
    assert_eq!(words.value, ["NestedTransaction"; 4]);
    assert_eq!(names(&store, &scope), "z(A) b(B) c(C)");
    // A write in a dry run and in a read.
    let inside = store.dry_run(&request(&scope), |_| store.write(&request(&scope), |txn| txn.disable(id(1))));
    assert_eq!(word(&inside.unwrap_err()), "NestedTransaction");
    store.read(&scope, |_| store.write(&request(&scope), |txn| txn.disable(id(1)))).unwrap();
    assert_eq!(store.read(&scope, |snap| snap.key(id(1))).unwrap().state, KeyState::Disabled);
}

#[test]
fn after_a_panic_in_a_closure_the_thread_can_write_again() {
    let (store, scope) = abc();
    let before = Dump::of(&store, &scope);
    let closure = || {
        store.write(&request(&scope), |txn| -> keystead::Result<()> {
            txn.rename_key_alias(id(1), &key_alias("z"))?;
            panic!("on purpose")
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(closure)).is_err());
    assert_eq!(before, Dump::of(&store, &scope));
    assert!(
        catch_unwind(AssertUnwindSafe(
            || store.dry_run(&request(&scope), |_| -> keystead::Result<()> { panic!("on purpose") })
        ))
        .is_err()
    );
    write(&store, &scope, |txn| txn.rename_key_alias(id(1), &key_alias("y")));
    assert_eq!(names(&store, &scope), "y(A) b(B) c(C)");
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let (store, scope) = abc();
    let before = Dump::of(&store, &scope);
    let run = |txn: &mut keystead::Transaction<'_>| {
        txn.create_key(&new_key("d", 4).alias(alias("D")))?;
        txn.rename_key_alias(id(1), &key_alias("e"))?;
        txn.associate_alias(&alias("D"), id(1))
    };
    let told = store.dry_run(&request(&scope), run).unwrap();
    assert_eq!(before, Dump::of(&store, &scope));
    let done = store.write(&request(&scope), run).unwrap();
    assert_eq!(told.value, done.value);
    assert_eq!(told.value.alias.version, done.commit);
}

#[test]
fn a_closure_with_a_side_effect_is_caught() {
    let (store, scope) = abc();
    let runs = Cell::new(0_u128);
    let counting = |txn: &mut keystead::Transaction<'_>| {
        runs.set(runs.get() + 1);
        txn.rename_key_alias(id(1), &key_alias(&format!("run{}", runs.get())))
    };
    let before = Dump::of(&store, &scope);
    assert_eq!(word(&store.write(&request(&scope), counting).unwrap_err()), "Aborted");
    assert_eq!(word(&store.dry_run(&request(&scope), counting).unwrap_err()), "Aborted");
    assert_eq!(runs.replace(0), 4);
    // One that is refused in one run only is caught too.
    let wavering = store.write(&request(&scope), |txn| {
        runs.set(runs.get() + 1);
        let new = if runs.get().is_multiple_of(2) { "b" } else { "d" };
        txn.rename_key_alias(id(1), &key_alias(new))
    });
    assert_eq!(word(&wavering.unwrap_err()), "Aborted");
    // And one that fails each time, but otherwise.
    let unsteady = store.write(&request(&scope), |txn| {
        runs.set(runs.get() + 1);
        txn.disable(id(100 + runs.get()))
    });
    assert_eq!(word(&unsteady.unwrap_err()), "Aborted");
    assert_eq!(before, Dump::of(&store, &scope));
    // The same is not noticed without the option.
    let plain = Checked::new(Options::new().in_memory().unwrap());
    create(&plain, &scope, &new_key("a", 1));
    runs.set(0);
    plain.write(&request(&scope), counting).unwrap();
    assert_eq!(runs.get(), 1);
}

fn many_keys() -> Quotas {
    Quotas { keys_per_project: 1_000_000, ..Quotas::default() }
}

fn too_large(error: &Error) -> (&'static str, usize) {
    match error {
        Error::TransactionTooLarge { what, max } => (what, *max),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_written_have_a_limit() {
    let (store, scope) = (Checked::with_quotas(many_keys()), scope("rows"));
    assert_eq!((TransactionLimits::ROWS_WRITTEN_MAX, TransactionLimits::ROWS_READ_MAX), (200, 200));
    let tags: Vec<_> = (0..20).map(|n| tag(&format!("tag{n}"), "")).collect();
    for number in 0..20 {
        create(&store, &scope, &new_key(&format!("key{number}"), number));
    }
    // 20 tags on a key are 21 rows: 9 keys make 189, and 10 tags on the tenth make 200.
    let fill = |txn: &mut keystead::Transaction<'_>, last: usize| {
        for number in 0..9 {
            txn.set_tags(id(number), &tags.iter().cloned().collect())?;
        }
        txn.set_tags(id(9), &tags[..last].iter().cloned().collect())
    };
    let error = refused(&store, &scope, |txn| fill(txn, 11));
    assert_eq!(too_large(&error), ("rows written", 200));
    let committed = write(&store, &scope, |txn| {
        let error = fill(txn, 11).unwrap_err();
        txn.set_tags(id(9), &tags[..10].iter().cloned().collect())?;
        let none_left = txn.disable(id(10)).unwrap_err();
        Ok([error, none_left].map(|error| too_large(&error)))
    });
    assert_eq!(committed.value, [("rows written", 200); 2]);
    let dump = Dump::of(&store, &scope);
    let tagged: Vec<_> = dump.keys.values().map(|key| key.tags.len()).collect();
    assert_eq!(tagged, [&[20; 9][..], &[10], &[0; 10]].concat());
}

#[test]
fn rows_read_have_a_limit() {
    let (store, scope) = abc();
    let found = write(&store, &scope, |txn| {
        for number in 0..200 {
            assert_eq!(word(&txn.key(id(1000 + number)).unwrap_err()), "KeyNotFound");
        }
        let refusal = too_large(&txn.key(id(2000)).unwrap_err());
        // What was read already can be read again; nothing else can.
        assert_eq!(word(&txn.key(id(1000)).unwrap_err()), "KeyNotFound");
        assert_eq!(too_large(&txn.disable(id(1)).unwrap_err()), refusal);
        assert_eq!(too_large(&txn.expect_key(id(1), Expect::Absent).unwrap_err()), refusal);
        Ok(refusal)
    });
    assert_eq!((found.value, found.changed), (("rows read", 200), false));
    let found = write(&store, &scope, |txn| {
        txn.disable(id(1))?;
        let mut refusals = (0..300).map(|number| txn.key(id(1000 + number)).unwrap_err());
        let refusal = refusals.find(|error| matches!(error, Error::TransactionTooLarge { .. }));
        assert_eq!(refusals.count(), 100);
        Ok(too_large(&refusal.unwrap()))
    });
    assert_eq!((found.value, found.changed), (("rows read", 200), true));
    assert_eq!(Dump::of(&store, &scope).keys[&id(1)].state, KeyState::Disabled);
}

#[test]
fn bytes_written_have_a_limit() {
    let (store, scope) = (Checked::with_quotas(many_keys()), scope("bytes"));
    let wide = "\u{10ffff}".repeat(255);
    let tags: keystead::Tags = (0..20).map(|n| tag(&format!("tag{n}"), &wide)).collect();
    for number in 0..60 {
        let mut new = new_key(&format!("key{number}"), number);
        new.tags.clone_from(&tags);
        create(&store, &scope, &new);
    }
    // A record with these tags has more than 20,000 bytes, and is written three times: in its row, and
    // as it was and as it is in the history. So not even 18 fit into 1 MB.
    let committed = write(&store, &scope, |txn| {
        let refusals = (0..60).map(|number| txn.disable(id(number)).err().map(|error| too_large(&error)));
        Ok(refusals.collect::<Vec<_>>())
    });
    let done = committed.value.iter().take_while(|refusal| refusal.is_none()).count();
    assert!((12..18).contains(&done), "{done} were disabled");
    assert!(committed.value[done..].iter().all(|refusal| *refusal == Some(("bytes written", 1024 * 1024))));
    let disabled = KeyFilter::all().state(KeyState::Disabled);
    assert_eq!(store.read(&scope, |snap| snap.count_keys(&disabled)).unwrap(), done as u64);
}

#[test]
fn the_largest_key_there_can_be() {
    let quotas = Quotas {
        aliases_per_key: Quotas::ALIASES_PER_KEY_MAX,
        tags_per_key: Quotas::TAGS_PER_KEY_MAX,
        ..Quotas::default()
    };
    let store = Checked::with(Options::new().quotas(quotas).alias_scope(AliasScope::Domain));
    let scope = Scope::new(&"d".repeat(64), &"p".repeat(64)).unwrap();
    let widest = |number: usize, length: usize| format!("{number:02}{}", "\u{10ffff}".repeat(length - 2));
    let mut new = new_key(&"k".repeat(255), 1).origin(Origin::External);
    new.description = "\u{10ffff}".repeat(255).parse().unwrap();
    new.tags = (0..Quotas::TAGS_PER_KEY_MAX).map(|n| tag(&widest(n, 128), &widest(n, 255))).collect();
    let long = |n: usize| alias(&format!("{n:02}{}", "a".repeat(253)));
    create(&store, &scope, &new);
    for n in 0..Quotas::ALIASES_PER_KEY_MAX {
        write(&store, &scope, |txn| txn.create_alias(&long(n), id(1)));
    }
    assert_eq!(
        word(&refused(&store, &scope, |txn| txn.create_alias(&long(Quotas::ALIASES_PER_KEY_MAX), id(1)))),
        "QuotaExceeded(AliasesPerKey)"
    );
    write(&store, &scope, |txn| txn.material_imported(id(1), Some(day(3))));
    write(&store, &scope, |txn| txn.schedule_deletion(id(1), week()));
    let swept = store.sweep(day(100), 10, None).unwrap();
    assert_eq!((swept.keys_purged, swept.done), (1, true));
    // What was fixed at creation, and a tombstone for the key and for each alias.
    let left = 1 + 1 + Quotas::ALIASES_PER_KEY_MAX as u64;
    assert_eq!(store.verify().unwrap().rows, left);
    create(&store, &scope, &new);
    for n in 0..Quotas::ALIASES_PER_KEY_MAX {
        write(&store, &scope, |txn| txn.create_alias(&long(n), id(1)));
    }
    assert!(store.remove_scope(&request(&scope), 10).unwrap().done);
    assert_eq!(store.verify().unwrap().rows, left);
}

/// Keys 1 to `number`, each with an alias, whose deletion is due on day 8.
fn dying(store: &Store, scope: &Scope, number: u128) {
    for n in 1..=number {
        create(store, scope, &new_key(&format!("key{n}"), n).alias(alias(&format!("alias{n}"))));
        write(store, scope, |txn| txn.schedule_deletion(id(n), week()));
    }
}

/// Keys 101 to `100 + number` of origin external, whose material expires on day 5.
fn expiring(store: &Store, scope: &Scope, number: u128) {
    for n in 101..=100 + number {
        create(store, scope, &new_key(&format!("key{n}"), n).origin(Origin::External));
        write(store, scope, |txn| txn.material_imported(id(n), Some(day(5))));
    }
}

#[test]
fn a_sweep_does_what_is_due_and_no_more() {
    let (store, one, two) = (Checked::in_memory(), scope("one"), scope("two"));
    dying(&store, &one, 2);
    expiring(&store, &two, 3);
    write(&store, &one, |txn| txn.create_key(&new_key("stays", 50)));
    write(&store, &two, |txn| txn.freeze(id(102)));
    write(&store, &two, |txn| txn.disable(id(103)));
    write(&store, &two, |txn| txn.ensure_default_key(&NewKey::default_of("obs")?.id(id(60))));
    let before = [&one, &two].map(|scope| Dump::of(&store, scope));
    let early = store.sweep(Timestamp::from_millis(day(5).as_millis() - 1), 100, None).unwrap();
    assert_eq!((early.keys_purged, early.materials_expired, early.done), (0, 0, true));
    assert_eq!(before, [&one, &two].map(|scope| Dump::of(&store, scope)));
    let later = store.sweep(day(5), 100, None).unwrap();
    assert_eq!((later.keys_purged, later.materials_expired, later.done), (0, 2, true));
    let after = Dump::of(&store, &two);
    let states = [101, 102, 103, 60].map(|n| (after.keys[&id(n)].state, after.keys[&id(n)].material.present));
    let gone = (KeyState::PendingImport, false);
    assert_eq!(states, [gone, (KeyState::Frozen, true), gone, (KeyState::Enabled, true)]);
    assert_eq!(after.keys[&id(101)].updated_at, day(5));
    let due = store.sweep(day(8), 100, None).unwrap();
    assert_eq!((due.keys_purged, due.materials_expired, due.done), (2, 0, true));
    assert_eq!(names(&store, &one), "stays()");
    assert_eq!(Dump::of(&store, &one).aliases.len(), 0);
    // What was frozen expires when it is so no more; what was done is not done again.
    write(&store, &two, |txn| txn.unfreeze(id(102)));
    let last = store.sweep(day(8), 100, None).unwrap();
    assert_eq!((last.keys_purged, last.materials_expired, last.done), (0, 1, true));
}

#[test]
fn a_purged_name_is_free_again_and_not_before() {
    let (store, scope) = (Checked::in_memory(), scope("names"));
    dying(&store, &scope, 1);
    let before_its_time = Timestamp::from_millis(day(8).as_millis() - 1);
    assert_eq!(store.sweep(before_its_time, 100, None).unwrap().keys_purged, 0);
    let taken = refused(&store, &scope, |txn| txn.create_key(&new_key("key1", 2)));
    assert_eq!(word(&taken), "KeyAliasExists");
    assert_eq!(store.read(&scope, |snap| snap.resolve(&alias("alias1"))).unwrap().key_id, id(1));
    assert_eq!(store.sweep(day(8), 100, None).unwrap().keys_purged, 1);
    create(&store, &scope, &new_key("key1", 1).alias(alias("alias1")));
}

#[test]
fn a_sweep_with_a_budget_of_one_comes_to_an_end() {
    let store = Checked::in_memory();
    let scopes = ["a", "b", "c", "d"].map(scope);
    dying(&store, &scopes[0], 3);
    expiring(&store, &scopes[1], 4);
    // What is frozen or dying does not expire, and does not keep the sweep from the rest.
    write(&store, &scopes[1], |txn| txn.freeze(id(101)));
    write(&store, &scopes[1], |txn| txn.schedule_deletion(id(102), PendingDays::new(1096)?));
    create(&store, &scopes[2], &new_key("stays", 1));
    dying(&store, &scopes[3], 1);
    expiring(&store, &scopes[3], 1);
    let (mut purged, mut expired, mut calls) = (0, 0, 0);
    let mut after = None;
    let none = store.sweep(day(10), 0, None).unwrap();
    assert_eq!((none.keys_purged, none.materials_expired, none.done), (0, 0, false));
    loop {
        let swept = store.sweep(day(10), 1, after.as_ref()).unwrap();
        assert!(swept.keys_purged + swept.materials_expired <= 1, "a budget of one is one key");
        (purged, expired, calls) = (purged + swept.keys_purged, expired + swept.materials_expired, calls + 1);
        assert!(calls < 30, "it makes no progress: {swept:?}");
        let place = swept.after.clone();
        assert!(place >= after, "it goes forwards");
        after = place;
        if swept.done {
            break;
        }
    }
    assert_eq!((purged, expired), (4, 3));
    assert_eq!(after.as_ref(), Some(&scopes[3]), "a scope that is empty is no scope, but this one has a key");
    let left: Vec<_> = scopes.iter().map(|scope| Dump::of(&store, scope).keys.len()).collect();
    assert_eq!(left, [0, 4, 1, 1]);
}

#[test]
fn a_scope_without_anything_due_costs_a_step_of_a_sweep() {
    let store = Checked::in_memory();
    let scopes = ["a", "b", "c"].map(scope);
    for scope in &scopes {
        create(&store, scope, &new_key("stays", 1));
    }
    let two = store.sweep(day(10), 2, None).unwrap();
    assert_eq!((two.after.as_ref(), two.done), (Some(&scopes[1]), false));
    let rest = store.sweep(day(10), 2, two.after.as_ref()).unwrap();
    assert_eq!((rest.after.as_ref(), rest.done), (Some(&scopes[2]), true));
}

#[test]
fn a_sweep_goes_on_behind_a_scope() {
    let store = Checked::in_memory();
    let scopes = ["a", "b", "c"].map(scope);
    for scope in &scopes {
        dying(&store, scope, 1);
    }
    let swept = store.sweep(day(10), 100, Some(&scopes[0])).unwrap();
    assert_eq!((swept.keys_purged, swept.done), (2, true));
    let left: Vec<_> = scopes.iter().map(|scope| Dump::of(&store, scope).keys.len()).collect();
    assert_eq!(left, [1, 0, 0]);
    // The scope that is gone is a place to go on behind as well.
    let swept = store.sweep(day(10), 100, Some(&scopes[1])).unwrap();
    assert_eq!((swept.keys_purged, swept.done), (0, true));
}

#[test]
fn removing_a_scope_takes_all_of_it_and_nothing_else() {
    for alias_scope in [AliasScope::Project, AliasScope::Domain] {
        let store = Checked::with(Options::new().alias_scope(alias_scope));
        let (doomed, stays) = (scope("doomed"), scope("doomed2"));
        dying(&store, &doomed, 3);
        expiring(&store, &doomed, 2);
        create(
            &store,
            &doomed,
            &new_key("tagged", 200).tag(tag("t", "v").0, tag("t", "v").1).alias(alias("T")),
        );
        write(&store, &doomed, |txn| txn.freeze(id(200)));
        write(&store, &doomed, |txn| txn.ensure_default_key(&NewKey::default_of("obs")?.id(id(60))));
        create(&store, &stays, &new_key("key1", 1).alias(alias("mine")));
        let untouched = store.read(&stays, |snap| snap.resolve(&alias("mine"))).unwrap();
        let none = store.remove_scope(&request(&doomed), 0).unwrap();
        assert_eq!((none.keys, none.done), (0, false));
        let mut keys = Vec::new();
        loop {
            let removed = store.remove_scope(&request(&doomed), 2).unwrap();
            keys.push(removed.keys);
            if removed.done {
                break;
            }
            assert!(keys.len() < 10, "it makes no progress: {keys:?}");
        }
        assert_eq!(keys.iter().sum::<u64>(), 7);
        assert!(keys.iter().all(|keys| *keys <= 2), "{keys:?}");
        assert_eq!(Dump::of(&store, &doomed).keys.len(), 0);
        assert_eq!(store.scopes(After::Start, limit(10)).unwrap().items, std::slice::from_ref(&stays));
        assert_eq!(store.read(&stays, |snap| snap.resolve(&alias("mine"))).unwrap(), untouched);
        // Its names are free again, for it and for others.
        create(&store, &stays, &new_key("key2", 2).alias(alias("alias1")));
        create(&store, &doomed, &new_key("obs", 60).alias(alias("T")));
        let again = store.remove_scope(&request(&scope("never-there")), 5).unwrap();
        assert_eq!((again.keys, again.done), (0, true));
    }
}

#[test]
fn default_keys_are_made_once_and_outside_of_the_quota() {
    let quotas = Quotas { keys_per_project: 1, ..Quotas::default() };
    let (store, scope) = (Checked::with_quotas(quotas), scope("defaults"));
    let obs = NewKey::default_of("obs").unwrap();
    assert_eq!(obs.key_alias, key_alias("obs/default"));
    let made = write(&store, &scope, |txn| txn.ensure_default_key(&obs));
    assert!(made.changed && made.value.default);
    assert_eq!((made.value.key_alias.as_str(), made.value.key_id), ("obs/default", obs.key_id));
    // Another id and spec do not matter: the key that is there is the answer.
    let other = NewKey::default_of("obs").unwrap().spec(KeySpec::Sm4);
    let again = write(&store, &scope, |txn| txn.ensure_default_key(&other));
    assert!(!again.changed);
    assert_eq!((again.commit, again.value), (made.commit, made.value));
    write(&store, &scope, |txn| {
        txn.ensure_default_key(&NewKey::default_of("evs")?.id(id(70)))?;
        txn.ensure_default_key(&NewKey::default_of("evs")?.id(id(71)))
    });
    create(&store, &scope, &new_key("mine", 1));
    assert_eq!(
        word(&refused(&store, &scope, |txn| txn.create_key(&new_key("more", 2)))),
        "QuotaExceeded(KeysPerProject)"
    );
    write(&store, &scope, |txn| txn.ensure_default_key(&NewKey::default_of("sfs")?.id(id(72))));
    let counts =
        store.read(&scope, |snap| Ok((snap.count_keys(&KeyFilter::all())?, snap.count_keys_in_quota()?)));
    assert_eq!(counts.unwrap(), (4, 1));
    assert_eq!(
        store.read(&scope, |snap| snap.key(id(71))).map_err(|error| word(&error)).unwrap_err(),
        "KeyNotFound"
    );
    let bare = write(&store, &scope, |txn| txn.ensure_default_key(&NewKey::default_of("")?.id(id(73))));
    assert_eq!(bare.value.key_alias, key_alias("/default"));
}

#[test]
fn the_quota_of_keys_counts_those_pending_deletion() {
    let quotas = Quotas { keys_per_project: 3, ..Quotas::default() };
    let (store, scope, other) = (Checked::with_quotas(quotas), scope("quota"), scope("other"));
    dying(&store, &scope, 2);
    create(&store, &scope, &new_key("third", 3));
    let error = refused(&store, &scope, |txn| txn.create_key(&new_key("fourth", 4)));
    assert!(matches!(error, Error::QuotaExceeded { quota: Quota::KeysPerProject, max: 3 }), "{error:?}");
    // Each project has its own.
    create(&store, &other, &new_key("fourth", 4));
    let freed = store.write(&Request::new(&scope).at(day(8)), |txn| {
        assert!(txn.purge(id(1))?);
        txn.create_key(&new_key("fourth", 4))?;
        Ok(word(&txn.create_key(&new_key("fifth", 5)).unwrap_err()))
    });
    assert_eq!(freed.unwrap().value, "QuotaExceeded(KeysPerProject)");
    assert_eq!(store.sweep(day(8), 10, None).unwrap().keys_purged, 1);
    create(&store, &scope, &new_key("fifth", 5));
}

#[test]
fn the_default_quotas() {
    let (store, scope) = (Checked::in_memory(), scope("quotas"));
    let quotas = store.quotas();
    assert_eq!((quotas.keys_per_project, quotas.aliases_per_key, quotas.tags_per_key), (100, 50, 20));
    let tags = |number| (0..number).map(|n| tag(&format!("tag{n}"), "")).collect::<keystead::Tags>();
    let mut new = new_key("key0", 0);
    new.tags = tags(21);
    assert_eq!(word(&refused(&store, &scope, |txn| txn.create_key(&new))), "TooManyTags");
    new.tags = tags(20);
    new.aliases = (0..50).map(|n| alias(&format!("alias{n}"))).collect();
    create(&store, &scope, &new);
    let more = refused(&store, &scope, |txn| txn.set_tags(id(0), &[tag("more", "")].into()));
    assert!(matches!(more, Error::TooManyTags { max: 20 }), "{more:?}");
    write(&store, &scope, |txn| txn.set_tags(id(0), &[tag("tag0", "other")].into()));
    let more = refused(&store, &scope, |txn| txn.create_alias(&alias("more"), id(0)));
    assert!(matches!(more, Error::QuotaExceeded { quota: Quota::AliasesPerKey, max: 50 }), "{more:?}");
    for number in 1..100 {
        create(&store, &scope, &new_key(&format!("key{number}"), number));
    }
    let more = refused(&store, &scope, |txn| txn.create_key(&new_key("key100", 100)));
    assert!(matches!(more, Error::QuotaExceeded { quota: Quota::KeysPerProject, max: 100 }), "{more:?}");
    // A swap needs no room; a move does.
    write(&store, &scope, |txn| txn.create_alias(&alias("away"), id(1)));
    write(&store, &scope, |txn| txn.swap_aliases(&alias("alias7"), &alias("away")));
    let full = refused(&store, &scope, |txn| txn.associate_alias(&alias("alias7"), id(0)));
    assert_eq!(word(&full), "QuotaExceeded(AliasesPerKey)");
    write(&store, &scope, |txn| {
        txn.delete_aliases(id(0), &[alias("alias8")])?;
        txn.associate_alias(&alias("alias7"), id(0))
    });
}

#[test]
fn a_lower_quota_only_stops_additions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let scope = scope("lower");
    {
        let store = Checked::new(options().open(&path).unwrap());
        for n in 1..=3 {
            let new = new_key(&format!("key{n}"), n).tag(tag("a", "1").0, tag("a", "1").1);
            create(&store, &scope, &new.tag(tag("b", "1").0, tag("b", "1").1));
        }
        write(&store, &scope, |txn| {
            txn.create_alias(&alias("one"), id(1))?;
            txn.create_alias(&alias("two"), id(1))?;
            txn.create_alias(&alias("away"), id(2))
        });
    }
    let quotas = Quotas { keys_per_project: 2, aliases_per_key: 1, tags_per_key: 1 };
    let store = Checked::new(options().quotas(quotas).open(&path).unwrap());
    assert_eq!(names(&store, &scope), "key1(one two) key2(away) key3()");
    let word_of = |run: &dyn Fn(&mut keystead::Transaction<'_>) -> keystead::Result<()>| {
        word(&refused(&store, &scope, |txn| run(txn)))
    };
    assert_eq!(
        word_of(&|txn| txn.create_key(&new_key("key4", 4)).map(drop)),
        "QuotaExceeded(KeysPerProject)"
    );
    assert_eq!(
        word_of(&|txn| txn.create_alias(&alias("x"), id(1)).map(drop)),
        "QuotaExceeded(AliasesPerKey)"
    );
    let moved = word_of(&|txn| txn.associate_alias(&alias("away"), id(1)).map(drop));
    assert_eq!(moved, "QuotaExceeded(AliasesPerKey)");
    assert_eq!(word_of(&|txn| txn.set_tags(id(1), &[tag("c", "1")].into()).map(drop)), "TooManyTags");
    write(&store, &scope, |txn| {
        txn.set_tags(id(1), &[tag("a", "2")].into())?;
        txn.rename_key_alias(id(1), &key_alias("renamed"))?;
        assert!(!txn.associate_alias(&alias("one"), id(1))?.changed);
        txn.swap_aliases(&alias("one"), &alias("away"))?;
        txn.remove_tags(id(1), &[tag("a", "").0])?;
        txn.associate_alias(&alias("two"), id(3))
    });
    assert_eq!(names(&store, &scope), "renamed(away) key2(one) key3(two)");
    let too_high = Quotas { aliases_per_key: 61, ..Quotas::default() };
    assert_eq!(word(&Options::new().quotas(too_high).in_memory().unwrap_err()), "OptionsMismatch");
    let too_high = Quotas { tags_per_key: 31, ..Quotas::default() };
    assert_eq!(word(&Options::new().quotas(too_high).in_memory().unwrap_err()), "OptionsMismatch");
}

#[test]
fn projects_share_nothing_if_aliases_are_unique_in_a_project() {
    let (store, one, two) = (Checked::in_memory(), scope("one"), scope("two"));
    for scope in [&one, &two] {
        create(&store, scope, &new_key("same", 1).alias(alias("same")));
    }
    create(&store, &one, &new_key("mine", 2).alias(alias("mine")));
    let before = Dump::of(&store, &one);
    let key = refused(&store, &two, |txn| txn.disable(id(2)));
    let source = refused(&store, &two, |txn| txn.associate_alias(&alias("mine"), id(1)));
    let target = refused(&store, &two, |txn| txn.associate_alias(&alias("same"), id(2)));
    assert_eq!(
        [key, source, target].map(|error| word(&error)),
        ["KeyNotFound", "AliasNotFound", "KeyNotFound"]
    );
    write(&store, &two, |txn| {
        txn.rename_key_alias(id(1), &key_alias("mine"))?;
        txn.create_alias(&alias("mine"), id(1))?;
        txn.delete_aliases(id(1), &aliases(&["same"]))
    });
    let after = Dump::of(&store, &one);
    assert_eq!((before.keys, before.aliases), (after.keys, after.aliases));
    let seen = store.read(&one, |snap| snap.resolve_many(&aliases(&["mine", "none", "same"]))).unwrap();
    assert_eq!(
        seen.iter().map(|key| key.as_ref().map(|key| key.key_id)).collect::<Vec<_>>(),
        [Some(id(2)), None, Some(id(1))]
    );
}

#[test]
fn an_alias_of_another_project_is_taken_but_can_not_be_touched() {
    let store = Checked::with(Options::new().alias_scope(AliasScope::Domain));
    let (one, two) = (scope("one"), scope("two"));
    let abroad = Scope::new("another-domain", "two").unwrap();
    create(&store, &one, &new_key("same", 1).alias(alias("alias/taken")));
    create(&store, &two, &new_key("same", 1).alias(alias("mine")));
    let before = Dump::of(&store, &one);
    let mut words = Vec::new();
    for name in ["taken", "alias/taken"] {
        let name = alias(name);
        words.push(refused(&store, &two, |txn| txn.create_alias(&name, id(1))));
        words.push(refused(&store, &two, |txn| txn.create_key(&new_key("more", 2).alias(name.clone()))));
        words.push(refused(&store, &two, |txn| txn.associate_alias(&name, id(1))));
        words.push(refused(&store, &two, |txn| txn.swap_aliases(&name, &alias("mine"))));
        words.push(refused(&store, &two, |txn| txn.delete_aliases(id(1), std::slice::from_ref(&name))));
        words.push(store.read(&two, |snap| snap.resolve(&name)).unwrap_err());
        words.push(store.read(&two, |snap| snap.alias(&name)).unwrap_err());
        assert_eq!(store.read(&two, |snap| snap.resolve_many(std::slice::from_ref(&name))).unwrap(), [None]);
    }
    let expected = [
        "AliasExists",
        "AliasExists",
        "AliasNotFound",
        "AliasNotFound",
        "AliasNotOnKey",
        "AliasNotFound",
        "AliasNotFound",
    ];
    let words: Vec<_> = words.iter().map(word).collect();
    assert_eq!(words, [expected, expected].concat());
    let urn = before.aliases[&alias("alias/taken")].urn(store.region());
    assert_eq!(word(&store.read(&two, |snap| snap.resolve_urn(&urn)).unwrap_err()), "AliasNotFound");
    assert_eq!(store.read(&one, |snap| snap.resolve_urn(&urn)).unwrap().key_id, id(1));
    assert_eq!(store.read(&two, |snap| snap.aliases(After::Start, Limit::MAX)).unwrap().items.len(), 1);
    // Another domain has its own; and what is given up here is free there.
    create(&store, &abroad, &new_key("same", 1).alias(alias("taken")));
    write(&store, &one, |txn| {
        txn.create_key(&new_key("other", 2))?;
        txn.associate_alias(&alias("alias/taken"), id(2))
    });
    assert_eq!(word(&refused(&store, &two, |txn| txn.create_alias(&alias("taken"), id(1)))), "AliasExists");
    write(&store, &one, |txn| txn.delete_aliases(id(2), &aliases(&["alias/taken"])));
    write(&store, &two, |txn| txn.create_alias(&alias("taken"), id(1)));
    assert_eq!(
        word(&refused(&store, &one, |txn| txn.create_alias(&alias("alias/taken"), id(1)))),
        "AliasExists"
    );
}

#[test]
fn an_alias_that_is_taken_by_its_urn_only() {
    let (store, scope) = abc();
    write(&store, &scope, |txn| txn.create_alias(&alias("alias/kms-1234"), id(1)));
    for twin in ["kms-1234", "alias/kms-1234"] {
        let error = refused(&store, &scope, |txn| txn.create_alias(&alias(twin), id(2)));
        assert!(matches!(&error, Error::AliasExists(name) if name.as_str() == twin), "{error:?}");
    }
    // Look-ups need the exact bytes; so do all other operations.
    assert_eq!(
        word(&store.read(&scope, |snap| snap.resolve(&alias("kms-1234"))).unwrap_err()),
        "AliasNotFound"
    );
    let moved = refused(&store, &scope, |txn| txn.associate_alias(&alias("kms-1234"), id(2)));
    let deleted = refused(&store, &scope, |txn| txn.delete_aliases(id(1), &aliases(&["kms-1234"])));
    assert_eq!([moved, deleted].map(|error| word(&error)), ["AliasNotFound", "AliasNotOnKey"]);
    write(&store, &scope, |txn| {
        txn.expect_alias(&alias("kms-1234"), Expect::Absent)?;
        // Twice the prefix is another name: only one is left out.
        txn.create_alias(&alias("alias/alias/kms-1234"), id(2))?;
        txn.delete_aliases(id(1), &aliases(&["alias/kms-1234"]))?;
        txn.create_alias(&alias("kms-1234"), id(3))
    });
    assert_eq!(names(&store, &scope), "a(A) b(B alias/alias/kms-1234) c(C kms-1234)");
}

#[test]
fn key_aliases_and_aliases_are_two_name_spaces() {
    let (store, scope) = (Checked::in_memory(), scope("spaces"));
    create(&store, &scope, &new_key("orders", 1));
    create(&store, &scope, &new_key("bills", 2).alias(alias("orders")));
    let found = store.read(&scope, |snap| {
        Ok((snap.resolve(&alias("orders"))?.key_id, snap.find_by_key_alias(&key_alias("orders"))?.key_id))
    });
    assert_eq!(found.unwrap(), (id(2), id(1)));
    write(&store, &scope, |txn| txn.rename_key_alias(id(1), &key_alias("others")));
    assert_eq!(store.read(&scope, |snap| snap.resolve(&alias("orders"))).unwrap().key_id, id(2));
    assert_eq!(
        word(&store.read(&scope, |snap| snap.resolve(&alias("others"))).unwrap_err()),
        "AliasNotFound"
    );
    assert_eq!(
        word(&store.read(&scope, |snap| snap.find_by_key_alias(&key_alias("orders"))).unwrap_err()),
        "KeyNotFound"
    );
}

/// Makes the record of key 1 unreadable: its value gets a format version that is to come, under a
/// checksum that is right. It is the row whose place ends with the table of keys and the id; what its address
/// begins with is in the only row that says the number of a space.
fn make_unreadable(path: &std::path::Path) {
    let table = redb::TableDefinition::<&[u8], &[u8]>::new("keystead");
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut rows = transaction.open_table(table).unwrap();
        let ending = [&[0x10], id(1).as_bytes().as_slice()].concat();
        let found = redb::ReadableTable::iter(&rows)
            .unwrap()
            .map(|row| row.unwrap())
            .find(|(row, _)| row.value().ends_with(&ending));
        let (row, mut sealed) =
            found.map(|(row, value)| (row.value().to_vec(), value.value().to_vec())).unwrap();
        // checksum (4), commit (1, as there are few), version (1)
        sealed[5] = 200;
        let mut numbers = redb::ReadableTable::range::<&[u8]>(&rows, &[0, 0][..]..&[1][..]).unwrap();
        let space = numbers.next().unwrap().unwrap().0.value()[1..].to_vec();
        assert!(numbers.next().is_none());
        drop(numbers);
        let address = [space, ending].concat();
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&(address.len() as u64).to_be_bytes());
        hasher.update(&address);
        hasher.update(&sealed[4..]);
        sealed[..4].copy_from_slice(&hasher.finalize().to_be_bytes());
        rows.insert(row.as_slice(), sealed.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn a_closure_can_not_swallow_an_error_of_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let scope = scope("unreadable");
    {
        let store = Checked::new(options().open(&path).unwrap());
        create(&store, &scope, &new_key("a", 1).alias(alias("A")));
        create(&store, &scope, &new_key("b", 2));
    }
    make_unreadable(&path);
    // Not verified in the end: it is damaged.
    let store = options().open(&path).unwrap();
    type Swallowed = fn(&mut keystead::Transaction<'_>) -> Option<Error>;
    let swallowed: [(&str, Swallowed); 12] = [
        ("key", |txn| txn.key(id(1)).err()),
        ("find_by_key_alias", |txn| txn.find_by_key_alias(&key_alias("a")).err()),
        ("resolve", |txn| txn.resolve(&alias("A")).err()),
        ("resolve_many", |txn| txn.resolve_many(&aliases(&["A"])).err()),
        ("resolve_urn", |txn| txn.resolve_urn(&urn_of_a()).err()),
        ("expect_key", |txn| txn.expect_key(id(1), Expect::Absent).err()),
        ("expect_key_alias", |txn| txn.expect_key_alias(&key_alias("a"), Expect::Absent).err()),
        ("disable", |txn| txn.disable(id(1)).err()),
        ("rename", |txn| txn.rename_key_alias(id(1), &key_alias("c")).err()),
        ("associate", |txn| txn.associate_alias(&alias("A"), id(2)).err()),
        ("purge", |txn| txn.purge(id(1)).err()),
        ("create_key", |txn| txn.create_key(&new_key("c", 1)).err()),
    ];
    for (operation, swallow) in swallowed {
        let outcome = store.write(&request(&scope), |txn| {
            let met = swallow(txn).unwrap();
            assert!(matches!(met, Error::Unsupported { found: 200, .. }), "{operation}: {met:?}");
            txn.rename_key_alias(id(2), &key_alias(operation))
        });
        assert_eq!(
            outcome.map_err(|error| word(&error)).unwrap_err(),
            "Unsupported",
            "{operation} was swallowed"
        );
    }
    assert_eq!(store.read(&scope, |snap| snap.key(id(2))).unwrap().key_alias, key_alias("b"));
}

fn urn_of_a() -> keystead::AliasUrn {
    "kms:local:3bab8e245e854f68af5967c00dd43127:alias:A".parse().unwrap()
}

#[test]
fn the_name_of_an_actor_has_a_limit() {
    let (store, scope) = (Checked::in_memory(), scope("actors"));
    let named = |length: usize| request(&scope).actor(&"a".repeat(length));
    let run = |txn: &mut keystead::Transaction<'_>| txn.create_key(&new_key("a", 1));
    let commit = store.position().unwrap();
    let longer = [store.write(&named(1025), run).map(drop), store.dry_run(&named(1025), run).map(drop)];
    for refused in longer {
        assert_eq!(too_large(&refused.unwrap_err()), ("bytes in the name of the actor", 1024));
    }
    assert_eq!(store.position().unwrap(), commit);
    store.write(&named(1024), run).unwrap();
}

/// The same limit on every engine: it is the closure's own time that counts.
#[test]
#[expect(clippy::disallowed_methods, reason = "it is about how long a closure takes")]
fn a_transaction_has_its_time() {
    for asked in [Duration::ZERO, Duration::from_micros(999), Duration::from_secs(61)] {
        let refused = Options::new().transaction_time(asked).in_memory();
        assert!(
            matches!(refused, Err(Error::OptionsMismatch { option: "transaction_time", .. })),
            "{asked:?}"
        );
    }
    let limit = Duration::from_millis(5);
    let store = Options::new().transaction_time(limit).in_memory().unwrap();
    let request = Request::new(&Scope::new("domain", "project").unwrap());
    let (slow, quick) = (NewKey::new("slow").unwrap(), NewKey::new("quick").unwrap());
    let took = store.write(&request, |txn| {
        let (created, since) = (txn.create_key(&slow)?, Instant::now());
        while since.elapsed() <= limit {
            std::thread::yield_now();
        }
        Ok(created)
    });
    let too_long = matches!(took, Err(Error::TransactionTooLarge { what: "milliseconds", max: 5 }));
    assert!(too_long, "{took:?}");
    let found = store.read(request.scope(), |snap| snap.key(slow.key_id));
    assert!(matches!(found, Err(Error::KeyNotFound { .. })), "nothing was written: {found:?}");
    // A machine that stands still for a moment may make this one too long as well; not always.
    let created = (0..100).any(|_| store.write(&request, |txn| txn.create_key(&quick)).is_ok());
    assert!(created);
}
