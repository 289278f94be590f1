//! Lists and cursors: order, exclusive places, filters, pages that end early, and what ends a list.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;

use common::{
    Checked, alias, aliases, create, day, id, key_alias, limit, new_key, request, scope, tag, week, word,
    write,
};
use keystead::{
    After, Alias, AliasScope, Cursor, Error, KeyFilter, KeyId, KeySpec, KeyState, Limit, Options, Origin,
    Page, Quotas, Result, Scope, Store,
};

/// Reads a list to its end, a page at a time, each cursor taken through its text; no page is longer
/// than the limit.
fn walk<T: Debug>(size: usize, page: impl Fn(Option<&Cursor>, Limit) -> Result<Page<T>>) -> Vec<T> {
    let (mut items, mut cursor) = (Vec::new(), None);
    loop {
        let Page { items: more, next, .. } = page(cursor.as_ref(), limit(size)).unwrap();
        assert!(more.len() <= size);
        assert!(next.is_none() || more.len() == size, "a short page is the last, where little is examined");
        items.extend(more);
        match next {
            Some(next) => cursor = Some(next.to_string().parse().unwrap()),
            None => return items,
        }
    }
}

/// The numbers of the keys of a list by id.
fn by_id(store: &Store, scope: &Scope, filter: &KeyFilter, size: usize) -> Vec<u128> {
    let keys =
        walk(size, |cursor, limit| store.read(scope, |snap| snap.keys_by_id(filter, cursor.into(), limit)));
    keys.iter().map(|key| number(key.key_id)).collect()
}

fn by_key_alias(store: &Store, scope: &Scope, filter: &KeyFilter, size: usize) -> Vec<u128> {
    let page = |cursor: Option<&Cursor>, limit| {
        store.read(scope, |snap| snap.keys_by_key_alias(filter, cursor.into(), limit))
    };
    walk(size, page).iter().map(|key| number(key.key_id)).collect()
}

fn all_aliases(store: &Store, scope: &Scope, size: usize) -> Vec<String> {
    let records = walk(size, |cursor, limit| store.read(scope, |snap| snap.aliases(cursor.into(), limit)));
    records.iter().map(|record| record.alias.to_string()).collect()
}

fn on_key(store: &Store, scope: &Scope, key: KeyId, size: usize) -> Vec<String> {
    let page = |cursor: Option<&Cursor>, limit| {
        store.read(scope, |snap| snap.aliases_of_key(key, cursor.into(), limit))
    };
    walk(size, page).iter().map(|record| record.alias.to_string()).collect()
}

fn number(key: KeyId) -> u128 {
    u128::from_str_radix(&key.to_string().replace('-', ""), 16).unwrap()
}

/// Names that are ordered otherwise than their keys' numbers; byte order puts capitals first.
const NAMES: [&str; 8] = ["m", "Z", "b", "a-b", "a", "a/b", "0", "a_b"];

fn eight_keys() -> (Checked, Scope) {
    let (store, scope) = (Checked::in_memory(), scope("lists"));
    for (number, name) in NAMES.iter().enumerate() {
        create(&store, &scope, &new_key(name, number as u128));
    }
    // Neighbours that must not be seen.
    for project in ["list", "lists2"] {
        create(&store, &common::scope(project), &new_key("a", 3).alias(alias("x")));
    }
    (store, scope)
}

#[test]
fn keys_come_in_the_order_of_ids_or_names() {
    let (store, scope) = eight_keys();
    let mut names: Vec<_> = (0..8).collect();
    names.sort_by_key(|number| NAMES[*number as usize].as_bytes());
    for size in [1, 2, 3, 4, 7, 8, 9, 1000] {
        assert_eq!(by_id(&store, &scope, &KeyFilter::all(), size), (0..8).collect::<Vec<u128>>());
        assert_eq!(by_key_alias(&store, &scope, &KeyFilter::all(), size), names);
    }
    assert_eq!(by_id(&store, &common::scope("empty"), &KeyFilter::all(), 5), [0; 0]);
}

