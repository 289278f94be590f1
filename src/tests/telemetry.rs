//! What is told by `tracing` and `metrics` is what `docs/observability.md` says, and tells no secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder};
use metrics::{SharedString, Unit};
use redb::StorageBackend as _;
use redb::backends::FileBackend;
use regex::Regex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};

use super::disk::{Disk, Fails, LOG, TABLE};
use super::{request, scripted};
use crate::engine::disk::Storage;
use crate::engine::scripted::{Call, Outcome};
use crate::{
    Alias, AsyncLimits, AsyncQueue, AsyncStore, Commit, Error, KeyId, NewKey, Options, Request, RequestId,
    Restore, Scope, Store, Timestamp, compact, describe_metrics, repair,
};

/// What may be told in no event above the level trace.
const NAMES: [&str; 3] = ["hushed-key", "hushed-alias", "hushed description"];
/// What may be told in no event above the level debug.
const TENANTS: [&str; 2] = ["hushed-domain", "hushed-project"];

/// What something is called, with the rest of its line in the document.
type Told = BTreeSet<(String, String)>;

#[derive(Default)]
struct Seen {
    spans: Told,
    events: Told,
    /// Names with their labels.
    metrics: Told,
    described: BTreeSet<String>,
    /// What told something that it must not.
    leaks: BTreeSet<String>,
}

static SEEN: LazyLock<Mutex<Seen>> = LazyLock::new(Mutex::default);

fn seen() -> MutexGuard<'static, Seen> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Values(String);

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

struct Collector;

impl Collector {
    fn look(metadata: &tracing::Metadata<'_>, record: impl FnOnce(&mut Values)) {
        if metadata.target() != "keystead" {
            return;
        }
        let fields = metadata.fields().iter().map(|field| field.name()).filter(|name| *name != "message");
        let level = metadata.level().as_str().to_lowercase();
        let what =
            (metadata.name().to_owned(), format!("{level}: {}", fields.collect::<Vec<_>>().join(", ")));
        let mut values = Values(String::new());
        record(&mut values);
        let tells = |words: &[&str]| words.iter().any(|word| values.0.contains(word));
        let names_a_key = tells(&NAMES) || tells(&[&key_id().to_string()]);
        let mut seen = seen();
        let seen = &mut *seen;
        if (names_a_key && *metadata.level() < Level::TRACE)
            || (tells(&TENANTS) && *metadata.level() < Level::DEBUG)
        {
            seen.leaks.insert(format!("{what:?}{}", values.0));
        }
        let told = if metadata.is_span() { &mut seen.spans } else { &mut seen.events };
        told.insert(what);
    }
}

