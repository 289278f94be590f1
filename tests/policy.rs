//! The policy as tables: what each operation does to a key in each state, in which order checks are
//! made, which spec goes with which usage, and to which keys an alias may move.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Checked, Dump, alias, aliases, day, id, key_alias, new_key, request, scope, tag, week, word};
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
        ("update_description", now, |txn| txn.update_description(id(SUBJECT), &"changed".parse()?).map(drop)),
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
        ("remove_tags twice", now, |txn| {
            txn.remove_tags(id(SUBJECT), &[TagKey::new("color")?, TagKey::new("color")?]).map(drop)
        }),
        ("enable", now, |txn| txn.enable(id(SUBJECT)).map(drop)),
        ("disable", now, |txn| txn.disable(id(SUBJECT)).map(drop)),
        ("schedule_deletion", now, |txn| txn.schedule_deletion(id(SUBJECT), week()).map(drop)),
        ("cancel_deletion", now, |txn| txn.cancel_deletion(id(SUBJECT)).map(drop)),
        ("cancel_deletion before expiry", before(day(30)), |txn| txn.cancel_deletion(id(SUBJECT)).map(drop)),
        ("cancel_deletion at expiry", day(30), |txn| txn.cancel_deletion(id(SUBJECT)).map(drop)),
        ("purge before it is due", before(day(7)), |txn| txn.purge(id(SUBJECT)).map(drop)),
        ("purge when it is due", day(7), |txn| txn.purge(id(SUBJECT)).map(drop)),
        ("freeze", now, |txn| txn.freeze(id(SUBJECT)).map(drop)),
        ("unfreeze", now, |txn| txn.unfreeze(id(SUBJECT)).map(drop)),
        ("material_imported", now, |txn| txn.material_imported(id(SUBJECT), None).map(drop)),
        ("material_imported until day 50", now, |txn| {
            txn.material_imported(id(SUBJECT), Some(day(50))).map(drop)
        }),
        ("material_imported until now", now, |txn| {
            txn.material_imported(id(SUBJECT), Some(day(1))).map(drop)
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
    let described =
        |new: NewKey| new.description("as it was".parse().unwrap()).tag(color.clone(), red.clone());
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
    let key = id(SUBJECT);
    let made = store.write(&Request::new(scope).at(day(0)), |txn| {
        txn.create_key(&other)?;
        match state {
            "absent key" => return Ok(()),
            "default key" => return txn.ensure_default_key(&default).map(drop),
            _ => txn.create_key(&subject)?,
        };
        if has("external") {
            txn.material_imported(key, Some(day(30)))?;
        }
        if has("rotating") {
            txn.enable_rotation(key, days(60))?;
        }
        if has("disabled") {
            txn.disable(key)?;
        }
        if has("pending deletion") {
            txn.schedule_deletion(key, week())?;
        }
        if has("frozen") {
            txn.freeze(key)?;
        }
        Ok(())
    });
    made.unwrap();
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
                let day_number = (number.as_u64().unwrap() - day(0).as_millis())
                    / (day(1).as_millis() - day(0).as_millis());
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
        let names: BTreeSet<_> =
            old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name)).collect();
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
    let rehearsed = store.dry_run(&request, run).map_err(|error| error.to_string());
    let outcome = store.write(&request, run);
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

#[test]
fn the_table_has_every_state_and_every_operation_there_is() {
    for state in KeyState::ALL {
        let words = state.as_str().replace('_', " ");
        assert!(STATES.iter().any(|line| line.starts_with(&words)), "{state} is missing");
    }
    let tried: BTreeSet<_> = [operations_on_names(), operations_on_keys()]
        .concat()
        .iter()
        .filter_map(|(name, ..)| name.split(' ').next())
        .flat_map(|word| ["", "_alias", "_key_alias"].map(|rest| format!("{word}{rest}")))
        .collect();
    let sources = [include_str!("../src/txn/aliases.rs"), include_str!("../src/txn/keys.rs")].concat();
    let operations: Vec<_> = sources
        .split("pub fn ")
        .skip(1)
        .filter(|text| text.split(')').next().is_some_and(|parameters| parameters.contains("&mut self")))
        .filter_map(|text| text.split('(').next())
        .collect();
    assert!(operations.len() > 20, "the operations were not found: {operations:?}");
    for operation in operations {
        assert!(tried.contains(operation), "{operation} is not in the table");
    }
}

