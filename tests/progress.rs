//! How far a long call is: it is told while the call runs, on its thread alone, and never goes back in a step.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

use std::io;
use std::sync::{Arc, Mutex};

use keystead::{
    NewKey, Options, Progress, Quotas, Request, Restore, Step, Storage, Store, Timestamp, compact, repair,
};

mod common;
use common::scope;

/// A storage in memory that looks at a progress each time it is read.
#[derive(Clone, Default)]
struct Watching {
    bytes: Arc<Mutex<Vec<u8>>>,
    progress: Progress,
    seen: Arc<Mutex<Vec<Step>>>,
}

impl Storage for Watching {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.seen.lock().unwrap().push(self.progress.step());
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.bytes.lock().unwrap()[offset..offset + out.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.bytes.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().resize(usize::try_from(length).unwrap(), 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn fill(store: &Store, keys: u64) {
    let keys = (0..keys).map(|number| NewKey::new(&format!("key-{number}")).unwrap());
    let request = Request::new(&scope("project")).at(Timestamp::from_millis(1_700_000_000_000));
    store.import(&request, keys).for_each(|batch| assert!(batch.unwrap().refused.is_empty()));
}

fn options() -> Options {
    Options::new().quotas(Quotas { keys_per_project: 10_000, ..Quotas::default() }).cache_bytes(0)
}

#[test]
fn it_is_told_while_the_call_runs() {
    for history in [true, false] {
        told_while_it_runs(&options().history(history));
    }
}

fn told_while_it_runs(options: &Options) {
    let storage = Watching::default();
    let store = options.open_on(Box::new(storage.clone()), None).unwrap();
    fill(&store, 2000);
    let folder = tempfile::tempdir().unwrap();
    for doing in ["verifying", "copying"] {
        storage.seen.lock().unwrap().clear();
        match doing {
            "verifying" => assert!(storage.progress.of(|| store.verify()).unwrap().is_clean()),
            _ => drop(storage.progress.of(|| store.backup(folder.path().join("copy"))).unwrap()),
        }
        let seen = storage.seen.lock().unwrap();
        let steps: Vec<_> = seen.iter().filter(|step| step.doing == doing).collect();
        let total = steps[0].total.expect("a table knows its length");
        assert!(total > 2 * 2000, "{total}");
        assert!(steps.iter().all(|step| step.total == Some(total) && step.done <= total));
        assert!(steps.is_sorted_by_key(|step| step.done));
        let half = total / 2;
        assert!(steps.iter().any(|step| (1..half).contains(&step.done)), "{doing}: it begins");
        assert!(steps.iter().any(|step| (half..total).contains(&step.done)), "{doing}: it goes on");
    }
    let last = storage.progress.step();
    assert_eq!(
        (last.doing, Some(last.done)),
        ("verifying", last.total),
        "a backup ends with the check of the copy"
    );
}

#[test]
fn every_long_call_tells() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let store = options().open(path("store")).unwrap();
    fill(&store, 100);
    let told = |call: &dyn Fn()| {
        let progress = Progress::new();
        assert_eq!(progress.step(), Step::default());
        progress.of(call);
        let step = progress.step();
        assert!(step.done > 0 && step.total.is_none_or(|total| total >= step.done), "{step:?}");
        step.doing
    };
    let since = store.backup(path("copy")).unwrap().position;
    let request = Request::new(&scope("project"));
    store.write(&request, |txn| txn.create_key(&NewKey::new("orders")?)).unwrap();
    let backup_changes = || assert_eq!(store.backup_changes(&since, path("changes")).unwrap().entries, 1);
    assert_eq!(told(&backup_changes), "checking");
    let verify_backup = |name: &str| assert!(Store::verify_backup(path(name)).unwrap().bytes > 0);
    assert_eq!(told(&|| verify_backup("changes")), "checking");
    assert_eq!(told(&|| verify_backup("copy")), "verifying");
    let restore = Restore::of(path("copy")).changes(path("changes"));
    assert_eq!(told(&|| assert!(restore.into_file(path("restored")).unwrap().rows > 0)), "verifying");
    let to = store.position().unwrap().commit();
    assert_eq!(told(&|| assert_eq!(store.trim_history(to).unwrap(), to)), "trimming");
    let target = options().in_memory().unwrap();
    assert_eq!(told(&|| assert!(store.copy_to(&target).unwrap().rows > 0)), "verifying");
    drop(store);
    assert_eq!(
        told(&|| assert!(repair(path("store"), path("repaired")).unwrap().lost.is_empty())),
        "verifying"
    );
    assert_eq!(told(&|| assert!(compact(path("store")).unwrap().rows > 0)), "verifying");
}

#[test]
fn only_the_call_itself_is_told() {
    let store = Store::in_memory().unwrap();
    fill(&store, 3);
    let (outer, inner) = (Progress::new(), Progress::new());
    store.verify().unwrap();
    outer.of(|| {
        std::thread::scope(|threads| drop(threads.spawn(|| store.verify().unwrap()).join().unwrap()));
        assert!(inner.of(|| store.verify()).unwrap().is_clean());
    });
    store.verify().unwrap();
    assert_eq!(outer.step(), Step::default());
    assert!(inner.step().done > 0);
    // Also behind a call that panicked.
    let panicked = std::panic::catch_unwind(|| outer.of(|| panic!("as it was told to")));
    assert!(panicked.is_err());
    store.verify().unwrap();
    assert_eq!(outer.step(), Step::default());
}
