//! [`App`]: the store and everything else that requests share; how the store is called.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use keystead::{AsyncQueue, AsyncStore, Options, Request, RequestId, Scope, Snapshot, Store, Transaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tracing::Span;

use crate::body::BodyBudget;
use crate::caller::{Call, Directory};
use crate::config::{Account, Config, Limits};
use crate::error::Refusal;
use crate::first_keys::{self, FirstKeys};
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
    /// The memory of all bodies together.
    pub(crate) bodies: BodyBudget,
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
        let bodies = BodyBudget::new(limits.body_mebibytes * 1024 * 1024);
        let metrics = Metrics::new()?;
        let absent = first_keys::look_for(&store, &config.accounts);
        metrics.first_keys_absent.set(i64::try_from(absent).unwrap_or(i64::MAX));
        Ok(Self {
            calls: AsyncStore::with_limits(store.clone(), limits.of_calls())?,
            store,
            metrics,
            requests: Arc::new(Semaphore::new(limits.requests)),
            limits,
            idempotent_sequence: config.idempotent_sequence,
            services: config.default_key_services,
            directory: Directory::new(config.accounts, &bodies),
            bodies,
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
        // A copy for as long as it takes, only where it is needed: it may be a mebibyte.
        let once = once.map(|sequence| {
            (sequence, [operation.as_bytes(), call.path.as_bytes(), call.body()].join(&b'\n'))
        });
        let committed = self.blocking(AsyncQueue::Writes, move |store| {
            Ok(match once {
                Some((sequence, body)) => store.write_once(&request, &sequence, &body, change)?,
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
        let first = FirstKeys::of(account, scope, &self.services)?;
        let (app, request) = (Arc::clone(self), Request::new(scope).actor("platform"));
        let prepare = move |store: &Store| {
            // Here and not around it: a request that ends early does not end this work.
            let _alone = app.preparing.lock().unwrap_or_else(PoisonError::into_inner);
            if !app.is_prepared(request.scope()) {
                let absent = first.make(store, &request)?;
                app.metrics.first_keys_absent.add(i64::try_from(absent).unwrap_or(i64::MAX));
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

/// A clock for durations.
#[expect(clippy::disallowed_methods, reason = "the service measures; the store does not")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
