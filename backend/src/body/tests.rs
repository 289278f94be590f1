//! The memory that long bodies may take: those of nobody known leave room for the others.

use std::convert::Infallible;
use std::task::{Context, Poll};

use hyper::body::{Frame, SizeHint};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A body of a mebibyte, as it says, of which only the beginning comes.
struct Held(Option<Bytes>);

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(BODY_MAX as u64)
    }
}

fn held() -> Body {
    Body::new(Held(Some(Bytes::from(vec![b' '; FREE + 1]))))
}

fn whole() -> Body {
    Body::from(vec![b' '; BODY_MAX])
}

/// Whoever knows all access keys, and no secret, sends with each as much as is taken.
async fn hold_all(bodies: &Arc<BodyBudget>) -> JoinSet<()> {
    let mut senders = JoinSet::new();
    for _ in 0..20 {
        let of_key = Arc::new(bodies.of_unproven());
        for _ in 0..20 {
            let (bodies, of_key) = (Arc::clone(bodies), Arc::clone(&of_key));
            senders.spawn(async move {
                let _read = bodies.read(held(), &HeaderMap::new(), LONG, Some(&of_key)).await;
            });
        }
    }
    sleep(Duration::from_millis(200)).await;
    senders
}

#[tokio::test]
async fn bodies_of_nobody_known_leave_room_for_the_others() {
    for mebibytes in [2, 8, 64] {
        let bodies = Arc::new(BodyBudget::new(mebibytes * BODY_MAX));
        let _senders = hold_all(&bodies).await;
        for _ in 0..10 {
            let read = bodies.read(whole(), &HeaderMap::new(), Duration::from_secs(5), None).await;
            assert!(read.is_ok_and(|read| read.bytes.len() == BODY_MAX), "of {mebibytes} MiB");
        }
    }
}

#[tokio::test]
async fn what_is_proven_holds_up_nobody_who_is_not() {
    let bodies = Arc::new(BodyBudget::new(2 * BODY_MAX));
    let of_key = bodies.of_unproven();
    let time = Duration::from_secs(5);
    let mut first = bodies.read(whole(), &HeaderMap::new(), time, Some(&of_key)).await.ok().unwrap();
    let short = Duration::from_millis(100);
    assert!(bodies.read(whole(), &HeaderMap::new(), short, Some(&of_key)).await.is_err());
    first.proven();
    assert!(bodies.read(whole(), &HeaderMap::new(), time, Some(&bodies.of_unproven())).await.is_ok());
}
