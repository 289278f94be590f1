//! Everything that comes from outside: each violation has its typed error and changes nothing, at
//! each edge; serde goes through the same door.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

mod common;

use std::fmt::{Debug, Display};
use std::str::FromStr;

use common::{
    Checked, alias, create, day, id, key_alias, limit, new_key, refused, request, scope, tag, week, word,
    write,
};
use keystead::{
    After, Alias, AliasRecord, AliasScope, AliasUrn, Commit, Compatibility, Cursor, Description, DomainId,
    EnterpriseProjectId, Error, InvalidAlias, InvalidCursor, InvalidKeyId, InvalidKeySpec, KeyAlias,
    KeyFilter, KeyId, KeyRecord, KeySpec, KeyState, KeyUsage, KeystoreId, Limit, NewKey, Options, Origin,
    PendingDays, ProjectId, Quotas, Region, Request, RequestId, RotationInterval, Scope, TagKey, TagValue,
    Timestamp,
};
use proptest::{prop_assert_eq, proptest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What is said of a text: `ok`, or the error in a word. A good text comes back byte for byte, as
/// text and through serde; a bad one is refused by serde too.
fn said_of<T>(text: &str) -> String
where
    T: FromStr + Display + Debug + PartialEq + Serialize + DeserializeOwned + TryFrom<String>,
    Error: From<<T as FromStr>::Err>,
    <T as FromStr>::Err: Debug,
{
    let quoted = serde_json::to_string(text).unwrap();
    let through_serde = serde_json::from_str::<T>(&quoted);
    let converted = T::try_from(text.to_owned());
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(value.to_string(), text);
            assert_eq!(serde_json::to_string(&value).unwrap(), quoted);
            assert_eq!(through_serde.unwrap(), value);
            assert!(converted.is_ok_and(|converted| converted == value));
            "ok".to_owned()
        }
        Err(invalid) => {
            assert!(through_serde.is_err() && converted.is_err(), "{text:?} got in by another door");
            word(&Error::from(invalid))
        }
    }
}

/// Checks one line of a table: a text, and what is said of it.
fn check<T>(text: &str, expected: &str)
where
    T: FromStr + Display + Debug + PartialEq + Serialize + DeserializeOwned + TryFrom<String>,
    Error: From<<T as FromStr>::Err>,
    <T as FromStr>::Err: Debug,
{
    assert_eq!(
        said_of::<T>(text),
        expected,
        "{} of {} characters: {text:?}",
        std::any::type_name::<T>(),
        text.chars().count()
    );
}

/// Texts that break every pattern there is.
const MALFORMED: [&str; 18] = [
    "",
    " ",
    "a b",
    " a",
    "a ",
    "a\n",
    "\na",
    "a\r\n",
    "a\0",
    "a.b",
    "a*",
    "a@b",
    "a\\b",
    "\u{e4}",
    "a\u{300}",
    "\u{4e2d}",
    "\u{1f511}",
    "a\u{feff}",
];

const NAME_CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/_-";

#[test]
fn names() {
    for text in MALFORMED {
        check::<Alias>(text, "InvalidAlias(Malformed)");
        check::<KeyAlias>(text, "InvalidAlias(Malformed)");
    }
    for (text, for_key, for_alias) in [
        ("a".to_owned(), "ok", "ok"),
        ("a".repeat(255), "ok", "ok"),
        ("a".repeat(256), "InvalidAlias(Malformed)", "InvalidAlias(Malformed)"),
        (NAME_CHARACTERS.to_owned(), "ok", "ok"),
        ("/default".to_owned(), "ok", "InvalidAlias(Reserved)"),
        ("a/default".to_owned(), "ok", "InvalidAlias(Reserved)"),
        ("alias/default".to_owned(), "ok", "InvalidAlias(Reserved)"),
        (format!("{}/default", "a".repeat(247)), "ok", "InvalidAlias(Reserved)"),
        (format!("{}/default", "a".repeat(248)), "InvalidAlias(Malformed)", "InvalidAlias(Malformed)"),
        ("default".to_owned(), "ok", "ok"),
        ("adefault".to_owned(), "ok", "ok"),
        ("/defaults".to_owned(), "ok", "ok"),
        ("a/Default".to_owned(), "ok", "ok"),
        ("a/DEFAULT".to_owned(), "ok", "ok"),
        ("/default/x".to_owned(), "ok", "ok"),
        ("/default/".to_owned(), "ok", "ok"),
        ("/default\n".to_owned(), "InvalidAlias(Malformed)", "InvalidAlias(Malformed)"),
    ] {
        check::<KeyAlias>(&text, for_key);
        check::<Alias>(&text, for_alias);
        assert_eq!(KeyAlias::new(&text).is_ok_and(|name| name.is_reserved()), for_key != for_alias);
    }
    for byte in 0..=127_u8 {
        let text = char::from(byte).to_string();
        let expected = if NAME_CHARACTERS.contains(&text) { "ok" } else { "InvalidAlias(Malformed)" };
        check::<KeyAlias>(&text, expected);
        check::<Alias>(&text, expected);
    }
}

