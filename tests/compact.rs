//! Compacting: it is the same store in a smaller file, or the file that was there before.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

use std::fs;
use std::path::Path;

use keystead::{
    Error, HistoryOf, KeyAlias, KeyId, Limit, NewKey, Options, Order, Request, Scope, Store, compact,
};
use tempfile::TempDir;

mod common;
use common::{alias, scope};

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A store whose key was renamed often.
fn worn() -> (TempDir, KeyId, Scope) {
    let folder = tempfile::tempdir().unwrap();
    let (store, scope) = (Store::open(folder.path().join("kms")).unwrap(), scope("project"));
    let new = NewKey::new("orders").unwrap().alias(alias("kms-1234"));
    store.write(&Request::new(&scope), |txn| txn.create_key(&new)).unwrap();
    for number in 0..60 {
        let name: KeyAlias = format!("orders-{number}").parse().unwrap();
        store.write(&Request::new(&scope), |txn| txn.rename_key_alias(new.key_id, &name)).unwrap();
    }
    (folder, new.key_id, scope)
}

#[test]
fn it_is_the_same_store_in_a_smaller_file() {
    let (folder, key_id, scope) = worn();
    let path = folder.path().join("kms");
    let seen = |store: &Store| {
        let history = |snap: &keystead::Snapshot<'_>| {
            let of = HistoryOf::Key(key_id);
            snap.history(of, Order::NewestFirst, keystead::After::Start, Limit::MAX)
        };
        let read = store.read(&scope, |snap| Ok((snap.resolve(&alias("kms-1234"))?, history(snap)?)));
        (store.position().unwrap(), read.unwrap())
    };
    let before = seen(&Store::open(&path).unwrap());
    let compacted = compact(&path).unwrap();
    assert!(compacted.bytes < compacted.bytes_before, "{compacted:?}");
    assert_eq!(compacted.bytes, path.metadata().unwrap().len());
    assert_eq!(names_in(folder.path()), ["kms"], "no log is left, and nothing that was on its way");
    let store = Store::open(&path).unwrap();
    assert_eq!(seen(&store), before);
    assert!(store.verify().unwrap().is_clean());
    let next = store.write(&Request::new(&scope), |txn| txn.disable(key_id)).unwrap();
    assert_eq!(next.commit.number(), before.0.commit().number() + 1, "it goes on where it was");
}

#[test]
fn what_only_a_log_has_after_a_crash_is_kept() {
    let (folder, key_id, scope) = worn();
    let crashed = tempfile::tempdir().unwrap();
    let path = crashed.path().join("kms");
    let store = Store::open(folder.path().join("kms")).unwrap();
    // The first commit of a process goes to the file.
    store.write(&Request::new(&scope), |txn| txn.disable(key_id)).unwrap();
    let enabled = store.write(&Request::new(&scope), |txn| txn.enable(key_id)).unwrap();
    fs::copy(folder.path().join("kms"), &path).unwrap();
    assert!(matches!(compact(&path), Err(Error::LogMismatch(_))), "it needs the log");
    fs::copy(folder.path().join("kms.redo"), crashed.path().join("kms.redo")).unwrap();
    drop(store);
    compact(&path).unwrap();
    assert_eq!(names_in(crashed.path()), ["kms"]);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.position().unwrap().commit(), enabled.commit);
}

#[test]
fn nobody_else_may_have_it_open() {
    let (folder, key_id, scope) = worn();
    let path = folder.path().join("kms");
    let store = Store::open(&path).unwrap();
    // The first commit goes to the file, the second to the log.
    for _ in 0..2 {
        let Err(Error::AlreadyOpen(locked)) = compact(&path) else { panic!("it is open") };
        assert_eq!(*locked.path, *path.display().to_string());
        store.write(&Request::new(&scope), |txn| txn.disable(key_id).and(txn.enable(key_id))).unwrap();
    }
    drop(store);
    // A reader would go on to read the old file for ever.
    let reader = Options::new().open_read_only(&path).unwrap();
    assert!(matches!(compact(&path), Err(Error::AlreadyOpen(_))));
    drop(reader);
    compact(&path).unwrap();
}

#[test]
fn a_store_that_is_damaged_or_missing_stays_so() {
    let (folder, ..) = worn();
    let path = folder.path().join("kms");
    assert!(matches!(compact(folder.path().join("other")), Err(Error::Io(_))));
    let mut bytes = fs::read(&path).unwrap();
    let text = b"orders-59";
    let places: Vec<_> = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
    places.iter().for_each(|at| bytes[*at] = b'?');
    assert!(!places.is_empty());
    fs::write(&path, &bytes).unwrap();
    let refused = compact(&path);
    assert!(matches!(refused, Err(Error::Corrupted(_) | Error::Unsound(_))), "{refused:?}");
    assert_eq!(names_in(folder.path()), ["kms", "kms.redo"]);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[cfg(unix)]
#[test]
fn permissions_and_a_link_stay_what_they_were() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let (folder, ..) = worn();
    let (path, link) = (folder.path().join("kms"), folder.path().join("link"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("kms", &link).unwrap();
    compact(&link).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(names_in(folder.path()), ["kms", "link"]);
}
