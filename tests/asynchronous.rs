//! The store for callers on a tokio runtime: nothing blocks it, limits hold, and no call is lost or done twice.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use keystead::{
    AsyncLimits, AsyncQueue, AsyncStore, Error, KeyFilter, Limit, NewKey, Options, Request, RequestId,
    Result, Scope, Snapshot, Store, Transaction, Waited,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// So long nothing here takes, if it ends at all.
const EVER: Duration = Duration::from_secs(30);

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn request() -> Request {
    Request::new(&scope())
}

/// A store whose transactions may be held up for as long as a test takes.
fn options() -> Options {
    Options::new().transaction_time(EVER)
}

fn store(limits: AsyncLimits) -> AsyncStore {
    AsyncStore::with_limits(options().in_memory().unwrap(), limits).unwrap()
}

fn one_at_a_time(waiting: u32) -> AsyncLimits {
    AsyncLimits { reads: 1, writes: 1, others: 1, waiting }
}

/// A call that has begun and goes on until it is let go.
struct Held {
    task: JoinHandle<Result<()>>,
    go: mpsc::Sender<()>,
}

impl Held {
    async fn end(self) {
        self.go.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// What holds a call up: it says that it has begun, and waits.
fn holdup() -> (impl Fn() + Send + 'static, oneshot::Receiver<()>, mpsc::Sender<()>) {
    let (begun, has_begun) = oneshot::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let begun = Mutex::new(Some(begun));
    let hold = move || {
        if let Some(begun) = begun.lock().unwrap().take() {
            begun.send(()).unwrap();
        }
        // The sender is dropped where the test has failed.
        let _ = may_go.recv();
    };
    (hold, has_begun, go)
}

/// A write that makes a key, and is held up before it commits.
async fn held_write(store: &AsyncStore, name: &str) -> Held {
    let (hold, has_begun, go) = holdup();
    let (store, new) = (store.clone(), NewKey::new(name).unwrap());
    let task = tokio::spawn(async move {
        let write = move |txn: &mut Transaction<'_>| {
            txn.create_key(&new)?;
            hold();
            Ok(())
        };
        store.write(&request(), write).await.map(drop)
    });
    has_begun.await.unwrap();
    Held { task, go }
}

async fn held_read(store: &AsyncStore) -> Held {
    let (hold, has_begun, go) = holdup();
    let store = store.clone();
    let task = tokio::spawn(async move {
        store
            .read(&scope(), move |_| {
                hold();
                Ok(())
            })
            .await
    });
    has_begun.await.unwrap();
    Held { task, go }
}

/// A call that is asked for, and has come as far as it comes by itself.
async fn asked<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let task = tokio::spawn(call);
    // The runtime has one thread, and runs tasks in the order in which they were spawned.
    tokio::task::yield_now().await;
    task
}

/// What a call answers that has nothing to wait for.
async fn at_once<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(EVER, call).await.expect("the call waits")
}

fn create(store: &AsyncStore, name: &str) -> impl Future<Output = Result<()>> + Send + 'static {
    let (store, new) = (store.clone(), NewKey::new(name).unwrap());
    async move { store.write(&request(), move |txn| txn.create_key(&new).map(drop)).await.map(drop) }
}