#[test]
fn reserved_names_are_refused_where_users_choose() {
    let (store, scope) = (Checked::in_memory(), scope("reserved"));
    create(&store, &scope, &new_key("a", 1));
    for (number, name) in ["/default", "a/default", "alias/default", "a//default"].into_iter().enumerate() {
        let number = 10 + number as u128;
        let created = refused(&store, &scope, |txn| txn.create_key(&new_key(name, number)));
        let renamed = refused(&store, &scope, |txn| txn.rename_key_alias(id(1), &key_alias(name)));
        assert_eq!(
            [created, renamed].map(|error| word(&error)),
            ["InvalidAlias(Reserved)", "InvalidAlias(Reserved)"]
        );
        write(&store, &scope, |txn| txn.ensure_default_key(&new_key(name, number)));
    }
    for (number, name) in ["default", "/defaults", "a/Default", "/default/x"].into_iter().enumerate() {
        let number = 20 + number as u128;
        let error = refused(&store, &scope, |txn| txn.ensure_default_key(&new_key(name, number)));
        assert_eq!(word(&error), "InvalidAlias(NotReserved)");
        let key = create(&store, &scope, &new_key(name, number));
        assert_eq!((key.key_alias.as_str(), key.default), (name, false));
        write(&store, &scope, |txn| txn.create_alias(&alias(name), id(1)));
        assert_eq!(store.read(&scope, |snap| snap.resolve(&alias(name))).unwrap().key_id, id(1));
    }
}

#[test]
fn names_are_kept_byte_for_byte_and_case_matters() {
    let (store, scope) = (Checked::in_memory(), scope("bytes"));
    let longest = "Z".repeat(255);
    for (number, name) in ["a", "A", NAME_CHARACTERS, longest.as_str()].into_iter().enumerate() {
        let key = create(&store, &scope, &new_key(name, number as u128).alias(alias(name)));
        assert_eq!(key.key_alias.as_str(), name);
        let found = store
            .read(&scope, |snap| Ok((snap.alias(&alias(name))?, snap.find_by_key_alias(&key_alias(name))?)));
        let (record, by_name) = found.unwrap();
        assert_eq!((record.alias.as_str(), by_name), (name, key));
    }
}

#[test]
fn key_ids() {
    let good = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e";
    check::<KeyId>(good, "ok");
    check::<KeyId>("00000000-0000-0000-0000-000000000000", "ok");
    check::<KeyId>("ffffffff-ffff-ffff-ffff-ffffffffffff", "ok");
    for text in MALFORMED {
        check::<KeyId>(text, "InvalidKeyId");
    }
    let (short, long) = (&good[..35], format!("{good}0"));
    for text in [short, &long, &good.replace('-', ""), &good.to_uppercase(), &good.replacen('b', "B", 1)] {
        check::<KeyId>(text, "InvalidKeyId");
    }
    let urn = format!("urn:uuid:{good}");
    let braced = format!("{{{good}}}");
    let newline = format!("{good}\n");
    let moved = good.replacen("2-d", "-2d", 1);
    for text in [urn, braced, newline, moved, good.replace('-', "_"), good.replacen('6', "\u{666}", 1)] {
        check::<KeyId>(&text, "InvalidKeyId");
    }
    // Well-formed, but no UUID: it names no key.
    for text in ["zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz", "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1g"] {
        check::<KeyId>(text, "KeyNotFound");
        assert_eq!(text.parse::<KeyId>(), Err(InvalidKeyId::NamesNoKey(text.into())));
        let error = Error::from(text.parse::<KeyId>().unwrap_err());
        assert_eq!(error.api().map(|api| (api.code, api.status)), Some(("KMS.0207", 404)));
        assert_eq!(error.to_string(), format!("there is no key {text}"));
    }
}

#[test]
fn ids_of_scopes_and_other_ids() {
    fn checks<T>()
    where
        T: FromStr + Display + Debug + PartialEq + Serialize + DeserializeOwned + TryFrom<String>,
        Error: From<<T as FromStr>::Err>,
        <T as FromStr>::Err: Debug,
    {
        let good =
            ["a", "0", "-", "_", "3bab8e245e854f68af5967c00dd43127", "3BAB8E245E854F68AF5967C00DD43127"];
        for text in good {
            check::<T>(text, "ok");
        }
        check::<T>(&"x".repeat(64), "ok");
        check::<T>(&"x".repeat(65), "InvalidScope");
        for text in MALFORMED.into_iter().chain(["a/b", "a:b", "\u{e4}\u{f6}"]) {
            check::<T>(text, "InvalidScope");
        }
    }
    checks::<DomainId>();
    checks::<ProjectId>();
    checks::<Region>();
    checks::<EnterpriseProjectId>();
    checks::<KeystoreId>();
    for (domain, project, what) in
        [("", "p", "domain id"), ("d", "", "project id"), ("d", "p/q", "project id")]
    {
        assert_eq!(Scope::new(domain, project).unwrap_err().what, what);
        assert!(serde_json::from_value::<Scope>(json!({"domain": domain, "project": project})).is_err());
    }
    let scope = Scope::new("d", "p").unwrap();
    assert_eq!(serde_json::to_value(&scope).unwrap(), json!({"domain": "d", "project": "p"}));
    assert_eq!(serde_json::from_value::<Scope>(json!({"domain": "d", "project": "p"})).unwrap(), scope);
}

