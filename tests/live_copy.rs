//! A copy of a store's file that is made while the store is written is worth nothing: docs/operations.md says what
//! to do instead.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use keystead::{KeyFilter, NewKey, Options, Quotas, Request, Scope, Store};

/// The files, and how much of each is copied between two commits.
const PIECES: [(&str, usize); 2] = [("", 64 * 1024), (".redo", 1024 * 1024)];
const COPIES: u32 = 10;

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn options() -> Options {
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    // A log and checkpoints that are small, so that both files change while they are copied.
    Options::new().wal_bytes(Options::WAL_BYTES_MIN).checkpoint_bytes(5000).quotas(quotas)
}

fn create_keys(store: &Store, names: impl Iterator<Item = String>) {
    let keys: Vec<NewKey> = names.map(|name| NewKey::new(&name).unwrap()).collect();
    store
        .write(&Request::new(&scope()), |txn| keys.iter().try_for_each(|key| txn.create_key(key).map(drop)))
        .unwrap();
}

/// What a copy is worth that has to hold so many keys.
fn worth(path: &Path, keys: u64) -> &'static str {
    let store = match options().create(false).open(path) {
        Ok(store) => store,
        Err(error) => return error.code(),
    };
    match (store.verify(), store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all()))) {
        (Ok(report), Ok(found)) if report.is_clean() && found >= keys => "as it was",
        (Ok(report), Ok(_)) if report.is_clean() => "keys are missing, and verify is clean",
        _ => "damaged",
    }
}

#[test]
fn a_copy_of_a_file_that_is_written_is_worth_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kms.redb");
    let store = options().open(&path).unwrap();
    let mut keys = 0;
    for part in 0..50 {
        create_keys(&store, (0..20).map(|number| format!("first-{part}-{number}")));
        keys += 20;
    }
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for turn in 0..COPIES {
        let copy = folder.path().join(format!("copy-{turn}.redb"));
        // All that was acknowledged before the copy began must be in it.
        let before = keys;
        for (suffix, piece) in &PIECES {
            let [from, to] = [&path, &copy].map(|file| format!("{}{suffix}", file.display()));
            let (mut from, mut to) = (File::open(from).unwrap(), File::create(to).unwrap());
            let mut piece = vec![0; *piece];
            loop {
                let length = from.read(&mut piece).unwrap();
                if length == 0 {
                    break;
                }
                to.write_all(&piece[..length]).unwrap();
                create_keys(&store, std::iter::once(format!("second-{keys}")));
                keys += 1;
            }
        }
        *outcomes.entry(worth(&copy, before)).or_default() += 1;
    }
    println!("{outcomes:?}");
    let good = outcomes.get("as it was").copied().unwrap_or(0);
    assert!(good < COPIES, "{outcomes:?}");

    // What to do instead.
    store.backup(folder.path().join("backup")).unwrap();
    Store::verify_backup(folder.path().join("backup")).unwrap();
    drop(store);
    assert_eq!(worth(&path, keys), "as it was");
}
