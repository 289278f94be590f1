//! [`AsyncStore`]: the store for callers on a tokio runtime, whose threads it never blocks.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{self, JoinHandle};
use tokio::time::timeout;

use crate::change::Position;
use crate::engine::Waited;
use crate::error::{Error, Result};
use crate::id::{Commit, RequestId, Scope};
use crate::request::Request;
use crate::store::{Committed, DryRun, Store};
use crate::telemetry;
use crate::time::Stopwatch;
use crate::txn::{Snapshot, Transaction};

/// How long the thread that follows the store waits at a time, and how long it stays when nobody waits. So
/// long may it hold the store after the last [`AsyncStore`] was dropped.
const AT_A_TIME: Duration = Duration::from_millis(100);

/// A [`Store`] for async code, by the feature `tokio`. A handle: clones share the store and the limits.
///
/// Each call runs on a thread of tokio's blocking pool, so no thread of the runtime waits for a disk. How many
/// run at a time is [limited](AsyncLimits), for reads, writes and other calls apart, so that no read waits for
/// writes. Who comes beyond that waits in order, without a thread; and where too many wait already, the call
/// is refused at once with [`Busy`](Error::Busy): so what can't be served in time is told so, and does not pile up.
///
/// ```
/// use keystead::{Alias, AsyncQueue, AsyncStore, NewKey, Request, Result, Scope, Store};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = AsyncStore::new(Store::in_memory()?);
/// let scope = Scope::new("domain", "project")?;
/// let alias: Alias = "kms-1234".parse()?;
///
/// let new = NewKey::new("orders")?.alias(alias.clone());
/// let created = store.write(&Request::new(&scope), move |txn| txn.create_key(&new)).await?;
/// let resolved = store.read(&scope, move |snap| snap.resolve(&alias)).await?;
/// assert_eq!(resolved, created.value);
/// assert!(store.run(AsyncQueue::Others, |store| store.verify()).await?.is_clean());
/// # Ok(())
/// # }
/// ```
///
/// # When a future is dropped
///
/// What waits for its turn, or for a thread, is not done, and frees its place. **What has begun goes on**, on its thread, and a
/// write among it may commit, though nobody hears of it: so after a timeout around a write it is not known
/// whether it was made. [`write_once`](Self::write_once) with the same id tells.
///
/// # Panics
///
/// A call outside of a tokio runtime panics, and [`wait`](Self::wait) on one without its clock. A closure that panics is a panic of the call: it leaves nothing
/// behind, and the store goes on.
#[derive(Clone)]
pub struct AsyncStore {
    shared: Arc<Shared>,
}

/// The kinds of calls of an [`AsyncStore`], by the feature `tokio`; each has its own limits, and who waits waits
/// for those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AsyncQueue {
    /// Reads, which nobody else has to wait for.
    Reads,
    /// Writes: they wait for each other, and for the disk.
    Writes,
    /// What takes long, and may take its time.
    Others,
}

impl fmt::Display for AsyncQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AsyncQueue {
    fn as_str(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Others => "other calls",
        }
    }
}

/// How many calls of an [`AsyncStore`] run at a time, each on a thread of tokio's blocking pool, and how many may
/// wait; by the feature `tokio`. The pool, of 512 threads if nothing else is said, should have at least as many as
/// run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsyncLimits {
    /// Reads that run: 16 by default.
    pub reads: u32,
    /// Writes that run: 32 by default. In a file, those that run together share a sync.
    pub writes: u32,
    /// [Other](AsyncQueue::Others) calls that run: 4 by default.
    pub others: u32,
    /// Calls that wait, of each of these three kinds: 1024 by default. One more is [`Busy`](Error::Busy).
    pub waiting: u32,
}

impl Default for AsyncLimits {
    fn default() -> Self {
        Self { reads: 16, writes: 32, others: 4, waiting: 1024 }
    }
}

impl AsyncLimits {
    /// The most calls of a kind that may run, and that may wait.
    pub const MAX: u32 = 1 << 20;

