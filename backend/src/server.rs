//! Connections: how many, how long they may take to say what they want and to read the answer, and how they
//! end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use tower::ServiceExt;

use crate::config::Limits;
use crate::stream::ReadInTime;

/// The other end of a request's connection: the client, or a proxy before the service.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// How long a client may take to send the head of a request; also how long a connection stays open
/// without one.
const HEAD_TIME: Duration = Duration::from_secs(60);

/// The most bytes of the head of a request: it is held before it is known who sent it.
const HEAD_MAX: usize = 64 * 1024;

/// The most bytes that a connection holds before somebody asked for them: a head, and what came with it.
const BUFFER_MAX: usize = HEAD_MAX + 8 * 1024;

/// How long to wait after a connection could not be accepted, as when there are no more files.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Serves connections until `stop`; then lets open requests end, for a while.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    stop: impl Future<Output = ()>,
) {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_header_size(HEAD_MAX);
    http.max_buf_size(BUFFER_MAX);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accept = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        // Answers are short: send them at once. It only costs time where it can't be set.
        stream.set_nodelay(true).ok();
        let with_peer = router.clone().map_request(move |mut request: Request<_>| {
            request.extensions_mut().insert(Peer(peer));
            request
        });
        let stream = TokioIo::new(ReadInTime::new(stream, limits.write_time()));
        let connection = http.serve_connection(stream, TowerToHyperService::new(with_peer));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if timeout(limits.stop_time(), graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}