impl Subscriber for Collector {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        Self::look(span.metadata(), |values| span.record(values));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        Self::look(event.metadata(), |values| event.record(values));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn note(kind: &str, key: &Key) {
    let labels: Vec<_> = key.labels().map(|label| label.key()).collect();
    let mut seen = seen();
    let is_secret = |value: &str| NAMES.iter().chain(&TENANTS).any(|secret| value.contains(secret));
    if key.labels().any(|label| is_secret(label.value())) {
        seen.leaks.insert(format!("{key}"));
    }
    seen.metrics.insert((key.name().to_owned(), format!("{kind}: {}", labels.join(", "))));
}

impl Recorder for Collector {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, what: SharedString) {
        assert!(!what.is_empty());
        seen().described.insert(name.as_str().to_owned());
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, what: SharedString) {
        self.describe_counter(name, unit, what);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, what: SharedString) {
        self.describe_counter(name, unit, what);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        note("counter", key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        note("gauge", key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        note("histogram", key);
        Histogram::noop()
    }
}

fn scope() -> Scope {
    Scope::new(TENANTS[0], TENANTS[1]).unwrap()
}

fn of_tenant() -> Request {
    Request::new(&scope()).at(Timestamp::from_millis(1_000_000))
}

fn key_id() -> KeyId {
    KeyId::from_bytes([0xa7; 16])
}

fn new_key() -> NewKey {
    let new = NewKey::new(NAMES[0]).unwrap().id(key_id()).description(NAMES[2].parse().unwrap());
    new.alias(NAMES[1].parse().unwrap())
}

/// Everything that can be done to a store in one file.
fn use_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let options = Options::new().wal_bytes(Options::WAL_BYTES_MIN);
    let store = options.open(path("store")).unwrap();
    let whole = store.backup(path("whole")).unwrap();
    store.write(&of_tenant(), |txn| txn.create_key(&new_key())).unwrap();
    store.write(&of_tenant(), |txn| txn.create_key(&new_key())).unwrap_err();
    store.write(&of_tenant(), |txn| txn.update_description(key_id(), &NAMES[2].parse()?)).unwrap();
    store.dry_run(&of_tenant(), |txn| txn.disable(key_id())).unwrap();
    let id: RequestId = "919c82d4-8046-4722-9094-35c3c6524cff".parse().unwrap();
    for _ in 0..2 {
        store.write_once(&of_tenant(), &id, b"", |txn| Ok(txn.disable(key_id())?.key_id)).unwrap();
    }
    let alias: Alias = NAMES[1].parse().unwrap();
    store.read(&scope(), |snap| snap.resolve(&alias)).unwrap();
    store.read(&scope(), |snap| snap.resolve(&"nothing".parse()?)).unwrap_err();
    let other = Request::new(&Scope::new("domain", "other").unwrap());
    for batch in store.import(&other, [NewKey::new("imported").unwrap()]) {
        assert_eq!(batch.unwrap().created, 1);
    }
    assert!(store.verify().unwrap().is_clean());
    store.backup_changes(&whole.position, path("changes")).unwrap();
    Store::verify_backup(path("whole")).unwrap();
    Restore::of(path("whole")).changes(path("changes")).into_file(path("restored")).unwrap();
    store.record_stats();
    assert!(store.sweep(Timestamp::from_millis(2_000_000), 100, None).unwrap().done);
    store.copy_to(&Store::in_memory().unwrap()).unwrap();
    store.trim_history(Commit::new(2)).unwrap();
    assert!(store.remove_scope(&other, 100).unwrap().done);
    // As a crash leaves both files.
    fs::copy(path("store"), path("crashed")).unwrap();
    fs::copy(path("store.redo"), path("crashed.redo")).unwrap();
    drop(store);
    drop(options.open(path("crashed")).unwrap());
    compact(path("crashed")).unwrap();
    repair(path("crashed"), path("repaired")).unwrap();
}

/// So many bytes that a checkpoint begins, on its own thread.
fn use_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new().wal_bytes(Options::WAL_BYTES_MIN);
    let store = options.checkpoint_bytes(1).open(folder.path().join("store")).unwrap();
    // The first goes to the table.
    for number in 0..3 {
        store.write(&of_tenant(), |txn| txn.create_key(&NewKey::new(&format!("key-{number}"))?)).unwrap();
        while store.stats().log.unwrap().checkpointing {
            thread::yield_now();
        }
    }
    assert!(store.stats().log.unwrap().checkpoints > 0);
    let (disk, was_full) = (Disk::default(), Arc::default());
    let log = Box::new(Full(disk.storage(LOG), Arc::clone(&was_full)));
    let store = Options::new().open_on(disk.storage(TABLE), Some(log)).unwrap();
    // The same key again and again: there is a quota of keys.
    let key_id = store.write(&of_tenant(), |txn| txn.create_key(&new_key())).unwrap().value.key_id;
    while !was_full.load(Ordering::SeqCst) {
        store.write(&of_tenant(), |txn| txn.disable(key_id)).unwrap();
        store.write(&of_tenant(), |txn| txn.enable(key_id)).unwrap();
    }
}

/// A storage without room for a log that is longer than at first.
struct Full(Box<dyn Storage>, Arc<AtomicBool>);

