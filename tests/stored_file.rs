//! A store that an earlier version wrote is opened by today's code, and says what it said then.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::fs;
use std::path::{Path, PathBuf};

use keystead::{
    After, Alias, AliasScope, Expect, KeyFilter, KeyId, KeySpec, KeyState, KeyUsage, Limit, NewKey, Options,
    Origin, PendingDays, Request, Result, RotationInterval, Scope, Snapshot, Store, Tags, Timestamp,
};

/// Set to write the file anew; only for a new version of the format, under a new name.
const WRITE: &str = "KEYSTEAD_WRITE_FIXTURES";

const CREATED: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const CHANGED: Timestamp = Timestamp::from_millis(1_700_000_100_000);

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-v1.redb")
}

/// A scope in the usual form, one in any other form, and one beside the first.
fn scopes() -> [Scope; 3] {
    [
        Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap(),
        Scope::new("domain", "project").unwrap(),
        Scope::new("3bab8e245e854f68af5967c00dd43127", "other").unwrap(),
    ]
}

fn id(number: u8) -> KeyId {
    KeyId::from_bytes([number; 16])
}

fn alias(text: &str) -> Alias {
    text.parse().unwrap()
}

fn tag_of(number: usize) -> (keystead::TagKey, keystead::TagValue) {
    (format!("\u{5bc6}\u{94a5}\0{number}").parse().unwrap(), format!("v\u{e4}lue {number}").parse().unwrap())
}

fn options() -> Options {
    Options::new().alias_scope(AliasScope::Domain).region("cn-north-7".parse().unwrap()).cache_bytes(1 << 20)
}

/// Writes a key in every state, of several kinds, with everything that a row can hold.
fn write(store: &Store) -> Result<()> {
    let [usual, text, other] = scopes();
    let new = |name: &str, number| NewKey::new(name).unwrap().id(id(number));
    let orders = (0..20).map(tag_of).fold(
        new("orders", 1)
            .alias(alias("alias/first"))
            .alias(alias("second"))
            .description("Auftr\u{e4}ge".parse()?),
        |key, (tag, value)| key.tag(tag, value),
    );
    let keys = [
        orders,
        new("signer", 2).spec(KeySpec::Rsa3072),
        new("imported", 3).origin(Origin::External),
        new("empty", 4).origin(Origin::External).spec(KeySpec::Sm4),
        new("dying", 5).alias(alias("left:behind")),
        new("frozen", 6).spec(KeySpec::HmacSm3),
        new("disabled", 7),
        new("gone", 8).alias(alias("gone")),
    ];
    for key in &keys {
        store.write(&Request::new(&usual).at(CREATED), |txn| txn.create_key(key))?;
    }
    store.write(&Request::new(&usual).at(CREATED), |txn| {
        txn.ensure_default_key(&NewKey::default_of("obs")?.id(id(9)))
    })?;
    let later = Request::new(&usual).at(CHANGED).actor("alice");
    store.write(&later, |txn| {
        txn.material_imported(id(3), Some(Timestamp::from_millis(1_800_000_000_000)))?;
        txn.schedule_deletion(id(5), PendingDays::new(30)?)?;
        txn.freeze(id(6))?;
        txn.disable(id(7))?;
        txn.enable_rotation(id(1), RotationInterval::new(90)?)?;
        txn.record_rotation(id(1))?;
        txn.associate_alias(&alias("second"), id(7))?;
        txn.rename_key_alias(id(1), &"orders-2026".parse()?)?;
        txn.schedule_deletion(id(8), PendingDays::new(7)?)
    })?;
    store.write(&Request::new(&usual).at(CHANGED.plus_days(8)), |txn| txn.purge(id(8)))?;
    store.write(&Request::new(&text).at(CREATED), |txn| {
        txn.create_key(&new("orders", 1).alias(alias("first")))
    })?;
    store.write(&Request::new(&other).at(CREATED), |txn| txn.create_key(&new("orders", 1)))?;
    Ok(())
}

#[test]
fn the_file_is_written_when_it_is_asked_for() {
    if std::env::var_os(WRITE).is_none() {
        assert!(path().exists(), "set {WRITE} to write it");
        return;
    }
    let _ = fs::remove_file(path());
    fs::create_dir_all(path().parent().unwrap()).unwrap();
    write(&options().open(path()).unwrap()).unwrap();
}

/// A copy, so that the file itself stays as it was written.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("store.redb");
    fs::copy(path(), &copy).unwrap();
    (folder, copy)
}

/// Id, name, state, spec, usage, version, and when it changed.
type Line = (u8, String, KeyState, KeySpec, KeyUsage, u64, Timestamp);

fn keys(snap: &Snapshot<'_>) -> Result<Vec<Line>> {
    let page = snap.keys_by_id(&KeyFilter::all(), After::Start, Limit::MAX)?;
    let line = |key: &keystead::KeyRecord| {
        let number = key.key_id.as_bytes()[0];
        let (name, version) = (key.key_alias.to_string(), key.version.number());
        (number, name, key.state, key.spec, key.usage, version, key.updated_at)
    };
    Ok(page.items.iter().map(|key| line(key)).collect())
}

fn aliases(snap: &Snapshot<'_>) -> Result<Vec<(String, KeyId, u64)>> {
    let page = snap.aliases(After::Start, Limit::MAX)?;
    let aliases = page.items.iter();
    Ok(aliases.map(|alias| (alias.alias.to_string(), alias.key_id, alias.version.number())).collect())
}

