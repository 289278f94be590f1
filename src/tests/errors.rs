//! Every variant of the error is produced by something real, and has the code of the service's API.

use std::collections::BTreeMap;
use std::future::Future;

use super::{new_key, request, scope, scripted};
use crate::engine::scripted::{Call, Outcome};
use crate::engine::{Batch, Engine, Log};
use crate::format::Space;
use crate::*;

const ONE: KeyId = KeyId::from_bytes([1; 16]);
const TWO: KeyId = KeyId::from_bytes([2; 16]);

type Produced = Vec<(&'static str, Error)>;

/// Variant, code and status, as the table of the semantics has them.
const CODES: &[(&str, &str, u16)] = &[
    ("InvalidKeyId", "KMS.0205", 400),
    ("InvalidRequestId", "KMS.0206", 400),
    ("RequestIdReused", "KMS.0206", 400),
    ("KeyNotFound", "KMS.0207", 404),
    ("AliasNotFound", "KMS.0207", 404),
    ("AliasNotOnKey", "KMS.0207", 404),
    ("KeyDisabled", "KMS.0209", 400),
    ("PendingDeletion", "KMS.0210", 400),
    ("DefaultKeyImmutable", "KMS.0211", 400),
    ("PreconditionFailed", "KMS.0308", 400),
    ("IncompatibleKey", "KMS.0308", 400),
    ("InvalidAliasList", "KMS.0308", 400),
    ("KeyIdExists", "KMS.0308", 400),
    ("InvalidScope", "KMS.0308", 400),
    ("ExternalKeyRequired", "KMS.0309", 400),
    ("NotPendingImport", "KMS.0310", 400),
    ("ExternalKeyNotRotatable", "KMS.0312", 400),
    ("RotationNotEnabled", "KMS.0313", 400),
    ("KeyFrozen", "KMS.0320", 400),
    ("AsymmetricNotRotatable", "KMS.0325", 400),
    ("InvalidTagValue", "KMS.0405", 400),
    ("InvalidTagKey", "KMS.0406", 400),
    ("DuplicateTag", "KMS.0406", 400),
    ("TooManyTags", "KMS.0409", 400),
    ("TagNotFound", "KMS.0416", 404),
    ("InvalidAlias", "KMS.1101", 400),
    ("InvalidDescription", "KMS.1103", 400),
    ("KeyAliasExists", "KMS.1104", 400),
    ("AliasExists", "KMS.1104", 400),
    ("QuotaExceeded", "KMS.1105", 400),
    ("InvalidKeySpec", "KMS.1110", 400),
    ("KeyNotDisabled", "KMS.1201", 400),
    ("KeyNotEnabled", "KMS.1301", 400),
    ("InvalidPendingDays", "KMS.1401", 400),
    ("AlreadyPendingDeletion", "KMS.1402", 400),
    ("NotPendingDeletion", "KMS.1501", 400),
    ("InvalidLimit", "KMS.1601", 400),
    ("InvalidCursor", "KMS.1602", 400),
    ("InvalidPosition", "KMS.1602", 400),
    ("InvalidExpiry", "KMS.2602", 400),
    ("MaterialNotDeletable", "KMS.2701", 400),
    ("RotationNotDisabled", "KMS.2901", 400),
    ("InvalidRotationInterval", "KMS.3001", 400),
];

/// The variants without a code.
const WITHOUT_CODE: &[&str] = &[
    "Conflict",
    "Unavailable",
    "AccessDenied",
    "Busy",
    "CommitUnknown",
    "Poisoned",
    "Corrupted",
    "Replaced",
    "LogMismatch",
    "FileExists",
    "NotEmpty",
    "BackupMismatch",
    "Unsound",
    "Io",
    "TransactionTooLarge",
    "NestedTransaction",
    "Aborted",
    "ReadOnly",
    "AlreadyOpen",
    "NoStore",
    "Unfinished",
    "NotAStore",
    "Unsupported",
    "OptionsMismatch",
    "CommitNotFound",
    "HistoryDisabled",
    "HistoryTrimmed",
    "NotRevertible",
    "PositionOfAnotherStore",
    "InvalidOutcome",
];

/// What comes of texts and numbers.
fn by_values() -> Produced {
    let many = "x".repeat(256);
    let cursor = Cursor::new(b"a list", b"");
    let (store, _) = scripted();
    let of_another = store.scopes(After::Cursor(&cursor), Limit::MAX).unwrap_err();
    vec![
        ("InvalidKeyId", "BB6A".parse::<KeyId>().unwrap_err().into()),
        ("InvalidRequestId", "short".parse::<RequestId>().unwrap_err().into()),
        ("InvalidScope", Scope::new("a b", "p").unwrap_err().into()),
        ("InvalidAlias", "two words".parse::<Alias>().unwrap_err().into()),
        ("InvalidAlias", "obs/default".parse::<Alias>().unwrap_err().into()),
        ("InvalidAlias", "kms:local".parse::<AliasUrn>().unwrap_err().into()),
        ("InvalidDescription", many.parse::<Description>().unwrap_err().into()),
        ("InvalidKeySpec", "AES_\u{fc}".parse::<KeySpec>().unwrap_err().into()),
        ("InvalidTagKey", "".parse::<TagKey>().unwrap_err().into()),
        ("InvalidTagValue", many.parse::<TagValue>().unwrap_err().into()),
        ("InvalidPendingDays", PendingDays::new(6).unwrap_err().into()),
        ("InvalidRotationInterval", RotationInterval::new(366).unwrap_err().into()),
        ("InvalidLimit", Limit::new(0).unwrap_err().into()),
        ("InvalidCursor", "?".parse::<Cursor>().unwrap_err().into()),
        ("InvalidCursor", of_another),
        // Well-formed, but no UUID: it names no key.
        ("KeyNotFound", "zz6a3d22-dc93-47ac-b5bd-88df7ad35f1e".parse::<KeyId>().unwrap_err().into()),
    ]
}

/// What a write answers in a store with the keys [`ONE`], with the alias `first`, and [`TWO`].
fn refusal<T>(run: impl Fn(&mut Transaction<'_>) -> Result<T>) -> Error {
    let options = Options::new().compatibility(Compatibility::SameUsage).quotas(Quotas {
        keys_per_project: 3,
        aliases_per_key: 2,
        tags_per_key: 1,
    });
    let store = options.in_memory().unwrap();
    let one = new_key("one", 1).alias("first".parse().unwrap());
    let two = new_key("two", 2).origin(Origin::External);
    store.write(&request(), |txn| txn.create_key(&one)).unwrap();
    store.write(&request(), |txn| txn.create_key(&two)).unwrap();
    let error = store.write(&request(), |txn| run(txn).map(drop)).unwrap_err();
    assert_eq!(store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap(), 2);
    assert!(store.verify().unwrap().is_clean());
    error
}

/// What comes of names, tags and quotas.
fn by_names() -> Produced {
    let first: Alias = "first".parse().unwrap();
    let other: Alias = "other".parse().unwrap();
    let tags = || Tags::from(["a", "b"].map(|tag| (tag.parse().unwrap(), TagValue::new("").unwrap())));
    let rsa = new_key("rsa", 3).spec(KeySpec::Rsa2048);
    vec![
        ("InvalidAlias", refusal(|txn| txn.create_key(&new_key("obs/default", 3)))),
        ("InvalidAlias", refusal(|txn| txn.ensure_default_key(&new_key("obs", 3)))),
        ("InvalidAliasList", refusal(|txn| txn.delete_aliases(ONE, &[]))),
        ("InvalidKeySpec", refusal(|txn| txn.create_key(&new_key("three", 3).usage(KeyUsage::SignVerify)))),
        ("KeyNotFound", refusal(|txn| txn.key(KeyId::from_bytes([9; 16])))),
        ("KeyNotFound", refusal(|txn| txn.find_by_key_alias(&"nine".parse()?))),
        ("AliasNotFound", refusal(|txn| txn.resolve(&other))),
        ("AliasNotFound", refusal(|txn| txn.resolve_urn(&"kms:elsewhere:domain:alias:first".parse()?))),
        ("AliasNotOnKey", refusal(|txn| txn.delete_aliases(TWO, std::slice::from_ref(&first)))),
        ("DuplicateTag", refusal(|txn| txn.remove_tags(ONE, &["a".parse()?, "a".parse()?]))),
        ("TagNotFound", refusal(|txn| txn.remove_tags(ONE, &["a".parse()?]))),
        ("KeyIdExists", refusal(|txn| txn.create_key(&new_key("three", 1)))),
        ("KeyAliasExists", refusal(|txn| txn.rename_key_alias(ONE, &"two".parse()?))),
        ("AliasExists", refusal(|txn| txn.create_alias(&"alias/first".parse()?, ONE))),
        ("TooManyTags", refusal(|txn| txn.set_tags(ONE, &tags()))),
        (
            "IncompatibleKey",
            refusal(|txn| {
                txn.create_key(&rsa)?;
                txn.associate_alias(&first, rsa.key_id)
            }),
        ),
        ("PreconditionFailed", refusal(|txn| txn.expect_alias(&first, Expect::Absent))),
        ("PreconditionFailed", refusal(|txn| txn.expect_key(ONE, Expect::Version(Commit::new(77))))),
        ("PreconditionFailed", refusal(|txn| txn.expect_alias(&other, Expect::Target(ONE)))),
        (
            "QuotaExceeded",
            refusal(|txn| {
                txn.create_key(&new_key("three", 3))?;
                txn.create_key(&new_key("four", 4))
            }),
        ),
        (
            "QuotaExceeded",
            refusal(|txn| {
                txn.create_alias(&"second".parse()?, ONE)?;
                txn.create_alias(&"third".parse()?, ONE)
            }),
        ),
        (
            "DefaultKeyImmutable",
            refusal(|txn| {
                txn.ensure_default_key(&new_key("obs/default", 3))?;
                txn.associate_alias(&first, KeyId::from_bytes([3; 16]))
            }),
        ),
        (
            "TransactionTooLarge",
            refusal(|txn| {
                (0..=TransactionLimits::ROWS_READ_MAX)
                    .try_for_each(|n| txn.expect_alias(&format!("name-{n}").parse()?, Expect::Absent))
            }),
        ),
        ("Aborted", refusal(|_| Err::<(), _>(Error::abort("enough")))),
    ]
}

/// What comes of the states of keys.
fn by_states() -> Produced {
    let seven = PendingDays::new(7).unwrap();
    let yearly = RotationInterval::default();
    vec![
        (
            "KeyDisabled",
            refusal(|txn| {
                txn.disable(ONE)?;
                txn.enable_rotation(ONE, yearly)
            }),
        ),
        (
            "PendingDeletion",
            refusal(|txn| {
                txn.schedule_deletion(ONE, seven)?;
                txn.enable(ONE)
            }),
        ),
        (
            "KeyFrozen",
            refusal(|txn| {
                txn.freeze(ONE)?;
                txn.disable(ONE)
            }),
        ),
        ("KeyNotDisabled", refusal(|txn| txn.enable(ONE))),
        ("KeyNotEnabled", refusal(|txn| txn.disable(TWO))),
        (
            "AlreadyPendingDeletion",
            refusal(|txn| {
                txn.schedule_deletion(ONE, seven)?;
                txn.schedule_deletion(ONE, seven)
            }),
        ),
        ("NotPendingDeletion", refusal(|txn| txn.cancel_deletion(ONE))),
        ("NotPendingDeletion", refusal(|txn| txn.purge(ONE))),
        ("ExternalKeyRequired", refusal(|txn| txn.material_imported(ONE, None))),
        (
            "NotPendingImport",
            refusal(|txn| {
                txn.material_imported(TWO, None)?;
                txn.material_imported(TWO, None)
            }),
        ),
        ("InvalidExpiry", refusal(|txn| txn.material_imported(TWO, Some(txn.time())))),
        ("MaterialNotDeletable", refusal(|txn| txn.material_deleted(TWO))),
        ("ExternalKeyNotRotatable", refusal(|txn| txn.enable_rotation(TWO, yearly))),
        (
            "AsymmetricNotRotatable",
            refusal(|txn| {
                let rsa = txn.create_key(&new_key("rsa", 3).spec(KeySpec::Rsa2048))?;
                txn.enable_rotation(rsa.key_id, yearly)
            }),
        ),
        (
            "RotationNotDisabled",
            refusal(|txn| {
                txn.enable_rotation(ONE, yearly)?;
                txn.enable_rotation(ONE, yearly)
            }),
        ),
        ("RotationNotEnabled", refusal(|txn| txn.disable_rotation(ONE))),
    ]
}

/// What comes of the history and of requests that come again.
fn by_history() -> Produced {
    let store = Store::in_memory().unwrap();
    let created = store.write(&request(), |txn| txn.create_key(&new_key("one", 1))).unwrap().commit;
    let far = Commit::new(created.number() + 1);
    let revert = |commit| store.write(&request(), |txn| txn.revert(commit)).unwrap_err();
    let id: RequestId = "919c82d4-8046-4722-9094-35c3c6524cff".parse().unwrap();
    store.write_once(&request(), &id, b"a body", |_| Ok(())).unwrap();
    let other_id: RequestId = "019c82d4-8046-4722-9094-35c3c6524cff".parse().unwrap();
    let other_body = store.write_once(&request(), &id, b"another", |_| Ok(())).unwrap_err();
    let no_json = BTreeMap::from([((1, 2), 3)]);
    let no_json = store.write_once(&request(), &other_id, b"", |_| Ok(no_json.clone())).unwrap_err();
    let elsewhere = Store::in_memory().unwrap().position().unwrap();
    let without = Options::new().history(false).in_memory().unwrap();
    let not_revertible = revert(created);
    store.trim_history(created).unwrap();
    vec![
        ("RequestIdReused", other_body),
        ("InvalidOutcome", no_json),
        ("CommitNotFound", revert(far)),
        ("NotRevertible", not_revertible),
        ("HistoryTrimmed", revert(created)),
        ("HistoryDisabled", without.changes(None, Limit::MAX).unwrap_err()),
        ("InvalidPosition", "nowhere".parse::<Position>().unwrap_err().into()),
        ("PositionOfAnotherStore", store.changes(Some(&elsewhere), Limit::MAX).unwrap_err()),
    ]
}

/// What comes of the engine and of files.
fn by_engine() -> Produced {
    let scripted_to = |outcome| {
        let (store, engine) = scripted();
        engine.follow(Box::new(move |call| if call == Call::Commit { outcome } else { Outcome::Pass }));
        store.write(&request(), |txn| txn.create_key(&new_key("one", 1))).unwrap_err()
    };
    let damaged_to = |bytes: &[u8]| {
        let (store, engine) = scripted();
        let batch = Batch::from([(Space::of_scope(&scope()).key(ONE), Some(bytes.to_vec()))]);
        engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
        store.read(&scope(), |snap| snap.key(ONE)).unwrap_err()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    let reader = Options::new().open_read_only(&path).unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no store").unwrap();
    let nested = store.write(&request(), |_| store.write(&request(), |_| Ok(())).map(drop)).unwrap_err();
    let read_only = reader.write(&request(), |txn| txn.create_key(&new_key("one", 1))).unwrap_err();
    let already_open = Store::open(&path).unwrap_err();
    let elsewhere = Options::new().region("elsewhere".parse().unwrap());
    drop(store);
    let other = folder.path().join("other");
    drop(Store::open(&other).unwrap());
    std::fs::rename(&other, &path).unwrap();
    let replaced = reader.read(&scope(), |snap| snap.key(ONE)).unwrap_err();
    drop(reader);
    let mismatch = elsewhere.open(&path).unwrap_err();
    let small = Options::new().wal_bytes(Options::WAL_BYTES_MIN);
    let with_log = folder.path().join("with log");
    let has_log = small.open(&with_log).unwrap();
    // The first commit of a process needs no log.
    for number in 1..3 {
        has_log.write(&request(), |txn| txn.create_key(&new_key(&format!("key-{number}"), number))).unwrap();
    }
    drop(has_log);
    std::fs::rename(folder.path().join("with log.redo"), folder.path().join("store.redb.redo")).unwrap();
    let copied_in_part = folder.path().join("copied in part");
    let unfinished = Batch::from([(Space::of_store().unfinished(), Some(crate::format::encode_nothing()))]);
    let in_part = Store::open(&copied_in_part).unwrap();
    in_part.engine().begin_write().unwrap().commit(&unfinished, Log::default()).unwrap();
    drop(in_part);
    vec![
        ("Conflict", scripted_to(Outcome::Conflict)),
        ("Unavailable", scripted_to(Outcome::Unavailable)),
        ("AccessDenied", scripted_to(Outcome::Denied)),
        ("CommitUnknown", scripted_to(Outcome::Unknown { applied: false })),
        ("Io", scripted_to(Outcome::Io)),
        ("NoStore", Options::new().open_read_only(folder.path().join("none")).unwrap_err()),
        ("NoStore", Options::new().create(false).open(folder.path().join("none")).unwrap_err()),
        ("Corrupted", damaged_to(&[1, 0xff])),
        ("Unsupported", damaged_to(&[2])),
        ("Replaced", replaced),
        ("LogMismatch", small.open(&path).unwrap_err()),
        ("Unfinished", Store::open(&copied_in_part).unwrap_err()),
        ("Poisoned", super::faults::poisoned()),
        ("NestedTransaction", nested),
        ("ReadOnly", read_only),
        ("AlreadyOpen", already_open),
        ("NotAStore", Store::open(&text).unwrap_err()),
        ("OptionsMismatch", mismatch),
    ]
}

/// What comes of backups.
fn by_backups() -> Produced {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (store, _) = scripted();
    let backup = store.backup(path("backup")).unwrap();
    let (damaged, engine) = scripted();
    let stranger = Space::of_scope(&scope()).key_alias(&"nobody".parse().unwrap());
    let batch = Batch::from([(stranger, Some(crate::format::encode_key_id(ONE)))]);
    engine.begin_write().unwrap().commit(&batch, Log::default()).unwrap();
    damaged.backup_changes(&damaged.position().unwrap(), path("of another")).unwrap();
    let mixed = Restore::of(path("backup")).changes(path("of another")).into_file(path("mixed"));
    vec![
        ("FileExists", store.backup(path("backup")).unwrap_err()),
        ("FileExists", store.backup_changes(&backup.position, path("backup")).unwrap_err()),
        ("NotEmpty", damaged.copy_to(&damaged).unwrap_err()),
        ("BackupMismatch", mixed.unwrap_err()),
        ("Unsound", damaged.backup(path("damaged")).unwrap_err()),
    ]
}

/// What comes of a limit that lets one run and none wait.
fn by_limits() -> Produced {
    let limits = AsyncLimits { reads: 1, waiting: 0, ..AsyncLimits::default() };
    let store = AsyncStore::with_limits(Store::in_memory().unwrap(), limits).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (scope, (go, may_go)) = (scope(), std::sync::mpsc::channel::<()>());
    let busy = runtime.block_on(async {
        let mut held = Box::pin(store.read(&scope, move |_| may_go.recv().map_err(Error::abort)));
        let waker = std::task::Waker::noop();
        assert!(held.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        let busy = store.read(&scope, |_| Ok(())).await.unwrap_err();
        go.send(()).unwrap();
        held.await.unwrap();
        busy
    });
    vec![("Busy", busy)]
}

fn produced() -> Produced {
    [by_values(), by_names(), by_states(), by_history(), by_engine(), by_backups(), by_limits()]
        .into_iter()
        .flatten()
        .collect()
}

/// The variants that `error.rs` declares, in their order.
fn declared() -> Vec<&'static str> {
    let source = include_str!("../error.rs");
    let body = source.split_once("pub enum Error {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let names = body.lines().filter_map(|line| line.strip_prefix("    "));
    let names = names.filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    names.map(|line| line.split(['(', ' ', ',']).next().unwrap()).collect()
}

fn snake_case(name: &str) -> String {
    let word = |(at, letter): (usize, char)| match letter.is_uppercase() {
        true => format!("{}{}", if at > 0 { "_" } else { "" }, letter.to_lowercase()),
        false => letter.to_string(),
    };
    name.chars().enumerate().map(word).collect()
}

/// The name of an error's variant, as `Debug` begins.
fn variant(error: &Error) -> String {
    format!("{error:?}").split(['(', ' ']).next().unwrap().to_owned()
}

#[test]
fn every_variant_is_produced_and_has_its_code() {
    let produced = produced();
    for (name, error) in &produced {
        assert_eq!(variant(error), *name, "{error:?}");
        let words = error.to_string();
        assert!(!words.is_empty() && words.is_ascii(), "{name}: {words:?}");
        let code = CODES.iter().find(|(variant, ..)| variant == name);
        let code = code.map(|(_, code, status)| ApiCode { code, status: *status });
        assert_eq!(error.api(), code, "{name}");
        assert_eq!(error.code(), code.map_or(snake_case(name), |api| api.code.to_owned()), "{name}");
        assert_eq!(error.is_retryable(), matches!(*name, "Conflict" | "Unavailable" | "Busy"), "{name}");
        // What the service's API names is a refusal, and no failure of the engine.
        assert!(!(error.is_of_engine() && error.api().is_some()), "{name}");
    }
    let declared = declared();
    assert!(declared.len() > 50, "{declared:?}");
    for name in &declared {
        assert!(produced.iter().any(|(produced, _)| produced == name), "nothing produces {name}");
    }
}

#[test]
fn the_tables_name_each_variant_once() {
    let mut counted: BTreeMap<&str, u32> = BTreeMap::new();
    for name in CODES.iter().map(|(name, ..)| name).chain(WITHOUT_CODE) {
        *counted.entry(name).or_default() += 1;
    }
    assert_eq!(counted, declared().into_iter().map(|name| (name, 1)).collect());
}
