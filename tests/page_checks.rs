//! Checks of all pages while others write, read, grow and shrink the file: a sound store is never called damaged.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use keystead::{Commit, KeyId, NewKey, Options, Quotas, Request, Scope, Store, compact};

const COMMITS: u64 = 400;

fn request(number: u64) -> Request {
    Request::new(&Scope::new("domain", "project").unwrap()).actor(&format!("writer-{number}"))
}

fn options() -> Options {
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    Options::new().quotas(quotas).checkpoint_bytes(20_000)
}

/// Makes keys, of many sizes, and trims the history, so that pages are freed, used again, and the file grows.
fn write(store: &Store) {
    let mut keys: Vec<KeyId> = Vec::new();
    for number in 0..COMMITS {
        let text = "x".repeat(usize::try_from(number % 200).unwrap());
        store
            .write(&request(number), |txn| {
                for part in 0..8 {
                    txn.create_key(
                        &NewKey::new(&format!("key-{number}-{part}"))?.description(text.parse()?),
                    )?;
                }
                keys.iter()
                    .rev()
                    .take(4)
                    .try_for_each(|key| txn.disable(*key).and(txn.enable(*key)).map(drop))
            })
            .unwrap();
        let page = store.position().unwrap().commit();
        if number % 50 == 49 {
            store.trim_history(Commit::new(page.number() - 20)).unwrap();
        }
        keys.push(
            store
                .write(&request(number), |txn| txn.create_key(&NewKey::new(&format!("other-{number}"))?))
                .unwrap()
                .value
                .key_id,
        );
    }
}

/// Checks until it is told to stop; returns how often it came to its end.
fn check(store: &Store, done: &AtomicBool) -> u64 {
    let mut checks = 0;
    while !done.load(Ordering::Relaxed) || checks == 0 {
        let found = store.check_pages(u64::MAX).unwrap();
        assert!(found.is_clean(), "check {checks}: {:?}", found.damaged);
        checks += 1;
    }
    checks
}

/// Ends the checks, also where the writer panics: otherwise they would go on for ever.
struct EndOfWriting<'a>(&'a AtomicBool);

impl Drop for EndOfWriting<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn checks_beside_a_writer(path: &Path, options: &Options) {
    let store = options.open(path).unwrap();
    let done = AtomicBool::new(false);
    let checks = thread::scope(|threads| {
        let own = threads.spawn(|| check(&store, &done));
        let reader = options.open_read_only(path).unwrap();
        let of_reader = threads.spawn(|| check(&{ reader }, &done));
        let end = EndOfWriting(&done);
        write(&store);
        drop(end);
        own.join().unwrap() + of_reader.join().unwrap()
    });
    assert!(checks >= 10, "{checks} checks");
    assert_eq!(store.stats().pages.unwrap().damaged, 0);
    drop(store);
    assert!(keystead::check_pages(path).unwrap().is_clean());
    compact(path).unwrap();
    assert!(keystead::check_pages(path).unwrap().is_clean(), "a compacted file");
}

#[test]
fn a_sound_store_is_never_called_damaged_beside_its_writer() {
    let folder = tempfile::tempdir().unwrap();
    checks_beside_a_writer(&folder.path().join("store"), &options());
}

/// Checkpoints go on all the time, each in few pages.
#[test]
fn a_sound_store_is_never_called_damaged_while_its_table_changes_all_the_time() {
    let folder = tempfile::tempdir().unwrap();
    checks_beside_a_writer(&folder.path().join("store"), &options().checkpoint_bytes(1));
}
