//! What runs in the background: following all changes, keeping the lease, and the heartbeat by which it is known how
//! old what was seen may be.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{Error as EtcdError, PutOptions, Txn, TxnOp, WatchOptions};
use tokio::time::{sleep, timeout};

use super::Shared;
use super::client::revision_of;
use super::entries::{etcd_revision, revision};
use super::slots::LEASE_SECONDS;
use crate::error::Result;
use crate::telemetry;

/// How long the watch may bring nothing although this process was told of more, until another one is begun.
const STALL: Duration = Duration::from_millis(500);

/// How long it is waited before a watch is begun again.
const PAUSE: Duration = Duration::from_millis(50);

/// How often in the time of the staleness there is a heartbeat.
const HEARTBEATS: u32 = 4;

/// Why a watch ended.
enum Ended {
    /// It is to go on where it was.
    Lost,
    /// What is behind where it was is not kept any more.
    Gap,
    /// The store is closed.
    Closed,
}

/// Follows all changes behind a revision for as long as the store is open.
pub(super) fn start(shared: &Arc<Shared>, at: i64) {
    let runtime = shared.client.runtime();
    runtime.spawn(follow(Arc::downgrade(shared), at));
    runtime.spawn(keep_lease(Arc::downgrade(shared)));
    if let Some(staleness) = shared.staleness {
        runtime.spawn(beat(Arc::downgrade(shared), staleness / HEARTBEATS));
    }
}

fn open(shared: &Weak<Shared>) -> Option<Arc<Shared>> {
    shared.upgrade().filter(|shared| !shared.ended.load(Ordering::Acquire))
}

async fn follow(shared: Weak<Shared>, mut at: i64) {
    loop {
        match watch(&shared, &mut at).await {
            Ok(Ended::Closed) => return,
            // Without an answer for the newest revision the same is found again.
            Ok(Ended::Gap) => {
                let Some(shared) = open(&shared) else { return };
                let begin = tokio::task::spawn_blocking(move || -> Result<i64> {
                    let (at, chapter) = shared.begin_of_watch()?;
                    shared.seen.note_chapter(chapter);
                    shared.seen.begin_at(revision(at));
                    Ok(at)
                });
                match begin.await {
                    Ok(Ok(newest)) => at = newest,
                    _ => sleep(PAUSE).await,
                }
            }
            Ok(Ended::Lost) | Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Watches all changes behind a revision, which moves on with them, until the watch ends.
async fn watch(shared: &Weak<Shared>, at: &mut i64) -> std::result::Result<Ended, EtcdError> {
    let Some(held) = open(shared) else { return Ok(Ended::Closed) };
    let (from, to) = held.layout.all();
    telemetry::watch_began();
    let options = WatchOptions::new().with_range(to).with_start_revision(*at + 1);
    let mut client = held.client.watch_client();
    let watching = timeout(STALL, client.watch(from, Some(options))).await;
    drop(held);
    let Ok(watching) = watching else { return Ok(Ended::Lost) };
    let mut watching = watching?;
    loop {
        let next = timeout(STALL, watching.message()).await;
        let Some(shared) = open(shared) else { return Ok(Ended::Closed) };
        match next {
            Ok(Ok(Some(answer))) => {
                if answer.canceled() {
                    return Ok(if answer.compact_revision() > 0 { Ended::Gap } else { Ended::Lost });
                }
                if let Some(last) = shared.seen.take(&shared.layout, answer.events()) {
                    *at = etcd_revision(last);
                }
            }
            Ok(Ok(None)) => return Ok(Ended::Lost),
            Ok(Err(error)) => return Err(error),
            // There may be nothing, or the member that is asked may stand still.
            Err(_) if shared.seen.told() > revision(*at) => return Ok(Ended::Lost),
            Err(_) => {}
        }
    }
}

/// Keeps the lease alive. Where that fails it is done again; if the lease ends nevertheless, the next commit takes
/// another.
async fn keep_lease(shared: Weak<Shared>) {
    let often = Duration::from_secs(LEASE_SECONDS.unsigned_abs() / 6);
    loop {
        sleep(often).await;
        let Some(shared) = open(&shared) else { return };
        let (mut client, lease) = (shared.client.lease_client(), shared.slots.lease());
        drop(shared);
        let keep = async move {
            let (mut keeper, mut answers) = client.keep_alive(lease).await?;
            keeper.keep_alive().await?;
            answers.message().await
        };
        // Nothing follows from an answer that does not come.
        drop(timeout(often, keep).await);
    }
}

/// Writes something now and then. When the watch brings it, it has brought everything that was acknowledged before it
/// was written.
async fn beat(shared: Weak<Shared>, often: Duration) {
    loop {
        let Some(held) = open(&shared) else { return };
        let moment = held.seen.now();
        let put = TxnOp::put(
            held.layout.heartbeat(&held.slots.engine),
            [],
            Some(PutOptions::new().with_lease(held.slots.lease())),
        );
        let begun = tokio::task::spawn_blocking(move || {
            // One that fails leaves what was seen as old as it is.
            if let Ok(answer) = held.client.try_txn(Txn::new().and_then([put])) {
                let written = revision(revision_of(&answer));
                held.seen.wait_for(written, often);
                if held.seen.revision().is_some_and(|seen| seen >= written) {
                    held.seen.note_fresh(moment);
                }
            }
        });
        drop(begun.await);
        sleep(often).await;
    }
}
