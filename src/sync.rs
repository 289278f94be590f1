//! Locks, atomics and threads of what is shared between threads: the standard library's, or shuttle's.
//!
//! With `--cfg shuttle` the tests run on those of shuttle, a scheduler that chooses after each step which
//! thread makes the next: `src/tests/shuttle.rs`. Nothing else differs. What works on the table file keeps
//! to the standard library: redb has locks that shuttle does not know, and a thread must not be stopped
//! while it holds one.

#[cfg(not(all(test, shuttle)))]
mod real {
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
    pub(crate) use std::thread;
    pub(crate) use std::thread_local;

    pub(crate) use arc_swap::{ArcSwap, Guard};
}

#[cfg(all(test, shuttle))]
mod simulated {
    use std::ops::Deref;
    use std::sync::Arc;

    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
    pub(crate) use shuttle::thread;
    pub(crate) use shuttle::thread_local;

    /// What is used of `arc_swap`, which shuttle does not know: to load and to store are one step each.
    pub(crate) struct ArcSwap<T>(Mutex<Arc<T>>);

    pub(crate) struct Guard<T>(T);

    impl<T> ArcSwap<T> {
        pub(crate) fn from_pointee(value: T) -> Self {
            Self(Mutex::new(Arc::new(value)))
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            *self.0.lock().expect("nothing panics while it is held") = value;
        }

        pub(crate) fn load(&self) -> Guard<Arc<T>> {
            Guard(Arc::clone(&self.0.lock().expect("nothing panics while it is held")))
        }
    }

    impl<T> Guard<T> {
        pub(crate) fn from_inner(inner: T) -> Self {
            Self(inner)
        }
    }

    impl<T> Deref for Guard<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }
}

#[cfg(not(all(test, shuttle)))]
pub(crate) use real::*;
#[cfg(all(test, shuttle))]
pub(crate) use simulated::*;

/// Whether shuttle chooses the steps. Then whatever differs from run to run must not choose any: a
/// schedule that fails could not be repeated.
pub(crate) const SIMULATED: bool = cfg!(all(test, shuttle));
