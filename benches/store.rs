//! What the operations cost: `cargo bench -p keystead-benches --bench store`.
//!
//! Each group is one operation, measured on stores in a file: one of 1,000 keys and one of 100,000,
//! each key with one alias. Every answer is checked while it is measured. With `-- --test` each
//! benchmark runs once, on a small store: that shows only that they work.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keystead::{
    After, Alias, KeyAlias, KeyFilter, KeyId, Limit, NewKey, Options, PendingDays, Quotas, Request, Result,
    Scope, Store, Timestamp,
};
use tempfile::TempDir;

/// Creates in one transaction: each reads six rows of its own, and a transaction may read 200.
const CREATED_AT_ONCE: usize = 25;
const PAGE: usize = 100;
const HOT: usize = 1000;
const FORMED: &str = "every name and number here is valid";

/// A store of so many keys, each with one alias, in a file that goes with it.
struct Loaded {
    folder: TempDir,
    label: String,
    store: Store,
    scope: Scope,
    request: Request,
    keys: Vec<KeyId>,
    aliases: Vec<Alias>,
    random: RefCell<u64>,
}

impl Loaded {
    fn new(size: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
        let store = Options::new().quotas(quotas).open(folder.path().join("kms.redb"))?;
        let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f")?;
        let request = Request::new(&scope).at(Timestamp::from_millis(1_700_000_000_000));
        let aliases = (0..size).map(|index| Alias::new(&format!("alias-{index:08}")));
        let aliases = aliases.collect::<std::result::Result<Vec<_>, _>>()?;
        let new = aliases.iter().enumerate().map(|(index, alias)| {
            let new = NewKey::new(&key_alias(index))?.alias(alias.clone());
            Ok(new)
        });
        let new = new.collect::<Result<Vec<_>>>()?;
        for some in new.chunks(CREATED_AT_ONCE) {
            store.write(&request, |txn| some.iter().try_for_each(|new| txn.create_key(new).map(drop)))?;
        }
        let keys = new.iter().map(|new| new.key_id).collect();
        let label = if size.is_multiple_of(1000) { format!("{}k", size / 1000) } else { size.to_string() };
        let random = RefCell::new(0x9e37_79b9_7f4a_7c15);
        Ok(Self { folder, label, store, scope, request, keys, aliases, random })
    }

    /// The next number below `end` of a fixed sequence (xorshift).
    fn below(&self, end: usize) -> usize {
        let mut state = self.random.borrow_mut();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state % end as u64).expect("it is less than a usize")
    }

    fn size(&self) -> usize {
        self.keys.len()
    }
}

fn key_alias(index: usize) -> String {
    format!("key-{index:08}")
}

fn resolve(criterion: &mut Criterion, loaded: &Loaded) {
    let mut group = criterion.benchmark_group("resolve: alias to key record");
    group.bench_function(BenchmarkId::from_parameter(&loaded.label), |bencher| {
        bencher.iter(|| {
            let index = loaded.below(loaded.size());
            let key = loaded.store.read(&loaded.scope, |snap| snap.resolve(&loaded.aliases[index]));
            let key = black_box(key).expect("the alias is there");
            assert_eq!(key.key_id, loaded.keys[index]);
        });
    });
}

/// A thousand names that are asked for again and again, by 1 thread and by 2 at the same time: what is shown
/// for 2 is the time in which each of them resolves one.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn resolve_hot(criterion: &mut Criterion, loaded: &Loaded) {
    let Loaded { store, scope, aliases, keys, .. } = loaded;
    let (hot, apart) = (HOT.min(keys.len()), keys.len() / HOT.min(keys.len()));
    let resolve = |place: usize| {
        let index = place % hot * apart;
        let key = store.read(scope, |snap| snap.resolve(&aliases[index]));
        assert_eq!(black_box(key).expect("the alias is there").key_id, keys[index]);
    };
    let mut group = criterion.benchmark_group("resolve_hot: alias to key record, of 1,000 names");
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new(format!("{threads} threads"), &loaded.label), |bencher| {
            bencher.iter_custom(|times| {
                let start = Barrier::new(threads);
                let run = |thread: usize| {
                    (0..hot).for_each(resolve);
                    start.wait();
                    let began = Instant::now();
                    // A step without a common factor with their number, so that each comes in turn.
                    (0..times).fold(499 * thread, |place, _| {
                        resolve(place);
                        place + 389
                    });
                    began.elapsed()
                };
                thread::scope(|threads_in| {
                    let running: Vec<_> =
                        (0..threads).map(|thread| threads_in.spawn(move || run(thread))).collect();
                    let took = running.into_iter().map(|thread| thread.join().expect("it does not panic"));
                    took.max().expect("there is a thread")
                })
            });
        });
    }
}