    fn check(&self) -> Result<()> {
        let ranges = [
            ("limits.reads", self.reads, 1),
            ("limits.writes", self.writes, 1),
            ("limits.others", self.others, 1),
            ("limits.waiting", self.waiting, 0),
        ];
        for (option, asked, min) in ranges {
            if !(min..=Self::MAX).contains(&asked) {
                let (asked, expected) = (asked.to_string(), format!("from {min} to {}", Self::MAX));
                return Err(Error::OptionsMismatch { option, asked, expected });
            }
        }
        Ok(())
    }
}

struct Shared {
    store: Store,
    reads: Line,
    writes: Line,
    others: Line,
    follower: Arc<Follower>,
}

impl Shared {
    fn line(&self, queue: AsyncQueue) -> &Line {
        match queue {
            AsyncQueue::Reads => &self.reads,
            AsyncQueue::Writes => &self.writes,
            AsyncQueue::Others => &self.others,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.follower.lock().is_over = true;
        self.follower.changed.notify_all();
    }
}

impl fmt::Debug for AsyncStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncStore").field("store", &self.shared.store).finish_non_exhaustive()
    }
}

impl From<Store> for AsyncStore {
    fn from(store: Store) -> Self {
        Self::new(store)
    }
}

impl AsyncStore {
    /// The store with the default limits.
    pub fn new(store: Store) -> Self {
        Self::limited(store, AsyncLimits::default())
    }

    /// The store with these limits.
    ///
    /// # Errors
    ///
    /// [`OptionsMismatch`](Error::OptionsMismatch) if none could ever run, or a limit is above
    /// [`MAX`](AsyncLimits::MAX).
    pub fn with_limits(store: Store, limits: AsyncLimits) -> Result<Self> {
        limits.check()?;
        Ok(Self::limited(store, limits))
    }