impl Storage for Full {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if length > Options::WAL_BYTES_MIN {
            self.1.store(true, Ordering::SeqCst);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// What fails.
fn use_what_fails() {
    let (store, engine) = scripted();
    engine.queue(Call::Commit, &[Outcome::Conflict, Outcome::Conflict]);
    store.write(&request(), |txn| txn.create_key(&NewKey::new("met")?)).unwrap();
    engine.queue(Call::Commit, &[Outcome::Unknown { applied: false }]);
    let unknown = store.write(&of_tenant(), |txn| txn.create_key(&new_key())).unwrap_err();
    assert!(matches!(unknown, Error::CommitUnknown(_)));
    let poisoned = super::faults::poisoned();
    assert!(matches!(poisoned, Error::Poisoned));
    let disk = Disk::default();
    let options = Options::new().wal_bytes(Options::WAL_BYTES_MIN);
    let store = options.open_on(disk.storage(TABLE), Some(disk.storage(LOG))).unwrap();
    disk.fail(Some(Fails { from: 1, ever_after: true }));
    store.write(&of_tenant(), |txn| txn.create_key(&new_key())).unwrap_err();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged");
    let store = Store::open(&path).unwrap();
    store.write(&of_tenant(), |txn| txn.create_key(&new_key())).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.chunks_exact_mut(4096).skip(1).for_each(|page| page[100] ^= 1);
    fs::write(&path, bytes).unwrap();
    assert!(!store.check_pages(u64::MAX).unwrap().is_clean());
    store.record_stats();
}

/// A lock that another handle of the file holds for longer than a moment.
fn use_what_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locked");
    let store = Store::open(&path).unwrap();
    let other = FileBackend::new(fs::File::open(&path).unwrap()).unwrap();
    assert!(other.try_lock_shared_range(Bound::Included(0), Bound::Excluded(320)).unwrap());
    thread::scope(|threads| {
        threads.spawn(|| {
            while store.stats().locks.unwrap().waiting.is_none_or(|waits| waits < Duration::from_millis(1500))
            {
                thread::yield_now();
            }
            drop(other);
        });
        store.write(&of_tenant(), |txn| txn.create_key(&new_key())).unwrap();
    });
    store.record_stats();
}

fn use_the_async_store() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let limits = AsyncLimits { others: 1, waiting: 0, ..AsyncLimits::default() };
        let store = AsyncStore::with_limits(Store::in_memory().unwrap(), limits).unwrap();
        let (go, may_go) = std::sync::mpsc::channel::<()>();
        let held = store.run(AsyncQueue::Others, move |_| may_go.recv().map_err(Error::abort));
        let refused = async {
            let refused = store.run(AsyncQueue::Others, |_| Ok(())).await;
            go.send(()).unwrap();
            refused
        };
        let (held, refused) = tokio::join!(held, refused);
        held.unwrap();
        assert!(matches!(refused, Err(Error::Busy { .. })));
    });
}

/// The lines of the tables under a heading, down to the next: the name in the first column, the second and the third
/// without their marks.
fn documented(heading: &str) -> Told {
    let text = include_str!("../../docs/observability.md");
    let (_, section) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = section.split("\n#").next().unwrap();
    let line = Regex::new(r"(?m)^\| `([a-z_]+)` \| ([a-z]+) \| ([^|]*) \|").unwrap();
    let lines = line.captures_iter(section);
    lines
        .map(|found| (found[1].to_owned(), format!("{}: {}", &found[2], found[3].replace('`', ""))))
        .collect()
}

#[test]
fn what_is_told_is_what_is_documented_and_no_secret() {
    tracing::subscriber::set_global_default(Collector).unwrap();
    metrics::set_global_recorder(Collector).unwrap_or_else(|_| panic!("there is a recorder"));
    describe_metrics();
    use_a_store();
    use_a_log();
    use_what_fails();
    use_what_is_locked();
    use_the_async_store();

    let seen = seen();
    assert_eq!(seen.leaks, BTreeSet::new());
    for (what, seen, heading) in [
        ("spans", &seen.spans, "## Spans"),
        ("events", &seen.events, "## Events"),
        ("metrics", &seen.metrics, "## Metrics"),
    ] {
        let documented = documented(heading);
        let of_cluster = documented_of_cluster();
        let not_seen: Vec<_> = documented.difference(seen).collect();
        let not_documented: Vec<_> =
            seen.difference(&documented).filter(|told| !of_cluster.contains(told)).collect();
        assert!(documented.len() > 10, "{what}: {documented:?}");
        assert!(not_seen.is_empty(), "{what} that are documented, and were not told: {not_seen:#?}");
        assert!(
            not_documented.is_empty(),
            "{what} that were told, and are not documented: {not_documented:#?}"
        );
    }
    let all = documented("## Metrics").into_iter().chain(documented_of_cluster());
    let metrics = all.map(|(name, _)| name).filter(|name| name.starts_with("keystead_")).collect();
    assert_eq!(seen.described, metrics);
}