#[test]
fn a_page_that_ends_with_the_list_has_no_next() {
    let (store, scope) = eight_keys();
    let page = |size| {
        store.read(&scope, |snap| snap.keys_by_id(&KeyFilter::all(), After::Start, limit(size))).unwrap()
    };
    let ends: Vec<_> = [7, 8, 9].map(|size| page(size).next.is_none()).into();
    assert_eq!(ends, [false, true, true]);
    let names = |size| {
        store.read(&scope, |snap| snap.keys_by_key_alias(&KeyFilter::all(), After::Start, limit(size)))
    };
    let ends: Vec<_> = [7, 8, 9].map(|size| names(size).unwrap().next.is_none()).into();
    assert_eq!(ends, [false, true, true]);
}

#[test]
fn a_list_begins_behind_any_name_or_id() {
    let (store, scope) = eight_keys();
    let first = |after: u128| {
        let page =
            store.read(&scope, |snap| snap.keys_by_id(&KeyFilter::all(), After::Item(&id(after)), limit(1)));
        page.unwrap().items.first().map(|key| number(key.key_id))
    };
    assert_eq!([0, 3, 6, 7, 8, u128::MAX].map(first), [Some(1), Some(4), Some(7), None, None, None]);
    let first = |after: &str| {
        let name = key_alias(after);
        let page = store
            .read(&scope, |snap| snap.keys_by_key_alias(&KeyFilter::all(), After::Item(&name), limit(1)));
        page.unwrap().items.first().map(|key| key.key_alias.to_string())
    };
    let table = [
        ("-", "0"),
        ("0", "Z"),
        ("00", "Z"),
        ("Y", "Z"),
        ("Z", "a"),
        ("a", "a-b"),
        ("a-", "a-b"),
        ("a-b", "a/b"),
    ];
    for (after, expected) in table {
        assert_eq!(first(after).as_deref(), Some(expected), "behind {after}");
    }
    assert_eq!(first("m"), None);
    assert_eq!(first("z"), None);
}

/// One key with aliases whose order is that of their URN names.
fn many_aliases() -> (Checked, Scope, Vec<&'static str>) {
    let (store, scope) = (Checked::in_memory(), scope("aliases"));
    let ordered = vec![
        "alias/",
        "-",
        "alias/0",
        "B",
        "alias/C",
        "a",
        "alias/aa",
        "alias/alias/a",
        "alias/alias/alias/",
        "b",
        "c",
    ];
    create(&store, &scope, &new_key("one", 1));
    create(&store, &scope, &new_key("other", 2).alias(alias("bb")));
    let mut shuffled = ordered.clone();
    shuffled.rotate_left(4);
    shuffled.swap(0, 5);
    for name in shuffled {
        write(&store, &scope, |txn| txn.create_alias(&alias(name), id(1)));
    }
    (store, scope, ordered)
}

#[test]
fn aliases_come_in_the_order_of_their_urn_names() {
    let (store, scope, ordered) = many_aliases();
    let mut with_other = ordered.clone();
    with_other.insert(10, "bb");
    assert!(aliases(&with_other).is_sorted());
    for size in [1, 2, 3, 10, 11, 12, 13] {
        assert_eq!(on_key(&store, &scope, id(1), size), ordered, "{size} at once");
        assert_eq!(all_aliases(&store, &scope, size), with_other, "{size} at once");
    }
    assert_eq!(on_key(&store, &scope, id(2), 1), ["bb"]);
    let nobody = store.read(&scope, |snap| snap.aliases_of_key(id(3), After::Start, limit(1)));
    assert_eq!(word(&nobody.unwrap_err()), "KeyNotFound");
}

