//! [`Backend`]: the engine of a store, and what only an engine on a cluster has.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "etcd")]
use crate::engine::ClusterStats;
#[cfg(feature = "etcd")]
use crate::engine::etcd::EtcdEngine;
use crate::engine::{Engine, RowSource, WriteTransaction};
use crate::error::{Error, Result};
use crate::format::stand_in;
use crate::id::{Commit, random_bytes};
use crate::telemetry;
use crate::time::Stopwatch;

/// How often an operation that met another one is run again. On a cluster the deadline decides instead.
const CONFLICTS_MAX: u32 = 16;

/// The engine of a store.
pub(super) struct Backend {
    engine: Arc<dyn Engine>,
    /// The same engine, if it is one on a cluster.
    #[cfg(feature = "etcd")]
    cluster: Option<Arc<EtcdEngine>>,
}

/// One run of an operation, which is run again if it meets another one.
pub(super) struct Attempt {
    /// When the first run began.
    #[cfg_attr(not(feature = "etcd"), expect(dead_code, reason = "only a cluster has a deadline"))]
    since: Stopwatch,
    /// How long this run has waited for servers.
    waited: Cell<Duration>,
}

impl Attempt {
    /// How long this run has waited for servers: no part of the time that a transaction may take.
    pub(super) fn waited(&self) -> Duration {
        self.waited.get()
    }
}

impl Backend {
    #[cfg(feature = "etcd")]
    pub(super) fn on_cluster(cluster: EtcdEngine) -> Self {
        let cluster = Arc::new(cluster);
        Self { engine: Arc::clone(&cluster) as Arc<dyn Engine>, cluster: Some(cluster) }
    }

    /// Runs what may meet another transaction until it does not, or until there is no point in going on.
    pub(super) fn retry_on_conflict<T>(&self, run: impl Fn(&Attempt) -> Result<T>) -> Result<T> {
        let since = Stopwatch::start();
        let mut conflicts = 0;
        loop {
            match run(&Attempt { since, waited: Cell::default() }) {
                Err(Error::Conflict) => {
                    conflicts += 1;
                    telemetry::conflict(conflicts);
                    if !self.should_retry(conflicts, since) {
                        return Err(Error::Conflict);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Whether a transaction that met others so often is to be run again. On a cluster it pauses before.
    fn should_retry(&self, conflicts: u32, _since: Stopwatch) -> bool {
        #[cfg(feature = "etcd")]
        if let Some(cluster) = &self.cluster {
            return cluster.should_retry(conflicts, _since);
        }
        conflicts < CONFLICTS_MAX
    }

    /// As [`Engine::begin_write`], for one run of an operation. On a cluster the operation's time continues to run.
    pub(super) fn begin_attempt<'a>(
        &'a self,
        _attempt: &'a Attempt,
    ) -> Result<Box<dyn WriteTransaction + 'a>> {
        #[cfg(feature = "etcd")]
        if let Some(cluster) = &self.cluster {
            return cluster.begin_attempt(_attempt.since, &_attempt.waited);
        }
        self.engine.begin_write()
    }

    /// The number that the commit of a transaction will have. If the engine can't know it, what [stands
    /// for](crate::format::is_stand_in) it, which is another each time. Nothing that is written may depend on which of
    /// the two it is.
    pub(super) fn next_commit(&self, transaction: &dyn RowSource) -> Commit {
        if self.engine.knows_next_commit() {
            return Commit::new(transaction.commit_read().number() + 1);
        }
        let [drawn @ .., _, _, _, _, _, _, _, _] = random_bytes();
        stand_in(u64::from_be_bytes(drawn))
    }

    /// How transactions did on a cluster; `None` if the engine is on none.
    #[cfg(feature = "etcd")]
    pub(super) fn cluster_stats(&self) -> Option<ClusterStats> {
        self.cluster.as_ref().map(|cluster| cluster.stats())
    }
}

impl From<Arc<dyn Engine>> for Backend {
    fn from(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            #[cfg(feature = "etcd")]
            cluster: None,
        }
    }
}

impl Deref for Backend {
    type Target = dyn Engine;

    fn deref(&self) -> &Self::Target {
        &*self.engine
    }
}