#[test]
fn todays_code_reads_the_file_of_version_1() {
    let (_folder, path) = copy();
    let ways: [fn(&Path) -> Result<Store>; 3] =
        [|path| options().open_read_only(path), |path| options().open(path), |path| Store::open(path)];
    for open in ways {
        let store = open(&path).unwrap();
        assert_eq!((store.alias_scope(), store.region().as_str()), (AliasScope::Domain, "cn-north-7"));
        let report = store.verify().unwrap();
        assert!(report.is_clean(), "{:#?}", report.violations);
        assert_eq!((report.scopes, report.keys, report.aliases, report.rows), (3, 10, 4, 60));
        let [usual, text, other] = scopes();
        assert_eq!(
            store.scopes(After::Start, Limit::MAX).unwrap().items,
            [usual.clone(), other.clone(), text.clone()]
        );
        store.read(&usual, must_be_as_written).unwrap();
        let aes = (KeyState::Enabled, KeySpec::Aes256, KeyUsage::EncryptDecrypt);
        for (scope, version) in [(&text, 13), (&other, 14)] {
            let expected = [(1, "orders".to_owned(), aes.0, aes.1, aes.2, version, CREATED)];
            assert_eq!(store.read(scope, keys).unwrap(), expected);
        }
        assert_eq!(store.read(&text, aliases).unwrap(), [("first".to_owned(), id(1), 13)]);
        assert_eq!(store.read(&other, aliases).unwrap(), []);
    }
}

/// The content of the first scope.
fn must_be_as_written(snap: &Snapshot<'_>) -> Result<()> {
    use KeyState::{Disabled, Enabled, Frozen, PendingDeletion, PendingImport};
    use KeyUsage::{EncryptDecrypt, GenerateVerifyMac, SignVerify};
    let line = |number, name: &str, state, spec, usage, version, changed| {
        (number, name.to_owned(), state, spec, usage, version, changed)
    };
    let expected = [
        line(1, "orders-2026", Enabled, KeySpec::Aes256, EncryptDecrypt, 11, CHANGED),
        line(2, "signer", Enabled, KeySpec::Rsa3072, SignVerify, 3, CREATED),
        line(3, "imported", Enabled, KeySpec::Aes256, EncryptDecrypt, 11, CHANGED),
        line(4, "empty", PendingImport, KeySpec::Sm4, EncryptDecrypt, 5, CREATED),
        line(5, "dying", PendingDeletion, KeySpec::Aes256, EncryptDecrypt, 11, CHANGED),
        line(6, "frozen", Frozen, KeySpec::HmacSm3, GenerateVerifyMac, 11, CHANGED),
        line(7, "disabled", Disabled, KeySpec::Aes256, EncryptDecrypt, 11, CHANGED),
        line(9, "obs/default", Enabled, KeySpec::Aes256, EncryptDecrypt, 10, CREATED),
    ];
    assert_eq!(keys(snap)?, expected);
    let expected = [
        ("alias/first".to_owned(), id(1), 2),
        ("left:behind".to_owned(), id(5), 6),
        ("second".to_owned(), id(7), 11),
    ];
    assert_eq!(aliases(snap)?, expected);
    let orders = snap.find_by_key_alias(&"orders-2026".parse()?)?;
    assert_eq!(orders.description.as_str(), "Auftr\u{e4}ge");
    assert_eq!(orders.tags, (0..20).map(tag_of).collect::<Tags>());
    let rotation = orders.rotation;
    assert_eq!((rotation.enabled, rotation.interval_days.days(), rotation.count), (true, 90, 1));
    assert_eq!((rotation.last_rotated_at, orders.created_at), (Some(CHANGED), CREATED));
    let (tag, value) = tag_of(7);
    let tagged = snap.keys_by_id(&KeyFilter::all().tag(tag, value), After::Start, Limit::MAX)?;
    assert_eq!(tagged.items.iter().map(|key| key.key_id).collect::<Vec<_>>(), [id(1)]);
    assert_eq!(snap.key(id(3))?.material.expires_at, Some(Timestamp::from_millis(1_800_000_000_000)));
    assert_eq!(snap.key(id(5))?.scheduled_deletion_at, Some(CHANGED.plus_days(30)));
    assert_eq!(snap.key(id(6))?.frozen_from, Some(Enabled));
    assert!(snap.key(id(9))?.default);
    let urn = snap.alias(&alias("alias/first"))?.urn(&"cn-north-7".parse()?);
    assert_eq!(urn.to_string(), "kms:cn-north-7:3bab8e245e854f68af5967c00dd43127:alias:first");
    assert_eq!(snap.resolve_urn(&urn)?.key_id, id(1));
    Ok(())
}

#[test]
fn the_file_can_be_written_on() {
    let (_folder, path) = copy();
    let store = options().open(&path).unwrap();
    let [usual, _, other] = scopes();
    let taken = store.write(&Request::new(&other), |txn| txn.create_alias(&alias("second"), id(1)));
    assert!(matches!(taken, Err(keystead::Error::AliasExists(_))), "{taken:?}");
    let request = Request::new(&usual).at(CHANGED.plus_days(31));
    let next = store.write(&request, |txn| {
        txn.expect_alias(&alias("second"), Expect::Version(keystead::Commit::new(11)))?;
        txn.associate_alias(&alias("second"), id(1))
    });
    assert_eq!(next.unwrap().commit.number(), 15);
    assert_eq!(store.sweep(CHANGED.plus_days(31), 100, None).unwrap().keys_purged, 1);
    drop(store);
    let store = options().open(&path).unwrap();
    assert!(store.verify().unwrap().is_clean());
    assert_eq!(store.read(&usual, aliases).unwrap().len(), 2);
}
