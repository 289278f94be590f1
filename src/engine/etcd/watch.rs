//! What runs in the background: following all changes, keeping the lease, and the heartbeat by which it is known how
//! old what was seen may be.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{Error as EtcdError, PutOptions, Txn, TxnOp, WatchOptions};
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::Shared;
use super::client::{ANSWER_BYTES_MAX, revision_of};
use super::entries::{etcd_revision, revision};
use super::failure::Failure;
use super::members::Member;
use super::slots::LEASE_SECONDS;
use crate::error::Result;
use crate::telemetry;

/// How long the watch may bring nothing although this process was told of more, until another one is begun.
const STALL: Duration = Duration::from_millis(500);

/// How long it is waited before a watch is begun again.
const PAUSE: Duration = Duration::from_millis(50);

/// How often in the time of the staleness there is a heartbeat.
const HEARTBEATS: u32 = 4;

/// How often the lease is kept alive.
const KEEP: Duration = Duration::from_secs(LEASE_SECONDS.unsigned_abs() / 12);

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
    if shared.slots.is_none() {
        return;
    }
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
        let Some(held) = open(&shared) else { return };
        let member = held.client.member();
        drop(held);
        let ended = watch(&shared, &member, &mut at).await;
        let Some(shared) = open(&shared) else { return };
        match ended {
            Ended::Closed => return,
            Ended::Lost => {
                shared.client.note_silent(member);
                drop(shared);
                sleep(PAUSE).await;
            }
            // Without an answer for the newest revision the same is found again.
            Ended::Gap => {
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
        }
    }
}

/// Watches all changes behind a revision, which moves on with them, until the watch ends.
async fn watch(shared: &Weak<Shared>, member: &Arc<Member>, at: &mut i64) -> Ended {
    let Some(held) = open(shared) else { return Ended::Closed };
    let (from, to) = held.layout.all();
    telemetry::watch_began();
    drop(held);
    let options = WatchOptions::new().with_range(to).with_start_revision(*at + 1);
    let begin = async {
        let mut client = member.client().await?.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        client.watch(from, Some(options)).await
    };
    let Ok(Ok(mut watching)) = timeout(STALL, begin).await else { return Ended::Lost };
    let mut told = 0;
    loop {
        let next = timeout(STALL, watching.message()).await;
        let Some(shared) = open(shared) else { return Ended::Closed };
        match next {
            Ok(Ok(Some(answer))) if answer.canceled() => {
                return if answer.compact_revision() > 0 { Ended::Gap } else { Ended::Lost };
            }
            Ok(Ok(Some(answer))) => {
                if let Some(last) = shared.seen.take(&shared.layout, answer.events()) {
                    *at = etcd_revision(last);
                }
            }
            // More lies behind it than one answer may have.
            Ok(Err(EtcdError::GRpcStatus(status))) if status.code() == Code::OutOfRange => return Ended::Gap,
            Ok(Ok(None) | Err(_)) => return Ended::Lost,
            // There may be nothing; but what was told of for so long, a member would bring that goes on.
            Err(_) if told > revision(*at) => return Ended::Lost,
            Err(_) => {}
        }
        told = shared.seen.told();
    }
}

/// Keeps the lease alive, and takes another if it has ended.
async fn keep_lease(shared: Weak<Shared>) {
    loop {
        sleep(KEEP).await;
        let Some(shared) = open(&shared) else { return };
        let kept = tokio::task::spawn_blocking(move || {
            let Some(slots) = &shared.slots else { return Ok(()) };
            let lease = slots.lease();
            // Where there is no answer, it is tried again long before the lease ends.
            if shared.client.keep(lease) == Ok(0) {
                return slots.renew(&shared.client, lease, shared.client.until());
            }
            Ok(())
        });
        // The next commit finds out too that it has ended.
        drop(kept.await);
    }
}

/// Writes something now and then. When the watch brings it, it has brought everything that was acknowledged before it
/// was written.
async fn beat(shared: Weak<Shared>, often: Duration) {
    loop {
        let Some(held) = open(&shared) else { return };
        // One that fails leaves what was seen as old as it is.
        drop(tokio::task::spawn_blocking(move || beat_once(&held, often)).await);
        sleep(often).await;
    }
}

fn beat_once(shared: &Shared, often: Duration) -> Result<()> {
    let Shared { client, layout, slots: Some(slots), seen, .. } = shared else { return Ok(()) };
    let (moment, lease) = (seen.now(), slots.lease());
    let tied = PutOptions::new().with_lease(lease);
    let put = TxnOp::put(layout.heartbeat(&slots.engine), [], Some(tied));
    match client.try_txn(Txn::new().and_then([put]), client.until().left()) {
        Ok(answer) => {
            let written = revision(revision_of(&answer));
            // So that a watch that does not bring it is given up, also where nothing else is written.
            seen.tell(written);
            seen.wait_for(written, often);
            if seen.revision().is_some_and(|seen| seen >= written) {
                seen.note_fresh(moment);
            }
            Ok(())
        }
        Err(Failure::NoLease) => slots.renew(client, lease, client.until()),
        Err(failure) => Err(failure.into()),
    }
}
