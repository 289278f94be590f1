//! [`Import`]: many keys at once.

use std::iter::Fuse;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use super::{OnlyWrite, Store};
use crate::engine::Load;
use crate::error::{Error, Result};
use crate::id::Commit;
use crate::key::NewKey;
use crate::request::Request;
use crate::telemetry::{self, Call, Summary};
use crate::txn::{Importing, Place, Transaction};

/// What an import counts for each key, alias and tag besides their texts.
const BYTES_OF_EACH: usize = 256;

/// An import that runs as it is iterated: one item for each batch, when that is durable.
///
/// Obtained by [`Store::import`].
#[must_use = "nothing is imported until it is iterated"]
#[derive(Debug)]
pub struct Import<I> {
    store: Store,
    request: Request,
    keys: Fuse<I>,
    batch_bytes: usize,
    /// How many keys went before the next batch.
    position: u64,
    /// The next batch, if it was made out already.
    next: Option<Result<Option<Batch>>>,
    ended: bool,
}

/// Some keys that are to be written together.
#[derive(Debug)]
struct Batch {
    first: u64,
    keys: Vec<NewKey>,
    /// What they come to, unless what that was made out upon did not come to be.
    outcome: Option<(Load, Imported)>,
}

/// What one batch of an import did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Imported {
    /// How many keys were asked for.
    pub asked: u64,
    /// How many of them were created.
    pub created: u64,
    /// Which were not, by their positions in the whole import, from 0, and why.
    pub refused: Vec<(u64, Error)>,
    /// The commit in which all that is true.
    pub commit: Commit,
}

/// How long it may take until what another writer wrote is durable, before that counts as a conflict.
const DURABLE_WITHIN: Duration = Duration::from_secs(10);

impl Store {
    /// Creates many keys with their aliases in the request's scope, much faster than one by one. It is as
    /// if [`create_key`](crate::Transaction::create_key) had been called for each in order: a key that is
    /// refused leaves nothing, and the others are created.
    ///
    /// The keys are written in batches, each of them durable as a whole or not at all; what is returned
    /// says of each batch what came of it, and nothing happens until it is iterated. While one batch is
    /// written, on a thread of its own, the keys of the next are taken from the iterator on this one, so
    /// these may be read from a file. Other writers wait only while a batch is written.
    ///
    /// In the history it is many commits, each with as many keys as fit into a transaction.
    ///
    /// ```
    /// use keystead::{Error, NewKey, Request, Scope, Store};
    /// let store = Store::in_memory()?;
    /// let request = Request::new(&Scope::new("domain", "project")?);
    /// let names = ["orders", "invoices", "orders"];
    /// let keys = names.into_iter().map(|name| NewKey::new(name).expect("the name is valid"));
    /// for batch in store.import(&request, keys) {
    ///     let batch = batch?;
    ///     assert_eq!(batch.created, 2);
    ///     assert!(matches!(batch.refused[..], [(2, Error::KeyAliasExists(_))]));
    /// }
    /// # Ok::<(), keystead::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write); each is the last item. The batches before it are in the store.
    /// Those behind are not, nor is the one that failed, except after
    /// [`CommitUnknown`](Error::CommitUnknown).
    pub fn import<I: IntoIterator<Item = NewKey>>(&self, request: &Request, keys: I) -> Import<I::IntoIter> {
        Import {
            store: self.clone(),
            request: request.clone(),
            keys: keys.into_iter().fuse(),
            batch_bytes: Import::<I>::BATCH_BYTES_DEFAULT,
            position: 0,
            next: None,
            ended: false,
        }
    }

    /// Makes out what some keys come to, on the newest commit, or on a load that is being written upon it.
    fn make_out(
        &self,
        request: &Request,
        first: u64,
        keys: &[NewKey],
        before: Option<&Load>,
    ) -> Result<(Load, Imported)> {
        request.check()?;
        let place = Place::new(request.scope(), &self.inner.policy);
        let mut importing =
            Importing::new(self.inner.engine.begin_read()?, before, place, request, keys.len());
        let mut imported = Imported { asked: keys.len() as u64, ..Imported::default() };
        for (position, new) in (first..).zip(keys) {
            match importing.create(new)? {
                None => imported.created += 1,
                Some(refused) => imported.refused.push((position, refused)),
            }
        }
        let load = importing.finish()?;
        imported.commit = load.last_commit();
        Ok((load, imported))
    }

    /// Writes what keys come to, and tells whether it is as it was made out before. Where something else was
    /// written meanwhile, it is made out again, while nothing else can be.
    fn write_batch(
        &self,
        request: &Request,
        first: u64,
        keys: &[NewKey],
        (load, imported): &(Load, Imported),
    ) -> Result<(Imported, bool)> {
        match self.inner.engine.begin_write()?.load(load) {
            Err(Error::Conflict) => {}
            written => return written.map(|_| (imported.clone(), true)),
        }
        self.inner.engine.retry_on_conflict(|attempt| {
            let transaction = self.inner.engine.begin_attempt(attempt)?;
            // It builds on what can be read, so what the transaction reads must be durable.
            let before = transaction.commit_read().number().saturating_sub(1);
            self.inner.engine.wait(Commit::new(before), DURABLE_WITHIN)?;
            let (load, imported) = self.make_out(request, first, keys, None)?;
            transaction.load(&load).map(|_| (imported, false))
        })
    }

