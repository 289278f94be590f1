//! [`Progress`]: how far a long call is, for whoever waits for it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

thread_local! {
    static TOLD: RefCell<Option<Progress>> = const { RefCell::new(None) };
}

/// How far a long call is: [`verify`](crate::Store::verify), [`backup`](crate::Store::backup),
/// [`trim_history`](crate::Store::trim_history), a [restore](crate::Restore), [`repair`](crate::repair),
/// [`compact`](crate::compact()), [`copy_to`](crate::Store::copy_to). Clones share it, so that another thread can look while the call runs.
///
/// ```
/// use keystead::{NewKey, Progress, Request, Scope, Store};
/// let store = Store::in_memory()?;
/// let request = Request::new(&Scope::new("domain", "project")?);
/// store.write(&request, |txn| txn.create_key(&NewKey::new("orders")?))?;
///
/// let progress = Progress::new();
/// let seen = progress.clone(); // for the thread that shows it
/// assert!(progress.of(|| store.verify())?.is_clean());
/// let step = seen.step();
/// assert_eq!((step.doing, Some(step.done)), ("verifying", step.total));
/// # Ok::<(), keystead::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Progress {
    step: Arc<Mutex<Step>>,
}

/// One of the steps of a call, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Step {
    /// What is being done, in words: `copying`, `verifying` and the like. Empty before the first.
    pub doing: &'static str,
    /// How much of it is done: rows, entries of the history.
    pub done: u64,
    /// Of how many, as far as that can be told without counting them; never less than what is done.
    pub total: Option<u64>,
}

impl Progress {
    /// Of a call that is still to come.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a call, whose progress is told here. A call inside of it that is run so itself is told there
    /// alone.
    pub fn of<T>(&self, call: impl FnOnce() -> T) -> T {
        let _told = Told(TOLD.replace(Some(self.clone())));
        call()
    }

    /// The step at which the call is; after its end the last.
    pub fn step(&self) -> Step {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Step)) {
        change(&mut self.step.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Who was told before.
struct Told(Option<Progress>);

impl Drop for Told {
    fn drop(&mut self) {
        TOLD.set(self.0.take());
    }
}

/// A step begins, of so many rows or entries if that is known.
pub(crate) fn begin(doing: &'static str, total: Option<u64>) {
    tell(|step| *step = Step { doing, done: 0, total });
}

/// So many of the step are done.
pub(crate) fn at(done: u64) {
    tell(|step| {
        step.done = done;
        step.total = step.total.map(|total| total.max(done));
    });
}

/// So many more are.
pub(crate) fn add(more: u64) {
    tell(|step| {
        step.done += more;
        step.total = step.total.map(|total| total.max(step.done));
    });
}

fn tell(change: impl FnOnce(&mut Step)) {
    TOLD.with_borrow(|told| {
        if let Some(progress) = told {
            progress.change(change);
        }
    });
}
