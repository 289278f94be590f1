//! The policy as tables: what each operation does to a key in each state, in which order checks are
//! made, which spec goes with which usage, and to which keys an alias may move.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{
    Checked, Dump, alias, aliases, day, id, key_alias, new_key, request, scope, tag, week, word, write,
};
use keystead::{
    Compatibility, Error, KeyId, KeyRecord, KeySpec, KeyState, KeyUsage, NewKey, Options, Origin, Quotas,
    Request, Result, RotationInterval, Scope, Store, TagKey, Tags, Timestamp, Transaction,
};
use serde_json::Value;

const STATES_TABLE: &str = include_str!("policy/states.txt");
const ORDER_TABLE: &str = include_str!("policy/order.txt");

const SUBJECT: u128 = 1;
const OTHER: u128 = 2;
const NEW: u128 = 3;

const STATES: [&str; 19] = [
    "enabled kms",
    "enabled kms rotating",
    "enabled rsa",
    "enabled hmac",
    "enabled external",
    "disabled kms",
    "disabled kms rotating",
    "disabled external",
    "pending deletion kms",
    "pending deletion external",
    "pending deletion without material",
    "pending import",
    "frozen enabled kms",
    "frozen disabled kms",
    "frozen enabled external",
    "frozen disabled external",
    "frozen pending import",
    "default key",
    "absent key",
];

/// An operation, with its time in milliseconds after day 0.
type Operation = (&'static str, Timestamp, fn(&mut Transaction<'_>) -> Result<()>);

fn days(number: u16) -> RotationInterval {
    RotationInterval::new(number).unwrap()
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(key, value)| tag(key, value)).collect()
}

fn name_of(txn: &Transaction<'_>, key: u128) -> Result<keystead::KeyAlias> {
    match txn.key(id(key)) {
        Err(Error::KeyNotFound { .. }) => Ok(key_alias("subject")),
        key => Ok(key?.key_alias.clone()),
    }
}

fn before(time: Timestamp) -> Timestamp {
    Timestamp::from_millis(time.as_millis() - 1)
}

/// The operations on names, on the key `subject`.
fn operations_on_names() -> Vec<Operation> {
    let now = day(1);
    vec![
        ("create_key with its id", now, |txn| txn.create_key(&new_key("fresh", SUBJECT)).map(drop)),
        ("create_key with its name", now, |txn| {
            let name = name_of(txn, SUBJECT)?;
            txn.create_key(&new_key(name.as_str(), NEW)).map(drop)
        }),
        ("ensure_default_key", now, |txn| txn.ensure_default_key(&new_key("obs/default", NEW)).map(drop)),
        ("ensure_default_key with its id", now, |txn| {
            txn.ensure_default_key(&new_key("evs/default", SUBJECT)).map(drop)
        }),
        ("rename", now, |txn| txn.rename_key_alias(id(SUBJECT), &key_alias("fresh")).map(drop)),
        ("rename in place", now, |txn| {
            let name = name_of(txn, SUBJECT)?;
            txn.rename_key_alias(id(SUBJECT), &name).map(drop)
        }),
        ("rename to a reserved name", now, |txn| {
            txn.rename_key_alias(id(SUBJECT), &key_alias("evs/default")).map(drop)
        }),
        ("rename to a taken name", now, |txn| {
            txn.rename_key_alias(id(SUBJECT), &key_alias("other")).map(drop)
        }),
        ("swap_key_aliases as first", now, |txn| txn.swap_key_aliases(id(SUBJECT), id(OTHER)).map(drop)),
        ("swap_key_aliases as second", now, |txn| txn.swap_key_aliases(id(OTHER), id(SUBJECT)).map(drop)),
        ("swap_key_aliases with itself", now, |txn| txn.swap_key_aliases(id(SUBJECT), id(SUBJECT)).map(drop)),
        ("create_alias", now, |txn| txn.create_alias(&alias("fresh"), id(SUBJECT)).map(drop)),
        ("create_alias that exists", now, |txn| txn.create_alias(&alias("away"), id(SUBJECT)).map(drop)),
        ("associate from", now, |txn| txn.associate_alias(&alias("held"), id(OTHER)).map(drop)),
        ("associate to", now, |txn| txn.associate_alias(&alias("away"), id(SUBJECT)).map(drop)),
        ("associate in place", now, |txn| txn.associate_alias(&alias("held"), id(SUBJECT)).map(drop)),
        ("swap_aliases as first", now, |txn| txn.swap_aliases(&alias("held"), &alias("away")).map(drop)),
        ("swap_aliases as second", now, |txn| txn.swap_aliases(&alias("away"), &alias("held")).map(drop)),
        ("swap_aliases of one key", now, |txn| txn.swap_aliases(&alias("held"), &alias("held2")).map(drop)),
        ("delete_aliases", now, |txn| txn.delete_aliases(id(SUBJECT), &[alias("held")])),
        ("delete_aliases all", now, |txn| txn.delete_aliases(id(SUBJECT), &aliases(&["held2", "held"]))),
        ("delete_aliases of another", now, |txn| {
            txn.delete_aliases(id(SUBJECT), &aliases(&["held", "away"]))
        }),
    ]
}