#[test]
fn request_ids() {
    let good = "f0000000-0000-0000-0000-00000000000Z";
    assert_eq!(good.len(), 36);
    check::<RequestId>(good, "ok");
    check::<RequestId>(&"-".repeat(36), "ok");
    check::<RequestId>(&good[..35], "InvalidRequestId");
    check::<RequestId>(&format!("{good}0"), "InvalidRequestId");
    for bad in ["_", " ", "\n", "/", "\u{e9}", ".", "\0"] {
        check::<RequestId>(&format!("{}{bad}", &good[..35]), "InvalidRequestId");
        check::<RequestId>(&format!("{bad}{}", &good[1..]), "InvalidRequestId");
    }
    check::<RequestId>(&format!("{good}\n"), "InvalidRequestId");
    check::<RequestId>("", "InvalidRequestId");
    let scope = scope("requests");
    let request = Request::new(&scope).request_id(good.parse().unwrap()).at(day(3));
    assert_eq!((request.scope(), request.time()), (&scope, day(3)));
}

#[test]
fn descriptions_and_tags() {
    let wide = "\u{1f511}";
    for unit in ["a", "\u{e4}", wide, "\0", "\n", " "] {
        check::<Description>(&unit.repeat(255), "ok");
        check::<Description>(&unit.repeat(256), "InvalidDescription");
        check::<TagKey>(unit, "ok");
        check::<TagKey>(&unit.repeat(128), "ok");
        check::<TagKey>(&unit.repeat(129), "InvalidTagKey");
        check::<TagValue>(&unit.repeat(255), "ok");
        check::<TagValue>(&unit.repeat(256), "InvalidTagValue");
    }
    check::<Description>("", "ok");
    check::<TagKey>("", "InvalidTagKey");
    check::<TagValue>("", "ok");
    assert_eq!(Description::default().as_str(), "");
    let (store, scope) = (Checked::in_memory(), scope("texts"));
    let mut new = new_key("a", 1).description(wide.repeat(255).parse().unwrap());
    new.tags = (0..20)
        .map(|n| (TagKey::new(&format!("{n}")).unwrap(), TagValue::new(&wide.repeat(255)).unwrap()))
        .collect();
    new.tags.pop_first();
    let (nul, value) = (TagKey::new(&"\0".repeat(128)).unwrap(), TagValue::new("").unwrap());
    let new = new.tag(nul.clone(), value.clone());
    let key = create(&store, &scope, &new);
    assert_eq!((&key.description, &key.tags), (&new.description, &new.tags));
    assert_eq!(store.read(&scope, |snap| snap.key(id(1))).unwrap(), key);
    let filter = KeyFilter::all().tag(nul, value);
    assert_eq!(store.read(&scope, |snap| snap.count_keys(&filter)).unwrap(), 1);
    // The 21st tag.
    let more = refused(&store, &scope, |txn| txn.set_tags(id(1), &[tag("more", "")].into()));
    let at_once =
        refused(&store, &scope, |txn| {
            txn.create_key(&(0..21).fold(NewKey::new("b")?.id(id(2)), |new, n| {
                new.tag(tag(&format!("{n}"), "").0, tag("x", "").1)
            }))
        });
    assert_eq!([more, at_once].map(|error| word(&error)), ["TooManyTags", "TooManyTags"]);
    write(&store, &scope, |txn| {
        txn.remove_tags(id(1), &[tag("7", "").0])?;
        txn.set_tags(id(1), &[tag("more", "")].into())
    });
}

#[test]
fn limits_days_and_intervals() {
    fn checks<T>(good: &[u32], bad: &[u32], make: fn(u32) -> Result<T, Error>, expected: &str)
    where
        T: Debug + Copy + PartialEq + Serialize + DeserializeOwned,
    {
        for number in good {
            let value = make(*number).unwrap();
            assert_eq!(serde_json::to_value(value).unwrap(), json!(number));
            assert_eq!(serde_json::from_value::<T>(json!(number)).unwrap(), value);
        }
        for number in bad {
            assert_eq!(word(&make(*number).unwrap_err()), expected, "{number}");
            assert!(serde_json::from_value::<T>(json!(number)).is_err(), "{number}");
        }
        for text in ["-1", "1.5", "\"100\"", "null", "65636", "4294967396"] {
            assert!(serde_json::from_str::<T>(text).is_err(), "{text}");
        }
    }
    let limit = |number: u32| Ok(Limit::new(number as usize)?);
    checks::<Limit>(&[1, 2, 999, 1000], &[0, 1001, u32::MAX], limit, "InvalidLimit");
    let pending = |number: u32| Ok(PendingDays::new(u16::try_from(number).unwrap())?);
    checks::<PendingDays>(&[7, 8, 1095, 1096], &[0, 6, 1097, 65535], pending, "InvalidPendingDays");
    let interval = |number: u32| Ok(RotationInterval::new(u16::try_from(number).unwrap())?);
    checks::<RotationInterval>(
        &[30, 31, 364, 365],
        &[0, 29, 366, 65535],
        interval,
        "InvalidRotationInterval",
    );
    assert_eq!((Limit::default().get(), Limit::MAX.get()), (100, 1000));
    assert_eq!(RotationInterval::default().days(), 365);
}