/// Where the order of checks is tried: one scope of a store with small quotas and a policy.
struct Bench<'a> {
    store: &'a Store,
    scope: Scope,
    operation: &'static str,
}

impl Bench<'_> {
    fn options() -> Options {
        let quotas = Quotas { keys_per_project: 2, aliases_per_key: 2, tags_per_key: 1 };
        Options::new().quotas(quotas).compatibility(Compatibility::SameUsage)
    }

    /// Something that is there before the operation.
    fn given(&self, closure: impl Fn(&mut Transaction<'_>) -> Result<()>) {
        self.store.write(&Request::new(&self.scope).at(day(0)), closure).unwrap();
    }

    /// Makes a key in a state.
    fn key(&self, state: &str, new: &NewKey) -> KeyId {
        self.given(|txn| {
            let mut default = new.clone();
            (default.key_alias, default.aliases) = (key_alias("obs/default"), Vec::new());
            match state {
                "absent" => return Ok(()),
                "default" => return txn.ensure_default_key(&default).map(drop),
                _ => txn.create_key(new)?,
            };
            if new.origin == Origin::External && state != "import" {
                txn.material_imported(new.key_id, Some(day(1)))?;
            }
            match state {
                "disabled" => txn.disable(new.key_id).map(drop),
                "pending" => txn.schedule_deletion(new.key_id, week()).map(drop),
                "frozen" => txn.freeze(new.key_id).map(drop),
                _ => Ok(()),
            }
        });
        new.key_id
    }

    /// Makes the operation; a refusal changes nothing at all.
    fn answer(&self, closure: impl Fn(&mut Transaction<'_>) -> Result<()>) -> String {
        let before = Dump::of(self.store, &self.scope);
        let outcome = self.store.write(&request(&self.scope), closure);
        let same = before == Dump::of(self.store, &self.scope);
        match outcome {
            Ok(committed) => {
                assert_eq!(committed.changed, !same);
                if committed.changed { "done".to_owned() } else { "unchanged".to_owned() }
            }
            Err(error) => {
                assert!(same, "{error} left something behind");
                word(&error)
            }
        }
    }
}

/// An operation and all that it may meet.
#[derive(Clone)]
struct Checks {
    operation: &'static str,
    dimensions: Vec<&'static [&'static str]>,
    possible: fn(&[&str]) -> bool,
    run: fn(&Bench<'_>, &[&str]) -> String,
}

const KEY: &[&str] = &["enabled", "disabled", "pending", "frozen", "default", "absent"];
const QUOTA: &[&str] = &["room", "full"];

fn is_user_key(state: &str) -> bool {
    state != "absent" && state != "default"
}

fn checks_on_key_aliases() -> Vec<Checks> {
    vec![
        Checks {
            operation: "rename",
            dimensions: vec![&["free", "own", "taken", "reserved"], KEY],
            possible: |cell| cell != ["own", "absent"],
            run: |bench, cell| {
                bench.key("enabled", &new_key("taken", OTHER));
                let key = bench.key(cell[1], &new_key("own", SUBJECT));
                let name = match (cell[0], cell[1]) {
                    ("own", "default") => "obs/default",
                    ("reserved", _) => "evs/default",
                    (name, _) => name,
                };
                bench.answer(|txn| txn.rename_key_alias(key, &key_alias(name)).map(drop))
            },
        },
        Checks {
            operation: "swap_key_aliases",
            dimensions: vec![KEY, KEY],
            possible: |_| true,
            run: |bench, cell| {
                let one = bench.key(cell[0], &new_key("one", SUBJECT));
                let other = if cell == ["default", "default"] {
                    let new = new_key("evs/default", OTHER);
                    bench.given(|txn| txn.ensure_default_key(&new).map(drop));
                    new.key_id
                } else {
                    bench.key(cell[1], &new_key("other", OTHER))
                };
                bench.answer(|txn| txn.swap_key_aliases(one, other).map(drop))
            },
        },
    ]
}

fn checks_on_aliases() -> Vec<Checks> {
    vec![
        Checks {
            operation: "create_alias",
            dimensions: vec![&["free", "own", "another's", "twin"], KEY, QUOTA],
            possible: |cell| is_user_key(cell[1]) || (cell[0] != "own" && cell[2] == "room"),
            run: |bench, cell| {
                let other = new_key("other", OTHER).alias(alias("another-s")).alias(alias("alias/twin"));
                bench.key("enabled", &other);
                let new = new_key("subject", SUBJECT).alias(alias("own"));
                let new = if cell[2] == "full" { new.alias(alias("own2")) } else { new };
                let key = bench.key(cell[1], &new);
                let name = alias(&cell[0].replace('\'', "-"));
                bench.answer(|txn| txn.create_alias(&name, key).map(drop))
            },
        },
        Checks {
            operation: "associate_alias",
            dimensions: vec![&["away", "here", "missing"], KEY, &["alike", "unlike"], QUOTA],
            possible: |cell| match cell[1] {
                "absent" => cell[0] != "here" && cell[2] == "alike" && cell[3] == "room",
                "default" => cell[0] != "here" && cell[3] == "room",
                _ => cell[0] != "here" || cell[2] == "alike",
            },
            run: |bench, cell| {
                bench.key("enabled", &new_key("source", OTHER).alias(alias("away")));
                let spec = if cell[2] == "alike" { KeySpec::Aes256 } else { KeySpec::Rsa2048 };
                let new = new_key("target", SUBJECT).spec(spec).alias(alias("here"));
                let new = if cell[3] == "full" { new.alias(alias("here2")) } else { new };
                let target = bench.key(cell[1], &new);
                bench.answer(|txn| txn.associate_alias(&alias(cell[0]), target).map(drop))
            },
        },
        Checks {
            operation: "swap_aliases",
            dimensions: vec![HOLDER, HOLDER, &["alike", "unlike"]],
            possible: |_| true,
            run: |bench, cell| {
                let make = |state: &str, new: NewKey, name: &str| match state {
                    "missing" => bench.key("enabled", &new),
                    _ => bench.key(state, &new.alias(alias(name))),
                };
                let spec = if cell[2] == "alike" { KeySpec::Sm4 } else { KeySpec::Aes256 };
                make(cell[0], new_key("first", SUBJECT).spec(KeySpec::Sm4), "one");
                make(cell[1], new_key("second", OTHER).spec(spec), "two");
                bench.answer(|txn| txn.swap_aliases(&alias("one"), &alias("two")).map(drop))
            },
        },
        Checks {
            operation: "delete_aliases",
            dimensions: vec![&["its own", "another's", "no such", "none", "51 names", "a name twice"], KEY],
            possible: |_| true,
            run: |bench, cell| {
                bench.key("enabled", &new_key("other", OTHER).alias(alias("away")));
                let key = bench.key(cell[1], &new_key("subject", SUBJECT).alias(alias("own")));
                let names = match cell[0] {
                    "its own" => aliases(&["own"]),
                    "another's" => aliases(&["own", "away"]),
                    "no such" => aliases(&["no-such", "own"]),
                    "none" => Vec::new(),
                    "51 names" => (0..51).map(|n| alias(&format!("n{n}"))).collect(),
                    _ => aliases(&["own", "own"]),
                };
                bench.answer(|txn| txn.delete_aliases(key, &names))
            },
        },
    ]
}

const HOLDER: &[&str] = &["enabled", "disabled", "pending", "frozen", "missing"];

fn with_tags(new: NewKey, tags: &str) -> NewKey {
    let number = if tags == "few" { 1 } else { 2 };
    (0..number).map(|n| tag(&format!("tag{n}"), "")).fold(new, |new, (key, value)| new.tag(key, value))
}

fn checks_on_creation() -> Vec<Checks> {
    vec![
        Checks {
            operation: "create_key",
            dimensions: vec![
                &["free", "taken", "reserved"],
                &["few", "many"],
                &["fit", "unfit"],
                &["free", "taken"],
                QUOTA,
                &["no alias", "taken", "twice", "too many"],
            ],
            possible: |_| true,
            run: |bench, cell| {
                bench.key("enabled", &new_key("taken", OTHER).alias(alias("away")));
                if cell[4] == "full" {
                    bench.key("enabled", &new_key("one-more", NEW));
                }
                let name = if cell[0] == "reserved" { "obs/default" } else { cell[0] };
                let mut new = with_tags(new_key(name, SUBJECT), cell[1]);
                if cell[2] == "unfit" {
                    new = new.usage(KeyUsage::SignVerify);
                }
                if cell[3] == "taken" {
                    new = new.id(id(OTHER));
                }
                new.aliases = match cell[5] {
                    "no alias" => Vec::new(),
                    "taken" => aliases(&["fresh", "away"]),
                    "twice" => aliases(&["fresh", "fresh"]),
                    _ => aliases(&["fresh", "fresh2", "fresh3"]),
                };
                bench.answer(|txn| txn.create_key(&new).map(drop))
            },
        },
        Checks {
            operation: "ensure_default_key",
            dimensions: vec![
                &["new", "there", "plain"],
                &["few", "many"],
                &["fit", "unfit"],
                &["plain", "external", "alias"],
                &["free", "taken"],
            ],
            possible: |_| true,
            run: |bench, cell| {
                bench.key("enabled", &new_key("taken", OTHER));
                bench.key("default", &new_key("obs", NEW));
                let name = match cell[0] {
                    "new" => "evs/default",
                    "there" => "obs/default",
                    name => name,
                };
                let mut new = with_tags(new_key(name, SUBJECT), cell[1]);
                match cell[3] {
                    "external" => new = new.origin(Origin::External),
                    "alias" => new = new.alias(alias("fresh")),
                    _ => {}
                }
                if cell[2] == "unfit" {
                    new = new.usage(KeyUsage::GenerateVerifyMac);
                }
                if cell[4] == "taken" {
                    new = new.id(id(OTHER));
                }
                bench.answer(|txn| txn.ensure_default_key(&new).map(drop))
            },
        },
    ]
}

fn checks_on_states() -> Vec<Checks> {
    let rotation = |operation| Checks {
        operation,
        dimensions: vec![
            &["enabled", "disabled", "pending", "frozen"],
            &["kms", "external"],
            &["aes", "rsa", "hmac"],
            &["off", "on"],
        ],
        possible: |cell| cell[3] == "off" || (cell[1] == "kms" && cell[2] == "aes"),
        run: rotate,
    };
    let material = |operation| Checks {
        operation,
        dimensions: vec![&["enabled", "disabled", "pending", "frozen", "import"], &["kms", "external"]],
        possible: |cell| cell != ["import", "kms"],
        run: |bench, cell| {
            let origin = cell[1].parse().unwrap();
            let key = bench.key(cell[0], &new_key("subject", SUBJECT).origin(origin));
            bench.answer(|txn| match bench.operation {
                "material_imported" => txn.material_imported(key, None).map(drop),
                "imported too late" => txn.material_imported(key, Some(day(0))).map(drop),
                "material_deleted" => txn.material_deleted(key).map(drop),
                _ => txn.material_expired(key).map(drop),
            })
        },
    };
    let mut checks = ["enable_rotation", "disable_rotation", "set_rotation_interval", "record_rotation"]
        .map(rotation)
        .to_vec();
    let of_material = ["material_imported", "imported too late", "material_deleted", "material_expired"];
    checks.extend(of_material.map(material));
    checks
}

fn rotate(bench: &Bench<'_>, cell: &[&str]) -> String {
    let spec = match cell[2] {
        "aes" => KeySpec::Aes256,
        "rsa" => KeySpec::Rsa4096,
        _ => KeySpec::HmacSm3,
    };
    let new = new_key("subject", SUBJECT).spec(spec).origin(cell[1].parse().unwrap());
    let key = if cell[3] == "off" {
        bench.key(cell[0], &new)
    } else {
        let key = bench.key("enabled", &new);
        bench.given(|txn| txn.enable_rotation(key, days(60)).map(drop));
        bench.given(|txn| match cell[0] {
            "disabled" => txn.disable(key).map(drop),
            "pending" => txn.schedule_deletion(key, week()).map(drop),
            "frozen" => txn.freeze(key).map(drop),
            _ => Ok(()),
        });
        key
    };
    bench.answer(|txn| match bench.operation {
        "enable_rotation" => txn.enable_rotation(key, days(90)).map(drop),
        "disable_rotation" => txn.disable_rotation(key).map(drop),
        "set_rotation_interval" => txn.set_rotation_interval(key, days(90)).map(drop),
        _ => txn.record_rotation(key).map(drop),
    })
}

fn checks_on_tags() -> Vec<Checks> {
    vec![
        Checks {
            operation: "set_tags",
            dimensions: vec![&["one", "none", "too many"], KEY],
            possible: |_| true,
            run: |bench, cell| {
                let key = bench.key(cell[1], &new_key("subject", SUBJECT));
                let wanted = match cell[0] {
                    "one" => tags(&[("color", "red")]),
                    "none" => Tags::new(),
                    _ => tags(&[("color", "red"), ("size", "small")]),
                };
                bench.answer(|txn| txn.set_tags(key, &wanted).map(drop))
            },
        },
        Checks {
            operation: "remove_tags",
            dimensions: vec![&["its own", "none", "no such", "twice", "no such twice"], KEY],
            possible: |_| true,
            run: |bench, cell| {
                let key = bench.key(cell[1], &with_tags(new_key("subject", SUBJECT), "few"));
                let wanted = match cell[0] {
                    "its own" => vec![tag("tag0", "").0],
                    "none" => Vec::new(),
                    "twice" => vec![tag("tag0", "").0, tag("tag0", "").0],
                    "no such twice" => ["tag1", "tag0", "tag0"].map(|name| tag(name, "").0).to_vec(),
                    _ => vec![tag("tag0", "").0, tag("tag1", "").0],
                };
                bench.answer(|txn| txn.remove_tags(key, &wanted).map(drop))
            },
        },
    ]
}

/// Every combination of one word of each dimension.
fn combinations(dimensions: &[&'static [&'static str]]) -> Vec<Vec<&'static str>> {
    dimensions.iter().fold(vec![Vec::new()], |cells, words| {
        let longer =
            |cell: &Vec<_>| words.iter().map(|word| [&cell[..], &[*word]].concat()).collect::<Vec<_>>();
        cells.iter().flat_map(longer).collect()
    })
}

