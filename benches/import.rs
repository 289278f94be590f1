//! What an import costs: `cargo bench -p keystead-benches --bench import`.
//!
//! Keys with one alias each, made before, go into an empty store in a file: in one batch, in batches of the
//! default size, and, for comparison, in ordinary transactions, as many keys in each as fit. Each way with
//! history and without. Every store is verified. With `-- --test` each runs once, on few keys.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keystead::{Alias, Import, NewKey, Options, Quotas, Request, Result, Scope, Store, Timestamp};
use tempfile::TempDir;

/// Each key reads five rows of its own, or seven with history, and a transaction may read 200.
const CREATED_AT_ONCE: usize = 25;
const FORMED: &str = "every name and number here is valid";

fn some_keys(size: usize) -> Vec<NewKey> {
    let some_key = |index| {
        let alias = Alias::new(&format!("alias-{index:08}")).expect(FORMED);
        NewKey::new(&format!("key-{index:08}")).expect(FORMED).alias(alias)
    };
    (0..size).map(some_key).collect()
}

fn request() -> Request {
    let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f");
    Request::new(&scope.expect(FORMED)).at(Timestamp::from_millis(1_700_000_000_000))
}

fn empty(history: bool) -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    let options = Options::new().quotas(quotas).history(history);
    let store = options.open(folder.path().join("kms.redb")).expect("a store can be made");
    (folder, store)
}

fn created<I: Iterator<Item = NewKey>>(import: Import<I>) -> Result<u64> {
    import.map(|batch| Ok(batch?.created)).sum()
}

fn one_by_one(store: &Store, keys: &[NewKey]) -> Result<u64> {
    let request = request();
    for some in keys.chunks(CREATED_AT_ONCE) {
        store.write(&request, |txn| some.iter().try_for_each(|new| txn.create_key(new).map(drop)))?;
    }
    Ok(keys.len() as u64)
}

fn measure(
    criterion: &mut Criterion,
    keys: &[NewKey],
    name: &str,
    load: impl Fn(&Store, Vec<NewKey>) -> Result<u64>,
) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).throughput(Throughput::Elements(keys.len() as u64));
    for history in [false, true] {
        let label = if history { "with history" } else { "without history" };
        group.bench_function(BenchmarkId::new(label, keys.len()), |bencher| {
            bencher.iter_batched(
                || (empty(history), keys.to_vec()),
                |((folder, store), keys)| {
                    let size = keys.len() as u64;
                    let created = load(&store, keys).expect("the keys can be created");
                    assert_eq!(black_box(created), size);
                    (folder, store)
                },
                BatchSize::PerIteration,
            );
        });
        let (_folder, store) = empty(history);
        load(&store, keys.to_vec()).expect("the keys can be created");
        let report = store.verify().expect("the store can be read");
        assert!(report.is_clean() && report.keys == keys.len() as u64, "{report:?}");
    }
}

fn imports(criterion: &mut Criterion) {
    let smoke = std::env::args().any(|argument| argument == "--test");
    let keys = some_keys(if smoke { 400 } else { 200_000 });
    measure(criterion, &keys, "import in one batch", |store, keys| {
        created(store.import(&request(), keys).batch_bytes(usize::MAX))
    });
    measure(criterion, &keys, "import in batches of the default size", |store, keys| {
        created(store.import(&request(), keys))
    });
    let few = &keys[..keys.len() / 20];
    measure(criterion, few, "create in transactions of 25 keys", |store, keys| one_by_one(store, &keys));
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(1));
    targets = imports
}
criterion_main!(benches);