/// The operations on the key `subject` itself.
fn operations_on_keys() -> Vec<Operation> {
    let now = day(1);
    vec![
        ("update_description", now, |txn| {
            txn.update_description(id(SUBJECT), &"changed".parse()?).map(drop)
        }),
        ("update_description in place", now, |txn| {
            txn.update_description(id(SUBJECT), &"as it was".parse()?).map(drop)
        }),
        ("set_tags", now, |txn| {
            txn.set_tags(id(SUBJECT), &tags(&[("color", "blue"), ("size", "small")])).map(drop)
        }),
        ("set_tags in place", now, |txn| txn.set_tags(id(SUBJECT), &tags(&[("color", "red")])).map(drop)),
        ("remove_tags", now, |txn| txn.remove_tags(id(SUBJECT), &[TagKey::new("color")?]).map(drop)),
        ("remove_tags not there", now, |txn| {
            txn.remove_tags(id(SUBJECT), &[TagKey::new("color")?, TagKey::new("size")?]).map(drop)
        }),
        ("enable", now, |txn| txn.enable(id(SUBJECT)).map(drop)),
        ("disable", now, |txn| txn.disable(id(SUBJECT)).map(drop)),
        ("schedule_deletion", now, |txn| txn.schedule_deletion(id(SUBJECT), week()).map(drop)),
        ("cancel_deletion", now, |txn| txn.cancel_deletion(id(SUBJECT)).map(drop)),
        ("purge before it is due", before(day(7)), |txn| txn.purge(id(SUBJECT)).map(drop)),
        ("purge when it is due", day(7), |txn| txn.purge(id(SUBJECT)).map(drop)),
        ("freeze", now, |txn| txn.freeze(id(SUBJECT)).map(drop)),
        ("unfreeze", now, |txn| txn.unfreeze(id(SUBJECT)).map(drop)),
        ("material_imported", now, |txn| txn.material_imported(id(SUBJECT), None).map(drop)),
        ("material_imported until day 50", now, |txn| {
            txn.material_imported(id(SUBJECT), Some(day(50))).map(drop)
        }),
        ("material_deleted", now, |txn| txn.material_deleted(id(SUBJECT)).map(drop)),
        ("material_expired before its time", before(day(30)), |txn| {
            txn.material_expired(id(SUBJECT)).map(drop)
        }),
        ("material_expired at its time", day(30), |txn| txn.material_expired(id(SUBJECT)).map(drop)),
        ("enable_rotation", now, |txn| txn.enable_rotation(id(SUBJECT), days(90)).map(drop)),
        ("disable_rotation", now, |txn| txn.disable_rotation(id(SUBJECT)).map(drop)),
        ("set_rotation_interval", now, |txn| txn.set_rotation_interval(id(SUBJECT), days(90)).map(drop)),
        ("set_rotation_interval in place", now, |txn| {
            txn.set_rotation_interval(id(SUBJECT), days(60)).map(drop)
        }),
        ("record_rotation", now, |txn| txn.record_rotation(id(SUBJECT)).map(drop)),
    ]
}

