//! keystead itself, as its users use it: a write for each move. It groups callers, if at all, by itself.

use std::path::Path;

use keystead::{
    After, Alias, Error, Expect, KeyId, Limit, NewKey, Options, PendingDays, Quotas, Request, Result, Scope,
    Store, Transaction,
};

use crate::peer::{Answer, Move, Moved, Outcome, Peer, Place, Refusal, Resolved, Session, Settings};
use crate::record::ACTOR;

/// All keys at once, as the other engines get them.
const IMPORTED_BYTES: usize = 1 << 30;

/// The name of the store's file.
const FILE: &str = "kms.redb";

/// A transaction reads at most 200 rows, and a move five.
const MOVES_AT_ONCE: usize = 40;

struct Keystead {
    store: Store,
    scopes: [Scope; 2],
}

/// Opens or makes a store.
pub fn open(folder: &Path, settings: Settings) -> Answer<Box<dyn Peer>> {
    Ok(Box::new(Keystead::of(options(settings).open(folder.join(FILE))?)?))
}

/// Opens a store as another process opens it that only reads.
pub fn follow(folder: &Path, settings: Settings) -> Answer<Box<dyn Peer>> {
    Ok(Box::new(Keystead::of(options(settings).open_read_only(folder.join(FILE))?)?))
}

fn options(settings: Settings) -> Options {
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    let options = Options::new().quotas(quotas).history(settings.history);
    // Pages and records share what other engines have for pages. Records that are asked for again are worth
    // more than pages, and the table file is small.
    let of_pages = settings.cache_bytes / 4;
    options.cache_bytes(of_pages).record_cache_bytes(settings.cache_bytes - of_pages)
}

impl Keystead {
    fn of(store: Store) -> Result<Self> {
        let scope = |place: Place| Scope::new(Place::DOMAIN, place.project());
        Ok(Self { store, scopes: [scope(Place::Large)?, scope(Place::Small)?] })
    }

    fn scope(&self, place: Place) -> &Scope {
        &self.scopes[usize::from(place == Place::Small)]
    }

    fn request(&self, place: Place) -> Request {
        Request::new(self.scope(place)).actor(ACTOR)
    }
}

impl Peer for Keystead {
    fn import(&self, place: Place, keys: &[NewKey]) -> Answer<()> {
        let import = self.store.import(&self.request(place), keys.iter().cloned());
        for batch in import.batch_bytes(IMPORTED_BYTES) {
            if let Some((position, error)) = batch?.refused.into_iter().next() {
                return Err(format!("key {position}: {error}").into());
            }
        }
        Ok(())
    }

    fn session(&self, work: &mut dyn FnMut(&mut dyn Session) -> Answer<()>) -> Answer<()> {
        work(&mut KeysteadSession(self))
    }

    fn can_group(&self) -> bool {
        false
    }

    fn group_max(&self) -> usize {
        MOVES_AT_ONCE
    }
}

struct KeysteadSession<'a>(&'a Keystead);

fn move_alias(txn: &mut Transaction<'_>, wanted: &Move) -> Result<Moved> {
    if let Some(expected) = wanted.expected {
        txn.expect_alias(&wanted.alias, Expect::Target(expected))?;
    }
    let moved = txn.associate_alias(&wanted.alias, wanted.target)?;
    Ok(Moved { former: moved.former_key_id, changed: moved.changed })
}

/// A refusal is an answer; anything else ends the run.
fn outcome(moved: Result<Moved>) -> Result<Outcome> {
    Ok(Err(match moved {
        Ok(moved) => return Ok(Ok(moved)),
        Err(Error::PreconditionFailed { .. }) => Refusal::Unexpected,
        Err(Error::AliasNotFound { .. }) => Refusal::AliasNotFound,
        Err(Error::KeyNotFound { .. }) => Refusal::KeyNotFound,
        Err(Error::PendingDeletion(_)) => Refusal::PendingDeletion,
        Err(Error::QuotaExceeded { .. }) => Refusal::Quota,
        Err(error) => return Err(error),
    }))
}

impl Session for KeysteadSession<'_> {
    fn resolve(&mut self, place: Place, alias: &Alias) -> Answer<Option<Resolved>> {
        match self.0.store.read(self.0.scope(place), |snap| snap.resolve(alias)) {
            Ok(key) => Ok(Some(Resolved::Shared(key).used())),
            Err(Error::AliasNotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn list(
        &mut self,
        place: Place,
        after: &Alias,
        limit: usize,
        each: &mut dyn FnMut(&str, KeyId),
    ) -> Answer<()> {
        let limit = Limit::new(limit)?;
        let page = self.0.store.read(self.0.scope(place), |snap| snap.aliases(After::Item(after), limit))?;
        page.items.iter().for_each(|alias| each(alias.alias.as_str(), alias.key_id));
        Ok(())
    }

    fn associate(&mut self, wanted: &Move) -> Answer<Outcome> {
        let request = self.0.request(wanted.place);
        let moved = self.0.store.write(&request, |txn| move_alias(txn, wanted));
        Ok(outcome(moved.map(|moved| moved.value))?)
    }

    fn associate_group(&mut self, wanted: &[Move]) -> Answer<Vec<Outcome>> {
        let place = wanted.first().map_or(Place::Large, |wanted| wanted.place);
        let request = self.0.request(place);
        let moved = self.0.store.write(&request, |txn| {
            wanted.iter().map(|wanted| outcome(move_alias(txn, wanted))).collect::<Result<Vec<_>>>()
        })?;
        Ok(moved.value)
    }

    fn schedule_deletion(&mut self, place: Place, key_id: KeyId) -> Answer<()> {
        let (request, days) = (self.0.request(place), PendingDays::new(7)?);
        self.0.store.write(&request, |txn| txn.schedule_deletion(key_id, days))?;
        Ok(())
    }
}