#[test]
fn days_are_counted_from_the_request() {
    let (store, scope) = (Checked::in_memory(), scope("days"));
    for (number, days) in [(1, 7), (2, 1096)] {
        create(&store, &scope, &new_key(&format!("key{number}"), number));
        let days = PendingDays::new(days).unwrap();
        let key = write(&store, &scope, |txn| txn.schedule_deletion(id(number), days)).value;
        assert_eq!(key.scheduled_deletion_at, Some(day(1 + u64::from(days.days()))));
    }
    let last = Request::new(&scope).at(Timestamp::from_millis(u64::MAX));
    let new = new_key("late", 3);
    store.write(&last, |txn| txn.create_key(&new)).unwrap();
    let key = store.write(&last, |txn| txn.schedule_deletion(id(3), week())).unwrap().value;
    assert_eq!(key.scheduled_deletion_at, Some(Timestamp::from_millis(u64::MAX)));
    assert_eq!(store.sweep(Timestamp::from_millis(u64::MAX), 10, None).unwrap().keys_purged, 3);
}

#[test]
fn lists_of_aliases_to_delete() {
    let (store, scope) = (Checked::in_memory(), scope("deletes"));
    let quotas = Quotas { aliases_per_key: 55, ..Quotas::default() };
    let wide = Checked::with(Options::new().quotas(quotas));
    let names: Vec<_> = (0..51).map(|n| alias(&format!("n{n:02}"))).collect();
    for (store, number) in [(&store, 50), (&wide, 51)] {
        create(store, &scope, &new_key("a", 1));
        for name in &names[..number] {
            write(store, &scope, |txn| txn.create_alias(name, id(1)));
        }
    }
    let duplicate = [names[0].clone(), names[1].clone(), names[0].clone()];
    for bad in [&[][..], &names[..], &duplicate] {
        for store in [&store, &wide] {
            assert_eq!(
                word(&refused(store, &scope, |txn| txn.delete_aliases(id(1), bad))),
                "InvalidAliasList"
            );
        }
    }
    let strangers = [names[3].clone(), alias("y"), alias("x"), names[4].clone()];
    let error = refused(&store, &scope, |txn| txn.delete_aliases(id(1), &strangers));
    assert!(
        matches!(&error, Error::AliasNotOnKey { alias, key_id } if alias.as_str() == "y" && *key_id == id(1))
    );
    write(&store, &scope, |txn| txn.delete_aliases(id(1), &names[..1]));
    write(&wide, &scope, |txn| txn.delete_aliases(id(1), &names[..50]));
    let left = wide.read(&scope, |snap| snap.aliases_of_key(id(1), After::Start, limit(1000))).unwrap().items;
    assert_eq!(left.iter().map(|record| record.alias.as_str()).collect::<Vec<_>>(), ["n50"]);
}

#[test]
fn urns() {
    let good = [
        "kms:cn-north-7:3bab8e245e854f68af5967c00dd43127:alias:kms-1234",
        "kms:r:d:alias:a:b:c",
        "kms:r:d:alias:alias/x",
        "kms:r:d:alias:default",
        "kms:r:d:alias:",
        "kms:r:d:alias::",
    ];
    for text in good {
        check::<AliasUrn>(text, "ok");
    }
    let longest = format!("kms:{}:{}:alias:{}", "r".repeat(64), "d".repeat(64), "a".repeat(255));
    check::<AliasUrn>(&longest, "ok");
    let bad = [
        "",
        "kms",
        "kms:r:d:alias",
        "kms:r:d:a",
        "KMS:r:d:alias:x",
        "iam:r:d:alias:x",
        "kms:r:d:Alias:x",
        "kms:r:d:key:x",
        "kms::d:alias:x",
        "kms:r::alias:x",
        "kms:r/s:d:alias:x",
        "kms:r:d.e:alias:x",
        " kms:r:d:alias:x",
    ];
    for text in bad {
        check::<AliasUrn>(text, "InvalidAlias(MalformedUrn)");
    }
    check::<AliasUrn>(&longest.replacen('r', "rr", 1), "InvalidAlias(MalformedUrn)");
    for text in [
        format!("{longest}a"),
        "kms:r:d:alias:a b".into(),
        "kms:r:d:alias:x\n".into(),
        "kms:r:d:alias:\u{e4}".into(),
    ] {
        check::<AliasUrn>(&text, "InvalidAlias(Malformed)");
    }
    for text in ["kms:r:d:alias:a/default", "kms:r:d:alias:/default"] {
        check::<AliasUrn>(text, "InvalidAlias(Reserved)");
    }
    let urn: AliasUrn = good[0].parse().unwrap();
    let parts = (urn.region().as_str(), urn.domain_id().as_str(), urn.urn_name());
    assert_eq!(parts, ("cn-north-7", "3bab8e245e854f68af5967c00dd43127", "kms-1234"));
}