/// Hears what the write-ahead log tells, asks the store in the midst of it, and panics.
struct Unruly {
    store: Store,
    heard: Arc<Mutex<Vec<&'static str>>>,
}

impl Subscriber for Unruly {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let name = event.metadata().name();
        if ["log_synced", "stopped"].contains(&name) {
            self.store.stats().log.unwrap();
            self.heard.lock().unwrap().push(name);
            panic!("who hears {name} panics");
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Otherwise a store whose log can't be synced would go on, and acknowledge what is in no log.
#[test]
fn who_hears_of_it_can_keep_no_commit_from_its_end() {
    let disk = Disk::default();
    let options = Options::new().wal_bytes(Options::WAL_BYTES_MIN);
    let store = options.open_on(disk.storage(TABLE), Some(disk.storage(LOG))).unwrap();
    let heard = Arc::default();
    let create = |name: &str| store.write(&request(), |txn| txn.create_key(&NewKey::new(name)?));
    // It goes to the table, and no log is told of.
    create("before").unwrap();
    tracing::subscriber::with_default(Unruly { store: store.clone(), heard: Arc::clone(&heard) }, || {
        create("first").unwrap();
        create("second").unwrap();
        disk.fail(Some(Fails { from: 1, ever_after: true }));
        let unknown = create("third").unwrap_err();
        assert!(matches!(unknown, Error::CommitUnknown(_)), "{unknown:?}");
        disk.fail(None);
        for _ in 0..2 {
            let refused = create("fourth").unwrap_err();
            assert!(matches!(refused, Error::Poisoned), "{refused:?}");
        }
    });
    assert_eq!(*heard.lock().unwrap(), ["log_synced", "log_synced", "stopped"], "and that once");
}

fn documented_of_cluster() -> Told {
    documented("### On an etcd cluster")
}

/// What one write comes to: counted once, also where its closure ran several times.
#[test]
fn a_replayed_run_of_a_closure_is_not_counted_again() {
    let (store, _) = super::scripted_with(Options::new().run_closures_twice(true));
    let counts = Arc::new(LocalCounts::default());
    metrics::with_local_recorder(&*counts, || {
        store.write(&request(), |txn| txn.create_key(&NewKey::new("once")?.id(key_id()))).unwrap();
        store.write(&request(), |txn| txn.update_description(key_id(), &"".parse()?)).unwrap();
        store.write(&request(), |txn| txn.freeze(KeyId::from_bytes([9; 16]))).unwrap_err();
        store.dry_run(&request(), |txn| txn.disable(key_id())).unwrap();
    });
    let counts = counts.0.lock().unwrap();
    let expected = [
        ("keystead_calls_total dry_run done", 1),
        ("keystead_operations_total create_key done", 1),
        ("keystead_operations_total freeze refused", 1),
        ("keystead_operations_total update_description unchanged", 1),
        ("keystead_refusals_total KMS.0207", 1),
        ("keystead_writes_total done", 1),
        ("keystead_writes_total refused", 1),
        ("keystead_writes_total unchanged", 1),
    ];
    assert_eq!(*counts, expected.map(|(name, count)| (name.to_owned(), count)).into());
}

/// The counters of one thread.
#[derive(Default)]
struct LocalCounts(Arc<Mutex<BTreeMap<String, u64>>>);

struct LocalCount(Arc<Mutex<BTreeMap<String, u64>>>, String);

impl CounterFn for LocalCount {
    fn increment(&self, value: u64) {
        *self.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }

    fn absolute(&self, value: u64) {
        self.0.lock().unwrap().insert(self.1.clone(), value);
    }
}

impl Recorder for LocalCounts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let values: Vec<_> = key.labels().map(|label| label.value()).collect();
        let name = format!("{} {}", key.name(), values.join(" "));
        Counter::from_arc(Arc::new(LocalCount(self.0.clone(), name)))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