    fn limited(store: Store, limits: AsyncLimits) -> Self {
        let AsyncLimits { reads, writes, others, waiting } = limits;
        let shared = Shared {
            store,
            reads: Line::new(AsyncQueue::Reads, reads, waiting),
            writes: Line::new(AsyncQueue::Writes, writes, waiting),
            others: Line::new(AsyncQueue::Others, others, waiting),
            follower: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The store itself: for what does not block, as [`stats`](Store::stats) and
    /// [`position_after`](Store::position_after), and for threads of the caller's own.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// As [`Store::read`].
    ///
    /// # Errors
    ///
    /// What the closure returned; [`Busy`](Error::Busy).
    pub async fn read<T: Send + 'static>(
        &self,
        scope: &Scope,
        closure: impl FnOnce(&Snapshot<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let scope = scope.clone();
        self.run(AsyncQueue::Reads, move |store| store.read(&scope, closure)).await
    }

    /// As [`Store::write`].
    ///
    /// # Errors
    ///
    /// Those of [`Store::write`]; [`Busy`](Error::Busy).
    pub async fn write<T: Send + 'static>(
        &self,
        request: &Request,
        closure: impl Fn(&mut Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<Committed<T>> {
        let request = request.clone();
        self.run(AsyncQueue::Writes, move |store| store.write(&request, closure)).await
    }

    /// As [`Store::write_once`].
    ///
    /// # Errors
    ///
    /// Those of [`Store::write_once`]; [`Busy`](Error::Busy).
    pub async fn write_once<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        request: &Request,
        request_id: &RequestId,
        body: &[u8],
        closure: impl Fn(&mut Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<Committed<T>> {
        let (request, request_id, body) = (request.clone(), request_id.clone(), body.to_vec());
        let write = move |store: &Store| store.write_once(&request, &request_id, &body, closure);
        self.run(AsyncQueue::Writes, write).await
    }

    /// As [`Store::dry_run`]; it counts as a write.
    ///
    /// # Errors
    ///
    /// Those of [`Store::dry_run`]; [`Busy`](Error::Busy).
    pub async fn dry_run<T: Send + 'static>(
        &self,
        request: &Request,
        closure: impl Fn(&mut Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<DryRun<T>> {
        let request = request.clone();
        self.run(AsyncQueue::Writes, move |store| store.dry_run(&request, closure)).await
    }

    /// Runs anything else on the store: [`verify`](Store::verify), [`backup`](Store::backup),
    /// [`sweep`](Store::sweep), [`changes`](Store::changes), or several calls one after the other; its turn comes
    /// among the calls of the kind that is named.
    ///
    /// # Errors
    ///
    /// What the closure returned; [`Busy`](Error::Busy).
    pub async fn run<T: Send + 'static>(
        &self,
        queue: AsyncQueue,
        call: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.shared.line(queue).turn().await?;
        let held = Held { store: self.shared.store.clone(), _turn: turn };
        let mut thread = UnlessBegun(task::spawn_blocking(telemetry::in_this_span(move || {
            let held = held;
            call(&held.store)
        })));
        match (&mut thread.0).await {
            Ok(outcome) => outcome,
            Err(failed) if failed.is_panic() => resume_unwind(failed.into_panic()),
            Err(_) => Err(Error::Unavailable("the runtime shuts down".into())),
        }
    }

    /// As [`Store::wait`]: it looks at once, as a read, and then waits up to `within`, without a thread. However
    /// many wait, one thread follows the store for all of them.
    ///
    /// # Errors
    ///
    /// Those of [`Store::wait`]; [`Busy`](Error::Busy).
    pub async fn wait(&self, after: &Position, within: Duration) -> Result<Waited> {
        let position = *after;
        let looked = self.run(AsyncQueue::Reads, move |store| store.wait(&position, Duration::ZERO)).await?;
        if looked != Waited::TimedOut || within.is_zero() {
            return Ok(looked);
        }
        let mut waiter = Follower::join(&self.shared.follower, &self.shared.store)?;
        timeout(within, waiter.wait(after.commit())).await.unwrap_or(Ok(Waited::TimedOut))
    }

    /// Says that the store is to be closed, as [`Store::close`] does: everyone who [waits](Self::wait) is woken.
    /// It returns when no call is under way any more, also of those whose futures were dropped. Then this handle
    /// holds nothing, and if it was the last, the store is closed, on a thread of the pool. (Where the last one is only
    /// dropped, that is done where it is dropped, and may take some writes, and up to 5 s of reading if a check of the pages
    /// is almost done.)
    ///
    /// Calls on other handles that wait for their turn come first; those that begin later go on as ever.
    pub async fn close(self) {
        let Shared { store, reads, writes, others, follower } = &*self.shared;
        store.clone().close();
        for line in [reads, writes, others] {
            line.all().await;
        }
        follower.gone().await;
        let shared = self.shared;
        // To close a store takes some writes. If the runtime shuts down, it is closed by that.
        let _ = task::spawn_blocking(move || drop(shared)).await;
    }
}

/// What a call holds on its thread, also if it is never made. The turn goes last, so that whoever has all turns knows
/// that nobody has the store.
struct Held {
    store: Store,
    _turn: Turn,
}

/// A call on a thread, which is not made any more if it has not begun when this is dropped.
struct UnlessBegun<T>(JoinHandle<T>);

impl<T> Drop for UnlessBegun<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The calls of one kind.
struct Line {
    queue: AsyncQueue,
    size: u32,
    waiting: u32,
    /// A permit for each call that runs.
    running: Arc<Semaphore>,
    /// A permit for each call that runs or waits.
    places: Arc<Semaphore>,
}

/// What a call holds while it runs.
struct Turn {
    _running: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Line {
    fn new(queue: AsyncQueue, size: u32, waiting: u32) -> Self {
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self { queue, size, waiting, running: semaphore(size), places: semaphore(size + waiting) }
    }

    async fn turn(&self) -> Result<Turn> {
        let began = Stopwatch::start();
        let busy = |_| {
            telemetry::busy(self.queue.as_str());
            Error::Busy { what: self.queue.as_str(), waiting: self.waiting }
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(busy)?;
        let running = Arc::clone(&self.running).acquire_owned().await.expect("no line is ever closed");
        telemetry::turn(self.queue.as_str(), began.elapsed());
        Ok(Turn { _running: running, _place: place })
    }

    /// Returns when nothing runs that was asked for before.
    async fn all(&self) {
        let all = self.running.acquire_many(self.size).await;
        drop(all.expect("no line is ever closed"));
    }
}

/// Follows the store for all who wait, on one thread, which is there as long as somebody waits.
#[derive(Default)]
struct Follower {
    state: Mutex<Following>,
    changed: Condvar,
    seen: watch::Sender<Seen>,
}

#[derive(Default)]
struct Following {
    waiters: usize,
    /// Whether a thread looks after those who wait.
    is_running: bool,
    /// Whether nobody will wait any more.
    is_over: bool,
}

/// What the thread tells those who wait.
#[derive(Default)]
struct Seen {
    /// There is a commit of this number, or a newer one.
    newest: Commit,
    /// How the waiting ended, for all.
    end: Option<Result<Waited>>,
    /// Threads that hold the store, those included that are about to end.
    threads: usize,
}

/// One who waits.
struct Waiter {
    follower: Arc<Follower>,
    seen: watch::Receiver<Seen>,
}

impl Waiter {
    async fn wait(&mut self, after: Commit) -> Result<Waited> {
        let seen = self.seen.wait_for(|seen| seen.newest > after || seen.end.is_some()).await;
        let seen = seen.expect("the follower is held here, and has the sender");
        if seen.newest > after {
            return Ok(Waited::Committed);
        }
        seen.end.clone().expect("it was waited for")
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.follower.lock().waiters -= 1;
    }
}

impl Follower {
    fn lock(&self) -> MutexGuard<'_, Following> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait: from here on a thread tells of each commit.
    fn join(follower: &Arc<Self>, store: &Store) -> Result<Waiter> {
        let mut state = follower.lock();
        if !state.is_running {
            follower.seen.send_modify(|seen| {
                seen.end = None;
                seen.threads += 1;
            });
            let thread = Thread { follower: Arc::clone(follower), store: Some(store.clone()) };
            let builder = thread::Builder::new().name("keystead follower".to_owned());
            builder.spawn(move || thread.run())?;
            state.is_running = true;
        }
        state.waiters += 1;
        follower.changed.notify_all();
        Ok(Waiter { follower: Arc::clone(follower), seen: follower.seen.subscribe() })
    }

    /// Whether somebody waits, or comes soon to wait; if not, the thread is at its end.
    fn is_needed(&self) -> bool {
        let nobody = |state: &mut Following| state.waiters == 0 && !state.is_over;
        let waited = self.changed.wait_timeout_while(self.lock(), AT_A_TIME, nobody);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_running = state.waiters > 0;
        state.is_running
    }

    /// Waits a while for a commit behind the last, and tells of it.
    fn look(&self, store: &Store) -> Result<Waited> {
        let last = self.seen.borrow().newest;
        let waited = store.wait(&store.position_after(last), AT_A_TIME)?;
        if waited == Waited::Committed {
            // Should what can be read be older yet: there is one behind the last.
            let next = Commit::new(last.number() + 1).max(store.position()?.commit());
            self.seen.send_modify(|seen| seen.newest = next);
        }
        Ok(waited)
    }

    /// Tells all who wait how it ended, and that the next who comes needs another thread.
    fn end(&self, end: Result<Waited>) {
        let mut state = self.lock();
        state.is_running = false;
        self.seen.send_modify(|seen| seen.end = Some(end));
    }

    /// Returns when no thread holds the store.
    async fn gone(&self) {
        let mut seen = self.seen.subscribe();
        let gone = seen.wait_for(|seen| seen.threads == 0).await;
        drop(gone.expect("the follower is held here, and has the sender"));
    }
}

/// The thread that follows the store.
struct Thread {
    follower: Arc<Follower>,
    /// There until the thread ends.
    store: Option<Store>,
}

impl Thread {
    fn run(self) {
        let Self { follower, store } = &self;
        while let Some(store) = store.as_ref().filter(|_| follower.is_needed()) {
            match follower.look(store) {
                Ok(Waited::Committed | Waited::TimedOut) => {}
                end @ (Ok(Waited::Closed) | Err(_)) => return follower.end(end),
            }
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if thread::panicking() {
            self.follower.end(Err(Error::Unavailable("the thread that waits panicked".into())));
        }
        drop(self.store.take());
        self.follower.seen.send_modify(|seen| seen.threads -= 1);
    }
}