#[test]
fn a_urn_names_one_alias() {
    let store = Checked::with(Options::new().region("cn-north-7".parse().unwrap()));
    let scope = Scope::new("d", "p").unwrap();
    let names = ["kms-1234", "alias/with", "alias/alias/twice", "a:b", "alias/"];
    create(&store, &scope, &new_key("a", 1));
    for (name, urn_name) in names.into_iter().zip(["kms-1234", "with", "alias/twice", "a:b", ""]) {
        let record = write(&store, &scope, |txn| txn.create_alias(&alias(name), id(1))).value;
        let urn = record.urn(store.region());
        assert_eq!(urn.to_string(), format!("kms:cn-north-7:d:alias:{urn_name}"));
        let resolve = |text: &str| {
            let urn = text.parse().unwrap();
            store
                .read(&scope, |snap| snap.resolve_urn(&urn))
                .map(|key| key.key_id)
                .map_err(|error| word(&error))
        };
        assert_eq!(resolve(&urn.to_string()), Ok(id(1)));
        for (other, its) in [("cn-north-7", "cn-north-8"), (":d:", ":e:")] {
            assert_eq!(resolve(&urn.to_string().replace(other, its)), Err("AliasNotFound".to_owned()));
        }
        assert_eq!(resolve(&format!("{urn}x")), Err("AliasNotFound".to_owned()));
    }
}

/// A scope with three keys of three aliases each, and the cursor behind the first alias.
fn listed() -> (Checked, Scope, Cursor) {
    let (store, scope) = (Checked::in_memory(), scope("cursors"));
    for n in 1..4 {
        let new = new_key(&format!("key{n}"), n);
        let new = ["a", "b", "c"].iter().fold(new, |new, letter| new.alias(alias(&format!("{letter}{n}"))));
        create(&store, &scope, &new);
    }
    let page = store.read(&scope, |snap| snap.aliases(After::Start, limit(1))).unwrap();
    (store, scope, page.next.unwrap())
}

