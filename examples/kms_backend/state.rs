//! [`App`]: the store and everything else that requests share; how the store is called.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use keystead::{
    AsyncQueue, AsyncStore, Error, KeyFilter, NewKey, Options, Request, RequestId, Scope, Snapshot, Store,
    Transaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tracing::Span;

use crate::caller::{Call, Directory};
use crate::config::{Account, Config, Limits};
use crate::error::{Refusal, refused};
use crate::metrics::Metrics;

/// What all requests share.
pub(crate) struct App {
    /// For what does not block.
    pub(crate) store: Store,
    /// For what does.
    calls: AsyncStore,
    pub(crate) directory: Directory,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    /// One permit for each request in work, from when its body is there.
    pub(crate) requests: Arc<Semaphore>,
    idempotent_sequence: bool,
    services: Vec<String>,
    /// The projects that have what they have from their first use on.
    prepared: RwLock<HashSet<Scope>>,
    /// Held while one is made ready, on a thread that may block.
    preparing: Mutex<()>,
}

/// How the store of this configuration is opened.
pub(crate) fn store_options(config: &Config) -> Options {
    Options::new()
        .region(config.region.clone())
        .alias_scope(config.alias_scope)
        .quotas(config.quotas)
        .retention(config.retention)
}

impl App {
    pub(crate) fn new(config: Config, store: Store) -> Result<Self, Box<dyn std::error::Error>> {
        let limits = config.limits;
        Ok(Self {
            calls: AsyncStore::with_limits(store.clone(), limits.of_calls())?,
            store,
            metrics: Metrics::new()?,
            requests: Arc::new(Semaphore::new(limits.requests)),
            limits,
            idempotent_sequence: config.idempotent_sequence,
            services: config.default_key_services,
            directory: Directory::new(config.accounts),
            prepared: RwLock::default(),
            preparing: Mutex::default(),
        })
    }

    /// Runs work that may block on the store. Work that has begun is carried out even if the request that
    /// asked for it has ended.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        queue: AsyncQueue,
        work: impl FnOnce(&Store) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (app, span) = (Arc::clone(self), Span::current());
        let call = move |store: &Store| {
            let _entered = span.enter();
            let begin = now();
            let outcome = catch_unwind(AssertUnwindSafe(|| work(store)));
            app.metrics.store_called(begin.elapsed());
            Ok(outcome)
        };
        let outcome = self.calls.run(queue, call).await?;
        outcome.unwrap_or_else(|_| Err(Refusal::internal(&"a call of the store panicked")))
    }

    /// Reads from one snapshot of the caller's project.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        read: impl FnOnce(&Snapshot<'_>) -> keystead::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let scope = call.scope.clone();
        self.blocking(AsyncQueue::Reads, move |store| Ok(store.read(&scope, read)?)).await
    }

    /// Changes the caller's project. Where the configuration says so, a request with a `sequence` is
    /// carried out once: if it is repeated, its answer is.
    pub(crate) async fn write<T: Serialize + DeserializeOwned + Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        operation: &'static str,
        sequence: Option<RequestId>,
        change: impl Fn(&mut Transaction<'_>) -> keystead::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let mut request = Request::new(&call.scope).actor(&call.actor);
        Span::current().record("operation", operation);
        if let Some(sequence) = &sequence {
            request = request.request_id(sequence.clone());
        }
        let once = sequence.filter(|_| self.idempotent_sequence);
        let body = [operation.as_bytes(), call.path.as_bytes(), &call.body].join(&b'\n');
        let committed = self.blocking(AsyncQueue::Writes, move |store| {
            Ok(match once {
                Some(sequence) => store.write_once(&request, &sequence, &body, change)?,
                None => store.write(&request, change)?,
            })
        });
        Ok(committed.await?.value)
    }

    /// Makes what a project has from its first use on, if that was not done yet.
    pub(crate) async fn prepare(self: &Arc<Self>, account: &Account, scope: &Scope) -> Result<(), Refusal> {
        if self.is_prepared(scope) {
            return Ok(());
        }
        let first = first_keys(account, scope)?;
        let defaults = self.services.iter().map(|service| NewKey::default_of(service));
        let defaults: Vec<NewKey> = defaults.collect::<Result<_, _>>().map_err(refused)?;
        let (app, request) = (Arc::clone(self), Request::new(scope).actor("platform"));
        let prepare = move |store: &Store| {
            // Here and not around it: a request that ends early does not end this work.
            let _alone = app.preparing.lock().unwrap_or_else(PoisonError::into_inner);
            if !app.is_prepared(request.scope()) {
                make_first(store, &request, &first, &defaults)?;
                let mut prepared = app.prepared.write().unwrap_or_else(PoisonError::into_inner);
                prepared.insert(request.scope().clone());
            }
            Ok(())
        };
        self.blocking(AsyncQueue::Writes, prepare).await
    }

    fn is_prepared(&self, scope: &Scope) -> bool {
        self.prepared.read().unwrap_or_else(PoisonError::into_inner).contains(scope)
    }
}

/// Makes what a project has from its first use on. That it can't be made is not the caller's fault.
fn make_first(
    store: &Store,
    request: &Request,
    first: &[NewKey],
    defaults: &[NewKey],
) -> Result<(), Refusal> {
    match make_keys(store, request, first, defaults) {
        Err(error) if !error.is_retryable() => {
            Err(Refusal::internal(&format_args!("the first keys of a project: {error}")))
        }
        made => Ok(made?),
    }
}

/// Makes the keys of the configuration in a project without any key, and the default keys.
fn make_keys(
    store: &Store,
    request: &Request,
    first: &[NewKey],
    defaults: &[NewKey],
) -> keystead::Result<()> {
    let is_empty = store.read(request.scope(), |snap| snap.count_keys(&KeyFilter::all()))? == 0;
    if is_empty && !first.is_empty() {
        match store.write(request, |txn| first.iter().try_for_each(|new| txn.create_key(new).map(drop))) {
            // Another process on the same store came first. It made all of them, or none.
            Err(Error::KeyIdExists(_)) => {}
            made => drop(made?),
        }
    }
    let ensure = |new: &NewKey, txn: &mut Transaction<'_>| txn.ensure_default_key(new).map(drop);
    store.write(request, |txn| defaults.iter().try_for_each(|new| ensure(new, txn)))?;
    Ok(())
}

fn first_keys(account: &Account, scope: &Scope) -> Result<Vec<NewKey>, Refusal> {
    let of_project = account.key.iter().filter(|first| first.project == *scope.project());
    let keys = of_project.map(|first| {
        let new = NewKey::new(first.key_alias.as_str()).map_err(refused)?.id(first.key_id);
        Ok(first.aliases.iter().fold(new, |new, alias| new.alias(alias.clone())))
    });
    keys.collect()
}

/// A clock for durations.
#[expect(clippy::disallowed_methods, reason = "the service measures; the store does not")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
