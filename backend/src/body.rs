//! Bodies of requests: how long they may be, how long they may take, and how much memory they may have, all
//! of them together.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::Refusal;

/// The most bytes of a body.
pub(crate) const BODY_MAX: usize = 1024 * 1024;

/// As much of a body is read without asking for a share of what all bodies may have. Ordinary requests are
/// shorter, so that no long body keeps them waiting. Their memory is bounded by the number of connections.
const FREE: usize = 16 * 1024;

/// What part of the memory of all bodies those may have of which one access key is claimed and nothing proven.
const UNPROVEN_PART: usize = 8;

/// How much of a body that nobody wants is read and thrown away. A connection that is closed with bytes unread
/// may lose the answer on its way.
const THROWN_AWAY_MAX: usize = 8 * BODY_MAX;
/// For how long.
const THROWN_AWAY_TIME: Duration = Duration::from_secs(1);

/// The memory that all bodies beyond their first [`FREE`] bytes may have together.
pub(crate) struct BodyBudget {
    all: Arc<Semaphore>,
    /// The half of it, and enough for a body, that those may have of which nothing is proven, whatever access keys
    /// they claim: somebody may know all of them.
    all_unproven: Arc<Semaphore>,
    bytes: usize,
}

/// What the bodies may have together of which one access key is claimed and nothing proven: whoever knows the
/// access key sends them.
pub(crate) struct UnprovenBudget(Arc<Semaphore>);

/// A body, and its share of the memory, which is given back with it.
pub(crate) struct BodyRead {
    pub(crate) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
    unproven: Vec<OwnedSemaphorePermit>,
}

impl BodyRead {
    /// It is known who sent it.
    pub(crate) fn proven(&mut self) {
        self.unproven.clear();
    }
}

impl BodyBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        let all_unproven = (bytes / 2).max(BODY_MAX);
        let [all, all_unproven] = [bytes, all_unproven].map(|bytes| Arc::new(Semaphore::new(bytes)));
        Self { all, all_unproven, bytes }
    }

    /// For one access key: a part of it all, and enough for a body.
    pub(crate) fn of_unproven(&self) -> UnprovenBudget {
        UnprovenBudget(Arc::new(Semaphore::new((self.bytes / UNPROVEN_PART).max(BODY_MAX))))
    }

    /// The body, if it is not too long and not too slow. The time bounds the waiting for memory too. As long as
    /// it is not proven who sends it, a long one has to say how long it is.
    pub(crate) async fn read(
        &self,
        body: Body,
        headers: &HeaderMap,
        time: Duration,
        unproven: Option<&UnprovenBudget>,
    ) -> Result<BodyRead, Refusal> {
        let mut body = body;
        // What says that it is too long is not waited for.
        let read = if body.size_hint().lower() > BODY_MAX as u64 {
            Err(Refusal::too_long())
        } else {
            self.read_all(&mut body, Instant::now() + time, unproven).await
        };
        read.inspect_err(|_| throw_away(body, headers))
    }

    async fn read_all(
        &self,
        body: &mut Body,
        until: Instant,
        unproven: Option<&UnprovenBudget>,
    ) -> Result<BodyRead, Refusal> {
        let announced = body.size_hint().exact().and_then(|exact| usize::try_from(exact).ok());
        let mut read = Vec::with_capacity(announced.unwrap_or(0).min(FREE));
        let (mut share, mut shares_of_unproven) = (None, Vec::new());
        loop {
            let data = timeout_at(until, next_data(body)).await.map_err(|_| Refusal::body_too_slow())??;
            let Some(data) = data else { break };
            let length = read.len() + data.len();
            if length > BODY_MAX {
                return Err(Refusal::too_long());
            }
            if length > FREE && share.is_none() {
                // All that it may need, at once: two that wait for more never wait for each other.
                let most = match (announced, unproven) {
                    (Some(announced), _) => announced.max(length),
                    (None, None) => BODY_MAX,
                    (None, Some(_)) => return Err(Refusal::length_required()),
                };
                // The access key's own first: who waits for that holds nothing of what all share.
                if let Some(UnprovenBudget(of_key)) = unproven {
                    for budget in [of_key, &self.all_unproven] {
                        shares_of_unproven.push(share_of(budget, most - FREE, until).await?);
                    }
                }
                share = Some(share_of(&self.all, most - FREE, until).await?);
                read.reserve_exact(most - read.len());
            }
            read.extend_from_slice(&data);
        }
        Ok(BodyRead { bytes: Bytes::from(read), _share: share, unproven: shares_of_unproven })
    }
}

async fn share_of(
    budget: &Arc<Semaphore>,
    bytes: usize,
    until: Instant,
) -> Result<OwnedSemaphorePermit, Refusal> {
    let bytes = u32::try_from(bytes).map_err(|_| Refusal::too_long())?;
    let share = timeout_at(until, Arc::clone(budget).acquire_many_owned(bytes)).await;
    let none = "there are too many long bodies at once; nothing was done, try again";
    share.map_err(|_| Refusal::unavailable(none))?.map_err(|closed| Refusal::internal(&closed))
}

/// Reads what comes of a body that nobody wants, for a while, after the answer if it is refused.
pub(crate) fn throw_away(mut body: Body, headers: &HeaderMap) {
    // Who waits to be told to go on has not sent it, and is not told.
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return;
    }
    tokio::spawn(async move {
        let read = async {
            let mut left = THROWN_AWAY_MAX;
            while let Ok(Some(data)) = next_data(&mut body).await {
                left = left.saturating_sub(data.len());
                if left == 0 {
                    return;
                }
            }
        };
        // However that ends, the answer was given.
        let _ended = timeout(THROWN_AWAY_TIME, read).await;
    });
}

/// The next part of a body, `None` at its end.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        let frame = frame.map_err(|_| Refusal::invalid("the body could not be read"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