#[test]
fn every_check_in_its_order() {
    let checks = [
        checks_on_key_aliases(),
        checks_on_aliases(),
        checks_on_creation(),
        checks_on_states(),
        checks_on_tags(),
    ];
    let mut actual = BTreeMap::new();
    for Checks { operation, dimensions, possible, run } in checks.into_iter().flatten() {
        let store = Checked::with(Bench::options());
        for (index, cell) in combinations(&dimensions).into_iter().enumerate() {
            if possible(&cell) {
                let bench = Bench { store: &store, scope: scope(&format!("cell-{index}")), operation };
                let answer = run(&bench, &cell);
                actual.insert(format!("{operation} | {}", cell.join(" | ")), answer);
            }
        }
    }
    compare(table(ORDER_TABLE), actual);
}

/// Each spec, the usages that it may have, the default first, and whether it rotates.
const SPECS: &str = "
    AES_256   | ENCRYPT_DECRYPT              | rotates
    SM4       | ENCRYPT_DECRYPT              | rotates
    RSA_2048  | SIGN_VERIFY, ENCRYPT_DECRYPT | AsymmetricNotRotatable
    RSA_3072  | SIGN_VERIFY, ENCRYPT_DECRYPT | AsymmetricNotRotatable
    RSA_4096  | SIGN_VERIFY, ENCRYPT_DECRYPT | AsymmetricNotRotatable
    EC_P256   | SIGN_VERIFY                  | AsymmetricNotRotatable
    EC_P384   | SIGN_VERIFY                  | AsymmetricNotRotatable
    SECP256K1 | SIGN_VERIFY                  | AsymmetricNotRotatable
    SM2       | SIGN_VERIFY, ENCRYPT_DECRYPT | AsymmetricNotRotatable
    ED25519   | SIGN_VERIFY                  | AsymmetricNotRotatable
    HMAC_256  | GENERATE_VERIFY_MAC          | AsymmetricNotRotatable
    HMAC_384  | GENERATE_VERIFY_MAC          | AsymmetricNotRotatable
    HMAC_512  | GENERATE_VERIFY_MAC          | AsymmetricNotRotatable
    HMAC_SM3  | GENERATE_VERIFY_MAC          | AsymmetricNotRotatable