fn describe(criterion: &mut Criterion, loaded: &Loaded) {
    let mut group = criterion.benchmark_group("describe: key id to key record");
    group.bench_function(BenchmarkId::from_parameter(&loaded.label), |bencher| {
        bencher.iter(|| {
            let key_id = loaded.keys[loaded.below(loaded.size())];
            let key = loaded.store.read(&loaded.scope, |snap| snap.key(key_id));
            assert_eq!(black_box(key).expect("the key is there").key_id, key_id);
        });
    });
}

fn pages(criterion: &mut Criterion, loaded: &Loaded) {
    let limit = Limit::new(PAGE).expect(FORMED);
    let mut group = criterion.benchmark_group("page of 100 aliases");
    group.bench_function(BenchmarkId::from_parameter(&loaded.label), |bencher| {
        bencher.iter(|| {
            let start = loaded.below(loaded.size() - 2 * PAGE);
            let after = After::Item(&loaded.aliases[start]);
            let page = loaded.store.read(&loaded.scope, |snap| snap.aliases(after, limit));
            let page = black_box(page).expect("the page can be read");
            assert_eq!((page.items.len(), page.next.is_some()), (PAGE, true));
            assert_eq!(page.items[0].alias, loaded.aliases[start + 1]);
        });
    });
    drop(group);

    let mut group = criterion.benchmark_group("page of 100 keys by key alias");
    let names = (0..loaded.size()).map(|index| KeyAlias::new(&key_alias(index)).expect(FORMED));
    let (names, all) = (names.collect::<Vec<_>>(), KeyFilter::all());
    group.bench_function(BenchmarkId::from_parameter(&loaded.label), |bencher| {
        bencher.iter(|| {
            let start = loaded.below(loaded.size() - 2 * PAGE);
            let after = After::Item(&names[start]);
            let page = loaded.store.read(&loaded.scope, |snap| snap.keys_by_key_alias(&all, after, limit));
            let page = black_box(page).expect("the page can be read");
            assert_eq!((page.items.len(), page.next.is_some()), (PAGE, true));
            assert_eq!(page.items[0].key_alias, names[start + 1]);
        });
    });
}

/// Moves a random alias to another key, and back the next time. So no key ever has more than two.
fn associate(criterion: &mut Criterion, loaded: &Loaded) {
    let mut group = criterion.benchmark_group("associate: one durable commit");
    let at = RefCell::new(loaded.keys.clone());
    group.sample_size(50).bench_function(BenchmarkId::from_parameter(&loaded.label), |bencher| {
        bencher.iter(|| {
            let mut at = at.borrow_mut();
            let index = loaded.below(loaded.size());
            let home = loaded.keys[index];
            let away = loaded.keys[(index + loaded.size() / 2) % loaded.size()];
            let target = if at[index] == home { away } else { home };
            let moved = loaded
                .store
                .write(&loaded.request, |txn| txn.associate_alias(&loaded.aliases[index], target));
            let moved = black_box(moved).expect("the alias can be moved");
            assert_eq!((moved.value.former_key_id, moved.changed), (at[index], true));
            at[index] = target;
        });
    });
}