#[test]
fn aliases_behind_any_name() {
    let (store, scope, ordered) = many_aliases();
    let behind = |name: &Alias| {
        let whole = store.read(&scope, |snap| snap.aliases(After::Item(name), limit(50))).unwrap().items;
        let mut rest: Vec<_> = whole.iter().map(|record| record.alias.to_string()).collect();
        let of_key =
            store.read(&scope, |snap| snap.aliases_of_key(id(1), After::Item(name), limit(50))).unwrap();
        rest.retain(|name| name != "bb");
        let of_key: Vec<_> = of_key.items.iter().map(|record| record.alias.to_string()).collect();
        assert_eq!(rest, of_key, "both lists go on alike behind {name}");
        rest
    };
    for (place, name) in ordered.iter().enumerate() {
        assert_eq!(behind(&alias(name)), ordered[place + 1..], "behind {name}");
    }
    // Names that are not there; one that differs by the prefix is in the same place.
    for (name, place) in
        [("alias/-", 2), ("--", 2), ("A", 3), ("aaa", 7), ("alias/b", 10), ("bb", 10), ("z", 11)]
    {
        assert_eq!(behind(&alias(name)), ordered[place..], "behind {name}");
    }
}

#[test]
fn a_cursor_survives_the_row_that_it_names() {
    let (store, scope, ordered) = many_aliases();
    let two = |cursor: Option<&Cursor>| {
        let aliases = store.read(&scope, |snap| snap.aliases(cursor.into(), limit(2))).unwrap();
        let of_key = store.read(&scope, |snap| snap.aliases_of_key(id(1), cursor.into(), limit(2)));
        (aliases, of_key)
    };
    let (aliases, of_key) = two(None);
    let (next, next_of_key) = (aliases.next.unwrap(), of_key.unwrap().next.unwrap());
    write(&store, &scope, |txn| txn.delete_aliases(id(1), &common::aliases(&ordered[..2])));
    let (page, refusal) = two(Some(&next));
    assert_eq!(page.items[0].alias.as_str(), ordered[2]);
    assert_eq!(word(&refusal.unwrap_err()), "InvalidCursor");
    let page = store.read(&scope, |snap| snap.aliases_of_key(id(1), After::Cursor(&next_of_key), limit(2)));
    assert_eq!(page.unwrap().items[0].alias.as_str(), ordered[2]);
    // Keys, by id and by name, purged behind the reader's back.
    let all = KeyFilter::all();
    let ids = store.read(&scope, |snap| snap.keys_by_id(&all, After::Start, limit(1))).unwrap();
    let names = store.read(&scope, |snap| snap.keys_by_key_alias(&all, After::Start, limit(1))).unwrap();
    write(&store, &scope, |txn| txn.schedule_deletion(id(1), week()));
    store.sweep(day(8), 10, None).unwrap();
    let (ids, names) = (ids.next.unwrap(), names.next.unwrap());
    let page = store.read(&scope, |snap| snap.keys_by_id(&all, After::Cursor(&ids), limit(5))).unwrap();
    assert_eq!(page.items.iter().map(|key| number(key.key_id)).collect::<Vec<_>>(), [2]);
    let page =
        store.read(&scope, |snap| snap.keys_by_key_alias(&all, After::Cursor(&names), limit(5))).unwrap();
    assert_eq!(page.items.iter().map(|key| number(key.key_id)).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_row_added_behind_a_cursor_is_seen_and_one_before_it_is_not() {
    let (store, scope) = eight_keys();
    let all = KeyFilter::all();
    let page = store.read(&scope, |snap| snap.keys_by_key_alias(&all, After::Start, limit(3))).unwrap();
    assert_eq!(page.items[2].key_alias.as_str(), "a");
    create(&store, &scope, &new_key("A", 20));
    create(&store, &scope, &new_key("a-a", 21));
    let next = page.next.unwrap();
    let rest =
        store.read(&scope, |snap| snap.keys_by_key_alias(&all, After::Cursor(&next), limit(2))).unwrap();
    assert_eq!(rest.items.iter().map(|key| key.key_alias.as_str()).collect::<Vec<_>>(), ["a-a", "a-b"]);
}

/// 40 keys of all kinds, by number; what each is can be read from the filters below.
fn mixed() -> (Checked, Scope) {
    let (store, scope) = (Checked::in_memory(), scope("mixed"));
    for n in 0..40 {
        let mut new = new_key(&format!("key{:02}", 39 - n), n);
        if n % 5 == 0 {
            new = new.spec(KeySpec::Sm4);
        }
        if n % 4 == 1 {
            new = new.origin(Origin::External);
        }
        if n % 3 == 0 {
            new.tags = [tag("color", if n % 2 == 0 { "red" } else { "blue" })].into();
        }
        if n % 10 == 7 {
            new.tags.extend([tag("color\0", "red"), tag("col", "orred")]);
        }
        create(&store, &scope, &new);
        if n % 8 == 2 {
            write(&store, &scope, |txn| txn.disable(id(n)));
        }
        if n % 8 == 3 {
            write(&store, &scope, |txn| txn.schedule_deletion(id(n), week()));
        }
        if n % 8 == 4 {
            write(&store, &scope, |txn| txn.freeze(id(n)));
        }
    }
    (store, scope)
}

fn state_of(n: u128) -> KeyState {
    match (n % 8, n % 4) {
        (2, _) => KeyState::Disabled,
        (3, _) => KeyState::PendingDeletion,
        (4, _) => KeyState::Frozen,
        (_, 1) => KeyState::PendingImport,
        _ => KeyState::Enabled,
    }
}

/// Filters, and the numbers that each means.
fn filters() -> Vec<(KeyFilter, Vec<u128>)> {
    let all = KeyFilter::all;
    let of = |means: &dyn Fn(u128) -> bool| (0..40).filter(|n| means(*n)).collect::<Vec<_>>();
    let (color, red) = tag("color", "red");
    let blue = tag("color", "blue").1;
    let mut filters = vec![
        (all(), of(&|_| true)),
        (all().spec(KeySpec::Sm4), of(&|n| n % 5 == 0)),
        (all().spec(KeySpec::Rsa2048), vec![]),
        (all().tag(color.clone(), red.clone()), of(&|n| n % 6 == 0)),
        (all().tag(color.clone(), blue.clone()), of(&|n| n % 6 == 3)),
        (all().tag(color.clone(), tag("color", "").1), vec![]),
        (all().tag_key(color.clone()), of(&|n| n % 3 == 0)),
        (all().tag_key(tag("colo", "").0), vec![]),
        (all().tag(tag("color\0", "").0, red.clone()), of(&|n| n % 10 == 7)),
        (all().tag(tag("col", "").0, tag("col", "orred").1), of(&|n| n % 10 == 7)),
        (all().tag(color.clone(), red.clone()).spec(KeySpec::Sm4), of(&|n| n % 30 == 0)),
        (
            all().tag_key(color.clone()).state(KeyState::Frozen),
            of(&|n| n % 3 == 0 && state_of(n) == KeyState::Frozen),
        ),
        (
            all().tag(color, red).spec(KeySpec::Aes256).state(KeyState::Enabled),
            of(&|n| n % 6 == 0 && n % 5 != 0 && state_of(n) == KeyState::Enabled),
        ),
    ];
    for state in KeyState::ALL {
        filters.push((all().state(*state), of(&|n| state_of(n) == *state)));
    }
    filters
}

#[test]
fn filters_mean_what_they_say() {
    let (store, scope) = mixed();
    for (filter, numbers) in filters() {
        let mut by_name = numbers.clone();
        by_name.reverse();
        for size in [1, 3, 10, 1000] {
            assert_eq!(by_id(&store, &scope, &filter, size), numbers, "{filter:?}");
            assert_eq!(by_key_alias(&store, &scope, &filter, size), by_name, "{filter:?}");
        }
        let counted = store.read(&scope, |snap| snap.count_keys(&filter)).unwrap();
        assert_eq!(counted, numbers.len() as u64, "{filter:?}");
        let read =
            store.read(&scope, |snap| snap.keys_by_id(&KeyFilter::all(), After::Start, Limit::MAX)).unwrap();
        let matching = read.items.iter().filter(|key| filter.matches(key)).map(|key| number(key.key_id));
        assert_eq!(matching.collect::<Vec<_>>(), numbers);
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<KeyFilter>(&text).unwrap(), filter);
    }
}

#[test]
fn the_index_of_tags_follows_the_tags() {
    let (store, scope) = mixed();
    let red = KeyFilter::all().tag(tag("color", "red").0, tag("color", "red").1);
    write(&store, &scope, |txn| {
        txn.set_tags(id(0), &[tag("color", "blue")].into())?;
        txn.remove_tags(id(6), &[tag("color", "").0])?;
        txn.set_tags(id(1), &[tag("color", "red")].into())
    });
    assert_eq!(by_id(&store, &scope, &red, 2), [1, 12, 18, 24, 30, 36]);
    store.sweep(day(8), 100, None).unwrap();
    let blue = KeyFilter::all().tag(tag("color", "blue").0, tag("color", "blue").1);
    assert_eq!(by_id(&store, &scope, &blue, 1000), [0, 9, 15, 21, 33, 39]);
}

#[test]
fn default_keys_are_listed_and_counted() {
    let (store, scope) = (Checked::in_memory(), scope("defaults"));
    create(&store, &scope, &new_key("mine", 1));
    write(&store, &scope, |txn| txn.ensure_default_key(&new_key("obs/default", 2)));
    assert_eq!(by_id(&store, &scope, &KeyFilter::all(), 1), [1, 2]);
    assert_eq!(by_key_alias(&store, &scope, &KeyFilter::all(), 1), [1, 2]);
    let counts = store.read(&scope, |snap| {
        let enabled = KeyFilter::all().state(KeyState::Enabled);
        Ok([snap.count_keys(&KeyFilter::all())?, snap.count_keys(&enabled)?, snap.count_keys_in_quota()?])
    });
    assert_eq!(counts.unwrap(), [2, 2, 1]);
}

#[test]
fn scopes_come_in_their_order() {
    let store = Checked::with(Options::new().alias_scope(AliasScope::Domain));
    let hex = "3bab8e245e854f68af5967c00dd43127";
    // Ids of 32 hexadecimal digits first, then all others.
    let ordered = [
        (hex, "0d0466b0e7274d9cb35df84bb474a37f"),
        (hex, "-"),
        (hex, "a"),
        (hex, "ab"),
        ("-", hex),
        ("a", hex),
        ("a", "b"),
        ("a", "b-"),
        ("a", "bc"),
        ("a-", "b"),
        ("ab", "a"),
    ];
    let ordered = ordered.map(|(domain, project)| Scope::new(domain, project).unwrap());
    assert!(ordered.is_sorted());
    assert_eq!(store.scopes(After::Start, limit(5)).unwrap().items, []);
    for (n, scope) in ordered.iter().rev().enumerate() {
        create(&store, scope, &new_key("key", 1).alias(alias(&format!("alias{n}"))));
    }
    for size in [1, 2, 5, 10, 11, 12] {
        assert_eq!(walk(size, |cursor, limit| store.scopes(cursor.into(), limit)), ordered);
    }
    for (place, scope) in ordered.iter().enumerate() {
        let page = store.scopes(After::Item(scope), limit(50)).unwrap();
        assert_eq!((page.items.as_slice(), page.next), (&ordered[place + 1..], None));
    }
    let page = store.scopes(After::Item(&Scope::new("a", "c").unwrap()), limit(50)).unwrap();
    assert_eq!(page.items, ordered[9..]);
    let next = store.scopes(After::Start, limit(9)).unwrap().next.unwrap();
    assert!(store.remove_scope(&request(&ordered[8]), 10).unwrap().done);
    assert_eq!(store.scopes(After::Cursor(&next), limit(9)).unwrap().items, ordered[9..]);
}

/// Every list there is, read behind a cursor.
fn every_list(store: &Store, cursor: &Cursor) -> BTreeMap<String, Result<usize>> {
    let mut outcomes = BTreeMap::new();
    let mut filters: BTreeMap<_, _> = [("all", KeyFilter::all())].into();
    let (color, red) = tag("color", "red");
    filters.insert("enabled", KeyFilter::all().state(KeyState::Enabled));
    filters.insert("aes", KeyFilter::all().spec(KeySpec::Aes256));
    filters.insert("red", KeyFilter::all().tag(color.clone(), red.clone()));
    filters.insert("colored", KeyFilter::all().tag_key(color.clone()));
    filters.insert("redder", KeyFilter::all().tag(tag("colorr", "").0, tag("colorr", "ed").1));
    filters.insert("red aes", KeyFilter::all().tag(color, red).spec(KeySpec::Aes256));
    for project in ["one", "two"] {
        let scope = scope(project);
        let after = || After::Cursor(cursor);
        for (name, filter) in &filters {
            let ids = store.read(&scope, |snap| {
                Ok(snap.keys_by_id(filter, After::Cursor(cursor), limit(9))?.items.len())
            });
            let names = store.read(&scope, |snap| {
                Ok(snap.keys_by_key_alias(filter, After::Cursor(cursor), limit(9))?.items.len())
            });
            outcomes.insert(format!("{project} ids {name}"), ids);
            outcomes.insert(format!("{project} names {name}"), names);
        }
        outcomes.insert(
            format!("{project} aliases"),
            store.read(&scope, |snap| Ok(snap.aliases(after(), limit(9))?.items.len())),
        );
        for key in [1, 2] {
            let page = store.read(&scope, |snap| {
                Ok(snap.aliases_of_key(id(key), After::Cursor(cursor), limit(9))?.items.len())
            });
            outcomes.insert(format!("{project} aliases of {key}"), page);
        }
    }
    outcomes.insert(
        "scopes".to_owned(),
        store.scopes(After::Cursor(cursor), limit(9)).map(|page| page.items.len()),
    );
    outcomes
}

/// Two scopes alike, and for some of their lists the cursor behind the first row.
fn cursors() -> (Checked, Vec<(&'static str, Cursor)>) {
    let store = Checked::in_memory();
    for project in ["one", "two"] {
        for n in [1, 2] {
            let mut new = new_key(&format!("key{n}"), n);
            new.tags = [tag("color", "red"), tag("colorr", "ed")].into();
            new.aliases = [format!("a{n}"), format!("b{n}")].map(|name| alias(&name)).to_vec();
            create(&store, &scope(project), &new);
        }
    }
    let one = scope("one");
    let (color, red) = tag("color", "red");
    let filters = [
        ("one ids all", "one names all", KeyFilter::all()),
        ("one ids enabled", "one names enabled", KeyFilter::all().state(KeyState::Enabled)),
        ("one ids aes", "one names aes", KeyFilter::all().spec(KeySpec::Aes256)),
        ("one ids red", "one names red", KeyFilter::all().tag(color.clone(), red)),
        ("one ids colored", "one names colored", KeyFilter::all().tag_key(color)),
    ];
    let mut cursors = Vec::new();
    for (ids, names, filter) in &filters {
        let page = store.read(&one, |snap| snap.keys_by_id(filter, After::Start, limit(1)));
        cursors.push((*ids, page.unwrap().next.unwrap()));
        let page = store.read(&one, |snap| snap.keys_by_key_alias(filter, After::Start, limit(1)));
        cursors.push((*names, page.unwrap().next.unwrap()));
    }
    let page = store.read(&one, |snap| snap.aliases(After::Start, limit(1)));
    cursors.push(("one aliases", page.unwrap().next.unwrap()));
    let page = store.read(&one, |snap| snap.aliases_of_key(id(1), After::Start, limit(1)));
    cursors.push(("one aliases of 1", page.unwrap().next.unwrap()));
    cursors.push(("scopes", store.scopes(After::Start, limit(1)).unwrap().next.unwrap()));
    (store, cursors)
}

#[test]
fn a_cursor_is_good_for_its_own_list_only() {
    let (store, cursors) = cursors();
    for (own, cursor) in &cursors {
        for (list, outcome) in every_list(&store, cursor) {
            match outcome {
                Ok(items) => assert!(list == *own && items > 0, "{own} was taken for {list}"),
                Err(Error::InvalidCursor(_)) => assert_ne!(list, *own),
                Err(other) => panic!("{list} behind {own}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_cursor_is_its_text() {
    let (store, cursors) = cursors();
    for (own, cursor) in &cursors {
        let text = cursor.to_string();
        assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{text}");
        assert_eq!(text.parse::<Cursor>().unwrap(), *cursor);
        let json = serde_json::to_string(cursor).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Cursor>(&json).unwrap(), *cursor);
        assert!(every_list(&store, &text.parse().unwrap())[*own].is_ok());
    }
    let page = store.read(&scope("one"), |snap| snap.aliases(After::Start, limit(1))).unwrap();
    let json = serde_json::to_value(&page).unwrap();
    assert_eq!(json["next"].as_str().unwrap(), page.next.unwrap().to_string());
}

/// Adds keys with these numbers, 40 in each write; those that are rare are of SM4 and have a tag.
fn crowd(store: &Store, scope: &Scope, numbers: Range<u128>, rare: impl Fn(u128) -> bool) {
    for first in numbers.clone().step_by(40) {
        let keys: Vec<_> = (first..numbers.end.min(first + 40))
            .map(|n| {
                let new = new_key(&format!("key{n:05}"), n);
                if rare(n) { new.spec(KeySpec::Sm4).tag(tag("t", "v").0, tag("t", "v").1) } else { new }
            })
            .collect();
        write(store, scope, |txn| keys.iter().try_for_each(|new| txn.create_key(new).map(drop)));
    }
}

#[test]
fn a_filtered_page_may_be_short_or_empty_and_go_on() {
    let quotas = Quotas { keys_per_project: 100_000, ..Quotas::default() };
    let (store, scope) = (Checked::with_quotas(quotas), scope("crowd"));
    let sm4 = KeyFilter::all().spec(KeySpec::Sm4);
    let none = KeyFilter::all().state(KeyState::Frozen);
    // The limit does not divide 10,000: how many rows are examined is no matter of it.
    let pages = |filter: &KeyFilter, by_name: bool| {
        let (mut sizes, mut cursor) = (Vec::new(), None);
        loop {
            let page = store.read(&scope, |snap| match by_name {
                true => snap.keys_by_key_alias(filter, cursor.as_ref().into(), limit(21)),
                false => snap.keys_by_id(filter, cursor.as_ref().into(), limit(21)),
            });
            let page = page.unwrap();
            sizes.push(page.items.len());
            match page.next {
                Some(next) => cursor = Some(next),
                None => return sizes,
            }
        }
    };
    let rare = |n| n == 9_000 || n > 10_100;
    crowd(&store, &scope, 0..10_000, rare);
    for by_name in [false, true] {
        assert_eq!(pages(&none, by_name), [0], "10,000 rows are one page");
        assert_eq!(pages(&sm4, by_name), [1]);
    }
    crowd(&store, &scope, 10_000..10_001, rare);
    for by_name in [false, true] {
        assert_eq!(pages(&none, by_name), [0, 0], "10,001 are two, the first of them empty");
        assert_eq!(pages(&sm4, by_name), [1, 0]);
    }
    crowd(&store, &scope, 10_001..10_150, rare);
    for by_name in [false, true] {
        assert_eq!(pages(&sm4, by_name), [1, 21, 21, 7], "a short page, then full ones");
    }
    // An index leads to the few: nothing else is examined.
    let tagged = KeyFilter::all().tag(tag("t", "v").0, tag("t", "v").1);
    assert_eq!(pages(&tagged, false), [21, 21, 8]);
    let counts = store.read(&scope, |snap| {
        [&sm4, &none, &tagged, &KeyFilter::all()]
            .map(|filter| snap.count_keys(filter))
            .into_iter()
            .collect::<Result<Vec<_>>>()
    });
    assert_eq!(counts.unwrap(), [50, 0, 50, 10_150]);
    let behind =
        store.read(&scope, |snap| snap.keys_by_id(&sm4, After::Item(&id(9_000)), limit(20))).unwrap();
    assert_eq!((behind.items.len(), behind.next.is_some()), (20, true));
}