#[test]
fn damaged_cursors() {
    let (store, scope, cursor) = listed();
    let text = cursor.to_string();
    let use_it = |text: &str| -> keystead::Result<usize> {
        let cursor: Cursor = text.parse()?;
        store.read(&scope, |snap| Ok(snap.aliases(After::Cursor(&cursor), limit(10))?.items.len()))
    };
    assert_eq!(use_it(&text).unwrap(), 8);
    // Every character replaced by every other of the alphabet, and by some that are not in it.
    let alphabet: Vec<char> =
        ('A'..='Z').chain('a'..='z').chain('0'..='9').chain("-_=+/ \n".chars()).collect();
    for (place, present) in text.char_indices() {
        for other in alphabet.iter().filter(|other| **other != present) {
            let mut damaged = text.clone();
            damaged.replace_range(place..=place, &other.to_string());
            assert_eq!(
                use_it(&damaged).map_err(|error| word(&error)),
                Err("InvalidCursor".to_owned()),
                "{damaged}"
            );
        }
    }
    for length in 0..text.len() {
        assert_eq!(use_it(&text[..length]).map_err(|error| word(&error)), Err("InvalidCursor".to_owned()));
        assert_eq!(
            use_it(&text[length + 1..]).map_err(|error| word(&error)),
            Err("InvalidCursor".to_owned())
        );
    }
    for longer in [
        format!("{text}A"),
        format!("{text}AA"),
        format!("{text}AAAA"),
        format!("{text}="),
        format!("A{text}"),
    ] {
        assert_eq!(use_it(&longer).map_err(|error| word(&error)), Err("InvalidCursor".to_owned()));
    }
    let long = "A".repeat(100_000);
    for foreign in
        ["", "x", "null", "eyJhbGciOiJub25lIn0", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA", "\u{1f511}", &long]
    {
        let invalid = foreign.parse::<Cursor>().unwrap_err();
        assert_eq!(invalid, InvalidCursor::Malformed);
        assert!(serde_json::from_value::<Cursor>(json!(foreign)).is_err());
        assert_eq!(Error::from(invalid).api().map(|api| api.code), Some("KMS.1602"));
    }
}

#[test]
fn cursors_of_other_lists() {
    let (store, scope, cursor) = listed();
    let all = KeyFilter::all();
    let elsewhere = common::scope("elsewhere");
    let errors = [
        store.read(&elsewhere, |snap| snap.aliases(After::Cursor(&cursor), limit(1))).map(drop),
        store.read(&scope, |snap| snap.aliases_of_key(id(1), After::Cursor(&cursor), limit(1))).map(drop),
        store.read(&scope, |snap| snap.keys_by_id(&all, After::Cursor(&cursor), limit(1))).map(drop),
        store.read(&scope, |snap| snap.keys_by_key_alias(&all, After::Cursor(&cursor), limit(1))).map(drop),
        store.scopes(After::Cursor(&cursor), limit(1)).map(drop),
    ];
    for error in errors {
        assert!(matches!(error, Err(Error::InvalidCursor(InvalidCursor::OfAnotherList))), "{error:?}");
    }
    let of_one =
        store.read(&scope, |snap| snap.aliases_of_key(id(1), After::Start, limit(1))).unwrap().next.unwrap();
    let error =
        store.read(&scope, |snap| snap.aliases_of_key(id(2), After::Cursor(&of_one), limit(1))).unwrap_err();
    assert_eq!(word(&error), "InvalidCursor");
}

/// Every value of a set by its text, as the API writes it.
fn set<T>(all: &[T], texts: &[&str])
where
    T: Copy + Debug + PartialEq + Display + FromStr<Err = InvalidKeySpec> + Serialize + DeserializeOwned,
{
    assert_eq!(all.len(), texts.len());
    for (value, text) in all.iter().zip(texts) {
        assert_eq!(value.to_string(), *text);
        assert_eq!(text.parse::<T>().unwrap(), *value);
        assert_eq!(serde_json::to_value(value).unwrap(), json!(text));
        assert_eq!(serde_json::from_value::<T>(json!(text)).unwrap(), *value);
        let altered = [
            text.to_uppercase(),
            text.to_lowercase(),
            format!("{text} "),
            text[1..].to_owned(),
            text.replace('_', "-"),
        ];
        for bad in altered.iter().filter(|bad| !texts.contains(&bad.as_str())) {
            assert!(matches!(bad.parse::<T>(), Err(InvalidKeySpec::Unknown(..))), "{bad}");
            assert!(serde_json::from_value::<T>(json!(bad)).is_err(), "{bad}");
        }
    }
    for bad in [json!(""), json!(null), json!(2), json!("AES_128"), json!("pending_activation")] {
        assert!(serde_json::from_value::<T>(bad).is_err());
    }
}

#[test]
fn value_sets_are_written_as_in_the_api() {
    let specs = [
        "AES_256",
        "SM4",
        "RSA_2048",
        "RSA_3072",
        "RSA_4096",
        "EC_P256",
        "EC_P384",
        "SECP256K1",
        "SM2",
        "ED25519",
        "HMAC_256",
        "HMAC_384",
        "HMAC_512",
        "HMAC_SM3",
    ];
    set(KeySpec::ALL, &specs);
    set(KeyUsage::ALL, &["ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC"]);
    set(Origin::ALL, &["kms", "external"]);
    set(KeyState::ALL, &["enabled", "disabled", "pending_deletion", "pending_import", "frozen"]);
    assert_eq!(KeyState::ALL.iter().map(|state| state.number()).collect::<Vec<_>>(), [2, 3, 4, 5, 7]);
    let numbers: Vec<_> = (0..=255).filter(|number| KeyState::from_number(*number).is_some()).collect();
    assert_eq!(numbers, [2, 3, 4, 5, 7]);
    assert_eq!(Error::from("x".parse::<KeySpec>().unwrap_err()).api().map(|api| api.code), Some("KMS.1110"));
    let words = [AliasScope::Project, AliasScope::Domain].map(|value| serde_json::to_value(value).unwrap());
    assert_eq!(words, [json!("project"), json!("domain")]);
    let words =
        [Compatibility::Any, Compatibility::SameUsage].map(|value| serde_json::to_value(value).unwrap());
    assert_eq!(words, [json!("any"), json!("same_usage")]);
}

/// The record of a key in a state, as JSON.
fn record(state: &str) -> Value {
    let (store, scope) = (Checked::in_memory(), scope("records"));
    let external = state != "rotated" && state != "default";
    let new = new_key("a", 1).origin(if external { Origin::External } else { Origin::Kms });
    let write = |closure: &dyn Fn(&mut keystead::Transaction<'_>) -> keystead::Result<()>| {
        store.write(&request(&scope), |txn| closure(txn)).unwrap();
    };
    match state {
        "default" => write(&|txn| txn.ensure_default_key(&new_key("obs/default", 1)).map(drop)),
        _ => write(&|txn| txn.create_key(&new).map(drop)),
    }
    if external && state != "pending import" {
        write(&|txn| txn.material_imported(id(1), Some(day(9))).map(drop));
    }
    match state {
        "pending deletion" => write(&|txn| txn.schedule_deletion(id(1), week()).map(drop)),
        "frozen" => write(&|txn| txn.freeze(id(1)).map(drop)),
        "rotated" => write(&|txn| {
            txn.enable_rotation(id(1), RotationInterval::default())?;
            txn.record_rotation(id(1)).map(drop)
        }),
        _ => {}
    }
    serde_json::to_value(store.read(&scope, |snap| snap.key(id(1))).unwrap()).unwrap()
}

#[test]
fn records_go_through_serde_and_back() {
    for state in ["enabled", "pending import", "pending deletion", "frozen", "rotated", "default"] {
        let json = record(state);
        let key: KeyRecord = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(key.check(), Ok(()));
        assert_eq!(serde_json::to_value(&key).unwrap(), json, "{state}");
    }
    let json = record("rotated");
    let texts =
        ["spec", "usage", "origin", "state", "key_id", "key_alias", "enterprise_project_id", "keystore_id"];
    let expected = [
        "AES_256",
        "ENCRYPT_DECRYPT",
        "kms",
        "enabled",
        "00000000-0000-0000-0000-000000000001",
        "a",
        "0",
        "0",
    ];
    assert_eq!(texts.map(|field| json[field].as_str().unwrap()), expected);
    let rotation =
        json!({"enabled": true, "interval_days": 365, "last_rotated_at": day(1).as_millis(), "count": 1});
    assert_eq!(json["rotation"], rotation);
    assert_eq!(json["created_at"], json!(day(1).as_millis()));
    assert!(json["version"].is_u64());
}

/// States, a field of their records, and what it must not be.
fn contradictions() -> Vec<(&'static str, &'static str, Value)> {
    let (early, late) = (json!(day(0).as_millis()), json!(day(20).as_millis()));
    vec![
        // Every field is a typed value of its own.
        ("enabled", "/key_id", json!("BB6A3D22-DC93-47AC-B5BD-88DF7AD35F1E")),
        ("enabled", "/key_id", json!("zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz")),
        ("enabled", "/domain_id", json!("")),
        ("enabled", "/project_id", json!("a b")),
        ("enabled", "/key_alias", json!("a b")),
        ("enabled", "/description", json!("a".repeat(256))),
        ("enabled", "/spec", json!("AES_128")),
        ("enabled", "/usage", json!("encrypt_decrypt")),
        ("enabled", "/origin", json!("KMS")),
        ("enabled", "/state", json!(2)),
        ("enabled", "/created_at", json!(-1)),
        ("enabled", "/rotation/interval_days", json!(29)),
        ("enabled", "/tags", json!({"": "x"})),
        ("enabled", "/tags", json!({"x": "x".repeat(256)})),
        ("enabled", "/version", json!("1")),
        ("enabled", "/enterprise_project_id", json!("x".repeat(65))),
        ("enabled", "/keystore_id", json!("")),
        // The fields contradict each other.
        ("enabled", "/default", json!(true)),
        ("enabled", "/key_alias", json!("obs/default")),
        ("default", "/default", json!(false)),
        ("default", "/key_alias", json!("obs")),
        ("default", "/state", json!("disabled")),
        ("default", "/updated_at", late.clone()),
        ("enabled", "/scheduled_deletion_at", late.clone()),
        ("pending deletion", "/scheduled_deletion_at", json!(null)),
        ("pending deletion", "/state", json!("enabled")),
        ("enabled", "/state", json!("pending_deletion")),
        ("enabled", "/state", json!("frozen")),
        ("frozen", "/frozen_from", json!(null)),
        ("frozen", "/frozen_from", json!("frozen")),
        ("frozen", "/frozen_from", json!("pending_deletion")),
        ("frozen", "/frozen_from", json!("pending_import")),
        ("frozen", "/state", json!("disabled")),
        ("frozen", "/scheduled_deletion_at", late.clone()),
        ("enabled", "/frozen_from", json!("disabled")),
        ("enabled", "/usage", json!("SIGN_VERIFY")),
        ("enabled", "/spec", json!("HMAC_256")),
        ("enabled", "/material/present", json!(false)),
        ("enabled", "/material", json!({"present": false, "expires_at": null})),
        ("pending import", "/material", json!({"present": true, "expires_at": null})),
        ("pending import", "/material/expires_at", late.clone()),
        ("pending import", "/state", json!("disabled")),
        ("pending import", "/origin", json!("kms")),
        ("rotated", "/material/present", json!(false)),
        ("rotated", "/material/expires_at", late),
        ("enabled", "/origin", json!("kms")),
        ("rotated", "/origin", json!("external")),
        ("enabled", "/rotation/enabled", json!(true)),
        (
            "enabled",
            "/rotation",
            json!({"enabled": false, "interval_days": 365, "last_rotated_at": early, "count": 1}),
        ),
        ("rotated", "/rotation/count", json!(0)),
        ("rotated", "/rotation/last_rotated_at", json!(null)),
        ("enabled", "/updated_at", early),
    ]
}

/// Sets a field, and says whether the record is still taken.
fn taken<T: DeserializeOwned>(record: &Value, field: &str, value: &Value) -> bool {
    let mut altered = record.clone();
    let place = altered.pointer_mut(field).unwrap();
    assert_ne!(place, value, "{field} is that already");
    place.clone_from(value);
    serde_json::from_value::<T>(altered).is_ok()
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let wrong: Vec<_> = contradictions()
        .into_iter()
        .filter(|(state, field, value)| taken::<KeyRecord>(&record(state), field, value))
        .collect();
    assert!(wrong.is_empty(), "taken, but contradictory: {wrong:#?}");
    let symmetric = record("rotated");
    let mut rsa = symmetric.clone();
    (rsa["spec"], rsa["usage"]) = (json!("RSA_2048"), json!("ENCRYPT_DECRYPT"));
    assert!(serde_json::from_value::<KeyRecord>(rsa).is_err(), "only a symmetric key rotates");
    let whole = symmetric.as_object().unwrap();
    for field in whole.keys() {
        let mut without = whole.clone();
        without.remove(field);
        // A missing time is no time.
        let optional = ["frozen_from", "scheduled_deletion_at"].contains(&field.as_str());
        assert_eq!(serde_json::from_value::<KeyRecord>(without.into()).is_ok(), optional, "without {field}");
    }
}

#[test]
fn alias_records_through_serde() {
    let (store, scope, _) = listed();
    let later = Request::new(&scope).at(day(5));
    let moved = store.write(&later, |txn| txn.associate_alias(&alias("a1"), id(2))).unwrap().value;
    let json = serde_json::to_value(&*moved.alias).unwrap();
    assert_eq!(serde_json::from_value::<AliasRecord>(json.clone()).unwrap(), *moved.alias);
    assert_eq!(json["created_at"], json!(day(1).as_millis()));
    assert_eq!(json["version"], json!(moved.alias.version.number()));
    let wrong = [
        ("/alias", json!("a/default")),
        ("/alias", json!("")),
        ("/alias", json!("a\n")),
        ("/key_id", json!("x")),
        ("/domain_id", json!("")),
        ("/project_id", json!("x".repeat(65))),
        ("/created_at", json!("now")),
        ("/version", json!(-1)),
        ("/updated_at", json!(day(0).as_millis())),
        ("/created_at", json!(day(6).as_millis())),
    ];
    let wrong: Vec<_> =
        wrong.iter().filter(|(field, value)| taken::<AliasRecord>(&json, field, value)).collect();
    assert!(wrong.is_empty(), "taken, but contradictory: {wrong:#?}");
    let text = serde_json::to_string(&moved).unwrap();
    assert_eq!(serde_json::from_str::<keystead::Moved>(&text).unwrap(), moved);
}

#[test]
fn commits_and_times_are_numbers() {
    assert_eq!(serde_json::to_value(Commit::new(7)).unwrap(), json!(7));
    assert_eq!(serde_json::from_value::<Commit>(json!(7)).unwrap().number(), 7);
    assert_eq!(serde_json::to_value(day(0)).unwrap(), json!(1_700_000_000_000_u64));
    for bad in [json!(-1), json!("7"), json!(1.5), json!(null)] {
        assert!(serde_json::from_value::<Commit>(bad.clone()).is_err());
        assert!(serde_json::from_value::<Timestamp>(bad).is_err());
    }
}

#[test]
fn every_violation_has_its_code() {
    let table: [(Error, &str); 10] = [
        (InvalidAlias::Malformed.into(), "KMS.1101"),
        (KeyId::from_str("x").unwrap_err().into(), "KMS.0205"),
        (RequestId::from_str("x").unwrap_err().into(), "KMS.0206"),
        (Scope::new("", "").unwrap_err().into(), "KMS.0308"),
        (Description::new(&"x".repeat(256)).unwrap_err().into(), "KMS.1103"),
        (TagKey::new("").unwrap_err().into(), "KMS.0406"),
        (TagValue::new(&"x".repeat(256)).unwrap_err().into(), "KMS.0405"),
        (PendingDays::new(6).unwrap_err().into(), "KMS.1401"),
        (RotationInterval::new(29).unwrap_err().into(), "KMS.3001"),
        (Limit::new(0).unwrap_err().into(), "KMS.1601"),
    ];
    for (error, code) in table {
        assert_eq!(error.api().map(|api| (api.code, api.status)), Some((code, 400)), "{error}");
        assert!(!error.is_retryable());
    }
}

proptest! {
    /// The name is checked by hand; this is the expression of the service.
    #[test]
    fn names_are_those_that_the_expression_says(text in "[ -~\u{80}-\u{ff}]{0,3}|[a-zA-Z0-9:/_-]{0,300}(\n|)") {
        let expression = regex::Regex::new(r"\A[a-zA-Z0-9:/_-]{1,255}\z").unwrap();
        prop_assert_eq!(KeyAlias::new(&text).is_ok(), expression.is_match(&text));
        let reserved = text.ends_with("/default");
        prop_assert_eq!(Alias::new(&text).is_ok(), expression.is_match(&text) && !reserved);
    }

    /// Likewise the ids of domains, projects and the like.
    #[test]
    fn ids_are_those_that_the_expression_says(text in "[ -~\u{80}-\u{ff}]{0,3}|[a-zA-Z0-9_-]{0,80}(\n|)") {
        let expression = regex::Regex::new(r"\A[A-Za-z0-9_-]{1,64}\z").unwrap();
        prop_assert_eq!(DomainId::new(&text).is_ok(), expression.is_match(&text));
        prop_assert_eq!(Region::new(&text).is_ok(), expression.is_match(&text));
    }
}
