//! Reading from one revision.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::GetOptions;

use super::Shared;
use super::client::{At, Found};
use super::entries::{View, revision};
use super::failure::Failure;
use super::rows::Known;
use crate::engine::seal::unseal;
use crate::engine::{Range, ReadTransaction, RowHash, RowSource};
use crate::error::Result;
use crate::format::{Stored, Value};
use crate::id::Commit;

/// How many rows are asked for at once by a scan: each has 64 KiB at most.
const ROWS_AT_ONCE: usize = 256;

/// The rows as of one revision.
pub(super) struct EtcdRead {
    pub(super) shared: Arc<Shared>,
    pub(super) at: i64,
}

impl Shared {
    /// The rows at these addresses as of a revision.
    pub(super) fn rows_at(&self, rows: &[&[u8]], view: View) -> Result<Vec<Known>> {
        let at = view.at;
        let known: Vec<_> = rows.iter().map(|row| self.rows.get(row, revision(at), &self.seen)).collect();
        let missing: Vec<_> = rows
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(row, _)| self.layout.row(row))
            .collect();
        let found = match missing.is_empty() {
            true => Vec::new(),
            false => self.client.get(&missing, At::Revision(at), view.until)?.1,
        };
        let mut found = found.into_iter();
        let mut all = Vec::with_capacity(rows.len());
        for (row, known) in rows.iter().zip(known) {
            all.push(match known {
                Some(known) => known,
                None => {
                    let known = self.known(row, found.next().flatten(), at)?;
                    self.rows.keep(row, known.clone());
                    known
                }
            });
        }
        Ok(all)
    }

    /// What was found at an address, if it is sound.
    fn known(&self, row: &[u8], found: Option<Found>, at: i64) -> Result<Known> {
        let known_at = revision(at);
        Ok(match found {
            Some(Found { value, modified, .. }) => {
                let value = unseal(row, &value)?.bytes.into();
                Known { value: Some(value), modified: revision(modified), known_at }
            }
            None => Known { value: None, modified: 0, known_at },
        })
    }
}

impl Known {
    pub(super) fn value(&self) -> Option<Value<'_>> {
        let commit = Commit::new(self.modified);
        self.value.as_ref().map(|bytes| Value { bytes, commit })
    }
}

impl EtcdRead {
    /// For one call: a long walk makes many of them.
    fn view(&self) -> View {
        View { at: self.at, until: self.shared.client.until() }
    }
}

impl RowSource for EtcdRead {
    fn commit_read(&self) -> Commit {
        Commit::new(revision(self.at))
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        let known = self.shared.rows_at(rows, self.view())?;
        Ok(known.iter().map(|known| known.value().map(Value::to_stored)).collect())
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        self.shared.rows_at(&[row], self.view())?.iter().filter_map(Known::value).for_each(see);
        Ok(())
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        self.shared.entry_at(commit, self.view())
    }
}

impl ReadTransaction for EtcdRead {
    fn unchanged_since(&self, row: RowHash, commit: Commit) -> bool {
        self.shared.seen.unchanged(row, commit.number(), revision(self.at))
    }

    fn with_rows(
        &self,
        (from, to): Range<'_>,
        limit: usize,
        see: &mut dyn FnMut(&[u8], Result<Value<'_>>),
    ) -> Result<()> {
        let layout = &self.shared.layout;
        let mut from = match from {
            Bound::Included(row) => layout.row(row),
            Bound::Excluded(row) => [&layout.row(row)[..], &[0]].concat(),
            Bound::Unbounded => layout.row(&[]),
        };
        let to = match to {
            Bound::Included(row) => [&layout.row(row)[..], &[0]].concat(),
            Bound::Excluded(row) => layout.row(row),
            Bound::Unbounded => layout.after_rows(),
        };
        let mut left = limit;
        // etcd takes an end that is not behind the start for something else.
        while left > 0 && from < to {
            let wanted = ROWS_AT_ONCE.min(left);
            let options = GetOptions::new()
                .with_range(to.clone())
                .with_limit(i64::try_from(wanted).unwrap_or(i64::MAX));
            let View { at, until } = self.view();
            let (_, mut found) =
                self.shared.client.ranges(&[(from.clone(), options)], At::Revision(at), until)?;
            let found = found.pop().unwrap_or_default();
            left -= found.len().min(left);
            for Found { key, value, modified, .. } in &found {
                let row = layout.address(key);
                let commit = Commit::new(revision(*modified));
                see(&row, unseal(&row, value).map(|value| Value { commit, ..value }));
            }
            match found.last() {
                Some(last) if found.len() == wanted => from = [&last.key[..], &[0]].concat(),
                _ => break,
            }
        }
        Ok(())
    }

    fn log(&self, after: Commit, limit: usize) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        self.shared.entries_at(after, limit, self.view())
    }

    /// It would have to count them.
    fn length(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn audit(&self) -> Result<()> {
        self.shared.audit_at(self.view())
    }
}

/// Asks for the newest revision on behalf of all who want to know it at that time.
///
/// Who comes while one asks must not take its answer, which may be older than what they were told of. They wait for
/// the next, which is asked for all of them at once.
#[derive(Default)]
pub(super) struct NewestRevision {
    state: Mutex<Asking>,
    answered: Condvar,
}

#[derive(Default)]
struct Asking {
    asking: bool,
    /// How often it was begun to ask.
    begun: u64,
    /// The last answer, and the how manieth it is.
    answer: Option<(u64, Result<i64, Failure>)>,
}

impl NewestRevision {
    fn lock(&self) -> MutexGuard<'_, Asking> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one attempt says, which may be that of somebody else.
    pub(super) fn get(
        &self,
        ask: impl Fn() -> Result<i64, Failure>,
        left: impl Fn() -> Duration,
    ) -> Result<i64, Failure> {
        let mut state = self.lock();
        let mine = state.begun + 1;
        loop {
            match &state.answer {
                Some((number, answer)) if *number >= mine => return answer.clone(),
                _ => {}
            }
            let left = left();
            if left.is_zero() {
                return Err(Failure::NotAsked);
            }
            if state.asking {
                let waited = self.answered.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            state.asking = true;
            state.begun += 1;
            let number = state.begun;
            drop(state);
            let answer = ask();
            state = self.lock();
            state.asking = false;
            state.answer = Some((number, answer));
            self.answered.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::thread;

    use super::*;

    /// What is answered is never from before the question.
    #[test]
    fn an_answer_is_not_older_than_its_question() {
        let (newest, clock) = (NewestRevision::default(), AtomicI64::new(0));
        let asked = AtomicI64::new(0);
        thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..200 {
                        let before = clock.fetch_add(1, Ordering::SeqCst);
                        let ask = || {
                            asked.fetch_add(1, Ordering::SeqCst);
                            let answer = clock.load(Ordering::SeqCst);
                            thread::yield_now();
                            Ok(answer)
                        };
                        let answer = newest.get(ask, || Duration::from_secs(60));
                        assert!(answer.unwrap() > before);
                    }
                });
            }
        });
        assert!(asked.into_inner() <= 1600);
    }
}