/// Makes `subject` in a state, and `other`, on day 0.
fn set_up(store: &Store, scope: &Scope, state: &str) {
    let (color, red) = tag("color", "red");
    let other = new_key("other", OTHER).alias(alias("away"));
    let described = |new: NewKey| new.description("as it was".parse().unwrap()).tag(color.clone(), red.clone());
    let spec = match state {
        "enabled rsa" => KeySpec::Rsa2048,
        "enabled hmac" => KeySpec::Hmac256,
        _ => KeySpec::Aes256,
    };
    let has = |words: &str| state.contains(words);
    let external = has("external") || has("import") || has("without material");
    let origin = if external { Origin::External } else { Origin::Kms };
    let subject = described(new_key("subject", SUBJECT)).spec(spec).origin(origin);
    let subject = subject.alias(alias("held")).alias(alias("held2"));
    let default = described(new_key("obs/default", SUBJECT));
    let step = |closure: &dyn Fn(&mut Transaction<'_>) -> Result<()>| {
        store.write(&Request::new(scope).at(day(0)), |txn| closure(txn)).unwrap();
    };
    step(&|txn| txn.create_key(&other).map(drop));
    match state {
        "absent key" => return,
        "default key" => return step(&|txn| txn.ensure_default_key(&default).map(drop)),
        _ => step(&|txn| txn.create_key(&subject).map(drop)),
    }
    if has("external") {
        step(&|txn| txn.material_imported(id(SUBJECT), Some(day(30))).map(drop));
    }
    if has("rotating") {
        step(&|txn| txn.enable_rotation(id(SUBJECT), days(60)).map(drop));
    }
    if has("disabled") {
        step(&|txn| txn.disable(id(SUBJECT)).map(drop));
    }
    if has("pending deletion") {
        step(&|txn| txn.schedule_deletion(id(SUBJECT), week()).map(drop));
    }
    if has("frozen") {
        step(&|txn| txn.freeze(id(SUBJECT)).map(drop));
    }
}

/// The fields of a record, those inside of fields too, without the two that every change changes.
fn fields(key: &KeyRecord) -> BTreeMap<String, String> {
    fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(inner) => {
                for (field, value) in inner {
                    flatten(&format!("{name}.{field}"), value, into);
                }
            }
            Value::String(text) => drop(into.insert(name.to_owned(), text.clone())),
            Value::Null => {}
            Value::Number(number) if name.ends_with("_at") => {
                let day_number = (number.as_u64().unwrap() - day(0).as_millis()) / (day(1).as_millis() - day(0).as_millis());
                into.insert(name.to_owned(), format!("day {day_number}"));
            }
            other => drop(into.insert(name.to_owned(), other.to_string())),
        }
    }
    let mut flat = BTreeMap::new();
    for (field, value) in serde_json::to_value(key).unwrap().as_object().unwrap() {
        flatten(field, value, &mut flat);
    }
    flat.retain(|field, _| field != "updated_at" && field != "version");
    flat
}

fn label(key: KeyId) -> &'static str {
    match [SUBJECT, OTHER, NEW].map(id).iter().position(|known| *known == key) {
        Some(0) => "subject",
        Some(1) => "other",
        _ => "new",
    }
}