";

fn specs() -> Vec<(KeySpec, Vec<KeyUsage>, &'static str)> {
    let lines = SPECS.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let columns: Vec<_> = line.split('|').map(str::trim).collect();
            let usages = columns[1].split(", ").map(|usage| usage.parse().unwrap());
            (columns[0].parse().unwrap(), usages.collect(), columns[2])
        })
        .collect()
}

#[test]
fn specs_usages_and_rotation() {
    let store = Checked::in_memory();
    let scope = scope("specs");
    let known: Vec<_> = specs().iter().map(|(spec, ..)| *spec).collect();
    assert_eq!(known, KeySpec::ALL);
    assert_eq!(KeyUsage::ALL.len(), 3);
    let mut number = 0;
    for (spec, usages, rotation) in specs() {
        assert_eq!(NewKey::new("x").unwrap().spec(spec).usage, usages[0], "the default usage of {spec}");
        assert_eq!(spec.default_usage(), usages[0]);
        for usage in KeyUsage::ALL {
            number += 1;
            let new = new_key(&format!("key{number}"), number).spec(spec).usage(*usage);
            if !usages.contains(usage) {
                let error = common::refused(&store, &scope, |txn| txn.create_key(&new));
                assert_eq!(word(&error), "InvalidKeySpec", "{spec} for {usage}");
                continue;
            }
            let key = common::create(&store, &scope, &new);
            assert_eq!((key.spec, key.usage, key.state), (spec, *usage, KeyState::Enabled));
            let rotated = store.write(&request(&scope), |txn| txn.enable_rotation(new.key_id, days(30)));
            let answer = rotated.as_ref().map_or_else(word, |_| "rotates".to_owned());
            assert_eq!(answer, rotation, "{spec} for {usage}");
        }
    }
}