/// Renames a random key, and back the next time.
fn rename(criterion: &mut Criterion, loaded: &Loaded) {
    let mut group = criterion.benchmark_group("rename: one durable commit");
    let of = |prefix: &str, index| KeyAlias::new(&format!("{prefix}-{index:08}")).expect(FORMED);
    let present: Vec<_> = (0..loaded.size()).map(|index| of("key", index)).collect();
    let present = RefCell::new(present);
    group.sample_size(50).bench_function(BenchmarkId::from_parameter(&loaded.label), |bencher| {
        bencher.iter(|| {
            let mut present = present.borrow_mut();
            let index = loaded.below(loaded.size());
            let other = if present[index].as_str().starts_with("key") { "renamed" } else { "key" };
            let new = of(other, index);
            let renamed =
                loaded.store.write(&loaded.request, |txn| txn.rename_key_alias(loaded.keys[index], &new));
            let renamed = black_box(renamed).expect("the key can be renamed");
            assert_eq!((&renamed.value.former_key_alias, renamed.changed), (&present[index], true));
            present[index] = new;
        });
    });
}

/// Creates a key with one alias. It is purged before the next one, outside of the measured time, so
/// that the store stays as large as it is.
fn create(criterion: &mut Criterion, loaded: &Loaded) {
    let mut group = criterion.benchmark_group("create a key with one alias: one durable commit");
    let alias = Alias::new("created").expect(FORMED);
    let days = PendingDays::new(7).expect(FORMED);
    let later = loaded.request.clone().at(loaded.request.time().plus_days(7));
    let created = RefCell::new(None);
    let purge_last = || {
        if let Some(key_id) = created.take() {
            let scheduled = loaded.store.write(&loaded.request, |txn| txn.schedule_deletion(key_id, days));
            scheduled.expect("the key can be deleted");
            assert!(
                loaded.store.write(&later, |txn| txn.purge(key_id)).expect("the key can be purged").value
            );
        }
    };
    group.sample_size(50).bench_function(BenchmarkId::from_parameter(&loaded.label), |bencher| {
        bencher.iter_batched(
            || {
                purge_last();
                NewKey::new("created").expect(FORMED).alias(alias.clone())
            },
            |new| {
                let key = loaded.store.write(&loaded.request, |txn| txn.create_key(&new));
                let key = black_box(key).expect("the key can be created").value;
                assert_eq!((key.key_id, key.key_alias.as_str()), (new.key_id, "created"));
                created.replace(Some(new.key_id));
            },
            BatchSize::PerIteration,
        );
    });
    purge_last();
}

/// Every page of the table, read from the file past redb's cache and compared with its checksum.
fn check_pages(criterion: &mut Criterion, loaded: &Loaded) {
    let mut group = criterion.benchmark_group("check pages");
    let bytes = loaded.store.check_pages(u64::MAX).expect("the file can be read").bytes;
    group.throughput(Throughput::Bytes(bytes)).sample_size(20);
    group.bench_function(BenchmarkId::new("as fast as possible", &loaded.label), |bencher| {
        bencher
            .iter(|| assert!(loaded.store.check_pages(u64::MAX).expect("the file can be read").is_clean()));
    });
}

/// Of a file that was closed, and with all of its pages in memory. Consumes the store, to close it.
fn open(criterion: &mut Criterion, loaded: Loaded) {
    let Loaded { folder, store, label, .. } = loaded;
    drop(store);
    let path = folder.path().join("kms.redb");
    let mebibytes = path.metadata().expect("the file is there").len() >> 20;
    let mut group = criterion.benchmark_group("open to read");
    for (name, check) in [("as it is", false), ("checked", true)] {
        let options = Options::new().check_integrity(check);
        group.sample_size(20).bench_function(
            BenchmarkId::new(name, format!("{label}, {mebibytes} MiB")),
            |bencher| {
                bencher.iter_with_large_drop(|| options.open_read_only(&path).expect("the file is sound"));
            },
        );
    }
}

fn store(criterion: &mut Criterion) {
    let smoke = std::env::args().any(|argument| argument == "--test");
    let sizes: &[usize] = if smoke { &[400] } else { &[1_000, 100_000] };
    for size in sizes {
        let loaded = Loaded::new(*size).expect("the store can be loaded");
        for operation in [resolve, resolve_hot, describe, pages, associate, rename, create, check_pages] {
            operation(criterion, &loaded);
        }
        let report = loaded.store.verify().expect("the store can be read");
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.keys, *size as u64);
        open(criterion, loaded);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = store
}
criterion_main!(benches);