/// What changed between two moments, in words; each record that changed was changed by this commit
/// at this time, all others are the same in everything.
fn difference(before: &Dump, after: &Dump, time: Timestamp) -> Vec<String> {
    let mut words = Vec::new();
    let ids: BTreeSet<_> = before.keys.keys().chain(after.keys.keys()).collect();
    for key in ids {
        let label = label(*key);
        let (Some(was), Some(is)) = (before.keys.get(key), after.keys.get(key)) else {
            let sign = if after.keys.contains_key(key) { '+' } else { '-' };
            words.push(format!("{sign}{label}"));
            continue;
        };
        let (old, new) = (fields(was), fields(is));
        let names: BTreeSet<_> = old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name)).collect();
        let touched = if names.is_empty() { (was.version, was.updated_at) } else { (after.commit, time) };
        assert_eq!((is.version, is.updated_at), touched, "version and time of {label}");
        let prefix = if label == "subject" { String::new() } else { format!("{label}.") };
        let none = "none".to_owned();
        words.extend(names.iter().map(|name| format!("{prefix}{name}={}", new.get(*name).unwrap_or(&none))));
    }
    let names: BTreeSet<_> = before.aliases.keys().chain(after.aliases.keys()).collect();
    for name in names {
        let Some(is) = after.aliases.get(name) else {
            words.push(format!("-{name}"));
            continue;
        };
        let was = before.aliases.get(name);
        if was == Some(is) {
            continue;
        }
        assert_eq!((is.version, is.updated_at), (after.commit, time), "version and time of {name}");
        assert_eq!(is.created_at, was.map_or(time, |was| was.created_at));
        let sign = if was.is_none() { "+" } else { "" };
        words.push(format!("{sign}{name} on {}", label(is.key_id)));
    }
    words
}

/// Makes one operation and says what came of it. A refusal changes nothing at all.
fn answer(store: &Store, scope: &Scope, (_, time, run): Operation) -> String {
    let before = Dump::of(store, scope);
    let request = Request::new(scope).at(time);
    let rehearsed = store.dry_run(&request, |txn| run(txn)).map_err(|error| error.to_string());
    assert_eq!(before, Dump::of(store, scope), "a dry run changes nothing");
    let outcome = store.write(&request, |txn| run(txn));
    let after = Dump::of(store, scope);
    assert_eq!(rehearsed.err(), outcome.as_ref().err().map(ToString::to_string), "a dry run tells the truth");
    match outcome {
        Err(error) => {
            assert_eq!(before, after, "{error} left something behind");
            word(&error)
        }
        Ok(committed) if !committed.changed => {
            assert_eq!(before, after, "nothing changed");
            assert_eq!(committed.commit, before.commit);
            "unchanged".to_owned()
        }
        Ok(committed) => {
            assert_eq!(committed.commit, after.commit);
            assert_eq!(after.commit.number(), before.commit.number() + 1);
            difference(&before, &after, time).join(", ")
        }
    }
}

/// The lines of a table: everything but the last column, and the last column.
fn table(text: &str) -> BTreeMap<String, String> {
    let mut cells = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        let (answer, situation) = columns.split_last().unwrap();
        let twice = cells.insert(situation.join(" | "), (*answer).to_owned());
        assert_eq!(twice, None, "the table has this line twice: {line}");
    }
    cells
}

/// Compares what the table says with what the store did, cell by cell; each must have the other.
fn compare(mut expected: BTreeMap<String, String>, actual: BTreeMap<String, String>) {
    let mut wrong = Vec::new();
    for (situation, answer) in actual {
        match expected.remove(&situation) {
            Some(line) if line == answer => {}
            Some(line) => wrong.push(format!("{situation}: the table says {line}, the store {answer}")),
            None => wrong.push(format!("{situation}: not in the table; the store says {answer}")),
        }
    }
    wrong.extend(expected.keys().map(|situation| format!("{situation}: in the table, but never run")));
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_operation_in_every_state() {
    let operations = [operations_on_names(), operations_on_keys()].concat();
    let mut actual = BTreeMap::new();
    for state in STATES {
        let store = Checked::in_memory();
        for (index, operation) in operations.iter().enumerate() {
            let scope = scope(&format!("cell-{index}"));
            set_up(&store, &scope, state);
            let cell = format!("{state} | {}", operation.0);
            actual.insert(cell, answer(&store, &scope, *operation));
        }
    }
    assert_eq!(actual.len(), STATES.len() * operations.len());
    compare(table(STATES_TABLE), actual);
}

/// The store's own operations are all in the table: who adds one must add its lines.
#[test]
fn the_table_names_every_state_that_a_key_may_have() {
    for state in KeyState::ALL {
        let words = state.as_str().replace('_', " ");
        assert!(STATES.iter().any(|line| line.starts_with(&words)), "{state} is missing");
    }
}