/// What an alias's callers do with a key: keys of one line are alike under `SameUsage`, others not.
const ALIKE: [&str; 9] = [
    "AES_256 ENCRYPT_DECRYPT",
    "SM4 ENCRYPT_DECRYPT",
    "RSA_2048 SIGN_VERIFY, RSA_3072 SIGN_VERIFY, RSA_4096 SIGN_VERIFY",
    "RSA_2048 ENCRYPT_DECRYPT, RSA_3072 ENCRYPT_DECRYPT, RSA_4096 ENCRYPT_DECRYPT",
    "EC_P256 SIGN_VERIFY, EC_P384 SIGN_VERIFY, SECP256K1 SIGN_VERIFY",
    "SM2 SIGN_VERIFY",
    "SM2 ENCRYPT_DECRYPT",
    "ED25519 SIGN_VERIFY",
    "HMAC_256 GENERATE_VERIFY_MAC, HMAC_384 GENERATE_VERIFY_MAC, HMAC_512 GENERATE_VERIFY_MAC, \
     HMAC_SM3 GENERATE_VERIFY_MAC",
];

/// Makes a key of each spec and usage, each with an alias, and returns each with its line.
fn one_of_each(store: &Store, scope: &Scope) -> Vec<(usize, NewKey)> {
    let mut keys = Vec::new();
    for (line, members) in ALIKE.iter().enumerate() {
        for member in members.split(", ") {
            let (spec, usage) = member.split_once(' ').unwrap();
            let number = keys.len() as u128;
            let new = new_key(&format!("key{number}"), number).alias(alias(&format!("alias{number}")));
            let new = new.spec(spec.parse().unwrap()).usage(usage.parse().unwrap());
            common::create(store, scope, &new);
            keys.push((line, new));
        }
    }
    assert_eq!(keys.len(), specs().iter().map(|(_, usages, _)| usages.len()).sum::<usize>());
    keys
}

#[test]
fn compatibility_of_every_pair() {
    for policy in [Compatibility::SameUsage, Compatibility::Any] {
        let store = Checked::with(Options::new().compatibility(policy));
        let scope = scope("pairs");
        let keys = one_of_each(&store, &scope);
        for (from_line, from) in &keys {
            for (to_line, to) in &keys {
                let alike = from_line == to_line || policy == Compatibility::Any;
                let (one, other) = (&from.aliases[0], &to.aliases[0]);
                let moved = store.dry_run(&request(&scope), |txn| txn.associate_alias(one, to.key_id));
                let swapped = store.dry_run(&request(&scope), |txn| txn.swap_aliases(one, other));
                for outcome in [moved.map(drop), swapped.map(drop)] {
                    let answer = outcome.as_ref().map_or_else(word, |()| "done".to_owned());
                    let expected = if alike { "done" } else { "IncompatibleKey" };
                    assert_eq!(answer, expected, "{} to {}", from.spec, to.spec);
                }
            }
        }
    }
}
