//! Grouping callers from outside of an engine: a writer thread takes all moves that wait, makes one commit of
//! them, and answers each caller.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use crate::peer::{Answer, Move, Outcome, Session};

/// Where one caller's answer appears.
struct Slot {
    caller: Thread,
    outcome: Mutex<Option<Result<Outcome, String>>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Move, Arc<Slot>)>,
    closed: bool,
}

/// The queue between callers and writer.
#[derive(Default)]
pub struct Group {
    queue: Mutex<Queue>,
    filled: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Group {
    /// Asks the writer for a move, and waits until it is durable.
    pub fn associate(&self, wanted: Move) -> Answer<Outcome> {
        let slot = Arc::new(Slot { caller: thread::current(), outcome: Mutex::new(None) });
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err("the writer has ended".into());
        }
        queue.waiting.push((wanted, Arc::clone(&slot)));
        drop(queue);
        self.filled.notify_one();
        loop {
            if let Some(outcome) = lock(&slot.outcome).take() {
                return outcome.map_err(Into::into);
            }
            thread::park();
        }
    }

    /// The writer's thread, until the group is closed.
    pub fn run(&self, session: &mut dyn Session, group_max: usize) -> Answer<()> {
        loop {
            let taken = {
                let mut queue = lock(&self.queue);
                while queue.waiting.is_empty() && !queue.closed {
                    queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
                let count = queue.waiting.len().min(group_max);
                queue.waiting.drain(..count).collect::<Vec<_>>()
            };
            if taken.is_empty() {
                return Ok(());
            }
            let (wanted, slots): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
            let outcomes = session.associate_group(&wanted).map_err(|error| error.to_string());
            let failed = outcomes.as_ref().err().cloned();
            for (index, slot) in slots.iter().enumerate() {
                let outcome = outcomes.as_ref().map(|outcomes| outcomes[index]).map_err(Clone::clone);
                *lock(&slot.outcome) = Some(outcome);
                slot.caller.unpark();
            }
            if let Some(error) = failed {
                self.close();
                return Err(error.into());
            }
        }
    }

    /// Ends the writer when nobody waits any more.
    pub fn close(&self) {
        lock(&self.queue).closed = true;
        self.filled.notify_all();
    }
}