async fn has_key(store: &AsyncStore, name: &str) -> bool {
    let name = name.parse().unwrap();
    let found = store.read(&scope(), move |snap| snap.find_by_key_alias(&name)).await;
    match found {
        Ok(_) => true,
        Err(Error::KeyNotFound { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_runtime_goes_on_while_a_write_waits() {
    let store = store(AsyncLimits::default());
    let held = held_write(&store, "held").await;
    // On one thread, which would stand still if a call blocked it: a write that waits for the first, and a read.
    let second = asked(create(&store, "second")).await;
    assert!(!has_key(&store, "held").await);
    let count = store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).await.unwrap();
    assert_eq!(count, 0);
    assert!(!second.is_finished());
    held.end().await;
    second.await.unwrap().unwrap();
    assert!(has_key(&store, "held").await && has_key(&store, "second").await);
}

#[tokio::test]
async fn no_more_run_than_the_limit_says() {
    let store = store(AsyncLimits { reads: 3, ..AsyncLimits::default() });
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let first = [held_read(&store).await, held_read(&store).await];
    let reads: Vec<_> = (0..20)
        .map(|_| {
            let (store, running, most) = (store.clone(), running.clone(), most.clone());
            tokio::spawn(async move {
                let read = move |_: &Snapshot<'_>| {
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    thread::yield_now();
                    running.fetch_sub(1, SeqCst);
                    Ok(())
                };
                store.read(&scope(), read).await
            })
        })
        .collect();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    assert_eq!(most.load(SeqCst), 1, "two of three places are taken");
    for held in first {
        held.end().await;
    }
}

#[tokio::test]
async fn as_many_run_as_the_limit_says() {
    let store = store(AsyncLimits { reads: 3, writes: 1, others: 2, waiting: 0 });
    let reads = [held_read(&store).await, held_read(&store).await, held_read(&store).await];
    let refused = at_once(store.read(&scope(), |_| Ok(()))).await;
    assert!(matches!(refused, Err(Error::Busy { what: "reads", waiting: 0 })), "{refused:?}");
    for held in reads {
        held.end().await;
    }
    store.read(&scope(), |_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn who_waits_is_served_in_order() {
    let store = store(one_at_a_time(100));
    let held = held_write(&store, "held").await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..50 {
        let (store, order) = (store.clone(), order.clone());
        let write = async move {
            let write = move |_: &mut Transaction<'_>| {
                order.lock().unwrap().push(number);
                Ok(())
            };
            store.write(&request(), write).await.map(drop)
        };
        tasks.push(asked(write).await);
    }
    held.end().await;
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_too_many_is_refused_at_once_and_only_of_its_kind() {
    let store = store(one_at_a_time(2));
    let held = held_write(&store, "held").await;
    let waiting = [asked(create(&store, "first")).await, asked(create(&store, "second")).await];
    let refused = at_once(create(&store, "third")).await.unwrap_err();
    assert!(matches!(refused, Error::Busy { what: "writes", waiting: 2 }), "{refused:?}");
    assert!(refused.is_retryable() && refused.api().is_none());
    assert_eq!(refused.to_string(), "2 writes wait already; nothing was done, try again later");
    let refused = at_once(store.dry_run(&request(), |_| Ok(()))).await.unwrap_err();
    assert!(matches!(refused, Error::Busy { what: "writes", .. }), "{refused:?}");
    // The others have places of their own.
    assert!(!has_key(&store, "third").await);
    assert!(store.run(AsyncQueue::Others, |store| store.verify()).await.unwrap().is_clean());
    held.end().await;
    for task in waiting {
        task.await.unwrap().unwrap();
    }
    create(&store, "third").await.unwrap();
    assert!(has_key(&store, "first").await && has_key(&store, "third").await);
}

#[tokio::test]
async fn what_waits_and_is_dropped_is_not_done_and_frees_its_place() {
    let store = store(one_at_a_time(1));
    let held = held_write(&store, "held").await;
    for name in ["first", "second", "third"] {
        let dropped = asked(create(&store, name)).await;
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
    }
    let last = asked(create(&store, "last")).await;
    held.end().await;
    last.await.unwrap().unwrap();
    assert!(has_key(&store, "last").await && !has_key(&store, "first").await);
}

#[tokio::test]
async fn a_write_that_has_begun_commits_though_its_future_is_dropped() {
    let store = store(AsyncLimits::default());
    let held = held_write(&store, "held").await;
    held.task.abort();
    assert!(held.task.await.unwrap_err().is_cancelled());
    // A write that comes after has to wait for it.
    let second = asked(create(&store, "second")).await;
    held.go.send(()).unwrap();
    second.await.unwrap().unwrap();
    assert!(has_key(&store, "held").await);
}

/// A runtime with one thread for tasks and one for what blocks.
fn small_runtime() -> Runtime {
    Builder::new_current_thread().max_blocking_threads(1).enable_time().build().unwrap()
}

#[test]
fn a_call_that_has_its_turn_but_no_thread_yet_is_not_done_when_it_is_dropped() {
    small_runtime().block_on(async {
        let store = store(AsyncLimits::default());
        let held = held_write(&store, "held").await;
        let dropped = asked(create(&store, "dropped")).await;
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
        held.end().await;
        assert!(has_key(&store, "held").await && !has_key(&store, "dropped").await);
    });
}

#[tokio::test]
async fn a_panic_of_a_closure_is_a_panic_of_the_call_and_leaves_nothing() {
    let store = store(one_at_a_time(0));
    let (other, new) = (store.clone(), NewKey::new("lost").unwrap());
    let write = async move {
        let write = move |txn: &mut Transaction<'_>| -> Result<()> {
            txn.create_key(&new)?;
            panic!("by design")
        };
        other.write(&request(), write).await.map(drop)
    };
    let panicked = tokio::spawn(write).await.unwrap_err().into_panic();
    assert_eq!(panicked.downcast_ref::<&str>(), Some(&"by design"));
    // Its place is free, and the store goes on.
    at_once(create(&store, "kept")).await.unwrap();
    assert!(has_key(&store, "kept").await && !has_key(&store, "lost").await);
}

#[tokio::test]
async fn calls_do_what_those_of_the_store_do() {
    let store = AsyncStore::from(Store::in_memory().unwrap());
    let id: RequestId = "919c82d4-8046-4722-9094-35c3c6524cff".parse().unwrap();
    let new = NewKey::new("once").unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let new = new.clone();
        let create = move |txn: &mut Transaction<'_>| Ok(txn.create_key(&new)?.key_id);
        answers.push(store.write_once(&request(), &id, b"create", create).await.unwrap());
    }
    assert_eq!(answers[0].value, answers[1].value);
    assert!(!answers[0].replayed && answers[1].replayed);
    let other = store.write_once(&request(), &id, b"another", |_| Ok(())).await.unwrap_err();
    assert!(matches!(other, Error::RequestIdReused(_)), "{other:?}");
    let dry = store.dry_run(&request(), |txn| txn.create_key(&NewKey::new("dry")?)).await.unwrap();
    assert_eq!(dry.changes.len(), 1);
    assert!(!has_key(&store, "dry").await && has_key(&store, "once").await);
    let position = store.run(AsyncQueue::Others, |store| store.position()).await.unwrap();
    assert_eq!(position.commit(), answers[0].commit);
    assert_eq!(store.store().position().unwrap(), position);
}

#[test]
fn limits_are_checked() {
    for limits in [
        AsyncLimits { reads: 0, ..AsyncLimits::default() },
        AsyncLimits { writes: 0, ..AsyncLimits::default() },
        AsyncLimits { others: 0, ..AsyncLimits::default() },
        AsyncLimits { waiting: AsyncLimits::MAX + 1, ..AsyncLimits::default() },
    ] {
        let refused = AsyncStore::with_limits(Store::in_memory().unwrap(), limits).unwrap_err();
        assert!(matches!(refused, Error::OptionsMismatch { .. }), "{limits:?}: {refused}");
    }
}

#[test]
fn many_wait_and_take_no_thread_of_the_pool() {
    small_runtime().block_on(async {
        let store = store(one_at_a_time(100));
        let after = store.run(AsyncQueue::Others, |store| store.position()).await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..50 {
            let store = store.clone();
            waiting.push(asked(async move { store.wait(&after, EVER).await }).await);
        }
        // The one thread is free for a write, which wakes them.
        create(&store, "awaited").await.unwrap();
        for task in waiting {
            assert_eq!(task.await.unwrap().unwrap(), Waited::Committed);
        }
        // What is behind a position already is told at once, what is not when the time is over.
        assert_eq!(store.wait(&after, Duration::ZERO).await.unwrap(), Waited::Committed);
        let newest = store.run(AsyncQueue::Others, |store| store.position()).await.unwrap();
        assert_eq!(store.wait(&newest, Duration::ZERO).await.unwrap(), Waited::TimedOut);
        assert_eq!(store.wait(&newest, Duration::from_millis(1)).await.unwrap(), Waited::TimedOut);
        let elsewhere = Store::in_memory().unwrap().position().unwrap();
        let refused = store.wait(&elsewhere, EVER).await;
        assert!(matches!(refused, Err(Error::PositionOfAnotherStore)), "{refused:?}");
    });
}

#[tokio::test]
async fn a_consumer_of_the_feed_misses_nothing() {
    const COMMITS: usize = 100;
    let store = store(AsyncLimits::default());
    let mut position = store.run(AsyncQueue::Others, |store| store.position()).await.unwrap();
    let writer = store.clone();
    let writer = tokio::spawn(async move {
        for number in 0..COMMITS {
            create(&writer, &format!("key-{number}")).await.unwrap();
        }
    });
    let mut seen = 0;
    while seen < COMMITS {
        assert_eq!(store.wait(&position, EVER).await.unwrap(), Waited::Committed);
        let changes = store
            .run(AsyncQueue::Others, move |store| store.changes(Some(&position), Limit::MAX))
            .await
            .unwrap();
        seen += changes.commits.len();
        position = changes.position;
    }
    writer.await.unwrap();
    assert_eq!(seen, COMMITS);
}

async fn open(path: &Path) -> AsyncStore {
    let path = path.to_owned();
    AsyncStore::new(tokio::task::spawn_blocking(move || options().open(path).unwrap()).await.unwrap())
}

#[tokio::test]
async fn when_close_returns_the_last_handle_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    for round in 0..5 {
        let store = open(&path).await;
        let after = store.run(AsyncQueue::Others, |store| store.position()).await.unwrap();
        let other = store.clone();
        let waiting = asked(async move { other.wait(&after, EVER).await }).await;
        // Until the follower is there.
        assert_eq!(store.wait(&after, Duration::from_millis(1)).await.unwrap(), Waited::TimedOut);
        let name = format!("round-{round}");
        let held = held_write(&store, &name).await;
        held.task.abort();
        assert!(held.task.await.unwrap_err().is_cancelled());
        let closing = asked(store.close()).await;
        assert_eq!(waiting.await.unwrap().unwrap(), Waited::Closed);
        assert!(!closing.is_finished(), "a write is under way");
        held.go.send(()).unwrap();
        closing.await.unwrap();
        // It would be open elsewhere.
        let again = open(&path).await;
        assert!(has_key(&again, &name).await);
        again.close().await;
    }
}

#[tokio::test]
async fn a_store_that_was_only_dropped_is_closed_soon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = open(&path).await;
    let after = store.run(AsyncQueue::Others, |store| store.position()).await.unwrap();
    let other = store.clone();
    let waiting = asked(async move { other.wait(&after, EVER).await }).await;
    assert_eq!(store.wait(&after, Duration::from_millis(1)).await.unwrap(), Waited::TimedOut);
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    drop(store);
    let opened = async {
        loop {
            let path = path.clone();
            match tokio::task::spawn_blocking(move || Store::open(path)).await.unwrap() {
                Err(Error::AlreadyOpen(_)) => tokio::task::yield_now().await,
                opened => return opened,
            }
        }
    };
    tokio::time::timeout(EVER, opened).await.unwrap().unwrap();
}