    /// Creates the keys on an engine that writes commits one by one: as many in each as fit.
    fn write_in_small_commits(&self, request: &Request, first: u64, keys: &[NewKey]) -> Result<Imported> {
        let mut imported = Imported { asked: keys.len() as u64, ..Imported::default() };
        let mut rest = keys;
        while !rest.is_empty() {
            let from = first + (keys.len() - rest.len()) as u64;
            let write = self.write(request, |txn| create_as_many_as_fit(txn, from, rest))?;
            let (done, refused) = write.value;
            imported.created += (done - refused.len()) as u64;
            imported.refused.extend(refused);
            imported.commit = write.commit;
            rest = &rest[done..];
        }
        Ok(imported)
    }
}

impl<I> Import<I> {
    /// How large a batch is if nothing else is said: 64 MiB.
    pub const BATCH_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
    /// How large a batch is at most: 2 GiB.
    pub const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024;

    /// How large a batch is: how many bytes the texts of its keys, aliases and tags have, and 256 for each.
    /// While it is written, it takes about three times that in memory, and the next batch as much again.
    /// The larger, the faster: of a million keys in one batch no page is written twice. More than
    /// [`BATCH_BYTES_MAX`](Self::BATCH_BYTES_MAX) counts as that.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes.min(Self::BATCH_BYTES_MAX);
        self
    }
}

impl<I: Iterator<Item = NewKey>> Import<I> {
    /// Takes the next batch from the iterator and makes it out, upon one that is being written.
    fn batch(&mut self, before: Option<&Load>) -> Result<Option<Batch>> {
        let (mut keys, mut bytes) = (Vec::new(), 0);
        while bytes < self.batch_bytes.max(1) {
            let Some(new) = self.keys.next() else { break };
            bytes += bytes_of(&new);
            keys.push(new);
        }
        if keys.is_empty() {
            return Ok(None);
        }
        let first = self.position;
        self.position += keys.len() as u64;
        let loads = self.store.inner.engine.knows_next_commit();
        let outcome = loads.then(|| self.store.make_out(&self.request, first, &keys, before)).transpose()?;
        Ok(Some(Batch { first, keys, outcome }))
    }

    fn import_batch(&mut self) -> Result<Option<Imported>> {
        // The batch is written on another thread, which would wait for this one for ever.
        drop(OnlyWrite::on_this_thread()?);
        let next = match self.next.take() {
            Some(next) => next,
            None => self.batch(None),
        };
        let Some(Batch { first, keys, outcome }) = next? else { return Ok(None) };
        if !self.store.inner.engine.knows_next_commit() {
            return self.store.write_in_small_commits(&self.request, first, &keys).map(Some);
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => self.store.make_out(&self.request, first, &keys, None)?,
        };
        let (store, request) = (self.store.clone(), self.request.clone());
        thread::scope(|threads| {
            // The keys go with the thread: that they are dropped takes its time too.
            let (request, outcome) = (&request, &outcome);
            let write = move || store.write_batch(request, first, &keys, outcome);
            let writer = thread::Builder::new().spawn_scoped(threads, write)?;
            let mut next = self.batch(Some(&outcome.0));
            let (imported, as_made_out) = writer.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            if !as_made_out && let Ok(Some(next)) = &mut next {
                next.outcome = None;
            }
            self.next = Some(next);
            Ok(Some(imported))
        })
    }
}

impl<I: Iterator<Item = NewKey>> Iterator for Import<I> {
    type Item = Result<Imported>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let request = self.request.clone();
        let imported = telemetry::told(
            Call::Import,
            &request,
            || self.import_batch(),
            |batch: &Option<Imported>| Summary {
                changed: Some(batch.is_some()),
                commit: batch.as_ref().map(|batch| batch.commit),
                keys: batch.as_ref().map(|batch| batch.created),
                troubles: batch.as_ref().map(|batch| batch.refused.len() as u64),
                ..Summary::default()
            },
        );
        let imported = imported.transpose();
        self.ended = !matches!(imported, Some(Ok(_)));
        imported
    }
}

/// Creates keys until one does not fit any more. Returns how many are done with, and those that were refused.
fn create_as_many_as_fit(
    txn: &mut Transaction<'_>,
    first: u64,
    keys: &[NewKey],
) -> Result<(usize, Vec<(u64, Error)>)> {
    let mut refused = Vec::new();
    for (done, (position, new)) in (first..).zip(keys).enumerate() {
        match txn.create_key(new) {
            Ok(_) => {}
            Err(Error::TransactionTooLarge { .. }) if done > 0 => return Ok((done, refused)),
            Err(error) if error.is_of_engine() => return Err(error),
            Err(error) => refused.push((position, error)),
        }
    }
    Ok((keys.len(), refused))
}

fn bytes_of(new: &NewKey) -> usize {
    let aliases = new.aliases.iter().map(|alias| alias.as_str().len() + BYTES_OF_EACH);
    let tags = new.tags.iter().map(|(tag, value)| tag.as_str().len() + value.as_str().len() + BYTES_OF_EACH);
    let own = new.key_alias.as_str().len() + new.description.as_str().len() + BYTES_OF_EACH;
    own + aliases.sum::<usize>() + tags.sum::<usize>()
}
